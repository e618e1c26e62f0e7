"""Frames of a camera, for measuring."""

from __future__ import annotations

import math
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from ._simulation import spot

Frames = npt.NDArray[Any]

PixelType: TypeAlias = Literal["uint8", "uint16", "uint32", "float32", "float64"]
"""Pixel types of cameras, and of what is computed from their frames."""

_RING_BYTES: Final = 1 << 28
_MOST_FRAMES: Final = 32
_FEWEST_FRAMES: Final = 4  # so that a compressor does not see the same bytes again
_TILE: Final = 512
_TILES: Final = 8
_SPOTS: Final = 12
_BACKGROUND: Final = {"uint8": 20, "uint16": 100}  # photons


def camera_frames(height: int, width: int, dtype: str) -> Frames:
    """Return a ring of different frames: Poisson noise and spots; floating point numbers as of corrected frames.

    Parameters
    ----------
    height, width : int
        Of a frame in pixels.
    dtype : str
        One of :data:`PixelType`.

    Returns
    -------
    ndarray, shape (frames, height, width)
        4 to 32 frames, 256 MiB at most where that is more than 4.
    """
    rng = np.random.default_rng(7)
    kind = np.dtype(dtype)
    number = max(_FEWEST_FRAMES, min(_MOST_FRAMES, _RING_BYTES // (height * width * kind.itemsize)))
    tall, wide = min(height, _TILE), min(width, _TILE)
    tiles = rng.poisson(_BACKGROUND.get(dtype, 100), (_TILES, tall, wide)).astype(np.float32)
    for tile in tiles:
        for y, x in rng.integers(0, (tall, wide), (_SPOTS, 2)):
            spot(tile, int(y), int(x), width=2.0, peak=100.0)
    if kind.kind == "f":
        tiles *= rng.uniform(0.95, 1.05, (tall, wide)).astype(np.float32)  # the gain of each pixel
    else:
        np.minimum(tiles, np.iinfo(kind).max, out=tiles)
    tiles = tiles.astype(kind)
    frames = np.empty((number, height, width), kind)
    repeats = (math.ceil(height / tall), math.ceil(width / wide))
    for place, frame in enumerate(frames):
        moved = np.roll(tiles[place % _TILES], (7 * place, 13 * place), (0, 1))
        frame[:] = np.tile(moved, repeats)[:height, :width]
    return frames
