"""``ome-writers replay``: a recorded acquisition, written as if a camera took it."""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import numpy as np
import typer
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TextColumn, TimeRemainingColumn
from typer.core import TyperCommand

from ome_writers._dataset import DatasetFolder
from ome_writers._documents import Completeness
from ome_writers._replay import ReplayProgress
from ome_writers._replay import replay as _replay
from ome_writers.errors import (
    BackendMissingError,
    BufferTooSmallError,
    DestinationExistsError,
    OMEWritersError,
    RecordingError,
    ResumeError,
    SettingsError,
)
from ome_writers.recordings import Recording, open_recording
from ome_writers.settings import AcquisitionSettings, Backend, Compression, Dimension

from ._demo import format_of, with_suffix
from ._options import (
    READ_OPTIONS,
    Axes,
    ImageChoice,
    Names,
    Offset,
    RawDtype,
    RawShape,
    Sizes,
    image_of,
    names,
    positive,
    sizes,
)
from ._output import INTERRUPTED, AsJson, Output, Quiet, hints, hints_of_options, stop_at_interrupt, this_command

if TYPE_CHECKING:
    from distributed import Client

_CONNECT_SECONDS = "10s"


class SourceThenDest(TyperCommand):
    """A command that takes a single argument for the source; the parser takes it for the last one, the destination."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse arguments; where only one is given, the destination is what is missing."""
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:
            if error.param is None or error.param.name != "source":
                raise
            path = self.make_parser(ctx).parse_args(given)[0].get("dest")
            if path is None:
                raise
            raise typer.BadParameter(
                f"a destination is missing; name the dataset to be made behind the source, as in: {path} "
                f"{'copy' if path.endswith('.zarr') else Path(path).name.split('.')[0]}.ome.zarr",
                ctx=ctx,
                param_hint="DEST",
            ) from None


def replay(
    source: Annotated[
        list[str],
        typer.Argument(metavar="SOURCE", help="A recorded acquisition, or several TIFF files.", show_default=False),
    ],
    dest: Annotated[Path, typer.Argument(metavar="DEST", help="Where the dataset goes.", show_default=False)],
    order: Annotated[
        Optional[Names],  # noqa: UP045  typer reads this at run time
        typer.Option(metavar="t,p,c,z", parser=names, help="Acquisition order to simulate, slowest first."),
    ] = None,
    fps: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            metavar="FPS", parser=positive, help="Pace in frames per second, as of a camera; reports late frames."
        ),
    ] = None,
    limit: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="Frames after which to stop."),
    ] = None,
    backend: Annotated[Backend, typer.Option(help="What writes; 'auto': 'direct', which needs no library.")] = "auto",
    compression: Annotated[Compression, typer.Option(help="How chunks are compressed.")] = "blosc-lz4",
    chunks: Annotated[
        Optional[Sizes],  # noqa: UP045
        typer.Option(
            metavar="t=N,y=N,...", parser=sizes, help="Steps in a chunk along some dimensions; others are planned."
        ),
    ] = None,
    shards: Annotated[
        Optional[Sizes],  # noqa: UP045
        typer.Option(
            metavar="t=N,y=N,...", parser=sizes, help="Chunks in a shard along some dimensions; others are planned."
        ),
    ] = None,
    axes: Axes = None,
    shape: RawShape = None,
    dtype: RawDtype = None,
    offset: Offset = 0,
    image: ImageChoice = None,
    skip_missing: Annotated[
        bool, typer.Option("--skip-missing", help="Leave out frames that are missing in the source.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing Zarr dataset.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the dataset of an earlier replay, if it is there.")
    ] = False,
    dask: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="ADDRESS", help="Write on the Dask cluster whose scheduler is there."),
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write a recorded acquisition to OME-Zarr, as if a camera took it: OME-TIFF, Micro-Manager, ImageJ, NDTiff, Zarr.

    Dimensions, pixel sizes, channels, positions and metadata carry over. Ctrl-C stops between two frames and leaves a
    valid dataset, which --resume continues.

    For example:

        ome-writers replay cells.ome.tif cells.ome.zarr
        ome-writers replay cells.ome.tif cells.ome.zarr --resume
        ome-writers replay cells.ome.tif paced.ome.zarr --fps 60 --limit 600
        ome-writers replay stack.npy stack.ome.zarr --axes tzcyx --order t,c,z
        ome-writers replay stack.npy chunks.ome.zarr --axes tzcyx --chunks z=8,y=64
        ome-writers replay camera.raw camera.ome.zarr --shape 9,64,64 --dtype uint16
    """
    if resume and overwrite:
        raise typer.BadParameter("--resume goes on with a dataset that --overwrite would replace; give one of them")
    if dask is not None and (fps is not None or limit is not None):
        raise typer.BadParameter("--fps and --limit simulate one camera; leave them out with --dask")
    output = Output(as_json, quiet)
    dest = with_suffix(dest)
    with ExitStack() as opened:
        with hints_of_options(READ_OPTIONS, *source):
            recording = opened.enter_context(
                open_recording(
                    source if len(source) > 1 else source[0],
                    axes=axes, shape=shape, dtype=dtype, offset=offset, image=image_of(image),
                )
            )  # fmt: skip
        settings = AcquisitionSettings(
            root_path=str(dest),
            format=format_of(dest, backend),
            compression=compression,
            chunking="auto",
            overwrite=overwrite,
            **_with_sizes(recording, chunks or Sizes(), shards or Sizes()),
        )
        client = None if dask is None else opened.enter_context(_connected(dask))
        last_seen = _LastSeen()
        try:
            with (
                stop_at_interrupt() as stop,
                _progress(output, stop, last_seen, paced=fps is not None) as progress,
                hints(_hints(recording, keeps=not overwrite and not resume, skips=skip_missing)),
            ):
                report = _replay(
                    recording, settings, order=order, fps=fps, limit=limit, skip_missing=skip_missing, resume=resume,
                    progress=progress, client=client,
                )  # fmt: skip
        except KeyboardInterrupt:
            _say_interrupted(Path(settings.output_path), output, recording, last_seen.progress, fps)
            raise typer.Exit(INTERRUPTED) from None
    output.result(report.as_dict(), str(report))


def _hints(recording: Recording, *, keeps: bool, skips: bool) -> dict[type[OMEWritersError], str]:
    """Return what the options are that messages about a replay call by their names in Python."""
    found: dict[type[OMEWritersError], str] = {
        ResumeError: "give the options that the dataset was begun with, or --overwrite to begin it anew",
        BufferTooSmallError: "smaller --chunks or --shards need less memory",
    }
    if keeps:
        found[DestinationExistsError] = "--overwrite replaces it, --resume goes on with it"
    if recording.frames_missing and not skips:
        found[RecordingError] = "--skip-missing leaves the missing frames out"
    return found


def _with_sizes(recording: Recording, chunks: Sizes, shards: Sizes) -> dict[str, Any]:
    """Return the settings that sizes of chunks and shards of one's own need; none where all are planned."""
    if not chunks and not shards:
        return {}
    allowed = [d.name for d in recording.dimensions if d.type != "position"]
    if unknown := sorted({*chunks, *shards} - set(allowed)):
        raise SettingsError(
            f"{recording.name} has no dimension {', '.join(unknown)} that is divided into chunks; allowed are "
            f"{', '.join(allowed)}"
        )
    dimensions = tuple(
        Dimension.model_validate(
            {
                **dict(d),
                "chunk_size": chunks.get(d.name, d.chunk_size),
                "shard_size_chunks": shards.get(d.name, d.shard_size_chunks),
            }
        )
        for d in recording.dimensions
    )
    return {"dimensions": dimensions, "plate": recording.plate}


