"""Where the pixels of a TIFF file are: its image file directories (IFDs), as arrays of numbers.

A recording has hundreds of thousands of pages, so none of them is kept as an object. The format is that of TIFF 6.0,
sections 2 and 8, and of BigTIFF, which has 64 bit counts and offsets. What a page means, and how it is decoded, is left
to tifffile.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from ome_writers.errors import RecordingError

from ._tiff_layout import Layout, TiffPages

_SIZES: Final = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Bytes of a value of each type of field."""

_INTEGERS: Final = {1: "u1", 3: "u2", 4: "u4", 6: "i1", 8: "i2", 9: "i4", 13: "u4", 16: "u8", 17: "i8", 18: "u8"}

_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER = 254, 256, 257, 258, 259, 262, 266
_STRIP_OFFSETS, _SAMPLES, _ROWS, _STRIP_BYTES, _PLANAR, _PREDICTOR = 273, 277, 278, 279, 284, 317
_TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_BYTES, _FORMAT, _DEPTH = 322, 323, 324, 325, 339, 32997
_DESCRIPTION: Final = 270
_JPEG_TABLES: Final = 347
_MICROMANAGER: Final = 51123

_LAYOUT_TAGS: Final = (
    _SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER, _SAMPLES, _ROWS, _PLANAR, _PREDICTOR,
    _TILE_WIDTH, _TILE_HEIGHT, _FORMAT, _DEPTH,
)  # fmt: skip
_BLOCK: Final = 1024  # bytes: room for most IFDs, so that one read is enough
_MAX_ENTRIES: Final = 4096  # of an IFD; more than any writer makes, fewer than garbage tells


