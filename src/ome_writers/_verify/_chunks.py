"""Decoding all chunks of arrays, in several threads."""

from __future__ import annotations

import math
import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ome_writers.backends._decoding import (
    MISSING,
    ChunkDecoder,
    CorruptChunkError,
    StoredGrid,
    UncheckedCodecError,
    chunk_path,
    read_index,
)

from ._hierarchy import DOCUMENT
from ._report import MAX_LISTED, ArrayReport, CorruptChunk, ProgressCallback

Integers = npt.NDArray[np.int64]
_PART_CHUNKS: Final = 64
"""Chunks of a shard that a thread takes at once, at most."""

_PART_BYTES: Final = 1 << 24
"""Their bytes, at most, unless it is one chunk."""

_PLACE: Final = re.compile(r"\d+")
_POLL_SECONDS: Final = 0.1


class Layers:
    """What was found in the layers of an array: all chunks of the frame plane for a step of the index axes' grid.

    Parameters
    ----------
    grid : StoredGrid
        Of the array.

    Attributes
    ----------
    shape : tuple of int
        Layers along each index axis.
    written : ndarray of int32
        Chunks of each layer that were decoded, layers in C order.
    corrupt, unchecked : ndarray of bool
        Whether a chunk of each layer can't be read, or can't be decoded here.
    """

    def __init__(self, grid: StoredGrid) -> None:
        counts = _counts(grid)
        self.shape = counts[:-2]
        self.chunks = math.prod(counts[-2:])
        layers = math.prod(self.shape)
        self.written = np.zeros(layers, np.int32)
        self.corrupt = np.zeros(layers, np.bool_)
        self.unchecked = np.zeros(layers, np.bool_)

    def of(self, cells: Integers) -> Integers:
        """Return the layers of chunks at places in the grid of chunks, ``(n, axes)``."""
        index = cells[:, :-2].T
        return np.ravel_multi_index(tuple(index), self.shape) if self.shape else np.zeros(len(cells), np.int64)


