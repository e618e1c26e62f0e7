"""Arrays as recordings: in memory, in ``.npy`` files, and in raw binary files."""

from __future__ import annotations

import math
import mmap
import threading
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt

from ome_writers.errors import RecordingError
from ome_writers.settings import DTYPES

from ._axes import axis_names, dimensions_of
from ._blocks import BlockCache
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
        names = axis_names(options.axes, array.ndim, name)
        frame = [names.index("y"), names.index("x")]
        others = [axis for axis in range(array.ndim) if axis not in frame]
        self._array: npt.NDArray[Any] | None = array.transpose([*others, *frame])
        self.name = name
        self.dtype = array.dtype.newbyteorder("=").name
        self.dimensions = dimensions_of([names[axis] for axis in (*others, *frame)], self._array.shape, name)
        self._pages = _MappedPages(array)
        touched = min(abs(self._array.strides[-1]), _FAULT_BYTES) * self.frame_shape[1]
        self._row_bytes = max(touched, mmap.PAGESIZE)
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
        return tuple(steps)

    def read(self, index: Index, out: Frame) -> None:
        """Copy a frame."""
        array = self._array
        if array is None:
            raise RecordingError(f"{self.name} is closed")
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
        rows = max(1, _MAPPED_BYTES // self._row_bytes) if self._pages.are_mapped else out.shape[-2]
        for top in range(0, out.shape[-2], rows):
            part = ..., slice(top, top + rows), slice(None)
            np.copyto(out[part], frames[part])
            self._pages.forget(out[part].size // out.shape[-1] * self._row_bytes)

    def close(self) -> None:
        """Let go of the array."""
        self._array = None
        self._pages = _MappedPages(None)
        self._cache.clear()


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
        array = np.lib.format.open_memmap(path, mode="r")
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
    array = np.memmap(path, dtype, mode="r", offset=options.offset, shape=options.shape)
    return RawRecording(array, options, str(path))


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
