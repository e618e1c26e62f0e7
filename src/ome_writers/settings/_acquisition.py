"""The declaration of an acquisition."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Annotated, Any, Final, Literal, Self, TypeAlias

import numpy as np
from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from ..errors import SettingsError
from ._axes import is_ome_order, ome_order, split_dimensions, step_labels
from ._buffer import BufferSettings
from ._dimension import Dimension, Position, PositionDimension
from ._formats import OmeZarrFormat, format_from_name
from ._model import Settings, report
from ._names import collisions, is_alphanumeric, name_fault
from ._plate import Plate

Compression: TypeAlias = Literal["blosc-zstd", "blosc-lz4", "zstd", "none"]

DTYPES: Final = (
    "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float16", "float32", "float64",
)  # fmt: skip
"""Pixel types that can be stored."""


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
    compression : str, optional
        ``"blosc-zstd"``, ``"blosc-lz4"`` or ``"zstd"``; ``"none"`` or None for none.
    storage_order : str or list of str
        Order of the axes on disk: ``"ome"`` (time, channel, space), ``"acquisition"``, or names of the stored index
        dimensions.
    plate : Plate, optional
        The plate that the positions lie on.
    overwrite : bool
        Whether an existing Zarr dataset at the output path is replaced.
    buffer : BufferSettings
        Limits of the memory that holds frames until they are written.
    """

    root_path: Annotated[str, BeforeValidator(str)] = ""
    dimensions: tuple[Dimension, ...] = ()
    dtype: str = ""
    compression: Compression | None = None
    storage_order: Literal["acquisition", "ome"] | list[str] = "ome"
    plate: Plate | None = None
    overwrite: bool = False
    buffer: BufferSettings = Field(default_factory=BufferSettings)
    # after root_path, whose suffix "auto" looks at
    format: OmeZarrFormat = Field(default="auto")  # type: ignore[assignment]

    @field_validator("dimensions")
    @classmethod
    def _fit_together(cls, dimensions: tuple[Dimension, ...]) -> tuple[Dimension, ...]:
        if dimensions:
            report(_dimension_faults(dimensions))
        # one class for position dimensions, however they were given, so that a JSON round trip gives equal settings
        return tuple(PositionDimension(**dict(d)) if d.type == "position" else d for d in dimensions)

    @field_validator("dtype", mode="before")
    @classmethod
    def _dtype_name(cls, value: Any) -> str:
        if isinstance(value, str) and not value:
            return ""
        try:
            name = str(np.dtype(value).name)
        except TypeError:
            name = repr(value)
        if value is None or name not in DTYPES:
            raise ValueError(f"dtype {name} can't be stored; allowed: {', '.join(DTYPES)}")
        return name

    @field_validator("compression", mode="before")
    @classmethod
    def _no_lzw_yet(cls, value: Any) -> Any:
        if value == "lzw":
            raise ValueError("compression 'lzw' belongs to OME-TIFF, which this version can't write; use 'zstd'")
        return value

    @field_validator("storage_order")
    @classmethod
    def _names_every_stored_dimension(cls, order: str | list[str], info: ValidationInfo) -> str | list[str]:
        report(_storage_order_faults(order, info.data.get("dimensions") or ()))
        return order

    @field_validator("plate")
    @classmethod
    def _holds_the_positions(cls, plate: Plate | None, info: ValidationInfo) -> Plate | None:
        report(_plate_faults(plate, info.data.get("dimensions") or ()))
        return plate

    @field_validator("format", mode="before")
    @classmethod
    def _from_short_name(cls, value: Any, info: ValidationInfo) -> Any:
        if value == "auto":
            return _format_of_path(info.data.get("root_path", ""))
        if isinstance(value, str):
            return format_from_name(value)
        if isinstance(value, Mapping) and isinstance(value.get("name"), str) and value["name"] != "ome-zarr":
            return format_from_name(value["name"])
        return value

    @model_validator(mode="after")
    def _still_fit_together(self) -> Self:
        """Check again, after an assignment, what the field validators could see only in the order of the fields."""
        report(_storage_order_faults(self.storage_order, self.dimensions) + _plate_faults(self.plate, self.dimensions))
        return self

    def validate_stream_ready(self) -> None:
        """Check that a stream can be created.

        Raises
        ------
        SettingsError
            If the root path, the dimensions or the dtype are missing (also a ValueError); lists all that is missing.
        """
        faults = []
        if not self.root_path:
            faults.append("root_path is required: say where the dataset goes, such as 'data.ome.zarr'")
        if not self.dimensions:
            faults.append("dimensions are required: at least the two of the frame, such as y and x")
        if not self.dtype:
            faults.append("dtype is required: the pixel type of the frames, such as 'uint16'")
        if faults:
            raise SettingsError("; ".join(faults))

    # ---- what follows from the dimensions --------------------------------------------------------------------------

    def _dims(self, property_name: str) -> tuple[Dimension, ...]:
        if not self.dimensions:
            raise SettingsError(f"Cannot access '{property_name}': the settings have no dimensions yet; set them first")
        return self.dimensions

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
        return _positions(self._dims("positions"))

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
        return _storage_index_dimensions(self.storage_order, self._dims("storage_index_dimensions"))

    @property
    def storage_index_permutation(self) -> tuple[int, ...]:
        """For each stored index dimension in storage order, its place among those in acquisition order."""
        stored = self.storage_index_dimensions
        acquired = [d.name for d in self.index_dimensions if d in stored]
        return tuple(acquired.index(d.name) for d in stored)

    @property
    def array_storage_dimensions(self) -> tuple[Dimension, ...]:
        """All dimensions of each array, in storage order."""
        return (*self.storage_index_dimensions, *self.frame_dimensions)


