"""How all commands speak: results on stdout, everything else on stderr; and how they end."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Final, TextIO

import typer
from pydantic import ValidationError
from rich.console import Console, RenderableType
from rich.progress import Progress, ProgressColumn

from ome_writers.errors import OMEWritersError

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors and warnings.")]

INTERRUPTED: Final = 130
"""Exit status after Ctrl-C, as shells report it."""

_WIDTH: Final = 4096
"""Columns of an output that is no terminal: enough that nothing is wrapped."""


@dataclass(frozen=True, slots=True)
class Output:
    """Where a command prints.

    Attributes
    ----------
    as_json : bool
        Whether the result is printed as JSON.
    quiet : bool
        Whether only errors and warnings are printed.
    """

    as_json: bool = False
    quiet: bool = False

    def result(self, document: Mapping[str, Any], *words: RenderableType) -> None:
        """Print the result: as JSON (also when quiet), else in words.

        Parameters
        ----------
        document : mapping
            A JSON object.
        *words : str or renderable of rich
            The same for people.
        """
        if self.as_json:
            typer.echo(json.dumps(document, indent=2))
        elif not self.quiet:
            for text in words:
                if isinstance(text, str):
                    typer.echo(text)  # as it is: whoever wraps a command or a path breaks it
                else:
                    _console().print(text, soft_wrap=True)

    @contextmanager
    def progress(self, *columns: ProgressColumn) -> Iterator[Progress | None]:
        """Yield a progress display on stderr; None where nobody would see it."""
        console = _console(stderr=True)
        if self.quiet or self.as_json or not console.is_terminal:
            yield None
            return
        with Progress(*columns, console=console, transient=True) as progress:
            yield progress


def _console(*, stderr: bool = False) -> Console:
    """Return a console for text that has brackets, as paths may; honours NO_COLOR."""
    console = Console(stderr=stderr, markup=False, highlight=False, emoji=False)
    if not console.is_terminal and not stderr:
        console.width = _WIDTH
    return console


# ---- stdout and stderr -----------------------------------------------------------------------------------------------


def prepare_streams() -> None:
    """Make stdout take every text, whatever its encoding, and show warnings as one line."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # names of files may be of any bytes, consoles of any encoding
            stream.reconfigure(errors="backslashreplace")
    warnings.showwarning = _show_warning


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    del category, filename, lineno, line
    print(f"warning: {' '.join(str(message).split())}", file=file or sys.stderr)


def faults(error: ValidationError) -> str:
    """Return what is wrong with settings in one line."""
    lines = []
    for fault in error.errors(include_url=False, include_context=False, include_input=False):
        place = ".".join(map(str, fault["loc"]))
        message = fault["msg"].removeprefix("Value error, ")
        lines.append(f"{place}: {message}" if place else message)
    return "; ".join(lines)


# ---- what messages call by its name in Python ------------------------------------------------------------------------


@contextmanager
def hints(table: Mapping[type[OMEWritersError], str]) -> Iterator[None]:
    """Add to errors what the command line has for them; messages are written for callers in Python.

    Parameters
    ----------
    table : mapping
        A hint for each class of errors; classes below it have their own, or none.
    """
    try:
        yield
    except OMEWritersError as error:
        if (hint := table.get(type(error))) is not None:
            error.add_note(hint)
        raise


@contextmanager
def hints_of_options(names: Sequence[str], *sources: str) -> Iterator[None]:
    """Add to errors the options that they name as parameters: ``axes``, where the command line has ``--axes``.

    Parameters
    ----------
    names : sequence of str
        The parameters.
    *sources : str
        Paths, which may stand in messages and say nothing about options.
    """
    try:
        yield
    except OMEWritersError as error:
        message = str(error)
        for source in sources:
            message = message.replace(source, "")
        # as words of their own: no parts of file names
        found = [f"--{name}" for name in names if re.search(rf"(?<![\w./\\-]){name}(?![./\\-]?\w)", message)]
        if found:
            error.add_note(f"on the command line: {', '.join(found)}")
        raise


def hints_of(error: BaseException) -> list[str]:
    """Return the hints that were added to an error."""
    return getattr(error, "__notes__", [])


# ---- Ctrl-C ----------------------------------------------------------------------------------------------------------


@contextmanager
def stop_at_interrupt(*more: signal.Signals) -> Iterator[threading.Event]:
    """Yield an event that the first Ctrl-C sets, so that it strikes between two frames; the second one interrupts.

    Parameters
    ----------
    *more : Signals
        Further signals that set it.
    """
    stop = threading.Event()
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, *more)}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def set_once(*_: object) -> None:
        stop.set()
        restore()

    for number in previous:
        signal.signal(number, set_once)
    try:
        yield stop
    finally:
        restore()


def this_command(*more: str, without: tuple[str, ...] = ()) -> str:
    """Return the command line that is running, as a shell would read it.

    Parameters
    ----------
    *more : str
        Arguments to add.
    without : tuple of str
        Options to leave out.
    """
    words = ["ome-writers", *(word for word in sys.argv[1:] if word not in without), *more]
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)
