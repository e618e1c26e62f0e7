"""Going on with a dataset: what earlier streams have settled, and reading layers that they have left half full."""

from __future__ import annotations

from collections.abc import Mapping
from operator import floordiv, mod
from pathlib import Path
from typing import Any

import numpy as np

from ome_writers._router import Router
from ome_writers.abc import Block, WritePlan

from ._decoding import MISSING, ChunkDecoder, chunk_path, read_index

Cell = tuple[int, ...]


class EarlierFrames:
    """The frames before the first one of a stream.

    Parameters
    ----------
    plan : WritePlan
        With a first frame other than 0.
    """

    def __init__(self, plan: WritePlan) -> None:
        self._router = Router(plan.layout.axes)
        self._first = plan.first_frame
        self._extent = plan.geometry.index_extent("chunk")
        self._shape = plan.geometry.shape[:-2]
        self.whole_steps = self._router.whole_steps(plan.first_frame)
        """Steps of the slowest dimension that are settled in all arrays."""

    def settled(self, array: int, cell: Cell) -> bool:
        """Tell whether all frames of a layer are earlier ones, so that nothing of it will be written."""
        last = [
            c * e + e - 1 if n is None else min(c * e + e, n) - 1
            for c, e, n in zip(cell, self._extent, self._shape, strict=True)
        ]
        return self._router.number(array, last) < self._first


def read_layer(folder: Path, document: Mapping[str, Any], cell: Cell, plane: Cell) -> Block:
    """Return the chunks of a layer that stands in files.

    Parameters
    ----------
    folder : Path
        Of the array's chunks (``c``).
    document : mapping
        The array's ``zarr.json``.
    cell : tuple of int
        Place of the layer in the chunk grid, along the index axes.
    plane : tuple of int
        Rows and columns of chunks in the frame.

    Returns
    -------
    ndarray, shape (rows, columns, *chunk)

    Raises
    ------
    OSError
        If a chunk is not there or can't be decoded.
    """
    decoder = ChunkDecoder(document)
    per_file = tuple(map(floordiv, decoder.shard_shape, decoder.chunk_shape))
    layer = np.empty((*plane, *decoder.chunk_shape), decoder.dtype)
    for row, column in np.ndindex(*plane):
        place = (*cell, row, column)
        path = folder.parent / chunk_path(document, tuple(map(floordiv, place, per_file)))
        try:
            with path.open("rb") as file:
                if decoder.sharded:
                    slot = np.ravel_multi_index(tuple(map(mod, place, per_file)), per_file)
                    offset, length = map(int, read_index(file, decoder)[slot])
                    if offset == MISSING:
                        raise OSError(f"{path} lacks the chunk at {place}")
                    file.seek(offset)
                    data = file.read(length)
                else:
                    data = file.read()
            layer[row, column] = decoder(data)
        except (ValueError, NotImplementedError) as error:
            raise OSError(f"the chunk at {place} in {path} can't be read: {error}") from error
    return layer
