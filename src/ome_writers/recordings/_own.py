"""What this package keeps in its datasets beyond OME-Zarr: settings, which frames were taken, and records of frames.

``docs/on-disk.md`` describes the files.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ome_writers._dataset import DatasetFolder
from ome_writers._documents import SETTINGS_FILE, Begun, Completeness
from ome_writers._layout import Layout, plan_layout
from ome_writers._router import Router
from ome_writers.engine import APPENDED, FATES_FILE, RECORDS_FILE, read_fates
from ome_writers.errors import NotRecoverableError, OMEWritersError, RecordingError
from ome_writers.metadata import hierarchy as documents_of
from ome_writers.settings import AcquisitionSettings, Dimension

from ._ngff import FoundImage, Hierarchy
from ._recording import Index
from ._zarr_documents import read_node

_LINE_BYTES: Final = 4096
_NOTHING: Final = np.iinfo(np.uint64).max


@dataclass(frozen=True, slots=True)
class Acquisition:
    """The acquisition that a dataset was begun with.

    Attributes
    ----------
    settings : AcquisitionSettings
        Its settings.
    layout : Layout
        Where its frames are.
    extents : tuple of int
        Shape that the arrays have, the largest one along each axis.
    told : bool
        Whether the metadata on disk are those that these settings give: then the settings tell the same and more.
    """

    settings: AcquisitionSettings
    layout: Layout
    extents: tuple[int, ...]
    told: bool

    @property
    def dimensions(self) -> tuple[Dimension, ...]:
        """The dimensions in acquisition order, the unbounded one with the extent that was reached."""
        stored = self.layout.geometry.dimension_names
        return tuple(
            d.model_copy(
                update={
                    "count": self.extents[stored.index(d.name)] if d.count is None else d.count,
                    "chunk_size": None,
                    "shard_size_chunks": None,
                }
            )
            for d in self.settings.dimensions
        )


def acquisition_of(root: Path, found: Hierarchy) -> Acquisition | None:
    """Return the acquisition that a dataset was begun with; None if it is not known, or the arrays are not its own."""
    if not (root / SETTINGS_FILE).is_file():
        return None
    try:
        settings = Begun.read(DatasetFolder(root)).settings
        layout = plan_layout(settings)
    except (NotRecoverableError, OMEWritersError):
        return None
    by_path = {image.path: image for image in found.images}
    if by_path.keys() != {image.path for image in layout.images}:
        return None
    declared = layout.geometry.shape
    shapes = [by_path[image.path].shape for image in layout.images]
    for shape in shapes:
        if len(shape) != len(declared) or any(n not in (None, m) for n, m in zip(declared, shape, strict=True)):
            return None
    return Acquisition(settings, layout, tuple(map(max, zip(*shapes, strict=True))), _is_told(settings, layout, found))


def _is_told(settings: AcquisitionSettings, layout: Layout, found: Hierarchy) -> bool:
    """Tell whether the metadata on disk are those that were written: somebody may have corrected them since."""
    written = documents_of(settings, layout, version="")
    if found.plate is not None and written["."]["ome"].get("plate") != found.plate:
        return False
    for image in found.images:
        ome = written[image.path or "."]["ome"]
        channels = (ome.get("omero") or {}).get("channels")
        if ome["multiscales"] != list(image.multiscales):
            return False
        if channels is not None and image.channels and channels != list(image.channels):
            return False
    return True


def completeness_of(root: Path, source: str) -> Completeness | None:
    """Return what a dataset of this package says that it holds; None if it is none.

    Raises
    ------
    RecordingError
        If its stream was not closed, so that nobody knows yet.
    """
    state = Completeness.read(DatasetFolder(root))
    if state is not None and not state.closed and not state.recovered:
        raise RecordingError(
            f"{source}: the stream that wrote this dataset was not closed, or could not write everything, so it does "
            f'not say which frames it holds. Complete it first: ome-writers recover "{source}"'
        )
    return state


def frames_present(
    root: Path, state: Completeness | None, acquisition: Acquisition | None, source: str
) -> npt.NDArray[np.bool_] | None:
    """Return which frames of an acquisition are in its arrays, by number; None if all are.

    Raises
    ------
    RecordingError
        If some are not, and nobody knows which.
    """
    if state is None:
        return None
    missing = state.frames_written != (state.frames_taken if state.frames_expected is None else state.frames_expected)
    if acquisition is None:
        if missing:
            raise RecordingError(
                f"{source}: frames are missing in this dataset, and without the {SETTINGS_FILE} that it was written "
                "with nobody knows which. Put that file back"
            )
        return None
    counts = [d.count or 0 for d in acquisition.dimensions[:-2]]
    total = int(np.prod(counts, dtype=np.int64))
    if not missing and state.frames_written == total:
        return None
    present: npt.NDArray[np.bool_] = np.zeros(total, np.bool_)
    present[: state.frames_taken] = True
    fates = read_fates(root / FATES_FILE)[:total]
    if state.frames_skipped and not fates.size:
        raise RecordingError(f"{source}: frames were skipped, and without its {FATES_FILE} nobody knows which")
    present[: fates.size] &= fates == APPENDED
    for run in state.lost:
        present[run.start : run.stop] = False
    return present


class FrameRecords:
    """What was recorded about each frame: ``ome_writers/frames.jsonl``, of which only places are kept in memory.

    Parameters
    ----------
    root : Path
        The dataset.
    images : sequence of FoundImage
        Those of it that are read.
    place : callable
        Takes the number of an image among these and an index in its array; returns the number of the frame in the
        recording.
    frames : int
        Frames of the recording.
    """

    def __init__(
        self, root: Path, images: Sequence[FoundImage], place: Callable[[int, Index], int | None], frames: int
    ) -> None:
        self._path = root / RECORDS_FILE
        self._images = images
        self._place = place
        self._frames = frames
        self._lock = threading.Lock()
        self._file: Any = None
        self._offsets: npt.NDArray[np.uint64] | None = None
        self._in_attributes: tuple[int, dict[Index, Mapping[str, Any]]] | None = None
        self._is_file = self._path.is_file()

    @property
    def are_there(self) -> bool:
        """Whether there are any."""
        return self._is_file or any(image.own.get("frame_metadata") for image in self._images)

    def get(self, frame: int, image: int, index: Index) -> Mapping[str, Any] | None:
        """Return what was recorded about a frame; None if nothing was.

        Parameters
        ----------
        frame : int
            Its number in the recording.
        image : int
            Number of its image.
        index : tuple of int
            Its index in the array of the image.

        Raises
        ------
        RecordingError
            If the file can't be read.
        """
        if not self._is_file:
            return self._of_attributes(image, index)
        with self._lock:
            try:
                line = self._line(frame)
                record = None if line is None else json.loads(line)
            except (OSError, ValueError) as error:
                raise RecordingError(f"{self._path}: the record of a frame can't be read: {error}") from error
        return None if record is None else record["metadata"]

    def _line(self, frame: int) -> bytes | None:
        if self._offsets is None:
            self._offsets = self._read_offsets()
        offset = int(self._offsets[frame])
        if offset == _NOTHING:
            return None
        self._file.seek(offset)
        line: bytes = self._file.readline()
        return line

    def _read_offsets(self) -> npt.NDArray[np.uint64]:
        """Read the file once; a last line without an end, and records of images that are not read, are left out."""
        offsets = np.full(self._frames, _NOTHING, np.uint64)
        numbers = {image.path: number for number, image in enumerate(self._images)}
        self._file = self._path.open("rb", buffering=_LINE_BYTES)
        offset = 0
        for line in self._file:
            if line.endswith(b"\n"):
                record = json.loads(line)
                image = numbers.get(str(record.get("image"))) if isinstance(record, dict) else None
                if image is not None and isinstance(record.get("metadata"), dict):
                    frame = self._place(image, tuple(record["storage_index"]))
                    if frame is not None:
                        offsets[frame] = offset
            offset += len(line)
        return offsets

    def _of_attributes(self, image: int, index: Index) -> Mapping[str, Any] | None:
        """Return a record of the first ones that are copied to the attributes of each image."""
        with self._lock:
            kept = self._in_attributes
            if kept is None or kept[0] != image:
                records = self._images[image].own.get("frame_metadata")
                found: dict[Index, Mapping[str, Any]] = {}
                for record in records if isinstance(records, list) else []:
                    if isinstance(record, dict) and isinstance(record.get("storage_index"), list):
                        found[tuple(record["storage_index"])] = {
                            key: value for key, value in record.items() if key != "storage_index"
                        }
                kept = self._in_attributes = image, found
            return kept[1].get(index) or None

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None
                self._offsets = None


def dataset_around(folder: Path) -> tuple[Path, str] | None:
    """Return the dataset of this package that an image is part of, and the image's path in it; None if there is none.

    The dataset knows which frames of the image were recorded.
    """
    node = read_node(folder)
    if node is None or "multiscales" not in node.ome or (folder / SETTINGS_FILE).is_file():
        return None
    folder = folder.resolve()
    for root in (folder.parent, folder.parent.parent.parent):
        if (root / SETTINGS_FILE).is_file() and root != folder:
            return root, folder.relative_to(root).as_posix()
    return None


def frame_numbers(router: Router, arrays: Sequence[int], shape: Index) -> npt.NDArray[Any]:
    """Return the number in acquisition order of each frame of arrays, shape (arrays, *shape of the index)."""
    numbers = []
    steps = [axis.reshape(-1) for axis in np.indices(shape)]
    for array in arrays:
        frames = max(1, int(np.prod(shape, dtype=np.int64)))
        numbers.append(router.number_many(np.full(frames, array), steps).reshape(shape))
    return np.array(numbers)
