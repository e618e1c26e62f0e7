"""Arrays as recordings: in memory, in ``.npy`` files, and in raw binary files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ome_writers.errors import RecordingError
from ome_writers.settings import DTYPES

from ._axes import axis_names, dimensions_of
from ._recording import Frame, Index, Recording
from ._sources import ReadOptions


class ArrayRecording(Recording):
    """An array whose frames are copied from it.

    Parameters
    ----------
    array : ndarray
        Its pixels; may be a ``numpy.memmap``.
    options : ReadOptions
        Its axes.
    name : str
        For messages and reports.
    """

    kind: ClassVar[str] = "array"

    def __init__(self, array: npt.NDArray[Any], options: ReadOptions, name: str) -> None:
        _refuse_image(options, name)
        if array.dtype.newbyteorder("=").name not in DTYPES:
            raise RecordingError(
                f"{name}: pixels of type {array.dtype} can't be stored; allowed are {', '.join(DTYPES)}; convert it"
            )
        if array.ndim < 2:
            raise RecordingError(f"{name}: an array of {array.ndim} dimensions holds no frames; 2 at least are needed")
        names = axis_names(options.axes, array.ndim, name)
        frame = [names.index("y"), names.index("x")]
        others = [axis for axis in range(array.ndim) if axis not in frame]
        self._array: npt.NDArray[Any] | None = array.transpose([*others, *frame])
        self.name = name
        self.dtype = array.dtype.newbyteorder("=").name
        self.dimensions = dimensions_of([names[axis] for axis in (*others, *frame)], self._array.shape, name)

    def read(self, index: Index, out: Frame) -> None:
        """Copy a frame."""
        if self._array is None:
            raise RecordingError(f"{self.name} is closed")
        np.copyto(out, self._array[index])

    def close(self) -> None:
        """Let go of the array."""
        self._array = None


class NpyRecording(ArrayRecording):
    """A ``.npy`` file, mapped into memory."""

    kind: ClassVar[str] = "NumPy .npy"


class RawRecording(ArrayRecording):
    """A raw binary file, mapped into memory."""

    kind: ClassVar[str] = "raw binary"


def open_array(array: npt.NDArray[Any], options: ReadOptions) -> Recording:
    """Return an array as a recording."""
    _refuse_raw(options, "an array")
    return ArrayRecording(array, options, "array in memory")


def open_npy(path: Path, options: ReadOptions) -> Recording:
    """Open a ``.npy`` file (format: numpy.lib.format).

    Raises
    ------
    RecordingError
        If it is none, or truncated.
    """
    _refuse_raw(options, str(path))
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise RecordingError(f"{path}: it can't be read as a .npy file, or is truncated: {error}") from error
    return NpyRecording(array, options, str(path))


def open_raw(path: Path, options: ReadOptions) -> Recording:
    """Open a raw binary file of a declared shape and dtype, C order.

    Raises
    ------
    RecordingError
        If shape or dtype are not declared, or the file has another size.
    """
    if options.shape is None or options.dtype is None:
        raise RecordingError(
            f"{path}: a raw file does not say what it holds; give shape and dtype, such as 100,512,512 and uint16"
        )
    try:
        dtype = np.dtype(options.dtype)
    except (TypeError, ValueError, SyntaxError) as error:
        raise RecordingError(f"{path}: dtype {options.dtype!r} is not known; give one such as 'uint16'") from error
    if len(options.shape) < 2 or min(options.shape) < 1:
        raise RecordingError(f"{path}: shape {options.shape} holds no frames; give at least height and width")
    if options.offset < 0:
        raise RecordingError(f"{path}: offset {options.offset} is not allowed; give the bytes before the first frame")
    wanted = options.offset + math.prod(options.shape) * dtype.itemsize
    found = path.stat().st_size
    if found != wanted:
        raise RecordingError(
            f"{path}: shape {'x'.join(map(str, options.shape))} of {dtype} after {options.offset} bytes needs a file "
            f"of {wanted:,} bytes, but it has {found:,}"
        )
    array = np.memmap(path, dtype, mode="r", offset=options.offset, shape=options.shape)
    return RawRecording(array, options, str(path))


def _refuse_image(options: ReadOptions, name: str) -> None:
    if options.image is not None:
        raise RecordingError(f"{name}: there is one image in it; leave image out")


def _refuse_raw(options: ReadOptions, name: str) -> None:
    if options.shape is not None or options.dtype is not None or options.offset:
        raise RecordingError(f"{name} says by itself what it holds; leave shape, dtype and offset out")
