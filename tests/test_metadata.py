"""The documents of a dataset: valid for independent validators and readers, and faithful to the settings."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import ome_types
import pytest
import tensorstore as ts
import yaozarrs
import zarr
from ome_zarr_models.v05.bioformats2raw import BioFormats2Raw
from ome_zarr_models.v05.hcs import HCS
from ome_zarr_models.v05.image import Image as ImageGroup

from ome_writers._layout import ArrayGeometry, Layout, plan_layout
from ome_writers.metadata import (
    Plane,
    array_document,
    group_document,
    hierarchy,
    ome_xml,
    reserved_namespaces,
    with_shape,
)
from ome_writers.settings import (
    DTYPES,
    AcquisitionSettings,
    Channel,
    Codec,
    Dimension,
    Plate,
    Position,
    PositionDimension,
)

COMPRESSIONS = ("none", "zstd", "blosc-lz4", "blosc-zstd")


def dim(name: str, count: int | None = 2, **fields: Any) -> Dimension:
    return Dimension(name=name, count=count, **fields)


def frame(unit: str | None = "um", **fields: Any) -> list[Dimension]:
    return [dim(name, 8, type="space", unit=unit, **fields) for name in "yx"]


def acquisition(*dimensions: Dimension, dtype: str = "uint16", **fields: Any) -> AcquisitionSettings:
    return AcquisitionSettings(root_path="cells.ome.zarr", dimensions=dimensions, dtype=dtype, **fields)


def positions(*given: str | Position) -> Dimension:
    return PositionDimension(coords=[Position.model_validate(p) for p in given])


def well(name: str, row: str, column: str, **fields: Any) -> Position:
    return Position(name=name, plate_row=row, plate_column=column, **fields)


PLATE = Plate.from_standard_wells(6, name="screen")
ANGLE = dim("angle", 3, coords=[0.0, 60.0, 90.0])
GRID = [
    Position(name="p", grid_row=r, grid_column=c, x_coord=10.0 * c, y_coord=10.0 * r) for r in (0, 1) for c in (0, 1)
]
FIELDS = [well("1", "B", "2"), well("0", "A", "1"), well("1", "A", "1"), well("x7", "A", "3")]

CASES: dict[str, AcquisitionSettings] = {
    "frame": acquisition(*frame()),
    "tczyx": acquisition(dim("t"), dim("c"), dim("z"), *frame(scale=0.5)),
    "unbounded": acquisition(dim("t", None), dim("c"), *frame()),
    "unbounded channels": acquisition(dim("c", None), *frame()),
    "one position": acquisition(dim("t"), positions("only"), *frame()),
    "sharded": acquisition(
        dim("t", None, chunk_size=2, shard_size_chunks=3), *frame(chunk_size=4, shard_size_chunks=2), compression="zstd"
    ),
    "positions": acquisition(
        positions("a b", "ö", Position(name="c", z_coord=-1.5)),
        dim("t", unit="s", scale=0.5),
        Dimension(name="c", coords=[Channel(name="GFP", color="lime", emission_wavelength_nm=510, fluorophore="EGFP")]),
        *frame(scale=0.1),
    ),
    "grid": acquisition(dim("t", None), positions(*GRID), dim("c"), *frame()),
    "split": acquisition(dim("t"), ANGLE, dim("c"), dim("z"), *frame()),
    "split, positions": acquisition(dim("t"), positions("p", "q"), ANGLE, dim("c"), dim("z"), *frame()),
    "split twice": acquisition(dim("t"), ANGLE, dim("cam", coords=["left", "right"]), dim("c"), dim("z"), *frame()),
    "split channels": acquisition(dim("c", coords=["a", "b"], type="channel"), dim("cam", type="channel"), *frame()),
    "custom axis": acquisition(dim("t"), dim("angle", 4, unit="degree"), dim("z"), *frame()),
    "custom axis and channels": acquisition(dim("t"), ANGLE, dim("c"), *frame()),
    "reordered": acquisition(dim("z"), dim("c"), dim("t"), *frame()),
    "chosen order": acquisition(dim("c"), dim("t"), *frame(), storage_order=["t", "c"]),
    "other names": acquisition(dim("slices", type="space"), *[dim(n, 8, type="space") for n in ("rows", "columns")]),
    "plate": acquisition(positions(*FIELDS), dim("t"), dim("c"), *frame(), plate=PLATE),
    "plate, one field": acquisition(positions(well("0", "A", "1")), *frame(), plate=PLATE),
    "plate, grid": acquisition(
        positions(*[well("f", "A", "1", grid_row=0, grid_column=c) for c in (0, 1)]), *frame(), plate=PLATE
    ),
    "plate, split": acquisition(positions(*FIELDS), dim("t"), ANGLE, dim("c"), dim("z"), *frame(), plate=PLATE),
}


def write(root: Path, settings: AcquisitionSettings) -> Layout:
    """Write all documents of the dataset as its files, without any pixel."""
    layout = plan_layout(settings)
    documents = {path: group_document(a) for path, a in hierarchy(settings, layout, version="1.2.3").items()}
    array = array_document(layout.geometry, settings.compression or "none")
    documents.update({image.array_path: array for image in layout.images})
    for path, document in documents.items():
        (root / path).mkdir(parents=True, exist_ok=True)
        (root / path / "zarr.json").write_text(json.dumps(document, allow_nan=False))
    if (text := ome_xml(settings, layout)) is not None:
        (root / "OME" / "METADATA.ome.xml").write_text(text, encoding="utf-8")
    return layout


def group(settings: AcquisitionSettings, path: str = ".") -> dict[str, Any]:
    return hierarchy(settings, plan_layout(settings), version="1.2.3")[path]


def transformations(settings: AcquisitionSettings, path: str = ".") -> dict[str, Any]:
    dataset = group(settings, path)["ome"]["multiscales"][0]["datasets"][0]
    return {t["type"]: t[t["type"]] for t in dataset["coordinateTransformations"]}


def parsed(settings: AcquisitionSettings, *planes: Plane, counts: tuple[int, ...] | None = None) -> ome_types.OME:
    text = ome_xml(settings, plan_layout(settings), planes, counts=counts)
    assert text is not None
    return ome_types.from_xml(text)


def open_tensorstore(path: Path) -> Any:
    return ts.open({"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path)}}).result()


# ---- the whole dataset ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", CASES.values(), ids=CASES)
def test_dataset_is_valid_for_both_validators(tmp_path: Path, settings: AcquisitionSettings) -> None:
    """Every kind of dataset is valid OME-Zarr for two independent validators, without a warning."""
    layout = write(tmp_path, settings)
    yaozarrs.validate_zarr_store(str(tmp_path))
    root = zarr.open_group(tmp_path, mode="r", zarr_format=3)
    if layout.kind == "plate":
        assert sum(1 for _ in HCS.from_zarr(root).well_groups) == len(
            {i.path.rpartition("/")[0] for i in layout.images}
        )
    elif layout.kind == "collection":
        assert BioFormats2Raw.from_zarr(root).ome_attributes.bioformats2raw_layout == 3
    for image in layout.images:
        ImageGroup.from_zarr(zarr.open_group(tmp_path / image.path, mode="r", zarr_format=3))


@pytest.mark.parametrize("settings", CASES.values(), ids=CASES)
def test_arrays_open_with_both_readers(tmp_path: Path, settings: AcquisitionSettings) -> None:
    """Zarr-python and tensorstore see the shape, the chunks, the shards, the axis names and the type of the layout."""
    layout = write(tmp_path, settings)
    geometry = layout.geometry
    for image in layout.images:
        array = zarr.open_array(tmp_path / image.array_path, mode="r", zarr_format=3)
        store = open_tensorstore(tmp_path / image.array_path)
        assert array.shape == store.shape == tuple(n or 0 for n in geometry.shape)
        assert array.dtype == store.dtype.numpy_dtype == np.dtype(settings.dtype)
        assert array.metadata.dimension_names == store.domain.labels == geometry.dimension_names  # type: ignore[union-attr]
        assert array.chunks == store.chunk_layout.read_chunk.shape == geometry.chunks
        assert array.shards == geometry.shards
        assert store.chunk_layout.write_chunk.shape == (geometry.shards or geometry.chunks)


@pytest.mark.parametrize("settings", CASES.values(), ids=CASES)
def test_hierarchy_lists_parents_first_and_every_group(settings: AcquisitionSettings) -> None:
    """Whoever writes the groups in the order given never writes one below a group that does not exist yet."""
    layout = plan_layout(settings)
    paths = list(hierarchy(settings, layout, version="1"))
    assert paths[0] == "."
    for place, path in enumerate(paths[1:], start=1):
        parent = path.rpartition("/")[0] or "."
        assert parent in paths[:place]
    assert {image.path or "." for image in layout.images} <= set(paths)


# ---- arrays --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_array_document_reads_back_pixels(tmp_path: Path, dtype: str, compression: str, sharded: bool) -> None:
    """For every type and compression tensorstore writes and zarr-python reads the same pixels; gaps read as 0."""
    geometry = ArrayGeometry(("t", "y", "x"), (4, 4, 4), (1, 2, 4), (2, 4, 4) if sharded else None, dtype)
    document = array_document(geometry, compression)
    (tmp_path / "zarr.json").write_text(json.dumps(document))
    pixels = np.arange(32).reshape(2, 4, 4).astype(dtype)
    open_tensorstore(tmp_path)[:2].write(pixels).result()
    read = zarr.open_array(tmp_path, mode="r", zarr_format=3)[:]
    np.testing.assert_array_equal(np.asarray(read), np.concatenate([pixels, np.zeros_like(pixels)]))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float64"])
def test_array_document_opens_with_zarrs(tmp_path: Path, dtype: str) -> None:
    """The zarrs codec pipeline, the strictest about codec configurations, reads what the documents describe."""
    geometry = ArrayGeometry(("y", "x"), (4, 4), (2, 4), (4, 4), dtype)
    (tmp_path / "zarr.json").write_text(json.dumps(array_document(geometry, "blosc-zstd")))
    pixels = np.arange(16).reshape(4, 4).astype(dtype)
    open_tensorstore(tmp_path).write(pixels).result()
    importlib.import_module("zarrs")
    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        read = zarr.open_array(tmp_path, mode="r", zarr_format=3)[:]
    np.testing.assert_array_equal(np.asarray(read), pixels)


@pytest.mark.parametrize(
    ("dtype", "compression", "expected"),
    [
        ("uint16", "none", None),
        ("uint16", "zstd", {"level": 3, "checksum": False}),
        ("uint16", "blosc-lz4", {"cname": "lz4", "clevel": 5, "shuffle": "shuffle", "typesize": 2, "blocksize": 0}),
        (
            "int8",
            "blosc-zstd",
            {"cname": "zstd", "clevel": 3, "shuffle": "noshuffle", "typesize": 1, "blocksize": 524288},
        ),
    ],
)
def test_compression_is_configured(dtype: str, compression: str, expected: dict[str, Any] | None) -> None:
    """Levels are those that were measured, and single bytes are not shuffled."""
    geometry = ArrayGeometry(("y", "x"), (4, 4), (2, 4), None, dtype)
    codecs = array_document(geometry, compression)["codecs"]
    assert codecs[0] == {"name": "bytes", "configuration": {"endian": "little"}}
    assert [codec["configuration"] for codec in codecs[1:]] == ([expected] if expected else [])
    assert array_document(geometry, Codec(name=compression))["codecs"] == codecs


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize(
    ("codec", "expected"),
    [
        (Codec(name="none", checksum=True), []),
        (Codec(name="zstd", level=-7, checksum=True), [("zstd", {"level": -7, "checksum": False})]),
        (
            Codec(name="blosc-lz4", level=0, shuffle="bit", checksum=True),
            [("blosc", {"cname": "lz4", "clevel": 0, "shuffle": "bitshuffle", "typesize": 2, "blocksize": 0})],
        ),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_codecs_of_a_chunk(codec: Codec, expected: list[tuple[str, dict[str, Any]]], sharded: bool) -> None:
    """Level and shuffle are those given; the checksum comes last, for each chunk, inside of shards too."""
    geometry = ArrayGeometry(("y", "x"), (4, 4), (2, 4), (4, 4) if sharded else None, "uint16")
    codecs = array_document(geometry, codec)["codecs"]
    if sharded:
        (outer,) = codecs
        codecs = outer["configuration"]["codecs"]
    assert codecs[0]["name"] == "bytes"
    assert [(c["name"], c["configuration"]) for c in codecs[1:-1]] == expected
    assert codecs[-1] == {"name": "crc32c"}


def test_shard_index_stands_at_the_end() -> None:
    """Web viewers read the index as a suffix of the shard, so it must be there, little endian and with a checksum."""
    geometry = ArrayGeometry(("y", "x"), (None, 4), (2, 4), (4, 4), "uint16")
    (codec,) = array_document(geometry, "zstd")["codecs"]
    assert codec["name"] == "sharding_indexed"
    assert codec["configuration"]["index_location"] == "end"
    assert [c["name"] for c in codec["configuration"]["index_codecs"]] == ["bytes", "crc32c"]


def test_chunks_lie_in_nested_folders() -> None:
    """Chunk keys are the default ones, ``c/0/1/2``: flat folders of millions of files bring file systems down."""
    document = array_document(plan_layout(CASES["tczyx"]).geometry, "none")
    assert document["chunk_key_encoding"] == {"name": "default", "configuration": {"separator": "/"}}


def test_with_shape_leaves_the_original() -> None:
    """The document of a growing array is copied, never changed; numpy's integers become plain ones."""
    document = array_document(plan_layout(CASES["unbounded"]).geometry, "none")
    grown = with_shape(document, np.array([7, 2, 8, 8]))  # type: ignore[arg-type]
    assert document["shape"][0] == 0
    assert json.loads(json.dumps(grown)) == {**document, "shape": [7, 2, 8, 8]}


