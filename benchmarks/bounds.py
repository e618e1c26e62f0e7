"""``python -m benchmarks.bounds``: how near ``direct`` is to what a stream can reach, in turns in one process.

Beside it a bare pipeline, which does what no stream can leave out; the loop over tensorstore, the best other writer in
every workload; and the limit, which does one thing after the other. What the bare pipeline does not reach is out of
reach, but for what a run differs from the next, for a stream that cuts frames into chunks on one thread and leaves
encoding and ``write()`` to as many as there are processors.

Its threads append to files of their own, and never wait for each other. Those of a stream mostly write to the same
shard, and a file takes the bytes of one thread at a time: where there are shards, a bare pipeline with one file for all
threads shows what that costs. A stream whose workers sometimes find two shards to write to comes out between the two.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from ._contenders import BARE, ONE_FILE
from ._options import add_turns, parse, size_options, sized
from ._timing import Timing
from ._turns import median, quartiles, ratios, take_turns
from ._workloads import Workload

DIRECT, OTHER, LIMIT = "direct stream", "tensorstore frames", "limit"


def main(argv: list[str]) -> int:
    """Run the benchmark; return the exit status, 1 when a frame came out wrong."""
    parser = size_options("benchmarks.bounds", __doc__)
    add_turns(parser, 21)
    args = parse(parser, argv)
    table = Table(title=f"what a stream can reach: medians of {args.turns} turns (quartiles)")
    for column in ("workload", "", "GB/s", "of the limit", "x tensorstore frames", "of the bare pipeline"):
        table.add_column(column, justify="left" if column in ("workload", "") else "right", no_wrap=True)
    all_wrong = 0
    for name in args.workload:
        print(name, file=sys.stderr, flush=True)
        workload = sized(name, args)
        names = (DIRECT, BARE, *((ONE_FILE,) if workload.shard else ()), OTHER, LIMIT)
        timings, wrong = take_turns(workload, workload.pixels(), names, args.turns, args.scratch)
        for row in _rows(workload, timings):
            table.add_row(*row)
        all_wrong += wrong
    table.caption = f"{os.cpu_count()} cores; {all_wrong} wrong frames"
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    return int(bool(all_wrong))


def _rows(workload: Workload, timings: dict[str, list[Timing]]) -> Iterator[list[str]]:
    seconds = {name: [t.writing for t in of_one] for name, of_one in timings.items()}
    for name in (name for name in (DIRECT, BARE, ONE_FILE) if name in timings):
        cells = [workload.name, name, median(workload.nbytes / s / 1e9 for s in seconds[name])]
        for other in (LIMIT, OTHER, BARE):
            of_each = ratios(seconds[name], seconds[other])
            cells.append("" if other == name else f"{median(of_each)} ({quartiles(of_each)})")
        yield cells


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
