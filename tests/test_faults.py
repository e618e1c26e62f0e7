"""Every fault of storage and process: the caller learns of it in time, lost frames are named, all others read back."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import hypothesis
import numpy as np
import numpy.typing as npt
import pytest

from ome_writers import OMEStream, _begin, _running, create_stream, recover
from ome_writers._dataset import DatasetFolder
from ome_writers._documents import Completeness
from ome_writers._layout import Layout, plan_layout
from ome_writers._router import Router
from ome_writers.abc import Block
from ome_writers.backends._decoding import ChunkDecoder, read_index
from ome_writers.backends._shards import WRITING_FOLDER
from ome_writers.backends.direct import DirectSink
from ome_writers.engine import RECORDS_FILE
from ome_writers.errors import DatasetInUseError, OMEWritersError, StreamClosedError, WriteError
from ome_writers.settings import AcquisitionSettings, BufferSettings
from ome_writers.testing.datasets import READERS, Axes, acquisition, random_pixels
from ome_writers.testing.files import ALL_CALLS, FileFault, faulty_files
from test_last_faults import Interruption

pytestmark = [pytest.mark.faults, pytest.mark.timeout(20)]

Pixels = npt.NDArray[Any]
FRAME = (4, 6)
YX: Axes = {"y": (4, 2, 2), "x": (6,)}
GEOMETRIES: dict[str, Axes] = {
    "shards": {"t": (9, 1, 4), **YX},
    "several shards a frame": {"t": (None, 1, 3), "p": (2,), "y": (4, 2, 1), "x": (6,)},
    "chunks of 3": {"t": (None, 3, 2), **YX},
    "files": {"t": (9,), "y": (4, 2), "x": (6,)},
    "files of 3": {"t": (None, 3), "p": (2,), "y": (4,), "x": (6,)},
}
POSIX = pytest.mark.skipif(os.name != "posix", reason="a call of POSIX systems")
LINUX_ROOT = pytest.mark.skipif(
    not sys.platform.startswith("linux") or os.geteuid() != 0, reason="only root mounts file systems, on Linux"
)


@pytest.fixture(autouse=True)
def _streams_are_closed() -> Iterator[None]:
    """Close what a test that failed has left open, so that it fails alone."""
    yield
    for stream in _running.streams():
        with suppress(Exception):
            stream.close()


def settings_for(path: Path, axes: Axes, **fields: Any) -> AcquisitionSettings:
    """Return settings of a dataset in a folder."""
    settings = acquisition(axes, compression=fields.pop("compression", "none"))
    settings.root_path = str(path / "a.ome.zarr")
    settings.format = fields.pop("backend", "direct")
    for name, value in fields.items():
        setattr(settings, name, value)
    return settings


class Run:
    """A stream, and what its caller knows of it.

    Attributes
    ----------
    taken : dict of int to ndarray
        The frames that were appended, by number.
    named : set of int
        Frames that errors have named, the last error only.
    errors : list of WriteError
        What was raised.
    skipped : set of int
        The frames that were skipped.
    generation : int
        Frames of another generation have other pixels.
    """

    def __init__(self, settings: AcquisitionSettings, *, resume: bool = False) -> None:
        self.settings = settings
        self.generation = 0
        self.taken: dict[int, Pixels] = {}
        self.skipped: set[int] = set()
        self.named: set[int] = set()
        self.errors: list[OMEWritersError] = []
        self.stream = create_stream(settings, resume=resume)

    @property
    def path(self) -> Path:
        """The dataset's folder."""
        return self.stream.path

    def append(self, count: int = 1, *, metadata: bool = False) -> bool:
        """Append frames until an error; return whether all were taken."""
        for _ in range(count):
            number = self.stream.next_frame
            frame = random_pixels(FRAME, "uint16", seed=number + 1000 * self.generation)
            try:
                self.stream.append(frame, frame_metadata={"delta_t": float(number)} if metadata else None)
            except WriteError as error:
                self._take(error)
                return False
            finally:
                if self.stream.next_frame > number:
                    self.taken[number] = frame
        return True

    def skip(self, count: int = 1) -> bool:
        """Skip frames; return whether that was possible."""
        first = self.stream.next_frame
        try:
            self.stream.skip(frames=count)
        except WriteError as error:
            self._take(error)
            return False
        finally:
            self.skipped |= set(range(first, self.stream.next_frame))
        return True

    def flush(self) -> bool:
        """Flush; return whether that was possible."""
        try:
            self.stream.flush()
        except WriteError as error:
            self._take(error)
            return False
        return True

    def close(self) -> bool:
        """Close; return whether all was well."""
        try:
            self.stream.close()
        except WriteError as error:
            self._take(error)
            return False
        finally:
            assert self.stream.closed
        return True

    def _take(self, error: WriteError) -> None:
        self.errors.append(error)
        self.named = numbers(error.frames)


def thorough() -> bool:
    """Tell whether the long profile of hypothesis is chosen."""
    return hypothesis.settings().max_examples > 100


def numbers(frames: Iterable[range]) -> set[int]:
    """Return the numbers of frames that an error names."""
    return set(itertools.chain.from_iterable(frames))


def layout_of(settings: AcquisitionSettings) -> Layout:
    """Return where frames lie."""
    return plan_layout(settings)


