"""Completing a dataset whose stream was not closed, and finding where another stream goes on with one."""

from __future__ import annotations

import re
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from ._dataset import REGIONS_FOLDER, DatasetFolder
from ._documents import (
    FRAME_METADATA,
    ArrayDocuments,
    Begun,
    Completeness,
    check_same_data,
    extents_on_disk,
    ours_of,
    plan_dataset,
    write_frame_metadata,
    write_ome_xml,
)
from ._lock import DatasetLock
from ._router import Router
from .abc import WritePlan
from .engine import (
    APPENDED,
    FATES_FILE,
    LOST,
    PENDING,
    RECORDS_FILE,
    SKIPPED,
    RecordLog,
    end_of_begun_layers,
    first_to_rewrite,
    ranges_of,
    read_fates,
    write_fates,
)
from .errors import NotRecoverableError, OMEWritersError, WriteError
from .settings import AcquisitionSettings

if TYPE_CHECKING:
    from .backends._salvage import ChunkCensus, Salvage

_AT_ONCE: Final = 1 << 20  # frames
_MOST_NAMED: Final = 10
_PARTIAL: Final = re.compile(
    r"\.(zarr\.json|METADATA\.ome\.xml|settings\.json|frames\.(jsonl|txt))\.[0-9a-f]+\.partial"
)

