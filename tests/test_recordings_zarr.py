"""Reading recorded acquisitions from OME-Zarr datasets."""

from __future__ import annotations

import json
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec, BytesCodec, ShardingCodec

from ome_writers import (
    AcquisitionSettings,
    Channel,
    Dimension,
    Plate,
    Position,
    PositionDimension,
    create_stream,
    open_recording,
    recover,
    replay,
)
from ome_writers.errors import BackendMissingError, RecordingError
from ome_writers.recordings import Recording
from ome_writers.recordings import _zarr_arrays as zarr_arrays
from ome_writers.recordings._blocks import BlockCache
from readers import find_images, read_images
from recorded_zarr import (
    CHANNELS,
    FRAME,
    KINDS,
    STAGE,
    Kind,
    acquire,
    multiscales,
    noise,
    write_array,
    write_group,
    write_image,
)


def frames_of(recording: Recording) -> Any:
    """Return all frames of a recording."""
    pixels = np.zeros((*recording.index_shape, *recording.frame_shape), recording.dtype)
    for index in np.ndindex(recording.index_shape):
        if recording.present is None or recording.present[index]:
            recording.read(index, pixels[index])
    return pixels


def said(recording: Recording) -> dict[str, dict[str, Any]]:
    """Return what is known of each dimension."""
    return {d.name: d.model_dump(exclude_none=True, exclude={"name"}) for d in recording.dimensions}


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_round_trip(kind: Kind, tmp_path: Path) -> None:
    """Every kind of source gives its frames bit by bit, and a replay carries over all that the recording knows."""
    made = kind.make(tmp_path)
    target = tmp_path / "replayed.ome.zarr"
    with open_recording(made.source, **made.options) as recording:
        assert recording.kind == kind.kind.removesuffix(" 0.4").removesuffix(" 0.5")
        names = [d.name for d in recording.dimensions]
        assert sorted(names) == sorted(made.names)
        expected = made.expected.transpose([made.names.index(name) for name in names])
        assert recording.dtype == expected.dtype.newbyteorder("=").name
        np.testing.assert_array_equal(frames_of(recording), expected)
        report = replay(recording, target)
        assert report.complete
        assert report.frames_appended == recording.frames
        with open_recording(target) as again:
            assert said(again) == said(recording)
            assert (again.plate, again.attributes) == (recording.plate, recording.attributes)
            for index in np.ndindex(recording.index_shape):
                assert again.metadata(index) == recording.metadata(index)
    images = read_images(target)
    stored = find_images(target)[0].axes
    order = [name for name in names if name == "p"] + list(stored)
    whole = expected.transpose([names.index(name) for name in order])
    for image, wanted in zip(images, whole if "p" in names else whole[None], strict=True):
        np.testing.assert_array_equal(image, wanted)


# ---- metadata --------------------------------------------------------------------------------------------------------


