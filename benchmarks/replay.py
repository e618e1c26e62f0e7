"""``python -m benchmarks.replay``: how fast a recorded acquisition is replayed, beside reading and writing it alone."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ome_writers import create_stream, replay

from ._measure import have_memory_free, peak_memory, reset_peak, wrong_frames
from ._workloads import WORKLOADS, Frames, Workload

_WORKLOAD = "sharded-blosc-lz4"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run took.

    Attributes
    ----------
    seconds : float
        Until everything was read, or the dataset was closed.
    growth_mb : float
        By how much the process grew at most (resident memory).
    wrong_frames : int
        Frames that an independent reader found to differ.
    """

    seconds: float
    growth_mb: float
    wrong_frames: int = 0


def _record(workload: Workload, path: Path) -> None:
    """Write the acquisition as OME-TIFF, with tifffile, frame by frame."""
    import tifffile

    pixels = workload.pixels()
    shape = (workload.frames, workload.side, workload.side)
    frames = (pixels[number % len(pixels)] for number in range(workload.frames))
    tifffile.imwrite(path, frames, shape=shape, dtype="uint16", metadata={"axes": "TYX"}, ome=True, bigtiff=True)


def _read(workload: Workload, pixels: Frames, source: Path, target: Path) -> None:
    """Read every page with tifffile alone."""
    import tifffile

    del workload, pixels, target
    with tifffile.TiffFile(source) as tif:
        for page in tif.series[0].pages:
            if page is not None:
                page.asarray()


def _write(workload: Workload, pixels: Frames, source: Path, target: Path) -> None:
    """Write frames that are in memory."""
    del source
    with closing(create_stream(workload.settings(str(target), "direct"))) as stream:
        for number in range(workload.frames):
            stream.append(pixels[number % len(pixels)])


def _replay(workload: Workload, pixels: Frames, source: Path, target: Path) -> None:
    """Replay the file."""
    del pixels
    replay(source, workload.settings(str(target), "direct"))


CONTENDERS: dict[str, Callable[[Workload, Frames, Path, Path], None]] = {
    "read with tifffile alone": _read,
    "written from memory": _write,
    "replayed": _replay,
}


def run(name: str, workload: Workload, source: Path) -> Outcome:
    """Measure one contender, in this process."""
    folder = Path(tempfile.mkdtemp(dir=source.parent, prefix="bench-"))
    target = folder / "data.ome.zarr"
    try:
        small = workload.scaled(0).shrunk(64)  # imports are not measured
        _record(small, folder / "small.ome.tif")
        CONTENDERS[name](small, small.pixels(), folder / "small.ome.tif", folder / "small.ome.zarr")
        pixels = workload.pixels()
        have_memory_free(2 * workload.nbytes)
        before, start = reset_peak(), time.perf_counter()
        CONTENDERS[name](workload, pixels, source, target)
        seconds = time.perf_counter() - start
        growth = (peak_memory() - before) / 1e6
        wrong = wrong_frames(workload, pixels, target) if target.exists() else 0
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Outcome(seconds, growth, wrong)


def main(argv: list[str]) -> int:
    """Run the benchmark; return the exit status, 1 when a frame came out wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.replay", description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="interleaved runs; the table shows medians")
    parser.add_argument("--scale", type=float, default=2.0, help="size of the recording in GiB")
    parser.add_argument("--side", type=int, help="side of a frame in pixels, for a quick look")
    shm = Path("/dev/shm")  # noqa: S108  a file system in memory, if there is one
    parser.add_argument("--scratch", type=Path, default=shm if shm.is_dir() else Path.cwd(), help="where data goes")
    parser.add_argument("--one", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--source", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    workload = WORKLOADS[_WORKLOAD].scaled(args.scale)
    if args.side:
        workload = workload.shrunk(args.side)
    if args.one:
        outcome = run(args.one, workload, args.source)
        sys.stdout.write(json.dumps([outcome.seconds, outcome.growth_mb, outcome.wrong_frames]) + "\n")
        return 0
    folder = Path(tempfile.mkdtemp(dir=args.scratch, prefix="bench-"))
    results: dict[str, list[Outcome]] = {name: [] for name in CONTENDERS}
    try:
        source = folder / "recording.ome.tif"
        _record(workload, source)
        for _ in range(args.runs):
            for name in CONTENDERS:
                own = ["--one", name, "--source", str(source)]
                command = [sys.executable, "-m", "benchmarks.replay", *argv, *own]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                results[name].append(Outcome(*json.loads(done.stdout.splitlines()[-1])))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    Console(width=None if sys.stdout.isatty() else 120).print(_table(workload, results))
    return int(any(outcome.wrong_frames for outcomes in results.values() for outcome in outcomes))


def _table(workload: Workload, results: dict[str, list[Outcome]]) -> Table:
    table = Table(
        title=f"{workload.nbytes / 1e9:.1f} GB OME-TIFF to sharded blosc-lz4; medians of "
        f"{len(results['replayed'])} interleaved runs; {os.cpu_count()} cores"
    )
    for column in ("", "GB/s", "of the slower of the other two", "RSS growth MB", "wrong frames"):
        table.add_column(column, justify="left" if not column else "right")
    alone = [name for name in results if name != "replayed"]
    for name, outcomes in results.items():
        ratios = [
            max(results[other][run].seconds for other in alone) / outcome.seconds
            for run, outcome in enumerate(outcomes)
        ]
        table.add_row(
            name,
            f"{workload.nbytes / statistics.median(o.seconds for o in outcomes) / 1e9:.2f}",
            f"{statistics.median(ratios):.2f}" if name == "replayed" else "",
            f"{max(o.growth_mb for o in outcomes):.0f}",
            str(sum(o.wrong_frames for o in outcomes)),
        )
    return table


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
