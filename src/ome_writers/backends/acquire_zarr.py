"""Writing with acquire-zarr, frame after frame.

The library writes documents of its own: to the groups above an array, without our metadata, and to the array, in place,
so that a reader may find half of one. It is therefore told to write to a folder elsewhere, in which only the folders of
chunks are those of the dataset's arrays, by links; its documents are thrown away in the end.

Its threads compress and write chunks, of which any number may wait: it neither bounds nor reports them. So the sink
counts those that are in the files, and waits while too many are not.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Final, TypeAlias

import acquire_zarr as az
import numpy as np
import numpy.typing as npt

from ome_writers._router import Router
from ome_writers.abc import Block, Capabilities, FrameSink, FramesLostError, WritePlan
from ome_writers.errors import UnsupportedError
from ome_writers.settings import DTYPES, Codec

from ._behind import ChunksBehind
from ._chunks import black_chunks
from ._salvage import ChunkCensus
from ._zeros import BlackChunks

_BEHIND_FRAMES: Final = 4
_BEHIND_BYTES: Final = 1 << 26
_POLL_SECONDS: Final = 0.002
_GIVE_UP_SECONDS: Final = 60.0
_CODECS = {
    "blosc-lz4": (az.Compressor.BLOSC1, az.CompressionCodec.BLOSC_LZ4),
    "blosc-zstd": (az.Compressor.BLOSC1, az.CompressionCodec.BLOSC_ZSTD),
    "zstd": (az.Compressor.ZSTD, az.CompressionCodec.ZSTD),
}
_SHUFFLES = {"none": 0, "byte": 1, "bit": 2}

_log_level_lock = threading.Lock()

Cell: TypeAlias = tuple[int, ...]
Shown: TypeAlias = npt.NDArray[np.bool_]


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
        """Return what the library takes for its queue and for chunks, and what it may be behind.

        It has room for 512 frames or 256 MiB, whichever is less, that stays taken once frames have been there; all
        arrays share it.
        """
        most = int(_settings(plan, plan.root, _keys(plan)).get_maximum_memory_usage())
        return most + _allowed_behind(plan)

    def __init__(self, plan: WritePlan) -> None:
        self._plan = plan
        arrays = range(len(plan.layout.images))
        self._folders = [plan.array_path(array) for array in arrays]
        self._frame_bytes = plan.geometry.frame_bytes
        self._chunks = plan.geometry.chunks
        self._axes = _stored_axes(plan)
        first, inner = self._chunks[0] if self._axes else 1, (axis.count or 1 for axis in self._axes[1:])
        self._layer_frames = first * math.prod(inner)
        shards = plan.geometry.shards or self._chunks
        self._shard_layers = shards[0] // self._chunks[0] if self._axes else 1
        self._appended = [0] * len(self._folders)
        self._lit = np.ones(plan.geometry.layer_shape[:2], np.bool_)
        self._shown: list[dict[Cell, Shown]] = [{} for _ in arrays]  # chunks that are not black, of open layers
        self._black: defaultdict[int, list[Cell]] = defaultdict(list)
        self._black_chunks = BlackChunks(plan)
        self._behind = ChunksBehind(plan)
        self._allowed = _allowed_behind(plan)
        self._aside = Path(tempfile.mkdtemp(prefix="ome-writers-"))
        try:
            self._streams, self._of = _open_streams(plan, self._aside)
        except BaseException:
            shutil.rmtree(self._aside, ignore_errors=True)
            raise

    def write_frames(self, array: int, frames: Block) -> None:
        """Append frames, which the library copies to its queue; wait while too many chunks are not in files yet."""
        self._note_shown(array, frames)
        stream, key = self._of[array]
        stream.append(frames, key=key)
        self._note_taken(array, len(frames))
        least, give_up = float("inf"), float("inf")
        while (behind := self._behind.nbytes(self._allowed)) > self._allowed and time.monotonic() < give_up:
            if behind < least:
                least, give_up = behind, time.monotonic() + _GIVE_UP_SECONDS
            else:
                _raise_if_failed(stream, key)
            time.sleep(_POLL_SECONDS)  # the library has no event to wait on

    def skip_frames(self, array: int, count: int) -> None:
        """Leave frames out, which the library fills with zeros."""
        stream, key = self._of[array]
        stream.skip(count * self._frame_bytes, key=key)
        self._note_taken(array, count)

    def close(self) -> None:
        """Close all streams, also when one of them fails, and raise the first error.

        Raises
        ------
        FramesLostError
            If anything has failed and frames are not in files that can be read.
        """
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
            for array, shown in enumerate(self._shown):
                self._note_black(array, shown)
            for array, cells in self._black.items():
                self._black_chunks.add(array, sorted(cells))
        except OSError as error:
            errors.append(error)
        if not errors:
            return
        if lost := self._lost_frames():
            raise FramesLostError(str(errors[0]), lost) from errors[0]
        raise errors[0]

    def _lost_frames(self) -> list[int]:
        """Return the numbers of frames, up to the last one that was appended, whose chunks are not all in files."""
        router = Router(self._plan.layout.axes)
        last = [router.number(array, self._index(n - 1)) for array, n in enumerate(self._appended) if n]
        numbers = np.arange(max(last, default=-1) + 1)
        there = ChunkCensus(self._plan).holds(*router.locate_many(numbers))
        found: list[int] = numbers[~there].tolist()
        return found

    def _note_shown(self, array: int, frames: Block) -> None:
        """Note the chunks in which a frame is not black; the library leaves out those in which all frames are."""
        height, width = self._chunks[-2:]
        for number, frame in enumerate(frames, self._appended[array]):
            index = self._index(number)
            cell = tuple(i // c for i, c in zip(index, self._chunks, strict=False))
            with np.errstate(invalid="ignore"):  # signalling NaN
                lit = bool(frame[::height, ::width].all())  # the first pixel of each chunk
            shown = self._lit if lit else ~black_chunks(frame, (height, width), None)
            before = self._shown[array].get(cell)
            self._shown[array][cell] = shown if before is None else before | shown

    def _note_taken(self, array: int, count: int) -> None:
        """Count frames, and the chunks that are complete with them."""
        layers = self._appended[array] // self._layer_frames
        self._appended[array] += count
        for layer in range(layers, self._appended[array] // self._layer_frames):
            shown = self._shown[array]
            complete = {cell: shown.pop(cell) for cell in list(shown) if not cell or cell[0] == layer}
            self._note_black(array, complete)
            chunks = sum(int(np.count_nonzero(mask)) for mask in complete.values())
            shard, place = divmod(layer, self._shard_layers)
            self._behind.expect(array, shard, chunks, last=place == self._shard_layers - 1)

    def _note_black(self, array: int, shown: Mapping[Cell, Shown]) -> None:
        for cell, mask in shown.items():
            self._black[array] += [(*cell, int(row), int(column)) for row, column in np.argwhere(~mask)]

    def _index(self, number: int) -> list[int]:
        """Return the index in storage order of a frame, by its number in its array."""
        index = [0] * len(self._axes)
        for axis in reversed(self._axes):
            number, step = divmod(number, axis.count) if axis.count else (0, number)
            index[axis.storage_axis] = step
        return index


def _open_streams(plan: WritePlan, aside: Path) -> tuple[list[az.ZarrStream], list[tuple[az.ZarrStream, str]]]:
    """Return the streams, and for each array its stream and its key there.

    One stream writes all arrays, to folders elsewhere whose chunks are those of the arrays. Where links can't be made
    (on Windows without the privilege), each array has a stream that writes to its own folder; the documents of the
    dataset are put back when the library has closed.
    """
    keys = _keys(plan)
    folders = [plan.array_path(array) for array in keys]
    for folder in folders:
        (folder / "c").mkdir(exist_ok=True)
    try:
        for folder, key in zip(folders, keys.values(), strict=True):
            elsewhere = aside / key
            elsewhere.mkdir()
            (elsewhere / "c").symlink_to(folder / "c", target_is_directory=True)
    except OSError:
        streams = [az.ZarrStream(_settings(plan, folder, {array: ""})) for array, folder in enumerate(folders)]
        return streams, [(stream, "") for stream in streams]
    stream = az.ZarrStream(_settings(plan, aside, keys))
    return [stream], [(stream, key) for key in keys.values()]


def _raise_if_failed(stream: az.ZarrStream, key: str) -> None:
    """Raise if the library's threads have failed, which it tells whoever gives it something, be it nothing."""
    with _log_level_lock:
        level = az.get_log_level()
        az.set_log_level(az.LogLevel.NONE)  # else it says on standard output that there is nothing
        try:
            stream.skip(0, key=key)
        finally:
            az.set_log_level(level)


