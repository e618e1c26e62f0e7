"""The memory for frames, made before it is needed, and the threads that make it when they have nothing else to do."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ome_writers import create_stream
from ome_writers.engine import BufferPool, Workers, _pool
from ome_writers.errors import BufferFullError
from ome_writers.settings import BufferSettings
from ome_writers.testing.datasets import acquisition
from ome_writers.testing.faults import MemoryLayerSink
from test_engine import build

LIMIT = 5.0  # s; what takes longer than that hangs

Buffers = list[npt.NDArray[np.uint8]]


def test_memory_made_ahead_keeps_the_limit() -> None:
    """Buffers are made ahead up to their number, and never more than may be in use."""
    pool = BufferPool(8, 40, BufferSettings(), ready=1, ahead=25)
    assert [pool.make_ahead() for _ in range(4)] == [True, True, True, False]  # several small ones together
    assert (pool.used, pool.most_used) == (0, 0)
    buffers = [pool.acquire(lambda: None) for _ in range(40)]
    assert not any(buffer.any() for buffer in buffers)
    assert len({buffer.ctypes.data for buffer in buffers}) == 40
    assert not pool.make_ahead()


@pytest.mark.parametrize("large_pages", [True, False])
@pytest.mark.parametrize("nbytes", [1, (1 << 21) - 1, 1 << 21, (1 << 23) + 12_345])
def test_memory_begins_where_a_large_page_does(nbytes: int, large_pages: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is all 0 and can be written; what holds large pages starts with one, and the system is asked for them."""
    monkeypatch.setattr(_pool, "_HAS_LARGE_PAGES", large_pages and _pool._HAS_LARGE_PAGES)
    made = _pool.memory(nbytes)
    assert made.shape == (nbytes,)
    assert not made.any()
    made[...] = 1
    if not _pool._HAS_LARGE_PAGES or nbytes < 1 << 21:
        return
    assert made.ctypes.data % (1 << 21) == 0
    assert " hg" in _flags(made.ctypes.data)
    if nbytes % (1 << 21):
        assert " nh" in _flags(made.ctypes.data + nbytes - 1)


def _flags(address: int) -> str:
    """Return what Linux says of the area of memory with an address."""
    start = end = 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if area := re.match("([0-9a-f]+)-([0-9a-f]+) ", line):
            start, end = (int(number, 16) for number in area.groups())
        elif line.startswith("VmFlags:") and start <= address < end:
            return line
    raise AssertionError(f"nothing is mapped at {address:#x}")


