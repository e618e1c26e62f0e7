"""Dimensions of an acquisition and what stands along them: channels and positions."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, Final, Literal, Self, TypeAlias

from pydantic import Field, FiniteFloat, PositiveFloat, PositiveInt, field_validator, model_validator
from pydantic_core import PydanticCustomError
from pydantic_extra_types.color import Color

from ._model import Settings, report
from ._names import collisions, name_fault
from ._units import SPACE_UNITS, TIME_UNITS, canonical_unit

DimensionType: TypeAlias = Literal["space", "time", "channel", "position", "other"]


class Channel(Settings):
    """One channel of a channel dimension.

    Attributes
    ----------
    name : str
        Label, unique within the dimension.
    excitation_wavelength_nm, emission_wavelength_nm : float, optional
        Wavelengths in nm.
    fluorophore : str, optional
        Name of the dye.
    color : str, optional
        Display colour: a CSS name or a hexadecimal RGB value, stored as ``"#rrggbb"``.
    """

    name: str = Field(min_length=1)
    excitation_wavelength_nm: PositiveFloat | None = None
    emission_wavelength_nm: PositiveFloat | None = None
    fluorophore: str | None = None
    color: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("color", mode="before")
    @classmethod
    def _as_hex(cls, value: Any) -> Any:
        if value is None:
            return None
        try:
            return Color(value).as_hex("long")[:7]
        except PydanticCustomError as error:
            raise ValueError(
                f"color {value!r} is not known; give a CSS name such as 'lime' or a value such as '#00ff00'"
            ) from error


class Position(Settings):
    """One stage position (field of view).

    Attributes
    ----------
    name : str
        Becomes part of the path of the position's image.
    plate_row, plate_column : str, optional
        The well, by names of the plate's row and column; both or neither.
    grid_row, grid_column : int, optional
        Place in a grid of fields; both or neither.
    x_coord, y_coord, z_coord : float, optional
        Stage coordinates in micrometers.
    """

    name: str
    plate_row: str | None = None
    plate_column: str | None = None
    grid_row: int | None = Field(default=None, ge=0)
    grid_column: int | None = Field(default=None, ge=0)
    x_coord: FiniteFloat | None = None
    y_coord: FiniteFloat | None = None
    z_coord: FiniteFloat | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("name")
    @classmethod
    def _usable_in_a_path(cls, name: str) -> str:
        report([fault for fault in [name_fault(name, "position")] if fault])
        return name

    @model_validator(mode="after")
    def _rows_and_columns_in_pairs(self) -> Self:
        report(
            [
                f"position {self.name!r} has only one of {kind}_row and {kind}_column; give both or neither"
                for kind in ("plate", "grid")
                if (getattr(self, f"{kind}_row") is None) != (getattr(self, f"{kind}_column") is None)
            ]
        )
        return self

    @property
    def image_name(self) -> str:
        """Name of the image group: the position's name, in a grid followed by ``_row_column``."""
        return self.name if self.grid_row is None else f"{self.name}_{self.grid_row}_{self.grid_column}"


Coordinates: TypeAlias = list[str | float | Channel | Position]

_STANDARD_TYPES: Final[dict[str, DimensionType]] = {
    "x": "space", "y": "space", "z": "space", "t": "time", "c": "channel", "p": "position",
}  # fmt: skip


