"""How many blocks of an acquisition are incomplete at once, from plain integers."""

from __future__ import annotations

import math
from collections.abc import Sequence


def gathering_place(counts: Sequence[int | None], steps: Sequence[int]) -> int | None:
    """Return the place of the slowest dimension along which a block has more than one step; None if there is none.

    Parameters
    ----------
    counts : sequence of int or None
        Steps of each dimension in acquisition order, slowest first; None for the unbounded one.
    steps : sequence of int
        Steps of a block along each of them.
    """
    pairs = zip(counts, steps, strict=True)
    return next((i for i, (count, n) in enumerate(pairs) if (n if count is None else min(n, count)) > 1), None)


def open_blocks(counts: Sequence[int | None], steps: Sequence[int]) -> int:
    """Return how many blocks are incomplete at once, at most, when frames arrive in acquisition order.

    The slowest dimension along which a block has more than one step keeps open all blocks that differ along the faster
    ones; slower dimensions keep none. The one block that is being filled counts.

    Parameters
    ----------
    counts : sequence of int or None
        Steps of each dimension in acquisition order, slowest first; None for the unbounded one.
    steps : sequence of int
        Steps of a block along each of them; 1 for a dimension that no array has an axis for.
    """
    place = gathering_place(counts, steps)
    if place is None:
        return 1
    return math.prod(-(-(count or 1) // n) for count, n in zip(counts[place + 1 :], steps[place + 1 :], strict=True))
