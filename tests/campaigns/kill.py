"""Kill -9 at random instants: that after ``recover`` every acknowledged frame has a known fate, and ``resume`` goes on.

A child process appends frames and says through a pipe when each has been taken. It is killed while it creates the
dataset, while it appends or while it closes; then the dataset is recovered and compared with what was acknowledged. In
some runs the dataset is copied while the child writes, the recovery is killed too, or other children go on with the
dataset and are killed; in half of them a last stream goes on to the end, and the whole dataset is compared.

    python -m tests.campaigns.kill --runs 200

Each run has a seed of its own, which failures name: ``--runs 1 --seed N`` repeats it, but for the instant.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import tensorstore as ts
import yaozarrs
from rich.console import Console
from rich.table import Table

from ome_writers import AcquisitionSettings, Dimension, RecoveryReport, create_stream, recover
from ome_writers.engine import FATES_FILE, read_fates
from ome_writers.errors import OMEWritersError

__all__ = ["Case", "Failure", "Result", "copy_while_written", "main", "read_frames", "run"]

BACKENDS: Final = ("direct", "tensorstore", "zarr-python")

_KEPT: Final = {"settings.json", "zarr.json", "frames.txt", "frames.jsonl"}  # in ome_writers
_OF_DATASETS: Final = re.compile(r"zarr\.json|METADATA\.ome\.xml|\d+")
_TIMEOUT: Final = 60.0  # s
_IMAGES: Final = 13

Pixels = npt.NDArray[Any]


@dataclass(frozen=True)
class Case:
    """What one run does; all of it follows from the seed."""

    seed: int
    backend: str
    compression: str
    chunk: int
    sharded: bool
    split_plane: bool
    positions: int
    channels: int
    unbounded: bool
    positions_first: bool
    steps: int
    side: int
    metadata: bool
    skipping: float
    flush_every: int
    lives: int
    resumes: bool
    copies: bool
    kills_recovery: bool

    @classmethod
    def drawn(cls, seed: int, backend: str | None = None) -> Case:
        """Return the case of a seed."""
        rng = random.Random(f"case {seed}")  # noqa: S311  not for secrets
        drawn, unbounded = rng.choice(BACKENDS), rng.random() < 0.5
        return cls(
            seed=seed,
            backend=backend or drawn,
            compression=rng.choice(["none", "blosc-lz4"]),
            chunk=rng.choice([1, 16]),
            sharded=rng.random() < 0.6,
            split_plane=rng.random() < 0.5,
            positions=rng.choice([1, 1, 3]),
            channels=rng.choice([1, 1, 2]),
            unbounded=unbounded,
            positions_first=not unbounded and rng.random() < 0.3,
            steps=rng.choice([40, 75, 150]),
            side=rng.choice([16, 32, 64]),
            metadata=rng.random() < 0.75,
            skipping=rng.choice([0.0, 0.0, 0.05, 0.3]),
            flush_every=rng.choice([0, 0, 7, 40]),
            lives=rng.choice([1, 1, 2, 3]),
            resumes=rng.random() < 0.5,
            copies=rng.random() < 0.25,
            kills_recovery=rng.random() < 0.3,
        )

    def __str__(self) -> str:
        """Return what matters in a word."""
        words = [self.backend, self.compression, f"t{self.chunk}", "sharded" if self.sharded else "files"]
        words += [f"{self.positions}p", f"{self.channels}c", "unbounded" if self.unbounded else f"{self.steps} steps"]
        words += [
            name for name in ("split_plane", "positions_first", "copies", "kills_recovery") if getattr(self, name)
        ]
        return " ".join([*words, f"skip{self.skipping}", f"flush{self.flush_every}", f"lives{self.lives}"])

    @property
    def frames(self) -> int:
        """How many frames there are, or how many an unbounded acquisition takes at most."""
        return self.steps * self.positions * self.channels

    def settings(self, root: Path) -> AcquisitionSettings:
        """Return the settings of the acquisition."""
        shard = 3 if self.sharded else None
        time_axis = Dimension(
            name="t",
            type="time",
            count=None if self.unbounded else self.steps,
            chunk_size=self.chunk,
            shard_size_chunks=shard,
        )
        index = [time_axis]
        if self.positions > 1:
            names = [f"p{i}" for i in range(self.positions)]
            sites = Dimension(name="p", type="position", coords=names)
            index.insert(0 if self.positions_first else 1, sites)
        if self.channels > 1:
            index.append(Dimension(name="c", type="channel", count=self.channels))
        side = self.side // 2 if self.split_plane else self.side
        plane = [
            Dimension(name=n, type="space", count=self.side, chunk_size=side, shard_size_chunks=1 if shard else None)
            for n in "yx"
        ]
        return AcquisitionSettings(
            root_path=root,
            dimensions=[*index, *plane],
            dtype="uint16",
            compression=self.compression,
            format=self.backend,
        )

    def place(self, number: int) -> tuple[int, tuple[int, ...]]:
        """Return position and index in its array of a frame."""
        order = [self.steps, self.positions, self.channels]
        if self.positions_first:
            position, t, c = np.unravel_index(number, [self.positions, self.steps, self.channels])
        else:
            t, position, c = np.unravel_index(number, order)
        return int(position), (int(t), int(c)) if self.channels > 1 else (int(t),)

    def group(self, position: int) -> str:
        """Return the path of the group of a position."""
        return "." if self.positions == 1 else f"p{position}"

    @cached_property
    def skipped(self) -> npt.NDArray[np.bool_]:
        """Which frames are skipped."""
        skipped: npt.NDArray[np.bool_] = np.random.default_rng(self.seed).random(self.frames) < self.skipping
        return skipped

    @cached_property
    def _images(self) -> Pixels:
        return np.random.default_rng(self.seed).integers(1, 1 << 16, (_IMAGES, self.side, self.side), np.uint16)

    def frame(self, number: int, life: int) -> Pixels:
        """Return the pixels of a frame, none of them 0, as one of the streams appends it."""
        pixels: Pixels = self._images[(number + life) % _IMAGES].copy()
        pixels[::4, ::4] = 1 + number
        pixels[1::4, ::4] = 1 + life
        return pixels


@dataclass(frozen=True)
class Failure:
    """Something that must not be, by kind."""

    kind: str
    message: str


@dataclass
class Result:
    """What came of a run."""

    case: Case
    kills: int = 0
    acknowledged: int = 0
    written: int = 0
    skipped: int = 0
    lost: int = 0
    failures: list[Failure] = field(default_factory=list)

    def expect(self, true: bool, kind: str, message: object) -> bool:
        """Note a failure unless something is true."""
        if not true:
            self.failures.append(Failure(kind, str(message)))
        return true

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Note an exception as a failure."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  a campaign goes on and counts
            self.failures.append(Failure("exception", f"{what}: {type(error).__name__}: {error}"))


# ---- the processes that are killed -----------------------------------------------------------------------------------


def _say(what: str) -> None:
    os.write(1, what.encode())


def _write_as_child(case: Case, root: Path, life: int, stop: int) -> None:
    """Append frames; say ``<`` before the stream is made, where it begins, each frame, ``C`` and ``Z`` around close."""
    warnings.simplefilter("ignore")
    settings = case.settings(root)
    _say("<")
    stream = create_stream(settings, resume=life > 0)
    _say(f"{stream.next_frame};")
    for number in range(stream.next_frame, stop):
        if case.skipped[number]:
            stream.skip()
        else:
            stream.append(case.frame(number, life), frame_metadata=metadata_of(number) if case.metadata else None)
        _say(".")
        if case.flush_every and number % case.flush_every == 0:
            stream.flush()
    _say("C")
    stream.close()
    _say("Z")


def _recover_as_child(root: Path) -> None:
    _say("<")
    recover(root)
    _say("Z")


def metadata_of(number: int) -> dict[str, Any]:
    """Return the metadata of a frame."""
    return {"number": number, "delta_t": number / 8}


@contextmanager
def child(*arguments: object) -> Iterator[subprocess.Popen[bytes]]:
    """Run this file as another process, killed at the end if not before."""
    command = [sys.executable, __file__, "--child", *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0) as process:
        try:
            yield process
        finally:
            process.kill()


def said_until(process: subprocess.Popen[bytes], said: bytes, enough: Callable[[bytes], bool]) -> bytes:
    """Return what a child has said when that is enough, or when it has ended."""
    assert process.stdout is not None
    while not enough(said) and (more := process.stdout.read(1 << 16)):
        said += more
    return said


def killed(process: subprocess.Popen[bytes], said: bytes) -> bytes:
    """Kill a child; return all that it has said."""
    process.kill()
    said = said_until(process, said, lambda _: False)
    process.wait(_TIMEOUT)
    return said


# ---- what stands on disk ---------------------------------------------------------------------------------------------


def copy_while_written(source: Path, target: Path) -> None:
    """Copy a folder that somebody writes to; what vanishes meanwhile is left out."""

    def copy(file: str, to: str) -> str:
        with suppress(FileNotFoundError):
            return shutil.copy2(file, to)
        return to

    try:
        shutil.copytree(source, target, copy_function=copy)
    except shutil.Error as errors:  # folders that have vanished
        if not all("No such file" in str(why) for *_, why in errors.args[0]):
            raise
    except FileNotFoundError:
        pass


def read_frames(case: Case, root: Path, frames: int) -> list[Pixels | None]:
    """Return the pixels of each frame as tensorstore reads them; None for one outside of its array."""
    arrays = []
    for position in range(case.positions):
        path = root / case.group(position) / "0"
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path)}}
        arrays.append(np.asarray(ts.open(spec, open=True).result().read().result()))
    read: list[Pixels | None] = []
    for number in range(frames):
        position, index = case.place(number)
        inside = all(i < n for i, n in zip(index, arrays[position].shape, strict=False))
        read.append(arrays[position][index] if inside else None)
    return read


def attributes(root: Path, group: str = ".") -> dict[str, Any]:
    """Return this package's attributes of a group."""
    ours = json.loads((root / group / "zarr.json").read_text(encoding="utf-8"))["attributes"].get("ome_writers", {})
    assert isinstance(ours, dict)
    return ours


