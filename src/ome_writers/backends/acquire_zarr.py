"""Writing with acquire-zarr, frame after frame.

The library makes a stream per array and writes documents of its own: to the groups above an array, without our
metadata, and to the array, in place, so that a reader may find half of one. It is therefore told to write to a folder
elsewhere, in which only the folder of chunks is that of the array, by a link; its documents are thrown away in the end.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Final

import acquire_zarr as az
import numpy as np

from ome_writers.abc import Block, Capabilities, FrameSink, WritePlan
from ome_writers.errors import UnsupportedError
from ome_writers.settings import DTYPES, Codec

from ._chunks import black_chunks
from ._zeros import BlackChunks

_LIBRARY_QUEUE_FRAMES: Final = 512
_LIBRARY_QUEUE_BYTES: Final = 1 << 28
_QUEUE_FRAMES: Final = 4
_QUEUE_BYTES: Final = 1 << 26
_POLL_SECONDS: Final = 0.0005
_GIVE_UP_SECONDS: Final = 2.0
_CODECS = {
    "blosc-lz4": (az.Compressor.BLOSC1, az.CompressionCodec.BLOSC_LZ4),
    "blosc-zstd": (az.Compressor.BLOSC1, az.CompressionCodec.BLOSC_ZSTD),
    "zstd": (az.Compressor.ZSTD, az.CompressionCodec.ZSTD),
}
_SHUFFLES = {"none": 0, "byte": 1, "bit": 2}


class AcquireZarrSink(FrameSink):
    """Writes frames with acquire-zarr; chunks of zeros, which it leaves out, are added when it has closed."""

    capabilities: ClassVar[Capabilities] = Capabilities(
        name="acquire-zarr",
        dtypes=frozenset(DTYPES) - {"float16"},
        compressions=frozenset({"none", "zstd", "blosc-zstd", "blosc-lz4"}),
        shuffles=frozenset({"none", "byte", "bit"}),
        copies=1.0,  # its queue of frames
        always_sharded=True,
        resumes=False,  # it writes arrays from their first frame
    )

    @classmethod
    def check(cls, plan: WritePlan) -> None:
        """Refuse levels and storage orders that the library can't make."""
        super().check(plan)
        if (plan.codec.level or 0) < 0:
            raise UnsupportedError(
                f"backend 'acquire-zarr' can't write level {plan.codec.level} of {plan.codec.name!r}; it can write 1 "
                "to 22. Use such a level, or another backend, such as 'tensorstore'."
            )
        stored = _stored_axes(plan)
        if stored and stored[0].storage_axis != 0:
            raise UnsupportedError(
                f"backend 'acquire-zarr' can't store the slowest dimension {stored[0].name!r} anywhere but first, and "
                f"the storage order is {', '.join(plan.geometry.dimension_names)}. Acquire "
                f"{plan.geometry.dimension_names[0]!r} slowest, or use another backend, such as 'tensorstore'."
            )

    @classmethod
    def memory_needed(cls, plan: WritePlan) -> int:
        """Return what the library's streams take for chunks, and what all their queues may hold together.

        A stream queues as many frames as it is given, up to 512 frames or 256 MiB, and counts this in the most that it
        may take. The sink lets the queues hold less: see :meth:`write_frames`.
        """
        frame = plan.geometry.frame_bytes
        most = int(_settings(plan, plan.array_path(0)).get_maximum_memory_usage())
        chunks = max(frame, most - min(_LIBRARY_QUEUE_FRAMES * frame, _LIBRARY_QUEUE_BYTES))
        return len(plan.layout.images) * chunks + max(_QUEUE_BYTES, _QUEUE_FRAMES * frame)

    def __init__(self, plan: WritePlan) -> None:
        self._frame_bytes = plan.geometry.frame_bytes
        self._limit = self.memory_needed(plan)
        self._folders = [plan.array_path(array) for array in range(len(plan.layout.images))]
        self._chunks = plan.geometry.chunks
        self._axes = _stored_axes(plan)
        self._appended = [0] * len(self._folders)
        self._black: defaultdict[int, set[tuple[int, ...]]] = defaultdict(set)
        self._black_chunks = BlackChunks(plan)
        self._aside = Path(tempfile.mkdtemp(prefix="ome-writers-"))
        try:
            self._streams = [
                az.ZarrStream(_settings(plan, _linked(folder, self._aside / str(array))))
                for array, folder in enumerate(self._folders)
            ]
        except BaseException:
            shutil.rmtree(self._aside, ignore_errors=True)
            raise

    def write_frames(self, array: int, frames: Block) -> None:
        """Append frames, which the library copies to its queue; wait while the queues hold too much."""
        self._note_black(array, frames)
        self._appended[array] += len(frames)
        self._streams[array].append(frames)
        # the library has no event to wait on, so look from time to time; memory that stays taken is not a queue's
        least, give_up = float("inf"), float("inf")
        while (taken := self._memory()) > self._limit and time.monotonic() < give_up:
            if taken < least:
                least, give_up = taken, time.monotonic() + _GIVE_UP_SECONDS
            time.sleep(_POLL_SECONDS)

    def _memory(self) -> int:
        return sum(stream.get_current_memory_usage() for stream in self._streams)

    def skip_frames(self, array: int, count: int) -> None:
        """Leave frames out, which the library fills with zeros."""
        self._appended[array] += count
        self._streams[array].skip(count * self._frame_bytes)

    def close(self) -> None:
        """Close all streams, also when one of them fails, and raise the first error."""
        errors = []
        while self._streams:
            try:
                self._streams.pop().close()
            except Exception as error:  # noqa: BLE001  collected, and raised below
                errors.append(error)
        shutil.rmtree(self._aside, ignore_errors=True)
        for folder in self._folders:
            with suppress(OSError):  # it is not empty
                (folder / "c").rmdir()
        try:
            for array, cells in self._black.items():
                self._black_chunks.add(array, sorted(cells))
        except OSError as error:
            errors.append(error)
        if errors:
            raise errors[0]

    def _note_black(self, array: int, frames: Block) -> None:
        """Note the chunks in which a frame is black; they are left out by the library if all of their frames are."""
        height, width = self._chunks[-2:]
        for number, frame in enumerate(frames, self._appended[array]):
            with np.errstate(invalid="ignore"):  # signalling NaN
                if frame[::height, ::width].all():  # the first pixel of each chunk
                    continue
            index = self._index(number)
            layer = tuple(i // c for i, c in zip(index, self._chunks, strict=False))
            for row, column in np.argwhere(black_chunks(frame, (height, width), None)):
                self._black[array].add((*layer, int(row), int(column)))

    def _index(self, number: int) -> tuple[int, ...]:
        """Return the index in storage order of a frame, by its number in its array."""
        index = [0] * len(self._axes)
        for axis in reversed(self._axes):
            number, step = divmod(number, axis.count) if axis.count else (0, number)
            index[axis.storage_axis] = step
        return tuple(index)


def _linked(array: Path, elsewhere: Path) -> Path:
    """Return a new folder whose chunks are those of an array; the array's own folder where links can't be made."""
    chunks = array / "c"
    chunks.mkdir(exist_ok=True)
    elsewhere.mkdir()
    try:
        (elsewhere / "c").symlink_to(chunks, target_is_directory=True)
    except OSError:  # on Windows without the privilege; the stream puts its document back when the library has closed
        return array
    return elsewhere


def _stored_axes(plan: WritePlan) -> list[Any]:
    """Return the stored index axes in acquisition order."""
    return [axis for axis in plan.layout.axes if axis.storage_axis is not None]


def _settings(plan: WritePlan, folder: Path) -> az.StreamSettings:
    geometry = plan.geometry
    order = [axis.storage_axis for axis in _stored_axes(plan)]
    order += [len(order), len(order) + 1]
    shards = geometry.shards or geometry.chunks
    dimensions = [
        az.Dimension(
            name=geometry.dimension_names[i],
            kind=az.DimensionType.SPACE if i >= len(order) - 2 else az.DimensionType.OTHER,
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
    if plan.codec.name in _CODECS:
        settings.compression = _compression(plan.codec)
    cores = os.cpu_count() or 1
    return az.StreamSettings(
        arrays=[settings],
        store_path=str(folder),
        overwrite=False,
        max_threads=max(1, cores // len(plan.layout.images)),
    )


def _compression(codec: Codec) -> az.CompressionSettings:
    compressor, library = _CODECS[codec.name]
    return az.CompressionSettings(
        compressor=compressor, codec=library, level=codec.level, shuffle=_SHUFFLES[codec.shuffle or "none"]
    )
