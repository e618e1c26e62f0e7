"""What a layer sink must do: part of the suites of :mod:`ome_writers.testing.conformance`."""
# ruff: noqa: S101

from __future__ import annotations

import random
import threading
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pytest

from ome_writers.abc import LayerSink, WritePlan

from .block_conformance import BoxConformance
from .datasets import acquisition, block_origins, random_pixels, stored_chunks
from .sink_conformance import GRIDS, UNBOUNDED

__all__ = ["LayerSinkConformance"]

Pixels = npt.NDArray[Any]
Cell = tuple[int, ...]


class LayerSinkConformance(BoxConformance):
    """What a layer sink must do.

    Attributes
    ----------
    sink_class : type of LayerSink
        The sink to be tested.
    """

    sink_class: ClassVar[type[LayerSink]]

    # ---- tools -----------------------------------------------------------------------------------------------------

    def extent(self, plan: WritePlan) -> Cell:
        """Return the index steps of a whole layer."""
        return plan.geometry.index_extent("chunk")

    def cell(self, plan: WritePlan, origin: Cell) -> Cell:
        """Return the place of a layer in the chunk grid."""
        return tuple(o // c for o, c in zip(origin, plan.geometry.chunks, strict=False))

    def layer(self, plan: WritePlan, origin: Cell, pixels: Pixels) -> Pixels:
        """Return the layer at ``origin`` of ``pixels`` (the whole array's), padded with 0 and cut into chunks."""
        rows, columns, *chunk = plan.geometry.layer_shape
        (*steps, tall, wide) = chunk
        part = pixels[tuple(slice(o, o + n) for o, n in zip(origin, steps, strict=True))]
        whole = np.zeros((*steps, rows * tall, columns * wide), pixels.dtype)
        whole[tuple(map(slice, part.shape))] = part
        cut = whole.reshape(*steps, rows, tall, columns, wide)
        return np.ascontiguousarray(np.moveaxis(cut, (-4, -2), (0, 1)))

    def write(
        self,
        sink: LayerSink,
        plan: WritePlan,
        array: int,
        origin: Cell,
        pixels: Pixels,
        stored: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        """Write the layer at ``origin`` in two parts, the second first, then overwrite the memory it was in."""
        assert stored is None or stored.all(), "a layer is one chunk along the index axes"
        layer = self.layer(plan, origin, pixels)
        middle = len(layer) // 2
        for first, last in ((middle, len(layer)), (0, middle)):
            if first < last:
                sink.write_chunks(array, self.cell(plan, origin), first, layer[first:last])
                layer[first:last].view(np.uint8)[...] = 0xA5

    def skip(self, sink: LayerSink, plan: WritePlan, array: int, origin: Cell) -> None:
        """Tell the sink that no frame of a layer was acquired."""
        sink.skip_layer(array, self.cell(plan, origin))

    # ---- parts of layers -------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("grid", GRIDS)
    def test_rows_in_any_order(self, tmp_path: Path, grid: str) -> None:
        """Rows of chunks may come one by one, those of several layers mixed, in any order."""
        plan = self.plan(tmp_path, acquisition(GRIDS[grid]))
        pixels = random_pixels([n or 0 for n in plan.geometry.shape], "uint16")
        tasks = [
            (origin, row)
            for origin in block_origins(self.extent(plan), pixels.shape[:-2])
            for row in range(plan.geometry.layer_shape[0])
        ]
        random.Random(grid).shuffle(tasks)  # noqa: S311
        with closing(self.sink_class(plan)) as sink:
            for origin, row in tasks:
                rows = self.layer(plan, origin, pixels)[row : row + 1].copy()
                sink.write_chunks(0, self.cell(plan, origin), row, rows)
                rows.view(np.uint8)[...] = 0xA5
        self.check(plan, [pixels])

    @pytest.mark.parametrize("grid", ["uneven", "uneven shards", "sharded"])
    def test_parts_from_several_threads(self, tmp_path: Path, grid: str) -> None:
        """Several threads may write rows of the same layer at once, others skip layers meanwhile."""
        plan = self.plan(tmp_path, acquisition(GRIDS[grid]))
        pixels = random_pixels([n or 0 for n in plan.geometry.shape], "uint16")
        origins = block_origins(self.extent(plan), pixels.shape[:-2])
        tasks: list[tuple[Cell, int | None]] = []
        for number, origin in enumerate(origins):
            if number % 3 == 1:
                tasks.append((origin, None))
                pixels[tuple(slice(o, o + e) for o, e in zip(origin, self.extent(plan), strict=True))] = 0
            else:
                tasks += [(origin, row) for row in range(plan.geometry.layer_shape[0])]
        sink = self.sink_class(plan)
        start = threading.Barrier(4, timeout=30)
        errors: list[BaseException] = []

        def run(share: list[tuple[Cell, int | None]]) -> None:
            try:
                start.wait()
                for origin, row in share:
                    if row is None:
                        self.skip(sink, plan, 0, origin)
                    else:
                        rows = self.layer(plan, origin, pixels)[row : row + 1]
                        sink.write_chunks(0, self.cell(plan, origin), row, rows)
            except BaseException as error:  # noqa: BLE001  raised below, in the test's thread
                errors.append(error)

        threads = [threading.Thread(target=run, args=(tasks[i::4],)) for i in range(4)]
        with closing(sink):
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
            assert not any(thread.is_alive() for thread in threads)
            if errors:
                raise errors[0]
        self.check(plan, [pixels])
        written = {self.cell(plan, origin) for origin, row in tasks if row is not None}
        assert {chunk[:-2] for chunk in stored_chunks(plan, 0)} == written

    # ---- what can be read ------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("grid", UNBOUNDED)
    def test_what_is_said_to_be_readable_can_be_read(self, tmp_path: Path, grid: str) -> None:
        """While it writes, the sink never announces frames that others don't find, nor fewer than before."""
        plan = self.plan(tmp_path, acquisition(UNBOUNDED[grid]))
        pixels = random_pixels((13, 2, 8, 6), "uint16")
        step = self.extent(plan)[0]
        before = 0
        with closing(self.sink_class(plan)) as sink:
            for first in range(0, 13, step):
                for channel in range(2):
                    self.write(sink, plan, 0, (first, channel), pixels)
                readable = sink.readable_extent(0)
                extent = min(13, first + step) if readable is None else readable
                assert before <= extent <= first + step
                self.check(plan, [pixels[:extent]])
                before = extent
        self.check(plan, [pixels])

    @pytest.mark.parametrize("grid", ["unsharded", "sharded", "uneven shards"])
    def test_an_early_end(self, tmp_path: Path, grid: str) -> None:
        """Layers that never come leave their chunks out, and those beside them can be read after close."""
        plan = self.plan(tmp_path, acquisition(GRIDS[grid]))
        pixels = random_pixels([n or 0 for n in plan.geometry.shape], "uint16")
        first, *others = block_origins(self.extent(plan), pixels.shape[:-2])
        with closing(self.sink_class(plan)) as sink:
            self.write(sink, plan, 0, first, pixels)
        for origin in others:
            pixels[tuple(slice(o, o + e) for o, e in zip(origin, self.extent(plan), strict=True))] = 0
        self.check(plan, [pixels])
        assert {chunk[:-2] for chunk in stored_chunks(plan, 0)} == {self.cell(plan, first)}

    @pytest.mark.parametrize("grid", ["unsharded", "sharded"])
    def test_nothing_but_skipped_layers(self, tmp_path: Path, grid: str) -> None:
        """When all layers are skipped there are no files, and everything reads as 0."""
        plan = self.plan(tmp_path, acquisition(GRIDS[grid]))
        shape = [n or 0 for n in plan.geometry.shape]
        with closing(self.sink_class(plan)) as sink:
            for origin in block_origins(self.extent(plan), shape[:-2]):
                self.skip(sink, plan, 0, origin)
        assert not [file for file in plan.root.rglob("*") if file.is_file() and file.name != "zarr.json"]
        self.check(plan, [np.zeros(shape, np.uint16)])
