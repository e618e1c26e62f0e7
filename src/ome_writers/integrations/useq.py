"""useq-schema: an ``MDASequence`` as the dimensions and the plate of a stream.

A sequence says what a microscope does, event by event; a stream needs an array with a fixed place for every frame. The
two agree only if the events that acquire an image count through all axes like nested loops. Whether they do is never
concluded from the plans of the sequence: its events are walked through once and compared. That takes about as long as
useq-schema needs to make the events, some 20 to 30 microseconds each (half a minute for a million).
"""

from __future__ import annotations

import math
import operator
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import count, pairwise
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypedDict

from ome_writers.errors import BackendMissingError, SettingsError
from ome_writers.integrations._useq_walk import Walk, walk
from ome_writers.settings import Channel, Dimension, Plate, Position, StandardAxis, in_base_units, row_label

if TYPE_CHECKING:
    import useq
    from useq import Channel as UseqChannel
    from useq import Position as UseqPosition

__all__ = ["AcquisitionSettingsDict", "UnitOrScale", "dims_from_useq", "useq_to_acquisition_settings"]

UnitOrScale: TypeAlias = str | tuple[float, str]
"""A unit, or the size of one step and its unit."""


class AcquisitionSettingsDict(TypedDict):
    """What a sequence tells of an acquisition, as keywords of :class:`~ome_writers.AcquisitionSettings`."""

    dimensions: list[Dimension]
    plate: Plate | None


def useq_to_acquisition_settings(
    seq: useq.MDASequence,
    image_width: int,
    image_height: int,
    *,
    units: Mapping[str, UnitOrScale] | None = None,
    pixel_size_um: float | None = None,
    chunk_shapes: Mapping[str, int] | None = None,
    shard_shapes: Mapping[str, int] | None = None,
) -> AcquisitionSettingsDict:
    """Return the dimensions and the plate of an acquisition sequence.

    The dimensions are the axes that the sequence uses, in its acquisition order, then ``y`` and ``x``. Stage positions
    and grid points are one dimension ``p``. The sequence is not changed: autofocus plans keep their state, and a field
    of view that is set later on its grid plans takes effect.

    Parameters
    ----------
    seq : useq.MDASequence
        The sequence.
    image_width, image_height : int
        Size of a frame in pixels.
    units : mapping, optional
        Axis name (t, p, c, z, y, x) to a unit, which the sizes that are known are converted to, or to
        (size of one step, unit), which replaces them.
    pixel_size_um : float, optional
        Size of a pixel in micrometers; None, 0 and NaN mean that it is not known.
    chunk_shapes : mapping, optional
        Axis name to chunk size in pixels or steps.
    shard_shapes : mapping, optional
        Axis name to shard size in chunks.

    Returns
    -------
    AcquisitionSettingsDict
        A plain dict with the keys ``dimensions`` (list of Dimension) and ``plate`` (Plate, or None when the positions
        are not those of a well plate). ``t`` has a scale in seconds if the interval is the same throughout. ``z`` has
        a scale in micrometers if the planes rise evenly, else their coordinates; they are relative to the ``z_coord``
        of the position for a relative z plan. What all channels have as z offset is included, what differs is not.

    Raises
    ------
    UnsupportedError
        If the images of the sequence can't be one regular array (also a NotImplementedError); says why.
    SettingsError, ValueError, TypeError
        If an argument or a name in the sequence is not allowed.
    BackendMissingError
        If useq-schema is not installed (also an ImportError).
    """
    seq = _checked(seq)
    _check_axis_names(units=units, chunk_shapes=chunk_shapes, shard_shapes=shard_shapes)
    frame = _frame_fields(image_width, image_height, pixel_size_um)
    walked = walk(seq)
    fields = {axis: _FIELDS[axis](walked) for axis in walked.index_axes} | frame

    chunks, shards = chunk_shapes or {}, shard_shapes or {}
    dimensions = [
        StandardAxis(axis).to_dimension(**known, chunk_size=chunks.get(axis), shard_size_chunks=shards.get(axis))
        for axis, known in fields.items()
    ]
    units = units or {}
    return {
        "dimensions": [_in_unit(d, units[d.name]) if d.name in units else d for d in dimensions],
        "plate": _plate(walked),
    }


