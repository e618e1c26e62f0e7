"""Replay on a Dask cluster: regions of whole shards, each written by one task.

A task puts its region together as a dataset of its own, below ``ome_writers/regions``, and moves the files into the
dataset when all of them are complete. To do it twice does no harm: files are replaced by equal ones. So a task whose
worker is lost is done again by another one, and nobody needs to know how far it was.
"""

from __future__ import annotations

import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from ome_writers import _files
from ome_writers._begin import OpenDataset, begin, complete_only, prepare
from ome_writers._dataset import REGIONS_FOLDER
from ome_writers._documents import (
    ArrayDocuments,
    Completeness,
    write_frame_metadata,
    write_ome_xml,
)
from ome_writers._layout import plan_layout
from ome_writers._router import Router
from ome_writers.engine import (
    APPENDED,
    FATES_FILE,
    LOST,
    RECORDS_FILE,
    SKIPPED,
    RecordLog,
    encode_metadata,
    ranges_of,
    write_fates,
)
from ome_writers.errors import SettingsError, UnsupportedError, WriteError
from ome_writers.recordings import Recording, open_recording
from ome_writers.settings import AcquisitionSettings

from ._plan import Walk
from ._regions import Region, RegionRecording, plan_regions, region_settings
from ._report import ReplayProgress, ReplayReport

if TYPE_CHECKING:
    from distributed import Client, Future

_PATIENCE_SECONDS: Final = 60
"""How long to wait, after an error, for regions that workers are writing."""


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
    """What the process that has the cluster does: hands out regions, and completes the dataset."""

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
        self._dataset = dataset
        self._progress = progress
        self._start = start
        self._layout = dataset.plan.layout
        self._router = Router(self._layout.axes)
        self._total = self._router.total or 0
        self._walk = Walk(recording, dataset.settings)
        self._present = self._walk.present(self._total)
        self._done = np.zeros(self._total, np.bool_)
        self._done[dataset.frames_on_disk] = True
        self._run = secrets.token_hex(8)
        self._settings = dataset.settings.model_dump_json()
        self._source = source
        self._before = int((self._done & self._present).sum())

    def carry_out(self) -> ReplayReport:
        """Have all regions written that are not complete, and complete the dataset, also after an error."""
        folder = self._dataset.folder
        root = folder.attributes(".")
        folder.set_attributes(".", {**root, **{k: dict(v) for k, v in self._recording.attributes.items()}})
        try:
            self._write_regions()
        finally:
            shutil.rmtree(folder.root / REGIONS_FOLDER, ignore_errors=True)
            self._complete()
        return self._report()

    def _write_regions(self) -> None:
        from distributed import as_completed
        from distributed.scheduler import KilledWorker

        (self._dataset.folder.root / REGIONS_FOLDER).mkdir()
        regions = self._missing_regions()
        numbers: dict[Future, npt.NDArray[Any]] = dict(self._submit(islice(regions, self._at_once())))
        running = as_completed(list(numbers))
        try:
            for future in running:
                future.result()
                self._done[numbers.pop(future)] = True
                self._show()
                more = dict(self._submit(islice(regions, max(1, self._at_once() - len(numbers)))))
                numbers |= more
                running.update(list(more))
        except KilledWorker as error:
            raise WriteError(
                f"workers of the cluster ended again and again while they wrote to {self._dataset.folder.root}: "
                f"{error}. Look at their logs and their memory limit, and resume."
            ) from error
        finally:
            self._wait_for(numbers)

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
            task = _Task(self._run, self._source, self._settings, str(self._dataset.folder.root), region)
            key = f"ome-writers-region-{self._run}-{region.number}"
            yield self._client.submit(write_region, task, key=key, pure=False), frames

    def _at_once(self) -> int:
        """Return how many tasks the cluster is given at once: enough that no worker waits for one."""
        return 2 * max(1, int(sum(self._client.nthreads().values())))

    def _wait_for(self, numbers: Mapping[Future, npt.NDArray[Any]]) -> None:
        """Wait, after an error, for what workers have in hand: there is no way to stop them."""
        from distributed import wait

        if not numbers:
            return
        with suppress(TimeoutError):
            wait(list(numbers), timeout=_PATIENCE_SECONDS)
        for future, frames in numbers.items():
            if future.status == "finished":
                self._done[frames] = True
        self._client.cancel(list(numbers))

    def _show(self) -> None:
        if self._progress is not None:
            done, frame_bytes = int(self._done.sum()), self._recording.frame_bytes
            nbytes = (int((self._done & self._present).sum()) - self._before) * frame_bytes
            self._progress(ReplayProgress(done, self._total, nbytes, time.perf_counter() - self._start, 0.0))

    def _complete(self) -> None:
        """Write the documents that depend on what was written: as a stream does at its end."""
        folder, settings, plan = self._dataset.folder, self._dataset.settings, self._dataset.plan
        taken = self._total if self._done.all() else int(np.flatnonzero(self._done).max(initial=-1)) + 1
        fates = np.where(self._present, np.where(self._done, APPENDED, LOST), SKIPPED).astype(np.uint8)[:taken]
        write_fates(folder.root / FATES_FILE, fates, durable=plan.durable)
        records = self._write_records(taken)
        documents = ArrayDocuments(folder, plan)
        documents.finish(self._router, taken)
        write_frame_metadata(folder, self._layout, records)
        write_ome_xml(folder, settings, self._layout, records, documents.shape)
        lost = tuple(ranges_of(np.flatnonzero(fates == LOST).tolist()))
        written, skipped = int((fates == APPENDED).sum()), int((fates == SKIPPED).sum())
        closed = bool(self._done.all())
        Completeness(self._total, taken, written, skipped, lost, closed=closed, recovered=not closed).write(folder)
        if closed and not skipped:
            (folder.root / FATES_FILE).unlink(missing_ok=True)

    def _write_records(self, taken: int) -> RecordLog:
        """Write what was recorded about each frame; the whole file anew."""
        path = self._dataset.folder.root / RECORDS_FILE
        path.unlink(missing_ok=True)
        records = RecordLog(path, [image.path for image in self._layout.images])
        try:
            present = np.flatnonzero(self._present[:taken]).tolist()
            for count, (number, index) in enumerate(zip(present, self._walk.indices(range(taken)), strict=True), 1):
                text = encode_metadata(self._recording.metadata(index))
                if text is not None:
                    records.add(number, *self._router.locate(number), text)
                if not count % 10_000:
                    records.drain()
        finally:
            records.close()
        return records

    def _report(self) -> ReplayReport:
        appended = int(self._present.sum()) - self._before
        return ReplayReport(
            path=self._dataset.folder.root,
            source=self._recording.name,
            kind=self._recording.kind,
            frames_total=self._total,
            frames_done=self._total,
            frames_appended=appended,
            frames_skipped=int((~self._present).sum()),
            bytes_in=appended * self._recording.frame_bytes,
            seconds=time.perf_counter() - self._start,
            stalled_seconds=0.0,
            source_seconds=0.0,
        )


