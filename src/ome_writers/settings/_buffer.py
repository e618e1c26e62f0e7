"""How frames wait between the camera and the disk."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import PositiveFloat, PositiveInt

from ._model import Settings

_DEFAULT_BYTES: Final = 1 << 30


class BufferSettings(Settings):
    """Limits of the memory that holds frames until they are written.

    Attributes
    ----------
    max_bytes : int, optional
        The most that frames in flight and their encoded copies may take, in bytes. None: as much as this acquisition
        order needs, 1 GiB at most, and 96 MiB for frames that wait for storage. More lets a camera go on for longer
        while storage stalls; memory is used only when frames have to wait.
    on_full : str
        What ``append`` does when no memory is free: ``"block"`` waits, ``"raise"`` raises
        :class:`~ome_writers.errors.BufferFullError`. Frames are never dropped.
    timeout : float, optional
        With ``"block"``: seconds to wait before :class:`~ome_writers.errors.BufferFullError`; None waits for as long
        as it takes.
    workers : int, optional
        Threads that hand blocks to the backend; None lets the backend choose. Where there are as many as processors, or
        more, one of those of "direct" waits until half of what may wait does, so that the thread that appends has a
        processor to itself (not with small chunks).
    """

    max_bytes: PositiveInt | None = None
    on_full: Literal["block", "raise"] = "block"
    timeout: PositiveFloat | None = None
    workers: PositiveInt | None = None

    @property
    def allowed_bytes(self) -> int:
        """The most that may be taken: ``max_bytes``, or what an acquisition may need by default."""
        return self.max_bytes or _DEFAULT_BYTES
