"""What a replay says of itself, while it goes on and in the end."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ome_writers.engine import StreamStats


@dataclass(frozen=True, slots=True)
class ReplayProgress:
    """How far a replay is.

    Attributes
    ----------
    frames_done : int
        Frames appended or skipped, those of earlier replays that this one resumes included.
    frames_total : int
        Frames to be done by the end of this replay.
    bytes_in : int
        Bytes of the frames appended by this replay.
    seconds : float
        Since the first frame.
    buffer_fill : float
        Part of the stream's buffer that is in use, from 0 to 1.
    frames_late : int
        Frames that the stream did not take in time, so far; with ``fps`` only.
    """

    frames_done: int
    frames_total: int
    bytes_in: int
    seconds: float
    buffer_fill: float
    frames_late: int = 0


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """What a replay did.

    Attributes
    ----------
    path : Path
        The dataset's folder.
    source : str
        What was replayed.
    kind : str
        What kind of source that was.
    frames_total : int
        Frames that the dataset declares.
    frames_done : int
        Frames that it has now: appended or skipped, by this replay or by those that it resumed.
    frames_appended : int
        Frames appended by this replay.
    frames_skipped : int
        Frames skipped by this replay, since they were not recorded.
    bytes_in : int
        Bytes of the frames appended by this replay.
    seconds : float
        From before the first frame until the dataset was closed.
    stalled_seconds : float
        How long ``append`` waited because the buffer was full.
    source_seconds : float
        How long the replay waited for the source.
    fps : float, optional
        The pace that was asked for, in frames per second.
    frames_late : int
        With a pace: frames that could not be appended before the next one was due, because the stream was not ready
        for them; a camera would have had to keep them.
    frames_awaited : int
        With a pace: frames that the source did not deliver in time. The clock was held for them, so they say nothing
        about the storage.
    longest_append : float
        Seconds that the slowest ``append`` took.
    """

    path: Path
    source: str
    kind: str
    frames_total: int
    frames_done: int
    frames_appended: int
    frames_skipped: int
    bytes_in: int
    seconds: float
    stalled_seconds: float
    source_seconds: float
    fps: float | None = None
    frames_late: int = 0
    frames_awaited: int = 0
    longest_append: float = 0.0

    @property
    def complete(self) -> bool:
        """Whether the dataset has all frames that it declares."""
        return self.frames_done == self.frames_total

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {**asdict(self), "path": str(self.path), "complete": self.complete}

    def __str__(self) -> str:
        """Return it in words."""
        rate = self.bytes_in / self.seconds / 1e6 if self.seconds else 0.0
        if self.frames_appended or self.frames_skipped:
            lines = [
                f"Wrote {_frames(self.frames_appended)} ({self.bytes_in / 1e6:.0f} MB) in {self.seconds:.1f} s, "
                f"{rate:.0f} MB/s, to {self.path}",
            ]
        elif self.complete:
            lines = [f"Nothing was to be done: {self.path} has all its frames already, {self.frames_total} of them."]
        else:
            lines = [f"Nothing was written to {self.path}."]
        if self.frames_skipped:
            lines.append(
                f"{_frames(self.frames_skipped)} {'was' if self.frames_skipped == 1 else 'were'} not recorded: left "
                "out, so that zeros are read there."
            )
        if self.fps is not None and self.frames_appended:
            pace = "every frame was taken in time"
            if self.frames_late:
                were = "was" if self.frames_late == 1 else "were"
                pace = f"{_frames(self.frames_late)} {were} late, and a camera would have had to keep them"
            lines.append(
                f"At {self.fps:g} frames per second {pace}. The slowest append took {self.longest_append * 1e3:.1f} "
                f"ms; the buffer was full for {self.stalled_seconds:.2f} s."
            )
            if self.frames_awaited:
                lines.append(
                    f"{self.source} could not be read that fast: the clock was held for "
                    f"{_frames(self.frames_awaited)}, which makes this easier for the storage than a camera would."
                )
        if not self.complete:
            lines.append(
                f"The dataset holds {self.frames_done} of {_frames(self.frames_total)}, and says so. Resume to go on."
            )
        return "\n".join(lines)


def _frames(number: int) -> str:
    return f"{number} frame" if number == 1 else f"{number} frames"


def fill_of(stats: StreamStats) -> float:
    """Return the part of the buffer that is in use."""
    return stats.buffered_bytes / stats.buffer_bytes if stats.buffer_bytes else 0.0
