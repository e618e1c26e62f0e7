"""The declaration of an acquisition."""

from __future__ import annotations

import inspect
import math
import os
import warnings
from collections.abc import Mapping
from pathlib import PurePath
from typing import Annotated, Any, Final, Literal, Self

import numpy as np
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from ome_writers.errors import SettingsError

from ._axes import split_dimensions
from ._buffer import BufferSettings
from ._chunking import Chunking, MemoryLimit, plan_chunks, streams_shards
from ._codec import Codec, Compression, checked_compression, codec_of
from ._consistency import (
    dimension_faults,
    mended,
    plate_faults,
    positions_of,
    storage_index_dimensions,
    storage_order_faults,
)
from ._coordinates import Position
from ._dimension import Dimension, PositionDimension, salvaged_dimension
from ._formats import OmeZarrFormat, format_from_name
from ._model import Settings, fault_lines, report, with_faults
from ._plate import Plate, salvaged_plate

DTYPES: Final = (
    "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float16", "float32", "float64",
)  # fmt: skip
"""Pixel types that can be stored."""


def _as_text(path: Any) -> str:
    if path is None:
        return ""
    return os.fsdecode(path) if isinstance(path, bytes) else str(path)


def _without_nul(path: str) -> str:
    report([f"root_path {path!r} contains a NUL character, which no file system takes"] if "\0" in path else [])
    return path


_FAULTY: Final = "dimensions that do not fit together"
_UNKNOWN: Final = "whether the type of a dimension can't be told"


