"""``python -m benchmarks.parts``: the processor time of a stream, beside that of the work nobody can leave out."""

from __future__ import annotations

import itertools
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from ome_writers import create_stream
from ome_writers.backends._encoding import encoder

from ._contenders import distinct_chunks, write_files
from ._options import add_turns, parse, size_options, sized
from ._workloads import Frames, Workload


@dataclass(slots=True)
class Cost:
    """What something took.

    Attributes
    ----------
    wall : float
        Seconds of a clock.
    processor : float
        Seconds of processor time of all threads.
    user, system : float
        These, in user mode and in the kernel; coarse (some systems count ticks of 10 ms).
    """

    wall: float = 0.0
    processor: float = 0.0
    user: float = 0.0
    system: float = 0.0


Part: TypeAlias = Callable[[Path], Cost]


def parts(workload: Workload, pixels: Frames) -> dict[str, Part]:
    """Return what writes a workload, and each part of that on its own, as cheap as it can be.

    Every part is a function of a folder for its files that does its work for the whole workload: *copying* puts frames
    in chunk after chunk of one buffer, on one thread; *encoding* and *writing*, of what comes out, one file per shard,
    keep all cores busy.
    """
    cores = os.cpu_count() or 1
    encode = encoder(workload.settings("x.ome.zarr", "direct").codec)  # that of a stream, the faster of two libraries
    chunks = list(distinct_chunks(workload, pixels))
    count = workload.nbytes // chunks[0].nbytes
    pieces: list[Any] = chunks if encode is None else list(map(encode, chunks))
    per_file = int(np.prod(workload.block_shape)) // int(np.prod(workload.chunk_shape))

    def on_all_cores(share: Callable[[int], object]) -> Cost:
        with ThreadPoolExecutor(cores) as pool:
            list(pool.map(time.sleep, [0.01] * cores))  # all threads have started
            with _cost() as cost:
                list(pool.map(share, range(cores)))
        return cost

    def copying(_: Path) -> Cost:
        *index, height, width = workload.chunk_shape
        rows, columns, depth = workload.side // height, workload.side // width, int(np.prod(index))
        layer = np.zeros((rows, columns, depth, height, width), np.uint16)
        with _cost() as cost:
            for number in range(workload.frames):
                frame = pixels[number % len(pixels)].reshape(rows, height, columns, width)
                layer[:, :, number % depth] = frame.swapaxes(1, 2)
        return cost

    def encoding(_: Path) -> Cost:
        def share(core: int) -> None:
            for number in range(core, count, cores):
                encode(chunks[number % len(chunks)])  # type: ignore[misc]  # not called without one

        return Cost() if encode is None else on_all_cores(share)

    def writing(folder: Path) -> Cost:
        def share(core: int) -> None:
            own = (pieces[number % len(pieces)] for number in range(core, count, cores))
            mine = folder / str(core)
            mine.mkdir()
            write_files(mine, own, per_file)

        return on_all_cores(share)

    def stream(folder: Path) -> Cost:
        target = create_stream(workload.settings(str(folder / "data.ome.zarr"), "direct"))
        with _cost() as cost, target:
            for number in range(workload.frames):
                target.append(pixels[number % len(pixels)])
        return cost

    return {"copying": copying, "encoding": encoding, "writing": writing, "stream": stream}


@contextmanager
def _cost() -> Iterator[Cost]:
    """Measure what the body takes; the cost is complete after it."""
    cost, process = Cost(), psutil.Process()
    before, processor, wall = process.cpu_times(), time.process_time(), time.perf_counter()
    yield cost
    cost.wall, cost.processor = time.perf_counter() - wall, time.process_time() - processor
    after = process.cpu_times()
    cost.user, cost.system = after.user - before.user, after.system - before.system


def measure(workload: Workload, turns: int, scratch: Path) -> dict[str, list[Cost]]:
    """Return what each part and the whole took in each turn; the first turn is not counted."""
    named = parts(workload, workload.pixels())
    costs: dict[str, list[Cost]] = {name: [] for name in named}
    with tempfile.TemporaryDirectory(dir=scratch, prefix="bench-", ignore_cleanup_errors=True) as outer:  # Ctrl-C
        for turn in range(turns + 1):
            first = turn % len(named)
            for name, part in itertools.islice(itertools.cycle(named.items()), first, first + len(named)):
                folder = Path(outer) / name
                folder.mkdir()
                cost = part(folder)
                shutil.rmtree(folder)
                if turn:
                    costs[name].append(cost)
    return costs


def main(argv: list[str]) -> int:
    """Run the measurement; return the exit status."""
    parser = size_options("benchmarks.parts", __doc__)
    add_turns(parser, 9)
    args = parse(parser, argv)
    cores = os.cpu_count() or 1
    table = Table(
        title=f"seconds of processor time for a GB of pixels; {args.turns} turns",
        caption=f"{cores} cores; at most: all of them busy with nothing but copying, encoding and writing",
    )
    for column in ("workload", "copying", "encoding", "writing", "at most GB/s", "stream", "in the kernel",
                   "cores busy", "GB/s", "of the most"):  # fmt: skip
        left = column == "workload"
        table.add_column(column, justify="left" if left else "right", no_wrap=left)
    for name in args.workload:
        print(name, file=sys.stderr, flush=True)
        workload = sized(name, args)
        table.add_row(name, *_cells(workload, cores, measure(workload, args.turns, args.scratch)))
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    return 0


def _cells(workload: Workload, cores: int, costs: dict[str, list[Cost]]) -> list[str]:
    gigabytes = workload.nbytes / 1e9
    each = [statistics.median(c.processor for c in costs[name]) for name in ("copying", "encoding", "writing")]
    whole = costs["stream"]
    system = sum(c.system for c in whole)
    rate = statistics.median(gigabytes / c.wall for c in whole)
    most = cores * gigabytes / max(sum(each), 1e-9)  # of tiny frames nothing may be measured
    return [
        *(f"{seconds / gigabytes:.3f}" for seconds in each),
        f"{most:.2f}",
        f"{statistics.median(c.processor for c in whole) / gigabytes:.3f}",
        f"{system / max(system + sum(c.user for c in whole), 1e-9):.0%}",
        f"{statistics.median(c.processor / c.wall for c in whole):.2f}",
        f"{rate:.2f}",
        f"{rate / most:.2f}",
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
