"""Who writes: this project's backends, and loops that hand a library whole shards.

Each contender is a function of (workload, pixels, path) that writes the workload to ``path`` and returns the seconds
from the first frame until all is handed to the file system, and those of each call. Opening is not counted. A loop gets
its shards ready-made: it has no frame to copy, nothing to gather, and its memory has been touched before.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

import ome_writers
from ome_writers._layout import plan_layout
from ome_writers.metadata import array_document

from ._workloads import Frames, Workload

Timing: TypeAlias = tuple[float, list[float]]
Contender: TypeAlias = Callable[[Workload, Frames, Path], Timing]

STREAM_BYTES = ome_writers.BufferSettings().max_bytes
"""What streams may use as buffer: what they use unless told otherwise."""


def stream(backend: str) -> Contender:
    """Return a contender that appends frames to a stream of this project."""

    def run(workload: Workload, pixels: Frames, path: Path) -> Timing:
        settings = workload.settings(str(path), backend, STREAM_BYTES)
        seconds = []
        with ome_writers.create_stream(settings) as target:
            first = time.perf_counter()
            for number in range(workload.frames):
                start = time.perf_counter()
                target.append(pixels[number % len(pixels)])
                seconds.append(time.perf_counter() - start)
        return time.perf_counter() - first, seconds

    return run


def _shards(workload: Workload, pixels: Frames) -> Iterator[tuple[slice, Frames]]:
    """Yield where each shard lies along t, and its pixels."""
    for first in range(0, workload.frames, workload.shard_frames):
        at = first % len(pixels)
        yield slice(first, first + workload.shard_frames), pixels[at : at + workload.shard_frames]


def _write_shards(
    workload: Workload,
    pixels: Frames,
    write: Callable[[slice, Frames], object],
    close: Callable[[], None] | None = None,
) -> Timing:
    """Write each shard with ``write(where, shard)``, then close."""
    seconds = []
    first = time.perf_counter()
    for where, shard in _shards(workload, pixels):
        start = time.perf_counter()
        write(where, shard)
        seconds.append(time.perf_counter() - start)
    if close is not None:
        close()
    return time.perf_counter() - first, seconds


def _document(workload: Workload) -> dict[str, Any]:
    settings = workload.settings("x.ome.zarr", "auto", STREAM_BYTES)
    return array_document(plan_layout(settings).geometry, workload.compression)


def tensorstore_loop(workload: Workload, pixels: Frames, path: Path) -> Timing:
    """Write whole shards with tensorstore, each awaited before the next."""
    import tensorstore as ts

    document = _document(workload)
    array = ts.open(
        {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path / "0")}, "metadata": document},
        create=True,
        context=ts.Context({"file_io_sync": False, "cache_pool": {"total_bytes_limit": 0}}),
    ).result()

    def write(where: slice, shard: Frames) -> None:
        array[where].write(shard, can_reference_source_data_indefinitely=True).result()

    return _write_shards(workload, pixels, write)


def _zarr_loop(pipeline: str) -> Contender:
    def run(workload: Workload, pixels: Frames, path: Path) -> Timing:
        import zarr
        from zarr.storage import LocalStore, StorePath

        path.mkdir(parents=True)
        with zarr.config.set({"codec_pipeline.path": pipeline, "array.write_empty_chunks": True}):
            array = zarr.Array.from_dict(StorePath(LocalStore(path), "0"), _document(workload))
        timing = _write_shards(workload, pixels, array.__setitem__)
        (path / "0" / "zarr.json").write_text(json.dumps(_document(workload)))
        return timing

    return run


def acquire_zarr_loop(workload: Workload, pixels: Frames, path: Path) -> Timing:
    """Append whole shards to acquire-zarr through its own interface."""
    import acquire_zarr as az

    codec = next((c for c in _codecs(workload) if c["name"] == "blosc"), None)
    across = -(-workload.side // workload.chunk[1])
    sizes = (workload.frames, workload.side, workload.side)
    per_shard = (workload.shard_frames // workload.chunk[0], across, across)
    kinds = (az.DimensionType.TIME, az.DimensionType.SPACE, az.DimensionType.SPACE)
    dimensions = [
        az.Dimension(name=name, kind=kind, array_size_px=size, chunk_size_px=chunk, shard_size_chunks=shard)
        for name, kind, size, chunk, shard in zip("tyx", kinds, sizes, workload.chunk, per_shard, strict=True)
    ]
    array = az.ArraySettings(output_key="0", data_type=np.dtype("uint16"), dimensions=dimensions)
    if codec is not None:
        array.compression = az.CompressionSettings(
            compressor=az.Compressor.BLOSC1,
            codec=az.CompressionCodec.BLOSC_LZ4,
            level=codec["configuration"]["clevel"],
            shuffle=1,
        )
    target = az.ZarrStream(az.StreamSettings(arrays=[array], store_path=str(path), overwrite=True))
    return _write_shards(workload, pixels, lambda _, shard: target.append(shard), target.close)


def _codecs(workload: Workload) -> list[dict[str, Any]]:
    codecs: list[dict[str, Any]] = _document(workload)["codecs"][0]["configuration"]["codecs"]
    return codecs


STREAMS: dict[str, Contender] = {
    name: stream(name) for name in ("tensorstore", "zarr-python", "zarrs-python", "acquire-zarr")
}
LOOPS: dict[str, Contender] = {
    "tensorstore": tensorstore_loop,
    "zarr-python": _zarr_loop("zarr.core.codec_pipeline.BatchedCodecPipeline"),
    "zarrs-python": _zarr_loop("zarrs.ZarrsCodecPipeline"),
    "acquire-zarr": acquire_zarr_loop,
}
