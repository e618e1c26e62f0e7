"""Faults at the end and between the steps: an ending that fails twice, Ctrl-C, few files, shapes that promise much."""

from __future__ import annotations

import errno
import gc
import itertools
import random
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from io import FileIO
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ome_writers import OMEStream, _files, _running, create_stream
from ome_writers._dataset import DatasetFolder
from ome_writers._files import FileSystem
from ome_writers._lock import check_unlocked
from ome_writers.backends import _shards
from ome_writers.backends._shards import WRITING_FOLDER
from ome_writers.backends.direct import DirectSink
from ome_writers.engine import BufferPool, RecordLog, Workers, _pool, _workers
from ome_writers.engine._last_steps import LastSteps
from ome_writers.engine._upkeep import Upkeep
from ome_writers.errors import DatasetInUseError, WriteError
from ome_writers.settings import BufferSettings
from ome_writers.testing.datasets import READERS, Axes, acquisition, finish_documents, make_plan, random_pixels
from ome_writers.testing.faults import Faults, MemoryLayerSink
from readers import assert_holds, document, read_images
from test_engine import SINKS, MemorySink, build, wait_until

pytestmark = pytest.mark.timeout(60)

Pixels = npt.NDArray[Any]
PERIOD = "ome_writers.engine._upkeep._GROWTH_SECONDS"
LIMIT = 5.0  # s; what takes longer than that hangs
YX: Axes = {"y": (4, 2), "x": (3,)}
UNSEEN = pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
"""For tests of Ctrl-C anywhere: Python drops it in a finalizer, and leaves a file to one if it comes after open()."""