@contextmanager
def _connected(address: str) -> Iterator[Client]:
    try:
        from distributed import Client
    except ImportError as error:
        raise BackendMissingError(
            '--dask needs distributed, which is not installed. Install it with: pip install "ome-writers[dask]"'
        ) from error
    try:
        client = Client(address, timeout=_CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise SettingsError(f"there is no Dask scheduler at {address}: {error}. Check address and network.") from error
    with client:
        yield client


# ---- while it goes on ------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _LastSeen:
    """What replay said last of its progress."""

    progress: ReplayProgress | None = None


@contextmanager
def _progress(
    output: Output, stop: threading.Event, last_seen: _LastSeen, *, paced: bool
) -> Iterator[Callable[[ReplayProgress], None]]:
    """Yield what replay is to call between two frames: it shows progress, and ends the replay after Ctrl-C."""
    columns: list[ProgressColumn] = [
        TextColumn("replaying"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("frames"),
        TextColumn("{task.fields[rate]:.0f} MB/s"),
        TextColumn("buffer {task.fields[fill]:.0%}"),
        TimeRemainingColumn(),
    ]
    if paced:
        columns.insert(-1, TextColumn("{task.fields[late]} late"))
    with output.progress(*columns) as bar:
        task = None if bar is None else bar.add_task("replaying", total=None, rate=0.0, fill=0.0, late=0)

        def show(now: ReplayProgress) -> None:
            last_seen.progress = now
            if bar is not None and task is not None:
                rate = now.bytes_in / now.seconds / 1e6 if now.seconds else 0.0
                bar.update(
                    task, completed=now.frames_done, total=now.frames_total, rate=rate, fill=now.buffer_fill,
                    late=now.frames_late,
                )  # fmt: skip
            if stop.is_set() and now.frames_done < now.frames_total:
                raise KeyboardInterrupt

        yield show


def _say_interrupted(
    path: Path, output: Output, recording: Recording, progress: ReplayProgress | None, fps: float | None
) -> None:
    """Say what is in a dataset whose replay was stopped, and how it goes on; as JSON, with the keys of a report."""
    path = path.expanduser().absolute()
    again = this_command(*([] if "--resume" in sys.argv else ["--resume"]), without=("--overwrite",))
    state = Completeness.read(DatasetFolder(path)) if path.is_dir() else None
    document = {
        "path": str(path),
        "source": recording.name,
        "kind": recording.kind,
        "frames_total": recording.frames,
        "frames_done": 0,
        "fps": fps,
        "complete": False,
        "interrupted": True,
        "resume_with": again,
    }
    if progress is not None:
        frame_bytes = math.prod(d.count or 1 for d in recording.dimensions[-2:]) * np.dtype(recording.dtype).itemsize
        document |= {
            "frames_appended": progress.bytes_in // frame_bytes,
            "bytes_in": progress.bytes_in,
            "seconds": progress.seconds,
            "frames_late": progress.frames_late,
        }
    if state is None:
        held = f"Nothing was written to {path}."
    elif state.closed or state.recovered:
        held = f"{state.frames_written} of {state.frames_expected} frames are in {path}, a valid dataset."
    else:
        held = f"{path} was not closed; going on completes it first."
    if state is not None:
        document |= {
            "frames_total": state.frames_expected,
            "frames_done": state.frames_taken,
            "frames_written": state.frames_written,
            "frames_lost": state.as_dict()["frames_lost"],
            "closed": state.closed,
            "recovered": state.recovered,
        }
    words = f"Stopped by Ctrl-C. {held}\nGo on with: {again}"
    if output.as_json:
        print(words, file=sys.stderr)
    output.result(document, words)
