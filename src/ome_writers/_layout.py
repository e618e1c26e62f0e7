"""Where everything goes, as plain integers: arrays, chunk and shard grids, blocks and the memory that they need."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from .settings import (
    AcquisitionSettings,
    Dimension,
    Position,
    gathering_place,
    image_labels,
    image_path,
    open_blocks,
)


@dataclass(frozen=True, slots=True)
class ArrayGeometry:
    """Shape and grid of an array, axes in storage order (the two of the frame last).

    Attributes
    ----------
    dimension_names : tuple of str
        Name of each axis.
    shape : tuple of int or None
        Extent of each axis; None for the unbounded one.
    chunks : tuple of int
        Extent of a chunk, never larger than a bounded axis.
    shards : tuple of int or None
        Extent of a shard in elements, a multiple of ``chunks``; None when the array is not sharded.
    dtype : str
        Name of the pixel type.
    """

    dimension_names: tuple[str, ...]
    shape: tuple[int | None, ...]
    chunks: tuple[int, ...]
    shards: tuple[int, ...] | None
    dtype: str

    @property
    def frame_shape(self) -> tuple[int, int]:
        """Height and width of a frame."""
        height, width = self.shape[-2:]
        return height or 0, width or 0

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame."""
        return math.prod(self.frame_shape) * np.dtype(self.dtype).itemsize

    @property
    def chunk_bytes(self) -> int:
        """Bytes of one chunk before compression."""
        return math.prod(self.chunks) * np.dtype(self.dtype).itemsize

    @property
    def layer_shape(self) -> tuple[int, ...]:
        """Shape of one layer of chunks: rows and columns of chunks in the frame, then the shape of a chunk."""
        (height, width), (tall, wide) = self.frame_shape, self.chunks[-2:]
        return (-(-height // tall), -(-width // wide), *self.chunks)

    @property
    def unbounded_axis(self) -> int | None:
        """Place of the unbounded axis in storage order; None when all are bounded."""
        return self.shape.index(None) if None in self.shape else None

    def index_extent(self, step: Literal["chunk", "shard"]) -> tuple[int, ...]:
        """Return the extent of one chunk (or shard) along the index axes, no larger than a bounded axis."""
        grid = self.chunks if step == "chunk" or self.shards is None else self.shards
        return tuple(
            g if n is None else min(g, n) for g, n in zip(grid[:-2], self.shape[:-2], strict=True)
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Image:
    """One image of the dataset.

    Attributes
    ----------
    path : str
        Path of its group below the root; ``""`` when the image is the root itself.
    position : Position
        Its stage position.
    steps : tuple of int
        Its step along each split dimension, in acquisition order.
    label : str
        Text that tells its steps, such as ``"angle-0"``; empty when nothing is split.
    """

    path: str
    position: Position
    steps: tuple[int, ...]
    label: str

    @property
    def array_path(self) -> str:
        """Path of the image's full-resolution array below the root."""
        return f"{self.path}/0" if self.path else "0"


@dataclass(frozen=True, slots=True)
class AcquisitionAxis:
    """One index dimension, as the router sees it.

    Attributes
    ----------
    name : str
        Name of the dimension.
    count : int or None
        Number of steps; None when unbounded.
    storage_axis : int or None
        Its place among the arrays' axes in storage order; None for positions and split dimensions.
    array_stride : int
        By how much one step changes the array's number; 0 for stored axes.
    """

    name: str
    count: int | None
    storage_axis: int | None
    array_stride: int


@dataclass(frozen=True, slots=True)
class Layout:
    """Everything that follows from the settings before a file is touched.

    Attributes
    ----------
    kind : str
        ``"image"`` (the root is the image), ``"collection"`` (bioformats2raw layout) or ``"plate"``.
    images : tuple of Image
        All images; positions in acquisition order, those of one position together.
    geometry : ArrayGeometry
        Of the array of every image.
    axes : tuple of AcquisitionAxis
        The index dimensions in acquisition order, slowest first.
    """

    kind: Literal["image", "collection", "plate"]
    images: tuple[Image, ...]
    geometry: ArrayGeometry
    axes: tuple[AcquisitionAxis, ...]

    def open_blocks(self, extent: Sequence[int]) -> int:
        """Return how many blocks are incomplete at once, at most, when frames arrive in acquisition order.

        A block is open from its first frame to its last, both included, so the result is 1 at least. It spans
        ``extent`` steps of the stored index axes, in storage order. The slowest axis along which a block has more
        than one step keeps open all blocks that differ along the faster axes; slower axes keep none.

        The result is exact for a bounded acquisition that is acquired as declared; for an unbounded one it is reached
        when the first step of the unbounded axis is complete, and never exceeded.

        Parameters
        ----------
        extent : sequence of int
            Steps of a block along each stored index axis.
        """
        return open_blocks(*self._counts_and_steps(extent))

    def explain_open_blocks(self, extent: Sequence[int]) -> str:
        """Return in words which dimension keeps :meth:`open_blocks` blocks open."""
        counts, steps = self._counts_and_steps(extent)
        place = gathering_place(counts, steps)
        if place is None:
            return "one block is open at a time"
        return (
            f"blocks of {min(steps[place], counts[place] or steps[place])} steps of dimension "
            f"{self.axes[place].name!r} stay open until all these steps "
            f"are acquired, {self.open_blocks(extent)} at once"
        )

    def block_count(self, extent: Sequence[int]) -> int | None:
        """Return the number of blocks of the whole acquisition; None when it is unbounded.

        Parameters
        ----------
        extent : sequence of int
            Steps of a block along each stored index axis.
        """
        counts, steps = self._counts_and_steps(extent)
        if None in counts:
            return None
        return math.prod(-(-(count or 1) // n) for count, n in zip(counts, steps, strict=True))

    def _counts_and_steps(self, extent: Sequence[int]) -> tuple[list[int | None], list[int]]:
        """Return the steps of each dimension and those of a block along it, in acquisition order."""
        steps = [1 if axis.storage_axis is None else extent[axis.storage_axis] for axis in self.axes]
        return [axis.count for axis in self.axes], steps


def plan_layout(settings: AcquisitionSettings) -> Layout:
    """Return the layout of the dataset that the settings declare.

    Raises
    ------
    SettingsError
        If the settings have no dimensions, or no dtype to plan chunks for.
    """
    dimensions = settings.dimensions
    stored = settings.storage_index_dimensions
    labels = image_labels(dimensions)
    positions = settings.positions
    plate = settings.plate is not None
    single = not plate and len(labels) == 1
    images = tuple(
        Image("" if single else image_path(p, label, plate=plate, positions=len(positions)), p, steps, label)
        for p, steps, label in labels
    )
    strides = _array_strides(settings)
    axes = tuple(
        AcquisitionAxis(
            d.name,
            d.count,
            next((i for i, s in enumerate(stored) if s.name == d.name), None),
            strides.get(d.name, 0),
        )
        for d in dimensions[:-2]
    )
    kind: Literal["image", "collection", "plate"] = "plate" if plate else "image" if single else "collection"
    planned = {d.name: d for d in settings.planned_dimensions}
    geometry = _geometry([planned[d.name] for d in settings.array_storage_dimensions], settings.dtype)
    return Layout(kind, images, geometry, axes)


def _array_strides(settings: AcquisitionSettings) -> dict[str, int]:
    """Return by how much one step of the position dimension and of each split dimension changes the array's number."""
    strides, stride = {}, 1
    for dimension in reversed(settings.split_dimensions):
        strides[dimension.name] = stride
        stride *= dimension.count or 1
    if (place := settings.position_dimension_index) is not None:
        strides[settings.dimensions[place].name] = stride
    return strides


def _geometry(dimensions: Sequence[Dimension], dtype: str) -> ArrayGeometry:
    chunks, shards = [], []
    for i, d in enumerate(dimensions):
        is_frame = i >= len(dimensions) - 2
        chunk = d.chunk_size or (d.count if is_frame and d.count else 1)
        per_shard = d.shard_size_chunks or 1
        if d.count is not None:  # a chunk or shard that is larger than its axis would only hold padding
            chunk = min(chunk, d.count)
            per_shard = min(per_shard, -(-d.count // chunk))
        chunks.append(chunk)
        shards.append(chunk * per_shard)
    sharded = any(d.shard_size_chunks is not None for d in dimensions)
    return ArrayGeometry(
        dimension_names=tuple(d.name for d in dimensions),
        shape=tuple(d.count for d in dimensions),
        chunks=tuple(chunks),
        shards=tuple(shards) if sharded else None,
        dtype=dtype,
    )
