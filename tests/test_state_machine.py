"""A stream against a plain array, through faults, crashes, recovery and resumption in any order."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import threading
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
)

from ome_writers import _files, recover
from ome_writers._dataset import DatasetFolder
from ome_writers._documents import Completeness
from ome_writers.errors import FrameCountError, FrameError, StreamClosedError, WriteError
from ome_writers.settings import BufferSettings
from ome_writers.testing.datasets import Axes
from ome_writers.testing.files import FaultyFileSystem, FileFault
from test_faults import FRAME, Run, assert_valid, held_frames, numbers, settings_for, wrong_frames

SECONDS = 5.0  # what takes longer than that hangs

YX: Axes = {"y": (4, 2, 2), "x": (6,)}
GEOMETRIES: dict[str, Axes] = {
    "t": {"t": (20, 1, 4), **YX},
    "t in chunks of 3": {"t": (20, 3, 2), **YX},
    "t, unbounded": {"t": (None, 1, 3), **YX},
    "t, unbounded, in chunks of 3": {"t": (None, 3, 2), **YX},
    "t, unbounded, of files": {"t": (None,), "y": (4, 2), "x": (6,)},
    "t of files of 3": {"t": (20, 3), "y": (4, 2), "x": (6,)},
    "t and positions": {"t": (None, 1, 4), "p": (2,), "y": (4, 2, 1), "x": (6,)},
    "positions and t": {"p": (3,), "t": (5, 3, 2), **YX},
    "t, positions, c, in chunks": {"t": (None, 3, 2), "p": (2,), "c": (2,), **YX},
    "t and z, files": {"t": (6, 3), "z": (4,), "y": (4,), "x": (6,)},
}

MENU: dict[str, FileFault] = {
    "full disk": FileFault("write", errno.ENOSPC, after_bytes=200),
    "fuller disk": FileFault("write", errno.ENOSPC, "*/writing/*", after_bytes=60),
    "full quota": FileFault("write", errno.EDQUOT, "*/writing/*"),
    "a write": FileFault("write", errno.EIO, "*/writing/*", skip=1, times=1),
    "half a write": FileFault("write", errno.EIO, "*/writing/*", times=1, written=7),
    "a rename": FileFault("replace", errno.EIO, "*/c/*", times=1),
    "renames": FileFault("replace", errno.EIO, "*/c/*"),
    "opening": FileFault("open", errno.EMFILE, "*/writing/*", times=1),
    "a journal write": FileFault("write", errno.ENOSPC, "*/journal", times=1, written=9),
    "journal writes": FileFault("write", errno.ENOSPC, "*/journal"),
    "a write of fates": FileFault("write", errno.ENOSPC, "*/frames.txt", times=1),
    "writes of fates": FileFault("write", errno.ENOSPC, "*/frames.txt"),
    "a write of records": FileFault("write", errno.ENOSPC, "*/frames.jsonl", times=1, written=5),
    "writes of records": FileFault("write", errno.ENOSPC, "*/frames.jsonl"),
    "a document": FileFault("replace", errno.EIO, "*zarr.json", times=1),
    "the document of the root": FileFault("replace", errno.EIO, "*/a.ome.zarr/zarr.json", times=1),
    "documents": FileFault("write", errno.ENOSPC, "*zarr.json*"),
    "read-only": FileFault(("open", "write", "replace"), errno.EROFS),
}

BAD_FRAMES: list[Any] = [
    np.zeros((FRAME[0] + 1, FRAME[1]), np.uint16),
    np.zeros(FRAME, np.float32),
    np.full(FRAME, -1, np.int16),
    None,
]


class StreamMachine(RuleBasedStateMachine):
    """A dataset that is written by one stream after another.

    The model is what was appended, as arrays by number of frame, and what the errors have named.
    """

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="ome-writers-"))
        self.files = FaultyFileSystem()
        self.before = _files.system
        self.threads = set(threading.enumerate())
        _files.system = self.files
        self.run: Run | None = None
        self.failed = False  # whether any call of the file system of this stream has failed

    def teardown(self) -> None:
        """Close the stream, and check that nothing is left of it."""
        try:
            if self.run is not None and not self.run.stream.closed:
                self.close()
            assert set(threading.enumerate()) == self.threads, "threads are left"
            end = time.monotonic() + 1
            while (left := _open_below(self.folder)) and time.monotonic() < end:  # tensorstore closes a moment later
                time.sleep(0.005)
            assert not left, "files are left open"
        finally:
            _files.system = self.before
            shutil.rmtree(self.folder, ignore_errors=True)

    # ---- making a stream -------------------------------------------------------------------------------------------

    @initialize(
        name=st.sampled_from(list(GEOMETRIES)),
        workers=st.just(1),
        compression=st.sampled_from(["none", "zstd", "blosc-lz4"]),
    )
    def create(self, name: str, workers: int, compression: str) -> None:
        """Create a stream."""
        self.settings = settings_for(
            self.folder, GEOMETRIES[name], compression=compression, buffer=BufferSettings(workers=workers)
        )
        self.run = Run(self.settings)
        self.total = None if None in GEOMETRIES[name]["t"][:1] else _total(GEOMETRIES[name])

    @property
    def _run(self) -> Run:
        assert self.run is not None
        return self.run

    def is_open(self) -> bool:
        """Tell whether a stream is open."""
        return self.run is not None and not self.run.stream.closed

    def is_closed(self) -> bool:
        """Tell whether the last stream is closed."""
        return self.run is not None and self.run.stream.closed

    # ---- frames ----------------------------------------------------------------------------------------------------

    @precondition(is_open)
    @rule(count=st.integers(1, 7), metadata=st.booleans())
    def append(self, count: int, metadata: bool) -> None:
        """Append frames; too many are refused."""
        run, first = self._run, self._run.stream.next_frame
        start = time.monotonic()
        refused = run.stream._engine.failed  # after what flush says of records and growth, it goes on
        try:
            taken = run.append(count, metadata=metadata)
        except FrameCountError:
            assert self.total is not None
            assert first + count > self.total
            assert run.stream.next_frame == self.total
        else:
            assert not (refused and taken), "a stream that has failed takes frames"
        run.stream._engine._workers.wait()  # so that what happens can be repeated
        assert time.monotonic() - start < SECONDS

    @precondition(is_open)
    @rule(frame=st.sampled_from(range(len(BAD_FRAMES))))
    def append_bad(self, frame: int) -> None:
        """Append what is no frame; nothing changes."""
        number = self._run.stream.next_frame
        with pytest.raises((FrameError, FrameCountError, WriteError)):
            self._run.stream.append(BAD_FRAMES[frame])
        assert self._run.stream.next_frame == number

    @precondition(is_open)
    @rule(count=st.integers(1, 5))
    def skip(self, count: int) -> None:
        """Skip frames."""
        with suppress(FrameCountError):
            self._run.skip(count)
        self._run.stream._engine._workers.wait()

    @precondition(is_open)
    @rule()
    def flush(self) -> None:
        """Flush; after that, nothing is under way."""
        start = time.monotonic()
        self._run.flush()
        assert time.monotonic() - start < SECONDS

    # ---- faults ----------------------------------------------------------------------------------------------------

    @precondition(is_open)
    @rule(name=st.sampled_from(list(MENU)))
    def inject(self, name: str) -> None:
        """Have the file system fail from now on."""
        self.files.add(MENU[name])

    @rule()
    def repair(self) -> None:
        """Have the file system work again."""
        self.files.repair()

    # ---- the end ---------------------------------------------------------------------------------------------------

    @precondition(is_open)
    @rule()
    def close(self) -> None:
        """Close: all that is not named reads back."""
        run = self._run
        start = time.monotonic()
        well = run.close()
        assert time.monotonic() - start < SECONDS
        assert run.stream.closed
        self._compare(well=well and not run.errors)
        with pytest.raises(StreamClosedError):
            run.stream.append(BAD_FRAMES[0])

    def _compare(self, *, well: bool) -> None:
        """Compare what tensorstore reads with the model."""
        run = self._run
        assert_valid(run.path)
        lost = wrong_frames(run)
        assert lost <= run.named, f"frames {sorted(lost - run.named)} are lost, {sorted(run.named)} are named"
        if well:
            assert not lost
            held = held_frames(run.path, run.settings, max([*run.skipped, *run.taken], default=-1) + 1)
            for number in run.skipped:
                frame = held[number]
                assert frame is not None
                assert not frame.any(), f"frame {number} was skipped, and does not read as 0"

    @precondition(is_open)
    @rule(quiet=st.booleans())
    def crash(self, quiet: bool) -> None:
        """Copy the dataset while it is written, and recover the copy."""
        run = self._run
        if quiet:
            run.stream._engine._workers.wait()
        copy = self.folder / "copy" / "a.ome.zarr"
        _copy(run.path, copy)
        try:
            self._recover(copy, whole=quiet)
        finally:
            shutil.rmtree(copy.parent)

    @precondition(is_closed)
    @rule()
    def recover(self) -> None:
        """Recover the dataset of a stream that was closed, perhaps with errors."""
        self._recover(self._run.path, whole=True)

    def _recover(self, path: Path, *, whole: bool) -> None:
        """Recover, with what is injected failing, then without it; check the report."""
        run = self._run
        state = Completeness.read(DatasetFolder(path))
        with suppress(WriteError):
            recover(path)
        faults, self.files._faults = self.files._faults, []
        try:
            report = recover(path)
            again = recover(path)
        finally:
            self.files._faults = faults
        assert not again.needed
        assert (again.lost, again.frames_taken, again.frames_written) == (
            report.lost,
            report.frames_taken,
            report.frames_written,
        )
        assert_valid(path)
        lost, known = numbers(report.lost), range(report.frames_taken)
        if state is not None:
            assert report.frames_taken >= state.frames_taken
        if not self.files.failures and not run.errors:
            assert report.frames_taken <= run.stream.next_frame
            assert report.frames_taken == run.stream.next_frame or not whole
        wrong = {number for number in wrong_frames(run, path) if number in known}
        assert wrong == lost & run.taken.keys(), f"{sorted(wrong)} are lost, and {sorted(lost)} are reported"
        assert lost <= run.taken.keys()
        if run.stream.closed:
            assert wrong <= run.named
        assert report.frames_written == sum(number in known for number in run.taken) - len(lost)
        assert report.frames_skipped == sum(number in known for number in run.skipped)
        held = held_frames(path, run.settings, report.frames_taken)
        for number in lost | (run.skipped & set(known)):
            frame = held[number]
            assert frame is not None
            assert not frame.any(), f"frame {number} does not read as 0"

    @precondition(is_closed)
    @rule(workers=st.just(1))
    def resume(self, workers: int) -> None:
        """Go on with the dataset; frames from the first lost one on are appended anew."""
        earlier = self._run
        self.settings.buffer = BufferSettings(workers=workers)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that frames are to be appended again
            try:
                run = Run(self.settings, resume=True)
            except WriteError:
                return
        first = run.stream.next_frame
        assert first <= earlier.stream.next_frame
        lost = wrong_frames(earlier) | (earlier.named & set())
        assert not {number for number in lost if number < first}, f"resumed at {first} after {sorted(lost)} were lost"
        run.taken = {number: frame for number, frame in earlier.taken.items() if number < first}
        run.skipped = {number for number in earlier.skipped if number < first}
        run.generation = earlier.generation + 1
        self.files.failures.clear()
        self.run = run


def _total(axes: Axes) -> int:
    counts = [count[0] or 1 for name, count in axes.items() if name not in "yx"]
    return int(np.prod(counts))


def _copy(source: Path, target: Path) -> None:
    """Copy a folder whose files may get other names meanwhile."""
    for _ in range(100):
        shutil.rmtree(target.parent, ignore_errors=True)
        try:
            shutil.copytree(source, target)
        except (shutil.Error, FileNotFoundError):
            continue
        return
    raise AssertionError("it can't be copied")


def _open_below(folder: Path) -> list[str]:
    own = Path("/proc/self/fd")
    if not own.exists():
        return []
    names = []
    for entry in own.iterdir():
        with suppress(OSError):
            names.append(os.readlink(entry))  # noqa: PTH115  the name only
    return [name for name in names if name.startswith(f"{folder}/")]


StreamMachine.TestCase.settings = hypothesis.settings(
    max_examples=hypothesis.settings().max_examples, stateful_step_count=25, deadline=None
)
TestStream = pytest.mark.faults(pytest.mark.timeout(600)(StreamMachine.TestCase))
