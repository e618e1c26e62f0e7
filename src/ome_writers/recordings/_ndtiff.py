"""NDTiff datasets: TIFF files with an index that says where the frame of each combination of axes is.

Format: the README of NDTiffStorage, "NDTiff specification" 3.x. Each entry of ``NDTiff.index`` has the frame's axes as
JSON, the name of its file, and eight numbers: place of the pixels, width, height, pixel type, compression, place and
bytes of the metadata, and their compression; all little endian.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt

from ome_writers.errors import RecordingError
from ome_writers.settings import Dimension, name_fault

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
from ._source_names import json_value, label
from ._sources import ReadOptions
from ._tiff_ifds import TiffFile
from ._tiff_layout import Layout, TiffPages
from ._tiff_pages import TiffPixels
from ._tiff_recording import Planes, TiffRecording, counted, frame_dimensions, sparse_planes, with_samples

_NAMES: Final = {"time": "t", "position": "p", "channel": "c", "z": "z"}
_BITS: Final = {0: (8, 1), 1: (16, 1), 2: (8, 3), 3: (16, 1), 4: (16, 1), 5: (16, 1), 6: (16, 1)}
"""Bits per sample, and samples, of each pixel type: 8 bit, 16 bit, RGB, and 10, 12, 14, 11 bit in 16."""

_SUMMARY: Final = 2355492
_NUMBERS: Final = struct.Struct("<8I")
Value = int | str


class NDTiffRecording(TiffRecording):
    """An NDTiff dataset."""

    kind: ClassVar[str] = "NDTiff"


@dataclass(slots=True)
class _Index:
    """The entries of an index: axes and file of each, and the eight numbers."""

    axes: list[dict[str, Value]]
    files: list[str]
    numbers: npt.NDArray[np.int64]


def open_ndtiff(folder: Path, options: ReadOptions) -> TiffRecording:
    """Open an NDTiff dataset.

    Parameters
    ----------
    folder : Path
        That has ``NDTiff.index`` in it.
    options : ReadOptions
        None of them is used.

    Raises
    ------
    RecordingError
        If a file is missing or damaged, frames have different shapes, or several would lie at one place.
    """
    if options != ReadOptions():
        raise RecordingError(f"{folder}: NDTiff names its axes and shape; leave axes, shape, dtype, offset, image out")
    try:
        return _opened(folder)
    except (ValueError, OverflowError, OSError) as error:
        if isinstance(error, RecordingError):
            raise
        raise RecordingError(
            f"{folder}: the index is damaged, or describes what can't be stored: {error}; copy it anew from where it "
            "was"
        ) from error


def is_of_ndtiff(path: Path) -> bool:
    """Tell whether the index of an NDTiff dataset in the folder of a file names it.

    Raises
    ------
    RecordingError
        If the index is damaged.
    """
    index = path.parent / "NDTiff.index"
    # a file beside the dataset need not wait for the whole index, nor care whether it is damaged
    is_told = index.is_file() and os.fsencode(path.name) in index.read_bytes()
    return is_told and path.name in _read_index(index).files


def _opened(folder: Path) -> TiffRecording:
    index = _read_index(folder / "NDTiff.index")
    names = list(dict.fromkeys(index.files))
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise RecordingError(
            f"{folder}: {', '.join(missing[:6])} of this NDTiff dataset {'is' if len(missing) == 1 else 'are'} "
            f"missing; {len(names)} files belong to it"
        )
    numbers = {name: number for number, name in enumerate(names)}
    files = np.array([numbers[name] for name in index.files])
    pages = [_pages_of(folder / name, index.numbers[files == number]) for number, name in enumerate(names)]
    summary = _read_summary(folder / names[0])
    return _recording(folder, index, files, pages, summary)


def _read_index(path: Path) -> _Index:
    data = path.read_bytes()
    index = _Index([], [], np.empty((0, 8), np.int64))
    numbers = bytearray()
    try:
        for axes, name, packed in _entries(data):
            parsed = json.loads(axes)
            if not all(isinstance(value, str) or _is_number(value) for value in parsed.values()):
                raise ValueError(f"axes {parsed} are neither numbers nor names")
            index.axes.append(parsed)
            index.files.append(Path(name.decode()).name)
            numbers += packed
    except (ValueError, struct.error, AttributeError) as error:
        raise RecordingError(
            f"{path}: the index is truncated or damaged after {len(index.axes)} frames: {error}; copy it anew from "
            "where it was"
        ) from error
    if not index.axes:
        raise RecordingError(f"{path}: the index is empty; no frame was recorded")
    index.numbers = np.frombuffer(bytes(numbers), "<u4").reshape(-1, 8).astype(np.int64)
    return index


def _is_number(value: object) -> bool:
    return isinstance(value, int) and abs(value) < 1 << 31  # of Java, so of 32 bits


def _entries(data: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    place = 0

    def take(count: int) -> bytes:
        nonlocal place
        if place + count > len(data):
            raise ValueError(f"it ends within an entry, at byte {len(data):,}")
        place += count
        return data[place - count : place]

    while place < len(data):
        axes = take(struct.unpack("<I", take(4))[0])
        name = take(struct.unpack("<I", take(4))[0])
        yield axes, name, take(_NUMBERS.size)


def _pages_of(path: Path, numbers: npt.NDArray[np.int64]) -> TiffPages:
    """Return the frames of a file as pages."""
    offsets, widths, heights, types, compressions, notes, note_bytes, _ = numbers.T
    if compressions.any():
        raise RecordingError(f"{path}: it has compressed pixels, which NDTiff does not define")
    kinds, inverse = np.unique(np.stack([widths, heights, types], axis=1), axis=0, return_inverse=True)
    layouts = []
    for width, height, kind in kinds.tolist():
        if kind not in _BITS or width < 1 or height < 1:
            raise RecordingError(f"{path}: frames of {height} x {width} pixels of type {kind} can't be read")
        bits, samples = _BITS[kind]
        layouts.append(Layout(width, height, samples, False, bits, 1, 1, False, True, 1, ()))
    with TiffFile(path) as file:
        order, size = file.order, file.size
    inverse = inverse.reshape(-1)
    ends = offsets + np.array([layout.page_bytes for layout in layouts])[inverse]
    if (ends > size).any():
        raise RecordingError(
            f"{path}: the file is truncated: frames end at byte {int(ends.max()):,}, and it has {size:,}; "
            f"{int((ends <= size).sum())} of {len(ends)} frames are whole. Copy it anew from where it was"
        )
    return TiffPages(
        path, order, np.zeros(len(offsets), np.int64), offsets.copy(), inverse.astype(np.int32),
        np.stack([notes, note_bytes], axis=1), layouts,
    )  # fmt: skip


def _read_summary(path: Path) -> dict[str, Any]:
    """Return the summary metadata, which stand after the header of the first file."""
    with TiffFile(path) as file:
        head = file.read(8, 20)
        numbers = struct.unpack(f"{file.order}5I", head) if len(head) == 20 else (0,) * 5
        # from version 2 on, two numbers of the version stand between the format's mark and the summary's
        for place in (3, 1):
            if numbers[place] == _SUMMARY:
                return parse_json(file.read(8 + 4 * (place + 2), numbers[place + 1]), f"{path}: the summary metadata")
    return {}


# ---- axes ----------------------------------------------------------------------------------------------------------


def _steps(index: _Index, axis: str) -> tuple[list[Value], npt.NDArray[np.int64]]:
    """Return the values along an axis, and the step of each frame; frames that lack the axis are at its first value."""
    given = [entry.get(axis) for entry in index.axes]
    known = [value for value in given if value is not None]
    if all(isinstance(value, int) for value in known):
        numbers = sorted({value for value in known if isinstance(value, int)})
        span = numbers[-1] - numbers[0] + 1
        # steps between others that no frame has are missing, unless the numbers mean something else than steps
        values: list[Value] = list(range(numbers[0], numbers[-1] + 1)) if span <= 2 * len(numbers) else [*numbers]
    else:
        values = list(dict.fromkeys(str(value) for value in known))
        given = [None if value is None else str(value) for value in given]
    places = {value: place for place, value in enumerate(values)}
    return values, np.array([0 if value is None else places[value] for value in given], np.int64)


def _recording(
    folder: Path,
    index: _Index,
    files: npt.NDArray[np.int64],
    pages: Sequence[TiffPages],
    summary: Mapping[str, Any],
) -> TiffRecording:
    axes = list(dict.fromkeys(axis for entry in index.axes for axis in entry))
    values: dict[str, list[Value]] = {}
    steps: dict[str, npt.NDArray[np.int64]] = {}
    for axis in axes:
        values[axis], steps[axis] = _steps(index, axis)
    # names of channels and positions are kept even if there is one of them
    order = [axis for axis in slowest_first(steps) if len(values[axis]) > 1 or isinstance(values[axis][0], str)]
    counts = [len(values[axis]) for axis in order]
    planes = sparse_planes(str(folder), counts, len(files))
    places = np.zeros(len(files), np.int64)
    for axis, count in zip(order, counts, strict=True):
        places = places * count + steps[axis]
    _refuse_collisions(folder, index, places)
    within = np.zeros(len(files), np.int64)
    for number in range(len(pages)):
        within[files == number] = np.arange(int((files == number).sum()))
    _, last = np.unique(places[::-1], return_index=True)  # a frame that was written again is the one written last
    last = len(files) - 1 - last
    planes.files.reshape(-1)[places[last]] = files[last]
    planes.pages.reshape(-1)[places[last]] = within[last]
    check_shapes(str(folder), pages, planes)
    pixels = TiffPixels(pages)
    try:
        return _described(folder, axes, order, values, summary, planes, pixels)
    except BaseException:
        pixels.close()
        raise


def _described(
    folder: Path,
    axes: Sequence[str],
    order: Sequence[str],
    values: Mapping[str, list[Value]],
    summary: Mapping[str, Any],
    planes: Planes,
    pixels: TiffPixels,
) -> TiffRecording:
    """Return the recording, with what summary and frames tell of its dimensions."""
    notes = FrameNotes(pixels, planes)
    first = notes.tags(first_frame(planes)) or {}
    dimensions = [_dimension(folder, axis, values[axis], summary, _TagsAlong(notes, planes, n))
                  for n, axis in enumerate(order)]  # fmt: skip
    if "position" not in order:
        positions = position_list(summary, 1, lambda _: first)
        if positions is not None:
            dimensions.insert(0, counted("p", 1, coords=positions))
            planes = planes.reshaped([d.count or 1 for d in dimensions])
    layout = pixels.pages[0].layout(0)
    dimensions, planes = with_samples(dimensions, planes, layout.samples)
    size = pixel_size(summary, first)
    frame = frame_dimensions(layout.height, layout.width, size, size)
    names = [d.name for d in (*dimensions, *frame)]
    if len(set(names)) < len(names):
        raise RecordingError(
            f"{folder}: its axes {', '.join(axes)} would be dimensions of the same name ({', '.join(names)}); write "
            "them with other names"
        )
    recording = NDTiffRecording(str(folder), [*dimensions, *frame], planes, pixels)
    recording.attributes = {"micromanager": json_value(summary)} if summary else {}
    recording.tell(FrameNotes(pixels, planes))
    return recording


def _refuse_collisions(folder: Path, index: _Index, places: npt.NDArray[np.int64]) -> None:
    """Refuse frames of different axes at one place, which can't all be kept; of the same axes, the last is meant."""
    order = np.argsort(places, kind="stable")
    same = np.flatnonzero(np.diff(places[order]) == 0)
    for a, b in zip(order[same].tolist(), order[same + 1].tolist(), strict=True):
        if index.axes[a] != index.axes[b]:
            raise RecordingError(
                f"{folder}: frames {index.axes[a]} and {index.axes[b]} would both be at the same place, as a frame "
                "that lacks an axis is at its first step; write all frames with the same axes"
            )


