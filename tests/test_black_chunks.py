"""Which chunks are black: all zero."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ome_writers import create_stream
from ome_writers.backends._chunks import black_chunks
from ome_writers.backends._zeros import BlackChunks
from ome_writers.backends.direct import DirectSink
from ome_writers.testing.datasets import acquisition, make_plan


def test_signalling_nans_are_no_error() -> None:
    """Pixels of any bits are looked at without a warning (warnings are errors here); NaN is not black."""
    pixels = np.zeros((2, 4, 4), np.uint16)
    pixels[0, 1, 1] = 0x7C01  # a signalling NaN of 16 bits, not the first pixel of its chunk
    pixels[1, 0, 0] = 0x7C01
    found = black_chunks(pixels.view(np.float16), (1, 2, 2), None)
    assert not found[0, 0, 0]
    assert not found[1, 0, 0]
    assert found.sum() == 6


def test_signalling_nans_are_no_error_in_a_stream(tmp_path: Path, backend: str) -> None:
    """Every backend takes them without a warning, and they are not black."""
    settings = acquisition({"t": (3,), "y": (4, 2), "x": (4, 2)}, "float32")
    settings.root_path = str(tmp_path / "a.ome.zarr")
    settings.format = backend  # type: ignore[assignment]
    frame = np.full((4, 4), 0x7F800001, np.uint32).view(np.float32)
    with create_stream(settings) as stream:
        for _ in range(3):
            stream.append(frame)
    assert sum(path.is_file() for path in (tmp_path / "a.ome.zarr" / "0" / "c").rglob("*")) == 12


def test_only_chunks_that_are_to_be_stored_count() -> None:
    """A chunk that no frame was acquired for is not black but missing."""
    found = black_chunks(np.zeros((2, 4, 4)), (1, 4, 4), np.array([True, False]))
    assert found.ravel().tolist() == [True, False]


def test_several_threads_add_chunks_at_once(tmp_path: Path) -> None:
    """One that is done does not remove the folder of temporary files that another is about to use."""
    plan = make_plan(tmp_path / "data.zarr", DirectSink, acquisition({"t": (400, 1), "y": (4, 2), "x": (3,)}))
    black = BlackChunks(plan)
    with ThreadPoolExecutor(4) as threads:
        done = [threads.submit(black.add, 0, [(t, 0, 0)]) for t in range(400)]
    assert [future.result() for future in done] == [None] * 400
    assert not (plan.root / "ome_writers" / "writing").exists()
