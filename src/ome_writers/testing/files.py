"""A file system that fails when a test tells it to: a full disk, a medium with errors, one that can't be written to.

The files of a dataset that backend "direct" and the streams of all backends write themselves go through
:mod:`ome_writers._files`; :func:`faulty_files` puts a :class:`FaultyFileSystem` in its place.

Examples
--------
A disk that is full after 10,000 bytes, and has room again after the stream was closed::

    with faulty_files(FileFault("write", errno.ENOSPC, after_bytes=10_000)) as files:
        stream = create_stream(settings)
        ...  # an append or close raises a WriteError that names the frames that are not on disk
        files.repair()
        recover(stream.path)
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from io import FileIO
from pathlib import Path
from typing import Final, Literal, TypeAlias

from ome_writers import _files

__all__ = ["ALL_CALLS", "Call", "FaultyFileSystem", "FileFault", "faulty_files"]

Call: TypeAlias = Literal["open", "write", "sync", "sync_folder", "replace"]

ALL_CALLS: Final[tuple[Call, ...]] = ("open", "write", "sync", "sync_folder", "replace")
"""All calls of :class:`ome_writers._files.FileSystem`; with ``errno.EROFS``, a medium that is mounted read-only."""


@dataclass(frozen=True, slots=True)
class FileFault:
    """When a call of the file system fails, and how.

    Attributes
    ----------
    calls : str or tuple of str
        Which calls fail.
    error : int or type of BaseException
        Number of the OSError that they raise (as in the module ``errno``), or the class of what they raise.
    paths : str
        Pattern of the paths that it is about, as of :mod:`fnmatch`: ``*`` matches ``/``, too. Of ``replace``, the new
        name counts.
    skip : int
        How many calls that match are carried out before.
    after_bytes : int, optional
        How many bytes of ``write`` that match are written before. The call that would write more writes what there is
        room for, as a disk does that gets full, and the next one fails.
    times : int, optional
        How many calls fail; None for all.
    written : int
        How many bytes a ``write`` that fails writes all the same.
    """

    calls: Call | tuple[Call, ...]
    error: int | type[BaseException]
    paths: str = "*"
    skip: int = 0
    after_bytes: int | None = None
    times: int | None = None
    written: int = 0

    def concerns(self, call: Call, path: Path) -> bool:
        """Tell whether a call is one of those that this is about."""
        return call in ((self.calls,) if isinstance(self.calls, str) else self.calls) and fnmatchcase(
            path.as_posix(), self.paths
        )


@dataclass(slots=True)
class _Progress:
    """What has become of a fault."""

    calls: int = 0  # that match
    failed: int = 0
    nbytes: int = 0  # written by calls that match


class FaultyFileSystem(_files.FileSystem):
    """The file system, but for calls that fail. Any thread may use it.

    Parameters
    ----------
    *faults : FileFault
        How it fails; the first one that is about a call decides.

    Attributes
    ----------
    failures : list of tuple
        Call and path of each call that has failed.
    """

    def __init__(self, *faults: FileFault) -> None:
        self.failures: list[tuple[Call, Path]] = []
        self._lock = threading.Lock()
        self._faults: list[tuple[FileFault, _Progress]] = []
        self._calls: dict[Call, int] = dict.fromkeys(ALL_CALLS, 0)
        self.add(*faults)

    def add(self, *faults: FileFault) -> None:
        """Fail in these ways, too, from now on."""
        with self._lock:
            self._faults = [*self._faults, *((fault, _Progress()) for fault in faults)]

    def repair(self) -> None:
        """Fail no more."""
        with self._lock:
            self._faults = []

    @property
    def calls(self) -> dict[Call, int]:
        """How often each call was made, those that have failed among them."""
        with self._lock:
            return dict(self._calls)

    def open(self, path: Path, mode: str) -> FileIO:
        """Open a file, or fail."""
        self._check("open", path)
        return super().open(path, mode)

    def write(self, file: FileIO, offset: int, *pieces: memoryview) -> int:
        """Write some of the data, or fail, perhaps after a part of it."""
        data = pieces[0] if len(pieces) == 1 else memoryview(b"".join(pieces))
        path = Path(os.fsdecode(file.name) if isinstance(file.name, bytes) else str(file.name))
        with self._lock:  # held while it writes, so that no other thread takes the room that is left
            fault, room = self._next("write", path, len(data))
            if fault is not None:
                if fault.written:
                    super().write(file, offset, data[: fault.written])
                raise self._failure(fault, "write", path)
            written = super().write(file, offset, data if room is None else data[:room])
            for other, progress in self._faults:
                progress.nbytes += written if other.concerns("write", path) else 0
            return written

    def sync(self, file: FileIO) -> None:
        """Have a file on the medium, or fail."""
        self._check("sync", Path(str(file.name)))
        super().sync(file)

    def sync_folder(self, path: Path) -> None:
        """Have the names in a folder on the medium, or fail."""
        self._check("sync_folder", path)
        super().sync_folder(path)

    def replace(self, source: Path, target: Path) -> None:
        """Give a file another name, or fail."""
        self._check("replace", target)
        super().replace(source, target)

    def _check(self, call: Call, path: Path) -> None:
        with self._lock:
            fault, _ = self._next(call, path)
            if fault is not None:
                raise self._failure(fault, call, path)

    def _next(self, call: Call, path: Path, nbytes: int = 0) -> tuple[FileFault | None, int | None]:
        """Count a call; return the fault that it meets, or how many bytes of it there is room for."""
        self._calls[call] += 1
        room: int | None = None
        for fault, progress in self._faults:
            if not fault.concerns(call, path):
                continue
            progress.calls += 1
            if progress.calls <= fault.skip or (fault.times is not None and progress.failed >= fault.times):
                continue
            if fault.after_bytes is not None and call == "write":
                left = fault.after_bytes - progress.nbytes
                if left > 0:
                    room = left if room is None else min(left, room)
                    continue
            progress.failed += 1
            return fault, None
        return None, room if room is not None and room < nbytes else None

    def _failure(self, fault: FileFault, call: Call, path: Path) -> BaseException:
        self.failures.append((call, path))
        if isinstance(fault.error, int):
            return OSError(fault.error, os.strerror(fault.error), str(path))
        return fault.error(f"{call} {path}")


@contextmanager
def faulty_files(*faults: FileFault) -> Iterator[FaultyFileSystem]:
    """Have the files of datasets fail as told, in all threads, until the context is left.

    Parameters
    ----------
    *faults : FileFault
        How they fail.

    Yields
    ------
    FaultyFileSystem
        What is called now; add faults, repair it, or look at what has failed.
    """
    before, files = _files.system, FaultyFileSystem(*faults)
    _files.system = files
    try:
        yield files
    finally:
        _files.system = before