def held_frames(path: Path, settings: AcquisitionSettings, count: int) -> dict[int, Pixels | None]:
    """Return what tensorstore reads of the first frames; None for one outside of the shape on disk."""
    layout = layout_of(settings)
    arrays = [READERS["tensorstore"](path / image.array_path) for image in layout.images]
    router = Router(layout.axes)
    held: dict[int, Pixels | None] = {}
    for number in range(count):
        array, index = router.locate(number)
        inside = all(i < n for i, n in zip(index, arrays[array].shape, strict=False))
        held[number] = arrays[array][index] if inside else None
    return held


def wrong_frames(run: Run, path: Path | None = None) -> set[int]:
    """Return the frames that were appended and do not read back bit by bit."""
    held = held_frames(path or run.path, run.settings, max(run.taken, default=-1) + 1)
    return {
        number
        for number, frame in run.taken.items()
        if (there := held[number]) is None or there.tobytes() != frame.tobytes()
    }


def assert_valid(path: Path) -> None:
    """Check that every document parses, and that every shard under its final name has an index."""
    for file in path.rglob("zarr.json"):
        document = json.loads(file.read_text())
        if document["node_type"] != "array":
            continue
        decoder = ChunkDecoder(document)
        for chunk in (file.parent / "c").rglob("*"):
            if chunk.is_file() and decoder.sharded:
                with chunk.open("rb") as opened:
                    read_index(opened, decoder)


def assert_kept(run: Run) -> None:
    """Check the promise after close: what is not named reads back, and all files under final names are valid."""
    assert_valid(run.path)
    silent = wrong_frames(run) - run.named
    assert not silent, f"frames {sorted(silent)} are lost, and {sorted(run.named)} are named"


def assert_recovered(run: Run, path: Path | None = None) -> None:
    """Check that recovery completes what can be completed and names what is lost.

    Of frames that could not be noted on disk any more, only the caller can know; all of them were named.
    """
    path = path or run.path
    state = Completeness.read(DatasetFolder(path))
    report = recover(path)
    assert state is not None
    assert report.frames_taken >= state.frames_taken, "recovery knows of fewer frames than the dataset says"
    assert_valid(path)
    lost = numbers(report.lost)
    wrong = wrong_frames(run, path)
    known = {number for number in wrong if number < report.frames_taken}
    assert lost == known, f"recovery says that {sorted(lost)} are lost, and {sorted(wrong)} are"
    assert wrong <= run.named, f"recovery has lost {sorted(wrong - run.named)}"
    assert report.frames_written == sum(number < report.frames_taken for number in run.taken) - len(lost)
    held = held_frames(path, run.settings, report.frames_taken)
    for number in lost:
        frame = held[number]
        assert frame is None or not frame.any(), f"frame {number} is lost, and does not read as 0"
    assert not recover(path).needed


def threads() -> set[threading.Thread]:
    """Return the threads that run."""
    return set(threading.enumerate())


def wait_for(condition: Callable[[], Any]) -> None:
    """Wait until something is so, for five seconds at most."""
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.001)


# ---- the file layer ------------------------------------------------------------------------------------------------

READ_ONLY = FileFault(("open", "write", "replace"), errno.EROFS)
FAULTS: dict[str, FileFault] = {
    "full disk": FileFault("write", errno.ENOSPC, "*/a.ome.zarr/ome_writers/*", after_bytes=300),
    "full quota": FileFault("write", errno.EDQUOT, "*/writing/*", after_bytes=100),
    "file too large": FileFault("write", errno.EFBIG, "*/writing/*", skip=4),
    "one write": FileFault("write", errno.EIO, "*/writing/*", skip=3, times=1),
    "half a write": FileFault("write", errno.EIO, "*/writing/*", skip=3, written=5),
    "half a write, once": FileFault("write", errno.EIO, "*/writing/*", skip=3, times=1, written=5),
    "one rename": FileFault("replace", errno.EIO, "*/c/*", skip=1, times=1),
    "renames": FileFault("replace", errno.EIO, "*/c/*"),
    "opening": FileFault("open", errno.EMFILE, "*/writing/*", skip=1),
    "one opening": FileFault("open", errno.EMFILE, "*/writing/*", skip=1, times=1),
    "vanishing files": FileFault(("open", "replace"), errno.ENOENT, "*/writing/*", skip=1),
    "journal": FileFault("write", errno.ENOSPC, "*/journal", skip=2),
    "half a record of the journal": FileFault("write", errno.ENOSPC, "*/journal", skip=2, times=1, written=20),
    "records": FileFault("write", errno.ENOSPC, "*/frames.jsonl", skip=2),
    "half a record, once": FileFault("write", errno.ENOSPC, "*/frames.jsonl", skip=2, times=1, written=7),
    "fates": FileFault("write", errno.ENOSPC, "*/frames.txt", skip=2),
    "fates, once": FileFault("write", errno.ENOSPC, "*/frames.txt", skip=2, times=1),
    "documents": FileFault("replace", errno.EIO, "*zarr.json"),
    "documents of arrays": FileFault("write", errno.ENOSPC, "*/0/.zarr.json*"),
    "the last document": FileFault("replace", errno.EIO, "*/a.ome.zarr/zarr.json"),
    "read-only": FileFault(("open", "write", "replace"), errno.EROFS, "*", skip=25),
}


