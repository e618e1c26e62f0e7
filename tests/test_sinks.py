"""Every backend keeps its contract, and the conformance suites notice when one does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ome_writers.abc import BlockSink, LayerSink, WritePlan
from ome_writers.backends.acquire_zarr import AcquireZarrSink
from ome_writers.backends.direct import DirectSink
from ome_writers.backends.tensorstore import TensorStoreSink
from ome_writers.backends.zarr_python import ZarrPythonSink, ZarrsSink
from ome_writers.errors import UnsupportedError
from ome_writers.metadata import array_document
from ome_writers.settings import Codec
from ome_writers.testing.conformance import BlockSinkConformance, FrameSinkConformance, LayerSinkConformance
from ome_writers.testing.datasets import Axes, acquisition, check_files, crc32c, make_plan
from ome_writers.testing.faults import MemoryBlockSink

pytestmark = pytest.mark.timeout(60)


class TestDirectSink(LayerSinkConformance):
    sink_class = DirectSink


class TestTensorStoreSink(BlockSinkConformance):
    sink_class = TensorStoreSink


class TestZarrPythonSink(BlockSinkConformance):
    sink_class = ZarrPythonSink


class TestZarrsSink(BlockSinkConformance):
    sink_class = ZarrsSink


class TestAcquireZarrSink(FrameSinkConformance):
    sink_class = AcquireZarrSink

    @pytest.mark.parametrize(
        "axes", [{"c": (2,), "t": (3,)}, {"z": (4,), "c": (2,)}, {"z": (2,), "t": (2,), "c": (2,)}]
    )
    def test_an_order_that_the_library_cannot_store_is_refused(self, tmp_path: Path, axes: Axes) -> None:
        """When the slowest dimension is not first on disk the plan is refused, before anything is made."""
        settings = acquisition({**axes, "y": (8,), "x": (8,)})
        slowest = next(iter(axes))
        with pytest.raises(
            UnsupportedError, match=f"{slowest!r}.*use another backend, such as 'tensorstore'"
        ) as caught:
            make_plan(tmp_path / "data.zarr", AcquireZarrSink, settings)
        assert caught.value.kind == "unsupported"
        assert not (tmp_path / "data.zarr").exists()

    def test_a_level_that_the_library_does_not_take_is_refused(self, tmp_path: Path) -> None:
        """The library would fail without a reason; the refusal tells what it takes, before anything is made."""
        settings = acquisition({"y": (8,), "x": (8,)}, "uint16", Codec(name="zstd", level=-1))
        with pytest.raises(UnsupportedError, match=r"level -1 of 'zstd'; it can write 1 to 22.*'tensorstore'"):
            make_plan(tmp_path / "data.zarr", AcquireZarrSink, settings)
        assert not (tmp_path / "data.zarr").exists()


@pytest.mark.parametrize("conformance", [TestDirectSink, TestTensorStoreSink, TestZarrPythonSink, TestZarrsSink])
def test_blosc_cuts_chunks_as_the_document_says(
    tmp_path: Path, conformance: type[BlockSinkConformance | LayerSinkConformance]
) -> None:
    """With zstd a block takes half a MiB: the header of each chunk says so, and so does the array's document."""
    suite = conformance()
    plan = suite.plan(tmp_path, acquisition({"t": (1,), "y": (1024,), "x": (1024,)}, "uint16", "blosc-zstd"))
    suite.write_all(plan, [np.random.default_rng(0).poisson(100, (1, 1024, 1024)).astype("uint16")])
    header = (plan.array_path(0) / "c" / "0" / "0" / "0").read_bytes()[:16]
    assert int.from_bytes(header[8:12], "little") == 1 << 19
    assert plan.array_document["codecs"][-1]["configuration"]["blocksize"] == 1 << 19


# ---- the suites themselves -----------------------------------------------------------------------------------------
# ruff: noqa: D102


class LooksAtTheBlockLater(TensorStoreSink):
    def __init__(self, plan: Any) -> None:
        super().__init__(plan)
        self._later: list[Any] = []

    def write_block(self, array: int, origin: tuple[int, ...], block: Any, stored: Any) -> None:
        self._later.append((array, origin, block, stored))

    def close(self) -> None:
        for arguments in self._later:
            super().write_block(*arguments)
        super().close()