class Dimension(Settings):
    """One dimension of an acquisition.

    Attributes
    ----------
    name : str
        Name of the axis, unique within the acquisition.
    count : int, optional
        Number of steps; None with no ``coords`` means unbounded (the first dimension of an acquisition only).
    type : str, optional
        ``"space"``, ``"time"``, ``"channel"``, ``"position"`` or ``"other"``; inferred from the coordinates, the unit
        or a standard name (x, y, z, t, c, p) when not given.
    coords : list, optional
        What stands at each step: channels, positions, names or numbers. Evenly rising numbers along a space or time
        dimension give ``scale`` and ``translation`` when these are not given.
    chunk_size : int, optional
        Steps in one chunk; by default the full extent for the two frame dimensions, else 1.
    shard_size_chunks : int, optional
        Chunks in one shard along this dimension.
    unit : str, optional
        A unit that OME-NGFF lists for lengths and times; short forms such as ``um`` are expanded.
    scale : float, optional
        Size of one step in ``unit``, larger than 0.
    translation : float, optional
        Coordinate of the first step in ``unit``.
    """

    name: str
    count: PositiveInt | None = None
    type: DimensionType | None = None
    coords: Coordinates | None = None
    chunk_size: PositiveInt | None = None
    shard_size_chunks: PositiveInt | None = None
    unit: str | None = None
    scale: FiniteFloat | None = Field(default=None, gt=0)
    translation: FiniteFloat | None = None

    @model_validator(mode="before")
    @classmethod
    def _cast_names(cls, data: Any) -> Any:
        """Make channels and positions of plain names, where the dimension is one of channels or positions."""
        if not isinstance(data, Mapping) or not _is_list(data.get("coords")):
            return data
        standard = _STANDARD_TYPES.get(data["name"]) if isinstance(data.get("name"), str) else None
        unit = data.get("unit")
        kind = data.get("type") or (_type_of_unit(unit) if isinstance(unit, str) else None) or standard
        cast: dict[Any, type[Settings]] = {"channel": Channel, "position": Position}
        if kind not in cast:
            return data
        return {**data, "coords": [_named(cast[kind], c) for c in data["coords"]]}

    @field_validator("name")
    @classmethod
    def _usable_in_a_path(cls, name: str) -> str:
        report([fault for fault in [name_fault(name, "dimension")] if fault])
        return name

    @field_validator("unit")
    @classmethod
    def _canonical_unit(cls, unit: str | None) -> str | None:
        return canonical_unit(unit) if unit else None

    @field_validator("coords")
    @classmethod
    def _usable_coordinates(cls, coords: Coordinates | None) -> Coordinates | None:
        if coords is None:
            return None
        faults = [] if coords else ["coords is empty; leave it out, or give one entry per step"]
        if len({_kind_of(c) for c in coords}) > 1:
            faults.append("coords mixes channels, positions, names and numbers; give entries of one kind")
        faults += [f"the coordinate {c} is not finite" for c in coords if isinstance(c, float) and not math.isfinite(c)]
        labels = [c.name if isinstance(c, Channel) else c for c in coords if isinstance(c, str | Channel)]
        if doubles := sorted({label for label in labels if labels.count(label) > 1}):
            faults.append(f"coords has the same name more than once: {', '.join(map(repr, doubles))}")
        positions = [c for c in coords if isinstance(c, Position)]
        groups: dict[Any, list[str]] = defaultdict(list)
        for p in positions:
            groups[p.plate_row, p.plate_column, p.grid_row, p.grid_column].append(p.name)
        for names in groups.values():
            faults += [f"position names must be unique also when case is ignored: {c}" for c in collisions(names)]
        report(faults)
        return coords

    @model_validator(mode="after")
    def _settle(self) -> Self:
        """Infer the type, the count, and scale and translation of evenly spaced coordinates."""
        faults: list[str] = []
        settled: dict[str, Any] = {"type": self._settled_type(faults)}
        if self.coords is not None:
            settled["count"] = len(self.coords)
            if self.count not in (None, len(self.coords)):
                faults.append(
                    f"dimension {self.name!r} has count {self.count} but {len(self.coords)} coords; leave count out"
                )
        if settled["type"] in ("space", "time"):
            allowed = SPACE_UNITS if settled["type"] == "space" else TIME_UNITS
            if self.unit is not None and self.unit not in allowed:
                faults.append(
                    f"dimension {self.name!r} is of type {settled['type']} and can't have unit {self.unit!r}; "
                    f"allowed: {', '.join(sorted(allowed))}"
                )
            if (spacing := _even_spacing(self.coords or [])) and self.scale is None:
                settled["scale"] = spacing[1]
                if self.translation is None:
                    settled["translation"] = spacing[0]
        report(faults)
        for field, value in settled.items():  # past validate_assignment, which would start this validator again
            self.__dict__[field] = value
        return self

    def _settled_type(self, faults: list[str]) -> DimensionType:
        """Return the type that all evidence agrees on; disagreement is added to the faults."""
        evidence: dict[str, DimensionType] = {}
        if self.type is not None:
            evidence[f"type {self.type!r}"] = self.type
        if self.coords and isinstance(self.coords[0], Channel | Position):
            kind: DimensionType = "channel" if isinstance(self.coords[0], Channel) else "position"
            evidence[f"coords of {kind}s"] = kind
        if self.unit is not None and (by_unit := _type_of_unit(self.unit)):
            evidence[f"unit {self.unit!r}"] = by_unit
        if self.type is None and (standard := _STANDARD_TYPES.get(self.name)):
            evidence[f"the standard name {self.name!r}"] = standard
        if len(set(evidence.values())) > 1:
            faults.append(
                f"dimension {self.name!r} can't be of several types at once: "
                + ", ".join(f"{what} means {kind}" for what, kind in evidence.items())
                + "; change one of them"
            )
        kinds = list(evidence.values()) or ["other"]
        if kinds[0] in ("channel", "position") and self.coords and isinstance(self.coords[0], float):
            faults.append(f"dimension {self.name!r} is of type {kinds[0]}: its coords are names, not numbers")
        return kinds[0]


