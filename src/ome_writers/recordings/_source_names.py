"""Names that sources give, as names that a dataset can have, and values as JSON can hold them."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from ome_writers.settings import Channel, Position

_NOT_IN_PATHS = re.compile(r'[/\\<>:"|?*\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]')
_NOT_ON_PLATES = re.compile(r"[^A-Za-z0-9]")  # OME-NGFF 0.5, "well metadata"
_NOT_IN_LABELS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def position_names(names: Sequence[str | None], wells: Sequence[tuple[str, str] | None] | None = None) -> list[str]:
    """Return names that positions can have, unique, as much like those given as can be.

    Parameters
    ----------
    names : sequence of str or None
        Of each position; None for one without.
    wells : sequence, optional
        Row and column of each, on a plate: names are unique in a well, and have fewer characters to choose from.
    """
    chosen: list[str] = []
    taken: set[tuple[tuple[str, str] | None, str]] = set()
    counts: Counter[tuple[str, str] | None] = Counter()
    for place, name in enumerate(names):
        well = wells[place] if wells else None
        stem = _usable(name or "", plate=wells is not None) or str(counts[well])
        unique, number = stem, 1
        while (well, unique.casefold()) in taken:
            number += 1
            unique = f"{stem}{'x' if wells else '-'}{number}"
        taken.add((well, unique.casefold()))
        counts[well] += 1
        chosen.append(unique)
    return chosen


def _usable(name: str, *, plate: bool) -> str | None:
    text = _NOT_ON_PLATES.sub("", name) if plate else _NOT_IN_PATHS.sub("_", name).strip().rstrip(". ")
    text = text.encode()[:150].decode(errors="ignore").strip()
    for candidate in (text, f"position{'' if plate else '-'}{text.lstrip('_')}") if text else ():
        try:
            return Position(name=candidate).name
        except ValidationError:
            continue
    return None


def channels_of(names: Iterable[str | None], details: Iterable[Mapping[str, Any]]) -> list[Channel]:
    """Return channels, with unique names; numbered where there is no name."""
    channels: list[Channel] = []
    taken: set[str] = set()
    for place, (name, known) in enumerate(zip(names, details, strict=True)):
        stem = label(name or "") or f"C{place}"
        unique, number = stem, 1
        while unique in taken:
            number += 1
            unique = f"{stem} {number}"
        taken.add(unique)
        channels.append(Channel(name=unique, **{key: value for key, value in known.items() if value is not None}))
    return channels


def label(text: str) -> str:
    """Return text without what metadata documents can't hold."""
    return _NOT_IN_LABELS.sub("", text).strip()


def json_value(value: Any) -> Any:
    """Return a value as JSON can hold it: numbers that are not finite as their names, unknown things as text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else "NaN" if math.isnan(value) else f"{'-' if value < 0 else ''}Infinity"
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if isinstance(value, Mapping):
        return {str(key): json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(item) for item in value]
    if hasattr(value, "tolist"):
        return json_value(value.tolist())
    return str(value)
