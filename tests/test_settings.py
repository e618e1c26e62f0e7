"""What can be declared, what is refused, and what follows from a declaration."""

from __future__ import annotations

import copy
import json
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ome_writers import (
    AcquisitionSettings,
    BufferSettings,
    Channel,
    Codec,
    Dimension,
    OmeZarrFormat,
    Plate,
    Position,
    PositionDimension,
    StandardAxis,
    dims_from_standard_axes,
)
from ome_writers.errors import SettingsError
from ome_writers.settings import DTYPES, name_fault
from ome_writers.testing.strategies import acquisitions, declarations

FRAME = (Dimension(name="y", count=4), Dimension(name="x", count=5))


def settings_of(*index_dimensions: Dimension, **fields: Any) -> AcquisitionSettings:
    """Return settings with these index dimensions and a small frame."""
    return AcquisitionSettings(dimensions=[*index_dimensions, *FRAME], dtype="uint16", **fields)


def dimension(name: str, count: int | None = 2, kind: str | None = None) -> Dimension:
    """Return a dimension, its type inferred from the name if not given."""
    return Dimension(name=name, count=count, type=kind)


def stage(*names: str, **fields: Any) -> PositionDimension:
    """Return a position dimension with positions of these names."""
    return PositionDimension(coords=[Position(name=name, **fields) for name in names])


def fault_places(build: Callable[[], object]) -> set[str]:
    """Return the places of all faults that are reported when something is built."""
    with pytest.raises(ValidationError) as caught:
        build()
    return {".".join(map(str, fault["loc"])) for fault in caught.value.errors()}


def names_of(dimensions: tuple[Dimension, ...]) -> str:
    return " ".join(d.name for d in dimensions)


