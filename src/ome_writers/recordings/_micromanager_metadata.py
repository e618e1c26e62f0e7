"""What Micro-Manager notes of an acquisition (summary) and of each frame, in image stacks and NDTiff alike.

Keys are those of the Micro-Manager wiki ("Micro-Manager File Formats", "Metadata") and of the files themselves.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ome_writers.errors import RecordingError
from ome_writers.settings import Channel, Dimension, Position

from ._recording import Index
from ._source_names import channels_of, json_value, position_names
from ._tiff_layout import TiffPages
from ._tiff_pages import TiffPixels
from ._tiff_recording import Planes, counted, finite, positive

_MEANINGS: Final = (
    ("delta_t", ("ElapsedTime-ms",), 1e-3),
    ("exposure_time", ("Exposure-ms", "Exposure"), 1e-3),
    ("position_x", ("XPositionUm", "XPosition_um_Intended"), 1.0),
    ("position_y", ("YPositionUm", "YPosition_um_Intended"), 1.0),
    ("position_z", ("ZPositionUm", "ZPosition_um_Intended"), 1.0),
)
"""Keys of this package, Micro-Manager's, and by what its numbers are multiplied (times are in ms)."""


def parse_json(text: bytes, what: str) -> dict[str, Any]:
    """Return a JSON object.

    Raises
    ------
    RecordingError
        If it is none.
    """
    try:
        parsed = json.loads(text.rstrip(b"\0 \n").decode("utf-8", errors="replace"))
    except ValueError as error:
        raise RecordingError(f"{what} can't be read: {error}") from error
    if not isinstance(parsed, dict):
        raise RecordingError(f"{what} can't be read: they are no JSON object")
    return parsed


