"""``ome-writers verify``: checks that a dataset can be read, all of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from ome_writers._verify import ProgressCallback, VerificationReport, verify


def verify_command(
    path: Annotated[Path, typer.Argument(help="The dataset: an OME-Zarr 0.5, or any group or array of Zarr v3.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing unless something is wrong.")] = False,
    workers: Annotated[
        Optional[int],  # noqa: UP045  typer reads this at run time
        typer.Option(min=1, help="Threads that decode; as many as there are processors by default."),
    ] = None,
) -> None:
    """Decode every chunk of a dataset and say what is written, skipped, missing and corrupt.

    Ends with status 0 when nothing is wrong and 1 when something is. For example: ome-writers verify cells.ome.zarr
    """
    try:
        with _progress(shown=not (quiet or as_json)) as progress:
            report = verify(path, workers=workers, progress=progress)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None  # what shells report for Ctrl-C
    _print(report, as_json=as_json, quiet=quiet)
    if not report.ok:
        raise typer.Exit(1)


@contextmanager
def _progress(*, shown: bool) -> Iterator[ProgressCallback | None]:
    """Yield what shows progress on a terminal; None where nobody would see it."""
    console = Console(stderr=True)
    if not (shown and console.is_terminal):
        yield None
        return
    columns = (TextColumn("verifying"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("verifying", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _print(report: VerificationReport, *, as_json: bool, quiet: bool) -> None:
    if as_json:
        typer.echo(json.dumps(report.as_dict(), indent=2))
    elif not (quiet and report.ok):
        typer.echo(str(report).encode(errors="backslashreplace").decode())  # names of files may be of any bytes
