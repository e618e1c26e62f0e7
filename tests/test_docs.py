"""Everything that the documentation shows runs."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
import typer

import ome_writers
from ome_writers import AcquisitionSettings, create_stream, dims_from_standard_axes
from ome_writers.cli import app

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", *DOCS.rglob("*.md")])
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
COMMAND = [sys.executable, "-c", "from ome_writers.cli import main; main()"]


def blocks(page: Path, language: str) -> list[str]:
    """Return the blocks of a page that are marked with a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def python_blocks(page: Path) -> str:
    """Return the Python blocks of a page, put together: later ones use names of earlier ones."""
    return "\n".join(blocks(page, "python"))


def commands(page: Path) -> list[str]:
    """Return the lines of the shell blocks of a page that call the command line of this package."""
    text = "".join(blocks(page, "sh")).replace("\\\n", " ")
    return [line for line in text.splitlines() if re.match(r"(\w+=\S* )?ome-writers ", line)]


def of_page(page: Path) -> str:
    """Return the name of a page, for the names of tests."""
    return str(page.relative_to(ROOT))


# ---- what the pages read ---------------------------------------------------------------------------------------------


def pixels(*shape: int) -> np.ndarray:
    """Return pixels of a camera."""
    return np.random.default_rng(5).poisson(100, shape).astype(np.uint16)


def write_ome_tiff(path: Path) -> None:
    """Write an OME-TIFF of 6 time points and 2 channels."""
    metadata = {"axes": "TCYX", "PhysicalSizeX": 0.65, "PhysicalSizeY": 0.65, "Channel": {"Name": ["DAPI", "FITC"]}}
    tifffile.imwrite(path, pixels(6, 2, 64, 64), ome=True, metadata=metadata)


def write_tiff_series(folder: Path) -> None:
    """Write a folder of TIFF files, one for each time point."""
    folder.mkdir()
    for number in range(4):
        tifffile.imwrite(folder / f"img_t{number:03}.tif", pixels(64, 64))


def write_npy(path: Path) -> None:
    """Write a .npy file of 3 time points, 8 slices and 2 channels."""
    np.save(path, pixels(3, 8, 2, 64, 64))


def write_raw(path: Path) -> None:
    """Write a raw file of 9 frames."""
    pixels(9, 64, 64).tofile(path)


def write_dataset(path: Path) -> None:
    """Write a dataset with a stream that is closed."""
    dimensions = dims_from_standard_axes({"t": 6, "c": ["DAPI", "FITC"], "y": 64, "x": 64}, shard_shapes={"t": 4})
    with create_stream(
        AcquisitionSettings(root_path=str(path), dimensions=tuple(dimensions), dtype="uint16")
    ) as stream:
        for frame in pixels(12, 64, 64):
            stream.append(frame)


def write_crashed_dataset(path: Path) -> None:
    """Leave what a process leaves that dies with two frames in its buffer."""
    program = f"""
        import os
        import numpy as np
        from ome_writers import AcquisitionSettings, create_stream, dims_from_standard_axes

        sizes, chunks, shards = {{"t": 40, "y": 64, "x": 64}}, {{"t": 4}}, {{"t": 5}}
        dimensions = dims_from_standard_axes(sizes, chunks, shards)
        stream = create_stream(AcquisitionSettings(root_path={str(path)!r}, dimensions=dimensions, dtype="uint16"))
        for number in range(26):
            stream.append(np.full((64, 64), number + 1, np.uint16))
        stream.flush()
        os._exit(0)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, timeout=60)


SOURCES: dict[str, Callable[[Path], None]] = {
    "cells.ome.tif": write_ome_tiff,
    "series": write_tiff_series,
    "stack.npy": write_npy,
    "camera.raw": write_raw,
    "cells.ome.zarr": write_dataset,
    "crashed.ome.zarr": write_crashed_dataset,
}
"""What code and commands on the pages read, by the names that they call it."""


# ---- Python blocks ---------------------------------------------------------------------------------------------------


PYTHON = re.compile(r"^(from \w+ import|import \w+$|with .*:$|\w+\.\w+\(.*\)$)", re.MULTILINE)


def run_python(code: str, page: Path) -> str:
    """Run the code of a page; return what it prints."""
    if "pymmcore_plus import" in code:  # an interpreter that has used Micro-Manager's core may abort when it ends
        end = "\nimport os, sys\nsys.stdout.flush()\nos._exit(0)\n"
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code + end], capture_output=True, text=True, timeout=90, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(code, str(page), "exec"), {"__name__": "__main__"})  # noqa: S102  our own pages
    return out.getvalue()


@pytest.mark.parametrize("page", [p for p in PAGES if python_blocks(p)], ids=of_page)
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every Python block of every page runs, in the order of the page, and prints what comments say that it prints."""
    monkeypatch.chdir(tmp_path)
    code = python_blocks(page)
    for name, make in SOURCES.items():
        if re.search(rf'(describe|open_recording|recover|replay|verify)\(\s*"{name}"', code):
            make(tmp_path / name)
    printed = ", " + run_python(code, page).replace("\n", ", ")
    said = re.findall(r"^ *print\(.*\)  # (.*)$", code, re.MULTILINE)
    assert [what for what in said if f", {what}, " not in printed] == []


