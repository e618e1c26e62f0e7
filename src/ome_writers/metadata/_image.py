"""Attributes of an image's group (OME-NGFF 0.5, "multiscales" metadata), and what OME-NGFF has no place for."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any, Final

from yaozarrs import v05

from ome_writers._layout import Image
from ome_writers.settings import AcquisitionSettings, Channel, Dimension, Position, in_base_units

from ._omero import channels_of, omero

STAGE_UNIT: Final = "micrometer"
"""Unit of stage coordinates, and of space axes that name none."""

_TOLERANCE: Final = 1e-6  # in steps: how far numbers may lie from an even spacing and still be told by it


def image_attributes(settings: AcquisitionSettings, image: Image, *, version: str) -> dict[str, Any]:
    """Return the attributes of an image's group.

    Parameters
    ----------
    settings : AcquisitionSettings
        The acquisition.
    image : Image
        One of the images of its layout.
    version : str
        Version of this package, kept with the metadata of its own.

    Returns
    -------
    dict
        ``ome`` (OME-NGFF 0.5) and ``ome_writers``, see :func:`_own_attributes`.
    """
    dimensions = settings.array_storage_dimensions
    channel = next((d for d in dimensions if d.type == "channel"), None)
    model = v05.Image(
        multiscales=[_multiscale(dimensions, image.position, image_name(settings, image))],
        omero=omero(channel, settings.dtype) if channel else None,
    )
    return {
        "ome": model.model_dump(mode="json", by_alias=True, exclude_none=True),
        "ome_writers": {"version": version, **_own_attributes(settings, image)},
    }


def image_name(settings: AcquisitionSettings, image: Image) -> str:
    """Return the name of an image: of its group, for an image at the root of its position, else of the dataset."""
    if image.path:
        return image.path.rpartition("/")[2]
    if settings.position_dimension_index is not None:
        return image.position.image_name
    name = PurePath(settings.output_path).name
    return name.removesuffix(".zarr").removesuffix(".ome") or image.position.image_name


def _multiscale(dimensions: tuple[Dimension, ...], position: Position, name: str) -> v05.Multiscale:
    offsets = [stage_offset(d, position) for d in dimensions]
    translation = [(d.translation or 0.0) + (o or 0.0) for d, o in zip(dimensions, offsets, strict=True)]
    transformations: list[v05.ScaleTransformation | v05.TranslationTransformation] = [
        v05.ScaleTransformation(scale=[d.scale or 1.0 for d in dimensions])
    ]
    if any(translation) or any(o is not None for o in offsets):
        transformations.append(v05.TranslationTransformation(translation=translation))
    return v05.Multiscale(
        name=name,
        axes=[_axis(d) for d in dimensions],
        datasets=[v05.Dataset(path="0", coordinateTransformations=transformations)],
    )


def _axis(dimension: Dimension) -> v05.SpaceAxis | v05.TimeAxis | v05.ChannelAxis | v05.CustomAxis:
    """Return an axis; a custom one has type ``"other"``, since an axis should have a type and may have any."""
    name, unit = dimension.name, dimension.unit
    match dimension.type:
        case "space":
            return v05.SpaceAxis(name=name, type="space", unit=unit)
        case "time":
            return v05.TimeAxis(name=name, type="time", unit=unit)
        case "channel":
            return v05.ChannelAxis(name=name, type="channel", unit=unit)
        case _:
            return v05.CustomAxis(name=name, type="other", unit=unit)


def stage_offset(dimension: Dimension, position: Position) -> float | None:
    """Return the stage coordinate of a position along an axis in the axis' unit; None where there is none.

    The axes of the stage are the space dimensions called x, y and z, case being ignored.
    """
    name = dimension.name.lower()
    if dimension.type != "space" or name not in ("x", "y", "z"):
        return None
    coordinate: float | None = getattr(position, f"{name}_coord")
    if coordinate is None:
        return None
    factor = in_base_units(STAGE_UNIT) / in_base_units(dimension.unit or STAGE_UNIT)
    return coordinate * float(f"{factor:.15g}")  # a power of ten, where it is one: 1e-6 / 1e-9 is not quite 1000


def _own_attributes(settings: AcquisitionSettings, image: Image) -> dict[str, Any]:
    """Return what was declared and OME-NGFF can't express; keys without content are absent.

    Returns
    -------
    dict
        - ``coords``: {dimension: names or numbers} of stored dimensions that scale and translation don't tell;
        - ``channels``: {dimension: [channel, ...]} where more than names and colours is known;
        - ``split``: {dimension: {step, coord, unit, channel}} of the dimensions whose steps are images of their own;
        - ``position``: {x_coord, y_coord, z_coord} in micrometers, where the image lacks one of these axes.
    """
    stored = settings.array_storage_dimensions
    own: dict[str, Any] = {
        "coords": {d.name: [_name_or_number(c) for c in d.coords] for d in stored if d.coords and not _is_told(d)},
        "channels": {d.name: [_described(c) for c in channels_of(d)] for d in stored if _has_details(channels_of(d))},
        "split": {d.name: _split_step(d, step) for d, step in zip(settings.split_dimensions, image.steps, strict=True)},
        "position": _position_beyond_axes(image.position, stored),
    }
    return {key: value for key, value in own.items() if value}


def _split_step(dimension: Dimension, step: int) -> dict[str, Any]:
    known: dict[str, Any] = {"step": step}
    if dimension.coords is not None:
        known["coord"] = _name_or_number(dimension.coords[step])
    elif dimension.scale is not None or dimension.translation is not None:
        known["coord"] = _evenly_spaced(dimension, step)
    if dimension.unit is not None:
        known["unit"] = dimension.unit
    if channels := channels_of(dimension)[step : step + 1]:
        known["channel"] = _described(channels[0])
    return known


def _position_beyond_axes(position: Position, stored: tuple[Dimension, ...]) -> dict[str, float]:
    given = position.model_dump(include={"x_coord", "y_coord", "z_coord"}, exclude_none=True)
    on_axes = [d for d in stored if stage_offset(d, position) is not None]
    return given if len(given) > len(on_axes) else {}


def _is_told(dimension: Dimension) -> bool:
    """Tell whether scale and translation (or the names of channels) tell all coordinates of a dimension."""
    coords = dimension.coords or []
    if dimension.type == "channel":
        return True
    tolerance = _TOLERANCE * (dimension.scale or 1.0)
    return all(
        isinstance(c, float) and abs(c - _evenly_spaced(dimension, step)) <= tolerance for step, c in enumerate(coords)
    )


def _evenly_spaced(dimension: Dimension, step: int) -> float:
    return (dimension.translation or 0.0) + step * (dimension.scale or 1.0)


def _name_or_number(coordinate: str | float | Channel | Position) -> str | float:
    return coordinate.name if isinstance(coordinate, Channel | Position) else coordinate


def _has_details(channels: list[Channel]) -> bool:
    return any(_described(c).keys() - {"name", "color"} for c in channels)


def _described(channel: Channel) -> dict[str, Any]:
    return channel.model_dump(mode="json", exclude_none=True)
