"""Recorded acquisitions in TIFF files: every kind, replayed and read back."""

from __future__ import annotations

import json
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import tifffile

from micromanager_writer import write_stack
from ome_writers import AcquisitionSettings, Channel, Dimension, Position, open_recording, replay
from ome_writers.recordings import Recording, _files, _tiff_pages
from readers import Pixels, document, find_images, read_images, validate
from recorded_tiff import KINDS, Kind, Made, noise

by_kind = pytest.mark.parametrize("kind", KINDS, ids=str)


def of(name: str) -> Kind:
    """Return the kind that is called so."""
    return next(kind for kind in KINDS if str(kind) == name)


@contextmanager
def opened(made: Made) -> Iterator[Recording]:
    with open_recording(made.source, **made.options) as recording:
        yield recording


def read_all(recording: Recording) -> Pixels:
    """Return all frames of a recording that are present."""
    pixels = np.zeros((*recording.index_shape, *recording.frame_shape), recording.dtype)
    for index in np.ndindex(recording.index_shape):
        if recording.present is None or recording.present[index]:
            recording.read(index, pixels[index])
    return pixels


def images_of(made: Made) -> list[tuple[Pixels, tuple[str, ...]]]:
    """Return the images that a dataset of a recording has, each with its axes in the order of OME-NGFF."""
    images = [(made.expected, made.names)]
    if "p" in made.names:
        names = tuple(name for name in made.names if name != "p")
        images = [(pixels, names) for pixels in np.moveaxis(made.expected, made.names.index("p"), 0)]
    order = sorted(images[0][1], key=lambda name: "tczyx".find(name) if name in "tczyx" else 1)
    return [(pixels.transpose([names.index(name) for name in order]), tuple(order)) for pixels, names in images]


def replayed(made: Made, folder: Path, **settings: Any) -> Path:
    root = folder / "replayed.ome.zarr"
    with opened(made) as recording:
        report = replay(recording, AcquisitionSettings(root_path=root, **settings))
    assert report.frames_appended == report.frames_total
    return root


def read_by_threads(recording: Recording, expected: Pixels) -> None:
    """Check what four threads read at once, in any order."""
    indices = [*np.ndindex(recording.index_shape)] * 4
    np.random.default_rng(1).shuffle(indices)
    together = threading.Barrier(4)

    def read(some: list[tuple[int, ...]]) -> None:
        together.wait()
        out = np.empty(recording.frame_shape, recording.dtype)
        for index in some:
            recording.read(tuple(index), out)
            assert out.tobytes() == expected[tuple(index)].tobytes()

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(read, indices[n::4]) for n in range(4)]:
            done.result()


# ---- every kind ----------------------------------------------------------------------------------------------------


@by_kind
def test_replay_is_bit_exact(kind: Kind, tmp_path: Path) -> None:
    """A recording of each kind arrives in OME-Zarr bit by bit, along the same axes."""
    source = tmp_path / "source"
    source.mkdir()
    made = kind.make(source)
    root = replayed(made, tmp_path)
    validate(root)
    expected = images_of(made)
    found = find_images(root)
    assert [image.axes for image in found] == [axes for _, axes in expected]
    for library in ("tensorstore", "zarr-python"):
        for read, (wanted, _) in zip(read_images(root, library), expected, strict=True):
            assert (read.shape, read.dtype) == (wanted.shape, wanted.dtype)
            assert read.tobytes() == wanted.tobytes()


@by_kind
def test_kind_and_dimensions(kind: Kind, tmp_path: Path) -> None:
    """A recording says what kind it is, and has the dimensions and the pixel type that were recorded."""
    made = kind.make(tmp_path)
    with opened(made) as recording:
        assert recording.kind == kind.kind
        assert tuple(d.name for d in recording.dimensions) == made.names
        assert (*recording.index_shape, *recording.frame_shape) == made.expected.shape
        assert recording.dtype == made.expected.dtype.name
        assert recording.present is None


