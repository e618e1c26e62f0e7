"""Sinks that keep everything in memory, and are slow or fail when a test tells them to."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ome_writers._layout import ArrayGeometry
from ome_writers.abc import Block, BlockSink, Capabilities, FrameSink, LayerSink, WritePlan
from ome_writers.settings import DTYPES

__all__ = ["Faults", "MemoryBlockSink", "MemoryFrameSink", "MemoryLayerSink"]

_COMPRESSIONS = frozenset({"none", "zstd", "blosc-zstd", "blosc-lz4"})


@dataclass(frozen=True, slots=True)
class Faults:
    """How a sink misbehaves.

    Attributes
    ----------
    seconds : float
        How long each write takes.
    gate : threading.Event, optional
        Each write waits until it is set, for a minute at most.
    errors : mapping of int to BaseException
        What a write raises instead of writing, by its number from 0.
    close_error : BaseException, optional
        What ``close`` raises.
    """

    seconds: float = 0.0
    gate: threading.Event | None = None
    errors: Mapping[int, BaseException] = field(default_factory=dict)
    close_error: BaseException | None = None


class _MemorySink:
    """Arrays in memory, a log of calls, and faults.

    Attributes
    ----------
    begun : threading.Event
        Set when the first write has begun.
    closed : int
        How often ``close`` was called.
    """

    def __init__(self, geometry: ArrayGeometry, arrays: int, faults: Faults, rows: int = 1) -> None:
        self.begun = threading.Event()
        self.closed = 0
        self._faults = faults
        self._axis = geometry.unbounded_axis
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        shape = tuple(n or 0 for n in geometry.shape)
        self._pixels = [np.zeros(shape, geometry.dtype) for _ in range(arrays)]
        self._counts = [np.zeros((*shape[:-2], rows), np.int64) for _ in range(arrays)]  # of each part of a frame

    def pixels(self, array: int) -> npt.NDArray[Any]:
        """Return what an array holds; 0 where nothing was written."""
        return self._pixels[array]

    def counts(self, array: int) -> npt.NDArray[np.int64]:
        """Return how often each frame of an array was written whole."""
        return np.asarray(self._counts[array].min(axis=-1))

    def close(self) -> None:
        """Count the call, and fail if told to."""
        self.closed += 1
        if self._faults.close_error is not None:
            raise self._faults.close_error

    def _misbehave(self) -> None:
        with self._lock:
            number = next(self._numbers)
        self.begun.set()
        if self._faults.gate is not None and not self._faults.gate.wait(60):
            raise TimeoutError("nobody opened the gate")
        if self._faults.seconds:
            time.sleep(self._faults.seconds)
        if number in self._faults.errors:
            raise self._faults.errors[number]

    def _store(
        self, array: int, origin: tuple[int, ...], block: Block, lines: slice = slice(None), rows: slice = slice(None)
    ) -> None:
        """Store a block, or these lines of it, which are these rows of chunks."""
        shape = block.shape[:-2]
        where = tuple(slice(o, o + n) for o, n in zip(origin, shape, strict=True))
        with self._lock:
            if self._axis is not None:
                self._grow(array, where[self._axis].stop)
            self._pixels[array][(*where, lines)] = block
            self._counts[array][(*where, rows)] += 1

    def _grow(self, array: int, extent: int) -> None:
        missing = extent - self._counts[array].shape[self._axis or 0]
        if missing > 0:
            for arrays in (self._pixels, self._counts):
                before: npt.NDArray[Any] = arrays[array]
                widths = [(0, missing if axis == self._axis else 0) for axis in range(before.ndim)]
                arrays[array] = np.pad(before, widths)


class MemoryBlockSink(_MemorySink, BlockSink):
    """Keeps blocks in memory.

    To make a stream use it with faults, derive a class whose ``__init__`` takes the plan only.

    Parameters
    ----------
    plan : WritePlan
        As for any sink; nothing is written below its root.
    faults : Faults, optional
        How it misbehaves.

    Attributes
    ----------
    blocks : list of tuple
        Array, origin, shape and stored mask of every block, in the order in which they were written.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(
        name="memory", dtypes=frozenset(DTYPES), compressions=_COMPRESSIONS, workers=2, copies=0.0
    )

    def __init__(self, plan: WritePlan, faults: Faults | None = None) -> None:
        super().__init__(plan.geometry, len(plan.layout.images), faults or Faults())
        self.blocks: list[tuple[int, tuple[int, ...], tuple[int, ...], npt.NDArray[np.bool_] | None]] = []

    def write_block(
        self, array: int, origin: tuple[int, ...], block: Block, stored: npt.NDArray[np.bool_] | None
    ) -> None:
        """Copy a block into its array."""
        self._misbehave()
        self._store(array, origin, block)
        self.blocks.append((array, origin, block.shape, stored))


