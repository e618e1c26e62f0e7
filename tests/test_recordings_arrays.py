"""Reading recorded acquisitions from arrays, ``.npy`` files and raw binary files."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import tifffile

from ome_writers import open_recording
from ome_writers.errors import RecordingError
from ome_writers.recordings import Recording, _arrays
from ome_writers.recordings._blocks import BlockCache
from recorded_zarr import noise, write_image


def frames_of(recording: Recording) -> Any:
    """Return all frames of a recording."""
    pixels = np.zeros((*recording.index_shape, *recording.frame_shape), recording.dtype)
    for index in np.ndindex(recording.index_shape):
        recording.read(index, pixels[index])
    return pixels


@pytest.mark.parametrize("axes", ["tcyx", "yxtc", "tyxc", "xtyc", "t,c,y,x"])
def test_axes_in_any_order(axes: str) -> None:
    """The frame's axes come last in the recording, whatever their order in the array."""
    pixels = noise(3, 4, 5, 6)
    names = axes.replace(",", "")
    with open_recording(pixels, axes=axes) as recording:
        found = [d.name for d in recording.dimensions]
        assert found == [a for a in names if a in "tc"] + ["y", "x"]
        np.testing.assert_array_equal(frames_of(recording), pixels.transpose([names.index(a) for a in found]))


@pytest.mark.parametrize("source", ["array", "npy", "memmap", "raw"])
@pytest.mark.parametrize("dtype", [">u2", "<u2", ">f4", "u1", "i8", "f2"])
def test_pixels_come_back(source: str, dtype: str, tmp_path: Path) -> None:
    """Byte order and pixel type make no difference, wherever the array is."""
    pixels = noise(3, 5, 6).astype(dtype)
    file = tmp_path / ("a.raw" if source == "raw" else "a.npy")
    if source == "raw":
        file.write_bytes(pixels.tobytes())
    else:
        np.save(file, pixels)
    given: dict[str, Any] = {
        "array": pixels,
        "npy": file,
        "memmap": np.load(file, mmap_mode="r") if source == "memmap" else None,
    }
    options: dict[str, Any] = {"shape": (3, 5, 6), "dtype": dtype} if source == "raw" else {}
    with open_recording(given.get(source, file), **options) as recording:
        assert recording.dtype == np.dtype(dtype).newbyteorder("=").name
        assert [d.name for d in recording.dimensions] == ["t", "y", "x"]
        np.testing.assert_array_equal(frames_of(recording), pixels)


def test_fortran_order(tmp_path: Path) -> None:
    """A file whose first axis is the fastest is read right."""
    pixels = noise(3, 4, 5, 6)
    np.save(tmp_path / "a.npy", np.asfortranarray(pixels))
    with open_recording(tmp_path / "a.npy", axes="tcyx") as recording:
        np.testing.assert_array_equal(frames_of(recording), pixels)


def test_single_frame() -> None:
    """An array of two axes is one frame."""
    with open_recording(noise(5, 6)) as recording:
        assert recording.index_shape == ()
        assert recording.frames == 1
        np.testing.assert_array_equal(frames_of(recording), noise(5, 6))


