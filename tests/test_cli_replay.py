"""``ome-writers replay`` and ``ome-writers info``, run as users run them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace as changed
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import yaozarrs
import zarr
from typer.testing import CliRunner

from ome_writers import ReplayReport, open_recording, replay
from ome_writers._dataset import DatasetFolder
from ome_writers._documents import Completeness
from ome_writers.cli import app
from ome_writers.cli._output import Output
from ome_writers.cli._replay import _say_interrupted
from test_cli import COMMAND, run

Pixels = npt.NDArray[Any]


def invoke(*arguments: str) -> Any:
    """Run the command line in this process, which is quicker."""
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


@pytest.fixture
def stack(tmp_path: Path) -> tuple[Path, Pixels]:
    """Make a ``.npy`` file of axes t, z, c, y, x; return its path and pixels."""
    pixels = np.random.default_rng(3).integers(0, 60_000, (5, 3, 2, 32, 48), np.uint16)
    np.save(tmp_path / "stack.npy", pixels)
    return tmp_path / "stack.npy", pixels


def read(path: Path) -> Pixels:
    """Read the array of a single image with zarr-python."""
    return np.asarray(zarr.open_array(str(path / "0"), mode="r")[...])


def test_pixels_arrive(stack: tuple[Path, Pixels], tmp_path: Path) -> None:
    """Every frame of the source is in the dataset, in whatever order it is replayed; a suffix is added."""
    source, pixels = stack
    done = run("replay", str(source), str(tmp_path / "out"), "--axes", "tzcyx", "--order", "c,t,z")
    assert done.returncode == 0, done.stderr
    assert "Wrote 30 frames" in done.stdout
    yaozarrs.validate_zarr_store(str(tmp_path / "out.ome.zarr"))
    assert np.array_equal(read(tmp_path / "out.ome.zarr"), pixels.transpose(0, 2, 1, 3, 4))


def test_json_alone_is_on_stdout(stack: tuple[Path, Pixels], tmp_path: Path) -> None:
    """``--json`` prints the report, which has the pace, and nothing else."""
    done = run("replay", str(stack[0]), str(tmp_path / "o.zarr"), "--axes", "tzcyx", "--fps", "300", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["frames_appended"], said["fps"], said["complete"]) == (30, 300.0, True)
    assert said["seconds"] >= 29 / 300
    assert not done.stderr


def test_quiet_prints_nothing(stack: tuple[Path, Pixels], tmp_path: Path) -> None:
    """``--quiet`` leaves both outputs empty when all is well."""
    done = run("replay", str(stack[0]), str(tmp_path / "o.zarr"), "--axes", "tzcyx", "-q")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_sizes_win_over_planned_ones(stack: tuple[Path, Pixels], tmp_path: Path) -> None:
    """Chunks and shards that are given are used, those of other dimensions planned, the compression as asked for."""
    done = invoke(
        "replay", str(stack[0]), str(tmp_path / "o.ome.zarr"), "--axes", "tzcyx", "--compression", "zstd",
        "--chunks", "z=2,y=16,x=16", "--shards", "t=2,y=2,x=3",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    array = zarr.open_array(str(tmp_path / "o.ome.zarr" / "0"), mode="r")
    assert array.chunks[2:] == (2, 16, 16)  # stored t, c, z, y, x
    assert array.shards is not None
    assert array.shards[-2:] == (32, 48)
    assert array.shards[0] == 2 * array.chunks[0]
    assert "Zstd" in str(array.compressors)
    assert np.array_equal(np.asarray(array[...]), stack[1].transpose(0, 2, 1, 3, 4))


def test_raw_file(tmp_path: Path) -> None:
    """Shape, pixel type and offset of a raw file are given by options; ``x`` may stand between the steps."""
    pixels = np.arange(4 * 8 * 9, dtype=np.uint16).reshape(4, 8, 9)
    (tmp_path / "a.raw").write_bytes(b"head" + pixels.astype(">u2").tobytes())
    options = ["--shape", "4x8x9", "--dtype", ">u2", "--offset", "4"]
    done = invoke("replay", str(tmp_path / "a.raw"), str(tmp_path / "a.ome.zarr"), *options)
    assert done.exit_code == 0, done.output
    assert np.array_equal(read(tmp_path / "a.ome.zarr"), pixels)
    done = invoke("info", str(tmp_path / "a.raw"), *options, "--json")
    assert json.loads(done.stdout)["recording"]["frames"] == 4


def test_limit_and_resume(stack: tuple[Path, Pixels], tmp_path: Path) -> None:
    """``--limit`` ends early, and ``--resume`` goes on to the end."""
    arguments = ["replay", str(stack[0]), str(tmp_path / "o.ome.zarr"), "--axes", "tzcyx"]
    done = invoke(*arguments, "--limit", "7")
    assert "7 of 30 frames" in done.stdout
    done = invoke(*arguments, "--resume", "--json")
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert (said["frames_appended"], said["complete"]) == (23, True)
    assert np.array_equal(read(tmp_path / "o.ome.zarr"), stack[1].transpose(0, 2, 1, 3, 4))


def test_existing_dataset_is_kept_unless_told(stack: tuple[Path, Pixels], tmp_path: Path) -> None:
    """A dataset that exists is kept, with exit status 1; ``--overwrite`` replaces it."""
    arguments = ["replay", str(stack[0]), str(tmp_path / "o.ome.zarr"), "--axes", "tzcyx"]
    assert run(*arguments, "--limit", "1").returncode == 0
    again = run(*arguments)
    assert again.returncode == 1
    assert "exists" in again.stderr
    assert again.stderr.splitlines()[1:] == ["hint: --overwrite replaces it, --resume goes on with it"]
    assert invoke(*arguments, "--overwrite").exit_code == 0
    assert read(tmp_path / "o.ome.zarr").shape[0] == 5
    (tmp_path / "o.ome.zarr" / "notes.txt").write_text("mine")
    foreign = run(*arguments, "--overwrite")
    assert foreign.returncode == 1
    assert "hint" not in foreign.stderr  # it would not help


def test_resumed_with_another_order(stack: tuple[Path, Pixels], tmp_path: Path) -> None:
    """Another order than that of the first replay is an error that says so, in few words."""
    arguments = ["replay", str(stack[0]), str(tmp_path / "o.ome.zarr"), "--axes", "tzcyx", "--limit", "3"]
    assert invoke(*arguments).exit_code == 0
    done = run(*arguments, "--resume", "--order", "t,c,z")
    assert done.returncode == 1
    assert "other settings: the order of dimensions is t, c, z, was t, z, c." in done.stderr
    assert "hint: give the options that the dataset was begun with" in done.stderr
    done = run(*arguments, "--resume", "--chunks", "z=2", "--shards", "t=4")
    assert "dimension t: shard_size_chunks is 4, was null; dimension z: chunk_size is 2, was null." in done.stderr


def test_resumed_with_other_dimensions(stack: tuple[Path, Pixels], tmp_path: Path) -> None:
    """Dimensions of other names are listed, and of those that both have, the fields that differ."""
    arguments = ["replay", str(stack[0]), str(tmp_path / "o.ome.zarr"), "--limit", "3"]
    assert invoke(*arguments, "--axes", "tzcyx").exit_code == 0
    np.save(tmp_path / "other.npy", np.zeros((4, 3, 32, 48), np.uint16))
    done = run("replay", str(tmp_path / "other.npy"), *arguments[2:], "--axes", "tzyx", "--resume")
    assert "the dimensions are t, z, y, x, were t, z, c, y, x; dimension t: count is 4, was 5." in done.stderr


def test_resumed_when_all_is_done(stack: tuple[Path, Pixels], tmp_path: Path) -> None:
    """``--resume`` of a complete dataset says that it has all its frames, and no rates of nothing."""
    arguments = ["replay", str(stack[0]), str(tmp_path / "o.ome.zarr"), "--axes", "tzcyx", "--fps", "900", "--resume"]
    assert invoke(*arguments).stdout.startswith("Wrote 30 frames")
    again = invoke(*arguments)
    assert again.exit_code == 0
    assert again.stdout == (
        f"Nothing was to be done: {tmp_path / 'o.ome.zarr'} has all its frames already, 30 of them.\n"
    )


def test_one_frame_is_singular(tmp_path: Path) -> None:
    """A report of single frames is good English."""
    report = ReplayReport(
        tmp_path, "a.npy", "NumPy .npy", frames_total=3, frames_done=2, frames_appended=1, frames_skipped=1, bytes_in=9,
        seconds=1.0, stalled_seconds=0.0, source_seconds=0.0, fps=3.0, frames_late=1, frames_awaited=1,
    )  # fmt: skip
    text = str(report)
    for words in ("Wrote 1 frame ", "1 frame was not recorded", "1 frame was late", "was held for 1 frame,"):
        assert words in text
    assert "1 frames" not in text
    assert "2 of 3 frames" in text
    assert str(changed(report, frames_appended=0, frames_skipped=0)).startswith("Nothing was written to ")


def test_missing_destination(tmp_path: Path) -> None:
    """A single path is a source: the destination is what is missing, whatever the path is called."""
    done = run("replay", "d.ome.zarr")
    assert done.returncode == 2
    text = " ".join(done.stderr.replace("\u2502", " ").split())
    assert "a destination is missing" in text
    assert "d.ome.zarr copy.ome.zarr" in text
    assert "Missing argument" not in text
    assert "Missing argument 'SOURCE'" in run("replay").stderr


def test_frames_that_are_missing(stack: tuple[Path, Pixels], tmp_path: Path) -> None:
    """Frames that the source lacks are an error that names the option to leave them out; with it, they are."""
    limited = str(tmp_path / "limited.ome.zarr")
    assert invoke("replay", str(stack[0]), limited, "--axes", "tzcyx", "--limit", "7").exit_code == 0
    done = run("replay", limited, str(tmp_path / "o.ome.zarr"))
    assert done.returncode == 1
    assert "frames are missing" in done.stderr
    assert done.stderr.splitlines()[1:] == ["hint: --skip-missing leaves the missing frames out"]
    assert invoke("replay", limited, str(tmp_path / "o.ome.zarr"), "--skip-missing").exit_code == 0


def test_parameters_in_messages_are_options(stack: tuple[Path, Pixels], tmp_path: Path) -> None:
    """What messages call by its name in Python is followed by the option; words in paths are none."""
    named = tmp_path / "axes" / "shape image.npy"
    named.parent.mkdir()
    stack[0].rename(named)
    out = str(tmp_path / "o.ome.zarr")
    assert run("replay", str(named), out).stderr.splitlines()[1:] == ["hint: on the command line: --axes"]
    assert run("info", str(named)).stderr.splitlines()[1:] == ["hint: on the command line: --axes"]
    raw = tmp_path / "image.raw"
    raw.write_bytes(bytes(64))
    assert run("info", str(raw)).stderr.splitlines()[1:] == ["hint: on the command line: --shape, --dtype"]
    damaged = tmp_path / "axes" / "image.npy"
    damaged.write_bytes(b"nothing of NumPy")
    assert "hint" not in run("info", str(damaged)).stderr


def test_source_is_never_replaced(stack: tuple[Path, Pixels], tmp_path: Path) -> None:
    """A dataset can't take the place of its source, or of a folder that the source lies in."""
    dataset = tmp_path / "o.ome.zarr"
    assert invoke("replay", str(stack[0]), str(dataset), "--axes", "tzcyx").exit_code == 0
    (dataset / "inner.npy").write_bytes(stack[0].read_bytes())
    done = run("replay", str(dataset / "inner.npy"), str(dataset), "--axes", "tzcyx", "--overwrite")
    assert done.returncode == 1
    assert "is the source, or holds it" in done.stderr
    assert np.array_equal(read(dataset), stack[1].transpose(0, 2, 1, 3, 4))


