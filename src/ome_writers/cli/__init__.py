"""The command line, ``ome-writers``."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from ._app import app

__all__ = ["app", "main"]

_INTERRUPTED: Final = 130


def main() -> None:
    """Run the command line; Ctrl-C ends it with status 130, also while modules are imported, which is most of it."""
    try:
        with _ending_at_interrupt():
            from ._app import run
        run()
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)


@contextmanager
def _ending_at_interrupt() -> Iterator[None]:
    """End the process at Ctrl-C: some libraries that are imported turn KeyboardInterrupt into errors of their own."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # as when a shell has it ignored
        yield
        return
    signal.signal(signal.SIGINT, lambda *_: os._exit(_INTERRUPTED))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def __getattr__(name: str) -> Any:
    """Return the commands as an object of typer, imported when somebody asks for them."""
    if name == "app":
        from ._app import app

        return app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
