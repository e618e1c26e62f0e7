"""OME-TIFF: images whose planes are in one or several TIFF files, as their OME-XML says (OME-TIFF specification)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, ClassVar, Final

import numpy as np

from ome_writers.errors import RecordingError
from ome_writers.settings import Channel, Dimension, Position

from ._ome_metadata import Block, OMEDocument, OMEImage, OMEPlanes, channels_along, parse_ome_xml
from ._source_names import json_value, position_names
from ._sources import ReadOptions
from ._tiff_ifds import TiffFile, description_of, is_ome
from ._tiff_layout import TiffPages
from ._tiff_recording import Planes, TiffRecording, counted, frame_dimensions, sample_channels, sparse_planes

_SHOWN: Final = 6  # images that a message lists


class OMETiffRecording(TiffRecording):
    """An OME-TIFF of one or several files."""

    kind: ClassVar[str] = "OME-TIFF"


@dataclass(frozen=True, slots=True)
class _Source:
    """An OME document and the files that it speaks of."""

    path: Path
    folder: Path
    document: OMEDocument
    own: str | None


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
    source = _followed(path, text)
    images = _chosen(source, options)
    names = _files_of(source, images)
    pages = [_scanned(source.folder / name) for name in names]
    numbers = {name: number for number, name in enumerate(names)}
    located = [_located(source, image, pages, numbers) for image in images]
    _check_alike(source, images, located, pages)
    return _recording(path, source, images, located, pages)


def _followed(path: Path, text: bytes) -> _Source:
    """Return the document that a file holds or points to."""
    document = parse_ome_xml(text, str(path))
    own = None if path.name.lower().endswith((".ome", ".xml")) else path.name
    if document.metadata_file is None:
        return _Source(path, path.parent, document, own)
    other = path.parent / _file_name(document.metadata_file)
    if not other.is_file():
        raise RecordingError(
            f"{path}: it is part of an OME-TIFF of several files whose metadata are in {other.name}, which is not "
            f"in {path.parent}; put it there"
        )
    found = other.read_bytes() if other.name.lower().endswith((".ome", ".xml")) else description_of(other)
    if not is_ome(found):
        raise RecordingError(f"{other}: it should hold the OME-XML of {path.name}, and has none; it is damaged")
    document = parse_ome_xml(found, str(other))
    if document.metadata_file is not None:
        raise RecordingError(f"{other}: it should hold the OME-XML of {path.name}, and points to another file")
    return _Source(path, path.parent, document, other.name if other.suffix.lower() not in (".ome", ".xml") else None)


def files_of_ome_tiff(path: Path, text: bytes) -> list[str]:
    """Return the names of all files that an OME-TIFF speaks of, given one of them and the OME-XML in it."""
    source = _followed(path, text)
    names = [_name_of(source, block) for image in source.document.images for block in image.blocks]
    return list(dict.fromkeys(name for name in names if name is not None))


def _file_name(name: str) -> str:
    """Return a file's name without folders: a dataset may have been moved, and must not point out of its folder."""
    return PureWindowsPath(PurePosixPath(name).name).name


def _chosen(source: _Source, options: ReadOptions) -> list[OMEImage]:
    images = source.document.images
    if options.axes is not None:
        raise RecordingError(f"{source.path}: OME-XML names its axes; leave axes out")
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


# ---- files ---------------------------------------------------------------------------------------------------------


def _name_of(source: _Source, block: Block) -> str | None:
    """Return the file that a block is in; None for the one that holds the document."""
    if block.file is None or (block.uuid and block.uuid == source.document.uuid and source.own):
        return source.own
    return _file_name(block.file)


def _files_of(source: _Source, images: Sequence[OMEImage]) -> list[str]:
    """Return the files that images are in, after checking that they are there."""
    names = list(dict.fromkeys(_name_of(source, block) for image in images for block in image.blocks))
    if any(not image.blocks for image in images):  # all planes are in the file that holds the document
        names = list(dict.fromkeys([*names, source.own]))
    if None in names:
        raise RecordingError(f"{source.path}: its OME-XML does not say which TIFF files hold the pixels")
    known = [name for name in names if name is not None]
    missing = [name for name in known if not (source.folder / name).is_file()]
    everywhere = {_name_of(source, block) for image in source.document.images for block in image.blocks}
    if missing and source.own and everywhere == set(missing) and len(missing) == 1:
        return [source.own]  # a single file that was renamed
    if missing:
        shown = ", ".join(missing[:_SHOWN]) + (f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else "")
        one = len(missing) == 1
        raise RecordingError(
            f"{source.path}: this OME-TIFF has {len(known)} files, and {shown} "
            f"{'is' if one else 'are'} missing in {source.folder}; put {'it' if one else 'them'} there, under "
            f"{'this name' if one else 'these names'}"
        )
    return known