class StoredArray:
    """An array whose chunks are checked; counts what was found.

    Parameters
    ----------
    root : Path
        The dataset.
    path : str
        Path of the array below it.
    document : mapping
        Its ``zarr.json``.
    by_layer : bool
        Whether to keep what was found for each layer.

    Attributes
    ----------
    problem : str
        Why the array can't be looked at; empty when it can.
    note : str
        Why its chunks can't be decoded; empty when they can.
    """

    def __init__(self, root: Path, path: str, document: Mapping[str, Any], *, by_layer: bool) -> None:
        self.path = path
        self.folder = root / path
        self._prefix = f"{path}/" if path else ""
        self._document = document
        self.problem = self.note = ""
        self.grid: StoredGrid | None = None
        self.decoder: ChunkDecoder | None = None
        try:
            self.grid = StoredGrid(document)
            self.grid = self.decoder = ChunkDecoder(document)
        except UncheckedCodecError as error:
            self.note = f"array {path or '.'} can't be decoded: {error}"
        except ValueError as error:
            self.problem = f"{self._prefix}{DOCUMENT}: {error}"
            self.grid = None
        self.layers = Layers(self.grid) if by_layer and self.grid is not None and len(self.grid.shape) >= 2 else None
        self.written = self.corrupt = self.unchecked = 0
        self.corrupt_chunks: list[CorruptChunk] = []
        self.unexpected = 0
        self.unexpected_files: list[str] = []
        self.problems: list[str] = []

    def report(self) -> ArrayReport:
        """Return what was found."""
        shape = self._document.get("shape")
        chunks = 0 if self.grid is None else math.prod(_counts(self.grid))
        return ArrayReport(
            path=self.path,
            shape=tuple(shape) if self.grid is not None and shape is not None else (),
            chunks=chunks,
            written=self.written,
            missing=chunks - self.written - self.corrupt - self.unchecked,
            corrupt=self.corrupt,
            unchecked=self.unchecked,
            corrupt_chunks=tuple(self.corrupt_chunks),
            unexpected=self.unexpected,
            unexpected_files=tuple(self.unexpected_files),
        )

    # ---- files ---------------------------------------------------------------------------------------------------

    def nbytes(self) -> int:
        """Return how many bytes the array's files have."""
        return 0 if self.grid is None else sum(size for _, cell, size in self._files() if cell is not None)

    def parts(self) -> Iterator[Part]:
        """Yield what is to be decoded; takes note of files that are no chunks, and of shards that can't be read."""
        if self.grid is None:
            return
        for name, cell, _ in self._files(self.problems):
            if cell is None:
                self.unexpected += 1
                if len(self.unexpected_files) < MAX_LISTED:
                    self.unexpected_files.append(self._prefix + name)
            elif not self.grid.sharded:
                yield Part(self, name, np.array([cell], np.int64).reshape(1, -1))
            else:
                yield from self._parts_of_shard(name, cell, self.grid)

    def _parts_of_shard(self, name: str, cell: tuple[int, ...], grid: StoredGrid) -> Iterator[Part]:
        first = np.array(cell, np.int64) * grid.slots_shape
        try:
            with (self.folder / name).open("rb", buffering=0) as file:
                index = read_index(file, grid)
        except FileNotFoundError:
            return
        except (OSError, CorruptChunkError) as error:
            inside = np.minimum(grid.slots_shape, _counts(grid) - first)
            cells = first + np.indices(inside).reshape(len(cell), -1).T
            self._take_corrupt(cells)
            self._list(CorruptChunk(self._prefix + name, None, _reason(error)))
            return
        slots = np.flatnonzero(index[:, 0] != MISSING)
        slots = slots[np.argsort(index[slots, 0])]  # in the order in which they stand in the file
        cells = first + np.stack(np.unravel_index(slots, grid.slots_shape), axis=-1).reshape(len(slots), len(cell))
        inside = (cells < _counts(grid)).all(axis=1)  # what is outside of the array is read by nobody
        slots, cells = slots[inside], cells[inside]
        places = index[slots].astype(np.int64)
        mean = int(places[:, 1].mean()) if len(slots) else 0
        step = max(1, min(_PART_CHUNKS, _PART_BYTES // max(mean, 1)))
        for begin in range(0, len(slots), step):
            yield Part(self, name, cells[begin : begin + step], places[begin : begin + step])

    def _files(self, problems: list[str] | None = None) -> Iterator[tuple[str, tuple[int, ...] | None, int]]:
        """Yield path below the array's folder, place in the grid (None for no chunk) and bytes of each file."""
        folders = [("", 0)]
        while folders:
            folder, depth = folders.pop()
            try:
                with os.scandir(self.folder / folder) as entries:
                    for entry in entries:
                        name = f"{folder}/{entry.name}" if folder else entry.name
                        if name == DOCUMENT:
                            continue
                        if not entry.is_dir():
                            cell = self._cell(name) if entry.is_file() else None
                            yield name, cell, entry.stat().st_size if cell is not None else 0
                        elif depth < self._ndim + 1 and (entry.name == "c" or _PLACE.fullmatch(entry.name)):
                            folders.append((name, depth + 1))
                        else:
                            yield f"{name}/", None, 0
            except OSError as error:
                if problems is not None:
                    problems.append(f"folder {self._prefix}{folder or '.'} can't be read: {error.strerror or error}")

    @property
    def _ndim(self) -> int:
        return 0 if self.grid is None else len(self.grid.shape)

    def _cell(self, name: str) -> tuple[int, ...] | None:
        """Return the place of a file in the grid of files; None when it has none."""
        if self.grid is None:
            return None
        cell = tuple(int(place) for place in _PLACE.findall(name)) if self._ndim else ()
        counts = [-(-n // step) for n, step in zip(self.grid.shape, self.grid.shard_shape, strict=True)]
        in_grid = len(cell) == len(counts) and all(place < count for place, count in zip(cell, counts, strict=True))
        return cell if in_grid and chunk_path(self._document, cell) == name else None

    # ---- what was found, told by one thread at a time ------------------------------------------------------------

    def take(self, part: Part, faults: Mapping[int, str]) -> None:
        """Count the chunks of a part that was checked."""
        good = np.ones(len(part.cells), np.bool_)
        good[list(faults)] = False
        cells = part.cells[good]
        if self.decoder is None:
            self.unchecked += len(cells)
            if self.layers is not None:
                self.layers.unchecked[self.layers.of(cells)] = True
        else:
            self.written += len(cells)
            if self.layers is not None:
                np.add.at(self.layers.written, self.layers.of(cells), 1)
        if faults:
            self._take_corrupt(part.cells[~good])
            for number, reason in faults.items():
                self._list(CorruptChunk(self._prefix + part.name, tuple(part.cells[number].tolist()), reason))

    def _take_corrupt(self, cells: Integers) -> None:
        self.corrupt += len(cells)
        if self.layers is not None:
            self.layers.corrupt[self.layers.of(cells)] = True

    def _list(self, chunk: CorruptChunk) -> None:
        if len(self.corrupt_chunks) < MAX_LISTED:
            self.corrupt_chunks.append(chunk)


@dataclass(frozen=True, slots=True)
class Part:
    """Some chunks of one file.

    Attributes
    ----------
    array : StoredArray
        Their array.
    name : str
        Path of the file below the array's folder.
    cells : ndarray of int, shape (n, axes)
        Their places in the array's grid of chunks.
    places : ndarray of int, shape (n, 2), optional
        Offset and length of each in the file; None when the file is one chunk.
    """

    array: StoredArray
    name: str
    cells: Integers
    places: Integers | None = None

    def check(self, stop: threading.Event) -> tuple[dict[int, str], int]:
        """Decode the chunks, until the event is set.

        Returns
        -------
        faults : dict
            Number of each chunk of the part that is corrupt, and the reason.
        nbytes : int
            Bytes that were read.
        """
        decoder = self.array.decoder
        if decoder is None:
            return {}, 0
        faults: dict[int, str] = {}
        done = 0
        try:
            with (self.array.folder / self.name).open("rb", buffering=0) as file:
                places = [(0, file.seek(0, os.SEEK_END))] if self.places is None else self.places.tolist()
                for number, (offset, length) in enumerate(places):
                    if stop.is_set():
                        break
                    try:
                        decoder(_read(file, offset, length, decoder.max_bytes))
                    except (OSError, CorruptChunkError) as error:
                        faults[number] = _reason(error)
                    done += length
        except OSError as error:
            return dict.fromkeys(range(len(self.cells)), _reason(error)), done
        return faults, done


def check_chunks(arrays: Sequence[StoredArray], workers: int, progress: ProgressCallback | None) -> None:
    """Decode all chunks of arrays.

    Parameters
    ----------
    arrays : sequence of StoredArray
        Where the findings go.
    workers : int
        Threads; each has a few chunks in memory at most.
    progress : callable, optional
        Called in this thread now and then, with bytes read and bytes in all.
    """
    total = sum(array.nbytes() for array in arrays) if progress is not None else 0
    checking = _Checking(part for array in arrays for part in array.parts())
    threads = [threading.Thread(target=checking.work, name=f"ome-writers-verify-{i}") for i in range(workers)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(_POLL_SECONDS)
                if progress is not None:
                    progress(min(checking.done, total), total)
    finally:
        checking.stop.set()
        for thread in threads:
            if thread.ident is not None:
                thread.join()
    if checking.failures:
        raise checking.failures[0]
    if progress is not None:
        progress(total, total)


class _Checking:
    """What the threads share."""

    def __init__(self, parts: Iterator[Part]) -> None:
        self.stop = threading.Event()
        self.done = 0
        self.failures: list[BaseException] = []
        self._parts = parts
        self._lock = threading.Lock()  # of the parts and the findings

    def work(self) -> None:
        """Check parts until there are no more."""
        try:
            while not self.stop.is_set():
                with self._lock:
                    part = next(self._parts, None)
                if part is None:
                    return
                faults, nbytes = part.check(self.stop)
                with self._lock:
                    part.array.take(part, faults)
                    self.done += nbytes
        except BaseException as error:  # noqa: BLE001  raised by the thread that waits
            self.failures.append(error)
            self.stop.set()


def _read(file: FileIO, offset: int, length: int, limit: int) -> bytes:
    """Return bytes of a file, which are not more than a chunk can have."""
    if length > limit:
        raise CorruptChunkError(f"{length} bytes, more than any chunk of this array can have ({limit})")
    file.seek(offset)
    data = file.read(length)
    while len(data) < length:  # one call reads no more than 2 GB
        more = file.read(length - len(data))
        if not more:
            raise CorruptChunkError("the file has become shorter while it was read")
        data += more
    return data


def _counts(grid: StoredGrid) -> tuple[int, ...]:
    """Return the chunks along each axis of an array."""
    return tuple(-(-n // step) for n, step in zip(grid.shape, grid.chunk_shape, strict=True))


def _reason(error: Exception) -> str:
    return f"it can't be read: {error.strerror or error}" if isinstance(error, OSError) else str(error)