def test_axes_scales_and_channels(tmp_path: Path) -> None:
    """Axes, units, the scale and the translation of the first level and of all levels together, and channels."""
    scales = multiscales("tczyx", "0.4", translation=[5, 0, 1, 2, 3])
    scales[0]["coordinateTransformations"] = [{"type": "scale", "scale": [1, 1, 2, 1, 1]}]
    omero = {"channels": [{"label": "x", "color": "ff8000"}, {"color": "nonsense"}]}
    write_group(tmp_path / "a.zarr", {"multiscales": scales, "omero": omero}, "0.4")
    write_array(tmp_path / "a.zarr" / "0", noise(2, 2, 2, 4, 5), "0.4")
    with open_recording(tmp_path / "a.zarr") as recording:
        assert said(recording) == {
            "t": {"type": "time", "unit": "second", "count": 2, "scale": 2.5, "translation": 5.0},
            "c": {"type": "channel", "count": 2, "coords": [{"name": "x", "color": "#ff8000"}, {"name": "C1"}]},
            "z": {"type": "space", "unit": "micrometer", "count": 2, "scale": 1.5, "translation": 2.0},
            "y": {"type": "space", "unit": "micrometer", "count": 4, "scale": 0.325, "translation": 2.0},
            "x": {"type": "space", "unit": "micrometer", "count": 5, "scale": 0.325, "translation": 3.0},
        }


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_collection_described_by_ome_xml(version: str, tmp_path: Path) -> None:
    """Names, stage positions, wavelengths and times of planes come from OME-XML; colours from ``omero``."""
    kind = next(k for k in KINDS if k.kind.endswith(version) and k.variant == "collection with OME-XML")
    with open_recording(kind.make(tmp_path).source) as recording:
        dimensions = said(recording)
        assert dimensions["p"]["coords"] == [
            {"name": name, "x_coord": x, "y_coord": y}
            for name, (x, y, _) in zip(["left", "right", "below_it"], STAGE, strict=True)
        ]
        assert dimensions["c"]["coords"] == [
            {"name": "DAPI", "color": "#0000ff", "emission_wavelength_nm": 461.0, "fluorophore": "dye 0"},
            {"name": "GFP", "color": "#00ff00", "emission_wavelength_nm": 509.0, "fluorophore": "dye 1"},
        ]
        assert recording.metadata((1, 1, 1, 2)) == {
            "delta_t": pytest.approx(1.001),
            "exposure_time": 0.05,
            "position_x": STAGE[1][0],
            "position_y": STAGE[1][1],
        }
        assert recording.attributes == {"lab": {"operator": "Ada"}, "source_attributes": {"note": "second try"}}
    with open_recording(tmp_path / "scan.zarr", image="right") as recording:
        assert recording.index_shape == (2, 2, 3)
        assert recording.metadata((1, 1, 2))["position_x"] == STAGE[1][0]  # type: ignore[index]


def test_translations_that_differ_are_stage_positions(tmp_path: Path) -> None:
    """Along x and y, or z, in micrometers whatever the unit of the axis; what is common stays with the dimension."""
    for number, (z, y, x) in enumerate([(7, 1000, 3000), (7, 1000, 5000)]):
        scales = multiscales("zyx", "0.5", translation=[z, y, x])
        for axis in scales[0]["axes"][1:]:
            axis["unit"] = "nanometer"
        write_group(tmp_path / "a.zarr" / str(number), {"multiscales": scales}, "0.5")
        write_array(tmp_path / "a.zarr" / str(number) / "0", noise(2, 4, 5), "0.5")
    write_group(tmp_path / "a.zarr", {"bioformats2raw.layout": 3}, "0.5")
    with open_recording(tmp_path / "a.zarr") as recording:
        dimensions = said(recording)
        assert dimensions["p"]["coords"] == [
            {"name": "0", "x_coord": 3.0, "y_coord": 1.0}, {"name": "1", "x_coord": 5.0, "y_coord": 1.0},
        ]  # fmt: skip
        assert dimensions["z"]["translation"] == 7.0
        assert "translation" not in dimensions["x"]


def test_plate(tmp_path: Path) -> None:
    """Plates give rows, columns, and the wells and fields that they list."""
    kind = next(k for k in KINDS if k.kind == "OME-Zarr 0.4" and k.variant == "plate")
    with open_recording(kind.make(tmp_path).source) as recording:
        assert recording.plate == Plate(row_names=["A", "B", "C"], column_names=["1", "2", "3", "4"], name="screen 7")
        assert said(recording)["p"]["coords"] == [
            {"name": "0", "plate_row": "A", "plate_column": "1"},
            {"name": "1", "plate_row": "A", "plate_column": "1"},
            {"name": "0", "plate_row": "C", "plate_column": "4"},
        ]
    with open_recording(tmp_path / "plate.zarr" / "A" / "1") as well:
        assert well.index_shape == (2, 2)
        assert well.plate is None


