"""From the bytes of a chunk to those before it was compressed, without trust in either.

Sources of the formats: the Zarr v3 codecs "blosc", "gzip", "zstd" and "crc32c", the header of c-blosc 1
(README_CHUNK_FORMAT), and RFC 8878 (zstd frames).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

import numpy as np
from numcodecs import blosc, zstd

from ._encoding import crc32c

CHECKSUM_BYTES: Final = 4
"""Bytes of a checksum, after what it is of."""

ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
"""What a frame of zstd begins with."""

Data: TypeAlias = bytes | memoryview
ByteCodec: TypeAlias = Callable[[Data, range], Data]
"""Takes encoded bytes, and how many bytes they may decode to."""


class CorruptChunkError(ValueError):
    """The bytes of a chunk, or of the index of a shard, are not what the array's document says they are."""


def _from_crc32c(data: Data, _allowed: range) -> bytes:
    return without_checksum(data, "the chunk")


def without_checksum(data: Data, what: str) -> bytes:
    """Return bytes without the CRC-32C that follows them, which must be theirs."""
    if len(data) < CHECKSUM_BYTES:
        raise CorruptChunkError(f"{what} of {len(data)} bytes is too short for a checksum")
    content, stored = bytes(data[:-CHECKSUM_BYTES]), int.from_bytes(data[-CHECKSUM_BYTES:], "little")
    if (found := crc32c(content)) != stored:
        raise CorruptChunkError(f"{what} has another checksum ({found:08x}) than is stored with it ({stored:08x})")
    return content


def _from_blosc(data: Data, allowed: range) -> bytes:
    """Decompress blosc, when its header and its table of blocks agree with the length of the data and the result."""
    if len(data) < 16:
        raise CorruptChunkError(f"{len(data)} bytes, which is too short for blosc")
    version, _, flags, typesize, nbytes, blocksize, compressed = struct.unpack_from("<4B3I", data)
    if version not in (1, 2) or typesize == 0 or flags & 0x08:
        raise CorruptChunkError("the header of blosc is damaged")
    if compressed != len(data):
        raise CorruptChunkError(f"blosc says that it has {compressed} bytes, but there are {len(data)}")
    _check_length(nbytes, allowed)
    if flags & 0x02:  # stored as it is
        if compressed != nbytes + 16:
            raise CorruptChunkError("the header of blosc is damaged")
    elif nbytes:
        if not 0 < blocksize <= nbytes:
            raise CorruptChunkError("the header of blosc is damaged")
        blocks = -(-nbytes // blocksize)
        table_end = 16 + 4 * blocks
        if table_end > compressed:
            raise CorruptChunkError("the blocks of blosc are damaged")
        starts = np.frombuffer(data, "<u4", blocks, 16)
        if starts.min() < table_end or starts.max() > compressed - 4:
            raise CorruptChunkError("the blocks of blosc are damaged")
    try:
        decoded: bytes = blosc.decompress(data)
    except (RuntimeError, ValueError) as error:
        raise CorruptChunkError(f"blosc can't decompress it: {error}") from error
    return decoded


def _from_zstd(data: Data, allowed: range) -> memoryview:
    """Decompress a frame of zstd, into a buffer of the length that there should be where that is known."""
    content_size = _zstd_content_size(data)
    if content_size is not None:
        _check_length(content_size, allowed)
    target = np.empty(allowed[0], np.uint8) if len(allowed) == 1 else None
    try:
        decoded = zstd.decompress(data, target)
    except (RuntimeError, ValueError) as error:
        raise CorruptChunkError(f"zstd can't decompress it: {error}") from error
    return memoryview(decoded)


def _zstd_content_size(data: Data) -> int | None:
    """Return the bytes that a zstd frame says that it decompresses to; None if it does not say (RFC 8878, 3.1.1.1)."""
    if data[:4] != ZSTD_MAGIC or len(data) < 9:
        raise CorruptChunkError("it is not a frame of zstd")
    descriptor = data[4]
    single_segment = bool(descriptor & 0x20)
    nbytes = (1 if single_segment else 0, 2, 4, 8)[descriptor >> 6]
    begin = 5 + (not single_segment) + (0, 1, 2, 4)[descriptor & 3]
    field = data[begin : begin + nbytes]
    if len(field) != nbytes:
        raise CorruptChunkError("the header of zstd is cut off")
    if nbytes == 0:
        return None
    return int.from_bytes(field, "little") + (256 if nbytes == 2 else 0)


def _from_gzip(data: Data, allowed: range) -> bytes:
    """Decompress the members of a gzip file, which check themselves."""
    decoded, most = b"", allowed[-1]
    while True:
        member = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        rest: Data = data
        try:
            while not member.eof:
                piece = member.decompress(rest, most + 1 - len(decoded))
                decoded += piece
                rest = member.unconsumed_tail
                if len(decoded) > most:
                    raise CorruptChunkError(f"gzip decompresses to more than {most} bytes")
                if not piece and not rest:
                    break
        except zlib.error as error:
            raise CorruptChunkError(f"gzip can't decompress it: {error}") from error
        if not member.eof:
            raise CorruptChunkError("gzip can't decompress it: it is cut off")
        data = member.unused_data.lstrip(b"\0")  # zeros may follow a member
        if not data:
            return decoded


def _check_length(nbytes: int, allowed: range) -> None:
    if nbytes not in allowed:
        wanted = f"{allowed[0]}" if len(allowed) == 1 else f"at most {allowed[-1]}"
        raise CorruptChunkError(f"it says that it decompresses to {nbytes} bytes, where there should be {wanted}")


BYTE_CODECS: Final[Mapping[str, ByteCodec]] = {
    "blosc": _from_blosc,
    "crc32c": _from_crc32c,
    "gzip": _from_gzip,
    "zstd": _from_zstd,
}
"""Name of each codec in a document, and what decodes it."""
