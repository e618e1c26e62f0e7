"""The command line, run as users run it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaozarrs
import zarr

COMMAND = [sys.executable, "-c", "from ome_writers.cli import main; main()"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=60, check=False)


def test_demo_writes_a_valid_dataset(tmp_path: Path, backend: str) -> None:
    """``demo`` writes what it was asked for with any backend, and says how to open it."""
    path = tmp_path / "demo.ome.zarr"
    done = run("demo", str(path), "--frames", "50", "--size", "64", "--backend", backend)
    assert done.returncode == 0, done.stderr
    assert "Wrote 50 frames" in done.stdout
    assert "zarr.open_array" in done.stdout
    yaozarrs.validate_zarr_store(str(path))
    left = zarr.open_array(str(path / "left" / "0"), mode="r")
    assert left.shape == (3, 2, 5, 64, 64)
    pixels = np.asarray(left[:2])
    assert 90 < pixels.mean() < 400
    assert pixels.max() > 150  # spots on the noise
    assert not np.array_equal(pixels[0, 0], pixels[1, 0])  # that move


def test_demo_says_which_command_opens_it(tmp_path: Path) -> None:
    """The Python line that ``demo`` prints opens the dataset."""
    path = tmp_path / "demo.ome.zarr"
    done = run("demo", str(path), "--frames", "20", "--size", "32")
    line = next(line for line in done.stdout.splitlines() if "zarr.open_array" in line)
    assert eval(line.partition(": ")[2], {"zarr": zarr}).shape == (2, 5, 32, 32)  # noqa: S307  our own output


def test_demo_does_not_replace_unless_told(tmp_path: Path) -> None:
    """A dataset that exists is kept, with exit status 1 and no traceback; ``--overwrite`` replaces it."""
    path = tmp_path / "demo.ome.zarr"
    assert run("demo", str(path), "--frames", "3", "--size", "32").returncode == 0
    again = run("demo", str(path), "--frames", "3", "--size", "32")
    assert again.returncode == 1
    assert "exists" in again.stderr
    assert "Traceback" not in again.stderr
    assert run("demo", str(path), "--frames", "3", "--size", "32", "--overwrite").returncode == 0


@pytest.mark.parametrize("arguments", [["--frames", "0"], ["--size", "no"], ["--backend", "nope"], ["--nope"]])
def test_wrong_usage_ends_with_status_2(arguments: list[str], tmp_path: Path) -> None:
    """Wrong options are usage errors, and nothing is written."""
    assert run("demo", str(tmp_path / "x.ome.zarr"), *arguments).returncode == 2
    assert not list(tmp_path.iterdir())


def test_bad_path_is_an_error_without_traceback(tmp_path: Path) -> None:
    """A path that can't hold a dataset ends with a message and exit status 1."""
    done = run("demo", str(tmp_path / "data.tiff"))
    assert done.returncode == 1
    assert "error:" in done.stderr
    assert "Traceback" not in done.stderr


def test_version() -> None:
    """``--version`` prints a plain version number of 0.4.0 or more."""
    assert tuple(map(int, run("--version").stdout.strip().split("."))) >= (0, 4, 0)


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT to a process, which Windows has no form of")
def test_interrupted_demo_leaves_what_was_acquired(tmp_path: Path) -> None:
    """Ctrl-C in the middle leaves a valid dataset whose shape is that of the frames acquired."""
    path = tmp_path / "demo.ome.zarr"
    records = path / "ome_writers" / "frames.jsonl"
    with subprocess.Popen(
        [*COMMAND, "demo", str(path), "--frames", "1000000", "--size", "64"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        give_up = time.monotonic() + 30
        while not records.exists() or records.stat().st_size < 20_000:
            assert process.poll() is None, process.stderr and process.stderr.read()
            assert time.monotonic() < give_up
            time.sleep(0.01)  # another process: there is no event to wait on
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert "Stopped by Ctrl-C" in out
    yaozarrs.validate_zarr_store(str(path))
    frames = len(records.read_text().splitlines())
    left = zarr.open_array(str(path / "left" / "0"), mode="r")
    assert left.shape[0] == -(-frames // 20)
    assert np.asarray(left[: frames // 20]).min() > 0  # every complete time point is there
    attributes = json.loads((path / "left" / "zarr.json").read_text())["attributes"]
    assert attributes["ome_writers"]["frame_metadata"]
