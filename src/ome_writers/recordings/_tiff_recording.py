"""Recordings whose frames are planes of TIFF pages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from ome_writers.errors import RecordingError
from ome_writers.settings import Channel, Dimension, PositionDimension

from ._axes import check_index
from ._recording import Frame, Index, Recording
from ._tiff_layout import Layout, TiffPages
from ._tiff_pages import TiffPixels

RGB: Final = (("Red", "#ff0000"), ("Green", "#00ff00"), ("Blue", "#0000ff"), ("Alpha", None))
"""Names and colours of the samples of colour images."""


@dataclass(slots=True)
class Planes:
    """Where each frame is, along the index dimensions.

    Attributes
    ----------
    files : ndarray of int32
        Number of the file, -1 for a frame that was not recorded.
    pages : ndarray of int32
        Number of the page in the file.
    samples : ndarray of uint16
        Sample of the page.
    """

    files: npt.NDArray[np.int32]
    pages: npt.NDArray[np.int32]
    samples: npt.NDArray[np.uint16]

    @classmethod
    def empty(cls, shape: Sequence[int]) -> Planes:
        """Return planes that are nowhere."""
        return cls(np.full(shape, -1, np.int32), np.zeros(shape, np.int32), np.zeros(shape, np.uint16))

    @classmethod
    def of_pages(cls, shape: Sequence[int], first: int = 0) -> Planes:
        """Return the pages of one file, in order."""
        planes = cls.empty(shape)
        planes.files[...] = 0
        planes.pages[...] = first + np.arange(planes.pages.size).reshape(shape)
        return planes

    def with_samples(self, samples: int) -> Planes:
        """Return them with the samples of each page along one more axis, the last."""
        if samples == 1:
            return self
        shape = (*self.files.shape, samples)
        files, pages = (np.repeat(a[..., None], samples, axis=-1) for a in (self.files, self.pages))
        return Planes(files, pages, np.broadcast_to(np.arange(samples, dtype=np.uint16), shape).copy())

    def reshaped(self, shape: Sequence[int]) -> Planes:
        """Return them along other axes."""
        return Planes(self.files.reshape(shape), self.pages.reshape(shape), self.samples.reshape(shape))

    @staticmethod
    def stacked(parts: Sequence[Planes]) -> Planes:
        """Return several along one more axis, the first."""
        return Planes(
            np.stack([p.files for p in parts]), np.stack([p.pages for p in parts]), np.stack([p.samples for p in parts])
        )


def grid_fits(counts: Sequence[int], frames: int) -> bool:
    """Tell whether a number of recorded frames can be meant to lie on a grid: numbers in damaged files are huge."""
    return math.prod(counts) <= max(1 << 16, 1024 * frames)


def sparse_planes(source: str, counts: Sequence[int], frames: int) -> Planes:
    """Return planes that are nowhere yet, of which some frames were recorded.

    Raises
    ------
    RecordingError
        If the numbers of steps make no sense.
    """
    if not grid_fits(counts, frames):
        raise RecordingError(
            f"{source}: {frames} frames are said to lie on a grid of {' x '.join(map(str, counts))}, so its index or "
            "description is damaged"
        )
    return Planes.empty(counts)


def with_samples(dimensions: list[Dimension], planes: Planes, samples: int) -> tuple[list[Dimension], Planes]:
    """Return dimensions and planes with the samples of pages as channels: the fastest dimension.

    Where there are channels already, each sample of each of them is one.
    """
    if samples == 1:
        return dimensions, planes
    planes = planes.with_samples(samples)
    place = next((n for n, d in enumerate(dimensions) if d.type == "channel"), None)
    if place is None:
        return [*dimensions, counted("c", samples, coords=sample_channels(samples))], planes
    outer = dimensions[place]
    rest = [d for d in dimensions if d is not outer]
    named = [c for c in outer.coords or () if isinstance(c, Channel)]
    named = named or [Channel(name=f"C{n}") for n in range(outer.count or 1)]
    for array in ("files", "pages", "samples"):
        setattr(planes, array, np.moveaxis(getattr(planes, array), place, -2))
    channels = counted(outer.name, len(named) * samples, coords=sample_channels(samples, named), type="channel")
    dimensions = [*rest, channels]
    return dimensions, planes.reshaped([d.count or 1 for d in dimensions])


class PlaneMetadata(Protocol):
    """What was recorded about frames."""

    def of(self, index: Index) -> Mapping[str, Any] | None:
        """Return what was recorded about a frame."""


class TiffRecording(Recording):
    """A recording of TIFF pages.

    Parameters
    ----------
    name : str
        The source, as the user gave it.
    dimensions : sequence of Dimension
        With the frame's two.
    planes : Planes
        Where each frame is.
    pixels : TiffPixels or sequence of TiffPages
        The files.
    """

    def __init__(
        self, name: str, dimensions: Sequence[Dimension], planes: Planes, pixels: TiffPixels | Sequence[TiffPages]
    ) -> None:
        self.name = name
        self.dimensions = tuple(dimensions)
        pages = pixels.pages if isinstance(pixels, TiffPixels) else pixels
        layout = common_layout(name, planes, pages)
        self.dtype = str(layout.dtype)
        found = planes.files >= 0
        self.present = None if found.all() else found
        self._metadata: PlaneMetadata | None = None
        self._closed = False
        self.planes = planes
        self.pixels = pixels if isinstance(pixels, TiffPixels) else TiffPixels(pixels)
        self.decodes = self.pixels.decodes

    def tell(self, metadata: PlaneMetadata | None) -> None:
        """Take what was recorded about frames."""
        self._metadata = metadata

    def read(self, index: Index, out: Frame) -> None:
        """Read a frame, straight into its place where it is stored as in memory."""
        if self._closed:
            raise RecordingError(f"{self.name} is closed")
        check_index(self, index)
        file = int(self.planes.files[index])
        if file < 0:
            raise RecordingError(f"{self.name}: {frame_name(self, index)} was not recorded")
        page, sample = int(self.planes.pages[index]), int(self.planes.samples[index])
        self.pixels.read(file, page, sample, out, frame_name(self, index))

    def metadata(self, index: Index) -> Mapping[str, Any] | None:
        """Return what was recorded about a frame."""
        return None if self._metadata is None else self._metadata.of(index)

    def close(self) -> None:
        """Release the files."""
        self._closed = True
        self.pixels.close()


def frame_name(recording: Recording, index: Index) -> str:
    """Return a frame's index as messages show it: ``frame t=3, c=0``."""
    steps = ", ".join(f"{d.name}={step}" for d, step in zip(recording.dimensions, index, strict=False))
    return f"frame {steps}" if steps else "the frame"


