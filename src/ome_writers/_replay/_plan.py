"""From a recording to the settings of the dataset that it is replayed into."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ome_writers.errors import SettingsError
from ome_writers.recordings import Index, Recording
from ome_writers.settings import AcquisitionSettings, Dimension

_AT_ONCE: Final = 1 << 16  # frames
_ZARR_DOCUMENTS: Final = ("zarr.json", ".zgroup", ".zattrs", ".zarray")


def replay_settings(
    recording: Recording,
    settings: AcquisitionSettings | str | os.PathLike[str],
    order: Sequence[str] | None = None,
) -> AcquisitionSettings:
    """Return the settings of the dataset that a recording is replayed into.

    Parameters
    ----------
    recording : Recording
        What is replayed.
    settings : AcquisitionSettings or path
        Where to, and how it is stored. What these settings leave out (dimensions, dtype, plate) is as recorded; their
        dimensions may leave out recorded ones of one step. A path alone means blosc-lz4 and planned chunks.
    order : sequence of str, optional
        Names of the index dimensions in the acquisition order to simulate, slowest first (those of one step may be left
        out); by default that of the settings' dimensions, or as recorded.

    Returns
    -------
    AcquisitionSettings
        Complete ones.

    Raises
    ------
    SettingsError
        If dimensions, dtype or order do not fit the recording, or the dataset would replace it (also a ValueError).
    """
    if not isinstance(settings, AcquisitionSettings):
        settings = AcquisitionSettings(root_path=os.fspath(settings), compression="blosc-lz4", chunking="auto")
    changes: dict[str, Any] = {"dimensions": _in_order(settings.dimensions or recording.dimensions, order)}
    if not settings.dtype:
        changes["dtype"] = recording.dtype
    if not settings.dimensions and settings.plate is None:
        changes["plate"] = recording.plate
    # built anew, so that everything is checked together
    fields = {name: getattr(settings, name) for name in settings.model_fields_set | {"format"}}
    settings = AcquisitionSettings(**{**fields, **changes})
    _check_apart(recording, Path(settings.output_path))
    faults = [*_dimension_faults(recording, settings), *_dtype_faults(recording, settings)]
    if faults:
        raise SettingsError(f"the settings do not fit {recording.name}: {'; '.join(faults)}")
    return settings


def _check_apart(recording: Recording, destination: Path) -> None:
    """Raise an error if the dataset would replace its source, or what the source lies in."""
    if recording.origin is None:
        return
    sources = recording.origin[0]
    target = destination.expanduser().resolve()
    for source in [sources] if isinstance(sources, str) else sources:
        path = Path(source).resolve()
        if path == target or target in path.parents:
            raise SettingsError(f"{destination} is the source, or holds it; choose another path for the dataset")
        if path in target.parents and any((path / name).is_file() for name in _ZARR_DOCUMENTS):
            raise SettingsError(f"{destination} lies in the dataset {path}, which is the source; choose another path")


def _in_order(dimensions: Sequence[Dimension], order: Sequence[str] | None) -> tuple[Dimension, ...]:
    """Return dimensions with those of the index in another order."""
    if order is None:
        return tuple(dimensions)
    by_name = {d.name: d for d in dimensions[:-2]}
    left = [name for name, d in by_name.items() if name not in order and d.count == 1]  # wherever they stand
    if sorted([*left, *order]) != sorted(by_name):
        raise SettingsError(
            f"order {', '.join(order) or '(empty)'} does not name each index dimension once; "
            f"allowed are {', '.join(by_name) or 'none: this is a single frame'}, in any order"
        )
    return (*(by_name[name] for name in (*left, *order)), *dimensions[-2:])


def _dimension_faults(recording: Recording, settings: AcquisitionSettings) -> Iterator[str]:
    recorded = {d.name: d.count for d in recording.dimensions}
    given = {d.name: d.count for d in settings.dimensions}
    if missing := [name for name, count in recorded.items() if name not in given and count != 1]:
        yield f"dimensions {', '.join(missing)} of the recording are not among them"
    if unknown := [name for name in given if name not in recorded]:
        yield f"there are no dimensions {', '.join(unknown)} in the recording, which has {', '.join(recorded)}"
    for name in given.keys() & recorded.keys():
        if given[name] != recorded[name]:
            yield f"dimension {name} has {given[name]} steps, recorded were {recorded[name]}"
    names = [d.name for d in settings.frame_dimensions]
    if not missing and not unknown and names != [d.name for d in recording.dimensions[-2:]]:
        yield f"the frame's dimensions are {', '.join(names)}, and those of the recording are its last two"


def _dtype_faults(recording: Recording, settings: AcquisitionSettings) -> Iterator[str]:
    if not np.can_cast(recording.dtype, settings.dtype, "safe"):
        yield f"{settings.dtype} can't hold every value of the recorded {recording.dtype}"


class Walk:
    """Which frame of a recording each frame of an acquisition is.

    Parameters
    ----------
    recording : Recording
        What is replayed.
    settings : AcquisitionSettings
        Complete ones, whose dimensions are those of the recording in acquisition order, but for some of one step.
    """

    def __init__(self, recording: Recording, settings: AcquisitionSettings) -> None:
        names = [d.name for d in settings.dimensions[:-2]]
        self._shape = tuple(d.count or 0 for d in settings.dimensions[:-2])
        recorded = [d.name for d in recording.dimensions[:-2]]
        self._places = [names.index(name) if name in names else None for name in recorded]
        present = recording.present
        self._present = None
        if present is not None:
            steps = present[tuple(0 if place is None else slice(None) for place in self._places)]
            kept = [name for name in recorded if name in names]
            self._present = np.ascontiguousarray(steps.transpose([kept.index(name) for name in names])).ravel()

    def present(self, frames: int) -> npt.NDArray[np.bool_]:
        """Return of each of the first frames whether it was recorded."""
        return np.ones(frames, np.bool_) if self._present is None else self._present[:frames]

    def indices(self, frames: range) -> Iterator[Index]:
        """Yield the indices in the recording of those of some frames that were recorded."""
        for first in range(frames.start, frames.stop, _AT_ONCE):
            numbers: npt.NDArray[Any] = np.arange(first, min(first + _AT_ONCE, frames.stop))
            if self._present is not None:
                numbers = numbers[self._present[numbers]]
            if not self._places:
                yield from [()] * len(numbers)
                continue
            steps = np.unravel_index(numbers, self._shape) if self._shape else ()
            zeros = [0] * len(numbers)
            columns = (zeros if place is None else steps[place].tolist() for place in self._places)
            yield from zip(*columns, strict=True)

    def runs(self, frames: range) -> Iterator[tuple[range, bool]]:
        """Yield runs of frames that follow each other, and whether they were recorded."""
        if self._present is None:
            if frames:
                yield frames, True
            return
        here = self._present[frames.start : frames.stop]
        edges = np.flatnonzero(here[1:] != here[:-1]) + 1
        bounds = [0, *edges.tolist(), len(here)] if len(here) else []
        for first, last in pairwise(bounds):
            yield range(frames.start + first, frames.start + last), bool(here[first])
