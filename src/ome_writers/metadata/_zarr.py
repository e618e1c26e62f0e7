"""Zarr v3 metadata documents (Zarr v3 core specification, "Metadata")."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ome_writers._layout import ArrayGeometry

ZSTD_LEVEL = 3
BLOSC_LEVELS = {"lz4": 5, "zstd": ZSTD_LEVEL}


def array_document(geometry: ArrayGeometry, compression: str) -> dict[str, Any]:
    """Return the ``zarr.json`` of an array.

    Parameters
    ----------
    geometry : ArrayGeometry
        Shape, grids, axis names and pixel type; an unbounded axis gets a length of 0.
    compression : str
        ``"none"``, ``"zstd"``, ``"blosc-lz4"`` or ``"blosc-zstd"``.

    Returns
    -------
    dict
        A JSON object (Zarr v3 core specification, "Array metadata"). When the array is sharded, its chunk grid is that
        of the shards, the chunks are inside the sharding codec, and the shard index stands at the end of a shard.

    Raises
    ------
    KeyError
        For a compression that is not listed above.
    """
    dtype = np.dtype(geometry.dtype)
    codecs = _chunk_codecs(dtype, compression)
    if geometry.shards is not None:
        codecs = [_sharding(geometry.chunks, codecs)]
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [n or 0 for n in geometry.shape],
        "data_type": geometry.dtype,
        "chunk_grid": {
            "name": "regular",
            "configuration": {"chunk_shape": list(geometry.shards or geometry.chunks)},
        },
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0.0 if dtype.kind == "f" else 0,
        "codecs": codecs,
        "attributes": {},
        "dimension_names": list(geometry.dimension_names),
    }


def with_shape(document: Mapping[str, Any], shape: Sequence[int]) -> dict[str, Any]:
    """Return a copy of an array's document with another shape; the original is left as it is."""
    return {**document, "shape": [int(n) for n in shape]}


def group_document(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ``zarr.json`` of a group (Zarr v3 core specification, "Group metadata")."""
    return {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes)}


def _chunk_codecs(dtype: np.dtype[Any], compression: str) -> list[dict[str, Any]]:
    # the byte order means nothing for types of one byte, and every reader accepts it there
    return [_little_endian(), *_compressors(dtype.itemsize)[compression]]


def _little_endian() -> dict[str, Any]:
    return {"name": "bytes", "configuration": {"endian": "little"}}


def _compressors(itemsize: int) -> dict[str, list[dict[str, Any]]]:
    """Return the bytes-to-bytes codecs of each compression, for pixels of ``itemsize`` bytes."""
    compressors: dict[str, list[dict[str, Any]]] = {
        "none": [],
        "zstd": [{"name": "zstd", "configuration": {"level": ZSTD_LEVEL, "checksum": False}}],
    }
    for cname, level in BLOSC_LEVELS.items():
        configuration = {
            "cname": cname,
            "clevel": level,
            "shuffle": "noshuffle" if itemsize == 1 else "shuffle",  # single bytes have nothing to shuffle
            "typesize": itemsize,
            "blocksize": 0,
        }
        compressors[f"blosc-{cname}"] = [{"name": "blosc", "configuration": configuration}]
    return compressors


def _sharding(chunks: Sequence[int], codecs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the sharding codec (Zarr v3 codec specification "sharding_indexed", 1.0)."""
    return {
        "name": "sharding_indexed",
        "configuration": {
            "chunk_shape": list(chunks),
            "codecs": codecs,
            "index_codecs": [_little_endian(), {"name": "crc32c"}],
            "index_location": "end",
        },
    }