@pytest.mark.parametrize("workers", [1, 2] if thorough() else [2])
@pytest.mark.parametrize("axes", GEOMETRIES.values(), ids=GEOMETRIES)
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_storage_that_fails(tmp_path: Path, fault: FileFault, axes: Axes, workers: int) -> None:
    """Whatever fails while frames are written: the next append or close says so and names the frames that are lost."""
    before = threads()
    run = Run(settings_for(tmp_path, axes, buffer=BufferSettings(workers=workers)))
    with faulty_files(fault):
        for number in range(9):
            if not (run.skip() if number == 5 else run.append(metadata=True)):
                break
        well = run.close()
        assert run.errors or well
    assert threads() == before
    assert_kept(run)
    if not run.errors:  # it was tried again
        assert not wrong_frames(run)
    run.stream.close()
    assert_recovered(run)


@pytest.mark.parametrize("axes", GEOMETRIES.values(), ids=GEOMETRIES)
@pytest.mark.parametrize("name", ["full disk", "full quota", "opening", "journal", "records", "half a write"])
def test_the_next_append_raises(tmp_path: Path, name: str, axes: Axes) -> None:
    """When a frame could not be written, the next append raises, with its number."""
    if name == "journal" and axes["t"][2:] == ():
        pytest.skip("files of one chunk have no journal")
    run = Run(settings_for(tmp_path, axes, buffer=BufferSettings(workers=1)))
    with faulty_files(FAULTS[name]) as files:
        for _ in range(9):
            assert not run.errors
            if files.failures:
                assert not run.append(metadata=True)
                assert "Frames not on disk" in str(run.errors[0])
                assert run.named
                break
            if not run.append(metadata=True):
                break
            run.stream._engine._workers.wait()
        assert not run.close()
        assert run.errors
    assert_kept(run)


@pytest.mark.parametrize("durability", ["process", "system"])
@pytest.mark.parametrize("times", [1, None], ids=["once", "from then on"])
@pytest.mark.parametrize("axes", GEOMETRIES.values(), ids=GEOMETRIES)
def test_any_call_fails(tmp_path: Path, axes: Axes, times: int | None, durability: str) -> None:
    """Whichever call of the file system fails, from the first one of create_stream to the last one of close."""
    faults = []
    for skip in itertools.count(step=1 if thorough() else 7):
        folder = tmp_path / str(skip)
        with faulty_files(FileFault(ALL_CALLS, errno.EIO, skip=skip, times=times)) as files:
            try:
                run = Run(settings_for(folder, axes, durability=durability, buffer=BufferSettings(workers=1)))
            except WriteError:
                assert not (folder / "a.ome.zarr").exists()
                continue
            whole = run.append(4, metadata=True) and run.flush() and run.skip() and run.append(3, metadata=True)
            run.close()
            if not files.failures:
                break
            failed = files.failures[0]
        try:
            assert_kept(run)
            assert run.errors or not wrong_frames(run)
            assert_recovered(run)
        except AssertionError as error:
            faults.append(f"call {skip} ({failed[0]} {failed[1].relative_to(folder)}): {str(error).splitlines()[0]}")
        shutil.rmtree(folder)
    assert whole
    assert not faults, "\n".join(faults)


def test_skipped_frames_are_not_named(tmp_path: Path) -> None:
    """An error names frames that were appended, not those that were skipped beside them, and the dataset counts so."""
    run = Run(settings_for(tmp_path, GEOMETRIES["chunks of 3"]))
    run.append(2)
    run.skip()
    run.append(4)
    with faulty_files(FileFault("replace", errno.EIO, "*/c/*")):
        run.close()
    assert run.named == run.taken.keys()
    state = Completeness.read(DatasetFolder(run.path))
    assert state is not None
    assert (state.frames_written, state.frames_skipped) == (0, 1)


@pytest.mark.parametrize("axes", GEOMETRIES.values(), ids=GEOMETRIES)
def test_a_disk_with_room_again_before_close(tmp_path: Path, axes: Axes) -> None:
    """When the disk has room again at close, all that can be completed is, and the dataset knows what is lost."""
    run = Run(settings_for(tmp_path, axes))
    with faulty_files(FileFault("write", errno.ENOSPC, after_bytes=300)) as files:
        while run.append(metadata=True) and run.stream.next_frame < 9:
            run.stream._engine._workers.wait()
        assert files.failures
        files.repair()
        run.close()
    assert_kept(run)
    state = Completeness.read(DatasetFolder(run.path))
    assert state is not None
    assert not state.closed
    assert numbers(state.lost) == run.named
    assert state.frames_taken == len(run.taken)
    assert_recovered(run)


@pytest.mark.parametrize("axes", GEOMETRIES.values(), ids=GEOMETRIES)
@pytest.mark.parametrize("count", [7, 8])
def test_the_last_document_fails(tmp_path: Path, axes: Axes, count: int) -> None:
    """A dataset that lacks only the word that it is complete has all of its frames, also after recovery."""
    run = Run(settings_for(tmp_path, axes))
    run.append(count)
    with faulty_files(FileFault("replace", errno.EIO, "*/a.ome.zarr/zarr.json")):
        assert not run.close()
    assert not run.named
    assert not wrong_frames(run)
    report = recover(run.path)
    assert report.frames_taken == count
    assert not report.lost
    assert not wrong_frames(run)


def test_a_shard_that_could_not_be_synced_is_lost(tmp_path: Path) -> None:
    """After a sync that has failed nobody knows what is on the medium, whatever the next one says: all are named."""
    run = Run(settings_for(tmp_path, GEOMETRIES["shards"], durability="system", buffer=BufferSettings(workers=1)))
    with faulty_files(FileFault("sync", errno.EIO, "*/writing/*", times=1)) as files:
        run.append(4)
        run.stream._engine._workers.wait()
        assert files.failures
        run.close()
    assert run.errors
    assert run.named == {0, 1, 2, 3}


