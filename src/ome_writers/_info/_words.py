"""Numbers and lists in words."""

from __future__ import annotations

from collections.abc import Sequence


def in_bytes(count: float) -> str:
    """Return a number of bytes in a unit that suits it (1 kB is 1000 bytes)."""
    if count < 1000:
        return f"{count:.0f} bytes"
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if count < 999.5:
            return f"{count:.3g} {unit}"
    return f"{count / 1000:,.1f} TB"


def counted(count: int, noun: str) -> str:
    """Return how many there are of something, such as ``"2 images"``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def listed(names: Sequence[str], most: int) -> str:
    """Return names, no more than some, and how many more there are."""
    text = ", ".join(names[:most])
    return f"{text} and {len(names) - most:,} more" if len(names) > most else text


def times(shape: Sequence[int]) -> str:
    """Return a shape, such as ``"3 x 512 x 512"``."""
    return " x ".join(map(str, shape))


def number(value: float) -> str:
    """Return a number without digits that say nothing."""
    return f"{value:.6g}"
