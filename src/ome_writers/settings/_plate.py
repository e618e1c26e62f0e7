"""Multi-well plates."""

from __future__ import annotations

from typing import Final, Self

from pydantic import field_validator

from ._model import Settings, report
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

    @field_validator("row_names", "column_names")
    @classmethod
    def _usable_names(cls, names: list[str]) -> list[str]:
        faults = [] if names else ["a plate needs at least one row and one column"]
        faults += [f"{name!r} is not allowed; use letters and digits" for name in names if not is_alphanumeric(name)]
        faults += [fault for name in filter(is_alphanumeric, names) if (fault := name_fault(name, "row or column"))]
        faults += [f"names must be unique also when case is ignored: {group}" for group in collisions(names)]
        report(faults)
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


def row_label(index: int) -> str:
    """Return the name of a plate's row by its index: A to Z, then AA, AB, ..."""
    label = ""
    index += 1
    while index:
        index, rest = divmod(index - 1, 26)
        label = chr(ord("A") + rest) + label
    return label
