"""Which part of a block a library is to write."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

UNBOUNDED: Final = 1 << 40
"""Extent that a library is told for an unbounded axis; the true one in the metadata is not the library's business."""

Region = tuple[slice, ...]


def region_of(origin: Sequence[int], shape: Sequence[int]) -> Region:
    """Return where a block lies in its array, along the index axes."""
    return tuple(slice(o, o + n) for o, n in zip(origin, shape, strict=False))


def stored_chunks(
    shape: Sequence[int], chunks: Sequence[int], stored: npt.NDArray[np.bool_]
) -> Iterator[tuple[slice, ...]]:
    """Yield the part of a block that each stored chunk covers.

    Parameters
    ----------
    shape : sequence of int
        Extent of the block along the first axes, as many as ``stored`` has.
    chunks : sequence of int
        Extent of a chunk along these axes.
    stored : ndarray of bool
        Whether each chunk of the block is to be stored.
    """
    for cell in np.argwhere(stored):
        yield tuple(slice(int(i) * c, min((int(i) + 1) * c, n)) for i, c, n in zip(cell, chunks, shape, strict=False))


def black_chunks(
    block: npt.NDArray[Any], chunks: Sequence[int], stored: npt.NDArray[np.bool_] | None
) -> npt.NDArray[np.bool_]:
    """Return which chunks of a block that are to be stored have pixels of 0 only, along all axes.

    Parameters
    ----------
    block : ndarray
        The pixels.
    chunks : sequence of int
        Extent of a chunk along all axes of the block.
    stored : ndarray of bool, optional
        Whether each chunk along the index axes is to be stored; None means all.
    """
    first_pixels = block[tuple(slice(None, None, c) for c in chunks)]
    with np.errstate(invalid="ignore"):  # signalling NaN
        suspects: npt.NDArray[np.bool_] = first_pixels == 0
        if stored is not None:
            suspects &= stored[..., None, None]
        for cell, part in zip(np.argwhere(suspects), stored_chunks(block.shape, chunks, suspects), strict=True):
            suspects[tuple(cell)] = not block[part].any()
    return suspects


def virtual_document(document: Any, shape: Sequence[int | None]) -> dict[str, Any]:
    """Return an array's metadata with :data:`UNBOUNDED` as the extent of an unbounded axis."""
    return {**document, "shape": [UNBOUNDED if n is None else n for n in shape]}
