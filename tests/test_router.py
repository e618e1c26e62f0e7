"""Frame numbers and places, compared with a model built from ``numpy.ndindex`` over the settings alone."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from ome_writers import AcquisitionSettings, Dimension
from ome_writers._layout import AcquisitionAxis, plan_layout
from ome_writers._router import Router
from ome_writers.testing.strategies import acquisitions, declarations

FRAME = (Dimension(name="y", count=2), Dimension(name="x", count=3))

# how many steps of an unbounded dimension the model goes through
STEPS = 5

ANY_ACQUISITION = acquisitions(max_index_dims=4) | declarations().filter(lambda s: bool(s.dimensions))
UNBOUNDED = acquisitions(max_index_dims=4, unbounded=True)


def expected(settings: AcquisitionSettings) -> Iterator[tuple[str, dict[str, int], tuple[int, ...]]]:
    """Yield where each frame belongs: (position name, steps of split dimensions, index in storage order)."""
    dims = settings.dimensions[:-2]
    for steps in np.ndindex(*(d.count or STEPS for d in dims)):
        step = dict(zip((d.name for d in dims), steps, strict=True))
        place = settings.position_dimension_index
        position = settings.positions[0 if place is None else steps[place]].image_name
        split = {d.name: step[d.name] for d in settings.split_dimensions}
        yield position, split, tuple(step[d.name] for d in settings.storage_index_dimensions)


@hypothesis_settings(deadline=None, max_examples=200)
@given(ANY_ACQUISITION)
def test_every_frame_has_the_place_that_ndindex_says(settings: AcquisitionSettings) -> None:
    """Frames arrive in acquisition order; each belongs to its position, its image and its index there, and to no other.

    This holds for every storage order, with positions anywhere, with split dimensions and without an end, and the way
    back gives the frame's number again.
    """
    layout = plan_layout(settings)
    router = Router(layout.axes)
    seen = set()
    frame = -1
    for frame, (position, split, index) in enumerate(expected(settings)):
        array, located = router.locate(frame)
        image = layout.images[array]
        assert image.position.image_name == position
        assert image.steps == tuple(split.values())
        assert image.label == "_".join(f"{name}-{step}" for name, step in split.items())
        assert located == index
        assert router.number(array, located) == frame
        seen.add((array, located))
    assert len(seen) == frame + 1
    assert router.total == settings.num_frames
    if not settings.is_unbounded:
        shape = tuple(n for n in layout.geometry.shape[:-2] if n is not None)
        everything = {(array, index) for array in range(len(layout.images)) for index in np.ndindex(shape)}
        assert seen == everything
        with pytest.raises(IndexError):
            router.locate(frame + 1)


@hypothesis_settings(deadline=None, max_examples=100)
@given(ANY_ACQUISITION, st.data())
def test_every_index_of_every_array_has_a_frame(settings: AcquisitionSettings, data: st.DataObject) -> None:
    """The way back covers all indices of all arrays, and refuses those just outside."""
    layout = plan_layout(settings)
    router = Router(layout.axes)
    shape = [10**6 if n is None else n for n in layout.geometry.shape[:-2]]
    array = data.draw(st.integers(0, len(layout.images) - 1))
    index = tuple(data.draw(st.integers(0, n - 1)) for n in shape)
    assert router.locate(router.number(array, index)) == (array, index)

    for outside in (-1, len(layout.images)):
        with pytest.raises(IndexError):
            router.number(outside, index)
    for axis, count in enumerate(layout.geometry.shape[:-2]):
        for step in {-1, count} - {None}:
            with pytest.raises(IndexError):
                router.number(array, (*index[:axis], step or 0, *index[axis + 1 :]))
    with pytest.raises(IndexError):
        router.number(array, (*index, 0))
    assume(index)
    with pytest.raises(IndexError):
        router.number(array, index[:-1])


@hypothesis_settings(deadline=None, max_examples=100)
@given(UNBOUNDED, st.integers(0, 10**15))
def test_unbounded_acquisitions_go_on(settings: AcquisitionSettings, frame: int) -> None:
    """A frame far along has an exact place: one step of the first dimension is always the same number of frames."""
    router = Router(plan_layout(settings).axes)
    array, index = router.locate(frame)
    assert router.number(array, index) == frame
    per_step = math.prod(d.count or 0 for d in settings.dimensions[1:-2])
    first = settings.storage_index_dimensions.index(settings.dimensions[0])
    assert index[first] == frame // per_step
    assert router.locate(frame % per_step) == (array, (*index[:first], 0, *index[first + 1 :]))
    with pytest.raises(IndexError):
        router.locate(-1)


@hypothesis_settings(deadline=None, max_examples=100)
@given(UNBOUNDED, st.integers(0, 40))
def test_extent_of_an_array_that_grows(settings: AcquisitionSettings, frames: int) -> None:
    """After any number of frames, an array is as long as the unbounded dimension's steps that it has a frame of."""
    layout = plan_layout(settings)
    router = Router(layout.axes)
    axis = layout.geometry.unbounded_axis
    assert axis is not None
    extents = [0] * len(layout.images)
    for frame in range(frames):
        array, index = router.locate(frame)
        extents[array] = max(extents[array], index[axis] + 1)
    assert [router.extent(array, frames) for array in range(len(extents))] == extents