@pytest.mark.parametrize("large_pages", [True, False])
def test_memory_that_is_not_there(large_pages: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too much is a MemoryError, as everywhere else, and the pool is as before."""
    monkeypatch.setattr(_pool, "_HAS_LARGE_PAGES", large_pages and _pool._HAS_LARGE_PAGES)
    pool = BufferPool(1 << 58, 8, BufferSettings())
    with pytest.raises(MemoryError):
        pool.acquire(lambda: None)
    assert pool.used == 0
    assert not pool.make_ahead()


_TOUCHES = """
import psutil
from ome_writers.engine import BufferPool
from ome_writers.settings import BufferSettings

def resident():
    return psutil.Process().memory_info().rss >> 20

pool = BufferPool(40 << 20, 3, BufferSettings(), ready=1, ahead=2)
ready = resident()
pool.make_ahead()
print(resident() - ready)
"""


def test_memory_made_ahead_is_touched() -> None:
    """The pages of memory that was made ahead are there when a frame comes."""
    grown = subprocess.run([sys.executable, "-c", _TOUCHES], capture_output=True, text=True, check=True).stdout
    assert 38 <= int(grown) <= 45


def test_tiny_buffers_are_made_a_few_hundred_at_a_time() -> None:
    """The first frame of 2 bytes does not wait for a million buffers."""
    pool = BufferPool(2, 1 << 22, BufferSettings())
    pool.acquire(lambda: None)
    assert 1 < pool._made <= 1000


def test_a_caller_waits_for_the_last_buffer_while_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the last buffer that the limit allows is made ahead, acquire waits for it and makes no other one."""
    pool = BufferPool(8, 2, BufferSettings(on_full="raise"), ready=1, ahead=2)
    pool.acquire(lambda: None)
    begun, gate, made = threading.Event(), threading.Event(), Buffers()

    def slowly(_: BufferPool, count: int) -> Buffers:
        begun.set()
        assert gate.wait(LIMIT)
        made.extend(np.zeros((count, 8), np.uint8))
        return made

    monkeypatch.setattr(BufferPool, "_touched", slowly)
    maker = threading.Thread(target=pool.make_ahead)
    maker.start()
    assert begun.wait(LIMIT)
    threading.Timer(0.05, gate.set).start()
    assert pool.acquire(lambda: None) is made[0]
    maker.join()
    with pytest.raises(BufferFullError):
        pool.acquire(lambda: None)


def test_a_buffer_that_an_interruption_has_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """When Ctrl-C strikes while the only buffer is made, the next call makes it, and does not wait for it forever."""
    pool, zeros = BufferPool(8, 1, BufferSettings(), ahead=1), np.zeros

    def interrupted(*_: object) -> Buffers:
        monkeypatch.setattr(np, "zeros", zeros)
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "zeros", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pool.acquire(lambda: None)
    assert pool.used == 0
    assert pool.acquire(lambda: None).size == 8


def test_memory_that_can_not_be_made_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no memory for later, nothing fails, and acquire tries again when it is needed."""
    pool = BufferPool(8, 2, BufferSettings(), ahead=2)

    def fail(_: BufferPool, count: int) -> Buffers:
        raise MemoryError

    monkeypatch.setattr(BufferPool, "_touched", fail)
    assert not pool.make_ahead()
    assert all(pool.acquire(lambda: None).size == 8 for _ in range(2))


def test_memory_is_there_before_the_first_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream begins with all buffers that are made ahead, where making them takes no time."""
    monkeypatch.setattr(_pool, "_HEAD_START_SECONDS", LIMIT)
    settings = acquisition({"t": (200,), "y": (256,), "x": (256,)})
    settings.root_path = str(tmp_path / "x.ome.zarr")
    with create_stream(settings) as stream:
        pool = stream._engine._pool
        assert pool._made == pool._ahead == len(pool._free) > 100


def test_a_head_start_takes_no_longer_than_a_caller_should_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system takes its time the rest is left to the workers, one buffer after the other."""
    touched = BufferPool._touched

    def slowly(pool: BufferPool, count: int) -> Any:
        time.sleep(0.02)
        return touched(pool, count)

    monkeypatch.setattr(BufferPool, "_touched", slowly)
    pool = BufferPool(8 << 20, 100, BufferSettings(), ahead=100)
    pool.head_start()
    assert 1 <= pool._made <= 4
    assert pool.make_ahead()


def test_workers_make_memory_while_they_have_nothing_else_to_do(tmp_path: Path) -> None:
    """When storage keeps up, the memory for what may wait is made by the workers, not while the caller appends."""
    rig = build(acquisition({"t": (200,), "y": (64,), "x": (64,)}), tmp_path, MemoryLayerSink)
    rig.append_numbered(1)
    end = time.monotonic() + LIMIT
    while rig.pool._made < 200:
        assert time.monotonic() < end
        time.sleep(0.01)
    rig.append_numbered(199)
    rig.close()
    assert [int(frame[0, 0]) for frame in rig.written()[0]] == [n % 65535 + 1 for n in range(200)]


def test_workers_do_tasks_before_what_is_not_urgent() -> None:
    """What is not urgent is done by one worker at a time, never while tasks wait, and until it says that it is done."""
    workers, done, running = Workers(2), list[str](), list[int]()

    def ahead() -> bool:
        running.append(1)
        assert len(running) == 1
        done.append("ahead")
        time.sleep(0.01)
        running.pop()
        return done.count("ahead") < 5

    workers.ahead, gate = ahead, threading.Event()
    for _ in range(2):
        workers.submit(lambda: None if gate.wait(LIMIT) else done.append("late"))
    for _ in range(50):
        workers.submit(lambda: done.append("task"))
    gate.set()
    workers.wait()
    assert done[:50] == ["task"] * 50
    end = time.monotonic() + LIMIT
    while done.count("ahead") < 5:
        assert time.monotonic() < end
        workers.submit(lambda: None)
        time.sleep(0.01)
    workers.stop()
    assert done.count("ahead") == 5
    assert workers.ahead is None


def test_workers_prefer_shards_that_nobody_writes_to() -> None:
    """A task of a shard that is being written to lets those of others go first, and keeps its place among its own."""
    workers, gates, done = Workers(2), [threading.Event() for _ in range(2)], list[str]()
    begun = threading.Barrier(3, timeout=LIMIT)

    def hold(gate: threading.Event) -> None:
        begun.wait()
        assert gate.wait(LIMIT)

    workers.submit(lambda: hold(gates[0]), "a")
    workers.submit(lambda: hold(gates[1]), "b")
    begun.wait()
    for number, shard in enumerate(["a", "a", "b", "c", "a", None, "c"]):
        workers.submit(lambda number=number, shard=shard: done.append(f"{number}{shard}"), shard)  # type: ignore[misc]  # no type for defaults
    gates[1].set()
    end = time.monotonic() + LIMIT
    while len(done) < 7:  # the last ones, too, though their shard is still being written to
        assert time.monotonic() < end
        time.sleep(0.001)
    assert done == ["2b", "3c", "5None", "6c", "0a", "1a", "4a"]
    gates[0].set()
    workers.stop()
    assert not workers._shards
    assert not workers._tasks


def test_a_call_without_a_task_does_no_harm() -> None:
    """Ctrl-C between a call and its task leaves workers that do what comes next, and can be waited for."""
    workers, done = Workers(2), list[int]()
    workers._calls.put(True)
    for number in range(5):
        workers.submit(lambda number=number: done.append(number), "a")  # type: ignore[misc]  # no type for defaults
    workers.wait()
    workers._calls.put(True)
    workers.stop()
    assert sorted(done) == list(range(5))
    assert (workers._running, len(workers._tasks)) == (0, 0)


def _hold_first(workers: Workers) -> threading.Event:
    """Have a worker busy until the event is set."""
    begun, gate = threading.Event(), threading.Event()

    def hold() -> None:
        begun.set()
        assert gate.wait(LIMIT)

    workers.submit(hold)
    assert begun.wait(LIMIT)
    return gate


def _wait_for(done: list[int], count: int) -> None:
    """Wait until so many tasks are done, and see that no more are."""
    end = time.monotonic() + LIMIT
    while len(done) < count:
        assert time.monotonic() < end
        time.sleep(0.001)
    time.sleep(0.05)
    assert len(done) == count


@pytest.mark.parametrize(("processors", "count", "working"), [(2, 2, 1), (1, 3, 2), (4, 4, 3), (4, 3, 3), (None, 2, 1)])
def test_the_last_processor_is_the_callers(
    processors: int | None, count: int, working: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that would take it works only while many tasks wait, or while the caller does; the others always do."""
    monkeypatch.setattr(os, "cpu_count", lambda: processors)
    workers, done = Workers(count, backlog=3), list[int]()
    gates = [_hold_first(workers) for _ in range(working)]
    for number in range(5):
        workers.submit(lambda: done.append(1))
        _wait_for(done, max(0, number - 2) if working < count else 0)
    workers.hurry()
    _wait_for(done, 5 if working < count else 0)
    for number in range(5):
        workers.submit(lambda: done.append(1))  # the caller has gone on
        _wait_for(done, 5 + max(0, number - 2) if working < count else 0)
    for gate in gates:
        gate.set()
    workers.stop()
    assert len(done) == 10
    assert all(not thread.is_alive() for thread in threading.enumerate() if thread.name.startswith("ome-writers-"))


def test_calls_for_threads_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many tasks come, and whoever does them, no more calls wait than there are threads to follow them."""
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    workers, most = Workers(2, backlog=3), 0
    for _ in range(20):
        gate = _hold_first(workers)
        for _ in range(50):
            workers.submit(lambda: None)
            workers.hurry()
            most = max(most, workers._calls.qsize(), workers._reserve_calls.qsize())
        gate.set()
        workers.wait()
    workers.stop()
    assert most <= 2


def test_nobody_is_held_back_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits until all is done has all threads work on it."""
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    workers, together, done = Workers(2, backlog=99), threading.Barrier(2, timeout=LIMIT), list[int]()
    for _ in range(10):
        workers.submit(lambda: done.append(together.wait()))
    workers.wait()
    for _ in range(10):
        workers.submit(lambda: done.append(together.wait()))
    workers.stop()
    assert sorted(done) == [0] * 10 + [1] * 10


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="schedulers of Linux")
@pytest.mark.parametrize("batch", [True, False])
def test_workers_do_not_interrupt_their_caller(batch: bool) -> None:
    """Threads that write are batch threads to the scheduler if they should be, and nobody else is."""
    workers, found = Workers(1, batch=batch), list[int]()
    workers.submit(lambda: found.append(os.sched_getscheduler(0)))
    workers.stop()
    assert found == [os.SCHED_BATCH if batch else os.SCHED_OTHER]
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


_IDLE = """
import os
os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
from ome_writers.engine import Workers
workers = Workers(1, batch=True)
workers.submit(lambda: print(os.sched_getscheduler(0) == os.SCHED_IDLE))
workers.stop()
"""


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="schedulers of Linux")
def test_workers_keep_the_policy_that_their_process_was_given() -> None:
    """A process that was made idle, or real-time, keeps writing as such."""
    done = subprocess.run([sys.executable, "-c", _IDLE], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
