"""Threads that write."""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Hashable
from contextlib import suppress
from itertools import islice
from queue import Empty, SimpleQueue
from typing import Final, TypeAlias

from ome_writers.errors import OMEWritersError

_POLL_SECONDS: Final = 0.1
_IDLE_SECONDS: Final = 0.25
_LOOK_AHEAD: Final = 64
"""So many tasks are looked at for one that need not wait for another."""

Task: TypeAlias = Callable[[], None]


class Workers:
    """A fixed number of threads that carry out tasks in the order in which they were submitted.

    But for tasks of a shard that another thread is writing to: of those that wait, the first one of another shard comes
    before them. A file takes the bytes of one thread at a time, so that two threads in two files are twice as fast.

    A task must not raise: whoever submits it catches what it does. Threads without work call ``when_idle`` from time to
    time, and one of them calls ``ahead`` until it returns False.

    As many threads as there are processors would make the thread that submits tasks, which copies frames, wait for a
    processor as often as they do. One of them can be held back: it takes tasks when many wait, or when somebody waits.
    (When somebody asks for more threads, since storage takes its time, the others work as they should.)

    Parameters
    ----------
    count : int
        Number of threads; with one, tasks never overlap.
    batch : bool
        Whether they should be batch threads where the system has such (sched(7), SCHED_BATCH): one that wakes up does
        not interrupt a thread that copies a frame, and gets as much of the processor as before. Not for those from
        which a library starts threads of its own: these would stay such after the stream.
    backlog : int, optional
        Hold one thread back: have it work only while more than so many tasks wait, or after :meth:`hurry`. Not if it is
        the only one, or there are fewer than processors. None to have all work always.
    """

    def __init__(self, count: int, *, batch: bool = False, backlog: int | None = None) -> None:
        self.count = count
        self._batch = batch
        self._backlog = backlog or 0
        self._reserve = int(backlog is not None and 1 < count >= (os.cpu_count() or 1))  # threads that are held back
        self._hurry = False
        # True for a thread to look for tasks, until there are none, False for one to end; and for those held back
        self._calls: SimpleQueue[bool] = SimpleQueue()
        self._reserve_calls: SimpleQueue[bool] = SimpleQueue()
        self._tasks: deque[tuple[Hashable, Task]] = deque()  # that wait, each with its shard
        self._shards: dict[Hashable, int] = {}  # that are being written to: by how many threads
        self._running = 0  # tasks; of these only the threads keep count, which Ctrl-C does not reach
        self.when_idle: Callable[[], None] | None = None
        self.ahead: Callable[[], bool] | None = None
        self._working_ahead = threading.Lock()
        # no Condition: its methods are Python, so that Ctrl-C in the wrong moment leaves it locked
        self._lock = threading.Lock()
        self._waiting = False
        self._ended = False
        self._process = os.getpid()
        self._done: SimpleQueue[None] = SimpleQueue()  # one entry when somebody waits and all is done
        self._alive = count  # threads; and one entry for each that has ended
        self._over: SimpleQueue[None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, args=(i >= count - self._reserve,), name=f"ome-writers-{i}", daemon=True)
            for i in range(count)
        ]
        try:
            for thread in self._threads:
                thread.start()
        except BaseException:  # Ctrl-C
            self.abandon()
            raise
        self._idents = frozenset(thread.ident for thread in self._threads)

    def submit(self, task: Task, shard: Hashable = None) -> None:
        """Queue a task, that of a shard (any name for it) or of none; a task may call this, too."""
        with self._lock:  # in this order: Ctrl-C in between must not leave a task to wait for that nobody is called for
            self._call(self._calls, self.count)
            self._tasks.append((shard, task))
            self._hurry = self._waiting  # who submits does not wait, unless it is a task that does
            if self._hurry or len(self._tasks) > self._backlog:
                self._call(self._reserve_calls, self._reserve)

    def hurry(self) -> None:
        """Have all threads work until the next task is submitted: whoever submits them is waiting."""
        self._hurry = True
        self._call(self._reserve_calls, self._reserve)

    @staticmethod
    def _call(calls: SimpleQueue[bool], threads: int) -> None:
        """Have one thread more look for tasks, unless all of them are going to: there are no more calls than that."""
        if calls.qsize() < threads:
            calls.put(True)

    @property
    def ended(self) -> bool:
        """Whether threads have ended, as they do after :meth:`stop`."""
        return self._ended

    @property
    def is_one(self) -> bool:
        """Whether the thread that asks is one of them, which can't wait for the end of its own task."""
        # the first is fast, but another thread may be given the number of one that has ended
        return threading.get_ident() in self._idents and threading.current_thread() in self._threads

    def wait(self) -> None:
        """Wait until all tasks submitted so far are done."""
        while True:
            with self._lock:
                if not self._tasks and not self._running:
                    return
                self._waiting = True
                self.hurry()
            # not Thread.is_alive(): interrupted by Ctrl-C, that of Python 3.11 takes a thread for dead
            if self._ended or os.getpid() != self._process:
                raise OMEWritersError("a writer thread has ended unexpectedly, such as after a fork")
            with suppress(Empty):
                self._done.get(timeout=_POLL_SECONDS)

    def stop(self) -> None:
        """Do what is queued, then end all threads; may be called again when it was interrupted."""
        self.wait()
        self.abandon()  # once too often after an interruption does no harm
        while self._alive:
            with suppress(Empty):
                self._over.get(timeout=_POLL_SECONDS)
        for thread in self._threads:  # about to end; without a limit, Thread.join may wait for ever after two signals
            thread.join(_POLL_SECONDS)

    def abandon(self) -> None:
        """Have the threads end when nothing was submitted, without waiting for them."""
        for _ in range(self.count):
            self._calls.put(False)
            self._reserve_calls.put(False)

    def _run(self, held_back: bool) -> None:  # positional: the target of a thread
        if self._batch:
            _become_batch_thread()
        try:
            while self._is_called(self._reserve_calls if held_back else self._calls):
                while taken := self._take(held_back):
                    shard, task = taken
                    try:
                        task()
                    finally:
                        self._count_done(shard)
                        del task, taken  # may hold a buffer
        finally:
            self._ended = True
            with self._lock:
                self._alive -= 1
            self._over.put(None)

    def _is_called(self, calls: SimpleQueue[bool]) -> bool:
        """Wait until there may be a task, and return True, or until this thread is to end."""
        while True:
            try:
                return calls.get(timeout=0 if calls.empty() and self._work_ahead() else _IDLE_SECONDS)
            except Empty:
                if self.when_idle is not None:
                    self.when_idle()

    def _take(self, held_back: bool) -> tuple[Hashable, Task] | None:
        """Return the first task whose shard nobody is writing to, if there is one, or else the first one.

        None if there is no task (others took it; Ctrl-C came between the call and its task), or not enough for a thread
        that is held back.
        """
        with self._lock:
            if not self._tasks or (held_back and not self._hurry and len(self._tasks) <= self._backlog):
                return None
            number = 0
            if self._tasks[0][0] in self._shards:
                waiting = enumerate(islice(self._tasks, _LOOK_AHEAD))
                number = next((i for i, (shard, _) in waiting if shard not in self._shards), 0)
            shard, task = self._tasks[number]
            del self._tasks[number]
            if shard is not None:
                self._shards[shard] = self._shards.get(shard, 0) + 1
            self._running += 1
            return shard, task

    def _work_ahead(self) -> bool:
        """If there is no task, do something that is not urgent; return whether there may be more of it to do."""
        if self.ahead is None or not self._working_ahead.acquire(blocking=False):
            return False
        try:
            if self.ahead is not None and not self.ahead():
                self.ahead = None
        finally:
            self._working_ahead.release()
        return self.ahead is not None

    def _count_done(self, shard: Hashable) -> None:
        with self._lock:
            if shard is not None:
                if self._shards[shard] > 1:
                    self._shards[shard] -= 1
                else:
                    del self._shards[shard]
            self._running -= 1
            wake = self._waiting and not self._tasks and not self._running
            self._waiting = self._waiting and not wake
        if wake:
            self._done.put(None)


def _become_batch_thread() -> None:
    """Have the scheduler take this thread for one that does not interrupt others, unless somebody chose its policy."""
    if sys.platform == "linux":
        with suppress(OSError):  # not allowed
            if os.sched_getscheduler(0) == os.SCHED_OTHER:
                os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
