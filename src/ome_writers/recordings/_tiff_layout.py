"""Pages of a TIFF file as arrays of numbers, and how they store their pixels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ome_writers.errors import RecordingError
from ome_writers.settings import DTYPES


@dataclass(frozen=True, slots=True)
class Layout:
    """How pages store their pixels; equal for pages of the same kind.

    Attributes
    ----------
    width, height : int
        In pixels.
    samples : int
        Values per pixel.
    planar : bool
        Whether samples are stored one plane after the other, not interleaved.
    bits : int
        Per sample.
    format : int
        SampleFormat: 1 unsigned, 2 signed, 3 floating point, 5 and 6 complex.
    compression : int
        1 is none.
    reduced : bool
        Whether the page is a smaller copy of another one.
    plain : bool
        Whether pixels are neither compressed, tiled nor packed: they stand in the file as in memory.
    segments : int
        Number of strips or tiles.
    tags : tuple
        All tags that matter for decoding.
    """

    width: int
    height: int
    samples: int
    planar: bool
    bits: int
    format: int
    compression: int
    reduced: bool
    plain: bool
    segments: int
    tags: tuple[tuple[int, tuple[int, ...]], ...]

    @property
    def dtype(self) -> str | None:
        """Name of the pixel type; None if no type that can be stored holds these pixels as they are."""
        kind = {1: "uint", 2: "int", 3: "float"}.get(self.format)
        bits = self.bits if self.bits in (8, 16, 32, 64) or kind != "uint" else 16 if 8 < self.bits < 16 else 0
        name = f"{kind}{bits}"
        return name if name in DTYPES else None

    @property
    def page_bytes(self) -> int:
        """Bytes of an uncompressed page."""
        return self.width * self.height * self.samples * self.bits // 8

    @property
    def shape(self) -> tuple[int, int, int, str]:
        """Height, width, samples and type: what frames of one image have in common."""
        return self.height, self.width, self.samples, self.dtype or f"{self.bits} bit, format {self.format}"

    def __str__(self) -> str:
        height, width, samples, dtype = self.shape
        return f"{height} x {width} {dtype}" + (f" of {samples} samples" if samples > 1 else "")


@dataclass(slots=True)
class TiffPages:
    """The pages of a file.

    Attributes
    ----------
    path : Path
        The file.
    order : str
        ``"<"`` or ``">"``.
    ifds : ndarray of int64, shape (pages,)
        Where the IFD of each page stands.
    data : ndarray of int64, shape (pages,)
        Where its pixels stand, if they are plain and in one piece; else -1.
    kinds : ndarray of int32, shape (pages,)
        Number of its layout.
    notes : ndarray of int64, shape (pages, 2)
        Where Micro-Manager's metadata of the page stand, and how many bytes; zeros if there are none.
    layouts : list of Layout
        All that occur.
    """

    path: Path
    order: str
    ifds: npt.NDArray[np.int64]
    data: npt.NDArray[np.int64]
    kinds: npt.NDArray[np.int32]
    notes: npt.NDArray[np.int64]
    layouts: list[Layout]

    def __len__(self) -> int:
        return len(self.ifds)

    def layout(self, page: int) -> Layout:
        """Return the layout of a page."""
        return self.layouts[int(self.kinds[page])]

    def taken(self, pages: npt.NDArray[Any]) -> TiffPages:
        """Return some of the pages."""
        return TiffPages(
            self.path, self.order, self.ifds[pages], self.data[pages], self.kinds[pages], self.notes[pages],
            self.layouts,
        )  # fmt: skip

    def continued(self, count: int) -> TiffPages:
        """Return the first page and others that follow its pixels without an IFD.

        Raises
        ------
        RecordingError
            If the file is too short for them, or pixels are not plain.
        """
        layout = self.layout(0)
        if self.data[0] < 0:
            raise RecordingError(
                f"{self.path}: its description tells of {count} images, but there is one page and it is compressed"
            )
        first, size = int(self.data[0]), self.path.stat().st_size
        if (wanted := first + count * layout.page_bytes) > size:  # numbers in damaged files are huge
            raise RecordingError(
                f"{self.path}: the file is truncated: {count} images need {wanted:,} bytes and it has {size:,}; "
                f"{(size - first) // layout.page_bytes} are whole"
            )
        pages = self.taken(np.zeros(count, np.intp))
        pages.data = first + layout.page_bytes * np.arange(count, dtype=np.int64)
        return pages