@pytest.mark.parametrize(
    "options",
    [
        ["--chunks", "t=0"],
        ["--chunks", "t"],
        ["--chunks", "t=2,t=3"],
        ["--shards", "=2"],
        ["--order", "t,,z"],
        ["--order", "t,t"],
        ["--fps", "0"],
        ["--fps", "inf"],
        ["--fps", "fast"],
        ["--limit", "0"],
        ["--shape", "3,-1"],
        ["--offset", "-1"],
        ["--backend", "nope"],
        ["--compression", "gzip"],
        ["--resume", "--overwrite"],
        ["--dask", "tcp://127.0.0.1:1", "--fps", "3"],
        ["--nope"],
    ],
)
def test_wrong_usage_ends_with_status_2(options: list[str], stack: tuple[Path, Pixels], tmp_path: Path) -> None:
    """Values that are never allowed are usage errors, and nothing is written."""
    done = invoke("replay", str(stack[0]), str(tmp_path / "o.ome.zarr"), "--axes", "tzcyx", *options)
    assert done.exit_code == 2
    assert not (tmp_path / "o.ome.zarr").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "name its axes"),
        (["--axes", "tzcyx", "--chunks", "q=3"], "no dimension q"),
        (["--axes", "tzcyx", "--order", "t,z"], "order t, z"),
        (["--axes", "tzcyx", "--image", "3"], "leave image out"),
    ],
)
def test_what_does_not_fit_the_source_ends_with_status_1(
    options: list[str], words: str, stack: tuple[Path, Pixels], tmp_path: Path
) -> None:
    """What depends on the source is an error with a message, status 1, no traceback, and no dataset."""
    done = run("replay", str(stack[0]), str(tmp_path / "o.ome.zarr"), *options, "--json")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not done.stdout
    assert not (tmp_path / "o.ome.zarr").exists()


