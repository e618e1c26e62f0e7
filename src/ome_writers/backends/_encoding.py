"""Encoding chunks: blosc and zstd by numcodecs, or blosc-lz4 by python-blosc; checksums by google-crc32c.

The two make the same bytes. The wheels of python-blosc have the AVX2 instructions of x86 processors, with which
shuffling takes half of the time; those of numcodecs do not, and have the faster zstd.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import google_crc32c
import numpy.typing as npt
from numcodecs import blosc, zstd

from ome_writers.settings import Codec

try:
    import blosc as python_blosc
except ImportError:  # it is installed where it is faster
    python_blosc = None

Encoder: TypeAlias = Callable[[npt.NDArray[Any]], bytes]

_SHUFFLES: Final = {"none": blosc.NOSHUFFLE, "byte": blosc.SHUFFLE, "bit": blosc.BITSHUFFLE}


def encoder(codec: Codec) -> Encoder | None:
    """Return what encodes one chunk as the Zarr v3 codecs of a document do; None when its bytes go as they are.

    The function may be called from several threads at once and lets others run meanwhile. Away from the main thread
    blosc uses no threads of its own.

    Parameters
    ----------
    codec : Codec
        With its defaults filled in.
    """
    compress, swaps = _compressor(codec), sys.byteorder != "little"
    if not swaps and not codec.checksum:
        return compress

    def encode(chunk: npt.NDArray[Any]) -> bytes:
        ordered = chunk.astype(chunk.dtype.newbyteorder("<")) if swaps else chunk
        data = ordered.tobytes() if compress is None else compress(ordered)
        return _with_checksum(data) if codec.checksum else data

    return encode


def _compressor(codec: Codec) -> Callable[[Any], bytes] | None:
    level = codec.level
    if codec.name == "none":
        return None
    if codec.name == "zstd":
        return lambda chunk: zstd.compress(chunk, level)
    name, shuffle = codec.name.removeprefix("blosc-"), _SHUFFLES[codec.shuffle or "none"]
    if name == "lz4" and python_blosc is not None:
        python_blosc.set_releasegil(True)  # for the whole process, as is the next
        python_blosc.set_nthreads(1)  # each worker is a thread already
        return lambda chunk: python_blosc.compress(chunk, chunk.itemsize, level, shuffle, name)
    return lambda chunk: blosc.compress(chunk, name.encode(), level, shuffle, codec.block_bytes)


def _with_checksum(data: bytes) -> bytes:
    """Append the checksum of the Zarr v3 codec "crc32c": 4 bytes, little endian."""
    return data + crc32c(data).to_bytes(4, "little")


def crc32c(data: bytes) -> int:
    """Return the CRC-32C (RFC 3720, section 12.1) of bytes."""
    return int(google_crc32c.value(data))
