"""Replay on a Dask cluster: the process that has the client hands out regions of whole shards, one for each task."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError
from contextlib import ExitStack, suppress
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from ome_writers._begin import OpenDataset, begin, complete_only, prepare
from ome_writers._dataset import REGIONS_FOLDER
from ome_writers._documents import (
    ArrayDocuments,
    Begun,
    Completeness,
    write_frame_metadata,
    write_ome_xml,
)
from ome_writers._recovery import complete_dataset
from ome_writers._router import Router
from ome_writers.engine import (
    APPENDED,
    FATES_FILE,
    PENDING,
    RECORDS_FILE,
    SKIPPED,
    FrameFates,
    RecordLog,
    encode_metadata,
    write_fates,
)
from ome_writers.errors import OMEWritersError, SettingsError, UnsupportedError, WriteError
from ome_writers.recordings import Recording
from ome_writers.settings import AcquisitionSettings

from ._plan import Walk
from ._region_task import RegionTask, write_region
from ._regions import Region, plan_regions
from ._report import ReplayProgress, ReplayReport

if TYPE_CHECKING:
    from distributed import Client, Future

_PATIENCE_SECONDS: Final = 60
"""How long to wait, after an error, for regions that workers are writing."""

_PROGRESS_SECONDS: Final = 0.5
_RECORDS_AT_ONCE: Final = 10_000


def replay_on_cluster(
    client: Client,
    recording: Recording,
    settings: AcquisitionSettings,
    *,
    resume: bool,
    progress: Callable[[ReplayProgress], None] | None,
) -> ReplayReport:
    """Write a recording to a dataset on a Dask cluster.

    Parameters
    ----------
    client : distributed.Client
        Of the cluster; its workers see source and dataset at the same paths.
    recording : Recording
        What is replayed.
    settings : AcquisitionSettings
        As :func:`replay_settings` returns them.
    resume : bool
        Go on with a dataset, at the regions that are not complete.
    progress : callable, optional
        Called whenever a region is complete.

    Returns
    -------
    ReplayReport
        What was done.

    Raises
    ------
    SettingsError
        If workers can't open the recording.
    UnsupportedError
        If the backend is not ``"direct"``.
    WriteError
        If workers are lost again and again. What was written before is in the dataset, and can be resumed.
    """
    if recording.origin is None:
        raise SettingsError(f"workers of a Dask cluster can't open {recording.name}; give a path as the source")
    settings = settings.model_copy(deep=True)
    folder, sink_class = prepare(settings)
    if sink_class.capabilities.name != "direct":
        raise UnsupportedError(
            f"backend {sink_class.capabilities.name!r} can't write shards from several processes; use 'direct'"
        )
    going_on = resume and folder.root.exists()
    start = time.perf_counter()
    dataset = (complete_only if going_on else begin)(settings, folder, sink_class)
    with ExitStack() as open_things:
        open_things.callback(dataset.lock.release)
        if not going_on:
            folder.commit()
        return _Coordinator(client, recording, recording.origin, dataset, progress, start).carry_out()


class _Coordinator:
    """What the process that has the cluster does: hands out regions, and completes the dataset.

    All frames are noted before the first region is written, as pending until their region is complete: after a crash,
    recovery knows which frames there should be, and which of the chunks that it finds count.
    """

    def __init__(
        self,
        client: Client,
        recording: Recording,
        source: tuple[Any, Mapping[str, Any]],
        dataset: OpenDataset,
        progress: Callable[[ReplayProgress], None] | None,
        start: float,
    ) -> None:
        self._client = client
        self._recording = recording
        self._source = source
        self._dataset = dataset
        self._progress = progress
        self._start = start
        self._root = dataset.folder.root
        self._layout = dataset.plan.layout
        self._router = Router(self._layout.axes)
        self._total = self._router.total or 0
        self._walk = Walk(recording, dataset.settings)
        self._present = self._walk.present(self._total)
        self._done = np.zeros(self._total, np.bool_)
        self._done[dataset.frames_on_disk] = True
        self._before = int((self._done & self._present).sum())
        self._run = secrets.token_hex(8)
        self._settings = dataset.settings.model_dump_json()

    def carry_out(self) -> ReplayReport:
        """Have all regions written that are not complete, and complete the dataset, also after an error."""
        folder = self._dataset.folder
        attributes = {name: dict(values) for name, values in self._recording.attributes.items()}
        folder.set_attributes(".", {**folder.attributes("."), **attributes})
        records = self._write_records()
        fates = self._note_frames()
        try:
            regions = self._root / REGIONS_FOLDER
            regions.mkdir()
            (regions / self._run).touch()  # workers that don't find it are elsewhere, or too late
            self._write_regions(fates)
        except BaseException as error:
            fates.close()
            try:
                complete_dataset(folder, Begun.read(folder))
            except (OMEWritersError, OSError) as at_end:
                error.add_note(f"{folder.root} is not completed: {at_end}; recover it, or resume")
            raise
        fates.close()
        shutil.rmtree(regions, ignore_errors=True)
        self._close(records)
        return self._report()

    # ---- before and after ------------------------------------------------------------------------------------------

    def _write_records(self) -> RecordLog:
        """Write what was recorded about each frame; the whole file anew."""
        path = self._root / RECORDS_FILE
        path.unlink(missing_ok=True)
        records = RecordLog(path, [image.path for image in self._layout.images])
        try:
            numbers = np.flatnonzero(self._present).tolist()
            indices = self._walk.indices(range(self._total))
            for count, (number, index) in enumerate(zip(numbers, indices, strict=True), 1):
                text = encode_metadata(self._recording.metadata(index))
                if text is not None:
                    records.add(number, *self._router.locate(number), text)
                if not count % _RECORDS_AT_ONCE:
                    records.drain()
        finally:
            records.close()
        return records

    def _note_frames(self) -> FrameFates:
        """Note all frames: those that are there, those that were not recorded, and those that are to come."""
        known = np.where(self._present, np.where(self._done, APPENDED, PENDING), SKIPPED).astype(np.uint8)
        path = self._root / FATES_FILE
        write_fates(path, known, durable=self._dataset.plan.durable)
        return FrameFates(path, known.tobytes(), self._total)

    def _close(self, records: RecordLog) -> None:
        """Write the documents that depend on what was written, as a stream does at its end."""
        folder, plan = self._dataset.folder, self._dataset.plan
        documents = ArrayDocuments(folder, plan)
        documents.finish(self._router, self._total)
        write_frame_metadata(folder, self._layout, records)
        write_ome_xml(folder, self._dataset.settings, self._layout, records, documents.shape)
        written = int(self._present.sum())
        Completeness(self._total, self._total, written, self._total - written, closed=True).write(folder)
        if written == self._total:  # which were skipped has to be told
            (self._root / FATES_FILE).unlink(missing_ok=True)

    def _report(self) -> ReplayReport:
        appended = int(self._present.sum()) - self._before
        return ReplayReport(
            path=self._root,
            source=self._recording.name,
            kind=self._recording.kind,
            frames_total=self._total,
            frames_done=self._total,
            frames_appended=appended,
            frames_skipped=int((~self._present).sum()),
            bytes_in=appended * self._layout.geometry.frame_bytes,
            seconds=time.perf_counter() - self._start,
            stalled_seconds=0.0,
            source_seconds=0.0,
        )

    # ---- regions ---------------------------------------------------------------------------------------------------

    def _write_regions(self, fates: FrameFates) -> None:
        from distributed import wait
        from distributed.scheduler import KilledWorker

        regions = self._missing_regions()
        running: dict[Future, npt.NDArray[Any]] = dict(self._submit(islice(regions, self._at_once())))
        try:
            while running:
                with suppress(TimeoutError):
                    wait(list(running), timeout=_PROGRESS_SECONDS, return_when="FIRST_COMPLETED")
                for future in [future for future in running if future.done()]:
                    future.result()
                    self._settle(fates, running.pop(future))
                self._show()
                running |= dict(self._submit(islice(regions, max(0, self._at_once() - len(running)))))
        except KilledWorker as error:
            raise WriteError(
                f"workers of the cluster ended again and again while they wrote to {self._root}: {error}. Look at "
                "their logs and their memory limit, and resume."
            ) from error
        except OMEWritersError:
            raise
        except (asyncio.CancelledError, CancelledError, OSError) as error:
            raise WriteError(
                f"the cluster can't go on with {self._root}: {error or type(error).__name__}. Look at the logs of its "
                "scheduler and its workers, and resume."
            ) from error
        finally:
            self._settle_rest(fates, running)

    def _missing_regions(self) -> Iterator[tuple[Region, npt.NDArray[Any]]]:
        """Yield the regions that lack frames, and the numbers of their frames."""
        shape = self._layout.geometry.shape[:-2]
        for region in plan_regions(self._layout.geometry, len(self._layout.images)):
            frames = region.frames(self._router, shape)
            if (self._present[frames] & ~self._done[frames]).any():
                yield region, frames
            else:
                self._done[frames] = True

    def _submit(self, regions: Iterable[tuple[Region, npt.NDArray[Any]]]) -> Iterator[tuple[Future, npt.NDArray[Any]]]:
        for region, frames in regions:
            task = RegionTask(self._run, self._source, self._settings, str(self._root), region)
            key = f"ome-writers-region-{self._run}-{region.number}"
            yield self._client.submit(write_region, task, key=key, pure=False), frames

    def _at_once(self) -> int:
        """Return how many tasks the cluster is given at once: enough that no worker waits for one."""
        return 2 * max(1, int(sum(self._client.nthreads().values())))

    def _settle(self, fates: FrameFates, frames: npt.NDArray[Any]) -> None:
        self._done[frames] = True
        fates.settle(frames[self._present[frames]].tolist())

    def _settle_rest(self, fates: FrameFates, running: Mapping[Future, npt.NDArray[Any]]) -> None:
        """Wait, after an error, for what workers have in hand, which nobody can stop."""
        from distributed import wait

        if not running:
            return
        with suppress(Exception, asyncio.CancelledError):  # the cluster may be gone, which is known by now
            in_hand = {key for keys in self._client.processing().values() for key in keys}
            waiting = [future for future in running if future.key not in in_hand]
            self._client.cancel(waiting)
            with suppress(TimeoutError):
                wait([future for future in running if future.key in in_hand], timeout=_PATIENCE_SECONDS)
            for future, frames in running.items():
                if future.status == "finished":
                    self._settle(fates, frames)
            self._client.cancel(list(running))

    def _show(self) -> None:
        if self._progress is not None:
            appended = int((self._done & self._present).sum()) - self._before
            seconds = time.perf_counter() - self._start
            nbytes = appended * self._layout.geometry.frame_bytes
            self._progress(ReplayProgress(int(self._done.sum()), self._total, nbytes, seconds, 0.0))
