"""Replay itself, whatever the recording was read from."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ome_writers import (
    AcquisitionSettings,
    Channel,
    Dimension,
    OMEStream,
    PositionDimension,
    ReplayProgress,
    open_recording,
    replay,
)
from ome_writers._replay import _prefetch, replay_settings
from ome_writers._replay import _replay as replay_module
from ome_writers._replay._clock import Clock
from ome_writers._replay._plan import Walk
from ome_writers._replay._prefetch import Prefetch
from ome_writers.errors import RecordingError, ResumeError, SettingsError
from ome_writers.recordings import Frame, Index, Recording
from readers import read_images

SHAPE = (3, 2, 4)
PIXELS = np.random.default_rng(2).integers(1, 60_000, (*SHAPE, 6, 8)).astype(np.uint16)


class MadeUp(Recording):
    """A recording of dimensions t, c, z that does what a test wants.

    Parameters
    ----------
    before : callable, optional
        Called with the index of each frame before it is read.
    present : ndarray of bool, optional
        Which frames were recorded.
    pixels : ndarray
        What they hold.
    """

    kind = "made up"

    def __init__(
        self,
        before: Callable[[Index], object] = lambda index: None,
        present: Any = None,
        pixels: Any = PIXELS,
    ) -> None:
        self.name = "made-up"
        self.dtype = str(pixels.dtype)
        self.dimensions = (
            Dimension(name="t", count=pixels.shape[0], scale=2.0, unit="s"),
            Dimension(name="c", coords=[Channel(name=f"c{i}") for i in range(pixels.shape[1])]),
            Dimension(name="z", count=pixels.shape[2]),
            Dimension(name="y", count=pixels.shape[3]),
            Dimension(name="x", count=pixels.shape[4]),
        )
        self.attributes = {"rig": {"laser": 7}}
        self.present = present
        self._before = before
        self._pixels = pixels
        self.threads: set[str] = set()

    def read(self, index: Index, out: Frame) -> None:
        """Read a frame."""
        self.threads.add(threading.current_thread().name)
        self._before(index)
        out[...] = self._pixels[index]

    def metadata(self, index: Index) -> Mapping[str, Any]:
        """Return where the frame was."""
        return {"index": list(index)}


def written(root: Path) -> Any:
    """Return the pixels of the only image of a dataset."""
    (image,) = read_images(root)
    return image


def records(root: Path) -> list[Any]:
    """Return the records of the frames of a dataset, in acquisition order."""
    text = (root / "ome_writers" / "frames.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


# ---- what is written -------------------------------------------------------------------------------------------------


def test_everything_is_carried_over(tmp_path: Path) -> None:
    """Frames, dimensions, metadata of frames and attributes; the report says what was done."""
    report = replay(MadeUp(), tmp_path / "a.ome.zarr")
    np.testing.assert_array_equal(written(tmp_path / "a.ome.zarr"), PIXELS)
    assert (report.frames_total, report.frames_done, report.frames_appended, report.frames_skipped) == (24, 24, 24, 0)
    assert report.bytes_in == PIXELS.nbytes
    assert report.complete
    assert (report.source, report.kind) == ("made-up", "made up")
    assert "Wrote 24 frames" in str(report)
    with open_recording(tmp_path / "a.ome.zarr") as again:
        assert again.dimensions == MadeUp().dimensions
        assert again.attributes == {"rig": {"laser": 7}}
        assert again.metadata((2, 1, 3)) == {"index": [2, 1, 3]}


@pytest.mark.parametrize("order", [None, "tcz", "zct", "ctz"])
def test_order(order: str | None, tmp_path: Path) -> None:
    """The order is that of the acquisition that is simulated; what is stored is the same."""
    replay(MadeUp(), tmp_path / "a.ome.zarr", order=order and list(order))
    np.testing.assert_array_equal(written(tmp_path / "a.ome.zarr"), PIXELS)
    taken = [record["metadata"]["index"] for record in records(tmp_path / "a.ome.zarr")]
    names = order or "tcz"
    counts = dict(zip("tcz", SHAPE, strict=True))
    expected = [
        [dict(zip(names, index, strict=True))[name] for name in "tcz"]
        for index in np.ndindex(*(counts[name] for name in names))
    ]
    assert taken == expected


@pytest.mark.parametrize("order", [["t", "c"], ["t", "c", "z", "y"], ["t", "c", "c"], []])
def test_order_that_is_not_allowed(order: list[str], tmp_path: Path) -> None:
    """It names each index dimension once, and nothing is made otherwise."""
    with pytest.raises(SettingsError, match="does not name each index dimension once; allowed are t, c, z"):
        replay(MadeUp(), tmp_path / "a.ome.zarr", order=order)
    assert not (tmp_path / "a.ome.zarr").exists()


def test_limit(tmp_path: Path) -> None:
    """The dataset declares everything and has the first frames, and says so."""
    report = replay(MadeUp(), tmp_path / "a.ome.zarr", limit=7)
    assert (report.frames_done, report.frames_total, report.complete) == (7, 24, False)
    assert "holds 7 of 24 frames" in str(report)
    frames = written(tmp_path / "a.ome.zarr").reshape(24, 6, 8)
    np.testing.assert_array_equal(frames[:7], PIXELS.reshape(24, 6, 8)[:7])
    assert not frames[7:].any()
    assert replay(MadeUp(), tmp_path / "b.ome.zarr", limit=1000).complete


@pytest.mark.parametrize(("option", "value"), [("fps", 0), ("fps", -1), ("fps", float("nan")), ("limit", 0)])
def test_numbers_that_are_not_allowed(option: str, value: float, tmp_path: Path) -> None:
    """A pace is positive and finite, a limit at least one frame."""
    with pytest.raises(SettingsError, match=f"{option} is {value}"):
        replay(MadeUp(), tmp_path / "a.ome.zarr", **{option: value})  # type: ignore[arg-type]


# ---- settings --------------------------------------------------------------------------------------------------------


def test_settings_and_recorded_dimensions(tmp_path: Path) -> None:
    """What settings give counts, also chunks and other names of channels; what they leave out is as recorded."""
    recording = MadeUp()
    t, _, z, y, x = recording.dimensions
    given = (z, t.model_copy(update={"chunk_size": 3}), Dimension(name="c", coords=["a", "b"]), y, x)
    settings = replay_settings(recording, AcquisitionSettings(root_path=str(tmp_path / "a.ome.zarr"), dimensions=given))
    assert [d.name for d in settings.dimensions] == ["z", "t", "c", "y", "x"]
    assert settings.dtype == "uint16"
    replay(recording, settings)
    np.testing.assert_array_equal(written(tmp_path / "a.ome.zarr"), PIXELS)
    with open_recording(tmp_path / "a.ome.zarr") as again:
        assert again.dimensions[2].coords == [Channel(name="a"), Channel(name="b")]


FRAME = (Dimension(name="y", count=6), Dimension(name="x", count=8))
MISFITS: dict[str, tuple[tuple[Dimension, ...], str]] = {
    "missing": ((Dimension(name="t", count=3), Dimension(name="c", count=2), *FRAME), "dimensions z of the recording"),
    "unknown": (
        tuple(Dimension(name=n, count=k) for n, k in zip("tczk", (*SHAPE, 1), strict=True)) + FRAME,
        "no dimensions k",
    ),
    "count": (
        tuple(Dimension(name=n, count=k) for n, k in zip("tcz", (3, 2, 5), strict=True)) + FRAME,
        "dimension z has 5 steps, recorded were 4",
    ),
    "transposed": (
        tuple(Dimension(name=n, count=k) for n, k in zip("tcz", SHAPE, strict=True)) + FRAME[::-1],
        "the frame's dimensions are x, y",
    ),
}


@pytest.mark.parametrize("name", MISFITS)
def test_dimensions_that_do_not_fit(name: str, tmp_path: Path) -> None:
    """They are refused before anything is made, naming what does not fit."""
    dimensions, message = MISFITS[name]
    with pytest.raises(SettingsError, match=message):
        replay(MadeUp(), AcquisitionSettings(root_path=str(tmp_path / "a.ome.zarr"), dimensions=dimensions))
    assert not (tmp_path / "a.ome.zarr").exists()


@pytest.mark.parametrize("dtype", ["uint32", "int32", "float32", "float64"])
def test_wider_dtype(dtype: str, tmp_path: Path) -> None:
    """Pixels are converted to a type that holds all their values."""
    replay(MadeUp(), AcquisitionSettings(root_path=str(tmp_path / "a.ome.zarr"), dtype=dtype))
    image = written(tmp_path / "a.ome.zarr")
    assert image.dtype == dtype
    np.testing.assert_array_equal(image, PIXELS)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float16"])
def test_narrower_dtype(dtype: str, tmp_path: Path) -> None:
    """A type that can't hold every value is refused, whatever the values are."""
    with pytest.raises(SettingsError, match=f"{dtype} can't hold every value of the recorded uint16"):
        replay(MadeUp(), AcquisitionSettings(root_path=str(tmp_path / "a.ome.zarr"), dtype=dtype))


