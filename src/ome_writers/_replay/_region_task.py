"""Writing a region of a recording in a worker of a Dask cluster.

A task puts its region together as a dataset of its own, below ``ome_writers/regions``, and moves the files into the
dataset when all of them are complete. To do it twice does no harm: files are replaced by equal ones. So a task whose
worker is lost is done again by another one, and nobody needs to know how far it was.
"""

from __future__ import annotations

import secrets
import shutil
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ome_writers import _files
from ome_writers._dataset import REGIONS_FOLDER
from ome_writers._layout import plan_layout
from ome_writers.errors import WriteError
from ome_writers.recordings import Recording, open_recording
from ome_writers.settings import AcquisitionSettings

from ._regions import Region, RegionRecording, region_settings
from ._replay import replay

_VISIBLE_SECONDS: Final = 10
"""How long a worker looks for the dataset: network file systems keep what they know of a folder for some seconds."""

_POLL_SECONDS: Final = 0.2
_IDLE_SECONDS: Final = 10


@dataclass(frozen=True, slots=True)
class RegionTask:
    """What a worker is told.

    Attributes
    ----------
    run : str
        Which replay it is; the name of a file that is there for as long as it goes on.
    source : tuple
        What to call :func:`open_recording` with.
    settings : str
        The dataset's settings, as JSON.
    root : str
        The dataset's folder.
    region : Region
        What is to be written.
    """

    run: str
    source: tuple[Any, Mapping[str, Any]]
    settings: str
    root: str
    region: Region


def write_region(task: RegionTask) -> None:
    """Write a region, in a worker; may be done by two workers at once, or again.

    Raises
    ------
    WriteError
        If this worker does not see the dataset, or the replay has ended.
    """
    _check_still_wanted(task, seconds=_VISIBLE_SECONDS)
    settings = AcquisitionSettings.model_validate_json(task.settings)
    folder = Path(task.root, REGIONS_FOLDER)
    with _opened.borrow(task) as recording:
        region = RegionRecording(recording, settings, task.region)
        staged = folder / f"{task.region.number}.{secrets.token_hex(4)}.ome.zarr"
        try:
            replay(region, region_settings(settings, task.region, staged), skip_missing=True)
            _check_still_wanted(task)
            _move(settings, task, staged)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
            with suppress(OSError):  # of a replay that has ended in the meantime; else it is not empty
                folder.rmdir()


def _check_still_wanted(task: RegionTask, *, seconds: float = 0.0) -> None:
    """Raise an error unless this worker sees the mark of the replay; a network file system may show it late."""
    end = time.monotonic() + seconds
    while not Path(task.root, REGIONS_FOLDER, task.run).exists():
        if time.monotonic() >= end:
            raise WriteError(
                f"a worker on {socket.gethostname()} does not see {task.root}, or the replay that writes it has ended. "
                "Workers need the dataset's folder at the same path: mount it there, or choose another destination."
            )
        time.sleep(_POLL_SECONDS)


def _move(settings: AcquisitionSettings, task: RegionTask, staged: Path) -> None:
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
    """The recordings that tasks of this process read: opened once for a replay, and closed some seconds after use."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._recordings: dict[str, Recording] = {}
        self._readers: Counter[str] = Counter()

    @contextmanager
    def borrow(self, task: RegionTask) -> Iterator[Recording]:
        """Yield the recording of a replay."""
        with self._lock:
            if task.run not in self._recordings:
                source, options = task.source
                self._recordings[task.run] = open_recording(source, **options)
            self._readers[task.run] += 1
        try:
            yield self._recordings[task.run]
        finally:
            with self._lock:
                self._readers[task.run] -= 1
            timer = threading.Timer(_IDLE_SECONDS, self._close_idle, [task.run])
            timer.daemon = True
            timer.start()

    def _close_idle(self, run: str) -> None:
        with self._lock:
            if not self._readers[run] and (recording := self._recordings.pop(run, None)):
                del self._readers[run]
                recording.close()


_opened = _Opened()
