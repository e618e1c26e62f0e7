"""How channels should be displayed: the transitional "omero" metadata of OME-NGFF 0.5."""

from __future__ import annotations

from typing import Final

import numpy as np
from yaozarrs import v05

from ome_writers.settings import Channel, Dimension

WHITE: Final = "FFFFFF"
PALETTE: Final = ("00FF00", "FF00FF", "00FFFF", "FFFF00", "FF0000", "0000FF")
"""Colours of channels of which nothing is known but their place, as RRGGBB."""

_EMISSION_COLORS: Final = (
    (470.0, "0000FF"), (500.0, "00FFFF"), (560.0, "00FF00"), (590.0, "FFFF00"), (615.0, "FF8000"), (700.0, "FF0000"),
)  # fmt: skip
_FAR_RED: Final = "FF00FF"


def omero(channel_dimension: Dimension, dtype: str) -> v05.Omero | None:
    """Return the display settings of an image with a channel axis, None while nobody knows how many channels it has.

    Parameters
    ----------
    channel_dimension : Dimension
        The channel axis.
    dtype : str
        Name of the pixel type.
    """
    count = channel_dimension.count
    if count is None:
        return None
    channels = channels_of(channel_dimension) or [Channel(name=f"{channel_dimension.name}{i}") for i in range(count)]
    window = display_window(dtype)
    colors = [display_color(channel, place, count) for place, channel in enumerate(channels)]
    return v05.Omero(
        channels=[
            v05.OmeroChannel(label=channel.name, color=color, window=window, active=True)
            for channel, color in zip(channels, colors, strict=True)
        ],
        rdefs=v05.OmeroRenderingDefs(model="greyscale" if colors == [WHITE] else "color"),
    )


def channels_of(dimension: Dimension) -> list[Channel]:
    """Return the channels along a dimension; empty when it has none or they are only counted."""
    return [c for c in dimension.coords or () if isinstance(c, Channel)]


def display_color(channel: Channel, place: int, count: int) -> str:
    """Return the display colour of the channel at a place among ``count``, as RRGGBB.

    The colour given for it, else that of the light it emits, else white when it is alone, else one of a palette.
    """
    if channel.color is not None:
        return channel.color.removeprefix("#").upper()
    if channel.emission_wavelength_nm is not None:
        return _emission_color(channel.emission_wavelength_nm)
    return WHITE if count == 1 else PALETTE[place % len(PALETTE)]


def display_window(dtype: str) -> v05.OmeroWindow:
    """Return the intensities between which pixels of a type lie (min, max) and are displayed (start, end).

    Integers: the range of the type, displayed from 0; floating point: 0 to 1. Limits of 64 bit types, which doubles
    and therefore most JSON readers can't hold, are rounded towards 0, so that they still fit the type.
    """
    if np.dtype(dtype).kind == "f":
        return v05.OmeroWindow(min=0, max=1, start=0, end=1)
    limits = np.iinfo(dtype)
    largest = float(limits.max)
    if int(largest) > int(limits.max):
        largest = float(np.nextafter(largest, 0.0))
    return v05.OmeroWindow(min=float(limits.min), max=largest, start=0, end=largest)


def _emission_color(wavelength: float) -> str:
    """Return roughly the colour of light of a wavelength in nm, far red as magenta."""
    return next((color for longest, color in _EMISSION_COLORS if wavelength < longest), _FAR_RED)