class LeavesAFileBehind(TensorStoreSink):
    def close(self) -> None:
        (self._plan.array_path(0) / "c").mkdir(exist_ok=True)
        (self._plan.array_path(0) / "c" / "0.partial").touch()
        super().close()


class CutsFilesShort(TensorStoreSink):
    def close(self) -> None:
        for file in self._plan.array_path(0).rglob("c/**/*"):
            if file.is_file():
                file.write_bytes(file.read_bytes()[:-1])
        super().close()


class StoresEverything(TensorStoreSink):
    def write_block(self, array: int, origin: tuple[int, ...], block: Any, stored: Any) -> None:
        super().write_block(array, origin, block, None)


class ConfusesArrays(TensorStoreSink):
    def write_block(self, array: int, origin: tuple[int, ...], block: Any, stored: Any) -> None:
        super().write_block(0, origin, block, stored)


class IgnoresTheCodec(TensorStoreSink):
    def __init__(self, plan: WritePlan) -> None:
        super().__init__(replace(plan, array_document=array_document(plan.geometry, plan.codec.name)))


def suite(sink: type[BlockSink]) -> BlockSinkConformance:
    class Suite(BlockSinkConformance):
        sink_class = sink

    return Suite()


def test_the_suite_notices_a_sink_that_keeps_a_block(tmp_path: Path) -> None:
    """A sink that looks at the memory of a block after the call fails."""
    with pytest.raises(AssertionError, match="other pixels"):
        suite(LooksAtTheBlockLater).test_blocks_in_any_order(tmp_path, "sharded")


def test_the_suite_notices_foreign_files(tmp_path: Path) -> None:
    """A sink that leaves a temporary file fails."""
    with pytest.raises(AssertionError, match="left behind"):
        suite(LeavesAFileBehind).test_blocks_in_any_order(tmp_path, "unsharded")


def test_the_suite_notices_broken_shards(tmp_path: Path) -> None:
    """A sink whose shards lack their last byte fails at the checksum."""
    with pytest.raises(AssertionError, match="checksum"):
        suite(CutsFilesShort).test_blocks_in_any_order(tmp_path, "sharded")


def test_the_suite_notices_chunks_of_skipped_frames(tmp_path: Path) -> None:
    """A sink that stores chunks that nothing was acquired for fails."""
    with pytest.raises(AssertionError):
        suite(StoresEverything).test_chunks_without_an_acquired_frame_are_not_stored(
            tmp_path, "uneven shards", black=False
        )


def test_the_suite_notices_confused_arrays(tmp_path: Path) -> None:
    """A sink that writes all arrays to one fails."""
    with pytest.raises(AssertionError, match="other pixels"):
        suite(ConfusesArrays).test_several_arrays(tmp_path, "unsharded")


def test_the_suite_notices_a_sink_that_stores_nothing(tmp_path: Path) -> None:
    """A sink that writes no files fails."""
    with pytest.raises(AssertionError, match="other pixels"):
        suite(MemoryBlockSink).test_a_single_frame(tmp_path)


def test_the_suite_notices_an_ignored_level(tmp_path: Path) -> None:
    """A sink that compresses at a level of its own fails."""
    with pytest.raises(AssertionError):
        suite(IgnoresTheCodec).test_a_higher_level_makes_smaller_chunks(tmp_path, "zstd", (1, 9, 19))


def test_the_suite_notices_an_ignored_shuffle(tmp_path: Path) -> None:
    """A sink that shuffles bytes whatever it is told fails."""
    with pytest.raises(AssertionError):
        suite(IgnoresTheCodec).test_pixels_are_shuffled(tmp_path, "blosc-lz4", "bit", "uint16")


@pytest.mark.parametrize("grid", ["unsharded", "sharded"])
def test_the_suite_notices_a_missing_checksum(tmp_path: Path, grid: str) -> None:
    """A sink that stores no checksums where they are asked for fails."""
    with pytest.raises((AssertionError, ValueError)):
        suite(IgnoresTheCodec).test_checksums_tell_changed_bytes(tmp_path, "none", grid)


