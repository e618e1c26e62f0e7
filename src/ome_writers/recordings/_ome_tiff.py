"""OME-TIFF: images whose planes are in one or several TIFF files, as their OME-XML says (OME-TIFF specification)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np

from ome_writers.errors import RecordingError
from ome_writers.settings import Dimension, Position

from ._ome_files import Source, files_of, path_of, source_of
from ._ome_metadata import Block, OMEImage, OMEPlanes, OMEPlate, channels_along
from ._source_names import json_value, position_names
from ._sources import ReadOptions
from ._tiff_ifds import TiffFile
from ._tiff_layout import Layout, TiffPages
from ._tiff_recording import Planes, TiffRecording, counted, frame_dimensions, sparse_planes, with_samples

_SHOWN: Final = 6  # images that a message lists
_EVERYTHING: Final = Block(None, (0, 0, 0), None, None, None)
"""What an image without TiffData means: all planes, in the file that holds the document."""


class OMETiffRecording(TiffRecording):
    """An OME-TIFF of one or several files."""

    kind: ClassVar[str] = "OME-TIFF"


def open_ome_tiff(path: Path, text: bytes, options: ReadOptions) -> TiffRecording:
    """Open an OME-TIFF, given one of its files.

    Parameters
    ----------
    path : Path
        A TIFF file, or a companion file that only has the document.
    text : bytes
        The OME-XML in it.
    options : ReadOptions
        Image to read.

    Raises
    ------
    RecordingError
        If files are missing or damaged, or images do not go together.
    """
    source = source_of(path, text)
    images = _chosen(source, options)
    _check_begins(source)
    names = files_of(source, images)
    pages = [_scanned(path_of(source, name)) for name in names]
    numbers = {name: number for number, name in enumerate(names)}
    located = [_located(source, image, pages, numbers) for image in images]
    _check_alike(source, images, located)
    return _recording(path, source, images, located, pages)


def files_of_ome_tiff(path: Path, text: bytes) -> list[str]:
    """Return the names of all files that an OME-TIFF speaks of, given one of them and the OME-XML in it."""
    source = source_of(path, text)
    names = [source.file_of(block) for image in source.document.images for block in image.blocks]
    return list(dict.fromkeys(name for name in names if name is not None))


def _check_begins(source: Source) -> None:
    """Raise an error if images share a file and OME-XML does not say where in it each begins."""
    begins: dict[str | None, OMEImage] = {}
    for image in source.document.images:
        for block in image.blocks or [_EVERYTHING]:
            if block.ifd is not None:
                continue
            name = source.file_of(block)
            if name in begins:
                raise RecordingError(
                    f"{source.path}: OME-XML does not say at which pages of {name} the planes of image "
                    f"{begins[name].title} are, nor those of image {image.title} (TiffData without IFD)"
                )
            begins[name] = image


def _chosen(source: Source, options: ReadOptions) -> list[OMEImage]:
    images = source.document.images
    if options.axes is not None:
        raise RecordingError(f"{source.path}: OME-XML names its axes; leave axes out")
    if options.shape is not None:
        raise RecordingError(f"{source.path}: OME-XML tells the sizes of its images; leave shape out")
    if not images:
        raise RecordingError(f"{source.path}: its OME-XML describes no image")
    wanted = options.image
    if wanted is None:
        return images
    if isinstance(wanted, int):
        if 0 <= wanted < len(images):
            return [images[wanted]]
    elif found := [i for i in images if wanted in (i.name, i.id, i.stage_name)]:
        return found[:1]
    raise RecordingError(f"{source.path}: there is no image {wanted!r}; there are {_listed(images)}")


def _listed(images: Sequence[OMEImage], told: Sequence[str] = ()) -> str:
    shown = [
        f"{number}: {image.title}" + (f" ({told[number]})" if told else "")
        for number, image in enumerate(images[:_SHOWN])
    ]
    return ", ".join(shown) + (f" and {len(images) - _SHOWN} more" if len(images) > _SHOWN else "")


def _scanned(path: Path) -> TiffPages:
    with TiffFile(path) as file:
        return file.scan()


# ---- planes --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Located:
    """The planes of an image along its own order, and how its pages store them."""

    planes: Planes
    layout: Layout

    @property
    def samples(self) -> int:
        return self.layout.samples


def _located(source: Source, image: OMEImage, pages: Sequence[TiffPages], numbers: dict[str, int]) -> _Located:
    blocks = image.blocks or [_EVERYTHING]

    def file_of(block: Block) -> int:
        return numbers[source.file_of(block) or ""]

    first = file_of(blocks[0])
    ifd = blocks[0].ifd or 0
    if ifd >= len(pages[first]):
        raise _too_few(pages[first], ifd)
    layout = pages[first].layout(ifd)
    _check_pixels(image, layout, pages[first], ifd)
    samples = layout.samples
    counts = {**image.sizes, "c": max(1, image.sizes["c"] // samples)}
    if counts["c"] * samples != image.sizes["c"]:
        raise RecordingError(
            f"{source.path}: image {image.title} has {image.sizes['c']} channels, but its pages have {samples} samples"
        )
    shape = [counts[axis] for axis in image.order]
    planes = sparse_planes(str(source.path), shape, sum(len(of_file) for of_file in pages))
    files, places = planes.files.ravel(), planes.pages.ravel()
    for block in blocks:
        number = file_of(block)
        begin = block.ifd or 0
        count = block.planes
        steps = dict(zip("tcz", block.first, strict=True))
        if any(steps[axis] >= counts[axis] for axis in "tcz"):
            raise RecordingError(
                f"{source.path}: OME-XML places planes of image {image.title} outside of its sizes: {steps}"
            )
        start = int(np.ravel_multi_index([steps[axis] for axis in image.order], shape))
        if count is None:
            count = 1 if block.ifd is not None else min(len(pages[number]) - begin, len(files) - start)
        if start + count > len(files):
            raise RecordingError(f"{source.path}: OME-XML has more planes of image {image.title} than its sizes tell")
        if begin + count > len(pages[number]):
            raise _too_few(pages[number], begin + count - 1)
        files[start : start + count] = number
        places[start : start + count] = range(begin, begin + count)
    if image.blocks == [] and (planes.files < 0).any():
        raise _too_few(pages[first], len(files) - 1)
    return _Located(planes, layout)


def _check_pixels(image: OMEImage, layout: Layout, pages: TiffPages, page: int) -> None:
    """Raise an error if pages are not what OME-XML says: it is that of another file, or was edited."""
    told = image.sizes["y"], image.sizes["x"], image.pixel_type or layout.dtype
    if layout.dtype is not None and told != (layout.height, layout.width, layout.dtype):
        raise RecordingError(
            f"{pages.path}: OME-XML says that image {image.title} is {told[0]} x {told[1]} {told[2]}, and page {page} "
            f"is {layout}; the file was replaced or damaged"
        )


def _too_few(pages: TiffPages, page: int) -> RecordingError:
    return RecordingError(
        f"{pages.path}: OME-XML speaks of page {page}, but the file has {len(pages)} pages; it is truncated, or was "
        f"replaced by another one. Copy it anew from where it was"
    )


def _check_alike(source: Source, images: Sequence[OMEImage], located: Sequence[_Located]) -> None:
    """Raise an error if images can't be positions of one recording."""
    told = []
    for image, part in zip(images, located, strict=True):
        sizes = " ".join(f"{axis}={image.sizes[axis]}" for axis in image.order)
        told.append(f"{sizes} y={part.layout.height} x={part.layout.width} {part.layout.shape[3]}")
    if len(set(told)) > 1:
        raise RecordingError(
            f"{source.path}: it holds {len(images)} images of different shapes, which can't be positions of one "
            f"recording; choose one with image: {_listed(images, told)}"
        )
    kinds = [(_rounded(image), [c.name for c in channels_along(image, len(image.channels)) or ()]) for image in images]
    if any(kind != kinds[0] for kind in kinds):
        raise RecordingError(
            f"{source.path}: it holds {len(images)} images of different pixel sizes or channels, which can't be "
            f"positions of one recording; choose one with image: {_listed(images)}"
        )


