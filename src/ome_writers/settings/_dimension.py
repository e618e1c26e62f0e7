"""Dimensions of an acquisition and what stands along them: channels and positions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, Self, TypeAlias

import numpy as np
from pydantic import (
    Field,
    FiniteFloat,
    PositiveInt,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from ._coordinates import Channel, Coordinates, Position, coordinate_faults, even_spacing
from ._model import Settings, fault_lines, faulty_fields, report, salvaged
from ._names import Label, name_fault
from ._units import SPACE_UNITS, TIME_UNITS, canonical_unit

DimensionType: TypeAlias = Literal["space", "time", "channel", "position", "other"]


_STANDARD_TYPES: Final[dict[str, DimensionType]] = {
    "x": "space", "y": "space", "z": "space", "t": "time", "c": "channel", "p": "position",
}  # fmt: skip


GridExtent: TypeAlias = Annotated[int, Field(gt=0, lt=1 << 31)]
"""Extent of a chunk, or of a shard in chunks: more than 2^31 - 1 is a slip, and not every library could count it."""


_STEPS: Final = "number of coordinates that have faults"


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

    # in this order, so that the validator of a field sees what it must agree with
    name: str
    type: DimensionType | None = None
    unit: Label | None = None
    coords: Coordinates | None = None
    count: PositiveInt | None = None
    chunk_size: GridExtent | None = None
    shard_size_chunks: GridExtent | None = None
    scale: FiniteFloat | None = Field(default=None, gt=0)
    translation: FiniteFloat | None = None

    @field_validator("name")
    @classmethod
    def _usable_in_a_path(cls, name: str) -> str:
        report([fault for fault in [name_fault(name, "dimension")] if fault])
        return name

    @field_validator("unit")
    @classmethod
    def _canonical_unit(cls, unit: str | None, info: ValidationInfo) -> str | None:
        unit = canonical_unit(unit) if unit else None
        report(_unit_faults({**info.data, "unit": unit, "coords": None}))
        return unit

    @field_validator("coords", mode="before")
    @classmethod
    def _cast_names(cls, coords: Any, info: ValidationInfo) -> Any:
        """Make channels and positions of plain names, where the dimension is one of channels or positions."""
        if not isinstance(coords, Sequence | np.ndarray) or isinstance(coords, str | bytes):
            return coords
        entries, faults = _cast(coords, next(iter(_evidence({**info.data, "coords": None}).values()), None))
        if faults:  # those of the other entries are reported together with them
            info.data[_STEPS] = len(coords)
            faults += coordinate_faults(entries) if entries else []
            report(faults + _coords_type_faults({**info.data, "coords": entries}))
        return entries

    @field_validator("coords")
    @classmethod
    def _usable_coordinates(cls, coords: Coordinates | None, info: ValidationInfo) -> Coordinates | None:
        if coords is not None and (
            faults := coordinate_faults(coords) + _coords_type_faults({**info.data, "coords": coords})
        ):
            info.data[_STEPS] = len(coords)
            report(faults)
        return coords

    @field_validator("count")
    @classmethod
    def _as_many_as_coords(cls, count: int | None, info: ValidationInfo) -> int | None:
        coords = info.data.get("coords")
        steps = info.data.get(_STEPS) if coords is None else len(coords)
        if not steps:
            return count
        if count not in (None, steps):
            raise ValueError(f"count is {count}, but there are {steps} coords; leave count out")
        return int(steps)

    @model_validator(mode="after")
    def _settle(self) -> Self:
        """Infer what was not given: the type, and from coordinates the count, the scale and the translation."""
        fields = dict(self)
        report(_unit_faults(fields) + _coords_type_faults(fields))  # again, after an assignment
        settled: dict[str, Any] = {"type": next(iter(_evidence(fields).values()), "other")}
        if self.coords is not None:
            settled["count"] = len(self.coords)
            if settled["type"] in ("space", "time"):
                spacing = dict(zip(("translation", "scale"), even_spacing(self.coords), strict=True))
                given = {field for field in self.model_fields_set if getattr(self, field) is not None}
                settled |= {field: value for field, value in spacing.items() if field not in given}
        for field, value in settled.items():  # past validate_assignment, which would start this validator again
            self.__dict__[field] = value
        return self


_COORDINATE: Final[TypeAdapter[Any]] = TypeAdapter(str | float | Channel | Position)


def _cast(coords: Iterable[Any], kind: str | None) -> tuple[Coordinates, list[str]]:
    """Return coordinates, and why some can't be: of those, what is left without their faulty fields."""
    entries: Coordinates = []
    faults = []
    for i, entry in enumerate(coords):
        model = _model_of(entry, kind)
        try:
            entries.append(model.model_validate(entry) if model else _COORDINATE.validate_python(entry))
        except ValidationError as error:
            if model is None:
                faults.append(f"entry {i}: {entry!r:.100} is no channel, position, name or number")
                continue
            faults += [f"entry {i}: {line}" for line in fault_lines(error)]
            left = salvaged(model, entry, name=f"entry{i}")
            entries += [left] if left else []
    return entries, faults


