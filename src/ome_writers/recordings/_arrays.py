"""Arrays as recordings: in memory, in ``.npy`` files, and in raw binary files.

Files whose frames are in one piece are read by calls that tell when a file has become shorter. Those of other orders
(Fortran order, or axes of a frame that are not the last two) are mapped into memory, where a file that shrinks while
it is read ends the process, as the system has it.
"""

from __future__ import annotations

import math
import mmap
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt

from ome_writers.errors import RecordingError
from ome_writers.settings import DTYPES

from ._axes import axis_names, check_index, dimensions_of
from ._blocks import BlockCache
from ._files import Files
from ._recording import Frame, Index, Recording
from ._sources import ReadOptions

_MAPPED_BYTES: Final = 32 << 20
"""Of files that are mapped into memory, about as much stays in it."""
_FAULT_BYTES: Final = 1 << 16
"""What systems map around a byte that is touched."""


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
        _check_dtype(array.dtype, name)
        if array.ndim < 2:
            raise RecordingError(f"{name}: an array of {array.ndim} dimensions holds no frames; 2 at least are needed")
        order = _order(options, array.ndim, name)
        self._array: npt.NDArray[Any] | None = array.transpose(list(order.values()))
        self.name = name
        self.dtype = array.dtype.newbyteorder("=").name
        self.dimensions = dimensions_of(list(order), self._array.shape, name)
        self._pages = _MappedPages(array)
        self._cache = BlockCache()
        self._steps = self._steps_of_block()

    def _steps_of_block(self) -> Index | None:
        """Return how many frames along each index axis are copied together; None: each for itself.

        To copy a frame whose pixels are apart takes nearly the whole file (Fortran order), whatever lies between them.
        """
        array = self._array
        if (
            array is None
            or array.ndim < 3
            or abs(array.strides[-1]) <= 8 * array.itemsize
            or not self._pages.are_mapped
        ):
            return None
        room = max(1, self._cache.part // self.frame_bytes)
        steps = [1] * (array.ndim - 2)
        for axis in sorted(range(array.ndim - 2), key=lambda axis: abs(array.strides[axis])):
            steps[axis] = min(array.shape[axis], room)
            room //= steps[axis]
        return tuple(steps) if math.prod(steps) > 1 else None

    def read(self, index: Index, out: Frame) -> None:
        """Copy a frame."""
        array = self._array
        if array is None:
            raise RecordingError(f"{self.name} is closed")
        check_index(self, index)
        if self._steps is None:
            self._copy(array[index], out)
            return
        first = tuple(i // step * step for i, step in zip(index, self._steps, strict=True))
        region = tuple(slice(f, f + step) for f, step in zip(first, self._steps, strict=True))

        def gather() -> Frame:
            block = np.empty_like(array[region], order="C", subok=False)
            self._copy(array[region], block)
            return block

        block = self._cache.get(first, math.prod(self._steps) * self.frame_bytes, gather, 0)
        np.copyto(out, block[tuple(i - f for i, f in zip(index, first, strict=True))])

    def _copy(self, frames: Frame, out: Frame) -> None:
        """Copy frames by parts of which not much is in memory at once."""
        # what one step along the axis of the frame takes whose steps are the farthest apart
        axis = -1 if abs(frames.strides[-1]) > abs(frames.strides[-2]) else -2
        shape = [1 if n == frames.ndim + axis else count for n, count in enumerate(frames.shape)]
        touched = _touched(shape, frames.strides, frames.itemsize)
        count = max(1, _MAPPED_BYTES // touched) if self._pages.are_mapped else out.shape[axis]
        for first in range(0, out.shape[axis], count):
            part = slice(first, first + count)
            place = (..., part) if axis == -1 else (..., part, slice(None))
            np.copyto(out[place], frames[place])
            self._pages.forget(out[place].shape[axis] * touched)

    def close(self) -> None:
        """Let go of the array."""
        self._array = None
        self._pages = _MappedPages(None)
        self._cache.clear()


def _order(options: ReadOptions, ndim: int, name: str) -> dict[str, int]:
    """Return the axes in the order of the recording, the frame's last, and which one of the array each is."""
    names = axis_names(options.axes, ndim, name)
    return {axis: names.index(axis) for axis in (*(n for n in names if n not in ("y", "x")), "y", "x")}


def _touched(shape: Sequence[int], strides: Sequence[int], itemsize: int) -> int:
    """Return about how many bytes of a mapped file come into memory with pixels that lie so far apart."""
    span, pieces = itemsize, 1
    for stride, count in sorted((abs(stride), count) for stride, count in zip(strides, shape, strict=True)):
        if stride <= span + _FAULT_BYTES:
            span += stride * (count - 1)
        else:
            pieces *= count
    return pieces * max(span, mmap.PAGESIZE)


class _MappedPages:
    """The memory of a file that is mapped: what was read of it counts as memory of the process until it is forgotten.

    Parameters
    ----------
    array : ndarray or None
        A ``numpy.memmap``, or another array, of which nothing is forgotten.
    """

    def __init__(self, array: npt.NDArray[Any] | None) -> None:
        self._lock = threading.Lock()
        self._bytes = 0
        self._map: mmap.mmap | None = None
        # pages of a private mapping ("c") may have been changed, and would lose that
        is_shared = isinstance(array, np.memmap) and array.mode in ("r", "r+")
        if is_shared and array is not None and array.nbytes > _MAPPED_BYTES and hasattr(mmap, "MADV_DONTNEED"):
            base: Any = array
            while isinstance(base, np.ndarray):
                base = base.base
            self._map = base if isinstance(base, mmap.mmap) else None

    @property
    def are_mapped(self) -> bool:
        """Whether there is something to forget."""
        return self._map is not None

    def forget(self, nbytes: int) -> None:
        """Give memory back when so many bytes more were touched; the system keeps them as long as it has room."""
        if self._map is None:
            return
        with self._lock:
            self._bytes += nbytes
            if self._bytes >= _MAPPED_BYTES:
                self._bytes = 0
                self._map.madvise(mmap.MADV_DONTNEED)


class FileRecording(Recording):
    """A file of frames that are in one piece each, one after the other.

    Parameters
    ----------
    path : Path
        The file.
    shape : sequence of int
        Number of steps of each axis, y and x last.
    dtype : dtype
        Of the pixels; may be of the other byte order.
    offset : int
        Bytes before the first frame.
    options : ReadOptions
        Its axes.
    """

    def __init__(
        self, path: Path, shape: Sequence[int], dtype: np.dtype[Any], offset: int, options: ReadOptions
    ) -> None:
        self.name = str(path)
        _refuse_image(options, self.name)
        _check_dtype(dtype, self.name)
        self.dtype = dtype.newbyteorder("=").name
        self.dimensions = dimensions_of(axis_names(options.axes, len(shape), self.name), shape, self.name)
        self._offset = offset
        self._is_native = bool(dtype.isnative)
        self._files = Files([path])
        with self._files.use(0):
            pass  # that it can't be opened is said at once

    def read(self, index: Index, out: Frame) -> None:
        """Read a frame."""
        check_index(self, index)
        number = int(np.ravel_multi_index(index, self.index_shape)) if index else 0
        steps = ", ".join(f"{d.name}={step}" for d, step in zip(self.dimensions, index, strict=False))
        self._files.read_into(0, self._offset + number * self.frame_bytes, out, f"frame {steps}".strip())
        if not self._is_native:
            out.byteswap(inplace=True)

    def close(self) -> None:
        """Release the file."""
        self._files.close()


class NpyRecording(FileRecording):
    """A ``.npy`` file whose frames are in one piece."""

    kind: ClassVar[str] = "NumPy .npy"


class MappedNpyRecording(ArrayRecording):
    """A ``.npy`` file of any order, mapped into memory."""

    kind: ClassVar[str] = "NumPy .npy"


class RawRecording(FileRecording):
    """A raw binary file whose frames are in one piece."""

    kind: ClassVar[str] = "raw binary"


class MappedRawRecording(ArrayRecording):
    """A raw binary file whose frame's axes are not its last two, mapped into memory."""

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
        array = np.lib.format.open_memmap(path, mode="r")
        _refuse_negative(array.shape)
    except (ValueError, EOFError, OSError, OverflowError, TypeError, MemoryError) as error:
        raise RecordingError(f"{path}: it can't be read as a .npy file, or is truncated: {error}") from error
    if array.ndim > 1 and array.flags.c_contiguous and _is_in_order(options, array.ndim, str(path)):
        return NpyRecording(path, array.shape, array.dtype, array.offset, options)
    return MappedNpyRecording(array, options, str(path))


def _refuse_negative(shape: Sequence[int]) -> None:
    if any(count < 0 for count in shape):
        raise ValueError(f"its shape is said to be {shape}")


def _is_in_order(options: ReadOptions, ndim: int, name: str) -> bool:
    return [*_order(options, ndim, name).values()] == list(range(ndim))


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
    _check_dtype(dtype, str(path))
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
    if _is_in_order(options, len(options.shape), str(path)):
        return RawRecording(path, options.shape, dtype, options.offset, options)
    array = np.memmap(path, dtype, mode="r", offset=options.offset, shape=options.shape)
    return MappedRawRecording(array, options, str(path))


def _check_dtype(dtype: np.dtype[Any], name: str) -> None:
    if dtype.newbyteorder("=").name not in DTYPES:
        raise RecordingError(
            f"{name}: pixels of type {dtype} can't be stored; allowed are {', '.join(DTYPES)}; convert them"
        )


def _refuse_image(options: ReadOptions, name: str) -> None:
    if options.image is not None:
        raise RecordingError(f"{name}: there is one image in it; leave image out")


def _refuse_raw(options: ReadOptions, name: str) -> None:
    if options.shape is not None or options.dtype is not None or options.offset:
        raise RecordingError(f"{name} says by itself what it holds; leave shape, dtype and offset out")