# ---- defaults and fields -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "defaults"),
    [
        (
            AcquisitionSettings(),
            {
                "root_path": "",
                "dimensions": (),
                "dtype": "",
                "compression": None,
                "chunking": None,
                "storage_order": "ome",
                "plate": None,
                "overwrite": False,
                "format": OmeZarrFormat(),
                "buffer": BufferSettings(),
                "durability": "process",
            },
        ),
        (
            Dimension(name="u"),
            {
                "name": "u",
                "count": None,
                "type": "other",
                "coords": None,
                "chunk_size": None,
                "shard_size_chunks": None,
                "unit": None,
                "scale": None,
                "translation": None,
            },
        ),
        (
            Position(name="a"),
            {
                "name": "a",
                "plate_row": None,
                "plate_column": None,
                "grid_row": None,
                "grid_column": None,
                "x_coord": None,
                "y_coord": None,
                "z_coord": None,
            },
        ),
        (
            Channel(name="a"),
            {
                "name": "a",
                "excitation_wavelength_nm": None,
                "emission_wavelength_nm": None,
                "fluorophore": None,
                "color": None,
            },
        ),
        (
            Plate(row_names=["A"], column_names=["1"]),
            {"row_names": ["A"], "column_names": ["1"], "name": None},
        ),
        (Codec(name="zstd"), {"name": "zstd", "level": None, "shuffle": None, "checksum": False}),
        (OmeZarrFormat(), {"name": "ome-zarr", "backend": "auto", "suffix": ".ome.zarr"}),
        (BufferSettings(), {"max_bytes": None, "on_full": "block", "timeout": None, "workers": None}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_fields_and_defaults(made: Any, defaults: dict[str, Any]) -> None:
    """Clients rely on these field names and defaults, and on nothing being accepted beside them."""
    assert dict(made) == defaults
    required = {name: value for name, value in defaults.items() if value is not None and name.endswith(("name", "s"))}
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        type(made).model_validate({**required, "no_such_field": 1})


def test_assigning_an_unknown_field_is_an_error() -> None:
    """A misspelt field must not be stored where nothing reads it."""
    with pytest.raises(ValueError, match="has no attribute"):
        setattr(AcquisitionSettings(), "owerwrite", True)  # noqa: B010


def test_root_path_is_anything_with_a_text_form() -> None:
    """Paths are passed as Path objects; None must not become a folder called 'None'."""
    assert AcquisitionSettings(root_path=Path("a") / "b.ome.zarr").root_path == str(Path("a/b.ome.zarr"))
    assert AcquisitionSettings(root_path=PurePosixPath("a.zarr")).root_path == "a.zarr"
    assert AcquisitionSettings(root_path=b"a.zarr").root_path == "a.zarr"
    assert AcquisitionSettings(root_path=None).root_path == ""
    with pytest.raises(ValidationError, match="NUL"):
        AcquisitionSettings(root_path="a\0.zarr")


@pytest.mark.parametrize(
    ("root_path", "output_path"),
    [
        ("a", "a.ome.zarr"),
        ("a.zarr", "a.zarr"),
        ("a.ome.zarr", "a.ome.zarr"),
        ("a.OME.ZARR", "a.OME.ZARR"),
        ("a.b", "a.b.ome.zarr"),
        ("folder/", "folder.ome.zarr"),
        ("a.ome.zarr/", "a.ome.zarr"),
        (".", "."),
        ("..", ".."),
        ("/", "/"),
        ("", ""),
    ],
)
def test_output_path(root_path: str, output_path: str) -> None:
    """The suffix is added where there is none, and never makes a hidden folder inside of another."""
    made = AcquisitionSettings(root_path=root_path, format="ome-zarr")
    assert made.output_path == output_path
    assert made.format.get_output_path(root_path, num_positions=3) == output_path


def test_suffix_of_the_format() -> None:
    """A user may choose the suffix, or none; it can't hold a path."""
    assert OmeZarrFormat(suffix=".zarr").get_output_path("a") == "a.zarr"
    assert OmeZarrFormat(suffix="").get_output_path("a") == "a"
    for suffix in ("zarr", "./a", ".a\\b"):
        with pytest.raises(ValidationError):
            OmeZarrFormat(suffix=suffix)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtype_is_stored_as_its_name(dtype: str) -> None:
    """Anything that numpy takes for a pixel type is stored under one name, in the machine's byte order."""
    made = np.dtype(dtype)
    for given_as in (dtype, made, made.type, made.str, made.newbyteorder(">")):
        assert AcquisitionSettings(dtype=given_as).dtype == dtype


@pytest.mark.parametrize(
    "dtype", ["complex64", "bool", "S3", "nonsense", ",", "(1", "i4,i4", object, None, 5, [], {"a": 1}]
)
def test_dtype_that_cannot_be_stored(dtype: object) -> None:
    """Whatever isn't an integer or float type is an error that lists what is allowed."""
    with pytest.raises(ValidationError, match="can't be stored; allowed: uint8, uint16"):
        AcquisitionSettings(dtype=dtype)


@pytest.mark.parametrize("compression", [None, "none", "zstd", "blosc-zstd", "blosc-lz4"])
def test_compression(compression: str | None) -> None:
    """All compressions of OME-Zarr that clients know are accepted as they are."""
    assert AcquisitionSettings(compression=compression).compression == compression


@pytest.mark.parametrize(
    "codec",
    [
        Codec(name="none", checksum=True),
        Codec(name="zstd", level=-7),
        Codec(name="zstd", level=22, shuffle="none"),
        Codec(name="blosc-lz4", level=0, shuffle="bit"),
        Codec(name="blosc-zstd", level=9, shuffle="byte", checksum=True),
    ],
    ids=repr,
)
def test_compression_with_all_that_can_be_chosen(codec: Codec) -> None:
    """A codec may be given as an object or as its fields, and is the same after a round trip through JSON."""
    for given_as in (codec, codec.model_dump()):
        made = AcquisitionSettings(compression=given_as)
        assert made.compression == codec
        assert AcquisitionSettings.model_validate_json(made.model_dump_json()) == made


@pytest.mark.parametrize(
    ("name", "itemsize", "level", "shuffle"),
    [
        ("none", 2, None, "none"),
        ("zstd", 2, 3, "none"),
        ("blosc-zstd", 1, 3, "none"),
        ("blosc-zstd", 2, 3, "byte"),
        ("blosc-lz4", 8, 5, "byte"),
    ],
)
def test_defaults_of_codecs(name: Any, itemsize: int, level: int | None, shuffle: str) -> None:
    """What is not given is filled in for the pixels; what is given stays."""
    resolved = Codec(name=name, checksum=True).resolved(itemsize)
    assert resolved.model_dump() == {"name": name, "level": level, "shuffle": shuffle, "checksum": True}
    assert resolved.resolved(1) == resolved
    given = Codec(name="blosc-lz4", level=1, shuffle="bit")
    assert given.resolved(itemsize) == given


def test_codec_of_settings() -> None:
    """The settings give the codec for their dtype, whichever way the compression was given."""
    assert settings_of().codec == Codec(name="none", shuffle="none")
    assert settings_of(compression="blosc-lz4").codec == Codec(name="blosc-lz4", level=5, shuffle="byte")
    assert settings_of(compression={"name": "zstd", "level": 9}).codec == Codec(name="zstd", level=9, shuffle="none")
    with pytest.raises(SettingsError, match="have no dtype yet"):
        _ = AcquisitionSettings().codec


@pytest.mark.parametrize(
    ("fields", "messages"),
    [
        ({"name": "gzip"}, ["name: Input should be"]),
        ({"name": "none", "level": 3}, ["there is no compression"]),
        ({"name": "zstd", "level": 0}, ["leave level out for level 3"]),
        ({"name": "zstd", "level": 23}, ["level 23 is not one of 'zstd'; allowed: -7 to 22 but for 0"]),
        ({"name": "zstd", "level": -8, "shuffle": "bit"}, ["level -8", "can't shuffle ('bit')"]),
        ({"name": "blosc-lz4", "level": -1}, ["allowed: 0 to 9"]),
        ({"name": "blosc-zstd", "level": 10, "shuffle": "x", "checksum": 5}, ["0 to 9", "shuffle: ", "checksum: "]),
        ({"name": "none", "shuffle": "byte"}, ["compression 'none' can't shuffle"]),
        ({"name": "zstd", "bogus": 1}, ["bogus: Extra inputs"]),
        ({"name": "lzw"}, ["belongs to OME-TIFF"]),
        ({}, ["name: Field required"]),
        ("gzip", ["compression 'gzip' is not known; allowed: 'blosc-zstd', 'blosc-lz4', 'zstd', 'none', a Codec"]),
        (3, ["compression 3 is not known"]),
        ("", ["compression '' is not known"]),
    ],
)
def test_compressions_that_are_refused(fields: object, messages: list[str]) -> None:
    """What a compression can't be is an error at settings time that says what is allowed, all faults in one."""
    with pytest.raises(ValidationError) as caught:
        AcquisitionSettings(compression=fields)
    ((place, text),) = [(fault["loc"], fault["msg"]) for fault in caught.value.errors()]
    assert place == ("compression",)
    assert all(message in text for message in messages)


def test_assignment_to_a_codec() -> None:
    """A codec is checked after each assignment, and stays as it was when the new value does not fit."""
    codec = Codec(name="blosc-lz4", level=9, shuffle="bit")
    for field, value in (("name", "none"), ("name", "zstd"), ("level", 10), ("shuffle", "both")):
        with pytest.raises(ValidationError):
            setattr(codec, field, value)
    assert codec == Codec(name="blosc-lz4", level=9, shuffle="bit")


# ---- formats -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("short", "backend"),
    [
        ("auto", "auto"),
        ("ome-zarr", "auto"),
        ("zarr", "auto"),
        ("tensorstore", "tensorstore"),
        ("acquire-zarr", "acquire-zarr"),
        ("zarrs-python", "zarrs-python"),
        ("zarr-python", "zarr-python"),
    ],
)
def test_format_by_short_name(short: str, backend: str) -> None:
    """Clients give formats as strings; the dump always shows a dictionary."""
    made = AcquisitionSettings(format=short)
    assert made.model_dump()["format"] == {"name": "ome-zarr", "backend": backend, "suffix": ".ome.zarr"}
    made = AcquisitionSettings()
    setattr(made, "format", short)  # noqa: B010
    assert made.format == OmeZarrFormat(backend=backend)


@pytest.mark.parametrize("name", ["ome-tiff", "tiff", "tifffile", "scratch", "memory"])
def test_format_to_come(name: str) -> None:
    """A format of other versions is refused by name, with what to use instead, as a string and as a dictionary."""
    for given_as in (name, {"name": name}):
        with pytest.raises(ValidationError, match=rf"'{name}' is not available: .* use 'ome-zarr'"):
            AcquisitionSettings(format=given_as)


@pytest.mark.parametrize(
    "value", ["n5", "", "OME-Zarr", "hdf5", {"name": "n5"}, {"name": 5}, {"backend": "n5"}, None, 3]
)
def test_unknown_format(value: object) -> None:
    """An unknown format or backend is an error at settings time, not when the first frame arrives."""
    assert fault_places(lambda: AcquisitionSettings(format=value)) <= {"format", "format.name", "format.backend"}


def test_lzw_belongs_to_another_format() -> None:
    """A compression of a format to come is refused with what to use instead."""
    with pytest.raises(ValidationError, match=r"'lzw' belongs to OME-TIFF.*use 'zstd'"):
        AcquisitionSettings(compression="lzw")


@pytest.mark.parametrize("root_path", ["a.tif", "a.TIFF", "a.ome.tiff"])
def test_auto_format_does_not_write_zarr_to_a_tiff_path(root_path: str) -> None:
    """A path that asks for TIFF is an error as long as TIFF can't be written."""
    with pytest.raises(ValidationError, match="this version can't write OME-TIFF"):
        AcquisitionSettings(root_path=root_path)


@pytest.mark.parametrize("root_path", ["a", "a.txt", "folder.d/a"])
def test_auto_format_warns_about_an_unknown_suffix(root_path: str) -> None:
    """A path that tells no format gets OME-Zarr and one warning, which points at the caller's line."""
    with pytest.warns(UserWarning, match="no suffix that tells the format") as caught:
        made = AcquisitionSettings(root_path=root_path)
    assert made.format == OmeZarrFormat()
    assert [(warning.category, warning.filename) for warning in caught] == [(UserWarning, __file__)]

    with pytest.warns(UserWarning, match="no suffix") as caught:
        AcquisitionSettings.model_validate({"root_path": root_path})
    with pytest.warns(UserWarning, match="no suffix") as caught_later:
        setattr(made, "format", "auto")  # noqa: B010
    assert {warning.filename for warning in (*caught, *caught_later)} == {__file__}


def test_no_warning_where_the_format_is_told() -> None:
    """No path, a known suffix, a given format and a restored dump say enough: nothing warns."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        AcquisitionSettings()
        AcquisitionSettings(root_path="a.zarr")
        made = AcquisitionSettings(root_path="a.txt", format="zarr")
        AcquisitionSettings.model_validate(made.model_dump())
        made.overwrite = True


# ---- what follows from the dimensions ----------------------------------------------------------------------------

PROPERTIES = [
    "shape", "is_unbounded", "num_frames", "positions", "position_dimension_index", "frame_dimensions",
    "index_dimensions", "array_dimensions", "split_dimensions", "storage_index_dimensions",
    "storage_index_permutation", "array_storage_dimensions",
]  # fmt: skip


@pytest.mark.parametrize("name", PROPERTIES)
def test_properties_need_dimensions(name: str) -> None:
    """Settings may be built before the dimensions are known; a property that needs them says so by name."""
    with pytest.raises(ValueError, match=f"Cannot access '{name}': ") as caught:
        getattr(AcquisitionSettings(), name)
    assert isinstance(caught.value, SettingsError)


def test_properties() -> None:
    """Each property means what clients rely on, for frames that arrive in another order than they are stored in."""
    made = settings_of(dimension("z", 3), stage("a", "b"), dimension("c", 2), dimension("t", 6))
    assert made.shape == (3, 2, 2, 6, 4, 5)
    assert made.is_unbounded is False
    assert made.num_frames == 3 * 2 * 2 * 6
    assert made.positions == (Position(name="a"), Position(name="b"))
    assert made.position_dimension_index == 1
    assert made.frame_dimensions == FRAME
    assert names_of(made.index_dimensions) == "z c t"
    assert names_of(made.array_dimensions) == "z c t y x"
    assert names_of(made.storage_index_dimensions) == "t c z"
    assert made.storage_index_permutation == (2, 1, 0)
    assert names_of(made.array_storage_dimensions) == "t c z y x"
    assert made.split_dimensions == ()


def test_properties_of_a_single_frame() -> None:
    """Two dimensions are enough: one frame at one position without a name of its own."""
    made = settings_of()
    assert (made.shape, made.num_frames, made.is_unbounded) == ((4, 5), 1, False)
    assert made.positions == (Position(name="0"),)
    assert made.position_dimension_index is None
    assert (made.index_dimensions, made.storage_index_permutation) == ((), ())


def test_properties_of_an_unbounded_acquisition() -> None:
    """No count of the first dimension means that nobody knows how many frames will come."""
    made = settings_of(dimension("t", None), dimension("c"))
    assert (made.shape, made.num_frames, made.is_unbounded) == ((None, 2, 4, 5), None, True)


def test_counted_positions_are_named_by_number() -> None:
    """Positions without coordinates are told by their number."""
    assert [p.name for p in settings_of(PositionDimension(count=3)).positions] == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("order", "stored", "permutation"),
    [
        ("ome", "t c cam", (2, 0, 1)),
        (["t", "c", "cam"], "t c cam", (2, 0, 1)),
        (["t", "cam", "c"], "t cam c", (2, 1, 0)),
        (["t", "cam", "c", "y", "x"], "t cam c", (2, 1, 0)),
    ],
)
def test_storage_order(order: str | list[str], stored: str, permutation: tuple[int, ...]) -> None:
    """Index dimensions are stored in the order asked for; those that OME-NGFF ranks alike may be given either way."""
    made = settings_of(dimension("c"), dimension("cam"), dimension("t"), storage_order=order)
    assert names_of(made.storage_index_dimensions) == stored
    assert made.storage_index_permutation == permutation


def test_storage_order_acquisition() -> None:
    """'acquisition' keeps the order of arrival where OME-NGFF allows it, and is refused with the remedy elsewhere."""
    made = settings_of(dimension("cam"), dimension("c"), dimension("z"), storage_order="acquisition")
    assert names_of(made.storage_index_dimensions) == "cam c z"
    with pytest.raises(ValidationError, match=r"would store z, t, but OME-Zarr wants time.*use storage_order='ome'"):
        settings_of(dimension("z"), dimension("t"), storage_order="acquisition")


@pytest.mark.parametrize("order", [[], ["t"], ["t", "t"], ["t", "z", "q"], ["t", "z", "x", "y"], ["z", "t"], "bogus"])
def test_storage_order_that_is_not_one(order: object) -> None:
    """An order that forgets, repeats or invents a dimension, moves the frame's, or breaks OME-NGFF's, is an error."""
    places = fault_places(lambda: settings_of(dimension("t"), dimension("z"), storage_order=order))
    assert {place.partition(".")[0] for place in places} == {"storage_order"}


# ---- splitting ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("acquired", "split", "stored"),
    [
        ("t c z", "", "t c z"),
        ("t angle c", "", "t angle c"),
        ("t angle z", "", "t angle z"),
        ("angle", "", "angle"),
        ("t angle c z", "angle", "t c z"),
        ("t c z cam", "cam", "t c z"),
        ("angle cam", "angle", "cam"),
        ("t angle cam z", "angle", "t cam z"),
        ("t angle cam c z", "angle cam", "t c z"),
        ("t t2 z", "t", "t2 z"),
        ("c c2", "c", "c2"),
        ("z z2", "z", "z2"),
        ("z angle z2 t", "z", "t angle z2"),
        ("z t angle t2 c z2", "z t angle", "t2 c z2"),
    ],
)
def test_split_dimensions(acquired: str, split: str, stored: str) -> None:
    """Of more than five axes, or too many of a type, those that OME-NGFF has no axis for become images, slowest first.

    Five axes with one of another type stay one image.
    """
    types = {"t2": "time", "c2": "channel", "z2": "space"}
    made = settings_of(*(dimension(name, kind=types.get(name)) for name in acquired.split()))
    assert names_of(made.split_dimensions) == split
    assert names_of(made.storage_index_dimensions) == stored
    assert len(made.array_storage_dimensions) <= 5


def test_positions_do_not_count_as_an_axis() -> None:
    """Positions are images anyway, so five other dimensions are still one image for each."""
    made = settings_of(stage("a", "b"), dimension("t"), dimension("angle"), dimension("z"))
    assert made.split_dimensions == ()


@pytest.mark.parametrize("acquired", ["t t2", "angle t c z", "angle cam"])
def test_unbounded_dimension_cannot_be_split(acquired: str) -> None:
    """Nobody knows how many images an unbounded dimension would be, so splitting it is an error that says so."""
    first, *others = acquired.split()
    rest = [dimension(name, kind="time" if name == "t2" else None) for name in others]
    with pytest.raises(ValidationError, match=f"dimension '{first}' is unbounded, and OME-Zarr has no axis for it"):
        settings_of(dimension(first, None), *rest)


def test_unbounded_dimension_stays_when_another_is_split() -> None:
    """An unbounded time-lapse of many dimensions works: the one of another type is split."""
    made = settings_of(dimension("t", None), dimension("angle"), dimension("c"), dimension("z"))
    assert names_of(made.split_dimensions) == "angle"


# ---- what does not fit together ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dimensions", "message"),
    [
        ([dimension("x")], "at least the two of the frame"),
        ([dimension("t"), dimension("x")], "dimension 't' is one of the last two"),
        ([dimension("y", None), dimension("x")], "dimension 'y' is one of the last two.*with a count"),
        ([dimension("z"), dimension("t", None), *FRAME], "'t' has no count and is not the first"),
        ([dimension("p", None), *FRAME], "the position dimension needs a count"),
        ([dimension("p"), dimension("q", kind="position"), *FRAME], "one position dimension, not 2"),
        ([dimension("t"), dimension("T"), *FRAME], "unique also when case is ignored: 't' and 'T'"),
        ([dimension("t"), dimension("t"), *FRAME], "unique also when case is ignored: 't' and 't'"),
        ([dimension("t", 1 << 60), *FRAME], "more than any storage holds"),
        ([dimension("p", 10**9), *FRAME], "1000000000 images are more than"),
        ([dimension("a", 10**4), dimension("b", 10**4), dimension("d"), *FRAME], "100000000 images are more than"),
    ],
)
def test_dimensions_that_do_not_fit_together(dimensions: list[Dimension], message: str) -> None:
    """What can't be one acquisition is an error that names the dimension."""
    with pytest.raises(ValidationError, match=message):
        AcquisitionSettings(dimensions=dimensions)


def test_all_faults_of_settings_are_reported_together() -> None:
    """A user corrects settings once, not once for each fault: faults of fields and between fields come together."""
    plate = Plate(row_names=["A"], column_names=["1"])
    places = fault_places(
        lambda: settings_of(
            stage("a", plate_row="B", plate_column="1"),
            dimension("z"),
            root_path="\0",
            compression="lzw",
            storage_order=["q"],
            plate=plate,
            format="tiff",
            overwrite="perhaps",
            buffer={"max_bytes": 0, "on_full": "drop"},
            bogus=1,
        )
    )
    assert places == {
        "root_path", "compression", "storage_order", "plate", "format", "overwrite", "buffer.max_bytes",
        "buffer.on_full", "bogus",
    }  # fmt: skip


def test_all_faults_between_dimensions_are_reported_together() -> None:
    """Faults of several kinds between the dimensions are all in one message."""
    bad = [
        dimension("z"),
        dimension("Z", None),
        dimension("p"),
        dimension("q", kind="position"),
        dimension("t"),
        FRAME[1],
    ]
    with pytest.raises(ValidationError) as caught:
        AcquisitionSettings(dimensions=bad, dtype="bogus")
    for part in ("one of the last two", "'z' and 'Z'", "'Z' has no count", "not 2", "dtype 'bogus'"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("build", "places"),
    [
        (lambda: Dimension(name="a/b", count=0, scale=0), {"name", "count", "scale"}),
        (lambda: Dimension(name="t", unit="um", count=0), {"unit", "count"}),
        (lambda: Dimension(name="c", coords=["a", "a"], count=0, scale=-1), {"coords", "count", "scale"}),
        (lambda: Dimension(name="z", coords=["a", "b"], count=3, chunk_size=0), {"count", "chunk_size"}),
        (lambda: Dimension(name="", type="bogus", shard_size_chunks=0), {"name", "type", "shard_size_chunks"}),
        (lambda: Position(name="a/b", plate_row="A", grid_column=1), {"name", "plate_column", "grid_column"}),
        (lambda: Position(name="", grid_row=-1, grid_column=0, x_coord=float("nan")), {"name", "grid_row", "x_coord"}),
        (
            lambda: Channel(name="", color="bogus", excitation_wavelength_nm=0, fluorophore="\0"),
            {"name", "color", "excitation_wavelength_nm", "fluorophore"},
        ),
        (lambda: Plate(row_names=[], column_names=["1", "1"], name="\0"), {"row_names", "column_names", "name"}),
        (lambda: OmeZarrFormat(name="x", backend="y", suffix="z"), {"name", "backend", "suffix"}),
    ],
)
def test_all_faults_of_one_part_are_reported_together(build: Callable[[], object], places: set[str]) -> None:
    """Each part reports all its faults at once, those between its fields included."""
    assert fault_places(build) == places


def test_faults_inside_coordinates_are_all_reported() -> None:
    """Every bad name in a list of positions is told, with its place."""
    with pytest.raises(ValidationError, match=r"(?s)entry 0: name: .*'/'.*entry 2: name: .*empty"):
        Dimension(name="p", coords=["a/b", "fine", ""])


# ---- dimensions --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"name": "x"}, "space"),
        ({"name": "y"}, "space"),
        ({"name": "z"}, "space"),
        ({"name": "t"}, "time"),
        ({"name": "c"}, "channel"),
        ({"name": "p"}, "position"),
        ({"name": "angle"}, "other"),
        ({"name": "X"}, "other"),
        ({"name": "depth", "unit": "um"}, "space"),
        ({"name": "delay", "unit": "ms"}, "time"),
        ({"name": "angle", "unit": "degree"}, "other"),
        ({"name": "dye", "coords": [Channel(name="a")]}, "channel"),
        ({"name": "site", "coords": [Position(name="a")]}, "position"),
        ({"name": "c", "type": "other", "coords": ["a"]}, "other"),
        ({"name": "z", "type": "other"}, "other"),
    ],
)
def test_type_is_inferred(fields: dict[str, Any], kind: str) -> None:
    """A type that isn't given follows from the coordinates, the unit or a standard name."""
    assert Dimension(**fields).type == kind


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "t", "unit": "um"},
        {"name": "t", "coords": [Channel(name="a")]},
        {"name": "u", "unit": "s", "coords": [Channel(name="a")]},
        {"name": "u", "type": "time", "unit": "micrometer"},
        {"name": "u", "type": "channel", "coords": [Position(name="a")]},
        {"name": "u", "type": "other", "unit": "second"},
    ],
)
def test_conflicting_types(fields: dict[str, Any]) -> None:
    """A dimension that is told to be two things at once is an error, not a guess."""
    with pytest.raises(ValidationError, match="can't be of several types at once"):
        Dimension(**fields)


