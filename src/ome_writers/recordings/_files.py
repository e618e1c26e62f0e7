"""Files read by several threads at once, at places of their own."""

from __future__ import annotations

import errno
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from ome_writers.errors import RecordingError

from ._recording import Frame

_OPEN_FILES: Final = 64
"""How many files are kept open; systems allow a process 256 at least, unless its limit was lowered."""


class SourceFile(Protocol):
    """A file open for reading at given places, by several threads at once."""

    def read_into(self, offset: int, view: memoryview) -> int:
        """Fill bytes from a place of the file; return how many there were."""

    def close(self) -> None:
        """Release the file."""


class _PositionalFile:
    """A file read by calls that name the place, so that threads share it without a lock."""

    def __init__(self, path: Path) -> None:
        self._number = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))

    def read_into(self, offset: int, view: memoryview) -> int:
        done = 0
        while done < len(view) and (count := os.preadv(self._number, [view[done:]], offset + done)):
            done += count
        return done

    def close(self) -> None:
        os.close(self._number)


class _LockedFile:
    """A file with one place for all threads, for systems without positional reads."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)
        self._lock = threading.Lock()

    def read_into(self, offset: int, view: memoryview) -> int:
        done = 0
        with self._lock:
            self._file.seek(offset)
            while done < len(view) and (count := self._file.readinto(view[done:])):
                done += count
        return done

    def close(self) -> None:
        self._file.close()


_File: Any = _PositionalFile if hasattr(os, "preadv") else _LockedFile


def _allowed() -> int:
    """Return how many files are kept open: others of the process need some of what it may have."""
    try:
        import resource
    except ImportError:  # on Windows, where the limit is in the thousands
        return _OPEN_FILES
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _OPEN_FILES if limit == resource.RLIM_INFINITY else max(1, min(_OPEN_FILES, limit // 4))


class Files:
    """Files of a source, of which a bounded number is open.

    Parameters
    ----------
    paths : sequence of Path
        All files.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)
        self._open: OrderedDict[int, SourceFile] = OrderedDict()
        self._users: dict[int, int] = {}
        self._lock = threading.Lock()
        self._closed = False
        self._allowed = _allowed()

    @contextmanager
    def use(self, number: int) -> Iterator[SourceFile]:
        """Lend a file, opened if need be."""
        with self._lock:
            if self._closed:
                raise RecordingError(f"{self.paths[number]} is closed")
            file = self._open.get(number)
            if file is None:
                file = self._open[number] = self._opened(number)
            self._open.move_to_end(number)
            self._users[number] = self._users.get(number, 0) + 1
        try:
            yield file
        finally:
            with self._lock:
                self._users[number] -= 1
                self._close_idle(0 if self._closed else self._allowed)

    def _opened(self, number: int) -> SourceFile:
        file: SourceFile
        try:
            try:
                file = _File(self.paths[number])
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE):
                    raise
                self._allowed = max(1, len(self._open) // 2)
                self._close_idle(0)
                file = _File(self.paths[number])
        except OSError as error:
            raise RecordingError(
                f"{self.paths[number]}: the file can't be opened: {error.strerror or error}"
            ) from error
        return file

    def _close_idle(self, allowed: int) -> None:
        for number in list(self._open):
            if len(self._open) <= allowed:
                break
            if not self._users.get(number):
                self._users.pop(number, None)
                self._open.pop(number).close()

    def close(self) -> None:
        """Close all files, those in use as soon as they are given back."""
        with self._lock:
            self._closed = True
            self._close_idle(0)

    def read_into(self, number: int, offset: int, out: Frame, what: str) -> None:
        """Fill an array with bytes of a file.

        Parameters
        ----------
        number : int
            Of the file.
        offset : int
            Where the bytes stand.
        out : ndarray
            C-contiguous.
        what : str
            What they are, for messages.

        Raises
        ------
        RecordingError
            If the file has fewer bytes, or can't be read.
        """
        view = out.reshape(-1).view(np.uint8).data
        with self.use(number) as file:
            try:
                count = file.read_into(offset, view)
            except OSError as error:
                raise RecordingError(
                    f"{self.paths[number]}: {what} can't be read: {error.strerror or error}"
                ) from error
        if count < len(view):
            raise RecordingError(
                f"{self.paths[number]}: the file is truncated: {what} should have {len(view):,} bytes at byte "
                f"{offset:,}, and {count:,} are there"
            )

    def read_bytes(self, number: int, offset: int, count: int, what: str) -> bytes:
        """Return bytes of a file.

        Raises
        ------
        RecordingError
            As :meth:`read_into`.
        """
        found = np.empty(count, np.uint8)
        self.read_into(number, offset, found, what)
        return found.tobytes()
