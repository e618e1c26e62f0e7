"""The journal of shards that are being written: which chunks stand where in files that have no index yet.

``ome_writers/journal`` is a sequence of records. Each is 12 bytes, the letters ``OWJ1``, the length of the rest and the
CRC-32C of the rest (both 4 bytes, little endian), and then::

    array (u4), axes (u4), place of the shard in its grid (axes x u8), chunks (u4), flags (u4),
    slots in the shard's index, offsets, lengths (chunks x u8 each),
    CRC-32C of the chunks' bytes (chunks x u8, if flags & 1)

A record is written when its chunks have been written, so whoever finds it whole finds the chunks in the file, unless
the machine itself has failed. The file is removed when all shards are complete.
"""

from __future__ import annotations

import itertools
import struct
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ome_writers import _files

from ._encoding import crc32c

JOURNAL_FILE: Final = "ome_writers/journal"
"""Path of the journal below the dataset's root; it is not there when no shard is incomplete."""

_MARK: Final = b"OWJ1"
_HEAD: Final = struct.Struct("<4sII")
_CHECKSUMS: Final = 1
_WITHOUT_CHECKSUMS: Final = 3  # columns of numbers

Integers = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Entry:
    """Chunks that were appended to a shard.

    Attributes
    ----------
    array : int
        Number of the array.
    where : tuple of int
        Place of the shard in the array's grid of shards.
    slots, offsets, lengths : ndarray of int
        Of each chunk: its place in the shard's index, and where its bytes stand in the file.
    checksums : ndarray of int, optional
        CRC-32C of each chunk's bytes.
    """

    array: int
    where: tuple[int, ...]
    slots: Integers
    offsets: Integers
    lengths: Integers
    checksums: Integers | None = None


class Journal:
    """Appends records; any thread may.

    Parameters
    ----------
    path : Path
        The file, made with the first record.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: FileIO | None = None
        self._size = 0
        self._lock = threading.Lock()

    def add(
        self, array: int, where: tuple[int, ...], slots: Sequence[int], offsets: Sequence[int], lengths: Sequence[int],
        checksums: Sequence[int] = (),
    ) -> None:  # fmt: skip
        """Write a record; when this returns, the system has it.

        Parameters
        ----------
        array, where, slots, offsets, lengths : int, tuple of int, sequences of int
            As in :class:`Entry`.
        checksums : sequence of int
            Likewise; empty for none.

        Raises
        ------
        OSError
            If it can't be written; what stands of it is overwritten by the next one.
        """
        record = _encoded(array, where, (slots, offsets, lengths, *((checksums,) if checksums else ())))
        with self._lock:
            if self._file is None:
                self._file = _files.system.open(self._path, "wb")
            _files.write_all(self._file, self._size, record)
            self._size += len(record)

    def sync(self) -> None:
        """Have the records on the medium, not only in the system's memory."""
        with self._lock:
            if self._file is not None:
                _files.system.sync(self._file)

    def close(self, *, remove: bool) -> None:
        """Close the file, and remove it if nothing is incomplete."""
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None
        if remove:
            self._path.unlink(missing_ok=True)


def read_journal(path: Path) -> Iterator[Entry]:
    """Yield the records of a journal; what is not whole is passed over.

    Parameters
    ----------
    path : Path
        The file; one that is not there holds no records.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return
    place = data.find(_MARK)
    while 0 <= place <= len(data) - _HEAD.size:
        _, length, checksum = _HEAD.unpack_from(data, place)
        start = place + _HEAD.size
        body = data[start : start + length]
        entry = _decoded(body) if len(body) == length and crc32c(body) == checksum else None
        if entry is not None:
            yield entry
        place = data.find(_MARK, place + 1 if entry is None else start + length)


def _encoded(array: int, where: tuple[int, ...], columns: Sequence[Sequence[int]]) -> bytes:
    """Return a record; by ``struct``, since small arrays of NumPy take four times as long."""
    axes, count = len(where), len(columns[0])
    flags = _CHECKSUMS if len(columns) > _WITHOUT_CHECKSUMS else 0
    numbers = itertools.chain.from_iterable(columns)
    layout = f"<II{axes}QII{len(columns) * count}Q"
    body = struct.pack(layout, array, axes, *where, count, flags, *numbers)
    return _HEAD.pack(_MARK, len(body), crc32c(body)) + body


def _decoded(body: bytes) -> Entry | None:
    """Return what a record says; None when its parts do not make up its length."""
    try:
        array, axes = struct.unpack_from("<II", body)
        *where, count, flags = struct.unpack_from(f"<{axes}QII", body, 8)
    except struct.error:
        return None
    place = 8 + 8 * axes + 8
    columns = _WITHOUT_CHECKSUMS + bool(flags & _CHECKSUMS)
    if place + 8 * count * columns != len(body):
        return None
    return Entry(array, tuple(where), *np.frombuffer(body, "<u8", count * columns, place).reshape(columns, count))
