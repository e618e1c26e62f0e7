"""Writing with acquire-zarr, frame after frame.

The library writes documents of its own: to the groups above an array, without our metadata, and to the array, in place,
so that a reader may find half of one. It is therefore told to write to a folder elsewhere, in which only the folders of
chunks are those of the dataset's arrays, by links; its documents are thrown away in the end.

Its threads compress and write chunks, of which any number may wait: it neither bounds nor reports them. So the sink
counts those that are in the files, and waits while too many are not.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
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

_BEHIND_FRAMES: Final = 2
_BEHIND_BYTES: Final = 1 << 26
_ZEROS_BYTES: Final = 1 << 20
_POLL_SECONDS: Final = 0.002
_LOOK_SHARE: Final = 4
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
        """Return what the library takes for its queue and for chunks that it gathers, and what it may be behind.

        All arrays share the queue, which stays taken once frames have been there.
        """
        geometry, gathered = plan.geometry, _Gathered.of(plan)
        queue, _ = _most_memory(plan)
        at_once = plan.layout.open_blocks(gathered.extent) * gathered.nbytes
        in_hand = min(gathered.nbytes, geometry.chunk_bytes * (os.cpu_count() or 1))
        encoded = 0 if plan.codec.name == "none" else in_hand
        return queue + geometry.frame_bytes + at_once + encoded + _allowed_behind(plan, gathered)

    def __init__(self, plan: WritePlan) -> None:
        self._plan = plan
        geometry, arrays = plan.geometry, range(len(plan.layout.images))
        self._folders = [plan.array_path(array) for array in arrays]
        self._chunks = geometry.chunks
        self._axes = _stored_axes(plan)
        self._gathered = _Gathered.of(plan)
        shards = geometry.shards or geometry.chunks
        self._shard_layers = shards[0] // geometry.chunks[0] if self._axes else 1
        self._shard_frames = (shards[0] if self._axes else 1) * math.prod(axis.count or 1 for axis in self._axes[1:])
        self._appended = [0] * len(self._folders)
        self._lit = np.ones(geometry.layer_shape[:2], np.bool_)
        self._shown: list[dict[Cell, Shown]] = [{} for _ in arrays]  # what is not black of chunks being gathered
        self._black: defaultdict[int, list[Cell]] = defaultdict(list)
        self._black_chunks = BlackChunks(plan)
        self._behind = ChunksBehind(plan)
        self._allowed = _allowed_behind(plan, self._gathered)
        self._zeros = np.zeros((max(1, _ZEROS_BYTES // geometry.frame_bytes), *geometry.frame_shape), geometry.dtype)
        self._errors: list[Exception] = []  # of closing, which may be interrupted and done again
        self._aside = Path(tempfile.mkdtemp(prefix="ome-writers-"))
        try:
            self._links = _link_chunks(plan, self._aside)
            self._streams, self._of = _open_streams(plan, self._aside, linked=bool(self._links))
        except BaseException:
            shutil.rmtree(self._aside, ignore_errors=True)
            raise

    def write_frames(self, array: int, frames: Block) -> None:
        """Append frames, which the library copies to its queue; wait while too many chunks are not in files yet."""
        stream, key = self._of[array]
        stream.append(frames, key=key)
        first, number = 0, self._appended[array]
        for stop in range(1, len(frames) + 1):
            if stop == len(frames) or self._gathered.ends_with(number + stop - 1):
                self._note_shown(array, frames[first:stop])  # of the chunks that these frames complete, no later ones
                self._note_taken(array, stop - first)
                first = stop
        self._wait(stream, key)

    def skip_frames(self, array: int, count: int) -> None:
        """Append frames of zeros: chunks that are left with nothing else are not stored.

        The library can skip frames itself, but then there is in their place what lay in its queue before.
        """
        stream, key = self._of[array]
        for first in range(0, count, len(self._zeros)):
            zeros = self._zeros[: count - first]
            stream.append(zeros, key=key)
            self._note_taken(array, len(zeros))
            self._wait(stream, key)

    def _wait(self, stream: az.ZarrStream, key: str) -> None:
        """Wait while too much is not in files yet, as long as that gets less, or a minute."""
        least, give_up = float("inf"), float("inf")
        start = time.monotonic()
        while (behind := self._behind.nbytes(self._allowed)) > self._allowed and time.monotonic() < give_up:
            if behind < least:
                least, give_up = behind, time.monotonic() + _GIVE_UP_SECONDS
            else:
                self._raise_if_failed(stream, key)
            # the library has no event to wait on; to look at many files must not take a processor
            time.sleep(max(_POLL_SECONDS, _LOOK_SHARE * (time.monotonic() - start)))
            start = time.monotonic()

    def _raise_if_failed(self, stream: az.ZarrStream, key: str) -> None:
        """Raise if the library's threads have failed, or write elsewhere."""
        self._check_links()
        with _log_level_lock:
            level = az.get_log_level()
            az.set_log_level(az.LogLevel.NONE)  # else it says on standard output that there is nothing
            try:
                stream.skip(0, key=key)  # it tells of a failure whoever gives it something, be it nothing
            finally:
                az.set_log_level(level)

    def _check_links(self) -> None:
        if not all(link.is_symlink() for link in self._links):
            raise OSError(
                f"{self._aside}, which holds links to the dataset, was removed while it was written; chunks written "
                "since then are not in the dataset"
            )

    def close(self) -> None:
        """Close all streams, also when one of them fails, and raise the first error.

        Raises
        ------
        FramesLostError
            If anything has failed and frames are not in files that can be read.
        """
        while self._streams:
            try:
                self._streams[-1].close()
            except Exception as error:  # noqa: BLE001  collected, and raised below
                self._errors.append(error)
            self._streams.pop()
        try:
            self._check_links()
        except OSError as error:
            self._errors.insert(0, error)  # the cause of the others
        self._links.clear()
        shutil.rmtree(self._aside, ignore_errors=True)
        for folder in self._folders:
            with suppress(OSError):  # it is not empty
                (folder / "c").rmdir()
        try:
            for array, shown in enumerate(self._shown):
                self._note_black(array, shown)
                shown.clear()
            for array, cells in self._black.items():
                self._black_chunks.add(array, sorted(cells))
        except OSError as error:
            self._errors.append(error)
        if not self._errors:
            return
        if lost := self._lost_frames():
            raise FramesLostError(str(self._errors[0]), lost) from self._errors[0]
        raise self._errors[0]

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
        """Count frames, and chunks that the library has gathered with them."""
        for number in range(self._appended[array], self._appended[array] + count):
            self._appended[array] += 1
            if not self._gathered.ends_with(number):
                continue
            complete = self._shown[array]
            self._note_black(array, complete)
            chunks = sum(int(np.count_nonzero(mask)) for mask in complete.values())
            complete.clear()
            shard = self._index(number)[0] // self._chunks[0] // self._shard_layers if self._axes else 0
            self._behind.expect(array, shard, chunks, last=(number + 1) % self._shard_frames == 0)

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


