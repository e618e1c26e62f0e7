"""What a frame sink must do: part of the suites of :mod:`ome_writers.testing.conformance`."""
# ruff: noqa: S101

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pytest

from ome_writers._router import Router
from ome_writers.abc import FrameSink, WritePlan
from ome_writers.settings import DTYPES

from .datasets import acquisition, assert_reads, check_files, finish_documents, random_pixels
from .sink_conformance import GRIDS, UNBOUNDED, SinkConformance

__all__ = ["FrameSinkConformance"]

Pixels = npt.NDArray[Any]


class FrameSinkConformance(SinkConformance):
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
    @pytest.mark.parametrize("grid", GRIDS)
    def test_frames_in_order(self, tmp_path: Path, grid: str, batch: int) -> None:
        """Frames come one by one or several at once, and the library cuts them into any grid."""
        plan = self.plan(tmp_path, acquisition(GRIDS[grid]))
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
    @pytest.mark.parametrize("grid", UNBOUNDED)
    def test_an_unbounded_axis_may_end_anywhere(self, tmp_path: Path, grid: str, steps: int) -> None:
        """An unbounded acquisition ends inside of a chunk, a shard, or at their edges."""
        plan = self.plan(tmp_path, acquisition(UNBOUNDED[grid]))
        self.write_all(plan, [random_pixels((steps, 2, 8, 6), "uint16")], frames=2 * steps, batch=2)

    @pytest.mark.parametrize("frames", [1, 3, 5])
    @pytest.mark.parametrize("grid", ["unsharded", "sharded", "uneven shards"])
    def test_an_early_end(self, tmp_path: Path, grid: str, frames: int) -> None:
        """A bounded acquisition may end before its last frame; the rest reads as 0."""
        plan = self.plan(tmp_path, acquisition(GRIDS[grid]))
        self.write_all(plan, [random_pixels([n or 0 for n in plan.geometry.shape], "uint16")], frames=frames)

    @pytest.mark.parametrize("grid", ["unsharded", "sharded"])
    def test_several_arrays(self, tmp_path: Path, grid: str) -> None:
        """Frames of several arrays may alternate, and each array gets its own."""
        axes = GRIDS[grid]
        first, *others = axes
        order = {first: axes[first], "p": (3,), **{name: axes[name] for name in others}}
        plan = self.plan(tmp_path, acquisition(order))
        shape = [n or 0 for n in plan.geometry.shape]
        self.write_all(plan, [random_pixels(shape, "uint16", seed) for seed in range(3)], batch=2)

    # ---- pixels ----------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_dtypes(self, tmp_path: Path, dtype: str) -> None:
        """Every dtype of the capabilities is stored bit by bit, over its whole range."""
        plan = self.plan(tmp_path, acquisition(GRIDS["uneven shards"], dtype))
        self.write_all(plan, [random_pixels([n or 0 for n in plan.geometry.shape], dtype)], batch=4)

    # ---- skipped frames --------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("skipped", [(0,), (1, 2, 3), (4, 5, 6, 7, 8, 9, 10, 11), tuple(range(12))])
    @pytest.mark.parametrize("grid", ["unsharded", "sharded"])
    def test_skipped_frames_read_as_0(self, tmp_path: Path, grid: str, skipped: tuple[int, ...]) -> None:
        """Frames are left out one by one or by the chunk; those after them land where they belong."""
        plan = self.plan(tmp_path, acquisition(GRIDS[grid]))
        pixels = random_pixels([n or 0 for n in plan.geometry.shape], "uint16")
        self.write_all(plan, [pixels], batch=5, skipped=skipped)


def _run(router: Router, start: int, stop: int, skipped: set[int]) -> range:
    """Return the frames from ``start`` that are of one array and all skipped, or all not."""
    array = router.locate(start)[0]
    end = start + 1
    while end < stop and router.locate(end)[0] == array and (end in skipped) == (start in skipped):
        end += 1
    return range(start, end)