# ---- groups --------------------------------------------------------------------------------------------------------


def test_collection_lists_its_images_in_order() -> None:
    """The series of a collection are its images, as in the layout."""
    groups = hierarchy(CASES["split, positions"], plan_layout(CASES["split, positions"]), version="1")
    assert groups["."] == {"ome": {"version": "0.5", "bioformats2raw.layout": 3}}
    assert groups["OME"]["ome"]["series"] == [f"{p}_angle-{i}" for p in "pq" for i in range(3)]


def test_plate_describes_wells_in_plate_order() -> None:
    """A plate names all its rows and columns, only the wells that are imaged, and the most fields of any."""
    groups = hierarchy(CASES["plate"], plan_layout(CASES["plate"]), version="1")
    plate = groups["."]["ome"]["plate"]
    assert plate["version"] == "0.5"
    assert plate["name"] == "screen"
    assert [row["name"] for row in plate["rows"]] == ["A", "B"]
    assert [column["name"] for column in plate["columns"]] == ["1", "2", "3"]
    assert [(w["path"], w["rowIndex"], w["columnIndex"]) for w in plate["wells"]] == [
        ("A/1", 0, 0), ("A/3", 0, 2), ("B/2", 1, 1),
    ]  # fmt: skip
    assert plate["field_count"] == plate["acquisitions"][0]["maximumfieldcount"] == 2
    assert groups["A"] == groups["B"] == {}
    assert groups["A/1"]["ome"] == {
        "version": "0.5",
        "well": {"version": "0.5", "images": [{"path": "0", "acquisition": 0}, {"path": "1", "acquisition": 0}]},
    }


