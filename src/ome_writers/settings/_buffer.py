"""How frames wait between the camera and the disk."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt

from ._model import Settings


class BufferSettings(Settings):
    """Limits of the memory that holds frames until they are written.

    Attributes
    ----------
    max_bytes : int
        The most that frames in flight and their encoded copies may take, in bytes. Up to a quarter of it holds frames
        that wait for storage, beside those of blocks that are gathered or written.
    on_full : str
        What ``append`` does when no memory is free: ``"block"`` waits, ``"raise"`` raises
        :class:`~ome_writers.errors.BufferFullError`. Frames are never dropped.
    timeout : float, optional
        With ``"block"``: seconds to wait before :class:`~ome_writers.errors.BufferFullError`; None waits for as long
        as it takes.
    workers : int, optional
        Threads that hand blocks to the backend; None lets the backend choose.
    """

    max_bytes: PositiveInt = Field(default=1 << 30)
    on_full: Literal["block", "raise"] = "block"
    timeout: PositiveFloat | None = None
    workers: PositiveInt | None = None
