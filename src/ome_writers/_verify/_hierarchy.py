"""The groups and arrays of a dataset, and whether its OME metadata describes them."""

from __future__ import annotations

import json
import os
import posixpath
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError
from yaozarrs import v05

from ome_writers.errors import NotADatasetError, UnsupportedError

DOCUMENT: Final = "zarr.json"

_OF_ZARR_2: Final = (".zgroup", ".zarray", ".zattrs")
_OME_VERSION: Final = "0.5"
_OME_KEYS: Final = frozenset({"multiscales", "plate", "well", "bioformats2raw.layout", "series", "labels"})


@dataclass(slots=True)
class Hierarchy:
    """The nodes of a dataset.

    Attributes
    ----------
    groups : dict
        Path of each group below the root (``""`` for the root itself) to its document.
    arrays : dict
        The same for arrays.
    problems, notes : list of str
        What was found on the way.
    """

    groups: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    arrays: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_hierarchy(root: Path) -> Hierarchy:
    """Return all groups and arrays below a folder.

    Raises
    ------
    NotADatasetError
        If the folder is not there, or is no group or array of Zarr.
    UnsupportedError
        If it is one of Zarr v2, such as that of an OME-Zarr 0.4.
    """
    _check_root(root)
    found = Hierarchy()
    seen: set[tuple[int, int]] = set()
    folders = [""]
    while folders:
        path = folders.pop()
        folder = root / path
        document = _read_node(folder, path, found)
        if document is None or document["node_type"] == "group":
            try:
                status = folder.stat()
                if (status.st_dev, status.st_ino) in seen:
                    continue  # a link to a folder above
                seen.add((status.st_dev, status.st_ino))
                folders += sorted(_children(folder, path, found), reverse=True)
            except OSError as error:
                found.problems.append(f"folder {path or '.'} can't be read: {error.strerror or error}")
    return found


def _check_root(root: Path) -> None:
    if not os.path.lexists(root):
        raise NotADatasetError(f"there is nothing at {root}; give the path of a dataset's folder")
    if not root.is_dir():
        raise NotADatasetError(f"{root} is not a folder; give the path of a dataset's folder")
    if (root / DOCUMENT).exists():
        return
    if any((root / name).exists() for name in _OF_ZARR_2):
        raise UnsupportedError(
            f"{root} is a Zarr v2 dataset (OME-Zarr 0.4 and older are); only Zarr v3 (OME-Zarr 0.5) can be verified"
        )
    raise NotADatasetError(f"there is no {DOCUMENT} in {root}, so it is no Zarr v3 group or array; give another path")


def _read_node(folder: Path, path: str, found: Hierarchy) -> Mapping[str, Any] | None:
    """Return a node's document, which is noted; None, with a problem noted, when it can't be understood."""
    name = f"{path}/{DOCUMENT}" if path else DOCUMENT
    try:
        document = json.loads((folder / DOCUMENT).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        found.problems.append(f"{name} can't be read: {error}")
        return None
    if not isinstance(document, dict) or document.get("zarr_format") != 3:
        found.problems.append(f"{name} is not a document of Zarr v3 (zarr_format 3)")
        return None
    kind = document.get("node_type")
    if kind not in ("group", "array"):
        found.problems.append(f"{name}: node_type is {kind!r:.100}; allowed: 'group', 'array'")
        return None
    if not isinstance(document.get("attributes", {}), dict):
        found.problems.append(f"{name}: attributes are no JSON object")
        document = {**document, "attributes": {}}
    (found.groups if kind == "group" else found.arrays)[path] = document
    return document


def _children(folder: Path, path: str, found: Hierarchy) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.is_dir():
                continue
            child = f"{path}/{entry.name}" if path else entry.name
            if os.path.lexists(Path(entry.path, DOCUMENT)):
                yield child
            elif any(Path(entry.path, name).exists() for name in _OF_ZARR_2):
                found.notes.append(f"{child} is a Zarr v2 node; it was not looked at")


# ---- OME metadata ------------------------------------------------------------------------------------------------


def check_ome(found: Hierarchy) -> None:
    """Note what is wrong with the OME metadata of all groups (OME-NGFF 0.5)."""
    described = False
    for path, document in found.groups.items():
        ome = document.get("attributes", {}).get("ome")
        if ome is None:
            continue
        described = True
        name = f"OME metadata of {path or '.'}"
        if not isinstance(ome, dict):
            found.problems.append(f"{name}: attribute 'ome' is no JSON object")
        elif (version := ome.get("version", _OME_VERSION)) != _OME_VERSION:
            found.notes.append(f"{name} has version {version!r:.100}; only {_OME_VERSION!r} is checked")
        elif _OME_KEYS.isdisjoint(ome):
            found.notes.append(f"{name} describes nothing that is known")
        elif _is_valid(document, name, found):
            _check_members(path, ome, found)
    if not described:
        found.notes.append("there is no OME metadata")


def _is_valid(document: Mapping[str, Any], name: str, found: Hierarchy) -> bool:
    """Tell whether a group's OME metadata is that of the specification; note what is not."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            v05.OMEZarrGroupJSON.model_validate(document)
        except ValidationError as error:
            for fault in error.errors():
                place = ".".join(str(part) for part in fault["loc"])
                found.problems.append(f"{name}: {place}: {fault['msg']}")
            return False
        finally:
            found.notes += [f"{name}: {warning.message}" for warning in warned]
    return True


def _check_members(path: str, ome: Mapping[str, Any], found: Hierarchy) -> None:
    """Check that what the metadata of a group names is there."""
    for multiscale in ome.get("multiscales", []):
        _check_multiscale(path, multiscale, found)
    members = {
        "well": [well["path"] for well in ome.get("plate", {}).get("wells", [])],
        "field of view": [image["path"] for image in ome.get("well", {}).get("images", [])],
        "label": list(ome.get("labels", [])),
        # the paths of a series are those of the group above
        "image of the series": [f"../{member}" for member in ome.get("series", [])],
    }
    wanted = {
        "well": "well",
        "field of view": "multiscales",
        "label": "multiscales",
        "image of the series": "multiscales",
    }
    for kind, names in members.items():
        for name in names:
            member = _join(path, name)
            key = wanted[kind]
            group = found.groups.get(member)
            if group is None:
                found.problems.append(f"{kind} {member!r}, which {path or '.'} names, is no group in the dataset")
            elif key not in (group.get("attributes", {}).get("ome") or {}):
                found.problems.append(f"{kind} {member!r}, which {path or '.'} names, has no {key!r} in its metadata")


def _check_multiscale(path: str, multiscale: Mapping[str, Any], found: Hierarchy) -> None:
    axes = [axis["name"] for axis in multiscale["axes"]]
    for dataset in multiscale["datasets"]:
        name = _join(path, dataset["path"])
        document = found.arrays.get(name)
        if document is None:
            found.problems.append(f"array {name!r}, which the image {path or '.'} names, is not in the dataset")
            continue
        shape, names = document.get("shape"), document.get("dimension_names")
        if isinstance(shape, list) and len(shape) != len(axes):
            found.problems.append(f"array {name!r} has {len(shape)} axes, but its image has {len(axes)}: {axes}")
        elif names is not None and names != axes:
            found.problems.append(f"array {name!r} has dimension_names {names!r:.200}, but its image has axes {axes}")


def _join(group: str, member: str) -> str:
    """Return the path below the root of what a group names."""
    path = posixpath.normpath(posixpath.join(group, member))
    return "" if path == "." else path
