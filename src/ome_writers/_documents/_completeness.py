"""How far a dataset is complete: what this package says of it in attributes of groups."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from ome_writers._dataset import DatasetFolder

from ._attributes import FRAME_METADATA, OURS, __version__, ours_of, set_ours

_COMPLETENESS: Final = "completeness"
_MOST_RANGES: Final = 10_000


@dataclass(frozen=True, slots=True)
class Completeness:
    """What a dataset holds of its acquisition; attribute ``ome_writers.completeness`` of the root group.

    Attributes
    ----------
    frames_expected : int, optional
        Frames that the settings declare; None when the acquisition is unbounded.
    frames_taken : int
        Frames that were appended or skipped.
    frames_written : int
        Frames that were appended and are on disk.
    frames_skipped : int
        Frames that were skipped.
    lost : tuple of range
        Frames that were appended and are not on disk.
    closed : bool
        Whether the stream was closed and everything was written.
    recovered : bool
        Whether the dataset was completed by recovery, after a stream that was not closed.
    first_frame : int
        Number of the first frame of the last stream; other than 0 if it has resumed the dataset.
    """

    frames_expected: int | None
    frames_taken: int = 0
    frames_written: int = 0
    frames_skipped: int = 0
    lost: tuple[range, ...] = ()
    closed: bool = False
    recovered: bool = False
    first_frame: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON; of lost frames, the first and last of each run, 10,000 runs at most."""
        return {
            "frames_expected": self.frames_expected,
            "frames_taken": self.frames_taken,
            "frames_written": self.frames_written,
            "frames_skipped": self.frames_skipped,
            "frames_lost": [[run.start, run[-1]] for run in self.lost[:_MOST_RANGES]],
            "closed": self.closed,
            "recovered": self.recovered,
            "first_frame": self.first_frame,
        }

    @classmethod
    def read(cls, folder: DatasetFolder) -> Self | None:
        """Return what the root group says; None when it says nothing that can be understood."""
        try:
            said = folder.attributes(".")[OURS][_COMPLETENESS]
            expected = said["frames_expected"]
            return cls(
                frames_expected=None if expected is None else int(expected),
                frames_taken=int(said["frames_taken"]),
                frames_written=int(said["frames_written"]),
                frames_skipped=int(said["frames_skipped"]),
                lost=tuple(range(int(first), int(last) + 1) for first, last in said["frames_lost"]),
                closed=bool(said["closed"]),
                recovered=bool(said["recovered"]),
                first_frame=int(said["first_frame"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError, OSError):  # any JSON may stand there
            return None

    def write(self, folder: DatasetFolder) -> None:
        """Write it to the root group."""
        set_ours(folder, ".", {_COMPLETENESS: self.as_dict()})


def with_statements_of(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Return new attributes of a group with what the old ones say of frames, which is not the caller's to change.

    They may have been read before the stream was closed, which writes the completeness and the metadata of frames.
    """
    said, given = ours_of(old), ours_of(new)
    statements = {_COMPLETENESS, *FRAME_METADATA}
    kept = {key: value for key, value in said.items() if key in statements}
    if not kept and not statements & given.keys():
        return dict(new)
    ours = {key: value for key, value in given.items() if key not in statements}
    if kept:
        ours |= {"version": __version__, **kept}
    return {**new, OURS: ours}