@pytest.mark.parametrize("durability", ["process", "system"])
def test_attributes_that_cannot_be_written(tmp_path: Path, durability: str) -> None:
    """Metadata that can't be written is an error of this package, also an OSError, and nothing of it stays."""
    run = Run(settings_for(tmp_path, GEOMETRIES["shards"], durability=durability))
    before = run.stream.get_metadata()
    with faulty_files(FileFault("write", errno.ENOSPC, "*.zarr.json.*", times=1)), pytest.raises(WriteError):
        run.stream.set_global_metadata("of_mine", {"a": 1})
    with faulty_files(FileFault("replace", errno.EIO, "*zarr.json", times=1)), pytest.raises(WriteError):
        run.stream.update_metadata({".": {"a": 1}})
    assert run.stream.get_metadata() == before
    run.append(9)
    assert run.close()
    assert not list(run.path.rglob("*.partial"))


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("durability", ["process", "system"])
def test_create_stream_that_fails_leaves_nothing(tmp_path: Path, overwrite: bool, durability: str) -> None:
    """Whichever call fails while a dataset is made: a WriteError, and what stood there stands there again."""
    axes = GEOMETRIES["several shards a frame"]
    first = Run(settings_for(tmp_path, axes))
    first.append(9)
    first.close()
    if not overwrite:
        shutil.rmtree(first.path)
    before = sorted(tmp_path.rglob("*"))
    for skip in itertools.count():
        with faulty_files(FileFault(ALL_CALLS, errno.ENOSPC, skip=skip)) as files:
            running = threads()
            try:
                stream = create_stream(settings_for(tmp_path, axes, overwrite=overwrite, durability=durability))
            except WriteError:
                assert files.failures
                assert sorted(tmp_path.rglob("*")) == before
                assert not wrong_frames(first) if overwrite else True
                assert threads() == running
                continue
        stream.close()
        break
    assert skip > 10


@pytest.mark.parametrize("axes", GEOMETRIES.values(), ids=GEOMETRIES)
def test_resume_that_fails_can_be_done_again(tmp_path: Path, axes: Axes) -> None:
    """Whichever call fails while a stream resumes: a WriteError, no thread stays, and the next try goes on."""
    stored = (axes["t"][1:] or (1,))[0] or 1  # frames of a chunk
    run = Run(settings_for(tmp_path / "a", axes))
    run.append(4)
    run.stream.flush()
    crashed = tmp_path / "crashed" / "a.ome.zarr"
    shutil.copytree(run.path, crashed)
    run.close()
    for skip in itertools.count():
        folder = tmp_path / str(skip)
        shutil.copytree(crashed.parent, folder)
        running = threads()
        with faulty_files(FileFault(ALL_CALLS, errno.ENOSPC, skip=skip, times=1)) as files, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that frames are to be appended again
            try:
                stream = create_stream(settings_for(folder, axes), resume=True)
            except WriteError as error:
                kept = error  # and with it all that its traceback refers to, as in a notebook
            else:
                assert not files.failures
                files.repair()
                stream.close()
                break
        assert threads() == running, files.failures
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            again = create_stream(settings_for(folder, axes), resume=True)
        assert again.next_frame == 4 - 4 % (2 * stored if "p" in axes else stored)
        again.close()
        del kept
    assert skip > 1


# ---- folders -------------------------------------------------------------------------------------------------------

GONE = ["dataset", "parent", "temporary files"]


