"""Units of axes: the names that OME-NGFF lists, and the short forms that people type."""

from __future__ import annotations

from typing import Final

# The UDUNITS-2 names listed in OME-NGFF 0.5, section "axes metadata"
_PREFIXES: Final = (
    "yocto", "zepto", "atto", "femto", "pico", "nano", "micro", "milli", "centi", "deci", "",
    "hecto", "kilo", "mega", "giga", "tera", "peta", "exa", "zetta", "yotta",
)  # fmt: skip
SPACE_UNITS: Final = frozenset(f"{p}meter" for p in _PREFIXES) | {"angstrom", "foot", "inch", "mile", "parsec", "yard"}
TIME_UNITS: Final = frozenset(f"{p}second" for p in _PREFIXES) | {"minute", "hour", "day"}

_SHORT_FORMS: Final = {
    "m": "meter", "cm": "centimeter", "mm": "millimeter", "um": "micrometer", "µm": "micrometer",
    "μm": "micrometer", "micron": "micrometer", "microns": "micrometer", "nm": "nanometer", "pm": "picometer",
    "Å": "angstrom", "s": "second", "sec": "second", "seconds": "second", "ms": "millisecond", "us": "microsecond",
    "µs": "microsecond", "μs": "microsecond", "ns": "nanosecond", "min": "minute", "h": "hour", "hr": "hour",
    "d": "day",
}  # fmt: skip

_EXPONENTS: Final = dict(
    zip(_PREFIXES, (-24, -21, -18, -15, -12, -9, -6, -3, -2, -1, 0, 2, 3, 6, 9, 12, 15, 18, 21, 24), strict=True)
)
_FACTORS: Final = {
    "angstrom": 1e-10, "foot": 0.3048, "inch": 0.0254, "mile": 1609.344, "parsec": 3.0856775814913673e16,
    "yard": 0.9144, "minute": 60.0, "hour": 3600.0, "day": 86400.0,
}  # fmt: skip


def canonical_unit(unit: str) -> str:
    """Return the OME-NGFF name of a unit given in short form (``um`` gives ``micrometer``), others unchanged."""
    return _SHORT_FORMS.get(unit, unit)


def in_base_units(unit: str) -> float:
    """Return how many meters (or seconds) one of a length (or time) unit is.

    Raises
    ------
    KeyError
        For a unit that is neither a length nor a time.
    """
    if unit in _FACTORS:
        return _FACTORS[unit]
    for base in ("meter", "second"):
        if unit.endswith(base):
            return float(10.0 ** _EXPONENTS[unit.removesuffix(base)])
    raise KeyError(unit)
