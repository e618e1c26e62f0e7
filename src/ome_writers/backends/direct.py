"""Writing without a Zarr library: chunks are encoded and appended to shards as layers of them are complete.

Nothing is read back, nothing is put together twice, and no more than a layer of chunks is in memory, however large a
shard is.
"""

from __future__ import annotations

import itertools
import math
import os
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np

from ome_writers.abc import Block, Capabilities, LayerSink, LayersLostError, WritePlan
from ome_writers.errors import UnsupportedError
from ome_writers.settings import DTYPES

from ._earlier import EarlierFrames, read_layer
from ._encoding import Encoder, crc32c, encoder
from ._grid import Cell, ShardGrid
from ._journal import JOURNAL_FILE, Journal
from ._shards import WRITING_FOLDER, OpenFiles, Shard, write_file

_APPEND_BYTES: Final = 1 << 21
"""Chunks are encoded, and then appended to a shard, so many bytes of pixels at a time."""

_MAX_WORKERS: Final = 8
_MUCH_BYTES: Final = 1 << 24
_MOST_NAMED: Final = 10  # shards, in the message of an error
_BLOSC_MAX_BYTES: Final = (1 << 31) - 1 - 16  # c-blosc 1: BLOSC_MAX_BUFFERSIZE


@dataclass(frozen=True, slots=True)
class _Failure:
    """A shard that could not be completed, and the layers that are in it."""

    file: Path
    error: Exception
    layers: set[tuple[int, Cell]]


class _Growth:
    """How far an array can be read along its unbounded axis: up to the first step with a shard that is not complete."""

    def __init__(self) -> None:
        self.steps = 0
        self._complete: Counter[int] = Counter()

    def count(self, step: int, shards: int) -> None:
        """Count a complete shard of a step that has ``shards`` of them."""
        self._complete[step] += 1
        while self._complete[self.steps] == shards:
            del self._complete[self.steps]
            self.steps += 1


