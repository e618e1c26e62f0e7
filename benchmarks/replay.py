"""``python -m benchmarks.replay``: how fast a recorded acquisition is replayed, beside reading and writing it alone."""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from ome_writers import create_stream, replay

from ._measure import peak_memory, reset_peak, wrong_frames
from ._options import parse, size_options, sized
from ._workloads import Frames, Workload

_WORKLOAD = "sharded-blosc-lz4"


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


def _seconds(name: str, workload: Workload, pixels: Frames, source: Path, target: Path) -> float:
    start = time.perf_counter()
    CONTENDERS[name](workload, pixels, source, target)
    return time.perf_counter() - start


def measure(workload: Workload, source: Path, runs: int) -> tuple[dict[str, list[float]], int]:
    """Return the seconds of each contender in each run, and how many frames came out wrong.

    The contenders take turns in one process, and each deletes what it wrote: so a virtual machine keeps the memory that
    the files take. The first turn is not counted.
    """
    pixels, target = workload.pixels(), source.parent / "data.ome.zarr"
    seconds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    wrong = 0
    for turn in range(runs + 1):
        for name in CONTENDERS:
            took = _seconds(name, workload, pixels, source, target)
            if turn:
                seconds[name].append(took)
            elif target.exists():
                wrong += wrong_frames(workload, pixels, target)
            shutil.rmtree(target, ignore_errors=True)
    return seconds, wrong


def growth(workload: Workload, source: Path) -> float:
    """Return by how many MB this process grows at most (resident memory) while it replays."""
    target = source.parent / "data.ome.zarr"
    before = reset_peak()
    _replay(workload, np.empty((0, 1, 1), np.uint16), source, target)
    grown = (peak_memory() - before) / 1e6
    shutil.rmtree(target, ignore_errors=True)
    return grown


def main(argv: list[str]) -> int:
    """Run the benchmark; return the exit status, 1 when a frame came out wrong."""
    parser = size_options("benchmarks.replay", __doc__, "size of the recording in GiB")
    parser.set_defaults(scale=2.0)
    parser.add_argument("--runs", type=int, default=9, help="turns of each; the table shows medians")
    parser.add_argument("--growth-of", type=Path, help=argparse.SUPPRESS)
    args = parse(parser, argv)
    workload = sized(_WORKLOAD, args)
    if args.growth_of:
        sys.stdout.write(f"{growth(workload, args.growth_of)}\n")
        return 0
    folder = Path(tempfile.mkdtemp(dir=args.scratch, prefix="bench-"))
    try:
        source = folder / "recording.ome.tif"
        _record(workload, source)
        command = [sys.executable, "-m", "benchmarks.replay", *argv, "--growth-of", str(source)]
        grown = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
        seconds, wrong = measure(workload, source, args.runs)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    Console(width=None if sys.stdout.isatty() else 120).print(_table(workload, seconds, grown, wrong))
    return int(bool(wrong))


def _table(workload: Workload, seconds: dict[str, list[float]], grown: float, wrong: int) -> Table:
    turns = len(seconds["replayed"])
    table = Table(
        title=f"{workload.nbytes / 1e9:.1f} GB OME-TIFF to sharded blosc-lz4; medians of {turns} turns; "
        f"{os.cpu_count()} cores; {wrong} wrong frames"
    )
    for column in ("", "GB/s", "of the slower of the other two", "quartiles", "RSS growth MB"):
        table.add_column(column, justify="left" if not column else "right")
    alone = [name for name in seconds if name != "replayed"]
    slower = [max(of_turn) for of_turn in zip(*(seconds[name] for name in alone), strict=True)]
    ratios = [other / ours for other, ours in zip(slower, seconds["replayed"], strict=True)]
    low, middle, high = np.percentile(ratios, [25, 50, 75])
    for name, of_name in seconds.items():
        ours = name == "replayed"
        table.add_row(
            name,
            f"{workload.nbytes / statistics.median(of_name) / 1e9:.2f}",
            f"{middle:.2f}" if ours else "",
            f"{low:.2f} to {high:.2f}" if ours else "",
            f"{grown:.0f}" if ours else "",
        )
    return table


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
