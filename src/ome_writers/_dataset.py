"""The dataset's folder: making it, replacing an older one, and its metadata documents."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from . import _files
from ._json import plain
from .errors import DestinationExistsError, UnknownGroupError, WriteError

_DOCUMENT: Final = "zarr.json"
_MARKS: Final = frozenset({_DOCUMENT, ".zgroup", ".zarray"})
_METADATA: Final = frozenset({*_MARKS, ".zattrs", ".zmetadata"})  # Zarr v3 and v2
_OF_GROUPS: Final = re.compile(
    r"METADATA\.ome\.xml|frames\.(jsonl|txt)|settings\.json|journal|lock|\..*\.partial|\.DS_Store|Thumbs\.db|desktop\.ini"
)
# chunks and shards, and what a library leaves behind when it is killed while it writes one
_OF_ARRAYS: Final = re.compile(r"(c|\d+(\.\d+)*)(\.__lock|\.[0-9a-f]+\.partial)?")
WRITING_FOLDER: Final = "ome_writers/writing"
"""Folder of chunks that are being written, or whose writer has died, below the dataset's root."""

REGIONS_FOLDER: Final = "ome_writers/regions"
"""Folder of regions that processes of a cluster put together, each a dataset of its own, below the dataset's root."""

_WRITING: Final = tuple(WRITING_FOLDER.split("/"))
_OF_CHUNKS: Final = re.compile(r"\d+-\d+(\.\d+)*")


