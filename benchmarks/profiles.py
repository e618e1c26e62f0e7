"""``python -m benchmarks.profiles``: what the processors do while ``direct`` streams; needs ``perf`` of Linux."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from ._measure import have_memory_free
from ._options import add_turns, parse, size_options, sized
from ._workloads import Workload
from .parts import parts

WORK: Final = ("write()", "codec", "copying frames")
"""What remains to be done when everything else costs nothing."""

KINDS: Final = (*WORK, "rest of the kernel", "Python and others")

_HERTZ: Final = 1997  # a prime: no rhythm of a stream is sampled at the same place again and again
_CODECS: Final = ("blosc", "zstd", "lz4", "crc32c")
_WRITES: Final = re.compile(r"vfs_write|writev|_write_iter$")  # functions of Linux inside of a write()
_COPIES: Final = re.compile(r"contig|assign_array")  # functions of NumPy that copy a frame
_HEAD: Final = re.compile(r"\s*(\d+)/(\d+)\s+(\d+\.\d+):")
_FRAME: Final = re.compile(r"\s*[0-9a-f]+ (.*) \((.*)\)$")


@dataclass(frozen=True, slots=True)
class Span:
    """When a stream took frames, and how busy the processors were.

    Attributes
    ----------
    start, end : float
        Seconds of the system's monotonic clock, from the first frame to the end of ``close``.
    processor : float
        Seconds of processor time of all threads.
    """

    start: float
    end: float
    processor: float


@dataclass(frozen=True, slots=True)
class Sample:
    """What a thread did at an instant.

    Attributes
    ----------
    main : bool
        Whether it is the thread that appends frames.
    time : float
        Seconds of the system's monotonic clock.
    frames : tuple of (str, str)
        Function and library of each call, innermost first; libraries of the kernel are in brackets.
    """

    main: bool
    time: float
    frames: tuple[tuple[str, str], ...]

    @property
    def kind(self) -> str:
        """One of :data:`KINDS`."""
        function, library = self.frames[0]
        if library.startswith("[") and library != "[vdso]":
            writes = any(_WRITES.search(name) for name, place in self.frames if place.startswith("["))
            # the thread that appends writes notes of frames only
            return "write()" if writes and not self.main else "rest of the kernel"
        name = Path(library).name
        copies = name.startswith(("libc.so", "libc-"))
        if any(codec in name for codec in _CODECS) or (copies and not self.main):  # blosc has libc copy
            return "codec"
        if copies or (self.main and "_multiarray_umath" in name and _COPIES.search(function)):
            return "copying frames"
        return "Python and others"


def stream_spans(workload: Workload, turns: int, scratch: Path) -> Iterator[Span]:
    """Have ``direct`` write a workload a number of times, and once before that does not count; yield each span."""
    stream = parts(workload, workload.pixels())["stream"]
    with tempfile.TemporaryDirectory(dir=scratch, prefix="bench-", ignore_cleanup_errors=True) as outer:
        for turn in range(turns + 1):
            folder = Path(outer) / str(turn)
            folder.mkdir()
            have_memory_free(2 * workload.nbytes)
            cost = stream(folder)
            end = time.monotonic()
            shutil.rmtree(folder)
            if turn:
                yield Span(end - cost.wall, end, cost.processor)


def samples(script: str) -> Iterator[Sample]:
    """Yield the samples that ``perf script -F pid,tid,time,ip,sym,dso`` has printed."""
    for block in script.split("\n\n"):
        head, *lines = block.strip("\n").splitlines() or [""]
        frames = tuple((match[1], match[2]) for match in map(_FRAME.match, lines) if match)
        if frames and (match := _HEAD.match(head)):
            yield Sample(match[1] == match[2], float(match[3]), frames)


def shares(spans: Iterable[Span], taken: Iterable[Sample]) -> dict[str, float]:
    """Return which part of the samples within the spans each kind has."""
    spans = list(spans)
    counts = Counter(s.kind for s in taken if any(span.start <= s.time <= span.end for span in spans))
    return {kind: counts[kind] / max(counts.total(), 1) for kind in KINDS}


def room(parts_of_time: dict[str, float], busy: float, cores: int) -> float:
    """Return by how much a stream would be faster if all cores were busy with nothing but :data:`WORK`."""
    return cores / max(busy * sum(parts_of_time[kind] for kind in WORK), 1e-9)


def profile(workload: str, argv: list[str], scratch: Path) -> tuple[list[Span], dict[str, float]]:
    """Return the spans of a workload's streams, in a process of their own, and what was done in them."""
    perf = shutil.which("perf")
    if perf is None:
        raise SystemExit("perf is not there: it comes with Linux, in a package such as linux-perf or linux-tools")
    with tempfile.TemporaryDirectory(dir=scratch, prefix="bench-") as folder:
        recorded = str(Path(folder) / "perf.data")
        command = [sys.executable, "-m", "benchmarks.profiles", *argv, "--workload", workload, "--spans"]
        options = ["-q", "-g", "-k", "CLOCK_MONOTONIC", "-e", "cpu-clock", "-F", str(_HERTZ), "-o", recorded]
        done = _output([perf, "record", *options, "--", *command])
        spans = [Span(**json.loads(line)) for line in done.splitlines() if line.startswith("{")]
        script = _output([perf, "script", "-i", recorded, "-F", "pid,tid,time,ip,sym,dso"])
    return spans, shares(spans, samples(script))


def _output(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:2])} failed:\n{done.stderr[-2000:]}")
    return done.stdout


def main(argv: list[str]) -> int:
    """Run the measurement; return the exit status."""
    parser = size_options("benchmarks.profiles", __doc__)
    add_turns(parser, 8)
    parser.add_argument("--spans", action="store_true", help=argparse.SUPPRESS)  # write, and print when
    args = parse(parser, argv)
    if args.spans:
        for span in stream_spans(sized(args.workload[0], args), args.turns, args.scratch):
            sys.stdout.write(json.dumps(asdict(span)) + "\n")
        return 0
    cores = os.cpu_count() or 1
    table = Table(
        title=f"parts of the processor time of streams to direct; {args.turns} streams of each workload",
        caption=f"{cores} cores; room: how much faster a stream would be, were all cores busy with the first three",
    )
    for column in ("workload", *KINDS, "cores busy", "GB/s", "room"):
        table.add_column(column, justify="left" if column == "workload" else "right")
    for name in args.workload:
        print(name, file=sys.stderr, flush=True)
        spans, of_time = profile(name, argv, args.scratch)
        busy = statistics.median(span.processor / (span.end - span.start) for span in spans)
        rate = statistics.median(sized(name, args).nbytes / (span.end - span.start) / 1e9 for span in spans)
        row = (f"{of_time[kind]:.0%}" for kind in KINDS)
        table.add_row(name, *row, f"{busy:.2f}", f"{rate:.2f}", f"{room(of_time, busy, cores):.2f}")
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
