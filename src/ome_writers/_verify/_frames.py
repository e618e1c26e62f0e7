"""What became of each frame, from what was found in the chunks that hold it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from ome_writers._documents import Completeness
from ome_writers._layout import Layout
from ome_writers._router import Router
from ome_writers.engine._fates import FATES_FILE, SKIPPED, read_fates

from ._chunks import Integers, StoredArray
from ._report import MAX_RANGES, FrameReport, Frames

_BLOCK: Final = 1 << 20  # frames that are looked at together
_MOST_FRAMES: Final = 1 << 32  # a year at 100 frames per second

_WRITTEN, _SKIPPED, _MISSING, _CORRUPT, _UNCHECKED = range(5)


class AcquiredArrays:
    """The arrays of an acquisition, as they stand in the dataset.

    Parameters
    ----------
    layout : Layout
        Of the acquisition.
    arrays : mapping
        Path below the root to what was found in each array of the dataset.
    problems : list of str
        Where arrays that are not as the layout says are named.
    """

    def __init__(self, layout: Layout, arrays: Mapping[str, StoredArray], problems: list[str]) -> None:
        geometry = layout.geometry
        axes = len(geometry.shape) - 2
        self._arrays: list[StoredArray | None] = []
        for image in layout.images:
            array = arrays.get(image.array_path)
            if array is None:
                problems.append(f"array {image.array_path!r} of the acquisition is not in the dataset")
            elif (fault := _misfit(array, geometry.shape, geometry.dtype)) is not None:
                problems.append(f"array {image.array_path!r} {fault}")
                array = None
            self._arrays.append(array)
        # per array: extent and step of each index axis, layers along it, and by how many layers a step moves
        self._extents = np.zeros((len(self._arrays), axes), np.int64)
        self._steps = np.ones_like(self._extents)
        self._strides = np.zeros_like(self._extents)
        self._first = np.zeros(len(self._arrays), np.int64)
        self._there = np.zeros(len(self._arrays), np.bool_)
        kinds = [np.empty(0, np.uint8)]
        layers = 0
        for number, array in enumerate(self._arrays):
            if array is None or array.layers is None or array.grid is None:
                continue
            self._there[number] = True
            self._extents[number] = array.grid.shape[:-2]
            self._steps[number] = array.grid.chunk_shape[:-2]
            counts = array.layers.shape
            self._strides[number] = [int(np.prod(counts[axis + 1 :], dtype=np.int64)) for axis in range(axes)]
            self._first[number] = layers
            kinds.append(_kinds(array))
            layers += kinds[-1].size
        self._kinds = np.concatenate(kinds)

    def kinds(self, arrays: Integers, indices: Integers) -> npt.NDArray[np.uint8]:
        """Return what was found for frames, by array and index along the stored index axes (axes first)."""
        steps = indices.T
        inside = self._there[arrays] & (steps < self._extents[arrays]).all(axis=1)
        of = arrays[inside]
        cells = steps[inside] // self._steps[of]
        found = np.full(len(arrays), _MISSING, np.uint8)
        found[inside] = self._kinds[self._first[of] + (cells * self._strides[of]).sum(axis=1)]
        return found


def array_paths(layout: Layout) -> frozenset[str]:
    """Return the paths of the arrays that hold the frames of an acquisition."""
    return frozenset(image.array_path for image in layout.images)


def check_frames(
    root: Path,
    completeness: Completeness | None,
    layout: Layout,
    arrays: Mapping[str, StoredArray],
    problems: list[str],
) -> FrameReport:
    """Return what became of each frame of an acquisition.

    Parameters
    ----------
    root : Path
        The dataset.
    completeness : Completeness or None
        What it says about itself.
    layout : Layout
        Of its acquisition.
    arrays : mapping
        Path below the root to what was found in each array, by layers for those of the acquisition.
    problems : list of str
        Where contradictions are noted.
    """
    router = Router(layout.axes)
    fates, taken = _fates(root, completeness, router.total, problems)
    acquired = AcquiredArrays(layout, arrays, problems)
    found = np.empty(taken, np.uint8)
    for begin in range(0, taken, _BLOCK):
        numbers = np.arange(begin, min(begin + _BLOCK, taken))
        found[begin : begin + _BLOCK] = acquired.kinds(*router.locate_many(numbers))
    for lost in () if completeness is None else completeness.lost:
        run = found[max(lost.start, 0) : lost.stop]
        run[run != _CORRUPT] = _MISSING
    found[: fates.size][fates == SKIPPED] = _SKIPPED
    return FrameReport(
        expected=router.total,
        taken=taken,
        written=int(np.count_nonzero(found == _WRITTEN)),
        skipped=_frames(found, _SKIPPED),
        missing=_frames(found, _MISSING),
        corrupt=_frames(found, _CORRUPT),
        unchecked=_frames(found, _UNCHECKED),
    )


def _fates(
    root: Path, completeness: Completeness | None, total: int | None, problems: list[str]
) -> tuple[npt.NDArray[np.uint8], int]:
    """Return the fates of the first frames (the others were appended), and how many were appended or skipped."""
    try:
        fates = read_fates(root / FATES_FILE)
    except OSError as error:
        problems.append(f"{FATES_FILE} can't be read: {error.strerror or error}")
        fates = np.empty(0, np.uint8)
    if completeness is None:
        problems.append("the root group does not say how far the acquisition came (attribute ome_writers.completeness)")
        taken = fates.size
    elif completeness.closed or completeness.recovered:
        taken = completeness.frames_taken
        skipped = int(np.count_nonzero(fates[:taken] == SKIPPED))
        if fates.size not in (0, taken):
            problems.append(f"{FATES_FILE} has {fates.size:,} frames, but {taken:,} were appended or skipped")
        elif skipped != completeness.frames_skipped:
            problems.append(f"{FATES_FILE} names {skipped:,} skipped frames of {completeness.frames_skipped:,}")
    else:
        taken = max(completeness.frames_taken, fates.size)
        problems.append(
            f"the stream was not closed: it is still being written, or run 'ome-writers recover {root}' to complete it"
        )
    if total is not None and taken > total:
        problems.append(f"{taken:,} frames were appended or skipped, more than the settings declare ({total:,})")
        taken = total
    elif not 0 <= taken <= _MOST_FRAMES:
        problems.append(f"{taken:,} frames were appended or skipped, which can't be")
        taken = fates.size
    return fates[:taken], taken


def _misfit(array: StoredArray, shape: Sequence[int | None], dtype: str) -> str | None:
    """Return in words what an array has that the acquisition has not; None when they agree."""
    if array.grid is None:
        return "has no document that can be understood"
    found = array.grid.shape
    if len(found) != len(shape) or any(n not in (None, m) for n, m in zip(shape, found, strict=True)):
        return f"has shape {found}, but the acquisition has {tuple('any' if n is None else n for n in shape)}"
    if array.decoder is not None and array.decoder.dtype != np.dtype(dtype):
        return f"has data type {array.decoder.dtype}, but the acquisition has {dtype}"
    return None


def _kinds(array: StoredArray) -> npt.NDArray[np.uint8]:
    """Return what was found for the frames of each layer of an array."""
    layers = array.layers
    if layers is None:
        return np.empty(0, np.uint8)
    kinds = np.where(layers.written == layers.chunks, _WRITTEN, _MISSING).astype(np.uint8)
    kinds[layers.unchecked] = _UNCHECKED
    kinds[layers.corrupt] = _CORRUPT
    return kinds


def _frames(found: npt.NDArray[np.uint8], kind: int) -> Frames:
    there = found == kind
    edges = np.flatnonzero(np.diff(there.view(np.int8), prepend=0, append=0))
    ranges = edges.reshape(-1, 2)[:MAX_RANGES].tolist()
    return Frames(int(np.count_nonzero(there)), tuple(range(first, stop) for first, stop in ranges))
