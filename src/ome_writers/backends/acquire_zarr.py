"""Writing with acquire-zarr, frame after frame.

The library makes a stream per array, rooted in the array's own folder: so it writes no group's ``zarr.json``, which
it would replace on close by documents without metadata. The array's own document is written by it on close; what it
writes then differs from ours in attributes and in the extent of what was not acquired, and the stream puts ours back.
"""

from __future__ import annotations

import os
from typing import Any, ClassVar

import acquire_zarr as az
import numpy as np

from ome_writers.abc import Block, Capabilities, FrameSink, WritePlan
from ome_writers.errors import UnsupportedError
from ome_writers.settings import DTYPES

_KINDS = {"time": az.DimensionType.TIME, "channel": az.DimensionType.CHANNEL, "space": az.DimensionType.SPACE}
_CODECS = {
    "blosc-lz4": (az.Compressor.BLOSC1, az.CompressionCodec.BLOSC_LZ4),
    "blosc-zstd": (az.Compressor.BLOSC1, az.CompressionCodec.BLOSC_ZSTD),
    "zstd": (az.Compressor.ZSTD, az.CompressionCodec.ZSTD),
}
_SHUFFLES = {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2}


class AcquireZarrSink(FrameSink):
    """Writes frames with acquire-zarr. Skipped frames are stored as zeros: the library can't leave a chunk out."""

    capabilities: ClassVar[Capabilities] = Capabilities(
        name="acquire-zarr",
        dtypes=frozenset(DTYPES) - {"float16"},
        compressions=frozenset({"none", "zstd", "blosc-zstd", "blosc-lz4"}),
        copies=1.0,  # its queue of frames
        always_sharded=True,
    )

    @classmethod
    def check(cls, plan: WritePlan) -> None:
        """Refuse storage orders that the library can't make."""
        super().check(plan)
        stored = _stored_axes(plan)
        if stored and stored[0].storage_axis != 0:
            raise UnsupportedError(
                f"backend 'acquire-zarr' can't store the slowest dimension {stored[0].name!r} anywhere but first, and "
                f"the storage order is {', '.join(plan.geometry.dimension_names)}. Acquire "
                f"{plan.geometry.dimension_names[0]!r} slowest, or use another backend, such as 'tensorstore'."
            )

    @classmethod
    def memory_needed(cls, plan: WritePlan) -> int:
        """Return the most that the library's streams say they take."""
        return len(plan.layout.images) * int(_settings(plan, 0).get_maximum_memory_usage())

    def __init__(self, plan: WritePlan) -> None:
        self._frame_bytes = plan.geometry.frame_bytes
        self._streams = [az.ZarrStream(_settings(plan, array)) for array in range(len(plan.layout.images))]

    def write_frames(self, array: int, frames: Block) -> None:
        """Append frames; the library copies them before this returns."""
        self._streams[array].append(frames)

    def skip_frames(self, array: int, count: int) -> None:
        """Leave frames out, which the library stores as zeros."""
        self._streams[array].skip(count * self._frame_bytes)

    def close(self) -> None:
        """Close all streams, also when one of them fails, and raise the first error."""
        errors = []
        while self._streams:
            try:
                self._streams.pop().close()
            except Exception as error:  # noqa: BLE001  collected, and raised below
                errors.append(error)
        if errors:
            raise errors[0]


def _stored_axes(plan: WritePlan) -> list[Any]:
    """Return the stored index axes in acquisition order."""
    return [axis for axis in plan.layout.axes if axis.storage_axis is not None]


def _settings(plan: WritePlan, array: int) -> az.StreamSettings:
    geometry = plan.geometry
    order = [axis.storage_axis for axis in _stored_axes(plan)]
    order += [len(order), len(order) + 1]
    shards = geometry.shards or geometry.chunks
    dimensions = [
        az.Dimension(
            name=geometry.dimension_names[i],
            kind=_KINDS["space"] if i >= len(order) - 2 else az.DimensionType.OTHER,
            array_size_px=geometry.shape[i] or 0,
            chunk_size_px=geometry.chunks[i],
            shard_size_chunks=shards[i] // geometry.chunks[i],
        )
        for i in order
    ]
    settings = az.ArraySettings(output_key="", data_type=np.dtype(geometry.dtype), dimensions=dimensions)
    settings.is_ngff = False
    if order != sorted(order):
        settings.storage_dimension_order = list(geometry.dimension_names)
    if plan.compression in _CODECS:
        settings.compression = _compression(plan)
    cores = os.cpu_count() or 1
    return az.StreamSettings(
        arrays=[settings],
        store_path=str(plan.array_path(array)),
        overwrite=False,
        max_threads=max(1, cores // len(plan.layout.images)),
    )


def _compression(plan: WritePlan) -> az.CompressionSettings:
    compressor, codec = _CODECS[plan.compression]
    codecs = plan.array_document["codecs"]
    if codecs[0]["name"] == "sharding_indexed":
        codecs = codecs[0]["configuration"]["codecs"]
    settings = codecs[-1]["configuration"]
    return az.CompressionSettings(
        compressor=compressor,
        codec=codec,
        level=settings.get("clevel", settings.get("level")),
        shuffle=_SHUFFLES[settings.get("shuffle", "noshuffle")],
    )
