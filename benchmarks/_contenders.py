"""Who writes: this project's backends, libraries through their own interfaces, and what the machine can do at most.

Each contender is a function of (workload, pixels, path) that writes the workload to ``path`` and returns a
:class:`Timing`. No side calls fsync, and all use the codec, level and shuffle of the workload's settings.
"""

from __future__ import annotations

import itertools
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np

import ome_writers
from ome_writers._layout import plan_layout
from ome_writers.metadata import array_document

from ._bare import bare_pipeline
from ._timing import Contender, Timing, append_frames
from ._workloads import Frames, Workload


def stream(backend: str) -> Contender:
    """Return a contender that appends frames to a stream of this project."""

    def run(workload: Workload, pixels: Frames, path: Path) -> Timing:
        settings = workload.settings(str(path), backend)
        start = time.perf_counter()
        with ome_writers.create_stream(settings) as target:
            first = time.perf_counter()
            calls = append_frames(workload, pixels, lambda _, frame: target.append(frame))
        return Timing(first - start, time.perf_counter() - first, calls)

    return run


# ---- loops that hand a library whole shards, ready-made ------------------------------------------------------------


def _blocks(workload: Workload, pixels: Frames) -> Iterator[tuple[int, tuple[slice, ...], Frames]]:
    """Yield (position, place, pixels) of each shard, or layer of chunks."""
    numbers = [workload.numbers(position) % len(pixels) for position in range(workload.positions)]
    for position, where in workload.blocks():
        wanted = numbers[position][where]
        first, count = int(wanted.flat[0]), wanted.size
        if np.array_equal(wanted.ravel(), np.arange(first, first + count)):
            yield position, where, pixels[first : first + count].reshape(*wanted.shape, *pixels.shape[1:])
        else:
            yield position, where, pixels[wanted]


def _write_blocks(
    workload: Workload, pixels: Frames, write: Callable[[int, tuple[slice, ...], Frames], object], *, gathers: bool
) -> Timing:
    """Write whole shards: ready-made, or gathered from frames as they would come from a camera."""
    timing = Timing()
    buffer = np.empty(workload.block_shape, np.uint16)
    for position, where, block in _blocks(workload, pixels):
        start = time.perf_counter()
        if gathers:
            gathered = buffer[tuple(map(slice, block.shape))]
            for index in np.ndindex(*block.shape[:-2]):
                gathered[index] = block[index]
            block = gathered
        write(position, where, block)
        timing.calls.append(time.perf_counter() - start)
    timing.writing = sum(timing.calls)
    return timing


def _document(workload: Workload) -> dict[str, Any]:
    settings = workload.settings("x.ome.zarr", "auto")
    return array_document(plan_layout(settings).geometry, workload.compression)


