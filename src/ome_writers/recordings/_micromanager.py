"""Micro-Manager image stacks: TIFF files with an index of their frames and JSON metadata for each.

Format: Micro-Manager wiki, "Micro-Manager Image File Stacks". After the TIFF header stand pairs of a magic number and
an offset, among them that of the index (channel, slice, frame, position and place of each directory), then the summary
metadata. An acquisition has several files if it has several positions, or more than 4 GB.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt

from ome_writers.errors import RecordingError

from ._micromanager_metadata import (
    FrameNotes,
    channel_list,
    check_shapes,
    first_frame,
    parse_json,
    pixel_size,
    position_list,
    slowest_first,
    standard_dimension,
)
from ._source_names import json_value
from ._sources import ReadOptions
from ._tiff_ifds import TiffFile
from ._tiff_layout import TiffPages
from ._tiff_pages import TiffPixels
from ._tiff_recording import Planes, TiffRecording, counted, frame_dimensions, grid_fits, sparse_planes, with_samples

_HEADER: Final = 54773648
_INDEX: Final = 3453623
_SUMMARY: Final = 2355492
_NAME: Final = re.compile(r"^(?P<acquisition>.*?MMStack).*\.tiff?$", re.IGNORECASE)
_AXES: Final = ("c", "z", "t", "p")  # columns of the index
_COUNTS: Final = {
    "c": ("Channels", "channel"), "z": ("Slices", "z"), "t": ("Frames", "time"), "p": ("Positions", "position")
}  # fmt: skip
"""What the summary calls the number of steps: versions 1.4 and 2.0, and, within IntendedDimensions, later ones."""

_TAGS: Final = {
    "c": ("ChannelIndex",), "z": ("SliceIndex", "Slice"), "t": ("FrameIndex", "Frame"), "p": ("PositionIndex",)
}  # fmt: skip


class MicroManagerRecording(TiffRecording):
    """A Micro-Manager acquisition in image stacks."""

    kind: ClassVar[str] = "Micro-Manager image stack"


@dataclass(slots=True)
class _Stack:
    """A file: its pages, the c, z, t, p of each page, and the summary."""

    pages: TiffPages
    steps: npt.NDArray[np.int64]
    summary: dict[str, Any]


def is_micromanager(path: Path) -> bool:
    """Tell whether a TIFF file is one of an image stack."""
    with TiffFile(path) as file:
        header = file.read(8, 4)
        return len(header) == 4 and not file.big and struct.unpack(f"{file.order}I", header)[0] == _HEADER


def acquisition_of(path: Path) -> str:
    """Return what the names of all files of an acquisition begin with; the whole name where it does not say."""
    match = _NAME.match(path.name)
    return match["acquisition"] if match else path.name


def open_micromanager(path: Path, options: ReadOptions) -> TiffRecording:
    """Open a Micro-Manager acquisition, given one of its files.

    Raises
    ------
    RecordingError
        If a file is damaged, or several frames have the same channel, slice, frame and position.
    """
    if options.axes is not None or options.shape is not None or options.image is not None:
        raise RecordingError(f"{path}: Micro-Manager's metadata name its axes; leave axes, shape and image out")
    acquisition = acquisition_of(path)
    around = (other for other in path.parent.iterdir() if acquisition_of(other) == acquisition and other.is_file())
    files = _distinct(sorted(around, key=lambda other: (other != path, other)))
    stacks = [_read_stack(file) for file in files if file == path or is_micromanager(file)]
    summary = next((stack.summary for stack in stacks if stack.summary), {})
    return _recording(path, summary, stacks)


def _distinct(files: Sequence[Path]) -> list[Path]:
    """Return files in the order of their names, each once: of links to one file, the first that is given."""
    found: dict[tuple[int, int], Path] = {}
    for file in files:
        status = file.stat()
        found.setdefault((status.st_dev, status.st_ino), file)
    return sorted(found.values())


def _read_stack(path: Path) -> _Stack:
    with TiffFile(path) as file:
        pages = file.scan()
        summary = _read_summary(file)
        steps = _read_index(file, pages)
        if steps is None:
            steps = np.array([_tagged_steps(file, pages, page) for page in range(len(pages))], np.int64)
    return _Stack(pages, steps.reshape(-1, len(_AXES)), summary)


def _numbers(file: TiffFile, offset: int, count: int) -> Sequence[int]:
    data = file.read(offset, 4 * count)
    return struct.unpack(f"{file.order}{count}I", data) if len(data) == 4 * count else (0,) * count


def _read_summary(file: TiffFile) -> dict[str, Any]:
    magic, size = _numbers(file, 32, 2)
    if magic != _SUMMARY or not size:
        return {}
    return parse_json(file.read(40, size), f"{file.path}: the summary metadata")


def _read_index(file: TiffFile, pages: TiffPages) -> npt.NDArray[np.int64] | None:
    """Return c, z, t, p of each page; None if there is no index, as in the file of an acquisition that crashed."""
    _, offset = _numbers(file, 8, 2)
    magic, count = _numbers(file, offset, 2) if offset else (0, 0)
    if magic != _INDEX:
        return None
    data = file.read(offset + 8, 20 * count)
    if len(data) < 20 * count:
        raise file.damaged("it ends within the index of its frames")
    entries = np.frombuffer(data, f"{file.order}i4").reshape(-1, 5).astype(np.int64)
    entries = entries[entries[:, 4] != 0]
    entries[:, 4] &= 0xFFFFFFFF  # offsets are unsigned
    entries = np.unique(entries, axis=0)
    order = np.argsort(pages.ifds)
    found = np.searchsorted(pages.ifds[order], entries[:, 4])
    if len(entries) != len(pages) or (found >= len(pages)).any():
        return None
    places = order[found]
    if (pages.ifds[places] != entries[:, 4]).any() or len(set(places.tolist())) != len(pages):
        return None
    steps = np.empty((len(pages), len(_AXES)), np.int64)
    steps[places] = entries[:, :4]
    return steps


def _tagged_steps(file: TiffFile, pages: TiffPages, page: int) -> list[int]:
    offset, size = pages.notes[page].tolist()
    what = f"{pages.path}: the metadata of page {page}"
    if not size:
        raise RecordingError(f"{what} are missing, and there is no index of frames; the file is damaged")
    tags = parse_json(file.read(offset, size), what)
    return [next((int(tags[name]) for name in _TAGS[axis] if name in tags), 0) for axis in _AXES]


def _recording(path: Path, summary: Mapping[str, Any], stacks: Sequence[_Stack]) -> TiffRecording:
    steps = np.concatenate([stack.steps for stack in stacks])
    if (steps < 0).any():
        raise RecordingError(f"{path}: the index of its frames has numbers below 0; it is damaged")
    of_frames = np.repeat(np.arange(len(stacks)), [len(stack.pages) for stack in stacks])
    _refuse_collisions(stacks, steps, of_frames)
    along = dict(zip(_AXES, steps.T, strict=True))
    counts = _counts(summary, along)
    order = [axis for axis in slowest_first(along) if counts[axis] > 1 or axis == "p"]
    order.sort(key=lambda axis: (axis != "p") if counts["p"] == 1 else 0)
    planes = sparse_planes(str(path), [counts[axis] for axis in order], len(steps))
    places = tuple(along[axis] for axis in order)
    planes.files[places] = of_frames
    planes.pages[places] = np.concatenate([np.arange(len(stack.pages)) for stack in stacks])
    check_shapes(str(path), [stack.pages for stack in stacks], planes)
    pixels = TiffPixels([stack.pages for stack in stacks])
    try:
        return _described(path, summary, counts, order, planes, pixels)
    except BaseException:
        pixels.close()
        raise


def _described(
    path: Path,
    summary: Mapping[str, Any],
    counts: Mapping[str, int],
    order: Sequence[str],
    planes: Planes,
    pixels: TiffPixels,
) -> TiffRecording:
    """Return the recording, with what summary and frames tell of its dimensions."""
    layout = pixels.pages[0].layout(0)
    notes = FrameNotes(pixels, planes)
    first = notes.tags(first_frame(planes)) or {}

    place = order.index("p")

    def tags_of(position: int) -> Mapping[str, Any] | None:
        here = np.argwhere(np.take(planes.files, position, place) >= 0)
        if not len(here):
            return None
        index = here[0].tolist()
        return notes.tags((*index[:place], position, *index[place:]))

    positions = position_list(summary, counts["p"], tags_of)
    dimensions = []
    for axis in order:
        if axis == "p":
            dimensions.append(counted("p", counts["p"], coords=positions))
        elif axis == "c":
            dimensions.append(counted("c", counts["c"], coords=channel_list(summary, counts["c"])))
        else:
            dimensions.append(standard_dimension(axis, counts[axis], summary))
    if positions is None and counts["p"] == 1:
        del dimensions[place]
        planes = planes.reshaped([d.count or 1 for d in dimensions])
    if counts["c"] == 1 and (channels := channel_list(summary, 1)) and layout.samples == 1:
        dimensions.append(counted("c", 1, coords=channels))
        planes = planes.reshaped([d.count or 1 for d in dimensions])
    dimensions, planes = with_samples(dimensions, planes, layout.samples)
    size = pixel_size(summary, first)
    frame = frame_dimensions(layout.height, layout.width, size, size)
    recording = MicroManagerRecording(str(path), [*dimensions, *frame], planes, pixels)
    recording.attributes = {"micromanager": json_value(summary)}
    recording.tell(FrameNotes(pixels, planes))
    return recording


def _refuse_collisions(stacks: Sequence[_Stack], steps: npt.NDArray[np.int64], files: npt.NDArray[np.int64]) -> None:
    _, inverse, counts = np.unique(steps, axis=0, return_inverse=True, return_counts=True)
    if (counts > 1).any():
        double = np.flatnonzero(inverse.reshape(-1) == np.argmax(counts))
        c, z, t, p = steps[double[0]].tolist()
        names = dict.fromkeys(stacks[n].pages.path.name for n in files[double].tolist())
        raise RecordingError(
            f"{stacks[0].pages.path.parent}: {len(double)} frames of {', '.join(names)} have the same place: channel "
            f"{c}, slice {z}, frame {t}, position {p}; if files of several acquisitions are in this folder, move them "
            "apart"
        )


def _counts(summary: Mapping[str, Any], along: Mapping[str, npt.NDArray[np.int64]]) -> dict[str, int]:
    """Return the number of steps of each axis: as planned, or more if more were recorded."""
    recorded = {axis: int(steps.max()) + 1 for axis, steps in along.items()}
    intended = summary.get("IntendedDimensions")
    counts = dict(recorded)
    for axis, (name, other) in _COUNTS.items():
        planned = summary.get(name, intended.get(other) if isinstance(intended, dict) else None)
        if isinstance(planned, int):
            counts[axis] = max(counts[axis], planned)
    # a plan may have a number that means "endless"
    return counts if grid_fits([*counts.values()], len(along["t"])) else recorded
