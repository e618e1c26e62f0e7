"""What measurements tell: tables and a picture."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import TypeAlias

from rich.table import Table

from ._contenders import AS_THEY_ARE, BARE
from ._measure import Measurement

Results: TypeAlias = dict[tuple[str, str], list[Measurement]]
"""Measurements by workload and contender, one for each run."""


def comparison(results: Results, title: str) -> Table:
    """Return everything that was measured, with ratios to what is possible and to the best of the others.

    Ratios are those of measurements of the same run.
    """
    table = Table(title=title)
    for column in ("workload", "contender"):
        table.add_column(column, no_wrap=True)
    for column in ("GB/s", "of limit", "of bare", "x best other", "p50 ms", "p99 ms", "max ms", "late", "RSS MB",
                   "wrong"):  # fmt: skip
        table.add_column(column, justify="right")
    for (workload, contender), runs in results.items():
        paced = (workload, "limit") not in results
        streams = contender.endswith("stream") and not paced
        table.add_row(
            workload,
            contender,
            f"{_median(runs, 'gigabytes_per_second'):.2f}",
            "" if paced or contender == "limit" else f"{_ratio(runs, [results[workload, 'limit']]):.2f}",
            f"{_ratio(runs, [results[workload, BARE]]):.2f}" if streams else "",
            f"{_ratio(runs, _others(results, workload)):.2f}" if streams else "",
            *(f"{_median(runs, name):.2f}" for name in ("p50_ms", "p99_ms", "max_ms")),
            f"{_median(runs, 'late_calls'):.0f}" if paced else "",
            f"{_median(runs, 'growth_mb'):.0f}",
            str(sum(m.wrong_frames for m in runs)),
            end_section=contender == [c for w, c in results if w == workload][-1],
        )
    return table


def picture(results: Results, path: Path, title: str) -> None:
    """Save a bar chart of the throughput of all contenders, beside the limit."""
    from matplotlib.figure import Figure

    workloads = [w for w in dict.fromkeys(w for w, _ in results) if (w, "limit") in results]
    contenders = list(dict.fromkeys(c for w, c in results if w in workloads and c != "limit"))
    figure = Figure(figsize=(10, 1.2 + 0.16 * len(workloads) * (len(contenders) + 2)), layout="constrained")
    axes = figure.subplots()
    height = 1 / (len(contenders) + 2)
    for place, workload in enumerate(workloads):
        line = _median(results[workload, "limit"], "gigabytes_per_second")
        axes.plot([line, line], [place, place + 1 - 2 * height], color="black", lw=1, label=None if place else "limit")
    for number, contender in enumerate(contenders):
        bars = [
            (place + number * height, _median(results[workload, contender], "gigabytes_per_second"))
            for place, workload in enumerate(workloads)
            if (workload, contender) in results
        ]
        axes.barh(
            [y for y, _ in bars], [x for _, x in bars], height, align="edge", label=contender, color=f"C{number % 10}"
        )
    axes.set_yticks([place + 0.5 - height for place in range(len(workloads))], workloads)
    axes.invert_yaxis()
    axes.set_xlabel("GB/s of pixels")
    axes.set_title(title, fontsize="medium")
    axes.legend(fontsize="small")
    figure.savefig(path)


def _others(results: Results, workload: str) -> list[list[Measurement]]:
    """Return the measurements of those that take frames from a camera, without this project, each as it is."""
    return [results[workload, contender] for contender in AS_THEY_ARE if (workload, contender) in results]


def _ratio(runs: list[Measurement], others: list[list[Measurement]]) -> float:
    """Return the median, over the runs, of the ratio to the best of the others."""
    best = [max(m.gigabytes_per_second for m in same_run) for same_run in zip(*others, strict=True)]
    return float(statistics.median(m.gigabytes_per_second / b for m, b in zip(runs, best, strict=True)))


def _median(runs: list[Measurement], name: str) -> float:
    return float(statistics.median(getattr(m, name) for m in runs))
