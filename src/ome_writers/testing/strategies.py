"""Hypothesis strategies that draw acquisitions.

:func:`acquisitions` draws what a test can write and read back in milliseconds; :func:`declarations` draws all that the
settings can declare. Both give settings without a root path; set it with ``model_copy(update={"root_path": ...})``.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any, Final

from hypothesis import strategies as st

from ome_writers.settings import (
    DTYPES,
    AcquisitionSettings,
    BufferSettings,
    Channel,
    Codec,
    Dimension,
    OmeZarrFormat,
    Plate,
    Position,
    PositionDimension,
    name_fault,
)

__all__ = ["COMPRESSIONS", "acquisitions", "channels", "codecs", "declarations", "names", "stage_positions"]

COMPRESSIONS: Final = (None, "none", "zstd", "blosc-zstd", "blosc-lz4")
"""All names of compressions, as in ``AcquisitionSettings.compression``."""

_INDEX_TYPES: Final = {"t": "time", "c": "channel", "z": "space", "angle": "other"}


@st.composite
def acquisitions(
    draw: st.DrawFn,
    *,
    dtypes: Sequence[str] = DTYPES,
    compressions: Sequence[str | None] = COMPRESSIONS,
    max_positions: int = 3,
    unbounded: bool | None = None,
    min_index_dims: int = 0,
    max_index_dims: int = 3,
    sharded: bool | None = None,
    max_count: int = 4,
    max_frame_size: int = 40,
) -> AcquisitionSettings:
    """Draw an acquisition that is small enough to be written for each example of a property.

    The index dimensions are drawn from time, channel, z and one of another type, in any order; the position dimension
    stands anywhere among them. Chunks are from one step to larger than the dimension, shards of up to three chunks.

    Parameters
    ----------
    dtypes : sequence of str
        Pixel types to draw from.
    compressions : sequence of str or None
        Compressions to draw from.
    max_positions : int
        Most positions; with 0 there is never a position dimension.
    unbounded : bool, optional
        Whether the first dimension has no end; None draws it. True needs an index dimension, so it draws one at least.
    min_index_dims, max_index_dims : int
        How many dimensions index the frames, positions aside; with four of them one is split off.
    sharded : bool, optional
        Whether the arrays are sharded; None draws it.
    max_count : int
        Most steps of an index dimension.
    max_frame_size : int
        Most rows and columns of a frame.

    Returns
    -------
    AcquisitionSettings
        Ready for a stream once it has a root path.
    """
    if unbounded:
        min_index_dims = max(1, min_index_dims)
    number = draw(st.integers(min_index_dims, max(min_index_dims, max_index_dims)))
    index_names = draw(st.permutations(list(_INDEX_TYPES)))[:number]
    if unbounded and number == len(_INDEX_TYPES) and index_names[0] == "angle":
        index_names = [*index_names[1:], "angle"]  # it is split off, and so must have an end
    in_shards = draw(st.booleans()) if sharded is None else sharded
    endless = draw(st.booleans()) if unbounded is None else unbounded
    endless = endless and number > 0 and not (number == len(_INDEX_TYPES) and index_names[0] == "angle")

    dimensions = []
    for name in index_names:
        count = None if endless and name == index_names[0] else draw(st.integers(1, max_count))
        chunk = draw(st.none() | st.integers(1, max_count + 2))
        dimensions.append(_dimension(draw, name, _INDEX_TYPES[name], count, chunk, in_shards=in_shards))
    if max_positions and draw(st.booleans()):
        place = draw(st.integers(1 if endless else 0, len(dimensions)))
        dimensions.insert(place, _position_dimension(draw, max_positions))
    for name in ("y", "x"):
        count = draw(st.integers(1, max_frame_size))
        # at most four chunks along a side: each is a file of its own when there are no shards
        chunk = draw(st.none() | st.integers(-(-count // 4), count + 3))
        dimensions.append(_dimension(draw, name, "space", count, chunk, in_shards=in_shards))

    settings = AcquisitionSettings(
        dimensions=dimensions,
        dtype=draw(st.sampled_from(list(dtypes))),
        compression=draw(st.sampled_from(list(compressions))),
    )
    return _with_storage_order(draw, settings)


@cache
def names() -> st.SearchStrategy[str]:
    """Draw names that may be part of a path: mostly plain ones, also any Unicode text that is allowed."""
    plain = st.text("abcXYZ019_-. ", min_size=1, max_size=8)
    unicode = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
    return (plain | unicode).filter(lambda name: name_fault(name, "drawn") is None)


@cache
def channels() -> st.SearchStrategy[Channel]:
    """Draw channels with any of their fields."""
    wavelengths = st.none() | st.floats(1, 2000)
    return st.builds(
        Channel,
        name=_labels(),
        excitation_wavelength_nm=wavelengths,
        emission_wavelength_nm=wavelengths,
        fluorophore=st.none() | _labels(),
        color=st.none() | st.sampled_from(["lime", "#12ab9f", "white"]),
    )


def stage_positions(*, plate: Plate | None = None) -> st.SearchStrategy[Position]:
    """Draw positions with coordinates or without, in a grid or not, and in a well of the plate if there is one."""
    coordinate = st.none() | st.floats(-1e6, 1e6)
    grid = st.none() | st.tuples(st.integers(0, 3), st.integers(0, 3))
    wells = st.none() if plate is None else st.tuples(*map(st.sampled_from, (plate.row_names, plate.column_names)))

    def build(
        name: str, well: tuple[str, str] | None, cell: tuple[int, int] | None, xyz: tuple[float | None, ...]
    ) -> Position:
        row, column = well or (None, None)
        grid_row, grid_column = cell or (None, None)
        return Position(
            name=name,
            plate_row=row,
            plate_column=column,
            grid_row=grid_row,
            grid_column=grid_column,
            x_coord=xyz[0],
            y_coord=xyz[1],
            z_coord=xyz[2],
        )

    usable = names() if plate is None else st.from_regex("[a-c019][a-c019_-]{0,5}", fullmatch=True)
    positions = st.builds(build, usable, wells, grid, st.tuples(coordinate, coordinate, coordinate))
    # with the step of a split dimension behind it, too
    return positions.filter(lambda position: name_fault(f"{position.image_name}_0", "drawn") is None)


def codecs() -> st.SearchStrategy[Codec]:
    """Draw compressions with levels, shuffles and checksums that every backend can read."""
    plain = st.builds(Codec, name=st.just("none"), checksum=st.booleans())
    level = st.none() | st.integers(-7, -1) | st.integers(1, 22)
    zstd = st.builds(Codec, name=st.just("zstd"), level=level, checksum=st.booleans())
    blosc = st.builds(
        Codec,
        name=st.sampled_from(["blosc-zstd", "blosc-lz4"]),
        level=st.none() | st.integers(0, 9),
        shuffle=st.sampled_from([None, "none", "byte", "bit"]),
        checksum=st.booleans(),
    )
    return plain | zstd | blosc


@st.composite
def declarations(draw: st.DrawFn) -> AcquisitionSettings:
    """Draw any settings: with or without dimensions, plates, coordinates of all kinds, splits, and all other fields."""
    plate = draw(st.none() | st.builds(Plate.from_standard_wells, st.tuples(st.integers(1, 3), st.integers(1, 3))))
    fields: dict[str, Any] = {
        "root_path": draw(st.sampled_from(["", "a.zarr", "données/scan 1.ome.zarr"])),
        "dtype": draw(st.sampled_from(["", *DTYPES])),
        "compression": draw(st.sampled_from(COMPRESSIONS) | codecs()),
        "overwrite": draw(st.booleans()),
        "format": draw(_formats()),
        "buffer": draw(_buffers()),
    }
    if draw(st.integers(0, 9)) == 0:
        return AcquisitionSettings(**fields, plate=plate)
    kinds = draw(st.permutations(["time", "channel", "space", "other", "other", "time"]))[: draw(st.integers(0, 6))]
    dimensions = [_declared_dimension(draw, f"{kind[0]}{i}", kind) for i, kind in enumerate(kinds)]
    if plate is not None or draw(st.booleans()):
        coords = draw(st.lists(stage_positions(plate=plate), min_size=1, max_size=3, unique_by=_folded_path))
        dimensions.insert(draw(st.integers(0, len(dimensions))), PositionDimension(coords=coords))
    frame = [_declared_dimension(draw, name, "space") for name in ("y", "x")]
    settings = AcquisitionSettings(**fields, plate=plate, dimensions=[*dimensions, *frame])
    settings = _with_storage_order(draw, settings)
    first = settings.dimensions[0]
    if first in settings.storage_index_dimensions and first.coords is None and draw(st.booleans()):
        endless = first.model_copy(update={"count": None})
        settings.dimensions = (endless, *settings.dimensions[1:])
    return settings


def _folded_path(position: Position) -> tuple[str | None, str | None, str]:
    return position.plate_row, position.plate_column, unicodedata.normalize("NFD", position.image_name).casefold()


def _with_storage_order(draw: st.DrawFn, settings: AcquisitionSettings) -> AcquisitionSettings:
    """Return the settings with one of the storage orders that are allowed for them."""
    stored = settings.storage_index_dimensions
    orders: list[Any] = ["ome", [d.name for d in stored], [d.name for d in settings.array_storage_dimensions]]
    if settings.storage_index_permutation == tuple(range(len(stored))):
        orders.append("acquisition")
    for i, (first, second) in enumerate(pairwise(stored)):
        if {first.type, second.type} in ({"channel", "other"}, {"space"}):  # OME-NGFF leaves their order open
            swapped = [d.name for d in stored]
            swapped[i : i + 2] = [second.name, first.name]
            orders.append(swapped)
    settings.storage_order = draw(st.sampled_from(orders))
    return settings


def _dimension(
    draw: st.DrawFn, name: str, kind: str, count: int | None, chunk: int | None, *, in_shards: bool
) -> Dimension:
    return Dimension(
        name=name,
        type=kind,
        count=count,
        chunk_size=chunk,
        # never None for the frame's dimensions, so that the arrays are sharded
        shard_size_chunks=draw(st.integers(1, 3)) if in_shards and (kind == "space" or draw(st.booleans())) else None,
    )


def _position_dimension(draw: st.DrawFn, max_positions: int) -> Dimension:
    count = draw(st.integers(1, max_positions))
    if draw(st.booleans()):
        return PositionDimension(count=count)
    coordinate = st.none() | st.floats(-1000, 1000)
    return PositionDimension(
        coords=[Position(name=f"site{i}", x_coord=draw(coordinate), y_coord=draw(coordinate)) for i in range(count)]
    )


def _declared_dimension(draw: st.DrawFn, name: str, kind: str) -> Dimension:
    fields: dict[str, Any] = {
        "name": name,
        "type": kind,
        "chunk_size": draw(st.none() | st.integers(1, 9)),
        "shard_size_chunks": draw(st.none() | st.integers(1, 4)),
        "scale": draw(st.none() | st.floats(1e-6, 1e6)),
        "translation": draw(st.none() | st.floats(-1e6, 1e6)),
    }
    if kind in ("space", "time"):
        fields["unit"] = draw(st.sampled_from([None, "um" if kind == "space" else "ms"]))
    entries: dict[str, st.SearchStrategy[list[Any]]] = {
        "channel": st.lists(channels(), min_size=1, max_size=3, unique_by=lambda c: c.name),
        "other": st.lists(_labels(), min_size=1, max_size=3, unique=True) | _numbers(),
    }
    coords = draw(st.none() | entries.get(kind, _numbers()))
    return Dimension(**fields, coords=coords) if coords else Dimension(**fields, count=draw(st.integers(1, 3)))


@cache
def _numbers() -> st.SearchStrategy[list[Any]]:
    even = st.builds(
        lambda first, step, count: [first + i * step for i in range(count)],
        st.floats(-1e3, 1e3),
        st.floats(0.1, 1e3),
        st.integers(1, 3),
    )
    return even | st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=3)


@cache
def _labels() -> st.SearchStrategy[str]:
    text = st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters="\ufffe\uffff")
    return st.text(text, min_size=1, max_size=8)


@cache
def _formats() -> st.SearchStrategy[Any]:
    backends = ["auto", "tensorstore", "zarr-python", "zarrs-python", "acquire-zarr"]
    return st.sampled_from(["ome-zarr", "zarr", *backends[1:]]) | st.builds(
        OmeZarrFormat, backend=st.sampled_from(backends), suffix=st.sampled_from(["", ".zarr", ".ome.zarr"])
    )


@cache
def _buffers() -> st.SearchStrategy[BufferSettings]:
    return st.builds(
        BufferSettings,
        max_bytes=st.integers(1, 1 << 40),
        on_full=st.sampled_from(["block", "raise"]),
        timeout=st.none() | st.floats(0.1, 100),
        workers=st.none() | st.integers(1, 8),
    )