def dims_from_useq(
    seq: useq.MDASequence,
    image_width: int,
    image_height: int,
    *,
    units: Mapping[str, UnitOrScale] | None = None,
    pixel_size_um: float | None = None,
    chunk_shapes: Mapping[str, int] | None = None,
    shard_shapes: Mapping[str, int] | None = None,
) -> list[Dimension]:
    """Return the dimensions of an acquisition sequence; see :func:`useq_to_acquisition_settings`.

    Positions on a well plate name their wells, so settings made of them need the plate too.
    """
    settings = useq_to_acquisition_settings(
        seq,
        image_width,
        image_height,
        units=units,
        pixel_size_um=pixel_size_um,
        chunk_shapes=chunk_shapes,
        shard_shapes=shard_shapes,
    )
    return settings["dimensions"]


# ---- arguments -----------------------------------------------------------------------------------------------------


def _checked(seq: object) -> useq.MDASequence:
    try:
        from useq import MDASequence
    except ImportError as error:
        raise BackendMissingError(
            'useq-schema is needed to read a sequence; install it with: pip install "ome-writers[useq]"'
        ) from error
    if not isinstance(seq, MDASequence):
        raise TypeError(f"seq must be a useq.MDASequence, not {type(seq).__module__}.{type(seq).__qualname__}")
    return seq


def _check_axis_names(**arguments: Mapping[str, object] | None) -> None:
    allowed = [axis.value for axis in StandardAxis]
    for argument, mapping in arguments.items():
        if unknown := sorted({str(name) for name in mapping or {}} - set(allowed)):
            raise SettingsError(f"{argument} names {', '.join(unknown)}; axes are {', '.join(allowed)}")


def _frame_fields(width: int, height: int, pixel_size_um: float | None) -> dict[str, dict[str, Any]]:
    known = pixel_size_um is not None and pixel_size_um != 0 and not math.isnan(pixel_size_um)
    scale = pixel_size_um if known else None
    counts = {"y": operator.index(height), "x": operator.index(width)}
    if min(counts.values()) < 1:
        raise SettingsError(f"a frame of {width} x {height} pixels (width x height) has none; give at least 1 x 1")
    return {axis: {"count": size, "scale": scale} for axis, size in counts.items()}


def _in_unit(dimension: Dimension, wanted: UnitOrScale) -> Dimension:
    """Return the dimension with its scale, translation and coordinates in another unit."""
    step, given = (None, wanted) if isinstance(wanted, str) else wanted
    fields = dict(dimension)
    # a new dimension: it checks the unit, and expands its short form
    fields["unit"] = Dimension(name=dimension.name, type=dimension.type, unit=given).unit
    if dimension.unit and fields["unit"] and fields["unit"] != dimension.unit:
        factor = in_base_units(dimension.unit) / in_base_units(fields["unit"])
        for name in ("scale", "translation"):
            if fields[name] is not None:
                fields[name] = _times(fields[name], factor)
        if dimension.coords is not None:
            fields["coords"] = [_times(c, factor) for c in dimension.coords if isinstance(c, float)]
    if step is not None:
        fields["scale"] = step
    return type(dimension)(**fields)


def _times(value: float, factor: float) -> float:
    """Return the product, without the rounding error that powers of ten leave in the 16th digit."""
    return float(f"{value * factor:.14g}")


# ---- what stands along the axes ------------------------------------------------------------------------------------


def _time_fields(walked: Walk) -> dict[str, Any]:
    """Return the number of time points, and their interval in seconds if it is above zero and always the same."""
    plan = walked.sequence.time_plan
    intervals = {later - earlier for earlier, later in pairwise(plan.deltas() if plan else ())}
    seconds = intervals.pop().total_seconds() if len(intervals) == 1 else 0.0
    return {"count": walked.sizes["t"], "scale": seconds if seconds > 0 else None}


def _channel_fields(walked: Walk) -> dict[str, Any]:
    return {"coords": [Channel(name=name) for name in _channel_names(walked.sequence.channels)]}


def _channel_names(channels: Sequence[UseqChannel]) -> list[str]:
    """Return a unique name for each channel: its config, with what tells it from others of that config."""
    alike: dict[str, list[UseqChannel]] = defaultdict(list)
    for channel in channels:
        alike[channel.config].append(channel)
    names = []
    for channel in channels:
        others = alike[channel.config]
        group = [channel.group] if len({c.group for c in others}) > 1 else []
        camera = [channel.camera] if channel.camera and len({c.camera for c in others}) > 1 else []
        names.append("-".join([*group, channel.config, *camera]))
    taken, repeats = set(names), Counter[str]()
    for place, name in enumerate(names):
        repeats[name] += 1
        if repeats[name] > 1:
            names[place] = next(n for i in count(repeats[name]) if (n := f"{name}-{i}") not in taken)
            taken.add(names[place])
    return names


