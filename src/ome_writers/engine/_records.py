"""Per-frame metadata: a file of records that grows as frames arrive.

``ome_writers/frames.jsonl`` holds one JSON object per line and frame that has metadata::

    {"frame": 7, "image": "a", "storage_index": [0, 1, 2], "metadata": {"delta_t": 1.5}}

``frame`` counts from 0 in acquisition order, ``image`` is the path of the image's group (``""``: the root), and
``storage_index`` the frame's index in that image's array. A reader that finds a last line without a line end ignores
it: the writer died while it was written.
"""

from __future__ import annotations

import json
import threading
from array import array
from collections.abc import Iterator, Sequence
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any, Final

from ome_writers import _files

RECORDS_FILE: Final = "ome_writers/frames.jsonl"
"""Path of the records below the dataset's root."""

RECORDS_PER_IMAGE: Final = 10_000
"""How many records the attributes of one image hold at most; the file always holds all."""


class RecordLog:
    """Appends records to a file; the file is made with the first record.

    Parameters
    ----------
    path : Path
        The file; its folder exists.
    images : sequence of str
        Path of each image's group, by array number.
    """

    def __init__(self, path: Path, images: Sequence[str]) -> None:
        self._path = path
        self._images = [json.dumps(image, ensure_ascii=False) for image in images]
        self._waiting: list[tuple[int, bytes]] = []
        self._taken: list[tuple[int, bytes]] = []  # that are being written
        self._taking = threading.Lock()  # of the waiting records; held for moments only
        self._file: FileIO | None = None
        self._size = 0
        self._offsets: dict[int, array[int]] = {}  # where the first records of each image stand in the file
        self._writing = threading.Lock()  # of the file

    def take_over(self, frames: int, *, durable: bool = False) -> None:
        """Go on with the records that stand in the file, of the first ``frames`` frames; others are removed from it.

        What is no whole record is removed, too.
        """
        dropped = False
        for kept in self._lines(frames):
            if kept is None:
                dropped = True
            else:
                self._size = self._note_places([kept])
        if dropped:
            kept_lines = (kept[1] for kept in self._lines(frames) if kept is not None)
            _files.replace_contents(self._path, kept_lines, durable=durable)

    def _lines(self, frames: int) -> Iterator[tuple[int, bytes] | None]:
        """Yield the array's number and the line of each record of the first ``frames`` frames; None for other lines."""
        numbers = {json.loads(image): number for number, image in enumerate(self._images)}
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            for line in file:
                try:
                    record = json.loads(line)
                    whole = line.endswith(b"\n") and "metadata" in record and "storage_index" in record
                    kept = whole and 0 <= int(record["frame"]) < frames
                    yield (numbers[record["image"]], line) if kept else None
                except (ValueError, KeyError, TypeError):
                    yield None

    def add(self, frame: int, array_number: int, index: Sequence[int], metadata: str) -> None:
        """Take a record; it stands in the file after the next :meth:`drain`.

        Parameters
        ----------
        frame : int
            Number of the frame in acquisition order.
        array_number : int
            Number of its array.
        index : sequence of int
            Its index in storage order.
        metadata : str
            The metadata as JSON text.
        """
        line = (
            f'{{"frame":{frame},"image":{self._images[array_number]},'
            f'"storage_index":[{",".join(map(str, index))}],"metadata":{metadata}}}\n'
        )
        with self._taking:
            self._waiting.append((array_number, line.encode()))

    def drain(self) -> None:
        """Have all records taken so far in the file, also those that another thread is writing; any thread may call it.

        Raises
        ------
        OSError
            If they can't be written; they are kept for the next call, and the file ends with a whole record.
        """
        with self._writing:
            while self._taken or self._waiting:
                # after Ctrl-C the next call does the same again; it never comes between the two halves of a statement
                # that calls nothing
                if not self._taken:
                    with self._taking:
                        self._taken, self._waiting = self._waiting, []
                self._write(b"".join(line for _, line in self._taken))
                end = self._note_places(self._taken)
                self._size, self._taken = end, []

    def sync(self) -> None:
        """Have the records on the medium, not only in the system's memory."""
        self.drain()
        if self._file is not None:  # closed only when all threads have ended; no lock, so that no frame waits for it
            _files.system.sync(self._file)

    def close(self) -> None:
        """Write what is waiting and close the file."""
        try:
            self.drain()
        except OSError:
            self._close_file()
            raise
        self._close_file()  # not after Ctrl-C: then the next call writes

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()

    def _note_places(self, records: Sequence[tuple[int, bytes]]) -> int:
        """Note where records stand, which follow those in the file, and return where they end; twice does no harm."""
        place = self._size
        for array_number, line in records:
            offsets = self._offsets.setdefault(array_number, array("Q"))
            if len(offsets) < RECORDS_PER_IMAGE and (not offsets or offsets[-1] < place):
                offsets.append(place)
            place += len(line)
        return place

    def _write(self, text: bytes) -> None:
        if self._file is None:
            self._file = _files.system.open(self._path, "rb+" if self._path.exists() else "wb")
        try:
            _files.write_all(self._file, self._size, text)
        except BaseException:
            with suppress(OSError):
                self._file.truncate(self._size)
            raise

    def arrays(self) -> list[int]:
        """Return the numbers of the arrays that have records."""
        return sorted(self._offsets)

    def of_array(self, array_number: int) -> Iterator[dict[str, Any]]:
        """Yield the first records of an array, at most :data:`RECORDS_PER_IMAGE`, as they stand in the file."""
        with self._path.open("rb") as file:
            for offset in self._offsets.get(array_number, ()):
                file.seek(offset)
                yield json.loads(file.readline())