class PositionDimension(Dimension):
    """The dimension of stage positions: a :class:`Dimension` of type ``"position"``, called ``p`` unless named."""

    name: str = "p"
    type: DimensionType | None = "position"


class StandardAxis(StrEnum):
    """The axes that most acquisitions are made of."""

    X = "x"
    Y = "y"
    Z = "z"
    CHANNEL = "c"
    TIME = "t"
    POSITION = "p"

    def dimension_type(self) -> DimensionType:
        """Return the type of a dimension along this axis."""
        return _STANDARD_TYPES[self.value]

    def unit(self) -> str | None:
        """Return ``"micrometer"`` for x, y, z, ``"second"`` for t, None for the others."""
        return {"space": "micrometer", "time": "second"}.get(self.dimension_type())

    def to_dimension(
        self,
        *,
        count: int | None = None,
        scale: float | None = None,
        chunk_size: int | None = None,
        shard_size_chunks: int | None = None,
        **fields: Any,
    ) -> Dimension:
        """Return a dimension along this axis; ``fields`` are further fields of :class:`Dimension`."""
        cls = PositionDimension if self is StandardAxis.POSITION else Dimension
        return cls(
            **{
                "name": self.value,
                "type": self.dimension_type(),
                "unit": self.unit(),
                "count": count,
                "scale": scale,
                "chunk_size": chunk_size,
                "shard_size_chunks": shard_size_chunks,
                **fields,
            }
        )


def dims_from_standard_axes(
    sizes: Mapping[str, int | Sequence[str | Channel | Position] | None],
    chunk_shapes: Mapping[str, int] | None = None,
    shard_shapes: Mapping[str, int] | None = None,
) -> list[Dimension]:
    """Return dimensions for standard axes, in the order given (slowest first, the frame's two last).

    Parameters
    ----------
    sizes : mapping
        Axis name (x, y, z, c, t, p) to number of steps, None for unbounded, or a list of channels or positions.
    chunk_shapes : mapping, optional
        Axis name to chunk size in pixels or steps.
    shard_shapes : mapping, optional
        Axis name to shard size in chunks.

    Raises
    ------
    SettingsError, ValueError
        For a name that is not a standard axis, or sizes that are not allowed.
    """
    chunks, shards = chunk_shapes or {}, shard_shapes or {}
    allowed = [axis.value for axis in StandardAxis]
    unknown = sorted({str(name) for mapping in (sizes, chunks, shards) for name in mapping} - set(allowed))
    if unknown:
        raise ValueError(f"{', '.join(unknown)}: not a standard axis; allowed are {', '.join(allowed)}")
    dimensions = []
    for name, size in sizes.items():
        steps: dict[str, Any] = {"count": size} if size is None or isinstance(size, int) else {"coords": list(size)}
        axis = StandardAxis(name)
        dimensions.append(axis.to_dimension(**steps, chunk_size=chunks.get(name), shard_size_chunks=shards.get(name)))
    return dimensions


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _named(cls: type[Settings], value: Any) -> Any:
    """Return the coordinate as an instance of ``cls`` where it is a name or a mapping, else unchanged."""
    return cls.model_validate(value) if isinstance(value, str | Mapping) else value


def _kind_of(coordinate: object) -> type:
    return next(kind for kind in (str, float, Channel, Position) if isinstance(coordinate, kind))


def _type_of_unit(unit: str) -> DimensionType | None:
    unit = canonical_unit(unit)
    return "space" if unit in SPACE_UNITS else "time" if unit in TIME_UNITS else None


def _even_spacing(coords: Coordinates) -> tuple[float, float] | None:
    """Return (first, step) of evenly rising numbers, None for anything else."""
    numbers = [c for c in coords if isinstance(c, float)]
    if len(numbers) < 2:
        return None
    step = (numbers[-1] - numbers[0]) / (len(numbers) - 1)
    tolerance = 1e-6 * step
    if step <= 0 or any(abs(numbers[0] + i * step - c) > tolerance for i, c in enumerate(numbers)):
        return None
    return numbers[0], step