def open_shards_as(kind: type[FileIO], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the files of shards that are being written opened as this class."""

    class Files(FileSystem):
        def open(self, path: Path, mode: str) -> FileIO:
            return (kind if path.parent.name == "writing" else FileIO)(path, mode)

        def write(self, file: FileIO, offset: int, *pieces: memoryview) -> int:
            file.seek(offset)
            return file.write(b"".join(pieces))  # of the class above

    monkeypatch.setattr(_files, "system", Files())


@pytest.fixture(autouse=True)
def _streams_are_closed() -> Iterator[None]:
    """Close what a test that failed has left open, so that it fails alone."""
    yield
    for stream in _running.streams():
        in_time(stream.close)


def opened(path: Path, axes: Axes, **fields: Any) -> OMEStream:
    """Return a stream of backend "direct"."""
    settings = acquisition(axes)
    settings.root_path = str(path / "a.ome.zarr")
    settings.format = "direct"  # type: ignore[assignment]
    for name, value in fields.items():
        setattr(settings, name, value)
    return create_stream(settings)


def shape_of(stream: OMEStream, image: int = 0) -> list[int]:
    """Return the shape that stands in the document of an array now."""
    shape: list[int] = document(stream.path / stream._layout.images[image].array_path)["shape"]
    return shape


def numbers(frames: Iterable[range]) -> set[int]:
    """Return the numbers of frames that an error names."""
    return set(itertools.chain.from_iterable(frames))


def in_time(action: Callable[[], None]) -> list[BaseException]:
    """Carry out an action in a thread and return what it raised; fail if it hangs, and leave it where it is."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            action()
        except BaseException as error:  # noqa: BLE001  looked at by the test
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(LIMIT)
    assert not thread.is_alive(), "it hangs: a lock is still held"
    return errors


class Replacing:
    """Has documents fail at the moment they get their name: those whose path ends with ``ends``, ``times`` times."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: OSError, *ends: str, times: int = 1_000_000) -> None:
        self.failed = 0
        original = Path.replace

        def replace(path: Path, target: Path) -> Path:
            if self.failed < times and Path(target).as_posix().endswith(ends):
                self.failed += 1
                raise error
            return original(path, target)

        monkeypatch.setattr(Path, "replace", replace)


def disk_full() -> OSError:
    """Return the error of a full disk."""
    return OSError(errno.ENOSPC, "No space left on device")


# ---- an ending that fails ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ends", [("/0/zarr.json", "/1/zarr.json"), ("METADATA.ome.xml",), ("zarr.json", "METADATA.ome.xml")]
)
def test_lost_frames_are_named_when_a_later_step_fails_too(
    tmp_path: Path, ends: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full for the last shards and for the documents after them: the frames in the shards are named."""
    full = threading.Event()

    class File(FileIO):
        def write(self, data: Any) -> int:
            if full.is_set():
                raise disk_full()
            return super().write(data)

    open_shards_as(File, monkeypatch)
    stream = opened(tmp_path, {"t": (8, 1, 8), "p": (2,), **YX})
    for frame in random_pixels((6, 4, 3), "uint16"):
        stream.append(frame, frame_metadata={"delta_t": 1.0})
    stream.flush()
    with monkeypatch.context() as patch:
        replacing = Replacing(patch, disk_full(), *ends)
        full.set()
        with pytest.raises(WriteError, match="No space left") as caught:
            stream.close()
    assert replacing.failed
    assert caught.value.frames == (range(6),)
    assert stream.closed


@pytest.mark.parametrize("sharded", [False, True])
def test_frames_beyond_the_shape_on_disk_are_named(
    tmp_path: Path, sharded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody reads frames outside of the shape in zarr.json: if the last one can't be written, they are lost."""
    stream = opened(tmp_path, {"t": (None, 1, 2) if sharded else (None,), "p": (2,), **YX})
    images = random_pixels((2, 6, 4, 3), "uint16")
    for number in range(12):
        if number == 6:
            stream.flush()
            path = stream._layout.images[1].array_path
            replacing = Replacing(monkeypatch, disk_full(), f"/{path}/zarr.json")
        stream.append(images[number % 2, number // 2])
    with pytest.raises(WriteError, match=r"(?i)shape|document|zarr\.json") as caught:
        stream.close()
    assert replacing.failed
    assert stream.closed
    assert shape_of(stream, 0)[0] == 6
    held = shape_of(stream, 1)[0]
    assert 0 < held < 6
    assert numbers(caught.value.frames) == {2 * step + 1 for step in range(held, 6)}
    first, second = read_images(stream.path)
    assert np.array_equal(first, images[0])
    assert np.array_equal(second, images[1, :held])


# ---- Ctrl-C --------------------------------------------------------------------------------------------------------


class Interruption:
    """Raises KeyboardInterrupt at one of the moments inside of functions at which CPython looks for signals.

    These are the beginning of a Python function and the return from any function, in this thread.
    """

    def __init__(self, moment: int, *functions: Any) -> None:
        self._moment = moment
        self._codes = {function.__code__ for function in functions}
        self._depth = 0
        self._seen = 0
        self.raised = False

    def during(self, action: Callable[[], None]) -> None:
        """Carry an action out, as far as it gets."""
        gc.disable()  # an interruption in a finalizer would be swallowed
        sys.setprofile(self._look)
        try:
            action()
        except KeyboardInterrupt:
            assert self.raised
        finally:
            sys.setprofile(None)
            gc.enable()

    def _strike(self) -> None:
        raise KeyboardInterrupt

    def _look(self, frame: FrameType, event: str, arg: Any) -> None:
        watched = frame.f_code in self._codes
        if watched and event in ("call", "return"):
            self._depth += 1 if event == "call" else -1
        if not self._depth or self.raised or event not in ("call", "return", "c_return"):
            return
        if self._seen == self._moment:
            self.raised = True
            self._strike()
        self._seen += 1


@SINKS
def test_ctrl_c_anywhere_on_the_way_leaves_no_lock(tmp_path: Path, kind: type[MemorySink]) -> None:
    """Wherever Ctrl-C strikes while memory is taken or work handed over: close ends, and no frame is lost silently."""
    moment = 0
    while interrupted_on_the_way(tmp_path, kind, moment):
        moment += 1
    assert moment > 4


def interrupted_on_the_way(folder: Path, kind: type[MemorySink], moment: int) -> bool:
    """Append three frames and close, interrupted at a moment; return whether there was such a moment."""
    axes: Axes = {"t": (4,), "y": (4,), "x": (6,)}
    rig = build(acquisition(axes), folder, kind, buffer=BufferSettings(workers=1), batch=1)
    interruption = Interruption(moment, BufferPool.acquire, Workers.submit)
    lost: set[int] = set()
    for _ in range(3):
        with suppress(WriteError):  # it may take no more
            interruption.during(lambda: rig.append_numbered(1))
    for error in in_time(lambda: rig.engine.close((rig.sink.close,))):
        assert isinstance(error, WriteError)
        lost |= numbers(error.frames)
    assert rig.engine.closed
    counts, pixels = rig.sink.counts(0), rig.written()[0]
    for number in range(rig.engine.frames):
        assert number in lost or (counts[number] == 1 and (pixels[number] == number + 1).all())
    assert len(lost) <= 1 or rig.assembly.in_order  # then nothing is written after a lost one
    return interruption.raised


@pytest.mark.parametrize("moment", range(30))
def test_ctrl_c_anywhere_in_a_wait_leaves_no_lock(moment: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever Ctrl-C strikes in the wait for memory: the caller gets it, and memory can be given back and taken."""
    monkeypatch.setattr(_pool, "_POLL_SECONDS", 0.001, raising=False)
    pool = BufferPool(8, 1, BufferSettings(timeout=LIMIT))
    buffer = pool.acquire(lambda: None)
    interruption = Interruption(moment, BufferPool.acquire)
    interruption.during(lambda: take(pool))
    assert interruption.raised

    def give_back_and_take() -> None:
        pool.release(buffer)
        take(pool)

    assert in_time(give_back_and_take) == []
    assert pool.used == 1


@pytest.mark.parametrize("moment", range(25))
def test_ctrl_c_anywhere_in_the_wait_of_close(tmp_path: Path, moment: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever Ctrl-C strikes while close waits for the writers: the next close completes the work."""
    monkeypatch.setattr(_workers, "_POLL_SECONDS", 0.001, raising=False)
    gate = threading.Event()
    rig = build(acquisition({"t": (4,), "y": (4,), "x": (6,)}), tmp_path, MemoryLayerSink, faults=Faults(gate=gate))
    interruption = Interruption(moment, Workers.wait)
    try:
        rig.append_numbered(4)
        assert rig.sink.begun.wait(LIMIT)
        interruption.during(lambda: rig.engine.close((rig.sink.close,)))
    finally:
        threading.Timer(0.02, gate.set).start()  # the next close has to wait, too
        errors = in_time(lambda: rig.engine.close((rig.sink.close,)))
    assert interruption.raised
    assert errors == []
    assert [int(frame[0, 0]) for frame in rig.written()[0]] == [1, 2, 3, 4]
    assert rig.sink.closed == 1


def take(pool: BufferPool) -> None:
    """Take a buffer."""
    pool.acquire(lambda: None)


def interrupt_once(patch: pytest.MonkeyPatch, owner: type, name: str, *, when: str) -> list[int]:
    """Have a method raise KeyboardInterrupt at its first call; return a list that is not empty when it has."""
    original = getattr(owner, name)
    calls: list[int] = []

    def method(self: Any, *args: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 1 and when == "before":
            raise KeyboardInterrupt
        result = original(self, *args, **options)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return result

    patch.setattr(owner, name, method)
    return calls


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("owner", "name"),
    [(RecordLog, "close"), (DirectSink, "close"), (DatasetFolder, "write_text"), (_shards.Shard, "finish")],
    ids=["records", "sink", "document", "shard"],
)
def test_ctrl_c_in_close_leaves_a_whole_dataset(
    tmp_path: Path, owner: type, name: str, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C after the last block: shards are complete and the shape is right, if need be after another close."""
    stream = opened(tmp_path, {"t": (None, 1, 4), "y": (4, 2, 1), "x": (3,)})
    frames = random_pixels((10, 4, 3), "uint16")
    for number, frame in enumerate(frames):
        stream.append(frame, frame_metadata={"delta_t": float(number)})
    stream.flush()
    with monkeypatch.context() as patch:
        calls = interrupt_once(patch, owner, name, when=when)
        with pytest.raises(KeyboardInterrupt):
            stream.close()
        assert calls
    lost: set[int] = set()
    for _ in range(3):
        try:
            stream.close()
        except WriteError as error:
            lost |= numbers(error.frames)
    assert stream.closed
    if owner is not _shards.Shard:
        assert not lost
        assert_holds(stream.path, [frames])
        assert not (stream.path / WRITING_FOLDER).exists()
    assert shape_of(stream) == [10, 4, 3]
    (held,) = read_images(stream.path)
    for number in range(10):
        assert number in lost or np.array_equal(held[number], frames[number])


@UNSEEN
@pytest.mark.parametrize("moment", [*range(40), *range(40, 10_000, 199)])
def test_ctrl_c_anywhere_in_the_last_steps_of_close(tmp_path: Path, moment: int) -> None:
    """Wherever Ctrl-C strikes in what close does last, between its steps, too: the next close does the rest of them."""
    stream = opened(tmp_path, {"t": (None, 1, 4), "y": (4, 2, 1), "x": (3,)})
    frames = random_pixels((6, 4, 3), "uint16")
    for number, frame in enumerate(frames):
        stream.append(frame, frame_metadata={"delta_t": float(number)})
    Interruption(moment, LastSteps.carry_out).during(stream.close)
    for _ in range(3):
        stream.close()
    assert stream.closed
    assert_holds(stream.path, [frames])
    assert not (stream.path / WRITING_FOLDER).exists()
    assert shape_of(stream) == [6, 4, 3]
    check_unlocked(stream.path)


@pytest.mark.parametrize("count", [2, 3])
def test_whoever_closes_second_waits_for_the_first(tmp_path: Path, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread takes the dataset for complete, and unlocked, before it is."""
    stream, close = opened(tmp_path, {"t": (3, 1, 4), "y": (4,), "x": (3,)}), DirectSink.close
    inside, gate = threading.Event(), threading.Event()
    done: list[bool] = []
    returned = threading.Event()

    def slow(sink: DirectSink) -> None:
        inside.set()
        assert gate.wait(10)
        close(sink)

    def end() -> None:
        stream.close()
        done.append(stream.closed)
        returned.set()

    monkeypatch.setattr(DirectSink, "close", slow)
    stream.append(random_pixels((4, 3), "uint16"))
    threads = [threading.Thread(target=end) for _ in range(count)]
    for thread in threads:
        thread.start()
    assert inside.wait(10)
    assert not returned.wait(0.1)
    with pytest.raises(DatasetInUseError):
        check_unlocked(stream.path)
    gate.set()
    for thread in threads:
        thread.join(10)
    assert done == [True] * count
    check_unlocked(stream.path)


# ---- replacing the dataset of a process that was killed ------------------------------------------------------------


def test_a_dataset_whose_writer_was_killed_is_replaced(tmp_path: Path) -> None:
    """What a killed process has left of shards is part of its dataset, so that overwrite=True replaces it."""
    axes: Axes = {"t": (None, 1, 4), "y": (4, 2, 1), "x": (3,)}
    frames = random_pixels((6, 4, 3), "uint16")
    stream = opened(tmp_path / "running", axes)
    for frame in frames:
        stream.append(frame)
    stream.flush()
    killed = tmp_path / "killed" / "a.ome.zarr"
    shutil.copytree(stream.path, killed)
    stream.close()
    assert any(file.is_file() for file in (killed / WRITING_FOLDER).iterdir())
    with opened(tmp_path / "killed", axes, overwrite=True) as again:
        assert again.path == killed
        again.append(frames[5])
    assert_holds(killed, [frames[5:]])
    assert not (killed / WRITING_FOLDER).exists()
    assert [path.name for path in killed.parent.iterdir()] == ["a.ome.zarr"]


# ---- growth --------------------------------------------------------------------------------------------------------

ORDERS = ["as acquired", "channel by channel", "shuffled"]


@pytest.mark.parametrize("order", ORDERS)
def test_the_readable_extent_promises_no_incomplete_shard(tmp_path: Path, order: str) -> None:
    """With several shards for a step, it can be read when the last of them is complete, and all those before it."""
    settings = acquisition({"t": (None, 1, 4), "c": (3, 1, 1), "y": (4, 2, 1), "x": (3,)})
    plan = make_plan(tmp_path / "a.zarr", DirectSink, settings)
    pixels = random_pixels((8, 3, 4, 3), "uint16")
    pixels[5, 1] = pixels[2, 2] = 0  # skipped
    cells = list(np.ndindex(8, 3))
    if order == "channel by channel":
        cells.sort(key=lambda cell: (-(cell[0] // 4), cell[1]))  # the later shards first
    elif order == "shuffled":
        random.Random(0).shuffle(cells)  # noqa: S311
    tasks: list[tuple[tuple[int, int], int | None]] = []
    for cell in cells:
        tasks += [(cell, row) for row in (0, 1)] if pixels[cell].any() else [(cell, None)]
    done: dict[tuple[int, ...], int] = {}
    extents = [0]
    with closing(DirectSink(plan)) as sink:
        for cell, row in tasks:
            if row is None:
                sink.skip_layer(0, cell)
            else:
                sink.write_chunks(0, cell, row, pixels[cell][2 * row : 2 * row + 2].reshape(1, 1, 1, 1, 2, 3))
            done[cell] = done.get(cell, 0) + (2 if row is None else 1)
            extent = sink.readable_extent(0)
            assert extent is not None
            if extent != extents[-1]:
                finish_documents(plan, extent)
            held = READERS["tensorstore"](plan.array_path(0)) if extent else pixels[:0]
            for index, rows in done.items():
                if index[0] < extent:
                    assert np.array_equal(held[index][: 2 * rows], pixels[index][: 2 * rows])
            extents.append(extent)
    assert extents == sorted(extents)
    assert extents[-1] == 8  # and all that can be read is promised
    assert 4 in extents or order != "as acquired"


def test_a_growing_shape_promises_no_incomplete_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever opens a dataset of several shards for a step reads every frame that was appended and is in its shape."""
    monkeypatch.setattr(PERIOD, 0.0)
    frames = random_pixels((9, 3, 4, 3), "uint16")
    with opened(tmp_path, {"t": (None, 1, 4), "c": (3, 1, 1), "y": (4, 2, 1), "x": (3,)}) as stream:
        for number, index in enumerate(np.ndindex(9, 3)):
            stream.append(frames[index])
            stream.flush()
            extent = shape_of(stream)[0]
            if extent:
                (held,) = read_images(stream.path)
                for known in list(np.ndindex(9, 3))[: number + 1]:
                    assert known[0] >= extent or np.array_equal(held[known], frames[known])
            if (number + 1) % 12 == 0:
                assert extent == (number + 1) // 3
    assert_holds(stream.path, [frames])


@pytest.mark.parametrize("shard", [None, 5])
def test_the_shape_catches_up_after_a_burst(tmp_path: Path, shard: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a burst of frames, the shape says so soon, though no other frame comes."""
    monkeypatch.setattr(PERIOD, 0.2)
    frames = random_pixels((20, 4, 3), "uint16")
    with opened(tmp_path, {"t": (None, 1, shard), "y": (4,), "x": (3,)}) as stream:
        for burst in (frames[:10], frames[10:]):
            for frame in burst:
                stream.append(frame)
            extent, end = stream.stats.frames_appended, time.monotonic() + 3
            while shape_of(stream)[0] < extent and time.monotonic() < end:
                time.sleep(0.01)
            assert shape_of(stream)[0] == extent
            assert_holds(stream.path, [frames[:extent]])


@pytest.mark.parametrize("then", ["flush", "close"])
def test_one_failed_replacement_of_a_growing_document(
    tmp_path: Path, then: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A document that can't be replaced while a reader has it open, as on Windows, is replaced next time."""
    monkeypatch.setattr(PERIOD, 0.0)
    images = random_pixels((2, 2, 4, 3), "uint16")
    stream = opened(tmp_path, {"t": (None,), "p": (2,), **YX}, buffer=BufferSettings(workers=1))
    path = stream._layout.images[0].array_path
    replacing = Replacing(monkeypatch, PermissionError(13, "Access is denied"), f"{path}/zarr.json", times=1)
    stream.append(images[0, 0])
    wait_until(lambda: replacing.failed == 1)
    stream.append(images[1, 0])
    if then == "flush":
        stream.flush()
        assert_holds(stream.path, [images[0, :1], images[1, :1]])
    stream.append(images[0, 1])
    stream.append(images[1, 1])
    stream.close()
    assert_holds(stream.path, [images[0], images[1]])
    assert not list(stream.path.rglob("*.partial"))


# ---- files ---------------------------------------------------------------------------------------------------------


class FewFiles:
    """A system in which only so many files of shards can be open."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
        self.refused = 0
        self._open = 0
        self._lock = threading.Lock()
        few = self

        class File(FileIO):
            def __init__(self, path: Any, mode: str) -> None:
                self._counted = False
                with few._lock:
                    if few._open >= limit:
                        few.refused += 1
                        raise OSError(errno.EMFILE, "Too many open files", str(path))
                    few._open += 1
                    self._counted = True
                super().__init__(path, mode)

            def close(self) -> None:
                super().close()
                with few._lock:
                    few._open -= self._counted
                    self._counted = False

        open_shards_as(File, monkeypatch)


@pytest.mark.parametrize("workers", [1, 2])
def test_another_shard_is_closed_when_too_many_files_are_open(
    tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process may have fewer files than the sink holds open: it does with those, and nothing is lost."""
    few = FewFiles(monkeypatch, 3)
    frames = random_pixels((6, 12, 3), "uint16")
    with opened(
        tmp_path, {"t": (6, 1, 4), "y": (12, 2, 1), "x": (3,)}, buffer=BufferSettings(workers=workers)
    ) as stream:
        for frame in frames:
            stream.append(frame)
    assert few.refused
    assert_holds(stream.path, [frames])


def test_no_file_can_be_opened_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no other shard to close, the error is raised, and the frame is named."""
    FewFiles(monkeypatch, 0)
    stream = opened(tmp_path, {"t": (4, 1, 4), "y": (4, 2, 1), "x": (3,)})
    stream.append(random_pixels((4, 3), "uint16"))
    (error,) = in_time(stream.close)
    assert isinstance(error, WriteError)
    assert "Too many open files" in str(error)
    assert error.frames == (range(1),)


# ---- skipping ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("axes", "shards"),
    [
        ({"t": (4, 1, 2), "y": (4,), "x": (3,)}, {(0, (0,)), (0, (1,))}),
        ({"t": (4,), **YX}, {None}),
        ({"t": (4, 1, 2), "y": (4, 2, 1), "x": (3,)}, {None}),
    ],
    ids=["shards", "files", "shards in the frame"],
)
def test_workers_are_told_which_shard_a_layer_goes_to(
    tmp_path: Path, axes: Axes, shards: set[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layers of one shard have its name, so that two shards can grow at once; those in several shards have none."""
    monkeypatch.setattr("ome_writers.engine._assembly._GROUP_BYTES", 1)  # small layers go together, in order
    stream = opened(tmp_path, axes)
    submit, found = stream._engine._workers.submit, list[Any]()

    def noted(task: Callable[[], None], shard: Any = None) -> None:
        found.append(shard)
        submit(task, shard)

    monkeypatch.setattr(stream._engine._workers, "submit", noted)
    for frame in random_pixels((4, *stream._engine._frame_shape), "uint16"):
        stream.append(frame)
    assert set(found) == shards
    assert len(found) >= 4
    stream.close()


def test_ctrl_c_ends_the_waiting_for_a_sync_not_the_stream(tmp_path: Path) -> None:
    """Who syncs, or waits for another thread that does, can be interrupted, and goes on with the stream."""
    errors: list[BaseException] = []
    upkeep = Upkeep(lambda _: None, lambda: None, errors.append)

    class Interrupted:
        def __enter__(self) -> None:
            raise KeyboardInterrupt

        def __exit__(self, *_: object) -> None:
            raise AssertionError

    syncing = upkeep._syncing
    upkeep._syncing = Interrupted()  # type: ignore[assignment]  # stands in for a lock
    with pytest.raises(KeyboardInterrupt):
        upkeep.sync()
    assert errors == []
    upkeep._syncing = syncing
    upkeep.sync()
    upkeep._sync = lambda: (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        upkeep.sync()
    assert errors == []
    upkeep._sync = lambda: (_ for _ in ()).throw(OSError("no medium"))
    upkeep.sync()
    assert [type(error) for error in errors] == [OSError]


def test_skipped_layers_without_shards_queue_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Skipping costs no call of a writer where there are no shards to complete, however many frames are skipped."""
    frames = random_pixels((2, 4, 3), "uint16")
    stream = opened(tmp_path, {"t": (None,), **YX})
    submitted: list[Any] = []
    submit = stream._engine._workers.submit

    def counted(task: Callable[[], None], *shard: Any) -> None:
        submitted.append(task)
        submit(task, *shard)

    monkeypatch.setattr(stream._engine._workers, "submit", counted)
    stream.append(frames[0])
    stream.flush()
    before = len(submitted)
    stream.skip(frames=500)
    assert len(submitted) == before
    assert not stream._engine._deliveries._ready
    stream.append(frames[1])
    stream.skip(frames=3)
    stream.close()
    expected = np.zeros((505, 4, 3), np.uint16)
    expected[0], expected[501] = frames
    assert_holds(stream.path, [expected])
    assert stream.stats.frames_skipped == 503


def test_an_interrupted_copy_that_is_skipped_gives_its_memory_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A layer that is skipped after Ctrl-C in the copy of its frame holds memory, which is free again after it."""
    stream = opened(tmp_path, {"t": (3,), **YX})
    form = stream._engine._assembly.place(0)[0].form
    with monkeypatch.context() as patch:
        interrupt_once(patch, type(form), "put", when="after")
        with pytest.raises(KeyboardInterrupt):
            stream.append(random_pixels((4, 3), "uint16"))
    stream.skip(frames=3)
    stream.flush()
    assert stream.stats.buffered_bytes == 0
    stream.close()
    assert_holds(stream.path, [np.zeros((3, 4, 3), np.uint16)])
