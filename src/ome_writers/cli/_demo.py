"""``ome-writers demo``: a simulated acquisition, written as it happens."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from ome_writers._stream import OMEStream, create_stream
from ome_writers.engine import StreamStats
from ome_writers.settings import Backend

from ._simulation import simulate, simulated_settings

_REFRESH_SECONDS = 0.1


def demo(
    path: Annotated[Path, typer.Argument(help="Where the dataset goes.")] = Path("demo.ome.zarr"),
    backend: Annotated[Backend, typer.Option(help="What writes; 'auto': 'direct', which needs no library.")] = "auto",
    frames: Annotated[int, typer.Option(min=1, help="How many frames the camera takes.")] = 400,
    size: Annotated[int, typer.Option(min=8, max=16384, help="Height and width of a frame in pixels.")] = 512,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing Zarr dataset.")] = False,
) -> None:
    """Simulate a microscope and write what it sees: moving spots at two positions, in two channels and five slices.

    For example: ome-writers demo cells.ome.zarr --frames 1000 --size 1024 --backend tensorstore
    """
    console = Console(markup=False, highlight=False)  # paths may have brackets
    if not path.name:
        raise typer.BadParameter(f"{str(path)!r} has no name; give one such as demo.ome.zarr", param_hint="path")
    if not path.suffix:
        path = path.with_name(path.name + ".ome.zarr")
    settings = simulated_settings(str(path), backend, size, overwrite=overwrite)
    start = time.perf_counter()
    with _stop_at_interrupt() as stop, create_stream(settings) as stream:
        _acquire(stream, frames, console, stop)
    seconds = time.perf_counter() - start
    _report(console, stream, seconds, interrupted=stop.is_set())
    if stop.is_set():
        raise typer.Exit(130)  # what shells report for Ctrl-C


@contextmanager
def _stop_at_interrupt() -> Iterator[threading.Event]:
    """Yield an event that the first Ctrl-C sets, so that it strikes between two frames; the second one interrupts."""
    stop = threading.Event()

    def set_once(*_: object) -> None:
        stop.set()
        signal.signal(signal.SIGINT, previous)

    previous = signal.signal(signal.SIGINT, set_once)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, previous)


def _acquire(stream: OMEStream, frames: int, console: Console, stop: threading.Event) -> None:
    columns = (
        TextColumn("acquiring"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("frames"),
        TextColumn("{task.fields[rate]:.0f} MB/s"),
        TextColumn("buffer {task.fields[fill]:.0%}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("acquiring", total=frames, rate=0.0, fill=0.0)
        start = shown = time.perf_counter()
        for frame in simulate(stream.settings, frames):
            if stop.is_set():
                break
            stream.append(frame.pixels, frame_metadata=frame.metadata)
            now = time.perf_counter()
            if now - shown >= _REFRESH_SECONDS:
                shown = now
                _show(progress, task, stream.stats, now - start)
        _show(progress, task, stream.stats, time.perf_counter() - start)


def _show(progress: Progress, task: TaskID, stats: StreamStats, seconds: float) -> None:
    progress.update(
        task,
        completed=stats.frames_appended,
        rate=stats.bytes_in / seconds / 1e6,
        fill=stats.buffered_bytes / stats.buffer_bytes,
    )


def _report(console: Console, stream: OMEStream, seconds: float, *, interrupted: bool) -> None:
    stats, settings = stream.stats, stream.settings
    images = [position.name for position in settings.positions]
    per_time_point = math.prod(d.count or 1 for d in settings.dimensions[:-2])
    time_points = math.ceil(stats.frames_appended / per_time_point)
    sizes = " x ".join(f"{d.count or time_points} {d.name}" for d in settings.array_storage_dimensions)
    if interrupted:
        console.print(f"Stopped by Ctrl-C. The {stats.frames_written} frames acquired so far are in a valid dataset.")
    console.print(
        f"Wrote {stats.frames_written} frames ({stats.bytes_out / 1e6:.0f} MB) in {seconds:.1f} s to {stream.path}",
        soft_wrap=True,
    )
    console.print(f"It holds {len(images)} images ({', '.join(images)}) of {sizes} in {settings.dtype}.")
    console.print(f"Open it in Python: zarr.open_array({str(stream.path / images[0] / '0')!r})[0]", soft_wrap=True)
    console.print(f"or in napari (with the plugin napari-ome-zarr): napari {stream.path}", soft_wrap=True)
