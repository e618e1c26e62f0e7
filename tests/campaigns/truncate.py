"""Files that are cut off or changed anywhere: that ``recover`` raises no unexpected error and reports no wrong frame.

A child process is killed after a known number of frames, with shards in progress. On fresh copies of what it leaves,
the journal is cut off at every byte of its last records, each shard in progress at every byte of its last chunks, and
the other files of ``ome_writers`` too; single bytes of the journal are changed, and of the shards where the journal has
checksums.

    python -m tests.campaigns.truncate
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import tensorstore as ts
from rich.console import Console
from rich.table import Table

from ome_writers import AcquisitionSettings, Dimension, RecoveryReport, create_stream, recover
from ome_writers.errors import NotRecoverableError, OMEWritersError

__all__ = ["DURABILITIES", "Damage", "Tally", "damages", "main", "try_damage", "write_and_die"]

DURABILITIES: Final = ("process", "system")
JOURNAL: Final = "ome_writers/journal"

_POSITIONS: Final = 2
_FRAMES: Final = 27
_SKIPPED: Final = frozenset({3, 20})
_SIDE: Final = 8
_CHUNK_BYTES: Final = 2 * _SIDE * _SIDE // 2  # two chunks in a frame
_RECORD_BYTES: Final = 12 + 8 + 8 * 3 + 8 + 2 * (4 + 8 + 8)  # of a frame, without checksums

Pixels = npt.NDArray[Any]
Durability = Literal["process", "system"]


@dataclass(frozen=True)
class Damage:
    """What is done to one file."""

    what: str  # for the table
    file: str  # below the root
    keep: int | None = None  # bytes
    flip: tuple[int, int] | None = None  # offset, and bits to change

    def do(self, root: Path) -> None:
        """Damage the file."""
        path = root / self.file
        if self.keep is not None:
            os.truncate(path, self.keep)
        if self.flip is not None:
            data = bytearray(path.read_bytes())
            data[self.flip[0]] ^= self.flip[1]
            path.write_bytes(data)


@dataclass
class Tally:
    """What came of damages, by what they are."""

    durability: str
    cases: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    messages: list[str] = field(default_factory=list)


# ---- the dataset -----------------------------------------------------------------------------------------------------


def settings(root: Path, durability: Durability) -> AcquisitionSettings:
    """Return the settings: two positions, two chunks in a frame, shards of eight frames."""
    return AcquisitionSettings(
        root_path=root,
        dimensions=(
            Dimension(name="t", type="time", count=None, shard_size_chunks=8),
            Dimension(name="p", type="position", coords=[f"p{i}" for i in range(_POSITIONS)]),
            Dimension(name="y", type="space", count=_SIDE, chunk_size=_SIDE // 2, shard_size_chunks=2),
            Dimension(name="x", type="space", count=_SIDE),
        ),
        dtype="uint16",
        format="direct",
        durability=durability,
    )


def frame(number: int) -> Pixels:
    """Return the pixels of a frame, none of them 0."""
    return np.random.default_rng(number).integers(1, 1 << 16, (_SIDE, _SIDE), np.uint16)


def write_and_die(root: Path, durability: Durability = "process") -> None:
    """Have a child process append all frames and kill itself."""
    command = [sys.executable, __file__, "--child", str(root), durability]
    status = subprocess.run(command, check=False, timeout=60).returncode
    if status != -signal.SIGKILL:
        raise RuntimeError(f"the child has ended with status {status}")


def _write_as_child(root: Path, durability: Durability) -> None:
    stream = create_stream(settings(root, durability))
    for number in range(_FRAMES):
        if number in _SKIPPED:
            stream.skip()
        else:
            stream.append(frame(number), frame_metadata={"number": number})
        stream.flush()
    os.kill(os.getpid(), signal.SIGKILL)


def damages(root: Path, durability: Durability, rng: random.Random, flips: int) -> Iterator[Damage]:
    """Yield what is to be done to copies of a dataset."""

    def size(file: str) -> int:
        return (root / file).stat().st_size

    def cuts(what: str, file: str, most: int) -> Iterator[Damage]:
        end = size(file)
        return (Damage(what, file, keep=keep) for keep in range(max(0, end - most), end))

    shards = sorted(f"ome_writers/writing/{file.name}" for file in (root / "ome_writers" / "writing").iterdir())
    yield from cuts("journal cut", JOURNAL, 3 * _RECORD_BYTES)
    for shard in shards:
        yield from cuts("shard cut", shard, 3 * _CHUNK_BYTES)
    yield from cuts("frames.txt cut", "ome_writers/frames.txt", _FRAMES)
    yield from cuts("frames.jsonl cut", "ome_writers/frames.jsonl", 200)
    for keep in rng.sample(range(size("ome_writers/settings.json")), 20):
        yield Damage("settings cut", "ome_writers/settings.json", keep=keep)
    for _ in range(flips):
        yield Damage("journal flip", JOURNAL, flip=(rng.randrange(size(JOURNAL)), 1 << rng.randrange(8)))
    if durability == "system":  # else nothing could tell
        for _ in range(flips):
            shard = rng.choice(shards)
            yield Damage("shard flip", shard, flip=(rng.randrange(size(shard)), 1 << rng.randrange(8)))


# ---- what recovery makes of it ---------------------------------------------------------------------------------------


def try_damage(root: Path, scratch: Path, damage: Damage, tally: Tally) -> None:
    """Damage a copy of a dataset, recover it and look at it."""
    copy = scratch / "copy.ome.zarr"
    shutil.copytree(root, copy)
    tally.cases[damage.what] += 1
    try:
        damage.do(copy)
        faults = _faults(copy, damage, tally)
    except Exception as error:  # noqa: BLE001  a campaign goes on and counts
        faults = [f"{type(error).__name__}: {error}"]
    finally:
        shutil.rmtree(copy)
    if faults:
        tally.failures[damage.what] += 1
        tally.messages += [f"{tally.durability}: {damage}: {fault}" for fault in faults]


def _faults(root: Path, damage: Damage, tally: Tally) -> list[str]:
    try:
        report = recover(root)
    except OMEWritersError as error:
        tally.refused[damage.what] += 1
        expected = isinstance(error, NotRecoverableError) and damage.what == "settings cut"
        return [] if expected else [f"refused: {error}"]
    tally.lost[damage.what] += report.frames_lost
    faults = []
    lost = {number for run in report.lost for number in run}
    if report.frames_taken > _FRAMES:
        faults.append(f"{report.frames_taken} frames were taken of {_FRAMES}")
    if damage.what in ("frames.jsonl cut", "settings cut") and report.frames_lost:
        faults.append(f"{report.frames_lost} frames are lost")
    for number, pixels in enumerate(_read(root, report)):
        wanted = 0 * frame(number) if number in lost or number in _SKIPPED else frame(number)
        if not np.array_equal(pixels, wanted):
            faults.append(f"frame {number} is {'lost' if number in lost else 'not'} and reads wrong")
    if recover(root).needed:
        faults.append("recovery had something to do again")
    return faults


def _read(root: Path, report: RecoveryReport) -> Iterator[Pixels]:
    """Yield the frames as tensorstore reads them."""
    arrays = [
        ts.open({"driver": "zarr3", "kvstore": {"driver": "file", "path": str(root / f"p{i}" / "0")}}).result()
        for i in range(_POSITIONS)
    ]
    images = [np.asarray(array.read().result()) for array in arrays]
    for number in range(report.frames_taken):
        yield images[number % _POSITIONS][number // _POSITIONS]


# ---- the campaign ----------------------------------------------------------------------------------------------------


def table(tallies: list[Tally]) -> Table:
    """Return the table of a campaign."""
    shown = Table("durability", "damage", "cases", "refused", "frames lost", "failures")
    for tally in tallies:
        for what in tally.cases:
            counts = (tally.cases, tally.refused, tally.lost, tally.failures)
            shown.add_row(tally.durability, what, *(f"{count[what]:,}" for count in counts))
        shown.add_section()
    total = sum(sum(tally.cases.values()) for tally in tallies)
    shown.add_row("all", "", f"{total:,}", "", "", f"{sum(sum(tally.failures.values()) for tally in tallies):,}")
    return shown


def main(arguments: list[str] | None = None) -> int:
    """Run the campaign; returns the exit status, 1 after any failure."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns.truncate", description=__doc__)
    parser.add_argument("--flips", type=int, default=300, help="changed bytes of each kind of file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scratch", type=Path, help="where datasets are written")
    options = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(f"seed {options.seed}")
    tallies = []
    for durability in DURABILITIES:
        rng = random.Random(f"{durability} {options.seed}")  # noqa: S311  not for secrets
        tally = Tally(durability)
        with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
            root = Path(scratch, "data.ome.zarr")
            write_and_die(root, durability)
            for damage in damages(root, durability, rng, options.flips):
                try_damage(root, Path(scratch), damage, tally)
        tallies.append(tally)
        for message in tally.messages:
            console.print(message, highlight=False, markup=False)
    console.print(table(tallies))
    return 1 if any(tally.failures for tally in tallies) else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        _write_as_child(Path(sys.argv[2]), sys.argv[3])  # type: ignore[arg-type]
    else:
        sys.exit(main())