def _z_fields(walked: Walk) -> dict[str, Any]:
    """Return what is true of the z planes, in the order in which they are visited."""
    plan = walked.sequence.z_plan
    offsets = {channel.z_offset for channel in walked.sequence.channels} if "c" in walked.sizes else set()
    offset = offsets.pop() if len(offsets) == 1 else 0.0
    planes = [z + offset for z in plan or ()]
    if len(planes) == 1:
        return {"count": 1, "translation": planes[0]}
    step = getattr(plan, "step", 0.0)
    if step > 0 and planes[0] < planes[-1]:
        return {"count": len(planes), "scale": step, "translation": planes[0]}
    return {"coords": planes}


def _position_fields(walked: Walk) -> dict[str, Any]:
    """Return the positions in acquisition order, each with the coordinates that its events have."""
    stage = tuple(walked.sequence.stage_positions) if "p" in walked.sizes else ()
    labels = _labels_on_plate(walked, stage) if _plate_plan(walked) else _labels(walked, stage)
    positions = [
        Position(
            **label,
            x_coord=event.x_pos,
            y_coord=event.y_pos,
            z_coord=_reference_z(walked, stage[p] if stage else None),
        )
        for label, ((p, _), event) in zip(labels, walked.first_events.items(), strict=True)
    ]
    return {"coords": positions}


def _labels(walked: Walk, stage: Sequence[UseqPosition]) -> list[dict[str, Any]]:
    """Return name and place in the grid of each position; points of a grid that has no rows are numbered."""
    names = _position_names([position.name for position in stage] or [None])
    points = walked.sizes.get("g", 1)
    places = _grid_places(walked)
    if places is None:
        return [{"name": f"{names[p]}_{g}" if points > 1 else names[p]} for p, g in walked.first_events]
    return [{"name": names[p], "grid_row": places[g][0], "grid_column": places[g][1]} for p, g in walked.first_events]


def _labels_on_plate(walked: Walk, stage: Sequence[UseqPosition]) -> list[dict[str, Any]]:
    """Return well and name of each position: its number in the well, as it comes.

    The path of a field has letters and digits only (OME-NGFF 0.5, "well" metadata), which rules out the names that
    useq-schema gives, and the place in a grid, which would become part of the path.
    """
    fields: Counter[tuple[int, int]] = Counter()
    labels = []
    for p, _ in walked.first_events:
        well = (stage[p].plate_row or 0, stage[p].plate_col or 0)
        labels.append({"name": str(fields[well]), "plate_row": row_label(well[0]), "plate_column": str(well[1] + 1)})
        fields[well] += 1
    return labels


def _reference_z(walked: Walk, position: UseqPosition | None) -> float | None:
    """Return the height of the position: its own, or what its z axis is relative to; None where it has no effect."""
    plan = walked.sequence.z_plan
    ignored = "z" in walked.sizes and plan is not None and not plan.is_relative
    return None if position is None or ignored else position.z


def _position_names(given: Sequence[str | None]) -> list[str]:
    """Return the names, and a number for each position that has none."""
    taken = {name for name in given if name}
    spare = (number for i in count(len(given)) if (number := str(i)) not in taken)
    return [name or (str(place) if str(place) not in taken else next(spare)) for place, name in enumerate(given)]


def _grid_places(walked: Walk) -> list[tuple[int, int]] | None:
    """Return (row, column) of each grid point; None without a grid, or for one whose points are not in rows."""
    if "g" not in walked.sizes:
        return None
    places = [
        (int(point.grid_row), int(point.grid_col))
        for point in walked.grid or ()
        if point.grid_row is not None and point.grid_col is not None
    ]
    return places if len(places) == walked.sizes["g"] else None


def _plate_plan(walked: Walk) -> useq.WellPlatePlan | None:
    from useq import WellPlatePlan

    stage = walked.sequence.stage_positions
    return stage if isinstance(stage, WellPlatePlan) and "p" in walked.sizes else None


def _plate(walked: Walk) -> Plate | None:
    plan = _plate_plan(walked)
    if plan is None:
        return None
    return Plate.from_standard_wells((plan.plate.rows, plan.plate.columns), name=plan.plate.name or None)


_FIELDS: Final[dict[str, Callable[[Walk], dict[str, Any]]]] = {
    "t": _time_fields,
    "p": _position_fields,
    "c": _channel_fields,
    "z": _z_fields,
}