@dataclass
class Model:
    """What was acknowledged: for each frame the life of the stream that has taken it."""

    lives: list[int] = field(default_factory=list)

    def resume(self, frame: int) -> None:
        """Forget the frames that are appended again."""
        del self.lives[frame:]

    def take(self, life: int, frames: int) -> None:
        """Take frames as acknowledged."""
        self.lives += [life] * frames

    def __len__(self) -> int:
        return len(self.lives)


def check(
    result: Result, model: Model, root: Path, report: RecoveryReport, *, kind: str = "", noted: int | None = None
) -> None:
    """Compare a dataset that was recovered with what its report says and what was acknowledged.

    Of a copy that was made while the stream wrote, only the first ``noted`` frames have a fate that is known: what was
    skipped after ``frames.txt`` was copied, and before a chunk that was copied later, looks lost.
    """
    case = result.case
    prefix = f"{kind} " if kind else ""
    taken, lost = report.frames_taken, {number for run in report.lost for number in run}
    skipped = set(np.flatnonzero(case.skipped[:taken]).tolist())
    with result.step(f"{prefix}reading back"):
        pixels = read_frames(case, root, taken)
        result.expect(
            report.frames_written + report.frames_skipped + len(lost) == taken, f"{prefix}sum", report.as_dict()
        )
        both = sorted(number for number in lost & skipped if noted is None or number < noted)
        result.expect(not both, f"{prefix}sum", f"skipped frames are lost: {both[:9]}")
        wrong, garbage = [], []
        for number, found in enumerate(pixels):
            if number in lost or number in skipped:
                if case.backend == "direct" and found is not None and found.any():
                    garbage.append(number)
            elif found is None or not np.array_equal(found, case.frame(number, model.lives[number])):
                wrong.append(number)
        result.expect(not wrong, f"{prefix}pixels", f"not as appended: {len(wrong)}, {wrong[:9]}")
        result.expect(not garbage, f"{prefix}garbage", f"lost and not 0: {len(garbage)}, {garbage[:9]}")
    with result.step(f"{prefix}validation"):
        yaozarrs.validate_zarr_store(str(root))
    with result.step(f"{prefix}metadata"):
        if case.metadata and kind != "copy":
            _check_metadata(result, root, set(range(taken)) - lost - skipped, taken)
        _check_completeness(result, root, report, prefix)
    left = {file.name for file in (root / "ome_writers").iterdir()} - _KEPT
    names = (f.relative_to(root).as_posix() for f in root.rglob("*") if f.is_file())
    left |= {n for n in names if not n.startswith("ome_writers/") and not _OF_DATASETS.fullmatch(Path(n).name)}
    result.expect(not left, f"{prefix}left behind", sorted(left)[:9])


