"""What sinks of blocks and of layers must do: part of the suites of :mod:`ome_writers.testing.conformance`."""
# ruff: noqa: S101

from __future__ import annotations

import itertools
import random
import threading
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pytest

from ome_writers.abc import BlockSink, WritePlan
from ome_writers.settings import DTYPES

from .datasets import (
    acquisition,
    assert_reads,
    block_origins,
    check_files,
    finish_documents,
    random_pixels,
    stored_chunks,
)
from .sink_conformance import GRIDS, UNBOUNDED, UNBOUNDED_INSIDE, SinkConformance

__all__ = ["BlockSinkConformance", "BoxConformance"]

Pixels = npt.NDArray[Any]
Cell = tuple[int, ...]


class BoxConformance(SinkConformance):
    """What a sink must do that takes boxes of whole frames in any order: blocks, or layers of chunks."""

    # ---- tools -----------------------------------------------------------------------------------------------------

    @abstractmethod
    def extent(self, plan: WritePlan) -> Cell:
        """Return the index steps of a whole box."""

    @abstractmethod
    def write(
        self,
        sink: Any,
        plan: WritePlan,
        array: int,
        origin: Cell,
        pixels: Pixels,
        stored: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        """Write the box of ``pixels`` (the whole array's) at ``origin``, then overwrite the memory it was in."""

    def skip(self, sink: Any, plan: WritePlan, array: int, origin: Cell) -> None:
        """Tell the sink that no frame of a box was acquired, if it is to be told."""

    def write_all(self, plan: WritePlan, images: Sequence[Pixels], origins: Iterable[tuple[int, Cell]] = ()) -> None:
        """Write all blocks of all arrays in the given order, close the sink, and check what is on disk."""
        order = list(origins) or [
            (array, origin)
            for array, image in enumerate(images)
            for origin in block_origins(self.extent(plan), image.shape[:-2])
        ]
        sink = self.sink_class(plan)
        try:
            for array, origin in order:
                self.write(sink, plan, array, origin, images[array])
        finally:
            sink.close()
        self.check(plan, images)

    def check(self, plan: WritePlan, images: Sequence[Pixels]) -> None:
        """Check that all arrays read as expected and that all files are complete."""
        axis = plan.geometry.unbounded_axis
        finish_documents(plan, 0 if axis is None else images[0].shape[axis])
        check_files(plan)
        for array, image in enumerate(images):
            assert_reads(plan, array, image)

    # ---- geometry --------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("grid", GRIDS)
    def test_blocks_in_any_order(self, tmp_path: Path, grid: str) -> None:
        """Blocks may come in any order, also those at the edge of an array that its grid does not divide."""
        plan = self.plan(tmp_path, acquisition(GRIDS[grid]))
        pixels = random_pixels([n or 0 for n in plan.geometry.shape], "uint16")
        origins = [(0, origin) for origin in block_origins(self.extent(plan), pixels.shape[:-2])]
        random.Random(grid).shuffle(origins)  # noqa: S311
        self.write_all(plan, [pixels], origins)

    def test_a_single_frame(self, tmp_path: Path) -> None:
        """An array without index axes is one block with an empty origin."""
        plan = self.plan(tmp_path, acquisition({"y": (9, 4), "x": (7, 5)}))
        self.write_all(plan, [random_pixels((9, 7), "uint16")])

    @pytest.mark.parametrize("steps", [1, 4, 5, 6, 13])
    @pytest.mark.parametrize("grid", UNBOUNDED)
    def test_an_unbounded_axis_may_end_anywhere(self, tmp_path: Path, grid: str, steps: int) -> None:
        """The last block along an unbounded axis is as long as what was acquired."""
        plan = self.plan(tmp_path, acquisition(UNBOUNDED[grid]))
        self.write_all(plan, [random_pixels((steps, 2, 8, 6), "uint16")])

    @pytest.mark.parametrize("steps", [1, 4, 5, 6, 13])
    @pytest.mark.parametrize("grid", UNBOUNDED_INSIDE)
    def test_an_unbounded_axis_need_not_be_first_on_disk(self, tmp_path: Path, grid: str, steps: int) -> None:
        """An unbounded axis may stand anywhere in the storage order."""
        plan = self.plan(tmp_path, acquisition(UNBOUNDED_INSIDE[grid]))
        assert plan.geometry.unbounded_axis == 1
        self.write_all(plan, [random_pixels((3, steps, 8, 6), "uint16")])

    @pytest.mark.parametrize("grid", ["unsharded", "sharded"])
    def test_several_arrays(self, tmp_path: Path, grid: str) -> None:
        """Blocks of several arrays may alternate, and each array gets its own."""
        plan = self.plan(tmp_path, acquisition({"p": (3,), **GRIDS[grid]}))
        shape = [n or 0 for n in plan.geometry.shape]
        images = [random_pixels(shape, "uint16", seed) for seed in range(3)]
        origins = block_origins(self.extent(plan), shape[:-2])
        self.write_all(plan, images, [(array, origin) for origin in origins for array in (2, 0, 1)])

    @pytest.mark.parametrize("grid", ["uneven", "uneven shards"])
    def test_blocks_from_several_threads(self, tmp_path: Path, grid: str) -> None:
        """Several threads may write blocks of the same and of other arrays at once."""
        plan = self.plan(tmp_path, acquisition({"p": (2,), **GRIDS[grid]}))
        shape = [n or 0 for n in plan.geometry.shape]
        images = [random_pixels(shape, "uint16", seed) for seed in range(2)]
        tasks = list(itertools.product(range(2), block_origins(self.extent(plan), shape[:-2])))
        sink = self.sink_class(plan)
        start = threading.Barrier(4, timeout=30)
        errors: list[BaseException] = []

        def run(share: list[tuple[int, Cell]]) -> None:
            try:
                start.wait()
                for array, origin in share:
                    self.write(sink, plan, array, origin, images[array])
            except BaseException as error:  # noqa: BLE001  raised below, in the test's thread
                errors.append(error)

        threads = [threading.Thread(target=run, args=(tasks[i::4],)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in threads)
        if errors:
            raise errors[0]
        sink.close()
        self.check(plan, images)

    # ---- pixels ----------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("grid", ["uneven", "uneven shards"])
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_dtypes(self, tmp_path: Path, dtype: str, grid: str) -> None:
        """Every dtype of the capabilities is stored bit by bit, over its whole range."""
        plan = self.plan(tmp_path, acquisition(GRIDS[grid], dtype))
        self.write_all(plan, [random_pixels([n or 0 for n in plan.geometry.shape], dtype)])

    @pytest.mark.parametrize("compression", ["none", "blosc-lz4"])
    @pytest.mark.parametrize("grid", ["uneven", "uneven shards"])
    def test_black_frames_are_stored(self, tmp_path: Path, grid: str, compression: str) -> None:
        """Frames of zeros are data: every chunk is stored although it equals the fill value."""
        plan = self.plan(tmp_path, acquisition(GRIDS[grid], compression=compression))
        shape = [n or 0 for n in plan.geometry.shape]
        self.write_all(plan, [np.zeros(shape, np.uint16)])
        assert stored_chunks(plan, 0) == set(block_origins([1] * len(shape), _grid(shape, plan.geometry.chunks)))

    # ---- skipped frames --------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("black", [False, True], ids=["bright", "black"])
    @pytest.mark.parametrize("grid", ["unsharded", "uneven", "uneven shards", "chunks in depth"])
    def test_chunks_without_an_acquired_frame_are_not_stored(self, tmp_path: Path, grid: str, black: bool) -> None:
        """Of a block that lacks frames, chunks with an acquired one are stored, black or not, and no others."""
        plan = self.plan(tmp_path, acquisition(GRIDS[grid]))
        extent, chunks = self.extent(plan), plan.geometry.chunks
        shape = [n or 0 for n in plan.geometry.shape]
        pixels = random_pixels(shape, "uint16")
        cells = _grid(shape, chunks)
        rng = np.random.default_rng(7)
        acquired = rng.random(cells[:-2]) < 0.5  # by chunk along the index axes
        acquired.flat[0], acquired.flat[-1] = True, False
        for cell in np.ndindex(*acquired.shape):
            where = tuple(slice(i * c, (i + 1) * c) for i, c in zip(cell, chunks, strict=False))
            if black or not acquired[cell]:
                pixels[where] = 0
        sink = self.sink_class(plan)
        for origin in block_origins(extent, shape[:-2]):
            inside = tuple(
                slice(o // c, -(-min(o + e, n) // c)) for o, e, n, c in zip(origin, extent, shape, chunks, strict=False)
            )
            stored = acquired[inside]
            if stored.any():
                self.write(sink, plan, 0, origin, pixels, None if stored.all() else stored.copy())
            else:
                self.skip(sink, plan, 0, origin)
        sink.close()
        self.check(plan, [pixels])
        planes = list(np.ndindex(*cells[-2:]))
        expected = {(*map(int, cell), *plane) for cell in np.argwhere(acquired) for plane in planes}
        assert stored_chunks(plan, 0) == expected


class BlockSinkConformance(BoxConformance):
    """What a block sink must do.

    Attributes
    ----------
    sink_class : type of BlockSink
        The sink to be tested.
    """

    sink_class: ClassVar[type[BlockSink]]

    def extent(self, plan: WritePlan) -> Cell:
        """Return the index steps of a whole block."""
        return plan.geometry.index_extent("shard")

    def write(
        self,
        sink: BlockSink,
        plan: WritePlan,
        array: int,
        origin: Cell,
        pixels: Pixels,
        stored: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        """Write the block of ``pixels`` (the whole array's) at ``origin``, then overwrite the memory it was in."""
        where = tuple(slice(o, o + e) for o, e in zip(origin, self.extent(plan), strict=True))
        block = pixels[where].copy()
        sink.write_block(array, origin, block, stored)
        block.view(np.uint8)[...] = 0xA5

    @pytest.mark.parametrize("grid", UNBOUNDED_INSIDE)
    def test_blocks_need_not_be_contiguous(self, tmp_path: Path, grid: str) -> None:
        """A block may be a part of a larger piece of memory: so is the last one of an unbounded axis."""
        plan = self.plan(tmp_path, acquisition(UNBOUNDED_INSIDE[grid]))
        extent = self.extent(plan)
        whole = random_pixels((*extent, 8, 6), "uint16")
        part = whole[:, : extent[1] - 1]
        sink = self.sink_class(plan)
        sink.write_block(0, (0, 0), part, None)
        sink.close()
        expected = np.zeros((3, part.shape[1], 8, 6), np.uint16)
        expected[: extent[0]] = part
        self.check(plan, [expected])


def _grid(shape: Sequence[int], chunks: Sequence[int]) -> Cell:
    return tuple(-(-n // c) for n, c in zip(shape, chunks, strict=True))
