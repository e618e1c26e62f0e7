"""The engine: copies frames, gathers them, bounds memory, writes in the background, and latches errors."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from ome_writers._layout import ArrayGeometry
from ome_writers._router import Router
from ome_writers.abc import FramesLostError, LayersLostError
from ome_writers.errors import FrameCountError, OMEWritersError, SettingsError, StreamClosedError, WriteError

from ._deliveries import Deliveries
from ._failures import Failures
from ._fates import APPENDED, SKIPPED, FrameFates, ranges_of
from ._frames import as_frame, encode_metadata
from ._last_steps import LastSteps
from ._parcels import Assembly, Index, Parcel
from ._pool import Buffer, BufferPool
from ._records import RecordLog
from ._stats import StreamStats
from ._upkeep import Upkeep
from ._workers import Workers


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
        self._first_frame = 0
        self._frames = 0  # taken or skipped: the number of the next one
        self._skipped = 0
        self._noted = 0  # of these: workers write notes of them, before their pixels
        self._giving_up = False  # a worker may be about to give up what the assembly holds
        self._all_sent = False  # for good
        self._closing = False
        self._last_steps = LastSteps(lambda error: self._fail(error, None))
        self._closed = False
        self._told = False  # by close, what has gone wrong
        self._forked = False
        self._lock = threading.RLock()  # of the caller's side
        self._in_call: int | None = None  # the thread that has it and is in the middle of a call
        self._doubt: tuple[int | None, Parcel, Index] | None = None  # the frame that is being taken, or (None) skipped
        workers.when_idle = self._when_idle
        workers.ahead = pool.make_ahead
        # of the workers' side
        self._sending = threading.Lock()  # held by the one that gives up what the assembly holds
        self._state = threading.Lock()
        self._written = 0
        self._upkeep = Upkeep(on_growth, sync, lambda error: self._fail(error, None))
        self._failures = Failures()
        self._deliveries = Deliveries(
            assembly,
            workers,
            pool,
            before=self._before_writing,
            written=self._count,
            after=self._look_after,
            fail=self._fail,
        )

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` has been carried out to the end."""
        return self._closed

    @property
    def is_in_call(self) -> bool:
        """Whether this thread is in the middle of a call: a signal handler asks, which must not begin another one."""
        return self._in_call == threading.get_ident()

    def disown(self) -> None:
        """Have nothing more to do with the dataset: in a forked child, it is the parent's."""
        self._lock = threading.RLock()  # which another thread of the parent may have held
        self._in_call = None
        self._closing = self._closed = self._told = self._forked = True

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
        return tuple(ranges_of(sorted(n for n in self._failures.lost if not self._fates.was_skipped(n))))

    @property
    def failed(self) -> bool:
        """Whether anything could not be written."""
        return self._failures.first is not None

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
        self.during(self._append, frame, metadata)

    def skip(self, frames: int) -> None:
        """Leave out frames; see ``OMEStream.skip``."""
        self.during(self._skip, frames)

    def flush(self) -> None:
        """Wait until everything that can be written now is written, and announce it."""
        self.during(self._flush)

    def close(self, steps: Iterable[Callable[[], None]]) -> None:
        """Write what is left, end the threads, carry out the last steps, and raise what has gone wrong.

        Parameters
        ----------
        steps : iterable of callable
            Close the sink and complete the metadata; each is tried, whether or not all could be written and whatever
            becomes of the others, and may be called again when it was interrupted, or just after it. They are those of
            the first call.
        """
        self.during(self._close, steps)

    def during(self, action: Callable[..., None], *given: Any) -> None:
        """Carry out a call, or what else must not meet one of another thread; whoever comes second waits.

        Raises
        ------
        OMEWritersError
            If one of the threads that write calls this: whoever is in a call may be waiting for it.
        """
        if self._workers.is_one:
            raise OMEWritersError(
                "a stream was called in one of its own threads, as by a finalizer that the garbage collector called "
                "there; it would wait for itself. Call it in a thread of yours."
            )
        with self._lock:
            before, self._in_call = self._in_call, threading.get_ident()
            try:
                action(*given)
            finally:
                self._in_call = before

    def change(self, action: Callable[..., None], *given: Any) -> None:
        """Change what the dataset says of itself, between calls.

        Raises
        ------
        StreamClosedError
            In a forked child.
        """
        self._raise_if_forked()
        self.during(action, *given)

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

    # ---- in the caller's thread -----------------------------------------------------------------------------------

    def _append(self, frame: object, metadata: Any) -> None:
        self._raise_if_unusable()
        self._check_room(1)
        text = encode_metadata(metadata)
        pixels = as_frame(frame, self._frame_shape, self._dtype)
        number = self._frames
        parcel, slot = self._assembly.place(number)
        parcel.put(slot, pixels, self._acquire)
        self._doubt = number, parcel, slot
        try:
            self._frames = number + 1  # before the rest: a record is of a frame that was taken
            if text is not None:
                self._records.add(number, *self._router.locate(number), text)
            self._fates.note(number, APPENDED)
            self._noted = number + 1
            if ready := self._assembly.mark(parcel, slot, stored=True):
                self._deliveries.send(ready)
        except BaseException as error:  # Ctrl-C
            self._settle_doubt(error)
            raise
        self._doubt = None

    def _skip(self, frames: int) -> None:
        self._raise_if_unusable()
        if isinstance(frames, bool) or not isinstance(frames, int | np.integer) or frames < 1:
            raise SettingsError(f"frames must be a whole number of 1 or more, not {frames!r}; nothing was skipped")
        self._check_room(int(frames))
        for _ in range(frames):
            parcel, slot = self._assembly.place(self._frames)
            self._doubt = None, parcel, slot
            try:
                self._frames += 1
                self._skipped += 1
                self._fates.note(self._frames - 1, SKIPPED)
                self._noted = self._frames
                if ready := self._assembly.mark(parcel, slot, stored=False):
                    self._deliveries.send(ready)
            except BaseException as error:  # as in append
                self._settle_doubt(error)
                raise
            self._doubt = None

    def _settle_doubt(self, error: BaseException) -> None:
        """Name what an interruption has cost: nobody knows how far a frame got, and maybe its parcel.

        When this is interrupted itself, the next call does it.
        """
        if self._doubt is None:
            return
        number, parcel, slot = self._doubt
        gone = not self._assembly.is_open(parcel)
        lost = self._assembly.frame_numbers(parcel) if gone else []
        if number is not None:
            if not gone and not parcel.stored[slot]:
                self._fates.lose(number)  # its parcel will be written without it
            lost.append(number)
        self._fail(error, parcel, lost)
        self._doubt = None

    def _flush(self) -> None:
        self._raise_if_unusable()
        if self._assembly.in_order:
            self._giving_up = True
            self._workers.submit(self._send_rest)
        self._deliveries.call_for_rest()
        self._workers.wait()
        self._giving_up = False
        self._raise_if_failed()
        self._sync()
        self._raise_if_failed()
        try:
            self._upkeep.announce()
        except OSError as error:
            raise WriteError(
                f"how far the arrays have grown can't be written: {error}; it is kept for the next try"
            ) from error
        try:
            self._records.drain()
        except OSError as error:
            raise WriteError(
                f"the records of frames can't be written: {error}; they are kept for the next try"
            ) from error

    def _close(self, steps: Iterable[Callable[[], None]]) -> None:
        if self._closed:
            self._tell()
            return
        # Ctrl-C may strike anywhere: close goes on where it was when it is called again
        self._closing = True
        self._settle_doubt(KeyboardInterrupt())
        if not self._last_steps.known:
            with suppress(OSError):  # tried again below; here so that a crash from now on finds all frames noted
                self._fates.drain()
            if not self._workers.ended:
                if not self._all_sent:
                    self._workers.submit(self._send_all)
                self._workers.wait()
                self._sync()
            elif not self._all_sent:  # they have not ended below; nobody else does this
                self._send_all()
            self._workers.stop()
            self._last_steps.take((self._records.close, self._fates.close, *steps))
        interrupted = self._last_steps.carry_out()
        self._closed = True
        self._pool.clear()
        if interrupted is None:
            self._tell()
        elif self._failures.first is not None:  # the next close raises what it is
            raise interrupted from self._failures.first
        else:
            raise interrupted

    def _sync(self) -> None:
        """Have everything on the medium: in a worker, so that Ctrl-C can't leave the lock of a shard held for good."""
        if self._upkeep.syncs:
            self._workers.submit(self._upkeep.sync)
            self._workers.wait()

    def _tell(self) -> None:
        """Raise what has gone wrong, once."""
        if self._told:
            return
        try:
            self._raise_if_failed()
        except WriteError:
            self._told = True  # not before: Ctrl-C may come while it is put together
            raise

    def _check_room(self, frames: int) -> None:
        total = self._router.total
        if total is not None and self._frames + frames > total:
            raise FrameCountError(
                f"the settings declare {total} frames and {self._frames} were appended or skipped; {frames} more are "
                "too many. Nothing was taken; declare larger dimensions, or an unbounded first one (count=None)."
            )

    def _acquire(self) -> Buffer:
        return self._pool.acquire(self._before_waiting)

    def _before_waiting(self) -> None:
        """Raise when there is nothing to wait for; have all workers make room otherwise."""
        self._raise_if_failed()
        self._workers.hurry()

    # ---- in a worker -----------------------------------------------------------------------------------------------

    def _send_rest(self) -> None:
        """Hand over what the assembly holds: in a worker, where no Ctrl-C comes between giving up and handing over."""
        with self._sending:
            try:
                parcels = self._assembly.rest()
            except BaseException as error:  # noqa: BLE001  a thread's edge: it is raised in the caller's thread
                self._fail(error, None)
                return
        with suppress(BaseException):  # a thread's edge; it was noted
            self._deliveries.send(parcels)

    def _send_all(self) -> None:
        """Have everything written that the caller has handed in."""
        self._send_rest()
        self._deliveries.call_for_rest()
        self._all_sent = True

    def _before_writing(self) -> None:
        """Write what is known of the frames before the frames themselves: what is on disk is known after a crash."""
        if self._failures.first is not None and self._assembly.in_order:
            raise self._failures.first
        self._fates.drain(self._noted)
        self._records.drain()

    def _count(self, parcel: Parcel) -> None:
        """Count a parcel that is written, and how far its array reaches with it."""
        if self._fates.rewrites:
            self._fates.settle(self._assembly.frame_numbers(parcel))
        with self._state:
            self._written += parcel.held - parcel.earlier
        axis = self._geometry.unbounded_axis
        if axis is None:
            return
        try:
            reach = self._assembly.reach(parcel, axis)
        except BaseException as error:  # noqa: BLE001  a thread's edge: it is raised in the caller's thread
            self._fail(error, parcel)
            return
        self._upkeep.grow(parcel.array, reach)

    def _look_after(self) -> None:
        """Announce growth and have everything on the medium, if that is due."""
        try:
            self._upkeep.do_what_is_due()
        except BaseException as error:  # noqa: BLE001  a thread's edge: it is raised in the caller's thread
            self._fail(error, None)

    def _when_idle(self) -> None:
        """Do in a worker without work what should not wait for the next frame."""
        with suppress(OSError):  # close tries again
            self._fates.drain(self._noted)
        self._look_after()

    # ---- errors ----------------------------------------------------------------------------------------------------

    def _fail(self, error: BaseException, parcel: Parcel | None, lost: Iterable[int] = ()) -> None:
        """Keep the first error, to be raised from now on, and the frames that are lost with any."""
        if isinstance(error, LayersLostError):
            lost = [*lost, *self._assembly.frames_of(error.layers, self._frames)]
        elif isinstance(error, FramesLostError):
            lost = [*lost, *error.frames]
        self._failures.add(error, None if parcel is None else self._paths[parcel.array], lost)

    def _raise_if_forked(self) -> None:
        if self._forked:
            raise StreamClosedError("the stream belongs to the process that this one was forked from; use it there")

    def _raise_if_unusable(self) -> None:
        self._raise_if_forked()
        if self._closing:
            raise StreamClosedError("the stream is closed; create another one to write more frames")
        if self._giving_up:  # flush was interrupted
            self._workers.wait()
            self._giving_up = False
        if self._doubt is not None:
            self._settle_doubt(KeyboardInterrupt())
        self._raise_if_failed()

    def _raise_if_failed(self) -> None:
        if self._failures.first is None:
            return
        closing = "" if self._closing else " The stream takes no more frames; close it to save what can be saved."
        self._failures.raise_first(self.lost, closing)