def frame_metadata(tags: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was recorded about a frame: Micro-Manager's tags, and those with a meaning under its key too."""
    known: dict[str, Any] = {str(key): json_value(value) for key, value in tags.items()}
    for key, names, factor in _MEANINGS:
        value = next((number for name in names if (number := _plain(tags.get(name))) is not None), None)
        if value is not None:
            known[key] = float(f"{value * factor:.15g}")
        else:
            known.pop(key, None)
    return known


def _plain(value: Any) -> float | None:
    return None if isinstance(value, bool) else finite(value)


class FrameNotes:
    """What was recorded about frames, read from the files when asked for.

    Parameters
    ----------
    pixels : TiffPixels
        The files.
    planes : Planes
        Where each frame is.
    """

    def __init__(self, pixels: TiffPixels, planes: Planes) -> None:
        self._pixels = pixels
        self._planes = planes

    def of(self, index: Index) -> Mapping[str, Any] | None:
        """Return what was recorded about a frame; None when nothing was."""
        tags = self.tags(index)
        return frame_metadata(tags) if tags else None

    def tags(self, index: Index) -> dict[str, Any] | None:
        """Return Micro-Manager's tags of a frame; None for one that was not recorded, or has none."""
        number = int(self._planes.files[index])
        if number < 0:
            return None
        pages = self._pixels.pages[number]
        offset, size = pages.notes[int(self._planes.pages[index])].tolist()
        if not size:
            return None
        what = f"the metadata of page {int(self._planes.pages[index])}"
        return parse_json(self._pixels.files.read_bytes(number, offset, size, what), f"{pages.path}: {what}")


def first_frame(planes: Planes) -> Index:
    """Return the index of the first frame that was recorded."""
    return tuple(int(step) for step in np.unravel_index(np.argmax(planes.files >= 0), planes.files.shape))


def check_shapes(source: str, pages: Sequence[TiffPages], planes: Planes) -> None:
    """Check that all frames have one shape.

    Raises
    ------
    RecordingError
        If not.
    """
    shapes = {
        of_file.layouts[kind].shape: str(of_file.layouts[kind])
        for number, of_file in enumerate(pages)
        for kind in np.unique(of_file.kinds[planes.pages[planes.files == number]]).tolist()
    }
    if len(shapes) > 1:
        raise RecordingError(
            f"{source}: frames of different shapes can't be one recording: {', '.join(list(shapes.values())[:6])}; "
            "record each shape as an acquisition of its own"
        )


def slowest_first(steps: Mapping[str, npt.NDArray[np.int64]]) -> list[str]:
    """Return the names of axes, those first that change least often from frame to frame, as they were stored.

    Parameters
    ----------
    steps : mapping of ndarray
        For each axis the step of each frame.
    """
    changes = {name: int(np.count_nonzero(np.diff(values))) for name, values in steps.items()}
    return sorted(changes, key=lambda name: changes[name])


def channel_list(summary: Mapping[str, Any], count: int, names: Sequence[str] | None = None) -> list[Channel] | None:
    """Return the channels; None when nothing is known of them."""
    given = names or [str(name) for name in _list(summary.get("ChNames"))]
    colors = _list(summary.get("ChColors"))
    if not given and not colors:
        return None
    padded: list[str | None] = [*given, *[None] * count][:count]
    return channels_of(padded, [{"color": _color(colors[n]) if n < len(colors) else None} for n in range(count)])


def _list(value: Any) -> list[Any]:
    """Return a list; earlier versions wrote lists as text."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return []
    return value if isinstance(value, list) else []


def _color(value: Any) -> str | None:
    """Return a colour of Java: a signed 32 bit ARGB number."""
    return f"#{value & 0xFFFFFF:06x}" if isinstance(value, int) else None


def standard_dimension(name: str, count: int, summary: Mapping[str, Any]) -> Dimension:
    """Return the dimension t or z, with the step that the summary tells."""
    if name == "t":
        interval = positive(summary.get("Interval_ms", summary.get("Interval-ms")))
        return counted("t", count, scale=interval, unit="millisecond" if interval else None)
    step = positive(abs(finite(summary.get("z-step_um")) or 0))
    return counted("z", count, scale=step, unit="micrometer" if step else None)


def pixel_size(summary: Mapping[str, Any], tags: Mapping[str, Any]) -> tuple[float | None, str | None]:
    """Return size and unit of a pixel."""
    size = positive(summary.get("PixelSize_um")) or positive(tags.get("PixelSizeUm"))
    return size, "micrometer" if size else None


def position_list(
    summary: Mapping[str, Any],
    count: int,
    tags_of: Callable[[int], Mapping[str, Any] | None],
    names: Sequence[str] | None = None,
) -> list[Position] | None:
    """Return the stage positions; None when nothing is known of a single one.

    Parameters
    ----------
    summary : mapping
        Of the acquisition.
    count : int
        Number of positions.
    tags_of : callable
        Returns the tags of a frame at a position; None when there is no frame.
    names : sequence of str, optional
        As the files name them.
    """
    listed = [p if isinstance(p, dict) else {} for p in _list(summary.get("StagePositions"))]
    listed = [*listed, *[{}] * count][:count]
    found = [tags_of(n) or {} for n in range(count)]
    given = [
        _text(names[n] if names else None) or _text(p.get("Label")) or _text(t.get("PositionName"))
        for n, (p, t) in enumerate(zip(listed, found, strict=True))
    ]
    meant = [frame_metadata(tags) for tags in found]
    stages = [[m.get(f"position_{axis}") for axis in "xyz"] for m in meant]
    if count == 1 and given == [None] and stages == [[None] * 3]:
        return None
    grid = [(p.get("GridRow"), p.get("GridCol")) for p in listed]
    gridded = all(isinstance(r, int) and isinstance(c, int) and min(r, c) >= 0 for r, c in grid) and any(
        place != (0, 0) for place in grid
    )
    return [
        Position(
            name=name,
            x_coord=x,
            y_coord=y,
            z_coord=z,
            grid_row=grid[n][0] if gridded else None,
            grid_column=grid[n][1] if gridded else None,
        )
        for n, (name, (x, y, z)) in enumerate(zip(position_names(given), stages, strict=True))
    ]


def _text(value: Any) -> str | None:
    return value.strip() or None if isinstance(value, str) else None
