"""Sequences of useq-schema as settings: dimensions that are true of every event, or a refusal that says why."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import useq
from hypothesis import given
from hypothesis import strategies as st

from ome_writers.errors import BackendMissingError, UnsupportedError
from ome_writers.integrations.useq import dims_from_useq, useq_to_acquisition_settings
from ome_writers.settings import AcquisitionSettings, Channel, Dimension, Position

CHANNELS = [useq.Channel(config="DAPI", exposure=2), useq.Channel(config="FITC", exposure=2)]
TIMES = useq.TIntervalLoops(interval=0, loops=3)
STACK = useq.ZRangeAround(range=4, step=1)
STAGE = [(0, 0, 0), (100, 0, 0), (0, 100, 0)]
GRID = useq.GridRowsColumns(rows=2, columns=2, overlap=10)
WELLS = useq.WellPlatePlan(
    plate=96,
    a1_center_xy=(0, 0),
    selected_wells=([0, 0, 1], [0, 1, 2]),
    well_points_plan=useq.GridRowsColumns(rows=1, columns=2, fov_width=100, fov_height=100),
)


def sequence(**plans: Any) -> useq.MDASequence:
    return useq.MDASequence(**plans)


def image_events(seq: useq.MDASequence) -> list[useq.MDAEvent]:
    return [event for event in seq if event.action.type == "acquire_image"]


def dimensions(seq: useq.MDASequence, **options: Any) -> dict[str, Dimension]:
    return {d.name: d for d in dims_from_useq(seq, 64, 32, **options)}


def positions(dimension: Dimension) -> list[Position]:
    return [coord for coord in dimension.coords or [] if isinstance(coord, Position)]


def names(dimension: Dimension) -> list[str]:
    return [coord.name for coord in dimension.coords or [] if isinstance(coord, Channel | Position)]


def plane_offset(z: Dimension, step: int) -> float:
    """Where the dimension says that a plane is, relative to the position."""
    if z.scale is not None:
        return (z.translation or 0.0) + step * z.scale
    if z.coords is None:
        assert z.count == 1
        assert z.translation is not None
        return z.translation
    coord = z.coords[step]
    assert isinstance(coord, float)
    return coord


def check_against_events(seq: useq.MDASequence) -> AcquisitionSettings:
    """Compare the settings of a sequence with each of its images; return the settings."""
    result = useq_to_acquisition_settings(seq, 64, 32)
    settings = AcquisitionSettings(root_path="x.ome.zarr", dtype="uint16", **result)
    index_dims = settings.dimensions[:-2]
    events = image_events(seq)
    assert settings.num_frames == len(events)
    places: dict[int, tuple[int, int]] = {}
    for event, step in zip(events, np.ndindex(*(d.count or 0 for d in index_dims)), strict=True):
        at = dict(zip((d.name for d in index_dims), step, strict=True))
        by_name = {d.name: d for d in index_dims}
        for axis in "tcz":
            assert at.get(axis) == event.index.get(axis)
        if "c" in at:
            assert event.channel is not None
            assert names(by_name["c"])[at["c"]] == event.channel.config
        if "t" in at and by_name["t"].scale is not None:
            assert event.min_start_time == pytest.approx(at["t"] * by_name["t"].scale)
        place = (event.index.get("p", 0), event.index.get("g", 0))
        assert places.setdefault(at.get("p", 0), place) == place
        z_coord = None
        if "p" in at:
            position = positions(by_name["p"])[at["p"]]
            assert (position.x_coord, position.y_coord) == (event.x_pos, event.y_pos)
            if event.pos_name and settings.plate is None:
                assert position.name == event.pos_name
            z_coord = position.z_coord
        if "z" in at:
            assert event.z_pos == pytest.approx(plane_offset(by_name["z"], at["z"]) + (z_coord or 0.0))
        elif "p" in at:
            assert z_coord == event.z_pos
    assert len(set(places.values())) == len(places)
    return settings


TCZ = {"time_plan": TIMES, "channels": CHANNELS, "z_plan": STACK}
SCENARIOS: dict[str, tuple[useq.MDASequence, dict[str, int]]] = {
    "positions": (sequence(axis_order="tpcz", stage_positions=STAGE, **TCZ), {"t": 3, "p": 3, "c": 2, "z": 5}),
    "positions-outer": (sequence(axis_order="ptcz", stage_positions=STAGE, **TCZ), {"p": 3, "t": 3, "c": 2, "z": 5}),
    "plate": (
        sequence(axis_order="tpcz", stage_positions=WELLS, time_plan=TIMES, channels=CHANNELS),
        {"t": 3, "p": 6, "c": 2},
    ),
    "grid": (
        sequence(axis_order="tpgcz", stage_positions=STAGE[:2], time_plan=TIMES, channels=CHANNELS, grid_plan=GRID),
        {"t": 3, "p": 8, "c": 2},
    ),
    "z-before-c": (sequence(axis_order="tpzc", stage_positions=STAGE[:2], **TCZ), {"t": 3, "p": 2, "z": 5, "c": 2}),
    "burst": (sequence(time_plan=useq.TIntervalLoops(interval=0, loops=200)), {"t": 200}),
    "single-position": (
        sequence(axis_order="tpcz", stage_positions=STAGE[:1], **TCZ),
        {"t": 3, "p": 1, "c": 2, "z": 5},
    ),
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_sequences_of_control_software_become_nested_dimensions(name: str) -> None:
    """The kinds of sequence that control software runs give the used axes in acquisition order, then y and x."""
    seq, expected = SCENARIOS[name]
    settings = check_against_events(seq)
    assert {d.name: d.count for d in settings.dimensions} == {**expected, "y": 32, "x": 64}


def test_result_is_a_plain_mutable_dict() -> None:
    """A client replaces the dimensions in the result before it makes settings of it."""
    result = useq_to_acquisition_settings(SCENARIOS["burst"][0], image_width=64, image_height=32, pixel_size_um=0.5)
    assert type(result) is dict
    assert set(result) == {"dimensions", "plate"}
    result["dimensions"] = [d.model_copy(update={"chunk_size": 1}) for d in result["dimensions"]]
    assert AcquisitionSettings(root_path="x.ome.zarr", dtype="uint16", **result).num_frames == 200


# ---- all regular sequences -----------------------------------------------------------------------------------------

time_plans = st.one_of(
    st.none(),
    st.builds(useq.TIntervalLoops, interval=st.sampled_from([0, 0.5, 3]), loops=st.integers(1, 3)),
    st.just(useq.TIntervalDuration(interval=2, duration=5)),
    st.just(useq.TDurationLoops(duration=1, loops=3)),
    st.lists(
        st.builds(useq.TIntervalLoops, interval=st.sampled_from([0, 1, 2]), loops=st.integers(1, 3)),
        min_size=1,
        max_size=3,
    ),
)
z_plans = st.one_of(
    st.none(),
    st.builds(
        useq.ZRangeAround, range=st.sampled_from([0, 1, 2]), step=st.sampled_from([0, 0.3, 1]), go_up=st.booleans()
    ),
    st.builds(useq.ZTopBottom, bottom=st.just(10), top=st.just(12), step=st.just(0.7), go_up=st.booleans()),
    st.builds(useq.ZAboveBelow, above=st.just(2), below=st.just(1), step=st.just(1), go_up=st.booleans()),
    st.builds(useq.ZRelativePositions, relative=st.just([-1.0, 0.0, 5.0]), go_up=st.booleans()),
    st.builds(useq.ZAbsolutePositions, absolute=st.just([3.0, 4.0, 5.0]), go_up=st.booleans()),
)
grid_plans = st.one_of(
    st.none(),
    st.builds(
        useq.GridRowsColumns,
        rows=st.integers(1, 2),
        columns=st.integers(1, 3),
        mode=st.sampled_from(list(useq.OrderMode)),
        fov_width=st.just(10),
        fov_height=st.just(20),
    ),
    st.just(useq.GridWidthHeight(width=20, height=10, fov_width=10, fov_height=10)),
    st.builds(useq.RandomPoints, num_points=st.integers(1, 3), random_seed=st.just(1)),
    st.builds(useq.RandomPoints, num_points=st.integers(1, 3)),
)
channels = st.lists(st.sampled_from(["DAPI", "FITC", "Cy5"]), unique=True, max_size=3)
coordinates = st.one_of(st.none(), st.sampled_from([-1.5, 0.0, 100.0]))
stages = st.one_of(
    st.lists(
        st.builds(
            useq.Position,
            x=coordinates,
            y=coordinates,
            z=coordinates,
            name=st.one_of(st.none(), st.sampled_from(["a", "b", "0", "1", "5"])),
        ),
        max_size=4,
        unique_by=lambda p: p.name or id(p),
    ),
    st.sampled_from(
        [
            WELLS,
            useq.WellPlatePlan(plate=24, a1_center_xy=(5, 5), selected_wells=([1, 1], [0, 0])),
            useq.WellPlatePlan(
                plate=6, a1_center_xy=(0, 0), selected_wells=0, well_points_plan=useq.RandomPoints(num_points=2)
            ),
        ]
    ),
)


@st.composite
def regular_sequences(draw: st.DrawFn) -> useq.MDASequence:
    """Any order of axes in which the grid points of a position come together."""
    outer = draw(st.permutations(["t", "pg", "c", "z"]))
    z_plan = draw(z_plans)
    offset = draw(st.sampled_from([0.0, 0.25]))
    return useq.MDASequence(
        axis_order="".join(outer),
        time_plan=draw(time_plans),
        stage_positions=draw(stages),
        grid_plan=draw(grid_plans),
        channels=[useq.Channel(config=name, z_offset=offset) for name in draw(channels)],
        z_plan=z_plan,
    )


@given(regular_sequences().filter(lambda seq: bool(seq.used_axes)))
def test_dimensions_are_true_of_every_event(seq: useq.MDASequence) -> None:
    """The n-th image has the index, time, channel, position and height that the dimensions say, for any plan."""
    random_grid = isinstance(seq.grid_plan, useq.RandomPoints)
    if seq.grid_plan is None or "g" not in seq.used_axes:
        check_against_events(seq)
        return
    settings = useq_to_acquisition_settings(seq, 64, 32)
    events = image_events(seq)
    acquisition = AcquisitionSettings(root_path="x.ome.zarr", dtype="uint16", **settings)
    assert acquisition.num_frames == len(events)
    index_dims = acquisition.dimensions[:-2]
    p = [d.name for d in index_dims].index("p")
    points = [(point.grid_row, point.grid_col) for point in seq.grid_plan]
    first: dict[int, int] = {}
    for event, step in zip(events, np.ndindex(*(d.count or 0 for d in index_dims)), strict=True):
        position = acquisition.positions[step[p]]
        assert (position.x_coord, position.y_coord) == (event.x_pos, event.y_pos)
        if settings["plate"] is None and not random_grid:
            assert (position.grid_row, position.grid_column) == points[event.index["g"]]
        first.setdefault(event.index.get("p", 0) * len(points) + event.index["g"], step[p])
    assert list(first) == list(first.values())


@given(st.permutations("tpgcz"), st.sampled_from([1, 3]), st.sampled_from([1, 2]))
def test_positions_and_grid_points_merge_only_when_grid_follows(order: list[str], stage: int, rows: int) -> None:
    """With another loop in between (or around) there is no single position dimension, and that is said."""
    grid = useq.GridRowsColumns(rows=rows, columns=1, fov_width=1, fov_height=1)
    seq = useq.MDASequence(
        axis_order="".join(order),
        stage_positions=STAGE[:stage],
        grid_plan=grid,
        time_plan=TIMES,
        channels=["DAPI"],
        z_plan=STACK,
    )
    loops = [axis for axis in order if {"t": 3, "p": stage, "g": rows, "c": 1, "z": 5}[axis] > 1]
    if stage > 1 and rows > 1 and "pg" not in "".join(loops):
        with pytest.raises(NotImplementedError, match="directly after p"):
            useq_to_acquisition_settings(seq, 64, 32)
        return
    settings = AcquisitionSettings(root_path="x.zarr", dtype="uint8", **useq_to_acquisition_settings(seq, 64, 32))
    events = image_events(seq)
    assert settings.num_frames == len(events)
    index_dims = settings.dimensions[:-2]
    for event, step in zip(events, np.ndindex(*(d.count or 0 for d in index_dims)), strict=True):
        at = dict(zip((d.name for d in index_dims), step, strict=True))
        assert at.pop("p") == event.index["p"] * rows + event.index["g"]
        assert at == {axis: event.index[axis] for axis in "tcz"}


# ---- positions -----------------------------------------------------------------------------------------------------


def test_a_grid_gives_every_point_its_row_and_column() -> None:
    """Points of one stage position share its name and differ in row and column; the snake order is kept."""
    seq = sequence(stage_positions=[useq.Position(x=100, y=0, name="a"), (0, 0)], grid_plan=GRID)
    found = positions(dimensions(seq)["p"])
    assert [(p.name, p.grid_row, p.grid_column) for p in found[:5]] == [
        ("a", 0, 0),
        ("a", 0, 1),
        ("a", 1, 1),
        ("a", 1, 0),
        ("1", 0, 0),
    ]
    assert found[0].x_coord == pytest.approx(100 - 0.45)


def test_a_grid_without_positions_is_the_position_dimension() -> None:
    """A grid around the current place needs no stage positions."""
    dims = dimensions(sequence(axis_order="tgc", grid_plan=GRID, time_plan=TIMES, channels=CHANNELS))
    assert [(d.name, d.count) for d in dims.values()][:3] == [("t", 3), ("p", 4), ("c", 2)]
    assert {p.name for p in positions(dims["p"])} == {"0"}


def test_random_points_are_numbered_and_the_same_in_the_real_run() -> None:
    """Points drawn without a seed have no rows; the settings have those coordinates that the run goes to."""
    seq = sequence(stage_positions=[useq.Position(x=0, y=0, name="a")], grid_plan=useq.RandomPoints(num_points=3))
    found = positions(dimensions(seq)["p"])
    assert [p.name for p in found] == ["a_0", "a_1", "a_2"]
    assert [(p.x_coord, p.y_coord) for p in found] == [(e.x_pos, e.y_pos) for e in image_events(seq)]


def test_the_same_grid_at_every_position_is_regular() -> None:
    """A grid that each position has as sub-sequence is one like the grid of the whole sequence."""
    sub = sequence(grid_plan=GRID)
    stage = [useq.Position(x=x, y=5, z=1, name=name, sequence=sub) for x, name in ((0, "a"), (100, "b"))]
    settings = check_against_events(sequence(stage_positions=stage, time_plan=TIMES, channels=["DAPI"]))
    assert [d.count for d in settings.dimensions[:-2]] == [3, 8, 1]
    assert len({(p.name, p.grid_row, p.grid_column) for p in settings.positions}) == 8


def test_unnamed_positions_get_numbers_that_no_other_has() -> None:
    """A number stands for a missing name, unless a position is called like that."""
    stage = [useq.Position(x=0), useq.Position(x=1, name="0"), useq.Position(x=2), useq.Position(x=3, name="4")]
    assert names(dimensions(sequence(stage_positions=stage))["p"]) == ["5", "0", "2", "4"]


@pytest.mark.parametrize("stage_names", [["Pos:1"], ["a/b"], ["a", "a"], ["a", "A"]])
def test_names_that_cannot_be_paths_are_errors(stage_names: list[str]) -> None:
    """A name is never changed silently; the fault is the user's to mend, so a client does not fall back."""
    with pytest.raises(ValueError, match="position name"):
        dimensions(sequence(stage_positions=[useq.Position(x=0, name=name) for name in stage_names]))


