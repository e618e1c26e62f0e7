"""``python -m benchmarks``: run workloads over contenders, interleaved, and print a table."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ._contenders import STREAMS
from ._measure import Measurement, measure
from ._workloads import WORKLOADS


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--workload", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--backend", nargs="+", choices=STREAMS, default=list(STREAMS))
    parser.add_argument("--runs", type=int, default=3, help="interleaved runs; the table shows medians")
    parser.add_argument("--scale", type=float, default=1.0, help="fraction of the frames")
    parser.add_argument("--side", type=int, help="side of a frame in pixels, for a quick look")
    shm = Path("/dev/shm")  # noqa: S108  a file system in memory, if there is one
    parser.add_argument("--scratch", type=Path, default=shm if shm.is_dir() else Path.cwd(), help="where data goes")
    parser.add_argument("--json", type=Path, help="save all measurements here")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """Run the benchmarks; return the exit status, 1 when a frame came out wrong."""
    args = _arguments(argv)
    results: dict[tuple[str, str, str], list[Measurement]] = {}
    for _ in range(args.runs):
        for workload_name in args.workload:
            workload = WORKLOADS[workload_name].scaled(args.scale)
            workload = workload.shrunk(args.side) if args.side else workload
            for backend in args.backend:
                for kind in ("stream", "loop"):
                    done = measure(kind, backend, workload, args.scratch)
                    results.setdefault((workload_name, backend, kind), []).append(done)
    Console(width=120).print(_table(results, args))
    if args.json:
        rows = [
            {"workload": w, "backend": b, "kind": k, "runs": [asdict(m) for m in runs]}
            for (w, b, k), runs in results.items()
        ]
        args.json.write_text(json.dumps({"machine": _machine(), "rows": rows}, indent=2))
    return int(any(m.wrong_frames for runs in results.values() for m in runs))


def _table(results: dict[tuple[str, str, str], list[Measurement]], args: argparse.Namespace) -> Table:
    table = Table(title=f"medians of {args.runs} interleaved runs; {_machine()}")
    for column in ("workload", "backend", "stream GB/s", "loop GB/s", "ratio", "p50 ms", "p99 ms", "max ms", "RSS MB",
                   "loop RSS MB", "wrong"):  # fmt: skip
        table.add_column(column, justify="left" if column in ("workload", "backend") else "right")
    for workload in args.workload:
        for backend in args.backend:
            ours, loop = results[workload, backend, "stream"], results[workload, backend, "loop"]
            ratios = [a.gigabytes_per_second / b.gigabytes_per_second for a, b in zip(ours, loop, strict=True)]
            table.add_row(
                workload,
                backend,
                *(f"{_median(m, 'gigabytes_per_second'):.2f}" for m in (ours, loop)),
                f"{statistics.median(ratios):.2f}",
                *(f"{_median(ours, name):.2f}" for name in ("p50_ms", "p99_ms", "max_ms")),
                *(f"{_median(m, 'growth_mb'):.0f}" for m in (ours, loop)),
                str(sum(m.wrong_frames for m in (*ours, *loop))),
            )
    return table


def _median(runs: list[Measurement], name: str) -> float:
    return float(statistics.median(getattr(m, name) for m in runs))


def _machine() -> str:
    return f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
