"""Images and arrays, as values and in words."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ._words import counted, in_bytes, listed, number, times


@dataclass(frozen=True, slots=True)
class Outline:
    """A line of text with lines below it.

    Attributes
    ----------
    text : str
        The line.
    parts : tuple of Outline
        What stands below it.
    """

    text: str
    parts: tuple[Outline, ...] = ()

    def lines(self, indent: int = 0) -> list[str]:
        """Return all lines, each indented by two spaces for each level."""
        return [" " * indent + self.text, *(line for part in self.parts for line in part.lines(indent + 2))]


@dataclass(frozen=True, slots=True)
class AxisInfo:
    """An axis of an image.

    Attributes
    ----------
    name : str
        Its name.
    type : str, optional
        ``"space"``, ``"time"``, ``"channel"``, or what else stands there.
    unit : str, optional
        Unit of its scale.
    size : int
        Number of steps.
    scale : float, optional
        Size of one step in ``unit``.
    """

    name: str
    type: str | None
    unit: str | None
    size: int
    scale: float | None

    def __str__(self) -> str:
        """Return it in words."""
        text = f"{self.name}: {self.size:,}"
        if self.scale is not None and (self.unit or self.scale != 1):
            text += f" x {number(self.scale)}{f' {self.unit}' if self.unit else ''}"
        return f"{text} ({self.type})" if self.type else text


@dataclass(frozen=True, slots=True)
class ArrayInfo:
    """A Zarr array.

    Attributes
    ----------
    path : str
        Path below the dataset's root; ``""`` for the root itself.
    shape : tuple of int
        Its shape.
    dtype : str
        Data type of its elements.
    chunks, shards : tuple of int, optional
        Shape of a chunk and of a shard, in elements; None for no shards, and for a grid that is not regular.
    chunk_bytes, shard_bytes : int, optional
        Their uncompressed bytes; None where there are none, and for data types without a fixed size.
    codecs : tuple of str
        How chunks are encoded, in the order of encoding.
    nbytes : int, optional
        Uncompressed bytes of the whole array.
    stored_bytes : int, optional
        Bytes of its files; None when they were not counted.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    chunks: tuple[int, ...] | None
    shards: tuple[int, ...] | None
    chunk_bytes: int | None
    shard_bytes: int | None
    codecs: tuple[str, ...]
    nbytes: int | None
    stored_bytes: int | None

    def outline(self) -> tuple[Outline, ...]:
        """Return in words how it is stored."""
        lines = []
        if self.chunks is not None:
            lines.append(f"chunks of {times(self.chunks)}{_with_bytes(self.chunk_bytes)}")
        if self.shards is not None:
            chunks = math.prod(s // c for s, c in zip(self.shards, self.chunks or self.shards, strict=True))
            lines.append(
                f"shards of {times(self.shards)}{_with_bytes(self.shard_bytes)} ({counted(chunks, 'chunk')} each)"
            )
        lines.append(f"encoded with {', '.join(self.codecs)}" if self.codecs else "not compressed")
        return tuple(map(Outline, lines))


def _with_bytes(count: int | None) -> str:
    return "" if count is None else f", {in_bytes(count)}"


@dataclass(frozen=True, slots=True)
class ChannelInfo:
    """A channel.

    Attributes
    ----------
    name : str
        Its name.
    color : str, optional
        Its display colour, as ``"RRGGBB"``.
    """

    name: str
    color: str | None

    def __str__(self) -> str:
        """Return name and colour."""
        return f"{self.name} (#{self.color})" if self.color else self.name


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """An image: one or several arrays that show the same at different resolutions.

    Attributes
    ----------
    path : str
        Path of its group below the dataset's root; ``""`` for the root itself.
    name : str
        Its name in the metadata.
    axes : tuple of AxisInfo
        Its axes, those of the frame last.
    levels : tuple of ArrayInfo
        Its arrays, full resolution first.
    channels : tuple of ChannelInfo
        Its channels, where the metadata name them.
    well : str, optional
        Path of the plate's well that it lies in, such as ``"A/1"``.
    translation : mapping of str to float
        Coordinate of the first pixel along axes where it is not 0, in the axis' unit: the stage position.
    label : bool
        Whether its pixels are labels of another image's pixels.
    """

    path: str
    name: str
    axes: tuple[AxisInfo, ...]
    levels: tuple[ArrayInfo, ...]
    channels: tuple[ChannelInfo, ...]
    well: str | None
    translation: dict[str, float]
    label: bool

    def likeness(self) -> tuple[object, ...]:
        """Return what images that are shown together have in common."""
        levels = tuple((a.shape, a.dtype, a.chunks, a.shards, a.codecs) for a in self.levels)
        return self.axes, levels, self.channels, self.label

    def place(self) -> str:
        """Return its path, and where it lies."""
        where = ", ".join(f"{name} {number(value)}" for name, value in self.translation.items())
        return f"{self.path or '.'} at {where}" if where else self.path or "."

    def outline(self) -> tuple[Outline, ...]:
        """Return in words what it holds."""
        parts = [Outline("axes", tuple(Outline(str(axis)) for axis in self.axes))]
        if self.channels:
            parts.append(Outline(f"channels: {listed(list(map(str, self.channels)), 16)}"))
        if len(self.levels) > 1:
            levels = tuple(Outline(f"{level.path.rpartition('/')[2]}: {times(level.shape)}") for level in self.levels)
            parts.append(Outline(f"{len(levels)} levels of resolution", levels))
        return (*parts, *(self.levels[0].outline() if self.levels else ()))