def test_a_well_plate_plan_gives_the_whole_plate() -> None:
    """Rows and columns not imaged are part of the plate; fields are numbered in each well, letters and digits only."""
    settings = check_against_events(SCENARIOS["plate"][0])
    assert settings.plate is not None
    assert (len(settings.plate.row_names), len(settings.plate.column_names)) == (8, 12)
    assert settings.plate.name == "96-well"
    wells = [(p.plate_row, p.plate_column, p.name) for p in settings.positions]
    assert wells == [(r, c, n) for r, c in (("A", "1"), ("A", "2"), ("B", "3")) for n in "01"]


def test_a_grid_on_a_plate_numbers_the_fields_of_a_well() -> None:
    """The path of a field in a well has letters and digits only, so rows and columns of a grid can't be part of it."""
    settings = useq_to_acquisition_settings(sequence(stage_positions=WELLS, grid_plan=GRID), 64, 32)
    acquisition = AcquisitionSettings(root_path="x.zarr", dtype="uint8", **settings)
    assert len(acquisition.positions) == 24
    assert [p.image_name for p in acquisition.positions][:8] == list("01234567")


def test_a_plate_plan_that_never_was_told_its_wells_is_all_of_them() -> None:
    """useq-schema gives such a plan the length 0, but visits every well: the events count."""
    every = useq.WellPlatePlan(plate=6, a1_center_xy=(0, 0))
    assert len(every) == 0
    assert check_against_events(sequence(stage_positions=every)).num_frames == 6