Fates = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class RecoveryReport:
    """What recovery found and did.

    Attributes
    ----------
    path : Path
        The dataset's folder.
    needed : bool
        Whether there was anything to complete; False when the stream was closed, or an earlier recovery has done it.
    frames_expected : int, optional
        Frames that the settings declare; None when the acquisition is unbounded.
    frames_taken : int
        Frames that the stream had taken: appended or skipped.
    frames_written : int
        Frames that are on disk.
    frames_skipped : int
        Frames that were skipped.
    lost : tuple of range
        Frames that were appended and are not on disk; they read as 0.
    shards_completed : int
        Shards that lacked their index and were given it.
    chunks_dropped : int
        Chunks of frames that are lost all the same, since others of the same frames are not on disk.
    files_removed : int
        Temporary files without anything that could be used.
    unreadable : tuple of str
        Shards whose index can't be read; left as they are.
    """

    path: Path
    needed: bool
    frames_expected: int | None
    frames_taken: int
    frames_written: int
    frames_skipped: int
    lost: tuple[range, ...]
    shards_completed: int = 0
    chunks_dropped: int = 0
    files_removed: int = 0
    unreadable: tuple[str, ...] = ()

    @property
    def frames_lost(self) -> int:
        """Number of frames that were appended and are not on disk."""
        return sum(map(len, self.lost))

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON; of lost frames, the first and last of each run."""
        return {
            "path": str(self.path),
            "needed": self.needed,
            "frames_expected": self.frames_expected,
            "frames_taken": self.frames_taken,
            "frames_written": self.frames_written,
            "frames_skipped": self.frames_skipped,
            "frames_lost": self.frames_lost,
            "lost": [[run.start, run[-1]] for run in self.lost],
            "shards_completed": self.shards_completed,
            "chunks_dropped": self.chunks_dropped,
            "files_removed": self.files_removed,
            "unreadable": list(self.unreadable),
        }

    def __str__(self) -> str:
        """Return it in words."""
        of_all = "" if self.frames_expected is None else f" of {self.frames_expected} declared"
        what = "The dataset is complete; nothing was to be done." if not self.needed else (
            f"The dataset is completed: {self.shards_completed} shards were given their index, "
            f"{self.files_removed} temporary files were removed."
        )  # fmt: skip
        lines = [
            str(self.path),
            what,
            f"{self.frames_taken} frames{of_all} were taken: {self.frames_written} are on disk, "
            f"{self.frames_skipped} were skipped, {self.frames_lost} are lost.",
        ]
        if self.lost:
            runs = ", ".join(f"{r.start} to {r[-1]}" if len(r) > 1 else str(r.start) for r in self.lost[:_MOST_NAMED])
            more = f" and {len(self.lost) - _MOST_NAMED} more runs" if len(self.lost) > _MOST_NAMED else ""
            lines.append(f"Lost, and read as 0: frames {runs}{more}.")
        if self.unreadable:
            lines.append(f"Shards that can't be read: {', '.join(self.unreadable[:_MOST_NAMED])}.")
        return "\n".join(lines)


def recover(path: str | Path) -> RecoveryReport:
    """Complete a dataset whose stream was not closed, such as after a crash.

    Shards that were being written get their index and their name, shapes and per-frame metadata are written, and the
    dataset says which frames it holds. May be interrupted and done again; does nothing to a dataset that is complete.

    Parameters
    ----------
    path : str or Path
        The dataset's folder, or a copy of it.

    Returns
    -------
    RecoveryReport
        What was found, completed and lost.

    Raises
    ------
    NotRecoverableError
        If no stream of this package has begun a dataset there, or what is needed to complete it is damaged (also a
        ValueError).
    DatasetInUseError
        If a living process writes to it (also a FileExistsError).
    WriteError
        If it can't be written to (also an OSError).
    """
    if not str(path).strip():
        raise NotRecoverableError("the path is empty; give the path of the dataset's folder")
    folder = DatasetFolder(Path(path).expanduser().absolute())
    begun = Begun.read(folder)
    try:
        lock = DatasetLock(folder.root)
    except OMEWritersError:
        raise
    except OSError as error:
        state = Completeness.read(folder)
        if state is not None and (state.closed or state.recovered):  # on a medium that can't be written to
            return complete_dataset(folder, begun)
        raise WriteError(f"{folder.root} can't be written to: {error}") from error
    try:
        return complete_dataset(folder, begun)
    except OMEWritersError:
        raise
    except OSError as error:
        raise WriteError(f"{folder.root} can't be completed: {error}. Recovery can be started again.") from error
    finally:
        lock.release()


def complete_dataset(folder: DatasetFolder, begun: Begun) -> RecoveryReport:
    """Complete a dataset if that is needed; the caller holds the lock.

    Parameters
    ----------
    folder : DatasetFolder
        The dataset.
    begun : Begun
        What is known of it.

    Raises
    ------
    NotRecoverableError
        If what is needed to complete it is damaged.
    """
    from .backends._salvage import ChunkCensus, Salvage, unfinished

    plan = plan_dataset(begun.settings, folder.root, always_sharded=begun.always_sharded)
    shutil.rmtree(folder.root / REGIONS_FOLDER, ignore_errors=True)  # none of them has been moved into the dataset
    state = Completeness.read(folder)
    if state is not None and (state.closed or state.recovered) and not unfinished(folder.root):
        return _report(folder, state, Salvage(), needed=False)
    folder = DatasetFolder(folder.root, durable=plan.durable)
    census = ChunkCensus(plan)
    router = Router(plan.layout.axes)
    fates = _fates_of(folder, router, census, state)
    lost, written = _lost_and_written(router, census, fates)
    salvage = census.complete(cut=begun.backend == "direct")
    if begun.backend == "direct" and (pending := np.flatnonzero(fates == PENDING)).size:
        arrays, indices = router.locate_many(pending)
        there = census.holds(arrays, indices)
        census.blank(arrays[there], indices[:, there])
    documents = ArrayDocuments(folder, plan, extents_on_disk(folder, plan))
    documents.finish(router, len(fates))
    records = RecordLog(folder.root / RECORDS_FILE, [image.path for image in plan.layout.images])
    records.take_over(len(fates), durable=plan.durable)
    _forget_frame_metadata(folder, plan, records)
    write_frame_metadata(folder, plan.layout, records)
    write_ome_xml(folder, begun.settings, plan.layout, records, documents.shape)
    skipped = int((fates == SKIPPED).sum())
    state = Completeness(router.total, len(fates), written, skipped, tuple(ranges_of(lost)), recovered=True)
    salvage.removed += _remove_partial_documents(folder, plan)
    state.write(folder)
    census.clear()
    return _report(folder, state, salvage, needed=True)


def _forget_frame_metadata(folder: DatasetFolder, plan: WritePlan, records: RecordLog) -> None:
    """Take the metadata of frames out of the groups of images that have no records any more."""
    for number in set(range(len(plan.layout.images))).difference(records.arrays()):
        path = plan.layout.images[number].path or "."
        attributes = folder.attributes(path)
        ours = ours_of(attributes)
        if left := ours.keys() & {*FRAME_METADATA}:
            kept = {name: value for name, value in ours.items() if name not in left}
            folder.set_attributes(path, {**attributes, "ome_writers": kept})


def _remove_partial_documents(folder: DatasetFolder, plan: WritePlan) -> int:
    """Remove documents that were being written when the writer died; return how many."""
    arrays = [Path(image.array_path) for image in plan.layout.images]
    groups = {*arrays, *(parent for path in arrays for parent in path.parents), Path("OME"), Path("ome_writers")}
    found = (file for path in groups for file in (folder.root / path).glob(".*.partial"))
    files = [file for file in found if _PARTIAL.fullmatch(file.name)]
    for file in files:
        file.unlink(missing_ok=True)
    return len(files)


def _report(folder: DatasetFolder, state: Completeness, salvage: Salvage, *, needed: bool) -> RecoveryReport:
    return RecoveryReport(
        folder.root,
        needed,
        state.frames_expected,
        state.frames_taken,
        state.frames_written,
        state.frames_skipped,
        state.lost,
        salvage.completed,
        salvage.dropped,
        salvage.removed,
        tuple(map(str, salvage.unreadable)),
    )


def _fates_of(folder: DatasetFolder, router: Router, census: ChunkCensus, state: Completeness | None) -> Fates:
    """Return what became of each frame, as far as it was noted, the root says, or layers are on disk."""
    fates = read_fates(folder.root / FATES_FILE)
    if state is not None and (missing := state.frames_taken - len(fates)) > 0:  # notes could not be written
        there = census.holds(*router.locate_many(np.arange(len(fates), state.frames_taken)))
        said = np.where(there, APPENDED, SKIPPED).astype(np.uint8)
        for run in state.lost:
            said[max(0, run.start - len(fates)) : max(0, run.stop - len(fates))] = LOST
        fates = np.append(fates, said)
    if state is not None and state.first_frame:  # layers of frames that were to be appended again may be on disk
        return fates
    missing = census.last_begun(router) + 1 - len(fates)  # after a power failure
    return fates if missing <= 0 else np.append(fates, np.full(missing, APPENDED, np.uint8))


def _lost_and_written(router: Router, census: ChunkCensus, fates: Fates) -> tuple[npt.NDArray[np.intp], int]:
    """Return the frames that were appended and are not on disk, and how many are."""
    lost: list[npt.NDArray[np.intp]] = [np.empty(0, np.intp)]
    written = 0
    for numbers in _in_parts(len(fates)):
        there = census.holds(*router.locate_many(numbers))
        appended = fates[numbers] != SKIPPED
        there &= (fates[numbers] != PENDING) & (fates[numbers] != LOST)
        lost.append(numbers[appended & ~there])
        written += int((appended & there).sum())
    return np.concatenate(lost), written


def _in_parts(frames: int) -> Iterator[npt.NDArray[np.intp]]:
    for first in range(0, frames, _AT_ONCE):
        yield np.arange(first, min(first + _AT_ONCE, frames))


# ---- going on --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Continuation:
    """Where a stream goes on with a dataset.

    Attributes
    ----------
    plan : WritePlan
        What its sink is given.
    fates : ndarray of uint8
        What became of the frames before.
    extents : list of int, optional
        Extent of each array along the unbounded axis, as it stands on disk.
    rewritten : int
        Frames before this number go to chunks that may stand on disk.
    """

    plan: WritePlan
    fates: Fates
    extents: list[int] | None
    rewritten: int

    @property
    def appended(self) -> int:
        """Frames that were appended before."""
        return int((self.fates == APPENDED).sum())

    @property
    def skipped(self) -> int:
        """Frames that were skipped before."""
        return int((self.fates == SKIPPED).sum())


def continuation(
    folder: DatasetFolder, settings: AcquisitionSettings, *, backend: str, whole_blocks: bool
) -> Continuation:
    """Complete a dataset if that is needed, and return where a stream goes on with it; the caller holds the lock.

    Parameters
    ----------
    folder : DatasetFolder
        The dataset.
    settings : AcquisitionSettings
        Those of the new stream.
    backend : str
        The name of its backend.
    whole_blocks : bool
        Whether only whole shards can be written, so that frames of a shard that is not full are needed again.

    Raises
    ------
    ResumeError
        If the settings differ from those that the dataset was begun with.
    NotRecoverableError
        If there is nothing to go on with.
    """
    begun = Begun.read(folder)
    check_same_data(settings, begun)
    before = Completeness.read(folder)
    report = complete_dataset(folder, begun)
    frame = report.lost[0].start if report.lost else report.frames_taken
    first = frame
    plan = plan_dataset(settings, folder.root, always_sharded=begun.always_sharded)
    if whole_blocks:
        first = first_to_rewrite(plan.geometry, Router(plan.layout.axes), frame)
    if first < report.frames_taken:
        warnings.warn(
            f"{folder.root} is resumed at frame {first}: append frames {first} to {report.frames_taken - 1} again, "
            + ("which are lost" if first == frame else "which are lost or in a block that is not complete"),
            UserWarning,
            stacklevel=4,
        )
    fates = read_fates(folder.root / FATES_FILE)
    if len(fates) < report.frames_taken:  # nothing was skipped
        fates = np.append(fates, np.full(report.frames_taken - len(fates), APPENDED, np.uint8))
    if len(fates) < first:
        raise NotRecoverableError(f"{folder.root} does not say what became of its frames")
    write_fates(folder.root / FATES_FILE, fates[:first], durable=plan.durable)
    records = RecordLog(folder.root / RECORDS_FILE, [image.path for image in plan.layout.images])
    records.take_over(first, durable=plan.durable)
    _forget_frame_metadata(folder, plan, records)
    plan = plan_dataset(settings, folder.root, always_sharded=begun.always_sharded, first_frame=first)
    router = Router(plan.layout.axes)
    rewritten = end_of_begun_layers(plan.geometry, router, report.frames_taken)
    earlier = Continuation(plan, fates[:first], extents_on_disk(folder, plan), rewritten)
    replace(begun, settings=settings, backend=backend).write(folder)  # recovery goes by who has written last
    Completeness(router.total, first, earlier.appended, earlier.skipped, first_frame=first).write(folder)  # not closed
    if before is None or not before.closed or first < report.frames_taken:
        from .backends._salvage import ChunkCensus

        ChunkCensus(plan).drop_from(router, first)  # they would be there if they were skipped now
    return earlier