def _rounded(image: OMEImage) -> dict[str, tuple[str, str | None]]:
    return {axis: (f"{scale:.6g}", unit) for axis, (scale, unit) in image.scales.items()}


# ---- what is known of them -----------------------------------------------------------------------------------------


def _recording(
    path: Path, source: Source, images: Sequence[OMEImage], located: Sequence[_Located], pages: Sequence[TiffPages]
) -> TiffRecording:
    image, samples = images[0], located[0].samples
    dimensions = [d for axis in image.order if (d := _dimension(axis, image, samples)) is not None]
    plate = _plate_of(source, images)
    positions = _positions(plate, images)
    if positions is not None:
        dimensions.insert(0, counted("p", len(images), coords=positions))
    planes = Planes.stacked([part.planes for part in located]).reshaped([d.count or 1 for d in dimensions])
    dimensions, planes = with_samples(dimensions, planes, samples)
    layout = located[0].layout
    frame = frame_dimensions(layout.height, layout.width, image.scale("y"), image.scale("x"))
    recording = OMETiffRecording(str(path), [*dimensions, *frame], planes, pages)
    recording.plate = plate.plate if plate is not None else None
    recording.attributes = _attributes(images, positions)
    if any(len(i.planes) for i in images):
        recording.tell(OMEPlanes(list(images), [d.name for d in dimensions], samples))
    return recording