def test_a_plate_without_selected_wells_is_no_plate() -> None:
    """Without a well there is no position, and settings with an empty plate would be invalid."""
    empty = useq.WellPlatePlan(plate=96, a1_center_xy=(0, 0), selected_wells=slice(0))
    settings = useq_to_acquisition_settings(sequence(stage_positions=empty, time_plan=TIMES), 64, 32)
    assert settings["plate"] is None
    assert [d.name for d in settings["dimensions"]] == ["t", "y", "x"]


# ---- time, channels, z ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plan", "count", "scale"),
    [
        (useq.TIntervalLoops(interval=0.5, loops=3), 3, 0.5),
        (useq.TIntervalLoops(interval=0, loops=3), 3, None),
        (useq.TDurationLoops(duration=3, loops=4), 4, 1.0),
        ([{"interval": 2, "loops": 3}, {"interval": 2, "loops": 2}], 4, 2.0),
        ([{"interval": 2, "loops": 3}, {"interval": 5, "loops": 2}], 4, None),
        ([{"interval": 0, "loops": 3}, {"interval": 1, "loops": 3}], 5, None),
        ([{"interval": 0, "loops": 3}, {"interval": 0, "loops": 3}], 5, None),
    ],
)
def test_time_has_a_scale_only_when_one_interval_holds_throughout(plan: Any, count: int, scale: float | None) -> None:
    """Time points come from the plan's real deltas; no interval is claimed that some time points don't keep."""
    seq = sequence(time_plan=plan)
    t = dimensions(seq)["t"]
    assert (t.count, t.scale, t.unit) == (count, scale, "second")
    assert t.count == len(image_events(seq))


