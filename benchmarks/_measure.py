"""One measurement, in a process of its own."""

from __future__ import annotations

import itertools
import json
import mmap
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from ._contenders import CONTENDERS, NO_DATASETS
from ._workloads import Frames, Workload

_QUIET_SECONDS = 15.0  # in which a machine gives back what a process before, and this one so far, have left
SMALL_BYTES = 1 << 26
"""Of a workload for which the machine's memory is left as it is."""

_ROUND_SECONDS = 2.5  # longer than the pause between two rounds in which the machine gives memory back
_PIECE_BYTES = 1 << 23
_LARGE_PAGES_BYTES = 1 << 29
_LOOSE_BYTES = 1 << 16  # half of the smallest block that a machine was seen to give back
_RESERVE_BYTES = 1 << 30  # of available memory, left to others
_CLEAR_REFS = Path("/proc/self/clear_refs")  # of Linux: writing 5 resets the peak of resident memory


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one run of one contender took.

    Attributes
    ----------
    creating : float
        Seconds before the first frame.
    seconds : float
        From the first frame to having closed the dataset.
    gigabytes_per_second : float
        Uncompressed bytes of the frames over these seconds.
    p50_ms, p99_ms, max_ms : float
        Latency of one call (a frame for streams, a shard for loops).
    late_calls : int
        Calls that took longer than a frame of a paced camera.
    growth_mb : float
        By how much the process grew at most (resident memory).
    wrong_frames : int
        Frames that an independent reader found to differ.
    """

    creating: float
    seconds: float
    gigabytes_per_second: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    late_calls: int
    growth_mb: float
    wrong_frames: int


def measure(contender: str, workload: Workload, scratch: Path) -> Measurement:
    """Run a contender in a fresh process and return what it took."""
    task = {"contender": contender, "workload": asdict(workload), "scratch": str(scratch)}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks._measure", json.dumps(task)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{contender} failed on {workload.name}:\n{done.stderr[-3000:]}")
    return Measurement(**json.loads(done.stdout.splitlines()[-1]))


def _workload(fields: dict[str, object]) -> Workload:
    return Workload(**{k: tuple(map(tuple, v)) if isinstance(v, list) else v for k, v in fields.items()})  # type: ignore[arg-type]


def _run(task: Mapping[str, object]) -> Measurement:
    workload = _workload(dict(task["workload"]))  # type: ignore[call-overload]
    name = str(task["contender"])
    contender = CONTENDERS[name]
    pixels = workload.pixels()
    folder = Path(tempfile.mkdtemp(dir=str(task["scratch"]), prefix="bench-"))
    path = folder / "data.ome.zarr"
    try:
        small = _first_shards(workload).shrunk(64)
        contender(small, small.pixels(), folder / "imports.ome.zarr")  # imports and thread pools are not measured
        if workload.nbytes > SMALL_BYTES:
            if workload.fps is None:
                have_memory_free(2 * workload.nbytes + (1 << 30))
            else:
                time.sleep(_QUIET_SECONDS)
        before = reset_peak()
        timing = contender(workload, pixels, path)
        growth = peak_memory() - before
        latencies = np.array(timing.calls or [0.0]) * 1e3
        wrong = 0 if name in NO_DATASETS else wrong_frames(workload, pixels, path, independent_reader(name))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    p50, p99 = np.percentile(latencies, [50, 99])
    late = 0 if workload.fps is None else int((latencies > 1e3 / workload.fps).sum())
    rate = workload.nbytes / timing.writing / 1e9
    return Measurement(timing.creating, timing.writing, rate, p50, p99, latencies.max(), late, growth / 1e6, wrong)


def _first_shards(workload: Workload) -> Workload:
    small = workload.scaled(0)
    fields = {**asdict(small), "fps": None}
    return _workload(fields)


# A virtual machine is lent memory by its host when it first touches it (measured: 20 ms for 8 MB), and gives back what
# lies free, in rounds of two seconds. That is not a cost of writing, and whoever comes first would pay for the others.
# In each round all of its processors stand still for up to 200 ms. A camera that sets the pace would feel both, so for
# it memory lies free in pieces too small to be given back, and what processes have left is given back before.


def have_memory_free(nbytes: int) -> None:
    """Use memory once, as files do and some as processes do, and give it back: then the machine has it for a while.

    The process under test stays as it is: it has to get this memory from the operating system anew.
    """
    if sys.platform != "linux":
        return
    piece = bytes(_PIECE_BYTES)
    with os.fdopen(os.memfd_create("have-memory-free"), "wb", buffering=0) as file:
        file.writelines(itertools.repeat(piece, min(nbytes, _to_spare()) // _PIECE_BYTES))
        pages = np.ones(min(_LARGE_PAGES_BYTES, _to_spare()), np.uint8)
        time.sleep(_ROUND_SECONDS)
        del pages


def loose_memory(nbytes: int) -> mmap.mmap | None:
    """Have memory that the machine has lie free in pieces too small for it to give them back.

    Of a block as large as it gives back, one page at least stays in use; the rest is free, as single pages, which is
    how files take them.

    Parameters
    ----------
    nbytes : int
        How much, as far as it is available.

    Returns
    -------
    mmap or None
        What stays in use: keep it as long as the memory is needed. None where nothing is to be done.
    """
    nbytes = min(nbytes, _to_spare()) // _LOOSE_BYTES * _LOOSE_BYTES
    if sys.platform != "linux" or not nbytes:
        return None
    memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    used = b"\1" * _LOOSE_BYTES
    for start in range(0, nbytes, _LOOSE_BYTES):
        memory[start : start + _LOOSE_BYTES] = used
    for start in range(0, nbytes, _LOOSE_BYTES):
        memory.madvise(mmap.MADV_DONTNEED, start + mmap.PAGESIZE, _LOOSE_BYTES - mmap.PAGESIZE)
    return memory


def _to_spare() -> int:
    return max(0, int(psutil.virtual_memory().available) - _RESERVE_BYTES)


def held_memory(spare: int) -> Frames:
    """Return all memory that is available but for ``spare`` bytes, touched: the host can't take it back."""
    return np.ones(max(0, psutil.virtual_memory().available - spare) // 2, np.uint16)


def reset_peak() -> int:
    """Reset the peak of resident memory where the system can; return resident bytes now."""
    if _CLEAR_REFS.exists():
        _CLEAR_REFS.write_text("5")
    return int(psutil.Process().memory_info().rss)


def peak_memory() -> int:
    if _CLEAR_REFS.exists():
        text = Path("/proc/self/status").read_text()
        return int(re.search(r"VmHWM:\s*(\d+)", text).group(1)) * 1024  # type: ignore[union-attr]
    return int(getattr(psutil.Process().memory_info(), "peak_wset", psutil.Process().memory_info().rss))


# ---- reading back --------------------------------------------------------------------------------------------------


def independent_reader(contender: str) -> str:
    """Return the name of a library for :func:`wrong_frames` that does not write what a contender writes."""
    return "zarr-python" if contender.startswith("tensorstore") else "tensorstore"


def wrong_frames(workload: Workload, pixels: Frames, path: Path, reader: str = "tensorstore") -> int:
    """Read back with a library that did not write, and count frames that differ."""
    arrays = [_open(reader, path / workload.array_path(position)) for position in range(workload.positions)]
    numbers = [workload.numbers(position) % len(pixels) for position in range(workload.positions)]
    wrong = 0
    for position, where in workload.blocks():
        found = arrays[position][where]
        found = np.asarray(found if reader == "zarr-python" else found.read().result())
        wrong += int((found != pixels[numbers[position][where]]).any(axis=(-2, -1)).sum())
    return wrong


def _open(reader: str, path: Path) -> Any:
    if reader == "zarr-python":
        import zarr

        return zarr.open_array(str(path), mode="r")
    import tensorstore as ts

    return ts.open({"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path)}}, open=True).result()


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asdict(_run(json.loads(sys.argv[1])))) + "\n")
    sys.stdout.flush()
    os._exit(0)  # storage libraries' threads need not be waited for
