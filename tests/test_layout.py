"""Arrays, grids, paths and open blocks, as they follow from the settings."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from ome_writers import AcquisitionSettings, Dimension, Plate, Position, PositionDimension
from ome_writers._layout import ArrayGeometry, Layout, plan_layout
from ome_writers._router import Router
from ome_writers.errors import SettingsError
from ome_writers.testing.strategies import acquisitions, declarations

FRAME = (Dimension(name="y", count=4), Dimension(name="x", count=5))
DECLARED = declarations().filter(lambda s: bool(s.dimensions))


def dimension(name: str, count: int | None = 2, **fields: Any) -> Dimension:
    """Return a dimension, its type inferred from the name."""
    return Dimension(name=name, count=count, **fields)


def layout_of(*index_dimensions: Dimension, **fields: Any) -> Layout:
    """Return the layout of an acquisition of small uint16 frames."""
    return plan_layout(AcquisitionSettings(dimensions=[*index_dimensions, *FRAME], dtype="uint16", **fields))


def geometry_of(*dimensions: Dimension) -> ArrayGeometry:
    """Return the geometry of an acquisition with these dimensions, the frame's included."""
    return plan_layout(AcquisitionSettings(dimensions=dimensions, dtype="uint16")).geometry


def paths(layout: Layout) -> list[str]:
    return [image.path for image in layout.images]


# ---- geometry ----------------------------------------------------------------------------------------------------


def test_default_grid() -> None:
    """Without chunk sizes a chunk is one frame, and nothing is sharded."""
    geometry = layout_of(dimension("t")).geometry
    assert geometry == ArrayGeometry(("t", "y", "x"), (2, 4, 5), (1, 4, 5), None, "uint16")


def test_axes_stand_in_storage_order() -> None:
    """Names, shape and grid follow the order on disk, not that of arrival."""
    geometry = layout_of(dimension("z", 7, chunk_size=3), dimension("c", 2), dimension("t", 9, chunk_size=4)).geometry
    assert geometry.dimension_names == ("t", "c", "z", "y", "x")
    assert geometry.shape == (9, 2, 7, 4, 5)
    assert geometry.chunks == (4, 1, 3, 4, 5)


@pytest.mark.parametrize(
    ("count", "chunk", "per_shard", "chunks", "shards"),
    [
        (10, None, None, 1, 1),
        (10, 3, None, 3, 3),
        (10, 3, 2, 3, 6),
        (10, 3, 4, 3, 12),
        (10, 3, 9, 3, 12),
        (10, 10, 2, 10, 10),
        (10, 99, 5, 10, 10),
        (1, 7, 7, 1, 1),
        (None, 99, 5, 99, 495),
        (None, None, 5, 1, 5),
    ],
)
def test_chunks_and_shards_are_no_larger_than_needed(
    count: int | None, chunk: int | None, per_shard: int | None, chunks: int, shards: int
) -> None:
    """A chunk or shard that reaches past its axis would be padding only, so it is cut; an unbounded axis cuts nothing.

    A shard stays a whole number of chunks, as Zarr demands, so the last chunk of it may reach past the axis.
    """
    frame = [dimension("y", 4, shard_size_chunks=1), dimension("x", 5)]
    geometry = geometry_of(dimension("t", count, chunk_size=chunk, shard_size_chunks=per_shard), *frame)
    assert geometry.chunks == (chunks, 4, 5)
    assert geometry.shards == (shards, 4, 5)


def test_no_shards_unless_one_is_asked_for() -> None:
    """Sharding one dimension shards the array, with one chunk along the others; without any there are no shards."""
    assert layout_of(dimension("t", 8, chunk_size=2)).geometry.shards is None
    frame = (dimension("y", 8, chunk_size=2), dimension("x", 8, chunk_size=4))
    assert geometry_of(dimension("t", 8, shard_size_chunks=4), *frame).shards == (4, 2, 4)


@hypothesis_settings(deadline=None, max_examples=150)
@given(acquisitions() | DECLARED)
def test_grids_are_valid_zarr(settings: AcquisitionSettings) -> None:
    """Whatever is declared, the grid is one that Zarr allows and that holds the whole array without empty chunks."""
    geometry = plan_layout(settings).geometry
    ndim = len(geometry.dimension_names)
    assert len(geometry.shape) == len(geometry.chunks) == ndim <= 5
    assert geometry.dimension_names == tuple(d.name for d in settings.array_storage_dimensions)
    assert (geometry.shards is not None) == any(d.shard_size_chunks for d in settings.array_storage_dimensions)
    for axis, (count, chunk) in enumerate(zip(geometry.shape, geometry.chunks, strict=True)):
        shard = chunk if geometry.shards is None else geometry.shards[axis]
        assert chunk >= 1
        assert shard % chunk == 0
        if count is not None:
            assert chunk <= count
            assert shard - chunk < count
    for step, grid in (("chunk", geometry.chunks), ("shard", geometry.shards or geometry.chunks)):
        extent = geometry.index_extent(step)  # type: ignore[arg-type]
        assert len(extent) == ndim - 2
        for steps, whole, count in zip(extent, grid, geometry.shape, strict=False):
            assert steps == (whole if count is None else min(whole, count))


