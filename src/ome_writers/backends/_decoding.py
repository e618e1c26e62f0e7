"""Reading the chunks of a Zarr v3 array without a Zarr library, and without trust in what is read.

Sources of the formats: the Zarr v3 core specification, and its codecs "bytes", "transpose" and "sharding_indexed".
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO, Final, Literal

import numpy as np
import numpy.typing as npt

from ._decompression import BYTE_CODECS, CHECKSUM_BYTES, ByteCodec, CorruptChunkError, Data, without_checksum

__all__ = [
    "DTYPES",
    "MISSING",
    "ChunkDecoder",
    "CorruptChunkError",
    "StoredGrid",
    "UncheckedCodecError",
    "chunk_path",
    "read_index",
]

MISSING: Final = (1 << 64) - 1
"""Offset and length, in the index of a shard, of a chunk that is not there."""

DTYPES: Final = frozenset(
    ["bool"]
    + [f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)]
    + [f"float{bits}" for bits in (16, 32, 64)]
    + [f"complex{bits}" for bits in (64, 128)]
)
"""Data types whose chunks can be decoded."""

_MAX_CHUNK_BYTES: Final = 1 << 48
_ENDIANS: Final[Mapping[str, Literal["<", ">"]]] = {"little": "<", "big": ">"}


class UncheckedCodecError(NotImplementedError):
    """An array uses a codec, a data type or a chunk grid that this module can't decode."""