def test_a_time_plan_that_divides_by_zero_is_an_argument_error() -> None:
    """useq-schema accepts an interval of zero with a duration, but nobody can run it."""
    with pytest.raises(ValueError, match="divides by zero"):
        dimensions(sequence(time_plan=useq.TIntervalDuration(interval=0, duration=5)))


@pytest.mark.parametrize(
    ("given_channels", "expected"),
    [
        (["DAPI", "FITC"], ["DAPI", "FITC"]),
        ([("DAPI", "Channel"), ("DAPI", "Other"), ("Cy5", "Other")], ["Channel-DAPI", "Other-DAPI", "Cy5"]),
        ([("DAPI", "Channel"), ("DAPI", "Channel"), "DAPI-2"], ["DAPI", "DAPI-3", "DAPI-2"]),
        ([("DAPI", "Channel", "left"), ("DAPI", "Channel", "right")], ["DAPI-left", "DAPI-right"]),
    ],
)
def test_channel_names_are_unique(given_channels: list[Any], expected: list[str]) -> None:
    """Channels of the same config are told apart by group, camera, or a number."""
    keys = ("config", "group", "camera")
    plan = [c if isinstance(c, str) else useq.Channel(**dict(zip(keys, c, strict=False))) for c in given_channels]
    assert names(dimensions(sequence(channels=plan))["c"]) == expected