@by_kind
def test_dataset_tells_what_the_recording_tells(kind: Kind, tmp_path: Path) -> None:
    """Scales, units, channel names and colours of the recording stand in the dataset's OME metadata."""
    source = tmp_path / "source"
    source.mkdir()
    made = kind.make(source)
    root = replayed(made, tmp_path)
    with opened(made) as recording:
        dimensions = {d.name: d for d in recording.dimensions}
        attributes = dict(recording.attributes)
    for image in find_images(root):
        ome = document(root / image.group)["attributes"]["ome"]
        (multiscale,) = ome["multiscales"]
        scales = multiscale["datasets"][0]["coordinateTransformations"][0]["scale"]
        for axis, scale in zip(multiscale["axes"], scales, strict=True):
            assert axis.get("unit") == dimensions[axis["name"]].unit
            assert scale == (dimensions[axis["name"]].scale or 1.0)
        channels = [c for c in dimensions["c"].coords or () if isinstance(c, Channel)] if "c" in dimensions else []
        for given, shown in zip(channels, ome["omero"]["channels"] if channels else (), strict=True):
            assert shown["label"] == given.name
            assert given.color is None or shown["color"] == given.color.removeprefix("#").upper()
    assert {key: document(root)["attributes"][key] for key in attributes} == json.loads(json.dumps(attributes))


@by_kind
def test_frames_are_read_by_threads_at_once(kind: Kind, tmp_path: Path) -> None:
    """Frames that four threads read at the same time, in any order, are those that one thread reads."""
    made = kind.make(tmp_path)
    with opened(made) as recording:
        read_by_threads(recording, made.expected)


