"""What a stream does from time to time, beside writing frames: tell how far arrays have grown, and sync files."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

_GROWTH_SECONDS: Final = 1.0
"""How often the extent of a growing array is announced, at most."""

_SYNC_SECONDS: Final = 0.7
"""After this time everything is put on the medium, so that it is there within a second."""


class Upkeep:
    """Announces growth and has everything on the medium. Any thread may call this.

    Parameters
    ----------
    on_growth : callable
        Called with {number of the array: extent of its unbounded axis that is written} of arrays that have grown. Calls
        never overlap, and an array's extent never falls.
    sync : callable, optional
        Has everything that was written on the medium.
    on_error : callable
        Called with what the sync raises.
    """

    def __init__(
        self,
        on_growth: Callable[[dict[int, int]], None],
        sync: Callable[[], None] | None,
        on_error: Callable[[BaseException], None],
    ) -> None:
        self._on_growth = on_growth
        self._sync = sync
        self._on_error = on_error
        self._state = threading.Lock()
        self._extents: dict[int, int] = {}  # by array
        self._grown: set[int] = set()  # arrays that have grown since the last announcement
        self._announced = time.perf_counter()
        self._announcing = threading.Lock()
        self._synced = time.perf_counter()
        self._syncing = threading.Lock()

    @property
    def syncs(self) -> bool:
        """Whether there is anything that puts files on the medium."""
        return self._sync is not None

    def grow(self, array: int, extent: int) -> None:
        """Take note that an array is written up to an extent, if that is more than before."""
        with self._state:
            if extent > self._extents.get(array, 0):
                self._extents[array] = extent
                self._grown.add(array)

    def do_what_is_due(self) -> None:
        """Announce growth and sync, if it is time; what can't be announced now is tried again later.

        Raises
        ------
        Exception
            What the announcement raises, unless it is an OSError.
        """
        if self._grown and time.perf_counter() - self._announced >= _GROWTH_SECONDS:
            with suppress(OSError):  # no frame is lost; the last try, in close, counts
                self.announce()
        if self._sync is not None and time.perf_counter() - self._synced >= _SYNC_SECONDS:
            self._sync_unless_somebody_does()

    def announce(self) -> None:
        """Announce how far arrays have grown since the last time.

        Raises
        ------
        Exception
            What the announcement raises; then it is made again the next time.
        """
        with self._announcing:
            self._announced = time.perf_counter()
            with self._state:
                grown = {array: self._extents[array] for array in sorted(self._grown)}
            if grown:
                self._on_growth(grown)
            with self._state:  # not before: after an error or Ctrl-C it is announced again
                self._grown = {array for array in self._grown if self._extents[array] != grown.get(array)}

    def sync(self) -> None:
        """Have everything on the medium, after another thread that does that; after Ctrl-C the next call does it."""
        with self._syncing:
            self._sync_now()

    def _sync_unless_somebody_does(self) -> None:
        if not self._syncing.acquire(blocking=False):
            return
        try:
            self._sync_now()
        finally:
            self._syncing.release()

    def _sync_now(self) -> None:
        self._synced = time.perf_counter()
        try:
            if self._sync is not None:
                self._sync()
        except Exception as error:  # noqa: BLE001  raised in the caller's thread
            self._on_error(error)
