"""Series of TIFF files: what their names say, what each file says of itself, and how many are open."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import tifffile

from ome_writers import open_recording
from ome_writers.errors import RecordingError
from ome_writers.recordings import Recording
from recorded_tiff import noise


def series(folder: Path, names: Sequence[str]) -> list[Path]:
    """Write a file for each name, whose pixels are its number; return the files."""
    files = [folder / name for name in names]
    for number, file in enumerate(files):
        file.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(file, np.full((8, 9), number, np.uint16), metadata=None)
    return files


def numbers_of(recording: Recording) -> Any:
    """Return the pixel of each frame; -1 where there is none."""
    found = np.full(recording.index_shape, -1)
    out = np.empty(recording.frame_shape, recording.dtype)
    for index in np.ndindex(recording.index_shape):
        if recording.present is None or recording.present[index]:
            recording.read(index, out)
            found[index] = out[0, 0]
    return found.tolist()


# ---- names ---------------------------------------------------------------------------------------------------------


NAMES: dict[str, tuple[Sequence[str], list[str], Any]] = {
    "counted, as pymmcore-plus does": (
        [f"{2 * t + c:05}_t{t:04}_c{c:02}.tif" for t in range(3) for c in range(2)], ["t", "c"],
        [[0, 1], [2, 3], [4, 5]],
    ),
    "counted, one missing": (
        [f"{n}_t{n}_z0.tif" for n in (0, 1, 2, 4)], ["t"], [0, 1, 2, -1, 3]
    ),
    "letters after digits": (
        ["xy01c1.tif", "xy01c2.tif", "xy02c1.tif", "xy02c2.tif"], ["p", "c"], [[0, 1], [2, 3]]
    ),
    "letters of a word after digits": (["c3po_t1.tif", "c3po_t2.tif"], ["t"], [0, 1]),
    "gap": (["t1.tif", "t2.tif", "t4.tif"], ["t"], [0, 1, -1, 2]),
    "numbers far apart": (["t1.tif", "t2.tif", "t9.tif"], ["t"], [0, 1, 2]),
    "times": ([f"cam_t{1700000000000000 + 60000001 * n + n % 2}.tif" for n in range(4)], ["t"], [0, 1, 2, 3]),
    "huge number": (["t1.tif", "t2.tif", "t99999999999999999999999.tif"], ["t"], [0, 1, 2]),
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_names(name: str, tmp_path: Path) -> None:
    """Files are where their names say; numbers that count the files, or are times, are no steps."""
    names, axes, expected = NAMES[name]
    series(tmp_path, names)
    with open_recording(tmp_path) as recording:
        assert [d.name for d in recording.dimensions[:-2]] == axes
        assert numbers_of(recording) == expected


@pytest.mark.parametrize(
    "names",
    [
        ["A01_s1_w1.tif", "A01_s2_w1.tif", "B01_s1_w1.tif", "B01_s2_w1.tif"],
        ["t0_0100ms.tif", "t1_0200ms.tif", "t2_0300ms.tif", "t3_0400ms.tif"],
        ["exp1_t1.tif", "exp2_t2.tif", "exp3_t3.tif", "exp4_t4.tif"],
    ],
)
def test_names_of_several_kinds(names: list[str], tmp_path: Path) -> None:
    """Names that are not understood are an error, and what it advises makes the files readable."""
    files = series(tmp_path, names)
    with pytest.raises(RecordingError, match="or axes and shape, to take files in the order"):
        open_recording(tmp_path)
    options: dict[str, Any] = {"axes": "ptyx", "shape": (2, 2, 8, 9)}
    with open_recording(tmp_path, **options) as recording:
        assert numbers_of(recording) == [[0, 1], [2, 3]]
    with open_recording([files[3], files[1], files[2], files[0]], **options) as recording:
        assert numbers_of(recording) == [[3, 1], [2, 0]]


def test_declared_shape_of_other_frames(tmp_path: Path) -> None:
    """A declared shape that is not that of the pages is refused."""
    series(tmp_path, ["a.tif", "b.tif"])
    with pytest.raises(RecordingError, match="must end with 8, 9"):
        open_recording(tmp_path, axes="zyx", shape=(2, 9, 8))


def test_pattern_below_a_folder_with_brackets(tmp_path: Path) -> None:
    """Characters of patterns in the names of folders that are there stand for themselves."""
    series(tmp_path / "run [1]" / "a*b", ["t1.tif", "t2.tif", "u3.tif"])
    with open_recording(tmp_path / "run [1]" / "a*b" / "t[0-9].tif") as recording:
        assert numbers_of(recording) == [0, 1]
    with open_recording(tmp_path / "run [1]" / "*" / "t*.tif") as recording:
        assert numbers_of(recording) == [0, 1]


# ---- what files say of themselves ----------------------------------------------------------------------------------


def ome(path: Path, *, size: float = 0.5, channel: str = "GFP", at: float = 0.0, frames: int = 3) -> None:
    """Write an OME-TIFF file of a time series, or of one frame."""
    plane = {"DeltaT": [at + t for t in range(frames)], "PositionX": [at] * frames, "PositionXUnit": ["µm"] * frames}
    metadata = {
        "axes": "TYX", "PhysicalSizeX": size, "PhysicalSizeXUnit": "µm", "Channel": {"Name": [channel]}, "Plane": plane,
    }  # fmt: skip
    tifffile.imwrite(path, noise(frames, 8, 9, seed=int(at)), metadata=metadata)


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("differs", [{"size": 1.0}, {"channel": "RFP"}])
def test_ome_tiffs_that_differ(differs: dict[str, Any], frames: int, tmp_path: Path) -> None:
    """OME-TIFF files with other pixel sizes or channels are not taken for those of the first file."""
    ome(tmp_path / "a_p0.ome.tif", frames=frames)
    ome(tmp_path / "a_p1.ome.tif", frames=frames, **differs)
    with pytest.raises(RecordingError, match=r"a_p1\.ome\.tif: its dimension [xc] .* is not that of a_p0\.ome\.tif"):
        open_recording(tmp_path)


@pytest.mark.parametrize("frames", [1, 3])
def test_ome_tiffs_tell_of_their_planes(frames: int, tmp_path: Path) -> None:
    """Stage positions, and times of frames, are those of each file."""
    for position in range(3):
        ome(tmp_path / f"a_p{position}.ome.tif", at=10.0 * position, frames=frames)
    with open_recording(tmp_path) as recording:
        assert recording.index_shape[:1] == (3,)
        assert [p.x_coord for p in recording.dimensions[0].coords or ()] == [0.0, 10.0, 20.0]  # type: ignore[union-attr]
        for index in np.ndindex(recording.index_shape):
            found = recording.metadata(index)
            assert found is not None
            t = next((i for i, d in zip(index, recording.dimensions, strict=False) if d.name == "t"), 0)
            assert found["delta_t"] == 10.0 * index[0] + t
            out = np.empty((8, 9), np.uint16)
            recording.read(index, out)
            np.testing.assert_array_equal(out, noise(frames, 8, 9, seed=10 * index[0])[t])


def test_channels_of_ome_tiffs(tmp_path: Path) -> None:
    """A file for each channel has the name that its own metadata tell."""
    for number, channel in enumerate(("GFP", "RFP")):
        ome(tmp_path / f"a_c{number}.ome.tif", channel=channel)
    with open_recording(tmp_path) as recording:
        assert recording.index_shape == (2, 3)
        assert [c.name for c in recording.dimensions[0].coords or ()] == ["GFP", "RFP"]  # type: ignore[union-attr]


# ---- open files ----------------------------------------------------------------------------------------------------


def test_open_files_are_bounded(tmp_path: Path) -> None:
    """Of many files, no more are open at once than systems allow a process."""
    series(tmp_path, [f"t{n}.tif" for n in range(150)])
    with open_recording(tmp_path) as recording:
        assert numbers_of(recording) == [*range(150)]
        held = [file.path for file in psutil.Process().open_files() if Path(file.path).is_relative_to(tmp_path)]
        assert 1 <= len(held) <= 64


_FEW_FILES = """
import resource, sys
import numpy as np
from ome_writers import open_recording
import tifffile
if {late}:
    recording = open_recording(sys.argv[1])
resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
if not {late}:
    recording = open_recording(sys.argv[1])
out = np.empty((8, 9), np.uint16)
for n in range(150):
    recording.read((n,), out)
    assert (out == n).all()
recording.close()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such limit")
@pytest.mark.parametrize("late", [False, True])
def test_process_that_may_open_few_files(late: bool, tmp_path: Path) -> None:
    """Where a process may have few files open, also if that is found out late, fewer are kept open."""
    series(tmp_path, [f"t{n}.tif" for n in range(150)])
    done = subprocess.run(
        [sys.executable, "-c", _FEW_FILES.format(late=late), str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


# ---- paths that can't be read --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "message"),
    [("", "is empty"), ("~nobody-has-this-name/x.tif", "without ~"), ("a" * 300 + ".tif", "can't be read"),
     ("a" * 300 + "*.tif", "can't be read"),
     (["~nobody-has-this-name/x.tif"], "without ~"), (["a" * 300 + ".tif"], "can't be read")],
)  # fmt: skip
def test_paths_that_no_file_can_have(source: Any, message: str) -> None:
    """Names that are empty, too long, or of a user that is not there are errors of the source."""
    with pytest.raises(RecordingError, match=message):
        open_recording(source)


@pytest.mark.parametrize("call", ["exists", "iterdir", "stat"])
def test_folder_that_may_not_be_read(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the system refuses is an error of the source that says so, for files, folders, patterns and lists."""
    files = series(tmp_path, ["t1.tif", "t2.tif"])
    (tmp_path / "a.raw").write_bytes(bytes(72))

    def refuse(self: Path, **_: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(self))

    def opened(source: Any, **options: Any) -> None:
        open_recording(source, **options).close()

    monkeypatch.setattr(Path, call, refuse)
    sources: list[tuple[Any, dict[str, Any]]] = [
        (tmp_path, {}), (files[0], {}), (f"{tmp_path}/t*.tif", {}), (files, {}),
        (tmp_path / "a.raw", {"shape": (8, 9), "dtype": "u1"}),
    ]  # fmt: skip
    refused = 0
    for source, options in sources:
        try:
            opened(source, **options)
        except RecordingError as error:
            refused += "Permission denied" in str(error)
    assert refused
