"""Sizes of chunks and shards, planned for an acquisition."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Final

from pydantic import Field, PositiveInt

from ._blocks import open_blocks
from ._dimension import Dimension
from ._model import Settings

_SMALLEST_SIDE: Final = 128
"""Chunks are not planned smaller than this along a frame, in pixels, however many steps of others they hold."""

_UNEVEN: Final = 0.5
"""What a chunk that does not divide the frame evenly counts for, beside the logarithm of its distance to the target."""

_GATHERED: Final = ("space", "time")
"""Types of dimensions that chunks are made longer along: whoever looks at one channel should not read them all."""

_MOST_CHUNKS: Final = 1 << 14
"""Chunks in a shard: its index has 16 bytes for each, and readers fetch it whole."""

_BUDGET_SHARE: Final = 4
"""Open blocks may take this part of the budget. Blocks that wait, and those in the hands of the library, need more."""

_FEWEST_BLOCKS: Final = 2
"""Open blocks that are counted at least, so that two threads can write while the next block is filled."""

_MOST_OPEN_FILES: Final = 128
"""Files that a backend that streams shards may hold open; macOS allows a process 256 unless told otherwise."""


class Chunking(Settings):
    """Targets for the sizes of chunks and shards that the user has not given.

    Attributes
    ----------
    chunk_bytes : int
        Uncompressed bytes of a chunk, the least that a reader can fetch. The plan comes within a factor of 3 where the
        acquisition is large enough. The default, 512 KiB, is a tile of 512 x 512 pixels of 16 bits; at most 512 MiB.
    shard_bytes : int
        The most uncompressed bytes of a shard, which is one file, unless a single frame is larger. With less than two
        chunks the arrays are not sharded. Shards are smaller where ``settings.buffer.max_bytes`` asks for it.
    """

    chunk_bytes: PositiveInt = Field(default=1 << 19, le=1 << 29)  # blosc takes no chunk of 2 GiB
    shard_bytes: PositiveInt = Field(default=1 << 28)


@dataclass(frozen=True, slots=True)
class MemoryLimit:
    """What the plan must keep to.

    Attributes
    ----------
    max_bytes : int
        The whole budget.
    whole_shards : bool
        Whether shards are gathered in memory; else chunks are, and each open shard is an open file.
    """

    max_bytes: int
    whole_shards: bool


def plan_chunks(
    dimensions: Sequence[Dimension],
    stored: Collection[str],
    itemsize: int,
    targets: Chunking,
    limit: MemoryLimit,
) -> tuple[Dimension, ...]:
    """Return the dimensions with all sizes of chunks and shards filled in; those that are given stay.

    Without shards ``shard_size_chunks`` stays None. Dimensions that the arrays have no axis for stay as they are.

    Parameters
    ----------
    dimensions : sequence of Dimension
        All dimensions in acquisition order.
    stored : collection of str
        Names of the index dimensions that the arrays have an axis for.
    itemsize : int
        Bytes of a pixel.
    targets : Chunking
        What to aim at.
    limit : MemoryLimit
        What to keep to.
    """
    grid = _Grid(dimensions, stored, itemsize, limit)
    _cut_frames(grid, targets.chunk_bytes)
    _gather_frames(grid, targets.chunk_bytes)
    sharded = _gather_chunks(grid, targets.shard_bytes)
    return tuple(
        d.model_copy(
            update={
                "chunk_size": d.chunk_size or grid.chunks[i],
                "shard_size_chunks": d.shard_size_chunks or (grid.per_shard[i] if sharded else None),
            }
        )
        if i in grid.index or i in grid.frame
        else d
        for i, d in enumerate(dimensions)
    )


@dataclass(slots=True)
class _Grid:
    """A grid that is being planned; places are those of the dimensions in acquisition order.

    It begins with the sizes that are given, and with 1 for the others.
    """

    dimensions: Sequence[Dimension]
    stored: Collection[str]
    itemsize: int
    limit: MemoryLimit
    chunks: list[int] = field(init=False)
    per_shard: list[int] = field(init=False)

    def __post_init__(self) -> None:
        dims = self.dimensions
        self.chunks = [min(d.chunk_size or 1, d.count or d.chunk_size or 1) for d in dims]
        self.per_shard = [1] * len(dims)
        for i, d in enumerate(dims):
            self.per_shard[i] = min(d.shard_size_chunks or 1, self.chunks_along(i) or d.shard_size_chunks or 1)

    @property
    def frame(self) -> tuple[int, int]:
        """Places of the frame's two dimensions."""
        return len(self.dimensions) - 2, len(self.dimensions) - 1

    @property
    def index(self) -> list[int]:
        """Places of the index dimensions of the arrays, fastest first."""
        return [i for i in reversed(range(self.frame[0])) if self.dimensions[i].name in self.stored]

    @property
    def axes(self) -> list[int]:
        """Places of all dimensions of the arrays."""
        return [*self.index, *self.frame]

    @property
    def chunk_bytes(self) -> int:
        """Bytes of a chunk."""
        return self.itemsize * math.prod(self.chunks[i] for i in self.axes)

    @property
    def chunks_per_shard(self) -> int:
        """Chunks of a shard."""
        return math.prod(self.per_shard[i] for i in self.axes)

    def chunks_along(self, place: int) -> int | None:
        """Return the number of chunks along a dimension; None when it is unbounded."""
        count = self.dimensions[place].count
        return None if count is None else -(-count // self.chunks[place])

    def grow(self, sizes: list[int], place: int, length: int | None, most: int) -> None:
        """Enlarge a size that is 1 as far as it may be and memory allows, so that all parts are about the same.

        Parameters
        ----------
        sizes : list of int
            Of chunks or of shards; changed in place.
        place : int
            Which of them.
        length : int, optional
            What the size is a part of; None when that has no end.
        most : int
            The largest size.
        """
        most = most if length is None else min(most, length)

        def too_much(size: int) -> bool:
            sizes[place] = size
            return not self._fits()

        size = 1 + bisect_left(range(2, most + 1), True, key=too_much)
        sizes[place] = size if length is None else -(-length // -(-length // size))

    def _fits(self) -> bool:
        shard_steps = self._steps([chunk * n for chunk, n in zip(self.chunks, self.per_shard, strict=True)])
        counts = [d.count for d in self.dimensions[:-2]]
        steps = shard_steps
        if not self.limit.whole_shards:
            if open_blocks(counts, shard_steps) > _MOST_OPEN_FILES:
                return False
            steps = self._steps(self.chunks)
        blocks = max(open_blocks(counts, steps), _FEWEST_BLOCKS)
        # of whole chunks, as those that stream shards keep them
        frame_bytes = self.itemsize * math.prod(self.chunks[i] * (self.chunks_along(i) or 1) for i in self.frame)
        return _BUDGET_SHARE * blocks * math.prod(steps) * frame_bytes <= self.limit.max_bytes

    def _steps(self, extents: list[int]) -> list[int]:
        """Return extents along the dimensions that index frames, no longer than these; 1 where arrays have no axis."""
        index = set(self.index)
        return [min(extents[i], d.count or extents[i]) if i in index else 1 for i, d in enumerate(self.dimensions[:-2])]


def _cut_frames(grid: _Grid, target: int) -> None:
    """Set the chunks along the frame: about square, dividing it evenly if they can."""
    pixels = target / grid.itemsize / math.prod(grid.chunks[i] for i in grid.index)
    for place, other in (grid.frame, grid.frame[::-1]):
        count = grid.dimensions[place].count or 1
        if grid.dimensions[place].chunk_size is not None:
            continue
        if grid.dimensions[other].chunk_size is not None:
            side = pixels / grid.chunks[other]
        else:  # longer than the side of a square where the frame is too short for that along the other
            side = max(math.sqrt(pixels), pixels / (grid.dimensions[other].count or 1))
        grid.chunks[place] = _even_part(count, max(side, _SMALLEST_SIDE))


def _even_part(count: int, target: float) -> int:
    """Return a part of ``count`` near the target, of equal parts if there are any near it."""

    def distance(parts: int) -> tuple[float, int]:
        part = -(-count // parts)
        return round(abs(math.log2(part / target)) + _UNEVEN * bool(count % part), 6), parts

    near = int(count / target)
    return -(-count // min(range(max(1, near - 16), near + 17), key=distance))


def _gather_frames(grid: _Grid, target: int) -> None:
    """Put several frames into a chunk where a whole frame is much smaller than a chunk should be, fastest first."""
    if any(grid.chunks_along(i) != 1 for i in grid.frame):
        return
    for place in grid.index:
        dimension = grid.dimensions[place]
        if dimension.chunk_size is not None or dimension.type not in _GATHERED:
            continue
        most = target // grid.chunk_bytes
        if dimension.count is not None and 2 * dimension.count <= 3 * most:
            most = dimension.count  # a short stack stays in one chunk, not two small ones
        grid.grow(grid.chunks, place, dimension.count, most)


def _gather_chunks(grid: _Grid, target: int) -> bool:
    """Set the chunks of a shard: the whole frame, then as many steps as may be, fastest first.

    Returns
    -------
    bool
        Whether the arrays are to be sharded.
    """
    given = any(grid.dimensions[i].shard_size_chunks for i in grid.axes)
    if not given and 2 * grid.chunk_bytes > target:
        return False
    for place in grid.frame:
        if grid.dimensions[place].shard_size_chunks is None:
            grid.per_shard[place] = grid.chunks_along(place) or 1
    for place in grid.index:
        if grid.dimensions[place].shard_size_chunks is None:
            in_shard = grid.chunks_per_shard
            most = min(target // (in_shard * grid.chunk_bytes), _MOST_CHUNKS // in_shard)
            grid.grow(grid.per_shard, place, grid.chunks_along(place), most)
    return given or grid.chunks_per_shard > 1


def streams_shards(backend: str) -> bool:
    """Tell whether a backend, by its name, writes the chunks of a shard as they come, and keeps no shard in memory."""
    return backend in ("auto", "direct")