def _check_metadata(result: Result, root: Path, written: Iterable[int], taken: int) -> None:
    case = result.case
    found: Counter[int] = Counter()
    for position in range(case.positions):
        records = attributes(root, case.group(position)).get("frame_metadata", [])
        found.update(record["number"] for record in records)
        places = [(position, tuple(record["storage_index"])) for record in records]
        right = places == [case.place(record["number"]) for record in records]
        result.expect(right, "metadata", f"storage indices of {case.group(position)} are wrong")
    twice = [number for number, count in found.items() if count > 1]
    result.expect(not twice, "metadata", f"twice: {twice[:9]}")
    file = root / "ome_writers" / "frames.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    recorded = [json.loads(line) for line in lines]
    result.expect({r["frame"] for r in recorded} == set(found), "metadata", "file and attributes differ")
    missing = set(written) - set(found)
    result.expect(not missing, "metadata", f"without metadata: {sorted(missing)[:9]}")
    beyond = [number for number in found if number >= taken]
    result.expect(not beyond, "metadata", f"of frames that were not taken: {beyond[:9]}")


def _check_completeness(result: Result, root: Path, report: RecoveryReport, prefix: str) -> None:
    said = attributes(root)["completeness"]
    wanted = report.as_dict()
    for name in ("frames_expected", "frames_taken", "frames_written", "frames_skipped"):
        result.expect(said[name] == wanted[name], f"{prefix}completeness", f"{name} is {said[name]}")
    result.expect(said["frames_lost"] == wanted["lost"], f"{prefix}completeness", "lost frames differ")
    result.expect(said["closed"] or said["recovered"], f"{prefix}completeness", said)


