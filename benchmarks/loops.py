"""``python -m benchmarks.loops``: streams beside loops that hand the same library whole shards, in turns."""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from ._contenders import CONTENDERS, LOOPS, Timing
from ._measure import wrong_frames
from ._options import add_turns, parse, size_options, sized
from ._workloads import Frames, Workload

KINDS = ("stream", "loop", "gathering loop")
_SHARDED = ("sharded-raw", "sharded-blosc-lz4", "sharded-blosc-zstd")


def measure(
    workload: Workload, pixels: Frames, library: str, turns: int, scratch: Path
) -> tuple[dict[str, list[Timing]], int]:
    """Return what a stream and the loops took in each turn, and how many frames came out wrong.

    All take turns in one process, each turn beginning with another one, and each deletes what it wrote: so a virtual
    machine keeps the memory that the files take. The first turn is not counted.
    """
    timings: dict[str, list[Timing]] = {kind: [] for kind in KINDS}
    reader = "zarr-python" if library == "tensorstore" else "tensorstore"
    wrong = 0
    for turn in range(turns + 1):
        for kind in (*KINDS[turn % 3 :], *KINDS[: turn % 3]):
            folder = Path(tempfile.mkdtemp(dir=scratch, prefix="bench-"))
            path = folder / "data.ome.zarr"
            try:
                timing = CONTENDERS[f"{library} {kind}"](workload, pixels, path)
                if turn:
                    timings[kind].append(timing)
                else:
                    wrong += wrong_frames(workload, pixels, path, reader)
            finally:
                shutil.rmtree(folder)
    return timings, wrong


def main(argv: list[str]) -> int:
    """Run the benchmark; return the exit status, 1 when a frame came out wrong."""
    parser = size_options("benchmarks.loops", __doc__)
    add_turns(parser, 21, _SHARDED, _SHARDED[:2])
    parser.add_argument("--backend", nargs="+", choices=LOOPS, default=list(LOOPS))
    args = parse(parser, argv)
    table = Table(title=f"a stream beside loops that are handed ready-made shards, or gather them; {args.turns} turns")
    for column in ("workload", "backend", *(f"{kind} GB/s" for kind in KINDS), "to the loop", "quartiles",
                   "with creation", "to the gathering loop"):  # fmt: skip
        left = column in ("workload", "backend")
        table.add_column(column, justify="left" if left else "right", no_wrap=left)
    all_wrong = 0
    for name in args.workload:
        workload = sized(name, args)
        pixels = workload.pixels()
        for library in args.backend:
            print(f"{name}, {library}", file=sys.stderr, flush=True)
            timings, wrong = measure(workload, pixels, library, args.turns, args.scratch)
            table.add_row(name, library, *_cells(workload, timings))
            all_wrong += wrong
    table.caption = f"{os.cpu_count()} cores; {all_wrong} wrong frames"
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    return int(bool(all_wrong))


def _cells(workload: Workload, timings: dict[str, list[Timing]]) -> list[str]:
    writing = {kind: [t.writing for t in of_kind] for kind, of_kind in timings.items()}
    whole = {kind: [t.creating + t.writing for t in of_kind] for kind, of_kind in timings.items()}
    low, _, high = np.percentile(_ratios(writing, "loop"), [25, 50, 75])
    return [
        *(f"{workload.nbytes / statistics.median(writing[kind]) / 1e9:.2f}" for kind in KINDS),
        f"{statistics.median(_ratios(writing, 'loop')):.2f}",
        f"{low:.2f} to {high:.2f}",
        f"{statistics.median(_ratios(whole, 'loop')):.2f}",
        f"{statistics.median(_ratios(writing, 'gathering loop')):.2f}",
    ]


def _ratios(seconds: dict[str, list[float]], kind: str) -> list[float]:
    """Return by how much the stream is faster than a loop, turn by turn."""
    return [other / ours for ours, other in zip(seconds["stream"], seconds[kind], strict=True)]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