@by_kind
def test_reading_without_positional_reads(kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On systems without preadv, such as Windows, the same pixels are read."""
    monkeypatch.setattr(_files, "_File", _files._LockedFile)
    made = kind.make(tmp_path)
    with opened(made) as recording:
        np.testing.assert_array_equal(read_all(recording), made.expected)


@by_kind
def test_opened_again_from_its_origin(kind: Kind, tmp_path: Path) -> None:
    """Another process opens the same recording from what its origin says."""
    made = kind.make(tmp_path)
    with opened(made) as recording:
        origin = recording.origin
    assert origin is not None
    source, options = origin
    with open_recording(source, **options) as again:
        np.testing.assert_array_equal(read_all(again), made.expected)


def test_threads_without_positional_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where threads share the place of a file, they do not get each other's pixels."""
    monkeypatch.setattr(_files, "_File", _files._LockedFile)
    pixels = noise(40, 256, 256)
    tifffile.imwrite(tmp_path / "many.tif", pixels, photometric="minisblack", metadata=None)
    with open_recording(tmp_path / "many.tif") as recording:
        for _ in range(3):
            read_by_threads(recording, pixels)


# ---- metadata, kind by kind ----------------------------------------------------------------------------------------


def coords(recording: Recording, name: str) -> list[Any]:
    return next(d.coords or [] for d in recording.dimensions if d.name == name)


def spacing(recording: Recording) -> dict[str, tuple[float | None, str | None]]:
    return {d.name: (d.scale, d.unit) for d in recording.dimensions if d.scale is not None}


def test_ome_metadata(tmp_path: Path) -> None:
    """Pixel sizes, time step, channels, stage position and planes are those of the OME-XML, in this package's units."""
    with opened(of("OME-TIFF, one file").make(tmp_path)) as recording:
        assert spacing(recording) == {
            "t": (250.0, "millisecond"), "z": (1.5, "micrometer"), "y": (325.0, "nanometer"),
            "x": (0.325, "micrometer"),
        }  # fmt: skip
        assert coords(recording, "c") == [
            Channel(name="GFP", color="#00ff00", excitation_wavelength_nm=488, emission_wavelength_nm=509,
                    fluorophore="EGFP"),
            Channel(name="mCherry", color="#ff0000", excitation_wavelength_nm=561, emission_wavelength_nm=610,
                    fluorophore="mCherry"),
        ]  # fmt: skip
        assert coords(recording, "p") == [Position(name="embryo", x_coord=12.5, y_coord=250.0, z_coord=100.0)]
        assert recording.metadata((0, 1, 0, 2)) == {
            "delta_t": pytest.approx(0.008),
            "exposure_time": 0.01,
            "position_x": 12.5,
            "position_y": 250.0,
            "position_z": 102.0,
        }


def test_ome_planes_stand_in_the_dataset(tmp_path: Path) -> None:
    """What OME-XML says of each plane is in the dataset's records of frames."""
    root = replayed(of("OME-TIFF, one file").make(tmp_path), tmp_path)
    records = [json.loads(line) for line in (root / "ome_writers" / "frames.jsonl").read_text().splitlines()]
    assert [record["metadata"]["delta_t"] for record in records] == pytest.approx([n / 1000 for n in range(12)])


def test_ome_images_are_positions(tmp_path: Path) -> None:
    """Images of an OME-TIFF are positions, with their names and stage positions."""
    with opened(of("OME-TIFF, several images").make(tmp_path)) as recording:
        assert coords(recording, "p") == [Position(name=f"field {n}", x_coord=100.0 * n) for n in range(3)]


def test_stage_labels_name_positions(tmp_path: Path) -> None:
    """Where OME-XML labels stage positions, these are the names, and the names of images are kept beside."""
    with opened(of("OME-TIFF, several files").make(tmp_path)) as recording:
        assert coords(recording, "p") == [
            Position(name=f"well {n} stage", x_coord=10.0 * n, y_coord=5.0) for n in range(2)
        ]
        assert recording.attributes == {"recording": {"image_names": ["well 0", "well 1"]}}


def test_plate(tmp_path: Path) -> None:
    """Wells of an OME plate are wells of the dataset."""
    made = of("OME-TIFF, plate").make(tmp_path)
    with opened(made) as recording:
        assert recording.plate is not None
        assert recording.plate.row_names == ["A", "B"]
        assert recording.plate.column_names == ["1", "2", "3", "4"]
        wells = [(p.plate_row, p.plate_column) for p in coords(recording, "p")]
        assert wells == [("B", "3"), ("B", "3"), ("B", "4"), ("B", "4")]
    root = replayed(made, tmp_path)
    assert [w["path"] for w in document(root)["attributes"]["ome"]["plate"]["wells"]] == ["B/3", "B/4"]


@pytest.mark.parametrize(("image", "number"), [(1, 1), ("field 1", 1), (0, 0)])
def test_one_of_several_images(image: int | str, number: int, tmp_path: Path) -> None:
    """An image is chosen by number or name."""
    made = of("OME-TIFF, several images").make(tmp_path)
    with open_recording(made.source, image=image) as recording:
        np.testing.assert_array_equal(read_all(recording), made.expected[number][None])


def test_sparse_ome_tiff_has_missing_frames(tmp_path: Path) -> None:
    """Planes that no TiffData speaks of were not recorded."""
    path = tmp_path / "sparse.ome.tif"
    pixels = noise(2, 8, 9)
    text = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
        '<Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" SizeX="9" SizeY="8" SizeZ="1" SizeC="1" SizeT="3">'
        '<TiffData IFD="0" FirstT="0" PlaneCount="1"/><TiffData IFD="1" FirstT="2" PlaneCount="1"/>'
        "</Pixels></Image></OME>"
    )
    tifffile.imwrite(path, pixels, photometric="minisblack", metadata=None, description=text.encode())
    with open_recording(path) as recording:
        assert recording.present is not None
        assert recording.present.tolist() == [True, False, True]
        np.testing.assert_array_equal(read_all(recording)[[0, 2]], pixels)
        with pytest.raises(ValueError, match="frame t=1 was not recorded"):
            recording.read((1,), np.empty((8, 9), np.uint16))


def test_renamed_ome_tiff(tmp_path: Path) -> None:
    """A single file that was renamed is found, though its OME-XML names it otherwise."""
    made = of("OME-TIFF, plate").make(tmp_path)
    assert isinstance(made.source, Path)
    other = made.source.rename(tmp_path / "other name.ome.tif")
    with open_recording(other) as recording:
        np.testing.assert_array_equal(read_all(recording), made.expected)


def test_ome_tiff_given_by_its_folder(tmp_path: Path) -> None:
    """A folder of the files of one OME-TIFF is that dataset, not a series of files."""
    made = of("OME-TIFF, several files").make(tmp_path)
    with open_recording(tmp_path) as recording:
        assert recording.kind == "OME-TIFF"
        np.testing.assert_array_equal(read_all(recording), made.expected)


