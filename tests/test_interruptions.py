"""Ctrl-C and handlers of signals, at every moment at which CPython looks for signals: nothing is lost silently."""

from __future__ import annotations

import errno
import gc
import itertools
import json
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest

from ome_writers import OMEStream, _files, _running
from ome_writers._dataset import DatasetFolder
from ome_writers._lock import DatasetLock, check_unlocked
from ome_writers.backends import _shards
from ome_writers.backends._shards import WRITING_FOLDER
from ome_writers.backends.direct import DirectSink
from ome_writers.engine import BufferPool, Engine, FrameFates, RecordLog, Workers, _workers
from ome_writers.engine._deliveries import Deliveries
from ome_writers.engine._forms import ChunkMajor
from ome_writers.engine._last_steps import LastSteps
from ome_writers.engine._parcels import Parcel
from ome_writers.engine._upkeep import Upkeep
from ome_writers.errors import DatasetInUseError, OMEWritersError, StreamClosedError, WriteError
from ome_writers.settings import BufferSettings
from ome_writers.testing.datasets import Axes, random_pixels
from readers import assert_holds, read_images
from test_engine import wait_until
from test_last_faults import LIMIT, UNSEEN, Interruption, in_time, opened, shape_of

pytestmark = pytest.mark.timeout(60)

PARTLY_FILLED: Axes = {"t": (None, 4, 2), "y": (4, 2, 1), "x": (3,)}


class Handled(Interruption):
    """Calls a function there instead, as a handler of a signal would be called."""

    def __init__(self, moment: int, handler: Callable[[], None], *functions: Any) -> None:
        super().__init__(moment, *functions)
        self._handler = handler
        self.done = False

    def _strike(self) -> None:
        sys.setprofile(None)
        self._handler()
        self.done = True


@UNSEEN
@pytest.mark.parametrize("moment", [*range(120), *range(120, 2000, 199)])
def test_ctrl_c_anywhere_in_close(tmp_path: Path, moment: int) -> None:
    """Layers that lack frames, which only close hands over, are on disk after the next close, whenever Ctrl-C came."""
    stream = opened(tmp_path, PARTLY_FILLED)
    frames = random_pixels((6, 4, 3), "uint16")
    for frame in frames:
        stream.append(frame)
    Interruption(moment, OMEStream.close).during(stream.close)
    for _ in range(2):
        stream.close()
    assert stream.closed
    assert_holds(stream.path, [frames])
    check_unlocked(stream.path)


def test_what_is_left_is_given_up_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though after Ctrl-C two workers may be about to do that."""
    stream = opened(tmp_path, PARTLY_FILLED, buffer=BufferSettings(workers=2))
    frames = random_pixels((6, 4, 3), "uint16")
    for frame in frames:
        stream.append(frame)
    engine, inside, most = stream._engine, list[int](), list[int]()
    rest, never = engine._assembly.rest, threading.Event()

    def slow() -> Sequence[Parcel]:
        inside.append(1)
        most.append(len(inside))
        never.wait(0.05)
        parcels = rest()
        inside.pop()
        return parcels

    monkeypatch.setattr(engine._assembly, "rest", slow)
    for _ in range(2):
        engine._workers.submit(engine._send_all)
    stream.close()
    assert max(most) == 1
    assert stream.stats.frames_written == 6
    assert_holds(stream.path, [frames])


@pytest.mark.parametrize("moment", range(70))
@pytest.mark.parametrize("backend", ["direct", "acquire-zarr"])
def test_ctrl_c_anywhere_in_flush(tmp_path: Path, moment: int, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next flush waits for all that there is, and frames after it land where they belong."""
    if backend == "acquire-zarr":
        pytest.importorskip("acquire_zarr")
    monkeypatch.setattr(_workers, "_POLL_SECONDS", 0.001, raising=False)
    stream = opened(tmp_path, {"t": (None, 1, 4), "y": (4,), "x": (3,)}, format=backend)
    frames = random_pixels((9, 4, 3), "uint16")
    for frame in frames[:5]:
        stream.append(frame)
    Interruption(moment, OMEStream.flush).during(stream.flush)
    for frame in frames[5:]:
        stream.append(frame)
    stream.flush()
    assert stream.stats.frames_written == 9
    stream.close()
    assert_holds(stream.path, [frames])