@pytest.mark.parametrize(
    ("short", "unit"),
    [("um", "micrometer"), ("µm", "micrometer"), ("μm", "micrometer"), ("ms", "millisecond"), ("", None)],
)
def test_units_are_those_of_ome_ngff(short: str, unit: str | None) -> None:
    """Short forms of units are stored under the name that OME-NGFF lists."""
    assert Dimension(name="u", unit=short).unit == unit


@pytest.mark.parametrize(("name", "unit"), [("z", "furlong"), ("t", "fortnight")])
def test_unknown_units_of_space_and_time(name: str, unit: str) -> None:
    """Readers would not know such a unit; it is an error that lists those allowed."""
    with pytest.raises(ValidationError, match=f"can't have unit '{unit}'; allowed: .*(hour|meter)"):
        Dimension(name=name, unit=unit)


@pytest.mark.parametrize("scale", [0, -1, float("inf"), float("nan"), -0.0])
def test_scale_is_positive(scale: float) -> None:
    """A step of no size, of negative or of unknown size has no meaning on disk."""
    assert fault_places(lambda: Dimension(name="z", scale=scale)) == {"scale"}


def test_names_become_channels_and_positions() -> None:
    """Plain names and mappings become channels along a channel dimension, positions along a position dimension."""
    assert Dimension(name="c", coords=["a", {"name": "b"}]).coords == [Channel(name="a"), Channel(name="b")]
    assert Dimension(name="u", type="channel", coords=("a",)).coords == [Channel(name="a")]
    positions = [Position(name="a"), Position(name="b")]
    for made in (
        Dimension(name="p", coords=["a", {"name": "b"}]),
        Dimension(name="site", type="position", coords=["a", "b"]),
        PositionDimension(coords=["a", {"name": "b"}]),
        PositionDimension(name="site", coords=["a", "b"]),
    ):
        assert made.coords == positions
        assert made.type == "position"
    assert Dimension(name="u", coords=["a"]).coords == ["a"]
    assert Channel.model_validate("a") == Channel(name="a")
    assert Position.model_validate("a") == Position(name="a")