def test_micromanager_metadata(tmp_path: Path) -> None:
    """Summary and tags of Micro-Manager become dimensions, and are kept as they are; NaN, which JSON lacks, as text."""
    with opened(of("Micro-Manager image stack, several positions and files").make(tmp_path)) as recording:
        assert spacing(recording) == {
            "t": (1500.0, "millisecond"), "z": (2.0, "micrometer"), "y": (0.65, "micrometer"),
            "x": (0.65, "micrometer"),
        }  # fmt: skip
        assert coords(recording, "c") == [Channel(name="DAPI", color="#0000ff"), Channel(name="Cy5", color="#ff0000")]
        assert coords(recording, "p") == [
            Position(name=f"Pos{n}", x_coord=100.0 * n, y_coord=-3.5, z_coord=0.0) for n in range(2)
        ]
        found = recording.metadata((1, 1, 2, 1))
        assert found is not None
        meanings = {key: found[key] for key in ("delta_t", "exposure_time", "position_x", "position_y", "position_z")}
        assert meanings == {
            "delta_t": 1.521, "exposure_time": 0.02, "position_x": 100.0, "position_y": -3.5, "position_z": 4.0
        }  # fmt: skip
        assert found["Temperature"] == "NaN"
        assert recording.attributes["micromanager"]["Note"] == "NaN"
        assert recording.attributes["micromanager"]["Prefix"] == "run"


def test_micromanager_folder(tmp_path: Path) -> None:
    """The folder of a Micro-Manager acquisition is read as its files are."""
    made = of("Micro-Manager image stack, several positions and files").make(tmp_path)
    with open_recording(tmp_path) as recording:
        assert recording.kind == "Micro-Manager image stack"
        np.testing.assert_array_equal(read_all(recording), made.expected)


def test_stopped_micromanager_acquisition(tmp_path: Path) -> None:
    """Frames that an acquisition planned and did not take are missing."""
    made = of("Micro-Manager image stack, several positions and files").make(tmp_path)
    (tmp_path / "run_MMStack_Pos1_1.ome.tif").unlink()
    with opened(made) as recording:
        assert recording.frames_missing == 5
        read = read_all(recording)
        assert recording.present is not None
        np.testing.assert_array_equal(read[recording.present], made.expected[recording.present])
    with pytest.raises(ValueError, match="5 of 24 frames are missing"):
        replay(made.source, tmp_path / "never.ome.zarr")


def test_ndtiff_metadata(tmp_path: Path) -> None:
    """Axes with names are channels, and summary and tags are those that were written."""
    with opened(of("NDTiff, time, position, channel, z").make(tmp_path)) as recording:
        assert spacing(recording) == {
            "t": (100.0, "millisecond"), "z": (0.5, "micrometer"), "y": (0.1, "micrometer"), "x": (0.1, "micrometer")
        }  # fmt: skip
        assert coords(recording, "c") == [Channel(name="GFP"), Channel(name="RFP")]
        assert [p.x_coord for p in coords(recording, "p")] == [0.0, 50.0]
        found = recording.metadata((1, 1, 0, 2))
        assert found is not None
        assert (found["delta_t"], found["exposure_time"], found["position_z"]) == (0.1, 0.005, 1.0)
        assert recording.attributes["micromanager"]["Prefix"] == "nd"


def test_sparse_ndtiff(tmp_path: Path) -> None:
    """Combinations of axes that an NDTiff dataset lacks were not recorded."""
    made = of("NDTiff, other axes").make(tmp_path)
    index = tmp_path / "nd" / "NDTiff.index"
    data = index.read_bytes()
    entry = len(data) // 6  # all have the same size
    index.write_bytes(data[: 2 * entry] + data[3 * entry :])
    with opened(made) as recording:
        assert recording.present is not None
        assert recording.present.tolist() == [[True, True], [False, True], [True, True]]
        np.testing.assert_array_equal(read_all(recording)[recording.present], made.expected[recording.present])