def test_split_fields_are_fields_of_their_well() -> None:
    """Each step of a split dimension is one more field of the well, and is counted as one."""
    groups = hierarchy(CASES["plate, split"], plan_layout(CASES["plate, split"]), version="1")
    assert groups["."]["ome"]["plate"]["field_count"] == 6
    assert [f["path"] for f in groups["B/2"]["ome"]["well"]["images"]] == [f"1angle{i}" for i in range(3)]


@pytest.mark.parametrize(
    ("case", "path", "name"),
    [
        ("tczyx", ".", "cells"),
        ("one position", ".", "only"),
        ("grid", "p_1_0", "p_1_0"),
        ("split", "angle-1", "angle-1"),
        ("plate", "A/3/x7", "x7"),
    ],
)
def test_images_have_names(case: str, path: str, name: str) -> None:
    """An image is called like its position and steps; a single one without positions like the dataset."""
    assert group(CASES[case], path)["ome"]["multiscales"][0]["name"] == name


def test_axes_have_types_and_units_in_storage_order() -> None:
    """Axes come in storage order with the unit's full name; a custom axis keeps a type and its unit."""
    settings = acquisition(dim("z", unit="um"), dim("angle", 4, unit="degree"), dim("t", unit="ms"), *frame("nm"))
    assert group(settings)["ome"]["multiscales"][0]["axes"] == [
        {"name": "t", "type": "time", "unit": "millisecond"},
        {"name": "angle", "type": "other", "unit": "degree"},
        {"name": "z", "type": "space", "unit": "micrometer"},
        {"name": "y", "type": "space", "unit": "nanometer"},
        {"name": "x", "type": "space", "unit": "nanometer"},
    ]


