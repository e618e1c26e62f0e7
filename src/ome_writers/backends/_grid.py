"""Where chunks belong: which shard, and which place in its index."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from operator import floordiv
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ome_writers._layout import ArrayGeometry
from ome_writers.abc import Block

Cell: TypeAlias = tuple[int, ...]
"""Place of a layer in the grid of chunks, along the index axes; or of a shard in the grid of shards, along all."""


class ShardGrid:
    """The grids of chunks and of shards of an array; without shards, each chunk is one.

    Parameters
    ----------
    geometry : ArrayGeometry
        Of the array.

    Attributes
    ----------
    per_shard : tuple of int
        Chunks of a shard along each axis.
    plane : tuple of int
        Rows and columns of chunks in the frame.
    slots : int
        Places in the index of a shard.
    unbounded_axis : int, optional
        The axis along which the array grows.
    shard_steps : int
        Extent of a shard along that axis, in elements; 0 without one.
    shards_per_step : int
        Shards side by side at one place along that axis.
    """

    def __init__(self, geometry: ArrayGeometry) -> None:
        shards = geometry.shards or geometry.chunks
        self.per_shard = tuple(map(floordiv, shards, geometry.chunks))
        self.plane = geometry.layer_shape[:2]
        self.slots = math.prod(self.per_shard)
        self.unbounded_axis = geometry.unbounded_axis
        self.shard_steps = 0 if self.unbounded_axis is None else shards[self.unbounded_axis]
        self._counts = tuple(  # of chunks
            None if n is None else -(-n // c) for n, c in zip(geometry.shape, geometry.chunks, strict=True)
        )
        others = zip(self._counts, self.per_shard, strict=True)
        self.shards_per_step = math.prod(-(-n // s) for n, s in others if n is not None)
        self._whole_layers = all(n <= count for n, count in zip(self.plane, self.per_shard[-2:], strict=True))

    def shard_of(self, cell: Cell) -> Cell:
        """Return the place of the shard that holds the first chunk of a layer."""
        return (*map(floordiv, cell, self.per_shard), 0, 0)

    def parts(self, cell: Cell, first_row: int, chunks: Block) -> Iterator[tuple[Cell, Sequence[int], Block]]:
        """Yield (place of a shard, slots in its index, chunks) for each shard that rows of chunks belong to.

        Parameters
        ----------
        cell : tuple of int
            Place of their layer.
        first_row : int
            Number of the first of the rows.
        chunks : ndarray, shape (rows, columns, ...)
            Whole rows of chunks.
        """
        if self._whole_layers:
            yield self.shard_of(cell), self.slots_of(cell, first_row, chunks.shape[0], self.plane[1]), chunks
            return
        index, (tall, wide) = self.shard_of(cell)[:-2], self.per_shard[-2:]
        last_row = first_row + chunks.shape[0]
        for top in range(first_row - first_row % tall, last_row, tall):
            rows = slice(max(top, first_row), min(top + tall, last_row))
            for left in range(0, self.plane[1], wide):
                columns = slice(left, min(left + wide, self.plane[1]))
                own = self.slots_of(cell, rows.start - top, rows.stop - rows.start, columns.stop - left)
                part = chunks[rows.start - first_row : rows.stop - first_row, columns]
                yield (*index, top // tall, left // wide), own, part

    def slots_of(self, cell: Cell, first_row: int, rows: int, columns: int) -> Sequence[int]:
        """Return the places in the index of a shard of the first chunks of some of its rows in a layer."""
        layer = 0
        for place, count in zip(cell, self.per_shard, strict=False):
            layer = layer * count + place % count
        tall, wide = self.per_shard[-2:]
        first = (layer * tall + first_row) * wide
        if rows == 1 or columns == wide:
            return range(first, first + rows * columns)
        return [start + column for start in range(first, first + rows * wide, wide) for column in range(columns)]

    def chunks_in(self, where: Cell) -> list[range]:
        """Return, along each axis, the places of those chunks of a shard that are not outside of the array."""
        return [
            range(w * n, (w + 1) * n if count is None else min((w + 1) * n, count))
            for w, n, count in zip(where, self.per_shard, self._counts, strict=True)
        ]

    def layers_in(self, where: Cell, slots: npt.NDArray[np.intp]) -> set[Cell]:
        """Return the places of the layers that chunks of a shard belong to, given by their places in its index."""
        inside_of_all = np.stack(np.unravel_index(slots, self.per_shard))[:-2].T.tolist()
        return {
            tuple(w * n + i for w, n, i in zip(where, self.per_shard, inside, strict=False)) for inside in inside_of_all
        }

    def shards_at(self, step: int) -> list[range]:
        """Return, along each axis, the places of shards: along the one that grows from ``step`` up to and with it."""
        counts = [step + 1 if n is None else -(-n // s) for n, s in zip(self._counts, self.per_shard, strict=True)]
        return [range(step if i == self.unbounded_axis else 0, n) for i, n in enumerate(counts)]
