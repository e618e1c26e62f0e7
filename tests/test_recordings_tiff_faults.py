"""Recorded acquisitions in TIFF files that are damaged, incomplete or of no kind that can be read."""

from __future__ import annotations

import logging
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from ome_writers import open_recording, replay
from ome_writers.errors import RecordingError
from ome_writers.recordings import Recording
from recorded_tiff import KINDS, Kind, Made, noise

by_kind = pytest.mark.parametrize("kind", KINDS, ids=str)


def make(name: str, folder: Path) -> Made:
    return next(kind for kind in KINDS if str(kind) == name).make(folder)


def read_all(recording: Recording) -> None:
    out = np.empty(recording.frame_shape, recording.dtype)
    for index in np.ndindex(recording.index_shape):
        recording.read(index, out)


def read_what_is_whole(recording: Recording, made: Made) -> list[str]:
    """Check that each frame that can be read is right; return why others can't."""
    out = np.empty(recording.frame_shape, recording.dtype)
    errors = []
    for index in np.ndindex(recording.index_shape):
        if recording.present is not None and not recording.present[index]:
            continue
        try:
            recording.read(index, out)
        except RecordingError as error:
            errors.append(str(error))
            continue
        assert out.tobytes() == made.expected[index].tobytes()
    return errors


def path_of(made: Made) -> Path:
    assert isinstance(made.source, Path)
    return made.source


# ---- truncated and damaged -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", [0.0, 0.01, 0.3, 0.6, 0.9, 0.999])
@by_kind
def test_truncated(kind: Kind, part: float, tmp_path: Path) -> None:
    """A file that lacks its end, wherever it was cut, is refused, or is read without it; no pixel is made up."""
    made = kind.make(tmp_path)
    file = max(tmp_path.rglob("*.tif"), key=lambda p: (p.stat().st_size, p.name))
    whole = file.read_bytes()
    file.write_bytes(whole[: int(part * len(whole))])
    errors: list[str] = []
    try:
        with open_recording(made.source, **made.options) as recording:
            errors += read_what_is_whole(recording, made)
    except RecordingError as error:
        errors.append(str(error))
    assert all(file.name in error for error in errors)
    assert errors or part > 0.9  # the end may hold nothing that is needed


@pytest.mark.parametrize(
    "name",
    ["OME-TIFF, one file", "OME-TIFF, deflate", "ImageJ hyperstack, more than 4 GB, one directory",
     "Micro-Manager image stack, one file", "NDTiff, time, position, channel, z", "TIFF, pages"],
)  # fmt: skip
def test_truncated_in_the_pixels(name: str, tmp_path: Path) -> None:
    """A file without its last third is refused when it is opened, not after hours, and says so."""
    made = make(name, tmp_path)
    (file,) = tmp_path.rglob("*.tif")
    whole = file.read_bytes()
    file.write_bytes(whole[: 2 * len(whole) // 3])
    with pytest.raises(RecordingError, match="truncated"):
        open_recording(made.source)


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"tile": (16, 16)}])
def test_truncated_in_the_last_page(options: dict[str, Any], tmp_path: Path) -> None:
    """A file whose directories are all there and whose last pixels are not is refused when it is opened."""
    path = tmp_path / "one.tif"
    tifffile.imwrite(path, noise(64, 64), metadata=None, **options)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(RecordingError, match="the pixels of page 0 end at byte"):
        open_recording(path)


def test_page_without_all_of_its_strips(tmp_path: Path) -> None:
    """A page that does not say where all of its strips are is damaged; what it lacks is not made up."""
    path = tmp_path / "strips.tif"
    tifffile.imwrite(path, noise(30, 26), rowsperstrip=10, compression="zlib", metadata=None)
    with tifffile.TiffFile(path) as file:
        entries = [file.pages.first.tags[name].offset for name in ("StripOffsets", "StripByteCounts")]
    with path.open("r+b") as raw:
        for entry in entries:
            raw.seek(entry + 4)
            raw.write(struct.pack("<I", 2))
    with pytest.raises(RecordingError, match=r"page 0 says of 2 of its 3 parts where they are"):
        open_recording(path)