@pytest.mark.parametrize(
    ("plan", "scale", "translation", "coords"),
    [
        (useq.ZRangeAround(range=4, step=1), 1.0, -2.0, None),
        (useq.ZTopBottom(bottom=10, top=11, step=0.3), 0.3, 10.0, None),
        (useq.ZRelativePositions(relative=[0, 0.5, 1]), 0.5, 0.0, [0.0, 0.5, 1.0]),
        (useq.ZRangeAround(range=2, step=1, go_up=False), None, None, [1.0, 0.0, -1.0]),
        (useq.ZAbsolutePositions(absolute=[1, 2, 5]), None, None, [1.0, 2.0, 5.0]),
        (useq.ZAbsolutePositions(absolute=[7]), None, 7.0, None),
    ],
)
def test_z_says_nothing_false(
    plan: useq.ZPlan, scale: float | None, translation: float | None, coords: list[float] | None
) -> None:
    """A rising even stack has scale and translation; a falling or uneven one has the coordinates of its planes."""
    z = dimensions(sequence(z_plan=plan))["z"]
    assert (z.scale, z.translation, z.coords, z.unit) == (scale, translation, coords, "micrometer")


def test_only_a_relative_stack_adds_to_the_height_of_the_position() -> None:
    """The height of a position is left out where the stack is at absolute heights and ignores it."""
    stage = [(0, 0, 50)]
    relative = dimensions(sequence(stage_positions=stage, z_plan=STACK))
    absolute = dimensions(sequence(stage_positions=stage, z_plan=useq.ZTopBottom(bottom=10, top=12, step=1)))
    assert [positions(d["p"])[0].z_coord for d in (relative, absolute)] == [50.0, None]