def _scanned(path: Path) -> TiffPages:
    with TiffFile(path) as file:
        return file.scan()


# ---- planes --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Located:
    """The planes of an image along its own order, and how many samples a page has."""

    planes: Planes
    samples: int


def _located(source: _Source, image: OMEImage, pages: Sequence[TiffPages], numbers: dict[str, int]) -> _Located:
    blocks = image.blocks or [Block(None, (0, 0, 0), None, None, None)]

    def file_of(block: Block) -> int:
        name = _name_of(source, block)
        return numbers.get(name or "", 0)

    first = file_of(blocks[0])
    ifd = blocks[0].ifd or 0
    if ifd >= len(pages[first]):
        raise _too_few(pages[first], ifd)
    samples = pages[first].layout(ifd).samples
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
    return _Located(planes, samples)


def _too_few(pages: TiffPages, page: int) -> RecordingError:
    return RecordingError(
        f"{pages.path}: OME-XML speaks of page {page}, but the file has {len(pages)} pages; it is truncated, or was "
        f"replaced by another one. Copy it anew from where it was"
    )


def _check_alike(
    source: _Source,
    images: Sequence[OMEImage],
    located: Sequence[_Located],
    pages: Sequence[TiffPages],
) -> None:
    """Raise an error if images can't be positions of one recording."""
    told = []
    for image, planes in zip(images, located, strict=True):
        file = int(planes.planes.files.max())
        used = planes.planes.pages[planes.planes.files == file]
        layout = pages[file].layout(int(used[0]))
        sizes = " ".join(f"{axis}={image.sizes[axis]}" for axis in image.order)
        sizes += f" y={layout.height} x={layout.width} {layout.shape[3]}"
        told.append(sizes)
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
    path: Path, source: _Source, images: Sequence[OMEImage], located: Sequence[_Located], pages: Sequence[TiffPages]
) -> TiffRecording:
    image, samples = images[0], located[0].samples
    parts = [part.planes.with_samples(samples) for part in located]
    order = image.order
    if samples > 1:  # samples of a page are read together, so channels go last
        place = order.index("c")
        order = order.replace("c", "") + "c"
        for part in parts:
            for array in ("files", "pages", "samples"):
                setattr(part, array, np.moveaxis(getattr(part, array), place, -2))
        parts = [part.reshaped([image.sizes[axis] for axis in order]) for part in parts]
    dimensions = [d for axis in order if (d := _dimension(axis, image, samples)) is not None]
    kept = [d.name for d in dimensions]
    positions = _positions(source.document, images)
    planes = Planes.stacked(parts)
    if positions is not None:
        dimensions.insert(0, counted("p", len(images), coords=positions))
    planes = planes.reshaped([d.count or 1 for d in dimensions])
    first = pages[int(planes.files.max())]
    layout = first.layout(int(planes.pages[planes.files == int(planes.files.max())].flat[0]))
    frame = frame_dimensions(layout.height, layout.width, image.scale("y"), image.scale("x"))
    recording = OMETiffRecording(str(path), [*dimensions, *frame], planes, pages)
    recording.plate = source.document.plate if positions and positions[0].plate_row is not None else None
    recording.attributes = _attributes(images, positions)
    if any(len(i.planes) for i in images):
        axes = [*(["p"] if positions is not None else []), *kept]
        recording.tell(OMEPlanes(list(images), axes, samples))
    return recording


def _dimension(axis: str, image: OMEImage, samples: int) -> Dimension | None:
    """Return a dimension; None for one of a single step of which nothing is known."""
    count = image.sizes[axis]
    if axis == "c":
        channels: list[Channel] | None = channels_along(image, max(1, count // samples))
        if samples > 1:
            channels = sample_channels(samples, channels or [Channel(name=f"C{n}") for n in range(count // samples)])
        if count == 1 and not channels:
            return None
        return counted("c", count, coords=channels)
    scale, unit = image.scale(axis)
    if count == 1 and (scale is None or axis == "t"):
        return None
    return counted(axis, count, scale=scale, unit=unit)


def _positions(document: OMEDocument, images: Sequence[OMEImage]) -> list[Position] | None:
    """Return the stage positions; None for a single image of which nothing is known."""
    wells = [document.wells.get(image.id) for image in images]
    plate = all(well is not None for well in wells)
    stages = [image.stage_name for image in images]
    given = stages if all(stages) and len(set(stages)) == len(stages) else [image.name or None for image in images]
    if len(images) == 1 and not plate and given == [None] and all(c is None for c in images[0].stage):
        return None
    names = position_names(given, wells if plate else None)
    return [
        Position(
            name=name,
            plate_row=well[0] if plate and well else None,
            plate_column=well[1] if plate and well else None,
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
