"""Frame number to (array, storage index) and back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ._layout import AcquisitionAxis

Integers: TypeAlias = npt.NDArray[Any]


class Router:
    """The order in which an acquisition visits its arrays and their indices.

    Frame ``n`` of an acquisition is the ``n``-th index that ``numpy.ndindex`` would give for the index dimensions in
    acquisition order; the first of them may be unbounded.

    Parameters
    ----------
    axes : sequence of AcquisitionAxis
        The index dimensions in acquisition order, slowest first.

    Attributes
    ----------
    total : int or None
        Number of frames of the acquisition; None when it is unbounded.
    fastest : int or None
        The storage axis along which one frame follows the other; None when another array, or none, follows.
    """

    def __init__(self, axes: Sequence[AcquisitionAxis]) -> None:
        counts = [axis.count for axis in axes]
        if None in counts[1:]:
            raise ValueError("only the first axis may be unbounded")
        self.total: int | None = None if None in counts else math.prod(c for c in counts if c)
        strides = [math.prod(c or 1 for c in counts[i + 1 :]) for i in range(len(counts))]
        # (frames between two steps, steps or None, array stride, storage axis or None), slowest first
        self._axes = [
            (stride, axis.count, axis.array_stride, axis.storage_axis)
            for stride, axis in zip(strides, axes, strict=True)
        ]
        stored = sorted((a.storage_axis, i) for i, a in enumerate(axes) if a.storage_axis is not None)
        moving = [axis for axis in axes if axis.count != 1]
        self.fastest: int | None = moving[-1].storage_axis if moving else None
        self._places = [place for _, place in stored]  # of the stored axes, in storage order, among all axes

    def locate(self, frame: int) -> tuple[int, tuple[int, ...]]:
        """Return the array and the index in storage order of a frame.

        Parameters
        ----------
        frame : int
            Number of the frame in acquisition order, from 0.

        Returns
        -------
        array : int
            Number of the array.
        index : tuple of int
            Index along the stored index axes, in storage order.

        Raises
        ------
        IndexError
            If the acquisition has no such frame.
        """
        if frame < 0 or (self.total is not None and frame >= self.total):
            raise IndexError(f"frame {frame} is not one of {self.total} frames")
        array, steps = 0, []
        rest = frame
        for stride, _, array_stride, _ in self._axes:
            step, rest = divmod(rest, stride)
            array += step * array_stride
            steps.append(step)
        return array, tuple([steps[place] for place in self._places])

    def locate_many(self, frames: Integers) -> tuple[Integers, Integers]:
        """Return the arrays and the indices of frames of the acquisition.

        Parameters
        ----------
        frames : ndarray of int, shape (n,)
            Their numbers.

        Returns
        -------
        arrays : ndarray of int, shape (n,)
            Number of the array of each.
        indices : ndarray of int, shape (number of index axes, n)
            Index along each stored index axis, in storage order.
        """
        rest = np.asarray(frames, np.int64)
        arrays = np.zeros_like(rest)
        steps = []
        for stride, _, array_stride, _ in self._axes:
            step, rest = np.divmod(rest, stride)
            arrays += step * array_stride
            steps.append(step)
        return arrays, np.array([steps[place] for place in self._places], np.int64).reshape(-1, len(arrays))

    def number(self, array: int, index: Sequence[int]) -> int:
        """Return the number of the frame at an index (storage order) of an array; the inverse of :meth:`locate`.

        Raises
        ------
        IndexError
            If there is no such array or index.
        """
        frame = 0
        for stride, count, array_stride, storage_axis in self._axes:
            # array strides are those of a mixed radix number whose digits are the steps
            step = array // array_stride % (count or 1) if storage_axis is None else index[storage_axis]
            if step < 0 or (count is not None and step >= count):
                raise IndexError(f"index {tuple(index)} is outside of the array")
            frame += step * stride
        arrays = math.prod(count or 1 for _, count, _, axis in self._axes if axis is None)
        if not 0 <= array < arrays or len(index) != len(self._places):
            raise IndexError(f"there is no array {array} with {len(index)} index axes")
        return frame

    def number_many(self, arrays: Integers, indices: Sequence[Integers]) -> Integers:
        """Return the numbers of frames; the inverse of :meth:`locate_many`, which checks nothing."""
        numbers = np.zeros(len(arrays), np.int64)
        for stride, count, array_stride, storage_axis in self._axes:
            step = arrays // array_stride % (count or 1) if storage_axis is None else indices[storage_axis]
            numbers += step * stride
        return numbers

    def whole_steps(self, frames: int) -> int:
        """Return how many steps of the slowest axis are complete, in all arrays, after a number of frames."""
        return frames // self._axes[0][0] if self._axes else 0

    def extent(self, array: int, frames: int) -> int:
        """Return how many steps of the slowest axis an array has begun after a number of frames.

        Parameters
        ----------
        array : int
            Number of the array.
        frames : int
            Frames acquired or skipped so far.
        """
        first = self.number(array, (0,) * len(self._places))
        return 0 if frames <= first else (frames - 1 - first) // self._axes[0][0] + 1