def test_channels_with_different_z_offsets_are_regular() -> None:
    """Offsets shift planes, not their order; the nominal stack is declared."""
    plan = [useq.Channel(config="a", z_offset=1), useq.Channel(config="b", z_offset=2)]
    dims = dimensions(sequence(channels=plan, z_plan=STACK))
    assert (dims["z"].count, dims["z"].translation) == (5, -2.0)


def test_plans_whose_axis_is_left_out_have_no_effect() -> None:
    """useq-schema ignores positions and channels that the axis order doesn't name; so do name, height and offset."""
    seq = sequence(
        axis_order="gz",
        stage_positions=[useq.Position(x=7, y=7, z=50, name="a")],
        channels=[useq.Channel(config="DAPI", z_offset=3)],
        grid_plan=GRID,
        z_plan=STACK,
    )
    settings = check_against_events(seq)
    assert {p.name for p in settings.positions} == {"0"}
    assert settings.dimensions[1].translation == -2.0


# ---- sequences that are no array -----------------------------------------------------------------------------------

FITC = useq.Channel(config="FITC")
RAGGED: dict[str, tuple[useq.MDASequence, str]] = {
    "middle plane only": (sequence(channels=["DAPI", FITC.replace(do_stack=False)], z_plan=STACK), "do_stack=False"),
    "no channel stacks": (sequence(channels=[FITC.replace(do_stack=False)], z_plan=STACK), "do_stack=False"),
    "every second time": (
        sequence(channels=["DAPI", FITC.replace(acquire_every=2)], time_plan=TIMES),
        "acquire_every=2",
    ),
    "last time left out": (sequence(channels=[FITC.replace(acquire_every=5)], time_plan=TIMES), "acquire_every=5"),
    "stack at one position": (
        sequence(stage_positions=[useq.Position(x=0, sequence=sequence(z_plan=STACK)), (1, 1)]),
        "sub-sequence of position 0 goes through z",
    ),
    "own channels": (
        sequence(stage_positions=[useq.Position(x=0, sequence=sequence(channels=["a"], grid_plan=GRID))]),
        "sub-sequence of position 0 goes through g, c",
    ),
    "grid at one position": (
        sequence(stage_positions=[useq.Position(x=0, sequence=sequence(grid_plan=GRID)), (1, 1)]),
        "sub-sequence of position 1 is missing",
    ),
    "different grids": (
        sequence(
            stage_positions=[
                useq.Position(x=n, sequence=sequence(grid_plan=useq.GridRowsColumns(rows=1, columns=n))) for n in (2, 3)
            ]
        ),
        "grid of position 1",
    ),
    "two grids": (
        sequence(stage_positions=[useq.Position(x=0, sequence=sequence(grid_plan=GRID))], grid_plan=GRID),
        "both it and its positions",
    ),
    "grid inside channels": (
        sequence(
            stage_positions=[useq.Position(x=n, sequence=sequence(grid_plan=GRID)) for n in (0, 1)], channels=CHANNELS
        ),
        "directly after p",
    ),
    "empty sub-sequence": (
        sequence(stage_positions=[useq.Position(x=0, sequence=sequence(metadata={"a": 1}))], channels=CHANNELS),
        "position 0 has a sub-sequence",
    ),
    "nothing": (sequence(), "no images"),
}