# ---- frames that were not recorded -----------------------------------------------------------------------------------


def test_missing_frames(tmp_path: Path) -> None:
    """They are an error by default, else skipped in whichever order, and never read."""
    present = np.ones(SHAPE, bool)
    present[1, 0] = present[2, 1, 2:] = False
    asked: list[Index] = []
    with pytest.raises(RecordingError, match=r"6 of 24 frames are missing.*skip_missing"):
        replay(MadeUp(present=present), tmp_path / "a.ome.zarr")
    assert not (tmp_path / "a.ome.zarr").exists()
    report = replay(MadeUp(asked.append, present), tmp_path / "a.ome.zarr", skip_missing=True, order=["z", "t", "c"])
    assert (report.frames_appended, report.frames_skipped, report.complete) == (18, 6, True)
    assert "6 frames were not recorded" in str(report)
    assert all(present[index] for index in asked)
    np.testing.assert_array_equal(written(tmp_path / "a.ome.zarr"), np.where(present[..., None, None], PIXELS, 0))
    with open_recording(tmp_path / "a.ome.zarr") as again:
        assert [d.name for d in again.dimensions[:3]] == ["z", "t", "c"]
        np.testing.assert_array_equal(again.present, present.transpose(2, 0, 1))


def test_walk() -> None:
    """Runs and indices follow the acquisition order from any frame on, also without an index dimension."""
    present = np.array([[True, False], [False, False], [True, True]])
    recording = MadeUp(present=present[:, :, None], pixels=PIXELS[:, :, :1])
    walk = Walk(recording, replay_settings(recording, "a.ome.zarr", ["c", "t", "z"]))
    assert list(walk.runs(range(6))) == [
        (range(1), True), (range(1, 2), False), (range(2, 3), True), (range(3, 5), False), (range(5, 6), True),
    ]  # fmt: skip
    assert list(walk.runs(range(3, 3))) == []
    assert list(walk.indices(range(1, 6))) == [(2, 0, 0), (2, 1, 0)]
    with open_recording(PIXELS[0, 0, 0]) as single:
        walk = Walk(single, replay_settings(single, "a.ome.zarr"))
        assert list(walk.indices(range(1))) == [()]
        assert list(walk.runs(range(1))) == [(range(1), True)]