@pytest.mark.parametrize("page", PAGES, ids=of_page)
def test_python_is_marked_as_python(page: Path) -> None:
    """No block of Python is marked as plain text, and so is not run: nobody would notice that it is wrong."""
    assert [block for block in blocks(page, "text") if PYTHON.search(block)] == []


# ---- commands --------------------------------------------------------------------------------------------------------


def sources_of(line: str) -> list[str]:
    """Return the names of what a command reads: all but those of datasets that ``demo`` and ``replay`` make."""
    command, *arguments = shlex.split(line.partition("ome-writers ")[2], comments=True)
    names = [argument.split("/")[0] for argument in arguments if argument.split("/")[0] in SOURCES]
    return [] if command == "demo" else names[:1] if command == "replay" else names


def run_commands(lines: list[str], folder: Path) -> dict[str, str]:
    """Run commands one after the other, each with what it reads, and check how it ends; return what they print.

    It is to end with status 0, or with the one that a comment behind it says: ``# exit status 1``.
    """
    printed = {}
    for line in lines:
        for name in sources_of(line):
            if not (folder / name).exists():
                SOURCES[name](folder / name)
        words = shlex.split(line, comments=True)
        start = words.index("ome-writers")
        done = subprocess.run(
            [*COMMAND, *words[start + 1 :]],
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
            cwd=folder,
            env={**os.environ, **dict(word.split("=", 1) for word in words[:start])},
        )
        told = re.search(r"# exit status (\d+)$", line)
        assert done.returncode == (int(told[1]) if told else 0), f"{line}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        printed[line] = done.stdout.replace(f"{folder}{os.sep}", "")
    return printed


@pytest.mark.parametrize("page", [p for p in PAGES if p.is_relative_to(DOCS) and commands(p)], ids=of_page)
def test_commands_run(page: Path, tmp_path: Path) -> None:
    """Every command of every page runs as it is written, in the order of the page, and prints what follows it there."""
    printed = run_commands(commands(page), tmp_path)
    shown = re.compile(r"^```sh\n(ome-writers [^\n]*)\n```\n\n```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    for line, output in shown.findall(page.read_text(encoding="utf-8")):
        assert printed[line] == output


def examples_in_help() -> dict[str, list[str]]:
    """Return the examples in the help of each command."""
    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    texts = {name: f"{command.help}\n{command.epilog}" for name, command in group.commands.items()}
    return {name: re.findall(r"^ *(ome-writers .*)$", text, re.MULTILINE) for name, text in texts.items()}


@pytest.mark.parametrize("command", examples_in_help())
def test_examples_in_help_run(command: str, tmp_path: Path) -> None:
    """Every example that the help of a command shows runs as it is written; there is one at least."""
    lines = examples_in_help()[command]
    assert lines
    if command == "bench":  # as it is written it takes minutes
        lines = [f"{line} --size 64 --fps 20 --seconds 0.1" for line in lines]
    run_commands(lines, tmp_path)


def test_sources_are_used() -> None:
    """What is made for commands is used by some page: names do not get lost when pages change."""
    used = {name for page in PAGES if page.is_relative_to(DOCS) for line in commands(page) for name in sources_of(line)}
    assert used == SOURCES.keys()


# ---- examples --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.stem)
def test_examples_run(example: Path, tmp_path: Path) -> None:
    """Every example runs as a program of its own, writes where it is told, and prints what its page says."""
    target = tmp_path / "data.ome.zarr"
    done = subprocess.run(
        [sys.executable, "-W", "error", str(example), str(target)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    if done.stdout.startswith("skipped: "):
        pytest.skip(done.stdout)
    assert (target / "zarr.json").is_file()
    (shown,) = blocks(DOCS / "examples" / f"{example.stem}.md", "text")
    assert done.stdout.replace(str(target), f"{example.stem}.ome.zarr") == shown


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.stem)
def test_examples_have_a_page(example: Path) -> None:
    """Every example has a page that includes its source, and a line in the list of examples."""
    page = DOCS / "examples" / f"{example.stem}.md"
    assert f'--8<-- "examples/{example.name}"' in page.read_text(encoding="utf-8")
    assert f"({page.name})" in (DOCS / "examples" / "index.md").read_text(encoding="utf-8")


# ---- the whole -------------------------------------------------------------------------------------------------------


def test_links_between_pages() -> None:
    """Every relative link in the pages leads to a file."""
    broken = [
        f"{page.name}: {target}"
        for page in [*PAGES, ROOT / "CONTRIBUTING.md"]
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))
        if not (page.parent / target).exists()
    ]
    assert not broken


def test_pages_are_in_the_navigation() -> None:
    """The navigation names every page of the documentation, and no others."""
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    named = re.findall(r"^ +- (?:[^:\n]+: )?(\S+\.md)$", text, re.MULTILINE)
    assert sorted(named) == sorted(page.relative_to(DOCS).as_posix() for page in PAGES if page.is_relative_to(DOCS))


def test_public_names_are_in_the_reference() -> None:
    """The reference has an entry for every public name of the package."""
    entries = {
        name
        for page in (DOCS / "reference").glob("*.md")
        for name in re.findall(r"^::: ome_writers\.(\w+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    }
    elsewhere = {"OMEWritersError", "__version__"}  # the first one is an entry of the module of errors
    assert set(ome_writers.__all__) - entries - elsewhere == set()
