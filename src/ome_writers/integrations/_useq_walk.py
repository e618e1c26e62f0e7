"""Which loops a useq-schema sequence runs through, and whether its events follow them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from itertools import product, zip_longest
from typing import TYPE_CHECKING

from ome_writers.errors import SettingsError, UnsupportedError

if TYPE_CHECKING:
    import useq


@dataclass(frozen=True)
class Walk:
    """A sequence whose images were found to come in the order of nested loops.

    Attributes
    ----------
    sequence : useq.MDASequence
        A copy of the sequence, free to be read.
    sizes : mapping
        Number of steps of each axis (t, p, g, c, z) that events count through, outermost first.
    index_axes : tuple of str
        The names of the index dimensions, outermost first; ``p`` stands for positions and grid points together.
    grid : useq.MultiPointPlan, optional
        The plan that the axis ``g`` comes from.
    first_events : mapping
        The first event that acquires an image at each (position, grid point), in acquisition order.
    """

    sequence: useq.MDASequence
    sizes: Mapping[str, int]
    index_axes: tuple[str, ...]
    grid: useq.MultiPointPlan | None
    first_events: Mapping[tuple[int, int], useq.MDAEvent]


def walk(seq: useq.MDASequence) -> Walk:
    """Walk through all events of a sequence once, without any effect on the sequence.

    Raises
    ------
    UnsupportedError
        If the images are not in the order of nested loops (names the first one that is not), or there are loops
        between those over positions and over grid points.
    SettingsError
        If the sequence can't be iterated.
    """
    sequence = _copy_to_walk(seq)
    sizes = _used_axes(sequence)
    own_grid = _grid_of_positions(sequence) if "p" in sizes else None
    if own_grid is not None:
        if "g" in sizes:
            raise UnsupportedError("the sequence is not a regular array: both it and its positions have a grid")
        # the sub-sequence of a position runs inside all loops of the sequence
        sizes["g"] = len(tuple(own_grid))
    return Walk(
        sequence=sequence,
        sizes=sizes,
        index_axes=_index_axes(sizes),
        grid=own_grid or sequence.grid_plan,
        first_events=_first_events(sequence, sizes),
    )


def _index_axes(sizes: Mapping[str, int]) -> tuple[str, ...]:
    if not {"p", "g"} <= set(sizes):
        return tuple("p" if axis == "g" else axis for axis in sizes)
    loops = [axis for axis in sizes if sizes[axis] > 1]
    if {"p", "g"} <= set(loops) and loops.index("g") != loops.index("p") + 1:
        raise UnsupportedError(
            f"the sequence is not a regular array: it goes through its axes in the order {', '.join(sizes)}; positions "
            "and their grid points (g) can only be one dimension if g comes directly after p"
        )
    left_out = "p" if sizes["p"] == 1 else "g"
    return tuple("p" if axis in ("p", "g") else axis for axis in sizes if axis != left_out)


def _copy_to_walk(seq: useq.MDASequence) -> useq.MDASequence:
    """Return a copy whose events can be walked through without any effect on the original.

    Walking changes the state of an autofocus plan (which then leaves out the first autofocus of the real run), and
    useq-schema remembers the points of each plan for sequences that are equal and have the same uid. The copy has the
    same uid, so that points drawn at random are the same in the real run; it shares no plan that can be changed, so
    that the real run sees a change made in between.
    """
    fields = ("stage_positions", "grid_plan", "autofocus_plan")
    return seq.model_copy(update={name: deepcopy(getattr(seq, name)) for name in fields})


def _used_axes(sequence: useq.MDASequence) -> dict[str, int]:
    """Return the sizes of the axes of a sequence, in acquisition order, without those of size zero."""
    try:
        sizes = {str(axis): len(tuple(sequence.iter_axis(axis))) for axis in sequence.axis_order}
    except ZeroDivisionError as error:
        raise SettingsError(
            "the time plan divides by zero: with a duration, the interval must be above 0 and loops above 1"
        ) from error
    return {axis: size for axis, size in sizes.items() if size}


def _grid_of_positions(sequence: useq.MDASequence) -> useq.MultiPointPlan | None:
    """Return the grid that every position has in its sub-sequence, None if no position has a sub-sequence."""
    subs = [position.sequence for position in sequence.stage_positions]
    axes_of_subs = [{} if sub is None else _used_axes(sub) for sub in subs]
    if not any(axes_of_subs):
        return None
    grids = []
    for place, (sub, axes) in enumerate(zip(subs, axes_of_subs, strict=True)):
        if sub is None or sub.grid_plan is None or set(axes) != {"g"}:
            found = f"goes through {', '.join(axes)}" if axes else "is missing or empty"
            raise UnsupportedError(
                f"the sequence is not a regular array: the sub-sequence of position {place} {found}; all that "
                "positions can have of their own is a grid, the same at every position"
            )
        grids.append(sub.grid_plan)
    first = grids[0].model_dump()
    for place, grid in enumerate(grids):
        if grid.model_dump() != first:
            raise UnsupportedError(
                f"the sequence is not a regular array: the grid of position {place} is not that of position 0"
            )
    return grids[0]


def _first_events(sequence: useq.MDASequence, sizes: Mapping[str, int]) -> dict[tuple[int, int], useq.MDAEvent]:
    """Check the index of every image; return the first event of each (position, grid point)."""
    first: dict[tuple[int, int], useq.MDAEvent] = {}
    images: Iterator[useq.MDAEvent] = (event for event in sequence if event.action.type == "acquire_image")
    loops = product(*(range(size) for size in sizes.values()))
    for number, (event, steps) in enumerate(zip_longest(images, loops)):
        index = None if event is None else dict(event.index)
        expected = None if steps is None else dict(zip(sizes, steps, strict=True))
        if index is None or index != expected:
            raise UnsupportedError(_irregularity(sequence, sizes, number, index, expected))
        first.setdefault((index.get("p", 0), index.get("g", 0)), event)
    return first


def _irregularity(
    sequence: useq.MDASequence,
    sizes: Mapping[str, int],
    number: int,
    index: Mapping[str, int] | None,
    expected: Mapping[str, int] | None,
) -> str:
    if not sizes:
        return "the sequence has no axes and acquires no images"
    array = " x ".join(f"{axis} {size}" for axis, size in sizes.items())
    if index is None:
        fault = f"it ends after {number} images, before {_text(expected)}"
    elif expected is None:
        fault = f"after its {number} images it goes on with {_text(index)}"
    else:
        fault = f"image {number} is {_text(index)} instead of {_text(expected)}"
    reasons = [f"channel {c.config!r} has do_stack=False" for c in sequence.channels if not c.do_stack]
    reasons += [
        f"channel {c.config!r} has acquire_every={c.acquire_every}" for c in sequence.channels if c.acquire_every > 1
    ]
    reasons += [
        f"position {place} has a sub-sequence" for place, p in enumerate(sequence.stage_positions) if p.sequence
    ]
    because = f" ({'; '.join(reasons[:5])})" if reasons else ""
    return f"the sequence is not a regular array of {array}: {fault}{because}"


def _text(index: Mapping[str, int] | None) -> str:
    return " ".join(f"{axis}={step}" for axis, step in (index or {}).items())
