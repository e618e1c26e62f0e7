"""How frames gather into parcels: what a sink is given in one call.

Nothing here has threads or files; memory for the pixels is attached from outside.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import mod, sub
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ome_writers._layout import ArrayGeometry
from ome_writers._router import Router
from ome_writers.abc import BlockSink, FrameSink

from ._pool import Buffer

Index = tuple[int, ...]


class Parcel:
    """A box of frames of one array, some of them acquired, some skipped, some still to come.

    Parameters
    ----------
    array : int
        Number of the array.
    origin : tuple of int
        Index of its first frame.
    extent : tuple of int
        Frames along each index axis.
    """

    __slots__ = ("array", "buffer", "extent", "origin", "pixels", "remaining", "stored")

    def __init__(self, array: int, origin: Index, extent: Index) -> None:
        self.array = array
        self.origin = origin
        self.extent = extent
        self.remaining = math.prod(extent)
        self.stored: npt.NDArray[np.bool_] = np.zeros(extent, np.bool_)
        self.buffer: Buffer | None = None
        self.pixels: npt.NDArray[Any] | None = None

    def attach(self, buffer: Buffer, geometry: ArrayGeometry) -> None:
        """Use a buffer for the pixels."""
        size = math.prod(self.extent) * geometry.frame_bytes
        self.buffer = buffer
        self.pixels = buffer[:size].view(geometry.dtype).reshape(self.extent + geometry.frame_shape)

    def detach(self) -> Buffer | None:
        """Give the buffer up."""
        buffer, self.buffer, self.pixels = self.buffer, None, None
        return buffer

    def stored_slots(self) -> Iterator[Index]:
        """Yield the slots of the frames that are held, relative to the origin."""
        return (tuple(map(int, slot)) for slot in np.argwhere(self.stored))


class Assembly(Protocol):
    """Decides which parcel a frame belongs to and when a parcel goes to the sink."""

    in_order: bool
    """Whether a parcel makes no sense once an earlier one could not be written."""

    def place(self, frame: int) -> tuple[Parcel, Index]:
        """Return the parcel of the next frame, by its number, and its slot in it; changes nothing that counts."""
        ...

    def mark(self, parcel: Parcel, slot: Index, *, stored: bool) -> Iterable[Parcel]:
        """Count the frame in a slot as acquired or skipped; return the parcels that are now ready to be written."""
        ...

    def rest(self) -> Iterable[Parcel]:
        """Give up all parcels that are not ready."""
        ...

    def write(self, parcel: Parcel) -> None:
        """Hand a parcel to the sink."""
        ...

    def frame_numbers(self, parcel: Parcel) -> list[int]:
        """Return the numbers of the frames that a parcel holds, ascending."""
        ...

    def reach(self, parcel: Parcel, axis: int) -> int:
        """Return the extent that an array has along a storage axis with the frames of a parcel in it."""
        ...


class BlockAssembly:
    """Gathers the frames of aligned blocks, in whatever order they come.

    Parameters
    ----------
    sink : BlockSink
        Where blocks go.
    geometry : ArrayGeometry
        Of every array.
    router : Router
        Where frames belong.
    extent : tuple of int
        Frames of a whole block along each index axis.
    """

    in_order = False

    def __init__(self, sink: BlockSink, geometry: ArrayGeometry, router: Router, extent: Index) -> None:
        self._sink = sink
        self._router = router
        self._extent = extent
        self._shape = geometry.shape[:-2]
        self._unbounded_axis = geometry.unbounded_axis
        self._chunks = tuple(min(c, e) for c, e in zip(geometry.chunks[:-2], extent, strict=True))
        self._open: dict[tuple[int, Index], Parcel] = {}

    def place(self, frame: int) -> tuple[Parcel, Index]:
        """Return the block of a frame, opened when this is its first, and the slot in it."""
        array, index = self._router.locate(frame)
        slot = tuple(map(mod, index, self._extent))
        origin = tuple(map(sub, index, slot))
        parcel = self._open.get((array, origin))
        if parcel is None:
            extent = tuple(
                e if n is None else min(e, n - o) for e, n, o in zip(self._extent, self._shape, origin, strict=True)
            )
            parcel = self._open[array, origin] = Parcel(array, origin, extent)
        return parcel, slot

    def mark(self, parcel: Parcel, slot: Index, *, stored: bool) -> Iterable[Parcel]:
        """Count a frame; its block is ready when all of its frames were acquired or skipped."""
        parcel.stored[slot] = stored
        parcel.remaining -= 1
        if parcel.remaining:
            return ()
        del self._open[parcel.array, parcel.origin]
        return (parcel,)

    def rest(self) -> list[Parcel]:
        """Give up all blocks that lack frames."""
        parcels = list(self._open.values())
        self._open.clear()
        return parcels

    def write(self, parcel: Parcel) -> None:
        """Hand a block to the sink, its missing frames filled with 0, cut to what an unbounded axis has."""
        pixels, stored = parcel.pixels, parcel.stored
        if pixels is None or not stored.any():
            return
        if stored.all():
            self._sink.write_block(parcel.array, parcel.origin, pixels, None)
            return
        pixels[~stored] = 0
        if (axis := self._unbounded_axis) is not None:
            others = tuple(i for i in range(stored.ndim) if i != axis)
            steps = 1 + int(np.flatnonzero(stored.any(axis=others))[-1])
            cut = (slice(None),) * axis + (slice(steps),)
            pixels, stored = pixels[cut], stored[cut]
        chunks = self._any_per_chunk(stored)
        self._sink.write_block(parcel.array, parcel.origin, pixels, None if chunks.all() else chunks)

    def _any_per_chunk(self, stored: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        for axis, chunk in enumerate(self._chunks):
            stored = np.logical_or.reduceat(stored, range(0, stored.shape[axis], chunk), axis=axis)
        return stored

    def frame_numbers(self, parcel: Parcel) -> list[int]:
        """Return the numbers of the frames that a block holds, ascending."""
        return sorted(
            self._router.number(parcel.array, [o + s for o, s in zip(parcel.origin, slot, strict=True)])
            for slot in parcel.stored_slots()
        )

    def reach(self, parcel: Parcel, axis: int) -> int:
        """Return the extent that an array has along a storage axis with the frames of a block in it."""
        return parcel.origin[axis] + parcel.extent[axis]


class BatchAssembly:
    """Gathers frames that follow each other in one array, so that small ones do not cost a call each.

    The index axis of its parcels is the frame number.

    Parameters
    ----------
    sink : FrameSink
        Where batches go.
    router : Router
        Where frames belong.
    size : int
        The most frames in a batch.
    """

    in_order = True

    def __init__(self, sink: FrameSink, router: Router, size: int) -> None:
        self._sink = sink
        self._router = router
        self._size = size
        self._batch: Parcel | None = None
        self._next: Parcel | None = None  # placed, but no frame of it is counted yet

    def place(self, frame: int) -> tuple[Parcel, Index]:
        """Return the batch that the frame continues, or a new one, and the slot in it."""
        array, _ = self._router.locate(frame)
        batch = self._batch
        if batch is None or batch.array != array:
            if self._next is None or self._next.origin != (frame,):
                self._next = Parcel(array, (frame,), (self._size,))
            return self._next, (0,)
        return batch, (frame - batch.origin[0],)

    def mark(self, parcel: Parcel, slot: Index, *, stored: bool) -> Iterable[Parcel]:
        """Count a frame; a batch is ready when it is full, or when a frame begins another one."""
        parcel.stored[slot] = stored
        parcel.remaining -= 1
        before = self._batch
        if parcel is not before:
            self._batch, self._next = parcel, None
        ready = [] if before is None or parcel is before else [before]
        if not parcel.remaining:
            self._batch = None
            ready.append(parcel)
        return ready

    def rest(self) -> list[Parcel]:
        """Give up the batch that is not full."""
        parcels = [parcel for parcel in (self._batch, self._next) if parcel is not None]
        self._batch = self._next = None
        return parcels

    def write(self, parcel: Parcel) -> None:
        """Hand the frames of a batch to the sink, and leave out those that were skipped."""
        count = parcel.extent[0] - parcel.remaining
        for is_stored, run in groupby(range(count), key=lambda slot: bool(parcel.stored[slot])):
            slots = list(run)
            if is_stored and parcel.pixels is not None:
                self._sink.write_frames(parcel.array, parcel.pixels[slots[0] : slots[-1] + 1])
            else:
                self._sink.skip_frames(parcel.array, len(slots))

    def frame_numbers(self, parcel: Parcel) -> list[int]:
        """Return the numbers of the frames that a batch holds, ascending."""
        return [parcel.origin[0] + slot for (slot,) in parcel.stored_slots()]

    def reach(self, parcel: Parcel, axis: int) -> int:
        """Return the extent that an array has along a storage axis with the frames of a batch in it."""
        last = parcel.origin[0] + parcel.extent[0] - parcel.remaining - 1
        return self._router.locate(last)[1][axis] + 1
