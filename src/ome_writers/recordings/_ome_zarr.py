"""OME-Zarr datasets, 0.4 and 0.5: images, collections and plates; and Zarr arrays without OME metadata."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
import numpy.typing as npt

from ome_writers._router import Router
from ome_writers.errors import BackendMissingError, RecordingError
from ome_writers.settings import Dimension, Plate

from ._axes import check_index
from ._ngff import Axis, FoundImage, Hierarchy, image_around, read_hierarchy, series_of, user_attributes
from ._ngff_dimensions import channels_in, dimension_of, frame_axes, named_axes, plate_of, position_dimension
from ._ome_metadata import OMEImage, OMEPlanes, parse_ome_xml
from ._own import (
    Acquisition,
    FrameRecords,
    acquisition_of,
    completeness_of,
    dataset_around,
    frame_numbers,
    frames_present,
)
from ._recording import Frame, Index, Recording
from ._sources import ReadOptions

if TYPE_CHECKING:
    from ._zarr_arrays import ZarrFrames


_OME_XML: Final = "OME/METADATA.ome.xml"


@dataclass(frozen=True, slots=True)
class _Step:
    """What one step along an index dimension of the recording changes: the image, or the place along an axis."""

    image_stride: int
    axis: int | None  # among the axes of the arrays that are not the frame's


@dataclass(frozen=True, slots=True)
class _Content:
    """What is recorded, and where."""

    images: tuple[FoundImage, ...]
    dimensions: tuple[Dimension, ...]
    steps: tuple[_Step, ...]
    frame_axes: tuple[int, int]
    plate: Plate | None
    present: npt.NDArray[np.bool_] | None
    planes: OMEPlanes | None = None


class OMEZarrRecording(Recording):
    """A dataset whose frames are read with zarr-python.

    Parameters
    ----------
    path : Path
        The dataset.
    found : Hierarchy
        What stands there.
    content : _Content
        What is read of it.
    frames : ZarrFrames
        Its arrays.
    """

    kind: ClassVar[str] = "OME-Zarr"

    def __init__(self, path: Path, found: Hierarchy, content: _Content, frames: ZarrFrames) -> None:
        self.name = str(path)
        self.dimensions = content.dimensions
        self.dtype = frames.dtype
        self.decodes = True
        self.plate = content.plate
        self.present = content.present
        self.attributes = user_attributes(found.root)
        self._content = content
        self._frames: ZarrFrames | None = frames
        self._ndim = len(content.images[0].shape) - 2
        records = FrameRecords(found.root.folder, content.images, self._number, self.frames)
        self._records = records if records.are_there else None

    def read(self, index: Index, out: Frame) -> None:
        """Read a frame."""
        if self._frames is None:
            raise RecordingError(f"{self.name} is closed")
        check_index(self, index)
        self._frames.read(*self._place(index), out)

    def metadata(self, index: Index) -> Mapping[str, Any] | None:
        """Return what was recorded about a frame: in this package's records, or else in OME-XML."""
        image, place = self._place(index)
        if self._records is not None:
            number = int(np.ravel_multi_index(index, self.index_shape)) if index else 0
            return self._records.get(number, image, place)
        planes = self._content.planes
        return None if planes is None else planes.of((image, *place))

    def _place(self, index: Index) -> tuple[int, Index]:
        """Return the number of the image and the index in its array of a frame."""
        image, place = 0, [0] * self._ndim
        for i, step in zip(index, self._content.steps, strict=True):
            image += i * step.image_stride
            if step.axis is not None:
                place[step.axis] = i
        return image, tuple(place)

    def _number(self, image: int, place: Index) -> int | None:
        """Return the number of a frame in the recording; None if it is not in it."""
        number = 0
        for count, step in zip(self.index_shape, self._content.steps, strict=True):
            i = image // step.image_stride % count if step.axis is None else place[step.axis]
            if not 0 <= i < count:
                return None
            number = number * count + i
        return number

    def close(self) -> None:
        """Let go of arrays and files."""
        if self._frames is not None:
            self._frames.close()
            self._frames = None
        if self._records is not None:
            self._records.close()


class ZarrArrayRecording(OMEZarrRecording):
    """A Zarr array without OME metadata."""

    kind: ClassVar[str] = "Zarr array"