SETTINGS: dict[str, dict[str, Any]] = {
    "image": {"dimensions": (Dimension(name="t", count=4, chunk_size=2), CHANNELS, *FRAME)},
    "positions": {
        "dimensions": (
            PositionDimension(name="stage", coords=[Position(name="a", grid_row=0, grid_column=1, z_coord=2), "b"]),
            Dimension(name="z", coords=[0.0, 1.0, 4.0], unit="um"),
            *FRAME,
        )
    },
    "split": {
        "dimensions": (
            Dimension(name="angle", type="other", coords=["left", "right"]),
            Dimension(name="t", count=2, scale=3),
            Dimension(name="camera", type="other", count=2),
            *FRAME,
        )
    },
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_come_back(name: str, tmp_path: Path) -> None:
    """A dataset of this package gives the dimensions that it was acquired with, also what OME-Zarr can't express."""
    declared = SETTINGS[name]["dimensions"]
    pixels = acquire(tmp_path / "a.ome.zarr", declared)
    with open_recording(tmp_path / "a.ome.zarr") as recording:
        assert recording.dimensions == tuple(d.model_copy(update={"chunk_size": None}) for d in declared)
        np.testing.assert_array_equal(frames_of(recording), pixels)
        last = tuple(n - 1 for n in recording.index_shape)
        assert recording.metadata(last) == {
            "delta_t": (recording.frames - 1) / 4, "laser": {"power": recording.frames - 1},
        }  # fmt: skip


def test_corrected_metadata_are_believed(tmp_path: Path) -> None:
    """A pixel size that somebody has corrected in the documents counts, not the one that was declared."""
    acquire(tmp_path / "a.ome.zarr", (Dimension(name="t", count=2), CHANNELS, *FRAME), skipped=[1])
    document = tmp_path / "a.ome.zarr" / "zarr.json"
    corrected = json.loads(document.read_text())
    (scale,) = corrected["attributes"]["ome"]["multiscales"][0]["datasets"][0]["coordinateTransformations"]
    scale["scale"][-1] = 0.125
    document.write_text(json.dumps(corrected))
    with open_recording(tmp_path / "a.ome.zarr") as recording:
        assert recording.dimensions[-1].scale == 0.125
        channel = recording.dimensions[1].coords[0]  # type: ignore[index]
        assert channel == Channel(name="DAPI", emission_wavelength_nm=461, color="blue")
        assert recording.present is not None
        assert recording.present.tolist() == [[True, False], [True, True]]
        assert recording.metadata((1, 0)) == {"delta_t": 0.5, "laser": {"power": 2}}


# ---- frames that are not there ---------------------------------------------------------------------------------------


def test_skipped_frames_and_frames_never_taken(tmp_path: Path) -> None:
    """They are told apart from frames that are black, also where one image of the dataset is read."""
    declared = (Dimension(name="t", count=3), PositionDimension(coords=["a", "b"]), CHANNELS, *FRAME)
    root = tmp_path / "a.ome.zarr"
    settings = AcquisitionSettings(root_path=str(root), dimensions=declared, dtype="uint16")
    with create_stream(settings) as stream:
        for number in range(9):
            if number in (2, 5):
                stream.skip(frames=1)
            else:
                stream.append(np.full((12, 16), number, np.uint16))
    present = np.array([i < 9 and i not in (2, 5) for i in range(12)]).reshape(3, 2, 2)
    with open_recording(root) as recording:
        assert recording.frames_missing == 5
        np.testing.assert_array_equal(recording.present, present)
        assert frames_of(recording)[1, 1, 1, 0, 0] == 7
        with pytest.raises(RecordingError, match="5 of 12 frames are missing"):
            replay(recording, tmp_path / "b.ome.zarr")
        report = replay(recording, tmp_path / "b.ome.zarr", skip_missing=True, limit=9)
        assert (report.frames_appended, report.frames_skipped) == (7, 2)
    for source, options in ((root, {"image": "b"}), (root, {"image": 1}), (root / "b", {}), (root / "b" / "0", {})):
        with open_recording(source, **options) as recording:
            np.testing.assert_array_equal(recording.present, present[:, 1])
            assert [d.name for d in recording.dimensions] == ["t", "c", "y", "x"]
            assert frames_of(recording)[1, 1, 0, 0] == 7


def test_unbounded_acquisition_that_ended_between_positions(tmp_path: Path) -> None:
    """Images have different extents then; what the shorter ones lack was never taken."""
    declared = (Dimension(name="t"), PositionDimension(coords=["a", "b"]), *FRAME)
    settings = AcquisitionSettings(root_path=str(tmp_path / "a.ome.zarr"), dimensions=declared, dtype="uint16")
    with create_stream(settings) as stream:
        for number in range(5):
            stream.append(np.full((12, 16), number, np.uint16))
    with open_recording(tmp_path / "a.ome.zarr") as recording:
        assert recording.index_shape == (3, 2)
        assert recording.present is not None
        assert recording.present.ravel().tolist() == [True] * 5 + [False]
        assert frames_of(recording)[:, :, 0, 0].tolist() == [[0, 1], [2, 3], [4, 0]]


def test_stream_that_was_not_closed(tmp_path: Path) -> None:
    """Nobody knows what such a dataset holds: it is refused, and read after recovery."""
    root = tmp_path / "a.ome.zarr"
    acquire(root, (Dimension(name="t", count=4), *FRAME), skipped=[2])
    document = json.loads((root / "zarr.json").read_text())
    document["attributes"]["ome_writers"]["completeness"]["closed"] = False
    (root / "zarr.json").write_text(json.dumps(document))
    with pytest.raises(RecordingError, match=r"was not closed.*ome-writers recover"):
        open_recording(root)
    recover(root)
    with open_recording(root) as recording:
        assert recording.frames_missing == 1


def test_missing_frames_that_nobody_can_name(tmp_path: Path) -> None:
    """Without the files that tell which frames are missing, none is passed off as recorded."""
    root = tmp_path / "a.ome.zarr"
    acquire(root, (Dimension(name="t", count=4), *FRAME), skipped=[2])
    (root / "ome_writers" / "frames.txt").unlink()
    with pytest.raises(RecordingError, match=r"frames\.txt nobody knows"):
        open_recording(root)
    (root / "ome_writers" / "settings.json").unlink()
    with pytest.raises(RecordingError, match=r"settings\.json .*nobody knows which"):
        open_recording(root)


def test_records_without_their_file(tmp_path: Path) -> None:
    """The copies in the images' attributes serve where the file is gone, and a broken last line is left out."""
    root = tmp_path / "a.ome.zarr"
    acquire(root, (PositionDimension(coords=["a", "b"]), Dimension(name="t", count=3), *FRAME))
    file = root / "ome_writers" / "frames.jsonl"
    with file.open("a") as records:
        records.write('{"frame":0,"image":"a","stor')
    for there in (True, False):
        if not there:
            file.unlink()
        with open_recording(root) as recording:
            assert recording.metadata((1, 2)) == {"delta_t": 1.25, "laser": {"power": 5}}
            assert recording.metadata((0, 0)) == {"delta_t": 0.0, "laser": {"power": 0}}
    for image in "ab":
        document = json.loads((root / image / "zarr.json").read_text())
        del document["attributes"]["ome_writers"]["frame_metadata"]
        (root / image / "zarr.json").write_text(json.dumps(document))
    with open_recording(root) as recording:
        assert recording.metadata((1, 2)) in ({"delta_t": 1.25}, None)


def test_chunks_that_are_not_there_are_black_frames(tmp_path: Path) -> None:
    """Writers leave out chunks of the fill value: these frames were recorded."""
    pixels = noise(4, 6, 7)
    pixels[2] = 9
    write_image(tmp_path / "a.zarr", pixels, "tyx", "0.5", fill_value=9, config={"write_empty_chunks": False})
    assert not (tmp_path / "a.zarr/0/c/2").exists()
    with open_recording(tmp_path / "a.zarr") as recording:
        assert recording.present is None
        np.testing.assert_array_equal(frames_of(recording), pixels)


# ---- bad sources -----------------------------------------------------------------------------------------------------


def _spoil(file: Path, how: str) -> None:
    content = file.read_bytes()
    cut = {"short": content[:-5], "half": content[: len(content) // 2], "empty": b""}
    file.write_bytes(cut[how])


DAMAGES: dict[str, dict[str, Any]] = {
    "v2 raw": {"version": "0.4"},
    "v2 blosc": {"version": "0.4", "compressors": numcodecs.Blosc()},
    "v2 zlib": {"version": "0.4", "compressors": numcodecs.Zlib()},
    "v3 raw": {"version": "0.5"},
    "v3 blosc": {"version": "0.5", "compressors": BloscCodec()},
    "v3 shards": {"version": "0.5", "compressors": BloscCodec(), "chunks": (1, 8, 10), "shards": (2, 8, 10)},
    "v3 shards of one": {"version": "0.5", "compressors": BloscCodec(), "chunks": (1, 8, 10), "shards": (1, 8, 10)},
}


@pytest.mark.parametrize("how", ["short", "half", "empty"])
@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_chunk(name: str, how: str, tmp_path: Path) -> None:
    """A chunk or shard that is cut off is an error that names the frame, and never read as zeros or as what follows."""
    pixels = noise(4, 8, 10)
    write_image(tmp_path / "a.zarr", pixels, "tyx", **DAMAGES[name])
    files = [f for f in (tmp_path / "a.zarr" / "0").rglob("*") if f.is_file() and "z" not in f.name]
    _spoil(max(files), how)
    with open_recording(tmp_path / "a.zarr") as recording:
        out = np.empty((8, 10), np.uint16)
        recording.read((0,), out)
        np.testing.assert_array_equal(out, pixels[0])
        with pytest.raises(RecordingError, match=r"a\.zarr: frame \(3,\) can't be read from array '0'"):
            recording.read((3,), out)
        with pytest.raises(RecordingError, match="can't be read from array"):
            replay(recording, tmp_path / "b.ome.zarr")


@pytest.mark.parametrize("how", ["short", "half"])
@pytest.mark.parametrize("whole", [True, False])
def test_damaged_shard_whose_index_is_first(how: str, whole: bool, tmp_path: Path) -> None:
    """Such a shard keeps its index when it is cut off; chunks missing in it are no damage."""
    pixels = noise(4, 8, 10)
    pixels[0] = 0
    codec = ShardingCodec(chunk_shape=(1, 8, 10), codecs=[BytesCodec(), BloscCodec()], index_location="start")
    write_group(tmp_path / "a.zarr", {"multiscales": multiscales("tyx", "0.5")}, "0.5")
    write_array(tmp_path / "a.zarr/0", pixels, "0.5", chunks=(1 if whole else 4, 8, 10), serializer=codec)
    with open_recording(tmp_path / "a.zarr") as recording:
        np.testing.assert_array_equal(frames_of(recording), pixels)
    _spoil(max(f for f in (tmp_path / "a.zarr/0/c").rglob("*") if f.is_file()), how)
    with open_recording(tmp_path / "a.zarr") as recording, pytest.raises(RecordingError, match=r"frame \(3,\)"):
        recording.read((3,), np.empty((8, 10), np.uint16))


def _edit(file: Path, change: Any) -> None:
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))


def _multiscale(**changes: Any) -> Any:
    return lambda root: _edit(root / ".zattrs", lambda d: d["multiscales"][0].update(changes))


def _axis(place: int, **changes: Any) -> Any:
    return lambda root: _edit(root / ".zattrs", lambda d: d["multiscales"][0]["axes"][place].update(changes))


def _array(**changes: Any) -> Any:
    return lambda root: _edit(root / "0" / ".zarray", lambda d: d.update(changes))


def _without_ome(root: Path) -> None:
    (root / ".zattrs").write_text("{}")
    shutil.rmtree(root / "0")


_SCALE = {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1]}]}
_NAN = {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1, 1, float("nan")]}]}

