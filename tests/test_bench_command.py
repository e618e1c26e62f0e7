"""``ome-writers bench``: it measures, tells what it can't tell, recommends, and leaves nothing behind."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
from typer.testing import CliRunner

from ome_writers import AcquisitionSettings, BufferSettings, create_stream
from ome_writers.cli import _bench_advice, app
from ome_writers.cli._bench_advice import Storage, advise, notes
from ome_writers.cli._bench_camera import camera_frames
from ome_writers.cli._bench_run import Bench, Camera, Result
from ome_writers.errors import WriteError
from test_cli import COMMAND, run

CAMERA = Camera(64, 48, "uint16", fps=100.0, seconds=0.1)
FAST = Result(
    "direct", "none", frames=10, frames_per_second=900.0, synced_frames_per_second=800.0, ratio=1.0, max_ms=1.0
)


def test_json_has_every_setting(tmp_path: Path) -> None:
    """Each backend with each compression is measured; JSON alone is on stdout; the folder is empty afterwards."""
    done = run(
        "bench", str(tmp_path), "--size", "64x48", "--fps", "200", "--seconds", "0.1", "--json",
        "--backend", "direct", "--backend", "tensorstore", "--compression", "none", "--compression", "zstd",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())
    said = json.loads(done.stdout)
    assert said["camera"]["frames"] == 20
    assert said["camera"]["bytes_per_second"] == 200 * 64 * 48 * 2
    settings = [(r["backend"], r["compression"]) for r in said["results"]]
    assert settings == [("direct", "none"), ("tensorstore", "none"), ("direct", "zstd"), ("tensorstore", "zstd")]
    for result in said["results"]:
        assert result["error"] is None
        assert result["frames"] == 20
        assert 0 < result["synced_frames_per_second"] <= result["frames_per_second"]
        assert result["max_ms"] >= result["p99_ms"] > 0
        assert result["buffer_bytes"] > 0
    assert said["results"][2]["ratio"] > 1.2  # noise of few photons
    assert said["results"][0]["ratio"] <= 1
    assert said["recommendation"]["settings"]
    assert any("Free space" in note for note in said["notes"])


def test_table_and_recommendation(tmp_path: Path) -> None:
    """In words there is a line for each setting, a recommendation, and settings that can be pasted."""
    arguments = ["bench", str(tmp_path), "--size", "64", "--fps", "50", "--seconds", "0.1", "--backend", "direct"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert sum(line.startswith("direct ") for line in lines) == 2
    assert any(line.startswith("Recommended: ") for line in lines)
    line = next(line for line in lines if "AcquisitionSettings(" in line)
    pasted = line.strip().replace("...", "root_path='a.ome.zarr'")
    assert isinstance(eval(pasted, {"AcquisitionSettings": AcquisitionSettings}), AcquisitionSettings)  # noqa: S307
    assert CliRunner().invoke(app, [*arguments, "--quiet"]).output == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["--size", "0"],
        ["--size", "1x2x3"],
        ["--size", "wide"],
        ["--fps", "0"],
        ["--fps", "nan"],
        ["--seconds", "-1"],
        ["--fps", "1e308", "--seconds", "1e308"],
        ["--fps", "1e-308"],
        ["--seconds", "1e10"],
        ["--dtype", "int8"],
        ["--backend", "nope"],
        ["--compression", "gzip"],
    ],
)
def test_wrong_usage(arguments: list[str], tmp_path: Path) -> None:
    """Values that are not allowed are usage errors."""
    done = CliRunner().invoke(app, ["bench", str(tmp_path), *arguments])
    assert done.exit_code == 2
    assert "Traceback" not in done.output


def test_too_little_space_is_refused(tmp_path: Path) -> None:
    """A run that would fill the disk is refused before it begins, saying how much it needs."""
    done = run("bench", str(tmp_path), "--size", "32768", "--fps", "1000", "--seconds", "100000")
    assert done.returncode == 1
    assert "free" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())
    with pytest.raises(WriteError, match=r"needs 0\.07 GB"):
        Storage(tmp_path, 1000, None, None).check_space(CAMERA)


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT to a process, which Windows has no form of")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_bench_leaves_nothing(number: signal.Signals, tmp_path: Path) -> None:
    """Ctrl-C in the middle of a run deletes the temporary dataset, and ends with status 130."""
    arguments = ["bench", str(tmp_path), "--size", "64", "--fps", "1", "--seconds", "60", "--backend", "direct"]
    with subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        give_up = time.monotonic() + 30
        while not list(tmp_path.glob("*/data.ome.zarr/ome_writers/frames.txt")):  # lists no folder that may be gone
            assert process.poll() is None, process.stderr and process.stderr.read()
            assert time.monotonic() < give_up
            time.sleep(0.01)  # another process: there is no event to wait on
        time.sleep(0.3)  # past the warming up, which is over at once
        process.send_signal(number)
        out, err = process.communicate(timeout=10)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert not out
    assert not list(tmp_path.iterdir())


# ---- what is measured ------------------------------------------------------------------------------------------------


def test_late_frames_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that takes longer than a frame's time is late each time, and ``max_ms`` tells how long it took."""

    class Slow:
        def __init__(self, settings: AcquisitionSettings) -> None:
            self._stream = create_stream(settings)

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *error: object) -> None:
            self._stream.close()

        def __getattr__(self, name: str) -> Any:
            return getattr(self._stream, name)

        def append(self, frame: Any) -> None:
            self._stream.append(frame)
            time.sleep(0.025)

    monkeypatch.setattr("ome_writers.cli._bench_run.create_stream", Slow)
    bench = Bench(CAMERA, camera_frames(64, 48, "uint16"), tmp_path, threading.Event(), lambda: None)
    result = bench.measure("direct", "none")
    assert result.frames == result.frames_late == 10
    assert not result.kept_up
    assert result.max_ms >= 25
    assert result.frames_per_second < 40
    assert result.verdict(CAMERA) == "no"


