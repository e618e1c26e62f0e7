"""Reading ahead: frames are read by threads of their own, in the order of the acquisition, into memory used again."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from types import TracebackType
from typing import Any, Final, Self

import numpy as np

from ome_writers.recordings import Frame, Index, Recording

READ_AHEAD_BYTES: Final = 64 << 20
"""Frames are read ahead up to this size, but two batches at least."""

_BATCH_BYTES: Final = 1 << 20
_MAX_READERS: Final = 4


@dataclass(slots=True)
class _Batch:
    """Frames that are read in one task, and the memory that they are read into."""

    pixels: Frame
    indices: list[Index]
    metadata: list[Mapping[str, Any] | None]


class Prefetch:
    """The frames of a recording, read ahead.

    Parameters
    ----------
    recording : Recording
        Where frames are read.
    indices : iterable of tuple of int
        Which ones, in which order.
    far : bool
        Whether to read ahead as far as memory allows, as for a camera's pace. Otherwise a source that needs no decoding
        is read one batch ahead by one thread: writing takes all cores, and frames that are appended soon are still in
        the processor's cache.
    """

    def __init__(self, recording: Recording, indices: Iterable[Index], *, far: bool = False) -> None:
        self._recording = recording
        self._indices = iter(indices)
        self._size = max(1, _BATCH_BYTES // recording.frame_bytes)
        room = READ_AHEAD_BYTES // (self._size * recording.frame_bytes)
        self._readers = max(1, min(_MAX_READERS, os.cpu_count() or 1)) if recording.decodes else 1
        wanted = room if far else 4 * self._readers if recording.decodes else 2
        self._batches = max(2, min(room, wanted))
        self._pool = ThreadPoolExecutor(self._readers, thread_name_prefix="ome-writers-reader")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __iter__(self) -> Iterator[tuple[Frame, Mapping[str, Any] | None]]:
        """Yield each frame, which is valid until the next one is asked for, and what was recorded about it."""
        with closing(self._read_batches()) as batches:
            for batch in batches:
                yield from zip(batch.pixels, batch.metadata, strict=False)

    def _read_batches(self) -> Generator[_Batch]:
        reading: deque[Future[_Batch]] = deque()
        shape = (self._size, *self._recording.frame_shape)
        for _ in range(self._batches):
            batch = _Batch(np.empty(shape, self._recording.dtype), [], [])
            if not self._start(batch, reading):
                break
        while reading:
            batch = reading.popleft().result()
            yield batch
            self._start(batch, reading)

    def _start(self, batch: _Batch, reading: deque[Future[_Batch]]) -> bool:
        """Have the next frames read into the memory of a batch; return whether there are any."""
        batch.indices = list(islice(self._indices, self._size))
        if batch.indices:
            reading.append(self._pool.submit(self._read, batch))
        return bool(batch.indices)

    def _read(self, batch: _Batch) -> _Batch:
        for index, out in zip(batch.indices, batch.pixels, strict=False):
            self._recording.read(index, out)
        batch.metadata = [self._recording.metadata(index) for index in batch.indices]
        return batch
