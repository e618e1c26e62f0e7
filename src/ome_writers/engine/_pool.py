"""The memory that holds frames until they are written."""

from __future__ import annotations

import mmap
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ome_writers.errors import BufferFullError
from ome_writers.settings import BufferSettings

Buffer = npt.NDArray[np.uint8]

_POLL_SECONDS: Final = 0.1
"""A wait is cut in pieces, since a lock can't be interrupted by Ctrl-C on Windows."""

_SLAB_BYTES: Final = 1 << 23
"""Small buffers are made together, as many as fit into this, and no more than :data:`_SLAB_BUFFERS`."""

_SLAB_BUFFERS: Final = 256  # making more takes longer than a caller should wait

_HEAD_START_SECONDS: Final = 0.05
"""What a caller waits before the first frame, at most: enough for what waits by default, where memory is at hand."""

_LARGE_PAGE_BYTES: Final = 1 << 21
_HAS_LARGE_PAGES: Final = sys.platform == "linux" and hasattr(mmap, "MADV_HUGEPAGE")


def memory(nbytes: int) -> Buffer:
    """Return new memory, all 0, as many whole large pages of it as it can hold, where the system has such.

    A page is mapped at its first use, and a large one in less time than the 512 small ones in its place. NumPy asks for
    them as well, from 4 MiB on, but its memory does not begin where a large page does: a fourth of 8 MiB is lost. What
    is left over takes small pages, also where the system gives large ones unasked: more memory than that is not used.
    """
    if not _HAS_LARGE_PAGES or nbytes < _LARGE_PAGE_BYTES:
        return np.zeros(nbytes, np.uint8)
    try:
        mapped = mmap.mmap(-1, nbytes + _LARGE_PAGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"{nbytes:,} bytes for frames could not be allocated: {error}") from error
    whole = np.frombuffer(mapped, np.uint8)
    start = -whole.ctypes.data % _LARGE_PAGE_BYTES
    large = nbytes - nbytes % _LARGE_PAGE_BYTES
    with suppress(OSError):  # a kernel without them
        mapped.madvise(mmap.MADV_HUGEPAGE, start, large)
        mapped.madvise(mmap.MADV_NOHUGEPAGE, start + large)
    return whole[start : start + nbytes]