# ---- interruption and resume -----------------------------------------------------------------------------------------


class _StopError(Exception):
    """What a user's progress raises."""


def test_resume_after_an_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception from progress closes the dataset; resuming goes on, and counts only what it has done."""
    monkeypatch.setattr(replay_module, "_PROGRESS_SECONDS", 0.0)
    root = tmp_path / "a.ome.zarr"

    def stop(progress: ReplayProgress) -> None:
        if progress.frames_done == 10:
            raise _StopError

    with pytest.raises(_StopError):
        replay(MadeUp(), root, progress=stop)
    with open_recording(root) as begun:
        assert begun.frames - begun.frames_missing == 10
    asked: list[Index] = []
    seen: list[ReplayProgress] = []
    report = replay(MadeUp(asked.append), root, resume=True, progress=seen.append)
    np.testing.assert_array_equal(written(root), PIXELS)
    assert report.complete
    assert report.frames_appended == report.bytes_in // 96 == 14
    assert sorted(asked) == list(np.ndindex(SHAPE))[10:]
    assert (seen[0].frames_done, seen[-1].frames_done) == (11, 24)
    again = replay(MadeUp(), root, resume=True)
    assert (again.frames_appended, again.complete) == (0, True)


def test_resume_with_other_settings(tmp_path: Path) -> None:
    """A dataset that was begun in another order can't be continued."""
    replay(MadeUp(), tmp_path / "a.ome.zarr", limit=4)
    with pytest.raises(ResumeError, match="begun with other settings"):
        replay(MadeUp(), tmp_path / "a.ome.zarr", resume=True, order=["z", "c", "t"])