def image_labels(dimensions: Sequence[Dimension]) -> list[tuple[Position, tuple[int, ...], str]]:
    """Return what tells each image of an acquisition: (position, steps of the split dimensions, label).

    Images of one position stand together, positions in acquisition order. The label is empty for an image that is
    told by its position alone, else such as ``angle-0`` or ``angle-0_cam-1``.
    """
    combinations: list[tuple[tuple[int, ...], str]] = [((), "")]
    for dimension in split_dimensions(dimensions):
        combinations = [
            ((*steps, step), f"{label}_{name}" if label else name)
            for steps, label in combinations
            for step, name in enumerate(step_labels(dimension))
        ]
    return [(position, steps, label) for position in _positions(dimensions) for steps, label in combinations]


def image_path(position: Position, label: str, *, plate: bool, positions: int) -> str:
    """Return the path of an image's group below the root of a collection or plate.

    Parameters
    ----------
    position : Position
        The image's position.
    label : str
        Of its steps along split dimensions; may be empty.
    plate : bool
        Whether the dataset is a plate: the path then begins with row and column.
    positions : int
        Number of positions; with a single one and a label, the label alone names the image.
    """
    if plate:
        name = f"{position.image_name}_{label}" if label else position.image_name
        return f"{position.plate_row}/{position.plate_column}/{name}"
    if not label:
        return position.image_name
    return label if positions == 1 else f"{position.image_name}_{label}"


def _positions(dimensions: Sequence[Dimension]) -> tuple[Position, ...]:
    for d in dimensions:
        if d.type == "position":
            if d.coords is None:
                return tuple(Position(name=str(i)) for i in range(d.count or 1))
            return tuple(c for c in d.coords if isinstance(c, Position))
    return (Position(name="0"),)


def _storage_index_dimensions(order: str | list[str], dimensions: Sequence[Dimension]) -> tuple[Dimension, ...]:
    split = split_dimensions(dimensions)
    stored = tuple(d for d in dimensions[:-2] if d.type != "position" and d not in split)
    if order == "ome":
        return ome_order(stored)
    if order == "acquisition":
        return stored
    by_name = {d.name: d for d in stored}
    return tuple(by_name[name] for name in order if name in by_name)