def test_position_dimension_is_of_type_position() -> None:
    """A position dimension of another type would be neither."""
    assert (PositionDimension().name, PositionDimension().type) == ("p", "position")
    assert fault_places(lambda: PositionDimension(type="time")) == {"type"}
    assert settings_of(Dimension(name="p", count=2)) == settings_of(PositionDimension(count=2))


@pytest.mark.parametrize(
    ("coords", "message"),
    [
        ([], "coords is empty"),
        (["a", 1.0], "coords mixes"),
        ([1.0, float("nan")], "nan is not finite"),
        (["a", "b", "a"], "more than once: 'a'"),
        (["a\0"], "can't hold"),
        ([Channel(name="a"), Channel(name="a")], "more than once: 'a'"),
        ([Position(name="a"), Position(name="A")], "'a' and 'A'"),
    ],
)
def test_coordinates_that_are_refused(coords: list[Any], message: str) -> None:
    """Coordinates tell the steps of a dimension, so they are of one kind, finite and distinct."""
    with pytest.raises(ValidationError, match=message):
        Dimension(name="u", coords=coords)


@pytest.mark.parametrize("name", ["c", "p"])
def test_channels_and_positions_have_names(name: str) -> None:
    """Numbers can't label channels or positions."""
    with pytest.raises(ValidationError, match="names as coords, not numbers"):
        Dimension(name=name, coords=[1, 2])


