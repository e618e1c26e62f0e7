"""Chunks of zeros that a library leaves out, and that must be stored all the same.

A chunk whose pixels are all 0 reads the same whether it is stored or not. But a chunk that is not stored says that no
frame of it was acquired, so a black frame has to be on disk like any other.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np

from ome_writers.abc import WritePlan

from ._encoding import encoder
from ._shards import WRITING_FOLDER, add_chunks, write_file

Cell = tuple[int, ...]


class BlackChunks:
    """Adds chunks of zeros to the files of arrays that another library has written.

    Parameters
    ----------
    plan : WritePlan
        What is written.
    """

    def __init__(self, plan: WritePlan) -> None:
        geometry = plan.geometry
        self._plan = plan
        self._sharded = geometry.shards is not None
        shards = geometry.shards or geometry.chunks
        self._per_shard = tuple(s // c for s, c in zip(shards, geometry.chunks, strict=True))
        self._lock = threading.Lock()
        self._users = 0  # threads that need the folder of files in progress

    def add(self, array: int, cells: Iterable[Cell]) -> None:
        """Store chunks of zeros, unless they are stored already.

        Parameters
        ----------
        array : int
            Number of the array.
        cells : iterable of tuple of int
            Their places in the chunk grid.
        """
        geometry = self._plan.geometry
        zeros = np.zeros(geometry.chunks, geometry.dtype)
        encode = encoder(self._plan.codec)
        chunk = zeros.tobytes() if encode is None else encode(zeros)
        folder = self._plan.array_path(array) / "c"
        writing = self._plan.root / WRITING_FOLDER
        with self._lock:
            self._users += 1
            writing.mkdir(parents=True, exist_ok=True)
        try:
            self._write(array, cells, folder, writing, chunk)
        finally:
            with self._lock:
                self._users -= 1
                if not self._users:
                    with suppress(OSError):  # what could not be completed is in it
                        writing.rmdir()

    def _write(self, array: int, cells: Iterable[Cell], folder: Path, writing: Path, chunk: bytes) -> None:
        if not self._sharded:
            for cell in cells:
                final = folder.joinpath(*map(str, cell))
                if not final.exists():
                    write_file(final, writing / f"{array}-{'.'.join(map(str, cell))}", chunk)
            return
        slots: dict[Cell, dict[int, bytes]] = defaultdict(dict)
        for cell in cells:
            shard = tuple(c // n for c, n in zip(cell, self._per_shard, strict=True))
            inside = tuple(c % n for c, n in zip(cell, self._per_shard, strict=True))
            slots[shard][int(np.ravel_multi_index(inside, self._per_shard))] = chunk
        for shard, chunks in slots.items():
            temporary = writing / f"{array}-{'.'.join(map(str, shard))}"
            add_chunks(folder.joinpath(*map(str, shard)), temporary, int(np.prod(self._per_shard)), chunks)