class BufferPool:
    """Buffers of one size, made when first needed and used again.

    Parameters
    ----------
    buffer_bytes : int
        Size of each buffer.
    limit : int
        The most buffers that may be in use at once.
    settings : BufferSettings
        What to do when all are in use.
    ready : int
        How many buffers are made at once, their memory touched: the first use of a page costs far more than the next,
        and a camera would feel it.
    ahead : int
        How many buffers :meth:`make_ahead` makes, those that are ready among them. The others are made when they are
        needed.

    Attributes
    ----------
    used, most_used : int
        Buffers in use now, and at most so far.
    stalled_seconds : float
        How long callers have waited for a buffer in all.
    """

    def __init__(
        self, buffer_bytes: int, limit: int, settings: BufferSettings, *, ready: int = 0, ahead: int = 0
    ) -> None:
        self.buffer_bytes = buffer_bytes
        self.limit = limit
        self.used = 0
        self.most_used = 0
        self.stalled_seconds = 0.0
        self._settings = settings
        self._free: list[Buffer] = [
            *self._touched(min(ready, limit))
        ]  # last in, first out: memory that was touched last is warm
        # no Condition: its methods are Python, so that Ctrl-C in the wrong moment leaves it locked
        self._lock = threading.Lock()
        self._waiting = False
        self._freed: SimpleQueue[None] = SimpleQueue()  # one entry when somebody waits and a buffer was released
        self._made = len(self._free)
        self._ahead = min(ahead, limit)
        self._making = threading.Lock()  # held while a buffer is made ahead
        self._at_once = max(1, min(_SLAB_BYTES // buffer_bytes, _SLAB_BUFFERS, limit // 4))

    def acquire(self, raise_if_failed: Callable[[], Any]) -> Buffer:
        """Return a buffer, new and all 0 or as it was when it was released, waiting for one if the settings say so.

        Parameters
        ----------
        raise_if_failed : callable
            Called while waiting; raises when waiting has no sense any more.

        Raises
        ------
        BufferFullError
            If no buffer is free and the settings say not to wait, or not that long.
        """
        start: float | None = None
        buffer: Buffer | None = None
        counted = False
        try:
            while True:
                with self._lock:
                    if self.used < self.limit:
                        # Ctrl-C comes after a call: between these there is none, so that it is known what to undo
                        self.used += 1
                        counted = True
                        if self._free:
                            buffer = self._free[-1]
                            del self._free[-1]
                        break
                    self._waiting = True
                start = start or time.perf_counter()
                raise_if_failed()
                self._wait(time.perf_counter() - start)
                raise_if_failed()
            self.most_used = max(self.most_used, self.used)
            if start is not None:
                self.stalled_seconds += time.perf_counter() - start
            if buffer is None:
                buffer = self._more()
        except BaseException:
            with self._lock:
                self.used -= counted
                self._free += [] if buffer is None else [buffer]
            if start is not None and not counted:
                self.stalled_seconds += time.perf_counter() - start
            raise
        return buffer

    def head_start(self) -> None:
        """Make buffers ahead: all of them, unless the system takes its time."""
        end = time.perf_counter() + _HEAD_START_SECONDS
        while self.make_ahead() and time.perf_counter() < end:
            pass

    def make_ahead(self) -> bool:
        """Make a buffer for later, or several small ones, unless there are enough; any thread may call this.

        Returns
        -------
        bool
            Whether any was made.
        """
        with self._making:
            with self._lock:
                count = min(self._at_once, self._ahead - self._made)
                if count <= 0:
                    return False
                self._made += count
            try:
                buffers = self._touched(count)
            except MemoryError:  # raised in acquire, if it is needed
                with self._lock:
                    self._made -= count
                return False
            with self._lock:
                self._free[:0] = buffers
            return True

    def _touched(self, count: int) -> Iterable[Buffer]:
        """Return new buffers, their memory touched; it would otherwise be mapped at its first use."""
        buffers = self._untouched(count)
        buffers.reshape(-1)[:: mmap.PAGESIZE] = 0  # a byte of each page: the system has filled it with 0
        return buffers

    def _untouched(self, count: int) -> Buffer:
        return memory(count * self.buffer_bytes).reshape(count, self.buffer_bytes)

    def _more(self) -> Buffer:
        """Make a buffer; small ones several at once, since the system gives large pieces of memory in large pages."""
        with self._lock:
            count = min(self._at_once, self.limit - self._made)
            self._made += count
        if count == 0:  # the last one is being made ahead, or Ctrl-C has lost it
            with self._making, self._lock:
                if self._free:
                    return self._free.pop()
            count = 1
        first: Buffer
        first, *others = self._untouched(count)
        if others:
            with self._lock:
                self._free += others
        return first

    def release(self, buffer: Buffer) -> None:
        """Take a buffer back; any thread may call this."""
        with self._lock:
            self.used -= 1
            self._free.append(buffer)
            wake, self._waiting = self._waiting, False
        if wake:
            self._freed.put(None)

    def clear(self) -> None:
        """Let go of the memory of all free buffers."""
        with self._lock:
            self._free.clear()

    def _wait(self, waited: float) -> None:
        """Wait a moment for a buffer, unless the settings say to raise now."""
        size = f"{self.limit} buffers of {self.buffer_bytes:,} bytes"
        if self._settings.on_full == "raise":
            raise BufferFullError(
                f"the buffer is full ({size}) and settings.buffer.on_full is 'raise'; the frame was not taken. Append "
                "it again later, or allow more with settings.buffer.max_bytes."
            )
        timeout = self._settings.timeout
        if timeout is not None and waited >= timeout:
            raise BufferFullError(
                f"the buffer ({size}) was full for {timeout} s (settings.buffer.timeout): storage is slower than the "
                "camera; the frame was not taken. Append it again later, or allow more with settings.buffer.max_bytes."
            )
        with suppress(Empty):
            self._freed.get(timeout=_POLL_SECONDS if timeout is None else min(_POLL_SECONDS, timeout - waited + 0.001))
