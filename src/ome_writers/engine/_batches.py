"""How frames gather into batches, for sinks that take frames in acquisition order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby

import numpy as np
import numpy.typing as npt

from ome_writers._layout import ArrayGeometry
from ome_writers._router import Router
from ome_writers.abc import FrameSink

from ._forms import FrameMajor
from ._parcels import Index, Parcel
from ._pool import Buffer


class BatchAssembly:
    """Gathers frames that follow each other in one array, so that small ones do not cost a call each.

    The index axis of its parcels is the frame number.

    Parameters
    ----------
    sink : FrameSink
        Where batches go.
    geometry : ArrayGeometry
        Of every array.
    router : Router
        Where frames belong.
    size : int
        The most frames in a batch.
    """

    in_order = True
    group = 1

    def __init__(self, sink: FrameSink, geometry: ArrayGeometry, router: Router, size: int) -> None:
        self._sink = sink
        self._form = FrameMajor(geometry)
        self._router = router
        self._size = size
        self._batch: Parcel | None = None
        self._next: Parcel | None = None  # placed, but no frame of it is counted yet

    def resume(self, frame: int, fates: npt.NDArray[np.uint8], acquire: Callable[[], Buffer]) -> None:
        """Refuse to go on: frames must be written from the first one."""
        raise NotImplementedError

    def place(self, frame: int) -> tuple[Parcel, Index]:
        """Return the batch that the frame continues, or a new one, and the slot in it."""
        array, _ = self._router.locate(frame)
        batch = self._batch
        if batch is None or batch.array != array:
            if self._next is None or self._next.origin != (frame,):
                self._next = Parcel(array, (frame,), (self._size,), self._form)
            return self._next, (0,)
        return batch, (frame - batch.origin[0],)

    def mark(self, parcel: Parcel, slot: Index, *, stored: bool) -> Sequence[Parcel]:
        """Count a frame; a batch is ready when it is full, or when a frame begins another one."""
        parcel.count(slot, stored=stored)
        before = self._batch
        if parcel is not before:
            self._batch, self._next = parcel, None
        ready = [] if before is None or parcel is before else [before]
        if not parcel.remaining:
            self._batch = None
            ready.append(parcel)
        return ready

    def is_open(self, parcel: Parcel) -> bool:
        """Tell whether a batch is still gathering frames."""
        return parcel is self._batch or parcel is self._next

    def rest(self) -> list[Parcel]:
        """Give up the batch that is not full."""
        parcels = [parcel for parcel in (self._batch, self._next) if parcel is not None]
        self._batch = self._next = None
        return parcels

    def tasks(self, parcel: Parcel) -> Sequence[Callable[[], None]]:
        """Return what hands a batch to the sink."""
        return (lambda: self._write(parcel),)

    def shard_of(self, parcel: Parcel) -> None:
        """Return None: batches go to the sink in their order."""
        del parcel

    def _write(self, parcel: Parcel) -> None:
        """Hand the frames of a batch to the sink, and leave out those that were skipped."""
        count = parcel.extent[0] - parcel.remaining
        for is_stored, run in groupby(range(count), key=lambda slot: bool(parcel.stored[slot])):
            slots = list(run)
            if is_stored and parcel.pixels is not None:
                self._sink.write_frames(parcel.array, parcel.pixels[slots[0] : slots[-1] + 1])
            else:
                self._sink.skip_frames(parcel.array, len(slots))

    def grouped(self, parcels: Sequence[Parcel]) -> Iterator[tuple[Sequence[Parcel], Callable[[], None]]]:
        """Yield each batch, and what hands it over."""
        return (((parcel,), task) for parcel in parcels for task in self.tasks(parcel))

    def frame_numbers(self, parcel: Parcel) -> list[int]:
        """Return the numbers of the frames that a batch holds, ascending."""
        return [parcel.origin[0] + slot for (slot,) in parcel.stored_slots()]

    def frames_of(self, layers: Iterable[tuple[int, Index]], frames: int) -> list[int]:
        """Return nothing: batches have no layers."""
        del layers, frames
        return []

    def reach(self, parcel: Parcel, axis: int) -> int:
        """Return the extent that an array has along a storage axis with the frames of a batch in it."""
        last = parcel.origin[0] + parcel.extent[0] - parcel.remaining - 1
        return self._router.locate(last)[1][axis] + 1