def test_scale_and_translation_follow_the_dimensions() -> None:
    """Scales default to 1; the translation is absent unless an offset or a stage coordinate is known."""
    assert transformations(CASES["tczyx"]) == {"scale": [1, 1, 1, 0.5, 0.5]}
    settings = acquisition(dim("z", None, coords=[5.0, 7.0, 9.0]), *frame())
    assert transformations(settings) == {"scale": [2, 1, 1], "translation": [5, 0, 0]}


@pytest.mark.parametrize(
    ("unit", "expected"), [("um", 12.5), ("nm", 12500.0), ("mm", 0.0125), ("angstrom", 125000.0), (None, 12.5)]
)
def test_stage_coordinates_are_converted(unit: str | None, expected: float) -> None:
    """Stage coordinates in micrometers are added in the unit of the axis; no unit means micrometers."""
    position = Position(name="p", x_coord=12.5)
    settings = acquisition(dim("t"), positions(position), *frame(unit, translation=1.0))
    assert transformations(settings)["translation"] == pytest.approx([0, 1, 1 + expected], rel=1e-14)


def test_powers_of_ten_convert_exactly() -> None:
    """The rounding of a quotient of units does not show: 100 micrometers are 100000 nanometers, not 99999.99..."""
    settings = acquisition(positions(Position(name="p", x_coord=100.0)), *frame("nm"))
    assert transformations(settings)["translation"] == [0.0, 100000.0]