# ---- a run -----------------------------------------------------------------------------------------------------------


def run(case: Case, scratch: Path) -> Result:
    """Carry out a case in a folder that is empty, and is so again afterwards."""
    result, model, rng = Result(case), Model(), random.Random(f"run {case.seed}")  # noqa: S311
    root = scratch / "data.ome.zarr"
    try:
        for life in range(case.lives):
            if not _live_and_die(result, model, root, life, rng):
                return result  # killed before there was a dataset
            with result.step("recover"):
                report = _recovered(result, model, root, rng)
                check(result, model, root, report)
                again = recover(root)
                result.expect(not again.needed, "second recover", "there was something to do")
                same = _numbers(again) == _numbers(report)
                result.expect(same, "second recover", f"{_numbers(again)}, not {_numbers(report)}")
                _count(result, report)
            if result.failures:
                return result
        if case.resumes:
            with result.step("resume"):
                _resume_to_the_end(result, model, root)
    finally:
        for path in scratch.iterdir():
            shutil.rmtree(path)
    return result


def _count(result: Result, report: RecoveryReport) -> None:
    result.written += report.frames_written
    result.skipped += report.frames_skipped
    result.lost += report.frames_lost


def _live_and_die(result: Result, model: Model, root: Path, life: int, rng: random.Random) -> bool:
    """Have a child write and kill it; returns whether there is a dataset."""
    case = result.case
    phase = rng.choices(["create", "append", "close", "closed"], [2, 11, 4, 3])[0]
    left = case.frames - len(model)
    some = len(model) + rng.randint(0, left if rng.random() < 0.5 else min(left, 20))
    stop = some if phase in ("close", "closed") else case.frames
    delay = rng.uniform(0, {"create": 0.03, "append": 0.01, "close": 0.03, "closed": 0.0}[phase])
    copy_at = rng.randint(1, max(1, some - len(model))) if case.copies and not life else 0
    copied, begun_at = root.with_name("copy.ome.zarr"), len(model)

    def enough(said: bytes) -> bool:
        mark = {"create": b"<", "close": b"C", "closed": b"Z"}.get(phase)
        return said.count(b".") >= some - begun_at if mark is None else mark in said

    with child("write", json.dumps([case.seed, case.backend]), root, life, stop) as process:
        said = b""
        if copy_at and phase != "create":
            said = said_until(process, said, lambda said: said.count(b".") >= copy_at or enough(said))
            if b"." in said and process.poll() is None:
                copy_while_written(root, copied)
        said = said_until(process, said, enough)
        time.sleep(delay)
        said = killed(process, said)
    result.kills += 1
    begun = re.match(rb"<(\d+);", said)
    expected_end = process.returncode == -9 or said.endswith(b"Z")
    result.expect(expected_end, "child", f"ended by itself with status {process.returncode}")
    if begun is None:
        if life == 0:
            _check_remains(result, root)
            return False
        return True
    model.resume(int(begun[1]))
    model.take(life, said.count(b"."))
    result.acknowledged += said.count(b".")
    if copied.exists():
        _check_copy(result, model, copied, life)
    return True