# ---- in the workers --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Task:
    """What a worker is told."""

    run: str
    source: tuple[Any, Mapping[str, Any]]
    settings: str  # JSON
    root: str
    region: Region


def write_region(task: _Task) -> None:
    """Write a region, in a worker; may be done by two workers at once, or again."""
    from ._replay import replay

    settings = AcquisitionSettings.model_validate_json(task.settings)
    with _opened.borrow(task) as recording:
        region = RegionRecording(recording, settings, task.region)
        staged = Path(task.root, REGIONS_FOLDER) / f"{task.region.number}.{secrets.token_hex(4)}.ome.zarr"
        try:
            replay(region, region_settings(settings, task.region, staged), skip_missing=True)
            _move(settings, task, staged)
        finally:
            shutil.rmtree(staged, ignore_errors=True)


def _move(settings: AcquisitionSettings, task: _Task, staged: Path) -> None:
    """Give the complete files of a region their place in the dataset."""
    layout = plan_layout(settings)
    geometry, durable = layout.geometry, settings.durability == "system"
    step = geometry.shards or geometry.chunks
    first = [o // s for o, s in zip((*task.region.origin, 0, 0), step, strict=True)]
    chunks, target = staged / "0" / "c", Path(task.root, layout.images[task.region.array].array_path, "c")
    for file in sorted(path for path in chunks.rglob("*") if path.is_file()):
        place = [int(part) + f for part, f in zip(file.relative_to(chunks).parts, first, strict=True)]
        final = target.joinpath(*map(str, place))
        _files.make_folder(final.parent, durable=durable)
        _files.system.replace(file, final)
        if durable:
            _files.system.sync_folder(final.parent)


class _Opened:
    """The recording that tasks of this process read, opened once for a replay."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._run = ""
        self._recording: Recording | None = None
        self._readers = 0

    @contextmanager
    def borrow(self, task: _Task) -> Iterator[Recording]:
        """Yield the recording; opens it when it is another one than before."""
        with self._lock:
            fresh = self._run != task.run
            if fresh and not self._readers and self._recording is not None:
                self._recording.close()
                self._recording = None
            if self._recording is None:
                source, options = task.source
                self._recording, self._run = open_recording(source, **options), task.run
                fresh = False
            if not fresh:
                self._readers += 1
        if fresh:  # tasks of another replay still read: this one opens its own
            source, options = task.source
            with open_recording(source, **options) as recording:
                yield recording
            return
        try:
            yield self._recording
        finally:
            with self._lock:
                self._readers -= 1


_opened = _Opened()