def open_ome_zarr(path: Path, options: ReadOptions) -> Recording:
    """Open an OME-Zarr dataset, or a Zarr array.

    Raises
    ------
    RecordingError
        If there is none, it is damaged, or its images do not fit together.
    BackendMissingError
        If zarr-python is not installed.
    """
    if importlib.util.find_spec("zarr") is None:
        raise BackendMissingError(
            'reading OME-Zarr needs zarr, which is not installed. Install it with: pip install "ome-writers[replay]"'
        )
    from ._zarr_arrays import ZarrFrames

    if options.shape is not None or options.dtype is not None or options.offset:
        raise RecordingError(f"{path} says by itself what it holds; leave shape, dtype and offset out")
    source = str(path)
    path = image_around(path) or path
    image = options.image
    if image is None and (around := dataset_around(path)) is not None:
        path, image = around
    found = read_hierarchy(path)
    images = _selected(found, image, source)
    content = _content(path, found, images, options, source)
    frames = ZarrFrames(path, content.images, content.frame_axes)
    cls = ZarrArrayRecording if found.kind in ("array", "arrays") else OMEZarrRecording
    return cls(Path(source), found, content, frames)


def _selected(found: Hierarchy, image: int | str | None, source: str) -> tuple[FoundImage, ...]:
    """Return the images that are asked for.

    Raises
    ------
    RecordingError
        If there is none.
    """
    images = found.images
    if not images:
        raise RecordingError(f"{source}: its metadata list no image")
    if image is None:
        if found.kind == "arrays" and len(images) > 1:
            names = ", ".join(i.path for i in images[:20])
            raise RecordingError(f"{source}: a group of {len(images)} arrays, {names}; choose one with image")
        return images
    if isinstance(image, int):
        if not 0 <= image < len(images):
            raise RecordingError(f"{source}: there is no image {image}; there are {len(images)}, counted from 0")
        return (images[image],)
    chosen = [i for i in images if i.path == image] or [i for i in images if i.name == image]
    if not chosen:
        described = _described(found.root.folder, found, images)
        chosen = [i for i, d in zip(images, described, strict=True) if d is not None and d.name == image]
    if len(chosen) != 1:
        names = ", ".join(repr(i.path) for i in images[:20]) + (", ..." if len(images) > 20 else "")
        raise RecordingError(f"{source}: {len(chosen) or 'no'} images are called {image!r}; there are {names}")
    return tuple(chosen)


def _content(
    path: Path, found: Hierarchy, images: tuple[FoundImage, ...], options: ReadOptions, source: str
) -> _Content:
    state = completeness_of(path, source) if found.root.zarr_format == 3 else None
    acquisition = acquisition_of(path, found) if state is not None else None
    present = frames_present(path, state, acquisition, source)
    if acquisition is not None and acquisition.told and len(images) == len(found.images):
        return _as_declared(acquisition, found, present, options, source)
    content = _as_documents_say(path, found, images, acquisition, options, source)
    if present is None or acquisition is None:
        return content
    numbers = {image.path: number for number, image in enumerate(acquisition.layout.images)}
    shape = tuple(d.count or 0 for d in content.dimensions[-2 - (len(images[0].shape) - 2) : -2])
    router = Router(acquisition.layout.axes)
    of_frames = present[frame_numbers(router, [numbers[image.path] for image in images], shape)]
    of_frames = of_frames if content.steps and content.steps[0].axis is None else of_frames[0]
    return replace(content, present=None if of_frames.all() else of_frames)


def _as_declared(
    acquisition: Acquisition,
    found: Hierarchy,
    present: npt.NDArray[np.bool_] | None,
    options: ReadOptions,
    source: str,
) -> _Content:
    """Return what the settings of the acquisition say, which is more than OME-Zarr can."""
    by_path = {image.path: image for image in found.images}
    images = tuple(by_path[image.path] for image in acquisition.layout.images)
    named_axes(images[0], options.axes, source)
    dimensions = acquisition.dimensions
    for dimension in dimensions:
        if not dimension.count:
            raise RecordingError(f"{source}: dimension {dimension.name} has 0 steps: no frame was taken")
    steps = tuple(_Step(axis.array_stride, axis.storage_axis) for axis in acquisition.layout.axes)
    ndim = len(images[0].shape)
    shape = tuple(d.count or 0 for d in dimensions[:-2])
    shaped = None if present is None else present.reshape(shape)
    return _Content(images, dimensions, steps, (ndim - 2, ndim - 1), acquisition.settings.plate, shaped)


