"""What follows from the dimensions of an acquisition, and what must hold between them and the other fields."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from ._axes import is_ome_order, ome_order, split_dimensions, step_labels
from ._coordinates import Position
from ._dimension import Dimension
from ._names import collisions, folded, is_alphanumeric, name_fault
from ._plate import Plate

MAX_IMAGES: Final = 1_000_000
"""The most images that one dataset may hold: each is a folder with documents of its own."""

_FIELD_EXTRAS: Final = str.maketrans(dict.fromkeys("._-", "0"))


def image_labels(dimensions: Sequence[Dimension]) -> list[tuple[Position, tuple[int, ...], str]]:
    """Return what tells each image of an acquisition: (position, steps of the split dimensions, label).

    Images of one position stand together, positions in acquisition order. The label is empty for an image that is
    told by its position alone, else such as ``angle-0`` or ``angle-0_cam-1``.
    """
    combinations: list[tuple[tuple[int, ...], str]] = [((), "")]
    for dimension in split_dimensions(dimensions):
        combinations = [
            ((*steps, step), f"{label}_{name}" if label else name)
            for steps, label in combinations
            for step, name in enumerate(step_labels(dimension))
        ]
    return [(position, steps, label) for position in positions_of(dimensions) for steps, label in combinations]


_NO_SEPARATORS: Final = str.maketrans("", "", "-_")


def image_path(position: Position, label: str, *, plate: bool, positions: int) -> str:
    """Return the path of an image's group below the root of a collection or plate.

    Parameters
    ----------
    position : Position
        The image's position.
    label : str
        Of its steps along split dimensions; may be empty.
    plate : bool
        Whether the dataset is a plate: the path then begins with row and column.
    positions : int
        Number of positions; with a single one and a label, the label alone names the image.
    """
    if plate:  # fields of wells: letters and digits only (OME-NGFF 0.5, "well metadata"), so no separators
        grid = "" if position.grid_row is None else f"r{position.grid_row}c{position.grid_column}"
        field = f"{position.name}{grid}{label.translate(_NO_SEPARATORS)}"
        return f"{position.plate_row}/{position.plate_column}/{field}"
    if not label:
        return position.image_name
    return label if positions == 1 else f"{position.image_name}_{label}"


def positions_of(dimensions: Sequence[Dimension]) -> tuple[Position, ...]:
    """Return the stage positions in acquisition order; one called ``"0"`` when there is no position dimension."""
    for d in dimensions:
        if d.type == "position":
            if d.coords is None:
                return tuple(Position(name=str(i)) for i in range(d.count or 1))
            return tuple(c for c in d.coords if isinstance(c, Position))
    return (Position(name="0"),)


def storage_index_dimensions(order: str | list[str], dimensions: Sequence[Dimension]) -> tuple[Dimension, ...]:
    """Return the index dimensions of each array, in storage order."""
    split = split_dimensions(dimensions)
    stored = tuple(d for d in dimensions[:-2] if d.type != "position" and d not in split)
    if order == "ome":
        return ome_order(stored)
    if order == "acquisition":
        return stored
    by_name = {d.name: d for d in stored}
    return tuple(by_name[name] for name in order if name in by_name)


def dimension_faults(dimensions: tuple[Dimension, ...], *, types_known: bool = True) -> list[str]:
    """Return why dimensions can't be those of one acquisition; when types are not known, nothing that depends on all.

    Parameters
    ----------
    dimensions : tuple of Dimension
        In acquisition order.
    types_known : bool
        Whether the types of all of them are as the user means them.
    """
    if len(dimensions) < 2:
        faults = [f"{len(dimensions)} dimension given; at least the two of the frame are needed, such as y and x"]
    else:
        faults = _frame_faults(dimensions)
    names = collisions(d.name for d in dimensions)
    faults += [f"dimension names must be unique also when case is ignored: {c}" for c in names]
    faults += [
        f"dimension {d.name!r} has no count and is not the first; only the first dimension may be unbounded"
        for d in dimensions[1:-2]
        if d.count is None
    ]
    positions = [d for d in dimensions if d.type == "position"]
    if len(positions) > 1:
        faults.append(f"there can be one position dimension, not {len(positions)}; name every position in one of them")
    if any(d.count is None for d in positions):
        faults.append("the position dimension needs a count or coords")
    if any(d.coords and not all(isinstance(c, Position) for c in d.coords) for d in positions):
        faults.append("the coords of the position dimension must be positions")
    sizes = [d.count or 1 for d in dimensions]
    if math.prod(sizes) >= 1 << 62:
        faults.append(f"{' x '.join(map(str, sizes))} pixels are more than any storage holds; check the counts")
    if not types_known:
        return faults
    dimensions = mended(dimensions)
    split = split_dimensions(dimensions)
    faults += [
        f"dimension {d.name!r} is unbounded, and OME-Zarr has no axis for it, so each step would be an image of its "
        "own; give it a count"
        for d in split
        if d.count is None
    ]
    images = _number_of_images(dimensions)
    if images > MAX_IMAGES:
        faults.append(f"{images} images are more than the {MAX_IMAGES} that one dataset may hold; check the counts")
    on_plate = any(p.plate_row is not None for d in positions for p in _positions_along(d))
    return faults if on_plate else faults + _image_path_faults(dimensions, plate=False)


def mended(dimensions: tuple[Dimension, ...]) -> tuple[Dimension, ...]:
    """Return dimensions without the faults between them, so that what else is wrong can be told, too."""
    whole: list[Dimension] = []
    for place, d in enumerate(dimensions):
        if place >= len(dimensions) - 2:
            whole.append(d.model_copy(update={"type": "space", "count": d.count or 1}))
        elif d.type != "position" or not any(other.type == "position" for other in whole):
            bounded = d.count is not None or (place == 0 and d.type != "position")
            whole.append(d if bounded else d.model_copy(update={"count": 1}))
    return tuple(whole)


def _frame_faults(dimensions: Sequence[Dimension]) -> list[str]:
    return [
        f"dimension {d.name!r} is one of the last two, which are the frame's: it must be of type space with a count"
        for d in dimensions[-2:]
        if d.type != "space" or d.count is None
    ]


def _number_of_images(dimensions: Sequence[Dimension]) -> int:
    positions = [d for d in dimensions if d.type == "position"]
    return math.prod(d.count or 1 for d in (*positions, *split_dimensions(dimensions)))


def _positions_along(dimension: Dimension) -> list[Position]:
    return [c for c in dimension.coords or () if isinstance(c, Position)]


def _place_of(p: Position) -> tuple[object, ...]:
    return p.plate_row, p.plate_column, p.grid_row, p.grid_column, folded(p.name)


def _image_path_faults(dimensions: Sequence[Dimension], *, plate: bool) -> list[str]:
    """Return which paths of images can't be; of too many images, or no known number of them, the first are looked at.

    On a plate, these are the paths of the positions that have a well.
    """
    many = _number_of_images(dimensions) > MAX_IMAGES
    dimensions = [d.model_copy(update={"count": 1}) if many or d.count is None else d for d in dimensions]
    images = [image for image in image_labels(dimensions) if not plate or image[0].plate_row is not None]
    number = len(positions_of(dimensions))
    paths = [image_path(position, label, plate=plate, positions=number) for position, _, label in images]
    # positions that are alike are no news here; two that collide do so at each step, and the first says enough
    each = {(_place_of(p), steps): path for (p, steps, _), path in zip(images, paths, strict=True)}
    groups = collisions(path for (_, steps), path in each.items() if not any(steps)) or collisions(each.values())
    faults = [f"two images would have the same path, case being ignored: {group}" for group in groups]
    names = {path.rpartition("/")[2] for path in paths}
    return faults + [fault for name in sorted(names) if (fault := name_fault(name, "image"))]


def storage_order_faults(order: str | list[str], dimensions: Sequence[Dimension]) -> list[str]:
    """Return why the axes can't be stored in an order."""
    if len(dimensions) < 2:
        return []
    stored = storage_index_dimensions("acquisition", dimensions)
    names = [d.name for d in stored]
    if not isinstance(order, str):
        frame = [d.name for d in dimensions[-2:]]
        if sorted(order) not in (sorted(names), sorted([*names, *frame])) or (
            len(order) > len(names) and order[-2:] != frame
        ):
            return [
                f"storage_order {order} must name each stored index dimension once ({', '.join(names) or 'none'}), "
                f"optionally followed by {', '.join(frame)}"
            ]
    chosen = storage_index_dimensions(order, dimensions)
    if not is_ome_order(chosen):
        return [
            f"storage_order {order!r} would store {', '.join(d.name for d in chosen)}, but OME-Zarr wants time, then "
            "channel or other, then space; use storage_order='ome', which reorders the frames"
        ]
    return []


