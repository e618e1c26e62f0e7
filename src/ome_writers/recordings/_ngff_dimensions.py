"""From the metadata of images to dimensions, channels, positions and a plate."""

from __future__ import annotations

import math
import re
from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from pydantic import ValidationError

from ome_writers.errors import RecordingError
from ome_writers.settings import Channel, Dimension, Plate, PositionDimension, in_base_units

from ._axes import axis_names
from ._ngff import Axis, FoundImage, Hierarchy, plate_names
from ._ome_metadata import OMEImage, channels_along
from ._source_names import channels_of, position_names

_STAGE_UNIT: Final = "micrometer"
"""Unit of stage coordinates, and of space axes that name none."""

_TYPES: Final = ("space", "time", "channel")
_TOLERANCE: Final = 1e-9  # relative: how far numbers that mean the same may differ


def named_axes(image: FoundImage, axes: str | None, source: str) -> tuple[Axis, ...]:
    """Return the axes of an image: of its metadata, or else as the user names them.

    Raises
    ------
    RecordingError
        If both name them and differ, or nobody does.
    """
    if image.axes is None:
        return tuple(Axis(name) for name in axis_names(axes, len(image.shape), source))
    if axes is not None:
        names = tuple(axis.name for axis in image.axes)
        if axis_names(axes, len(image.shape), source) != tuple(name.lower() for name in names):
            raise RecordingError(f"{source}: its metadata name the axes {', '.join(names)}; leave axes out")
    return image.axes


def frame_axes(axes: Sequence[Axis], source: str) -> tuple[int, int]:
    """Return which axes are those of a frame, y and x: the ones called so, or else the last two if these are in space.

    Raises
    ------
    RecordingError
        If there are none.
    """
    places = {axis.name.lower(): place for place, axis in enumerate(axes)}
    if "y" in places and "x" in places:
        return places["y"], places["x"]
    if len(axes) >= 2 and all(axis.type == "space" for axis in axes[-2:]):
        return len(axes) - 2, len(axes) - 1
    names = ", ".join(axis.name for axis in axes) or "none"
    raise RecordingError(f"{source}: axes {names} lack y and x, the axes of a frame; name them with axes")


def dimension_of(axis: Axis, count: int, channels: Sequence[Channel], source: str) -> Dimension:
    """Return a dimension along an axis of arrays.

    Raises
    ------
    RecordingError
        If its name can't be that of a dimension, or there is nothing along it.
    """
    if count < 1:
        raise RecordingError(f"{source}: axis {axis.name} has {count} steps, so there is no frame")
    kind = axis.type if axis.type in _TYPES else None if axis.type is None else "other"
    known: dict[str, Any] = {"name": axis.name, "count": count}
    if kind is not None:
        known["type"] = kind
    if axis.scale is not None and axis.scale > 0 and (axis.scale != 1 or axis.unit):  # 1: nothing is known
        known["scale"] = axis.scale
    if axis.translation:
        known["translation"] = axis.translation
    if len(channels) == count:
        known["coords"] = list(channels)
    try:
        return Dimension(**known, unit=axis.unit)
    except ValidationError:
        pass  # a unit that OME-NGFF does not list is left out
    try:
        return Dimension(**known)
    except ValidationError as error:
        raise RecordingError(f"{source}: axis {axis.name!r} can't be a dimension: {_first(error)}") from error


def channels_in(image: FoundImage, axis: str, count: int, described: OMEImage | None) -> list[Channel]:
    """Return the channels along the channel axis of an image; none if nothing is known of them.

    Names and colours come from ``omero``; what that lacks, from this package's attributes, then from OME-XML.
    """
    own = image.own.get("channels")
    of_axis = own.get(axis) if isinstance(own, Mapping) else None
    in_xml = None if described is None or described.sizes["c"] != count else channels_along(described, count)
    sources: list[Sequence[Any]] = [
        [_omero_channel(channel) for channel in image.channels],
        of_axis if isinstance(of_axis, list) and all(isinstance(c, Mapping) for c in of_axis) else [],
        [channel.model_dump(exclude_none=True) for channel in in_xml or ()],
    ]
    sources = [source for source in sources if len(source) == count and any(source)]
    if not sources:
        return []
    merged = [dict(ChainMap(*of_channel)) for of_channel in zip(*sources, strict=True)]
    names = [known.pop("name", None) for known in merged]
    return channels_of(names, merged)


def _omero_channel(channel: Mapping[str, Any]) -> dict[str, Any]:
    label, color = channel.get("label"), channel.get("color")
    known: dict[str, Any] = {}
    if isinstance(label, str | int) and str(label).strip():
        known["name"] = str(label)
    if isinstance(color, str) and re.fullmatch(r"#?[0-9A-Fa-f]{6}([0-9A-Fa-f]{2})?", color):
        known["color"] = f"#{color.removeprefix('#')[:6]}"
    return known