def test_imagej_metadata(tmp_path: Path) -> None:
    """Sizes, interval, colours of lookup tables, and labels are those of the hyperstack."""
    with opened(of("ImageJ hyperstack, one file").make(tmp_path)) as recording:
        assert spacing(recording) == {
            "t": (2.5, "second"), "z": (0.75, "micrometer"), "y": (0.5, "micrometer"), "x": (0.25, "micrometer")
        }  # fmt: skip
        assert [c.color for c in coords(recording, "c")] == ["#ff0000", "#0080ff"]
        assert recording.metadata((1, 0, 1)) == {"label": "slice 7"}
        assert recording.attributes["imagej"]["Ranges"] == [0.0, 100.0, 5.0, 200.0]
        assert recording.attributes["imagej"]["Info"] == "made by a test"


def test_pixel_size_of_plain_files(tmp_path: Path) -> None:
    """Pixels per centimetre are sizes; pixels per inch, which every program writes, are not."""
    with opened(of("TIFF, pages").make(tmp_path)) as recording:
        assert spacing(recording) == {"y": (1.0, "micrometer"), "x": (0.5, "micrometer")}
    tifffile.imwrite(tmp_path / "inch.tif", noise(8, 9), resolution=(72, 72), resolutionunit=2, metadata=None)
    with open_recording(tmp_path / "inch.tif") as recording:
        assert spacing(recording) == {}
        assert recording.index_shape == ()


def test_separate_files_of_micromanager(tmp_path: Path) -> None:
    """What metadata.txt says of files is known of their frames."""
    with opened(of("TIFF series, Micro-Manager separate files").make(tmp_path)) as recording:
        found = recording.metadata((1, 1, 2))
        assert found is not None
        assert (found["delta_t"], found["position_z"]) == (1.521, 4.0)
        assert [c.name for c in coords(recording, "c")] == ["DAPI", "Cy5"]


# ---- series --------------------------------------------------------------------------------------------------------


def test_series_with_a_missing_file(tmp_path: Path) -> None:
    """A file that a full grid would have is a missing frame; the others are where their names say."""
    made = of("TIFF series, numbered by names, in a folder").make(tmp_path)
    (tmp_path / "img_t0002_z001_c0_p1.tif").unlink()
    with opened(made) as recording:
        assert recording.present is not None
        assert np.argwhere(~recording.present).tolist() == [[1, 1, 0, 1]]
        np.testing.assert_array_equal(read_all(recording)[recording.present], made.expected[recording.present])
    with pytest.raises(ValueError, match="1 of 24 frames are missing"):
        replay(made.source, tmp_path / "never.ome.zarr")
    report = replay(made.source, tmp_path / "skipped.ome.zarr", skip_missing=True)
    assert (report.frames_skipped, report.frames_appended) == (1, 23)


def test_gap_in_a_numbered_series(tmp_path: Path) -> None:
    """A number that is missing between others is a missing frame, also where all others have steps larger than one."""
    for number in (0, 10, 20, 40):
        tifffile.imwrite(tmp_path / f"scan_{number}.tif", noise(8, 9, seed=number), metadata=None)
    with open_recording(tmp_path) as recording:
        assert recording.present is not None
        assert recording.present.tolist() == [True, True, True, False, True]
        np.testing.assert_array_equal(read_all(recording)[4], noise(8, 9, seed=40))


