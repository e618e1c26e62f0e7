"""Which dimensions become axes of an image, in which order, and which are split off into images of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ._dimension import Dimension

MAX_AXES: Final = 5
"""The most axes that an image may have (OME-NGFF 0.5, "axes" metadata)."""

_MOST_OF_A_TYPE: Final = {"time": 1, "channel": 1, "other": 1, "space": 3}
_RANKS: Final = {"time": 0, "channel": 1, "other": 1, "space": 2}


def split_dimensions(dimensions: Sequence[Dimension]) -> tuple[Dimension, ...]:
    """Return the dimensions that an OME-NGFF image has no axis for; each of their steps becomes an image of its own.

    An image has at most five axes: at most one of type time, one channel, one other, three space (OME-NGFF 0.5, "axes"
    metadata). Of a type with too many, the slowest go. That leaves at most six; of these the one of type other goes.
    The two frame dimensions, which come last, always stay.

    Parameters
    ----------
    dimensions : sequence of Dimension
        All dimensions in acquisition order.

    Returns
    -------
    tuple of Dimension
        In acquisition order.
    """
    kept = [d for d in dimensions if d.type != "position"]
    for kind, most in _MOST_OF_A_TYPE.items():
        excess = len([d for d in kept if d.type == kind]) - most
        for slowest in [d for d in kept[:-2] if d.type == kind][: max(0, excess)]:
            kept.remove(slowest)
    if len(kept) > MAX_AXES:
        kept = [d for d in kept if d.type != "other"]
    names = {d.name for d in kept}
    return tuple(d for d in dimensions if d.type != "position" and d.name not in names)


def ome_order(index_dimensions: Sequence[Dimension]) -> tuple[Dimension, ...]:
    """Return index dimensions in the order that OME-NGFF asks for: time, then channel or other, then space."""
    return tuple(sorted(index_dimensions, key=lambda d: _RANKS[d.type or "other"]))


def is_ome_order(index_dimensions: Sequence[Dimension]) -> bool:
    """Tell whether index dimensions stand in an order that OME-NGFF allows."""
    return ome_order(index_dimensions) == tuple(index_dimensions)


def step_labels(dimension: Dimension) -> list[str]:
    """Return the names of the images that one dimension is split into, such as ``angle-0``, ``angle-1``.

    Raises
    ------
    ValueError
        For an unbounded dimension: nobody knows how many images it would be.
    """
    if dimension.count is None:
        raise ValueError(
            f"dimension {dimension.name!r} is unbounded, and OME-Zarr has no axis for it, so each step would be an "
            "image of its own; give it a count"
        )
    return [f"{dimension.name}-{step}" for step in range(dimension.count)]
