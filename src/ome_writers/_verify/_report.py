"""What was found out about a dataset, as values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

ProgressCallback: TypeAlias = Callable[[int, int], object]
"""Is told how many bytes were read, of how many."""

MAX_LISTED: Final = 100
"""The most places in an array that are listed by name; all are counted."""

MAX_RANGES: Final = 10_000
"""The most ranges of frames that are listed; all frames are counted."""

_SHOWN: Final = 10  # of a list, in words


@dataclass(frozen=True, slots=True)
class CorruptChunk:
    """A chunk that can't be read, or a whole file.

    Attributes
    ----------
    file : str
        Path of its file below the dataset's root.
    chunk : tuple of int, optional
        Its place in the array's grid of chunks; None when all chunks of the file are meant.
    reason : str
        What is wrong with it.
    """

    file: str
    chunk: tuple[int, ...] | None
    reason: str

    def __str__(self) -> str:
        """Return where it is and what is wrong."""
        place = "" if self.chunk is None else f", chunk {'.'.join(map(str, self.chunk))}"
        return f"{self.file}{place}: {self.reason}"


@dataclass(frozen=True, slots=True)
class ArrayReport:
    """What was found in the files of an array.

    Attributes
    ----------
    path : str
        Path of the array below the dataset's root; ``""`` for the root itself.
    shape : tuple of int
        Its shape.
    chunks : int
        Chunks in its grid; each is written, missing, corrupt or unchecked.
    written : int
        Chunks that were decoded.
    missing : int
        Chunks that are not there; readers take the fill value for them.
    corrupt : int
        Chunks that can't be read.
    unchecked : int
        Chunks that are there and can't be decoded, since their codec or data type is not known here.
    corrupt_chunks : tuple of CorruptChunk
        The corrupt ones, the first 100.
    unexpected : int
        Files in the array's folder that are no chunks of it; readers do not see them.
    unexpected_files : tuple of str
        Their paths below the dataset's root, the first 100.
    """

    path: str
    shape: tuple[int, ...]
    chunks: int
    written: int
    missing: int
    corrupt: int
    unchecked: int
    corrupt_chunks: tuple[CorruptChunk, ...]
    unexpected: int
    unexpected_files: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {
            "path": self.path,
            "shape": list(self.shape),
            "chunks": self.chunks,
            "written": self.written,
            "missing": self.missing,
            "corrupt": self.corrupt,
            "unchecked": self.unchecked,
            "corrupt_chunks": [
                {"file": c.file, "chunk": None if c.chunk is None else list(c.chunk), "reason": c.reason}
                for c in self.corrupt_chunks
            ],
            "unexpected": self.unexpected,
            "unexpected_files": list(self.unexpected_files),
        }

    def lines(self) -> list[str]:
        """Return the findings in words."""
        counts = {"missing": self.missing, "corrupt": self.corrupt, "unchecked": self.unchecked}
        found = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
        size = " x ".join(map(str, self.shape)) or "one value"
        head = f"array {self.path or '.'} ({size}): {self.written:,} of {self.chunks:,} chunks written"
        lines = [f"{head}, {found}" if found else head]
        lines += [f"  corrupt: {line}" for line in _shown(self.corrupt_chunks, self.corrupt)]
        lines += [f"  not part of the array: {line}" for line in _shown(self.unexpected_files, self.unexpected)]
        return lines


@dataclass(frozen=True, slots=True)
class Frames:
    """Frames of an acquisition, by their numbers in acquisition order.

    Attributes
    ----------
    count : int
        How many they are.
    ranges : tuple of range
        Which they are, ascending; the first 10,000 ranges.
    """

    count: int
    ranges: tuple[range, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON object; each range as its first and last frame."""
        return {"count": self.count, "ranges": [[r.start, r.stop - 1] for r in self.ranges]}

    def __str__(self) -> str:
        """Return count and ranges in words."""
        names = [str(r.start) if len(r) == 1 else f"{r.start}-{r.stop - 1}" for r in self.ranges[:_SHOWN]]
        more = ", ..." if len(self.ranges) > _SHOWN else ""
        return f"{self.count:,} ({', '.join(names)}{more})" if names else f"{self.count:,}"


