"""Groups and arrays of a Zarr hierarchy, v2 (``.zgroup``, ``.zarray``, ``.zattrs``) or v3 (``zarr.json``)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ome_writers.errors import RecordingError


@dataclass(frozen=True, slots=True)
class Node:
    """A group or an array of a Zarr hierarchy.

    Attributes
    ----------
    folder : Path
        Where it stands.
    attributes : mapping
        Of the user.
    array : mapping or None
        The document of an array; None for a group.
    zarr_format : int
        2 or 3.
    """

    folder: Path
    attributes: Mapping[str, Any]
    array: Mapping[str, Any] | None
    zarr_format: int

    @property
    def ome(self) -> Mapping[str, Any]:
        """The OME-NGFF metadata: of 0.5 below ``ome``, of 0.4 the attributes themselves."""
        ome = self.attributes.get("ome")
        return ome if isinstance(ome, Mapping) else self.attributes


def read_node(folder: Path) -> Node | None:
    """Return the group or array in a folder; None if there is none.

    Raises
    ------
    RecordingError
        If a document is damaged.
    """
    document = _read_json(folder / "zarr.json")
    if document is not None:
        kind, attributes = document.get("node_type"), document.get("attributes", {})
        if kind not in ("array", "group"):
            raise RecordingError(f"{folder / 'zarr.json'}: node_type is {kind!r}; it has to be 'array' or 'group'")
        array = document if kind == "array" else None
        return _checked(Node(folder, mapping(attributes, folder, "attributes"), array, 3))
    array = _read_json(folder / ".zarray")
    attributes = _read_json(folder / ".zattrs")
    if array is None and attributes is None and not (folder / ".zgroup").is_file():
        return None
    return _checked(Node(folder, attributes or {}, array, 2))


def _checked(node: Node) -> Node:
    if node.array is not None:
        shape = node.array.get("shape")
        if not isinstance(shape, list) or not all(isinstance(n, int) and n >= 0 for n in shape):
            raise RecordingError(f"{node.folder}: the document of the array has no shape that makes sense: {shape!r}")
    return node


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise RecordingError(f"{path}: it can't be read: {error.strerror or error}") from error
    try:
        document = json.loads(text, parse_constant=str)  # NaN is no JSON
    except (ValueError, RecursionError) as error:
        raise RecordingError(f"{path}: it is damaged, as it is no JSON: {error}") from error
    return dict(mapping(document, path, "the document"))


def mapping(value: Any, place: Path, what: str) -> Mapping[str, Any]:
    """Return a value if it is a mapping.

    Raises
    ------
    RecordingError
        If not; says where.
    """
    if not isinstance(value, Mapping):
        raise RecordingError(f"{place}: {what} should be a mapping, but is {str(value)[:100]!r}")
    return value


def entries(value: Any, place: Path, what: str) -> list[Mapping[str, Any]]:
    """Return a value if it is a list of mappings.

    Raises
    ------
    RecordingError
        If not; says where.
    """
    if not isinstance(value, list) or not all(isinstance(entry, Mapping) for entry in value):
        raise RecordingError(f"{place}: {what} should be a list of mappings, but is {str(value)[:100]!r}")
    return value
