"""The pace of a camera."""

from __future__ import annotations

import time
from typing import Final

PROMPT_SECONDS: Final = 1e-3
"""A source that delivers a frame within this time has not kept anybody waiting."""


class Clock:
    """When a camera's frames are due, and which are late.

    A frame that the source delivers too late holds the clock: all later frames are due later by as much. So what is
    late is late because of the storage.

    Parameters
    ----------
    interval : float
        Seconds between two frames. The first one is due when it is ready.

    Attributes
    ----------
    late : int
        Frames that were appended after the next one was due.
    awaited : int
        Frames for which the clock was held.
    """

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._began: float | None = None
        self.late = 0
        self.awaited = 0

    def wait_for(self, number: int, asked: float, ready: float) -> float:
        """Wait until a frame is due.

        Parameters
        ----------
        number : int
            Of the frame, from 0.
        asked, ready : float
            When the source was asked for it, and when it was there, by ``time.perf_counter``.

        Returns
        -------
        float
            The time now.
        """
        if self._began is None:
            self._began = ready - number * self._interval
        due = self._began + number * self._interval
        if ready < due:
            time.sleep(due - ready)
            return time.perf_counter()
        held = ready - max(asked, due)
        self._began += held
        self.awaited += held > PROMPT_SECONDS
        return ready

    def count(self, number: int, done: float) -> None:
        """Count a frame as late if it was appended after the next one was due."""
        if self._began is not None:
            self.late += done > self._began + (number + 1) * self._interval