def test_pages_that_are_volumes(tmp_path: Path) -> None:
    """Pages of several slices are refused: they are no frames."""
    path = tmp_path / "volume.tif"
    tifffile.imwrite(path, noise(16, 32, 32), volumetric=True, tile=(16, 16, 16), metadata=None)
    with pytest.raises(RecordingError, match="page 0 is a volume"):
        open_recording(path)


@by_kind
def test_truncated_while_it_is_read(kind: Kind, tmp_path: Path) -> None:
    """A frame that is not there any more is an error that names the frame and the file; never zeros."""
    made = kind.make(tmp_path)
    files = sorted(tmp_path.rglob("*.tif"))
    with open_recording(made.source, **made.options) as recording:
        for file in files:
            file.write_bytes(b"")
        index = (0,) * len(recording.index_shape)
        out = np.empty(recording.frame_shape, recording.dtype)
        with pytest.raises(RecordingError, match=r"truncated|damaged|empty") as raised:
            recording.read(index, out)
    assert any(file.name in str(raised.value) for file in files)


def test_replay_of_a_file_that_shrinks_fails(tmp_path: Path) -> None:
    """A replay whose source ends too early fails with the source's error, and says which frame."""
    made = make("OME-TIFF, one file", tmp_path)
    with open_recording(made.source) as recording:
        whole = path_of(made).read_bytes()
        path_of(made).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(RecordingError, match=r"frame p=0, t=.* should have"):
            replay(recording, tmp_path / "never.ome.zarr")


@pytest.mark.parametrize("name", ["OME-TIFF, deflate", "OME-TIFF, Zstandard, tiled, big endian"])
def test_damaged_compressed_pixels(name: str, tmp_path: Path) -> None:
    """Compressed pixels that can't be decoded are an error that names frame and file."""
    made = make(name, tmp_path)
    with tifffile.TiffFile(path_of(made)) as file:
        page = file.pages[4]
        offset, size = page.dataoffsets[1], page.databytecounts[1]
    with path_of(made).open("r+b") as raw:
        raw.seek(offset)
        raw.write(b"\xa5" * size)
    with open_recording(made.source) as recording, pytest.raises(RecordingError, match=r"frame p=0.*one\.ome\.tif|one"):
        read_all(recording)


def test_circle_of_directories(tmp_path: Path) -> None:
    """Pages whose chain comes back to an earlier one end in an error, not in an endless loop."""
    made = make("TIFF, pages", tmp_path)
    with tifffile.TiffFile(path_of(made)) as file:
        first, last = file.pages.first.offset, file.pages[-1].offset
        link = last + 2 + 12 * len(file.pages.first.tags)
    with path_of(made).open("r+b") as raw:
        raw.seek(link)
        raw.write(struct.pack("<I", first))
    with pytest.raises(RecordingError, match="circle"):
        open_recording(made.source)


def test_damaged_description(tmp_path: Path) -> None:
    """OME-XML that is not well-formed is an error that says so."""
    path = tmp_path / "bad.ome.tif"
    tifffile.imwrite(path, noise(8, 9), metadata=None, description="<OME><Image></OME>")
    with pytest.raises(RecordingError, match="OME-XML can't be read"):
        open_recording(path)


def test_ome_xml_of_another_file(tmp_path: Path) -> None:
    """OME-XML that speaks of more pages than there are is an error."""
    path = tmp_path / "short.ome.tif"
    pixels = noise(4, 8, 9)
    tifffile.imwrite(path, pixels, metadata={"axes": "TYX"}, photometric="minisblack")
    text = str(tifffile.tiffcomment(path)).replace('SizeT="4"', 'SizeT="6"').replace('PlaneCount="4"', 'PlaneCount="6"')
    tifffile.imwrite(path, pixels, metadata=None, photometric="minisblack", description=text.encode())
    with pytest.raises(RecordingError, match=r"page 5, but the file has 4 pages"):
        open_recording(path)


def test_ndtiff_index_cut(tmp_path: Path) -> None:
    """An index that ends within an entry is an error that says how many frames it tells of."""
    make("NDTiff, other axes", tmp_path)
    index = tmp_path / "nd" / "NDTiff.index"
    index.write_bytes(index.read_bytes()[:-5])
    with pytest.raises(RecordingError, match="damaged after 5 frames"):
        open_recording(tmp_path / "nd")


