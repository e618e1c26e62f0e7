"""Calls to the file system that a dataset's files go through, so that tests can make them fail."""

from __future__ import annotations

import os
from collections.abc import Iterable
from io import FileIO
from pathlib import Path
from typing import Any, Final

if os.name == "posix":
    import fcntl


_MOST_PIECES: Final = max(16, os.sysconf("SC_IOV_MAX") if "SC_IOV_MAX" in getattr(os, "sysconf_names", ()) else 0)
"""The most pieces that one system call takes; POSIX promises 16."""

_MOST_BYTES: Final = 1 << 30  # that one system call takes; some refuse 2 GiB


class FileSystem:
    """The file system as it is."""

    def open(self, path: Path, mode: str) -> FileIO:
        """Open a file without a buffer."""
        return FileIO(path, mode)

    def write(self, file: FileIO, offset: int, *pieces: memoryview) -> int:
        """Write some of the data, which may come in pieces, from its beginning; return how many bytes.

        Of a file, one thread at a time may call this: where the system can't write at a place, the file is moved there.
        """
        if len(pieces) > 1 and hasattr(os, "pwritev") and sum(map(len, pieces)) <= _MOST_BYTES:
            return os.pwritev(file.fileno(), pieces[:_MOST_PIECES], offset)
        if hasattr(os, "pwrite"):
            return os.pwrite(file.fileno(), pieces[0][:_MOST_BYTES], offset)
        file.seek(offset)
        return file.write(pieces[0][:_MOST_BYTES])

    def sync(self, file: FileIO) -> None:
        """Have what was written to a file on the medium."""
        if os.name == "posix" and hasattr(
            fcntl, "F_FULLFSYNC"
        ):  # macOS, whose fsync leaves it in the cache of the drive
            fcntl.fcntl(file.fileno(), fcntl.F_FULLFSYNC)
        else:
            os.fsync(file.fileno())

    def sync_folder(self, path: Path) -> None:
        """Have the names in a folder on the medium; does nothing on Windows, which keeps them by itself."""
        if os.name != "posix":
            return
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def replace(self, source: Path, target: Path) -> None:
        """Give a file another name, in place of what had it."""
        source.replace(target)


_unsynced_folders: set[Path] = set()
"""Whose names may not be on the medium: after an error, or Ctrl-C, the next try to make one goes on there."""

system: FileSystem = FileSystem()
"""What is called; tests put another one in its place (see :mod:`ome_writers.testing.files`)."""


def write_all(file: FileIO, offset: int, *pieces: Any) -> None:
    """Write all pieces of data, one after the other, from a place on; a system call may write less than it is given.

    Together they take few system calls, and so this thread gives up Python's lock, and waits for it, less often. Of a
    file, one thread at a time may call this.
    """
    left = [view for piece in pieces if (view := memoryview(piece).cast("B"))]
    while left:
        written = system.write(file, offset, *left)
        if written == sum(map(len, left)):  # nearly always
            return
        offset += written
        done = 0
        while written >= len(left[done]):
            written -= len(left[done])
            done += 1
        left = [left[done][written:], *left[done + 1 :]]


def replace_contents(path: Path, pieces: Iterable[bytes], *, durable: bool = False) -> None:
    """Replace a file in one step; if durable, have it and its name on the medium."""
    partial = path.with_name(f".{path.name}.0.partial")
    with system.open(partial, "wb") as file:
        size = 0
        for piece in pieces:
            write_all(file, size, piece)
            size += len(piece)
        if durable:
            system.sync(file)
    system.replace(partial, path)
    if durable:
        system.sync_folder(path.parent)


def make_folder(path: Path, *, durable: bool = False) -> None:
    """Make a folder and those above it; if durable, have their names on the medium."""
    if not durable:
        path.mkdir(parents=True, exist_ok=True)
        return
    if path.is_dir() and path not in _unsynced_folders:
        return
    make_folder(path.parent, durable=True)
    _unsynced_folders.add(path)
    path.mkdir(exist_ok=True)
    system.sync_folder(path.parent)
    _unsynced_folders.discard(path)
