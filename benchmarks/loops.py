"""``python -m benchmarks.loops``: streams beside loops that hand the same library whole shards, in turns."""

from __future__ import annotations

import os
import sys

from rich.console import Console
from rich.table import Table

from ._contenders import LOOPS
from ._options import add_turns, parse, size_options, sized
from ._timing import Timing
from ._turns import median, quartiles, ratios, take_turns
from ._workloads import Workload

KINDS = ("stream", "loop", "gathering loop")
_SHARDED = ("sharded-raw", "sharded-blosc-lz4", "sharded-blosc-zstd")


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
            names = [f"{library} {kind}" for kind in KINDS]
            timings, wrong = take_turns(workload, pixels, names, args.turns, args.scratch)
            table.add_row(name, library, *_cells(workload, *timings.values()))
            all_wrong += wrong
    table.caption = f"{os.cpu_count()} cores; {all_wrong} wrong frames"
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    return int(bool(all_wrong))


def _cells(workload: Workload, stream: list[Timing], loop: list[Timing], gathering: list[Timing]) -> list[str]:
    writing = [[t.writing for t in of_kind] for of_kind in (stream, loop, gathering)]
    whole = [[t.creating + t.writing for t in of_kind] for of_kind in (stream, loop)]
    to_the_loop = ratios(writing[0], writing[1])
    return [
        *(median(workload.nbytes / seconds / 1e9 for seconds in of_kind) for of_kind in writing),
        median(to_the_loop),
        quartiles(to_the_loop),
        median(ratios(*whole)),
        median(ratios(writing[0], writing[2])),
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