@dataclass(frozen=True, slots=True)
class _Gathered:
    """Frames of an array that the library gathers before its threads are given the chunks of all of them.

    Attributes
    ----------
    extent : tuple of int
        Along the index axes, in storage order.
    frames : int
        How many there are.
    period : int, optional
        After so many frames of an array, fewer of them are complete, too.
    nbytes : int
        Memory of their chunks, all of which is taken with the first frame.
    """

    extent: tuple[int, ...]
    frames: int
    period: int | None
    nbytes: int

    @classmethod
    def of(cls, plan: WritePlan) -> _Gathered:
        """Find out how much the library gathers, from the most memory that it says an array takes.

        That is a chunk along one axis with all of what is faster. The axis is the slowest one, or a faster one where
        chunks are one frame along those before.
        """
        geometry, axes = plan.geometry, _stored_axes(plan)
        most = _most_memory(replace(plan, codec=Codec(name="none")))[1] - geometry.frame_bytes
        rows, columns, *chunk = geometry.layer_shape
        plane = rows * columns * math.prod(chunk[-2:]) * np.dtype(geometry.dtype).itemsize
        found: list[_Gathered] = []
        for place in range(max(1, len(axes))):
            extent, frames = [1] * len(axes), 1
            for i, axis in enumerate(axes[place:]):
                length = geometry.chunks[axis.storage_axis] if i == 0 else axis.count or 1
                extent[axis.storage_axis] = length
                frames *= length
            period = math.prod(axis.count or 1 for axis in axes[place:]) if place else None
            found.append(cls(tuple(extent), frames, period, frames * plane))
            if axes and geometry.chunks[axes[place].storage_axis] > 1:
                break
        return next((gathered for gathered in reversed(found) if gathered.nbytes >= most), found[0])

    def ends_with(self, number: int) -> bool:
        """Tell whether all of them are there with a frame of the array, by its number."""
        place = number + 1 if self.period is None else number % self.period + 1
        return place % self.frames == 0 or place == self.period


def _most_memory(plan: WritePlan) -> tuple[int, int]:
    """Return the most memory that the library says its queue takes, and each array."""
    one, two = (
        int(_settings(plan, plan.root, {n: str(n) for n in range(arrays)}).get_maximum_memory_usage())
        for arrays in (1, 2)
    )
    return 2 * one - two, two - one


def _allowed_behind(plan: WritePlan, gathered: _Gathered) -> int:
    """Return how many bytes of gathered chunks may wait: enough for the library's threads while more are gathered."""
    return max(_BEHIND_BYTES, _BEHIND_FRAMES * plan.geometry.frame_bytes, gathered.nbytes // 4)


def _link_chunks(plan: WritePlan, aside: Path) -> list[Path]:
    """Make the folders of chunks, and links to them elsewhere; return the links, none where they can't be made."""
    links = []
    for array, key in _keys(plan).items():
        chunks, elsewhere = plan.array_path(array) / "c", aside / key
        chunks.mkdir(exist_ok=True)
        elsewhere.mkdir()
        links.append(elsewhere / "c")
        try:
            links[-1].symlink_to(chunks, target_is_directory=True)
        except OSError:  # on Windows without the privilege
            return []
    return links


def _open_streams(
    plan: WritePlan, aside: Path, *, linked: bool
) -> tuple[list[az.ZarrStream], list[tuple[az.ZarrStream, str]]]:
    """Return the streams, and for each array its stream and its key there.

    One stream writes all arrays, to folders elsewhere whose chunks are those of the arrays. Without links, each array
    has a stream that writes to its own folder; the dataset's documents are put back when the library has closed.
    """
    keys = _keys(plan)
    if linked:
        stream = az.ZarrStream(_settings(plan, aside, keys))
        return [stream], [(stream, key) for key in keys.values()]
    streams = [az.ZarrStream(_settings(plan, plan.array_path(array), {array: ""})) for array in keys]
    return streams, [(stream, "") for stream in streams]


def _keys(plan: WritePlan) -> dict[int, str]:
    """Return the key of each array in a stream that writes all of them."""
    return {array: str(array) for array in range(len(plan.layout.images))}


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