def test_coordinates_from_numpy() -> None:
    """Coordinates, counts and sizes come out of numpy in acquisition scripts."""
    made = Dimension(name="z", coords=np.linspace(2, 4, 5), chunk_size=np.int64(2))
    assert (made.coords, made.count, made.chunk_size) == ([2.0, 2.5, 3.0, 3.5, 4.0], 5, 2)
    assert Dimension(name="z", count=np.uint16(7)).count == 7


def test_count_follows_from_coordinates() -> None:
    """The coordinates say how many steps there are; another count is an error."""
    assert Dimension(name="z", coords=[1, 2, 4]).count == 3
    assert Dimension(name="z", coords=[1, 2, 4], count=3).count == 3
    with pytest.raises(ValidationError, match="count is 2, but there are 3 coords"):
        Dimension(name="z", coords=[1, 2, 4], count=2)


@pytest.mark.parametrize(
    ("fields", "scale", "translation"),
    [
        ({"name": "z", "coords": [1, 1.5, 2]}, 0.5, 1),
        ({"name": "t", "coords": [0, 10]}, 10, 0),
        ({"name": "z", "coords": [1, 1.5, 2], "scale": 3}, 3, 1),
        ({"name": "z", "coords": [1, 1.5, 2], "translation": 7}, 0.5, 7),
        ({"name": "z", "coords": [1, 2, 4]}, None, None),
        ({"name": "z", "coords": [2, 1, 0]}, None, None),
        ({"name": "z", "coords": [1]}, None, None),
        ({"name": "z", "coords": ["low", "high"]}, None, None),
        ({"name": "angle", "coords": [0, 90]}, None, None),
        ({"name": "z", "coords": [-1.7e308, 1.7e308]}, None, None),
    ],
)
def test_scale_of_evenly_spaced_coordinates(
    fields: dict[str, Any], scale: float | None, translation: float | None
) -> None:
    """Numbers that rise evenly along space or time give scale and translation, and only those that weren't given."""
    made = Dimension(**fields)
    assert (made.scale, made.translation) == (scale, translation)


