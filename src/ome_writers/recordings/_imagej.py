"""ImageJ hyperstacks: TIFF files with ImageJ's own description (``ImageJ=`` at its beginning).

Pages go through channels first, then through slices, then through frames. Of a stack of more than 4 GB, only the first
page has a directory, and the pixels of the others follow.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np

from ome_writers.errors import RecordingError
from ome_writers.settings import Channel, Dimension
from ome_writers.settings._units import SPACE_UNITS

from ._ome_metadata import factor_to, unit_name
from ._recording import Index
from ._source_names import channels_of, json_value
from ._sources import ReadOptions
from ._tiff_axes import resolution
from ._tiff_ifds import TiffFile
from ._tiff_recording import Planes, TiffRecording, counted, finite, positive, with_samples
from ._tifffile import opened

_TIME_WORDS: Final = {
    "secs": "s", "seconds": "s", "minute": "min", "minutes": "min", "mins": "min", "hours": "h", "hrs": "h",
    "msec": "ms", "msecs": "ms", "milliseconds": "ms", "usec": "us", "days": "d",
}  # fmt: skip
"""Words for units of time, which ImageJ takes from a text field as they are."""


class ImageJRecording(TiffRecording):
    """An ImageJ hyperstack."""

    kind: ClassVar[str] = "ImageJ hyperstack"


class _Labels:
    """Labels of slices, one for each page."""

    def __init__(self, labels: Sequence[str], shape: Sequence[int], samples: int) -> None:
        self._labels = labels
        self._shape = tuple(shape)
        self._samples = samples

    def of(self, index: Index) -> Mapping[str, Any] | None:
        flat = int(np.ravel_multi_index(index, self._shape)) if index else 0
        label = self._labels[flat // self._samples]
        return {"label": label} if label else None


def open_imagej(path: Path, options: ReadOptions) -> TiffRecording:
    """Open an ImageJ hyperstack.

    Raises
    ------
    RecordingError
        If it is damaged.
    """
    if options.axes is not None or options.shape is not None:
        raise RecordingError(f"{path}: ImageJ's description names its axes; leave axes and shape out")
    if options.image not in (None, 0):
        raise RecordingError(f"{path}: there is one image in it; leave image out")
    with TiffFile(path) as structure:  # finds damage, of which tifffile would only warn
        pages = structure.scan()
    with opened(path) as file:
        known = {key: _unescaped(value) for key, value in (file.imagej_metadata or {}).items()}
        sizes = resolution(file.pages.first.tags, _units(known))
    layout = pages.layout(0)
    counts = [_count(known, name, path) for name in ("frames", "slices", "channels")]
    images = max(_count(known, "images", path), math.prod(counts))
    if images == 1 and "images" not in known:  # ImageJ takes all pages then
        images = len(pages)
    if math.prod(counts) != images:  # what a stack is along that only counts its images is not known
        counts = [images, 1, 1] if "slices" not in known else [1, images, 1]
    if len(pages) == 1 and images > 1:
        pages = pages.continued(images)
    if len(pages) != images:
        what = "it is truncated" if len(pages) < images else "pages were added to it, and what they are is not known"
        raise RecordingError(f"{path}: its description tells of {images} images, but it has {len(pages)} pages; {what}")
    kept = [axis for axis, count in zip("tzc", counts, strict=True) if count > 1]
    dimensions = [_dimension(axis, counts["tzc".index(axis)], known) for axis in kept]
    channels = _channels(known, counts)
    if channels is not None and "c" in kept:
        dimensions[kept.index("c")] = counted("c", counts[2], coords=channels)
    planes = Planes.of_pages([d.count or 1 for d in dimensions])
    dimensions, planes = with_samples(dimensions, planes, layout.samples)
    frame = [
        Dimension(
            name=axis, type="space", count=count, scale=size[0], unit=size[1], translation=_origin(known, axis, size[0])
        )
        for axis, count, size in zip("yx", (layout.height, layout.width), sizes, strict=True)
    ]
    recording = ImageJRecording(str(path), [*dimensions, *frame], planes, [pages])
    recording.attributes = {"imagej": _attributes(known)}
    labels = known.get("Labels")
    if isinstance(labels, list) and len(labels) == images:
        recording.tell(_Labels([str(text) for text in labels], recording.index_shape, layout.samples))
    return recording


def _unescaped(value: Any) -> Any:
    """Return text with characters that ImageJ escapes as Java does, such as that of the micrometer."""
    if not isinstance(value, str):
        return value
    return re.sub(r"\\u([0-9a-fA-F]{4})", lambda match: chr(int(match[1], 16)), value)


def _count(known: Mapping[str, Any], name: str, path: Path) -> int:
    count = known.get(name, 1)
    if not isinstance(count, int) or count < 1:
        raise RecordingError(f"{path}: its description has {name}={count!r}; it is damaged")
    return count


def _dimension(axis: str, count: int, known: Mapping[str, Any]) -> Dimension:
    if axis == "t":
        rate = positive(known.get("fps"))
        interval = positive(known.get("finterval"))
        if interval is None:  # frames per second, whatever tunit is
            return counted("t", count, scale=1 / rate if rate else None, unit="second" if rate else None)
        factor = _seconds(str(known.get("tunit", "s")))
        scale = interval if factor is None else float(f"{interval * factor:.12g}")
        return counted("t", count, scale=scale, unit=None if factor is None else "second")
    if axis == "z":
        unit = unit_name(str(known.get("zunit", known.get("unit", ""))))
        spacing = abs(finite(known.get("spacing")) or 0) or None
        return counted(
            "z", count, scale=spacing, unit=unit if spacing and unit in SPACE_UNITS else None,
            translation=_origin(known, "z", spacing),
        )  # fmt: skip
    return counted("c", count)


def _units(known: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return what pixels are counted in along y and x; None if the tag ResolutionUnit tells."""
    unit = known.get("unit")
    if unit is None:
        return None
    return str(known.get("yunit", unit)), str(unit)