def test_many_files_are_read_with_few_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A series of many files keeps a bounded number of them open, and reads each."""
    monkeypatch.setattr(_files, "_OPEN_FILES", 3)
    made = of("TIFF series, a pattern, one number").make(tmp_path)
    with opened(made) as recording:
        np.testing.assert_array_equal(read_all(recording), made.expected)
        held = [file.path for file in psutil.Process().open_files() if Path(file.path).is_relative_to(tmp_path)]
        assert 1 <= len(held) <= 3


def test_axes_named_by_the_user(tmp_path: Path) -> None:
    """Axes that files do not name are called as the user says, those along files first."""
    made = of("TIFF series, a list of stacks").make(tmp_path)
    with open_recording(made.source, axes="angle,t,y,x") as recording:
        assert [(d.name, d.type) for d in recording.dimensions[:2]] == [("angle", "other"), ("t", "time")]
        np.testing.assert_array_equal(read_all(recording), made.expected)


def test_dimensions_type_of_unnamed_stack(tmp_path: Path) -> None:
    """Pages that say nothing are a series in time, or what the user says."""
    made = of("TIFF, pages").make(tmp_path)
    with open_recording(made.source, axes="zyx") as recording:
        assert recording.dimensions[0] == Dimension(name="z", count=5)


# ---- codecs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "jpeg"},
        {"compression": "jpeg", "tile": (16, 16)},
        {"compression": "jpeg", "photometric": "rgb", "tile": (32, 16)},
        {"compression": "packbits"},
        {"compression": "lzma", "rowsperstrip": 7},
        {"compression": "jpeg2000"},
        {"compression": "zlib", "photometric": "rgb", "planarconfig": "separate", "rowsperstrip": 7},
        {"photometric": "rgb", "planarconfig": "separate", "tile": (16, 16)},
        {"photometric": "rgb", "rowsperstrip": 7},
        {"photometric": "rgb", "extrasamples": ["unassalpha"]},
        {"tile": (64, 64)},
    ],
    ids=str,
)
def test_codecs(options: dict[str, Any], tmp_path: Path) -> None:
    """Pages that are stored in any way are read as tifffile reads them."""
    samples = {None: 1, "rgb": 3}[options.get("photometric")] + len(options.get("extrasamples", ()))
    shape = (20, 26) if samples == 1 else (20, 26, samples)
    if options.get("planarconfig"):
        shape = (samples, 20, 26)
    path = tmp_path / "codec.tif"
    options = {"photometric": "minisblack", **options}
    with tifffile.TiffWriter(path) as writer:
        for n in range(3):
            writer.write(noise(*shape, dtype="uint8", seed=n), metadata=None, contiguous=False, **options)
    wanted = np.stack([tifffile.imread(path, key=n) for n in range(3)])
    if samples > 1 and not options.get("planarconfig"):
        wanted = np.moveaxis(wanted, -1, 1)
    with open_recording(path) as recording:
        assert [d.name for d in recording.dimensions] == (["t", "c", "y", "x"] if samples > 1 else ["t", "y", "x"])
        np.testing.assert_array_equal(read_all(recording), wanted)


def test_packed_pixels(tmp_path: Path) -> None:
    """Pixels of 12 bits, packed, are read as 16 bit."""
    pixels = noise(3, 21, 32) >> 4
    packed = pixels.astype(np.uint32).reshape(3, 21, 16, 2)
    data = np.stack([packed[..., 0] >> 4, (packed[..., 0] & 15) << 4 | packed[..., 1] >> 8, packed[..., 1] & 255], -1)
    path = tmp_path / "packed.tif"
    with path.open("wb") as file:  # tifffile does not pack
        size = 21 * 32 * 3 // 2
        file.write(struct.pack("<2sHI", b"II", 42, 8))
        for n, page in enumerate(data.astype(np.uint8)):
            start = file.tell()
            fields = [(256, 32), (257, 21), (258, 12), (259, 1), (262, 1), (273, start + 114), (278, 21), (279, size)]
            file.write(struct.pack("<H", len(fields) + 1))
            for tag, value in [*fields[:6], (277, 1), *fields[6:]]:
                file.write(struct.pack("<HHII", tag, 4, 1, value))
            file.write(struct.pack("<I", start + 114 + size if n < 2 else 0))
            assert file.tell() == start + 114
            file.write(page.tobytes())
    with open_recording(path) as recording:
        assert recording.dtype == "uint16"
        np.testing.assert_array_equal(read_all(recording), pixels)


def test_tiles_that_were_never_written_are_empty(tmp_path: Path) -> None:
    """Tiles without bytes, which writers leave out where there is nothing, are 0, as tifffile reads them."""
    tiles = [noise(16, 16, seed=1), None, None, noise(16, 16, seed=4)]
    path = tmp_path / "sparse.tif"
    tifffile.imwrite(
        path, iter(tiles), shape=(32, 32), dtype="uint16", tile=(16, 16), compression="zlib", metadata=None
    )
    with open_recording(path) as recording:
        read = read_all(recording)
        np.testing.assert_array_equal(read, tifffile.imread(path))
        assert not read[:16, 16:].any()


def test_shaped_file_with_one_directory(tmp_path: Path) -> None:
    """Of a file that tifffile wrote with a directory for the first page only, all pages are read."""
    pixels = noise(4, 3, 20, 26)
    path = tmp_path / "one.tif"
    tifffile.imwrite(path, pixels, photometric="minisblack", metadata={"axes": "TZYX"}, truncate=True)
    with tifffile.TiffFile(path) as file:
        assert len(file.pages) == 1
    with open_recording(path) as recording:
        assert [d.name for d in recording.dimensions] == ["t", "z", "y", "x"]
        np.testing.assert_array_equal(read_all(recording), pixels)


@pytest.mark.parametrize("image", [0, 1])
def test_series_within_a_file(image: int, tmp_path: Path) -> None:
    """One of several series that tifffile wrote to a file is chosen by its number."""
    path = tmp_path / "two.tif"
    series = [noise(4, 20, 26), noise(3, 2, 8, 9)]
    with tifffile.TiffWriter(path) as writer:
        for pixels, axes in zip(series, ("TYX", "TZYX"), strict=True):
            writer.write(pixels, photometric="minisblack", metadata={"axes": axes})
    with pytest.raises(ValueError, match="2 series of images; choose one with image"):
        open_recording(path)
    with open_recording(path, image=image) as recording:
        np.testing.assert_array_equal(read_all(recording), series[image])


def test_planned_frames_of_micromanager_2(tmp_path: Path) -> None:
    """What a later version of Micro-Manager intended is known, and what it did not record is missing."""
    pixels = noise(2, 9, 8)
    frames = [((0, 0, t, 0), page, {"ElapsedTime-ms": 5.0 * t}) for t, page in enumerate(pixels)]
    path = tmp_path / "run_MMStack_Default.ome.tif"
    write_stack(path, {"IntendedDimensions": {"time": 3, "channel": 1, "z": 1, "position": 1}}, frames)
    with open_recording(path) as recording:
        assert recording.present is not None
        assert recording.present.tolist() == [True, True, False]
        np.testing.assert_array_equal(read_all(recording)[:2], pixels)


def test_strips_in_any_order(tmp_path: Path) -> None:
    """Uncompressed strips that do not follow each other in the file are put in their places."""
    pixels = noise(20, 26)
    path = tmp_path / "strips.tif"
    tifffile.imwrite(path, pixels, rowsperstrip=10, metadata=None)
    with tifffile.TiffFile(path) as file:
        first, second = file.pages.first.dataoffsets
        places = file.pages.first.tags["StripOffsets"].valueoffset
    half = pixels.nbytes // 2
    with path.open("r+b") as raw:
        raw.seek(first)
        raw.write(pixels[10:].tobytes() + pixels[:10].tobytes())
        raw.seek(places)
        raw.write(struct.pack("<2I", second, first))
    assert second == first + half
    with open_recording(path) as recording:
        np.testing.assert_array_equal(read_all(recording), pixels)


# ---- orders of axes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axes", ["TCZYX", "TZCYX", "CTZYX", "CZTYX", "ZTCYX", "ZCTYX"])
def test_order_of_ome_dimensions(axes: str, tmp_path: Path) -> None:
    """Planes are where OME-XML's DimensionOrder says, and dimensions are in the order in which they are stored."""
    pixels = noise(2, 3, 4, 8, 9)
    tifffile.imwrite(tmp_path / "order.ome.tif", pixels, photometric="minisblack", metadata={"axes": axes})
    with open_recording(tmp_path / "order.ome.tif") as recording:
        assert "".join(d.name for d in recording.dimensions) == f"p{axes.lower()}"
        np.testing.assert_array_equal(read_all(recording)[0], pixels)


