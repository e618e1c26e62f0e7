"""A recorded acquisition, appended to a stream as if a camera took it."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

import numpy.typing as npt

from ome_writers._stream import OMEStream, create_stream
from ome_writers.errors import RecordingError, SettingsError
from ome_writers.recordings import Recording, open_recording
from ome_writers.settings import AcquisitionSettings

from ._clock import Clock
from ._plan import Walk, replay_settings
from ._prefetch import Prefetch
from ._report import ReplayProgress, ReplayReport, fill_of

if TYPE_CHECKING:
    from distributed import Client

_PROGRESS_SECONDS: Final = 0.1

Source = str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | npt.NDArray[Any] | Recording
Progress = Callable[[ReplayProgress], None]


def replay(
    source: Source,
    settings: AcquisitionSettings | str | os.PathLike[str],
    *,
    order: Sequence[str] | None = None,
    fps: float | None = None,
    limit: int | None = None,
    skip_missing: bool = False,
    resume: bool = False,
    progress: Progress | None = None,
    client: Client | None = None,
) -> ReplayReport:
    """Write a recorded acquisition to a dataset, frame by frame, as if a camera took it.

    Frames are read ahead in threads, and memory is bounded whatever the size of the source.

    Parameters
    ----------
    source : path, sequence of paths, ndarray or Recording
        What is replayed; anything that :func:`open_recording` takes, or what it returned.
    settings : AcquisitionSettings or path
        Where the dataset goes and how it is stored. Dimensions (with the plate) and dtype that they leave out are as
        recorded; dimensions that they give must be the recorded ones, in any order of the index. A path alone means
        compression ``"blosc-lz4"`` and planned chunks.
    order : sequence of str, optional
        Names of the index dimensions in the acquisition order to simulate, slowest first; by default as in the
        settings, or as recorded.
    fps : float, optional
        Frames per second: each frame is appended when it is due, and late ones are counted. As fast as possible by
        default.
    limit : int, optional
        Number of frames after which the replay ends, from the first of the acquisition. The dataset declares all.
    skip_missing : bool
        Leave out frames that were not recorded, such as those of an acquisition that was stopped. By default they are
        an error.
    resume : bool
        Go on with a dataset that an earlier replay with the same settings has begun, if it is there.
    progress : callable, optional
        Called about ten times a second and at the end with a :class:`ReplayProgress`, between two frames. What it
        raises ends the replay; the dataset is closed and can be resumed.
    client : distributed.Client, optional
        Write regions of whole shards in parallel on this Dask cluster, whose workers see source and dataset at the
        same paths; needs a source with a path, and backend ``"direct"``. Not with ``fps`` or ``limit``.

    Returns
    -------
    ReplayReport
        What was done.

    Raises
    ------
    RecordingError
        If the source can't be read, or frames are missing in it (also a ValueError). What was written before is in the
        dataset, which says how far it is complete.
    SettingsError
        If an argument is not allowed, or the settings do not fit the source (also a ValueError).
    OMEWritersError
        As :func:`create_stream` and :meth:`OMEStream.append`.
    """
    _check_arguments(fps, limit, client)
    with ExitStack() as opened:
        recording = source if isinstance(source, Recording) else opened.enter_context(open_recording(source))
        complete = replay_settings(recording, settings, order)
        check_present(recording, skip_missing=skip_missing)
        if client is not None:
            from ._dask import replay_on_cluster

            return replay_on_cluster(client, recording, complete, resume=resume, progress=progress)
        start = time.perf_counter()
        with create_stream(complete, resume=resume) as stream:
            run = _Run(recording, complete, stream, fps, limit, progress)
            run.carry_out()
        return run.report(time.perf_counter() - start)


def _check_arguments(fps: float | None, limit: int | None, client: object) -> None:
    if fps is not None and not (math.isfinite(fps) and fps > 0):
        raise SettingsError(f"fps is {fps}; give a number of frames per second larger than 0")
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise SettingsError(f"limit is {limit!r}; give the number of frames to replay, 1 or more")
    if client is None:
        return
    if not hasattr(client, "submit"):
        raise SettingsError(f"client is {client!r}; give a distributed.Client, such as Client({client!r})")
    if fps is not None or limit is not None:
        raise SettingsError("fps and limit simulate one camera; leave them out with a Dask client")


def check_present(recording: Recording, *, skip_missing: bool) -> None:
    """Raise an error if frames were not recorded, unless they are to be left out.

    Raises
    ------
    RecordingError
        Saying how many are missing.
    """
    if recording.frames_missing and not skip_missing:
        raise RecordingError(
            f"{recording.name}: {recording.frames_missing} of {recording.frames} frames are missing in this source. If "
            "a file of it is elsewhere, put it beside the others; to leave the missing frames out, set skip_missing"
        )


class _Run:
    """One replay through a stream."""

    def __init__(
        self,
        recording: Recording,
        settings: AcquisitionSettings,
        stream: OMEStream,
        fps: float | None,
        limit: int | None,
        progress: Progress | None,
    ) -> None:
        self._recording = recording
        self._stream = stream
        self._fps = fps
        self._progress = progress
        self._walk = Walk(recording, settings)
        self._total = settings.num_frames or 0
        self._last = self._total if limit is None else min(limit, self._total)
        self._late = self._awaited = 0
        self._longest = self._source_seconds = 0.0
        self._shown = 0.0

    def carry_out(self) -> None:
        """Append what is left of the recording."""
        stream = self._stream
        for namespace, attributes in self._recording.attributes.items():
            stream.set_global_metadata(namespace, attributes)
        first = stream.next_frame
        left = range(first, max(first, self._last))
        began = self._shown = time.perf_counter()
        clock = None if self._fps is None else Clock(1 / self._fps)
        with Prefetch(self._recording, self._walk.indices(left), far=self._fps is not None) as prefetch:
            frames = iter(prefetch)
            for run, recorded in self._walk.runs(left):
                if not recorded:
                    stream.skip(frames=len(run))
                    continue
                for number in run:
                    asked = time.perf_counter()
                    pixels, metadata = next(frames)
                    ready = time.perf_counter()
                    self._source_seconds += ready - asked
                    if clock is not None:
                        ready = clock.wait_for(number - first, asked, ready)
                    stream.append(pixels, frame_metadata=metadata)
                    done = time.perf_counter()
                    self._longest = max(self._longest, done - ready)
                    if clock is not None:
                        clock.count(number - first, done)
                    if done - self._shown >= _PROGRESS_SECONDS:
                        self._show(done - began, clock)
        self._show(time.perf_counter() - began, clock)
        if clock is not None:
            self._late, self._awaited = clock.late, clock.awaited

    def _show(self, seconds: float, clock: Clock | None) -> None:
        self._shown = time.perf_counter()
        if self._progress is None:
            return
        stats = self._stream.stats
        done, late = self._stream.next_frame, 0 if clock is None else clock.late
        self._progress(ReplayProgress(done, max(done, self._last), stats.bytes_in, seconds, fill_of(stats), late))

    def report(self, seconds: float) -> ReplayReport:
        """Return what was done, once the stream is closed."""
        stats = self._stream.stats
        return ReplayReport(
            path=self._stream.path,
            source=self._recording.name,
            kind=self._recording.kind,
            frames_total=self._total,
            frames_done=self._stream.next_frame,
            frames_appended=stats.frames_appended,
            frames_skipped=stats.frames_skipped,
            bytes_in=stats.bytes_in,
            seconds=seconds,
            stalled_seconds=stats.stalled_seconds,
            source_seconds=self._source_seconds,
            fps=self._fps,
            frames_late=self._late,
            frames_awaited=self._awaited,
            longest_append=self._longest,
        )