def _seconds(unit: str) -> float | None:
    """Return how many seconds a unit of time is that a user may have typed; None if it is none."""
    name = unit_name(_TIME_WORDS.get(unit.strip().lower(), unit.strip()))
    return factor_to(name, "second")


def _origin(known: Mapping[str, Any], axis: str, scale: float | None) -> float | None:
    """Return the coordinate of the first step: ImageJ gives the step at which the coordinate is 0."""
    origin = finite(known.get(f"{axis}origin"))
    return None if origin is None or scale is None else -origin * scale


def _channels(known: Mapping[str, Any], counts: Sequence[int]) -> list[Channel] | None:
    """Return the channels: colours from lookup tables, names from labels if each labels a channel."""
    frames, slices, count = counts
    tables = known.get("LUTs")
    colors: list[str | None] = [None] * count
    if isinstance(tables, list) and [np.shape(table) for table in tables] == [(3, 256)] * count:
        colors = ["#{:02x}{:02x}{:02x}".format(*(int(v) for v in np.asarray(table)[:, -1])) for table in tables]
    labels = known.get("Labels")
    names: list[str | None] = [None] * count
    if isinstance(labels, list) and len(labels) == count and frames == slices == 1:
        names = [str(text) for text in labels]
    if not any(colors) and not any(names):
        return None
    return channels_of(names, [{"color": color} for color in colors])


def _attributes(known: Mapping[str, Any]) -> dict[str, Any]:
    left_out = ("LUTs", "Labels", "images", "channels", "slices", "frames", "hyperstack")
    return {key: json_value(value) for key, value in known.items() if key not in left_out and not _is_binary(value)}


def _is_binary(value: Any) -> bool:
    return isinstance(value, bytes) or (isinstance(value, list) and any(isinstance(v, bytes) for v in value))
