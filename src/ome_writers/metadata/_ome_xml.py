"""OME-XML of a collection (schema 2016-06; OME-NGFF 0.5, "bioformats2raw.layout")."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ome_types import model, to_xml

from ome_writers._layout import Layout
from ome_writers.settings import AcquisitionSettings, Channel, Dimension, Position

from ._image import STAGE_UNIT, image_name
from ._omero import channels_of

PIXEL_TYPES: Final = {
    **{name: name for name in ("uint8", "uint16", "uint32", "int8", "int16", "int32")},
    "float32": "float",
    "float64": "double",
}
"""Pixel types that OME-XML knows, and what it calls them."""

_AXIS_OF_TYPE: Final = {"time": "T", "channel": "C", "space": "Z"}
_NOT_XML: Final = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, production 2
_MICROMETER: Final = model.UnitsLength.MICROMETER


@dataclass(frozen=True, slots=True)
class Plane:
    """What was recorded with one frame.

    Attributes
    ----------
    image : int
        Number of the image in the layout.
    index : tuple of int
        Place of the frame along the stored index axes, in storage order.
    delta_t, exposure_time : float, optional
        Seconds since the start of the acquisition, and of exposure.
    position_x, position_y, position_z : float, optional
        Stage coordinates in micrometers.
    """

    image: int
    index: tuple[int, ...]
    delta_t: float | None = None
    exposure_time: float | None = None
    position_x: float | None = None
    position_y: float | None = None
    position_z: float | None = None


def ome_xml(
    settings: AcquisitionSettings,
    layout: Layout,
    planes: Iterable[Plane] = (),
    *,
    counts: Sequence[int] | None = None,
) -> str | None:
    """Return the text of a collection's ``OME/METADATA.ome.xml``, the same for the same arguments.

    OME-XML has the axes X, Y, Z, C and T only. The frame's last dimension is X and the other one Y, whatever their
    names; a dimension of type time is T, channel C, space Z. One of another type takes the first of T, Z and C that is
    free. Characters that XML 1.0 can't hold are replaced by U+FFFD.

    Parameters
    ----------
    settings : AcquisitionSettings
        The acquisition.
    layout : Layout
        Its layout.
    planes : iterable of Plane
        What was recorded with the frames.
    counts : sequence of int, optional
        Shape of the arrays now, in storage order with the frame's two axes last; by default the declared one. OME-XML
        has no empty axes: a length of 0, or one that is not known, counts as 1.

    Returns
    -------
    str or None
        None for datasets that are not collections, and for pixel types that OME-XML does not have (int64, uint64,
        float16).
    """
    if layout.kind != "collection" or settings.dtype not in PIXEL_TYPES:
        return None
    shape = tuple(max(1, n or 1) for n in (layout.geometry.shape if counts is None else counts))
    axes = _axes(settings.storage_index_dimensions)
    planes_of: list[list[model.Plane]] = [[] for _ in layout.images]
    for plane in planes:
        planes_of[plane.image].append(_plane(plane, axes))
    images = [
        model.Image(
            id=f"Image:{number}",
            name=_clean(image_name(settings, image)),
            pixels=_pixels(settings, number, axes, shape, planes_of[number]),
            **_stage_label(settings, image.position),
        )
        for number, image in enumerate(layout.images)
    ]
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{to_xml(model.OME(images=images))}'


def _axes(index_dimensions: Sequence[Dimension]) -> tuple[str, ...]:
    """Return which of Z, C and T each stored index dimension is."""
    taken = {_AXIS_OF_TYPE.get(d.type or "") for d in index_dimensions}
    free = iter([axis for axis in "TZC" if axis not in taken])
    return tuple(_AXIS_OF_TYPE.get(d.type or "") or next(free) for d in index_dimensions)


def _pixels(
    settings: AcquisitionSettings,
    number: int,
    axes: tuple[str, ...],
    shape: tuple[int, ...],
    planes: list[model.Plane],
) -> model.Pixels:
    sizes = dict(zip((*axes, "Y", "X"), shape, strict=True))
    fastest_first = "XY" + "".join(reversed(axes))
    order = fastest_first + "".join(axis for axis in "ZCT" if axis not in axes)
    return model.Pixels(
        id=f"Pixels:{number}",
        dimension_order=model.Pixels_DimensionOrder(order),
        type=model.PixelType(PIXEL_TYPES[settings.dtype]),
        **{f"size_{axis.lower()}": sizes.get(axis, 1) for axis in "XYZCT"},
        **_sampling(settings, axes),
        channels=_channels(settings, number, axes, sizes.get("C", 1)),
        planes=planes,
        metadata_only=model.MetadataOnly(),
    )


def _sampling(settings: AcquisitionSettings, axes: tuple[str, ...]) -> dict[str, Any]:
    """Return the physical sizes of a pixel and the time between frames, where they are known."""
    sampling: dict[str, Any] = {}
    for dimension, axis in zip(settings.array_storage_dimensions, (*axes, "Y", "X"), strict=True):
        if dimension.scale is None:
            continue
        if dimension.type == "space":
            name = f"physical_size_{axis.lower()}"
            sampling[name] = dimension.scale
            sampling[f"{name}_unit"] = model.UnitsLength[(dimension.unit or STAGE_UNIT).upper()]
        elif dimension.type == "time":
            sampling["time_increment"] = dimension.scale
            sampling["time_increment_unit"] = model.UnitsTime[(dimension.unit or "second").upper()]
    return sampling


def _channels(settings: AcquisitionSettings, number: int, axes: tuple[str, ...], count: int) -> list[model.Channel]:
    """Return the channels along the C axis of an image."""
    known = channels_of(settings.storage_index_dimensions[axes.index("C")]) if "C" in axes else []
    described = [_channel(channel) for channel in known] or [{} for _ in range(count)]
    return [
        model.Channel(id=f"Channel:{number}:{place}", samples_per_pixel=1, **fields)
        for place, fields in enumerate(described)
    ]


def _channel(channel: Channel) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "name": _clean(channel.name),
        "color": model.Color(channel.color) if channel.color else None,
        "excitation_wavelength": channel.excitation_wavelength_nm,
        "emission_wavelength": channel.emission_wavelength_nm,
        "fluor": _clean(channel.fluorophore) if channel.fluorophore else None,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _stage_label(settings: AcquisitionSettings, position: Position) -> dict[str, model.StageLabel]:
    if settings.position_dimension_index is None:
        return {}
    coordinates = {"x": position.x_coord, "y": position.y_coord, "z": position.z_coord}
    return {"stage_label": model.StageLabel(name=_clean(position.name), **_lengths(coordinates))}


def _plane(plane: Plane, axes: tuple[str, ...]) -> model.Plane:
    place = dict(zip(axes, plane.index, strict=True))
    times = {"delta_t": plane.delta_t, "exposure_time": plane.exposure_time}  # in seconds, which is OME-XML's default
    coordinates = {"position_x": plane.position_x, "position_y": plane.position_y, "position_z": plane.position_z}
    return model.Plane(
        the_z=place.get("Z", 0),
        the_c=place.get("C", 0),
        the_t=place.get("T", 0),
        **{name: seconds for name, seconds in times.items() if seconds is not None},
        **_lengths(coordinates),
    )


def _lengths(micrometers: dict[str, float | None]) -> dict[str, Any]:
    """Return the lengths that are given, each with its unit."""
    lengths: dict[str, Any] = {}
    for name, length in micrometers.items():
        if length is not None:
            lengths[name] = length
            lengths[f"{name}_unit"] = _MICROMETER
    return lengths


def _clean(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)
