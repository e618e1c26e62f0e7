"""Zarr v3 metadata documents (Zarr v3 core specification, "Metadata")."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from ome_writers._layout import ArrayGeometry
from ome_writers.settings import Codec, codec_of

_SHUFFLES: Final = {"none": "noshuffle", "byte": "shuffle", "bit": "bitshuffle"}


def array_document(geometry: ArrayGeometry, compression: str | Codec) -> dict[str, Any]:
    """Return the ``zarr.json`` of an array.

    Parameters
    ----------
    geometry : ArrayGeometry
        Shape, grids, axis names and pixel type; an unbounded axis gets a length of 0.
    compression : str or Codec
        A codec, or the name of one with its defaults.

    Returns
    -------
    dict
        A JSON object (Zarr v3 core specification, "Array metadata"). When the array is sharded, its chunk grid is that
        of the shards, the chunks are inside the sharding codec, and the shard index stands at the end of a shard.

    Raises
    ------
    ValueError
        For a name that is not known.
    """
    dtype = np.dtype(geometry.dtype)
    codecs = _chunk_codecs(codec_of(compression).resolved(dtype.itemsize), dtype.itemsize)
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


def _chunk_codecs(codec: Codec, itemsize: int) -> list[dict[str, Any]]:
    """Return the codecs of a chunk, in the order in which they are applied, for pixels of ``itemsize`` bytes."""
    codecs = [_little_endian()]  # it means nothing for types of one byte, and every reader accepts it there
    if codec.name == "zstd":
        codecs.append({"name": "zstd", "configuration": {"level": codec.level, "checksum": False}})
    elif codec.name != "none":
        configuration = {
            "cname": codec.name.removeprefix("blosc-"),
            "clevel": codec.level,
            "shuffle": _SHUFFLES[codec.shuffle or "none"],
            "typesize": itemsize,
            "blocksize": codec.block_bytes,
        }
        codecs.append({"name": "blosc", "configuration": configuration})
    return [*codecs, {"name": "crc32c"}] if codec.checksum else codecs


def _little_endian() -> dict[str, Any]:
    return {"name": "bytes", "configuration": {"endian": "little"}}


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