def test_stage_axes_are_found_by_name_and_type() -> None:
    """X, Y and Z name stage axes in either case, but only as space; a coordinate of 0 counts as given."""
    position = Position(name="p", x_coord=1.0, y_coord=2.0, z_coord=3.0)
    axes = [dim("Z", type="space"), dim("Y", 8, type="space"), dim("X", 8, type="space")]
    assert transformations(acquisition(positions(position), *axes))["translation"] == [3, 2, 1]
    other = [dim("z", type="other"), *frame()]
    assert transformations(acquisition(positions(position), *other))["translation"] == [0, 2, 1]
    zero = Position(name="p", x_coord=0.0)
    assert transformations(acquisition(positions(zero), *frame()))["translation"] == [0, 0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_windows_fit_the_pixel_type(tmp_path: Path, dtype: str) -> None:
    """A display window lies within the range of its type, survives JSON and is accepted by both validators."""
    settings = acquisition(dim("c"), *frame(), dtype=dtype)
    write(tmp_path, settings)
    yaozarrs.validate_zarr_store(str(tmp_path))
    ImageGroup.from_zarr(zarr.open_group(tmp_path, mode="r", zarr_format=3))
    attributes = json.loads((tmp_path / "zarr.json").read_text())["attributes"]
    window = attributes["ome"]["omero"]["channels"][0]["window"]
    if np.dtype(dtype).kind == "f":
        assert window == {"min": 0, "max": 1, "start": 0, "end": 1}
        return
    limits = np.iinfo(dtype)
    assert int(window["min"]) == limits.min
    assert limits.max - (0 if limits.bits < 64 else 2048) <= int(window["max"]) <= limits.max
    assert (window["start"], window["end"]) == (0, window["max"])


def test_channels_are_labelled_and_coloured() -> None:
    """Channels get their names, and the colour given, of their emission, or of a palette, in this order."""
    channels = [
        Channel(name="DAPI", emission_wavelength_nm=461),
        Channel(name="GFP", emission_wavelength_nm=510, color="red"),
        Channel(name="far", emission_wavelength_nm=800),
        Channel(name="BF"),
    ]
    omero = group(acquisition(Dimension(name="c", coords=list(channels)), *frame()))["ome"]["omero"]
    assert [c["label"] for c in omero["channels"]] == ["DAPI", "GFP", "far", "BF"]
    assert [c["color"] for c in omero["channels"]] == ["0000FF", "FF0000", "FF00FF", "FFFF00"]
    assert all(c["active"] is True for c in omero["channels"])
    assert omero["rdefs"] == {"model": "color"}


def test_counted_channels_get_distinct_colours() -> None:
    """Channels that are only counted are numbered; one alone is white in a grey scale."""
    counted = group(acquisition(dim("c", 3), *frame()))["ome"]["omero"]["channels"]
    assert [c["label"] for c in counted] == ["c0", "c1", "c2"]
    assert len({c["color"] for c in counted}) == 3
    single = group(acquisition(dim("c", 1), *frame()))["ome"]["omero"]
    assert single["channels"][0]["color"] == "FFFFFF"
    assert single["rdefs"] == {"model": "greyscale"}


@pytest.mark.parametrize("case", ["frame", "custom axis", "unbounded channels"])
def test_no_omero_without_known_channels(case: str) -> None:
    """Without a channel axis of known length there is nothing to say about channels."""
    assert "omero" not in group(CASES[case])["ome"]


def test_own_attributes_hold_what_ngff_cannot_express() -> None:
    """Uneven numbers and names along an axis, and what is known of channels, are kept; even numbers not repeated."""
    cy5 = Channel(name="Cy5", excitation_wavelength_nm=640, fluorophore="Cy5")
    settings = acquisition(
        Dimension(name="t", coords=[0.0, 1.0, 10.0], unit="s"),
        Dimension(name="c", coords=["BF", cy5]),
        Dimension(name="z", coords=[1.0, 2.0, 3.0]),
        *frame(),
    )
    own = group(settings)["ome_writers"]
    assert own == {
        "version": "1.2.3",
        "coords": {"t": [0.0, 1.0, 10.0]},
        "channels": {"c": [{"name": "BF"}, {"name": "Cy5", "excitation_wavelength_nm": 640, "fluorophore": "Cy5"}]},
    }
    assert group(acquisition(dim("cam", coords=["left", "right"]), *frame()))["ome_writers"]["coords"] == {
        "cam": ["left", "right"]
    }
    assert group(CASES["tczyx"])["ome_writers"] == {"version": "1.2.3"}


def test_split_images_know_their_step() -> None:
    """An image that is one step of a dimension says of which, with the coordinate, its unit and its channel."""
    assert group(CASES["split"], "angle-1")["ome_writers"]["split"] == {"angle": {"step": 1, "coord": 60.0}}
    twice = group(CASES["split twice"], "angle-2_cam-1")["ome_writers"]["split"]
    assert twice == {"angle": {"step": 2, "coord": 90.0}, "cam": {"step": 1, "coord": "right"}}
    channels = group(CASES["split channels"], "c-1")["ome_writers"]["split"]
    assert channels == {"c": {"step": 1, "coord": "b", "channel": {"name": "b"}}}
    slow = acquisition(dim("slow", 3, type="time", unit="s", scale=2.0), dim("t"), *frame())
    assert group(slow, "slow-2")["ome_writers"]["split"] == {"slow": {"step": 2, "coord": 4.0, "unit": "second"}}


def test_stage_coordinates_without_an_axis_are_kept() -> None:
    """The height of a position is not lost when the image has no z axis, and not repeated when it has one."""
    position = Position(name="p", x_coord=1.0, z_coord=3.0)
    flat = group(acquisition(dim("t"), positions(position), *frame()))["ome_writers"]
    assert flat["position"] == {"x_coord": 1.0, "z_coord": 3.0}
    assert "position" not in group(acquisition(dim("z"), positions(position), *frame()))["ome_writers"]


def test_reserved_namespaces_are_those_in_use() -> None:
    """No group uses a key of its attributes that is not reserved."""
    used = {
        key
        for settings in CASES.values()
        for attributes in hierarchy(settings, plan_layout(settings), version="1").values()
        for key in attributes
    }
    assert used == reserved_namespaces


# ---- OME-XML -------------------------------------------------------------------------------------------------------

COLLECTIONS = [case for case, settings in CASES.items() if plan_layout(settings).kind == "collection"]


@pytest.mark.parametrize("case", COLLECTIONS)
def test_ome_xml_has_one_image_per_group_in_order(case: str) -> None:
    """The images of the OME-XML are those of the series, in order, with unique identifiers and no binary data."""
    settings = CASES[case]
    ome = parsed(settings)
    series = group(settings, "OME")["ome"]["series"]
    assert [image.name for image in ome.images] == series
    assert len({image.pixels.id for image in ome.images}) == len(series)
    assert all(image.pixels.metadata_only is not None for image in ome.images)
    assert ome_xml(settings, plan_layout(settings)) == ome_xml(settings, plan_layout(settings))


@pytest.mark.skipif(importlib.util.find_spec("lxml") is None, reason="the schema can only be checked with lxml")
@pytest.mark.parametrize("case", COLLECTIONS)
def test_ome_xml_follows_the_schema(case: str) -> None:
    """The text is valid for the OME-XML schema, with everything that a plane can say."""
    settings = CASES[case]
    index = (0,) * len(settings.storage_index_dimensions)
    text = ome_xml(settings, plan_layout(settings), [Plane(0, index, 1.0, 0.01, 2.0, 3.0, 4.0)])
    assert text is not None
    ome_types.validate_xml(text)


@pytest.mark.parametrize("case", [c for c in CASES if c not in COLLECTIONS])
def test_only_collections_have_ome_xml(case: str) -> None:
    """Single images and plates have no OME group to hold it."""
    assert ome_xml(CASES[case], plan_layout(CASES[case])) is None


@pytest.mark.parametrize("dtype", DTYPES)
def test_ome_xml_names_pixel_types(dtype: str) -> None:
    """OME-XML has its own names for floating point, and none for some types: then there is no text."""
    settings = acquisition(positions("p", "q"), *frame(), dtype=dtype)
    if dtype in ("int64", "uint64", "float16"):
        assert ome_xml(settings, plan_layout(settings)) is None
        return
    expected = {"float32": "float", "float64": "double"}.get(dtype, dtype)
    assert parsed(settings).images[1].pixels.type.value == expected


@pytest.mark.parametrize(
    ("index_dimensions", "order", "sizes"),
    [
        ([dim("t", 2), dim("c", 3), dim("z", 4)], "XYZCT", {"t": 2, "c": 3, "z": 4}),
        ([dim("z", 4), dim("t", 2)], "XYZTC", {"t": 2, "c": 1, "z": 4}),
        ([dim("c", 3), dim("z", 4)], "XYZCT", {"t": 1, "c": 3, "z": 4}),
        ([dim("angle", 5), dim("z", 4)], "XYZTC", {"t": 5, "c": 1, "z": 4}),
        ([dim("t", 2), dim("angle", 5)], "XYZTC", {"t": 2, "c": 1, "z": 5}),
        ([dim("t", 2), dim("angle", 5), dim("c", 3)], "XYCZT", {"t": 2, "c": 3, "z": 5}),
        ([dim("t", 2), dim("angle", 5), dim("z", 4)], "XYZCT", {"t": 2, "c": 5, "z": 4}),
    ],
)
def test_dimension_order_is_that_of_storage(
    index_dimensions: list[Dimension], order: str, sizes: dict[str, int]
) -> None:
    """The order of the planes is that of the arrays, fastest first; a custom axis takes the free one of T, Z, C."""
    pixels = parsed(acquisition(positions("p", "q"), *index_dimensions, *frame())).images[0].pixels
    assert pixels.dimension_order.value == order
    assert {axis: getattr(pixels, f"size_{axis}") for axis in sizes} == sizes
    assert (pixels.size_y, pixels.size_x) == (8, 8)
    assert len(pixels.channels) == sizes["c"]


def test_ome_xml_of_an_unbounded_acquisition_has_the_current_length() -> None:
    """The length of an unbounded axis is the one given; before the first frame it is 1, since OME-XML has no 0."""
    settings = CASES["grid"]
    assert parsed(settings, counts=(7, 2, 8, 8)).images[2].pixels.size_t == 7
    assert parsed(settings).images[0].pixels.size_t == 1
    assert parsed(settings, counts=(0, 2, 8, 8)).images[0].pixels.size_t == 1


def test_ome_xml_has_physical_sizes_where_known() -> None:
    """Physical sizes come with their unit, and are absent for an axis without a scale."""
    y, x = dim("y", 8, unit="nm", scale=65.0), dim("x", 8, unit="um")
    settings = acquisition(positions("p", "q"), dim("t", unit="ms", scale=20.0), y, x)
    pixels = parsed(settings).images[0].pixels
    assert (pixels.physical_size_y, pixels.physical_size_y_unit.value) == (65.0, "nm")
    assert (pixels.time_increment, pixels.time_increment_unit.value) == (20.0, "ms")
    assert not re.search("PhysicalSize[XZ]", ome_xml(settings, plan_layout(settings)) or "")


def test_ome_xml_describes_channels() -> None:
    """Everything that is known of a channel is there, and nothing else."""
    green = Channel(
        name="GFP", color="#00ff01", excitation_wavelength_nm=488, emission_wavelength_nm=510.5, fluorophore="EGFP"
    )
    settings = acquisition(positions("p", "q"), Dimension(name="c", coords=["BF", green]), *frame())
    bright, channel = parsed(settings).images[1].pixels.channels
    assert (bright.name, bright.fluor, bright.emission_wavelength) == ("BF", None, None)
    assert (channel.name, channel.fluor, channel.samples_per_pixel) == ("GFP", "EGFP", 1)
    assert (channel.excitation_wavelength, channel.emission_wavelength) == (488, 510.5)
    assert channel.color is not None
    assert channel.color.as_rgb_tuple() == (0, 255, 1)


def test_ome_xml_labels_positions() -> None:
    """The stage label of an image is its position, coordinates in micrometers."""
    here = Position(name="here", x_coord=1.5, y_coord=-2.0, z_coord=0.0)
    first, second = parsed(acquisition(positions(here, "there"), *frame())).images
    assert first.stage_label is not None
    assert second.stage_label is not None
    assert (first.stage_label.name, second.stage_label.name) == ("here", "there")
    assert (first.stage_label.x, first.stage_label.y, first.stage_label.z) == (1.5, -2.0, 0.0)
    assert first.stage_label.x_unit.value == "µm"
    assert second.stage_label.x is None


def test_ome_xml_has_planes() -> None:
    """What was recorded with a frame stands at its place in its image, with units."""
    settings = acquisition(positions("p", "q"), dim("t"), dim("c"), dim("z"), *frame())
    plane = Plane(1, (1, 0, 1), delta_t=0.25, exposure_time=0.01, position_x=1.0, position_y=2.0, position_z=3.0)
    ome = parsed(settings, plane, Plane(1, (0, 1, 0), delta_t=0.0))
    assert ome.images[0].pixels.planes == []
    first, second = ome.images[1].pixels.planes
    assert (first.the_t, first.the_c, first.the_z) == (1, 0, 1)
    assert (first.delta_t, first.exposure_time) == (0.25, 0.01)
    assert (first.position_x, first.position_y, first.position_z) == (1.0, 2.0, 3.0)
    assert first.position_z_unit is not None
    assert first.position_z_unit.value == "µm"
    assert (second.the_t, second.the_c, second.the_z, second.delta_t) == (0, 1, 0, 0.0)
    assert second.position_x is None


def test_ome_xml_holds_any_name() -> None:
    """Characters that XML can't hold are replaced, those with a meaning in XML are escaped, others are kept."""
    channel = Channel.model_construct(name='a\x00\x0b<&"\n\uffff𝒳', fluorophore="\x1b")  # past the settings' checks
    ome = parsed(acquisition(positions("p & q", "r'"), Dimension(name="c", coords=[channel]), *frame()))
    read = ome.images[0].pixels.channels[0]
    assert read.name == 'a\ufffd\ufffd<&"\n\ufffd𝒳'
    assert read.fluor == "\ufffd"
    assert [image.name for image in ome.images] == ["p & q", "r'"]


def test_ome_xml_tells_nothing_of_when_it_was_made() -> None:
    """Dates and identifiers made up at run time would make the text differ from run to run."""
    text = ome_xml(CASES["grid"], plan_layout(CASES["grid"]))
    assert text is not None
    assert not re.search(r"UUID|AcquisitionDate", text)