def _chunk_codecs(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the codecs of a chunk, also of one inside of a shard, as they stand in a document."""
    codecs: list[dict[str, Any]] = document["codecs"]
    return codecs[0]["configuration"]["codecs"] if codecs[0]["name"] == "sharding_indexed" else codecs


def _document_of_others(workload: Workload) -> dict[str, Any]:
    """Return the document that leaves to blosc what is neither codec nor level nor shuffle."""
    document = _document(workload)
    for codec in _chunk_codecs(document):
        if codec["name"] == "blosc":
            codec["configuration"]["blocksize"] = 0
    return document


def _tensorstore_arrays(workload: Workload, path: Path, document: dict[str, Any]) -> list[Any]:
    import tensorstore as ts

    context = ts.Context({"file_io_sync": False, "cache_pool": {"total_bytes_limit": 0}})
    return [
        ts.open(
            {
                "driver": "zarr3",
                "kvstore": {"driver": "file", "path": str(path / workload.array_path(position))},
                "metadata": document,
            },
            create=True,
            context=context,
        ).result()
        for position in range(workload.positions)
    ]


def tensorstore_loop(workload: Workload, pixels: Frames, path: Path, *, gathers: bool = False) -> Timing:
    """Write whole shards with tensorstore, each awaited before the next."""
    start = time.perf_counter()
    arrays = _tensorstore_arrays(workload, path, _document(workload))
    creating = time.perf_counter() - start

    def write(position: int, where: tuple[slice, ...], block: Frames) -> None:
        arrays[position][where].write(block, can_reference_source_data_indefinitely=True).result()

    timing = _write_blocks(workload, pixels, write, gathers=gathers)
    timing.creating = creating
    return timing


def tensorstore_frames(workload: Workload, pixels: Frames, path: Path, *, same_blocks: bool = False) -> Timing:
    """Copy each frame to the shard that it belongs to; write whole shards with tensorstore while the next are filled.

    One shard is being written at a time, and its memory is used again. Codec, level and shuffle are those of a stream;
    the blocks into which blosc cuts a chunk are its own choice, unless they are to be the same as in a stream.
    """
    start = time.perf_counter()
    document = _document(workload) if same_blocks else _document_of_others(workload)
    arrays = _tensorstore_arrays(workload, path, document)
    step = workload.block_shape[:-2]
    places = [
        (
            position,
            tuple(i // n for i, n in zip(index, step, strict=True)),
            tuple(i % n for i, n in zip(index, step, strict=True)),
        )
        for position, index in workload.places()
    ]
    open_blocks: dict[Any, list[Any]] = {}
    free: list[Frames] = []
    writing: list[tuple[Any, Frames]] = []
    whole = int(np.prod(step))
    following = iter(places)

    def append(_: int, frame: Frames) -> None:
        position, cell, slot = next(following)
        if (position, cell) not in open_blocks:
            open_blocks[position, cell] = [free.pop() if free else np.empty(workload.block_shape, np.uint16), 0]
        entry = open_blocks[position, cell]
        entry[0][slot] = frame
        entry[1] += 1
        if entry[1] < whole:
            return
        finish()
        del open_blocks[position, cell]
        where = tuple(slice(c * n, c * n + n) for c, n in zip(cell, step, strict=True))
        future = arrays[position][where].write(entry[0], can_reference_source_data_indefinitely=True)
        writing.append((future, entry[0]))

    def finish() -> None:
        while writing:
            future, block = writing.pop()
            future.result()
            free.append(block)

    first = time.perf_counter()
    calls = append_frames(workload, pixels, append)
    finish()
    return Timing(first - start, time.perf_counter() - first, calls)


def _zarr_loop(pipeline: str, *, gathers: bool = False) -> Contender:
    def run(workload: Workload, pixels: Frames, path: Path) -> Timing:
        import zarr
        from zarr.storage import LocalStore, StorePath

        start = time.perf_counter()
        path.mkdir(parents=True)
        arrays = []
        with zarr.config.set({"codec_pipeline.path": pipeline, "array.write_empty_chunks": True}):
            for position in range(workload.positions):
                where = StorePath(LocalStore(path), workload.array_path(position))
                arrays.append(zarr.Array.from_dict(where, _document(workload)))
        creating = time.perf_counter() - start
        timing = _write_blocks(
            workload,
            pixels,
            lambda position, place, block: arrays[position].__setitem__(place, block),
            gathers=gathers,
        )
        timing.creating = creating
        for position in range(workload.positions):
            document = path / workload.array_path(position) / "zarr.json"
            document.write_text(json.dumps(_document(workload)))
        return timing

    return run


# ---- acquire-zarr through its own interface ------------------------------------------------------------------------


def _acquire_stream(workload: Workload, path: Path) -> Any:
    import acquire_zarr as az

    kinds = {"t": az.DimensionType.TIME, "c": az.DimensionType.CHANNEL}
    counts, chunk, shard = dict(workload.index), dict(workload.chunk), dict(workload.shard)
    acquired = [name for name in counts if name != "p"]
    arrays = []
    for position in range(workload.positions):
        dimensions = [
            az.Dimension(
                name=name,
                kind=kinds.get(name, az.DimensionType.SPACE),
                array_size_px=counts.get(name, workload.side),
                chunk_size_px=chunk.get(name, 1),
                shard_size_chunks=(
                    1 if not shard
                    else -(-workload.side // chunk[name]) if name in "yx"
                    else max(1, shard.get(name, 1) // chunk.get(name, 1))
                ),
            )
            for name in (*acquired, "y", "x")
        ]  # fmt: skip
        array = az.ArraySettings(
            output_key=workload.array_path(position), data_type=np.dtype("uint16"), dimensions=dimensions
        )
        if acquired != list(workload.stored):
            array.storage_dimension_order = [*workload.stored, "y", "x"]
        codecs = _chunk_codecs(_document(workload))
        if codecs[-1]["name"] == "blosc":
            blosc = codecs[-1]["configuration"]
            array.compression = az.CompressionSettings(
                compressor=az.Compressor.BLOSC1,
                codec=getattr(az.CompressionCodec, f"BLOSC_{blosc['cname'].upper()}"),
                level=blosc["clevel"],
                shuffle=1,
            )
        arrays.append(array)
    return az.ZarrStream(az.StreamSettings(arrays=arrays, store_path=str(path), overwrite=True))


def acquire_zarr_frames(workload: Workload, pixels: Frames, path: Path) -> Timing:
    """Append frame after frame to acquire-zarr through its own interface, one stream for all arrays."""
    start = time.perf_counter()
    target = _acquire_stream(workload, path)
    keys = [workload.array_path(position) for position in range(workload.positions)]
    first = time.perf_counter()
    calls = append_frames(workload, pixels, lambda position, frame: target.append(frame, key=keys[position]))
    target.close()
    return Timing(first - start, time.perf_counter() - first, calls)


def acquire_zarr_loop(workload: Workload, pixels: Frames, path: Path, *, gathers: bool = False) -> Timing:
    """Append whole shards to acquire-zarr through its own interface."""
    start = time.perf_counter()
    target = _acquire_stream(workload, path)
    creating = time.perf_counter() - start
    key = workload.array_path(0)
    timing = _write_blocks(
        workload, pixels, lambda _position, _where, block: target.append(block, key=key), gathers=gathers
    )
    start = time.perf_counter()
    target.close()
    timing.writing += time.perf_counter() - start
    timing.creating = creating
    return timing


# ---- the physical limit --------------------------------------------------------------------------------------------


def limit(workload: Workload, pixels: Frames, path: Path) -> Timing:
    """Take what can't be avoided: copy and ``write()``; with compression, the slower of compressing and writing.

    Raw: each frame is copied to one buffer and written from there, one file per shard. Compressed: the slower of
    encoding all chunks on all cores, and of copying and writing what comes out. Nothing is gathered and no file is an
    array that could be opened.
    """
    path.mkdir(parents=True)
    if workload.compression == "none":
        buffer = np.zeros_like(pixels[0])
        per_file = int(np.prod(workload.block_shape[:-2]))
        frames = (pixels[number % len(pixels)] for number in range(workload.frames))
        return Timing(writing=_copy_and_write(path, frames, buffer, per_file))
    chunks = list(distinct_chunks(workload, pixels))
    cores, count = os.cpu_count() or 1, workload.nbytes // chunks[0].nbytes
    encode = encoder(workload)

    def encode_share(core: int) -> None:
        for number in range(core, count, cores):
            encode(chunks[number % len(chunks)])  # what comes out is not kept: that would take fresh memory

    with ThreadPoolExecutor(cores) as pool:
        encoded = list(pool.map(encode, chunks))
        per_file = int(np.prod(workload.block_shape)) // int(np.prod(workload.chunk_shape))
        buffer = np.zeros(max(map(len, encoded)), np.uint8)
        copies = (np.frombuffer(encoded[number % len(encoded)], np.uint8) for number in range(count))
        writing = _copy_and_write(path, copies, buffer, per_file)
        start = time.perf_counter()
        list(pool.map(encode_share, range(cores)))
        encoding = time.perf_counter() - start
    return Timing(writing=max(encoding, writing))


def copy_and_write(workload: Workload, pixels: Frames, path: Path) -> Timing:
    """Copy each frame, which nobody who takes it from a camera can leave out; write it, encoded before, in a thread.

    Nothing waits for anything, so the latency of a call is what the machine does to a copy while files are written.
    """
    path.mkdir(parents=True)
    encode = None if workload.compression == "none" else encoder(workload)
    chunks = -(-workload.side // dict(workload.chunk)["y"]) * -(-workload.side // dict(workload.chunk)["x"])
    pieces = [chunk.tobytes() if encode is None else encode(chunk) for chunk in distinct_chunks(workload, pixels)]
    frames = [b"".join(pieces[first : first + chunks]) for first in range(0, len(pieces), chunks)]
    per_file = int(np.prod(workload.block_shape[:-2]))
    waiting: SimpleQueue[int | None] = SimpleQueue()

    def write() -> None:
        numbers = iter(waiting.get, None)
        write_files(path, (frames[number % len(frames)] for number in numbers if number is not None), per_file)

    buffer, numbers = np.zeros_like(pixels[0]), itertools.count()

    def append(_: int, frame: Frames) -> None:
        buffer[...] = frame
        waiting.put(next(numbers))

    thread = threading.Thread(target=write)
    thread.start()
    start = time.perf_counter()
    try:
        calls = append_frames(workload, pixels, append)
    finally:
        waiting.put(None)
        thread.join()
    return Timing(writing=time.perf_counter() - start, calls=calls)


def write_files(path: Path, pieces: Iterable[Any], per_file: int) -> None:
    file = -1
    for number, piece in enumerate(pieces):
        if number % per_file == 0:
            if file >= 0:
                os.close(file)
            file = os.open(path / str(number), os.O_WRONLY | os.O_CREAT, 0o666)
        os.write(file, piece)
    if file >= 0:
        os.close(file)


def _copy_and_write(path: Path, pieces: Iterable[Any], buffer: Any, per_file: int) -> float:
    def copies() -> Iterator[Any]:
        for piece in pieces:
            target = buffer[: len(piece)]
            target[...] = piece
            yield target

    start = time.perf_counter()
    write_files(path, copies(), per_file)
    return time.perf_counter() - start


def encoder(workload: Workload) -> Callable[[Frames], bytes]:
    from numcodecs import blosc

    blosc.use_threads = False
    settings = _chunk_codecs(_document(workload))[-1]["configuration"]
    name, level, block_bytes = settings["cname"].encode(), settings["clevel"], settings["blocksize"]
    return lambda chunk: blosc.compress(chunk, name, level, blosc.SHUFFLE, block_bytes, chunk.itemsize)


def distinct_chunks(workload: Workload, pixels: Frames) -> Iterator[Frames]:
    """Yield chunks of the first frames, each contiguous in memory."""
    *index, height, width = workload.chunk_shape
    depth = int(np.prod(index))
    for first in range(0, len(pixels) - depth + 1, depth):
        for y in range(0, workload.side, height):
            for x in range(0, workload.side, width):
                yield np.ascontiguousarray(pixels[first : first + depth, y : y + height, x : x + width])


STREAMS: dict[str, Contender] = {
    name: stream(name) for name in ("direct", "tensorstore", "zarr-python", "zarrs-python", "acquire-zarr")
}
"""This project's backends."""

LOOPS: dict[str, Contender] = {
    "tensorstore": tensorstore_loop,
    "zarr-python": _zarr_loop("zarr.core.codec_pipeline.BatchedCodecPipeline"),
    "zarrs-python": _zarr_loop("zarrs.ZarrsCodecPipeline"),
    "acquire-zarr": acquire_zarr_loop,
}
"""What the same libraries do when they are handed whole shards, ready-made."""

GATHERING_LOOPS: dict[str, Contender] = {
    "tensorstore": partial(tensorstore_loop, gathers=True),
    "zarr-python": _zarr_loop("zarr.core.codec_pipeline.BatchedCodecPipeline", gathers=True),
    "zarrs-python": _zarr_loop("zarrs.ZarrsCodecPipeline", gathers=True),
    "acquire-zarr": partial(acquire_zarr_loop, gathers=True),
}
"""The same, gathering the shards from frames."""

COPY_AND_WRITE = "copy and write()"
"""The contender that shows what a paced camera can expect of the machine."""

BARE = "bare pipeline"
"""The contender that does what a stream can't leave out, and nothing else."""

ONE_FILE = "bare pipeline, one file"
"""The same, with the file that a shard is."""

SAME_BLOCKS = "tensorstore frames, same blocks"
"""The contender that compresses with the blocks of a stream."""

AS_THEY_ARE = ("tensorstore frames", "acquire-zarr frames")
"""Others that take frames from a camera, with all that codec, level and shuffle leave open as they choose it."""

OTHERS: dict[str, Contender] = {
    "tensorstore frames": tensorstore_frames,
    SAME_BLOCKS: partial(tensorstore_frames, same_blocks=True),
    "acquire-zarr frames": acquire_zarr_frames,
    BARE: bare_pipeline,
    ONE_FILE: partial(bare_pipeline, one_file=True),
    "limit": limit,
    COPY_AND_WRITE: copy_and_write,
}
"""What others do with the frames of a camera, and what nobody can do faster."""

NO_DATASETS = (BARE, ONE_FILE, "limit", COPY_AND_WRITE)
"""Those that write nothing that could be read back."""

CONTENDERS: dict[str, Contender] = {
    **{f"{name} stream": run for name, run in STREAMS.items()},
    **{f"{name} loop": run for name, run in LOOPS.items()},
    **{f"{name} gathering loop": run for name, run in GATHERING_LOOPS.items()},
    **OTHERS,
}
