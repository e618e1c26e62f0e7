"""The dataset's folder: making it, replacing an older one, and its metadata documents."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from .errors import DestinationExistsError, UnknownGroupError, WriteError

_DOCUMENT: Final = "zarr.json"
_MARKS: Final = frozenset({_DOCUMENT, ".zgroup", ".zarray", ".zattrs"})
_OF_A_DATASET: Final = re.compile(
    r"zarr\.json|\.zgroup|\.zarray|\.zattrs|\.zmetadata"  # Zarr v3 and v2
    r"|METADATA\.ome\.xml|frames\.jsonl"
    r"|c|\d+([./]\d+)*"  # chunks and shards
    r"|\..*\.partial|\.DS_Store|Thumbs\.db|desktop\.ini"
)


class DatasetFolder:
    """The folder of a dataset and the ``zarr.json`` documents in it.

    Parameters
    ----------
    root : Path
        The folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
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
        entries = {entry.name for entry in self.root.iterdir()}
        if entries and not entries & _MARKS:
            raise DestinationExistsError(
                f"{self.root} exists and is not a Zarr dataset (no {_DOCUMENT} in it); it is not replaced. Choose "
                "another path."
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
        WriteError
            If the folder can't be made or written to.
        """
        try:
            if self.root.exists():
                aside = self.root.with_name(f".{self.root.name}.{secrets.token_hex(4)}.replaced")
                self.root.rename(aside)
                self._replaced = aside
            self.root.mkdir(parents=True)
            for path in sorted([*groups, *arrays]):
                (self.root / path).mkdir(parents=True, exist_ok=True)
            # members first: whoever finds the root's document finds everything that it names
            for path, document in sorted({**arrays, **groups}.items(), reverse=True):
                self.write(path, document)
        except OSError as error:
            self.undo()
            raise WriteError(
                f"the dataset can't be made at {self.root}: {error}. Choose a path that can be written to."
            ) from error

    def commit(self) -> None:
        """Delete what was put aside."""
        if self._replaced is not None:
            shutil.rmtree(self._replaced)
            self._replaced = None

    def undo(self) -> None:
        """Delete the new folder and put back what stood there before."""
        shutil.rmtree(self.root, ignore_errors=True)
        if self._replaced is not None:
            self._replaced.rename(self.root)
            self._replaced = None

    def write(self, path: str, document: Mapping[str, Any]) -> None:
        """Replace the document of a group or array in one step: a reader sees the old one or the new one."""
        self.write_text(f"{path}/{_DOCUMENT}", encode(document))

    def write_text(self, path: str, text: str) -> None:
        """Replace a file in one step."""
        target = self.root / path
        partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
        try:
            partial.write_text(text, encoding="utf-8", newline="\n")
            partial.replace(target)
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
        attributes: dict[str, Any] = self._read(path).get("attributes", {})
        return attributes

    def set_attributes(self, path: str, attributes: Mapping[str, Any]) -> None:
        """Replace the attributes of a group; the rest of its document stays."""
        self.write(path, {**self._read(path), "attributes": dict(attributes)})

    def _read(self, path: str) -> dict[str, Any]:
        try:
            document: dict[str, Any] = json.loads((self.root / path / _DOCUMENT).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise UnknownGroupError(f"there is no group {path!r} in {self.root}") from error
        return document


def encode(document: Mapping[str, Any]) -> str:
    """Return a document as JSON text.

    Raises
    ------
    TypeError, ValueError
        For what JSON has no form for.
    """
    return json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False)


def _foreign_files(root: Path) -> Iterator[Path]:
    """Yield the files below a folder that are no part of a Zarr dataset."""
    for folder, _, files in os.walk(root):
        yield from (Path(folder, name) for name in files if not _OF_A_DATASET.fullmatch(name))