class StoredGrid:
    """How the files of an array divide it: shards, and the chunks in them.

    Parameters
    ----------
    document : mapping
        The array's ``zarr.json``.

    Attributes
    ----------
    shape : tuple of int
        Shape of the array.
    chunk_shape : tuple of int
        Shape of the chunks that are encoded one by one.
    shard_shape : tuple of int
        Shape of what is in one file; that of a chunk when the array is not sharded.
    sharded : bool
        Whether a file is a shard, with an index.
    slots_shape : tuple of int
        Chunks of a shard along each axis.
    slots : int
        Chunks of a shard; 1 when the array is not sharded.

    Raises
    ------
    ValueError
        If the document is not that of a Zarr v3 array; says what is wrong.
    UncheckedCodecError
        If the array has a chunk grid that is not regular.
    """

    def __init__(self, document: Mapping[str, Any]) -> None:
        if document.get("zarr_format") != 3 or document.get("node_type") != "array":
            raise ValueError("zarr.json is not the document of a Zarr v3 array (zarr_format 3, node_type 'array')")
        if transformers := document.get("storage_transformers"):
            raise UncheckedCodecError(f"storage transformers are not known: {transformers!r:.100}")
        self.shape = _lengths(document.get("shape"), "shape", 0)
        name, grid = _named(document.get("chunk_grid"), "chunk_grid")
        if name != "regular":
            raise UncheckedCodecError(f"chunk grid {name!r} is not known")
        self.shard_shape = _lengths(grid.get("chunk_shape"), "chunk_shape of chunk_grid", 1, len(self.shape))
        self.chunk_shape = self.shard_shape
        self._codecs = _codecs(document.get("codecs"), "codecs")
        chunk_path(document, (0,) * len(self.shape))  # the key encoding is known
        self.index_at_end = True
        self._index_dtype = np.dtype("<u8")
        self._index_checksum = False
        # around the sharding codec, and inside of another one, a shard is a chunk that can't be read in parts
        self.sharded = len(self._codecs) == 1 and self._codecs[0][0] == "sharding_indexed"
        if self.sharded:
            self._read_sharding(self._codecs[0][1])
        pairs = zip(self.shard_shape, self.chunk_shape, strict=True)
        self.slots_shape = tuple(shard // chunk for shard, chunk in pairs)
        self.slots = math.prod(self.slots_shape)

    @property
    def index_bytes(self) -> int:
        """Bytes of the index of a shard, with its checksum."""
        return 16 * self.slots + (CHECKSUM_BYTES if self._index_checksum else 0)

    def _read_sharding(self, sharding: Mapping[str, Any]) -> None:
        self.chunk_shape = _lengths(sharding.get("chunk_shape"), "chunk_shape of a shard", 1, len(self.shape))
        if any(shard % chunk for shard, chunk in zip(self.shard_shape, self.chunk_shape, strict=True)):
            raise ValueError(f"shards of {self.shard_shape} can't be divided into chunks of {self.chunk_shape}")
        location = sharding.get("index_location", "end")
        if location not in ("start", "end"):
            raise ValueError(f"index_location is {location!r:.100}; allowed: 'start', 'end'")
        self.index_at_end = location == "end"
        (name, configuration), *others = _codecs(sharding.get("index_codecs"), "index_codecs")
        if (names := [name, *(other for other, _ in others)]) not in (["bytes"], ["bytes", "crc32c"]):
            raise UncheckedCodecError(f"codecs of a shard's index are not known: {names}")
        self._index_dtype = np.dtype(_endian(configuration, 8) + "u8")
        self._index_checksum = bool(others)
        self._codecs = _codecs(sharding.get("codecs"), "codecs of a shard")

    def decode_index(self, data: bytes) -> npt.NDArray[np.uint64]:
        """Return the index of a shard from its bytes, ``(slots, 2)``: offset and length of each chunk.

        Raises
        ------
        CorruptChunkError
            If the checksum is not that of the index.
        """
        if self._index_checksum:
            data = without_checksum(data, "the shard's index")
        return np.frombuffer(data, self._index_dtype).astype(np.uint64).reshape(self.slots, 2)


class ChunkDecoder(StoredGrid):
    """Decodes the chunks of an array; may be called from several threads at once.

    Parameters
    ----------
    document : mapping
        The array's ``zarr.json``.

    Attributes
    ----------
    dtype : dtype
        Of the pixels, in the byte order of this computer.
    fill_value : scalar
        Value of pixels whose chunk is not there.
    max_bytes : int
        No encoded chunk has more bytes than this.

    Raises
    ------
    ValueError
        If the document is not that of a Zarr v3 array; says what is wrong.
    UncheckedCodecError
        If a codec, the data type or the chunk grid is not known; names it.
    """

    def __init__(self, document: Mapping[str, Any]) -> None:
        super().__init__(document)
        self.dtype = _dtype(document.get("data_type"))
        self.fill_value = _fill_value(document.get("fill_value"), self.dtype)
        self._nbytes = math.prod(self.chunk_shape) * self.dtype.itemsize
        if self._nbytes > _MAX_CHUNK_BYTES:
            raise ValueError(f"a chunk has {self._nbytes} bytes, which no computer can decode")
        orders, endian, byte_codecs = self._in_stages()
        axes = list(range(len(self.chunk_shape)))
        for order in orders:
            axes = [axes[i] for i in order]
        self._encoded_shape = tuple(self.chunk_shape[axis] for axis in axes)
        self._axes = None if axes == sorted(axes) else tuple(axes.index(axis) for axis in sorted(axes))
        self._encoded_dtype = self.dtype.newbyteorder(endian)
        self._steps: list[tuple[ByteCodec, range]] = []  # in the order of encoding
        least = most = self._nbytes
        for name in byte_codecs:
            self._steps.append((BYTE_CODECS[name], range(least, most + 1)))
            if name == "crc32c":
                least, most = least + CHECKSUM_BYTES, most + CHECKSUM_BYTES
            else:
                least, most = 0, most + most // 64 + 4096  # more than any compressor adds to what it can't compress
        self.max_bytes = most

    def _in_stages(self) -> tuple[list[list[int]], Literal["<", ">"], list[str]]:
        """Return the orders of the transpositions, the byte order, and the names of the codecs of bytes."""
        orders: list[list[int]] = []
        codecs = list(self._codecs)
        while codecs and codecs[0][0] == "transpose":
            orders.append(_order(codecs.pop(0)[1].get("order"), len(self.chunk_shape)))
        if unknown := [name for name, _ in codecs if name != "bytes" and name not in BYTE_CODECS]:
            raise UncheckedCodecError(f"codec {unknown[0]!r} is not known" + " inside of a shard" * self.sharded)
        if not codecs or codecs[0][0] != "bytes" or any(name == "bytes" for name, _ in codecs[1:]):
            names = [name for name, _ in self._codecs]
            raise ValueError(f"codecs are {names}; exactly one, before those of bytes, must be 'bytes'")
        return orders, _endian(codecs[0][1], self.dtype.itemsize), [name for name, _ in codecs[1:]]

    def __call__(self, data: Data) -> npt.NDArray[Any]:
        """Return the pixels of a chunk, in the shape of a chunk also at the edge of the array.

        Parameters
        ----------
        data : bytes or memoryview
            The encoded chunk; one in a shard, when the array is sharded.

        Raises
        ------
        CorruptChunkError
            If the bytes can't be decoded, have the wrong checksum, or decode to another number of bytes.
        """
        for decode, allowed in reversed(self._steps):
            data = decode(data, allowed)
        if len(data) != self._nbytes:
            raise CorruptChunkError(f"a chunk of {len(data)} bytes, where there should be {self._nbytes}")
        pixels: npt.NDArray[Any] = np.frombuffer(data, self._encoded_dtype).reshape(self._encoded_shape)
        if self._axes is not None:
            pixels = pixels.transpose(self._axes)
        return pixels if self._encoded_dtype.isnative else pixels.astype(self.dtype)


def chunk_path(document: Mapping[str, Any], cell: Sequence[int]) -> str:
    """Return the path, below an array's folder, of the file at a place in the chunk grid.

    Parameters
    ----------
    document : mapping
        The array's ``zarr.json``.
    cell : sequence of int
        Place in the grid of the files (of shards, when the array is sharded).

    Raises
    ------
    ValueError
        If the document has no chunk key encoding of Zarr v3.
    UncheckedCodecError
        If its name is not known.
    """
    name, configuration = _named(document.get("chunk_key_encoding"), "chunk_key_encoding")
    if name not in ("default", "v2"):
        raise UncheckedCodecError(f"chunk key encoding {name!r} is not known")
    separator = configuration.get("separator", "/" if name == "default" else ".")
    if separator not in ("/", "."):
        raise ValueError(f"separator of chunk keys is {separator!r:.100}; allowed: '/', '.'")
    places = [str(place) for place in cell]
    if name == "default":
        return str(separator).join(["c", *places])
    return str(separator).join(places) or "0"


def read_index(file: BinaryIO, grid: StoredGrid) -> npt.NDArray[np.uint64]:
    """Return the index of a shard.

    Parameters
    ----------
    file : binary file
        The shard, open for reading; where it is read next is changed.
    grid : StoredGrid or ChunkDecoder
        Of its array.

    Returns
    -------
    ndarray of uint64
        Shape ``(slots, 2)``: offset and length of each chunk, both :data:`MISSING` for one that is not there.

    Raises
    ------
    CorruptChunkError
        If the file is too short, the checksum is wrong, or a chunk is said to be outside of the file or in the index.
    """
    index_bytes = grid.index_bytes
    size = file.seek(0, os.SEEK_END)
    if size < index_bytes:
        raise CorruptChunkError(f"a shard of {size} bytes, which is too short for its index of {index_bytes}")
    begin = size - index_bytes if grid.index_at_end else 0
    file.seek(begin)
    data = file.read(index_bytes)
    if len(data) != index_bytes:
        raise CorruptChunkError("the shard has become shorter while it was read")
    index = grid.decode_index(data)
    offsets, lengths = index[:, 0], index[:, 1]
    there = (index != MISSING).any(axis=1)
    first, end = (0, begin) if grid.index_at_end else (index_bytes, size)
    # in this order, so that nothing overflows
    inside = (lengths <= end) & (offsets >= first) & (offsets <= end - np.minimum(lengths, np.uint64(end)))
    if (wrong := there & ~inside).any():
        slot = int(np.argmax(wrong))
        raise CorruptChunkError(
            f"the shard's index says that chunk {slot} has {lengths[slot]} bytes at {offsets[slot]}, which is outside "
            f"of the file's chunks ({first} to {end})"
        )
    return index


# ---- the document ------------------------------------------------------------------------------------------------


def _lengths(value: Any, what: str, least: int, ndim: int | None = None) -> tuple[int, ...]:
    if not isinstance(value, list | tuple) or any(type(n) is not int or n < least for n in value):
        raise ValueError(f"{what} is {value!r:.100}; it must be a list of whole numbers of at least {least}")
    if ndim is not None and len(value) != ndim:
        raise ValueError(f"{what} has {len(value)} axes, but the array has {ndim}")
    return tuple(value)


def _named(value: Any, what: str) -> tuple[str, Mapping[str, Any]]:
    """Return name and configuration of an extension point (Zarr v3 core specification, "Extension points")."""
    if isinstance(value, str):
        return value, {}
    if isinstance(value, Mapping) and isinstance(value.get("name"), str):
        configuration = value.get("configuration") or {}
        if isinstance(configuration, Mapping):
            return value["name"], configuration
    raise ValueError(f"{what} is {value!r:.100}; it must be an object with a name and a configuration")


def _codecs(value: Any, what: str) -> list[tuple[str, Mapping[str, Any]]]:
    if not isinstance(value, list) or not value:
        raise ValueError(f"{what} is {value!r:.100}; it must be a list of one codec at least")
    return [_named(codec, f"one of {what}") for codec in value]


def _order(value: Any, ndim: int) -> list[int]:
    if value == "C":
        return list(range(ndim))
    if value == "F":
        return list(reversed(range(ndim)))
    if not isinstance(value, list) or any(type(i) is not int for i in value) or sorted(value) != list(range(ndim)):
        raise ValueError(f"order of codec 'transpose' is {value!r:.100}; it must be a permutation of {ndim} axes")
    return value


def _endian(configuration: Mapping[str, Any], itemsize: int) -> Literal["<", ">"]:
    endian = configuration.get("endian", "little" if itemsize == 1 else None)
    if not isinstance(endian, str) or endian not in _ENDIANS:
        raise ValueError(f"endian of codec 'bytes' is {endian!r:.100}; allowed: 'little', 'big'")
    return _ENDIANS[endian]


def _dtype(value: Any) -> np.dtype[Any]:
    name, _ = _named(value, "data_type")
    if name not in DTYPES:
        raise UncheckedCodecError(f"data type {name!r} is not known")
    return np.dtype(name)


def _fill_value(value: Any, dtype: np.dtype[Any]) -> Any:
    """Return a fill value as a scalar of the array's type (Zarr v3 core specification, "Fill value")."""
    try:
        if dtype.kind == "c":
            real, imaginary = (_fill_value(part, np.dtype(f"f{dtype.itemsize // 2}")) for part in value)
            return dtype.type(complex(real, imaginary))
        if dtype.kind == "b" and isinstance(value, bool):
            return dtype.type(value)
        if dtype.kind == "f" and isinstance(value, str):
            if value.startswith("0x"):
                return np.frombuffer(bytes.fromhex(value[2:]), dtype.newbyteorder(">"))[0].astype(dtype)
            return dtype.type({"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}[value])
        if dtype.kind in "iuf" and isinstance(value, int | float) and not isinstance(value, bool):
            scalar = dtype.type(value)
            if dtype.kind == "f" or scalar == value:
                return scalar
    except (KeyError, OverflowError, TypeError, ValueError, IndexError):
        pass
    raise ValueError(f"fill_value is {value!r:.100}, which is no value of type {dtype}")