BAD: dict[str, tuple[Any, str]] = {
    "broken JSON": (lambda root: (root / ".zattrs").write_text("{"), "is damaged, as it is no JSON"),
    "a list": (lambda root: (root / ".zattrs").write_text("[]"), "should be a mapping"),
    "no array": (lambda root: shutil.rmtree(root / "0"), "array '0', which multiscales name, is not there"),
    "no datasets": (_multiscale(datasets=[]), "name no array"),
    "fewer axes": (_multiscale(axes=["y", "x"]), "2 axes, but the array has 3"),
    "axes": (_multiscale(axes="tyx"), "axes should be a list of mappings"),
    "no frame axes": (_axis(1, name="a", type="other"), "lack y and x"),
    "name of an axis": (_axis(0, name="a/b"), "axis 'a/b' can't be a dimension"),
    "no name": (_axis(0, name=None), "an axis has no name"),
    "scale": (_multiscale(datasets=[_SCALE]), "should be 3 numbers"),
    "scale that is no number": (_multiscale(datasets=[_NAN]), "holds 'NaN', no number"),
    "complex": (_array(dtype="<c8", fill_value=[0.0, 0.0]), "complex64 can't be stored"),
    "bool": (_array(dtype="|b1", fill_value=False), "bool can't be stored"),
    "structured": (_array(dtype=[["a", "<u2"], ["b", "<u2"]], fill_value=None), "can't be stored"),
    "unknown type": (_array(dtype="<q9"), "can't read this array"),
    "unknown codec": (_array(compressor={"id": "jpegls"}), "can't read this array"),
    "shape": (_array(shape="large"), "no shape that makes sense"),
    "zero-length": (_array(shape=[0, 6, 7]), "axis t has 0 steps"),
    "no OME": (_without_ome, "holds no image"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_image(name: str, tmp_path: Path) -> None:
    """What is wrong with a dataset is said in words, as a RecordingError."""
    write_image(tmp_path / "a.zarr", noise(3, 6, 7), "tyx", "0.4")
    change, message = BAD[name]
    change(tmp_path / "a.zarr")
    with pytest.raises(RecordingError, match=message):
        open_recording(tmp_path / "a.zarr")


def test_bad_collections(tmp_path: Path) -> None:
    """Images, wells and fields that are listed and not there are named, and images that differ."""
    write_group(tmp_path / "a.zarr", {"bioformats2raw.layout": 3}, "0.5")
    write_image(tmp_path / "a.zarr/0", noise(3, 6, 7), "tyx", "0.5")
    write_image(tmp_path / "a.zarr/1", noise(3, 6, 8), "tyx", "0.5")
    with pytest.raises(RecordingError, match=r"0 \(tyx: 3x6x7, uint16\); 1 \(tyx: 3x6x8, uint16\).*image"):
        open_recording(tmp_path / "a.zarr")
    for image in (1, "1"):
        with open_recording(tmp_path / "a.zarr", image=image) as recording:
            assert recording.frame_shape == (6, 8)
    with pytest.raises(RecordingError, match="there is no image 2; there are 2"):
        open_recording(tmp_path / "a.zarr", image=2)
    with pytest.raises(RecordingError, match="no images are called 'left'; there are '0', '1'"):
        open_recording(tmp_path / "a.zarr", image="left")
    write_group(tmp_path / "a.zarr/OME", {"series": ["0", "7"]}, "0.5")
    with pytest.raises(RecordingError, match="image '7', which OME/ lists"):
        open_recording(tmp_path / "a.zarr")
    next(k for k in KINDS if k.variant == "plate").make(tmp_path)
    shutil.rmtree(tmp_path / "plate.zarr/A/1/1")
    with pytest.raises(RecordingError, match="field '1' of well A/1 is not there"):
        open_recording(tmp_path / "plate.zarr")
    shutil.rmtree(tmp_path / "plate.zarr/A/1")
    with pytest.raises(RecordingError, match="well A/1, which the plate lists, is not there"):
        open_recording(tmp_path / "plate.zarr")


def test_bare_arrays(tmp_path: Path) -> None:
    """Arrays without metadata need their axes named; a group of several needs one to be chosen."""
    write_group(tmp_path / "g.zarr", {}, "0.5")
    pixels = noise(2, 3, 6, 7)
    write_array(tmp_path / "g.zarr/first", pixels, "0.5")
    with pytest.raises(RecordingError, match="4 dimensions does not say what they are"):
        open_recording(tmp_path / "g.zarr")
    with open_recording(tmp_path / "g.zarr", axes="t,angle,y,x") as recording:
        np.testing.assert_array_equal(frames_of(recording), pixels)
        assert recording.dimensions[1].name == "angle"
    write_array(tmp_path / "g.zarr/second", pixels, "0.5", dimension_names=["t", "z", "y", "x"])
    with pytest.raises(RecordingError, match="a group of 2 arrays, first, second; choose one with image"):
        open_recording(tmp_path / "g.zarr")
    with open_recording(tmp_path / "g.zarr", image="second") as recording:
        assert [d.name for d in recording.dimensions] == ["t", "z", "y", "x"]
    with pytest.raises(RecordingError, match="name the axes t, z, y, x; leave axes out"):
        open_recording(tmp_path / "g.zarr/second", axes="tcyx")
    with pytest.raises(RecordingError, match="leave shape, dtype and offset out"):
        open_recording(tmp_path / "g.zarr/second", dtype="uint8")


def test_library_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command that installs it is named."""
    write_image(tmp_path / "a.zarr", noise(3, 6, 7), "tyx", "0.4")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BackendMissingError, match=r'pip install "ome-writers\[replay\]"'):
        open_recording(tmp_path / "a.zarr")


def test_closed_recording(tmp_path: Path) -> None:
    """A recording that is closed says so, and may be closed again."""
    write_image(tmp_path / "a.zarr", noise(3, 6, 7), "tyx", "0.4")
    recording = open_recording(tmp_path / "a.zarr")
    recording.close()
    recording.close()
    with pytest.raises(RecordingError, match="is closed"):
        recording.read((0,), np.empty((6, 7), np.uint16))


# ---- blocks ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Keys of the chunks that are read."""
    keys: list[str] = []
    get = zarr_arrays._WholeChunks.get

    async def counted(self: Any, key: str, *arguments: Any, **options: Any) -> Any:
        if not key.endswith(("zarr.json", ".zarray", ".zattrs")):
            keys.append(key)
        return await get(self, key, *arguments, **options)

    monkeypatch.setattr(zarr_arrays._WholeChunks, "get", counted)
    return keys


def test_chunks_of_many_frames_are_read_once(tmp_path: Path, reads: list[str]) -> None:
    """Neighbouring frames come from one decoded block, also when several threads ask for them at once."""
    pixels = noise(64, 30, 40)
    write_image(tmp_path / "a.zarr", pixels, "tyx", "0.4", chunks=(16, 15, 40), compressors=numcodecs.Blosc())
    with open_recording(tmp_path / "a.zarr") as recording:
        outs = np.empty_like(pixels)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda t: recording.read((t,), outs[t]), range(64)))
        np.testing.assert_array_equal(outs, pixels)
    assert sorted(reads) == sorted(set(reads))
    assert len(reads) == 8


