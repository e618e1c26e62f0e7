"""TIFF files of no particular kind, and those whose axes tifffile knows (shaped by tifffile itself, LSM, STK, ...)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt

from ome_writers.errors import RecordingError
from ome_writers.settings import Dimension

from ._axes import dimensions_of
from ._sources import ReadOptions
from ._tiff_axes import Size, frame_of, named_axes, resolution, split_pages
from ._tiff_ifds import TiffFile
from ._tiff_layout import TiffPages
from ._tiff_recording import Planes, TiffRecording, with_samples
from ._tifffile import listening, opened

_KINDS: Final = frozenset({"shaped", "lsm", "stk", "fluoview", "nih", "scanimage", "tvips", "mdgel", "astrotiff"})
"""What tifffile calls files whose axes it knows."""

_SHOWN: Final = 6


class PlainTiffRecording(TiffRecording):
    """A TIFF file whose pages are frames."""

    kind: ClassVar[str] = "TIFF"


def open_plain(path: Path, options: ReadOptions) -> TiffRecording:
    """Open a TIFF file by its pages.

    Raises
    ------
    RecordingError
        If it is damaged, its pages have several shapes, or its axes must be named.
    """
    with TiffFile(path) as structure:  # finds damage, of which tifffile would only warn
        pages = structure.scan()
    with opened(path) as file:
        described = bool(_KINDS & set(file.flags))
        if not described:
            chosen = _chosen(path, pages, options)
            sizes = resolution(file.pages[int(chosen[0])].tags)
    if described:
        return _open_described(path, pages, options)
    pages = pages.taken(chosen)
    layout = pages.layout(0)
    dimensions = split_pages(len(pages), options, str(path), (layout.height, layout.width))
    return _recording(path, pages, dimensions, sizes)


def _chosen(path: Path, pages: TiffPages, options: ReadOptions) -> npt.NDArray[np.intp]:
    """Return the pages of one image: pages of one shape are one."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for kind, layout in enumerate(pages.layouts):
        if not layout.reduced or all(other.reduced for other in pages.layouts):
            groups.setdefault(layout.shape, []).append(kind)
    images = list(groups.values())
    if len(images) > 1 and options.image is None:
        told = [
            f"{number}: {int(np.isin(pages.kinds, kinds).sum())} pages of {pages.layouts[kinds[0]]}"
            for number, kinds in enumerate(images[:_SHOWN])
        ]
        raise RecordingError(
            f"{path}: its pages have {len(images)} different shapes; choose those of one with image: {', '.join(told)}"
        )
    number = _number(path, options, len(images))
    return np.flatnonzero(np.isin(pages.kinds, images[number]))


def _number(path: Path, options: ReadOptions, count: int) -> int:
    wanted = 0 if options.image is None else options.image
    if not isinstance(wanted, int) or not 0 <= wanted < count:
        numbers = "0" if count == 1 else f"0 to {count - 1}"
        raise RecordingError(f"{path}: there is no image {wanted!r}; there are {numbers}")
    return wanted


def _recording(
    path: Path,
    pages: TiffPages,
    dimensions: list[Dimension],
    sizes: tuple[Size, Size],
    *,
    samples_are_frames: bool = False,
) -> TiffRecording:
    layout = pages.layout(0)
    if samples_are_frames:
        planes = Planes.of_pages([len(pages)]).with_samples(layout.samples).reshaped([d.count or 1 for d in dimensions])
    else:
        planes = Planes.of_pages([d.count or 1 for d in dimensions])
        dimensions, planes = with_samples(dimensions, planes, layout.samples)
    frame = frame_of(layout.height, layout.width, sizes)
    return PlainTiffRecording(str(path), [*dimensions, *frame], planes, [pages])


# ---- files whose axes tifffile knows -------------------------------------------------------------------------------


def _open_described(path: Path, pages: TiffPages, options: ReadOptions) -> TiffRecording:
    """Open a series of tifffile, the only one or the one that was chosen."""
    if options.shape is not None:
        raise RecordingError(f"{path} says by itself how many images it holds; leave shape out")
    with opened(path) as file, listening(path):
        series = list(file.series)
        if len(series) > 1 and options.image is None:
            told = [
                f"{n}: {s.name or 'series'} {s.axes} {'x'.join(map(str, s.shape))} {s.dtype}"
                for n, s in enumerate(series[:_SHOWN])
            ]
            raise RecordingError(
                f"{path}: it holds {len(series)} series of images; choose one with image: {', '.join(told)}"
            )
        names = [s.name for s in series]
        if isinstance(options.image, str) and options.image in names:
            chosen = series[names.index(options.image)]
        else:
            chosen = series[_number(path, options, len(series))]
        shape, axes = tuple(chosen.shape), str(chosen.axes)
        taken = _pages_of(path, pages, chosen)
        sizes = resolution(chosen.keyframe.tags)
    letters = "".join(letter for letter in axes if letter not in "YXS")
    if sorted(set("YX") - set(axes)) or axes.replace("S", "")[-2:] != "YX":
        raise RecordingError(f"{path}: its axes are {axes}, but frames need Y and X as the last ones")
    counts = [n for letter, n in zip(axes, shape, strict=True) if letter not in "YXS"]
    layout = taken.layout(0)
    # tifffile takes a stack of 3 or 4 for the planes of a colour image, whatever its axes are called
    samples_are_frames = "S" not in axes and layout.planar
    frames = len(taken) * (layout.samples if samples_are_frames else 1)
    size = tuple(n for letter, n in zip(axes, shape, strict=True) if letter in "YX")
    if math.prod(counts) != frames or size != (layout.height, layout.width):
        raise RecordingError(
            f"{path}: its axes {axes} have {math.prod(counts)} images of {size[0]} x {size[1]}, but there are {frames} "
            f"of {layout}; the file can't be read by them"
        )
    several = [n for n, count in enumerate(counts) if count > 1 or options.axes is not None]
    letters, counts = "".join(letters[n] for n in several), [counts[n] for n in several]
    dimensions = list(dimensions_of(named_axes(letters, options, str(path)), counts, str(path)))
    return _recording(path, taken, dimensions, sizes, samples_are_frames=samples_are_frames)


def _pages_of(path: Path, pages: TiffPages, series: Any) -> TiffPages:
    """Return the pages of a series, also if only the first one has a directory."""
    keyframe = series.keyframe
    number = math.prod(series.shape) // math.prod(keyframe.shape)
    listed = [page for page in series.pages if page is not None]
    indices = [page.index for page in listed]
    if len(listed) == number and all(isinstance(index, int) for index in indices):
        return pages.taken(np.array(indices, np.intp))
    if not isinstance(keyframe.index, int):
        raise RecordingError(f"{path}: the pages of series {series.name!r} are subordinate to others")
    following = keyframe.index + np.arange(number)
    if following[-1] < len(pages) and (pages.kinds[following] == pages.kinds[keyframe.index]).all():
        return pages.taken(following)
    if series.dataoffset is None:
        raise RecordingError(f"{path}: it should have {number} pages, and has {len(pages)}; it is truncated")
    return pages.taken(np.array([keyframe.index])).continued(number)
