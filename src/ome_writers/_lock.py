"""A lock on a dataset that dies with the process that holds it."""

from __future__ import annotations

import os
import threading
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Final

from .errors import DatasetInUseError

LOCK_FILE: Final = "ome_writers/lock"
"""Path of the lock below the dataset's root; it holds the number of the process that writes."""

_WINDOWS: Final = os.name == "nt"

if _WINDOWS:
    import msvcrt
else:
    import fcntl

_held: weakref.WeakSet[DatasetLock] = weakref.WeakSet()


class DatasetLock:
    """The right to write to a dataset, held by one stream or one recovery at a time.

    The operating system releases it when the process ends, however it ends. A file that nobody holds means nothing, so
    that copies of a dataset are not locked.

    Parameters
    ----------
    root : Path
        The dataset's folder.

    Raises
    ------
    DatasetInUseError
        If a living process holds it.
    """

    def __init__(self, root: Path) -> None:
        self._path = root / LOCK_FILE
        self._file: int | None = None  # no file object: the garbage collector would close it before the stream
        self._releasing = threading.RLock()
        while self._file is None:  # until the file that is locked is the one that stands there
            self._path.parent.mkdir(exist_ok=True)
            file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                if not _try_to_lock(file):
                    raise _in_use(root, self._path)
                with suppress(OSError):
                    if _WINDOWS or os.path.samestat(os.fstat(file), self._path.stat()):
                        self._file = file
            finally:
                if self._file is None:
                    os.close(file)
        try:
            with suppress(OSError):  # a full disk: the number is for the message only
                os.ftruncate(self._file, 0)
                os.write(self._file, b" %d\n" % os.getpid())
            _held.add(self)
        except BaseException:  # Ctrl-C: nobody else would let go of it
            os.close(self._file)
            raise

    @property
    def held(self) -> bool:
        """Whether it is held still."""
        return self._file is not None

    def release(self) -> None:
        """Let others write; does nothing when called again."""
        with self._releasing:
            if (file := self._file) is None:
                return
            try:
                if not _WINDOWS:  # which deletes no open file
                    with suppress(OSError):
                        if os.path.samestat(os.fstat(file), self._path.stat()):  # not that of somebody else
                            self._path.unlink()
            finally:  # also after Ctrl-C: it would be held until this process ends
                own, self._file = self._file, None
                if own is not None:  # a signal handler may have released it
                    os.close(own)
                _held.discard(self)
            if _WINDOWS:
                with suppress(OSError):
                    self._path.unlink()

    def forget(self) -> None:
        """Give up a lock that a parent process holds: after a fork, the child has no part in it."""
        self._releasing = threading.RLock()  # which another thread of the parent may have held
        file, self._file = self._file, None
        if file is not None:
            os.close(file)  # the parent's lock stays until it closes its own


def check_unlocked(root: Path) -> None:
    """Raise an error if a living process writes to a dataset.

    Raises
    ------
    DatasetInUseError
        Naming the process.
    """
    path = root / LOCK_FILE
    try:
        file = os.open(path, os.O_RDWR)
    except OSError:  # nobody has made it, or this user may not write there at all
        return
    try:
        if not _try_to_lock(file):
            raise _in_use(root, path)
    finally:
        os.close(file)


def _in_use(root: Path, path: Path) -> DatasetInUseError:
    try:
        process = f"process {int(path.read_bytes())}"
    except (OSError, ValueError):  # Windows: locked bytes can't be read
        process = "another process"
    return DatasetInUseError(f"{root} is being written by {process}; wait until that has ended")


def _try_to_lock(file: int) -> bool:
    try:
        if _WINDOWS:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]  # of Windows
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:  # a file system without locks: everybody gets it
        return True
    return True


def _forget_all() -> None:
    for lock in list(_held):
        lock.forget()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
