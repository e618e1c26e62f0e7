"""What every backend must do, as test suites to be subclassed.

Derive a class from :class:`BlockSinkConformance` or :class:`FrameSinkConformance`, give it the ``sink_class`` to be
tested, and let pytest collect it::

    class TestMySink(BlockSinkConformance):
        sink_class = MySink

What is written is read back with tensorstore and zarr-python, and the files themselves are checked.
"""
# ruff: noqa: S101

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt
import pytest

from ome_writers._router import Router
from ome_writers.abc import BlockSink, FrameSink, Sink, WritePlan
from ome_writers.errors import UnsupportedError
from ome_writers.settings import DTYPES, AcquisitionSettings

from .datasets import (
    Axes,
    acquisition,
    assert_reads,
    block_origins,
    check_files,
    finish_documents,
    make_plan,
    random_pixels,
    stored_chunks,
)

__all__ = ["BlockSinkConformance", "FrameSinkConformance"]

Pixels = npt.NDArray[Any]
Cell = tuple[int, ...]

_COMPRESSIONS = ("none", "zstd", "blosc-zstd", "blosc-lz4")
_SMALL: Final[Axes] = {"t": (2,), "y": (4,), "x": (4,)}
_GRIDS: Final[dict[str, Axes]] = {
    "unsharded": {"t": (6, 2), "c": (2,), "y": (8, 4), "x": (8, 8)},
    "sharded": {"t": (8, 2, 2), "c": (2,), "y": (8, 4, 2), "x": (8, 8, 1)},
    "uneven": {"t": (5, 2), "c": (3, 2), "y": (13, 4), "x": (9, 5)},
    "uneven shards": {"t": (7, 2, 2), "c": (3, 1, 2), "y": (13, 4, 3), "x": (9, 5, 1)},
    "chunks in depth": {"c": (2,), "z": (7, 3, 2), "y": (10, 4, 2), "x": (6, 3, 2)},
    "one step per shard": {"t": (4, 1, 1), "y": (8,), "x": (8,)},
    "chunks larger than the axis": {"t": (3, 10, 2), "y": (5, 100), "x": (7, 9)},
}
_UNBOUNDED: Final[dict[str, Axes]] = {
    "unsharded": {"t": (None, 4), "c": (2,), "y": (8, 4), "x": (6,)},
    "sharded": {"t": (None, 2, 3), "c": (2,), "y": (8, 4, 2), "x": (6,)},
}
_UNBOUNDED_INSIDE: Final[dict[str, Axes]] = {  # stored as t, z, y, x
    "unsharded": {"z": (None, 4), "t": (3,), "y": (8, 4), "x": (6,)},
    "sharded": {"z": (None, 2, 3), "t": (3, 1, 2), "y": (8, 4, 2), "x": (6,)},
}


class _Conformance:
    sink_class: ClassVar[type[Sink]]

    def plan(self, root: Path, settings: AcquisitionSettings) -> WritePlan:
        """Make a dataset's folder and documents below ``root``; skip the test when the backend refuses the plan."""
        try:
            return make_plan(root / "data.zarr", self.sink_class, settings)
        except UnsupportedError as error:
            pytest.skip(str(error))

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_dtypes_outside_of_the_capabilities_are_refused(self, tmp_path: Path, dtype: str) -> None:
        """A plan is accepted or refused before anything is touched, as the capabilities say; a refusal names both."""
        plan = make_plan(tmp_path / "data.zarr", self.sink_class, acquisition(_SMALL, "uint8"))
        wanted = replace(plan, layout=replace(plan.layout, geometry=replace(plan.geometry, dtype=dtype)))
        caps = self.sink_class.capabilities
        if dtype in caps.dtypes:
            self.sink_class.check(wanted)
            return
        with pytest.raises(UnsupportedError, match=f"{caps.name}.*{dtype}"):
            self.sink_class.check(wanted)

    def test_unknown_compressions_are_refused(self, tmp_path: Path) -> None:
        """A compression that is not among the capabilities is refused, and the message names it."""
        plan = make_plan(tmp_path / "data.zarr", self.sink_class, acquisition(_SMALL))
        with pytest.raises(UnsupportedError, match=f"{self.sink_class.capabilities.name}.*'lossy'"):
            self.sink_class.check(replace(plan, compression="lossy"))

    def test_an_unused_sink_leaves_a_valid_dataset(self, tmp_path: Path) -> None:
        """A sink that is closed before any write leaves arrays of zeros and no files."""
        plan = self.plan(tmp_path, acquisition(_SMALL))
        self.sink_class(plan).close()
        finish_documents(plan)
        check_files(plan)
        assert_reads(plan, 0, np.zeros((2, 4, 4), np.uint16))