def test_resume_over_missing_frames(tmp_path: Path) -> None:
    """Going on after a limit inside of a run of missing frames gives the same as doing it at once."""
    present = np.ones(SHAPE, bool)
    present.reshape(-1)[5:11] = False
    for limit in (4, 7, 12):
        replay(MadeUp(present=present), tmp_path / "a.ome.zarr", skip_missing=True, limit=limit, resume=True)
    report = replay(MadeUp(present=present), tmp_path / "a.ome.zarr", skip_missing=True, resume=True)
    assert report.complete
    np.testing.assert_array_equal(written(tmp_path / "a.ome.zarr"), np.where(present[..., None, None], PIXELS, 0))


# ---- progress and pace -----------------------------------------------------------------------------------------------


def test_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values only grow, reach the end, and count what was limited or skipped."""
    monkeypatch.setattr(replay_module, "_PROGRESS_SECONDS", 0.0)
    seen: list[ReplayProgress] = []
    replay(MadeUp(), tmp_path / "a.ome.zarr", limit=9, progress=seen.append)
    assert [p.frames_done for p in seen] == [*range(1, 10), 9]
    assert {p.frames_total for p in seen} == {9}
    assert [p.bytes_in for p in seen] == [96 * p.frames_done for p in seen]
    assert all(0 <= p.buffer_fill <= 1 for p in seen)
    assert [p.seconds for p in seen] == sorted(p.seconds for p in seen)
    assert {p.frames_late for p in seen} == {0}


def test_progress_is_called_ten_times_a_second(tmp_path: Path) -> None:
    """Not for every frame, and once at the end even if it was quick."""
    seen: list[ReplayProgress] = []
    replay(MadeUp(), tmp_path / "a.ome.zarr", progress=seen.append, fps=40)
    assert 3 <= len(seen) <= 15  # of 24 frames in 0.6 s
    assert seen[-1].frames_done == 24


def test_pace(tmp_path: Path) -> None:
    """Frames come at the rate that is asked for; none is late for a stream that keeps up."""
    start = time.perf_counter()
    report = replay(MadeUp(), tmp_path / "a.ome.zarr", fps=60)
    assert time.perf_counter() - start >= 23 / 60
    assert report.fps == 60
    assert report.frames_late <= 8  # of a machine that does other things, too
    assert report.longest_append > 0
    assert "At 60 frames per second" in str(report)


def test_late_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that takes too long makes frames late, the following ones too until it has caught up."""
    append = OMEStream.append
    numbers = iter(range(100))

    def slow(self: Any, *arguments: Any, **options: Any) -> None:
        append(self, *arguments, **options)
        if next(numbers) == 5:
            time.sleep(0.35)

    monkeypatch.setattr(OMEStream, "append", slow)
    report = replay(MadeUp(), tmp_path / "a.ome.zarr", fps=20)
    assert 6 <= report.frames_late <= 14  # 0.35 s are 7 frames, and the machine does other things, too
    assert report.frames_awaited == 0
    assert report.longest_append >= 0.35
    assert f"{report.frames_late} frames were late" in str(report)
    np.testing.assert_array_equal(written(tmp_path / "a.ome.zarr"), PIXELS)


