"""What became of each frame that the stream was given: a file of one character per frame, in acquisition order.

``ome_writers/frames.txt`` holds ``a`` for each frame that was appended and ``s`` for each that was skipped. Its length
is the number of frames that the caller was told were taken: after a crash, those that are appended and not in the
arrays are lost, and known.

A stream that goes on with a dataset writes chunks anew that stand in it with fewer frames. Frames in them are ``p``,
pending, and become ``a`` when their chunks are written: after a crash, those that are pending are lost, though there
are chunks in the arrays. A frame that an interruption has cost is ``l``: its chunks are written without it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from ome_writers import _files

FATES_FILE: Final = "ome_writers/frames.txt"
"""Path of the file below the dataset's root."""

APPENDED: Final = ord("a")
SKIPPED: Final = ord("s")
PENDING: Final = ord("p")
LOST: Final = ord("l")

_BYTES: Final = [bytes((value,)) for value in range(256)]

_SLOW_SECONDS: Final = 1e-4
_SLOW_CALLS: Final = 8
"""So many calls in a row that take longer than this mean a slow file system; one or two, only a busy processor."""

_SHARE: Final = 9
"""After a call to a slow file system, none follows for so many times as long as it took: what is noted is delayed, not
the frames. On a local one it takes about a microsecond, and every frame is noted before ``note`` returns."""


class FrameFates:
    """Notes frames as they are taken.

    All bytes are kept in memory, too, and are written at their places: to write them twice, such as after Ctrl-C, does
    no harm. One thread at a time does it, others wait for it: what it has read could be changed by them, and be in the
    file, before it is written.

    Parameters
    ----------
    path : Path
        The file; its folder exists.
    earlier : bytes
        What it holds already.
    rewritten : int
        Frames before this number go to chunks that may stand in the arrays: they are pending at first.
    """

    def __init__(self, path: Path, earlier: bytes = b"", rewritten: int = 0) -> None:
        self._all = bytearray(earlier)
        self._written = len(earlier)
        self._rewritten = rewritten
        self.rewrites = len(earlier) < rewritten
        """Whether there are pending frames, or will be."""
        self._slow = 0  # calls in a row that took long
        self._next = 0.0  # when note may write again
        self._file = _files.system.open(path, "rb+" if path.exists() else "wb")
        self._lock = threading.RLock()  # of the file; a handler of signals may close the stream in the middle of a note

    def note(self, frame: int, fate: int) -> None:
        """Note a frame; when this returns that is in the file, or a moment later where writing takes long.

        Does not raise: what can't be written is kept, and :meth:`drain` raises when it can't be written then.

        Parameters
        ----------
        frame : int
            Its number: that of the next one.
        fate : int
            :data:`APPENDED` or :data:`SKIPPED`.
        """
        pending = frame < self._rewritten and fate == APPENDED
        self._all[frame : frame + 1] = _BYTES[PENDING if pending else fate]
        if (start := time.perf_counter()) < self._next:
            return
        try:  # noqa: SIM105  suppress() takes a sixth of the time of a note
            self._write()
        except OSError:
            pass  # storage fails: the frames themselves tell, or drain does
        end = time.perf_counter()
        self._slow = self._slow + 1 if end - start > _SLOW_SECONDS else 0
        self._next = end + _SHARE * (end - start) if self._slow >= _SLOW_CALLS else 0.0

    def settle(self, frames: Iterable[int]) -> None:
        """Note that frames are in the arrays, those of them that were pending; any thread may call this.

        Does not raise: after a crash, a frame for which this has failed counts as lost.
        """
        self._change((frame for frame in frames if frame < self._rewritten), APPENDED)

    def lose(self, frame: int) -> None:
        """Note that a frame will be missing in its chunks; does not raise."""
        self._change((frame,), LOST)

    def was_skipped(self, frame: int) -> bool:
        """Tell whether a frame was skipped."""
        return frame < len(self._all) and self._all[frame] == SKIPPED

    def drain(self, frames: int | None = None) -> None:
        """Write what is waiting; any thread may call this.

        Parameters
        ----------
        frames : int, optional
            Return at once if the first so many frames are noted, also while another thread notes the next one.

        Raises
        ------
        OSError
            If it can't be written; it is kept for the next call.
        """
        if self._written < (len(self._all) if frames is None else frames):
            self._write()

    def sync(self) -> None:
        """Have the file on the medium, not only in the system's memory."""
        self.drain()
        _files.system.sync(self._file)

    def close(self) -> None:
        """Write what is waiting and close the file."""
        try:
            self.drain()
        except OSError:
            self._file.close()
            raise
        self._file.close()  # not after Ctrl-C: then the next call writes

    def _write(self) -> None:
        with self._lock:
            first = self._written
            waiting = memoryview(self._all[first:])
            if waiting and (done := _files.system.write(self._file, first, waiting)) < len(waiting):
                _files.write_all(self._file, first + done, waiting[done:])
            self._written = first + len(waiting)

    def _change(self, frames: Iterable[int], fate: int) -> None:
        for run in ranges_of(sorted(frames)):
            with self._lock, suppress(OSError, ValueError):  # a disk that fails, or a file that is closed
                self._all[run.start : run.stop] = _BYTES[fate] * len(run)
                _files.write_all(self._file, run.start, self._all[run.start : run.stop])


def read_fates(path: Path) -> npt.NDArray[np.uint8]:
    """Return the fates in a file, one for each frame; none when it is not there.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    ndarray of uint8
        :data:`APPENDED`, :data:`SKIPPED`, :data:`PENDING` or :data:`LOST` of each frame. What follows a byte that is
        none of these (after a power failure) is left out.
    """
    try:
        fates = np.fromfile(path, np.uint8)
    except FileNotFoundError:
        return np.empty(0, np.uint8)
    known = np.isin(fates, (APPENDED, SKIPPED, PENDING, LOST))
    return fates if known.all() else fates[: int(np.argmin(known))]


def write_fates(path: Path, fates: npt.NDArray[np.uint8], *, durable: bool = False) -> None:
    """Replace the file in one step; if durable, have it on the medium."""
    _files.replace_contents(path, (fates.tobytes(),), durable=durable)


def skipped_ranges(fates: npt.NDArray[np.uint8]) -> list[range]:
    """Return the frames that were skipped, as ascending ranges."""
    return ranges_of(np.flatnonzero(fates == SKIPPED))


def ranges_of(numbers: Iterable[int] | npt.NDArray[np.intp]) -> list[range]:
    """Return whole numbers, ascending, as ranges."""
    values = np.asarray(numbers if isinstance(numbers, np.ndarray) else list(numbers), np.intp)
    if not values.size:
        return []
    breaks = np.flatnonzero(np.diff(values) != 1) + 1
    starts, stops = values[[0, *breaks]], values[[*(breaks - 1), -1]] + 1
    return [range(int(a), int(b)) for a, b in zip(starts, stops, strict=True)]