def _check_remains(result: Result, root: Path) -> None:
    """Check a dataset whose writer was killed before the stream was there: recovery refuses it, or finds no frame."""
    try:
        report = recover(root)
    except OMEWritersError:
        return
    except Exception as error:  # noqa: BLE001
        result.expect(False, "exception", f"recover after create: {type(error).__name__}: {error}")
        return
    result.expect(report.frames_taken <= 1, "count", f"{report.frames_taken} frames of none")
    check(result, Model([0]), root, report)


def _check_copy(result: Result, model: Model, copied: Path, life: int) -> None:
    with result.step("recover a copy"):
        noted = len(read_fates(copied / FATES_FILE))
        report = recover(copied)
        result.expect(report.frames_taken <= len(model) + 1, "copy count", f"{report.frames_taken} of {len(model)}")
        check(result, Model([*model.lives, life]), copied, report, kind="copy", noted=noted)


def _recovered(result: Result, model: Model, root: Path, rng: random.Random) -> RecoveryReport:
    """Recover, perhaps after recoveries that were killed; check how many frames were taken."""
    twin = root.with_name("twin.ome.zarr")
    if result.case.kills_recovery:
        shutil.copytree(root, twin)
        for _ in range(rng.randint(1, 3)):
            with child("recover", root) as process:
                said = said_until(process, b"", lambda said: b"<" in said)
                time.sleep(rng.uniform(0, 0.02))
                killed(process, said)
    report = recover(root)
    if twin.exists():
        at_once = _numbers(recover(twin))
        same = at_once == _numbers(report)
        result.expect(same, "killed recover", f"{_numbers(report)}, but at once {at_once}")
        shutil.rmtree(twin)
    one_more = report.frames_taken == len(model) + 1  # killed between taking and saying so
    result.expect(one_more or report.frames_taken == len(model), "count", f"{report.frames_taken} of {len(model)}")
    if one_more:
        model.take(model.lives[-1] if model.lives else 0, 1)
    return report


def _numbers(report: RecoveryReport) -> tuple[object, ...]:
    return (
        report.frames_expected,
        report.frames_taken,
        report.frames_written,
        report.frames_skipped,
        report.lost,
    )