def test_slow_source_holds_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames that the source delivers late are none of the storage's: they are counted apart, and none is late."""
    monkeypatch.setattr(_prefetch, "_BATCH_BYTES", 1)
    monkeypatch.setattr(_prefetch, "_MAX_READERS", 1)
    report = replay(MadeUp(lambda index: time.sleep(0.03)), tmp_path / "a.ome.zarr", fps=200)
    assert report.frames_awaited >= 15
    assert report.frames_late <= 5
    assert report.source_seconds >= 0.4
    assert "could not be read that fast" in str(report)


# ---- reading ahead ---------------------------------------------------------------------------------------------------


def test_order_is_kept_with_several_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames come in the order that was asked for, however long each takes to read, and in several threads."""
    monkeypatch.setattr(_prefetch, "_BATCH_BYTES", 96 * 2)
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    generator = np.random.default_rng(1)
    waits = {index: float(wait) for index, wait in zip(np.ndindex(SHAPE), generator.random(24), strict=True)}
    recording = MadeUp(lambda index: time.sleep(waits[index] / 100))
    recording.decodes = True
    indices = list(np.ndindex(SHAPE))[::-1]
    with Prefetch(recording, iter(indices)) as prefetch:
        for index, (pixels, metadata) in zip(indices, prefetch, strict=True):
            np.testing.assert_array_equal(pixels, PIXELS[index])
            assert metadata == {"index": list(index)}
    assert len(recording.threads) > 1
    assert all(name.startswith("ome-writers-reader") for name in recording.threads)


def test_errors_of_readers_arrive(tmp_path: Path) -> None:
    """What reading raises is raised where the replay runs; frames before it are in the dataset, which says so."""

    def fail(index: Index) -> None:
        if index == (1, 1, 2):
            raise RecordingError("made-up: frame (1, 1, 2) is torn")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_prefetch, "_BATCH_BYTES", 1)
        with pytest.raises(RecordingError, match=r"frame \(1, 1, 2\) is torn"):
            replay(MadeUp(fail), tmp_path / "a.ome.zarr")
    with open_recording(tmp_path / "a.ome.zarr") as begun:
        assert begun.frames - begun.frames_missing == 14
    assert not [t for t in threading.enumerate() if t.name.startswith("ome-writers-reader")]
    assert replay(MadeUp(), tmp_path / "a.ome.zarr", resume=True).complete
    np.testing.assert_array_equal(written(tmp_path / "a.ome.zarr"), PIXELS)


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers stop when the memory for reading ahead is full, and go on as frames are taken."""
    monkeypatch.setattr(_prefetch, "_BATCH_BYTES", 96)
    monkeypatch.setattr(_prefetch, "READ_AHEAD_BYTES", 96 * 5)
    read: list[Index] = []
    recording = MadeUp(read.append)
    with Prefetch(recording, np.ndindex(SHAPE), far=True) as prefetch:
        frames = iter(prefetch)
        for taken in range(1, 25):
            next(frames)
            deadline = time.monotonic() + 1
            while len(read) < min(24, taken + 4) and time.monotonic() < deadline:
                time.sleep(0.001)
            assert len(read) <= taken + 4
            if taken == 10:
                time.sleep(0.05)
                assert len(read) == 14


def test_sources_that_need_no_decoding_are_read_one_batch_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread reads them, and no further than one frame ahead: what is appended is still in the cache."""
    monkeypatch.setattr(_prefetch, "_BATCH_BYTES", 96)
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    read: list[Index] = []
    recording = MadeUp(read.append)
    with Prefetch(recording, np.ndindex(SHAPE)) as prefetch:
        frames = iter(prefetch)
        for taken in range(1, 25):
            next(frames)
            time.sleep(0.002)
            assert len(read) <= taken + 1
    assert len(recording.threads) == 1


def test_readers_end_when_nobody_takes_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaving early cancels what was not begun, and leaves no thread."""
    monkeypatch.setattr(_prefetch, "_BATCH_BYTES", 1)
    read: list[Index] = []
    with Prefetch(MadeUp(read.append), np.ndindex(SHAPE)) as prefetch:
        next(iter(prefetch))
    assert len(read) < 24
    assert not [t for t in threading.enumerate() if t.name.startswith("ome-writers-reader")]


