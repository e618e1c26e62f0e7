"""One measurement, in a process of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psutil

from ._contenders import LOOPS, STREAMS
from ._workloads import Frames, Workload

_CLEAR_REFS = Path("/proc/self/clear_refs")  # of Linux: writing 5 resets the peak of resident memory


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one run of one contender took.

    Attributes
    ----------
    seconds : float
        From the first frame to having closed the dataset.
    gigabytes_per_second : float
        Uncompressed bytes of the frames over these seconds.
    p50_ms, p99_ms, max_ms : float
        Latency of one call (a frame for streams, a shard for loops).
    growth_mb : float
        By how much the process grew at most (resident memory).
    wrong_frames : int
        Frames that an independent reader found to differ.
    """

    seconds: float
    gigabytes_per_second: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    growth_mb: float
    wrong_frames: int


def measure(kind: str, name: str, workload: Workload, scratch: Path) -> Measurement:
    """Run a contender in a fresh process and return what it took."""
    task = {"kind": kind, "name": name, "workload": asdict(workload), "scratch": str(scratch)}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks._measure", json.dumps(task)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{kind} {name} failed on {workload.name}:\n{done.stderr[-3000:]}")
    return Measurement(**json.loads(done.stdout.splitlines()[-1]))


def _run(task: dict[str, object]) -> Measurement:
    fields = dict(task["workload"])  # type: ignore[call-overload]
    workload = Workload(**{**fields, "chunk": tuple(fields["chunk"])})
    contenders = STREAMS if task["kind"] == "stream" else LOOPS
    pixels = workload.pixels()
    folder = Path(tempfile.mkdtemp(dir=str(task["scratch"]), prefix="bench-"))
    path = folder / "data.ome.zarr"
    try:
        contender = contenders[str(task["name"])]
        small = workload.shrunk(64)
        contender(small, small.pixels(), folder / "imports.ome.zarr")  # and thread pools
        before = _reset_peak()
        # memory that a process uses for the first time is slow, however it is used: let both sides have used theirs
        contender(workload.scaled(0.5), pixels, folder / "warm-up.ome.zarr")
        shutil.rmtree(folder / "warm-up.ome.zarr")
        seconds, calls = contender(workload, pixels, path)
        latencies = np.array(calls) * 1e3
        growth = _peak() - before
        wrong = _wrong_frames(workload, pixels, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    p50, p99 = np.percentile(latencies, [50, 99])
    return Measurement(seconds, workload.nbytes / seconds / 1e9, p50, p99, latencies.max(), growth / 1e6, wrong)


def _reset_peak() -> int:
    """Reset the peak of resident memory where the system can; return resident bytes now."""
    if _CLEAR_REFS.exists():
        _CLEAR_REFS.write_text("5")
    return int(psutil.Process().memory_info().rss)


def _peak() -> int:
    if _CLEAR_REFS.exists():
        text = Path("/proc/self/status").read_text()
        return int(re.search(r"VmHWM:\s*(\d+)", text).group(1)) * 1024  # type: ignore[union-attr]
    return int(getattr(psutil.Process().memory_info(), "peak_wset", psutil.Process().memory_info().rss))


def _wrong_frames(workload: Workload, pixels: Frames, path: Path) -> int:
    """Read back with tensorstore (with zarr-python what tensorstore wrote) and count frames that differ."""
    read = _read_with_zarr if "tensorstore" in json.dumps(sys.argv) else _read_with_tensorstore
    wrong = 0
    for first in range(0, workload.frames, workload.shard_frames):
        found = read(path / "0", slice(first, first + workload.shard_frames))
        at = first % len(pixels)
        expected = pixels[at : at + workload.shard_frames]
        wrong += int((~(found == expected).all(axis=(1, 2))).sum())
    return wrong


def _read_with_zarr(path: Path, frames: slice) -> Frames:
    import zarr

    return np.asarray(zarr.open_array(str(path), mode="r")[frames])


def _read_with_tensorstore(path: Path, frames: slice) -> Frames:
    import tensorstore as ts

    array = ts.open({"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path)}}, open=True).result()
    return np.asarray(array[frames].read().result())


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asdict(_run(json.loads(sys.argv[1])))) + "\n")
    sys.stdout.flush()
    os._exit(0)  # storage libraries' threads need not be waited for
