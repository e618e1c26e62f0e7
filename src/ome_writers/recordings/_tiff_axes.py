"""Axes of TIFF files, as dimensions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

from ome_writers.errors import RecordingError
from ome_writers.settings import Dimension
from ome_writers.settings._units import SPACE_UNITS

from ._axes import axis_names, dimensions_of
from ._ome_metadata import unit_name
from ._sources import ReadOptions
from ._tiff_recording import frame_dimensions, positive

_UNKNOWN: Final = "QI"
"""Letters of tifffile for an axis of which nothing is known, and for a sequence of images."""

_MICROMETERS: Final = {3: 10_000.0, 4: 1000.0, 5: 1.0}
"""Of a ResolutionUnit (cm, mm, um); without the inch: resolutions per inch are those of printers and screens."""

Size = tuple[float | None, str | None]
"""Size of a pixel and its unit."""


def named_axes(letters: str, options: ReadOptions, source: str) -> list[str]:
    """Return the names of index axes that tifffile calls by letters.

    Parameters
    ----------
    letters : str
        Of the index axes, slowest first.
    options : ReadOptions
        May name all axes.
    source : str
        For messages.

    Raises
    ------
    RecordingError
        If they must be named and are not.
    """
    if options.axes is not None:
        names = axis_names(options.axes, len(letters) + 2, source)
        if names[-2:] != ("y", "x"):
            raise RecordingError(f"{source}: axes {options.axes!r} must end with y, x, the axes of a page")
        return list(names[:-2])
    unknown = [letter for letter in letters if letter in _UNKNOWN]
    names_of = [letter.lower() for letter in letters]
    if not unknown:
        return names_of
    if len(unknown) == 1 and "t" not in names_of:  # a series of images is one in time, if nothing else is
        return ["t" if letter in _UNKNOWN else name for letter, name in zip(letters, names_of, strict=True)]
    example = "t" + "zc"[: len(letters) - 1] if len(letters) < 4 else ",".join("tpcz"[: len(letters)])
    raise RecordingError(
        f"{source}: it has {len(letters)} dimensions beside y and x, and does not say what they are; name all with "
        f"axes, slowest first, such as {example + 'yx'!r}"
    )


def split_pages(pages: int, options: ReadOptions, source: str, frame: tuple[int, int] | None = None) -> list[Dimension]:
    """Return the index dimensions of pages that do not say what they are: as declared, else a series in time.

    Parameters
    ----------
    pages : int
        How many there are.
    options : ReadOptions
        May declare axes and shape.
    source : str
        For messages.
    frame : tuple of int, optional
        Height and width of a page, which a declared shape must end with.

    Raises
    ------
    RecordingError
        If the declared shape does not fit the number of pages, or their shape.
    """
    if options.shape is not None:
        if options.axes is None:
            raise RecordingError(f"{source}: give axes with shape, so that it is known what the {pages} pages are")
        names = axis_names(options.axes, len(options.shape), source)
        if names[-2:] != ("y", "x"):
            raise RecordingError(f"{source}: axes {options.axes!r} must end with y, x, the axes of a page")
        if math.prod(options.shape[:-2]) != pages:
            raise RecordingError(
                f"{source}: shape {'x'.join(map(str, options.shape))} needs {math.prod(options.shape[:-2])} pages, but "
                f"there are {pages}"
            )
        if frame is not None and options.shape[-2:] != frame:
            raise RecordingError(
                f"{source}: shape {'x'.join(map(str, options.shape))} ends with frames of {options.shape[-2]} x "
                f"{options.shape[-1]}, but pages are {frame[0]} x {frame[1]}"
            )
        return list(dimensions_of(names[:-2], options.shape[:-2], source))
    if pages == 1 and (options.axes is None or len(options.axes) == 2):
        return []
    return list(dimensions_of(named_axes("I", options, source), [pages], source))


def resolution(tags: Any, units: tuple[str, str] | None = None) -> tuple[Size, Size]:
    """Return the sizes of pixels along y and x, as a page's tags XResolution and YResolution tell.

    Parameters
    ----------
    tags : TiffTags
        Of tifffile.
    units : tuple of str, optional
        What they are counted in, along y and x; by default as the tag ResolutionUnit says.
    """
    factor: float | None = 1.0
    if units is None:
        tag = tags.get("ResolutionUnit")
        factor = _MICROMETERS.get(int(tag.value)) if tag is not None else None
        units = ("micrometer", "micrometer")
    sizes: list[Size] = []
    for name, unit in zip(("YResolution", "XResolution"), map(unit_name, units), strict=True):
        if factor is None or unit not in SPACE_UNITS:
            sizes.append((None, None))
            continue
        tag = tags.get(name)
        value = tag.value if tag is not None else (0, 1)
        numerator, denominator = value if isinstance(value, tuple) else (value, 1)
        scale = positive(denominator * factor / numerator) if numerator else None
        sizes.append((scale, unit if scale else None))
    return sizes[0], sizes[1]


def frame_of(height: int, width: int, sizes: Sequence[Size]) -> tuple[Dimension, Dimension]:
    """Return the frame's dimensions."""
    return frame_dimensions(height, width, sizes[0], sizes[1])