@pytest.mark.parametrize("axes", GEOMETRIES.values(), ids=GEOMETRIES)
@pytest.mark.parametrize("gone", GONE)
@pytest.mark.parametrize("after", [0, 4])
def test_a_folder_that_vanishes(
    tmp_path: Path, gone: str, axes: Axes, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the dataset is deleted while it is written, the caller learns it, and close ends and names all frames."""
    monkeypatch.setattr("ome_writers.engine._upkeep._GROWTH_SECONDS", 0.0)
    before = threads()
    run = Run(settings_for(tmp_path / "parent", axes))
    run.append(after, metadata=True)
    run.flush()
    shutil.rmtree({"dataset": run.path, "parent": run.path.parent, "temporary files": run.path / WRITING_FOLDER}[gone])
    time.sleep(0.3 if after else 0)  # writers without work look around
    while len(run.taken) < 9 and run.append(metadata=True):
        pass
    assert not run.close()
    assert threads() == before
    if gone == "temporary files":
        assert_kept(run)
    else:
        assert run.named == run.taken.keys()


@LINUX_ROOT
@pytest.mark.parametrize("backend", ["direct", "tensorstore", "zarr-python"])
@pytest.mark.parametrize("axes", [GEOMETRIES["shards"], GEOMETRIES["files of 3"]], ids=["shards", "files of 3"])
def test_a_disk_that_is_full(tmp_path: Path, backend: str, axes: Axes) -> None:
    """A disk that is full, and has room again later: what is not named reads back, before recovery and after it."""
    with mounted(tmp_path / "disk", "size=512k") as disk:
        run = Run(settings_for(disk, {**axes, "t": (None, *axes["t"][1:])}, backend=backend))
        filler = disk / "filler"
        filler.write_bytes(bytes(200_000))
        if not run.append(6, metadata=True) or not run.flush():
            pytest.fail("it is full before it should be")
        with suppress(OSError), filler.open("ab", buffering=0) as file:
            while file.write(bytes(512)):
                pass
        while run.stream.next_frame < 4000 and run.append(metadata=True):
            pass
        if not run.errors:  # the caller was faster than the writers all the time
            run.flush()
        assert run.errors
        assert not run.close()
        assert "No space left" in str(run.errors[0]) or "ENOSPC" in str(run.errors[0]) or backend != "direct"
        assert_kept(run)
        filler.unlink()
        if backend == "direct":
            assert_recovered(run)


@LINUX_ROOT
def test_a_read_only_medium(tmp_path: Path) -> None:
    """On a medium that can't be written to, nothing is changed, and each function raises an error of this package."""
    axes = GEOMETRIES["shards"]
    with mounted(tmp_path / "disk", "size=512k") as disk:
        run = Run(settings_for(disk, axes))
        run.append(5)
        run.flush()
        shutil.copytree(run.path, disk / "crashed" / "a.ome.zarr")
        run.close()
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)  # noqa: S607
        before = sorted(disk.rglob("*"))
        for folder in (disk, disk / "crashed"):
            with pytest.raises(WriteError):
                create_stream(settings_for(folder, axes, overwrite=True))
            with pytest.raises(WriteError):
                create_stream(settings_for(folder, axes), resume=True)
        with pytest.raises(WriteError):
            create_stream(settings_for(disk / "new", axes))
        with pytest.raises(WriteError):
            recover(disk / "crashed" / "a.ome.zarr")
        assert not wrong_frames(run)
        assert sorted(disk.rglob("*")) == before
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)  # noqa: S607
        assert_recovered(run, disk / "crashed" / "a.ome.zarr")


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """Mount a file system in memory on a folder; skip the test where that is not allowed."""
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False)  # noqa: S607
    if done.returncode:
        pytest.skip(f"a file system can't be mounted: {done.stderr.decode()}")
    try:
        yield folder
    finally:
        for stream in _running.streams():
            with suppress(Exception):
                stream.close()
        subprocess.run(["umount", "-l", folder], check=True)  # noqa: S607


# ---- limits of a process -------------------------------------------------------------------------------------------

CHILD = """
import json, resource, signal, sys, threading
import numpy as np
from pathlib import Path
from ome_writers import create_stream
from ome_writers.errors import WriteError
from ome_writers.settings import AcquisitionSettings

def frame(number):
    return np.full((64, 64), number + 1, np.uint16)

settings = AcquisitionSettings.model_validate_json(sys.argv[1])
"""

LIMITED = """
stream = create_stream(settings)
{limit}
raised, taken, named = [], 0, []
for number in range(60):
    try:
        stream.append(frame(number), frame_metadata={{"n": number}})
    except WriteError as error:
        raised.append(str(error))
        break
try:
    stream.close()
except WriteError as error:
    raised.append(str(error))
    named = [number for run in error.frames for number in run]
assert stream.closed
assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("ome-writers")]
try:
    stream.close()
except WriteError:
    raised.append("again")
print(json.dumps([raised, stream.next_frame, named]))
"""


def run_child(code: str, settings: AcquisitionSettings, seconds: float = 15) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", CHILD + code, settings.model_dump_json()],
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


LIMITS = {
    "file size": "resource.setrlimit(resource.RLIMIT_FSIZE, (150_000,) * 2); "
    "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)",
    "open files": "n = max(map(int, __import__('os').listdir('/proc/self/fd'))); "
    "resource.setrlimit(resource.RLIMIT_NOFILE, (n + {more}, n + {more}))",
}


@POSIX
@pytest.mark.parametrize("limit", ["file size", "open files 0", "open files 2", "open files 4"])
@pytest.mark.parametrize("backend", ["direct", "tensorstore", "zarr-python"])
def test_limits_of_a_process(tmp_path: Path, limit: str, backend: str) -> None:
    """A quota of bytes, or of open files: the process ends in time, and what it does not name reads back."""
    if backend != "direct" and limit != "file size":
        pytest.skip("one backend is enough")
    axes: Axes = {"t": (None, 1, 40), "y": (64, 32, 1), "x": (64,)}
    settings = settings_for(tmp_path, axes, backend=backend, compression="none")
    name, _, more = limit.rpartition(" ")
    code = LIMITS.get(limit) or LIMITS[name].format(more=more)
    ended = run_child(LIMITED.format(limit=code), settings)
    assert ended.returncode == 0, ended.stderr
    raised, taken, named = json.loads(ended.stdout)
    assert "again" not in raised
    assert raised or limit != "file size"
    held = held_frames(Path(settings.output_path), settings, taken)
    wrong = {number for number, frame in held.items() if frame is None or not (frame == number + 1).all()}
    assert wrong <= set(named)
    assert not wrong or raised
    assert_valid(Path(settings.output_path))
    if backend == "direct":
        report = recover(settings.output_path)
        assert numbers(report.lost) <= set(named)


# ---- writers that raise --------------------------------------------------------------------------------------------


class OddError(Exception):
    """An error that nobody expects."""


class OddBaseError(BaseException):
    """An error that is none of the exceptions of a program."""