# ---- assignment --------------------------------------------------------------------------------------------------


def test_assignment_is_validated_like_construction() -> None:
    """What an assignment implies is settled as at construction: casts, counts, scales, units."""
    made = Dimension(name="c", coords=["a"])
    setattr(made, "coords", ["x", "y", "z"])  # noqa: B010
    assert (made.coords, made.count) == ([Channel(name=n) for n in "xyz"], 3)
    made = Dimension(name="z", coords=[0, 1], unit="um")
    made.coords = [0.0, 5.0, 10.0]
    assert (made.count, made.scale) == (3, 5)
    made.coords = [0.0, 5.0, 11.0]
    assert (made.scale, made.translation) == (None, None)
    made.unit = "nm"
    assert made.unit == "nanometer"
    settings = AcquisitionSettings()
    setattr(settings, "dtype", np.uint8)  # noqa: B010
    setattr(settings, "root_path", Path("b.zarr"))  # noqa: B010
    assert (settings.dtype, settings.root_path) == ("uint8", "b.zarr")


@pytest.mark.parametrize(
    ("made", "field", "value"),
    [
        (Dimension(name="c", coords=["a", "b"]), "count", 3),
        (Dimension(name="c", coords=["a", "b"]), "coords", ["a", "a"]),
        (Dimension(name="c", coords=["a", "b"]), "type", "position"),
        (Dimension(name="z", unit="um"), "type", "time"),
        (Dimension(name="z", unit="um"), "unit", "s"),
        (Dimension(name="z"), "scale", -1),
        (Position(name="a", grid_row=0, grid_column=0), "grid_row", None),
        (Position(name="a"), "plate_column", "1"),
        (Plate(row_names=["A"], column_names=["1"]), "row_names", ["A", "a"]),
        (settings_of(dimension("t"), dimension("z"), storage_order=["t", "z"]), "dimensions", FRAME),
        (settings_of(dimension("t"), dimension("z")), "storage_order", ["z", "t"]),
        (settings_of(dimension("t")), "plate", Plate(row_names=["A"], column_names=["1"])),
        (settings_of(dimension("t")), "dimensions", [dimension("t")]),
        (settings_of(dimension("t")), "format", "tiff"),
        (settings_of(dimension("t")), "dtype", "complex64"),
    ],
)
def test_failed_assignment_leaves_the_object_as_it_was(made: Any, field: str, value: object) -> None:
    """After an error the object is still valid: a script that goes on must not write half of a change."""
    before, given = copy.deepcopy(made), set(made.model_fields_set)
    with pytest.raises(ValidationError):
        setattr(made, field, value)
    assert made == before
    assert made.model_fields_set == given


def test_assignment_of_fields_that_belong_together() -> None:
    """The fields of settings are checked against each other after an assignment, whichever of them is assigned."""
    made = settings_of(dimension("z"), dimension("t"))
    with pytest.raises(ValidationError, match="would store z, t"):
        made.storage_order = "acquisition"
    made.dimensions = (dimension("t"), dimension("z"), *FRAME)
    made.storage_order = "acquisition"
    with pytest.raises(ValidationError, match="would store z, t"):
        made.dimensions = (dimension("z"), dimension("t"), *FRAME)
    assert names_of(made.dimensions) == "t z y x"


# ---- ready for a stream ------------------------------------------------------------------------------------------


def test_stream_ready_lists_all_that_is_missing() -> None:
    """Settings may be built bit by bit; what is missing in the end is told at once."""
    settings_of(root_path="a.zarr").validate_stream_ready()
    with pytest.raises(ValueError, match=r"^root_path is required.*dimensions are required.*dtype is required"):
        AcquisitionSettings().validate_stream_ready()
    with pytest.raises(ValueError, match=r"^root_path is required[^;]*$"):
        settings_of().validate_stream_ready()


def _unset_count(made: AcquisitionSettings) -> None:
    made.dimensions[-1].count = None


def _append_channel(made: AcquisitionSettings) -> None:
    coords = made.dimensions[0].coords
    assert coords is not None
    coords.append(Channel(name="late"))


def _rename_dimension(made: AcquisitionSettings) -> None:
    made.dimensions[0].name = "X"


@pytest.mark.parametrize("change", [_unset_count, _append_channel, _rename_dimension])
def test_stream_ready_sees_changes_inside_of_the_settings(change: Callable[[AcquisitionSettings], None]) -> None:
    """A change to a part, which the whole can't see, is found before a stream is created."""
    frame = [dimension("y"), dimension("x")]
    made = AcquisitionSettings(
        root_path="a.zarr", dimensions=[Dimension(name="c", coords=["a"]), *frame], dtype="uint8"
    )
    made.validate_stream_ready()
    change(made)
    with pytest.raises(SettingsError, match=r"dimension|count"):
        made.validate_stream_ready()


# ---- names -------------------------------------------------------------------------------------------------------

UNSAFE_NAMES = [
    "", " ", "\u200b", ".", "..", "...", "a/b", "a\\b", "/", "a\0", "a\n", "a\x1b", "a\x7f", "a\x85", "a:b", "a*", "a?",
    'a"b', "a<b", "a|b", " a", "a ", "a.", "__a", "OME", "ome", "Ome", "ome_writers", "zarr.json", "ZARR.JSON",
    ".zattrs", "con", "NUL", "nul.txt", "COM1", "lpt9.zarr", "com²", "x" * 201, "é" * 101, "a\ud800", "a\ufffe",
]  # fmt: skip
SAFE_NAMES = [
    "a", "0", "A1", "Pos 1", "a.b", "_a", "-", "a+b", "µm", "é", "位置", "😀", "x" * 200, "OME2", "console", "a\u2028b",
]  # fmt: skip


@pytest.mark.parametrize("name", UNSAFE_NAMES)
def test_unsafe_names(name: str) -> None:
    """A name becomes a folder on every operating system and an address on the web, or is an error that quotes it."""
    for cls in (Position, Dimension):
        with pytest.raises(ValidationError, match=r"(position|dimension) name '"):
            cls(name=name)


@pytest.mark.parametrize("name", SAFE_NAMES)
def test_safe_names(name: str) -> None:
    """Names that work everywhere are stored as they are given."""
    assert Position(name=name).name == name
    assert Dimension(name=name).name == name