class TiffFile:
    """A TIFF file open for reading its structure.

    Parameters
    ----------
    path : Path
        The file.

    Raises
    ------
    RecordingError
        If it is none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = path.open("rb", buffering=0)
        except OSError as error:
            raise RecordingError(f"{path}: the file can't be opened: {error.strerror or error}") from error
        try:
            self.size = os.fstat(self._file.fileno()).st_size
            self.first = self._read_header()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, offset: int, count: int) -> bytes:
        """Return bytes of the file, fewer where it ends."""
        if offset >= self.size:  # may be more than the system takes
            return b""
        self._file.seek(offset)
        parts = []
        while count > 0 and (part := self._file.read(count)):
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def _read_header(self) -> int:
        header = self.read(0, 16)
        order = {b"II": "<", b"MM": ">"}.get(header[:2])
        version = struct.unpack(f"{order}H", header[2:4])[0] if order and len(header) >= 8 else 0
        if order is None or version not in (42, 43) or (version == 43 and len(header) < 16):
            what = "the file is empty" if not self.size else "this is not a TIFF file, or its first bytes are damaged"
            raise RecordingError(f"{self.path}: {what}")
        self.order, self.big = order, version == 43
        self._count = struct.Struct(f"{order}{'Q' if self.big else 'H'}")
        self._next = struct.Struct(f"{order}{'Q' if self.big else 'I'}")
        self._entry = struct.Struct(f"{order}{'HHQ8s' if self.big else 'HHI4s'}")
        first: int = self._next.unpack_from(header, 8 if self.big else 4)[0]
        return first

    def damaged(self, what: str) -> RecordingError:
        """Return an error that says what is wrong with the file."""
        return RecordingError(f"{self.path}: the file is truncated or damaged: {what}; copy it anew from where it was")

    def entries(self, offset: int, page: int) -> tuple[dict[int, tuple[int, int, bytes]], int]:
        """Return the entries of an IFD, {tag: (type, count, value or its offset)}, and where the next IFD stands."""
        block = self.read(offset, _BLOCK)
        head = self._count.size
        number = self._count.unpack_from(block)[0] if len(block) >= head else -1
        if not 0 < number <= _MAX_ENTRIES:
            raise self.damaged(f"the directory of page {page}, at byte {offset:,} of {self.size:,}, can't be read")
        end = head + number * self._entry.size
        if end + self._next.size > len(block):
            block = self.read(offset, end + self._next.size)
            if len(block) < end + self._next.size:
                raise self.damaged(f"it ends within the directory of page {page}")
        found = {
            tag: (kind, count, value)
            for tag, kind, count, value in self._entry.iter_unpack(memoryview(block)[head:end])
        }
        return found, self._next.unpack_from(block, end)[0]

    def place(self, entry: tuple[int, int, bytes]) -> tuple[int, int]:
        """Return where the value of an entry stands that does not fit into it, and its bytes."""
        kind, count, value = entry
        return self._next.unpack(value)[0], _SIZES.get(kind, 1) * count

    def raw(self, entry: tuple[int, int, bytes]) -> bytes:
        """Return the bytes of the value of an entry."""
        kind, count, value = entry
        wanted = _SIZES.get(kind, 1) * count
        if wanted <= len(value):
            return value[:wanted]
        offset, _ = self.place(entry)
        if offset + wanted > self.size:
            raise self.damaged(f"a value at byte {offset:,} lies beyond its end at {self.size:,}")
        return self.read(offset, wanted)

    def integers(self, entry: tuple[int, int, bytes]) -> npt.NDArray[np.int64]:
        """Return the value of an entry as whole numbers."""
        kind = _INTEGERS.get(entry[0])
        if kind is None:
            raise self.damaged(f"a field has type {entry[0]}, where there should be whole numbers")
        return np.frombuffer(self.raw(entry), f"{self.order}{kind}").astype(np.int64)

    def segments(self, offset: int, page: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], bytes | None]:
        """Return where the strips or tiles of a page stand, how many bytes each has, and the JPEG tables they share.

        Each page has tables of its own (TIFF Technical Note 2): pages of one layout may differ in quality.
        """
        entries, _ = self.entries(offset, page)
        tables = entries.get(_JPEG_TABLES)
        return *self._segments(entries, page), None if tables is None else self.raw(tables)

    def _segments(
        self, entries: Mapping[int, tuple[int, int, bytes]], page: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        tags = (_TILE_OFFSETS, _TILE_BYTES) if _TILE_OFFSETS in entries else (_STRIP_OFFSETS, _STRIP_BYTES)
        if tags[0] not in entries:
            raise self.damaged(f"page {page} does not say where its pixels are")
        offsets = self.integers(entries[tags[0]])
        if tags[1] not in entries:  # allowed in old files, for a single strip
            return offsets, np.full(len(offsets), -1, np.int64)
        sizes = self.integers(entries[tags[1]])
        if len(sizes) != len(offsets):
            raise self.damaged(f"page {page} has {len(offsets)} offsets and {len(sizes)} sizes of strips or tiles")
        return offsets, sizes

    def scan(self) -> TiffPages:
        """Return all pages.

        Raises
        ------
        RecordingError
            If the file is truncated or damaged, as far as its directories and the places of pixels tell.
        """
        ifds: list[int] = []
        data: list[int] = []
        kinds: list[int] = []
        notes: list[tuple[int, int]] = []
        layouts: list[Layout] = []
        numbers: dict[Layout, int] = {}
        known: dict[bytes, int] = {}
        seen: set[int] = set()
        offset = self.first
        while offset:
            if offset in seen:
                raise self.damaged(f"the directories of its pages run in a circle after page {len(ifds) - 1}")
            if offset >= self.size:
                raise self.damaged(
                    f"the directory of page {len(ifds)} should stand at byte {offset:,}, and it has {self.size:,}"
                )
            seen.add(offset)
            entries, following = self.entries(offset, len(ifds))
            key = b"".join(
                b"%d:%d:%d:%b" % (tag, *entries[tag][:2], self._value_of(entries[tag]))
                for tag in _LAYOUT_TAGS
                if tag in entries
            )
            kind = known.get(key)
            if kind is None:
                layout = self._layout(entries, len(ifds))
                kind = known[key] = numbers.setdefault(layout, len(layouts))
                if kind == len(layouts):
                    layouts.append(layout)
            ifds.append(offset)
            kinds.append(kind)
            data.append(self._plain_data(layouts[kind], entries, len(ifds) - 1))
            note = entries.get(_MICROMANAGER)
            notes.append(self.place(note) if note else (0, 0))
            offset = following
        if not ifds:
            raise self.damaged("it holds no page")
        return TiffPages(
            self.path, self.order, np.array(ifds, np.int64), np.array(data, np.int64), np.array(kinds, np.int32),
            np.array(notes, np.int64).reshape(-1, 2), layouts,
        )  # fmt: skip

    def _value_of(self, entry: tuple[int, int, bytes]) -> bytes:
        kind, count, value = entry
        return value if _SIZES.get(kind, 1) * count <= len(value) else self.raw(entry)

    def _layout(self, entries: Mapping[int, tuple[int, int, bytes]], page: int) -> Layout:
        tags = {
            tag: tuple(self.integers(entries[tag]).tolist())
            for tag in _LAYOUT_TAGS
            if tag in entries and entries[tag][1]
        }
        if not {_WIDTH, _HEIGHT} <= tags.keys():
            raise self.damaged(f"page {page} does not say its width and height")
        samples = tags.get(_SAMPLES, (1,))[0]
        bits, formats = tags.get(_BITS, (1,)), tags.get(_FORMAT, (1,))
        width, height = tags[_WIDTH][0], tags[_HEIGHT][0]
        if min(width, height, samples) < 1:
            raise self.damaged(f"page {page} is {height} x {width} pixels of {samples} samples")
        if tags.get(_DEPTH, (1,)) != (1,):
            raise RecordingError(f"{self.path}: page {page} is a volume, which can't be read; store slices as pages")
        planar = samples > 1 and tags.get(_PLANAR, (1,)) == (2,)
        one_tile = (tags.get(_TILE_WIDTH), tags.get(_TILE_HEIGHT)) in ((None, None), ((width,), (height,)))
        plain = (
            tags.get(_COMPRESSION, (1,)) == (1,)
            and len(set(bits)) == 1
            and bits[0] in (8, 16, 32, 64)
            and one_tile
            and tags.get(_FILL_ORDER, (1,)) == (1,)
            and tags.get(_PREDICTOR, (1,)) == (1,)
            and tags.get(_PHOTOMETRIC, (1,)) != (6,)  # YCbCr, which may be subsampled
        )
        return Layout(
            width=width,
            height=height,
            samples=samples,
            planar=planar,
            bits=bits[0] if len(set(bits)) == 1 else -1,
            format=formats[0] if len(set(formats)) == 1 and formats[0] != 4 else 1,
            compression=tags.get(_COMPRESSION, (1,))[0],
            reduced=bool(tags.get(_SUBFILE, (0,))[0] & 1),
            plain=plain,
            segments=_segments_of(tags, width, height) * (samples if planar else 1),
            tags=tuple(sorted(tags.items())),
        )

    def _plain_data(self, layout: Layout, entries: Mapping[int, tuple[int, int, bytes]], page: int) -> int:
        """Return where plain pixels in one piece begin; -1 where they are stored otherwise."""
        offsets, sizes = self._segments(entries, page)
        if len(offsets) < layout.segments:
            raise self.damaged(f"page {page} says of {len(offsets)} of its {layout.segments} parts where they are")
        if layout.plain and sizes[0] < 0 and len(offsets) == 1:
            sizes = np.array([layout.page_bytes], np.int64)
        # tiles without content may be left out, as sparse files do; strips may not
        sparse = (offsets == 0) & (sizes == 0) if _TILE_OFFSETS in entries else np.zeros(len(offsets), np.bool_)
        if (empty := np.flatnonzero((sizes <= 0) & ~sparse)).size:
            raise self.damaged(f"part {empty[0]} of the pixels of page {page} has no bytes")
        ends = offsets + sizes
        if (end := int(ends.max())) > self.size:
            raise self.damaged(f"the pixels of page {page} end at byte {end:,}, and it has {self.size:,}")
        if not layout.plain or not offsets[0]:
            return -1
        whole = bool((ends[:-1] == offsets[1:]).all())
        fits = int(sizes.sum()) == layout.page_bytes or (len(sizes) == 1 and sizes[0] > layout.page_bytes)
        return int(offsets[0]) if whole and fits else -1


def _segments_of(tags: Mapping[int, tuple[int, ...]], width: int, height: int) -> int:
    """Return how many strips or tiles a plane has (TIFF 6.0, sections 3 and 15)."""
    rows, columns = tags.get(_TILE_HEIGHT, tags.get(_ROWS, (height,))), tags.get(_TILE_WIDTH, (width,))
    return math.ceil(height / max(1, rows[0])) * math.ceil(width / max(1, columns[0]))


def description_of(path: Path, limit: int | None = None) -> bytes:
    """Return the text of the tag ImageDescription of the first page; empty if there is none.

    Parameters
    ----------
    path : Path
        The file.
    limit : int, optional
        How many bytes are wanted at most; all by default.

    Raises
    ------
    RecordingError
        If the file is damaged, or no TIFF file.
    """
    with TiffFile(path) as file:
        if not file.first:
            raise file.damaged("it holds no page")
        entry = file.entries(file.first, 0)[0].get(_DESCRIPTION)
        if entry is None:
            return b""
        text = file.raw(entry) if limit is None else file.raw((entry[0], min(entry[1], limit), entry[2]))
        return text.rstrip(b"\0 \r\n\t")


def is_ome(text: bytes) -> bool:
    """Tell whether a text is an OME document (OME-TIFF specification, "Compliance checks": it ends with ``OME>``)."""
    return text.rstrip().endswith(b"OME>")
