"""How frames gather into boxes: layers of chunks, or blocks of whole shards."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from functools import partial
from itertools import product
from operator import add, floordiv, mod, sub
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ome_writers._layout import ArrayGeometry
from ome_writers._router import Router
from ome_writers.abc import BlockSink, LayerSink

from ._fates import APPENDED
from ._forms import ChunkMajor, Form, FrameMajor
from ._parcels import Index, Parcel
from ._pool import Buffer

_GROUP_BYTES: Final = 1 << 20
"""Layers are handed over together up to this size."""


_RUN_FRAMES: Final = 256
"""For so many frames at most it is worked out at once where they go: in less time than a caller would notice."""


class _BoxAssembly:
    """Gathers the frames of aligned boxes, in whatever order they come.

    Parameters
    ----------
    geometry : ArrayGeometry
        Of every array.
    router : Router
        Where frames belong.
    extent : tuple of int
        Frames of a whole box along each index axis.
    form : Form
        How the frames of a box lie in memory.
    """

    in_order = False
    group = 1

    def __init__(self, geometry: ArrayGeometry, router: Router, extent: Index, form: Form) -> None:
        self._router = router
        self._extent = extent
        self._shape = geometry.shape[:-2]
        self._form = form
        self._open: dict[tuple[int, Index], Parcel] = {}
        fastest = router.fastest
        self._run_axis = None if fastest is None or extent[fastest] == 1 else fastest
        self._run: dict[int, tuple[Parcel, Index]] = {}  # places of frames that follow each other along this axis

    def place(self, frame: int) -> tuple[Parcel, Index]:
        """Return the box of a frame, opened when this is its first, and the slot in it."""
        if (known := self._run.get(frame)) is not None:
            return known
        array, index = self._router.locate(frame)
        slot = tuple(map(mod, index, self._extent))
        origin = tuple(map(sub, index, slot))
        parcel = self._open.get((array, origin))
        if parcel is None:
            parcel = self._open[array, origin] = Parcel(array, origin, self._box_at(origin), self._form)
        if (axis := self._run_axis) is not None:
            steps = range(slot[axis], min(parcel.extent[axis], slot[axis] + _RUN_FRAMES))
            slots = [(*slot[:axis], step, *slot[axis + 1 :]) for step in steps]
            self._run = {number: (parcel, slot) for number, slot in enumerate(slots, frame)}
        return parcel, slot

    def open_boxes(self, frame: int) -> list[tuple[int, Index]]:
        """Return (array, origin) of the boxes that hold both frames before this one and frames from it on."""
        boxes: dict[tuple[int, Index], None] = {}
        longest = self._router.number(0, [e - 1 for e in self._extent])  # from the first frame of a box to its last
        for number in range(frame - 1, max(-1, frame - 1 - longest), -1):
            array, index = self._router.locate(number)
            origin = tuple(i - i % e for i, e in zip(index, self._extent, strict=True))
            if self.last_of(array, origin) >= frame:
                boxes[array, origin] = None
        return list(boxes)

    def last_of(self, array: int, origin: Index) -> int:
        """Return the number of the last frame of a box."""
        return self._router.number(array, [o + e - 1 for o, e in zip(origin, self._box_at(origin), strict=True)])

    def resume(self, frame: int, fates: npt.NDArray[np.uint8], acquire: Callable[[], Buffer]) -> None:
        """Go on at a frame: fill the boxes that earlier frames have begun with what stands in the dataset.

        Parameters
        ----------
        frame : int
            The next frame.
        fates : ndarray of uint8
            What became of earlier frames.
        acquire : callable
            Gives memory.
        """
        for array, origin in self.open_boxes(frame):
            parcel = self._open[array, origin] = Parcel(array, origin, self._box_at(origin), self._form)
            for slot in np.ndindex(*parcel.extent):
                number = self._router.number(array, tuple(map(add, origin, slot)))
                if number < frame:
                    parcel.count(slot, stored=bool(fates[number] == APPENDED))
            parcel.earlier = parcel.held
            if parcel.earlier:
                parcel.buffer = acquire()
                parcel.pixels = self._form.view(parcel.buffer, parcel.extent)
                self._read(parcel)

    def _read(self, parcel: Parcel) -> None:
        """Fill a box with the pixels that stand in the dataset."""
        raise NotImplementedError

    def _box_at(self, origin: Index) -> Index:
        """Return the frames along each index axis of the box at an origin."""
        return tuple(
            e if n is None else min(e, n - o) for e, n, o in zip(self._extent, self._shape, origin, strict=True)
        )

    def mark(self, parcel: Parcel, slot: Index, *, stored: bool) -> Sequence[Parcel]:
        """Count a frame; its box is ready when all of its frames were acquired or skipped."""
        parcel.count(slot, stored=stored)
        if parcel.remaining:
            return ()
        del self._open[parcel.array, parcel.origin]
        return (parcel,)

    def is_open(self, parcel: Parcel) -> bool:
        """Tell whether a box is still gathering frames."""
        return self._open.get((parcel.array, parcel.origin)) is parcel

    def rest(self) -> list[Parcel]:
        """Give up all boxes that lack frames."""
        parcels = list(self._open.values())
        self._open.clear()
        self._run = {}
        return parcels

    def grouped(self, parcels: Sequence[Parcel]) -> Iterator[tuple[Sequence[Parcel], Callable[[], None]]]:
        """Yield each box, and what hands it over."""
        return (((parcel,), task) for parcel in parcels for task in self.tasks(parcel))

    def tasks(self, parcel: Parcel) -> Sequence[Callable[[], None]]:
        """Return what hands a box to the sink."""
        raise NotImplementedError

    def shard_of(self, parcel: Parcel) -> Hashable:
        """Return None: a box has its files for itself."""
        del parcel
        return None

    def frame_numbers(self, parcel: Parcel) -> list[int]:
        """Return the numbers of the frames that a box holds, ascending."""
        return sorted(
            self._router.number(parcel.array, [o + s for o, s in zip(parcel.origin, slot, strict=True)])
            for slot in parcel.stored_slots()
        )

    def frames_of(self, layers: Iterable[tuple[int, Index]], frames: int) -> list[int]:
        """Return the numbers of the frames in layers (boxes), of the first ``frames`` ones."""
        numbers = []
        for array, cell in layers:
            steps = [
                range(c * e, c * e + e if n is None else min(c * e + e, n))
                for c, e, n in zip(cell, self._extent, self._shape, strict=True)
            ]
            numbers += [n for n in (self._router.number(array, index) for index in product(*steps)) if n < frames]
        return numbers

    def reach(self, parcel: Parcel, axis: int) -> int:
        """Return the extent that an array has along a storage axis with the frames of a box in it."""
        return parcel.origin[axis] + parcel.extent[axis]


class BlockAssembly(_BoxAssembly):
    """Gathers the frames of blocks of whole shards.

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

    def __init__(self, sink: BlockSink, geometry: ArrayGeometry, router: Router, extent: Index) -> None:
        super().__init__(geometry, router, extent, FrameMajor(geometry))
        self._sink = sink
        self._unbounded_axis = geometry.unbounded_axis
        self._chunks = tuple(min(c, e) for c, e in zip(geometry.chunks[:-2], extent, strict=True))

    def tasks(self, parcel: Parcel) -> Sequence[Callable[[], None]]:
        """Return what hands a block to the sink: nothing when all of it was skipped."""
        return () if parcel.pixels is None else (lambda: self._write(parcel),)

    def _write(self, parcel: Parcel) -> None:
        """Hand a block to the sink, its missing frames filled with 0, cut to what an unbounded axis has."""
        pixels, stored = parcel.pixels, parcel.stored
        if pixels is None or not parcel.held:
            return
        if parcel.held == stored.size:
            self._sink.write_block(parcel.array, parcel.origin, pixels, None)
            return
        parcel.form.clear(pixels, ~stored)
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


