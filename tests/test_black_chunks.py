"""Which chunks are black: all zero."""

from __future__ import annotations

import numpy as np

from ome_writers.backends._chunks import black_chunks


def test_signalling_nans_are_no_error() -> None:
    """Pixels of any bits are looked at without a warning (warnings are errors here); NaN is not black."""
    pixels = np.zeros((2, 4, 4), np.uint16)
    pixels[0, 1, 1] = 0x7C01  # a signalling NaN of 16 bits, not the first pixel of its chunk
    pixels[1, 0, 0] = 0x7C01
    found = black_chunks(pixels.view(np.float16), (1, 2, 2), None)
    assert not found[0, 0, 0]
    assert not found[1, 0, 0]
    assert found.sum() == 6


def test_only_chunks_that_are_to_be_stored_count() -> None:
    """A chunk that no frame was acquired for is not black but missing."""
    found = black_chunks(np.zeros((2, 4, 4)), (1, 4, 4), np.array([True, False]))
    assert found.ravel().tolist() == [True, False]