def test_derived_sizes() -> None:
    """Sizes that memory is planned with are exact."""
    geometry = layout_of(dimension("t", None, chunk_size=3, shard_size_chunks=2)).geometry
    assert (geometry.frame_shape, geometry.frame_bytes) == ((4, 5), 4 * 5 * 2)
    assert geometry.unbounded_axis == 0
    assert (geometry.index_extent("chunk"), geometry.index_extent("shard")) == ((3,), (6,))
    assert layout_of(dimension("t")).geometry.unbounded_axis is None
    single = layout_of().geometry
    assert (single.index_extent("chunk"), single.unbounded_axis) == ((), None)


def test_unbounded_axis_is_told_in_storage_order() -> None:
    """The axis that grows stands where it is stored."""
    assert layout_of(dimension("z", None), dimension("t")).geometry.unbounded_axis == 1


def test_layout_needs_dimensions() -> None:
    """Without dimensions there is no layout, and the error says so."""
    with pytest.raises(SettingsError, match="no dimensions yet"):
        plan_layout(AcquisitionSettings())


# ---- paths -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "index_dimensions",
    [
        (),
        (dimension("t"), dimension("c")),
        (dimension("t"), PositionDimension(coords=[Position(name="only")])),
        (PositionDimension(count=1),),
        (PositionDimension(coords=[Position(name="only", grid_row=2, grid_column=3)]),),
        (dimension("angle", 1), dimension("t"), dimension("c"), dimension("z")),
    ],
)
def test_single_image_is_the_root(index_dimensions: tuple[Dimension, ...]) -> None:
    """One image is the root group itself, also with a position dimension of length one."""
    layout = layout_of(*index_dimensions)
    assert (layout.kind, paths(layout)) == ("image", [""])
    assert layout.images[0].array_path == "0"


def test_positions_make_a_collection() -> None:
    """Each position is an image group below the root, in acquisition order; one in a grid is told by row and column."""
    layout = layout_of(
        PositionDimension(
            coords=[
                Position(name="b"),
                Position(name="a", grid_row=0, grid_column=1),
                Position(name="a", grid_row=0, grid_column=0),
            ]
        )
    )
    assert layout.kind == "collection"
    assert paths(layout) == ["b", "a_0_1", "a_0_0"]
    assert [image.array_path for image in layout.images] == ["b/0", "a_0_1/0", "a_0_0/0"]
    assert paths(layout_of(dimension("t"), PositionDimension(count=3))) == ["0", "1", "2"]


def test_split_dimensions_make_a_collection() -> None:
    """Each step of a split dimension is an image, with a name that tells it, in acquisition order."""
    layout = layout_of(dimension("t"), dimension("angle", 3), dimension("c"), dimension("z"))
    assert layout.kind == "collection"
    assert paths(layout) == ["angle-0", "angle-1", "angle-2"]
    assert [(image.steps, image.label) for image in layout.images][1] == ((1,), "angle-1")
    layout = layout_of(*(dimension(name) for name in ("angle", "t", "cam", "c", "z")))
    assert paths(layout) == ["angle-0_cam-0", "angle-0_cam-1", "angle-1_cam-0", "angle-1_cam-1"]


@pytest.mark.parametrize("place", [0, 2, 4])
def test_split_dimensions_cross_positions(place: int) -> None:
    """The images of one position stand together, wherever the position dimension stands."""
    dims = [dimension("t"), dimension("angle"), dimension("c"), dimension("z")]
    dims.insert(place, PositionDimension(coords=[Position(name="a"), Position(name="b")]))
    assert paths(layout_of(*dims)) == ["a_angle-0", "a_angle-1", "b_angle-0", "b_angle-1"]


def test_single_position_leaves_the_name_to_the_split_dimension() -> None:
    """One position adds nothing to the names of the images."""
    dims = [dimension("t"), dimension("angle"), dimension("c"), dimension("z")]
    assert paths(layout_of(PositionDimension(coords=[Position(name="a")]), *dims)) == ["angle-0", "angle-1"]


def test_plates() -> None:
    """On a plate the path is row, column, field; split dimensions make further fields of the well."""
    coords = [
        Position(name="f0", plate_row="B", plate_column="3"),
        Position(name="f0", plate_row="A", plate_column="1", grid_row=1, grid_column=0),
        Position(name="f1", plate_row="A", plate_column="1"),
    ]
    plate = Plate.from_standard_wells(6)
    layout = layout_of(PositionDimension(coords=coords), plate=plate)
    assert layout.kind == "plate"
    assert paths(layout) == ["B/3/f0", "A/1/f0r1c0", "A/1/f1"]
    assert layout.images[0].array_path == "B/3/f0/0"

    assert layout_of(PositionDimension(coords=coords[:1]), plate=plate).kind == "plate"
    dims = [dimension("t"), dimension("angle"), dimension("c"), dimension("z")]
    layout = layout_of(PositionDimension(coords=coords[:1]), *dims, plate=plate)
    assert paths(layout) == ["B/3/f0angle0", "B/3/f0angle1"]


