"""What stands along the dimensions of an acquisition: channels, positions, names and numbers."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from typing import Annotated, Any, Self, TypeAlias

from pydantic import Field, FiniteFloat, PositiveFloat, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError
from pydantic_extra_types.color import Color

from ._model import Settings, report
from ._names import LABEL, Label, collisions, label_fault, name_fault


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

    name: Annotated[str, Field(min_length=1), LABEL]
    excitation_wavelength_nm: PositiveFloat | None = None
    emission_wavelength_nm: PositiveFloat | None = None
    fluorophore: Label | None = None
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

    @field_validator("plate_column", "grid_column")
    @classmethod
    def _paired_with_row(cls, column: str | int | None, info: ValidationInfo) -> str | int | None:
        kind = str(info.field_name).removesuffix("_column")
        row = info.data.get(f"{kind}_row", column)  # a row that has a fault of its own is not missing
        report(_pair_faults(kind, row, column))
        return column

    @model_validator(mode="after")
    def _still_in_pairs(self) -> Self:
        """Check again after an assignment to a row."""
        report(
            _pair_faults("plate", self.plate_row, self.plate_column)
            + _pair_faults("grid", self.grid_row, self.grid_column)
        )
        return self

    @property
    def image_name(self) -> str:
        """Name of the image group: the position's name, in a grid followed by ``_row_column``."""
        return self.name if self.grid_row is None else f"{self.name}_{self.grid_row}_{self.grid_column}"


def _pair_faults(kind: str, row: object, column: object) -> list[str]:
    if (row is None) == (column is None):
        return []
    return [f"a position has only one of {kind}_row and {kind}_column; give both or neither"]


Coordinates: TypeAlias = list[str | float | Channel | Position]


def coordinate_faults(coords: Coordinates) -> list[str]:
    """Return what is wrong with coordinates by themselves."""
    faults = [] if coords else ["coords is empty; leave it out, or give one entry per step"]
    if len({_kind_of(c) for c in coords}) > 1:
        faults.append("coords mixes channels, positions, names and numbers; give entries of one kind")
    faults += [f"the coordinate {c} is not finite" for c in coords if isinstance(c, float) and not math.isfinite(c)]
    faults += [fault for c in coords if isinstance(c, str) and (fault := label_fault(c))]
    names = Counter(c.name if isinstance(c, Channel) else c for c in coords if isinstance(c, str | Channel))
    if doubles := sorted(name for name, times in names.items() if times > 1):
        faults.append(f"coords has the same name more than once: {', '.join(map(repr, doubles))}")
    groups: dict[Any, list[str]] = defaultdict(list)
    for p in coords:
        if isinstance(p, Position):
            groups[p.plate_row, p.plate_column, p.grid_row, p.grid_column].append(p.name)
    for group in groups.values():
        faults += [f"position names must be unique also when case is ignored: {c}" for c in collisions(group)]
    return faults


def even_spacing(coords: Coordinates) -> tuple[float, float] | tuple[None, None]:
    """Return (first, step) of evenly rising numbers, Nones for anything else."""
    numbers = [c for c in coords if isinstance(c, float)]
    if len(numbers) < 2:
        return None, None
    step = (numbers[-1] - numbers[0]) / (len(numbers) - 1)
    tolerance = 1e-6 * step
    if not 0 < step < math.inf or any(abs(numbers[0] + i * step - c) > tolerance for i, c in enumerate(numbers)):
        return None, None
    return numbers[0], step


def _kind_of(coordinate: object) -> type:
    return next(kind for kind in (str, float, Channel, Position) if isinstance(coordinate, kind))