def _model_of(entry: Any, kind: str | None) -> type[Channel | Position] | None:
    """Return what an entry becomes along a dimension of some type; None for one that stays what it is."""
    if kind in ("channel", "position"):
        model = Channel if kind == "channel" else Position
        return model if isinstance(entry, str | Mapping) else None
    if not isinstance(entry, Mapping):
        return None
    return Position if entry.keys() & (Position.model_fields.keys() - {"name"}) else Channel


def salvaged_dimension(value: Any, place: int) -> tuple[Dimension, bool]:
    """Return what is left of a dimension when its faulty fields are taken out, and whether its type can be told.

    Parameters
    ----------
    value : Any
        What was given as a dimension.
    place : int
        Its place among the dimensions.
    """
    try:
        return Dimension.model_validate(value), True
    except ValidationError as error:
        faulty = faulty_fields(error)
    nothing = Dimension(name=f"dimension{place}", type="space", count=1), False
    if not isinstance(value, Mapping):
        return nothing
    given = value.get("coords")
    coords = given if isinstance(given, list | tuple) else ()
    left = salvaged(Dimension, value, name=f"dimension{place}", **({} if coords else {"count": 1}))
    if left is None:
        return nothing
    entries, _ = _cast(coords if "coords" in faulty else (), left.type)
    evidence = _evidence({**{name: value.get(name) for name in {"name", "type", "unit"} - faulty}, "coords": entries})
    known = "type" not in faulty and (bool(evidence) or not faulty & {"name", "unit"})
    kind = next(iter(evidence.values()), "other" if known else "space")
    changes: dict[str, Any] = {"type": kind}
    if "coords" in faulty:
        kept = [e for e in entries if kind != "position" or isinstance(e, Position)]
        changes |= {"coords": kept or None, "count": len(coords) if kept else left.count or 1}
    return left.model_copy(update=changes), known  # past the validators, which would refuse it again


def _evidence(fields: Mapping[str, Any]) -> dict[str, DimensionType]:
    """Return what tells the type of a dimension, in words, and the type that it tells; a standard name comes last."""
    evidence: dict[str, DimensionType] = {}
    if kind := fields.get("type"):
        evidence[f"type {kind!r}"] = kind
    coords = fields.get("coords")
    if coords and isinstance(coords[0], Channel | Position):
        entries: DimensionType = "channel" if isinstance(coords[0], Channel) else "position"
        evidence[f"coords of {entries}s"] = entries
    unit = fields.get("unit")
    if unit is not None and (by_unit := _type_of_unit(unit)):
        evidence[f"unit {unit!r}"] = by_unit
    if not fields.get("type") and (standard := _STANDARD_TYPES.get(fields.get("name", ""))):
        evidence[f"the standard name {fields['name']!r}"] = standard
    return evidence


def _type_conflicts(fields: Mapping[str, Any]) -> list[str]:
    evidence = _evidence(fields)
    if len(set(evidence.values())) < 2:
        return []
    meanings = ", ".join(f"{what} means {kind}" for what, kind in evidence.items())
    return [f"a dimension can't be of several types at once: {meanings}; change one of them"]


def _unit_faults(fields: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the unit of a dimension, given the fields that are sound."""
    if conflicts := _type_conflicts({**fields, "coords": None}):
        return conflicts
    unit, kind = fields["unit"], next(iter(_evidence(fields).values()), "other")
    allowed = {"space": SPACE_UNITS, "time": TIME_UNITS}.get(kind)
    if unit is None or allowed is None or unit in allowed:
        return []
    return [f"a dimension of type {kind} can't have unit {unit!r}; allowed: {', '.join(sorted(allowed))}"]


def _coords_type_faults(fields: Mapping[str, Any]) -> list[str]:
    """Return in what the coordinates of a dimension disagree with its other fields, given those that are sound."""
    coords = fields["coords"]
    if not coords or _type_conflicts({**fields, "coords": None}):
        return []
    kind = next(iter(_evidence(fields).values()), "other")
    if kind in ("channel", "position") and isinstance(coords[0], float):
        return [f"a dimension of type {kind} has names as coords, not numbers"]
    return _type_conflicts(fields)


class PositionDimension(Dimension):
    """The dimension of stage positions: a :class:`Dimension` of type ``"position"``, called ``p`` unless named."""

    name: str = "p"
    type: Literal["position"] = "position"


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
        is_count = size is None or isinstance(size, int | np.integer)
        steps: dict[str, Any] = {"count" if is_count else "coords": size}
        axis = StandardAxis(name)
        dimensions.append(axis.to_dimension(**steps, chunk_size=chunks.get(name), shard_size_chunks=shards.get(name)))
    return dimensions


def _type_of_unit(unit: str) -> DimensionType | None:
    unit = canonical_unit(unit)
    return "space" if unit in SPACE_UNITS else "time" if unit in TIME_UNITS else None