def _resume_to_the_end(result: Result, model: Model, root: Path) -> None:
    """Go on with a dataset that was recovered to its last frame, and compare all of it."""
    case, life = result.case, 99
    report = recover(root)
    first = report.lost[0].start if report.lost else report.frames_taken
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        stream = create_stream(case.settings(root), resume=True)
    with stream:
        number = stream.next_frame
        right = number == first if case.backend == "direct" else number <= first
        result.expect(right, "resume", f"at frame {number}, not {first}")
        told = any(f"at frame {number}" in str(w.message) for w in caught)
        result.expect(told == (number < report.frames_taken), "resume", f"warned: {told}")
        model.resume(number)
        for n in range(number, case.frames):
            if case.skipped[n]:
                stream.skip()
            else:
                stream.append(case.frame(n, life), frame_metadata=metadata_of(n) if case.metadata else None)
        model.take(life, case.frames - number)
    wrong = [
        n
        for n, found in enumerate(read_frames(case, root, case.frames))
        if not np.array_equal(found, 0 * case.frame(n, 0) if case.skipped[n] else case.frame(n, model.lives[n]))  # type: ignore[arg-type]
    ]
    result.expect(not wrong, "resumed pixels", f"not as appended: {len(wrong)}, {wrong[:9]}")
    done = recover(root)
    skipped = int(case.skipped.sum())
    numbers = (done.needed, done.frames_taken, done.frames_written, done.frames_skipped, done.lost)
    wanted = (False, case.frames, case.frames - skipped, skipped, ())
    result.expect(numbers == wanted, "resumed count", numbers)
    check(result, model, root, done, kind="resumed")


# ---- the campaign ----------------------------------------------------------------------------------------------------


def table(results: Iterable[Result]) -> Table:
    """Return the table of a campaign, by backend and storage."""
    columns = ["runs", "kills", "acknowledged", "written", "skipped", "lost", "failures"]
    rows: dict[tuple[str, ...], Counter[str]] = {}
    for result in results:
        case = result.case
        row = rows.setdefault((case.backend, "shards" if case.sharded else "files", f"t{case.chunk}"), Counter())
        row.update(
            runs=1,
            kills=result.kills,
            acknowledged=result.acknowledged,
            written=result.written,
            skipped=result.skipped,
            lost=result.lost,
            failures=bool(result.failures),
        )
    shown = Table("backend", "storage", "chunk", *columns)
    for key in sorted(rows):
        shown.add_row(*key, *(f"{rows[key][name]:,}" for name in columns))
    total = sum(rows.values(), Counter[str]())
    shown.add_section()
    shown.add_row("all", "", "", *(f"{total[name]:,}" for name in columns))
    return shown


def main(arguments: list[str] | None = None) -> int:
    """Run the campaign; returns the exit status, 1 after any failure."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns.kill", description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="of the first run; the next has the next one")
    parser.add_argument("--backend", choices=BACKENDS, help="only this one")
    parser.add_argument("--scratch", type=Path, help="where datasets are written")
    options = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 140)
    results = []
    for seed in range(options.seed, options.seed + options.runs):
        case = Case.drawn(seed, options.backend)
        with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
            results.append(run(case, Path(scratch)))
        for failure in results[-1].failures:
            console.print(f"seed {seed} ({case}): {failure.kind}: {failure.message}", highlight=False, markup=False)
    console.print(table(results))
    kinds = Counter(failure.kind for result in results for failure in result.failures)
    for name, count in kinds.most_common():
        console.print(f"{count} x {name}")
    return 1 if kinds else 0


def _as_child(what: str, *arguments: str) -> None:
    if what == "recover":
        _recover_as_child(Path(arguments[0]))
    else:
        case, root, life, stop = arguments
        _write_as_child(Case.drawn(*json.loads(case)), Path(root), int(life), int(stop))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        _as_child(*sys.argv[2:])
    else:
        sys.exit(main())
