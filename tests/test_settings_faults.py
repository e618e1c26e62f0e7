"""All faults of settings are reported together: every two faults that can be combined are both in the message."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Iterator
from itertools import combinations
from typing import Any, Final, TypeAlias

import pytest
from pydantic import ValidationError

from ome_writers import AcquisitionSettings

Place: TypeAlias = tuple[str | int, ...]
Fault: TypeAlias = dict[Place, Any]

ON_A_PLATE: Final[dict[str, Any]] = {
    "root_path": "a.ome.zarr",
    "dtype": "uint16",
    "storage_order": "ome",
    "format": {"name": "ome-zarr", "backend": "auto", "suffix": ".ome.zarr"},
    "buffer": {"max_bytes": 1 << 30},
    "plate": {"row_names": ["A", "B"], "column_names": ["1", "2"]},
    "dimensions": [
        {"name": "t", "type": "time"},
        {
            "name": "p",
            "type": "position",
            "coords": [
                {"name": "a", "plate_row": "A", "plate_column": "1"},
                {"name": "b", "plate_row": "A", "plate_column": "1"},
                {"name": "d", "plate_row": "B", "plate_column": "1"},
                {"name": "e", "plate_row": "B", "plate_column": "1"},
                {"name": "f", "plate_row": "B", "plate_column": "2"},
            ],
        },
        {"name": "c", "type": "channel", "coords": [{"name": name} for name in "uvwxy"]},
        {"name": "cam", "type": "other", "coords": ["left", "right", "top", "bottom"]},
        {"name": "z", "type": "space", "count": 5},
        {"name": "y", "type": "space", "count": 64},
        {"name": "x", "type": "space", "count": 64},
    ],
}
WELL: Final = {"plate_row": "A", "plate_column": "1"}
T, P, C, CAM, Z, Y, X = (("dimensions", i) for i in range(7))
ANYWHERE: Final[dict[str, Fault]] = {
    "root path": {("root_path",): "a\0.zarr"},
    "dtype": {("dtype",): "bogus"},
    "compression": {("compression",): "lzw"},
    "codec level": {("compression",): {"name": "blosc-lz4", "level": 10}},
    "codec shuffle": {("compression",): {"name": "zstd", "shuffle": "bit"}},
    "overwrite": {("overwrite",): "perhaps"},
    "unknown field": {("bogus",): 1},
    "backend": {("format", "backend"): "bogus"},
    "suffix": {("format", "suffix"): "bogus"},
    "buffer bytes": {("buffer", "max_bytes"): 0},
    "buffer policy": {("buffer", "on_full"): "drop"},
    "storage order": {("storage_order",): ["q"]},
    "t name": {(*T, "name"): "t/"},
    "t count": {(*T, "count"): 0},
    "t unit": {(*T, "unit"): "furlong"},
    "t scale": {(*T, "scale"): -1},
    "t chunk": {(*T, "chunk_size"): 0},
    "t shard": {(*T, "shard_size_chunks"): 0},
    "t unknown field": {(*T, "bogus"): 1},
    "t split": {(*T, "type"): "other"},
    "z type": {(*Z, "type"): "bogus"},
    "z without end": {(*Z, "count"): None},
    "z huge": {(*Z, "count"): 1 << 60},
    "z unit": {(*Z, "unit"): "s"},
    "y type": {(*Y, "type"): "time"},
    "x without end": {(*X, "count"): None},
    "x name": {(*X, "name"): "x/"},
    "x translation": {(*X, "translation"): float("nan")},
    "two names alike": {(*CAM, "name"): "Z", (*Z, "name"): "z"},
    "channel name": {(*C, "coords", 0, "name"): "a\0"},
    "channel color": {(*C, "coords", 1, "color"): "bogus"},
    "channel is None": {(*C, "coords", 2): None},
    "channels alike": {(*C, "coords", 3): {"name": "k"}, (*C, "coords", 4): {"name": "k"}},
    "channels and count": {(*C, "count"): 7},
    "cameras alike": {(*CAM, "coords", 0): "k", (*CAM, "coords", 1): "k"},
    "camera name": {(*CAM, "coords", 2): "k\0"},
    "camera is None": {(*CAM, "coords", 3): None},
    "cameras and count": {(*CAM, "count"): 9},
    "too many images": {CAM: {"name": "cam", "type": "other", "count": 10**8}},
    "position name": {(*P, "coords", 0, "name"): "a/b"},
    "position without grid column": {(*P, "coords", 0, "grid_row"): 1},
    "position coordinate": {(*P, "coords", 1, "x_coord"): float("inf")},
    "position is a number": {(*P, "coords", 1): 1.5},
    "position is None": {(*P, "coords", 1): None},
    "positions alike": {(*P, "coords", 2, "name"): "k", (*P, "coords", 3, "name"): "K"},
    "positions and count": {(*P, "count"): 9},
}  # fmt: skip
FAULTS_ON_A_PLATE: Final[dict[str, Fault]] = {
    **ANYWHERE,
    "plate rows": {("plate", "row_names"): ["A", "B", "b"]},
    "plate columns": {("plate", "column_names"): ["1", "2", None]},
    "plate name": {("plate", "name"): "\0"},
    "two stages": {CAM: {"name": "cam", "type": "position", "coords": [{**WELL, "name": "i"}]}},
    "no such row": {(*P, "coords", 4, "plate_row"): "Q"},
    "no such column": {(*P, "coords", 0, "plate_column"): "9"},
    "no well": {(*P, "coords", 4, "plate_row"): None, (*P, "coords", 4, "plate_column"): None},
    "not a field": {(*P, "coords", 4, "name"): "f f"},
    "one path": {
        (*P, "coords", 2): {"name": "d", "plate_row": "B", "plate_column": "1", "grid_row": 0, "grid_column": 0},
        (*P, "coords", 3): {"name": "dr0c0", "plate_row": "B", "plate_column": "1"},
    },
}
FAULTS_ELSEWHERE: Final[dict[str, Fault]] = {
    **ANYWHERE,
    "two stages": {CAM: {"name": "cam", "type": "position", "coords": ["i"]}},
    "a well": {(*P, "coords", 4): {**WELL, "name": "f"}},
    "one path": {
        (*P, "coords", 2): {"name": "d", "grid_row": 0, "grid_column": 0},
        (*P, "coords", 3): {"name": "d_0_0"},
    },
}
ELSEWHERE: Final[dict[str, Any]] = copy.deepcopy(ON_A_PLATE)
del ELSEWHERE["plate"]
for _position in ELSEWHERE["dimensions"][1]["coords"]:
    del _position["plate_row"], _position["plate_column"]

QUOTES: Final[dict[tuple[str, str], str]] = {
    # the dimensions, as the other fault leaves them; one with a fault in its name is called by its place
    ("storage order", "t name"): "must name each stored index dimension once (dimension0, c, z)",
    ("storage order", "t split"): "must name each stored index dimension once (c, cam, z)",
    ("storage order", "x name"): "once (t, c, z), optionally followed by y, dimension6",
    ("t split", "t name"): "dimension 'dimension0' is unbounded, and OME-Zarr has no axis for it",
    ("x without end", "x name"): "dimension 'dimension6' is one of the last two",
    # the sizes
    ("z huge", "x without end"): "x 64 x 1 pixels are more than any storage holds",
    ("z huge", "too many images"): "1 x 5 x 5 x 100000000 x 1152921504606846976 x 64 x 64 pixels are more than",
    ("z huge", "two stages"): "1 x 5 x 5 x 1 x 1152921504606846976 x 64 x 64 pixels are more than",
    # the position
    ("no such column", "position name"): "position 'entry0' is in column '9'",
    ("no such row", "not a field"): "position 'f f' is in row 'Q'",
    ("no well", "not a field"): "1 positions ('f f') have no plate_row",
    # the paths, which name the steps of split dimensions
    ("one path", "t split"): "two images would have the same path",
    ("one path", "two names alike"): "two images would have the same path",
    ("one path", "two stages"): "two images would have the same path",
}
"""What is told of the first fault when the second changes something that the message quotes."""

_SPLIT_BY_TYPES: Final = "which dimensions are split follows from the types of all of them"
MEANINGLESS: Final[dict[tuple[str, str], str]] = {
    ("storage order", "z type"): _SPLIT_BY_TYPES,
    ("t split", "z type"): _SPLIT_BY_TYPES,
    ("too many images", "z type"): _SPLIT_BY_TYPES,
    ("one path", "z type"): _SPLIT_BY_TYPES,
    ("t split", "two stages"): "without the cameras there is one dimension of type other, which is not split",
    ("too many images", "t split"): "t is split instead of the cameras, so these make no images",
    ("t split", "t count"): "a dimension with a wrong count is not meant to be without end",
    ("t unit", "t split"): "a dimension of type other may have any unit",
    ("z unit", "z type"): "what the unit disagrees with is the type, which is not one",
    ("one path", "a well"): "positions with wells are on a plate, where paths are others",
}
"""Why the first fault is not told, or not one, when there is also the second."""


def with_changes(good: dict[str, Any], *faults: Fault) -> dict[str, Any]:
    """Return a copy of good settings with faults put in."""
    changed = copy.deepcopy(good)
    for fault in faults:
        for (*parents, last), value in fault.items():
            part: Any = changed
            for key in parents:
                part = part[key]
            part[last] = copy.copy(value)
    return changed


def told(settings: dict[str, Any]) -> list[tuple[Place, str]]:
    """Return the place and the text of all errors that settings give."""
    with pytest.raises(ValidationError) as caught:
        AcquisitionSettings.model_validate(settings)
    return [(fault["loc"], fault["msg"].removeprefix("Value error, ")) for fault in caught.value.errors()]


def apart(one: Fault, other: Fault) -> bool:
    """Tell whether two faults are in different places, so that settings can have both."""
    return not any(a[: len(b)] == b[: len(a)] for a in one for b in other)


@pytest.mark.parametrize(
    ("good", "faults"),
    [(ON_A_PLATE, FAULTS_ON_A_PLATE), (ELSEWHERE, FAULTS_ELSEWHERE)],
    ids=["on a plate", "elsewhere"],
)
def test_any_two_faults_are_reported_together(good: dict[str, Any], faults: dict[str, Fault]) -> None:
    """No fault hides another one in a different place, but for those that make it meaningless."""
    AcquisitionSettings.model_validate(good)
    single = {name: told(with_changes(good, fault)) for name, fault in faults.items()}
    assert {name: lines for name, lines in single.items() if len(lines) != 1} == {}
    missing = {}
    for first, second in combinations(faults, 2):
        if not apart(faults[first], faults[second]):
            continue
        both = told(with_changes(good, faults[first], faults[second]))
        for one, other in ((first, second), (second, first)):
            ((place, text),) = single[one]
            expected = QUOTES.get((one, other), text)
            if not any(at == place and expected in line for at, line in both):
                missing[one, other] = both
    assert {pair: both for pair, both in missing.items() if pair not in MEANINGLESS} == {}


def test_too_few_dimensions_hide_nothing_else() -> None:
    """Without a frame it is still told which positions are not on the plate."""
    for dimensions in ([ON_A_PLATE["dimensions"][1]], [{**ON_A_PLATE["dimensions"][1], "scale": -1}]):
        faults = told({"dimensions": dimensions, "plate": {"row_names": ["A"], "column_names": ["1", "2"]}})
        places = {place for place, _ in faults}
        assert {("dimensions",), ("plate",)} <= places
        assert any("at least the two of the frame" in text for _, text in faults)
        assert any("'d' is in row 'B'" in text for _, text in faults)


def test_a_path_of_two_images_is_told_once() -> None:
    """Two positions that collide do so at each step of a split dimension; one line for each would bury the rest."""
    changes = {**FAULTS_ELSEWHERE["one path"], CAM: {"name": "cam", "type": "other", "count": 1000}}
    ((_, text),) = told(with_changes(ELSEWHERE, changes))
    assert text.count("two images") == 1


def test_steps_that_give_one_path_are_told() -> None:
    """On a plate the steps of several split dimensions are joined without separators, which may be ambiguous."""
    dimensions = [{"name": name, "type": "other", "count": 12} for name in ("a", "1", "b")]
    position = {"name": "p", "type": "position", "coords": [{**WELL, "name": "f"}]}
    ((place, text),) = told(
        with_changes(ON_A_PLATE, {("dimensions",): [*dimensions, position, *ON_A_PLATE["dimensions"][-2:]]})
    )
    assert place == ("plate",)
    assert "'A/1/fa1111' and 'A/1/fa1111'" in text


def places_of(value: Any, place: Place = ()) -> Iterator[Place]:
    """Yield the place of everything inside of nested settings."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield (*place, key)
        yield from places_of(part, (*place, key))


@pytest.mark.parametrize(
    "value", [None, 5, 1.5, float("nan"), "x", "", b"x", [], [None], {}, {5: 5}, [[]], ...], ids=repr
)
def test_a_wrong_value_anywhere_is_a_validation_error(value: object) -> None:
    """Looking for further faults never fails itself, whatever is wrong, also beside another fault."""
    for place in places_of(ON_A_PLATE):
        for fault in ({}, FAULTS_ON_A_PLATE["positions alike"], FAULTS_ON_A_PLATE["plate rows"]):
            if apart(fault, {place: value}):
                with contextlib.suppress(ValidationError), warnings.catch_warnings(action="ignore"):
                    AcquisitionSettings.model_validate(with_changes(ON_A_PLATE, {place: value}, fault))
