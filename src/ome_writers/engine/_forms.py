"""How the frames of a parcel lie in its memory."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from ome_writers._layout import ArrayGeometry

from ._pool import Buffer

Index = tuple[int, ...]
Pixels = npt.NDArray[Any]

_PART_BYTES: Final = 1 << 24
"""Layers of more than twice this size are written in parts."""


class Form(Protocol):
    """Decides where in a buffer each frame lies."""

    def nbytes(self, extent: Index) -> int:
        """Return the bytes that ``extent`` frames along the index axes take."""
        ...

    def view(self, buffer: Buffer, extent: Index) -> Pixels:
        """Return the pixels of a buffer that holds ``extent`` frames along the index axes."""
        ...

    def put(self, pixels: Pixels, slot: Index, frame: Pixels) -> None:
        """Copy a frame to its slot in what :meth:`view` has returned."""
        ...

    def clear(self, pixels: Pixels, missing: npt.NDArray[np.bool_]) -> None:
        """Fill the slots of frames that are not there with 0."""
        ...


class FrameMajor:
    """One frame after the other: an array of shape ``(*extent, height, width)``.

    Parameters
    ----------
    geometry : ArrayGeometry
        Of every array.
    """

    def __init__(self, geometry: ArrayGeometry) -> None:
        self._dtype = np.dtype(geometry.dtype)
        self._frame_shape = geometry.frame_shape
        self._frame_bytes = geometry.frame_bytes

    def nbytes(self, extent: Index) -> int:
        """Return the bytes of as many frames."""
        return math.prod(extent) * self._frame_bytes

    def view(self, buffer: Buffer, extent: Index) -> Pixels:
        """Return the frames, shape ``(*extent, height, width)``."""
        return buffer[: self.nbytes(extent)].view(self._dtype).reshape(extent + self._frame_shape)

    def put(self, pixels: Pixels, slot: Index, frame: Pixels) -> None:
        """Copy a frame."""
        pixels[slot] = frame

    def clear(self, pixels: Pixels, missing: npt.NDArray[np.bool_]) -> None:
        """Fill missing frames with 0."""
        pixels[missing] = 0


class ChunkMajor:
    """One chunk after the other, as a layer of chunks lies on disk: shape ``(rows, columns, *chunk)``.

    Frames are cut into chunks while they are copied, and not copied once more for that. Chunks at the edge of the frame
    are whole; what lies outside of the frame is 0, since buffers are new or come from a layer of the same shape.

    Parameters
    ----------
    geometry : ArrayGeometry
        Of every array.

    Attributes
    ----------
    parts : list of slice
        Rows of chunks that are to be written together: all, or for a large layer as many as make a part of it.
    """

    def __init__(self, geometry: ArrayGeometry) -> None:
        self._dtype = np.dtype(geometry.dtype)
        self._shape = geometry.layer_shape
        self._nbytes = math.prod(self._shape) * self._dtype.itemsize
        parts = min(self._shape[0], max(1, self._nbytes // _PART_BYTES))
        cuts = [self._shape[0] * part // parts for part in range(parts + 1)]
        self.parts = [slice(first, last) for first, last in pairwise(cuts)]
        (height, width), (tall, wide) = geometry.frame_shape, geometry.chunks[-2:]
        rows, bottom = divmod(height, tall)
        columns, right = divmod(width, wide)
        # each region: chunks (rows, columns), and pixels of the frame
        self._regions = [
            (slice(r, r + nr), slice(c, c + nc), slice(r * tall, r * tall + nr * h), slice(c * wide, c * wide + nc * w),
             (nr, h, nc, w))
            for r, nr, h in ((0, rows, tall), (rows, 1, bottom))
            for c, nc, w in ((0, columns, wide), (columns, 1, right))
            if nr * h * nc * w
        ]  # fmt: skip
        self._whole = self._shape[:2] == (1, 1) and not (bottom or right)

    def nbytes(self, extent: Index) -> int:
        """Return the bytes of a layer, which is whole whatever its extent."""
        del extent
        return self._nbytes

    def view(self, buffer: Buffer, extent: Index) -> Pixels:
        """Return the chunks, shape ``(rows, columns, *chunk)``."""
        del extent
        return buffer[: self._nbytes].view(self._dtype).reshape(self._shape)

    def put(self, pixels: Pixels, slot: Index, frame: Pixels) -> None:
        """Copy a frame, cut into chunks."""
        if self._whole:
            pixels[(0, 0, *slot)] = frame
            return
        for rows, columns, ys, xs, (nr, h, nc, w) in self._regions:
            where: tuple[Any, ...] = rows, columns, *slot
            target = pixels[where][:, :, :h, :w]
            target.swapaxes(1, 2)[...] = frame[ys, xs].reshape(nr, h, nc, w)

    def clear(self, pixels: Pixels, missing: npt.NDArray[np.bool_]) -> None:
        """Fill missing frames with 0, those beyond the end of the array among them."""
        steps = self._shape[2:-2]
        absent = np.ones(steps, np.bool_)
        absent[tuple(map(slice, missing.shape))] = missing
        if absent.any():
            pixels[:, :, absent] = 0