def _dimension_faults(dimensions: tuple[Dimension, ...]) -> list[str]:
    if len(dimensions) < 2:
        return [f"{len(dimensions)} dimension given; at least the two of the frame are needed, such as y and x"]
    faults = [
        f"dimension {d.name!r} is one of the last two, which are the frame's: it must be of type space with a count"
        for d in dimensions[-2:]
        if d.type != "space" or d.count is None
    ]
    faults += [f"dimension names must be unique also when case is ignored: {c}" for c in _name_collisions(dimensions)]
    unbounded = [d for d in dimensions if d.count is None]
    faults += [
        f"dimension {d.name!r} has no count and is not the first; only the first dimension may be unbounded"
        for d in unbounded
        if d is not dimensions[0] and d not in dimensions[-2:]
    ]
    positions = [d for d in dimensions if d.type == "position"]
    if len(positions) > 1:
        faults.append(f"there can be one position dimension, not {len(positions)}; name every position in one of them")
    if any(d.count is None for d in positions):
        faults.append("the position dimension needs a count or coords")
    if any(d.coords and not all(isinstance(c, Position) for c in d.coords) for d in positions):
        faults.append("the coords of the position dimension must be positions")
    sizes = [d.count or 1 for d in dimensions]
    if math.prod(sizes) >= 1 << 62:
        faults.append(f"{' x '.join(map(str, sizes))} pixels are more than any storage holds; check the counts")
    if faults:
        return faults  # what follows needs sound dimensions
    faults += [
        f"dimension {d.name!r} is unbounded, and OME-Zarr has no axis for it, so each step would be an image of its "
        "own; give it a count"
        for d in split_dimensions(dimensions)
        if d.count is None
    ]
    if not faults and not any(p.plate_row for p in _positions(dimensions)):
        faults += _image_path_faults(dimensions, plate=False)
    return faults


def _name_collisions(dimensions: Sequence[Dimension]) -> list[str]:
    return collisions(d.name for d in dimensions)


def _image_path_faults(dimensions: Sequence[Dimension], *, plate: bool) -> list[str]:
    images = image_labels(dimensions)
    number = len(_positions(dimensions))
    paths = [image_path(position, label, plate=plate, positions=number) for position, _, label in images]
    faults = [f"two images would have the same path, case being ignored: {group}" for group in collisions(paths)]
    names = {path.rpartition("/")[2] for path in paths}
    return faults + [fault for name in sorted(names) if (fault := name_fault(name, "image"))]


def _storage_order_faults(order: str | list[str], dimensions: Sequence[Dimension]) -> list[str]:
    if not dimensions:
        return []
    stored = _storage_index_dimensions("acquisition", dimensions)
    names = [d.name for d in stored]
    if not isinstance(order, str):
        frame = [d.name for d in dimensions[-2:]]
        if sorted(order) not in (sorted(names), sorted([*names, *frame])) or (
            len(order) > len(names) and order[-2:] != frame
        ):
            return [
                f"storage_order {order} must name each stored index dimension once ({', '.join(names) or 'none'}), "
                f"optionally followed by {', '.join(frame)}"
            ]
    chosen = _storage_index_dimensions(order, dimensions)
    if not is_ome_order(chosen):
        return [
            f"storage_order {order!r} would store {', '.join(d.name for d in chosen)}, but OME-Zarr wants time, then "
            "channel or other, then space; use storage_order='ome', which reorders the frames"
        ]
    return []


def _plate_faults(plate: Plate | None, dimensions: Sequence[Dimension]) -> list[str]:
    if not dimensions:
        return []
    positions = _positions(dimensions)
    if plate is None:
        placed = [p.name for p in positions if p.plate_row is not None]
        return (
            [f"positions {', '.join(placed[:5])} have a plate_row, but there is no plate; set plate"] if placed else []
        )
    faults = []
    for p in positions:
        if p.plate_row is None or p.plate_column is None:
            faults.append(f"position {p.name!r} has no plate_row and plate_column, which every one on a plate needs")
            continue
        for what, name, names in (
            ("row", p.plate_row, plate.row_names),
            ("column", p.plate_column, plate.column_names),
        ):
            if name not in names:
                faults.append(f"position {p.name!r} is in {what} {name!r}; the plate has {', '.join(names)}")
        if not is_alphanumeric(p.name.translate(_FIELD_EXTRAS)):
            faults.append(
                f"position name {p.name!r} can't name a field of a well; use letters, digits, '_', '-' and '.'"
            )
    return faults or _image_path_faults(dimensions, plate=True)


_FIELD_EXTRAS: Final = str.maketrans(dict.fromkeys("._-", "0"))


def _format_of_path(root_path: str) -> dict[str, Any]:
    suffix = PurePath(root_path).suffix.lower()
    if suffix in (".tif", ".tiff"):
        return format_from_name("ome-tiff")
    if root_path and suffix != ".zarr":
        warnings.warn(
            f"root_path {root_path!r} has no suffix that tells the format; OME-Zarr is written. "
            "Set format='ome-zarr' or a path that ends with '.ome.zarr'.",
            UserWarning,
            stacklevel=2,
        )
    return format_from_name("ome-zarr")
