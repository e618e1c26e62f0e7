"""How far a library is behind that writes chunks to the ends of shards, from threads of its own, and doesn't say.

A chunk that is in its file is no longer in memory. How many there are can be told from the files as they grow: chunks
that are not compressed have the same length, and a compressed one tells its own.

Sources of the formats: the header of c-blosc 1 (README_CHUNK_FORMAT), and RFC 8878 (zstd frames), section 3.1.1.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Final, TypeAlias

from ome_writers.abc import WritePlan

from ._decompression import ZSTD_MAGIC

_BLOSC_HEADER: Final = struct.Struct("<4B3I")
_ZSTD_HEADER_MAX: Final = 18
_ZSTD_DICTIONARY_BYTES: Final = (0, 1, 2, 4)
_ZSTD_SIZE_BYTES: Final = (0, 2, 4, 8)
_ZSTD_REPEATED: Final = 1
_BLOCK_HEADER_BYTES: Final = 3

Place: TypeAlias = tuple[int, int]
"""Number of an array, and of shards along its slowest axis."""

LengthAt: TypeAlias = Callable[[FileIO, int], int | None]


@dataclass(slots=True)
class _Shards:
    """Those at a place, while not all of their chunks are known to be in files."""

    expected: int = 0
    complete: bool = False  # whether no more are to be expected
    written: int = 0  # at the last look
    files: dict[str, tuple[int, int]] = field(default_factory=dict)  # chunks, and where they end


class ChunksBehind:
    """Counts chunks that a library was given and that are not in its files yet.

    Parameters
    ----------
    plan : WritePlan
        What is written. Files are those of shards, each chunk at the end of what is there, an index last.
    """

    def __init__(self, plan: WritePlan) -> None:
        geometry = plan.geometry
        self._roots = [plan.array_path(array) / "c" for array in range(len(plan.layout.images))]
        self._sliced = len(geometry.shape) > 2  # along index axes, of which the first one leads the paths of shards
        shards = geometry.shards or geometry.chunks
        self._per_shard = math.prod(s // c for s, c in zip(shards, geometry.chunks, strict=True))
        self._chunk_bytes = geometry.chunk_bytes
        self._length_at = _LENGTHS[plan.codec.name]
        self._shards: dict[Place, _Shards] = {}
        self._behind = 0

    def expect(self, array: int, shard: int, chunks: int, *, last: bool) -> None:
        """Count chunks that the library has all it needs for.

        Parameters
        ----------
        array : int
            Number of the array.
        shard : int
            The shards they belong to, along the slowest axis.
        chunks : int
            How many there are.
        last : bool
            Whether these shards are complete with them.
        """
        shards = self._shards.setdefault((array, shard), _Shards())
        shards.expected += chunks
        shards.complete = last
        self._behind += chunks

    def nbytes(self, allowed: int) -> int:
        """Return how many bytes, before compression, are behind, or may be; looks at files if those are not allowed."""
        if self._behind * self._chunk_bytes > allowed:
            self._look()
        return self._behind * self._chunk_bytes

    def _look(self) -> None:
        behind = 0
        for place, shards in list(self._shards.items()):
            if shards.written < shards.expected:
                shards.written = self._count_all(place, shards.files)
            behind += max(0, shards.expected - shards.written)
            if shards.complete and shards.written >= shards.expected:
                del self._shards[place]
        self._behind = behind

    def _count_all(self, place: Place, found: dict[str, tuple[int, int]]) -> int:
        """Return how many chunks the shards at a place hold, given what was found in their files, which is kept."""
        array, shard = place
        root = self._roots[array] / str(shard) if self._sliced else self._roots[array]
        for folder, _, names in os.walk(root):
            for name in names:
                path = os.path.join(folder, name)  # noqa: PTH118  called for each file of large grids
                chunks, end = found.get(path, (0, 0))
                if chunks < self._per_shard:
                    found[path] = self._count(Path(path), chunks, end)
        return sum(chunks for chunks, _ in found.values())

    def _count(self, path: Path, chunks: int, end: int) -> tuple[int, int]:
        """Return how many chunks a file holds, and where they end, given how many it held."""
        try:
            size = path.stat().st_size
            if self._length_at is None:
                return min(size // self._chunk_bytes, self._per_shard), 0
            with FileIO(path) as file:
                while chunks < self._per_shard and (length := self._length_at(file, end)) and end + length <= size:
                    chunks, end = chunks + 1, end + length
        except OSError:  # it can't be read while it is written to, such as on Windows: nothing can be told from it
            return self._per_shard, 0
        return chunks, end


def _blosc_length(file: FileIO, at: int) -> int | None:
    """Return the length of a chunk of blosc, as its header says."""
    file.seek(at)
    header = file.read(_BLOSC_HEADER.size)
    if len(header) < _BLOSC_HEADER.size:
        return None
    version, *_, compressed = _BLOSC_HEADER.unpack(header)
    return compressed if version and compressed >= _BLOSC_HEADER.size else None


def _zstd_length(file: FileIO, at: int) -> int | None:
    """Return the length of a frame of zstd: its header, its blocks up to the last one, and its checksum."""
    file.seek(at)
    header = file.read(_ZSTD_HEADER_MAX)
    if len(header) <= len(ZSTD_MAGIC) or not header.startswith(ZSTD_MAGIC):
        return None
    descriptor = header[len(ZSTD_MAGIC)]
    single_segment = descriptor >> 5 & 1
    end = at + len(ZSTD_MAGIC) + 1 + (1 - single_segment) + _ZSTD_DICTIONARY_BYTES[descriptor & 3]
    end += _ZSTD_SIZE_BYTES[descriptor >> 6] or single_segment
    last = False
    while not last:
        file.seek(end)
        block = file.read(_BLOCK_HEADER_BYTES)
        if len(block) < _BLOCK_HEADER_BYTES:
            return None
        word = int.from_bytes(block, "little")
        last = bool(word & 1)
        end += _BLOCK_HEADER_BYTES + (1 if word >> 1 & 3 == _ZSTD_REPEATED else word >> 3)
    checksum = 4 * (descriptor >> 2 & 1)
    return end + checksum - at


_LENGTHS: Final[dict[str, LengthAt | None]] = {
    "none": None,
    "blosc-lz4": _blosc_length,
    "blosc-zstd": _blosc_length,
    "zstd": _zstd_length,
}
