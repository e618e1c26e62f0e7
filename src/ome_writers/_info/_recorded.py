"""Recorded acquisitions in other formats than Zarr."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ome_writers.recordings import Recording, open_recording
from ome_writers.settings import Channel, Dimension, Position

from ._images import AxisInfo, ChannelInfo
from ._report import DatasetInfo, RecordingInfo


def describe_recording(path: str | os.PathLike[str], *, count_bytes: bool, **options: Any) -> DatasetInfo:
    """Return what a recorded acquisition holds.

    Raises
    ------
    RecordingError
        If there is none that can be read.
    """
    with open_recording(path, **options) as recording:
        files, nbytes = _size(Path(path).expanduser()) if count_bytes else (None, None)
        return DatasetInfo(
            path=recording.name,
            kind=recording.kind,
            recording=_recording_info(recording),
            files=files,
            stored_bytes=nbytes,
        )


def _recording_info(recording: Recording) -> RecordingInfo:
    coords = [entry for dimension in recording.dimensions for entry in dimension.coords or ()]
    return RecordingInfo(
        dimensions=tuple(_axis(dimension) for dimension in recording.dimensions),
        dtype=recording.dtype,
        frames=recording.frames,
        frames_missing=recording.frames_missing,
        positions=tuple(entry.name for entry in coords if isinstance(entry, Position)),
        channels=tuple(
            ChannelInfo(entry.name, entry.color and entry.color.removeprefix("#").upper())
            for entry in coords
            if isinstance(entry, Channel)
        ),
    )


def _axis(dimension: Dimension) -> AxisInfo:
    return AxisInfo(dimension.name, dimension.type, dimension.unit, dimension.count or 0, dimension.scale)


def _size(path: Path) -> tuple[int | None, int | None]:
    """Return files and bytes of a file or folder; None for a pattern."""
    if path.is_file():
        return 1, path.stat().st_size
    if not path.is_dir():
        return None, None
    sizes = [file.stat().st_size for file in path.rglob("*") if file.is_file()]
    return len(sizes), sum(sizes)