class MemoryLayerSink(_MemorySink, LayerSink):
    """Keeps layers of chunks in memory; parameters as for :class:`MemoryBlockSink`.

    Attributes
    ----------
    layers : list of tuple
        Array, cell, first row of chunks and number of rows, for every call of :meth:`write_chunks` in order.
    skipped : list of tuple
        Array and cell of every layer that was skipped.
    outside : int
        How many pixels outside of the arrays were not 0.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(
        name="memory", dtypes=frozenset(DTYPES), compressions=_COMPRESSIONS, workers=2, copies=0.0
    )

    def __init__(self, plan: WritePlan, faults: Faults | None = None) -> None:
        geometry = plan.geometry
        super().__init__(geometry, len(plan.layout.images), faults or Faults(), geometry.layer_shape[0])
        self._shape = geometry.shape
        self._chunks = geometry.chunks
        self.layers: list[tuple[int, tuple[int, ...], int, int]] = []
        self.skipped: list[tuple[int, tuple[int, ...]]] = []
        self.outside = 0

    def write_chunks(self, array: int, cell: tuple[int, ...], first_row: int, chunks: Block) -> None:
        """Copy rows of chunks into their array."""
        self._misbehave()
        rows, columns, *steps, tall, wide = chunks.shape
        together = np.moveaxis(chunks, (0, 1), (-4, -2)).reshape(*steps, rows * tall, columns * wide)
        origin = (*(i * n for i, n in zip(cell, self._chunks, strict=False)), first_row * tall, 0)
        inside = tuple(
            slice(None if n is None else min(n - o, length))
            for n, o, length in zip(self._shape, origin, together.shape, strict=True)
        )
        block = together[inside]
        self.outside += int(np.count_nonzero(together)) - int(np.count_nonzero(block))
        lines = slice(origin[-2], origin[-2] + block.shape[-2])
        self._store(array, origin[:-2], block, lines, slice(first_row, first_row + rows))
        self.layers.append((array, cell, first_row, rows))

    def skip_layer(self, array: int, cell: tuple[int, ...]) -> None:
        """Note that a layer is not written."""
        self._misbehave()
        self.skipped.append((array, cell))

    def row_counts(self, array: int) -> npt.NDArray[np.int64]:
        """Return how often each row of chunks of each frame was written, shape ``(*index, rows)``."""
        return self._counts[array]


class MemoryFrameSink(_MemorySink, FrameSink):
    """Keeps frames in memory; parameters as for :class:`MemoryBlockSink`.

    Attributes
    ----------
    calls : list of tuple
        Array, number of frames, and whether they were written (else skipped), for every call in order.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(
        name="memory", dtypes=frozenset(DTYPES), compressions=_COMPRESSIONS, copies=0.0
    )

    def __init__(self, plan: WritePlan, faults: Faults | None = None) -> None:
        super().__init__(plan.geometry, len(plan.layout.images), faults or Faults())
        self.calls: list[tuple[int, int, bool]] = []
        self._axes = [axis for axis in plan.layout.axes if axis.storage_axis is not None]
        self._next = [0] * len(plan.layout.images)

    def write_frames(self, array: int, frames: Block) -> None:
        """Copy frames to where the array's acquisition order leads."""
        self._misbehave()
        for i, frame in enumerate(frames):
            index = self._index(self._next[array] + i)
            self._store(array, index, frame[(None,) * len(index)])
        self._next[array] += len(frames)
        self.calls.append((array, len(frames), True))

    def skip_frames(self, array: int, count: int) -> None:
        """Go on without the next frames."""
        self._misbehave()
        self._next[array] += count
        self.calls.append((array, count, False))

    def _index(self, number: int) -> tuple[int, ...]:
        index = [0] * len(self._axes)
        for axis in reversed(self._axes):
            number, step = divmod(number, axis.count) if axis.count is not None else (0, number)
            index[axis.storage_axis or 0] = step
        return tuple(index)
