"""``ome-writers verify``: checks that a dataset can be read, all of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from ome_writers._verify import verify

from ._output import INTERRUPTED, AsJson, Output


def verify_command(
    path: Annotated[
        Path,
        typer.Argument(help="The dataset: an OME-Zarr 0.5, or any group or array of Zarr v3.", show_default=False),
    ],
    as_json: AsJson = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing unless something is wrong.")] = False,
    workers: Annotated[
        Optional[int],  # noqa: UP045  typer reads this at run time
        typer.Option(min=1, help="Threads that decode; as many as there are processors by default."),
    ] = None,
) -> None:
    """Decode every chunk of a dataset and say what is written, skipped, missing and corrupt.

    Ends with status 0 when nothing is wrong and 1 when something is.

    For example:

        ome-writers verify cells.ome.zarr
        ome-writers verify cells.ome.zarr --quiet --workers 2
    """
    output = Output(as_json, quiet)
    columns = (TextColumn("verifying"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    try:
        with output.progress(*columns) as bar:
            if bar is None:
                report = verify(path, workers=workers)
            else:
                task = bar.add_task("verifying", total=None)
                report = verify(
                    path, workers=workers, progress=lambda done, total: bar.update(task, completed=done, total=total)
                )
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    Output(as_json, quiet and report.ok).result(report.as_dict(), str(report))
    if not report.ok:
        raise typer.Exit(1)