class FailingSink(DirectSink):
    """Raises once, in a method."""

    method: ClassVar[str]
    error: ClassVar[type[BaseException]]
    left: ClassVar[int]

    def _fail(self, method: str) -> None:
        if method == self.method:
            type(self).left -= 1
            if type(self).left == 0:
                raise self.error("of the sink")

    def write_chunks(self, array: int, cell: tuple[int, ...], first_row: int, chunks: Block) -> None:
        """Write rows of chunks, or fail."""
        self._fail("write_chunks")
        super().write_chunks(array, cell, first_row, chunks)

    def write_layers(self, array: int, cells: Any, layers: Any) -> None:
        """Write layers, or fail."""
        self._fail("write_layers")
        super().write_layers(array, cells, layers)

    def skip_layer(self, array: int, cell: tuple[int, ...]) -> None:
        """Skip a layer, or fail."""
        self._fail("skip_layer")
        super().skip_layer(array, cell)

    def readable_extent(self, array: int) -> int | None:
        """Return the extent, or fail."""
        self._fail("readable_extent")
        return super().readable_extent(array)

    def sync(self) -> None:
        """Sync, or fail."""
        self._fail("sync")
        super().sync()

    def close(self) -> None:
        """Close it, or fail then."""
        super().close()
        self._fail("close")


METHODS = ["write_chunks", "write_layers", "skip_layer", "readable_extent", "sync", "close"]
ERRORS = [OddError, OddBaseError, KeyError, MemoryError, OSError, SystemExit, KeyboardInterrupt, GeneratorExit]


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("method", METHODS)
def test_a_writer_that_raises(
    tmp_path: Path, method: str, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a sink raises in a writer's thread: the caller gets it, close ends, and no frame is lost silently."""
    monkeypatch.setattr(_begin, "load_backend", lambda name: FailingSink)
    monkeypatch.setattr("ome_writers.engine._upkeep._SYNC_SECONDS", 0.0)
    FailingSink.method, FailingSink.error, FailingSink.left = method, error, 1
    axes = GEOMETRIES["several shards a frame" if method == "write_chunks" else "chunks of 3"]
    before = threads()
    run = Run(settings_for(tmp_path, axes, durability="system", buffer=BufferSettings(workers=2)))
    with suppress(error if not issubclass(error, Exception) else OddError):
        run.append(4)
        run.skip()
        run.append(4)
        run.skip(6)
        run.flush()
    with suppress(error if method == "close" else OddError):
        run.close()
    assert FailingSink.left <= 0
    assert run.stream.closed
    assert threads() == before
    assert run.errors or not issubclass(error, Exception) or method == "write_layers"
    assert_kept(run)
    assert run.close()


# ---- Ctrl-C --------------------------------------------------------------------------------------------------------


INTERRUPTED = {"chunks of 3": 5, "several shards a frame": 0, "files of 3": 4}


@pytest.mark.timeout(90)  # some 90 streams; 6 s on an idle machine
@pytest.mark.parametrize("name", INTERRUPTED)
def test_ctrl_c_anywhere_in_append(tmp_path: Path, name: str) -> None:
    """Wherever Ctrl-C strikes in append: close ends, each frame reads back or is named, and none lands elsewhere."""
    faults = []
    for moment in itertools.count():
        run = Run(settings_for(tmp_path / str(moment), GEOMETRIES[name], buffer=BufferSettings(workers=1)))
        run.append(INTERRUPTED[name], metadata=True)
        run.stream._engine._workers.wait()
        strike = Interruption(moment, OMEStream.append)
        with suppress(KeyboardInterrupt):
            strike.during(partial(append_one, run))
        run.append(3, metadata=True)
        ended = in_time(run.close)
        try:
            assert ended is None, f"close: {ended!r}"
            assert_kept(run)
            assert_recovered(run)
        except AssertionError as error:
            faults.append(f"moment {moment}: {str(error).splitlines()[0]}")
            if isinstance(ended, TimeoutError):
                abandon(run)
        if not strike.raised:
            break
    assert moment > 10
    assert not faults, "\n".join(faults)


def append_one(run: Run) -> None:
    """Append a frame."""
    run.append(metadata=True)


def abandon(run: Run) -> None:
    """Have nobody close a stream that hangs."""
    _running.discard(run.stream)
    run.stream._engine._closed = True


def in_time(action: Callable[[], Any], seconds: float = 1.5) -> BaseException | None:
    """Carry an action out in a thread and return what it raised; a TimeoutError when it hangs."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            action()
        except BaseException as error:  # noqa: BLE001  looked at by the test
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        return TimeoutError("it hangs")
    return raised[0] if raised else None


@POSIX
def test_ctrl_c_while_append_writes(tmp_path: Path) -> None:
    """Ctrl-C that strikes in the system call of append itself: the frame is named, or it is on disk."""
    for skip in range(4):
        run = Run(settings_for(tmp_path / str(skip), GEOMETRIES["chunks of 3"]))
        fault = FileFault(("open", "write"), KeyboardInterrupt, "*/frames.txt", skip=skip, times=1)
        with faulty_files(fault), suppress(KeyboardInterrupt):
            run.append(8, metadata=True)
        run.close()
        assert_kept(run)
        assert_recovered(run)


# ---- close ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["direct", "tensorstore", "zarr-python"])
def test_close_after_failure_and_again(tmp_path: Path, backend: str) -> None:
    """After close has raised, all is released: another close does nothing, the dataset can be replaced."""
    before = threads()
    run = Run(settings_for(tmp_path, GEOMETRIES["shards"], backend=backend))
    run.append(6, metadata=True)
    with faulty_files(FileFault(("open", "write", "replace"), errno.EIO)):
        assert not run.close()
    assert run.close()
    assert {thread for thread in threads() - before if thread.name.startswith("ome-writers")} == set()
    with pytest.raises(StreamClosedError):
        run.stream.append(np.zeros(FRAME, np.uint16))
    with pytest.raises(StreamClosedError):
        run.stream.flush()
    again = Run(settings_for(tmp_path, GEOMETRIES["shards"], backend=backend, overwrite=True))
    again.append(9)
    assert again.close()
    assert not wrong_frames(again)


# ---- processes -----------------------------------------------------------------------------------------------------

FORKED = """
import os, time
stream = create_stream(settings)
for number in range(5):
    stream.append(frame(number), frame_metadata={{"n": number}})
{before}
child = os.fork()
if child == 0:
    signal.alarm(8)
    {child}
end = time.monotonic() + 9
while (status := os.waitpid(child, os.WNOHANG))[0] == 0:
    assert time.monotonic() < end
    time.sleep(0.01)
print(os.waitstatus_to_exitcode(status[1]), flush=True)
import shutil
from ome_writers.errors import DatasetInUseError
from ome_writers import recover
try:
    recover(settings.output_path)
except DatasetInUseError:
    pass
else:
    raise SystemExit("the lock is gone")
for number in range(5, 10):
    stream.append(frame(number), frame_metadata={{"n": number}})
stream.skip(frames=1)
stream.flush()
fates = (Path(settings.output_path) / "ome_writers" / "frames.txt").read_text()
assert fates == "a" * 10 + "s", fates
stream.close()
"""

IN_CHILD = {
    "exits": "os._exit(0)",
    "ends": "sys.exit(0)",
    "appends": """
    try:
        for number in range(100, 103):
            stream.append(frame(number), frame_metadata={"n": number})
        stream.flush()
    except Exception as error:
        print(type(error).__name__, flush=True)
    os._exit(0)""",
    "skips": """
    try:
        stream.skip(frames=2)
        stream.flush()
    except Exception as error:
        print(type(error).__name__, flush=True)
    os._exit(0)""",
    "closes": """
    try:
        stream.close()
    except Exception as error:
        print(type(error).__name__, flush=True)
    os._exit(0)""",
    "changes attributes": """
    try:
        stream.set_global_metadata("child", {"n": 1})
    except Exception as error:
        print(type(error).__name__, flush=True)
    os._exit(0)""",
    "drops": "del stream; sys.exit(0)",
}


@POSIX
@pytest.mark.parametrize("before", ["stream.flush()", ""], ids=["flushed", "busy"])
@pytest.mark.parametrize(
    "axes",
    [(None, 1, 6), (None, 3, 2), (None,)][: 3 if thorough() else 1],
    ids=["shards", "chunks of 3", "files"][: 3 if thorough() else 1],
)
@pytest.mark.parametrize("does", IN_CHILD)
def test_a_child_process_does_no_harm(tmp_path: Path, does: str, axes: tuple[Any, ...], before: str) -> None:
    """After a fork, the stream is the parent's: a child that uses it gets an error, and all frames are there."""
    settings = settings_for(tmp_path, {"t": axes, "y": (64, 32, 1 if axes[1:] else None), "x": (64,)})
    ended = run_child(FORKED.format(before=before, child=IN_CHILD[does]), settings)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1] == "0", "the child hangs" + ended.stdout + ended.stderr
    held = held_frames(Path(settings.output_path), settings, 10)
    assert all(frame is not None and (frame == number + 1).all() for number, frame in held.items())
    state = Completeness.read(DatasetFolder(Path(settings.output_path)))
    assert state is not None
    assert (state.frames_taken, state.frames_written, state.frames_skipped, state.closed) == (11, 10, 1, True)
    records = [json.loads(line) for line in (Path(settings.output_path) / RECORDS_FILE).read_text().splitlines()]
    assert [record["frame"] for record in records] == list(range(10))
    assert "child" not in DatasetFolder(Path(settings.output_path)).attributes(".")
    assert_valid(Path(settings.output_path))


