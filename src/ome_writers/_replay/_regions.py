"""Boxes of whole shards that processes can write without knowing of each other."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt

from ome_writers._layout import ArrayGeometry, plan_layout
from ome_writers._router import Router
from ome_writers.recordings import Frame, Index, Recording
from ome_writers.settings import AcquisitionSettings, Dimension

REGION_BYTES: Final = 256 << 20
"""Regions have as many shards as make this size, one at least."""


@dataclass(frozen=True, slots=True)
class Region:
    """A box of whole shards (of whole chunks, in arrays without shards) of one array, the whole frame plane.

    Attributes
    ----------
    number : int
        Its number in the dataset.
    array : int
        Number of the array.
    origin : tuple of int
        Index of its first frame along the stored index axes, in storage order.
    extent : tuple of int
        Frames along each stored index axis; the last ones may lie beyond the array.
    """

    number: int
    array: int
    origin: Index
    extent: Index

    def frames(self, router: Router, shape: Sequence[int | None]) -> npt.NDArray[Any]:
        """Return the numbers, in acquisition order, of the frames of the array that lie in it.

        Parameters
        ----------
        router : Router
            Of the acquisition.
        shape : sequence of int
            Of the array, along its index axes.
        """
        steps = [
            np.arange(o, o + e if n is None else min(o + e, n))
            for o, e, n in zip(self.origin, self.extent, shape, strict=True)
        ]
        indices = np.array(np.meshgrid(*steps, indexing="ij")).reshape(len(steps), -1) if steps else np.empty((0, 1))
        arrays = np.full(indices.shape[1], self.array)
        numbers: npt.NDArray[Any] = router.number_many(arrays, list(indices))
        return numbers


def plan_regions(geometry: ArrayGeometry, arrays: int) -> Iterator[Region]:
    """Yield regions that cover all arrays, each shard in exactly one.

    Parameters
    ----------
    geometry : ArrayGeometry
        Of every array; bounded.
    arrays : int
        How many there are.
    """
    shape = [n or 1 for n in geometry.shape[:-2]]
    extent = list((geometry.shards or geometry.chunks)[:-2])
    nbytes = math.prod(extent) * geometry.frame_bytes
    for axis in reversed(range(len(extent))):  # the fastest axes first, so that a region is one piece of the array
        shards = -(-shape[axis] // extent[axis])
        together = max(1, min(shards, REGION_BYTES // nbytes))
        extent[axis] *= together
        nbytes *= together
        if together < shards:
            break
    grid = [range(0, n, e) for n, e in zip(shape, extent, strict=True)]
    boxes = product(range(arrays), *grid)
    for number, (array, *origin) in enumerate(boxes):
        yield Region(number, array, tuple(origin), tuple(extent))


class RegionRecording(Recording):
    """The frames of a recording that lie in a region, as a recording of their own.

    Parameters
    ----------
    recording : Recording
        The whole one.
    settings : AcquisitionSettings
        Of the whole dataset, as :func:`replay_settings` returns them.
    region : Region
        Which part.
    """

    kind: ClassVar[str] = "region"

    def __init__(self, recording: Recording, settings: AcquisitionSettings, region: Region) -> None:
        self._recording = recording
        self.name = recording.name
        self.dtype = recording.dtype
        self.decodes = recording.decodes
        stored = [d.name for d in settings.storage_index_dimensions]
        first = dict(zip(stored, region.origin, strict=True)) | _steps_of_array(settings, region.array)
        extent = dict(zip(stored, region.extent, strict=True))
        own = [d for d in settings.index_dimensions if d.name in extent]
        self.dimensions = (
            *(Dimension(name=d.name, type=d.type, count=extent[d.name]) for d in own),
            *recording.dimensions[-2:],
        )
        names = [d.name for d in recording.dimensions[:-2]]
        self._first = [first.get(name, 0) for name in names]
        self._places = [next((i for i, d in enumerate(own) if d.name == name), None) for name in names]
        self.present = self._present()

    def _present(self) -> npt.NDArray[np.bool_]:
        """Return which frames of the region lie in the recording, and are there."""
        steps = np.meshgrid(*map(np.arange, self.index_shape), indexing="ij", sparse=True)
        places = self._whole(steps)
        counts = self._recording.index_shape
        present = np.ones(self.index_shape, np.bool_)
        for place, count in zip(places, counts, strict=True):
            present &= place < count
        if self._recording.present is not None:
            inside = tuple(np.minimum(place, count - 1) for place, count in zip(places, counts, strict=True))
            present &= self._recording.present[inside]
        return present

    def read(self, index: Index, out: Frame) -> None:
        """Read a frame of the whole recording."""
        self._recording.read(self._whole(index), out)

    def _whole(self, index: Sequence[Any]) -> tuple[Any, ...]:
        """Return where frames of the region, given by their steps along each of its dimensions, are in the whole."""
        return tuple(
            first if place is None else first + index[place]
            for first, place in zip(self._first, self._places, strict=True)
        )


def _steps_of_array(settings: AcquisitionSettings, array: int) -> dict[str, int]:
    """Return the step along the position dimension and along each split dimension that an array stands for."""
    steps = {}
    for axis in plan_layout(settings).axes:
        if axis.storage_axis is None:
            steps[axis.name] = array // (axis.array_stride or 1) % (axis.count or 1)
    return steps


def region_settings(settings: AcquisitionSettings, region: Region, path: Path) -> AcquisitionSettings:
    """Return the settings of a dataset of one image that holds a region, in the same chunks and shards.

    Parameters
    ----------
    settings : AcquisitionSettings
        Of the whole dataset.
    region : Region
        Which part.
    path : Path
        Where the region is put together.
    """
    geometry = plan_layout(settings).geometry
    stored = [d.name for d in settings.storage_index_dimensions]
    extent = dict(zip(stored, region.extent, strict=True))
    grid = dict(
        zip(
            geometry.dimension_names, zip(geometry.chunks, geometry.shards or geometry.chunks, strict=True), strict=True
        )
    )

    def bare(dimension: Dimension, count: int | None) -> Dimension:
        chunk, shard = grid[dimension.name]
        sharded = None if geometry.shards is None else shard // chunk
        return Dimension(
            name=dimension.name, type=dimension.type, count=count, chunk_size=chunk, shard_size_chunks=sharded
        )

    index = [bare(d, extent[d.name]) for d in settings.index_dimensions if d.name in extent]
    frame = [bare(d, d.count) for d in settings.frame_dimensions]
    return AcquisitionSettings(
        root_path=str(path),
        dimensions=(*index, *frame),
        dtype=settings.dtype,
        compression=settings.codec,
        storage_order=stored,
        buffer=settings.buffer,
        durability=settings.durability,
        format="direct",
    )
