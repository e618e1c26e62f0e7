"""The groups and arrays of a dataset of Zarr v3 or v2, whatever state they are in."""

from __future__ import annotations

import json
import os
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ome_writers._documents import SETTINGS_FILE
from ome_writers.errors import NotADatasetError

ROOT_DOCUMENTS: Final = ("zarr.json", ".zgroup", ".zarray", ".zattrs")
"""Documents that say that a folder is a node of Zarr."""

_OURS, _SETTINGS = posixpath.split(SETTINGS_FILE)
_DIGITS: Final = re.compile(r"(\d+)")


@dataclass(slots=True)
class Nodes:
    """What was found below a folder.

    Attributes
    ----------
    zarr_format : int
        That of the root.
    groups : dict
        Path of each group below the root (``""`` for the root itself) to its attributes.
    arrays : dict
        Path of each array to its document.
    stored : dict
        Path of each array to the bytes of its files.
    files, nbytes : int
        Of the whole dataset.
    problems : list of str
        What can't be read.
    """

    zarr_format: int = 3
    groups: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    arrays: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    stored: dict[str, int] = field(default_factory=dict)
    files: int = 0
    nbytes: int = 0
    problems: list[str] = field(default_factory=list)


def read_nodes(root: Path, *, count_bytes: bool) -> Nodes:
    """Return all groups and arrays below a folder.

    Parameters
    ----------
    root : Path
        The dataset.
    count_bytes : bool
        Whether to count files and bytes.

    Raises
    ------
    NotADatasetError
        If the document of the root is damaged.
    """
    found = Nodes()
    seen: set[tuple[int, int]] = set()
    folders = [""]
    while folders:
        path = folders.pop()
        folder = root / path
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in seen:
                continue  # a link to a folder above
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as scan:
                entries = list(scan)
        except OSError as error:
            found.problems.append(f"folder {path or '.'} can't be read: {error.strerror or error}")
            continue
        names = {entry.name for entry in entries}
        kind = _read_node(folder, path, names, found)
        if not path and kind is None:
            raise NotADatasetError(f"{root} can't be read: {'; '.join(found.problems) or 'it is no node of Zarr'}")
        if path == _OURS and _SETTINGS in names:  # what this package keeps beside the data; regions of it are arrays
            if count_bytes:
                files, nbytes = _size(folder)
                found.files, found.nbytes = found.files + files, found.nbytes + nbytes
            continue
        if kind == "array":
            if count_bytes:
                files, found.stored[path] = _size(folder)
                found.files, found.nbytes = found.files + files, found.nbytes + found.stored[path]
            continue
        children = []
        for entry in entries:
            if entry.is_dir():
                children.append(f"{path}/{entry.name}" if path else entry.name)
            elif count_bytes:
                found.files += 1
                found.nbytes += _bytes_of(entry)
        folders += sorted(children, key=natural, reverse=True)
    return found


def natural(path: str) -> list[tuple[int, str]]:
    """Return a key that sorts numbers in names by their value."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in _DIGITS.split(path) if part]


def _read_node(folder: Path, path: str, names: set[str], found: Nodes) -> str | None:
    """Take note of a node; return ``"group"`` or ``"array"``, None for a folder that is none or is damaged."""
    if "zarr.json" in names:
        document = _load(folder / "zarr.json", path, found)
        if document is None:
            return None
        kind = document.get("node_type")
        if document.get("zarr_format") != 3 or kind not in ("group", "array"):
            found.problems.append(
                f"{_join(path, 'zarr.json')} is no document of Zarr v3 (zarr_format 3, node_type 'group' or 'array')"
            )
            return None
        if kind == "array":
            found.arrays[path] = document
        else:
            found.groups[path] = _object(document.get("attributes"))
        return str(kind)
    if names.isdisjoint(ROOT_DOCUMENTS):
        return None
    if not path:
        found.zarr_format = 2
    if ".zarray" in names:
        document = _load(folder / ".zarray", path, found)
        if document is None:
            return None
        found.arrays[path] = {"zarr_format": 2, **document}
        return "array"
    attributes: Mapping[str, Any] | None = {}
    if ".zattrs" in names:
        attributes = _load(folder / ".zattrs", path, found)
        if attributes is None and not path:
            return None
    found.groups[path] = attributes or {}
    return "group"


def _load(file: Path, path: str, found: Nodes) -> Mapping[str, Any] | None:
    """Return a JSON object from a file; None, with a problem noted, when there is none."""
    name = _join(path, file.name)
    try:
        document = json.loads(file.read_bytes())
    except OSError as error:
        found.problems.append(f"{name} can't be read: {error.strerror or error}")
        return None
    except (ValueError, RecursionError) as error:
        found.problems.append(f"{name} is damaged: {error}")
        return None
    if not isinstance(document, dict):
        found.problems.append(f"{name} is damaged: it is no JSON object")
        return None
    return document


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _join(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name


def _size(folder: Path) -> tuple[int, int]:
    """Return how many files there are below a folder, and their bytes."""
    files = nbytes = 0
    folders = [str(folder)]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    else:
                        files += 1
                        nbytes += _bytes_of(entry)
        except OSError:  # it has gone since: the dataset is being written
            continue
    return files, nbytes


def _bytes_of(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except OSError:  # it has gone since
        return 0
