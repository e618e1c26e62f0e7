"""``python -m benchmarks``: run workloads over contenders, interleaved, and print tables."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from ._contenders import AS_THEY_ARE, BARE, COPY_AND_WRITE, SAME_BLOCKS, STREAMS
from ._measure import SMALL_BYTES, held_memory, loose_memory, measure
from ._options import parse, size_options, sized
from ._tables import Results, comparison, picture
from ._workloads import WORKLOADS, Workload

_SPARE_BYTES = 5 << 30  # more than the largest measurement takes
_SPARE_BYTES_PACED = 9 << 30  # the same of a camera that sets the pace
_PROCESS_BYTES = 1 << 31  # more than a process that writes takes


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = size_options("benchmarks", __doc__)
    parser.add_argument("--workload", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--backend", nargs="*", choices=STREAMS, default=list(STREAMS), help="of this project")
    parser.add_argument("--runs", type=int, default=3, help="interleaved runs; tables show medians")
    parser.add_argument(
        "--hold-memory",
        action="store_true",
        help="hold the memory that is not needed, where a virtual machine's host would take it back and lend it again",
    )
    parser.add_argument("--json", type=Path, help="save all measurements here")
    parser.add_argument("--plot", type=Path, help="save a picture here (.svg or .png)")
    return parse(parser, argv)


def _contenders(workload: Workload, backends: list[str]) -> list[str]:
    """Return who writes a workload."""
    names = [f"{backend} stream" for backend in backends]
    if workload.fps is not None:  # a camera that sets the pace: only latency and memory tell
        return [*names, *AS_THEY_ARE, COPY_AND_WRITE]
    same_blocks = [SAME_BLOCKS] if workload.compression == "blosc-zstd" else []  # elsewhere all have the same
    return [*names, *AS_THEY_ARE, *same_blocks, BARE, "limit"]


def main(argv: list[str]) -> int:
    """Run the benchmarks; return the exit status, 1 when a frame came out wrong."""
    args = _arguments(argv)
    console = Console(width=None if sys.stdout.isatty() else 160)
    results: Results = {}
    workloads = [sized(name, args) for name in args.workload]
    fast, paced = [w for w in workloads if w.fps is None], [w for w in workloads if w.fps is not None]
    held = [held_memory(_SPARE_BYTES_PACED)] if args.hold_memory else []
    loose = loose_memory(max((w.nbytes + _PROCESS_BYTES for w in paced if w.nbytes > SMALL_BYTES), default=0))
    _run(paced, args, results)  # first: it takes more memory
    del loose
    if args.hold_memory and fast:
        held.append(held_memory(_SPARE_BYTES))
    _run(fast, args, results)
    del held
    title = f"medians of {args.runs} interleaved runs; {_machine()}"
    console.print(comparison(results, title))
    if args.plot:
        picture(results, args.plot, title)
    return int(any(m.wrong_frames for runs in results.values() for m in runs))


def _run(workloads: list[Workload], args: argparse.Namespace, results: Results) -> None:
    """Add measurements of workloads, interleaved, to the results."""
    for run in range(args.runs):
        for workload in workloads:
            contenders = _contenders(workload, args.backend)
            first = run * len(contenders) // args.runs  # another one in each of the runs, if there are as many
            for contender in contenders[first:] + contenders[:first]:
                done = measure(contender, workload, args.scratch)
                results.setdefault((workload.name, contender), []).append(done)
                rate = f"{done.gigabytes_per_second:.2f} GB/s"
                print(f"run {run + 1}: {workload.name}, {contender}: {rate}", file=sys.stderr, flush=True)
                if args.json:  # after each, since all of them take long
                    _save(results, args.json)


def _save(results: Results, path: Path) -> None:
    rows = [{"workload": w, "contender": c, "runs": [asdict(m) for m in runs]} for (w, c), runs in results.items()]
    path.write_text(json.dumps({"machine": _machine(), "rows": rows}, indent=2))


def _machine() -> str:
    return f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