def test_ndtiff_with_what_the_format_does_not_define(tmp_path: Path) -> None:
    """Compression and pixel types that NDTiff does not define are refused."""
    make("NDTiff, other axes", tmp_path)
    index = tmp_path / "nd" / "NDTiff.index"
    data = index.read_bytes()
    kind, compression = len(data) - 20, len(data) - 16  # of the last entry
    index.write_bytes(data[:compression] + b"\1" + data[compression + 1 :])
    with pytest.raises(RecordingError, match="compressed pixels"):
        open_recording(tmp_path / "nd")
    index.write_bytes(data[:kind] + b"\x63" + data[kind + 1 :])
    with pytest.raises(RecordingError, match="type 99 can't be read"):
        open_recording(tmp_path / "nd")


def test_micromanager_without_index_or_metadata(tmp_path: Path) -> None:
    """A stack that does not say which frame a page is, is an error, not a guess."""
    made = make("Micro-Manager image stack, without index, after a crash", tmp_path)
    data = path_of(made).read_bytes()
    path_of(made).write_bytes(data.replace(struct.pack("<HH", 51123, 2), struct.pack("<HH", 51124, 2)))
    with pytest.raises(RecordingError, match="no index of frames"):
        open_recording(made.source)


# ---- missing -------------------------------------------------------------------------------------------------------


def test_missing_file_of_several(tmp_path: Path) -> None:
    """A file that an OME-TIFF of several files lacks is named."""
    made = make("OME-TIFF, several files", tmp_path)
    (tmp_path / "p0_t2.ome.tif").unlink()
    with pytest.raises(RecordingError, match=r"has 6 files, and p0_t2\.ome\.tif is missing"):
        open_recording(made.source)


def test_missing_companion(tmp_path: Path) -> None:
    """A companion file that a TIFF file points to and that is not there is named."""
    make("OME-TIFF, companion file", tmp_path)
    (tmp_path / "run.companion.ome").unlink()
    with pytest.raises(RecordingError, match=r"run\.companion\.ome, which is not in"):
        open_recording(tmp_path / "p0_t0.ome.tif")


def test_file_that_points_to_its_companion(tmp_path: Path) -> None:
    """Any of the TIFF files leads to the companion file, and so to the whole dataset."""
    made = make("OME-TIFF, companion file", tmp_path)
    with open_recording(tmp_path / "p1_t0.ome.tif") as recording:
        out = np.empty(recording.frame_shape, recording.dtype)
        recording.read((1, 2, 1), out)
        np.testing.assert_array_equal(out, made.expected[1, 2, 1])


def test_missing_file_of_ndtiff(tmp_path: Path) -> None:
    """A file that an NDTiff index speaks of and that is not there is named."""
    make("NDTiff, other axes", tmp_path)
    (tmp_path / "nd" / "NDTiffStack.tif").unlink()
    with pytest.raises(RecordingError, match=r"NDTiffStack\.tif of this NDTiff dataset is missing"):
        open_recording(tmp_path / "nd")


def test_missing_file_of_a_list(tmp_path: Path) -> None:
    """A file of a list that is not there is named."""
    with pytest.raises(RecordingError, match=r"gone\.tif: there is no such file"):
        open_recording([tmp_path / "gone.tif"])


def test_pattern_that_finds_nothing(tmp_path: Path) -> None:
    """A pattern of no file says so."""
    with pytest.raises(RecordingError, match="no file has a name like this"):
        open_recording(str(tmp_path / "*.tif"))


# ---- of no kind that can be read -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "empty"), (b"no image at all", "not a TIFF file"), (b"II*\0", "not a TIFF file"),
     (b"II*\0\0\0\0\0", "holds no page"), (b"II*\0\xff\0\0\0", "truncated"), (b"MM\0*\0\0\0\x08\0\0", "can't be read")],
)  # fmt: skip
def test_no_tiff_file(content: bytes, message: str, tmp_path: Path) -> None:
    """A file that is no TIFF file, or nothing but its header, says what is wrong with it."""
    path = tmp_path / "not.tif"
    path.write_bytes(content)
    with pytest.raises(RecordingError, match=message):
        open_recording(path)


