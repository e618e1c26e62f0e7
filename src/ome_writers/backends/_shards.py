"""Files that chunks go to: shards that grow by appending, and files of one chunk each.

A file is written under a temporary name and gets its own when it is complete, so that under its final name a file is
whole or not there. A shard is the Zarr v3 codec "sharding_indexed" 1.0: encoded chunks in any order, then the index,
16 bytes for each chunk of the shard (offset and length, little endian; all bits set for a chunk that is not there),
then the CRC-32C of the index.
"""

from __future__ import annotations

import errno
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from io import FileIO
from itertools import accumulate
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from ome_writers import _files
from ome_writers._files import write_all

from ._encoding import crc32c
from ._journal import Integers

WRITING_FOLDER: Final = "ome_writers/writing"
"""Folder of files that are not complete yet, below the dataset's root; it is not there when nothing is written."""

MAX_OPEN_FILES: Final = 128
"""The most files that are held open at once; more shards than that are reopened when they are appended to."""

Numbers: TypeAlias = Sequence[int] | Integers

_SMALL_BYTES: Final = 1 << 16

_MISSING: Final = np.iinfo(np.uint64).max


class Shard:
    """A shard that is being written.

    Parameters
    ----------
    final : Path
        Its file when it is complete.
    temporary : Path
        Its file until then.
    slots : int
        Chunks in its index.
    expected : int
        Chunks that are still to be written or skipped, those outside of the array left out.
    array, where : int, tuple of int
        Number of its array, and its place in the grid of shards: what the journal calls it by.
    earlier : Path, optional
        A complete shard whose chunks it holds, too; copied before the first chunk is appended.
    """

    __slots__ = (
        "_complete_size", "_dirty", "_index", "_size", "_unsynced", "array", "earlier", "expected", "file", "final",
        "lock", "temporary", "where",
    )  # fmt: skip

    def __init__(
        self, final: Path, temporary: Path, slots: int, expected: int, *, array: int = 0,
        where: tuple[int, ...] = (), earlier: Path | None = None,
    ) -> None:  # fmt: skip
        self.array = array
        self.where = where
        self.earlier = earlier
        self.final = final
        self.temporary = temporary
        self.expected = expected
        self.lock = threading.Lock()  # held by whoever calls a method or looks at the file
        self.file: FileIO | None = None
        self._index = np.full((slots, 2), _MISSING, "<u8")
        self._size = 0
        self._complete_size: int | None = None  # of the file, index and all, when it has been begun to complete it
        self._dirty = False  # whether it may hold bytes that are not on the medium
        self._unsynced: OSError | None = None  # the error after which nobody knows what is on the medium

    @property
    def empty(self) -> bool:
        """Whether it holds no chunk; there may be a file, in which what stands belongs to none."""
        return bool((self._index[:, 0] == _MISSING).all())

    def open(self) -> None:
        """Open the file, to begin it or to go on."""
        self.file = _files.system.open(self.temporary, "rb+" if self._size else "wb")

    def append(self, lengths: Sequence[int], pieces: Sequence[Any]) -> list[int]:
        """Append encoded chunks, which :meth:`note` is then told of; return where each begins in the file.

        Parameters
        ----------
        lengths : sequence of int
            Bytes of each chunk.
        pieces : sequence of bytes-like
            Their bytes, cut in any way.
        """
        nbytes = sum(lengths)
        if len(pieces) > 1 and nbytes < len(pieces) * _SMALL_BYTES:
            pieces = [b"".join(pieces)]  # a copy costs less than as many buffers, or system calls
        write_all(self._opened(), self._size, *pieces)
        self._dirty = True
        offsets = list(accumulate(lengths[:-1], initial=self._size))
        self._size += nbytes
        return offsets

    def note(self, slots: Numbers, offsets: Numbers, lengths: Numbers) -> None:
        """Take note of where chunks stand in the file, by their places in the index."""
        # a slice takes a quarter of the time, and keeps Python's lock
        places = slice(slots.start, slots.stop) if isinstance(slots, range) else slots
        self._index[places, 0] = offsets
        self._index[places, 1] = lengths

    def slots(self) -> npt.NDArray[np.intp]:
        """Return the places in the index of the chunks that were written."""
        return np.flatnonzero(self._index[:, 0] != _MISSING)

    def chunks(self) -> tuple[list[int], list[int], list[int]]:
        """Return places in the index, offsets and lengths of all chunks that were written."""
        slots = self.slots()
        return slots.tolist(), self._index[slots, 0].tolist(), self._index[slots, 1].tolist()

    def place(self, slots: Integers, offsets: Integers, lengths: Integers) -> None:
        """Take note of chunks that stand in a file that was written before."""
        self.note(slots, offsets, lengths)
        self._size = max(self._size, int((offsets + lengths).max(initial=0)))

    def drop(self, slots: Integers) -> None:
        """Take chunks out of the index; their bytes stay."""
        self._index[slots] = _MISSING

    def holds(self, slot: int) -> bool:
        """Tell whether a chunk was written."""
        return bool(self._index[slot, 0] != _MISSING)

    def continue_from(self, file: Path) -> None:
        """Take over the chunks of a shard that is complete."""
        tail, own = self._index.nbytes + 4, self._opened()
        with file.open("rb") as source:
            size = source.seek(-tail, os.SEEK_END)
            index, checksum = source.read(tail - 4), source.read(4)
            if crc32c(index) != int.from_bytes(checksum, "little"):
                raise OSError(f"{file} is damaged: the checksum of its index is wrong")
            done = source.seek(0)
            while done < size:
                piece = source.read(min(size - done, 1 << 24))
                write_all(own, done, piece)
                done += len(piece)
        self._index[...] = np.frombuffer(index, "<u8").reshape(self._index.shape)
        self._size, self._dirty = size, True

    @property
    def needs_sync(self) -> bool:
        """Whether it may hold bytes that are not on the medium."""
        return self._dirty

    def sync(self) -> None:
        """Have what was appended on the medium.

        Raises
        ------
        OSError
            If that fails, and from then on: the system tells only once that it has lost data.
        """
        if self._unsynced is not None:
            raise self._unsynced
        if self._dirty and self.file is not None:
            try:
                _files.system.sync(self.file)
            except OSError as error:
                self._unsynced = error
                raise
        self._dirty = False

    @property
    def in_place(self) -> bool:
        """Whether the file has its final name: when Ctrl-C comes just then, nobody else knows."""
        if self._complete_size is None or self.temporary.exists():
            return False
        return self.final.exists() and self.final.stat().st_size == self._complete_size

    def finish(self, *, durable: bool = False) -> None:
        """Write the index, close the file and give it its final name; when this fails, it can be tried again.

        Parameters
        ----------
        durable : bool
            Whether to have it on the medium before, and its name after that.
        """
        index = self._index.tobytes()
        file, self._complete_size = self._opened(), self._size + len(index) + 4
        write_all(file, self._size, index, crc32c(index).to_bytes(4, "little"))
        file.truncate(self._complete_size)  # of what an append has left that failed half-way
        if durable:
            self._dirty = True
            self.sync()
        self.close()
        _files.make_folder(self.final.parent, durable=durable)
        _files.system.replace(self.temporary, self.final)
        if durable:
            self.sync_name()

    def sync_name(self) -> None:
        """Have the final name on the medium."""
        _files.system.sync_folder(self.final.parent)

    def discard(self) -> None:
        """Remove the file of a shard without chunks, which is there when its first append has failed."""
        self.close()
        self.temporary.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file; it can be opened again."""
        file, self.file = self.file, None
        if file is not None:
            file.close()

    def _opened(self) -> FileIO:
        if self.file is None:
            raise ValueError("the file is not open")
        return self.file


class OpenFiles:
    """Keeps the files of shards open, those that were used last, and not too many.

    Parameters
    ----------
    limit : int, optional
        The most files; None for :data:`MAX_OPEN_FILES`. Each thread may open one more before it closes another.
    """

    def __init__(self, limit: int | None = None) -> None:
        self._limit = MAX_OPEN_FILES if limit is None else limit
        self._lock = threading.Lock()
        self._open: OrderedDict[Shard, None] = OrderedDict()

    def use(self, shard: Shard) -> None:
        """Have the file of a shard open, whose lock the caller holds."""
        while shard.file is None:
            try:
                shard.open()
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE) or not self._close_one_of_many():
                    raise
        with self._lock:
            self._open[shard] = None
            self._open.move_to_end(shard)
            if len(self._open) > self._limit:
                self._close_one()

    def forget(self, shard: Shard) -> None:
        """Stop watching a shard, whose file is closed."""
        with self._lock:
            self._open.pop(shard, None)

    def _close_one_of_many(self) -> bool:
        with self._lock:
            return self._close_one()

    def _close_one(self) -> bool:
        """Close the file that was used longest ago; return whether there was one that nobody is writing to."""
        for shard in self._open:
            if shard.lock.acquire(blocking=False):  # nobody is writing to it, the caller least of all
                try:
                    shard.close()
                finally:
                    shard.lock.release()
                del self._open[shard]
                return True
        return False


def add_chunks(final: Path, temporary: Path, slots: int, chunks: Mapping[int, bytes]) -> None:
    """Write a shard with more chunks than it has now; one that is not there has none.

    Parameters
    ----------
    final : Path
        The shard's file, replaced when the new one is complete.
    temporary : Path
        Where the new one is written, in the same file system.
    slots : int
        Chunks in its index.
    chunks : mapping
        Place in the index to encoded chunk; a place that is taken is left as it is.
    """
    shard = Shard(final, temporary, slots, slots)
    shard.open()
    try:
        if final.exists():
            shard.continue_from(final)
        for slot, chunk in chunks.items():
            if not shard.holds(slot):
                shard.note([slot], shard.append([len(chunk)], [chunk]), [len(chunk)])
        if not shard.empty:
            shard.finish()
    finally:
        shard.close()
        temporary.unlink(missing_ok=True)


def write_file(final: Path, temporary: Path, data: Any, *, durable: bool = False) -> None:
    """Write a file of one chunk under a temporary name, then give it its own; if durable, have both on the medium."""
    try:
        file = _files.system.open(temporary, "wb")
        try:
            write_all(file, 0, data)
            if durable:
                _files.system.sync(file)
        finally:
            file.close()
        try:
            _files.system.replace(temporary, final)
        except FileNotFoundError:
            _files.make_folder(final.parent, durable=durable)
            _files.system.replace(temporary, final)
        if durable:
            _files.system.sync_folder(final.parent)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
