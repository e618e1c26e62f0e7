"""From the caller's thread to the sink: parcels that have all their frames become tasks of the workers."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from ._parcels import Assembly, Parcel
from ._pool import BufferPool
from ._workers import Workers


@dataclass(slots=True)
class _Delivery:
    """A parcel on its way to the sink."""

    parcel: Parcel
    tasks: int  # that are still to be done
    failed: bool = False


class Deliveries:
    """Has workers hand parcels to the sink, and gives their memory back to the pool.

    Small parcels are handed over several at a time: a worker takes as many as are ready. However fast they come, no
    more tasks wait for that than there are workers.

    Parameters
    ----------
    assembly : Assembly
        Where the parcels come from; it knows how the sink takes them.
    workers : Workers
        Threads that write.
    pool : BufferPool
        Memory of the parcels.
    before : callable
        Called in a worker before a parcel, or several small ones, reach the sink; what it raises keeps them from there.
    written : callable
        Called in a worker with each parcel that is written, while it has its memory.
    after : callable
        Called in a worker after a parcel, or several small ones, were written or not; must not raise.
    fail : callable
        Called with an error, the parcel that it is about, and the frames that are lost with it.
    """

    def __init__(
        self,
        assembly: Assembly,
        workers: Workers,
        pool: BufferPool,
        *,
        before: Callable[[], None],
        written: Callable[[Parcel], None],
        after: Callable[[], None],
        fail: Callable[[BaseException, Parcel, Iterable[int]], None],
    ) -> None:
        self._assembly = assembly
        self._workers = workers
        self._pool = pool
        self._before = before
        self._written = written
        self._after = after
        self._on_failure = fail
        self._lock = threading.Lock()
        self._ready: deque[Parcel] = deque()  # small ones, for whichever worker is free
        self._called = 0  # tasks for these that nobody has begun

    def send(self, parcels: Sequence[Parcel]) -> None:
        """Have parcels written that the assembly has given up; an interruption loses the rest of them, and says so."""
        done = 0
        try:
            for parcel in parcels:
                if self._assembly.group > 1:
                    self._ready.append(parcel)
                    if self._called < self._workers.count:  # if not, those find this parcel, too
                        self._call_for_ready()
                    done += 1
                    continue
                tasks = self._assembly.tasks(parcel)
                delivery = _Delivery(parcel, len(tasks))
                shard = self._assembly.shard_of(parcel)
                for task in tasks:
                    self._workers.submit(partial(self._carry_out, delivery, task), shard)
                done += 1
        except BaseException as error:
            for parcel in parcels[done:]:
                self._fail(error, parcel)
            raise

    def call_for_rest(self) -> None:
        """Have all small parcels written, also one that an interruption has left without a task."""
        if self._ready:
            self._call_for_ready()

    def _call_for_ready(self) -> None:
        """Have a worker write the small parcels that are ready."""
        self._workers.submit(self._carry_out_some)
        with self._lock:  # not before: Ctrl-C in between must not count a task that there is not
            self._called += 1

    def _fail(self, error: BaseException, parcel: Parcel) -> None:
        self._on_failure(error, parcel, self._assembly.frame_numbers(parcel))

    # ---- in a worker -----------------------------------------------------------------------------------------------

    def _carry_out(self, delivery: _Delivery, task: Callable[[], None]) -> None:
        """Do one of the tasks that write a parcel; the last one counts the parcel and gives its memory back."""
        parcel = delivery.parcel
        try:
            self._before()
            task()
        except BaseException as error:  # noqa: BLE001  a thread's edge: it is raised in the caller's thread
            delivery.failed = True
            self._fail(error, parcel)
        with self._lock:
            delivery.tasks -= 1
            if delivery.tasks:
                return
        if not delivery.failed:
            self._written(parcel)
        self._release(parcel)
        self._after()

    def _carry_out_some(self) -> None:
        """Write small parcels that are ready, several together when workers are behind, until there are none."""
        with self._lock:
            self._called -= 1
        while parcels := self._some_ready():
            self._carry_out_together(parcels)

    def _some_ready(self) -> list[Parcel]:
        with self._lock:
            return [self._ready.popleft() for _ in range(min(self._assembly.group, len(self._ready)))]

    def _carry_out_together(self, parcels: Sequence[Parcel]) -> None:
        try:
            groups = list(self._assembly.grouped(parcels))
        except BaseException as error:  # noqa: BLE001  a thread's edge
            for parcel in parcels:
                self._fail(error, parcel)
                self._release(parcel)
            return
        for members, task in groups:
            try:
                self._before()
                task()
            except BaseException as error:  # noqa: BLE001  a thread's edge: it is raised in the caller's thread
                if len(members) > 1:  # tell those that can be written from the others
                    for parcel in members:
                        for single in self._assembly.tasks(parcel):
                            self._carry_out(_Delivery(parcel, 1), single)
                    continue
                self._fail(error, members[0])
            else:
                for parcel in members:
                    self._written(parcel)
            for parcel in members:
                self._release(parcel)
        self._after()

    def _release(self, parcel: Parcel) -> None:
        buffer = parcel.detach()
        if buffer is not None:
            self._pool.release(buffer)