def test_pages_of_several_shapes(tmp_path: Path) -> None:
    """Pages of several shapes are named, and one shape can be chosen."""
    path = tmp_path / "mixed.tif"
    with tifffile.TiffWriter(path) as writer:
        for n in range(3):
            writer.write(noise(8, 9, seed=n), metadata=None, contiguous=False)
        writer.write(noise(5, 6), metadata=None, contiguous=False)
    with pytest.raises(RecordingError, match=r"0: 3 pages of 8 x 9 uint16, 1: 1 pages of 5 x 6 uint16"):
        open_recording(path)
    with open_recording(path, image=0) as recording:
        assert recording.index_shape == (3,)
    with pytest.raises(RecordingError, match="no image 2; there are 0 to 1"):
        open_recording(path, image=2)


def test_images_of_several_shapes(tmp_path: Path) -> None:
    """Images of an OME-TIFF that have several shapes are named, and one can be chosen."""
    path = tmp_path / "mixed.ome.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(noise(2, 8, 9), metadata={"axes": "TYX", "Name": "small"}, photometric="minisblack")
        writer.write(noise(3, 8, 9), metadata={"axes": "TYX", "Name": "large"}, photometric="minisblack")
    with pytest.raises(RecordingError, match=r"0: 'small' \(.*t=2.*1: 'large' \(.*t=3"):
        open_recording(path)
    with open_recording(path, image="large") as recording:
        assert recording.index_shape == (1, 3)
    with pytest.raises(RecordingError, match="no image 'huge'"):
        open_recording(path, image="huge")


def test_images_of_several_pixel_sizes(tmp_path: Path) -> None:
    """Images with different pixel sizes are no positions of one recording: one of the sizes would be lost."""
    path = tmp_path / "sizes.ome.tif"
    with tifffile.TiffWriter(path) as writer:
        for size in (0.1, 0.2):
            writer.write(noise(8, 9), metadata={"axes": "YX", "PhysicalSizeX": size, "PhysicalSizeXUnit": "µm"})
    with pytest.raises(RecordingError, match="different pixel sizes or channels"):
        open_recording(path)


def test_unnamed_axes(tmp_path: Path) -> None:
    """Several axes of which nothing is known must be named, and are not guessed."""
    path = tmp_path / "unnamed.tif"
    pixels = noise(2, 3, 8, 9)
    tifffile.imwrite(path, pixels, photometric="minisblack")
    with pytest.raises(RecordingError, match="name all with axes"):
        open_recording(path)
    with open_recording(path, axes="zcyx") as recording:
        assert [d.name for d in recording.dimensions] == ["z", "c", "y", "x"]
    with pytest.raises(RecordingError, match="are 3 names, but there are 4"):
        open_recording(path, axes="cyx")


@pytest.mark.parametrize("dtype", ["complex64", "bool"])
@pytest.mark.parametrize("metadata", [None, {"axes": "TYX"}])
@pytest.mark.parametrize("suffix", [".tif", ".ome.tif"])
def test_pixel_types_that_can_not_be_stored(
    dtype: str, metadata: dict[str, Any] | None, suffix: str, tmp_path: Path
) -> None:
    """Pixels of a type that can't be stored are refused when the file is opened."""
    path = tmp_path / f"pixels{suffix}"
    tifffile.imwrite(path, np.zeros((3, 8, 9), dtype), photometric="minisblack", metadata=metadata)
    with pytest.raises(RecordingError, match="can't be stored"):
        open_recording(path)


def test_files_of_a_series_of_several_shapes(tmp_path: Path) -> None:
    """Files of a series that have several shapes are named."""
    tifffile.imwrite(tmp_path / "a1.tif", noise(8, 9), metadata=None)
    tifffile.imwrite(tmp_path / "a2.tif", noise(8, 10), metadata=None)
    with pytest.raises(RecordingError, match=r"a1\.tif is 8 x 9 uint16, page 0 of a2\.tif is 8 x 10 uint16"):
        open_recording(tmp_path)


def test_files_of_a_series_of_several_lengths(tmp_path: Path) -> None:
    """Stacks of a series that have several lengths are named."""
    for name, count in (("a1", 2), ("a2", 3)):
        tifffile.imwrite(
            tmp_path / f"{name}.tif", noise(count, 8, 9), photometric="minisblack", metadata={"axes": "ZYX"}
        )
    with pytest.raises(RecordingError, match=r"a2\.tif: it has z=3, y=8, x=9, and a1\.tif has z=2"):
        open_recording(tmp_path)