def plate_faults(plate: Plate | None, dimensions: Sequence[Dimension]) -> list[str]:
    """Return in what the positions and the plate disagree, and which paths on the plate can't be."""
    if not dimensions:
        return []
    faults = _placement_faults(plate, dimensions)
    dimensions = mended(tuple(dimensions))
    if any(p.plate_row is not None for d in dimensions if d.type == "position" for p in _positions_along(d)):
        faults += _image_path_faults(dimensions, plate=True)
    return faults


def _placement_faults(plate: Plate | None, dimensions: Sequence[Dimension]) -> list[str]:
    along = [d for d in dimensions if d.type == "position"]
    positions = [p for d in along for p in _positions_along(d)]
    if plate is None:
        placed = [p.name for p in positions if p.plate_row is not None]
        return (
            [f"positions {', '.join(placed[:5])} have a plate_row, but there is no plate; set plate"] if placed else []
        )
    faults = []
    astray = [repr(p.name) for p in positions if p.plate_row is None]
    counted = sum(d.count or 1 for d in along if d.coords is None) if along else 1  # named by their number
    if number := len(astray) + counted:
        astray += [repr(str(i)) for i in range(min(counted, 5))]
        faults.append(
            f"{number} positions ({', '.join(astray[:5])}) have no plate_row and plate_column, which every one on "
            "a plate needs"
        )
    for p in positions:
        for what, name, names in (
            ("row", p.plate_row, plate.row_names),
            ("column", p.plate_column, plate.column_names),
        ):
            if name is not None and names and name not in names:
                faults.append(f"position {p.name!r} is in {what} {name!r}; the plate has {', '.join(names)}")
        if not is_alphanumeric(p.name.translate(_FIELD_EXTRAS)):
            faults.append(
                f"position name {p.name!r} can't name a field of a well; use letters, digits, '_', '-' and '.'"
            )
    return faults