def common_layout(name: str, planes: Planes, pages: Sequence[TiffPages]) -> Layout:
    """Return a layout of the pages that are frames, after checking that all of them can be frames of one recording.

    Raises
    ------
    RecordingError
        If there are none, pages are not there, have different shapes, or pixels that can't be stored.
    """
    first: Layout | None = None
    where = ""
    for number, of_file in enumerate(pages):
        used = np.unique(planes.pages[planes.files == number])
        if len(used) and used[-1] >= len(of_file):
            raise RecordingError(
                f"{of_file.path}: page {used[-1]} is spoken of, but the file has {len(of_file)}; it is truncated, or "
                "its description is of another file"
            )
        for kind in np.unique(of_file.kinds[used]).tolist():
            layout = of_file.layouts[kind]
            page = int(used[np.flatnonzero(of_file.kinds[used] == kind)[0]])
            here = f"page {page} of {of_file.path.name}"
            if layout.dtype is None:
                raise RecordingError(
                    f"{of_file.path}: page {page} has pixels of {_told_bits(layout)}, which can't be stored; allowed "
                    "are whole numbers of 8 to 64 bits and floating point numbers of 16, 32 and 64"
                )
            if first is None:
                first, where = layout, here
            elif layout.shape != first.shape:
                raise RecordingError(
                    f"{name}: pages of different shapes can't be frames of one recording: {where} is {first}, {here} "
                    f"is {layout}; give image to choose one, or a pattern or list of the files that belong together"
                )
    if first is None:
        raise RecordingError(f"{name}: there is no frame in it")
    return first


def _told_bits(layout: Layout) -> str:
    form = {1: "unsigned", 2: "signed", 3: "floating point", 5: "complex", 6: "complex"}.get(layout.format, "unknown")
    return f"{layout.bits} bits ({form})" if layout.bits > 0 else "samples of different types"


def sample_channels(samples: int, channels: Sequence[Channel] | None = None) -> list[Channel]:
    """Return a channel for each sample of each channel: red, green, blue, alpha, or numbers where there are others."""
    names: Sequence[tuple[str, str | None]] = (
        RGB[:samples] if samples in (3, 4) else [(f"Sample {n}", None) for n in range(samples)]
    )
    if channels is None or len(channels) < 2:
        return [Channel(name=name, color=color) for name, color in names]
    return [Channel(name=f"{c.name} {name}", color=color) for c in channels for name, color in names]


def frame_dimensions(
    height: int, width: int, y: tuple[float | None, str | None], x: tuple[float | None, str | None]
) -> tuple[Dimension, Dimension]:
    """Return the frame's dimensions, given scale and unit of each axis."""
    return (
        Dimension(name="y", type="space", count=height, scale=y[0], unit=y[1]),
        Dimension(name="x", type="space", count=width, scale=x[0], unit=x[1]),
    )


def positive(value: Any) -> float | None:
    """Return a number larger than 0 and finite; None for anything else, which tells no size of a step."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if 0 < number < float("inf") else None


def finite(value: Any) -> float | None:
    """Return a finite number; None for anything else."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if abs(number) < float("inf") else None


def counted(name: str, count: int, **fields: Any) -> Dimension:
    """Return an index dimension of a standard name."""
    kind = PositionDimension if name == "p" else Dimension
    return kind(name=name, **({} if fields.get("coords") else {"count": count}), **fields)
