"""Streams that are open in this process: closed when it ends, left to its parent after a fork."""

from __future__ import annotations

import atexit
import concurrent.futures.thread  # noqa: F401  see _close_abandoned
import os
import threading
import weakref
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol


class Running(Protocol):
    """What is known here of a stream."""

    @property
    def path(self) -> Path:
        """Where it writes to."""
        ...

    @property
    def closed(self) -> bool:
        """Whether it is closed."""
        ...

    @property
    def _caller(self) -> int | None:
        """The thread that has appended, if one has."""
        ...

    def close(self) -> None:
        """Write what it still holds."""
        ...

    def _disown(self) -> None:
        """Have nothing more to do with what it writes to."""
        ...


_running: weakref.WeakValueDictionary[int, Running] = weakref.WeakValueDictionary()
"""By their ``id``: no set, which must not change while somebody looks at it; streams come and go in any thread."""

_closing: dict[int, Running] = {}
"""Those that nobody has any more, while a thread closes them: the garbage collector has taken them out of the above."""


def add(stream: Running) -> None:
    """Have a stream closed when the interpreter ends, if nobody else does it."""
    _running[id(stream)] = stream
    # last in, first out: before the library that it writes with, which may be newly imported, ends its own threads
    atexit.unregister(close_all)
    atexit.register(close_all)


def discard(stream: Running) -> None:
    """Forget a stream, which is closed."""
    _running.pop(id(stream), None)
    _closing.pop(id(stream), None)


def close_in_a_thread(stream: Running) -> None:
    """Close a stream that nobody has any more; the interpreter does not end before that."""
    _closing[id(stream)] = stream
    threading.Thread(target=stream.close, name="ome-writers-close").start()


def writes_to(path: Path) -> bool:
    """Tell whether a stream of this process is writing to a path."""
    return any(stream.path == path and not stream.closed for stream in streams())


def streams() -> list[Running]:
    """Return the streams that nobody has closed."""
    known = {id(stream): stream for reference in _running.valuerefs() if (stream := reference()) is not None}
    return [*(known | _closing.copy()).values()]


def close_all() -> None:
    """Write what streams still hold; each is closed, whatever becomes of the others."""
    _close(streams())


def _close_abandoned() -> None:
    """Write what streams hold that no running thread appends to any more.

    Called when the main thread ends. The threads of ``concurrent.futures``, which zarr-python writes with, still work
    then, and no longer when functions registered with ``atexit`` are called. Other threads may still run then, too.
    """
    threads = {thread.ident for thread in threading.enumerate()} - {threading.main_thread().ident}
    _close(s for s in streams() if id(s) in _closing or s._caller not in {None, *threads})  # noqa: SLF001


def _close(of_these: Iterable[Running]) -> None:
    with ExitStack() as every_one:
        for stream in of_these:
            every_one.callback(stream.close)


def _disown_all() -> None:
    """Leave all streams to the parent: called in a forked child, which has their objects but none of their threads."""
    for stream in streams():
        stream._disown()  # noqa: SLF001
    _running.clear()
    _closing.clear()


# Functions registered here are called last in, first out: this one before that of concurrent.futures, imported above.
# Python has had it since 3.9 for such uses, without documenting it; without it, streams are closed later.
getattr(threading, "_register_atexit", atexit.register)(_close_abandoned)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_disown_all)
