"""The command line, run as users run it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaozarrs
import zarr
from typer.testing import CliRunner

from ome_writers.cli import app

COMMAND = [sys.executable, "-c", "from ome_writers.cli import main; main()"]


NAMES = ("demo", "info", "replay", "bench", "verify", "recover")


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **environment},
    )


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
    assert again.stderr.splitlines()[1:] == ["hint: --overwrite replaces it"]
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


def test_demo_for_scripts(tmp_path: Path) -> None:
    """``--json`` prints what was written and nothing else; ``--quiet`` prints nothing."""
    done = run("demo", str(tmp_path / "a.ome.zarr"), "--frames", "20", "--size", "16", "--json")
    said = json.loads(done.stdout)
    assert (said["frames_written"], said["images"], said["interrupted"]) == (20, ["left", "right"], False)
    assert said["shape"] == {"t": 1, "c": 2, "z": 5, "y": 16, "x": 16}
    quiet = run("demo", str(tmp_path / "b.ome.zarr"), "--frames", "3", "--size", "16", "-q")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")


def test_recover_and_verify_for_scripts(tmp_path: Path) -> None:
    """Both print JSON alone, or nothing when quiet and all is well; a dataset that is not there is an error."""
    path = str(tmp_path / "a.ome.zarr")
    assert run("demo", path, "--frames", "5", "--size", "16", "-q").returncode == 0
    for command in ("recover", "verify"):
        done = CliRunner().invoke(app, [command, path, "--json"])
        assert json.loads(done.stdout)["path"] == path
        assert CliRunner().invoke(app, [command, path, "--quiet"]).output == ""
        assert CliRunner().invoke(app, [command, path]).output.strip()
        missing = run(command, str(tmp_path / "nope"), "--json")
        assert (missing.returncode, missing.stdout) == (1, "")
        assert missing.stderr.startswith("error: ")
        assert len(missing.stderr.splitlines()) == 1


# ---- help ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_help_has_examples(name: str) -> None:
    """The help of every command ends with examples that fit a terminal of 80 columns, each on a line of its own."""
    done = CliRunner().invoke(app, [name, "--help"], terminal_width=80)
    assert done.exit_code == 0
    _, _, below = done.stdout.partition("For example:")
    examples = [line.strip() for line in below.splitlines() if line.strip()]
    assert examples
    assert all(re.match(rf"ome-writers {name}( |$)", example) for example in examples)
    assert examples == examples_of(name)


def examples_of(name: str) -> list[str]:
    """Return the examples in the help of a command, as the terminal's width does not break them."""
    help_text = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "300"}).stdout
    return [line.strip() for line in help_text.splitlines() if line.strip().startswith(f"ome-writers {name}")]


def test_help_lists_commands_and_exit_codes() -> None:
    """The main help lists all commands and says what exit statuses mean; without arguments it is shown, too."""
    done = run("--help")
    assert done.returncode == 0
    for name in NAMES:
        assert f" {name} " in done.stdout
    text = " ".join(done.stdout.split())
    for words in ("0 done", "1 failed", "2 wrong usage", "130 stopped", "NO_COLOR", "--show-completion"):
        assert words in text
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["replay", "--help"], ["info", "{path}"], ["bench", "--size", "no"]])
def test_consoles_of_old_encodings(arguments: list[str], tmp_path: Path) -> None:
    """Output to a console that knows ASCII only is no crash, also where names are not ASCII."""
    path = tmp_path / "z\u00e4hlung \U0001f52c.ome.zarr"
    if "{path}" in arguments:
        assert run("demo", str(path), "--frames", "3", "--size", "16").returncode == 0
    done = run(*[argument.format(path=path) for argument in arguments], PYTHONIOENCODING="ascii")
    assert done.returncode == (2 if "no" in arguments else 0)
    assert "Traceback" not in done.stderr
    assert (done.stdout + done.stderr).isascii()
    assert "{path}" not in arguments or "z\\xe4hlung" in done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="shells of Windows have a protocol of their own")