@pytest.mark.parametrize("suffix", [".tif", ".ome.tif"])
def test_colour_of_several_channels(suffix: str, tmp_path: Path) -> None:
    """Samples of each of several channels are channels, the fastest dimension, since they are stored together."""
    pixels = noise(2, 4, 8, 9, 3, dtype="uint8")
    path = tmp_path / f"colours{suffix}"
    tifffile.imwrite(path, pixels, photometric="rgb", metadata={"axes": "CZYXS"})
    with open_recording(path) as recording:
        assert [d.name for d in recording.dimensions][-4:] == ["z", "c", "y", "x"]
        names = [f"C{channel} {name}" for channel in range(2) for name in ("Red", "Green", "Blue")]
        assert [c.name for c in coords(recording, "c")] == names
        wanted = pixels.transpose(1, 0, 4, 2, 3).reshape(4, 6, 8, 9)
        np.testing.assert_array_equal(read_all(recording).reshape(wanted.shape), wanted)


def test_imagej_stack_without_dimensions(tmp_path: Path) -> None:
    """A stack whose description only counts images is a series in time."""
    pixels = noise(5, 8, 9)
    tifffile.imwrite(
        tmp_path / "stack.tif", pixels, photometric="minisblack", metadata=None, description="ImageJ=1.54f\nimages=5\n"
    )
    with open_recording(tmp_path / "stack.tif") as recording:
        assert [d.name for d in recording.dimensions] == ["t", "y", "x"]
        np.testing.assert_array_equal(read_all(recording), pixels)


