"""The command line, ``ome-writers``."""

from __future__ import annotations

import sys
from typing import Annotated, Optional

import typer
from pydantic import ValidationError

from ome_writers._documents import __version__
from ome_writers.errors import OMEWritersError

from ._demo import demo
from ._recover import recover
from ._verify import verify_command

__all__ = ["app", "main"]

app = typer.Typer(
    name="ome-writers",
    help="Write microscope frames to OME-Zarr as they arrive.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command()(demo)
app.command()(recover)
app.command("verify")(verify_command)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        Optional[bool],  # noqa: UP045  typer reads this at run time
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = None,
) -> None:
    """Write microscope frames to OME-Zarr as they arrive."""


def main() -> None:
    """Run the command line: errors that a user can mend are printed without a traceback, with exit status 1."""
    try:
        app()
    except ValidationError as error:
        faults = "; ".join(fault["msg"].removeprefix("Value error, ") for fault in error.errors())
        sys.exit(f"error: {faults}")
    except OMEWritersError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("interrupted; it can be started again", file=sys.stderr)
        sys.exit(130)