def test_example() -> None:
    """The order of an example that can be checked by eye: two positions between time and z, z stored last."""
    settings = AcquisitionSettings(
        dimensions=[
            Dimension(name="z", count=2),
            Dimension(name="p", coords=["a", "b"]),
            Dimension(name="t", count=2),
            *FRAME,
        ]
    )
    router = Router(plan_layout(settings).axes)
    assert [router.locate(frame) for frame in range(8)] == [
        (0, (0, 0)), (0, (1, 0)), (1, (0, 0)), (1, (1, 0)),
        (0, (0, 1)), (0, (1, 1)), (1, (0, 1)), (1, (1, 1)),
    ]  # fmt: skip


def test_single_frame() -> None:
    """An acquisition without index dimensions is one frame with an empty index."""
    router = Router(plan_layout(AcquisitionSettings(dimensions=FRAME)).axes)
    assert (router.total, router.locate(0), router.number(0, ())) == (1, (0, ()), 0)
    with pytest.raises(IndexError, match="frame 1 is not one of 1 frames"):
        router.locate(1)


def test_only_the_first_axis_may_be_unbounded() -> None:
    """An axis without an end under another one has no order of frames."""
    with pytest.raises(ValueError, match="only the first axis"):
        Router([AcquisitionAxis("z", 2, 0, 0), AcquisitionAxis("t", None, 1, 0)])


@pytest.mark.parametrize(
    ("axes", "fastest"),
    [
        ([("t", 5, 0, 0), ("z", 4, 1, 0)], 1),
        ([("z", 4, 1, 0), ("t", None, 0, 0)][::-1], 1),
        ([("t", None, 0, 0)], 0),
        ([("t", 5, 0, 0), ("z", 4, 1, 0), ("c", 1, 2, 0)], 1),
        ([("t", 5, 0, 0), ("p", 3, None, 1)], None),
        ([("p", 3, None, 1), ("t", 5, 0, 0)], 0),
        ([("t", 5, 0, 0), ("p", 1, None, 1)], 0),
        ([("t", 1, 0, 0)], None),
        ([], None),
    ],
)
def test_the_axis_along_which_frames_follow_each_other(
    axes: list[tuple[str, int | None, int | None, int]], fastest: int | None
) -> None:
    """It is the last one that has more than one step, unless that leads to another array."""
    router = Router([AcquisitionAxis(*axis) for axis in axes])
    assert router.fastest == fastest
    for frame in range(1, router.total or 5):
        array, index = router.locate(frame)
        if fastest is not None and index[fastest]:
            step = tuple(i - (axis == fastest) for axis, i in enumerate(index))
            assert router.locate(frame - 1) == (array, step)