@pytest.mark.parametrize("name", RAGGED)
def test_ragged_sequences_are_refused_with_the_reason(name: str) -> None:
    """A client falls back on NotImplementedError, and its user learns what to change."""
    seq, reason = RAGGED[name]
    with pytest.raises(NotImplementedError, match=reason) as caught:
        useq_to_acquisition_settings(seq, 64, 32)
    assert isinstance(caught.value, UnsupportedError)


def test_the_first_event_out_of_order_is_named() -> None:
    """The message leads to the event where the array ends to be regular."""
    with pytest.raises(NotImplementedError, match="image 5 is c=1 z=2 instead of c=1 z=0"):
        dimensions(RAGGED["middle plane only"][0])


@pytest.mark.parametrize(
    "plans",
    [
        {"channels": [FITC.replace(do_stack=False)]},
        {"channels": [FITC.replace(do_stack=False)], "z_plan": useq.ZRelativePositions(relative=[3])},
        {"channels": [FITC.replace(acquire_every=3)]},
        {"channels": [FITC.replace(acquire_every=3)], "time_plan": useq.TIntervalLoops(interval=1, loops=1)},
        {"axis_order": "tc", "channels": ["DAPI"], "time_plan": TIMES, "z_plan": STACK, "grid_plan": GRID},
        {"channels": CHANNELS, "time_plan": TIMES, "keep_shutter_open_across": ("c",)},
    ],
)
def test_events_decide_not_the_plans(plans: dict[str, Any]) -> None:
    """A plan that could leave out images, but does not, is no reason to refuse."""
    check_against_events(sequence(**plans))


# ---- no effect on the sequence -------------------------------------------------------------------------------------


def test_autofocus_is_not_an_image_and_still_happens_in_the_real_run() -> None:
    """Autofocus plans remember the last event they saw; looking at a sequence must not use up its first autofocus."""
    plans: dict[str, Any] = {"stage_positions": STAGE[:1], "time_plan": TIMES, "z_plan": STACK}
    autofocus = useq.AxesBasedAF(axes=("p",), autofocus_motor_offset=5)
    sub = sequence(autofocus_plan=useq.AxesBasedAF(axes=("t",), autofocus_motor_offset=5))
    for seq in (
        sequence(autofocus_plan=autofocus, **plans),
        sequence(**{**plans, "stage_positions": [useq.Position(x=0, sequence=sub)]}),
    ):
        check = useq_to_acquisition_settings(seq, 64, 32)
        assert [d.count for d in check["dimensions"]] == [3, 1, 5, 32, 64]
        assert next(iter(seq)).action.type == "hardware_autofocus"


def test_a_field_of_view_set_later_takes_effect() -> None:
    """Engines set the field of view on grid plans just before the run; useq-schema must not have cached the points."""
    seq = sequence(grid_plan=useq.GridRowsColumns(rows=1, columns=2))
    useq_to_acquisition_settings(seq, 64, 32)
    assert seq.grid_plan is not None
    seq.grid_plan.fov_width = 100
    assert [event.x_pos for event in seq] == [-50.0, 50.0]


# ---- arguments -----------------------------------------------------------------------------------------------------


def test_pixel_size_is_the_scale_of_the_frame() -> None:
    """Width belongs to x, height to y, and both have the pixel size in micrometers."""
    dims = dimensions(SCENARIOS["burst"][0], pixel_size_um=0.325)
    assert [(d.name, d.count, d.scale, d.unit) for d in list(dims.values())[-2:]] == [
        ("y", 32, 0.325, "micrometer"),
        ("x", 64, 0.325, "micrometer"),
    ]


