"""Series of TIFF files: a folder, a pattern or a list, whose dimensions are in the names of the files."""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np

from ome_writers.errors import RecordingError
from ome_writers.settings import Channel, Dimension, Position

from ._axes import axis_names
from ._file_names import Grid, grid_of, in_order, natural_key
from ._micromanager import acquisition_of, is_micromanager
from ._micromanager_metadata import FrameNotes, channel_list, pixel_size, standard_dimension
from ._micromanager_text import SeparateFiles, read_metadata_text
from ._ome_tiff import OMETiffRecording, files_of_ome_tiff
from ._recording import Index, Recording
from ._source_names import json_value
from ._sources import TIFF_SUFFIXES, ReadOptions
from ._tiff import open_tiff
from ._tiff_axes import split_pages
from ._tiff_ifds import TiffFile, description_of, is_ome
from ._tiff_layout import TiffPages
from ._tiff_recording import Planes, TiffRecording, counted, frame_dimensions, sparse_planes

_SHOWN: Final = 6


class TiffSeriesRecording(TiffRecording):
    """A series of TIFF files."""

    kind: ClassVar[str] = "TIFF series"


def open_tiff_folder(path: Path, options: ReadOptions) -> Recording:
    """Open a folder of TIFF files: one dataset of several files, or a series.

    Raises
    ------
    RecordingError
        If files of several datasets are in it, or one is damaged or missing.
    """
    companions = sorted(path.glob("*.companion.ome"))
    if len(companions) == 1:
        return open_tiff(companions[0], options)
    files = sorted((child for child in path.iterdir() if _is_tiff(child)), key=natural_key)
    if not files:
        raise RecordingError(f"{path}: there are no TIFF files in this folder")
    first = files[0]
    if is_micromanager(first):
        acquisitions = sorted({acquisition_of(file) for file in files})
        if len(acquisitions) > 1:
            raise RecordingError(
                f"{path}: the files of {len(acquisitions)} acquisitions are in this folder; give a file of one: "
                f"{', '.join(acquisitions[:_SHOWN])}"
            )
        return open_tiff(first, options)
    description = description_of(first)
    if is_ome(description) and len(members := files_of_ome_tiff(first, description)) > 1:
        if others := [file.name for file in files if file.name not in members]:
            raise RecordingError(
                f"{path}: {first.name} is one of {len(members)} files of an OME-TIFF, and {', '.join(others[:_SHOWN])} "
                "is no part of it; give a file of the dataset that is meant"
            )
        return open_tiff(first, options)
    recording = open_tiff_series(files, options)
    recording.name = str(path)
    return recording


def _is_tiff(file: Path) -> bool:
    """Tell whether a file is a TIFF file by its name; those that begin with a dot are notes of file systems."""
    return file.suffix.lower() in TIFF_SUFFIXES and not file.name.startswith(".")


def open_tiff_pattern(pattern: str, options: ReadOptions) -> Recording:
    """Open the files that a pattern such as ``"run/*.tif"`` stands for, as a series.

    Raises
    ------
    RecordingError
        If there are none, or as :func:`open_tiff_series`.
    """
    found = glob.glob(_escaped(os.path.expanduser(pattern)), recursive=True)  # noqa: PTH111, PTH207  absolute ones, too
    files = sorted((file for name in found if (file := Path(name)).is_file()), key=natural_key)
    if not files:
        raise RecordingError(f"{pattern}: no file has a name like this; check the pattern, and put it in quotes")
    recording = open_tiff_series(files, options)
    recording.name = pattern
    return recording


def _escaped(pattern: str) -> str:
    """Return a pattern in which the folders that are there by these names stand for themselves: ``run [1]/*.tif``."""
    *folders, rest = Path(pattern).parts
    known = Path()
    for number, folder in enumerate(folders):
        if not (known / folder).is_dir():
            return os.path.join(glob.escape(str(known)), *folders[number:], rest)  # noqa: PTH118  a pattern
        known /= folder
    return os.path.join(glob.escape(str(known)), rest)  # noqa: PTH118  a pattern


def open_tiff_series(files: Sequence[Path], options: ReadOptions) -> Recording:
    """Open TIFF files as a series; where their names tell nothing, in the order given.

    Parameters
    ----------
    files : sequence of Path
        The files.
    options : ReadOptions
        Names of axes, first those along files, then those along the pages of each.

    Raises
    ------
    RecordingError
        If there are none, or files are missing, damaged or of different shapes.
    BackendMissingError
        If tifffile, or a codec that it needs, is not installed.
    """
    if not files:
        raise RecordingError("an empty list of files holds no frame; give at least one file")
    if absent := [str(file) for file in files if not file.is_file()]:
        more = f" and {len(absent) - _SHOWN} more" if len(absent) > _SHOWN else ""
        raise RecordingError(f"{', '.join(absent[:_SHOWN])}{more}: there is no such file")
    if options.image is not None:
        raise RecordingError(f"{files[0]}: image chooses one of a single file; leave it out for a series")
    if strange := [file for file in files if file.suffix.lower() not in TIFF_SUFFIXES]:
        raise RecordingError(f"{strange[0]}: it is no TIFF file; a series has TIFF files only")
    if len(set(files)) < len(files):
        raise RecordingError(f"{files[0]}: a file is in the list more than once")
    if len(files) == 1:
        return open_tiff(files[0], options)
    # declared, files are in the order of the list, or of their names
    grid = grid_of(files) if options.shape is None else in_order(files)
    inner = _opened(files[0], ReadOptions())
    try:
        return _series(files, grid, inner, options)
    finally:
        inner.close()