COLLECTED = """
import gc, threading
gc.disable()
def make():
    cycle = {}
    cycle["itself"], cycle["stream"] = cycle, create_stream(settings)
    for number in range(200):
        cycle["stream"].append(frame(number))
make()
other = threading.Thread(target=gc.collect)
other.start()
other.join()
"""


@pytest.mark.parametrize("backend", ["direct", "zarr-python"])
def test_an_interpreter_that_ends_while_a_collected_stream_is_closed(tmp_path: Path, backend: str) -> None:
    """It waits for that, as long as the threads of the backend's library work."""
    settings = settings_for(tmp_path, {"t": (None, 2, 4), "y": (64, 32), "x": (64,)}, backend=backend)
    ended = run_child(COLLECTED, settings)
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr
    held = held_frames(Path(settings.output_path), settings, 200)
    assert all(frame is not None and (frame == number + 1).all() for number, frame in held.items())
    state = Completeness.read(DatasetFolder(Path(settings.output_path)))
    assert state is not None
    assert (state.frames_written, state.closed) == (200, True)


EXITS = {
    "returns": "",
    "exits": "sys.exit(3)",
    "raises": "raise RuntimeError",
    "in a function": "def f():\n    global stream\n    other = stream\n    sys.exit(0)\nf()",
}


