"""Threads that write."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Final

from ome_writers.errors import OMEWritersError

_POLL_SECONDS: Final = 0.1


class Workers:
    """A fixed number of threads that carry out tasks in the order in which they were submitted.

    A task must not raise: whoever submits it catches what it does.

    Parameters
    ----------
    count : int
        Number of threads; with one, tasks never overlap.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._tasks: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._pending = 0
        self._done = threading.Condition()
        self._threads = [threading.Thread(target=self._run, name=f"ome-writers-{i}", daemon=True) for i in range(count)]
        for thread in self._threads:
            thread.start()

    def submit(self, task: Callable[[], None]) -> None:
        """Queue a task."""
        with self._done:  # in this order: Ctrl-C in between must not leave a task to wait for that was never queued
            self._tasks.put(task)
            self._pending += 1

    def wait(self) -> None:
        """Wait until all tasks submitted so far are done."""
        with self._done:
            while self._pending > 0:
                if not all(thread.is_alive() for thread in self._threads):
                    raise OMEWritersError("a writer thread has ended unexpectedly, such as after a fork")
                self._done.wait(_POLL_SECONDS)

    def stop(self) -> None:
        """Do what is queued, then end all threads; may be called again when it was interrupted."""
        self.wait()
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            thread.join()
        self._threads = []

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            try:
                task()
            finally:
                with self._done:
                    self._pending -= 1
                    self._done.notify_all()
                del task  # may hold a buffer
