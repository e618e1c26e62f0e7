"""Layers of chunks: how frames are cut while they are copied, and how a layer that is written in parts fails."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ome_writers._layout import ArrayGeometry, plan_layout
from ome_writers.engine import _engine, _forms, _upkeep
from ome_writers.engine._forms import ChunkMajor
from ome_writers.errors import WriteError
from ome_writers.settings import AcquisitionSettings, BufferSettings
from ome_writers.testing.datasets import acquisition, random_pixels
from ome_writers.testing.faults import Faults, MemoryLayerSink
from test_engine import DISK_FULL, FORMS, Rig, Start, build, least_memory, start, wait_until

__all__ = ["start"]

pytestmark = pytest.mark.timeout(60)

Pixels = npt.NDArray[Any]


@st.composite
def layered(draw: st.DrawFn) -> AcquisitionSettings:
    """Draw an acquisition whose chunks fit neither its frames nor its steps."""
    names = draw(st.permutations(["t", "c", "z"]))
    axes: dict[str, tuple[int | None, ...]] = {
        name: (draw(st.integers(1, 5)), draw(st.integers(1, 4)), draw(st.integers(1, 3)))
        for name in names[: draw(st.integers(0, 3))]
    }
    unbounded, with_positions = draw(st.booleans()), draw(st.booleans())
    if axes and unbounded:
        first = next(iter(axes))
        axes[first] = (None, *axes[first][1:])
    if axes and with_positions:
        axes["p"] = (draw(st.integers(1, 2)),)
    axes["y"] = (draw(st.integers(1, 11)), draw(st.integers(1, 12)))
    axes["x"] = (draw(st.integers(2, 11)), draw(st.integers(1, 12)))
    return acquisition(axes, draw(st.sampled_from(["uint8", "uint16", "float32"])))


def cut(frame: Pixels, geometry: ArrayGeometry) -> Pixels:
    """Return the chunks of a frame, shape (rows, columns, height, width): the plain way, with a padded copy."""
    rows, columns = geometry.layer_shape[:2]
    tall, wide = geometry.chunks[-2:]
    padded = np.zeros((rows * tall, columns * wide), geometry.dtype)
    padded[: frame.shape[0], : frame.shape[1]] = frame
    return padded.reshape(rows, tall, columns, wide).swapaxes(1, 2)


# ---- cutting -------------------------------------------------------------------------------------------------------

ARRAYS = {name: form for name, form in FORMS.items() if name not in ("list", "tuple", "memoryview", "subclass")}
AS_FRAMES: dict[str, Callable[[Pixels], Pixels]] = {
    **ARRAYS,
    "plain": lambda a: a,
    "transposed": lambda a: a.T.copy().T,
    "part of a larger one": lambda a: np.pad(a, 3)[3:-3, 3:-3],
    "smaller dtype": lambda a: (a % 200).astype(np.uint8),
}


@given(declared=layered(), form=st.sampled_from(list(AS_FRAMES)))
@example(declared=acquisition({"t": (3,), "y": (4,), "x": (6,)}), form="fortran")  # a chunk is a frame
@example(declared=acquisition({"t": (3, 2), "y": (4,), "x": (6,)}), form="reversed")
@example(declared=acquisition({"y": (7, 4), "x": (9, 5)}), form="transposed")  # there are no index axes
@example(declared=acquisition({"t": (3,), "y": (2, 5), "x": (9, 100)}), form="strided")
def test_frames_are_cut_into_chunks(declared: AcquisitionSettings, form: str) -> None:
    """Each frame lies in its chunks as on disk, whatever memory it comes in, and edges are padded with 0."""
    geometry = plan_layout(declared).geometry
    layer = ChunkMajor(geometry)
    buffer = np.zeros(layer.nbytes(()) + 24, np.uint8)  # a buffer may be larger
    pixels = layer.view(buffer, ())
    assert pixels.shape == geometry.layer_shape
    assert np.shares_memory(pixels, buffer)
    assert pixels.flags.c_contiguous
    steps = geometry.chunks[:-2]
    expected = np.zeros_like(pixels)
    for number, slot in enumerate(np.ndindex(*steps)):
        frame = AS_FRAMES[form](random_pixels(geometry.frame_shape, geometry.dtype, number))
        if form == "smaller dtype" and geometry.dtype == "float32":
            frame = frame.astype(np.float16)
        layer.put(pixels, slot, frame)
        expected[(slice(None), slice(None), *slot)] = cut(frame, geometry)
    assert pixels.tobytes() == expected.tobytes()
    missing = np.random.default_rng(0).random(steps) < 0.5
    layer.clear(pixels, missing)
    expected[:, :, missing] = 0
    assert pixels.tobytes() == expected.tobytes()
    assert not buffer[layer.nbytes(()) :].any()


@given(rows=st.integers(1, 40), part_bytes=st.integers(1, 5000), steps=st.integers(1, 3), columns=st.integers(1, 3))
def test_parts_of_a_layer(rows: int, part_bytes: int, steps: int, columns: int) -> None:
    """Parts are rows of chunks, each in one part, and about as large as wanted, or all of the layer."""
    geometry = plan_layout(
        acquisition({"t": (5, steps), "y": (rows * 4 - 1, 4), "x": (columns * 5 - 2, 5)}, "uint16")
    ).geometry
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_forms, "_PART_BYTES", part_bytes)
        layer = ChunkMajor(geometry)
    assert [row for part in layer.parts for row in range(part.start, part.stop)] == list(range(geometry.layer_shape[0]))
    row_bytes = layer.nbytes(()) // geometry.layer_shape[0]
    for part in layer.parts:
        size = (part.stop - part.start) * row_bytes
        assert size < 2 * part_bytes + row_bytes
        assert size > part_bytes - row_bytes or len(layer.parts) == 1


def test_small_layers_are_whole() -> None:
    """Layers of less than 32 MiB are written in one part."""
    axes = {"t": (9,), "y": (4096, 512), "x": (4096 - 256, 256)}
    assert len(ChunkMajor(plan_layout(acquisition(axes, "uint16")).geometry).parts) == 1
    assert len(ChunkMajor(plan_layout(acquisition(axes, "float32")).geometry).parts) == 3


# ---- layers --------------------------------------------------------------------------------------------------------


@given(
    declared=layered(),
    plan=st.lists(st.tuples(st.booleans(), st.integers(1, 5)), min_size=1, max_size=12),
    part_bytes=st.sampled_from([1, 100, 1 << 24]),
    workers=st.integers(1, 3),
    form=st.sampled_from(list(FORMS)),
)
@settings(max_examples=150)
def test_layers_in_memory_that_is_used_again(
    declared: AcquisitionSettings, plan: list[tuple[bool, int]], part_bytes: int, workers: int, form: str
) -> None:
    """With as few buffers as can be, what is skipped, not acquired or outside of the frame is 0 all the same."""
    least = least_memory(declared, MemoryLayerSink, workers)
    buffer = BufferSettings(max_bytes=least, workers=workers, timeout=20)
    with tempfile.TemporaryDirectory() as folder:
        rig = build(declared, Path(folder), MemoryLayerSink, buffer=buffer, part_bytes=part_bytes)
        assert isinstance(rig.sink, MemoryLayerSink)
        router = rig.engine._router
        frames: dict[tuple[int, tuple[int, ...]], Pixels] = {}
        geometry = rig.plan.geometry
        try:
            for acquired, run in plan * 3:
                left = run if router.total is None else router.total - rig.engine.frames
                for _ in range(min(run, left)):
                    number = rig.engine.frames
                    if acquired:
                        frames[router.locate(number)] = frame = random_pixels(
                            geometry.frame_shape, geometry.dtype, number
                        )
                        rig.append(FORMS[form](frame))
                    else:
                        rig.engine.skip(1)
        finally:
            rig.close()
        assert rig.sink.outside == 0
        for array, written in enumerate(rig.written()):
            expected = np.zeros_like(written)
            for (of, index), frame in frames.items():
                if of == array:
                    expected[index] = frame
            assert written.tobytes() == expected.tobytes()
            counts = rig.sink.row_counts(array)
            assert counts.max(initial=0) <= 1
            assert (counts == counts[..., :1]).all(), "a layer of which only parts were written"
        assert rig.engine.stats().frames_written == len(frames)
        assert rig.pool.used == 0


class InterruptsCutting:
    """A frame at whose second piece Ctrl-C strikes."""

    def __init__(self, frame: Pixels) -> None:
        self.frame = frame
        self.pieces = 0

    def __getitem__(self, part: Any) -> Pixels:
        self.pieces += 1
        if self.pieces == 2:
            raise KeyboardInterrupt
        return np.asarray(self.frame[part])


@pytest.mark.parametrize("then", ["skip", "append", "close"])
def test_half_a_frame_leaves_nothing(start: Start, then: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame that was interrupted while it was cut is not taken, and what was copied of it is nowhere to be seen."""
    rig = start({"t": (4, 2), "y": (5, 3), "x": (7, 4)}, kind=MemoryLayerSink)
    rig.append(np.full((5, 7), 1, np.uint16))
    with monkeypatch.context() as patch:
        patch.setattr(_engine, "as_frame", lambda *_: InterruptsCutting(np.full((5, 7), 9, np.uint16)))
        with pytest.raises(KeyboardInterrupt):
            rig.append(None)
    if then == "skip":
        rig.engine.skip(1)
    elif then == "append":
        rig.append(np.full((5, 7), 2, np.uint16))
    rig.close()
    second = 2 if then == "append" else 0
    assert [set(frame.ravel().tolist()) for frame in rig.written()[0]] == [{1}, {second}, {0}, {0}]