@pytest.mark.parametrize("backend", ["direct", "tensorstore", "zarr-python"])
@pytest.mark.parametrize("how", EXITS)
def test_an_interpreter_that_ends_without_close(tmp_path: Path, how: str, backend: str) -> None:
    """A program that ends without close: all frames are on disk, and it ends within seconds."""
    if backend != "direct" and how != "exits":
        pytest.skip("one way is enough")
    settings = settings_for(tmp_path, {"t": (None, 3, 4), "y": (64, 32), "x": (64,)}, backend=backend)
    code = "stream = create_stream(settings)\nfor number in range(20):\n    stream.append(frame(number))\n"
    start = time.monotonic()
    run_child(code + EXITS[how], settings)
    assert time.monotonic() - start < 12
    held = held_frames(Path(settings.output_path), settings, 20)
    assert all(frame is not None and (frame == number + 1).all() for number, frame in held.items())
    state = Completeness.read(DatasetFolder(Path(settings.output_path)))
    assert state is not None
    assert state.closed
    assert not recover(settings.output_path).needed


def test_two_writers_on_one_path(tmp_path: Path) -> None:
    """While a process writes, no other may replace, resume or recover; when it is killed, others may."""
    settings = settings_for(tmp_path, {"t": (None, 1, 4), "y": (64,), "x": (64,)})
    code = (
        "stream = create_stream(settings)\nfor number in range(5):\n    stream.append(frame(number))\nstream.flush()\n"
        "print('ready', flush=True)\nsys.stdin.read()\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD + code, settings.model_dump_json()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    path = Path(settings.output_path)
    replacing = settings.model_copy(update={"overwrite": True})
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        before = sorted(path.rglob("*"))
        attempts: list[Callable[[], Any]] = [
            lambda: create_stream(replacing),
            lambda: create_stream(settings, resume=True),
            lambda: recover(path),
        ]
        for attempt in attempts:
            with pytest.raises(DatasetInUseError, match=f"process {child.pid}"):
                attempt()
        assert sorted(path.rglob("*")) == before
        child.send_signal(signal.SIGKILL)
        child.wait(10)
    finally:
        child.kill()
        child.wait(10)
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                pipe.close()
    shutil.copytree(path, tmp_path / "copy")
    report = recover(tmp_path / "copy")
    assert (report.frames_taken, report.frames_lost) == (5, 0)
    stream = create_stream(replacing)
    stream.append(np.full((64, 64), 7, np.uint16))
    stream.close()
    assert [frame is not None and int(frame[0, 0]) for frame in held_frames(path, settings, 2).values()] == [7, False]


def test_two_writers_in_one_process(tmp_path: Path) -> None:
    """A stream that is open keeps others of the same process away, too, under any name of its folder."""
    settings = settings_for(tmp_path / "a", GEOMETRIES["shards"])
    run = Run(settings)
    run.append(3)
    (tmp_path / "b").symlink_to(tmp_path / "a")
    for folder in (tmp_path / "a", tmp_path / "b"):
        for resume in (False, True):
            with pytest.raises(DatasetInUseError):
                create_stream(settings_for(folder, GEOMETRIES["shards"], overwrite=True), resume=resume)
        with pytest.raises(DatasetInUseError):
            recover(folder / "a.ome.zarr")
    run.append(6)
    assert run.close()
    assert not wrong_frames(run)


# ---- going on ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axes", [GEOMETRIES["chunks of 3"], GEOMETRIES["files of 3"]], ids=["shards", "files"])
def test_a_crash_of_a_stream_that_has_resumed_in_a_layer(tmp_path: Path, axes: Axes) -> None:
    """A layer that holds earlier frames does not hold the next one as soon as that is appended."""
    run = Run(settings_for(tmp_path, axes))
    run.append(7)
    run.close()
    again = Run(settings_for(tmp_path, axes), resume=True)
    assert again.append(1)
    again.stream._engine._workers.wait()
    copy = tmp_path / "copy" / "a.ome.zarr"
    shutil.copytree(run.path, copy)
    assert again.close()
    run.taken |= again.taken
    assert not wrong_frames(run)
    report = recover(copy)
    assert numbers(report.lost) == wrong_frames(run, copy)


@pytest.mark.parametrize("name", ["shards", "files", "files of 3"])
@pytest.mark.parametrize("end", ["close", "crash"])
def test_frames_that_are_to_be_appended_again_are_gone(tmp_path: Path, name: str, end: str) -> None:
    """When a stream resumes at a lost frame, later ones are no frames of the dataset until they come again."""
    axes = GEOMETRIES[name]
    run = Run(settings_for(tmp_path, axes, buffer=BufferSettings(workers=1)))
    paths = "*/writing/*" if name == "shards" else "*/0/c/[01]/*" if name == "files of 3" else "*/c/2/*"
    run.append(2)
    run.flush()
    gate = threading.Event()
    with faulty_files(
        FileFault("replace" if name != "shards" else "write", errno.EIO, paths, times=1 if name != "shards" else 2)
    ):
        run.stream._engine._workers.submit(lambda: bool(gate.wait(5)))  # type: ignore[arg-type]
        run.append(6)
        gate.set()
        run.close()
    lost = wrong_frames(run)
    assert lost
    first = min(lost)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = Run(settings_for(tmp_path, axes), resume=True)
    assert again.stream.next_frame == first
    again.generation = 1
    again.append(2)
    again.skip(3)
    path = run.path
    if end == "crash":
        again.flush()
        path = tmp_path / "copy" / "a.ome.zarr"
        shutil.copytree(run.path, path)
    assert again.close()
    report = recover(path)
    held = held_frames(path, run.settings, 8)
    assert report.frames_taken == first + 5
    for number in range(first + 2, 8):
        frame = held[number]
        assert frame is None or not frame.any(), f"frame {number} has pixels of the earlier stream"
