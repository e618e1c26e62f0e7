"""Contenders that take turns in one process, with the machine's memory: for ratios near 1."""

from __future__ import annotations

import shutil
import statistics
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from ._contenders import CONTENDERS, NO_DATASETS
from ._measure import independent_reader, wrong_frames
from ._timing import Timing
from ._workloads import Frames, Workload


def take_turns(
    workload: Workload, pixels: Frames, contenders: Sequence[str], turns: int, scratch: Path
) -> tuple[dict[str, list[Timing]], int]:
    """Return what contenders took in each turn, and how many frames came out wrong.

    Each turn begins with another contender, and each contender deletes what it wrote: so a virtual machine keeps the
    memory that the files take. The first turn is not counted; what it wrote is read back.
    """
    timings: dict[str, list[Timing]] = {name: [] for name in contenders}
    wrong = 0
    for turn in range(turns + 1):
        first = turn % len(contenders)
        for name in (*contenders[first:], *contenders[:first]):
            folder = Path(tempfile.mkdtemp(dir=scratch, prefix="bench-"))
            path = folder / "data.ome.zarr"
            try:
                timing = CONTENDERS[name](workload, pixels, path)
                if turn:
                    timings[name].append(timing)
                elif name not in NO_DATASETS:
                    wrong += wrong_frames(workload, pixels, path, independent_reader(name))
            finally:
                shutil.rmtree(folder)
    return timings, wrong


def ratios(seconds: Iterable[float], of_others: Iterable[float]) -> list[float]:
    """Return by how much the first is faster than another, turn by turn."""
    return [other / own for own, other in zip(seconds, of_others, strict=True)]


def quartiles(values: Sequence[float]) -> str:
    """Return the first and the third quartile, as tables show them."""
    low, high = np.percentile(values, [25, 75])
    return f"{low:.2f} to {high:.2f}"


def median(values: Iterable[float]) -> str:
    """Return the median, as tables show it."""
    return f"{statistics.median(values):.2f}"