def test_interleaved_samples_of_large_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples of pages that are too large to be kept are taken from bands of rows."""
    monkeypatch.setattr(_tiff_pages, "_BAND_BYTES", 26 * 3 * 7)
    pixels = noise(2, 20, 26, 3, dtype="uint8")
    tifffile.imwrite(tmp_path / "large.tif", pixels, photometric="rgb", metadata=None)
    with open_recording(tmp_path / "large.tif") as recording:
        np.testing.assert_array_equal(read_all(recording), np.moveaxis(pixels, -1, 1))


def test_unit_that_imagej_escapes(tmp_path: Path) -> None:
    """The sign of the micrometer, which ImageJ writes as Java escapes it, is a micrometer."""
    text = "ImageJ=1.54f\nimages=2\nslices=2\nunit=\\u00B5m\nspacing=0.5\n"
    path = tmp_path / "unit.tif"
    tifffile.imwrite(path, noise(2, 8, 9), metadata=None, photometric="minisblack", resolution=(4, 2), description=text)
    with open_recording(path) as recording:
        assert spacing(recording) == {"z": (0.5, "micrometer"), "y": (0.5, "micrometer"), "x": (0.25, "micrometer")}


def test_notes_of_file_systems_in_a_folder(tmp_path: Path) -> None:
    """Hidden files, such as macOS puts beside each file on other systems' drives, are no part of a series."""
    made = of("TIFF series, numbered by names, in a folder").make(tmp_path)
    (tmp_path / "._img_t0001_z000_c0_p0.tif").write_bytes(b"\0\5\x16\7")
    with opened(made) as recording:
        np.testing.assert_array_equal(read_all(recording), made.expected)


def test_ome_metadata_that_means_nothing(tmp_path: Path) -> None:
    """Colours, wavelengths and units that mean nothing are left out; the pixels are read."""
    path = tmp_path / "odd.ome.tif"
    text = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
        '<Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" SizeX="9" SizeY="8" SizeZ="2" SizeC="1" SizeT="1"'
        ' PhysicalSizeX="0" PhysicalSizeY="0.5" PhysicalSizeYUnit="pixel" PhysicalSizeZ="2" PhysicalSizeZUnit="thou">'
        '<Channel ID="Channel:0:0" Name="GFP" Color="green" EmissionWavelength="0" Fluor=""/><TiffData/>'
        '<Plane TheT="0" TheC="0" TheZ="1" PositionX="3" PositionY="4" PositionYUnit="nm" DeltaT="nan"/>'
        "</Pixels></Image></OME>"
    )
    tifffile.imwrite(path, noise(2, 8, 9), photometric="minisblack", metadata=None, description=text.encode())
    with open_recording(path) as recording:
        assert spacing(recording) == {"z": (50.8, "micrometer"), "y": (0.5, None)}
        assert coords(recording, "c") == [Channel(name="GFP")]
        assert recording.metadata((0, 0, 1)) == {"position_y": 0.004}
        assert recording.metadata((0, 0, 0)) is None
        assert read_all(recording).tobytes() == noise(2, 8, 9).tobytes()
