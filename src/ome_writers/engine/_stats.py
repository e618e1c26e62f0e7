"""What a stream has done so far."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StreamStats:
    """What a stream has done so far.

    Attributes
    ----------
    frames_appended, frames_written, frames_skipped : int
        Frames taken, frames handed to storage, and frames left out.
    bytes_in, bytes_out : int
        Bytes of the frames taken and of those handed to storage, both uncompressed.
    buffered_bytes, max_buffered_bytes : int
        Memory that holds frames now, and at most so far.
    buffer_bytes : int
        Memory that may hold frames.
    stalled_seconds : float
        How long ``append`` has waited for memory in all.
    workers : int
        Threads that write.
    first_frame : int
        Number of the first frame of this stream: 0, unless it resumes a dataset. Everything else counts from there.
    """

    frames_appended: int
    frames_written: int
    frames_skipped: int
    bytes_in: int
    bytes_out: int
    buffered_bytes: int
    max_buffered_bytes: int
    buffer_bytes: int
    stalled_seconds: float
    workers: int
    first_frame: int
