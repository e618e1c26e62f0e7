"""``ome-writers demo``: a simulated acquisition, written as it happens."""

from __future__ import annotations

import math
import threading
import time
import warnings
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ome_writers._stream import OMEStream, create_stream
from ome_writers.errors import DestinationExistsError, OMEWritersError
from ome_writers.settings import Backend

from ._output import INTERRUPTED, AsJson, Output, Quiet, hints, stop_at_interrupt
from ._simulation import simulate, simulated_settings

_REFRESH_SECONDS = 0.1


def demo(
    path: Annotated[Path, typer.Argument(help="Where the dataset goes.")] = Path("demo.ome.zarr"),
    backend: Annotated[Backend, typer.Option(help="What writes; 'auto': 'direct', which needs no library.")] = "auto",
    frames: Annotated[int, typer.Option(min=1, help="How many frames the camera takes.")] = 400,
    size: Annotated[int, typer.Option(min=8, max=16384, help="Height and width of a frame in pixels.")] = 512,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing Zarr dataset.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Simulate a microscope and write what it sees: moving spots at two positions, in two channels and five slices.

    For example:

        ome-writers demo
        ome-writers demo cells.ome.zarr --frames 100 --size 1024 --overwrite
    """
    output = Output(as_json, quiet)
    path = with_suffix(path)
    settings = simulated_settings(str(path), format_of(path, backend), size, overwrite=overwrite)
    start = time.perf_counter()
    exists: dict[type[OMEWritersError], str] = {DestinationExistsError: "--overwrite replaces it"}
    with stop_at_interrupt() as stop, hints({} if overwrite else exists), create_stream(settings) as stream:
        _acquire(stream, frames, output, stop)
    seconds = time.perf_counter() - start
    output.result(*_report(stream, seconds, interrupted=stop.is_set()))
    if stop.is_set():
        raise typer.Exit(INTERRUPTED)


def with_suffix(path: Path) -> Path:
    """Return the path of a dataset, with the suffix of one where it has none.

    Raises
    ------
    BadParameter
        If it has no name.
    """
    if not path.name:
        raise typer.BadParameter(f"{str(path)!r} has no name; give one such as demo.ome.zarr", param_hint="path")
    return path if path.suffix else path.with_name(path.name + ".ome.zarr")


def format_of(path: Path, backend: Backend) -> Backend | Literal["ome-zarr"]:
    """Return the format of the settings; warns where the path does not tell it, since no option does."""
    if backend != "auto" or path.suffix.lower() in (".zarr", ".tif", ".tiff"):
        return backend
    warnings.warn(f"{path} does not end with .ome.zarr, by which other programs know an OME-Zarr", stacklevel=2)
    return "ome-zarr"


def _acquire(stream: OMEStream, frames: int, output: Output, stop: threading.Event) -> None:
    columns = (
        TextColumn("acquiring"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("frames"),
        TextColumn("{task.fields[rate]:.0f} MB/s"),
        TextColumn("buffer {task.fields[fill]:.0%}"),
        TimeRemainingColumn(),
    )
    with output.progress(*columns) as progress:
        if progress is not None:
            progress.add_task("acquiring", total=frames, rate=0.0, fill=0.0)
        start = shown = time.perf_counter()
        for frame in simulate(stream.settings, frames):
            if stop.is_set():
                break
            stream.append(frame.pixels, frame_metadata=frame.metadata)
            now = time.perf_counter()
            if progress is not None and now - shown >= _REFRESH_SECONDS:
                shown = now
                _show(progress, stream, now - start)


def _show(progress: Progress, stream: OMEStream, seconds: float) -> None:
    stats = stream.stats
    progress.update(
        progress.task_ids[0],
        completed=stats.frames_appended,
        rate=stats.bytes_in / seconds / 1e6,
        fill=stats.buffered_bytes / stats.buffer_bytes,
    )


def _report(stream: OMEStream, seconds: float, *, interrupted: bool) -> tuple[dict[str, Any], str]:
    """Return what was written as JSON and in words."""
    stats, settings = stream.stats, stream.settings
    images = [position.name for position in settings.positions]
    per_time_point = math.prod(d.count or 1 for d in settings.dimensions[:-2])
    time_points = math.ceil(stats.frames_appended / per_time_point)
    shape = {d.name: d.count or time_points for d in settings.array_storage_dimensions}
    document = {
        "path": str(stream.path),
        "images": images,
        "shape": shape,
        "dtype": settings.dtype,
        "frames_written": stats.frames_written,
        "bytes_in": stats.bytes_in,
        "seconds": seconds,
        "interrupted": interrupted,
    }
    lines = [
        f"Wrote {stats.frames_written} frames ({stats.bytes_out / 1e6:.0f} MB) in {seconds:.1f} s to {stream.path}",
        f"It holds {len(images)} images ({', '.join(images)}) of "
        f"{' x '.join(f'{count} {name}' for name, count in shape.items())} in {settings.dtype}.",
        f"Open it in Python: zarr.open_array({str(stream.path / images[0] / '0')!r})[0]",
        f"or in napari (with the plugin napari-ome-zarr): napari {stream.path}",
    ]
    if interrupted:
        lines.insert(0, f"Stopped by Ctrl-C. The {stats.frames_written} frames acquired so far are in a valid dataset.")
    return document, "\n".join(lines)