def test_positions(tmp_path: Path) -> None:
    """A position dimension anywhere in the order gives an image for each position."""
    pixels = PIXELS[:, :, 0]
    with open_recording(pixels, axes="tpyx") as recording:
        replay(recording, tmp_path / "a.ome.zarr")
    np.testing.assert_array_equal(read_images(tmp_path / "a.ome.zarr"), pixels.transpose(1, 0, 2, 3))
    assert isinstance(recording.dimensions[1], PositionDimension)


# ---- the clock -------------------------------------------------------------------------------------------------------


class FakeTime:
    """A time that passes only when somebody sleeps, or the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr("ome_writers._replay._clock.time.sleep", self.sleep)
        monkeypatch.setattr("ome_writers._replay._clock.time.perf_counter", lambda: self.now)

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        assert seconds >= 0
        self.now += seconds

    def frame(self, clock: Clock, number: int, *, reading: float, appending: float) -> None:
        """Let a frame be read and appended."""
        asked = self.now
        self.now += reading
        self.now = clock.wait_for(number, asked, self.now)
        self.now += appending
        clock.count(number, self.now)


def test_clock_of_a_source_that_is_a_little_too_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the source is, frames that are appended in no time are never late."""
    for reading in (0.0021, 0.0025, 0.0035, 0.5):
        time = FakeTime(monkeypatch)
        clock = Clock(0.002)
        for number in range(500):
            time.frame(clock, number, reading=reading, appending=0.0003)
        assert clock.late == 0
        assert clock.awaited == (0 if reading < 0.0027 else 499)


def test_clock_of_a_storage_that_stalls(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stall makes those frames late that a camera would have taken meanwhile, and no others."""
    time = FakeTime(monkeypatch)
    clock = Clock(0.01)
    began = time.now
    for number in range(100):
        time.frame(clock, number, reading=0.0, appending=0.055 if number == 40 else 0.001)
    # frame 40 is done 55 ms after it was due; each of the next ones makes up for 9 ms
    assert clock.late == 6
    assert clock.awaited == 0
    assert time.now - began == pytest.approx(99 * 0.01 + 0.001)  # the camera went on all the time


def test_clock_tells_a_slow_source_from_a_stall(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a stall, frames that the source delivers at once are late, though they were asked for too late."""
    time = FakeTime(monkeypatch)
    clock = Clock(0.01)
    for number in range(30):
        time.frame(clock, number, reading=0.02 if number == 10 else 0.0, appending=0.055 if number == 20 else 0.001)
    assert (clock.late, clock.awaited) == (6, 1)


# ---- arguments and destinations --------------------------------------------------------------------------------------


def test_a_dataset_is_not_written_into_its_source(tmp_path: Path) -> None:
    """A destination inside of the dataset that is replayed is refused: readers would take it for a part of it."""
    source = tmp_path / "source.ome.zarr"
    replay(np.ones((3, 8, 8), np.uint8), source)
    before = sorted(path.relative_to(source) for path in source.rglob("*"))
    for wrong in (source / "inner", source / "0" / "inner.ome.zarr", source):
        with pytest.raises(SettingsError, match="source"):
            replay(source, AcquisitionSettings(root_path=str(wrong), format="ome-zarr", overwrite=True))
    assert sorted(path.relative_to(source) for path in source.rglob("*")) == before


@pytest.mark.parametrize("wrong", [{"limit": 2.5}, {"limit": True}, {"client": "tcp://127.0.0.1:1"}])
def test_arguments_of_another_type(tmp_path: Path, wrong: dict[str, Any]) -> None:
    """Arguments of a wrong type are refused before anything is made."""
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        replay(np.ones((3, 8, 8), np.uint8), tmp_path / "x.ome.zarr", **wrong)
    assert not list(tmp_path.iterdir())


def test_the_rate_counts_pixels_as_they_are_stored(tmp_path: Path) -> None:
    """Bytes are counted after a conversion to a wider type."""
    settings = AcquisitionSettings(root_path=str(tmp_path / "x.ome.zarr"), dtype="uint16")
    assert replay(np.ones((3, 8, 8), np.uint8), settings).bytes_in == 3 * 8 * 8 * 2
