"""Frames of Zarr arrays, read with zarr-python."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from zarr import open_array
from zarr.abc.store import ByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore, WrapperStore

from ome_writers.errors import RecordingError
from ome_writers.settings import DTYPES

from ._blocks import WORKING_COPIES, BlockCache
from ._ngff import FoundImage
from ._recording import Frame, Index
from ._zarr_documents import Node

_OPEN_ARRAYS: Final = 1024
_BLOSC_HEADER_BYTES: Final = 16
_NO_CHUNK: Final = np.iinfo(np.uint64).max
_DOCUMENTS: Final = frozenset({"zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata"})


class ZarrFrames:
    """The frames of arrays of one shape.

    Parameters
    ----------
    root : Path
        The dataset.
    images : sequence of FoundImage
        Whose arrays are read.
    frame_axes : tuple of int
        Which axes of the arrays are y and x.
    """

    def __init__(self, root: Path, images: Sequence[FoundImage], frame_axes: tuple[int, int]) -> None:
        self._root = root
        self._images = images
        self._frame_axes = frame_axes
        ndim = len(images[0].shape)
        self._index_axes = [axis for axis in range(ndim) if axis not in frame_axes]
        self._order = [*self._index_axes, *frame_axes]
        self._arrays: OrderedDict[int, Any] = OrderedDict()
        self._lock = threading.Lock()
        self._cache = BlockCache()
        self.dtype = self._checked_dtype()

    def _checked_dtype(self) -> str:
        found = self._array(0).dtype
        name = str(np.dtype(found).newbyteorder("=").name)
        if name not in DTYPES:
            raise RecordingError(
                f"{self._images[0].array.folder}: pixels of type {found} can't be stored; allowed are "
                f"{', '.join(DTYPES)}; convert the array"
            )
        return name

    def _array(self, number: int) -> Any:
        with self._lock:
            array = self._arrays.get(number)
            if array is None:
                array = self._arrays[number] = _opened(self._root, self._images[number])
                if len(self._arrays) > _OPEN_ARRAYS:
                    self._arrays.popitem(last=False)
            self._arrays.move_to_end(number)
            return array

    def read(self, image: int, index: Index, out: Frame) -> None:
        """Read a frame.

        Parameters
        ----------
        image : int
            Number of its image.
        index : tuple of int
            Its index along the axes of the array that are not the frame's.
        out : ndarray, shape (height, width)
            Filled with the pixels.

        Raises
        ------
        RecordingError
            If it can't be read, or what holds it is damaged.
        """
        array = self._array(image)
        try:
            chunks = [min(c, n) for c, n in zip(array.chunks, array.shape, strict=True)]
            of_chunk = [chunks[axis] for axis in self._index_axes]
            chunk_bytes = math.prod(chunks) * out.itemsize
            # to decode a chunk takes its memory anyway, so that all of it is kept rather than decoded again
            whole = math.prod(of_chunk) * out.nbytes
            is_large = chunk_bytes > self._cache.largest and whole <= self._cache.exceptional
            if math.prod(of_chunk) > 1 and (is_large or out.nbytes <= self._cache.part):
                most = whole if is_large or whole <= self._cache.largest else self._cache.part
                region = _block_around(index, of_chunk, max(1, most // out.nbytes))
                nbytes = math.prod(part.stop - part.start for part in region) * out.nbytes
                key = image, *(part.start for part in region)
                block = self._cache.get(key, nbytes, lambda: self._block(array, region), whole * WORKING_COPIES)
                np.copyto(out, block[tuple(i - part.start for i, part in zip(index, region, strict=True))])
            else:
                self._read_directly(array, index, out, chunks)
        except Exception as error:  # of codecs, stores and zarr-python itself, which have no class in common
            place = f" of image {self._images[image].path!r}" if self._images[image].path else ""
            raise RecordingError(
                f"{self._root}: frame {index}{place} can't be read from array {self._images[image].array_path!r}, "
                f"whose file is damaged or gone: {error}"
            ) from error

    def _block(self, array: Any, frames: Sequence[slice]) -> Frame:
        """Return frames, whole planes; their axes last."""
        region: list[slice] = [slice(None)] * array.ndim
        for axis, part in zip(self._index_axes, frames, strict=True):
            region[axis] = part
        return np.asarray(array[tuple(region)]).transpose(self._order)

    def _read_directly(self, array: Any, index: Index, out: Frame, chunks: Sequence[int]) -> None:
        """Read a frame by parts of it, such that the chunks that are decoded at once need little memory."""
        transposed = self._frame_axes[0] > self._frame_axes[1]
        chunk_bytes = math.prod(chunks) * out.itemsize
        tall, wide = (chunks[axis] for axis in self._frame_axes)
        for rows, columns, count in _parts(out.shape, (tall, wide), max(1, self._cache.largest // chunk_bytes)):
            region: list[Any] = [None] * array.ndim
            for axis, step in zip(self._index_axes, index, strict=True):
                region[axis] = step
            for axis, part in zip(self._frame_axes, (rows, columns), strict=True):
                region[axis] = part
            with self._cache.room(count * chunk_bytes * WORKING_COPIES):
                pixels = np.asarray(array[tuple(region)])
                np.copyto(out[rows, columns], pixels.T if transposed else pixels)

    def close(self) -> None:
        """Let go of arrays and blocks."""
        self._cache.clear()
        with self._lock:
            self._arrays.clear()


def _block_around(index: Index, of_chunk: Sequence[int], room: int) -> tuple[slice, ...]:
    """Return the frames that are decoded with one: those in its chunks, or as many of these as may be kept."""
    region: list[slice] = []
    for i, chunk in zip(reversed(index), reversed(of_chunk), strict=True):  # the fastest axes as a whole first
        step = max(1, min(chunk, room))
        room //= step
        first = i // chunk * chunk
        start = first + (i - first) // step * step
        region.append(slice(start, min(start + step, first + chunk)))
    return tuple(reversed(region))


def _parts(shape: Sequence[int], chunk: tuple[int, int], most: int) -> Iterator[tuple[slice, slice, int]]:
    """Yield parts of a frame of whole chunks, at most so many each (one at least), and how many these are."""
    (height, width), (tall, wide) = shape, chunk
    across = -(-width // wide)
    columns = min(across, most)
    rows = max(1, most // across)
    for top in range(0, height, rows * tall):
        for left in range(0, width, columns * wide):
            yield (
                slice(top, min(top + rows * tall, height)),
                slice(left, min(left + columns * wide, width)),
                rows * columns,
            )


def _opened(root: Path, image: FoundImage) -> Any:
    """Return an array, opened for reading.

    Raises
    ------
    RecordingError
        If zarr-python can't read arrays such as this one.
    """
    try:
        store = _WholeChunks(LocalStore(root, read_only=True), image.array)
        return open_array(store, path=image.array_path, mode="r", zarr_format=image.array.zarr_format)  # type: ignore[arg-type]
    except Exception as error:  # the document may name any data type, codec or extension
        raise RecordingError(
            f"{image.array.folder}: zarr-python can't read this array: {str(error)[:500] or type(error).__name__}"
        ) from error


class _WholeChunks(WrapperStore[LocalStore]):
    """Refuses chunks and shards that are shorter than they should be.

    Blosc would decode what lies in memory behind a chunk that is cut off, and a shard without an index counts as one
    without chunks.
    """

    def __init__(self, store: LocalStore, array: Node) -> None:
        super().__init__(store)
        self._encoding = _Encoding.of(array)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Return what stands in a file, or a part of it; None if there is no file."""
        found = await super().get(key, prototype, byte_range)
        if found is None or key.rpartition("/")[2] in _DOCUMENTS:
            return found
        wanted = 1
        if isinstance(byte_range, SuffixByteRequest):
            wanted = byte_range.suffix
        elif isinstance(byte_range, RangeByteRequest):
            wanted = byte_range.end - byte_range.start
        is_index = isinstance(byte_range, SuffixByteRequest) or (
            isinstance(byte_range, RangeByteRequest) and self._encoding.index_is_first and not byte_range.start
        )
        if len(found) >= wanted and not is_index:
            wanted = max(wanted, self._encoding.size(found, is_whole=byte_range is None))
        if len(found) < wanted:
            raise ValueError(f"{key} is cut off: it has {len(found)} bytes of {wanted}")
        return found