class DatasetFolder:
    """The folder of a dataset and the ``zarr.json`` documents in it.

    Parameters
    ----------
    root : Path
        The folder.
    durable : bool
        Whether documents are on the medium when they have been written.
    """

    def __init__(self, root: Path, *, durable: bool = False) -> None:
        self.root = root
        self._durable = durable
        self._made: os.stat_result | None = None
        self._replaced: Path | None = None

    def check(self, *, overwrite: bool) -> None:
        """Check that the folder can be made or replaced; touches nothing.

        Raises
        ------
        DestinationExistsError
            If something stands there and ``overwrite`` is off, or it is more than a Zarr dataset.
        """
        if not os.path.lexists(self.root):
            return
        if not overwrite:
            raise DestinationExistsError(
                f"{self.root} exists; choose another root_path, or set overwrite=True to replace a Zarr dataset"
            )
        if self.root.is_symlink() or not self.root.is_dir():
            raise DestinationExistsError(
                f"{self.root} exists and is not a Zarr dataset (not a folder); it is not replaced. Choose another path."
            )
        if any(self.root.iterdir()) and not any(_zarr_node(self.root, mark) for mark in _MARKS):
            raise DestinationExistsError(
                f"{self.root} exists and is not a Zarr dataset (no {_DOCUMENT} of Zarr in it); it is not replaced. "
                "Choose another path."
            )
        if foreign := next(_foreign_files(self.root), None):
            raise DestinationExistsError(
                f"{self.root} is a Zarr dataset, but {foreign} is no part of one; it is not replaced. Move that file "
                "away, or choose another path."
            )

    def create(self, groups: Mapping[str, Mapping[str, Any]], arrays: Mapping[str, Mapping[str, Any]]) -> None:
        """Make the folder and all documents; what stood there is put aside until :meth:`commit`.

        Parameters
        ----------
        groups : mapping
            Path of each group (``"."`` for the root) to its document.
        arrays : mapping
            Path of each array to its document.

        Raises
        ------
        DestinationExistsError
            If something has been made at the path since :meth:`check`.
        WriteError
            If the folder can't be made or written to. After any error everything is as it was before.
        """
        try:
            if self.root.exists():
                self._replaced = self.root.with_name(f".{self.root.name}.{secrets.token_hex(4)}.replaced")
                self.root.rename(self._replaced)
            self._make_root()
            for path in sorted([*groups, *arrays]):
                _files.make_folder(self.root / path, durable=self._durable)
            # members first: whoever finds the root's document finds everything that it names
            for path, document in sorted({**arrays, **groups}.items(), reverse=True):
                self.write(path, document)
        except BaseException as error:
            self.undo()
            if isinstance(error, OSError) and not isinstance(error, DestinationExistsError):
                raise self.not_made(error) from error
            raise

    def _make_root(self) -> None:
        _files.make_folder(self.root.parent, durable=self._durable)
        try:
            self.root.mkdir()
        except FileExistsError as error:
            raise DestinationExistsError(
                f"{self.root} has been made by somebody else just now; choose another"
            ) from error
        self._made = self.root.stat()
        if self._durable:
            _files.system.sync_folder(self.root.parent)

    def not_made(self, error: OSError) -> WriteError:
        """Return the error that says that the dataset can't be made."""
        return WriteError(f"the dataset can't be made at {self.root}: {error}. Choose a path that can be written to.")

    def commit(self) -> None:
        """Delete what was put aside; warn if that can't be done."""
        replaced, self._replaced = self._replaced, None
        if replaced is None:
            return
        try:
            shutil.rmtree(replaced)
        except OSError as error:
            warnings.warn(
                f"the dataset that {self.root} replaces can't be deleted entirely: {error}. What is left of it is in "
                f"{replaced}.",
                UserWarning,
                stacklevel=3,
            )

    def undo(self) -> None:
        """Delete the new folder, if it was made, and put back what stood there before."""
        made, self._made = self._made, None
        with suppress(OSError):
            if made is not None and os.path.samestat(made, self.root.stat()):  # not one that somebody else has made
                shutil.rmtree(self.root, ignore_errors=True)
        replaced, self._replaced = self._replaced, None
        if replaced is not None and replaced.exists() and not self.root.exists():
            replaced.rename(self.root)

    def write(self, path: str, document: Mapping[str, Any]) -> None:
        """Replace the document of a group or array in one step: a reader sees the old one or the new one."""
        self.write_text(f"{path}/{_DOCUMENT}", encode(document))

    def holds(self, path: str, document: Mapping[str, Any]) -> bool:
        """Tell whether the document of a node is this one."""
        try:
            return self.document(path) == document
        except (OSError, ValueError, UnknownGroupError):
            return False

    def write_text(self, path: str, text: str) -> None:
        """Replace a file in one step."""
        target = self.root / path
        partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
        try:
            with _files.system.open(partial, "wb") as file:
                _files.write_all(file, 0, text.encode())
                if self._durable:
                    _files.system.sync(file)
            _files.system.replace(partial, target)
            if self._durable:
                _files.system.sync_folder(target.parent)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise

    def attributes(self, path: str) -> dict[str, Any]:
        """Return the attributes of a group.

        Raises
        ------
        UnknownGroupError
            If there is no such group.
        """
        attributes: dict[str, Any] = self.document(path).get("attributes", {})
        return attributes

    def set_attributes(self, path: str, attributes: Mapping[str, Any]) -> None:
        """Replace the attributes of a group; the rest of its document stays."""
        self.write(path, {**self.document(path), "attributes": dict(attributes)})

    def document(self, path: str) -> dict[str, Any]:
        """Return the ``zarr.json`` of a group or array.

        Raises
        ------
        UnknownGroupError
            If there is no such node.
        """
        try:
            document: dict[str, Any] = json.loads((self.root / path / _DOCUMENT).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise UnknownGroupError(f"there is no group {path!r} in {self.root}") from error
        return document


def encode(document: Mapping[str, Any]) -> str:
    """Return a document as JSON text; NumPy scalars and arrays become numbers and lists.

    Raises
    ------
    TypeError, ValueError
        For what JSON has no form for.
    """
    return json.dumps(document, indent=2, default=plain, allow_nan=False, ensure_ascii=False)


def _foreign_files(root: Path) -> Iterator[Path]:
    """Yield the files below a folder that are no part of a Zarr dataset; chunks are part of an array only."""
    in_arrays: set[str] = set()
    for folder, subfolders, files in os.walk(root):
        in_array = folder in in_arrays or any(_zarr_node(Path(folder), mark) == "array" for mark in _MARKS & {*files})
        if in_array:
            in_arrays.discard(folder)
            in_arrays.update(os.path.join(folder, name) for name in subfolders)  # noqa: PTH118  as os.walk does
        for name in files:
            in_progress = Path(folder).parts[-2:] == _WRITING and _OF_CHUNKS.fullmatch(name)  # of regions, too
            known = (
                in_progress
                or name in _METADATA
                or _OF_GROUPS.fullmatch(name)
                or (in_array and _OF_ARRAYS.fullmatch(name))
            )
            if not known:
                yield Path(folder, name)


def _zarr_node(folder: Path, mark: str) -> str | None:
    """Return ``"array"`` or ``"group"``, whichever the metadata document of that name says; None if there is none."""
    try:
        document = json.loads((folder / mark).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(document, dict) or "zarr_format" not in document:
        return None
    return {".zarray": "array", ".zgroup": "group"}.get(mark) or str(document.get("node_type"))
