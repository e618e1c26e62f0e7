"""Parcels: what a sink is given in one call, and what an assembly of them does.

Nothing here has threads or files; memory for the pixels is attached from outside.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ._forms import Form
from ._pool import Buffer

Index = tuple[int, ...]


class Parcel:
    """A box of frames of one array, some of them acquired, some skipped, some still to come.

    Parameters
    ----------
    array : int
        Number of the array.
    origin : tuple of int
        Index of its first frame.
    extent : tuple of int
        Frames along each index axis.
    form : Form
        How the frames lie in memory.
    """

    __slots__ = ("array", "buffer", "earlier", "extent", "form", "held", "origin", "pixels", "remaining", "stored")

    def __init__(self, array: int, origin: Index, extent: Index, form: Form) -> None:
        self.array = array
        self.origin = origin
        self.extent = extent
        self.form = form
        self.remaining = math.prod(extent)
        self.earlier = 0  # frames of earlier streams
        self.held = 0  # frames that it holds, those that are marked here:
        self.stored: npt.NDArray[np.bool_] = np.zeros(extent, np.bool_)
        self.buffer: Buffer | None = None
        self.pixels: npt.NDArray[Any] | None = None

    def put(self, slot: Index, frame: npt.NDArray[Any], acquire: Callable[[], Buffer]) -> None:
        """Copy a frame to its slot; ``acquire`` gives the memory when this is the first one."""
        if self.buffer is None:
            self.buffer = acquire()
        if self.pixels is None:  # not with the above: Ctrl-C may come between them
            self.pixels = self.form.view(self.buffer, self.extent)
        self.form.put(self.pixels, slot, frame)

    def count(self, slot: Index, *, stored: bool) -> None:
        """Take note that the frame of a slot was acquired or skipped."""
        self.stored[slot] = stored
        self.held += stored
        self.remaining -= 1

    def detach(self) -> Buffer | None:
        """Give the buffer up."""
        buffer, self.buffer, self.pixels = self.buffer, None, None
        return buffer

    def stored_slots(self) -> Iterator[Index]:
        """Yield the slots of the frames that are held, relative to the origin."""
        return (tuple(map(int, slot)) for slot in np.argwhere(self.stored))


class Assembly(Protocol):
    """Decides which parcel a frame belongs to and when a parcel goes to the sink."""

    in_order: bool
    """Whether a parcel makes no sense once an earlier one could not be written."""

    group: int
    """How many parcels may be handed over together; with 1, :meth:`tasks` is used, else :meth:`grouped`."""

    def place(self, frame: int) -> tuple[Parcel, Index]:
        """Return the parcel of the next frame, by its number, and its slot in it; changes nothing that counts."""
        ...

    def mark(self, parcel: Parcel, slot: Index, *, stored: bool) -> Sequence[Parcel]:
        """Count the frame in a slot as acquired or skipped; return the parcels that are now ready to be written."""
        ...

    def is_open(self, parcel: Parcel) -> bool:
        """Tell whether a parcel will be given up later."""
        ...

    def rest(self) -> Sequence[Parcel]:
        """Give up all parcels that are not ready."""
        ...

    def resume(self, frame: int, fates: npt.NDArray[np.uint8], acquire: Callable[[], Buffer]) -> None:
        """Go on at a frame, with what the dataset holds of the parcels that earlier ones have begun."""
        ...

    def tasks(self, parcel: Parcel) -> Sequence[Callable[[], None]]:
        """Return what hands a parcel to the sink; several tasks may be carried out at once, in any order."""
        ...

    def shard_of(self, parcel: Parcel) -> Hashable:
        """Return a name of the shard that the tasks of a parcel append to one at a time; None if there is none."""
        ...

    def grouped(self, parcels: Sequence[Parcel]) -> Iterator[tuple[Sequence[Parcel], Callable[[], None]]]:
        """Yield parcels that go to the sink together, and what hands them over."""
        ...

    def frame_numbers(self, parcel: Parcel) -> list[int]:
        """Return the numbers of the frames that a parcel holds, ascending."""
        ...

    def frames_of(self, layers: Iterable[tuple[int, Index]], frames: int) -> list[int]:
        """Return the numbers of the frames in layers, of the first ``frames`` ones; skipped frames among them."""
        ...

    def reach(self, parcel: Parcel, axis: int) -> int:
        """Return the extent that an array has along a storage axis with the frames of a parcel in it."""
        ...