@dataclass(frozen=True, slots=True)
class _Encoding:
    """What tells the size of an encoded chunk or shard.

    Attributes
    ----------
    is_blosc : bool
        Whether chunks are encoded with Blosc last (Blosc chunk format: bytes 12 to 15 are the size).
    index_bytes : int
        Size of the index of a shard without its checksum (Zarr v3, "sharding codec": offset and size of each chunk);
        0 where there are no shards, their index is encoded otherwise, or its checksum tells that a shard is cut off.
    checksum_bytes : int
        Size of the index' checksum.
    index_is_first : bool
        Whether the index stands before the chunks.
    """

    is_blosc: bool
    index_bytes: int = 0
    checksum_bytes: int = 0
    index_is_first: bool = False

    @classmethod
    def of(cls, array: Node) -> Self:
        """Return that of an array."""
        document: Mapping[str, Any] = array.array or {}
        if array.zarr_format == 2:
            compressor = document.get("compressor")
            return cls(isinstance(compressor, Mapping) and compressor.get("id") == "blosc")
        codecs = document.get("codecs") or []
        last = codecs[-1]
        if last.get("name") != "sharding_indexed":
            return cls(last.get("name") in ("blosc", "numcodecs.blosc"))
        sharding = last["configuration"]
        grid = document["chunk_grid"]["configuration"]["chunk_shape"]
        chunks = math.prod(shard // chunk for shard, chunk in zip(grid, sharding["chunk_shape"], strict=True))
        index_codecs = [codec.get("name") for codec in sharding.get("index_codecs", [])]
        index_is_first = sharding.get("index_location") == "start"
        tells = index_codecs == ["bytes"] or (index_is_first and index_codecs == ["bytes", "crc32c"])
        return cls(
            is_blosc=sharding["codecs"][-1].get("name") in ("blosc", "numcodecs.blosc"),
            index_bytes=16 * chunks if tells else 0,
            checksum_bytes=4 * (len(index_codecs) - 1),
            index_is_first=index_is_first,
        )

    def size(self, found: Buffer, *, is_whole: bool) -> int:
        """Return the size that a whole file, or an encoded chunk in a shard, has to have, as far as it tells."""
        if is_whole and self.index_bytes:
            with_checksum = self.index_bytes + self.checksum_bytes
            index = found[:with_checksum] if self.index_is_first else found[-with_checksum:]
            if len(index) < with_checksum:
                return with_checksum
            entries = np.frombuffer(index.to_bytes()[: self.index_bytes], "<u8").reshape(-1, 2)
            ends = entries[entries[:, 0] != _NO_CHUNK].sum(axis=1)
            return int(ends.max(initial=0))
        if self.is_blosc and len(found) >= _BLOSC_HEADER_BYTES:
            return int.from_bytes(found[12:_BLOSC_HEADER_BYTES].to_bytes(), "little")
        return 1
