"""What every contender is, and how it is handed the frames of a camera."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np

from ._workloads import Frames, Workload


@dataclass(slots=True)
class Timing:
    """What one contender took.

    Attributes
    ----------
    creating : float
        Seconds before the first frame: making folders and documents, opening the dataset.
    writing : float
        Seconds from the first frame until everything is handed to the file system and closed. Where a contender
        prepares what it writes, which others must do while they write, that time is not in it.
    calls : list of float
        Seconds of each call: of a frame, or of a whole shard.
    """

    creating: float = 0.0
    writing: float = 0.0
    calls: list[float] = field(default_factory=list)


Contender: TypeAlias = Callable[[Workload, Frames, Path], Timing]


def append_frames(workload: Workload, pixels: Frames, append: Callable[[int, Frames], object]) -> list[float]:
    """Call ``append(position, frame)`` for each frame, at the pace of the camera; return the seconds of each call."""
    names = [name for name, _ in workload.index]
    counts = [count for _, count in workload.index]
    positions = (
        np.indices(counts)[names.index("p")].ravel().tolist() if "p" in names else [0] * workload.frames
    )  # fmt: skip
    count, period = len(pixels), None if workload.fps is None else 1 / workload.fps
    seconds = []
    begin = time.perf_counter()
    for number, position in enumerate(positions):
        frame = pixels[number % count]
        if period is not None:
            time.sleep(max(0.0, begin + number * period - time.perf_counter()))
        start = time.perf_counter()
        append(position, frame)
        seconds.append(time.perf_counter() - start)
    return seconds