def test_completion() -> None:
    """The shell is told which commands and options go on from what was typed."""
    environment = {"_OME_WRITERS_COMPLETE": "complete_bash", "COMP_WORDS": "ome-writers re", "COMP_CWORD": "1"}
    assert run(**environment).stdout.split() == ["replay", "recover"]
    environment |= {"COMP_WORDS": "ome-writers bench --compression blosc", "COMP_CWORD": "3"}
    assert run(**environment).stdout.split() == ["blosc-zstd", "blosc-lz4"]
    script = run(_OME_WRITERS_COMPLETE="source_bash")
    assert script.returncode == 0
    assert "complete" in script.stdout
    assert "_OME_WRITERS_COMPLETE=complete_bash" in script.stdout


# ---- what goes wrong -------------------------------------------------------------------------------------------------


def test_warnings_are_one_line(tmp_path: Path) -> None:
    """A warning is one line on stderr, without the place in the source."""
    done = run("demo", str(tmp_path / "data.old"), "--frames", "3", "--size", "16", "-q")
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"warning: {tmp_path / 'data.old'} does not end with .ome.zarr")
    assert "format=" not in line  # as the settings say it, which no option is
    assert ".py" not in line


@pytest.mark.skipif(sys.platform == "win32", reason="of POSIX shells")
@pytest.mark.parametrize("arguments", [["--help"], ["info", "{path}"], ["info", "{path}", "--json"]])
def test_reader_that_ends_early(arguments: list[str], tmp_path: Path) -> None:
    """A broken pipe, as of ``| head``, ends the command without a traceback."""
    path = tmp_path / "a.ome.zarr"
    assert run("demo", str(path), "--frames", "3", "--size", "16", "-q").returncode == 0
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*COMMAND, *(argument.format(path=path) for argument in arguments)],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    os.close(writing)
    assert done.returncode == 1
    assert done.stderr == ""


MAIN = """
import sys
import ome_writers.cli._recover as module
from ome_writers.cli import main
from ome_writers.settings import Dimension

def fail(path):
    {statement}

module._recover = fail
sys.argv = ["ome-writers", "recover", "x"]
main()
"""


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("open('/nowhere/at/all')", "error: [Errno 2] No such file or directory: '/nowhere/at/all'"),
        ("Dimension(name='t', count=0)", "error: count: Input should be greater than 0"),
        ("raise KeyboardInterrupt", "interrupted; it can be started again"),
    ],
)
def test_expected_errors_are_one_line(statement: str, words: str) -> None:
    """Errors of the file system, of settings, and Ctrl-C end with one line."""
    done = failing(statement)
    assert done.returncode == (130 if "Keyboard" in statement else 1)
    assert done.stderr.strip() == words


@pytest.mark.parametrize("statement", ["{}['bug']", "raise MemoryError"])
def test_bugs_keep_their_traceback(statement: str) -> None:
    """What nobody expects is shown in full, so that it can be reported."""
    done = failing(statement)
    assert done.returncode == 1
    assert "Traceback" in done.stderr


INTERRUPTED_IMPORT = """
import signal, sys

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == {name!r}:
            try:
                signal.raise_signal(signal.SIGINT)
            except KeyboardInterrupt as error:  # as libraries in Rust do
                raise ValueError("can't be imported") from error

signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background have none
sys.meta_path.insert(0, Interrupting())
sys.argv = ["ome-writers", "--version"]
from ome_writers.cli import main
main()
"""


@pytest.mark.parametrize("name", ["typer", "rich.tree", "ome_writers.cli._replay"])
def test_interrupt_while_modules_are_imported(name: str) -> None:
    """Ctrl-C while the command line imports what it needs is status 130 as later, without a traceback."""
    script = INTERRUPTED_IMPORT.format(name=name)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_recover_of_nothing(tmp_path: Path) -> None:
    """Where nothing stands, ``recover`` says so, as ``verify`` and ``info`` do, and not what the nothing lacks."""
    for command in ("recover", "verify", "info"):
        done = run(command, str(tmp_path / "nothing.ome.zarr"))
        assert done.returncode == 1
        assert f"there is nothing at {tmp_path / 'nothing.ome.zarr'}" in done.stderr
    (tmp_path / "empty").mkdir()
    assert "no dataset that a stream" in run("recover", str(tmp_path / "empty")).stderr


def failing(statement: str) -> Any:
    """Run a command whose work is a statement."""
    script = MAIN.replace("{statement}", statement)
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