class BlockSinkConformance(_Conformance):
    """What a block sink must do.

    Attributes
    ----------
    sink_class : type of BlockSink
        The sink to be tested.
    leaves_out_beside_black : bool
        Whether it leaves out chunks that no frame was acquired for also when an acquired chunk of the same block is
        all zero. A sink that stores the whole block then sets this to False.
    """

    sink_class: ClassVar[type[BlockSink]]
    leaves_out_beside_black: ClassVar[bool] = True

    # ---- tools -----------------------------------------------------------------------------------------------------

    def extent(self, plan: WritePlan) -> Cell:
        """Return the index steps of a whole block."""
        return plan.geometry.index_extent(self.sink_class.capabilities.block)

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

    @pytest.mark.parametrize("grid", _GRIDS)
    def test_blocks_in_any_order(self, tmp_path: Path, grid: str) -> None:
        """Blocks may come in any order, also those at the edge of an array that its grid does not divide."""
        plan = self.plan(tmp_path, acquisition(_GRIDS[grid]))
        pixels = random_pixels([n or 0 for n in plan.geometry.shape], "uint16")
        origins = [(0, origin) for origin in block_origins(self.extent(plan), pixels.shape[:-2])]
        random.Random(grid).shuffle(origins)  # noqa: S311
        self.write_all(plan, [pixels], origins)

    def test_a_single_frame(self, tmp_path: Path) -> None:
        """An array without index axes is one block with an empty origin."""
        plan = self.plan(tmp_path, acquisition({"y": (9, 4), "x": (7, 5)}))
        self.write_all(plan, [random_pixels((9, 7), "uint16")])

    @pytest.mark.parametrize("steps", [1, 4, 5, 6, 13])
    @pytest.mark.parametrize("grid", _UNBOUNDED)
    def test_an_unbounded_axis_may_end_anywhere(self, tmp_path: Path, grid: str, steps: int) -> None:
        """The last block along an unbounded axis is as long as what was acquired."""
        plan = self.plan(tmp_path, acquisition(_UNBOUNDED[grid]))
        self.write_all(plan, [random_pixels((steps, 2, 8, 6), "uint16")])

    @pytest.mark.parametrize("steps", [1, 4, 5, 6, 13])
    @pytest.mark.parametrize("grid", _UNBOUNDED_INSIDE)
    def test_an_unbounded_axis_need_not_be_first_on_disk(self, tmp_path: Path, grid: str, steps: int) -> None:
        """An unbounded axis may stand anywhere in the storage order."""
        plan = self.plan(tmp_path, acquisition(_UNBOUNDED_INSIDE[grid]))
        assert plan.geometry.unbounded_axis == 1
        self.write_all(plan, [random_pixels((3, steps, 8, 6), "uint16")])

    @pytest.mark.parametrize("grid", _UNBOUNDED_INSIDE)
    def test_blocks_need_not_be_contiguous(self, tmp_path: Path, grid: str) -> None:
        """A block may be a part of a larger piece of memory: so is the last one of an unbounded axis."""
        plan = self.plan(tmp_path, acquisition(_UNBOUNDED_INSIDE[grid]))
        extent = self.extent(plan)
        whole = random_pixels((*extent, 8, 6), "uint16")
        part = whole[:, : extent[1] - 1]
        sink = self.sink_class(plan)
        sink.write_block(0, (0, 0), part, None)
        sink.close()
        expected = np.zeros((3, part.shape[1], 8, 6), np.uint16)
        expected[: extent[0]] = part
        self.check(plan, [expected])

    @pytest.mark.parametrize("grid", ["unsharded", "sharded"])
    def test_several_arrays(self, tmp_path: Path, grid: str) -> None:
        """Blocks of several arrays may alternate, and each array gets its own."""
        plan = self.plan(tmp_path, acquisition({"p": (3,), **_GRIDS[grid]}))
        shape = [n or 0 for n in plan.geometry.shape]
        images = [random_pixels(shape, "uint16", seed) for seed in range(3)]
        origins = block_origins(self.extent(plan), shape[:-2])
        self.write_all(plan, images, [(array, origin) for origin in origins for array in (2, 0, 1)])

    @pytest.mark.parametrize("grid", ["uneven", "uneven shards"])
    def test_blocks_from_several_threads(self, tmp_path: Path, grid: str) -> None:
        """Several threads may write blocks of the same and of other arrays at once."""
        plan = self.plan(tmp_path, acquisition({"p": (2,), **_GRIDS[grid]}))
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
        plan = self.plan(tmp_path, acquisition(_GRIDS[grid], dtype))
        self.write_all(plan, [random_pixels([n or 0 for n in plan.geometry.shape], dtype)])

    @pytest.mark.parametrize("grid", ["uneven", "uneven shards"])
    @pytest.mark.parametrize("dtype", ["uint8", "uint16", "float64"])
    @pytest.mark.parametrize("compression", _COMPRESSIONS)
    def test_compressions(self, tmp_path: Path, compression: str, dtype: str, grid: str) -> None:
        """Every compression of the capabilities can be read by others."""
        plan = self.plan(tmp_path, acquisition(_GRIDS[grid], dtype, compression))
        self.write_all(plan, [random_pixels([n or 0 for n in plan.geometry.shape], dtype)])

    @pytest.mark.parametrize("compression", ["none", "blosc-lz4"])
    @pytest.mark.parametrize("grid", ["uneven", "uneven shards"])
    def test_black_frames_are_stored(self, tmp_path: Path, grid: str, compression: str) -> None:
        """Frames of zeros are data: every chunk is stored although it equals the fill value."""
        plan = self.plan(tmp_path, acquisition(_GRIDS[grid], compression=compression))
        shape = [n or 0 for n in plan.geometry.shape]
        self.write_all(plan, [np.zeros(shape, np.uint16)])
        assert stored_chunks(plan, 0) == set(block_origins([1] * len(shape), _grid(shape, plan.geometry.chunks)))

    # ---- skipped frames --------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("black", [False, True], ids=["bright", "black"])
    @pytest.mark.parametrize("grid", ["unsharded", "uneven", "uneven shards", "chunks in depth"])
    def test_chunks_without_an_acquired_frame_are_not_stored(self, tmp_path: Path, grid: str, black: bool) -> None:
        """Of a block that lacks frames, the chunks that an acquired one is in are stored, black or not, and no others.

        A sink may store the others too when ``leaves_out_beside_black`` is off and a stored one is black.
        """
        plan = self.plan(tmp_path, acquisition(_GRIDS[grid]))
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
            if stored.any():  # the engine does not hand over others
                self.write(sink, plan, 0, origin, pixels, None if stored.all() else stored.copy())
        sink.close()
        self.check(plan, [pixels])
        planes = list(np.ndindex(*cells[-2:]))
        expected = {(*map(int, cell), *plane) for cell in np.argwhere(acquired) for plane in planes}
        found = stored_chunks(plan, 0)
        if black and not self.leaves_out_beside_black:
            assert expected <= found
        else:
            assert found == expected