class AcquisitionSettings(Settings):
    """Everything that is known of an acquisition before its first frame.

    Attributes
    ----------
    root_path : str
        Where the dataset goes; anything with a string form is accepted.
    dimensions : tuple of Dimension
        In acquisition order, slowest first; the last two are the frame's.
    dtype : str
        Pixel type; anything that ``numpy.dtype`` accepts, stored as its name.
    format : OmeZarrFormat
        Or a short name: ``"auto"`` (by the suffix of ``root_path``), ``"ome-zarr"``, or a backend's name.
    compression : str or Codec, optional
        ``"blosc-zstd"``, ``"blosc-lz4"`` or ``"zstd"``; ``"none"`` or None for none; or a
        :class:`Codec`, to choose level, shuffle and checksum.
    chunking : str or Chunking, optional
        Plans the sizes of chunks and shards that the dimensions leave open: ``"auto"``, or :class:`Chunking` with
        targets of one's own. None plans nothing: a chunk is one frame unless said otherwise, and there are no shards.
    storage_order : str or list of str
        Order of the axes on disk: ``"ome"`` (time, channel, space), ``"acquisition"``, or names of the stored index
        dimensions.
    plate : Plate, optional
        The plate that the positions lie on.
    overwrite : bool
        Whether an existing Zarr dataset at the output path is replaced.
    buffer : BufferSettings
        Limits of the memory that holds frames until they are written.
    durability : str
        What must not lose frames that have left the buffer: ``"process"``, the end of the process, however it ends; or
        ``"system"``, the end of the machine too, such as a power failure: whole shards are on the medium when they get
        their name, and everything else about every second (backend ``"direct"``; see ``docs/reliability.md``).
    """

    root_path: Annotated[str, BeforeValidator(_as_text), AfterValidator(_without_nul)] = ""
    dimensions: tuple[Dimension, ...] = ()
    dtype: str = ""
    compression: Compression | Codec | None = None
    chunking: Literal["auto"] | Chunking | None = None
    storage_order: Literal["acquisition", "ome"] | list[str] = "ome"
    plate: Plate | None = None
    overwrite: bool = False
    buffer: BufferSettings = Field(default_factory=BufferSettings)
    durability: Literal["process", "system"] = "process"
    # after root_path, whose suffix "auto" looks at
    format: OmeZarrFormat = Field(default="auto")  # type: ignore[assignment]

    @field_validator("dimensions", mode="wrap")
    @classmethod
    def _fit_together(
        cls, value: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo
    ) -> tuple[Dimension, ...]:
        try:
            dimensions: tuple[Dimension, ...] = handler(value)
        except ValidationError as error:
            given = value if isinstance(value, list | tuple) else ()
            left = [salvaged_dimension(d, place) for place, d in enumerate(given)]
            dimensions, known = tuple(d for d, _ in left), all(known for _, known in left)
            info.data[_FAULTY] = dimensions  # for the fields that follow: all faults are reported together
            info.data[_UNKNOWN] = not known
            raise with_faults(error, dimension_faults(dimensions, types_known=known) if left else []) from None
        if dimensions and (faults := dimension_faults(dimensions)):
            info.data[_FAULTY] = dimensions
            report(faults)
        # one class for position dimensions, however they were given, so that a JSON round trip gives equal settings
        return tuple(
            PositionDimension(**dict(d)) if d.type == "position" and not isinstance(d, PositionDimension) else d
            for d in dimensions
        )

    @field_validator("dtype", mode="before")
    @classmethod
    def _dtype_name(cls, value: Any) -> str:
        if isinstance(value, str) and not value:
            return ""
        try:
            name = "None" if value is None else str(np.dtype(value).name)
        except (TypeError, ValueError, SyntaxError):
            name = repr(value)
        if name not in DTYPES:
            raise ValueError(f"dtype {name} can't be stored; allowed: {', '.join(DTYPES)}")
        return name

    @field_validator("compression", mode="before")
    @classmethod
    def _compression_or_codec(cls, value: Any) -> Any:
        return checked_compression(value)

    @field_validator("chunking", mode="before")
    @classmethod
    def _auto_or_targets(cls, value: Any) -> Any:
        if isinstance(value, str) and value != "auto":
            raise ValueError(f"chunking {value!r} is not known; allowed: 'auto', a Chunking with targets, or None")
        return value

    @field_validator("storage_order")
    @classmethod
    def _names_every_stored_dimension(cls, order: str | list[str], info: ValidationInfo) -> str | list[str]:
        faulty = () if info.data.get(_UNKNOWN) else mended(info.data.get(_FAULTY, ()))
        report(storage_order_faults(order, info.data.get("dimensions") or faulty))
        return order

    @field_validator("plate", mode="wrap")
    @classmethod
    def _holds_the_positions(
        cls, value: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo
    ) -> Plate | None:
        dimensions = info.data.get("dimensions") or info.data.get(_FAULTY, ())
        if info.data.get(_UNKNOWN) and not any(d.type == "position" for d in dimensions):
            dimensions = ()
        try:
            plate: Plate | None = handler(value)
        except ValidationError as error:
            left = salvaged_plate(value)
            raise with_faults(error, [] if left is None else plate_faults(left, dimensions)) from None
        report(plate_faults(plate, dimensions))
        return plate

    @field_validator("format", mode="before")
    @classmethod
    def _from_short_name(cls, value: Any, info: ValidationInfo) -> Any:
        if value == "auto":
            return _format_of_path(info.data.get("root_path", ""))
        if isinstance(value, str):
            return format_from_name(value)
        if isinstance(value, Mapping) and value.get("name", "ome-zarr") != "ome-zarr":
            format_from_name(str(value["name"]))  # the better message, for names of formats to come
        return value

    @model_validator(mode="after")
    def _still_fit_together(self) -> Self:
        """Check again, after an assignment, what the field validators could see only in the order of the fields."""
        report(storage_order_faults(self.storage_order, self.dimensions) + plate_faults(self.plate, self.dimensions))
        return self

    def validate_stream_ready(self) -> None:
        """Check that a stream can be created.

        Raises
        ------
        SettingsError
            If the root path, the dimensions or the dtype are missing, or if an object inside of the settings was
            changed so that they don't fit together any more (also a ValueError); lists all faults.
        """
        faults = []
        if not self.root_path:
            faults.append("root_path is required: say where the dataset goes, such as 'data.ome.zarr'")
        if not self.dimensions:
            faults.append("dimensions are required: at least the two of the frame, such as y and x")
        if not self.dtype:
            faults.append("dtype is required: the pixel type of the frames, such as 'uint16'")
        try:
            type(self).model_validate(self.model_dump(warnings=False))
        except ValidationError as error:
            faults += fault_lines(error)
        if faults:
            raise SettingsError("; ".join(faults))

    # ---- what follows from the dimensions --------------------------------------------------------------------------

    def _dims(self, property_name: str) -> tuple[Dimension, ...]:
        if not self.dimensions:
            raise SettingsError(f"Cannot access '{property_name}': the settings have no dimensions yet; set them first")
        return self.dimensions

    @property
    def codec(self) -> Codec:
        """``compression`` as a codec with the defaults filled in for the dtype."""
        if not self.dtype:
            raise SettingsError("Cannot access 'codec': the settings have no dtype yet; set it first")
        return codec_of(self.compression).resolved(np.dtype(self.dtype).itemsize)

    @property
    def output_path(self) -> str:
        """Path of the dataset: ``root_path``, with the format's suffix where it has none."""
        positions = len(self.positions) if self.dimensions else 1
        return self.format.get_output_path(self.root_path, num_positions=positions)

    @property
    def shape(self) -> tuple[int | None, ...]:
        """Number of steps of every dimension in acquisition order; None for an unbounded one."""
        return tuple(d.count for d in self._dims("shape"))

    @property
    def is_unbounded(self) -> bool:
        """Whether the first dimension has no end."""
        return self._dims("is_unbounded")[0].count is None

    @property
    def num_frames(self) -> int | None:
        """Number of frames of the whole acquisition; None when it is unbounded."""
        dims = self._dims("num_frames")
        return None if dims[0].count is None else math.prod(d.count or 1 for d in dims[:-2])

    @property
    def positions(self) -> tuple[Position, ...]:
        """The stage positions in acquisition order; one called ``"0"`` when there is no position dimension."""
        return positions_of(self._dims("positions"))

    @property
    def position_dimension_index(self) -> int | None:
        """Place of the position dimension in ``dimensions``; None when there is none."""
        dims = self._dims("position_dimension_index")
        return next((i for i, d in enumerate(dims) if d.type == "position"), None)

    @property
    def frame_dimensions(self) -> tuple[Dimension, ...]:
        """The two dimensions of a frame, which come last."""
        return self._dims("frame_dimensions")[-2:]

    @property
    def index_dimensions(self) -> tuple[Dimension, ...]:
        """The dimensions that index frames, without the position dimension, in acquisition order."""
        return tuple(d for d in self._dims("index_dimensions")[:-2] if d.type != "position")

    @property
    def array_dimensions(self) -> tuple[Dimension, ...]:
        """All dimensions but the position dimension, in acquisition order."""
        return tuple(d for d in self._dims("array_dimensions") if d.type != "position")

    @property
    def split_dimensions(self) -> tuple[Dimension, ...]:
        """The dimensions that OME-Zarr has no axis for, in acquisition order; each step becomes an image."""
        return split_dimensions(self._dims("split_dimensions"))

    @property
    def storage_index_dimensions(self) -> tuple[Dimension, ...]:
        """The index dimensions of each array, in storage order."""
        return storage_index_dimensions(self.storage_order, self._dims("storage_index_dimensions"))

    @property
    def storage_index_permutation(self) -> tuple[int, ...]:
        """For each stored index dimension in storage order, its place among those in acquisition order."""
        self._dims("storage_index_permutation")
        stored = self.storage_index_dimensions
        acquired = [d.name for d in self.index_dimensions if d in stored]
        return tuple(acquired.index(d.name) for d in stored)

    @property
    def array_storage_dimensions(self) -> tuple[Dimension, ...]:
        """All dimensions of each array, in storage order."""
        self._dims("array_storage_dimensions")
        return (*self.storage_index_dimensions, *self.frame_dimensions)

    @property
    def planned_dimensions(self) -> tuple[Dimension, ...]:
        """``dimensions`` with the sizes of chunks and shards as they will be written, where ``chunking`` plans them.

        Planned anew at each access. Without ``chunking`` these are the dimensions as they are.
        """
        dimensions = self._dims("planned_dimensions")
        if self.chunking is None:
            return dimensions
        if not self.dtype:
            raise SettingsError("Cannot access 'planned_dimensions': the settings have no dtype yet; set it first")
        return plan_chunks(
            dimensions,
            [d.name for d in self.storage_index_dimensions],
            np.dtype(self.dtype).itemsize,
            Chunking() if self.chunking == "auto" else self.chunking,
            MemoryLimit(self.buffer.allowed_bytes, whole_shards=not streams_shards(self.format.backend)),
        )


def _format_of_path(root_path: str) -> dict[str, Any]:
    suffix = PurePath(root_path).suffix.lower()
    if suffix in (".tif", ".tiff"):
        return format_from_name("ome-tiff")
    if root_path and suffix != ".zarr":
        warnings.warn(
            f"root_path {root_path!r} has no suffix that tells the format; OME-Zarr is written. "
            "Set format='ome-zarr' or a path that ends with '.ome.zarr'.",
            UserWarning,
            stacklevel=_level_of_caller(),
        )
    return format_from_name("ome-zarr")


def _level_of_caller() -> int:
    """Return the ``stacklevel`` that makes a warning point at the code that called this package."""
    level, frame = 0, inspect.currentframe()
    while frame and str(frame.f_globals.get("__name__")).partition(".")[0] in ("pydantic", "ome_writers"):
        level, frame = level + 1, frame.f_back
    return level