@pytest.mark.parametrize("unknown", [None, 0, 0.0, math.nan])
def test_an_unknown_pixel_size_is_no_scale(unknown: float | None) -> None:
    """Control software reports 0 for a pixel size that nobody calibrated."""
    assert dimensions(SCENARIOS["burst"][0], pixel_size_um=unknown)["x"].scale is None


def test_chunks_and_shards_reach_their_dimensions() -> None:
    """Chunk and shard sizes are given by axis; those of standard axes that a sequence doesn't use don't matter."""
    dims = dimensions(SCENARIOS["burst"][0], chunk_shapes={"x": 16, "t": 2, "z": 3}, shard_shapes={"x": 4})
    assert [(d.chunk_size, d.shard_size_chunks) for d in dims.values()] == [(2, None), (None, None), (16, 4)]


def test_units_convert_what_is_known_or_replace_it() -> None:
    """A unit alone keeps the physical sizes; with a number it sets the size of a step."""
    seq = sequence(time_plan=useq.TIntervalLoops(interval=0.5, loops=3), z_plan=useq.ZRangeAround(range=4, step=0.3))
    dims = dimensions(seq, pixel_size_um=0.1, units={"t": "ms", "z": "nm", "x": (2, "mm"), "y": "micrometer"})
    assert [(d.unit, d.scale, d.translation) for d in dims.values()] == [
        ("millisecond", 500.0, None),
        ("nanometer", 300.0, -2000.0),
        ("micrometer", 0.1, None),
        ("millimeter", 2.0, None),
    ]
    falling = sequence(z_plan=useq.ZRangeAround(range=2, step=1, go_up=False))
    assert dimensions(falling, units={"z": "nm"})["z"].coords == [1000.0, 0.0, -1000.0]


@pytest.mark.parametrize(
    "options",
    [
        {"chunk_shapes": {"q": 1}},
        {"shard_shapes": {"g": 1}},
        {"units": {"w": "second"}},
        {"units": {"t": "micrometer"}},
        {"units": {"x": (0, "micrometer")}},
        {"chunk_shapes": {"x": 0}},
        {"pixel_size_um": -1},
        {"pixel_size_um": math.inf},
    ],
)
def test_bad_options_are_value_errors(options: dict[str, Any]) -> None:
    """A mistake of the caller must not look like a sequence that can't be an array."""
    with pytest.raises(ValueError, match=r".") as caught:
        dimensions(SCENARIOS["burst"][0], **options)
    assert not isinstance(caught.value, NotImplementedError)


@pytest.mark.parametrize(("width", "height"), [(0, 32), (64, 0), (-1, 32)])
def test_empty_frames_are_value_errors(width: int, height: int) -> None:
    """Also for a ragged sequence: the arguments are looked at first."""
    for seq in (SCENARIOS["burst"][0], RAGGED["middle plane only"][0]):
        with pytest.raises(ValueError, match="at least 1 x 1"):
            useq_to_acquisition_settings(seq, width, height)


@pytest.mark.parametrize("wrong", [{"time_plan": {"interval": 1, "loops": 2}}, "seq.yaml", None, [useq.MDAEvent()]])
def test_only_sequences_are_accepted(wrong: Any) -> None:
    """A dict, a path or a list of events is not guessed at."""
    for function in (useq_to_acquisition_settings, dims_from_useq):
        convert: Callable[..., object] = function
        with pytest.raises(TypeError, match=r"must be a useq\.MDASequence"):
            convert(wrong, 64, 32)


def test_missing_useq_schema_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """useq-schema is optional: what needs it says how to get it."""
    monkeypatch.setitem(sys.modules, "useq", None)
    with pytest.raises(BackendMissingError, match=r'pip install "ome-writers\[useq\]"'):
        useq_to_acquisition_settings(SCENARIOS["burst"][0], 64, 32)


def test_importing_does_not_import_useq_schema() -> None:
    """The package and this integration can be imported without useq-schema."""
    code = "import sys, ome_writers, ome_writers.integrations.useq; sys.exit('useq' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