def _opened(file: Path, options: ReadOptions) -> TiffRecording:
    recording = open_tiff(file, options)
    if not isinstance(recording, TiffRecording) or len(recording.pixels.pages) > 1:
        recording.close()
        raise RecordingError(f"{file}: it is part of a dataset of several files; give this file alone, not a series")
    return recording


# ---- the files of a series -----------------------------------------------------------------------------------------


def _series(files: Sequence[Path], grid: Grid, inner: TiffRecording, options: ReadOptions) -> TiffRecording:
    taken = {axis.name for axis in grid.axes}
    dimensions, planes = _of_one_file(inner, taken)
    pages: list[TiffPages] = []
    parts: list[Planes] = []
    described: list[TiffRecording] = []
    for number, file in enumerate(files):
        if isinstance(inner, OMETiffRecording):
            described.append(inner if file == files[0] else _described(file, inner, taken))
            of_file, part = described[-1].pixels.pages[0], described[-1].planes.reshaped(planes.files.shape)
        else:
            of_file, part = _pages_of(file, inner, planes)
        pages.append(of_file)
        parts.append(Planes(np.where(part.files < 0, part.files, number), part.pages, part.samples))
    along = _file_dimensions(grid, described)
    counts = [*(d.count or 1 for d in along), *planes.files.shape]
    whole = sparse_planes(str(files[0].parent), counts, len(files) * planes.files.size)
    for name in ("files", "pages", "samples"):
        stacked = np.stack([getattr(part, name) for part in parts])
        getattr(whole, name)[tuple(grid.steps.T)] = stacked
    notes = read_metadata_text(files)
    frame = _frame(inner, notes)
    dimensions = [*_with_steps(along, notes), *dimensions]
    if options.shape is not None:
        dimensions, whole = _as_declared(files, whole, inner, options)
    elif options.axes is not None:
        names = axis_names(options.axes, len(dimensions) + 2, str(files[0].parent))
        dimensions = [
            d.model_copy(update={"name": name}) if d.name == name else counted(name, d.count or 1)
            for d, name in zip(dimensions, names, strict=False)
        ]
    else:
        _refuse_doubles(files, dimensions)
    recording = TiffSeriesRecording(f"{files[0]} and {len(files) - 1} more", [*dimensions, *frame], whole, pages)
    if notes is not None:
        recording.attributes = {"micromanager": json_value(notes.summary)}
        recording.tell(notes.of_planes(whole))
    elif described:
        recording.tell(_FileNotes(described, whole))
    elif any(of_file.notes.any() for of_file in pages):
        recording.tell(FrameNotes(recording.pixels, whole))
    return recording


def _of_one_file(inner: TiffRecording, taken: set[str]) -> tuple[list[Dimension], Planes]:
    """Return the dimensions within each file; those of one step that files have, or positions, are left out."""
    dimensions = list(inner.dimensions[:-2])
    kept = [d for d in dimensions if (d.count or 1) > 1 or (d.name not in taken and d.type != "position")]
    if any(d.type == "channel" for d in kept) and "c" in taken and len(inner.dimensions) > 2:
        pass  # told by the check for doubles, which names them
    return kept, inner.planes.reshaped([d.count or 1 for d in kept])


def _pages_of(file: Path, inner: TiffRecording, planes: Planes) -> tuple[TiffPages, Planes]:
    """Return the pages of a file, and where its frames are in them: as in the first file."""
    like = inner.pixels.pages[0]
    if file == like.path:
        return like, planes
    if len(like) == 1:
        with TiffFile(file) as opened:
            pages = opened.scan()
        if len(pages) != 1:
            raise RecordingError(f"{file}: it has {len(pages)} pages, and {like.path.name} has 1; they are no series")
        return pages, planes
    with _opened(file, ReadOptions()) as other:
        _refuse_other_shape(file, inner, other)
        return other.pixels.pages[0], other.planes.reshaped(planes.files.shape)


def _refuse_other_shape(file: Path, inner: TiffRecording, other: TiffRecording) -> None:
    shapes = [[(d.name, d.count) for d in recording.dimensions] for recording in (inner, other)]
    if shapes[0] != shapes[1]:
        told = [", ".join(f"{name}={count}" for name, count in shape) for shape in shapes]
        raise RecordingError(
            f"{file}: it has {told[1]}, and {inner.pixels.pages[0].path.name} has {told[0]}; files of a series have "
            "one shape"
        )