class _TagsAlong:
    """The tags of a frame at each step of an axis."""

    def __init__(self, notes: FrameNotes, planes: Planes, axis: int) -> None:
        self._notes, self._planes, self._axis = notes, planes, axis

    def __call__(self, step: int) -> Mapping[str, Any] | None:
        here = np.argwhere(np.take(self._planes.files, step, self._axis) >= 0)
        if not len(here):
            return None
        index = here[0].tolist()
        return self._notes.tags((*index[: self._axis], step, *index[self._axis :]))


def _dimension(
    folder: Path, axis: str, values: list[Value], summary: Mapping[str, Any], tags_of: _TagsAlong
) -> Dimension:
    names = [str(value) for value in values] if isinstance(values[0], str) else None
    name = _NAMES.get(axis)
    if name == "p":
        return counted("p", len(values), coords=position_list(summary, len(values), tags_of, names))
    if name == "c":
        return counted("c", len(values), coords=channel_list(summary, len(values), names))
    if name is not None and names is None:
        return standard_dimension(name, len(values), summary)
    chosen = name or axis.strip().lower()
    if chosen in ("x", "y") or name_fault(chosen, "dimension"):
        raise RecordingError(f"{folder}: an axis is called {axis!r}, which can't be the name of a dimension")
    coords: list[Any] = [label(text) or str(n) for n, text in enumerate(names)] if names else [float(v) for v in values]
    fields = {} if name else {"type": "other"}
    return counted(chosen, len(values), coords=coords, **fields)
