"""Multi-well plates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Self

from pydantic import ValidationError, ValidatorFunctionWrapHandler, field_validator

from ._model import Settings, report, with_faults
from ._names import Label, collisions, is_alphanumeric, name_fault

_STANDARD_PLATES: Final = {6: (2, 3), 12: (3, 4), 24: (4, 6), 48: (6, 8), 96: (8, 12), 384: (16, 24), 1536: (32, 48)}


class Plate(Settings):
    """A multi-well plate: the names of its rows and columns.

    Attributes
    ----------
    row_names, column_names : list of str
        Names of all rows and columns of the plate, also of those not imaged; letters and digits only (OME-NGFF 0.5).
    name : str, optional
        Name of the plate.
    """

    row_names: list[str]
    column_names: list[str]
    name: Label | None = None

    @field_validator("row_names", "column_names", mode="wrap")
    @classmethod
    def _usable_names(cls, value: Any, handler: ValidatorFunctionWrapHandler) -> list[str]:
        try:
            names: list[str] = handler(value)
        except ValidationError as error:
            raise with_faults(error, _name_faults(_texts(value))) from None
        report(_name_faults(names) if names else ["a plate needs at least one row and one column"])
        return names

    @classmethod
    def from_standard_wells(cls, wells: int | tuple[int, int], *, name: str | None = None) -> Self:
        """Return a plate with rows A, B, ... and columns 1, 2, ...

        Parameters
        ----------
        wells : int or tuple of int
            Number of wells of a standard plate (6, 12, 24, 48, 96, 384, 1536), or (rows, columns).
        name : str, optional
            Name of the plate.
        """
        if isinstance(wells, int):
            if wells not in _STANDARD_PLATES:
                allowed = ", ".join(map(str, _STANDARD_PLATES))
                raise ValueError(f"no standard plate has {wells} wells; allowed: {allowed}, or (rows, columns)")
            wells = _STANDARD_PLATES[wells]
        rows, columns = wells
        if min(rows, columns) < 1:
            raise ValueError(f"a plate of {rows} rows and {columns} columns has no wells; give at least 1 of each")
        return cls(
            row_names=[row_label(row) for row in range(rows)],
            column_names=[str(column + 1) for column in range(columns)],
            name=name,
        )


def _name_faults(names: list[str]) -> list[str]:
    faults = [f"{name!r} is not allowed; use letters and digits" for name in names if not is_alphanumeric(name)]
    faults += [fault for name in filter(is_alphanumeric, names) if (fault := name_fault(name, "row or column"))]
    return faults + [f"names must be unique also when case is ignored: {group}" for group in collisions(names)]


def _texts(names: Any) -> list[str]:
    return [name for name in names if isinstance(name, str)] if isinstance(names, list | tuple) else []


def salvaged_plate(value: Any) -> Plate | None:
    """Return a plate of all rows and columns that were named, none if they were not; None if it is no plate at all."""
    if not isinstance(value, Mapping):
        return None
    rows, columns = (_texts(value.get(field)) for field in ("row_names", "column_names"))
    return Plate.model_construct(row_names=rows, column_names=columns)


def row_label(index: int) -> str:
    """Return the name of a plate's row by its index: A to Z, then AA, AB, ..."""
    label = ""
    index += 1
    while index:
        index, rest = divmod(index - 1, 26)
        label = chr(ord("A") + rest) + label
    return label
