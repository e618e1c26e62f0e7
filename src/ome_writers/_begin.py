"""Making a dataset that is complete and valid but for its frames, and opening one to go on with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from ._dataset import DatasetFolder
from ._documents import OME_XML, Begun, Completeness, __version__, check_same_data, plan_dataset
from ._lock import DatasetLock, check_unlocked
from ._recovery import Continuation, complete_dataset, continuation
from ._router import Router
from .abc import BlockSink, Sink, WritePlan
from .backends import load_backend
from .engine import RECORDS_FILE, plan_memory
from .errors import OMEWritersError, UnsupportedError, WriteError
from .metadata import group_document, hierarchy, ome_xml
from .settings import AcquisitionSettings

RECORDS_GROUP: Final = RECORDS_FILE.partition("/")[0]


@dataclass(slots=True)
class OpenDataset:
    """A dataset that this process alone may write to, until the lock is released.

    Attributes
    ----------
    settings : AcquisitionSettings
        What is acquired and how it is stored.
    folder : DatasetFolder
        Its folder and documents.
    groups : frozenset of str
        Paths of its groups.
    plan : WritePlan
        What its sink is given.
    sink_class : type of Sink
        What writes to it.
    lock : DatasetLock
        Says that it is being written to.
    earlier : Continuation, optional
        What stands in it, if it was begun before and one stream goes on with it.
    frames_on_disk : ndarray of int
        Numbers of the frames that are in it or were skipped, if it was begun before.
    """

    settings: AcquisitionSettings
    folder: DatasetFolder
    groups: frozenset[str]
    plan: WritePlan
    sink_class: type[Sink]
    lock: DatasetLock
    earlier: Continuation | None = None
    frames_on_disk: npt.NDArray[np.intp] = field(default_factory=lambda: np.empty(0, np.intp))

    def give_up(self) -> None:
        """Release the lock, and remove what was made, when nothing comes of it."""
        self.lock.release()
        if self.earlier is None:
            self.folder.undo()


def prepare(settings: AcquisitionSettings) -> tuple[DatasetFolder, type[Sink]]:
    """Check settings, and return the folder and the sink class that they mean; touches nothing.

    Raises
    ------
    OMEWritersError
        As :func:`create_stream` says.
    """
    settings.validate_stream_ready()
    sink_class = load_backend(settings.format.backend)
    folder = DatasetFolder(_absolute(settings.output_path), durable=settings.durability == "system")
    plan = plan_dataset(settings, folder.root, always_sharded=sink_class.capabilities.always_sharded)
    sink_class.check(plan)
    plan_memory(sink_class, plan, settings.buffer)
    return folder, sink_class


def begin(settings: AcquisitionSettings, folder: DatasetFolder, sink_class: type[Sink]) -> OpenDataset:
    """Make a dataset; the caller commits its folder, or gives it up.

    Raises
    ------
    DestinationExistsError
        If something stands at the path and may not be replaced.
    DatasetInUseError
        If a living process writes to it.
    WriteError
        If it can't be made; everything is as it was.
    """
    plan = plan_dataset(settings, folder.root, always_sharded=sink_class.capabilities.always_sharded)
    folder.check(overwrite=settings.overwrite)
    check_unlocked(folder.root)
    documents = hierarchy(settings, plan.layout, version=__version__)
    groups = {path: group_document(attributes) for path, attributes in documents.items()}
    arrays = {image.array_path: plan.array_document for image in plan.layout.images}
    lock = None
    try:
        folder.create({**groups, RECORDS_GROUP: group_document({})}, arrays)
        lock = DatasetLock(folder.root)
        Begun(settings, sink_class.capabilities.name, sink_class.capabilities.always_sharded).write(folder)
        Completeness(Router(plan.layout.axes).total).write(folder)
        text = ome_xml(settings, plan.layout, counts=tuple(n or 0 for n in plan.geometry.shape))
        if text is not None:
            folder.write_text(OME_XML, text)
    except BaseException as error:
        if lock is not None:
            lock.release()
        folder.undo()
        if isinstance(error, OSError) and not isinstance(error, OMEWritersError):
            raise folder.not_made(error) from error
        raise
    return OpenDataset(settings, folder, frozenset(groups), plan, sink_class, lock)


def reopen(settings: AcquisitionSettings, folder: DatasetFolder, sink_class: type[Sink]) -> OpenDataset:
    """Open a dataset that was begun before, and complete it as far as it goes.

    Raises
    ------
    UnsupportedError
        If the backend can't go on with arrays that were begun before.
    ResumeError
        If the settings differ from those that it was begun with.
    NotRecoverableError
        If there is nothing to go on with.
    DatasetInUseError
        If a living process writes to it.
    WriteError
        If it can't be written to.
    """
    if not sink_class.capabilities.resumes:  # also when nothing is in it yet
        raise UnsupportedError(
            f"backend {sink_class.capabilities.name!r} can't go on with arrays that were begun before. Resume with "
            "backend 'direct', which writes the same arrays."
        )
    Begun.read(folder)  # before the lock is made in a folder that is none of ours
    with _locked(folder) as lock:
        name, whole = sink_class.capabilities.name, issubclass(sink_class, BlockSink)
        earlier = continuation(folder, settings, backend=name, whole_blocks=whole)
        sink_class.check(earlier.plan)
        groups = frozenset(hierarchy(settings, earlier.plan.layout, version=__version__))
    return OpenDataset(settings, folder, groups, earlier.plan, sink_class, lock, earlier)


def complete_only(settings: AcquisitionSettings, folder: DatasetFolder, sink_class: type[Sink]) -> OpenDataset:
    """Open a dataset that was begun before for writers that know by themselves where they go on.

    Raises
    ------
    OMEWritersError
        As :func:`reopen`.
    """
    begun = Begun.read(folder)
    with _locked(folder) as lock:
        check_same_data(settings, begun)
        report = complete_dataset(folder, begun)
        Begun(settings, sink_class.capabilities.name, begun.always_sharded).write(folder)
        plan = plan_dataset(settings, folder.root, always_sharded=begun.always_sharded)
        groups = frozenset(hierarchy(settings, plan.layout, version=__version__))
        now = (report.frames_expected, report.frames_taken, report.frames_written, report.frames_skipped, report.lost)
        Completeness(*now).write(folder)  # not closed: recovery looks again after a crash
    there = np.ones(report.frames_taken, np.bool_)
    for run in report.lost:
        there[run.start : run.stop] = False
    return OpenDataset(settings, folder, groups, plan, sink_class, lock, frames_on_disk=np.flatnonzero(there))


@contextmanager
def _locked(folder: DatasetFolder) -> Iterator[DatasetLock]:
    """Take the lock of a dataset that was begun before, and give it back after an error."""
    lock = None
    try:
        lock = DatasetLock(folder.root)
        yield lock
    except BaseException as error:
        if lock is not None:
            lock.release()
        if isinstance(error, OSError) and not isinstance(error, OMEWritersError):
            raise WriteError(f"{folder.root} can't be resumed: {error}") from error
        raise


def _absolute(path: str) -> Path:
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError:  # a name that begins with "~" and is no user's
        return Path(path).absolute()