@hypothesis_settings(deadline=None, max_examples=150)
@given(DECLARED)
def test_paths_are_distinct(settings: AcquisitionSettings) -> None:
    """No two images share a folder, not even where case is ignored, and none lies inside of another."""
    layout = plan_layout(settings)
    folded = {path.casefold() for path in paths(layout)}
    assert len(folded) == len(layout.images)
    assert not any(a != b and b.startswith(f"{a}/") for a in folded for b in folded)
    images = len(settings.positions) * math.prod(d.count or 0 for d in settings.split_dimensions)
    assert len(layout.images) == images
    assert (layout.kind == "plate") == (settings.plate is not None)
    assert (layout.kind == "image") == (images == 1 and settings.plate is None)


# ---- open blocks -------------------------------------------------------------------------------------------------


def simulated_open_blocks(layout: Layout, extent: tuple[int, ...], frames: int) -> int:
    """Return the most blocks that have their first frame but not their last one, over the first frames."""
    router = Router(layout.axes)
    missing: dict[tuple[int, ...], int] = {}
    most = 0
    for frame in range(frames):
        array, index = router.locate(frame)
        block = (array, *(i // e for i, e in zip(index, extent, strict=True)))
        if block not in missing:
            lengths = zip(block[1:], extent, layout.geometry.shape, strict=False)
            missing[block] = math.prod(e if n is None else min(e, n - b * e) for b, e, n in lengths)
        most = max(most, len(missing))
        missing[block] -= 1
        if not missing[block]:
            del missing[block]
    return most


@st.composite
def blocks(draw: st.DrawFn, *, unbounded: bool) -> tuple[Layout, tuple[int, ...]]:
    """Draw a layout and the extent of a block, also one that is larger than the axes or that leaves partial blocks."""
    layout = plan_layout(draw(acquisitions(max_index_dims=4, unbounded=unbounded)))
    extents = st.sampled_from([layout.geometry.index_extent("chunk"), layout.geometry.index_extent("shard")])
    free = st.tuples(*(st.integers(1, (n or 4) + 1) for n in layout.geometry.shape[:-2]))
    return layout, draw(extents | free)


@hypothesis_settings(deadline=None, max_examples=400)
@given(blocks(unbounded=False))
def test_open_blocks_are_exact(drawn: tuple[Layout, tuple[int, ...]]) -> None:
    """The memory that an acquisition needs is known before its first frame: the peak of a simulation, exactly."""
    layout, extent = drawn
    total = Router(layout.axes).total
    assert total is not None
    assert layout.open_blocks(extent) == simulated_open_blocks(layout, extent, total)


@hypothesis_settings(deadline=None, max_examples=200)
@given(blocks(unbounded=True), st.integers(0, 3))
def test_open_blocks_of_an_unbounded_acquisition(drawn: tuple[Layout, tuple[int, ...]], more: int) -> None:
    """Without an end the peak is reached in the first step of the unbounded dimension, and never exceeded."""
    layout, extent = drawn
    per_step = math.prod(axis.count or 1 for axis in layout.axes)
    assert layout.open_blocks(extent) == simulated_open_blocks(layout, extent, per_step)
    assert layout.open_blocks(extent) == simulated_open_blocks(layout, extent, (per_step * (4 + more)))


@pytest.mark.parametrize(
    ("acquired", "extent", "number"),
    [
        ("t3 c2", (1, 1), 1),
        ("t3 c2", (3, 1), 2),
        ("t3 c2", (3, 2), 1),
        ("c2 t3", (3, 1), 1),
        ("t4 p3 c2 z5", (2, 1, 1), 30),
        ("t4 p3 c2 z5", (1, 2, 5), 1),
        ("t4 p3 c2 z5", (1, 2, 2), 3),
        ("p3 t4 c2 z5", (2, 1, 1), 10),
        ("p3 t4 z5 c2", (1, 1, 5), 2),
        ("t1 c2", (9, 1), 1),
    ],
)
def test_open_blocks_by_example(acquired: str, extent: tuple[int, ...], number: int) -> None:
    """Blocks that span a slow dimension keep open all that differ along the faster ones, positions included."""
    layout = layout_of(*(dimension(name[0], int(name[1])) for name in acquired.split()))
    assert layout.open_blocks(extent) == number


def test_open_blocks_are_explained() -> None:
    """An error about memory can name the dimension to blame and what it costs."""
    layout = layout_of(dimension("t", 40), dimension("c", 3))
    assert layout.explain_open_blocks((1, 1)) == "one block is open at a time"
    assert layout.explain_open_blocks((16, 1)).startswith("blocks of 16 steps of dimension 't' stay open")
    assert layout.explain_open_blocks((99, 1)).endswith("3 at once")
    assert "40 steps" in layout.explain_open_blocks((99, 1))


def test_frame_bytes_of_every_dtype() -> None:
    """Bytes of a frame follow the pixel type."""
    for dtype in ("uint8", "uint16", "float32", "float64"):
        made = plan_layout(AcquisitionSettings(dimensions=FRAME, dtype=dtype)).geometry
        assert made.frame_bytes == np.zeros(made.frame_shape, dtype).nbytes