@pytest.mark.parametrize("moment", range(0, 60, 3))
def test_ctrl_c_where_a_task_is_queued_loses_no_count(tmp_path: Path, moment: int) -> None:
    """A flush that comes later does not return while a worker is busy."""
    workers, gate, done = Workers(2), threading.Event(), list[int]()

    def task() -> None:
        assert gate.wait(LIMIT)
        done.append(1)

    try:
        for _ in range(3):
            workers.submit(task)
        Interruption(moment, Workers.submit).during(lambda: workers.submit(task))
        threading.Timer(0.01, gate.set).start()
        workers.wait()
        assert len(done) in (3, 4)
        assert not workers._tasks
    finally:
        gate.set()
        workers.stop()


@pytest.mark.parametrize(
    ("owner", "name"),
    [(RecordLog, "close"), (DirectSink, "close"), (DatasetFolder, "write_text"), (_shards.Shard, "finish")],
    ids=["records", "sink", "document", "shard"],
)
def test_ctrl_c_twice_leaves_the_step_to_the_next_close(
    tmp_path: Path, owner: type, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asks twice gets away at once; nothing is taken for done that is not."""
    stream = opened(tmp_path, {"t": (None, 1, 4), "y": (4, 2, 1), "x": (3,)})
    frames = random_pixels((10, 4, 3), "uint16")
    for number, frame in enumerate(frames):
        stream.append(frame, frame_metadata={"delta_t": float(number)})
    stream.flush()

    original, interrupts = getattr(owner, name), [True]

    def interrupted(*args: Any, **options: Any) -> Any:
        if interrupts:
            raise KeyboardInterrupt
        return original(*args, **options)

    monkeypatch.setattr(owner, name, interrupted)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            stream.close()
        assert not stream.closed
    interrupts.clear()
    with pytest.raises(DatasetInUseError):
        check_unlocked(stream.path)
    stream.close()
    assert stream.closed
    assert_holds(stream.path, [frames])
    assert json.loads((stream.path / "zarr.json").read_text())["attributes"]["ome_writers"]["completeness"]["closed"]
    assert not (stream.path / WRITING_FOLDER).exists()


@pytest.mark.parametrize("for_good", [False, True])
def test_what_failed_before_ctrl_c_is_not_forgotten(
    tmp_path: Path, for_good: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard that can't be completed, then Ctrl-C in the next one: it is completed later, or its frames are named."""
    stream = opened(tmp_path, {"t": (8, 1, 8), "y": (8, 4, 1), "x": (4,)})
    frames = random_pixels((5, 8, 4), "uint16")
    for frame in frames:
        stream.append(frame)
    finish, calls = _shards.Shard.finish, list[str]()

    def failing(shard: _shards.Shard, **options: bool) -> None:
        calls.append(shard.temporary.name)
        if len(calls) == 1 or (for_good and calls[-1] == calls[0]):
            raise OSError(28, "No space left on device")
        if len(calls) == 2:
            raise KeyboardInterrupt
        finish(shard, **options)

    monkeypatch.setattr(_shards.Shard, "finish", failing)
    if for_good:
        with pytest.raises(KeyboardInterrupt):
            stream.close()
        with pytest.raises(WriteError, match="No space left") as caught:
            stream.close()
        assert caught.value.frames == (range(5),)
        return
    with pytest.raises(KeyboardInterrupt):
        stream.close()
    stream.close()
    assert_holds(stream.path, [np.concatenate([frames, np.zeros((3, 8, 4), np.uint16)])])


@pytest.mark.parametrize("durability", ["process", "system"])
def test_ctrl_c_when_a_shard_gets_its_name(tmp_path: Path, durability: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard that is complete is not taken for lost because Ctrl-C came before anybody took note of it."""
    stream = opened(tmp_path, {"t": (None, 1, 4), "y": (4, 2, 1), "x": (3,)}, durability=durability)
    frames = random_pixels((6, 4, 3), "uint16")
    for frame in frames:
        stream.append(frame)
    stream.flush()
    finish, calls = _shards.Shard.finish, list[int]()

    def interrupted(shard: _shards.Shard, **options: bool) -> None:
        calls.append(1)
        finish(shard, **options)
        if len(calls) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(_shards.Shard, "finish", interrupted)
    with pytest.raises(KeyboardInterrupt):
        stream.close()
    stream.close()
    assert stream.closed
    assert_holds(stream.path, [frames])
    assert not (stream.path / WRITING_FOLDER).exists()


def test_ctrl_c_before_the_name_of_a_shard_is_on_the_medium(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is put there by the next close; the shard is not written again."""
    stream = opened(tmp_path, {"t": (None, 1, 4), "y": (4,), "x": (3,)}, durability="system")
    frames = random_pixels((2, 4, 3), "uint16")
    for frame in frames:
        stream.append(frame)
    stream.flush()
    sync_name, calls = _shards.Shard.sync_name, list[tuple[int, ...]]()

    def interrupted(shard: _shards.Shard) -> None:
        calls.append(shard.where)
        if len(calls) == 1:
            raise KeyboardInterrupt
        sync_name(shard)

    monkeypatch.setattr(_shards.Shard, "sync_name", interrupted)
    with pytest.raises(KeyboardInterrupt):
        stream.close()
    assert calls == [(0, 0, 0)] * 2
    stream.close()
    assert_holds(stream.path, [frames])


def test_shards_are_completed_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When there is no time for all of them, those are there whose frames came first."""
    stream = opened(tmp_path, {"t": (4, 1, 4), "p": (3,), "y": (4,), "x": (3,)})
    for frame in random_pixels((3, 4, 3), "uint16"):
        stream.append(frame)
    finish, found = _shards.Shard.finish, list[int]()

    def noted(shard: _shards.Shard, **options: bool) -> None:
        found.append(shard.array)
        finish(shard, **options)

    monkeypatch.setattr(_shards.Shard, "finish", noted)
    stream.close()
    assert found == sorted(found)
    assert len(found) == 3


@pytest.mark.parametrize("call", ["append", "skip", "flush"])
@pytest.mark.parametrize("moment", range(0, 60, 4))
def test_a_signal_handler_that_closes(tmp_path: Path, call: str, moment: int) -> None:
    """In the middle of another call it closes when that is over: it waits for no lock that this thread holds."""
    stream = opened(tmp_path, PARTLY_FILLED)
    frames = random_pixels((6, 4, 3), "uint16")
    for frame in frames[:5]:
        stream.append(frame)
    actions = {"append": lambda: stream.append(frames[5]), "skip": stream.skip, "flush": stream.flush}
    inside = {"append": OMEStream.append, "skip": OMEStream.skip, "flush": OMEStream.flush}[call]
    handled = Handled(moment, stream.close, inside)
    errors = in_time(lambda: handled.during(actions[call]))
    before = bool(errors)  # the call had not begun
    assert [type(error) for error in errors] == [StreamClosedError] * before
    if handled.done:
        assert stream.closed
    stream.close()
    assert not before or moment < 10
    held = frames if call == "append" and not before else frames[:5]
    (array,) = read_images(stream.path)
    assert np.array_equal(array[: len(held)], held)
    assert shape_of(stream)[0] == (5 if before or call == "flush" else 6)


def test_a_signal_handler_that_closes_in_the_middle_of_close(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does nothing, and the steps are done once."""
    stream, close, calls = opened(tmp_path, PARTLY_FILLED), DirectSink.close, list[bool]()
    frames = random_pixels((6, 4, 3), "uint16")
    for frame in frames:
        stream.append(frame)

    def handled(sink: DirectSink) -> None:
        calls.append(stream.closed)
        stream.close()
        close(sink)

    monkeypatch.setattr(DirectSink, "close", handled)
    stream.close()
    assert calls == [False]
    assert_holds(stream.path, [frames])


@pytest.mark.parametrize("moment", range(40))
def test_ctrl_c_after_everything_was_closed(tmp_path: Path, moment: int) -> None:
    """The dataset is free once nobody has the stream any more, though nobody closed it again."""
    stream = opened(tmp_path, PARTLY_FILLED)
    stream.append(random_pixels((4, 3), "uint16"))
    path = stream.path
    Interruption(moment, DatasetLock.release).during(stream.close)
    assert stream._engine.closed
    del stream
    gc.collect()
    check_unlocked(path)


def test_whoever_releases_a_lock_second_waits_for_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not to do it to whoever has it then."""
    lock, unlink = DatasetLock(tmp_path), Path.unlink
    inside, gate, released, unlinked = threading.Event(), threading.Event(), list[int](), list[int]()

    def slow(path: Path, missing_ok: bool = False) -> None:
        unlinked.append(1)
        inside.set()
        assert gate.wait(LIMIT)
        unlink(path, missing_ok)

    def release() -> None:
        lock.release()
        released.append(1)

    monkeypatch.setattr(Path, "unlink", slow)
    threads = [threading.Thread(target=release) for _ in range(2)]
    threads[0].start()
    assert inside.wait(LIMIT)
    threads[1].start()
    threads[1].join(0.05)
    assert (released, unlinked) == ([], [1])
    gate.set()
    for thread in threads:
        thread.join(LIMIT)
    assert (released, unlinked) == ([1, 1], [1])
    check_unlocked(tmp_path)


def test_a_stream_is_closed_when_others_may_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a moment before: whoever looks at it from another thread may begin at once."""
    stream, release, seen = opened(tmp_path, PARTLY_FILLED), DatasetLock.release, list[bool]()

    def noted(lock: DatasetLock) -> None:
        seen.append(stream.closed)
        release(lock)

    with monkeypatch.context() as patch:
        patch.setattr(DatasetLock, "release", noted)
        stream.close()
    assert seen == [False]
    assert stream.closed


def test_tasks_of_a_task_have_all_threads_while_somebody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """What close hands over from a worker, too: nobody is held back for the sake of a thread that waits."""
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    workers, both = Workers(2, backlog=99), threading.Barrier(2, timeout=LIMIT)

    def meet() -> None:
        both.wait()

    def first() -> None:
        wait_until(lambda: workers._waiting)
        workers.submit(meet)
        workers.submit(meet)

    workers.submit(first)
    assert in_time(workers.wait) == []
    workers.stop()


def test_a_signal_handler_that_closes_while_flush_writes_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for the end of that, and nobody waits for the thread that it has interrupted."""
    stream, write, seen = opened(tmp_path, PARTLY_FILLED), RecordLog._write, list[bool]()
    frames = random_pixels((5, 4, 3), "uint16")
    for number, frame in enumerate(frames):
        stream.append(frame, frame_metadata={"delta_t": float(number)})
    flushing = threading.current_thread

    def handled(log: RecordLog, text: bytes) -> None:
        if flushing().name == "flushing" and not seen:
            stream.close()
            seen.append(stream.closed)
        write(log, text)

    def flush() -> None:
        threading.current_thread().name = "flushing"
        stream.flush()

    monkeypatch.setattr(RecordLog, "_write", handled)
    assert in_time(flush) == []
    assert seen in ([False], [])  # a worker may have been faster
    stream.close()
    assert_holds(stream.path, [frames])


@pytest.mark.parametrize("call", ["update_metadata", "set_global_metadata"])
@pytest.mark.parametrize("who", ["a signal handler", "another thread"])
def test_close_in_the_middle_of_a_change_of_attributes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, who: str
) -> None:
    """It waits for the end of that: neither undoes what the other one writes to the same document."""
    stream, read = opened(tmp_path, PARTLY_FILLED), DatasetFolder.attributes
    frames = random_pixels((6, 4, 3), "uint16")
    for frame in frames:
        stream.append(frame)
    closer = threading.Thread(target=stream.close)

    def closed_then(folder: DatasetFolder, path: str) -> dict[str, Any]:
        attributes = read(folder, path)
        if folder is stream._folder and not seen:
            seen.append(stream.closed)
            if who == "another thread":
                closer.start()
                closer.join(0.3)  # as long as it takes, if it doesn't wait
            else:
                stream.close()
            seen.append(stream.closed)
        return attributes

    metadata, seen = stream.get_metadata(), list[bool]()
    monkeypatch.setattr(DatasetFolder, "attributes", closed_then)
    if call == "update_metadata":
        stream.update_metadata({path: {**attributes, "lab": {"room": 7}} for path, attributes in metadata.items()})
    else:
        stream.set_global_metadata("lab", {"room": 7})
    if who == "another thread":
        closer.join()
    assert seen == [False, False]
    assert stream.closed
    attributes = read(stream._folder, ".")
    assert attributes["lab"] == {"room": 7}
    assert attributes["ome_writers"]["completeness"]["closed"] is True


def test_a_signal_handler_that_closes_and_exits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its exit is what the caller sees, with a note of what close had to say; not an error in its place."""
    stream, note = opened(tmp_path, PARTLY_FILLED), FrameFates.note
    frames = random_pixels((6, 4, 3), "uint16")

    def handled(fates: FrameFates, frame: int, fate: int) -> None:
        note(fates, frame, fate)
        if frame == 2:
            stream.close()
            raise SystemExit(0)

    monkeypatch.setattr(FrameFates, "note", handled)
    for frame in frames[:2]:
        stream.append(frame)
    with pytest.warns(UserWarning, match="Frames not on disk: 2"), pytest.raises(SystemExit) as caught:
        stream.append(frames[2])
    assert "Frames not on disk: 2" in "".join(caught.value.__notes__)
    assert stream.closed
    (array,) = read_images(stream.path)
    assert np.array_equal(array[:2], frames[:2])


@pytest.mark.parametrize("call", ["flush", "close"])
@pytest.mark.parametrize("moment", range(12))
def test_ctrl_c_while_files_are_synced(tmp_path: Path, call: str, moment: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no failure to write: the next call does it again, in a thread that Ctrl-C does not reach."""
    stream = opened(tmp_path, PARTLY_FILLED, durability="system")
    frames = random_pixels((6, 4, 3), "uint16")
    for frame in frames[:5]:
        stream.append(frame)
    sync, calls = DirectSink.sync, list[threading.Thread]()

    def noted(sink: DirectSink) -> None:
        calls.append(threading.current_thread())
        sync(sink)

    monkeypatch.setattr(DirectSink, "sync", noted)
    interruption = Interruption(moment, Engine._sync)
    interruption.during(getattr(stream, call))
    assert interruption.raised
    if call == "flush":
        stream.append(frames[5])
    stream.close()
    assert calls
    assert threading.current_thread() not in calls
    assert_holds(stream.path, [frames if call == "flush" else frames[:5]])


@UNSEEN
@pytest.mark.parametrize("call", ["flush", "close"])
@pytest.mark.parametrize("moment", range(0, 60, 2))
def test_ctrl_c_while_records_are_written(tmp_path: Path, moment: int, call: str) -> None:
    """Each record stands in the file once, and in the attributes of its image."""
    stream = opened(tmp_path, PARTLY_FILLED)
    frames = random_pixels((6, 4, 3), "uint16")
    for number, frame in enumerate(frames[:3]):
        stream.append(frame, frame_metadata={"delta_t": float(number)})
    inside = RecordLog.drain if call == "flush" else RecordLog.close
    Interruption(moment, inside).during(stream.flush if call == "flush" else stream.close)
    if call == "flush":
        for number, frame in enumerate(frames[3:], 3):
            stream.append(frame, frame_metadata={"delta_t": float(number)})
    stream.close()
    count = 6 if call == "flush" else 3
    lines = (stream.path / "ome_writers" / "frames.jsonl").read_text().splitlines()
    assert [json.loads(line)["frame"] for line in lines] == list(range(count))
    text = json.dumps(stream.get_metadata())
    assert [text.count(f'"delta_t": {number}.0') for number in range(count)] == [1] * count
    assert_holds(stream.path, [frames[:count]])


@UNSEEN
@pytest.mark.parametrize("moment", range(40))
def test_ctrl_c_while_frames_are_noted_by_close(tmp_path: Path, moment: int) -> None:
    """The file is closed when all are noted, not before."""
    fates = FrameFates(tmp_path / "frames.txt")
    fates._next = float("inf")  # as on a slow file system
    for number in range(3):
        fates.note(number, ord("a"))
    Interruption(moment, FrameFates.close).during(fates.close)
    fates.close()
    assert (tmp_path / "frames.txt").read_bytes() == b"aaa"


@pytest.mark.parametrize("made", [0, 1, 2])
@pytest.mark.parametrize("moment", range(20))
def test_ctrl_c_costs_no_buffer(moment: int, made: int) -> None:
    """All buffers of a pool are there for the next frames."""
    pool = BufferPool(8, 2, BufferSettings(on_full="raise"), ready=made)
    taken = list[object]()
    Interruption(moment, BufferPool.acquire).during(lambda: taken.append(pool.acquire(lambda: None)))
    assert pool.used == len(taken)
    taken += [pool.acquire(lambda: None) for _ in range(2 - len(taken))]
    assert len({id(buffer) for buffer in taken}) == 2


@pytest.mark.parametrize("moment", range(40))
def test_ctrl_c_after_a_wait_costs_no_buffer(moment: int) -> None:
    """Nor when the buffer came late, and the time is taken that the caller has waited."""
    pool, gate = BufferPool(8, 1, BufferSettings()), SimpleQueue[None]()
    taken = [pool.acquire(lambda: None)]

    def release() -> None:
        gate.get(timeout=LIMIT)
        pool.release(taken.pop())

    other = threading.Thread(target=release)
    other.start()
    got = list[object]()
    Interruption(moment, BufferPool.acquire).during(lambda: got.append(pool.acquire(partial(gate.put, None))))
    gate.put(None)
    other.join()
    assert pool.used == len(got)
    if not got:
        assert in_time(lambda: got.append(pool.acquire(lambda: None))) == []


@pytest.mark.parametrize("moment", range(2))
def test_ctrl_c_where_a_frame_gets_its_memory(tmp_path: Path, moment: int) -> None:
    """The frame was not taken; there is memory for the next ones, though there is not much."""
    stream = opened(tmp_path, {"t": (None, 2), "y": (4,), "x": (3,)}, buffer=BufferSettings(workers=1))
    stream._engine._pool.limit = 1
    frames = random_pixels((4, 4, 3), "uint16")
    interruption = Interruption(moment, ChunkMajor.view)
    interruption.during(lambda: stream.append(frames[0]))
    assert interruption.raised

    def append() -> None:
        for frame in frames[stream.next_frame :]:
            stream.append(frame)

    assert in_time(append) == []
    stream.close()
    assert_holds(stream.path, [frames])


@pytest.mark.parametrize("moment", range(12))
def test_ctrl_c_where_a_record_is_taken(tmp_path: Path, moment: int) -> None:
    """Each record is one of a frame that was taken, wherever that is said."""
    stream = opened(tmp_path, {"t": (None, 1, 4), "y": (4,), "x": (3,)})
    frames = random_pixels((3, 4, 3), "uint16")
    for number, frame in enumerate(frames[:2]):
        stream.append(frame, frame_metadata={"delta_t": float(number)})
    interruption = Interruption(moment, RecordLog.add)
    interruption.during(lambda: stream.append(frames[2], frame_metadata={"delta_t": 2.0}))
    if interruption.raised:
        with pytest.raises(WriteError, match="Frames not on disk: 2"):
            stream.close()
    stream.close()
    assert stream.next_frame == 3
    assert shape_of(stream)[0] == 3
    completeness = json.loads((stream.path / "zarr.json").read_text())["attributes"]["ome_writers"]["completeness"]
    assert completeness["frames_taken"] == 3
    assert completeness["frames_lost"] == ([[2, 2]] if interruption.raised else [])


@UNSEEN
@pytest.mark.parametrize("moment", range(40))
def test_ctrl_c_while_growth_is_announced(tmp_path: Path, moment: int) -> None:
    """The next flush announces it."""
    stream = opened(tmp_path, {"t": (None, 1, 4), "y": (4,), "x": (3,)})
    for frame in random_pixels((4, 4, 3), "uint16"):
        stream.append(frame)
    Interruption(moment, Upkeep.announce).during(stream.flush)
    stream.flush()
    assert shape_of(stream)[0] == 4
    stream.close()


@pytest.mark.parametrize("call", ["append", "skip"])
def test_two_signals_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """An interruption of what names the frames that another one has cost: the next call names them."""
    stream = opened(tmp_path, {"t": (9, 3, 2), "y": (4,), "x": (3,)})
    frames = random_pixels((9, 4, 3), "uint16")
    for frame in frames[:2]:
        stream.append(frame)

    def interrupted(*_: object) -> None:
        monkeypatch.undo()
        monkeypatch.setattr(stream._engine._assembly, "is_open", exits)
        raise KeyboardInterrupt

    def exits(_: Parcel) -> bool:
        monkeypatch.undo()
        raise SystemExit

    monkeypatch.setattr(Deliveries, "send", interrupted)
    with pytest.raises(SystemExit):
        stream.append(frames[2]) if call == "append" else stream.skip()
    with pytest.raises(WriteError) as caught:
        stream.close()
    assert [*itertools.chain(*caught.value.frames)] == ([0, 1, 2] if call == "append" else [0, 1])


def test_threads_that_join_does_not_see_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """After two signals at once, that of Python 3.11 waits for ever for a thread that has ended."""

    def join(_: threading.Thread, timeout: float | None = None) -> None:
        threading.Event().wait(timeout)

    workers, done = Workers(2), list[int]()
    workers.submit(lambda: done.append(1))
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "join", join)
        ended = threading.Event()

        def stop() -> None:
            workers.stop()
            ended.set()

        threading.Thread(target=stop, daemon=True).start()
        assert ended.wait(LIMIT)
    workers.stop()
    assert done == [1]


def test_a_stream_that_one_of_its_threads_collects(tmp_path: Path) -> None:
    """It is closed by another thread: this one would wait for itself."""
    stream, gate = opened(tmp_path, PARTLY_FILLED), threading.Event()
    frames, path, cycle = random_pixels((6, 4, 3), "uint16"), stream.path, dict[str, object]()
    cycle.update(stream=stream, itself=cycle)

    def collect() -> None:
        assert gate.wait(LIMIT)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it was dropped without close
            gc.collect()

    for frame in frames:
        stream.append(frame)
    stream._workers.submit(collect)
    del stream, cycle
    gate.set()
    wait_until(lambda: is_closed(path))
    wait_until(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("ome-writers")])
    assert_holds(path, [frames])


def is_closed(path: Path) -> bool:
    """Tell whether the stream of a dataset was closed, as the dataset says."""
    attributes = json.loads((path / "zarr.json").read_text())["attributes"]
    return bool(attributes["ome_writers"]["completeness"]["closed"])


def test_an_exit_tells_what_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody sees the notes of a SystemExit."""
    stream = opened(tmp_path, PARTLY_FILLED)
    for frame in random_pixels((3, 4, 3), "uint16"):
        stream.append(frame)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(_files.system, "write", full)
    with pytest.warns(UserWarning, match="Frames not on disk: 0 to 2"), pytest.raises(SystemExit), stream:
        sys.exit(0)


def test_an_exit_in_a_later_step_of_close() -> None:
    """Ctrl-C before it does not keep the interpreter from ending."""
    done, errors = list[str](), list[BaseException]()

    def step(name: str, error: type[BaseException]) -> Callable[[], None]:
        def carry_out() -> None:
            done.append(name)
            if done.count(name) == 1:
                raise error

        return carry_out

    steps = LastSteps(errors.append)
    steps.take([step("a", KeyboardInterrupt), step("b", SystemExit), step("c", KeyboardInterrupt)])
    assert isinstance(steps.carry_out(), SystemExit)
    assert (done, errors) == (["a", "a", "b", "b", "c", "c"], [])


def test_who_interrupts_twice_does_not_wait_for_all_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are; the next close completes them."""
    stream = opened(tmp_path, {"t": (None, 1, 2), "p": (20,), "y": (4,), "x": (3,)})
    finish, calls = _shards.Shard.finish, list[int]()
    frames = random_pixels((20, 4, 3), "uint16")
    for frame in frames:
        stream.append(frame)

    def interrupted(shard: _shards.Shard, **options: bool) -> None:
        calls.append(1)
        if len(calls) <= 2:
            raise KeyboardInterrupt
        finish(shard, **options)

    monkeypatch.setattr(_shards.Shard, "finish", interrupted)
    with pytest.raises(KeyboardInterrupt):
        stream.close()
    assert len(calls) == 2
    stream.close()
    assert len(calls) == 22
    assert_holds(stream.path, [frame[None] for frame in frames])


def test_an_exit_and_ctrl_c_in_a_step_of_close() -> None:
    """The interpreter ends, as it was told first; the step is still to be done."""
    errors = iter([SystemExit(3), KeyboardInterrupt()])

    def step() -> None:
        for error in errors:
            raise error

    steps = LastSteps(lambda _: None)
    steps.take([step])
    with pytest.raises(SystemExit, match="3"):
        steps.carry_out()
    assert steps.carry_out() is None


def test_ctrl_c_once_threads_have_ended_is_no_failure(tmp_path: Path) -> None:
    """Close, called again, does not hand over again what was handed over."""
    stream = opened(tmp_path, PARTLY_FILLED)
    frames = random_pixels((6, 4, 3), "uint16")
    for frame in frames:
        stream.append(frame)
    Interruption(0, LastSteps.take).during(stream.close)
    assert stream._workers.ended
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Engine, "_send_all", lambda _: pytest.fail("it was done"))
        stream.close()
    assert_holds(stream.path, [frames])


def test_a_lock_that_ctrl_c_keeps_from_its_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not held until the process ends."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("os.ftruncate", interrupted)
        with pytest.raises(KeyboardInterrupt):
            DatasetLock(tmp_path)
    check_unlocked(tmp_path)


def test_the_name_of_a_folder_that_ctrl_c_keeps_from_the_medium(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next try to make the folder has it there."""
    synced, fails = list[Path](), [True]

    def sync_folder(path: Path) -> None:
        if fails:
            fails.pop()
            raise KeyboardInterrupt
        synced.append(path)

    monkeypatch.setattr(_files.system, "sync_folder", sync_folder)
    with pytest.raises(KeyboardInterrupt):
        _files.make_folder(tmp_path / "a" / "b", durable=True)
    for _ in range(2):
        _files.make_folder(tmp_path / "a" / "b", durable=True)
    assert synced == [tmp_path, tmp_path / "a"]


@pytest.mark.parametrize("call", ["close", "set_global_metadata"])
def test_a_call_in_a_thread_that_writes_is_refused(tmp_path: Path, call: str) -> None:
    """As a finalizer may make it: it would wait for flush, and flush for it."""
    stream, errors = opened(tmp_path, PARTLY_FILLED), list[OMEWritersError]()

    def finalizer() -> None:
        try:
            stream.close() if call == "close" else stream.set_global_metadata("lab", {"room": 1})
        except OMEWritersError as error:
            errors.append(error)

    stream._workers.submit(finalizer)
    assert in_time(stream.flush) == []
    assert "one of its own threads" in str(errors[0])
    assert in_time(stream.close) == []


def test_a_stream_that_a_thread_of_another_stream_collects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That thread goes on at once: who closes may need a lock that it holds."""
    stream, other = opened(tmp_path / "a", PARTLY_FILLED), opened(tmp_path / "b", PARTLY_FILLED)
    frames, path, closed_by = random_pixels((6, 4, 3), "uint16"), stream.path, list[threading.Thread]()
    for frame in frames:
        stream.append(frame)
    take = LastSteps.take

    def noted(steps: LastSteps, what: Iterable[Callable[[], None]]) -> None:
        closed_by.append(threading.current_thread())
        take(steps, what)

    monkeypatch.setattr(LastSteps, "take", noted)
    cycle = dict[str, object](stream=stream)
    cycle["itself"] = cycle

    def collect() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it was dropped without close
            gc.collect()

    del stream, cycle
    other._workers.submit(collect)
    other.flush()
    wait_until(lambda: is_closed(path))
    assert closed_by[0] not in other._workers._threads
    wait_until(lambda: not closed_by[0].is_alive())
    other.close()
    assert_holds(path, [frames])


@pytest.mark.parametrize("more", [{}, {"frame_metadata": [], "mine": 1}])
def test_attributes_read_before_close(tmp_path: Path, more: dict[str, Any]) -> None:
    """Handed in after it, they do not take away what close has written of frames."""
    stream = opened(tmp_path, {"t": (2,), "y": (4,), "x": (3,)})
    attributes = stream.get_metadata()["."]
    for number, frame in enumerate(random_pixels((2, 4, 3), "uint16")):
        stream.append(frame, frame_metadata={"delta_t": float(number)})
    stream.close()
    before = stream.get_metadata()["."]["ome_writers"]
    attributes["ome_writers"] = {**attributes.get("ome_writers", {}), **more}
    stream.update_metadata({".": {**attributes, "lab": 1}})
    after = stream.get_metadata()["."]
    assert after["lab"] == 1
    assert [frame["delta_t"] for frame in after["ome_writers"]["frame_metadata"]] == [0.0, 1.0]
    assert after["ome_writers"]["completeness"] == before["completeness"]
    assert after["ome_writers"].get("mine") == more.get("mine")


def test_attributes_of_another_dataset(tmp_path: Path) -> None:
    """What they say of frames is not true here."""
    stream = opened(tmp_path, {"t": (2,), "y": (4,), "x": (3,)})
    stream.close()
    before = stream.get_metadata()["."].get("ome_writers", {})
    other = {"frame_metadata": [{"delta_t": 3, "storage_index": [400]}], "completeness": {}, "mine": 1}
    stream.update_metadata({".": {**stream.get_metadata()["."], "ome_writers": other}})
    after = stream.get_metadata()["."]["ome_writers"]
    assert "frame_metadata" not in after
    assert after["completeness"] == before["completeness"]
    assert after["mine"] == 1


def test_streams_come_and_go_while_somebody_looks(tmp_path: Path) -> None:
    """In any thread."""

    class Stream:
        path, closed, _caller = tmp_path, True, None

        def close(self) -> None: ...

        def _disown(self) -> None: ...

    end, errors = threading.Event(), list[RuntimeError]()

    def look() -> None:
        while not end.is_set():
            try:
                _running.writes_to(tmp_path)
            except RuntimeError as error:
                errors.append(error)

    kept = [Stream() for _ in range(200)]
    for stream in kept:
        _running.add(stream)
    others = [threading.Thread(target=look) for _ in range(2)]
    for thread in others:
        thread.start()
    for _ in range(3000):
        _running.add(stream := Stream())
        _running.discard(stream)
    end.set()
    for thread in others:
        thread.join()
    for stream in kept:
        _running.discard(stream)
    assert not errors


def test_a_stream_without_memory_leaves_nothing_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does it leave a dataset, whatever its sink has begun."""
    closed = list[DirectSink]()
    close = DirectSink.close

    def noted(sink: DirectSink) -> None:
        closed.append(sink)
        close(sink)

    def no_memory(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(DirectSink, "close", noted)
    monkeypatch.setattr("ome_writers._stream.BufferPool", no_memory)
    with pytest.raises(MemoryError):
        opened(tmp_path, PARTLY_FILLED)
    assert len(closed) == 1
    assert [*tmp_path.iterdir()] == []
