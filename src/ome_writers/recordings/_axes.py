"""Names of axes, as dimensions."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import ValidationError

from ome_writers.errors import RecordingError
from ome_writers.settings import Dimension, PositionDimension

from ._recording import Index, Recording

_DEFAULT_AXES = {2: ("y", "x"), 3: ("t", "y", "x")}


def axis_names(axes: str | None, ndim: int, source: str) -> tuple[str, ...]:
    """Return the name of each axis of an array.

    Parameters
    ----------
    axes : str or None
        As the user gave them: letters, or names separated by commas. None: y, x or t, y, x.
    ndim : int
        Number of axes.
    source : str
        For messages.

    Raises
    ------
    RecordingError
        If they are not as many as the array has, not unique, lack y or x, or must be given.
    """
    if axes is None:
        if ndim not in _DEFAULT_AXES:
            raise RecordingError(
                f"{source}: an array of {ndim} dimensions does not say what they are; name its axes, slowest first, "
                f"such as {'tczyx'[-ndim:] if 2 < ndim < 6 else 't,p,c,z,y,x'!r}"
            )
        return _DEFAULT_AXES[ndim]
    names = tuple(name.strip() for name in axes.split(",")) if "," in axes else tuple(axes.lower())
    if len(names) != ndim:
        raise RecordingError(f"{source}: axes {axes!r} are {len(names)} names, but there are {ndim} dimensions")
    if len(set(names)) < len(names):
        raise RecordingError(f"{source}: axes {axes!r} name an axis more than once")
    if missing := [name for name in ("y", "x") if name not in names]:
        raise RecordingError(f"{source}: axes {axes!r} lack {' and '.join(missing)}, the axes of a frame")
    return names


def dimensions_of(names: Sequence[str], shape: Sequence[int], source: str) -> tuple[Dimension, ...]:
    """Return dimensions with nothing known of them but their names and counts.

    Raises
    ------
    RecordingError
        If a name or a count is not allowed.
    """
    dimensions: list[Dimension] = []
    for name, count in zip(names, shape, strict=True):
        if count < 1:
            raise RecordingError(f"{source}: dimension {name} has {count} steps, so there is no frame")
        try:
            kind = PositionDimension if name in ("p", "position") else Dimension
            dimensions.append(kind(name=name, count=count))
        except ValidationError as error:
            raise RecordingError(f"{source}: {name!r} can't be a dimension: {error.errors()[0]['msg']}") from error
    return tuple(dimensions)


def check_index(recording: Recording, index: Index) -> None:
    """Check that a frame is one of a recording.

    Raises
    ------
    IndexError
        If there are other numbers of index dimensions, or of steps along one.
    """
    shape = recording.index_shape
    if len(index) != len(shape) or not all(0 <= i < n for i, n in zip(index, shape, strict=True)):
        raise IndexError(f"{recording.name}: there is no frame {index}; frames are counted from 0, and are {shape}")