@given(st.text(max_size=6))
def test_names_are_usable_folders(name: str) -> None:
    """Any text that is accepted as a name can be encoded, is one part of a path, and isn't changed by a file system."""
    if name_fault(name, "drawn") is None:
        assert name.encode()
        assert PurePosixPath("root", name).parts == ("root", name)
        assert name == name.strip().rstrip(".")
    else:
        with pytest.raises(ValidationError):
            Position(name=name)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("a", "a"),
        ("a", "A"),
        ("é", "e\u0301"),
        ("É", "e\u0301"),
        ("straße", "STRASSE"),
        ("Å", "\u212b"),
        ("\u0345\u0301", "\u0301\u0399"),
    ],
)
def test_names_that_collide(first: str, second: str) -> None:
    """Names that are one folder on a file system that ignores case or Unicode form are an error."""
    with pytest.raises(ValidationError, match="unique also when case is ignored"):
        stage(first, second)
    with pytest.raises(ValidationError, match="unique also when case is ignored"):
        settings_of(dimension(f"q{first}"), dimension(f"q{second}"))


def test_position_names_are_unique_within_a_well_and_a_grid_cell() -> None:
    """The same name in another well or another cell of a grid is another place."""
    wells = [Position(name="f", plate_row=row, plate_column="1") for row in "AB"]
    cells = [Position(name="f", grid_row=0, grid_column=column) for column in (0, 1)]
    assert PositionDimension(coords=wells).count == PositionDimension(coords=cells).count == 2
    with pytest.raises(ValidationError, match="position names must be unique"):
        PositionDimension(coords=[cells[0], cells[0]])


@pytest.mark.parametrize(
    ("positions", "group"),
    [
        ([Position(name="a_0_0"), Position(name="a", grid_row=0, grid_column=0)], "'a_0_0' and 'a_0_0'"),
        ([Position(name="A_1_2"), Position(name="a", grid_row=1, grid_column=2)], "'A_1_2' and 'a_1_2'"),
    ],
)
def test_image_paths_that_collide(positions: list[Position], group: str) -> None:
    """Different positions whose images would share a folder are an error, not one image over the other."""
    with pytest.raises(ValidationError, match=f"same path, case being ignored: {group}"):
        settings_of(PositionDimension(coords=positions))


def test_fields_of_a_well_that_collide() -> None:
    """The same holds for the fields of a well, whose names are put together without separators."""
    well = {"plate_row": "A", "plate_column": "1"}
    fields = [Position(name="Fr1c2", **well), Position(name="f", grid_row=1, grid_column=2, **well)]
    with pytest.raises(ValidationError, match="same path, case being ignored: 'A/1/Fr1c2' and 'A/1/fr1c2'"):
        settings_of(PositionDimension(coords=fields), plate=Plate.from_standard_wells(96))


def test_image_names_that_only_together_are_unsafe() -> None:
    """A name is checked as it stands on disk, with its place in the grid and its steps."""
    with pytest.raises(ValidationError, match="image name '__0_0' begins with two underscores"):
        settings_of(PositionDimension(coords=[Position(name="_", grid_row=0, grid_column=0), Position(name="b")]))
    with pytest.raises(ValidationError, match="longer than 200 bytes"):
        settings_of(stage("x" * 200, "y"), dimension("t"), dimension("angle"), dimension("c"), dimension("z"))


def test_channel_names_are_any_text() -> None:
    """A channel's name is a label, not a path: any text that metadata documents can hold, but not nothing."""
    for name in ("DAPI/FITC", "CON", "..", " ", "a\nb", "λ=488 nm", "😀"):
        assert Channel(name=name).name == name
    for name in ("", "a\0", "a\x1b[0m", "a\ud800", "a\uffff"):
        assert fault_places(lambda name=name: Channel(name=name)) == {"name"}  # type: ignore[misc]
    made = Dimension(name="c", coords=["a", "A"])
    assert made.count == 2


@pytest.mark.parametrize(
    ("color", "stored"),
    [
        ("lime", "#00ff00"),
        ("#12AB9F", "#12ab9f"),
        ("f00", "#ff0000"),
        ("#11223344", "#112233"),
        ((255, 0, 0), "#ff0000"),
    ],
)
def test_channel_colors(color: object, stored: str) -> None:
    """Colours are stored in the one form that viewers read."""
    assert Channel(name="a", color=color).color == stored
    with pytest.raises(ValidationError, match="color 'ultraviolet' is not known; give a CSS name"):
        Channel(name="a", color="ultraviolet")


# ---- positions and plates ----------------------------------------------------------------------------------------


def test_position_fields_come_in_pairs() -> None:
    """A row without a column, or a column without a row, is no place."""
    for kind, value in (("plate", "1"), ("grid", 1)):
        for half in ("row", "column"):
            with pytest.raises(ValidationError, match=f"only one of {kind}_row and {kind}_column"):
                Position(**{"name": "a", f"{kind}_{half}": value})


@pytest.mark.parametrize(
    ("wells", "rows", "columns"),
    [(6, 2, 3), (12, 3, 4), (24, 4, 6), (48, 6, 8), (96, 8, 12), (384, 16, 24), (1536, 32, 48), ((1, 30), 1, 30)],
)
def test_standard_plates(wells: int | tuple[int, int], rows: int, columns: int) -> None:
    """Standard plates have the rows and columns that are printed on them."""
    plate = Plate.from_standard_wells(wells)
    assert (len(plate.row_names), len(plate.column_names)) == (rows, columns)
    assert (plate.row_names[0], plate.column_names[0], plate.column_names[-1]) == ("A", "1", str(columns))
    if rows == 32:
        assert plate.row_names[25:28] == ["Z", "AA", "AB"]
    assert Plate.from_standard_wells(wells, name="screen").name == "screen"


@pytest.mark.parametrize("wells", [0, 95, -6, (0, 3), (2, -1)])
def test_plates_that_do_not_exist(wells: int | tuple[int, int]) -> None:
    """Other numbers of wells are an error, which says what is allowed."""
    with pytest.raises(ValueError, match=r"allowed: 6, 12, 24|at least 1 of each"):
        Plate.from_standard_wells(wells)


@pytest.mark.parametrize(
    "names", [[], [""], ["A", "a"], ["A", "A"], ["A-1"], ["A 1"], ["Ä"], ["OME"], ["NUL"], ["A" * 201]]
)
def test_row_and_column_names(names: list[str]) -> None:
    """Rows and columns are folders with names of letters and digits (OME-NGFF 0.5), each one once."""
    assert fault_places(lambda: Plate(row_names=names, column_names=["1"])) == {"row_names"}
    assert fault_places(lambda: Plate(row_names=["A"], column_names=names)) == {"column_names"}


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ([Position(name="a")], r"1 positions \('a'\) have no plate_row"),
        ([Position(name="a", plate_row="Q", plate_column="1")], "in row 'Q'; the plate has A, B"),
        ([Position(name="a", plate_row="A", plate_column="9")], "in column '9'; the plate has 1, 2, 3"),
        ([Position(name="a b", plate_row="A", plate_column="1")], "'a b' can't name a field of a well"),
        ([Position(name="µ", plate_row="A", plate_column="1")], "'µ' can't name a field of a well"),
    ],
)
def test_positions_and_plate_disagree(positions: list[Position], message: str) -> None:
    """Every position lies in a well that the plate has, under a name that a well can hold."""
    with pytest.raises(ValidationError, match=message):
        settings_of(PositionDimension(coords=positions), plate=Plate.from_standard_wells(6))


