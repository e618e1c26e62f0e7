"""What is known of a dataset, as values, as JSON and in words."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ._images import ArrayInfo, AxisInfo, ChannelInfo, ImageInfo, Outline
from ._words import counted, in_bytes, listed, times

_SHOWN = 10


@dataclass(frozen=True, slots=True)
class PlateInfo:
    """A multi-well plate.

    Attributes
    ----------
    name : str
        Its name; empty when it has none.
    rows, columns : int
        Of the plate.
    wells : int
        Wells that were imaged.
    """

    name: str
    rows: int
    columns: int
    wells: int

    def __str__(self) -> str:
        """Return it in words."""
        name = f" {self.name!r}" if self.name else ""
        return f"plate{name} of {self.rows} x {self.columns} wells, {self.wells:,} imaged"


@dataclass(frozen=True, slots=True)
class FramesInfo:
    """How far an acquisition of this package is complete.

    Attributes
    ----------
    closed : bool
        Whether the stream was closed and everything was written.
    recovered : bool
        Whether the dataset was completed by recovery.
    in_use : bool
        Whether a living process is writing to it.
    expected : int, optional
        Frames that were declared; None when the acquisition is unbounded.
    taken : int
        Frames that were appended or skipped so far, as far as it is noted.
    written, skipped, lost : int
        Frames on disk, left out, and appended but not on disk; 0 until the stream is closed or recovered.
    with_metadata : int
        Frames whose metadata were recorded.
    backend : str, optional
        What has written.
    """

    closed: bool
    recovered: bool
    in_use: bool
    expected: int | None
    taken: int
    written: int
    skipped: int
    lost: int
    with_metadata: int
    backend: str | None

    @property
    def state(self) -> str:
        """``"writing"``, ``"closed"``, ``"recovered"`` or ``"interrupted"``."""
        if self.in_use:
            return "writing"
        return "closed" if self.closed else "recovered" if self.recovered else "interrupted"

    def outline(self) -> Outline:
        """Return it in words."""
        head = {
            "writing": "being written now",
            "closed": "closed; everything is written",
            "recovered": "recovered after an interruption",
            "interrupted": "not closed, and nobody is writing: complete it with ome-writers recover",
        }[self.state]
        expected = "" if self.expected is None else f" of {self.expected:,}"
        if self.state in ("writing", "interrupted"):
            lines = [f"{self.taken:,}{expected} frames taken so far"]
        else:
            lines = [f"{self.written:,}{expected} frames written"]
            lines += [f"{count:,} {what}" for what, count in (("skipped", self.skipped), ("lost", self.lost)) if count]
            if self.expected is not None and self.expected > self.taken:
                lines.append(f"{self.expected - self.taken:,} not acquired")
        if self.with_metadata:
            lines.append(f"{self.with_metadata:,} with metadata")
        text = f"{head} (backend {self.backend})" if self.backend else head
        return Outline(text, tuple(map(Outline, lines)))


@dataclass(frozen=True, slots=True)
class RecordingInfo:
    """A recorded acquisition in another format.

    Attributes
    ----------
    dimensions : tuple of AxisInfo
        As recorded, slowest first.
    dtype : str
        Pixel type.
    frames, frames_missing : int
        Frames that the dimensions declare, and those of them that were not recorded.
    positions : tuple of str
        Names of the positions, where they are known.
    channels : tuple of ChannelInfo
        The channels, where they are known.
    """

    dimensions: tuple[AxisInfo, ...]
    dtype: str
    frames: int
    frames_missing: int
    positions: tuple[str, ...]
    channels: tuple[ChannelInfo, ...]

    def outline(self) -> tuple[Outline, ...]:
        """Return it in words."""
        missing = f", {self.frames_missing:,} of them missing" if self.frames_missing else ""
        parts = [
            Outline(f"{counted(self.frames, 'frame')} of {self.dtype}{missing}"),
            Outline("dimensions", tuple(Outline(str(axis)) for axis in self.dimensions)),
        ]
        if self.channels:
            parts.append(Outline(f"channels: {listed(list(map(str, self.channels)), 16)}"))
        if self.positions:
            parts.append(Outline(f"positions: {listed(self.positions, _SHOWN)}"))
        return tuple(parts)


@dataclass(frozen=True, slots=True)
class DatasetInfo:
    """What a dataset holds; made by :func:`describe`.

    Attributes
    ----------
    path : str
        The dataset.
    kind : str
        ``"image"``, ``"collection"``, ``"plate"``, ``"group"`` or ``"array"``; of a recording in another format its
        name, such as ``"OME-TIFF"``.
    zarr_format : int, optional
        3 or 2; None for other formats.
    ngff_version : str, optional
        Version of OME-NGFF; None when there is no metadata of it.
    images : tuple of ImageInfo
        All images, in the order that the metadata give.
    arrays : tuple of ArrayInfo
        Arrays that are part of no image.
    plate : PlateInfo, optional
        The plate that the images lie on.
    frames : FramesInfo, optional
        How far the acquisition is complete; None for datasets that do not say so.
    recording : RecordingInfo, optional
        What a source in another format holds; then there are no images and arrays.
    files : int, optional
        Number of files; None when they were not counted.
    stored_bytes : int, optional
        Their bytes.
    problems : tuple of str
        What is damaged.
    """

    path: str
    kind: str
    zarr_format: int | None = None
    ngff_version: str | None = None
    images: tuple[ImageInfo, ...] = ()
    arrays: tuple[ArrayInfo, ...] = ()
    plate: PlateInfo | None = None
    frames: FramesInfo | None = None
    recording: RecordingInfo | None = None
    files: int | None = None
    stored_bytes: int | None = None
    problems: tuple[str, ...] = ()

    @property
    def nbytes(self) -> int | None:
        """Uncompressed bytes of all arrays; None when that can't be told."""
        levels = [level for image in self.images for level in image.levels]
        sizes = [array.nbytes for array in (*levels, *self.arrays)]
        known = [size for size in sizes if size is not None]
        return sum(known) if sizes and len(known) == len(sizes) else None

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON object."""
        said = asdict(self)
        if self.frames is not None:
            said["frames"]["state"] = self.frames.state
        return {**said, "nbytes": self.nbytes}

    def outline(self) -> Outline:
        """Return in words what it holds; images that differ in nothing but their place are shown once."""
        parts = [] if self.recording is None else [*self.recording.outline()]
        if self.plate is not None:
            parts.append(Outline(str(self.plate)))
        alike: dict[tuple[object, ...], list[ImageInfo]] = {}
        for image in self.images:
            alike.setdefault(image.likeness(), []).append(image)
        groups = list(alike.values())
        parts += [_outline_of(images) for images in groups[:_SHOWN]]
        if more := groups[_SHOWN:]:
            parts.append(Outline(f"and {counted(sum(map(len, more)), 'more image')}, of {len(more):,} other kinds"))
        for array in self.arrays[:_SHOWN]:
            head = f"array {array.path or '.'}: {times(array.shape) or 'one value'}, {array.dtype}"
            parts.append(Outline(head, array.outline()))
        if len(self.arrays) > _SHOWN:
            parts.append(Outline(f"and {counted(len(self.arrays) - _SHOWN, 'more array')}"))
        if self.frames is not None:
            parts.append(self.frames.outline())
        if self.stored_bytes is not None:
            parts.append(Outline(self._on_disk()))
        parts += [Outline(f"problem: {problem}") for problem in self.problems[:_SHOWN]]
        if len(self.problems) > _SHOWN:
            parts.append(Outline(f"and {counted(len(self.problems) - _SHOWN, 'more problem')}"))
        return Outline(f"{self.path}: {self._what()}", tuple(parts))

    def _what(self) -> str:
        if self.zarr_format is None:
            return self.kind
        form = f"OME-Zarr {self.ngff_version}" if self.ngff_version else f"Zarr v{self.zarr_format}"
        count = sum(not image.label for image in self.images)
        of = f" of {counted(count, 'image')}" if self.kind in ("collection", "plate") else ""
        return f"{self.kind}{of}, {form}"

    def _on_disk(self) -> str:
        text = f"{in_bytes(self.stored_bytes or 0)} on disk in {counted(self.files or 0, 'file')}"
        if self.nbytes and self.recording is None:
            text += f", {in_bytes(self.nbytes)} uncompressed"
        return text

    def __str__(self) -> str:
        """Return what it holds in words, several lines."""
        return "\n".join(self.outline().lines())


def _outline_of(images: list[ImageInfo]) -> Outline:
    """Return images that are alike in words."""
    first = images[0]
    array = first.levels[0] if first.levels else None
    kind = "label image" if first.label else "image"
    what = "" if array is None else f": {times(array.shape)}, {array.dtype}"
    if array is not None and array.nbytes is not None:
        what += f", {in_bytes(array.nbytes)}{' each' if len(images) > 1 else ''}"
    head = f"{kind} {first.place()}" if len(images) == 1 else counted(len(images), kind)
    parts = [*first.outline()]
    if len(images) > 1:
        if first.well is not None:
            wells = list(dict.fromkeys(image.well or "" for image in images))
            parts.insert(0, Outline(f"in wells {listed(wells, _SHOWN)}"))
        else:
            places = [image.place() for image in images[:_SHOWN]]
            if len(images) > _SHOWN:
                places.append(f"and {len(images) - _SHOWN:,} more")
            parts.insert(0, Outline("paths", tuple(map(Outline, places))))
    return Outline(head + what, tuple(parts))