def _dimension(axis: str, image: OMEImage, samples: int) -> Dimension | None:
    """Return a dimension, of channels without their samples; None for one step of which nothing is known."""
    count = image.sizes[axis]
    if axis == "c":
        count //= samples
        channels = channels_along(image, count)
        return None if count == 1 and not channels else counted("c", count, coords=channels)
    scale, unit = image.scale(axis)
    if count == 1 and (scale is None or axis == "t"):
        return None
    return counted(axis, count, scale=scale, unit=unit)


def _plate_of(source: Source, images: Sequence[OMEImage]) -> OMEPlate | None:
    """Return the plate that all images are fields of.

    Raises
    ------
    RecordingError
        If they lie on several: a dataset is one plate.
    """
    plates = [plate for plate in source.document.plates if any(image.id in plate.wells for image in images)]
    if len(plates) > 1:
        raise RecordingError(
            f"{source.path}: its images lie on {len(plates)} plates, and a dataset has one; choose an image with "
            f"image: {_listed(images)}"
        )
    return plates[0] if plates and all(image.id in plates[0].wells for image in images) else None


def _positions(plate: OMEPlate | None, images: Sequence[OMEImage]) -> list[Position] | None:
    """Return the stage positions; None for a single image of which nothing is known."""
    wells = [None if plate is None else plate.wells[image.id] for image in images]
    stages = [image.stage_name for image in images]
    given = stages if all(stages) and len(set(stages)) == len(stages) else [image.name or None for image in images]
    if len(images) == 1 and plate is None and given == [None] and all(c is None for c in images[0].stage):
        return None
    names = position_names(given, None if plate is None else wells)
    return [
        Position(
            name=name,
            plate_row=None if well is None else well[0],
            plate_column=None if well is None else well[1],
            x_coord=image.stage[0],
            y_coord=image.stage[1],
            z_coord=image.stage[2],
        )
        for name, image, well in zip(names, images, wells, strict=True)
    ]


def _attributes(images: Sequence[OMEImage], positions: Sequence[Position] | None) -> dict[str, dict[str, Any]]:
    """Return the names of images, along the positions, where positions have others."""
    if positions is None:
        return {}
    names = [image.name for image in images]
    return {} if names == [p.name for p in positions] else {"recording": {"image_names": json_value(names)}}
