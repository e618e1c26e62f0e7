"""The commands, put together; what they raise, put in words."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Annotated, Any, Optional

import typer
from pydantic import ValidationError
from typer.core import TyperCommand

from ome_writers._documents import __version__
from ome_writers.errors import OMEWritersError

from ._bench import bench
from ._demo import demo
from ._info import info
from ._output import faults, hints_of, prepare_streams
from ._recover import recover
from ._replay import SourceThenDest, replay
from ._verify import verify_command

__all__ = ["app", "run"]

app = typer.Typer(
    name="ome-writers",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["--help", "-h"]},
)


def _add(command: Callable[..., Any], name: str, cls: type[TyperCommand] = TyperCommand) -> None:
    """Add a command whose help is its docstring: prose, then examples below a line "For example:"."""
    prose, _, examples = (inspect.getdoc(command) or "").partition("For example:")
    lines = [" ".join(line.split()) for line in examples.splitlines() if line.strip()]
    app.command(name, cls=cls, help=_unwrapped(prose), epilog="\n\n".join(["For example:", *lines]))(command)


def _unwrapped(text: str) -> str:
    """Return paragraphs as one line each, which are wrapped to fit the terminal."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.strip().split("\n\n"))


_add(demo, "demo")
_add(info, "info")
_add(replay, "replay", SourceThenDest)
_add(bench, "bench")
_add(verify_command, "verify")
_add(recover, "recover")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


def _options(
    version: Annotated[
        Optional[bool],  # noqa: UP045  typer reads this at run time
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = None,
) -> None:
    """Write microscope frames to OME-Zarr as they arrive.

    Results go to stdout, everything else to stderr. Exit status: 0 done, 1 failed (a message on stderr says why; with
    verify and info, something is wrong with the dataset), 2 wrong usage, 130 stopped by Ctrl-C. NO_COLOR=1 turns
    colours off.
    """


app.callback(help=_unwrapped(inspect.getdoc(_options) or ""))(_options)


def run() -> None:
    """Run the command line: errors that a user can mend are printed without a traceback, with exit status 1."""
    prepare_streams()
    try:
        app(prog_name="ome-writers")
    except ValidationError as error:
        sys.exit(f"error: {faults(error)}")
    except (OMEWritersError, OSError) as error:
        sys.exit("\n".join([f"error: {error}", *(f"hint: {hint}" for hint in hints_of(error))]))
