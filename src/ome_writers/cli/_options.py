"""Values of options that are more than a word or a number."""

from __future__ import annotations

import math
import re
from typing import Annotated, Final, Optional, get_args

import typer

from ome_writers.settings import Backend, Compression

_LARGEST: Final = 1 << 31
_LEAST: Final = 1e-6
_MOST: Final = 1e9

READ_OPTIONS: Final = ("axes", "shape", "dtype", "offset", "image")
"""Options that say what a source does not say of itself."""

BACKENDS: Final[tuple[str, ...]] = get_args(Backend)
COMPRESSIONS: Final[tuple[str, ...]] = get_args(Compression)


# classes of their own, since typer takes a plain tuple or list for an option that is given several times


class Sizes(dict[str, int]):
    """Sizes by the names of dimensions."""


class Names(tuple[str, ...]):
    """Names of dimensions."""

    __slots__ = ()


class Shape(tuple[int, ...]):
    """Steps along each dimension."""

    __slots__ = ()


def sizes(text: str) -> Sizes:
    """Return sizes by the names of dimensions, from ``"t=8,y=512"``."""
    found = Sizes()
    for part in text.split(","):
        name, equals, value = (word.strip() for word in part.partition("="))
        if not (name and equals and value.isdecimal() and 0 < int(value) < _LARGEST):
            raise typer.BadParameter(f"{part!r} is not allowed; give sizes of 1 or more by name, such as t=8,y=512")
        if name in found:
            raise typer.BadParameter(f"{name!r} is given twice")
        found[name] = int(value)
    return found


def names(text: str) -> Names:
    """Return names, from ``"t,p,c"``."""
    found = [name.strip() for name in text.split(",")]
    if "" in found or len(set(found)) < len(found):
        raise typer.BadParameter(f"{text!r} is not allowed; give each name once, separated by commas, such as t,p,c")
    return Names(found)


def shape(text: str) -> Shape:
    """Return a shape, from ``"100,512,512"`` or ``"100x512x512"``."""
    found = re.split(r"\s*[,x]\s*", text.strip())
    if not all(part.isdecimal() and 0 < int(part) < _LARGEST for part in found):
        raise typer.BadParameter(f"{text!r} is not allowed; give steps of 1 or more, such as 100,512,512")
    return Shape(map(int, found))


# options that several commands have in common

Axes = Annotated[
    Optional[str],  # noqa: UP045  typer reads these at run time
    typer.Option(help="Dimensions of a source that does not say so, slowest first, such as tcyx or t,angle,y,x."),
]
RawShape = Annotated[
    Optional[Shape],  # noqa: UP045  as above
    typer.Option(metavar="N,N,...", parser=shape, help="Shape of a raw file."),
]
RawDtype = Annotated[
    Optional[str],  # noqa: UP045  as above
    typer.Option(help="Pixel type of a raw file, such as uint16, or >u2 for the other byte order."),
]
Offset = Annotated[int, typer.Option(min=0, help="Bytes before the first frame of a raw file.")]
ImageChoice = Annotated[
    Optional[str],  # noqa: UP045  as above
    typer.Option(metavar="N|NAME", help="Image of a source that has several, by number from 0 or name."),
]


def frame_size(text: str) -> Shape:
    """Return height and width in pixels, from ``"2048x1024"`` or ``"2048"``."""
    found = text.lower().split("x")
    if len(found) > 2 or not all(part.isdecimal() and 8 <= int(part) <= 32768 for part in found):
        raise typer.BadParameter(
            f"{text!r} is not allowed; give height x width in pixels, 8 to 32768, such as 2048x1024"
        )
    return Shape((int(found[0]), int(found[-1])))


def positive(text: str) -> float:
    """Return a number larger than 0, of a size that seconds and rates have: no clock counts others."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not _LEAST <= number <= _MOST:
        raise typer.BadParameter(f"{text!r} is not allowed; give a number larger than 0, from {_LEAST:g} to {_MOST:g}")
    return number


def image_of(text: str | None) -> int | str | None:
    """Return the number or name of an image, as it was given."""
    return int(text) if text is not None and text.isdecimal() else text


# typer takes no list of Literals


def backend(text: str) -> str:
    """Return the name of a backend."""
    return _one_of(BACKENDS, text)


def compression(text: str) -> str:
    """Return the name of a compression."""
    return _one_of(COMPRESSIONS, text)


def _one_of(allowed: tuple[str, ...], text: str) -> str:
    if text not in allowed:
        raise typer.BadParameter(f"{text!r} is not one of {', '.join(map(repr, allowed))}")
    return text
