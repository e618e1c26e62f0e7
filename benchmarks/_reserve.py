"""Memory that a process of its own has ready while a camera sets the pace, and gives up as others use what is free.

A virtual machine gets memory from its host when it is first used, on some days more slowly than a camera fills files,
and gives back what lies free, which stops it for a moment. So what will be needed is taken before, and comes free just
as it is used: then none of it has to be lent, and none of it lies free for long.
"""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections.abc import Callable

import numpy as np
import psutil

_PIECE_BYTES = 1 << 24
_AHEAD_BYTES = 1 << 26  # that have come free and are not used yet
_LEFT_BYTES = 1 << 29  # of available memory, left to others
_POLL_SECONDS = 0.01


class Reserve:
    """Memory that is given up as others use theirs.

    Parameters
    ----------
    nbytes : int
        How much.
    free : callable
        Returns the bytes that are free in the machine.
    """

    def __init__(self, nbytes: int, free: Callable[[], int]) -> None:
        self.pieces = [np.ones(_PIECE_BYTES, np.uint8) for _ in range(nbytes // _PIECE_BYTES)]
        self._free = free
        self._least = 0

    def keep_free(self) -> None:
        """From now on have as much free as there is now, and a little more."""
        self._least = self._free() + _AHEAD_BYTES

    def give_up(self) -> None:
        """Give up what others have used since the last time."""
        missing = self._least - self._free()
        if missing > 0:
            del self.pieces[: math.ceil(missing / _PIECE_BYTES)]


def _free() -> int:
    return int(psutil.virtual_memory().free)


def main(nbytes: int, quiet_seconds: float) -> None:
    """Take memory, wait, say so, and give it up until standard input ends."""
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()  # with its parent
    reserve = Reserve(min(nbytes, max(0, psutil.virtual_memory().available - _LEFT_BYTES)), _free)
    time.sleep(quiet_seconds)
    reserve.keep_free()
    reserve.give_up()
    print("ready", flush=True)
    while True:
        time.sleep(_POLL_SECONDS)
        reserve.give_up()


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