def test_positions_on_a_plate_need_the_plate() -> None:
    """Wells without a plate would be lost, so they are an error."""
    with pytest.raises(ValidationError, match="positions a have a plate_row, but there is no plate"):
        settings_of(stage("a", plate_row="A", plate_column="1"))


def test_all_positions_that_disagree_with_the_plate_are_told() -> None:
    """One error names every position that is wrong, not the first."""
    wrong = [Position(name=f"p{row}", plate_row=row, plate_column="1") for row in "XYZ"]
    with pytest.raises(ValidationError, match=r"(?s)'pX'.*'pY'.*'pZ'"):
        settings_of(PositionDimension(coords=wrong), plate=Plate.from_standard_wells(6))


# ---- standard axes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("axis", "kind", "unit"),
    [
        ("x", "space", "micrometer"),
        ("y", "space", "micrometer"),
        ("z", "space", "micrometer"),
        ("t", "time", "second"),
        ("c", "channel", None),
        ("p", "position", None),
    ],
)
def test_standard_axes(axis: str, kind: str, unit: str | None) -> None:
    """The standard axes have the type and the unit that clients rely on."""
    standard = StandardAxis(axis)
    assert (standard, standard.dimension_type(), standard.unit()) == (axis, kind, unit)
    made = standard.to_dimension(count=3, scale=0.5, chunk_size=2, shard_size_chunks=1, translation=1)
    assert (made.name, made.type, made.unit, made.count, made.scale) == (axis, kind, unit, 3, 0.5)
    assert (made.chunk_size, made.shard_size_chunks, made.translation) == (2, 1, 1)
    assert isinstance(made, PositionDimension) is (axis == "p")
    assert [a.value for a in StandardAxis] == ["x", "y", "z", "c", "t", "p"]


def test_dims_from_standard_axes() -> None:
    """Sizes, chunks and shards by axis give dimensions in the order of the sizes."""
    made = dims_from_standard_axes(
        {"t": None, "p": ["a", "b"], "c": [Channel(name="g"), "r"], "y": 64, "x": 32},
        chunk_shapes={"y": 16, "x": 16},
        shard_shapes={"y": 2},
    )
    assert isinstance(made, list)
    assert [(d.name, d.count, d.chunk_size, d.shard_size_chunks) for d in made] == [
        ("t", None, None, None),
        ("p", 2, None, None),
        ("c", 2, None, None),
        ("y", 64, 16, 2),
        ("x", 32, 16, None),
    ]
    assert made[1].coords == [Position(name="a"), Position(name="b")]
    assert made[2].coords == [Channel(name="g"), Channel(name="r")]


def test_dims_from_unknown_axes() -> None:
    """An unknown axis is an error wherever it stands: a misspelt chunk size must not be dropped."""
    for arguments in (({"q": 1},), ({"x": 1}, {"Y": 2}), ({"x": 1}, None, {"w": 2})):
        with pytest.raises(ValueError, match="not a standard axis; allowed are x, y, z, c, t, p"):
            dims_from_standard_axes(*arguments)


# ---- buffer ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [("max_bytes", 0), ("on_full", "drop"), ("timeout", 0), ("timeout", -1), ("workers", 0), ("workers", 1.5)],
)
def test_buffer_limits(field: str, value: object) -> None:
    """A buffer that could never take a frame is an error."""
    assert fault_places(lambda: BufferSettings(**{field: value})) == {field}


# ---- copies and round trips --------------------------------------------------------------------------------------


@hypothesis_settings(deadline=None, max_examples=200)
@given(declarations())
def test_json_round_trip(made: AcquisitionSettings) -> None:
    """Settings are stored as JSON beside the data: what is read back equals what was written."""
    text = made.model_dump_json()
    restored = AcquisitionSettings.model_validate_json(text)
    assert restored == made
    assert AcquisitionSettings.model_validate(json.loads(text)) == made
    assert restored.model_dump_json() == text


@hypothesis_settings(deadline=None, max_examples=60)
@given(declarations())
def test_copies(made: AcquisitionSettings) -> None:
    """Deep copies and pickles equal the original and share nothing with it; a dump with a change restores the rest."""
    for other in (copy.deepcopy(made), made.model_copy(deep=True), pickle.loads(pickle.dumps(made))):  # noqa: S301
        assert other == made
        assert other.model_fields_set == made.model_fields_set
        other.buffer.max_bytes = 12345
        for mine, yours in zip(made.dimensions, other.dimensions, strict=True):
            assert mine is not yours
        assert made.buffer.max_bytes != 12345
    changed = AcquisitionSettings.model_validate({**made.model_dump(), "root_path": Path("other.zarr")})
    assert changed.root_path == "other.zarr"
    assert changed == made.model_copy(update={"root_path": "other.zarr"})


@hypothesis_settings(deadline=None)
@given(acquisitions())
def test_drawn_acquisitions_are_ready_for_a_stream(made: AcquisitionSettings) -> None:
    """What the shipped strategy draws needs nothing but a root path."""
    made.model_copy(update={"root_path": "a.ome.zarr"}).validate_stream_ready()


@hypothesis_settings(deadline=None, max_examples=50)
@given(
    acquisitions(
        dtypes=["uint8"], compressions=["zstd"], max_positions=0, unbounded=True, min_index_dims=2, sharded=True
    )
)
def test_drawn_acquisitions_keep_to_their_limits(made: AcquisitionSettings) -> None:
    """A backend's test can restrict the acquisitions to what the backend can write."""
    assert (made.dtype, made.compression, made.is_unbounded) == ("uint8", "zstd", True)
    assert made.position_dimension_index is None
    assert len(made.index_dimensions) >= 2
    assert any(d.shard_size_chunks for d in made.dimensions)


@hypothesis_settings(deadline=None, max_examples=100)
@given(acquisitions(max_index_dims=4, min_index_dims=4, unbounded=True) | acquisitions(unbounded=False))
def test_drawn_acquisitions_end_or_do_not(made: AcquisitionSettings) -> None:
    """With four index dimensions one is split, and never the unbounded one."""
    assert made.is_unbounded == (len(made.index_dimensions) == 4)
    assert len(made.split_dimensions) == (len(made.index_dimensions) == 4)