def test_files_of_several_kinds_of_names(tmp_path: Path) -> None:
    """Files that do not belong together by their names are not mixed into one series."""
    for name in ("cells_t1", "cells_t2", "beads_t1"):
        tifffile.imwrite(tmp_path / f"{name}.tif", noise(8, 9), metadata=None)
    with pytest.raises(RecordingError, match=r"different kinds, such as 'beads_t1' and 'cells_t1'"):
        open_recording(tmp_path)
    with open_recording(str(tmp_path / "cells*.tif")) as recording:
        assert recording.index_shape == (2,)


def test_several_acquisitions_in_a_folder(tmp_path: Path) -> None:
    """Micro-Manager acquisitions that share a folder are named, and not mixed."""
    made = make("Micro-Manager image stack, one file", tmp_path)
    (tmp_path / "other_MMStack_Pos0.ome.tif").write_bytes(path_of(made).read_bytes())
    with pytest.raises(RecordingError, match="2 acquisitions are in this folder"):
        open_recording(tmp_path)
    with open_recording(made.source) as recording:
        assert recording.frames == 12


@pytest.mark.parametrize(
    ("name", "options"),
    [("OME-TIFF, one file", {"axes": "tczyx"}), ("OME-TIFF, one file", {"dtype": "u2"}),
     ("ImageJ hyperstack, one file", {"axes": "tzcyx"}), ("ImageJ hyperstack, one file", {"image": 1}),
     ("Micro-Manager image stack, one file", {"axes": "tzcyx"}), ("NDTiff, other axes", {"image": 0}),
     ("TIFF, with tifffile's axes", {"shape": (6, 33, 29)}), ("TIFF, pages", {"shape": (5, 33, 29)}),
     ("TIFF, pages", {"shape": (2, 3, 33, 29), "axes": "tzyx"}), ("TIFF series, a list of stacks", {"image": 0}),
     ("TIFF series, a list of stacks", {"axes": "tyx"})],
)  # fmt: skip
def test_options_that_do_not_apply(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    """An option that a source has no use for, or that does not fit it, is an error and not left aside."""
    made = make(name, tmp_path)
    with pytest.raises(RecordingError):
        open_recording(made.source, **options)


# ---- libraries -----------------------------------------------------------------------------------------------------


_MISSING = """
import sys, pathlib
sys.modules["{library}"] = None
from ome_writers import open_recording
from ome_writers.errors import BackendMissingError
try:
    open_recording(pathlib.Path(sys.argv[1]))
except BackendMissingError as error:
    assert '{library}' in str(error) and 'pip install "ome-writers[replay]"' in str(error), error
else:
    raise SystemExit("it was opened")
"""


@pytest.mark.parametrize("library", ["tifffile", "imagecodecs"])
def test_missing_library(library: str, tmp_path: Path) -> None:
    """Where a library is missing, the error says how it is installed, when the file is opened."""
    made = make("OME-TIFF, LZW with predictor", tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", _MISSING.format(library=library), str(made.source)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_tifffile_logs_is_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What tifffile says of a damaged tag is one warning of this package, and no line for each page."""
    path = tmp_path / "odd.tif"
    with tifffile.TiffWriter(path) as writer:
        for n in range(3):
            writer.write(noise(8, 9, seed=n), metadata=None, contiguous=False, resolution=(1, 1))
    with tifffile.TiffFile(path) as file:
        entry = file.pages.first.tags["XResolution"].offset
    with path.open("r+b") as raw:
        raw.seek(entry + 8)
        raw.write(struct.pack("<I", 1 << 31))  # the value lies beyond the end of the file
    with caplog.at_level(logging.DEBUG), pytest.warns(UserWarning, match="may be damaged") as warned:
        open_recording(path).close()
    assert len(warned) == 1
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_numbers_of_frames_that_make_no_sense(tmp_path: Path) -> None:
    """An index with a number that no acquisition has is damaged; no memory is taken for all that it counts."""
    made = make("Micro-Manager image stack, one file", tmp_path)
    data = path_of(made).read_bytes()
    path_of(made).write_bytes(data[:-12] + struct.pack("<i", 1 << 30) + data[-8:])  # frame number of the last entry
    with pytest.raises(RecordingError, match="12 frames are said to lie on a grid"):
        open_recording(made.source)
