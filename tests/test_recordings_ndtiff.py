"""NDTiff datasets and Micro-Manager image stacks whose indexes say something unexpected."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ndstorage
import numpy as np
import pytest
import tifffile

from micromanager_writer import write_stack
from ome_writers import open_recording
from ome_writers.errors import RecordingError
from ome_writers.recordings import Recording
from recorded_tiff import _finish, noise

Axes = dict[str, Any]


def ndtiff(folder: Path, axes: Sequence[Axes], shape: tuple[int, ...] = (8, 9)) -> list[Any]:
    """Write an NDTiff dataset, ``nd`` in a folder, of a frame for each of some axes; return the frames."""
    pixels = [noise(*shape, seed=n) for n in range(len(axes))]
    dataset = ndstorage.NDTiffDataset(str(folder / "nd"), summary_metadata={}, writable=True)
    for of_frame, frame in zip(axes, pixels, strict=True):
        dataset.put_image(of_frame, frame, {})
    _finish(dataset)
    return pixels


def frames_of(recording: Recording) -> Any:
    """Return all frames of a recording; zeros where there is none."""
    pixels = np.zeros((*recording.index_shape, *recording.frame_shape), recording.dtype)
    for index in np.ndindex(recording.index_shape):
        if recording.present is None or recording.present[index]:
            recording.read(index, pixels[index])
    return pixels


# ---- NDTiff --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "axes",
    [
        [{"time": 0}, {"time": 0, "z": 0}, {"time": 0, "z": 1}],
        [{"time": 0, "channel": "A"}, {"time": 0}],
    ],
)
def test_frames_at_one_place(axes: list[Axes], tmp_path: Path) -> None:
    """Frames of different axes that would lie at the same place are refused, and none is lost."""
    ndtiff(tmp_path, axes)
    with pytest.raises(RecordingError, match="at the same place"):
        open_recording(tmp_path / "nd")


@pytest.mark.parametrize("axes", [{"time": 0}, {}, {"channel": "A"}])
@pytest.mark.parametrize("times", [1, 2])
def test_single_frame(axes: Axes, times: int, tmp_path: Path) -> None:
    """A dataset of a single frame is read, and is the last one where it was written again."""
    pixels = ndtiff(tmp_path, [axes] * times)
    with open_recording(tmp_path / "nd") as recording:
        assert (recording.frames, recording.frames_missing) == (1, 0)
        np.testing.assert_array_equal(frames_of(recording).reshape(8, 9), pixels[-1])


def test_frame_that_was_written_again(tmp_path: Path) -> None:
    """Of several frames of the same axes, the last one is meant."""
    pixels = ndtiff(tmp_path, [{"time": 0}, {"time": 1}, {"time": 0}])
    with open_recording(tmp_path / "nd") as recording:
        np.testing.assert_array_equal(frames_of(recording), [pixels[2], pixels[1]])


@pytest.mark.parametrize(
    ("numbers", "expected"), [((0, 1, 3), [1, 1, 0, 1]), ((-2, -1, 0), [1, 1, 1]), ((0, 100, 1000), [1, 1, 1])]
)
def test_gaps(numbers: tuple[int, ...], expected: list[int], tmp_path: Path) -> None:
    """Steps that no frame has between others are missing; numbers that are far apart are no steps."""
    ndtiff(tmp_path, [{"z": n} for n in numbers])
    with open_recording(tmp_path / "nd") as recording:
        present = np.ones(recording.index_shape, bool) if recording.present is None else recording.present
        assert present.tolist() == [bool(n) for n in expected]


@pytest.mark.parametrize("names", [("Foo", "foo"), ("t", "time")])
def test_axes_of_the_same_name(names: tuple[str, str], tmp_path: Path) -> None:
    """Axes that would be dimensions of one name are refused when the dataset is opened."""
    ndtiff(tmp_path, [{names[0]: i, names[1]: j} for i in range(2) for j in range(2)])
    with pytest.raises(RecordingError, match="would be dimensions of the same name"):
        open_recording(tmp_path / "nd")


def test_other_file_in_the_folder(tmp_path: Path) -> None:
    """A TIFF file beside an NDTiff dataset is read itself; those that its index names stand for the dataset."""
    pixels = ndtiff(tmp_path, [{"time": 0}, {"time": 1}])
    tifffile.imwrite(tmp_path / "nd" / "snap.tif", noise(30, 40), metadata=None)
    with open_recording(tmp_path / "nd" / "snap.tif") as recording:
        np.testing.assert_array_equal(frames_of(recording), noise(30, 40))
    with open_recording(tmp_path / "nd" / "NDTiffStack.tif") as recording:
        assert recording.kind == "NDTiff"
        np.testing.assert_array_equal(frames_of(recording), pixels)


def test_file_beside_a_damaged_index(tmp_path: Path) -> None:
    """A damaged index is told for the files of the dataset, and does not keep others from being read."""
    ndtiff(tmp_path, [{"time": 0}, {"time": 1}])
    index = tmp_path / "nd" / "NDTiff.index"
    index.write_bytes(index.read_bytes()[:-3])
    tifffile.imwrite(tmp_path / "nd" / "snap.tif", noise(30, 40), metadata=None)
    with open_recording(tmp_path / "nd" / "snap.tif") as recording:
        assert recording.kind == "TIFF"
    with pytest.raises(RecordingError, match="truncated or damaged after 1 frames"):
        open_recording(tmp_path / "nd" / "NDTiffStack.tif")


def test_frames_of_several_shapes(tmp_path: Path) -> None:
    """Frames of different shapes are refused, without advice that does not apply."""
    dataset = ndstorage.NDTiffDataset(str(tmp_path / "nd"), summary_metadata={}, writable=True)
    for t, shape in enumerate([(8, 9), (6, 9)]):
        dataset.put_image({"time": t}, noise(*shape), {})
    _finish(dataset)
    with pytest.raises(RecordingError, match="different shapes") as caught:
        open_recording(tmp_path / "nd")
    assert "give image" not in str(caught.value)


def test_damaged_index(tmp_path: Path) -> None:
    """Bits that flipped in the index are refused, or change a frame, but raise nothing else."""
    ndtiff(tmp_path, [{"time": t} for t in range(3)])
    index = tmp_path / "nd" / "NDTiff.index"
    whole = index.read_bytes()
    refused = 0
    for place in range(len(whole) // 3):
        for bit in (0, 5, 7):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << bit
            index.write_bytes(damaged)
            try:
                with open_recording(tmp_path / "nd") as recording:
                    frames_of(recording)
            except RecordingError:
                refused += 1
    assert refused > 20


def test_number_beyond_those_of_the_format(tmp_path: Path) -> None:
    """Steps that no acquisition can have are damage."""
    ndtiff(tmp_path, [{"time": 0}])
    index = tmp_path / "nd" / "NDTiff.index"
    whole = index.read_bytes()
    size = struct.unpack_from("<I", whole)[0]
    axes = json.dumps({"time": 10**400}).encode()
    index.write_bytes(struct.pack("<I", len(axes)) + axes + whole[4 + size :])
    with pytest.raises(RecordingError, match="damaged"):
        open_recording(tmp_path / "nd")


# ---- Micro-Manager image stacks ------------------------------------------------------------------------------------


def stack(path: Path, places: Sequence[tuple[int, int, int, int]], summary: Axes | None = None, **options: Any) -> None:
    """Write a file of frames at some places: channel, slice, frame, position."""
    frames = [(place, noise(8, 9, seed=n), {"n": n}) for n, place in enumerate(places)]
    write_stack(path, summary or {}, frames, **options)


def test_stacks_with_the_same_frame(tmp_path: Path) -> None:
    """Frames of one place, in one file or in two, are refused, and none is lost."""
    stack(tmp_path / "a_MMStack.ome.tif", [(0, 0, 0, 0), (1, 0, 0, 0)])
    stack(tmp_path / "a_MMStack_1.ome.tif", [(1, 0, 0, 0), (1, 0, 1, 0)])
    with pytest.raises(RecordingError, match=r"a_MMStack\.ome\.tif, a_MMStack_1\.ome\.tif have the same place"):
        open_recording(tmp_path / "a_MMStack.ome.tif")
    stack(tmp_path / "b_MMStack.ome.tif", [(0, 0, 0, 0), (0, 0, 0, 0)])
    with pytest.raises(RecordingError, match="2 frames of b_MMStack"):
        open_recording(tmp_path / "b_MMStack.ome.tif")


def test_link_to_a_stack(tmp_path: Path) -> None:
    """A file that is there under two names is one file."""
    stack(tmp_path / "a_MMStack.ome.tif", [(0, 0, 0, 0), (1, 0, 0, 0)])
    os.link(tmp_path / "a_MMStack.ome.tif", tmp_path / "a_MMStack_1.ome.tif")
    (tmp_path / "a_MMStack_2.ome.tif").mkdir()
    with open_recording(tmp_path / "a_MMStack_1.ome.tif") as recording:
        assert (recording.frames, recording.frames_missing) == (2, 0)


def test_position_labels_with_dots(tmp_path: Path) -> None:
    """Files belong together also where labels of positions have dots in them."""
    for position, label in enumerate(("1.5um", "2.5um")):
        stack(tmp_path / f"a_MMStack_{label}.ome.tif", [(0, 0, t, position) for t in range(2)])
    for source in (tmp_path, tmp_path / "a_MMStack_2.5um.ome.tif"):
        with open_recording(source) as recording:
            assert recording.index_shape == (2, 2)
            assert recording.frames_missing == 0


def test_step_downwards(tmp_path: Path) -> None:
    """A z step below 0, of a stage that goes down, is a distance."""
    stack(tmp_path / "a_MMStack.ome.tif", [(0, z, 0, 0) for z in range(2)], {"Slices": 2, "z-step_um": -1.5})
    with open_recording(tmp_path / "a_MMStack.ome.tif") as recording:
        assert [d.scale for d in recording.dimensions if d.name == "z"] == [1.5]


def test_directories_beyond_two_gigabytes(tmp_path: Path) -> None:
    """Places in the index of frames are unsigned, as in files of up to 4 GB."""
    path = tmp_path / "a_MMStack.ome.tif"
    stack(path, [(0, 0, 0, 0), (0, 1, 0, 0)])
    data = path.read_bytes()
    index = struct.unpack_from("<I", data, 12)[0]
    first, second = (struct.unpack_from("<I", data, index + 8 + 20 * n + 16)[0] for n in range(2))
    end = 2 + 12 * struct.unpack_from("<H", data, second)[0] + 4
    far = (1 << 31) + 64
    with path.open("r+b") as file:  # most of it is a hole
        for place in (first + end - 4, index + 8 + 20 + 16):
            file.seek(place)
            file.write(struct.pack("<I", far))
        file.seek(far)
        file.write(data[second : second + end])
    with open_recording(path) as recording:
        assert [(d.name, d.count) for d in recording.dimensions[:-2]] == [("z", 2)]
        np.testing.assert_array_equal(frames_of(recording)[1], noise(8, 9, seed=1))