@dataclass(frozen=True, slots=True)
class FrameReport:
    """What became of each frame of an acquisition.

    Attributes
    ----------
    expected : int, optional
        Frames that the acquisition was to have; None when it is unbounded.
    taken : int
        Frames that were appended or skipped; each is written, skipped, missing, corrupt or unchecked.
    written : int
        Frames all chunks of which were decoded.
    skipped : Frames
        Frames that were skipped on purpose.
    missing : Frames
        Frames that were appended and are not in the arrays.
    corrupt : Frames
        Frames with a chunk that can't be read.
    unchecked : Frames
        Frames with a chunk whose codec or data type is not known here.
    """

    expected: int | None
    taken: int
    written: int
    skipped: Frames
    missing: Frames
    corrupt: Frames
    unchecked: Frames

    @property
    def not_acquired(self) -> int | None:
        """Frames that the acquisition was to have and that were neither appended nor skipped."""
        return None if self.expected is None else max(0, self.expected - self.taken)

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {
            "expected": self.expected,
            "taken": self.taken,
            "not_acquired": self.not_acquired,
            "written": self.written,
            "skipped": self.skipped.as_dict(),
            "missing": self.missing.as_dict(),
            "corrupt": self.corrupt.as_dict(),
            "unchecked": self.unchecked.as_dict(),
        }

    def lines(self) -> list[str]:
        """Return the findings in words."""
        expected = "" if self.expected is None else f" of {self.expected:,}"
        lines = [f"frames: {self.written:,} written; {self.taken:,}{expected} were appended or skipped"]
        kinds = {
            "skipped": self.skipped,
            "missing": self.missing,
            "corrupt": self.corrupt,
            "unchecked": self.unchecked,
        }
        lines += [f"  {name}: {frames}" for name, frames in kinds.items() if frames.count]
        if self.not_acquired:
            lines.append(f"  not acquired: {self.not_acquired:,}")
        return lines


@dataclass(frozen=True, slots=True)
class VerificationReport:
    """The result of verifying a dataset.

    Attributes
    ----------
    path : str
        The dataset.
    ok : bool
        Whether nothing is wrong: no chunk is corrupt, no frame missing or corrupt, and there are no problems.
    arrays : tuple of ArrayReport
        What was found in each array.
    frames : FrameReport, optional
        What was found for each frame; None for a dataset that says nothing about its acquisition.
    problems : tuple of str
        What is wrong with the dataset's metadata.
    notes : tuple of str
        What is worth knowing and not wrong.
    """

    path: str
    ok: bool
    arrays: tuple[ArrayReport, ...]
    frames: FrameReport | None
    problems: tuple[str, ...]
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {
            "path": self.path,
            "ok": self.ok,
            "arrays": [array.as_dict() for array in self.arrays],
            "frames": None if self.frames is None else self.frames.as_dict(),
            "problems": list(self.problems),
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        """Return the findings in words, several lines."""
        lines = [f"{self.path}: {'nothing is wrong' if self.ok else 'something is wrong'}"]
        if self.frames is not None:
            lines += self.frames.lines()
        # arrays with findings first: a plate has thousands without
        wrong = [array for array in self.arrays if array.corrupt]
        fine = [array for array in self.arrays if not array.corrupt]
        arrays = wrong + fine
        for array in arrays[: max(_SHOWN, len(wrong))]:
            lines += array.lines()
        if (more := len(arrays) - max(_SHOWN, len(wrong))) > 0:
            written = sum(array.written for array in arrays[-more:])
            lines.append(f"and {more:,} more arrays with {written:,} chunks written, none corrupt")
        lines += [f"problem: {problem}" for problem in _shown(self.problems)]
        lines += [f"note: {note}" for note in _shown(self.notes)]
        return "\n".join(lines)


def _shown(values: Sequence[object], count: int | None = None) -> list[str]:
    """Return the first values as text, and how many more there are."""
    shown = [str(value) for value in values[:_SHOWN]]
    more = (len(values) if count is None else count) - len(shown)
    return [*shown, f"and {more:,} more"] if more > 0 else shown
