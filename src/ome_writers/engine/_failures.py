"""What has gone wrong in a stream, wherever it happened, until the caller is told."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Final

from ome_writers.errors import WriteError

_MOST_RUNS: Final = 10  # of lost frames, in a message


class Failures:
    """Keeps the first error, and the frames that are lost with any. Any thread may call this.

    Attributes
    ----------
    first : BaseException, optional
        The first error.
    """

    def __init__(self) -> None:
        self.first: BaseException | None = None
        self._path = ""  # of the array that the first one is about
        self._more: list[str] = []  # what else has gone wrong at the end
        self._lost: list[int] = []
        self._lock = threading.Lock()

    @property
    def lost(self) -> set[int]:
        """Numbers of the frames that were not written."""
        with self._lock:
            return set(self._lost)

    def add(self, error: BaseException, path: str | None, lost: Iterable[int]) -> None:
        """Keep an error.

        Parameters
        ----------
        error : BaseException
            The error.
        path : str, optional
            Path of the array that it is about; None if it is about the dataset.
        lost : iterable of int
            Frames that are not written because of it.
        """
        with self._lock:
            self._lost += lost
            if self.first is None:
                self._path, self.first = path or "", error
            elif path is None:
                self._more.append(f"{type(error).__name__}: {error}")

    def raise_first(self, lost: tuple[range, ...], advice: str) -> None:
        """Raise the first error, if there is one.

        Parameters
        ----------
        lost : tuple of range
            Frames that are not on disk.
        advice : str
            What the caller can do.

        Raises
        ------
        WriteError
            Naming the array, the frames, and what else has gone wrong.
        """
        if self.first is None:
            return
        what = f"array {self._path!r}" if self._path else "the dataset"
        frames = f" Frames not on disk: {_in_words(lost)}." if lost else ""
        also = f" Also: {'; '.join(self._more)}." if self._more else ""
        raise WriteError(
            f"writing {what} failed: {type(self.first).__name__}: {self.first}.{frames}{advice}{also}",
            array=self._path,
            frames=lost,
        ) from self.first


def _in_words(ranges: tuple[range, ...]) -> str:
    words = [str(r.start) if len(r) == 1 else f"{r.start} to {r[-1]}" for r in ranges[:_MOST_RUNS]]
    return ", ".join(words) + (f" and {len(ranges) - _MOST_RUNS} more runs" if len(ranges) > _MOST_RUNS else "")
