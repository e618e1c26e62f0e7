"""``ome-writers recover``: a dataset whose writer has died, completed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ome_writers._recovery import recover as _recover


def recover(
    path: Annotated[Path, typer.Argument(help="The dataset's folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
) -> None:
    """Complete a dataset whose stream was not closed, such as after a crash, and tell which frames are lost.

    Frames that had left the buffer are in it. Can be interrupted and started again.

    For example: ome-writers recover cells.ome.zarr
    """
    report = _recover(path)
    typer.echo(json.dumps(report.as_dict(), indent=2) if as_json else str(report))
