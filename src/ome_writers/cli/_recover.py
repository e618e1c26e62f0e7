"""``ome-writers recover``: a dataset whose writer has died, completed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ome_writers._recovery import recover as _recover

from ._output import INTERRUPTED, AsJson, Output, Quiet


def recover(
    path: Annotated[Path, typer.Argument(help="The dataset's folder.", show_default=False)],
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Complete a dataset whose stream was not closed, such as after a crash, and tell which frames are lost.

    Frames that had left the buffer are in it. Can be interrupted and started again.

    For example:

        ome-writers recover cells.ome.zarr
        ome-writers recover cells.ome.zarr --json
    """
    try:
        report = _recover(path)
    except KeyboardInterrupt:
        print("interrupted; it can be started again", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    Output(as_json, quiet).result(report.as_dict(), str(report))
