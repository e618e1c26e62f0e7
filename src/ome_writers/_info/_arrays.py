"""Arrays from their documents: Zarr v3 (core specification, "Array metadata") and Zarr v2 (".zarray")."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from ome_writers.backends._decoding import StoredGrid, UncheckedCodecError

from ._images import ArrayInfo

_SHUFFLES: Final = {0: "noshuffle", 1: "shuffle", 2: "bitshuffle"}
"""Numbers that Zarr v2 has for the shuffles of blosc; -1 leaves the choice to the library."""


def array_info(path: str, document: Mapping[str, Any], stored_bytes: int | None) -> ArrayInfo:
    """Return what an array's document says.

    Parameters
    ----------
    path : str
        Path of the array below the root.
    document : mapping
        Its ``zarr.json`` or ``.zarray``.
    stored_bytes : int, optional
        Bytes of its files.

    Raises
    ------
    ValueError
        If the document is damaged; says what is wrong.
    """
    if document.get("zarr_format") == 2:
        return _of_zarr_2(path, document, stored_bytes)
    dtype = document.get("data_type")
    name = str(dtype.get("name") if isinstance(dtype, Mapping) else dtype)
    try:
        grid = StoredGrid(document)
    except UncheckedCodecError:
        shape = _lengths(document.get("shape"), "shape")
        return _info(path, shape, name, None, None, _codecs_3(document.get("codecs")), stored_bytes)
    chunks, shards = grid.chunk_shape, grid.shard_shape if grid.sharded else None
    return _info(path, grid.shape, name, chunks, shards, _codecs_3(document.get("codecs")), stored_bytes)


def _of_zarr_2(path: str, document: Mapping[str, Any], stored_bytes: int | None) -> ArrayInfo:
    said = document.get("dtype")
    try:
        dtype = np.dtype(said) if isinstance(said, str) else None
    except TypeError as error:
        raise ValueError(f"dtype {said!r:.100} is not known") from error
    codecs = []
    if dtype is not None and dtype.str.startswith(">"):
        codecs.append("bytes (big)")
    filters = document.get("filters")
    stages = [*(filters if isinstance(filters, list) else []), document.get("compressor")]
    codecs += [_codec(str(codec.get("id")), codec) for codec in stages if isinstance(codec, Mapping)]
    shape = _lengths(document.get("shape"), "shape")
    chunks = _lengths(document.get("chunks"), "chunks")
    if len(shape) != len(chunks):
        raise ValueError(f"chunks {list(chunks)} do not fit the shape {list(shape)}")
    name = f"{said!r:.100}" if dtype is None else dtype.newbyteorder("=").name
    return _info(path, shape, name, chunks, None, codecs, stored_bytes)


def _info(
    path: str,
    shape: tuple[int, ...],
    dtype: str,
    chunks: tuple[int, ...] | None,
    shards: tuple[int, ...] | None,
    codecs: Sequence[str],
    stored_bytes: int | None,
) -> ArrayInfo:
    try:
        itemsize = np.dtype(dtype).itemsize or None
    except TypeError:
        itemsize = None

    def nbytes(lengths: tuple[int, ...] | None) -> int | None:
        return None if lengths is None or itemsize is None else math.prod(lengths) * itemsize

    return ArrayInfo(
        path, shape, dtype, chunks, shards, nbytes(chunks), nbytes(shards), tuple(codecs), nbytes(shape), stored_bytes
    )


def _lengths(value: object, name: str) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(n) is int and n >= 0 for n in value):
        raise ValueError(f"{name} is {value!r:.100}; it must be a list of numbers")
    return tuple(value)


def _codecs_3(codecs: object) -> list[str]:
    """Return the codecs of a chunk in words, those inside of shards too; without the plain order of bytes."""
    found = []
    for codec in codecs if isinstance(codecs, list) else []:
        name = str(codec.get("name")) if isinstance(codec, Mapping) else str(codec)
        said = codec.get("configuration") if isinstance(codec, Mapping) else None
        configuration: Mapping[str, Any] = said if isinstance(said, Mapping) else {}
        if name == "sharding_indexed":
            found += _codecs_3(configuration.get("codecs"))
        elif name != "bytes" or configuration.get("endian") == "big":
            found.append(_codec(name, configuration))
    return found


def _codec(name: str, configuration: Mapping[str, Any]) -> str:
    """Return a codec in words, such as ``"blosc-lz4 (level 5, shuffle)"``."""
    details = []
    if name == "blosc":
        name = f"blosc-{configuration.get('cname')}"
    level = configuration.get("level", configuration.get("clevel"))
    if level is not None:
        details.append(f"level {level}")
    shuffle = configuration.get("shuffle")
    if shuffle is not None:
        details.append(str(_SHUFFLES.get(shuffle, shuffle) if isinstance(shuffle, int) else shuffle))
    if name == "bytes":
        details.append(str(configuration.get("endian")))
    if name == "transpose":
        details.append(f"order {configuration.get('order')}")
    return f"{name} ({', '.join(details)})" if details else name