def _keys(plan: WritePlan) -> dict[int, str]:
    """Return the key of each array in a stream that writes all of them."""
    return {array: str(array) for array in range(len(plan.layout.images))}


def _allowed_behind(plan: WritePlan) -> int:
    """Return how many bytes of complete chunks may wait for the library's threads."""
    return max(_BEHIND_BYTES, _BEHIND_FRAMES * plan.geometry.frame_bytes)


def _stored_axes(plan: WritePlan) -> list[Any]:
    """Return the stored index axes in acquisition order."""
    return [axis for axis in plan.layout.axes if axis.storage_axis is not None]


def _settings(plan: WritePlan, store: Path, keys: Mapping[int, str]) -> az.StreamSettings:
    """Return the settings of a stream that writes arrays of the dataset, by their numbers."""
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
    arrays = [
        az.ArraySettings(output_key=key, data_type=np.dtype(geometry.dtype), dimensions=dimensions)
        for key in keys.values()
    ]
    for array in arrays:
        array.is_ngff = False
        if order != sorted(order):
            array.storage_dimension_order = list(geometry.dimension_names)
        if plan.codec.name in _CODECS:
            array.compression = _compression(plan.codec)
    return az.StreamSettings(arrays=arrays, store_path=str(store), overwrite=False)


def _compression(codec: Codec) -> az.CompressionSettings:
    compressor, library = _CODECS[codec.name]
    return az.CompressionSettings(
        compressor=compressor, codec=library, level=codec.level, shuffle=_SHUFFLES[codec.shuffle or "none"]
    )