def test_setting_that_cannot_be_used_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend that refuses is named with its reason, and the others are measured."""
    bench = Bench(CAMERA, camera_frames(64, 48, "uint16"), tmp_path, threading.Event(), lambda: None)
    monkeypatch.setattr(
        Camera,
        "settings",
        lambda self, path, *_: AcquisitionSettings(
            root_path=path, dimensions=[{"name": "y", "count": 8}, {"name": "x", "count": 8}], dtype="uint8",
            buffer=BufferSettings(max_bytes=1),
        ),
    )  # fmt: skip
    result = bench.measure("direct", "none")
    assert result.error is not None
    assert "memory" in result.error
    assert result.verdict(CAMERA) == "failed"
    assert advise([result], CAMERA).settings == ""
    assert advise([result, FAST], CAMERA).result is FAST


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "float32", "float64"])
def test_frames_are_those_of_a_camera(dtype: str) -> None:
    """Frames are of the size and type asked for, differ, and hold noise and spots."""
    frames = camera_frames(300, 700, dtype)
    assert frames.shape[1:] == (300, 700)
    assert frames.dtype == dtype
    assert len({frame.tobytes() for frame in frames}) == len(frames) >= 4
    assert 15 < frames.mean() < 130
    assert math.sqrt(frames.mean()) * 0.8 < frames[0].std() < 3 * math.sqrt(frames.mean())
    assert frames.max() > 2 * frames.mean()


# ---- what it means ---------------------------------------------------------------------------------------------------


def test_smallest_files_that_keep_up_are_recommended() -> None:
    """Of settings that keep up, the one with the smallest files is chosen; among equals the one without a library."""
    packed = replace(FAST, compression="blosc-lz4", ratio=2.0, synced_frames_per_second=500.0)
    other = replace(packed, backend="tensorstore", synced_frames_per_second=900.0)
    advice = advise([FAST, other, packed], CAMERA)
    assert advice.result is packed
    assert advice.verdict == "yes"
    assert 'format="direct", compression="blosc-lz4"' in advice.settings
    assert "5.0 times" in advice.reason
    assert "2.0 times smaller" in advice.reason
    slow = replace(packed, synced_frames_per_second=200.0)
    assert advise([FAST, other, slow], CAMERA).result is other
    late = replace(other, frames_late=1)
    assert advise([FAST, late], CAMERA).result is FAST


def test_cache_does_not_flatter() -> None:
    """A setting that took every frame in time, but slower than the camera with syncing, does not keep up for long."""
    cached = replace(FAST, synced_frames_per_second=50.0)
    advice = advise([cached], CAMERA)
    assert advice.verdict == "not for long"
    assert "cache" in advice.reason
    assert advise([replace(FAST, synced_frames_per_second=110.0)], CAMERA).verdict == "barely"


def test_pauses_are_bridged_by_a_buffer() -> None:
    """Late frames of a storage that is fast enough in the mean lead to a larger buffer; its settings are Python."""
    pausing = replace(FAST, frames_late=3, max_ms=400.0, stalled_seconds=0.4, buffer_bytes=10 << 20)
    big = replace(CAMERA, height=2048, width=2048)
    advice = advise([pausing], big)
    assert "pauses" in advice.reason
    names = {"AcquisitionSettings": AcquisitionSettings, "BufferSettings": BufferSettings}
    settings = eval(f"AcquisitionSettings(root_path='a.zarr', {advice.settings})", names)  # noqa: S307  our own output
    assert settings.buffer.max_bytes >= 2 * 0.8 * big.rate
    hopeless = advise([replace(pausing, synced_frames_per_second=50.0)], big)
    assert "no setting keeps up" in hopeless.reason
    assert "BufferSettings" not in hopeless.settings


def test_notes_say_what_cannot_be_told(tmp_path: Path) -> None:
    """A run that the cache can hold, and a folder in memory, are named; free space is told in time."""
    disk = Storage(tmp_path, 10**9, "ext4", 10**9)
    text = "\n".join(notes([FAST], CAMERA, disk, FAST))
    stored = 10 * CAMERA.frame_bytes
    assert "fits the system's cache" in text
    assert f"--seconds {math.ceil(0.1 * 1e9 / stored * 1.2)}" in text
    assert f"{1e9 / CAMERA.rate / 60:.0f} min" in text
    long = "\n".join(notes([replace(FAST, frames=10**7)], CAMERA, disk, FAST))
    assert "fits" not in long
    assert "in memory" in "\n".join(notes([FAST], CAMERA, Storage(tmp_path, 10**9, "tmpfs", 10**9), FAST))
    assert "may have gone to the system's cache" in "\n".join(
        notes([FAST], CAMERA, Storage(tmp_path, 10**9, None, None), FAST)
    )


@pytest.mark.skipif(not Path("/proc/mounts").exists(), reason="only Linux tells the type of a file system there")
def test_file_system_is_known(tmp_path: Path) -> None:
    """The type of the file system is that of the mount a folder lies on."""
    assert Storage.of(Path("/proc/self")).file_system == "proc"
    assert (_bench_advice._memory() or 0) > 1 << 20
    assert np.isfinite(Storage.of(tmp_path).free_bytes)