def test_several_sources_are_one_series(tmp_path: Path) -> None:
    """Several files before the destination are one recording, as with cp."""
    tifffile = pytest.importorskip("tifffile")
    files = [tmp_path / f"frame{number}.tif" for number in range(3)]
    pixels = np.random.default_rng(3).integers(0, 255, (3, 16, 20), np.uint8)
    for file, frame in zip(files, pixels, strict=True):
        tifffile.imwrite(file, frame)
    done = invoke("replay", *map(str, files), str(tmp_path / "o.ome.zarr"))
    assert done.exit_code == 0, done.output
    assert np.array_equal(read(tmp_path / "o.ome.zarr"), pixels)


def test_missing_dask_names_the_command_that_installs_it(
    stack: tuple[Path, Pixels], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without distributed, ``--dask`` is an error that names the extra."""
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ImportError, match=r'pip install "ome-writers\[dask\]"'):
        invoke("replay", str(stack[0]), str(tmp_path / "o.zarr"), "--axes", "tzcyx", "--dask", "tcp://127.0.0.1:1")


@pytest.mark.dask
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")  # of the cluster's own
def test_cluster(stack: tuple[Path, Pixels], tmp_path: Path) -> None:
    """``--dask`` writes on the cluster whose scheduler is at an address; none there is an error."""
    distributed = pytest.importorskip("distributed")
    arguments = ["replay", str(stack[0]), str(tmp_path / "o.ome.zarr"), "--axes", "tzcyx", "--json", "--dask"]
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=True, dashboard_address=":0", silence_logs=50
    ) as cluster:
        done = run(*arguments, cluster.scheduler_address)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["frames_appended"] == 30
    assert np.array_equal(read(tmp_path / "o.ome.zarr"), stack[1].transpose(0, 2, 1, 3, 4))
    nobody = run(*arguments, "nonsense")
    assert nobody.returncode == 1
    assert "error: there is no Dask scheduler at nonsense" in nobody.stderr
    assert "Traceback" not in nobody.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT to a process, which Windows has no form of")
@pytest.mark.parametrize("as_json", [False, True])
def test_interrupted_replay_can_be_resumed(as_json: bool, stack: tuple[Path, Pixels], tmp_path: Path) -> None:
    """Ctrl-C leaves a valid dataset, says what it holds, and the command that it prints goes on to the end."""
    target = tmp_path / "with space.ome.zarr"
    arguments = ["replay", str(stack[0]), str(target), "--axes", "tzcyx", "--fps", "20", *(["--json"] * as_json)]
    with subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        fates = target / "ome_writers" / "frames.txt"
        give_up = time.monotonic() + 30
        while not fates.exists() or fates.stat().st_size < 4:
            assert process.poll() is None, process.stderr and process.stderr.read()
            assert time.monotonic() < give_up
            time.sleep(0.01)  # another process: there is no event to wait on
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    words = err if as_json else out
    assert "Stopped by Ctrl-C" in words
    yaozarrs.validate_zarr_store(str(target))
    said = json.loads(run("info", str(target), "--json").stdout)["frames"]
    assert said["state"] == "closed"
    assert 4 <= said["written"] < 30
    assert f"{said['written']} of 30 frames" in words
    command = next(line for line in words.splitlines() if "ome-writers replay" in line).partition(": ")[2]
    if as_json:
        document = json.loads(out)
        whole = run(*arguments[:2], str(tmp_path / "whole.ome.zarr"), *arguments[3:]).stdout
        others = {"frames_skipped", "stalled_seconds", "source_seconds", "frames_awaited", "longest_append"}
        assert json.loads(whole).keys() - document.keys() == others  # not known after an interrupt
        assert document["path"] == str(target)
        assert document["frames_total"] == 30
        assert document["frames_done"] == document["frames_appended"] == said["written"]
        assert document["bytes_in"] == said["written"] * 32 * 48 * 2
        assert (document["kind"], document["complete"], document["fps"]) == ("NumPy .npy", False, 20.0)
        assert (document["interrupted"], document["frames_written"]) == (True, said["written"])
        assert document["resume_with"] == command
    script = f"import shlex, sys; sys.argv = shlex.split({command!r}); from ome_writers.cli import main; main()"
    resumed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert resumed.returncode == 0, resumed.stderr
    assert np.array_equal(read(target), stack[1].transpose(0, 2, 1, 3, 4))


@pytest.mark.parametrize("as_json", [False, True])
def test_interrupted_dataset_that_was_completed(
    as_json: bool, stack: tuple[Path, Pixels], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A dataset that was completed, as after Ctrl-C with a cluster, is valid, and how many frames it has is said."""
    target = tmp_path / "o.ome.zarr"
    with open_recording(stack[0], axes="tzcyx") as recording:
        replay(recording, str(target), limit=7)
        folder = DatasetFolder(target)
        state = Completeness.read(folder)
        assert state is not None
        changed(state, closed=False, recovered=True, lost=(range(3, 5),), frames_written=5).write(folder)
        _say_interrupted(target, Output(as_json=as_json), recording, None, None)
    out, err = capsys.readouterr()
    assert "5 of 30 frames" in (err if as_json else out)
    assert "was not closed" not in out + err
    if as_json:
        said = json.loads(out)
        assert (said["frames_done"], said["frames_written"], said["frames_lost"]) == (7, 5, [[3, 4]])


def test_interrupted_before_anything_was_written(
    stack: tuple[Path, Pixels], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C before there is a dataset gives scripts JSON, too."""
    with open_recording(stack[0], axes="tzcyx") as recording:
        _say_interrupted(tmp_path / "o.ome.zarr", Output(as_json=True), recording, None, None)
    said = json.loads(capsys.readouterr().out)
    assert (said["frames_total"], said["frames_done"], said["interrupted"]) == (30, 0, True)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals")
def test_progress_is_on_the_terminal(stack: tuple[Path, Pixels], tmp_path: Path) -> None:
    """On a terminal there is a bar with frames, MB/s, buffer, late frames and time left; stdout stays clean."""
    import pty

    master, slave = pty.openpty()
    environment = {**os.environ, "COLUMNS": "120", "TERM": "xterm", "NO_COLOR": "1"}
    arguments = ["replay", str(stack[0]), str(tmp_path / "o.ome.zarr"), "--axes", "tzcyx", "--fps", "50"]
    done = subprocess.run(
        [*COMMAND, *arguments],
        stdout=subprocess.PIPE,
        stderr=slave,
        text=True,
        timeout=60,
        check=False,
        env=environment,
    )
    os.close(slave)
    shown = b""
    try:
        while piece := os.read(master, 1 << 16):
            shown += piece
    except OSError:  # Linux: the other end is closed
        pass
    os.close(master)
    text = shown.decode()
    assert done.returncode == 0, text
    assert "replaying" in text
    assert "/30" in text
    assert "MB/s" in text
    assert "buffer" in text
    assert "0 late" in text
    assert "\x1b[3" not in text  # a colour
    assert done.stdout.startswith("Wrote 30 frames")
    assert "\x1b" not in done.stdout


# ---- info ------------------------------------------------------------------------------------------------------------


def test_info(stack: tuple[Path, Pixels], tmp_path: Path) -> None:
    """``info`` prints a tree, or as JSON what ``describe`` returns; quiet prints nothing."""
    path = tmp_path / "o.ome.zarr"
    invoke("replay", str(stack[0]), str(path), "--axes", "tzcyx")
    done = run("info", str(path))
    assert done.returncode == 0, done.stderr
    assert "image, OME-Zarr 0.5" in done.stdout
    assert "5 x 2 x 3 x 32 x 48, uint16" in done.stdout
    assert "\x1b" not in done.stdout
    said = json.loads(invoke("info", str(path), "--json").stdout)
    assert said["images"][0]["levels"][0]["shape"] == [5, 2, 3, 32, 48]
    assert said["frames"]["written"] == 30
    assert invoke("info", str(path), "--quiet").output == ""
    assert json.loads(invoke("info", str(path), "--json", "--no-bytes").stdout)["stored_bytes"] is None


def test_info_of_damage(stack: tuple[Path, Pixels], tmp_path: Path) -> None:
    """Damaged documents end with status 1: those inside are listed, that of the root is an error."""
    path = tmp_path / "o.ome.zarr"
    invoke("replay", str(stack[0]), str(path), "--axes", "tzcyx")
    (path / "0" / "zarr.json").write_text("{")
    done = invoke("info", str(path))
    assert done.exit_code == 1
    assert "problem: 0/zarr.json is damaged" in done.stdout
    (path / "zarr.json").write_text("{")
    damaged = run("info", str(path))
    assert damaged.returncode == 1
    assert damaged.stderr.startswith("error: ")
    assert "Traceback" not in damaged.stderr