class LooksAtTheLayerLater(DirectSink):
    def __init__(self, plan: WritePlan) -> None:
        super().__init__(plan)
        self._later: list[Any] = []

    def write_chunks(self, *arguments: Any) -> None:
        self._later.append(arguments)

    def close(self) -> None:
        for arguments in self._later:
            super().write_chunks(*arguments)
        super().close()


class StoresSkippedLayers(DirectSink):
    def skip_layer(self, array: int, cell: tuple[int, ...]) -> None:
        self.write_chunks(array, cell, 0, np.zeros(self._layer_shape, np.uint16))

    def __init__(self, plan: WritePlan) -> None:
        super().__init__(plan)
        self._layer_shape = plan.geometry.layer_shape


class IgnoresRows(DirectSink):
    def write_chunks(self, array: int, cell: tuple[int, ...], first_row: int, chunks: Any) -> None:
        super().write_chunks(array, cell, 0, chunks)


class AnnouncesTooMuch(DirectSink):
    def readable_extent(self, array: int) -> int | None:
        return (super().readable_extent(array) or 0) + 1


def layer_suite(sink: type[LayerSink]) -> LayerSinkConformance:
    class Suite(LayerSinkConformance):
        sink_class = sink

    return Suite()


def test_the_suite_notices_a_sink_that_keeps_a_layer(tmp_path: Path) -> None:
    """A sink that looks at the memory of a layer after the call fails."""
    with pytest.raises(AssertionError, match="other pixels"):
        layer_suite(LooksAtTheLayerLater).test_blocks_in_any_order(tmp_path, "sharded")


def test_the_suite_notices_stored_layers_of_skipped_frames(tmp_path: Path) -> None:
    """A sink that stores layers that nothing was acquired for fails."""
    with pytest.raises(AssertionError):
        layer_suite(StoresSkippedLayers).test_chunks_without_an_acquired_frame_are_not_stored(
            tmp_path, "uneven shards", black=False
        )


def test_the_suite_notices_confused_rows(tmp_path: Path) -> None:
    """A sink that writes all parts of a layer to its first rows fails."""
    with pytest.raises(AssertionError):
        layer_suite(IgnoresRows).test_rows_in_any_order(tmp_path, "unsharded")


def test_the_suite_notices_a_sink_that_promises_too_much(tmp_path: Path) -> None:
    """A sink that says more can be read than can fails."""
    with pytest.raises(AssertionError):
        layer_suite(AnnouncesTooMuch).test_what_is_said_to_be_readable_can_be_read(tmp_path, "sharded")


class ForgetsSkips(AcquireZarrSink):
    def skip_frames(self, array: int, count: int) -> None:
        pass


def test_the_suite_notices_forgotten_skips(tmp_path: Path) -> None:
    """A frame sink after whose skips frames land in the wrong place fails."""

    class Suite(FrameSinkConformance):
        sink_class = ForgetsSkips

    with pytest.raises(AssertionError, match="other pixels"):
        Suite().test_skipped_frames_read_as_0(tmp_path, "unsharded", (1, 2, 3))


def test_the_checksum_is_that_of_the_specification() -> None:
    """The check of shard indices knows the values of RFC 3720, appendix B.4."""
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E


def test_the_file_check_reads_an_index(tmp_path: Path) -> None:
    """A shard whose index points outside of the file is not valid, whatever its checksum says."""
    plan = make_plan(tmp_path / "data.zarr", TensorStoreSink, acquisition({"t": (2, 1, 2), "y": (4,), "x": (4,)}))
    index = np.array([[0, 32], [32, 32]], "<u8").tobytes()
    shard = plan.array_path(0) / "c" / "0" / "0" / "0"
    shard.parent.mkdir(parents=True)
    shard.write_bytes(bytes(64) + index + crc32c(index).to_bytes(4, "little"))
    check_files(plan)
    shard.write_bytes(bytes(63) + index + crc32c(index).to_bytes(4, "little"))
    with pytest.raises(AssertionError, match="outside of its data"):
        check_files(plan)