class FrameSinkConformance(_Conformance):
    """What a frame sink must do.

    A test whose storage order the sink refuses with an :class:`~ome_writers.errors.UnsupportedError` is skipped.

    Attributes
    ----------
    sink_class : type of FrameSink
        The sink to be tested.
    """

    sink_class: ClassVar[type[FrameSink]]

    # ---- tools -----------------------------------------------------------------------------------------------------

    def write_all(
        self,
        plan: WritePlan,
        images: Sequence[Pixels],
        *,
        batch: int = 1,
        frames: int | None = None,
        skipped: Iterable[int] = (),
    ) -> None:
        """Write frames in acquisition order, close the sink, and check what is on disk.

        Parameters
        ----------
        plan : WritePlan
            What is written.
        images : sequence of ndarray
            Pixels of all arrays.
        batch : int
            The most frames that are handed over at once.
        frames : int, optional
            How many frames are acquired; None for all.
        skipped : iterable of int
            Numbers of frames that are left out.
        """
        router = Router(plan.layout.axes)
        total = frames if frames is not None else router.total or 0
        left_out = set(skipped)
        sink = self.sink_class(plan)
        expected = [np.zeros_like(image) for image in images]
        try:
            number = 0
            while number < total:
                array, _ = router.locate(number)
                run = _run(router, number, min(total, number + batch), left_out)
                if number in left_out:
                    sink.skip_frames(array, len(run))
                else:
                    indices = [router.locate(n)[1] for n in run]
                    block = np.stack([images[array][index] for index in indices])
                    sink.write_frames(array, block)
                    block.view(np.uint8)[...] = 0xA5  # the library may not look at it any more
                    for index in indices:
                        expected[array][index] = images[array][index]
                number = run.stop
        finally:
            sink.close()
        axis = plan.geometry.unbounded_axis
        finish_documents(plan, 0 if axis is None else images[0].shape[axis])
        check_files(plan)
        for array, image in enumerate(expected):
            assert_reads(plan, array, image)

    # ---- geometry --------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("batch", [1, 3, 100])
    @pytest.mark.parametrize("grid", _GRIDS)
    def test_frames_in_order(self, tmp_path: Path, grid: str, batch: int) -> None:
        """Frames come one by one or several at once, and the library cuts them into any grid."""
        plan = self.plan(tmp_path, acquisition(_GRIDS[grid]))
        self.write_all(plan, [random_pixels([n or 0 for n in plan.geometry.shape], "uint16")], batch=batch)

    def test_another_storage_order(self, tmp_path: Path) -> None:
        """Frames that are acquired in another order than they are stored in land in the right place."""
        plan = self.plan(tmp_path, acquisition({"t": (3,), "z": (4, 2), "c": (2,), "y": (6, 3), "x": (5,)}))
        assert plan.geometry.dimension_names == ("t", "c", "z", "y", "x")
        self.write_all(plan, [random_pixels((3, 2, 4, 6, 5), "uint16")])

    def test_a_single_frame(self, tmp_path: Path) -> None:
        """An array without index axes takes one frame."""
        plan = self.plan(tmp_path, acquisition({"y": (9, 4), "x": (7, 5)}))
        self.write_all(plan, [random_pixels((9, 7), "uint16")])

    @pytest.mark.parametrize("steps", [1, 4, 5, 6, 13])
    @pytest.mark.parametrize("grid", _UNBOUNDED)
    def test_an_unbounded_axis_may_end_anywhere(self, tmp_path: Path, grid: str, steps: int) -> None:
        """An unbounded acquisition ends inside of a chunk, a shard, or at their edges."""
        plan = self.plan(tmp_path, acquisition(_UNBOUNDED[grid]))
        self.write_all(plan, [random_pixels((steps, 2, 8, 6), "uint16")], frames=2 * steps, batch=2)

    @pytest.mark.parametrize("frames", [1, 3, 5])
    @pytest.mark.parametrize("grid", ["unsharded", "sharded", "uneven shards"])
    def test_an_early_end(self, tmp_path: Path, grid: str, frames: int) -> None:
        """A bounded acquisition may end before its last frame; the rest reads as 0."""
        plan = self.plan(tmp_path, acquisition(_GRIDS[grid]))
        self.write_all(plan, [random_pixels([n or 0 for n in plan.geometry.shape], "uint16")], frames=frames)

    @pytest.mark.parametrize("grid", ["unsharded", "sharded"])
    def test_several_arrays(self, tmp_path: Path, grid: str) -> None:
        """Frames of several arrays may alternate, and each array gets its own."""
        axes = _GRIDS[grid]
        first, *others = axes
        order = {first: axes[first], "p": (3,), **{name: axes[name] for name in others}}
        plan = self.plan(tmp_path, acquisition(order))
        shape = [n or 0 for n in plan.geometry.shape]
        self.write_all(plan, [random_pixels(shape, "uint16", seed) for seed in range(3)], batch=2)

    # ---- pixels ----------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_dtypes(self, tmp_path: Path, dtype: str) -> None:
        """Every dtype of the capabilities is stored bit by bit, over its whole range."""
        plan = self.plan(tmp_path, acquisition(_GRIDS["uneven shards"], dtype))
        self.write_all(plan, [random_pixels([n or 0 for n in plan.geometry.shape], dtype)], batch=4)

    @pytest.mark.parametrize("dtype", ["uint8", "uint16", "float64"])
    @pytest.mark.parametrize("compression", _COMPRESSIONS)
    def test_compressions(self, tmp_path: Path, compression: str, dtype: str) -> None:
        """Every compression of the capabilities can be read by others."""
        plan = self.plan(tmp_path, acquisition(_GRIDS["uneven shards"], dtype, compression))
        self.write_all(plan, [random_pixels([n or 0 for n in plan.geometry.shape], dtype)], batch=4)

    # ---- skipped frames --------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("skipped", [(0,), (1, 2, 3), (4, 5, 6, 7, 8, 9, 10, 11), tuple(range(12))])
    @pytest.mark.parametrize("grid", ["unsharded", "sharded"])
    def test_skipped_frames_read_as_0(self, tmp_path: Path, grid: str, skipped: tuple[int, ...]) -> None:
        """Frames are left out one by one or by the chunk; those after them land where they belong."""
        plan = self.plan(tmp_path, acquisition(_GRIDS[grid]))
        pixels = random_pixels([n or 0 for n in plan.geometry.shape], "uint16")
        self.write_all(plan, [pixels], batch=5, skipped=skipped)


def _grid(shape: Sequence[int], chunks: Sequence[int]) -> Cell:
    return tuple(-(-n // c) for n, c in zip(shape, chunks, strict=True))


def _run(router: Router, start: int, stop: int, skipped: set[int]) -> range:
    """Return the frames from ``start`` that are of one array and all skipped, or all not."""
    array = router.locate(start)[0]
    end = start + 1
    while end < stop and router.locate(end)[0] == array and (end in skipped) == (start in skipped):
        end += 1
    return range(start, end)