class LayerAssembly(_BoxAssembly):
    """Gathers the frames of layers of chunks, cut into chunks.

    A large layer is handed over in parts, rows of chunks, so that workers share it: the layer that is complete first
    is written first, and its memory is free for the next one. Small layers are handed over together when workers are
    behind.

    Parameters
    ----------
    sink : LayerSink
        Where layers go.
    geometry : ArrayGeometry
        Of every array.
    router : Router
        Where frames belong.
    """

    def __init__(self, sink: LayerSink, geometry: ArrayGeometry, router: Router) -> None:
        form = ChunkMajor(geometry)
        super().__init__(geometry, router, geometry.index_extent("chunk"), form)
        self._sink = sink
        self._parts = form.parts
        self._sharded = geometry.shards is not None
        rows, columns = geometry.layer_shape[:2]
        self._per_shard: Index | None = None  # layers in a shard along each index axis, if it holds whole layers
        if geometry.shards is not None:
            per_shard = tuple(map(floordiv, geometry.shards, geometry.chunks))
            if rows <= per_shard[-2] and columns <= per_shard[-1]:
                self._per_shard = per_shard[:-2]
                if sink.takes_groups and len(self._parts) == 1:
                    self.group = max(1, _GROUP_BYTES // form.nbytes(()))

    def tasks(self, parcel: Parcel) -> Sequence[Callable[[], None]]:
        """Return what hands a layer to the sink, part by part, or tells that there is nothing in it."""
        cell, array, pixels = self._cell(parcel), parcel.array, self._pixels(parcel)
        if pixels is None:
            if not self._sharded and parcel.buffer is None:
                return ()  # nothing waits for it
            return (partial(self._sink.skip_layer, array, cell),)
        return [partial(self._sink.write_chunks, array, cell, rows.start, pixels[rows]) for rows in self._parts]

    def shard_of(self, parcel: Parcel) -> tuple[int, Index] | None:
        """Return array and place of the shard that holds a whole layer; None for layers that workers share."""
        if self._per_shard is None or len(self._parts) > 1:
            return None
        return parcel.array, tuple(map(floordiv, self._cell(parcel), self._per_shard))

    def grouped(self, parcels: Sequence[Parcel]) -> Iterator[tuple[Sequence[Parcel], Callable[[], None]]]:
        """Yield layers of one shard that go to the sink together, and what hands them over."""
        by_shard: dict[tuple[int, Index] | None, list[Parcel]] = {}
        for parcel in parcels:
            cell = self._cell(parcel)
            if self._pixels(parcel) is None:
                yield (parcel,), partial(self._sink.skip_layer, parcel.array, cell)
            else:
                by_shard.setdefault(self.shard_of(parcel), []).append(parcel)
        for members in by_shard.values():
            array = members[0].array
            layers = [parcel.pixels for parcel in members if parcel.pixels is not None]
            yield members, partial(self._sink.write_layers, array, list(map(self._cell, members)), layers)

    def _read(self, parcel: Parcel) -> None:
        """Fill a layer with the chunks that stand in the dataset."""
        chunks = self._sink.read_layer(parcel.array, self._cell(parcel))
        if chunks is not None and parcel.pixels is not None:
            parcel.pixels[...] = chunks

    def _cell(self, parcel: Parcel) -> Index:
        return tuple(map(floordiv, parcel.origin, self._extent))

    def _pixels(self, parcel: Parcel) -> npt.NDArray[Any] | None:
        """Return the pixels of a layer, its missing frames filled with 0; None when no frame was acquired."""
        pixels = parcel.pixels
        if pixels is None or not parcel.held:
            return None
        if parcel.held < math.prod(pixels.shape[2:-2]):
            parcel.form.clear(pixels, ~parcel.stored)
        return pixels

    def reach(self, parcel: Parcel, axis: int) -> int:
        """Return the extent that others can read: in shards, frames can be read when their shard is complete."""
        readable = self._sink.readable_extent(parcel.array)
        return super().reach(parcel, axis) if readable is None else readable


def first_to_rewrite(geometry: ArrayGeometry, router: Router, frame: int) -> int:
    """Return the last frame, this one or one before, from which on whole shards can be written.

    Parameters
    ----------
    geometry : ArrayGeometry
        Of every array.
    router : Router
        Where frames belong.
    frame : int
        The first frame that is not on disk.
    """
    shards = _BoxAssembly(geometry, router, geometry.index_extent("shard"), FrameMajor(geometry))
    while boxes := shards.open_boxes(frame):
        frame = min(router.number(array, origin) for array, origin in boxes)
    return frame


def end_of_begun_layers(geometry: ArrayGeometry, router: Router, frame: int) -> int:
    """Return the number after the last frame of all layers of chunks that frames before this one belong to.

    Parameters
    ----------
    geometry : ArrayGeometry
        Of every array.
    router : Router
        Where frames belong.
    frame : int
        The number after that of the last frame that was taken.
    """
    layers = _BoxAssembly(geometry, router, geometry.index_extent("chunk"), FrameMajor(geometry))
    return max([frame, *(layers.last_of(array, origin) + 1 for array, origin in layers.open_boxes(frame))])
