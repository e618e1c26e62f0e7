"""The engine: copies frames, gathers them, bounds memory, writes in the background, and latches errors."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ome_writers._layout import ArrayGeometry
from ome_writers._router import Router
from ome_writers.abc import FramesLostError, LayersLostError
from ome_writers.errors import FrameCountError, SettingsError, StreamClosedError, WriteError

from ._fates import APPENDED, SKIPPED, FrameFates, ranges_of
from ._frames import as_frame, encode_metadata
from ._parcels import Assembly, Parcel
from ._pool import Buffer, BufferPool
from ._records import RecordLog
from ._workers import Workers

_GROWTH_SECONDS: Final = 1.0
"""How often the extent of a growing array is announced, at most."""

_SYNC_SECONDS: Final = 0.7
"""After this time everything is put on the medium, so that it is there within a second."""


@dataclass(frozen=True, slots=True)
class StreamStats:
    """What a stream has done so far.

    Attributes
    ----------
    frames_appended, frames_written, frames_skipped : int
        Frames taken, frames handed to storage, and frames left out.
    bytes_in, bytes_out : int
        Bytes of the frames taken and of those handed to storage, both uncompressed.
    buffered_bytes, max_buffered_bytes : int
        Memory that holds frames now, and at most so far.
    buffer_bytes : int
        Memory that may hold frames.
    stalled_seconds : float
        How long ``append`` has waited for memory in all.
    workers : int
        Threads that write.
    first_frame : int
        Number of the first frame of this stream: 0, unless it resumes a dataset. Everything else counts from there.
    """

    frames_appended: int
    frames_written: int
    frames_skipped: int
    bytes_in: int
    bytes_out: int
    buffered_bytes: int
    max_buffered_bytes: int
    buffer_bytes: int
    stalled_seconds: float
    workers: int
    first_frame: int


@dataclass(slots=True)
class _Delivery:
    """A parcel on its way to the sink."""

    parcel: Parcel
    tasks: int  # that are still to be done
    failed: bool = False


class Engine:
    """Takes frames in acquisition order and has them written by workers.

    Parameters
    ----------
    assembly : Assembly
        How frames gather, and the sink that they go to.
    router : Router
        Where frames belong.
    geometry : ArrayGeometry
        Of every array.
    array_paths : sequence of str
        Path of every array below the root, for messages.
    pool : BufferPool
        Memory for the frames.
    workers : Workers
        Threads that write; one, if the assembly needs its order kept.
    records : RecordLog
        Where per-frame metadata goes.
    fates : FrameFates
        Where frames are noted as they are taken.
    on_growth : callable
        Called when arrays of an unbounded acquisition have grown, with {number of the array: extent of its unbounded
        axis that is written}; at most about once a second from a worker, and from :meth:`flush`. Calls never overlap,
        and an array's extent never falls.
    sync : callable, optional
        Called about every second from a worker, and from :meth:`flush`, to have everything on the medium.
    """

    def __init__(
        self,
        *,
        assembly: Assembly,
        router: Router,
        geometry: ArrayGeometry,
        array_paths: list[str],
        pool: BufferPool,
        workers: Workers,
        records: RecordLog,
        fates: FrameFates,
        on_growth: Callable[[dict[int, int]], None],
        sync: Callable[[], None] | None = None,
    ) -> None:
        self._assembly = assembly
        self._router = router
        self._geometry = geometry
        self._frame_shape = geometry.frame_shape
        self._dtype = np.dtype(geometry.dtype)
        self._paths = array_paths
        self._pool = pool
        self._workers = workers
        self._records = records
        self._fates = fates
        self._on_growth = on_growth
        self._sync = sync
        self._first_frame = 0
        self._frames = 0  # taken or skipped: the number of the next one
        self._skipped = 0
        self._closing = False
        self._closed = False
        self._forked = False
        self._lock = threading.RLock()  # of the caller's side
        workers.when_idle = self._when_idle
        workers.ahead = pool.make_ahead
        # of the workers' side
        self._state = threading.Lock()
        self._ready: deque[Parcel] = deque()  # small ones, for whichever worker is free
        self._written = 0
        self._extents: dict[int, int] = {}  # of the unbounded axis, by array
        self._grown: set[int] = set()  # arrays that have grown since the last announcement
        self._announced = time.perf_counter()
        self._announcing = threading.Lock()
        self._synced = time.perf_counter()
        self._syncing = threading.Lock()
        self._failure: tuple[BaseException, str] | None = None  # the first one, and the array's path
        self._more: list[str] = []  # what else has gone wrong at the end
        self._lost: list[int] = []

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` has been carried out."""
        return self._closed

    def disown(self) -> None:
        """Have nothing more to do with the dataset: in a forked child, it is the parent's."""
        self._lock = threading.RLock()  # which another thread of the parent may have held
        self._closing = self._closed = self._forked = True

    @property
    def frames(self) -> int:
        """Number of frames taken or skipped so far: the number of the next one."""
        return self._frames

    @property
    def appended(self) -> int:
        """Number of frames taken so far."""
        return self._frames - self._first_frame - self._skipped

    @property
    def lost(self) -> tuple[range, ...]:
        """Frames that are known not to be on disk."""
        with self._state:
            lost = set(self._lost)
        return tuple(ranges_of(sorted(frame for frame in lost if not self._fates.was_skipped(frame))))

    @property
    def failed(self) -> bool:
        """Whether anything could not be written."""
        return self._failure is not None

    def resume(self, frame: int, fates: npt.NDArray[np.uint8]) -> None:
        """Go on at a frame; called before the first one is appended.

        Parameters
        ----------
        frame : int
            Number of the next frame.
        fates : ndarray of uint8
            What became of earlier frames.
        """
        self._first_frame = self._frames = frame
        self._assembly.resume(frame, fates, self._acquire)

    def append(self, frame: object, metadata: Any) -> None:
        """Take one frame; see ``OMEStream.append``."""
        with self._lock:
            self._raise_if_unusable()
            self._check_room(1)
            text = encode_metadata(metadata)
            pixels = as_frame(frame, self._frame_shape, self._dtype)
            number = self._frames
            parcel, slot = self._assembly.place(number)
            parcel.put(slot, pixels, self._acquire)
            try:
                if text is not None:
                    self._records.add(number, *self._router.locate(number), text)
                self._frames = number + 1
                self._fates.note(number, APPENDED)
                self._submit(self._assembly.mark(parcel, slot, stored=True))
            except BaseException as error:  # Ctrl-C: nobody knows how far this frame got, and maybe its parcel
                gone = not self._assembly.is_open(parcel)
                if not gone and not parcel.stored[slot] and number < self._frames:
                    self._fates.lose(number)  # its parcel will be written without it
                self._fail(error, parcel, [number, *(self._assembly.frame_numbers(parcel) if gone else ())])
                raise

    def skip(self, frames: int) -> None:
        """Leave out frames; see ``OMEStream.skip``."""
        with self._lock:
            self._raise_if_unusable()
            if isinstance(frames, bool) or not isinstance(frames, int | np.integer) or frames < 1:
                raise SettingsError(f"frames must be a whole number of 1 or more, not {frames!r}; nothing was skipped")
            self._check_room(int(frames))
            for _ in range(frames):
                parcel, slot = self._assembly.place(self._frames)
                try:
                    self._frames += 1
                    self._skipped += 1
                    self._fates.note(self._frames - 1, SKIPPED)
                    self._submit(self._assembly.mark(parcel, slot, stored=False))
                except BaseException as error:  # as in append
                    gone = not self._assembly.is_open(parcel)
                    self._fail(error, parcel, self._assembly.frame_numbers(parcel) if gone else ())
                    raise

    def flush(self) -> None:
        """Wait until everything that can be written now is written, and announce it."""
        with self._lock:
            self._raise_if_unusable()
            if self._assembly.in_order:
                self._submit(self._assembly.rest())
            self._workers.wait()
            self._raise_if_failed()
            if self._sync is not None:
                self._sync_now(self._sync)
                self._raise_if_failed()
            try:
                self._announce()
            except OSError as error:
                raise WriteError(
                    f"how far the arrays have grown can't be written: {error}; it is kept for the next try"
                ) from error

    def close(self, steps: Iterable[Callable[[], None]]) -> None:
        """Write what is left, end the threads, carry out the last steps, and raise what has gone wrong.

        Parameters
        ----------
        steps : iterable of callable
            Close the sink and complete the metadata; each is tried, whether or not all could be written and whatever
            becomes of the others. One that is interrupted is called again.
        """
        if self.closed:  # in a forked child, too
            return
        with self._lock:
            if self._closed:
                return
            # up to here and in the next two lines Ctrl-C may strike: close can then be called again
            self._closing = True
            with suppress(OSError):  # tried again below; here so that a crash from now on finds all frames noted
                self._fates.drain()
            self._submit(self._assembly.rest())
            self._workers.stop()
            if self._sync is not None:
                self._sync_now(self._sync)
            self._closed = True
            interruptions = [self._finish(step) for step in (self._records.close, self._fates.close, *steps)]
            self._pool.clear()
            if interrupted := next(filter(None, interruptions), None):
                raise interrupted
            self._raise_if_failed()

    def stats(self) -> StreamStats:
        """Return what has been done so far."""
        frame_bytes, buffer_bytes = self._geometry.frame_bytes, self._pool.buffer_bytes
        written, appended = self._written, self.appended
        return StreamStats(
            frames_appended=appended,
            frames_written=written,
            frames_skipped=self._skipped,
            bytes_in=appended * frame_bytes,
            bytes_out=written * frame_bytes,
            buffered_bytes=self._pool.used * buffer_bytes,
            max_buffered_bytes=self._pool.most_used * buffer_bytes,
            buffer_bytes=self._pool.limit * buffer_bytes,
            stalled_seconds=self._pool.stalled_seconds,
            workers=self._workers.count,
            first_frame=self._first_frame,
        )

    def _check_room(self, frames: int) -> None:
        total = self._router.total
        if total is not None and self._frames + frames > total:
            raise FrameCountError(
                f"the settings declare {total} frames and {self._frames} were appended or skipped; {frames} more are "
                "too many. Nothing was taken; declare larger dimensions, or an unbounded first one (count=None)."
            )

    def _acquire(self) -> Buffer:
        return self._pool.acquire(self._raise_if_failed)

    def _submit(self, parcels: Sequence[Parcel]) -> None:
        """Have parcels written that the assembly has given up; an interruption loses the rest of them, and says so."""
        done = 0
        try:
            for parcel in parcels:
                if self._assembly.group > 1:
                    self._ready.append(parcel)
                    self._workers.submit(self._carry_out_some)  # finds nothing when an earlier one took this parcel too
                    done += 1
                    continue
                tasks = self._assembly.tasks(parcel)
                delivery = _Delivery(parcel, len(tasks))
                for task in tasks:
                    self._workers.submit(partial(self._carry_out, delivery, task))
                done += 1
        except BaseException as error:
            for parcel in parcels[done:]:
                self._fail(error, parcel, self._assembly.frame_numbers(parcel))
            raise

    # ---- in a worker -----------------------------------------------------------------------------------------------

    def _carry_out(self, delivery: _Delivery, task: Callable[[], None]) -> None:
        """Do one of the tasks that write a parcel; the last one counts the parcel and gives its memory back."""
        parcel = delivery.parcel
        try:
            if self._failure is not None and self._assembly.in_order:
                raise self._failure[0]
            self._drain()
            task()
        except BaseException as error:  # noqa: BLE001  a thread's edge: it is raised in the caller's thread
            delivery.failed = True
            self._fail(error, parcel, self._assembly.frame_numbers(parcel))
        with self._state:
            delivery.tasks -= 1
            if delivery.tasks:
                return
        if not delivery.failed:
            self._count(parcel)
        self._release(parcel)
        self._look_after()

    def _carry_out_some(self) -> None:
        """Write small parcels that are ready, several together when workers are behind."""
        with self._state:
            parcels = [self._ready.popleft() for _ in range(min(self._assembly.group, len(self._ready)))]
        try:
            groups = list(self._assembly.grouped(parcels))
        except BaseException as error:  # noqa: BLE001  a thread's edge
            for parcel in parcels:
                self._fail(error, parcel, self._assembly.frame_numbers(parcel))
                self._release(parcel)
            return
        for members, task in groups:
            try:
                self._drain()
                task()
            except BaseException as error:  # noqa: BLE001  a thread's edge: it is raised in the caller's thread
                if len(members) > 1:  # tell those that can be written from the others
                    for parcel in members:
                        for single in self._assembly.tasks(parcel):
                            self._carry_out(_Delivery(parcel, 1), single)
                    continue
                self._fail(error, members[0], self._assembly.frame_numbers(members[0]))
            else:
                for parcel in members:
                    self._count(parcel)
            for parcel in members:
                self._release(parcel)
        self._look_after()

    def _drain(self) -> None:
        """Write what is known of the frames before the frames themselves: what is on disk is known after a crash."""
        self._fates.drain()
        self._records.drain()

    def _release(self, parcel: Parcel) -> None:
        buffer = parcel.detach()
        if buffer is not None:
            self._pool.release(buffer)

    def _count(self, parcel: Parcel) -> None:
        """Count a parcel that is written, and how far its array reaches with it."""
        if self._fates.rewrites:
            self._fates.settle(self._assembly.frame_numbers(parcel))
        with self._state:
            self._written += int(parcel.stored.sum()) - parcel.earlier
        axis = self._geometry.unbounded_axis
        if axis is None:
            return
        try:
            reach = self._assembly.reach(parcel, axis)
        except BaseException as error:  # noqa: BLE001  a thread's edge: it is raised in the caller's thread
            self._fail(error, parcel)
            return
        with self._state:
            if reach > self._extents.get(parcel.array, 0):
                self._extents[parcel.array] = reach
                self._grown.add(parcel.array)

    def _look_after(self) -> None:
        """Announce growth and have everything on the medium, if that is due."""
        try:
            self._announce_if_due()
            self._sync_if_due()
        except BaseException as error:  # noqa: BLE001  a thread's edge: it is raised in the caller's thread
            self._fail(error, None)

    def _when_idle(self) -> None:
        """Do in a worker without work what should not wait for the next frame."""
        with suppress(OSError):  # close tries again
            self._fates.drain()
        self._look_after()

    def _sync_if_due(self) -> None:
        if self._sync is not None and time.perf_counter() - self._synced >= _SYNC_SECONDS:
            self._sync_now(self._sync, wait=False)

    def _sync_now(self, sync: Callable[[], None], *, wait: bool = True) -> None:
        """Have everything on the medium, unless another worker is doing that and this one should not wait for it."""
        if not self._syncing.acquire(blocking=wait):
            return
        try:
            self._synced = time.perf_counter()
            sync()
        except BaseException as error:  # noqa: BLE001  raised in the caller's thread
            self._fail(error, None)
        finally:
            self._syncing.release()

    def _announce_if_due(self) -> None:
        """Announce how far arrays have grown, from time to time; what can't be announced now is tried again later."""
        if self._grown and time.perf_counter() - self._announced >= _GROWTH_SECONDS:
            with suppress(OSError):  # no frame is lost; the last try, in close, counts
                self._announce()

    def _announce(self) -> None:
        with self._announcing:
            with self._state:
                grown = {array: self._extents[array] for array in sorted(self._grown)}
                self._grown.clear()
                self._announced = time.perf_counter()
            try:
                if grown:
                    self._on_growth(grown)
            except BaseException:
                with self._state:
                    self._grown.update(grown)
                raise

    # ---- errors ----------------------------------------------------------------------------------------------------

    def _fail(self, error: BaseException, parcel: Parcel | None, lost: Iterable[int] = ()) -> None:
        """Keep the first error, to be raised from now on, and the frames that are lost with any."""
        if isinstance(error, LayersLostError):
            lost = [*lost, *self._assembly.frames_of(error.layers, self._frames)]
        elif isinstance(error, FramesLostError):
            lost = [*lost, *error.frames]
        with self._state:
            self._lost += lost
            if self._failure is None:
                self._failure = error, "" if parcel is None else self._paths[parcel.array]
            elif parcel is None:
                self._more.append(f"{type(error).__name__}: {error}")

    def _finish(self, step: Callable[[], None]) -> BaseException | None:
        """Do one of the last steps, again if it is interrupted; return the interruption."""
        interrupted = None
        for _ in range(2):
            try:
                step()
            except Exception as error:  # noqa: BLE001  raised by the caller, after everything was tried
                self._fail(error, None)
            except BaseException as error:  # noqa: BLE001  Ctrl-C: raised by the caller, too
                interrupted = interrupted or error
                continue
            break
        return interrupted

    def _raise_if_unusable(self) -> None:
        if self._forked:
            raise StreamClosedError("the stream belongs to the process that this one was forked from; use it there")
        if self._closing:
            raise StreamClosedError("the stream is closed; create another one to write more frames")
        if self._failure is not None:
            self._raise_if_failed()

    def _raise_if_failed(self) -> None:
        if self._failure is None:
            return
        error, path = self._failure
        lost = self.lost
        what = f"array {path!r}" if path else "the dataset"
        frames = f" Frames not on disk: {_in_words(lost)}." if lost else ""
        more = "" if self._closing else " The stream takes no more frames; close it to save what can be saved."
        if self._more:
            more += f" Also: {'; '.join(self._more)}."
        raise WriteError(
            f"writing {what} failed: {type(error).__name__}: {error}.{frames}{more}", array=path, frames=lost
        ) from error


def _in_words(ranges: tuple[range, ...], most: int = 10) -> str:
    words = [str(r.start) if len(r) == 1 else f"{r.start} to {r[-1]}" for r in ranges[:most]]
    return ", ".join(words) + (f" and {len(ranges) - most} more runs" if len(ranges) > most else "")
