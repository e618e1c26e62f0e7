"""What a dataset holds whose writer has died: counting chunks, and completing shards that have no index yet."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from operator import floordiv, mod, mul
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ome_writers._router import Router
from ome_writers.abc import Block, WritePlan

from ._decoding import MISSING, ChunkDecoder, CorruptChunkError, read_index
from ._earlier import read_layer
from ._encoding import crc32c, encoder
from ._journal import JOURNAL_FILE, Entry, read_journal
from ._shards import WRITING_FOLDER, Shard, write_file

_LEFT_BEHIND: Final = re.compile(r"\d+(\.__lock|\.[0-9a-f]+\.partial)")
"""What libraries leave beside a chunk when they are killed while they write it."""

_MOST_STEPS: Final = 1 << 26

Cell = tuple[int, ...]
Integers = npt.NDArray[Any]


@dataclass(slots=True)
class _Unfinished:
    """A shard under its temporary name, and the chunks that the journal knows of in it."""

    array: int
    where: Cell
    file: Path
    index: Integers  # offset and length by slot


@dataclass(slots=True)
class Salvage:
    """What was done to the files of a dataset.

    Attributes
    ----------
    completed : int
        Shards that got their index and their name.
    dropped : int
        Chunks that are on disk and belong to layers of which others are not; they can't be read any more.
    removed : int
        Files that were no use: temporary ones without a whole chunk, and what libraries leave behind.
    unreadable : list of Path
        Shards whose index can't be read; they are left as they are.
    """

    completed: int = 0
    dropped: int = 0
    removed: int = 0
    unreadable: list[Path] = field(default_factory=list)


def _begins_like(copy: Path, shard: Path, index_bytes: int) -> bool:
    """Tell whether a file begins with all chunks of a complete shard."""
    left = shard.stat().st_size - index_bytes
    with copy.open("rb") as ours, shard.open("rb") as theirs:
        while left > 0:
            piece = theirs.read(min(left, 1 << 24))
            if not piece or ours.read(len(piece)) != piece:
                return False
            left -= len(piece)
    return True


def unfinished(root: Path) -> bool:
    """Tell whether anything is left of writing a dataset: a journal, or files with temporary names."""
    return any((root / name).exists() for name in (JOURNAL_FILE, WRITING_FOLDER))


class ChunkCensus:
    """Which chunks of a dataset's arrays are on disk.

    Parameters
    ----------
    plan : WritePlan
        The dataset.
    """

    def __init__(self, plan: WritePlan) -> None:
        self._plan = plan
        geometry = plan.geometry
        self._decoder = ChunkDecoder(plan.array_document)
        self._per_shard = tuple(map(floordiv, self._decoder.shard_shape, self._decoder.chunk_shape))
        self._chunks = geometry.chunks
        self._plane = geometry.layer_shape[:2]
        self._writing = plan.root / WRITING_FOLDER
        grid = [1 if n is None else -(-n // c) for n, c in zip(geometry.shape[:-2], geometry.chunks[:-2], strict=True)]
        self._counts = np.zeros((len(plan.layout.images), *grid), np.uint32)
        self._axis = geometry.unbounded_axis
        self._left_behind: list[Path] = []
        self._complete: set[tuple[int, Cell]] = set()  # shards
        self.salvage = Salvage()
        for array in range(len(plan.layout.images)):
            self._take(array)
        self._unfinished = list(self._find_unfinished())

    def holds(self, arrays: Integers, indices: Integers) -> npt.NDArray[np.bool_]:
        """Tell of frames whether all chunks of their layers are on disk.

        Parameters
        ----------
        arrays : ndarray of int, shape (n,)
            Number of the array of each frame.
        indices : ndarray of int, shape (number of index axes, n)
            Index along each index axis, in storage order.
        """
        cells = [axis // c for axis, c in zip(indices, self._chunks, strict=False)]
        inside = np.ones(len(arrays), np.bool_)
        if self._axis is not None:
            inside = cells[self._axis] < self._counts.shape[1 + self._axis]
            cells[self._axis] = np.where(inside, cells[self._axis], 0)
        whole: npt.NDArray[np.bool_] = self._counts[(arrays, *cells)] >= math.prod(self._plane)
        return whole & inside

    def last_begun(self, router: Router) -> int:
        """Return the largest number that a first frame of a layer that is whole has; -1 if none is."""
        arrays, *cells = np.nonzero(self._counts >= math.prod(self._plane))
        extent = self._plan.geometry.index_extent("chunk")
        numbers = router.number_many(arrays, [cell * e for cell, e in zip(cells, extent, strict=True)])
        return int(numbers.max(initial=-1))

    def complete(self, *, cut: bool) -> Salvage:
        """Complete the shards that have no index yet, and remove what is no use; can be interrupted and done again.

        Parameters
        ----------
        cut : bool
            Whether to take out the chunks of layers that are not whole, so that a lost frame reads as 0.
        """
        if cut:
            partial = (self._counts > 0) & (self._counts < math.prod(self._plane))
            self._take_out(np.argwhere(partial).tolist())
        for shard in self._unfinished:
            self._finish(shard, cut=cut)
        for file in [*self._left_behind, *self._temporary_files()]:
            file.unlink(missing_ok=True)
            self.salvage.removed += 1
        return self.salvage

    def blank(self, arrays: Integers, indices: Integers) -> None:
        """Set frames in layers that are whole to 0, when all shards are complete; can be interrupted and done again.

        Parameters
        ----------
        arrays, indices : ndarray of int
            As for :meth:`holds`.
        """
        places: dict[tuple[int, Cell], list[tuple[Any, ...]]] = {}
        for array, *index in zip(arrays.tolist(), *indices.tolist(), strict=True):
            cell = tuple(map(floordiv, index, self._chunks))
            place = (slice(None), slice(None), *map(mod, index, self._chunks))
            places.setdefault((array, cell), []).append(place)
        for (array, cell), of_layer in places.items():
            folder = self._plan.array_path(array) / "c"
            try:
                layer = read_layer(folder, self._plan.array_document, cell, self._plane)
            except OSError:  # of a chunk that can't be decoded, nothing is read by anybody
                continue
            frames = [layer[place] for place in of_layer]
            if any(frame.any() for frame in frames):
                for frame in frames:
                    frame[...] = 0
                self._rewrite_layer(array, cell, layer)

    def drop_from(self, router: Router, frame: int) -> None:
        """Take out the layers whose frames are all at or after one, when all shards are complete."""
        extent = [min(c, n or c) for c, n in zip(self._chunks, self._plan.geometry.shape, strict=True)][:-2]
        layers = np.argwhere(self._counts > 0).tolist()
        self._take_out(
            (array, *cell) for array, *cell in layers if router.number(array, tuple(map(mul, cell, extent))) >= frame
        )
        with suppress(OSError):
            self._writing.rmdir()

    def clear(self) -> None:
        """Remove the journal, when all that it speaks of is complete."""
        with suppress(FileNotFoundError, OSError):
            self._writing.rmdir()
        (self._plan.root / JOURNAL_FILE).unlink(missing_ok=True)

    # ---- files with their final name -------------------------------------------------------------------------------

    def _take(self, array: int) -> None:
        """Count the chunks of an array that are in complete files."""
        folder = self._plan.array_path(array) / "c"
        singles: list[Cell] = []
        for where, path in self._files_below(folder):
            if not self._decoder.sharded:
                singles.append(where)
                continue
            try:
                with path.open("rb") as file:
                    index = read_index(file, self._decoder)
            except (CorruptChunkError, OSError):
                self.salvage.unreadable.append(path)
                continue
            self._complete.add((array, where))
            self._count(array, self._cells(where, np.flatnonzero(index[:, 0] != MISSING)))
        if singles:
            self._count(array, np.array(singles))

    def _files_below(self, folder: Path) -> Iterator[tuple[Cell, Path]]:
        axes = len(self._chunks)
        for parent, _, files in os.walk(folder):
            above = Path(parent).relative_to(folder).parts
            if len(above) != axes - 1 or not all(part.isdecimal() for part in above):
                continue
            place = tuple(map(int, above))
            for name in files:
                if name.isdecimal():
                    yield (*place, int(name)), Path(parent, name)
                elif _LEFT_BEHIND.fullmatch(name):
                    self._left_behind.append(Path(parent, name))

    def _cells(self, where: Cell, slots: Integers) -> Integers:
        """Return the places in the chunk grid of slots of a shard, shape ``(n, axes)``."""
        inside = np.stack(np.unravel_index(slots, self._per_shard), axis=-1)
        return inside + np.multiply(where, self._per_shard)

    def _count(self, array: int, cells: Integers) -> None:
        layers = cells[:, :-2]
        if self._axis is not None and len(layers):
            steps = layers[:, self._axis]
            steps = steps[steps < _MOST_STEPS]  # others are no chunks of a stream
            missing = int(steps.max(initial=0)) + 1 - self._counts.shape[1 + self._axis]
            if missing > 0:
                widths = [(0, 0)] * self._counts.ndim
                widths[1 + self._axis] = (0, missing)
                self._counts = np.pad(self._counts, widths)
        inside = (layers < self._counts.shape[1:]).all(axis=1)
        np.add.at(self._counts, (np.full(int(inside.sum()), array), *layers[inside].T), 1)

    def _take_out(self, layers: Iterable[Sequence[int]]) -> None:
        """Take the chunks of layers, each array and cell, out of complete files."""
        by_shard: dict[tuple[int, Cell], list[int]] = {}
        for array, *cell in layers:
            for row, column in np.ndindex(*self._plane):
                place = (*cell, row, column)
                where = tuple(map(floordiv, place, self._per_shard))
                if not self._decoder.sharded:
                    final = self._final(array, where)
                    self.salvage.dropped += final.exists()
                    final.unlink(missing_ok=True)
                elif (array, where) in self._complete:
                    inside = [p % n for p, n in zip(place, self._per_shard, strict=True)]
                    by_shard.setdefault((array, where), []).append(int(np.ravel_multi_index(inside, self._per_shard)))
        for (array, where), slots in by_shard.items():
            final = self._final(array, where)
            with final.open("rb") as file:
                index = read_index(file, self._decoder)
            present = [slot for slot in slots if index[slot, 0] != MISSING]
            self.salvage.dropped += len(present)
            if len(present) == np.count_nonzero(index[:, 0] != MISSING):
                final.unlink()
                self._complete.discard((array, where))
            elif present:
                self._rewrite_without(Shard(final, self._temporary(array, where), self._decoder.slots, 0), present)

    def _rewrite_without(self, shard: Shard, slots: list[int]) -> None:
        self._writing.mkdir(parents=True, exist_ok=True)
        shard.open()
        try:
            shard.continue_from(shard.final)
            shard.drop(np.array(slots))
            shard.finish(durable=self._plan.durable)
        finally:
            shard.close()

    def _rewrite_layer(self, array: int, cell: Cell, layer: Block) -> None:
        """Put other chunks in the place of those of a layer."""
        encode = encoder(self._plan.codec)
        self._writing.mkdir(parents=True, exist_ok=True)
        by_shard: dict[Cell, list[tuple[int, bytes]]] = {}
        for row, column in np.ndindex(*self._plane):
            place = (*cell, row, column)
            where = tuple(map(floordiv, place, self._per_shard))
            inside = tuple(map(mod, place, self._per_shard))
            chunk = layer[row, column].tobytes() if encode is None else encode(layer[row, column])
            by_shard.setdefault(where, []).append((int(np.ravel_multi_index(inside, self._per_shard)), chunk))
        for where, chunks in by_shard.items():
            final, temporary = self._final(array, where), self._temporary(array, where)
            if not self._decoder.sharded:
                write_file(final, temporary, chunks[0][1], durable=self._plan.durable)
                continue
            shard = Shard(final, temporary, self._decoder.slots, 0)
            shard.open()
            try:
                shard.continue_from(final)
                pieces = [chunk for _, chunk in chunks]
                lengths = list(map(len, pieces))
                shard.note([slot for slot, _ in chunks], shard.append(lengths, pieces), lengths)
                shard.finish(durable=self._plan.durable)
            finally:
                shard.close()

    # ---- files with a temporary name -------------------------------------------------------------------------------

    def _find_unfinished(self) -> Iterator[_Unfinished]:
        """Yield shards under their temporary names with what can be read of them, and count their chunks."""
        found: dict[tuple[int, Cell], Integers] = {}
        sizes: dict[tuple[int, Cell], int] = {}
        for entry in read_journal(self._plan.root / JOURNAL_FILE):
            key = entry.array, entry.where
            if key not in sizes:
                path = self._temporary(*key)
                sizes[key] = path.stat().st_size if self._belongs(entry) and path.exists() else 0
            if not sizes[key] or not self._belongs(entry):
                continue
            there = entry.offsets + entry.lengths <= sizes[key]
            if entry.checksums is not None:
                there &= self._unchanged(entry, there)
            index = found.setdefault(key, np.full((self._decoder.slots, 2), MISSING, np.uint64))
            index[entry.slots[there], 0] = entry.offsets[there]
            index[entry.slots[there], 1] = entry.lengths[there]
        for (array, where), index in found.items():
            slots = np.flatnonzero(index[:, 0] != MISSING)
            if not slots.size:
                continue
            if (array, where) in self._complete:  # one that a later stream has continued
                with self._final(array, where).open("rb") as file:
                    before = np.flatnonzero(read_index(file, self._decoder)[:, 0] != MISSING)
                final, copy = self._final(array, where), self._temporary(array, where)
                if not np.isin(before, slots).all() or not _begins_like(copy, final, self._decoder.index_bytes):
                    continue
                slots = np.setdiff1d(slots, before)
                self._complete.discard((array, where))
            self._count(array, self._cells(where, slots))
            yield _Unfinished(array, where, self._temporary(array, where), index)

    def _belongs(self, entry: Entry) -> bool:
        """Tell whether an entry speaks of a shard of this dataset."""
        return (
            self._decoder.sharded
            and entry.array < len(self._plan.layout.images)
            and len(entry.where) == len(self._chunks)
            and bool((entry.slots < self._decoder.slots).all())
        )

    def _unchanged(self, entry: Entry, there: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Tell which chunks have the bytes that they were written with."""
        same = np.zeros(len(there), np.bool_)
        with self._temporary(entry.array, entry.where).open("rb") as file:
            for place in np.flatnonzero(there):
                file.seek(int(entry.offsets[place]))
                data = file.read(int(entry.lengths[place]))
                same[place] = entry.checksums is not None and crc32c(data) == entry.checksums[place]
        return same

    def _finish(self, unfinished: _Unfinished, *, cut: bool) -> None:
        """Write the index of a shard and give it its name."""
        array, where, index = unfinished.array, unfinished.where, unfinished.index
        slots = np.flatnonzero(index[:, 0] != MISSING)
        final = self._final(array, where)
        shard = Shard(final, unfinished.file, self._decoder.slots, 0)
        shard.place(slots, index[slots, 0], index[slots, 1])
        if cut:
            layers = self._cells(where, slots)[:, :-2]
            whole = self._counts[(np.full(len(slots), array), *layers.T)] >= math.prod(self._plane)
            shard.drop(slots[~whole])
            self.salvage.dropped += int((~whole).sum())
            if not whole.any() and not final.exists():
                return  # removed with the other temporary files
        shard.open()
        try:
            shard.finish(durable=self._plan.durable)
        finally:
            shard.close()
        self.salvage.completed += 1

    def _temporary_files(self) -> list[Path]:
        return [file for file in self._writing.glob("*") if file.is_file()]

    def _final(self, array: int, where: Cell) -> Path:
        return (self._plan.array_path(array) / "c").joinpath(*map(str, where))

    def _temporary(self, array: int, where: Cell) -> Path:
        return self._writing / f"{array}-{'.'.join(map(str, where))}"