class DirectSink(LayerSink):
    """Appends layers of chunks to shards, or writes a file for each chunk."""

    capabilities: ClassVar[Capabilities] = Capabilities(
        name="direct",
        dtypes=frozenset(DTYPES),
        compressions=frozenset({"none", "zstd", "blosc-zstd", "blosc-lz4"}),
        shuffles=frozenset({"none", "byte", "bit"}),
        checksum=True,
        workers=min(_MAX_WORKERS, max(2, os.cpu_count() or 1)),
        copies=1.0,  # the encoded chunks
        durable=True,
    )
    takes_groups = True

    @classmethod
    def check(cls, plan: WritePlan) -> None:
        """Refuse chunks that are too large for the codec."""
        super().check(plan)
        nbytes = math.prod(plan.geometry.chunks) * np.dtype(plan.geometry.dtype).itemsize
        if plan.codec.name.startswith("blosc") and nbytes > _BLOSC_MAX_BYTES:
            raise UnsupportedError(
                f"a chunk of {nbytes:,} bytes is more than blosc takes ({_BLOSC_MAX_BYTES:,}); make chunks smaller, or "
                "use compression 'zstd'."
            )

    @classmethod
    def memory_needed(cls, plan: WritePlan) -> int:
        """Return the bytes of the indices of all shards that are open at once, when they count: 16 for each chunk."""
        geometry = plan.geometry
        if geometry.shards is None:
            return 0
        per_shard = math.prod(s // c for s, c in zip(geometry.shards, geometry.chunks, strict=True))
        in_plane = math.prod(-(-n // s) for n, s in zip(geometry.frame_shape, geometry.shards[-2:], strict=True))
        nbytes = 16 * per_shard * in_plane * plan.layout.open_blocks(geometry.index_extent("shard"))
        return nbytes if nbytes >= _MUCH_BYTES else 0

    def __init__(self, plan: WritePlan) -> None:
        geometry = plan.geometry
        self._folders = [plan.array_path(array) / "c" for array in range(len(plan.layout.images))]
        self._writing = plan.root / WRITING_FOLDER
        self._writing.mkdir(parents=True, exist_ok=True)
        self._encode = encoder(plan.codec)
        self._chunk_bytes = math.prod(geometry.chunks) * np.dtype(geometry.dtype).itemsize
        self._at_once = max(1, _APPEND_BYTES // self._chunk_bytes)
        self._sharded = geometry.shards is not None
        self._grid = ShardGrid(geometry)
        self._shards: dict[tuple[int, Cell], Shard] = {}
        self._growth = [_Growth() for _ in self._folders]
        self._lock = threading.Lock()  # of the two above
        self._files = OpenFiles()
        self._durable = plan.durable
        self._journal = Journal(plan.root / JOURNAL_FILE)
        self._document = plan.array_document
        self._earlier = EarlierFrames(plan) if plan.first_frame else None
        if self._earlier is not None:
            self._count_settled_shards()

    def write_chunks(self, array: int, cell: Cell, first_row: int, chunks: Block) -> None:
        """Write whole rows of chunks; when this returns, they are in their files."""
        if not self._sharded:
            self._write_files(array, cell, first_row, chunks)
            return
        for where, slots, part in self._grid.parts(cell, first_row, chunks):
            shard = self._shard(array, where)
            if self._encode is None:
                pieces = [part] if part.flags.c_contiguous else list(part)
                self._append_raw(shard, slots, pieces, itertools.chain.from_iterable(part))
            else:
                self._encode_and_append(shard, slots, itertools.chain.from_iterable(part))

    def write_layers(self, array: int, cells: Sequence[Cell], layers: Sequence[Block]) -> None:
        """Append several layers to their shard together."""
        grid = self._grid
        slots = [slot for cell in cells for slot in grid.slots_of(cell, 0, *grid.plane)]
        shard = self._shard(array, grid.shard_of(cells[0]))
        chunks = (chunk for layer in layers for row in layer for chunk in row)
        if self._encode is None:
            self._append_raw(shard, slots, layers, chunks)
        else:
            self._encode_and_append(shard, slots, chunks)

    def skip_layer(self, array: int, cell: Cell) -> None:
        """Take note that a layer is not written, so that its shard is known to be complete."""
        if not self._sharded:
            return
        layer = np.empty((*self._grid.plane, 0), np.uint8)
        for where, slots, _ in self._grid.parts(cell, 0, layer):
            shard = self._shard(array, where)
            with shard.lock:
                self._count(shard, len(slots))

    def read_layer(self, array: int, cell: Cell) -> Block | None:
        """Return the chunks of a layer that stands in the dataset.

        Raises
        ------
        OSError
            If a chunk is not there or can't be decoded.
        """
        return read_layer(self._folders[array], self._document, cell, self._grid.plane)

    def sync(self) -> None:
        """Have all shards that are being written, and then the journal, on the medium.

        Raises
        ------
        LayersLostError
            Naming all layers of shards for which that failed: nobody knows which of their bytes are there.
        """
        with self._lock:
            shards = list(self._shards.values())
        failed = []
        for shard in shards:
            with shard.lock:
                try:
                    if shard.needs_sync:
                        self._files.use(shard)
                        shard.sync()
                except OSError as error:
                    failed.append(_Failure(shard.temporary, error, self._layers_in(shard)))
        if failed:
            layers = sorted({layer for failure in failed for layer in failure.layers})
            raise LayersLostError(f"{failed[0].error}; it may not be on the medium", layers) from failed[0].error
        self._journal.sync()

    def readable_extent(self, array: int) -> int | None:
        """Return the extent of complete shards; a shard that is being written can't be read."""
        return self._growth[array].steps * self._grid.shard_steps if self._sharded else None

    def close(self) -> None:
        """Complete all shards with the chunks that they have; every one is tried, when called again what is left.

        Raises
        ------
        LayersLostError
            Naming the shards that could not be completed, and the first error.
        """
        failed: list[_Failure] = []
        for shard in list(self._shards.values()):
            self._try_to_complete(failed, shard)
        try:
            self._close_journal()
        except OSError:
            if not failed:
                raise
        finally:
            self._remove_folder()
        if failed:
            names = ", ".join(str(failure.file) for failure in failed[:_MOST_NAMED])
            more = f" and {len(failed) - _MOST_NAMED} more" if len(failed) > _MOST_NAMED else ""
            layers = sorted({layer for failure in failed for layer in failure.layers})
            first = failed[0].error
            raise LayersLostError(
                f"{first}; shards that are not complete and can't be read: {names}{more}", layers
            ) from first

    # ---- files of one chunk ----------------------------------------------------------------------------------------

    def _write_files(self, array: int, cell: Cell, first_row: int, chunks: Block) -> None:
        for row, of_row in enumerate(chunks, first_row):
            for column, chunk in enumerate(of_row):
                where = (*cell, row, column)
                data = chunk if self._encode is None else self._encode(chunk)
                write_file(self._final(array, where), self._temporary(array, where), data, durable=self._durable)

    # ---- shards ----------------------------------------------------------------------------------------------------

    def _append_raw(self, shard: Shard, slots: Sequence[int], pieces: Sequence[Any], chunks: Iterable[Any]) -> None:
        """Append chunks as they are; pieces are their bytes, cut in any way."""
        lengths = [self._chunk_bytes] * len(slots)
        sums = list(map(crc32c, chunks)) if self._durable else []
        with shard.lock:
            offsets = self._append(shard, lengths, pieces)
            self._commit(shard, slots, offsets, lengths, sums)

    def _encode_and_append(self, shard: Shard, slots: Sequence[int], chunks: Iterator[Any]) -> None:
        """Encode chunks, and append them while they are in the processor's cache unless others are appending."""
        encode: Encoder = self._encode  # type: ignore[assignment]  # called only with one
        offsets: list[int] = []
        lengths: list[int] = []
        sums: list[int] = []
        pieces: list[bytes] = []
        for first in range(0, len(slots), self._at_once):
            pieces += map(encode, itertools.islice(chunks, self._at_once))  # no Python between one and the next
            last = first + self._at_once >= len(slots)
            if not shard.lock.acquire(blocking=last):
                continue
            try:
                sizes = list(map(len, pieces))
                offsets += self._append(shard, sizes, pieces)
                lengths += sizes
                if self._durable:
                    sums += map(crc32c, pieces)
                if last:
                    self._commit(shard, slots, offsets, lengths, sums)
            finally:
                shard.lock.release()
            pieces = []

    def _append(self, shard: Shard, lengths: Sequence[int], pieces: Sequence[Any]) -> list[int]:
        """Append encoded chunks to a shard, whose lock the caller holds; return where each begins."""
        self._files.use(shard)
        if shard.earlier is not None:
            shard.continue_from(shard.earlier)
            if self._durable:
                shard.sync()  # the journal says nothing of these bytes that could be checked
            shard.earlier = None
            self._journal.add(shard.array, shard.where, *shard.chunks())
        return shard.append(lengths, pieces)

    def _commit(
        self, shard: Shard, slots: Sequence[int], offsets: list[int], lengths: list[int], sums: list[int]
    ) -> None:
        """Note chunks that are in a shard, whose lock the caller holds; from then on, recovery finds them."""
        self._journal.add(shard.array, shard.where, slots, offsets, lengths, sums)
        shard.note(slots, offsets, lengths)
        self._count(shard, len(slots))

    def _shard(self, array: int, where: Cell) -> Shard:
        key = array, where
        with self._lock:
            shard = self._shards.get(key)
            if shard is None:
                expected = math.prod(map(len, self._grid.chunks_in(where))) - self._settled(array, where)
                final, temporary = self._final(array, where), self._temporary(array, where)
                earlier = final if self._earlier is not None and final.exists() else None
                shard = Shard(final, temporary, self._grid.slots, expected, array=array, where=where, earlier=earlier)
                self._shards[key] = shard
            return shard

    def _count(self, shard: Shard, chunks: int) -> None:
        """Count chunks of a shard, whose lock the caller holds, and complete it with the last of them."""
        shard.expected -= chunks
        if shard.expected == 0:
            self._complete(shard)
            with self._lock:  # not before: when this has failed, close tries again
                del self._shards[shard.array, shard.where]

    def _complete(self, shard: Shard) -> None:
        try:
            if shard.empty:
                shard.discard()
            elif shard.in_place:
                if self._durable:
                    shard.sync_name()
            else:
                self._files.use(shard)
                shard.finish(durable=self._durable)
        finally:
            shard.close()
            self._files.forget(shard)
        if (axis := self._grid.unbounded_axis) is not None:
            with self._lock:
                self._growth[shard.array].count(shard.where[axis], self._grid.shards_per_step)

    def _try_to_complete(self, failed: list[_Failure], shard: Shard) -> None:
        try:
            self._complete(shard)
        except Exception as error:  # noqa: BLE001  close raises it when it has tried all
            failed.append(_Failure(shard.final, error, self._layers_in(shard)))
        else:
            self._shards.pop((shard.array, shard.where), None)  # the others are tried again by the next close

    def _layers_in(self, shard: Shard) -> set[tuple[int, Cell]]:
        """Return the layers that a shard holds chunks of."""
        return {(shard.array, cell) for cell in self._grid.layers_in(shard.where, shard.slots())}

    # ---- going on with a dataset -----------------------------------------------------------------------------------

    def _settled(self, array: int, where: Cell) -> int:
        """Return how many chunks of a shard belong to layers that were written or skipped by earlier streams."""
        if self._earlier is None:
            return 0
        steps = self._grid.chunks_in(where)
        layers = sum(self._earlier.settled(array, cell) for cell in itertools.product(*steps[:-2]))
        return layers * len(steps[-2]) * len(steps[-1])

    def _count_settled_shards(self) -> None:
        """Count, along the unbounded axis, the shards that earlier streams have completed."""
        if self._earlier is None or self._grid.unbounded_axis is None or not self._sharded:
            return
        step = self._earlier.whole_steps // self._grid.shard_steps
        for array, growth in enumerate(self._growth):
            growth.steps = step
            for where in itertools.product(*self._grid.shards_at(step)):
                if self._settled(array, where) == math.prod(map(len, self._grid.chunks_in(where))):
                    growth.count(step, self._grid.shards_per_step)

    def _close_journal(self) -> None:
        incomplete = self._shards or (self._writing.exists() and any(self._writing.iterdir()))
        self._journal.close(remove=not incomplete)

    def _remove_folder(self) -> None:
        with suppress(OSError):  # what could not be completed is still in it
            self._writing.rmdir()

    def _final(self, array: int, where: Cell) -> Path:
        return self._folders[array].joinpath(*map(str, where))

    def _temporary(self, array: int, where: Cell) -> Path:
        return self._writing / f"{array}-{'.'.join(map(str, where))}"
