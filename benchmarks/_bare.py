"""What no stream can leave out, and nothing else."""

from __future__ import annotations

import math
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from io import FileIO
from operator import floordiv, mod
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final

import numpy as np

from ome_writers._files import write_all
from ome_writers._layout import plan_layout
from ome_writers.abc import WritePlan
from ome_writers.backends._encoding import encoder
from ome_writers.backends.direct import DirectSink
from ome_writers.engine import plan_memory
from ome_writers.engine._forms import ChunkMajor

from ._timing import Timing, append_frames
from ._workloads import Frames, Workload

_APPEND_BYTES: Final = 2 << 20  # of pixels, as in a stream


@dataclass(slots=True)
class _Layer:
    """Memory of a layer of chunks in a bare pipeline, shape ``(rows, columns, *chunk)``."""

    chunks: Frames
    missing: int = 0  # frames that are still to be copied
    parts: int = 0  # that are still to be written


class _File:
    """A file that one thread at a time appends to."""

    def __init__(self, path: Path) -> None:
        self._file = FileIO(path, "w")
        self._size = 0
        self._lock = threading.Lock()

    def append(self, pieces: Sequence[Any], *, wait: bool) -> bool:
        """Append pieces, unless another thread does and this one is not to wait for it; return whether it was done."""
        if not self._lock.acquire(blocking=wait):
            return False
        try:
            write_all(self._file, self._size, *pieces)
            self._size += sum(memoryview(piece).nbytes for piece in pieces)
        finally:
            self._lock.release()
        return True

    def close(self) -> None:
        self._file.close()


class _Writers:
    """A thread for each core that encodes rows of chunks and appends them to a file.

    Parameters
    ----------
    files : sequence of _File
        Threads take them in turn; they are closed at the end.
    encode : callable, optional
        Encodes a chunk.
    layers : iterable of _Layer
        Memory of all layers that may be in use at once.
    """

    def __init__(
        self, files: Sequence[_File], encode: Callable[[Frames], bytes] | None, layers: Iterable[_Layer]
    ) -> None:
        self._files = files
        self._encode = encode
        self._free: SimpleQueue[_Layer | None] = SimpleQueue()
        self._full: SimpleQueue[tuple[_Layer, slice] | None] = SimpleQueue()
        self._lock = threading.Lock()  # of the layers' counts
        self._errors: list[BaseException] = []
        for layer in layers:
            self._free.put(layer)
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(os.cpu_count() or 1)]
        for thread in self._threads:
            thread.start()

    def take(self) -> _Layer:
        """Return a layer that is free, waiting for one."""
        if (layer := self._free.get()) is None:
            raise OSError("the bare pipeline could not write") from self._errors[0]
        return layer

    def give(self, layer: _Layer, parts: Sequence[slice]) -> None:
        """Have all rows of chunks of a layer written, part by part."""
        layer.parts = len(parts)
        for rows in parts:
            self._full.put((layer, rows))

    def end(self) -> None:
        """Wait until all is written; raise what has gone wrong."""
        for _ in self._threads:
            self._full.put(None)
        for thread in self._threads:
            thread.join()
        for file in self._files:
            file.close()
        if self._errors:
            raise OSError("the bare pipeline could not write") from self._errors[0]

    def _run(self, number: int) -> None:
        try:
            self._append_all(self._files[number % len(self._files)])
        except BaseException as error:  # noqa: BLE001  # raised by the thread that copies
            self._errors.append(error)
            self._free.put(None)  # nobody waits for memory that a failed thread has

    def _append_all(self, file: _File) -> None:
        """Append encoded rows of chunks until there are no more, several chunks at once, as a stream does."""
        while (part := self._full.get()) is not None:
            layer, rows = part
            chunks = layer.chunks[rows].reshape(-1, math.prod(layer.chunks.shape[2:]))
            at_once = max(1, _APPEND_BYTES // chunks[0].nbytes)
            pieces: list[Any] = []
            for first in range(0, len(chunks), at_once):
                some = chunks[first : first + at_once]
                pieces += [some] if self._encode is None else map(self._encode, some)
                if file.append(pieces, wait=first + at_once >= len(chunks)):
                    pieces = []
            with self._lock:
                layer.parts -= 1
                written = not layer.parts
            if written:
                self._free.put(layer)


def bare_pipeline(workload: Workload, pixels: Frames, path: Path, *, one_file: bool = False) -> Timing:
    """Copy frames into chunks on one thread; encode and ``write()`` them on one for each core, and do nothing else.

    What a stream can't leave out, all at once, so that its parts get in each other's way as they do in a stream: they
    share the processor's caches, the memory and Python's lock. There is no file that could be opened, no index, no
    document, no note of what was written, no check of a frame; each thread appends to one file of its own; places are
    known, and all memory that the stream would have is there before the first frame.

    With one file all threads append to that, as those of a stream do to a shard: the system lets one in at a time.
    """
    path.mkdir(parents=True)
    cores = os.cpu_count() or 1
    settings = workload.settings("x.ome.zarr", "direct")
    layout = plan_layout(settings)
    memory = plan_memory(DirectSink, WritePlan(path, layout, settings.codec, {}), settings.buffer)
    form, depth = ChunkMajor(layout.geometry), layout.geometry.chunks[:-2]
    places: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
        ((position, *map(floordiv, index, depth)), tuple(map(mod, index, depth)))
        for position, index in workload.places()
    ]
    frames = Counter(where for where, _ in places)  # of each layer; of those at the end of the array perhaps fewer
    count = min(memory.buffers, len(frames))
    # ones, as memory that is 0 is made at its first use only
    buffers = [np.ones(memory.buffer_bytes, np.uint8) for _ in range(count)]
    files = [_File(path / str(number)) for number in range(1 if one_file else cores)]
    writers = _Writers(files, encoder(settings.codec), [_Layer(form.view(b, ())) for b in buffers])
    steps, layers = iter(places), dict[tuple[int, ...], _Layer]()

    def append(_: int, frame: Frames) -> None:
        where, slot = next(steps)
        layer = layers.get(where)
        if layer is None:
            layer = layers[where] = writers.take()
            layer.missing = frames[where]
        form.put(layer.chunks, slot, frame)
        layer.missing -= 1
        if not layer.missing:
            writers.give(layers.pop(where), form.parts)

    start = time.perf_counter()
    try:
        calls = append_frames(workload, pixels, append)
    finally:
        writers.end()
    return Timing(writing=time.perf_counter() - start, calls=calls)
