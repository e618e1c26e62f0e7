"""The pixels of TIFF pages: read as they stand in the file where that is possible, else decoded by tifffile."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from ome_writers.errors import RecordingError

from ._files import Files
from ._recording import Frame
from ._tiff_ifds import TiffFile
from ._tiff_layout import Layout, TiffPages
from ._tifffile import tifffile_page

_BAND_BYTES: Final = 8 << 20
"""Rows of interleaved samples are read in pieces of this size."""


class TiffPixels:
    """Reads planes of pages: one sample of one page each.

    Parameters
    ----------
    pages : sequence of TiffPages
        Of each file.

    Raises
    ------
    BackendMissingError
        If a codec is needed that is not installed.
    RecordingError
        If tifffile can't decode a kind of page that occurs.
    """

    def __init__(self, pages: Sequence[TiffPages]) -> None:
        self.pages = list(pages)
        # whoever reads may have changed the working directory since
        self._paths = [p.path.absolute() for p in pages]
        self.files = Files(self._paths)
        self._last = threading.local()
        self._templates: dict[tuple[Layout, str], Any] = {}  # pages of tifffile, which decode those of a kind
        for number, of_file in enumerate(self.pages):
            decoded = np.flatnonzero(of_file.data < 0)
            kinds, first = np.unique(of_file.kinds[decoded], return_index=True)
            for kind, page in zip(kinds.tolist(), decoded[first].tolist(), strict=True):
                self._learn(number, of_file.layouts[kind], page)

    @property
    def decodes(self) -> bool:
        """Whether there are pages that have to be decoded."""
        return bool(self._templates)

    def _learn(self, number: int, layout: Layout, page: int) -> None:
        of_file = self.pages[number]
        key = layout, of_file.order
        if key not in self._templates:
            self._templates[key] = tifffile_page(of_file.path, int(of_file.ifds[page]), page)

    def read(self, number: int, page: int, sample: int, out: Frame, frame: str) -> None:
        """Read a plane.

        Parameters
        ----------
        number : int
            Of the file.
        page : int
            Number of the page in the file.
        sample : int
            Which of its samples.
        out : ndarray, shape (height, width)
            Filled with the pixels.
        frame : str
            For messages.

        Raises
        ------
        RecordingError
            If it can't be read.
        """
        of_file = self.pages[number]
        layout = of_file.layout(page)
        data = int(of_file.data[page])
        if data < 0:
            self._decode_plane(number, page, sample, out, frame)
        elif layout.samples == 1 or layout.planar:
            self.files.read_into(number, data + sample * out.nbytes, out, frame)
            self._to_native(of_file, out)
        else:
            self._read_interleaved(number, page, sample, out, frame)
            self._to_native(of_file, out)

    @staticmethod
    def _to_native(of_file: TiffPages, out: Frame) -> None:
        if out.itemsize > 1 and not np.dtype(f"{of_file.order}u2").isnative:
            out.byteswap(inplace=True)

    def _read_interleaved(self, number: int, page: int, sample: int, out: Frame, frame: str) -> None:
        data = int(self.pages[number].data[page])
        height, width = out.shape
        samples = self.pages[number].layout(page).samples
        row_bytes = width * samples * out.itemsize
        if height * row_bytes <= _BAND_BYTES:  # the samples of a page are asked for one after the other
            last = self._last  # another one stands there as soon as the recording is closed
            if getattr(last, "page", None) != (number, page):
                last.page = None
                last.pixels = np.empty((1, height, width, samples), out.dtype)
                self.files.read_into(number, data, last.pixels, frame)
                last.page = (number, page)
            out[...] = last.pixels[0, :, :, sample]
            return
        rows = max(1, min(height, _BAND_BYTES // row_bytes))
        band = np.empty((rows, width, samples), out.dtype)
        for row in range(0, height, rows):
            part = band[: min(rows, height - row)]
            self.files.read_into(number, data + row * row_bytes, part, frame)
            out[row : row + len(part)] = part[..., sample]

    # ---- pages that are decoded --------------------------------------------------------------------------------

    def _decode_plane(self, number: int, page: int, sample: int, out: Frame, frame: str) -> None:
        layout = self.pages[number].layout(page)
        if layout.samples == 1 or layout.planar:
            self._decode(number, page, sample if layout.planar else None, out[None, :, :, None], frame)
            return
        last = self._last  # the samples of a page are asked for one after the other
        if getattr(last, "page", None) != (number, page):
            last.page = None
            last.pixels = np.empty((1, layout.height, layout.width, layout.samples), out.dtype)
            self._decode(number, page, None, last.pixels, frame)
            last.page = (number, page)
        out[...] = last.pixels[0, :, :, sample]

    def _decode(self, number: int, page: int, plane: int | None, out: Frame, frame: str) -> None:
        """Decode the segments of a page (of one of its planes) into an array of (depth, height, width, samples)."""
        of_file = self.pages[number]
        template = self._templates[of_file.layout(page), of_file.order]
        try:
            with TiffFile(self._paths[number]) as file:
                offsets, sizes, tables = file.segments(int(of_file.ifds[page]), page)
        except RecordingError as error:
            raise RecordingError(f"{frame} can't be read: {error}") from error
        planes = of_file.layout(page).samples  # the segments of one plane follow those of another
        covered = 0
        for index, (offset, size) in enumerate(zip(offsets.tolist(), sizes.tolist(), strict=True)):
            if plane is not None and index * planes // len(offsets) != plane:
                continue
            # a tile that was never written has no bytes: the scan has refused what else has none
            data = self.files.read_bytes(number, offset, size, frame) if size > 0 else None
            try:
                segment, (_, depth, row, column, _), shape = template.decode(data, index, jpegtables=tables)
            except Exception as error:
                raise RecordingError(
                    f"{of_file.path}: {frame}: part {index} of page {page} can't be decoded, so the file is damaged: "
                    f"{str(error) or type(error).__name__}"
                ) from error
            d, h, w = (min(n, whole - at) for n, whole, at in zip(shape, out.shape, (depth, row, column), strict=False))
            target = out[depth : depth + d, row : row + h, column : column + w]
            target[...] = template.nodata if segment is None else segment[:d, :h, :w]
            covered += d * h * w
        if covered != out[..., 0].size:
            raise RecordingError(f"{of_file.path}: {frame}: parts of page {page} are missing, so the file is damaged")

    def close(self) -> None:
        """Release the files."""
        self.files.close()
        self._last = threading.local()
