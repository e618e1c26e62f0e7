"""Small layers that go to the sink together: in the right place, and told apart when something fails."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ome_writers import AcquisitionSettings, BufferSettings, Dimension, create_stream
from ome_writers.abc import LayersLostError
from ome_writers.backends.direct import DirectSink
from ome_writers.engine import _assembly
from ome_writers.errors import WriteError
from readers import assert_holds

pytestmark = pytest.mark.timeout(60)

FRAMES = np.arange(60 * 6 * 10, dtype=np.uint16).reshape(60, 6, 10) + 1


def declared(path: Path, *, shard: int = 8, positions: int = 1, **fields: Any) -> AcquisitionSettings:
    """Return settings of 60 small frames in chunks of one frame."""
    dimensions = [
        Dimension(name="t", count=60 // positions, chunk_size=1, shard_size_chunks=shard),
        *([Dimension(name="p", type="position", count=positions)] if positions > 1 else []),
        Dimension(name="y", count=6, chunk_size=4, shard_size_chunks=2),
        Dimension(name="x", count=10, chunk_size=5, shard_size_chunks=2),
    ]
    return AcquisitionSettings(
        root_path=str(path / "a.ome.zarr"), dimensions=tuple(dimensions), dtype="uint16", format="direct", **fields
    )


class Held:
    """Holds back the writers until all frames are there, and notes how many layers are written together."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.gate = threading.Event()
        self.sizes: list[int] = []
        self.failing: set[int] = set()  # steps of t
        together, single = DirectSink.write_layers, DirectSink.write_chunks

        def write_layers(sink: DirectSink, array: int, cells: Any, layers: Any) -> None:
            self.gate.wait(20)
            self.sizes.append(len(cells))
            self.fail_for(cells)
            together(sink, array, cells, layers)

        def write_chunks(sink: DirectSink, array: int, cell: Any, first_row: int, chunks: Any) -> None:
            self.fail_for([cell])
            single(sink, array, cell, first_row, chunks)

        monkeypatch.setattr(DirectSink, "write_layers", write_layers)
        monkeypatch.setattr(DirectSink, "write_chunks", write_chunks)

    def fail_for(self, cells: Any) -> None:
        """Raise if one of the layers is to fail."""
        if any(cell[0] in self.failing for cell in cells):
            raise OSError(28, "No space left on device")


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("compression", ["none", "blosc-lz4"])
@pytest.mark.parametrize("positions", [1, 2])
def test_layers_are_written_together_when_writers_are_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int, compression: str, positions: int
) -> None:
    """Layers that wait are appended together, those of one shard at a time, and read back as they were."""
    held = Held(monkeypatch)
    settings = declared(
        tmp_path, positions=positions, compression=compression, buffer=BufferSettings(workers=workers)
    )  # fmt: skip
    with create_stream(settings) as stream:
        for number, frame in enumerate(FRAMES):
            if number in (17, 18, 59):
                stream.skip()
            else:
                stream.append(frame)
        held.gate.set()
    assert max(held.sizes) > 1
    assert max(held.sizes) <= 8
    expected = FRAMES.copy()
    expected[[17, 18, 59]] = 0
    assert_holds(tmp_path / "a.ome.zarr", [expected[p::positions] for p in range(positions)])


def test_a_layer_alone_is_not_held_back(tmp_path: Path) -> None:
    """A layer is written as soon as it is complete, with nothing else to come."""
    stream = create_stream(declared(tmp_path))
    stream.append(FRAMES[0])
    stream.flush()
    assert stream.stats.frames_written == 1
    stream.close()


def test_no_more_tasks_wait_than_there_are_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task takes whatever is ready, so that as many as there are workers do, and nothing piles up frame by frame."""
    monkeypatch.setattr(_assembly, "_GROUP_BYTES", 4 * 160)
    held = Held(monkeypatch)
    with create_stream(declared(tmp_path, buffer=BufferSettings(workers=2))) as stream:
        workers = stream._engine._workers
        for frame in FRAMES:
            stream.append(frame)
            assert len(workers._tasks) <= 2
        held.gate.set()
    assert sum(held.sizes) == 60
    assert max(held.sizes) == 4
    assert_holds(tmp_path / "a.ome.zarr", [FRAMES])


@pytest.mark.parametrize("end", ["flush", "close"])
def test_a_layer_that_an_interruption_has_left_without_a_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """It is written with the others, and gives its memory back; nobody waits for it for ever."""
    stream = create_stream(declared(tmp_path, buffer=BufferSettings(workers=2)))
    deliveries = stream._engine._deliveries
    call = deliveries._call_for_ready
    monkeypatch.setattr(deliveries, "_call_for_ready", lambda: None)
    for frame in FRAMES:
        stream.append(frame)
    assert len(deliveries._ready) == 60
    monkeypatch.setattr(deliveries, "_call_for_ready", call)
    if end == "flush":
        stream.flush()
        assert stream.stats.frames_written == 60
    stream.close()
    assert (stream.stats.frames_written, stream.stats.buffered_bytes) == (60, 0)
    assert_holds(tmp_path / "a.ome.zarr", [FRAMES])


def test_layers_that_fail_are_told_from_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When one of several layers can't be written, it alone is named, and the others are on disk."""
    held = Held(monkeypatch)
    held.failing = {3, 20, 21}
    stream = create_stream(declared(tmp_path, buffer=BufferSettings(workers=2)))
    for frame in FRAMES:
        stream.append(frame)
    held.gate.set()
    with pytest.raises(WriteError, match=r"not on disk: 3, 20 to 21\.") as caught:
        stream.close()
    assert caught.value.frames == (range(3, 4), range(20, 22))
    assert stream.stats.frames_written == 57
    assert stream.stats.buffered_bytes == 0
    expected = FRAMES.copy()
    expected[[3, 20, 21]] = 0
    assert_holds(tmp_path / "a.ome.zarr", [expected])


def test_a_full_buffer_that_raises_takes_the_frame_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With small layers, too, a frame that was refused can be appended again, and all end in their places."""
    from ome_writers.errors import BufferFullError

    held = Held(monkeypatch)
    layer = 2 * 2 * 4 * 5 * 2
    stream = create_stream(declared(tmp_path, buffer=BufferSettings(max_bytes=12 * layer, on_full="raise", workers=1)))
    refused = 0
    for frame in FRAMES:
        while True:
            try:
                stream.append(frame)
            except BufferFullError:
                refused += 1
                held.gate.set()
            else:
                break
    stream.close()
    assert refused
    assert_holds(tmp_path / "a.ome.zarr", [FRAMES])


def test_leaving_a_with_block_names_all_lost_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error that ends a with block names what close has found lost, too, not only what was known when it rose."""
    held = Held(monkeypatch)
    held.failing = {3}
    close = DirectSink.close

    def close_badly(sink: DirectSink) -> None:
        close(sink)
        raise LayersLostError("a shard is gone", [(0, (5,))])

    monkeypatch.setattr(DirectSink, "close", close_badly)

    def acquire() -> None:
        with create_stream(declared(tmp_path)) as stream:
            for frame in FRAMES[:8]:
                stream.append(frame)
            held.gate.set()
            stream.flush()

    with pytest.raises(WriteError, match=r"not on disk: 3\.") as caught:
        acquire()
    assert caught.value.frames == (range(3, 4), range(5, 6))
    assert "a shard is gone" in caught.value.__notes__[0]