@pytest.mark.parametrize("shape", [(9, 16, 20), (3, 4, 16, 20), (5, 1, 16, 20)])
def test_frames_whose_pixels_are_apart(shape: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mapped file in Fortran order is gone through once for several frames, which are the right ones."""
    monkeypatch.setattr(_arrays, "_MAPPED_BYTES", 1)
    monkeypatch.setattr(_arrays, "BlockCache", lambda: BlockCache(6 * 4 * 640))  # parts of four frames
    pixels = noise(*shape)
    np.save(tmp_path / "a.npy", np.asfortranarray(pixels))
    with open_recording(tmp_path / "a.npy", axes="tcyx"[-len(shape) :] if len(shape) == 4 else "tyx") as recording:
        np.testing.assert_array_equal(frames_of(recording), pixels)
        copied = 0
        copy = type(recording)._copy  # type: ignore[attr-defined]

        def counted(self: Any, frames: Any, out: Any) -> None:
            nonlocal copied
            copied += 1
            copy(self, frames, out)

        monkeypatch.setattr(type(recording), "_copy", counted)
        recording._cache.clear()  # type: ignore[attr-defined]
        frames_of(recording)
    assert copied < recording.frames


@pytest.mark.parametrize("order", ["C", "F"])
def test_mapped_file_takes_little_memory(order: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was read of a file does not stay in the memory of the process, in whichever order it is stored."""
    monkeypatch.setattr(_arrays, "_MAPPED_BYTES", 4 << 20)
    monkeypatch.setattr(_arrays, "BlockCache", lambda: BlockCache(12 << 20))
    pixels = np.zeros((64, 1024, 1024), np.uint8, order=order)  # 64 MiB
    pixels[::9] = 7
    np.save(tmp_path / "a.npy", pixels)
    del pixels
    out = np.empty((1024, 1024), np.uint8)
    process = psutil.Process()
    with open_recording(tmp_path / "a.npy") as recording:
        before = most = process.memory_info().rss
        for t in range(0, 64, 1 if order == "C" else 9):
            recording.read((t,), out)
            assert (out == (7 if t % 9 == 0 else 0)).all()
            most = max(most, process.memory_info().rss)
    assert most - before < 32 << 20


_SHRINKS = """
import os, sys
import numpy as np
from ome_writers import open_recording
from ome_writers.errors import RecordingError
options = {"shape": (64, 256, 256), "dtype": ">u2"} if sys.argv[1].endswith("raw") else {}
with open_recording(sys.argv[1], **options) as recording:
    out = np.empty((256, 256), np.uint16)
    recording.read((63,), out)
    os.truncate(sys.argv[1], 100_000)
    try:
        recording.read((63,), out)
    except RecordingError as error:
        assert "frame t=63 should have 131,072 bytes" in str(error), error
        raise SystemExit(7)
"""


@pytest.mark.parametrize("name", ["a.npy", "a.raw"])
def test_file_that_shrinks(name: str, tmp_path: Path) -> None:
    """A file that gets shorter while it is open is an error of the source, and does not end the process."""
    pixels = noise(64, 256, 256)
    if name == "a.npy":
        np.save(tmp_path / name, pixels)
    else:
        (tmp_path / name).write_bytes(pixels.tobytes())
    done = subprocess.run(
        [sys.executable, "-c", _SHRINKS, str(tmp_path / name)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 7, done.stderr


@pytest.mark.parametrize("axes", ["tyx", "xyt", "ytx"])
def test_large_frames_that_are_mapped_take_little_memory(
    axes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of frames whose pixels are apart, parts are copied that are near each other in the file."""
    monkeypatch.setattr(_arrays, "_MAPPED_BYTES", 4 << 20)
    monkeypatch.setattr(_arrays, "BlockCache", lambda: BlockCache(12 << 20))
    count, size = 4, 4096
    shape = tuple({"t": count}.get(axis, size) for axis in axes)
    pixels = np.zeros(shape, np.uint8, order="F" if axes == "tyx" else "C")  # 64 MiB
    pixels[np.arange(size) % 3 == 1 if axes == "ytx" else ...] = 7
    np.save(tmp_path / "a.npy", pixels)
    expected = pixels.transpose([axes.index(axis) for axis in "tyx"]).copy()
    del pixels
    out = np.full((size, size), 1, np.uint8)
    process = psutil.Process()
    most, done = 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.001):
            most = max(most, process.memory_info().rss)

    with open_recording(tmp_path / "a.npy", axes=axes) as recording:
        before = process.memory_info().rss
        watching = threading.Thread(target=watch)
        watching.start()
        try:
            for t in range(count):
                recording.read((t,), out)
                assert out.tobytes() == expected[t].tobytes()
        finally:
            done.set()
            watching.join()
    assert most - before < 48 << 20  # 32 of which are for the comparison


@pytest.mark.parametrize("source", ["array", "npy", "mapped", "tiff", "zarr"])
@pytest.mark.parametrize("index", [(3,), (-1,), (), (0, 0)])
def test_frame_that_is_not_there(source: str, index: tuple[int, ...], tmp_path: Path) -> None:
    """An index beyond the dimensions, or one that counts from the end, is an IndexError for every kind of source."""
    pixels = noise(3, 5, 6)
    if source == "tiff":
        tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack", metadata=None)
    elif source == "zarr":
        write_image(tmp_path / "a.zarr", pixels, "tyx", "0.5")
    else:
        np.save(tmp_path / "a.npy", np.asfortranarray(pixels) if source == "mapped" else pixels)
    given: Any = {"array": pixels, "tiff": tmp_path / "a.tif", "zarr": tmp_path / "a.zarr"}.get(
        source, tmp_path / "a.npy"
    )
    out = np.empty((5, 6), np.uint16)
    with open_recording(given) as recording:
        recording.read((2,), out)
        with pytest.raises(IndexError, match="there is no frame"):
            recording.read(index, out)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"offset": 0.0}, "offset 0.0 must be a whole number"), ({"shape": ("a",)}, "must be whole numbers"),
     ({"shape": (3, 5.5, 6)}, "must be whole numbers"), ({"shape": 5}, "must be whole numbers"),
     ({"dtype": object()}, "is not known"), ({"axes": ("t", "y", "x")}, "are no text"),
     ({"image": 0.5}, "must be a number, from 0, or a name")],
)  # fmt: skip
def test_options_of_other_types(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    """Options of types that they can't have are errors with words, whatever the source is."""
    np.save(tmp_path / "a.npy", noise(3, 5, 6))
    with pytest.raises(RecordingError, match=message):
        open_recording(tmp_path / "a.npy", **options)


@pytest.mark.parametrize("shape", ["(-3, 5, 6)", "(-3, -5, 6)", "(3, 99999999999999999999, 6)", "(3, 5.0, 6)"])
def test_npy_of_a_shape_that_means_nothing(shape: str, tmp_path: Path) -> None:
    """A header with numbers of steps that no array has is refused."""
    np.save(tmp_path / "a.npy", noise(3, 5, 6))
    data = (tmp_path / "a.npy").read_bytes()
    header = data[10:128].rstrip().replace(b"(3, 5, 6)", shape.encode()).ljust(117) + b"\n"
    (tmp_path / "a.npy").write_bytes(data[:10] + header + data[128:])
    with pytest.raises(RecordingError, match=r"can't be read as a \.npy file"):
        open_recording(tmp_path / "a.npy")


def test_private_mapping_keeps_its_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages that somebody has changed in memory only are not forgotten."""
    monkeypatch.setattr(_arrays, "_MAPPED_BYTES", 1)
    np.save(tmp_path / "a.npy", np.zeros((3, 64, 64), np.uint16))
    array = np.load(tmp_path / "a.npy", mmap_mode="c")
    array[1] = 5
    with open_recording(array) as recording:
        assert frames_of(recording)[1].min() == 5
        assert frames_of(recording)[1].min() == 5


BAD_ARRAYS: dict[str, tuple[Any, dict[str, Any], str]] = {
    "0-d": (np.zeros(()), {}, "0 dimensions holds no frames"),
    "1-d": (np.zeros(5), {}, "1 dimensions holds no frames"),
    "4-d": (np.zeros((1, 1, 2, 2)), {}, "4 dimensions does not say what they are"),
    "zero-length": (np.zeros((0, 2, 2)), {}, "dimension t has 0 steps"),
    "complex": (np.zeros((2, 2), complex), {}, "complex128 can't be stored"),
    "bool": (np.zeros((2, 2), bool), {}, "bool can't be stored"),
    "object": (np.zeros((2, 2), object), {}, "object can't be stored"),
    "structured": (np.zeros((2, 2), "u2,u2"), {}, "can't be stored"),
    "text": (np.zeros((2, 2), "U3"), {}, "can't be stored"),
    "too few axes": (np.zeros((2, 2, 2)), {"axes": "yx"}, "2 names, but there are 3"),
    "twice": (np.zeros((2, 2, 2)), {"axes": "yxy"}, "more than once"),
    "no x": (np.zeros((2, 2, 2)), {"axes": "tzy"}, "lack x"),
    "name": (np.zeros((2, 2, 2)), {"axes": "a/b,y,x"}, "'a/b' can't be a dimension"),
    "image": (np.zeros((2, 2)), {"image": 0}, "leave image out"),
    "shape": (np.zeros((2, 2)), {"shape": (2, 2)}, "leave shape, dtype and offset out"),
}


@pytest.mark.parametrize("name", BAD_ARRAYS)
def test_bad_array(name: str) -> None:
    """What can't be replayed is said in words."""
    array, options, message = BAD_ARRAYS[name]
    with pytest.raises(RecordingError, match=message):
        open_recording(array, **options)


def test_bad_npy(tmp_path: Path) -> None:
    """Files that are cut off, or no ``.npy`` files at all, are refused."""
    file = tmp_path / "a.npy"
    np.save(file, noise(3, 5, 6))
    whole = file.read_bytes()
    for content in (whole[:-1], whole[:40], whole[:4], b"PK\x03\x04 no npy", b"\x80\x04N."):
        file.write_bytes(content)
        with pytest.raises(RecordingError, match=r"can't be read as a \.npy file, or is truncated"):
            open_recording(file)
    np.save(file, np.array([{}, {}], object), allow_pickle=True)
    with pytest.raises(RecordingError, match=r"can't be read as a \.npy file"):
        open_recording(file)
    np.savez(tmp_path / "b.npz", noise(3, 5, 6))
    file.write_bytes((tmp_path / "b.npz").read_bytes())
    with pytest.raises(RecordingError, match=r"can't be read as a \.npy file"):
        open_recording(file)
    np.save(file, np.zeros((0, 5, 6)))
    with pytest.raises(RecordingError, match="dimension t has 0 steps"):
        open_recording(file)
    file.write_bytes(b"")
    with pytest.raises(RecordingError, match="is empty"):
        open_recording(file)


BAD_RAW: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, "does not say what it holds"),
    "no dtype": ({"shape": (3, 5, 6)}, "does not say what it holds"),
    "too large": ({"shape": (3, 5, 7), "dtype": "u2"}, "needs a file of 210 bytes, but it has 180"),
    "too small": ({"shape": (2, 5, 6), "dtype": "u2"}, "needs a file of 120 bytes, but it has 180"),
    "offset": ({"shape": (3, 5, 6), "dtype": "u2", "offset": 1}, "after 1 bytes needs a file of 181 bytes"),
    "negative offset": ({"shape": (3, 5, 6), "dtype": "u2", "offset": -1}, "offset -1 is not allowed"),
    "one axis": ({"shape": (90,), "dtype": "u2"}, "holds no frames"),
    "no steps": ({"shape": (0, 5, 6), "dtype": "u2"}, "holds no frames"),
    "unknown dtype": ({"shape": (3, 5, 6), "dtype": "pixel"}, "'pixel' is not known"),
    "objects": ({"shape": (3, 5, 6), "dtype": "O"}, "object can't be stored"),
    "axes": ({"shape": (1, 3, 5, 6), "dtype": "u2"}, "4 dimensions does not say what they are"),
}


@pytest.mark.parametrize("name", BAD_RAW)
def test_bad_raw(name: str, tmp_path: Path) -> None:
    """A raw file has to be as large as what is declared, which has to be something that can be replayed."""
    (tmp_path / "a.raw").write_bytes(noise(3, 5, 6).tobytes())
    options, message = BAD_RAW[name]
    with pytest.raises(RecordingError, match=message):
        open_recording(tmp_path / "a.raw", **options)


def test_raw_behind_a_header(tmp_path: Path) -> None:
    """Bytes before the first frame are skipped, also an odd number of them."""
    pixels = noise(3, 5, 6)
    (tmp_path / "a.dat").write_bytes(b"odd" + pixels.tobytes())
    with open_recording(tmp_path / "a.dat", shape=(3, 5, 6), dtype=np.uint16, offset=3) as recording:
        np.testing.assert_array_equal(frames_of(recording), pixels)


def test_closed_array() -> None:
    """A recording that is closed says so, and may be closed again."""
    recording = open_recording(noise(3, 5, 6))
    recording.close()
    recording.close()
    with pytest.raises(RecordingError, match="is closed"):
        recording.read((0,), np.empty((5, 6), np.uint16))