def test_blocks_larger_than_memory_are_read_frame_by_frame(
    tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only chunks that hold a part of the frame are decoded, few at a time."""
    monkeypatch.setattr(zarr_arrays, "BlockCache", lambda: BlockCache(3 * 2 * 8 * 20 * 2))
    pixels = noise(4, 30, 40)
    write_image(tmp_path / "a.zarr", pixels, "tyx", "0.4", chunks=(2, 8, 20))
    with open_recording(tmp_path / "a.zarr") as recording:
        np.testing.assert_array_equal(frames_of(recording), pixels)
    assert len(reads) == 4 * 8
    write_image(tmp_path / "b.zarr", pixels.transpose(2, 0, 1), "xty", "0.4", chunks=(20, 2, 8))
    with open_recording(tmp_path / "b.zarr") as recording:
        np.testing.assert_array_equal(frames_of(recording), pixels)


def test_large_chunks_are_kept_in_parts(tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk that is much larger than the memory for blocks is decoded once for several of its frames."""

    class SmallCache(BlockCache):
        exceptional = 1

    monkeypatch.setattr(zarr_arrays, "BlockCache", lambda: SmallCache(6 * 4 * 640))  # parts of four frames
    pixels = noise(3, 22, 16, 20)
    write_image(tmp_path / "a.zarr", pixels, "tzyx", "0.4", chunks=(2, 15, 16, 20))
    with open_recording(tmp_path / "a.zarr") as recording:
        np.testing.assert_array_equal(frames_of(recording), pixels)
    assert len(reads) == 3 * (4 + 2)  # parts of 4, 4, 4, 3 and of 4, 3 frames


@pytest.mark.parametrize("frames_of_limit", [0.5, 4])
def test_chunk_beyond_the_limit_is_decoded_once(
    frames_of_limit: float, tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chunk of more than the memory for blocks is decoded once, one at a time, also if a frame of it is too large."""
    monkeypatch.setattr(zarr_arrays, "BlockCache", lambda: BlockCache(int(frames_of_limit * 16 * 20 * 2)))
    count = int(4 * frames_of_limit)
    pixels = noise(3 * count, 16, 20)
    write_image(tmp_path / "a.zarr", pixels, "tyx", "0.4", chunks=(count, 16, 20))
    with open_recording(tmp_path / "a.zarr") as recording:
        np.testing.assert_array_equal(frames_of(recording), pixels)
    assert sorted(reads) == [f"0/{chunk}/0/0" for chunk in range(3)]


def test_one_work_beyond_the_limit_at_a_time() -> None:
    """Threads that need more memory each than there is take turns."""
    cache, most, working = BlockCache(1000), 0, 0
    lock = threading.Lock()

    def work() -> None:
        nonlocal most, working
        with cache.room(5000):
            with lock:
                working += 1
                most = max(most, working)
            time.sleep(0.01)
            with lock:
                working -= 1

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(work) for _ in range(8)]:
            done.result()
    assert most == 1


def test_folder_of_a_digit_that_is_no_number(tmp_path: Path) -> None:
    """Names of images with digits that are no decimal numbers, such as superscripts, are sorted like any other."""
    zarr.open_group(tmp_path / "g.zarr", mode="w", zarr_format=3)
    for name in ("\N{SUPERSCRIPT TWO}", "7"):
        write_image(tmp_path / "g.zarr" / name, noise(2, 6, 7), "tyx", "0.5")
    with open_recording(tmp_path / "g.zarr") as recording:
        assert recording.index_shape == (2, 2)


def test_cache_keeps_to_its_limit() -> None:
    """Blocks and what decoding takes stay within the limit, whatever the number of threads; the oldest go first."""
    cache, decoding, most = BlockCache(10 * 100), 0, 0
    lock = threading.Lock()

    def decode() -> Any:
        nonlocal decoding, most
        with lock:
            decoding += 1
            most = max(most, decoding)
        time.sleep(0.002)
        with lock:
            decoding -= 1
        assert cache._used <= 1000
        return np.zeros(100, np.uint8)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: cache.get(key, 100, decode), range(60)))
    assert 2 <= most <= 3  # of 3 x 100 bytes each
    assert cache._used == 100 * len(cache._blocks) <= 1000
    assert 59 in cache._blocks
    assert 0 not in cache._blocks


def test_failed_block_is_decoded_anew() -> None:
    """An error reaches everybody who waits, leaves no memory taken, and is not kept."""
    cache = BlockCache(1000)

    def fail() -> Any:
        time.sleep(0.05)
        raise ValueError("torn")

    with ThreadPoolExecutor(3) as pool:
        for waiting in [pool.submit(cache.get, "a", 100, fail) for _ in range(3)]:
            with pytest.raises(ValueError, match="torn"):
                waiting.result()
    assert cache._used == 0
    assert cache.get("a", 100, lambda: np.ones(1))[0] == 1


def test_large_block_waits_for_others() -> None:
    """A block beyond the limit is decoded alone, and does not wait for ever."""
    cache = BlockCache(1000)
    cache.get("small", 300, lambda: np.zeros(1))
    assert cache.get("huge", 5000, lambda: np.ones(1))[0] == 1
    assert cache.get("next", 100, lambda: np.ones(1))[0] == 1
    assert cache._used <= 1000


def test_zarr_of_the_package_reads_any_store_layout(tmp_path: Path) -> None:
    """A plain zarr-python hierarchy without OME metadata, whose groups are images, is a collection of them."""
    zarr.open_group(tmp_path / "g.zarr", mode="w", zarr_format=3)
    for number in (10, 9):
        write_image(tmp_path / "g.zarr" / f"pos{number}", noise(2, 6, 7) + number, "tyx", "0.5")
    with open_recording(tmp_path / "g.zarr") as recording:
        assert [p.name for p in recording.dimensions[0].coords or ()] == ["pos9", "pos10"]  # type: ignore[union-attr]
        np.testing.assert_array_equal(frames_of(recording)[1], noise(2, 6, 7) + 10)
