"""``ome-writers bench``: which settings keep up with a camera on this machine."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.console import RenderableType
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from ome_writers.backends import available_backends, load_backend

from ._bench_advice import Advice, Storage, advise, notes
from ._bench_camera import PixelType, camera_frames
from ._bench_run import Bench, Camera, Result
from ._options import BACKENDS, COMPRESSIONS, Shape, frame_size, positive
from ._options import backend as backend_of
from ._options import compression as compression_of
from ._output import INTERRUPTED, AsJson, Output, Quiet, stop_at_interrupt


def bench(
    folder: Annotated[
        Path, typer.Argument(exists=True, file_okay=False, help="A folder on the disk that is to be tested.")
    ] = Path(),
    size: Annotated[
        Shape,
        typer.Option(metavar="HxW", parser=frame_size, help="Height x width of a frame in pixels, or one number."),
    ] = "2048",  # type: ignore[assignment]  # parsed, too
    dtype: Annotated[PixelType, typer.Option(help="Pixel type.")] = "uint16",
    fps: Annotated[float, typer.Option(metavar="FPS", parser=positive, help="Frames per second.")] = 60.0,
    seconds: Annotated[
        float, typer.Option(metavar="SECONDS", parser=positive, help="How long the camera runs for each setting.")
    ] = 5.0,
    backend: Annotated[
        Optional[list[str]],  # noqa: UP045  typer reads this at run time
        typer.Option(
            metavar="BACKEND",
            parser=backend_of,
            autocompletion=lambda: BACKENDS,
            help="Backend to test; may be given several times. Default: all that are installed.",
        ),
    ] = None,
    compression: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            metavar="COMPRESSION",
            parser=compression_of,
            autocompletion=lambda: COMPRESSIONS,
            help="Compression to test; may be given several times. Default: none and blosc-lz4.",
        ),
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Measure which backends and compressions keep up with a camera, and recommend one.

    For each setting a camera runs at its pace: frames of noise and spots are appended when they are due, and late ones
    are counted. Then the same frames are written as fast as it goes, until the dataset is closed, and until all of it
    is on the medium (synced). Needs room for one run; everything is deleted again, also at Ctrl-C.

    For example:

        ome-writers bench
        ome-writers bench . --size 1024x2048 --fps 100 --seconds 20 --backend direct
    """
    output = Output(as_json, quiet)
    camera = Camera(size[0], size[1], dtype, fps, seconds)
    backends = list(dict.fromkeys("direct" if name == "auto" else name for name in backend or available_backends()))
    for name in backends:
        load_backend(name)  # an error now, not after minutes
    choices = [(name, codec) for codec in dict.fromkeys(compression or ["none", "blosc-lz4"]) for name in backends]
    storage = Storage.of(folder)
    storage.check_space(camera)
    with stop_at_interrupt(signal.SIGTERM) as stop:
        columns = (TextColumn("measuring {task.description}"), BarColumn(), TimeRemainingColumn())
        with output.progress(*columns) as progress:
            if progress is not None:
                progress.add_task("", total=2 * camera.frames * len(choices))
            ring = camera_frames(camera.height, camera.width, camera.dtype)
            results: list[Result] = []
            measuring = Bench(camera, ring, folder, stop, _ticking(progress))
            try:
                for name, codec in choices:
                    if progress is not None:
                        place = 2 * camera.frames * len(results)
                        progress.update(progress.task_ids[0], description=f"{name}, {codec}", completed=place)
                    results.append(measuring.measure(name, codec))
            except KeyboardInterrupt:
                raise typer.Exit(INTERRUPTED) from None
    advice = advise(results, camera)
    said = notes(results, camera, storage, advice.result)
    document = {
        "camera": {**asdict(camera), "frames": camera.frames, "bytes_per_second": camera.rate},
        "storage": {**asdict(storage), "folder": str(storage.folder.resolve())},
        "results": [result.as_dict(camera) for result in results],
        "recommendation": advice.as_dict(),
        "notes": said,
    }
    output.result(document, *_in_words(results, camera, advice, said))


def _ticking(progress: Progress | None) -> Callable[[], None]:
    """Return what is to be called after each frame."""

    def tick() -> None:
        if progress is not None:
            progress.advance(progress.task_ids[0])

    return tick


def _in_words(results: list[Result], camera: Camera, advice: Advice, said: list[str]) -> list[RenderableType]:
    head = (
        f"A camera of {camera.height} x {camera.width} {camera.dtype} at {camera.fps:g} frames/s "
        f"({camera.rate / 1e6:,.0f} MB/s), {camera.seconds:g} s for each setting"
    )
    table = Table(box=None, pad_edge=False)
    table.add_column("backend", no_wrap=True)
    table.add_column("compression", no_wrap=True)
    table.add_column("keeps up", no_wrap=True)
    for name in ("late", "p99 ms", "max ms", "frames/s", "MB/s", "synced MB/s", "ratio", "memory MB"):
        table.add_column(name, justify="right", no_wrap=True)
    for result in results:
        table.add_row(result.backend, result.compression, result.verdict(camera), *_numbers(result, camera))
    lines: list[RenderableType] = [head, "", table]
    lines += [f"{r.backend}, {r.compression} can't be used: {r.error}" for r in results if r.error is not None]
    lines += ["", f"Recommended: {advice.reason}"]
    if advice.settings:
        lines.append(f"    AcquisitionSettings(..., {advice.settings})")
    return [*lines, "", *said]


def _numbers(result: Result, camera: Camera) -> list[str]:
    if result.error is not None:
        return []
    megabytes = camera.frame_bytes / 1e6
    memory = result.buffer_bytes if result.growth_bytes is None else result.growth_bytes
    return [
        f"{result.frames_late:,}",
        f"{result.p99_ms:.1f}",
        f"{result.max_ms:.1f}",
        f"{result.frames_per_second:,.0f}",
        f"{result.frames_per_second * megabytes:,.0f}",
        f"{result.synced_frames_per_second * megabytes:,.0f}",
        f"{result.ratio:.2f}",
        f"{memory / 1e6:,.0f}",
    ]