def position_dimension(
    hierarchy: Hierarchy,
    images: Sequence[FoundImage],
    axes: Sequence[Sequence[Axis]],
    described: Sequence[OMEImage | None],
    source: str,
) -> tuple[Dimension | None, tuple[Axis, ...]]:
    """Return the dimension of positions, None for a single image on no plate, and the axes that images have in common.

    Parameters
    ----------
    hierarchy : Hierarchy
        The dataset.
    images : sequence of FoundImage
        Those of it that are read.
    axes : sequence of sequence of Axis
        Of each.
    described : sequence of OMEImage or None
        What OME-XML says of each.
    source : str
        For messages.
    """
    common, stages = _stage_coordinates(axes, described)
    if len(images) == 1 and hierarchy.kind != "plate":
        return None, tuple(axes[0])
    names = _position_names(hierarchy, images, described)
    positions: list[dict[str, Any]] = []
    for image, name, stage in zip(images, names, stages, strict=True):
        beyond_axes = image.own.get("position")
        position: dict[str, Any] = {"name": name, **(beyond_axes if isinstance(beyond_axes, Mapping) else {}), **stage}
        if image.well is not None:
            position |= {"plate_row": image.well[0], "plate_column": image.well[1]}
        positions.append(position)
    taken = {axis.name.casefold() for axis in common}
    name = next(name for name in ("p", "position", "image", "series") if name not in taken)
    try:
        return PositionDimension(name=name, coords=positions), common
    except ValidationError as error:
        raise RecordingError(f"{source}: its images can't be positions: {_first(error)}") from error


def plate_of(hierarchy: Hierarchy, source: str) -> Plate | None:
    """Return the plate; None if there is none."""
    if hierarchy.plate is None:
        return None
    rows, columns = plate_names(hierarchy.root.folder, hierarchy.plate)
    name = hierarchy.plate.get("name")
    try:
        return Plate(row_names=rows, column_names=columns, name=name if isinstance(name, str) and name else None)
    except ValidationError as error:
        raise RecordingError(f"{source}: its plate can't be used: {_first(error)}") from error


def _stage_coordinates(
    axes: Sequence[Sequence[Axis]], described: Sequence[OMEImage | None]
) -> tuple[tuple[Axis, ...], list[dict[str, float]]]:
    """Return the axes without what differs between images, which is where the stage was, and that in micrometers.

    The translation of an image along x, y or z is that of its dimension and the stage coordinate together. OME-XML
    tells the latter. Without it, translations that differ between the images are stage coordinates.
    """
    common = list(axes[0])
    stages: list[dict[str, float]] = [{} for _ in axes]
    stage_axes = [
        (place, name) for place, axis in enumerate(common) if (name := axis.name.lower()) in ("x", "y", "z")
        and axis.type in ("space", None)
    ]  # fmt: skip
    differ = {name for place, name in stage_axes if len({_rounded(of[place].translation) for of in axes}) > 1}
    differ |= {"x", "y"} if differ & {"x", "y"} else set()
    for place, name in stage_axes:
        factor = in_base_units(_STAGE_UNIT) / _meters(common[place].unit)
        told = [None if d is None else d.stage["xyz".index(name)] for d in described]
        translations = [of[place].translation for of in axes]
        rest = [
            (t or 0.0) - s * float(f"{factor:.15g}") for t, s in zip(translations, told, strict=True) if s is not None
        ]
        if len(rest) == len(axes) and _all_alike(rest, [t or 0.0 for t in translations]):
            coordinates, left = told, rest[0] if abs(rest[0]) > _TOLERANCE * _largest(translations) else None
        elif len(rest) == len(axes) and not any(translations):
            coordinates, left = told, None
        elif name in differ:
            coordinates, left = [float(f"{(t or 0.0) / float(f'{factor:.15g}'):.15g}") for t in translations], None
        else:
            continue
        common[place] = replace(common[place], translation=left)
        for stage, coordinate in zip(stages, coordinates, strict=True):
            if coordinate is not None:
                stage[f"{name}_coord"] = coordinate
    on_axes = {name for _, name in stage_axes}
    for stage, d in zip(stages, described, strict=True):
        for name in {"x", "y", "z"} - on_axes:
            if d is not None and (coordinate := d.stage["xyz".index(name)]) is not None:
                stage[f"{name}_coord"] = coordinate
    return tuple(common), stages


def _meters(unit: str | None) -> float:
    try:
        return in_base_units(unit or _STAGE_UNIT)
    except KeyError:
        return in_base_units(_STAGE_UNIT)


def _rounded(value: float | None) -> float:
    return float(f"{value or 0.0:.12g}")


def _largest(values: Sequence[float | None]) -> float:
    return max((abs(v or 0.0) for v in values), default=0.0)


def _all_alike(values: Sequence[float], of: Sequence[float]) -> bool:
    return all(math.isclose(v, values[0], abs_tol=_TOLERANCE * max(1.0, _largest(of))) for v in values)


def _position_names(
    hierarchy: Hierarchy, images: Sequence[FoundImage], described: Sequence[OMEImage | None]
) -> list[str]:
    """Return names that can be part of a path: those that the metadata give, if each image has one of its own."""
    if hierarchy.kind in ("plate", "well"):
        fields = [image.path.rpartition("/")[2] for image in images]
        return position_names(fields, [image.well for image in images])
    for names in ([None if d is None else d.name for d in described], [image.name for image in images]):
        if len({name.casefold() for name in names if name}) == len(images):
            return position_names(names)
    return position_names([image.path.replace("/", "_") for image in images])


def _first(error: ValidationError) -> str:
    return error.errors()[0]["msg"].removeprefix("Value error, ")