def _described(file: Path, inner: TiffRecording, taken: set[str]) -> TiffRecording:
    """Return an OME-TIFF file, closed, after checking that its dimensions are those of the first file.

    Raises
    ------
    RecordingError
        If they are not: the dataset has one description.
    """
    with _opened(file, ReadOptions()) as other:
        _refuse_other_shape(file, inner, other)
        for ours, theirs in zip(inner.dimensions, other.dimensions, strict=True):
            if ours.type == "position" or (ours.name in taken and ours.count == 1):
                continue
            told = [
                ", ".join(c.name for c in d.coords or () if isinstance(c, Channel))
                if d.type == "channel"
                else f"{d.scale or 'no'} {d.unit or 'step'}"
                for d in (ours, theirs)
            ]
            if (ours.scale, ours.unit, ours.coords) != (theirs.scale, theirs.unit, theirs.coords):
                raise RecordingError(
                    f"{file}: its dimension {ours.name} ({told[1]}) is not that of {inner.pixels.pages[0].path.name} "
                    f"({told[0]}), so that the files are no series; replay each by itself, or correct their metadata"
                )
    return other


class _FileNotes:
    """What the files of a series say of their frames.

    Parameters
    ----------
    described : sequence of TiffRecording
        Each file.
    planes : Planes
        Where each frame of the series is.
    """

    def __init__(self, described: Sequence[TiffRecording], planes: Planes) -> None:
        self._described = described
        self._planes = planes

    def of(self, index: Index) -> Mapping[str, Any] | None:
        """Return what was recorded about a frame."""
        number = int(self._planes.files[index])
        if number < 0:
            return None
        file = self._described[number]
        here = (file.planes.pages == self._planes.pages[index]) & (file.planes.samples == self._planes.samples[index])
        return file.metadata(tuple(np.argwhere(here & (file.planes.files >= 0))[0].tolist()))


def _coords(grid: Grid, column: int, described: Sequence[TiffRecording]) -> list[Any]:
    """Return positions or channels along files: named as files are, with the stage positions and channels they tell."""
    axis = grid.axes[column]
    kind: type[Position | Channel] = Position if axis.name == "p" else Channel
    told: list[Any] = []
    for step in range(len(axis.texts)):
        first = described[int(np.argmax(grid.steps[:, column] == step))] if described else None
        found = [c for d in first.dimensions for c in d.coords or () if isinstance(c, kind)] if first else []
        told.append(found[0] if len(found) == 1 else None)
    if kind is Channel and None not in told and len({channel.name for channel in told}) == len(told):
        return told
    return [
        Position(name=text, x_coord=c.x_coord, y_coord=c.y_coord, z_coord=c.z_coord)
        if isinstance(c, Position)
        else kind(name=text)
        for text, c in zip(axis.texts, told, strict=True)
    ]


def _file_dimensions(grid: Grid, described: Sequence[TiffRecording]) -> list[Dimension]:
    dimensions = []
    for column, axis in enumerate(grid.axes):
        coords = _coords(grid, column, described) if axis.name in ("p", "c") else None
        dimensions.append(counted(axis.name, len(axis.texts), coords=coords))
    return dimensions


def _with_steps(along: list[Dimension], notes: SeparateFiles | None) -> list[Dimension]:
    """Return dimensions along files with what Micro-Manager tells of them."""
    if notes is None:
        return along
    told = []
    for d in along:
        if d.name == "c":
            found = channel_list(notes.summary, d.count or 1)
            told.append(counted("c", d.count or 1, coords=found) if found else d)
        elif d.name in ("t", "z"):
            told.append(standard_dimension(d.name, d.count or 1, notes.summary))
        else:
            told.append(d)
    return told


def _frame(inner: TiffRecording, notes: SeparateFiles | None) -> tuple[Dimension, ...]:
    frame = inner.dimensions[-2:]
    if notes is None or frame[0].scale is not None:
        return frame
    size = pixel_size(notes.summary, {})
    return frame_dimensions(*inner.frame_shape, size, size)


def _as_declared(
    files: Sequence[Path], whole: Planes, inner: TiffRecording, options: ReadOptions
) -> tuple[list[Dimension], Planes]:
    """Return the frames in the order of the files, along declared dimensions."""
    source = f"{files[0]} and {len(files) - 1} more"
    samples = inner.pixels.pages[0].layout(0).samples
    if samples > 1 or (whole.files < 0).any():
        raise RecordingError(f"{source}: shape can't be declared of colour images, nor where files are missing")
    dimensions = split_pages(whole.files.size, options, source)
    if options.shape is not None and options.shape[-2:] != inner.frame_shape:
        height, width = inner.frame_shape
        raise RecordingError(f"{source}: shape {options.shape} must end with {height}, {width}, those of a page")
    return dimensions, whole.reshaped([d.count or 1 for d in dimensions])


def _refuse_doubles(files: Sequence[Path], dimensions: Sequence[Dimension]) -> None:
    names = [d.name for d in dimensions]
    if len(set(names)) < len(names):
        raise RecordingError(
            f"{files[0]} and {len(files) - 1} more: files and the pages within them have dimensions of the same name "
            f"({', '.join(names)}, y, x); name all of them with axes, first those along files"
        )