def test_half_a_frame_alone_in_its_layer(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer whose only frame was interrupted and then skipped is not written, and its memory comes back."""
    rig = start({"t": (3,), "y": (5, 3), "x": (7, 4)}, kind=MemoryLayerSink)
    with monkeypatch.context() as patch:
        patch.setattr(_engine, "as_frame", lambda *_: InterruptsCutting(np.full((5, 7), 9, np.uint16)))
        with pytest.raises(KeyboardInterrupt):
            rig.append(None)
    assert rig.pool.used == 1
    rig.engine.skip(1)
    rig.engine.flush()
    assert isinstance(rig.sink, MemoryLayerSink)
    assert (rig.sink.layers, rig.sink.skipped, rig.pool.used) == ([], [(0, (0,))], 0)


def test_growth_follows_what_can_be_read(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sink that knows how far others can read decides what is announced; otherwise it is what was written."""
    monkeypatch.setattr(_upkeep, "_GROWTH_SECONDS", 0.0)
    rig = start({"t": (None, 2, 3), "y": (4,), "x": (6,)}, kind=MemoryLayerSink, buffer=BufferSettings(workers=1))
    assert isinstance(rig.sink, MemoryLayerSink)
    sink = rig.sink
    monkeypatch.setattr(sink, "readable_extent", lambda _: len(sink.layers) * 2 // 6 * 6)
    rig.append_numbered(5)
    rig.engine.flush()
    assert rig.grown == []
    rig.append_numbered(9)
    rig.engine.flush()
    assert rig.grown == [{0: 6}, {0: 12}] or rig.grown == [{0: 12}]
    monkeypatch.setattr(sink, "readable_extent", lambda _: None)
    rig.append_numbered(2)
    rig.engine.flush()
    assert rig.grown[-1] == {0: 16}


# ---- layers in parts -----------------------------------------------------------------------------------------------

ROWS = 5
LARGE = {"t": (9, 2), "y": (4 * ROWS, 4), "x": (6,)}


def counted_releases(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that will hold the identity of every buffer that is given back."""
    released: list[int] = []
    release = rig.pool.release

    def note(buffer: npt.NDArray[np.uint8]) -> None:
        released.append(id(buffer))
        assert id(buffer) not in {id(free) for free in rig.pool._free}, "a buffer was given back twice"
        release(buffer)

    monkeypatch.setattr(rig.pool, "release", note)
    return released


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("failing", [{0}, {2}, {4}, {1, 3}, set(range(ROWS))], ids=str)
def test_a_part_that_fails(start: Start, failing: set[int], workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a part fails, all frames of its layer are named, other layers are written, and memory comes back once."""
    gate = threading.Event()
    errors = {ROWS + part: DISK_FULL for part in failing}  # of the second layer
    buffer = BufferSettings(workers=workers, timeout=20)
    rig = start(LARGE, kind=MemoryLayerSink, faults=Faults(gate=gate, errors=errors), buffer=buffer, part_bytes=1)
    assert isinstance(rig.sink, MemoryLayerSink)
    if workers > 1:  # writes are counted when they begin, in any order: have them fail by their place
        fail_rows_of(rig.sink, (1,), failing, monkeypatch)
    released = counted_releases(rig, monkeypatch)
    rig.append_numbered(7)
    gate.set()
    with pytest.raises(WriteError, match=r"No space left.*not on disk: 2 to 3\.") as caught:
        rig.close()
    assert (caught.value.array, caught.value.frames) == ("0", (range(2, 4),))
    assert rig.engine.closed
    assert rig.sink.closed == 1
    assert len(released) == 4
    assert rig.pool.used == 0
    written = {(cell, row) for _, cell, row, count in rig.sink.layers for row in range(row, row + count)}
    assert written == {((cell,), row) for cell in range(4) for row in range(ROWS)} - {((1,), row) for row in failing}
    assert rig.engine.stats().frames_written == 5
    assert rig.written()[0][:, 0, 0].tolist() == [1, 2, *([0, 0] if 0 in failing else [3, 4]), 5, 6, 7, 0, 0]


def fail_rows_of(sink: MemoryLayerSink, cell: tuple[int, ...], rows: set[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a sink fail for some rows of one layer, and no others."""
    monkeypatch.setattr(sink, "_faults", Faults(gate=sink._faults.gate))
    write = sink._store

    def store(array: int, origin: tuple[int, ...], block: Pixels, lines: slice, part: slice) -> None:
        if origin == tuple(2 * i for i in cell) and part.start in rows:
            raise DISK_FULL
        write(array, origin, block, lines, part)

    monkeypatch.setattr(sink, "_store", store)


def test_memory_is_held_until_the_last_part_is_written(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer of which a part is still being written keeps its pixels, whatever comes after it."""
    may_go = threading.Event()
    buffer = BufferSettings(workers=2, timeout=20)
    rig = start(LARGE, kind=MemoryLayerSink, buffer=buffer, part_bytes=1)
    assert isinstance(rig.sink, MemoryLayerSink)
    released = counted_releases(rig, monkeypatch)
    write = rig.sink._store

    def store(array: int, origin: tuple[int, ...], block: Pixels, lines: slice, part: slice) -> None:
        if origin == (0,) and part.start == 0:
            assert may_go.wait(20)
        write(array, origin, block, lines, part)

    monkeypatch.setattr(rig.sink, "_store", store)
    rig.append_numbered(6)
    sink = rig.sink
    wait_until(lambda: len(sink.layers) == 3 * ROWS - 1)
    wait_until(lambda: len(released) == 2)
    assert rig.pool.used == 1
    assert rig.engine.stats().frames_written == 4
    may_go.set()
    rig.close()
    assert rig.written()[0][:, 0, 0].tolist() == [1, 2, 3, 4, 5, 6, 0, 0, 0]
    assert rig.engine.stats().frames_written == 6
    assert len(released) == 3


def test_workers_share_a_layer(start: Start) -> None:
    """The parts of one layer are written side by side."""
    together = threading.Barrier(ROWS, timeout=20)
    rig = start(LARGE, kind=MemoryLayerSink, buffer=BufferSettings(workers=ROWS, timeout=20), part_bytes=1)
    rig.sink._misbehave = together.wait  # type: ignore[method-assign, assignment]
    rig.append_numbered(2)
    rig.engine.flush()
    assert rig.engine.stats().frames_written == 2


def test_a_layer_that_cannot_be_skipped(start: Start) -> None:
    """An error while a skipped layer is told of is raised, and no frame is said to be lost."""
    sharded = {"t": (9, 2, 2), "y": (4 * ROWS, 4, ROWS), "x": (6,)}
    rig = start(sharded, kind=MemoryLayerSink, faults=Faults(errors={0: DISK_FULL}))
    rig.engine.skip(2)
    rig.workers.wait()
    with pytest.raises(WriteError, match="No space left") as caught:
        rig.engine.skip(1)
    assert (caught.value.array, caught.value.frames) == ("0", ())