def _as_documents_say(
    path: Path,
    found: Hierarchy,
    images: tuple[FoundImage, ...],
    acquisition: Acquisition | None,
    options: ReadOptions,
    source: str,
) -> _Content:
    axes = [named_axes(image, options.axes, source) for image in images]
    shape = _common_shape(images, axes, source) if acquisition is None else acquisition.extents
    described = _described(path, found, images)
    positions, common = position_dimension(found, images, axes, described, source)
    frame = frame_axes(common, source)
    channels = next((place for place, axis in enumerate(common) if _kind(axis) == "channel"), None)
    dimensions = [
        dimension_of(
            axis,
            count,
            channels_in(images[0], axis.name, count, described[0]) if place == channels else (),
            source,
        )
        for place, (axis, count) in enumerate(zip(common, shape, strict=True))
    ]
    index_axes = [place for place in range(len(common)) if place not in frame]
    steps = [_Step(0, place) for place in range(len(index_axes))]
    ordered = [dimensions[place] for place in (*index_axes, *frame)]
    if positions is not None:
        ordered.insert(0, positions)
        steps.insert(0, _Step(1, None))
    planes = _planes(described, [_kind(common[place]) for place in index_axes], [shape[place] for place in index_axes])
    return _Content(images, tuple(ordered), tuple(steps), frame, plate_of(found, source), None, planes)


def _planes(
    described: Sequence[OMEImage | None], kinds: Sequence[str | None], counts: Sequence[int]
) -> OMEPlanes | None:
    """Return what OME-XML says about single planes; None if it says nothing, or has other axes than the arrays."""
    letters = [{"time": "t", "channel": "c", "space": "z"}.get(kind or "") for kind in kinds]
    sizes = dict(zip(letters, counts, strict=True))
    images = [image for image in described if image is not None]
    if None in sizes or len(sizes) < len(letters) or len(images) < len(described):
        return None
    if any(image.sizes[axis] != sizes.get(axis, 1) for image in images for axis in "tcz"):
        return None
    if not any(len(image.planes) for image in images):
        return None
    return OMEPlanes(images, ["p", *(letter for letter in letters if letter)], 1)


def _kind(axis: Axis) -> str | None:
    return axis.type or {"c": "channel", "t": "time", "z": "space"}.get(axis.name)


def _common_shape(images: Sequence[FoundImage], axes: Sequence[Sequence[Axis]], source: str) -> tuple[int, ...]:
    """Return the shape that all images have.

    Raises
    ------
    RecordingError
        If shapes, pixel types or axes differ; names the images.
    """
    kinds: dict[tuple[Any, ...], list[str]] = {}
    for image, of_image in zip(images, axes, strict=True):
        document = image.array.array or {}
        names = "".join(axis.name if len(axis.name) == 1 else f" {axis.name} " for axis in of_image)
        dtype = str(document.get("dtype", document.get("data_type")))
        kinds.setdefault(
            (image.shape, dtype.lstrip("<>|=") if image.array.zarr_format == 2 else dtype, names), []
        ).append(image.path)
    if len(kinds) > 1:
        groups = "; ".join(
            f"{', '.join(paths[:5])}{', ...' if len(paths) > 5 else ''} ({names}: {'x'.join(map(str, shape))}, {dtype})"
            for (shape, dtype, names), paths in list(kinds.items())[:5]
        )
        raise RecordingError(
            f"{source}: its images differ, and one recording has one shape: {groups}. Choose one with image"
        )
    return images[0].shape


def _described(path: Path, found: Hierarchy, images: Sequence[FoundImage]) -> list[OMEImage | None]:
    """Return what OME-XML says of each image; it lists them in the order of the series."""
    file = path / _OME_XML
    if not file.is_file() or found.kind not in ("collection", "plate"):
        return [None] * len(images)
    try:
        listed = parse_ome_xml(file.read_bytes(), str(file)).images
    except OSError as error:
        raise RecordingError(f"{file}: it can't be read: {error.strerror or error}") from error
    series = series_of(path)
    if series is None:
        series = [str(number) for number in range(len(listed))] if found.kind == "collection" else []
    by_path = dict(zip(series, listed, strict=False))
    return [by_path.get(image.path) for image in images]
