"""``describe``: what a dataset holds, checked against how it was made."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from ome_writers import (
    AcquisitionSettings,
    Channel,
    Codec,
    DatasetInfo,
    Dimension,
    Plate,
    Position,
    create_stream,
    describe,
)
from ome_writers.errors import NotADatasetError, RecordingError, SettingsError


def write(path: Path, *dimensions: Dimension, frames: int, **settings: Any) -> Path:
    """Write a dataset with metadata for every second frame."""
    frame = (
        Dimension(name="y", count=32, unit="um", scale=0.5, chunk_size=16, shard_size_chunks=2),
        Dimension(name="x", count=48, unit="um", scale=0.5, chunk_size=16, shard_size_chunks=3),
    )
    complete = AcquisitionSettings(root_path=path, dimensions=(*dimensions, *frame), dtype="uint16", **settings)
    with create_stream(complete) as stream:
        for number in range(frames):
            stream.append(np.full((32, 48), number, "uint16"), frame_metadata={} if number % 2 else {"delta_t": 1.0})
    return path


TIME = Dimension(name="t", count=3, unit="second", scale=2.0)
CHANNELS = Dimension(name="c", coords=[Channel(name="DAPI", color="blue"), Channel(name="FITC", color="#00ff00")])


def test_single_image(tmp_path: Path) -> None:
    """Axes, sizes, chunks, shards, codecs, channels and frames of an image are those of its settings."""
    codec = Codec(name="blosc-zstd", level=2, checksum=True)
    path = write(tmp_path / "a.ome.zarr", TIME, CHANNELS, frames=6, compression=codec)
    found = describe(path)
    assert (found.kind, found.zarr_format, found.ngff_version) == ("image", 3, "0.5")
    assert not found.problems
    assert not found.arrays
    (image,) = found.images
    assert [(a.name, a.type, a.unit, a.size, a.scale) for a in image.axes] == [
        ("t", "time", "second", 3, 2.0),
        ("c", "channel", None, 2, 1.0),
        ("y", "space", "micrometer", 32, 0.5),
        ("x", "space", "micrometer", 48, 0.5),
    ]
    (level,) = image.levels
    assert (level.path, level.shape, level.dtype) == ("0", (3, 2, 32, 48), "uint16")
    assert (level.chunks, level.chunk_bytes) == ((1, 1, 16, 16), 512)
    assert (level.shards, level.shard_bytes) == ((1, 1, 32, 48), 3072)
    assert level.codecs == ("blosc-zstd (level 2, shuffle)", "crc32c")
    assert [(c.name, c.color) for c in image.channels] == [("DAPI", "0000FF"), ("FITC", "00FF00")]
    assert found.frames is not None
    assert (found.frames.state, found.frames.written, found.frames.expected) == ("closed", 6, 6)
    assert (found.frames.with_metadata, found.frames.backend) == (3, "direct")
    files = [file for file in path.rglob("*") if file.is_file()]
    assert found.files == len(files)
    assert found.stored_bytes == sum(file.stat().st_size for file in files)
    assert level.stored_bytes == sum(file.stat().st_size for file in (path / "0").rglob("*") if file.is_file())


def test_words_name_what_matters(tmp_path: Path) -> None:
    """The text of an image has its sizes, units, chunks, shards, codec, channels and completeness."""
    path = write(tmp_path / "a.ome.zarr", TIME, CHANNELS, frames=4, compression="blosc-lz4")
    text = str(describe(path))
    for words in (
        "image, OME-Zarr 0.5",
        "3 x 2 x 32 x 48, uint16",
        "y: 32 x 0.5 micrometer (space)",
        "DAPI (#0000FF)",
        "chunks of 1 x 1 x 16 x 16, 512 bytes",
        "shards of 1 x 1 x 32 x 48, 3.07 kB (6 chunks each)",
        "blosc-lz4 (level 5, shuffle)",
        "4 of 6 frames written",
        "2 not acquired",
        "2 with metadata",
    ):
        assert words in text


def test_json_has_all_fields(tmp_path: Path) -> None:
    """``as_dict`` can be written as JSON, and tells the state and the bytes of the pixels."""
    path = write(tmp_path / "a.ome.zarr", TIME, frames=3)
    said = json.loads(json.dumps(describe(path).as_dict()))
    assert said["frames"]["state"] == "closed"
    assert said["nbytes"] == 3 * 32 * 48 * 2
    assert said["images"][0]["levels"][0]["chunks"] == [1, 16, 16]


def test_collection_groups_equal_images(tmp_path: Path) -> None:
    """Hundreds of images that differ in their place are shown once, in acquisition order; JSON lists all."""
    names = [f"pos{i}" for i in reversed(range(120))]
    positions = Dimension(name="p", coords=[Position(name=name, x_coord=i, y_coord=0) for i, name in enumerate(names)])
    found = describe(write(tmp_path / "a.ome.zarr", positions, frames=120))
    assert found.kind == "collection"
    assert [image.path for image in found.images] == names
    assert (found.images[7].path, found.images[7].translation) == ("pos112", {"x": 7.0})
    text = str(found)
    assert "120 images: 32 x 48" in text
    assert "pos110 at x 9" in text
    assert "and 110 more" in text
    assert len(text.splitlines()) < 30


def test_images_that_differ_are_told_apart(tmp_path: Path) -> None:
    """Images of different shapes are shown separately."""
    path = write(
        tmp_path / "a.ome.zarr", Dimension(name="t", count=None), Dimension(name="p", coords=["a", "b"]), frames=3
    )
    text = str(describe(path))
    assert "image a: 2 x 32 x 48" in text
    assert "image b: 1 x 32 x 48" in text


def test_plate(tmp_path: Path) -> None:
    """Wells and fields of a plate are found, in the order of its wells."""
    positions = [
        Position(name=name, plate_row=row, plate_column=column)
        for row, column, name in (("A", "1", "f0"), ("A", "1", "f1"), ("B", "2", "f0"))
    ]
    path = write(
        tmp_path / "a.ome.zarr",
        Dimension(name="p", coords=positions),
        frames=3,
        plate=Plate(name="screen", row_names=["A", "B"], column_names=["1", "2", "3"]),
    )
    found = describe(path)
    assert found.kind == "plate"
    assert found.plate is not None
    assert (found.plate.name, found.plate.rows, found.plate.columns, found.plate.wells) == ("screen", 2, 3, 2)
    assert [(image.well, image.path) for image in found.images] == [
        ("A/1", "A/1/f0"),
        ("A/1", "A/1/f1"),
        ("B/2", "B/2/f0"),
    ]
    assert "plate 'screen' of 2 x 3 wells, 2 imaged" in str(found)
    assert "in wells A/1, B/2" in str(found)


def test_what_this_package_keeps_is_no_data(tmp_path: Path) -> None:
    """Arrays below ``ome_writers``, as an interrupted replay on a cluster leaves them, are no images of the dataset."""
    path = write(tmp_path / "a.ome.zarr", TIME, frames=3)
    before = describe(path)
    inner = write(path / "ome_writers" / "regions" / "abc" / "0.ome.zarr", TIME, frames=3)
    (path / "ome_writers" / "regions" / "abc" / "bad").mkdir()
    (path / "ome_writers" / "regions" / "abc" / "bad" / "zarr.json").write_text("{")
    found = describe(path)
    assert (found.images, found.arrays, found.problems) == (before.images, (), ())
    added = [file for file in inner.parent.rglob("*") if file.is_file()]
    assert found.files == (before.files or 0) + len(added)
    assert found.stored_bytes == (before.stored_bytes or 0) + sum(file.stat().st_size for file in added)


def test_foreign_array_of_that_name_is_data(tmp_path: Path) -> None:
    """An array that somebody else has called ``ome_writers`` is shown as any other."""
    zarr.open_group(str(tmp_path / "a.zarr"), mode="w").create_array("ome_writers", shape=(2, 3), dtype="u1")
    assert [array.path for array in describe(tmp_path / "a.zarr").arrays] == ["ome_writers"]


def ngff_04(path: Path) -> Path:
    """Make an OME-Zarr 0.4 image of two levels with a label image, by zarr-python."""
    root = zarr.open_group(str(path), mode="w", zarr_format=2)
    for level, size in enumerate((64, 32)):
        array = root.create_array(str(level), shape=(2, size, size), chunks=(1, 32, 32), dtype=">u2")
        array[:] = level + 1
    axes: Any = [
        {"name": "c", "type": "channel"},
        {"name": "y", "type": "space", "unit": "micrometer"},
        {"name": "x", "type": "space", "unit": "micrometer"},
    ]
    datasets: Any = [
        {"path": str(n), "coordinateTransformations": [{"type": "scale", "scale": [1, 0.5 * 2**n, 0.5 * 2**n]}]}
        for n in range(2)
    ]
    outer: Any = [{"type": "scale", "scale": [1, 10, 10]}, {"type": "translation", "translation": [0, 5, 0]}]
    root.attrs["multiscales"] = [
        {"version": "0.4", "name": "old", "axes": axes, "datasets": datasets, "coordinateTransformations": outer}
    ]
    root.attrs["omero"] = {"channels": [{"label": "one", "color": "FF0000"}, {"label": "two", "color": "00FF00"}]}
    cells = root.create_group("labels").create_group("cells")
    cells.create_array("0", shape=(64, 64), chunks=(64, 64), dtype="u4")
    cells.attrs["multiscales"] = [{"version": "0.4", "axes": axes[1:], "datasets": [{"path": "0"}]}]
    cells.attrs["image-label"] = {"version": "0.4"}
    return path


def test_ome_zarr_04(tmp_path: Path) -> None:
    """OME-Zarr 0.4 is described too: levels, transformations of both kinds, labels, Zarr v2 chunks and codecs."""
    found = describe(ngff_04(tmp_path / "old.zarr"))
    assert (found.kind, found.zarr_format, found.ngff_version) == ("image", 2, "0.4")
    assert not found.problems
    image, labels = found.images
    assert [level.shape for level in image.levels] == [(2, 64, 64), (2, 32, 32)]
    assert [axis.scale for axis in image.axes] == [1, 5.0, 5.0]
    assert image.translation == {"y": 5.0}
    assert (image.levels[0].dtype, image.levels[0].chunks) == ("uint16", (1, 32, 32))
    assert "bytes (big)" in image.levels[0].codecs
    assert [channel.name for channel in image.channels] == ["one", "two"]
    assert (labels.path, labels.label) == ("labels/cells", True)
    assert "label image labels/cells: 64 x 64" in str(found)
    assert "2 levels of resolution" in str(found)
    assert "image, OME-Zarr 0.4" in str(found)


def small_image(group: zarr.Group, name: str) -> None:
    """Make an image of OME-Zarr 0.4 whose axes are names only, as they were in 0.3."""
    image = group.create_group(name)
    image.create_array("0", shape=(8, 8), chunks=(8, 8), dtype="u1")
    image.attrs["multiscales"] = [{"axes": ["y", "x"], "datasets": [{"path": "0"}]}]


def test_plate_and_collection_of_04(tmp_path: Path) -> None:
    """Plates and collections of OME-Zarr 0.4 list their images in the order of their metadata."""
    plate = zarr.open_group(str(tmp_path / "plate.zarr"), mode="w", zarr_format=2)
    wells: Any = [{"path": "A/2"}, {"path": "A/1"}]
    plate.attrs["plate"] = {"version": "0.4", "rows": [{"name": "A"}], "columns": [{}, {}], "wells": wells}
    for well in ("A/1", "A/2"):
        group = plate.require_group(well)
        group.attrs["well"] = {"version": "0.4", "images": [{"path": "0"}]}
        small_image(group, "0")
    found = describe(tmp_path / "plate.zarr")
    assert (found.kind, found.ngff_version, found.problems) == ("plate", "0.4", ())
    assert [(image.path, image.well) for image in found.images] == [("A/2/0", "A/2"), ("A/1/0", "A/1")]
    assert [(axis.name, axis.type) for axis in found.images[0].axes] == [("y", "space"), ("x", "space")]
    root = zarr.open_group(str(tmp_path / "many.zarr"), mode="w", zarr_format=2)
    root.attrs["bioformats2raw.layout"] = 3
    root.create_group("OME").attrs["series"] = ["1", "0"]
    for name in ("0", "1"):
        small_image(root, name)
    found = describe(tmp_path / "many.zarr")
    assert (found.kind, [image.path for image in found.images]) == ("collection", ["1", "0"])


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_plain_array_and_group(tmp_path: Path, zarr_format: Any) -> None:
    """Arrays and groups without OME metadata are described by their documents, whatever their Zarr version."""
    zarr.create_array(str(tmp_path / "a.zarr"), shape=(10, 20), chunks=(5, 20), dtype="f4", zarr_format=zarr_format)
    found = describe(tmp_path / "a.zarr")
    assert (found.kind, found.zarr_format, found.ngff_version) == ("array", zarr_format, None)
    (array,) = found.arrays
    assert (array.path, array.shape, array.chunks, array.nbytes) == ("", (10, 20), (5, 20), 800)
    group = zarr.open_group(str(tmp_path / "g.zarr"), mode="w", zarr_format=zarr_format)
    names = [f"deep/inside{number}" for number in (1, 2, 9, 10, 11, 20, 100)]
    for name in reversed(names):
        group.create_array(name, shape=(), dtype="i8")
    found = describe(tmp_path / "g.zarr")
    assert found.kind == "group"
    assert [array.path for array in found.arrays] == names
    assert "one value, int64" in str(found)


def test_dataset_that_is_being_written(tmp_path: Path) -> None:
    """While a stream is open its dataset says so, with the frames taken so far; afterwards it is closed."""
    settings = AcquisitionSettings(
        root_path=tmp_path / "a.ome.zarr",
        dimensions=[Dimension(name="t", count=9), Dimension(name="y", count=8), Dimension(name="x", count=8)],
        dtype="uint8",
    )
    with create_stream(settings) as stream:
        for _ in range(4):
            stream.append(np.zeros((8, 8), np.uint8))
        stream.flush()
        found = describe(stream.path)
        assert found.frames is not None
        assert (found.frames.state, found.frames.in_use, found.frames.taken) == ("writing", True, 4)
        assert "being written now" in str(found)
        shutil.copytree(stream.path, tmp_path / "copy.ome.zarr")
    found = describe(stream.path)
    assert found.frames is not None
    assert (found.frames.state, found.frames.taken) == ("closed", 4)
    copy = describe(tmp_path / "copy.ome.zarr")
    assert copy.frames is not None
    assert copy.frames.state == "interrupted"
    assert "ome-writers recover" in str(copy)


def test_skipped_frames_are_counted(tmp_path: Path) -> None:
    """Frames that were skipped are told."""
    settings = AcquisitionSettings(
        root_path=tmp_path / "a.ome.zarr",
        dimensions=[Dimension(name="t", count=9), Dimension(name="y", count=8), Dimension(name="x", count=8)],
        dtype="uint8",
    )
    with create_stream(settings) as stream:
        stream.skip(frames=2)
        stream.append(np.zeros((8, 8), np.uint8))
    text = str(describe(stream.path))
    assert "1 of 9 frames written" in text
    assert "2 skipped" in text
    assert "6 not acquired" in text


@pytest.mark.parametrize("text", ["{", "[]", '{"zarr_format": 3, "node_type": "table"}', "\udc80"])
def test_damaged_root_is_an_error(tmp_path: Path, text: str) -> None:
    """A root document that can't be understood is an error that names it."""
    (tmp_path / "zarr.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(NotADatasetError, match=r"zarr\.json"):
        describe(tmp_path)


def test_damage_inside_is_told(tmp_path: Path) -> None:
    """Damaged documents inside of a dataset are named, and the rest is described."""
    positions = Dimension(name="p", coords=["a", "b", "c", "d"])
    path = write(tmp_path / "a.ome.zarr", positions, frames=4)
    (path / "a" / "0" / "zarr.json").write_text("{")
    array = json.loads((path / "b" / "0" / "zarr.json").read_text())
    (path / "b" / "0" / "zarr.json").write_text(json.dumps({**array, "shape": "huge"}))
    group = json.loads((path / "c" / "zarr.json").read_text())
    group["attributes"]["ome"]["multiscales"] = [{"datasets": 3}]
    (path / "c" / "zarr.json").write_text(json.dumps(group))
    found = describe(path)
    assert [image.path for image in found.images] == ["a", "b", "d"]
    assert found.images[-1].levels[0].shape == (32, 48)
    text = "\n".join(found.problems)
    assert "a/0/zarr.json is damaged" in text
    assert "array b/0: shape" in text
    assert "image c" in text
    assert "problem: " in str(found)


JUNK: list[Any] = [None, 3, "text", [], {}, [3], [{}], {"a": 3}, [None], [[]]]


@pytest.mark.parametrize("key", ["multiscales", "plate", "well", "series", "omero", "bioformats2raw.layout", "version"])
def test_any_json_in_the_metadata_is_survived(tmp_path: Path, key: str) -> None:
    """Metadata of any form lead to a description with problems, never to another error."""
    path = write(tmp_path / "a.ome.zarr", frames=1)
    good = json.loads((path / "zarr.json").read_text())
    for junk in JUNK:
        broken = json.loads(json.dumps(good))
        broken["attributes"]["ome"][key] = junk
        (path / "zarr.json").write_text(json.dumps(broken))
        found = describe(path)
        assert isinstance(found, DatasetInfo)
        assert str(found)
        json.dumps(found.as_dict())


@pytest.mark.parametrize("place", ["axes", "datasets", "coordinateTransformations", "name"])
def test_any_json_in_an_image_is_survived(tmp_path: Path, place: str) -> None:
    """The same for the parts of an image's metadata."""
    path = write(tmp_path / "a.ome.zarr", frames=1)
    good = json.loads((path / "zarr.json").read_text())
    of_axes: list[Any] = [[{"name": "y", "type": junk, "unit": junk}, {"name": junk}] for junk in JUNK]
    for junk in [*JUNK, *of_axes]:
        broken = json.loads(json.dumps(good))
        broken["attributes"]["ome"]["multiscales"][0][place] = junk
        (path / "zarr.json").write_text(json.dumps(broken))
        found = describe(path)
        assert str(found)
        json.dumps(found.as_dict())


def test_bytes_need_not_be_counted(tmp_path: Path) -> None:
    """Without counting bytes nothing below arrays is looked at, and no size is told."""
    path = write(tmp_path / "a.ome.zarr", TIME, frames=3)
    found = describe(path, count_bytes=False)
    assert (found.files, found.stored_bytes, found.images[0].levels[0].stored_bytes) == (None, None, None)
    assert "on disk" not in str(found)


def test_recording_in_another_format(tmp_path: Path) -> None:
    """A source that replay reads is described by the same call: kind, dimensions, pixel type, frames."""
    np.save(tmp_path / "a.npy", np.zeros((4, 3, 8, 9), np.float32))
    found = describe(tmp_path / "a.npy", axes="tzyx")
    assert (found.kind, found.zarr_format, found.images) == ("NumPy .npy", None, ())
    assert found.recording is not None
    assert [(d.name, d.size) for d in found.recording.dimensions] == [("t", 4), ("z", 3), ("y", 8), ("x", 9)]
    assert (found.recording.dtype, found.recording.frames, found.recording.frames_missing) == ("float32", 12, 0)
    assert "12 frames of float32" in str(found)
    assert found.stored_bytes == (tmp_path / "a.npy").stat().st_size
    json.dumps(found.as_dict())


def test_what_is_nothing_is_an_error(tmp_path: Path) -> None:
    """A path without anything, with nothing that can be read, or options that don't apply, are errors that say so."""
    with pytest.raises(NotADatasetError, match="nothing at"):
        describe(tmp_path / "nope")
    (tmp_path / "text.txt").write_text("hello")
    with pytest.raises(RecordingError, match=r"text\.txt"):
        describe(tmp_path / "text.txt")
    path = write(tmp_path / "a.ome.zarr", frames=1)
    with pytest.raises(SettingsError, match="axes"):
        describe(path, axes="tyx")


def test_document_of_the_root_can_be_given(tmp_path: Path) -> None:
    """The path of the root's zarr.json means its folder, as file dialogs give it."""
    path = write(tmp_path / "a.ome.zarr", frames=1)
    assert describe(path / "zarr.json") == describe(path)
