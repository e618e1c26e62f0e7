"""Datasets whose writer has died or stopped early: completing them, going on with them, and what they say meanwhile."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import ome_types
import pytest
import yaozarrs
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from campaigns import kill, truncate
from ome_writers import AcquisitionSettings, OMEStream, RecoveryReport, _files, create_stream, recover
from ome_writers._dataset import WRITING_FOLDER, DatasetFolder
from ome_writers._documents import fingerprint
from ome_writers._files import FileSystem
from ome_writers._layout import plan_layout
from ome_writers._lock import DatasetLock, check_unlocked
from ome_writers._router import Router
from ome_writers.engine import FrameFates, RecordLog
from ome_writers.engine._fates import APPENDED, read_fates
from ome_writers.errors import (
    DatasetInUseError,
    FrameCountError,
    NotRecoverableError,
    ResumeError,
    UnsupportedError,
)
from ome_writers.settings import BufferSettings
from ome_writers.testing.datasets import Axes, acquisition, random_pixels
from ome_writers.testing.strategies import acquisitions, declarations
from readers import document, read_images, validate

pytestmark = pytest.mark.timeout(60)

Pixels = npt.NDArray[Any]
YX: Axes = {"y": (4,), "x": (6,)}
SHAPES: dict[str, Axes] = {
    "chunks of 16": {"t": (40, 16), **YX},
    "shards": {"t": (None, 2, 3), "y": (4, 2, 2), "x": (6,)},
    "files": {"t": (None,), "y": (4, 2), "x": (6, 4)},
    "positions": {"t": (None, 3, 2), "p": (3,), **YX},
    "positions first": {"p": (3,), "t": (9, 4, 1), **YX},
    "transposed": {"t": (5, 2, 2), "z": (3,), "c": (2,), **YX},
    "z chunks": {"t": (None, 2, 2), "z": (5, 2, 2), **YX},
    "shards in the frame": {"t": (14, 3, 2), "y": (4, 1, 2), "x": (6, 3, 1)},
}
RESUMING = ("direct", "tensorstore", "zarr-python")
SKIPPED = {2, 3, 8, 12}


def settings_for(path: Path, axes: Axes, backend: str = "direct", **fields: Any) -> AcquisitionSettings:
    """Return settings of a small acquisition at a path."""
    given = {**acquisition(axes).model_dump(), "root_path": str(path), "format": backend, **fields}
    return AcquisitionSettings.model_validate(given)


class Acquisition:
    """Frames by number, and what of them was given to streams.

    Attributes
    ----------
    taken : dict of int to bool
        For each frame that was taken whether it was appended.
    """

    def __init__(self, settings: AcquisitionSettings, frames: int = 30, *, skipped: Iterable[int] = SKIPPED) -> None:
        self.settings = settings
        self.layout = plan_layout(settings)
        self.router = Router(self.layout.axes)
        self.total = frames if self.router.total is None else self.router.total
        self.skipped = set(skipped)
        self.pixels = random_pixels((self.total, *self.layout.geometry.frame_shape), settings.dtype)
        self.taken: dict[int, bool] = {}

    def append(self, stream: OMEStream, stop: int | None = None) -> None:
        """Give frames to a stream, from its next one on."""
        first = stream.next_frame
        self.taken = {number: appended for number, appended in self.taken.items() if number < first}
        for number in range(first, self.total if stop is None else stop):
            self.taken[number] = number not in self.skipped
            if number in self.skipped:
                stream.skip()
            else:
                stream.append(self.pixels[number], frame_metadata={"number": number})

    def images(self, lost: Iterable[int] = ()) -> list[Pixels]:
        """Return what the dataset must hold."""
        geometry, frames, images = self.layout.geometry, len(self.taken), []
        for array in range(len(self.layout.images)):
            extent = 0 if geometry.unbounded_axis is None else self.router.extent(array, frames)
            images.append(np.zeros([extent if n is None else n for n in geometry.shape], geometry.dtype))
        for number, appended in self.taken.items():
            if appended and number not in lost:
                array, index = self.router.locate(number)
                images[array][index] = self.pixels[number]
        return images

    def check(self, root: Path | None = None, lost: Iterable[int] = ()) -> None:
        """Check pixels, per-frame metadata and completeness of a dataset."""
        root = self.settings.output_path if root is None else root  # type: ignore[assignment]
        root, lost = Path(root), set(lost)  # type: ignore[arg-type]
        wanted = self.images(lost)
        if all(0 not in image.shape for image in wanted):
            yaozarrs.validate_zarr_store(str(root))
        for read, image in zip(read_images(root), wanted, strict=True):
            assert read.shape == image.shape
            assert read.tobytes() == image.tobytes()
        with_metadata = {n for n, appended in self.taken.items() if appended} - lost
        found = [record["number"] for group in self.groups(root) for record in group.get("frame_metadata", [])]
        assert len(set(found)) == len(found)
        assert with_metadata <= set(found) <= set(self.taken)
        said = completeness(root)
        assert said["frames_expected"] == self.router.total
        assert said["frames_taken"] == len(self.taken)
        assert said["frames_skipped"] == len(self.taken) - sum(self.taken.values())
        assert said["frames_written"] == len(with_metadata)
        assert numbers(range(a, b + 1) for a, b in said["frames_lost"]) == lost

    def groups(self, root: Path) -> Iterator[Mapping[str, Any]]:
        """Yield this package's attributes of all images."""
        for image in self.layout.images:
            yield document(root / image.path)["attributes"].get("ome_writers", {})


def completeness(root: Path) -> dict[str, Any]:
    """Return what a dataset says of its completeness."""
    said: dict[str, Any] = document(root)["attributes"]["ome_writers"]["completeness"]
    return said


def numbers(runs: Iterable[range]) -> set[int]:
    """Return the frames in runs."""
    return {number for run in runs for number in run}


def resumed(settings: AcquisitionSettings) -> tuple[OMEStream, list[str]]:
    """Return a stream that goes on, and what was warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        stream = create_stream(settings, resume=True)
    return stream, [str(warning.message) for warning in caught]


def crashed(path: Path, copy: Path) -> Path:
    """Return a copy of a dataset as it stands on disk at this moment, as if its writer had died."""
    shutil.copytree(path, copy)
    return copy


def left_over(root: Path) -> set[str]:
    """Return the names of files that belong to no dataset that is complete."""
    known = {"settings.json", "frames.txt", "frames.jsonl", "zarr.json", "METADATA.ome.xml"}
    return {file.name for file in root.rglob("*") if file.is_file() and not file.name.isdecimal()} - known


# ---- a stream that was closed early --------------------------------------------------------------------------------


@pytest.mark.parametrize("axes", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("backend", RESUMING)
def test_resume_after_an_early_close(tmp_path: Path, backend: str, axes: Axes) -> None:
    """A stream goes on where the one before was closed, in chunks and shards that are half full, skipped frames too."""
    model = Acquisition(settings_for(tmp_path / "a.zarr", axes, backend))
    stops = [1, 3, 7, 8, 13, model.total]
    for place, stop in enumerate(stops):
        stream, told = resumed(model.settings)
        before = len(model.taken)
        with stream:
            assert stream.next_frame == before or (backend != "direct" and stream.next_frame < before)
            assert [f"frames {stream.next_frame} to {before - 1} again" in text for text in told] == (
                [True] if stream.next_frame < before else []
            )
            assert not completeness(stream.path)["closed"]
            model.append(stream, stop)
        model.check()
        assert completeness(stream.path)["closed"]
        assert not left_over(stream.path), place
        report = recover(stream.path)
        assert not report.needed
        assert report.frames_taken == stop
    validate(stream.path)


def test_resume_with_library_backends_begins_with_a_whole_shard(tmp_path: Path) -> None:
    """Backends that write whole shards go on at the first frame of the first shard that is not full, and say so."""
    axes: Axes = {"t": (None, 2, 2), "p": (2,), **YX}
    model = Acquisition(settings_for(tmp_path / "a.zarr", axes, "tensorstore"), skipped=())
    with create_stream(model.settings) as stream:
        model.append(stream, 13)
    with pytest.warns(UserWarning, match=r"resumed at frame 8: append frames 8 to 12 again.*not complete"):
        stream = create_stream(model.settings, resume=True)
    with stream:
        assert stream.next_frame == 8
        model.append(stream, 20)
        assert stream.stats.first_frame == 8
        assert stream.stats.frames_appended == 12
    model.check()


PAIRS = [
    ("tensorstore", "direct"),
    ("direct", "tensorstore"),
    ("zarr-python", "direct"),
    ("acquire-zarr", "direct"),
    ("acquire-zarr", "tensorstore"),
]


@pytest.mark.parametrize("shape", ["shards", "files", "positions"])
@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_resume_with_another_backend(tmp_path: Path, first: str, second: str, shape: str) -> None:
    """A dataset that one backend has begun goes on with another one, and with a third."""
    model = Acquisition(settings_for(tmp_path / "a.zarr", SHAPES[shape], first))
    with create_stream(model.settings) as stream:
        model.append(stream, 11)
    for backend, stop in ((second, 17), ("direct", 20), ("zarr-python", 30)):
        settings = settings_for(tmp_path / "a.zarr", SHAPES[shape], backend)
        stream, _ = resumed(settings)
        with stream:
            model.append(stream, stop)
        model.check()


def test_acquire_zarr_does_not_resume(tmp_path: Path) -> None:
    """The backend that can't go on with arrays says so, names one that can, and changes nothing."""
    model = Acquisition(settings_for(tmp_path / "a.zarr", SHAPES["shards"], "acquire-zarr"))
    with create_stream(model.settings) as stream:
        model.append(stream, 5)
    with pytest.raises(UnsupportedError, match=r"'acquire-zarr' can't go on.*'direct'"):
        create_stream(model.settings, resume=True)
    model.check()


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"dtype": "int16"}, 'dtype is "int16", was "uint16"'),
        ({"compression": "zstd"}, "compression is"),
        ({"storage_order": "acquisition"}, 'storage_order is "acquisition", was "ome"'),
    ],
    ids=str,
)
def test_other_settings_are_named(tmp_path: Path, fields: dict[str, Any], named: str) -> None:
    """Settings that say something else of the data are refused by an error that names them; nothing is changed."""
    model = Acquisition(settings_for(tmp_path / "a.zarr", SHAPES["shards"]))
    with create_stream(model.settings) as stream:
        model.append(stream, 5)
    with pytest.raises(ResumeError) as caught:
        create_stream(settings_for(tmp_path / "a.zarr", SHAPES["shards"], **fields), resume=True)
    assert named in str(caught.value)
    assert str(caught.value).count(", was ") == 1
    model.check()


def test_other_dimensions_are_named(tmp_path: Path) -> None:
    """Dimensions that differ in one chunk size are not the same data."""
    model = Acquisition(settings_for(tmp_path / "a.zarr", {"t": (8, 2), **YX}))
    with create_stream(model.settings) as stream:
        model.append(stream, 5)
    with pytest.raises(ResumeError, match=r"dimension t: chunk_size is 4, was 2"):
        create_stream(settings_for(tmp_path / "a.zarr", {"t": (8, 4), **YX}), resume=True)


def test_settings_that_may_change(tmp_path: Path) -> None:
    """Backend, buffer, durability and overwrite say nothing of the data; an existing dataset is not replaced."""
    axes = SHAPES["positions"]
    model = Acquisition(settings_for(tmp_path / "a.zarr", axes))
    with create_stream(model.settings) as stream:
        model.append(stream, 5)
    more: dict[str, Any] = {"overwrite": True, "durability": "system", "buffer": BufferSettings(workers=1)}
    with create_stream(settings_for(tmp_path / "a.zarr", axes, **more), resume=True) as stream:
        assert stream.next_frame == 5
        model.append(stream)
    model.check()


@given(declarations())
def test_the_fingerprint_is_that_of_the_data(settings: AcquisitionSettings) -> None:
    """Settings keep their fingerprint as JSON and under other paths; not with another dtype."""
    settings = settings.model_copy(update={"dtype": settings.dtype or "uint8"})
    same = AcquisitionSettings.model_validate_json(settings.model_dump_json())
    assert fingerprint(same) == fingerprint(settings)
    moved = settings.model_copy(update={"root_path": "elsewhere", "overwrite": not settings.overwrite})
    assert fingerprint(moved) == fingerprint(settings)
    assert fingerprint(
        settings.model_copy(update={"dtype": "int8" if settings.dtype == "uint8" else "uint8"})
    ) != fingerprint(settings)


def test_resume_where_nothing_is(tmp_path: Path) -> None:
    """A program that always resumes begins a dataset when there is none."""
    model = Acquisition(settings_for(tmp_path / "new" / "a.zarr", SHAPES["shards"]))
    with create_stream(model.settings, resume=True) as stream:
        assert stream.next_frame == 0
        model.append(stream)
    model.check()


@pytest.mark.parametrize("backend", RESUMING)
def test_resume_of_a_full_dataset(tmp_path: Path, backend: str) -> None:
    """A dataset that has all of its frames takes no more, and stays as it is."""
    model = Acquisition(settings_for(tmp_path / "a.zarr", SHAPES["transposed"], backend))
    with create_stream(model.settings) as stream:
        model.append(stream)
    with create_stream(model.settings, resume=True) as stream:
        assert stream.next_frame == model.total
        with pytest.raises(FrameCountError):
            stream.append(model.pixels[0])
    model.check()
    assert completeness(stream.path)["closed"]


def test_resume_and_close_at_once(tmp_path: Path) -> None:
    """A stream that goes on and gets no frame leaves the dataset as it was, half full chunks too."""
    model = Acquisition(settings_for(tmp_path / "a.zarr", SHAPES["chunks of 16"]))
    with create_stream(model.settings) as stream:
        model.append(stream, 21)
    for _ in range(2):
        with create_stream(model.settings, resume=True) as stream:
            assert stream.next_frame == 21
        model.check()


@pytest.mark.parametrize("name", ["nothing", "a file", "empty", "other"])
def test_resume_of_what_is_no_dataset(tmp_path: Path, name: str) -> None:
    """What no stream has begun is neither recovered nor resumed; the error says what is missing, nothing is changed."""
    path = tmp_path / "a.zarr"
    if name == "a file":
        path.write_text("text")
    elif name != "nothing":
        path.mkdir()
    if name == "other":
        (path / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    with pytest.raises(NotRecoverableError, match=str(path)):
        recover(path)
    if name != "nothing":
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(NotRecoverableError, match=str(path)):
            create_stream(settings_for(path, SHAPES["shards"]), resume=True)
        assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("text", ["", "{", "[]", '{"settings": 3}', '{"settings": {}, "backend": "direct"}', "\udcff"])
def test_settings_that_are_damaged(tmp_path: Path, text: str) -> None:
    """A dataset whose settings can't be read is refused with the name of the file."""
    model = Acquisition(settings_for(tmp_path / "a.zarr", SHAPES["shards"]))
    with create_stream(model.settings) as stream:
        model.append(stream, 5)
    (stream.path / "ome_writers" / "settings.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(NotRecoverableError, match=r"settings\.json can't be read"):
        recover(stream.path)


@hypothesis_settings(max_examples=25)
@given(st.data(), st.sampled_from(["direct", "tensorstore"]), acquisitions(max_frame_size=12))
def test_any_closing_and_resuming(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, backend: str, drawn: AcquisitionSettings
) -> None:
    """Whatever the acquisition, streams that are closed and go on at any frames write what a single one would."""
    path = tmp_path_factory.mktemp("drawn") / "a.zarr"
    try:
        fields = {**drawn.model_dump(), "root_path": str(path), "format": backend}
        settings = AcquisitionSettings.model_validate(fields)
        model = Acquisition(settings, 12, skipped=data.draw(st.sets(st.integers(0, 20), max_size=6)))
        for stop in sorted(data.draw(st.lists(st.integers(0, model.total), max_size=4))):
            stream, _ = resumed(settings)
            with stream:
                model.append(stream, max(stop, stream.next_frame))
            model.check(path)
        stream, _ = resumed(settings)
        with stream:
            model.append(stream)
        model.check(path)
    finally:
        shutil.rmtree(path.parent)


# ---- a writer that has died ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("axes", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("backend", RESUMING)
def test_recover_and_resume_again_and_again(tmp_path: Path, backend: str, axes: Axes) -> None:
    """Writers that die one after the other: frames on disk are recovered, others named, and the last one completes."""
    model = Acquisition(settings_for(tmp_path / "0.zarr", axes, backend))
    for life, stop in enumerate(stop for stop in (5, 13, 20, 23) if stop < model.total):
        root = tmp_path / f"{life}.zarr"
        stream, _ = resumed(settings_for(root, axes, backend))
        with stream:
            model.append(stream, stop)
            stream.flush()
            dead = crashed(root, tmp_path / f"{life + 1}.zarr")
        report = recover(dead)
        assert report.needed
        assert (report.frames_taken, report.frames_expected) == (stop, model.router.total)
        lost = numbers(report.lost)
        if backend == "direct":
            model.check(dead, lost)
            assert len(lost) <= 16 * 3
        assert not left_over(dead)
        assert completeness(dead)["recovered"]
        assert not recover(dead).needed
    stream, _ = resumed(settings_for(dead, axes, backend))
    with stream:
        model.append(stream)
    model.check(dead)
    validate(dead)


def test_no_frame_is_lost_that_has_left_the_buffer(tmp_path: Path) -> None:
    """Frames of complete chunks are recovered from shards in progress; those of other chunks are named."""
    model = Acquisition(settings_for(tmp_path / "a.zarr", {"t": (None, 4, 100), "p": (2,), **YX}), skipped=())
    with create_stream(model.settings) as stream:
        model.append(stream, 21)
        stream.flush()
        dead = crashed(stream.path, tmp_path / "dead.zarr")
    report = recover(dead)
    assert report.lost == (range(16, 21),)
    assert (report.frames_written, report.frames_lost, report.shards_completed) == (16, 5, 2)
    model.check(dead, range(16, 21))


@pytest.mark.parametrize("backend", RESUMING)
def test_frames_of_a_chunk_that_was_half_full(tmp_path: Path, backend: str) -> None:
    """A stream that goes on in a chunk and dies before it is full has lost its own frames, not the earlier ones."""
    axes: Axes = {"t": (None, 8), **YX}
    model = Acquisition(settings_for(tmp_path / "a.zarr", axes, backend), skipped=())
    with create_stream(model.settings) as stream:
        model.append(stream, 5)
    stream, _ = resumed(model.settings)
    with stream:
        model.append(stream, 7)
        stream.flush()
        dead = crashed(stream.path, tmp_path / "dead.zarr")
    report = recover(dead)
    lost = numbers(report.lost)
    assert {5, 6} <= lost
    if backend == "direct":
        assert lost == {5, 6}
        model.check(dead, lost)
    stream, _ = resumed(settings_for(dead, axes, backend))
    with stream:
        model.append(stream)
    model.check(dead)


@pytest.mark.parametrize("compression", ["none", "blosc-lz4"])
@pytest.mark.parametrize(
    "axes",
    [
        {"t": (None, 8), "y": (4, 2), "x": (6, 3)},
        {"t": (None, 8, 1), "y": (4, 2, 1), "x": (6, 3, 1)},
        {"t": (16, 8, 1), "y": (4, 2, 2), "x": (6,)},
    ],
    ids=["files", "shards in the frame", "shards"],
)
def test_a_chunk_that_was_half_full_and_half_written(tmp_path: Path, axes: Axes, compression: str) -> None:
    """A stream that dies while it writes a layer of chunks anew leaves no half of a frame, and all earlier frames."""
    model = Acquisition(settings_for(tmp_path / "a.zarr", axes, compression=compression), skipped=())
    with create_stream(model.settings) as stream:
        model.append(stream, 5)
    stream, _ = resumed(model.settings)
    with stream:
        model.append(stream, 7)
        stream.flush()
        dead = crashed(stream.path, tmp_path / "dead.zarr")
    written = sorted(file for file in (stream.path / "0" / "c").rglob("*") if file.is_file())
    for file in written[: max(1, len(written) // 2)]:  # these chunks are new in the dead one, too
        shutil.copy2(file, dead / file.relative_to(stream.path))
    report = recover(dead)
    assert report.lost == (range(5, 7),)
    model.check(dead, range(5, 7))
    validate(dead)
    stream, _ = resumed(settings_for(dead, axes, compression=compression))
    with stream:
        assert stream.next_frame == 5
        model.append(stream, 16)
    model.check(dead)


@pytest.mark.parametrize("shape", ["chunks of 16", "shards", "positions", "files"])
@pytest.mark.parametrize("skipped", [(), SKIPPED], ids=["no skips", "skips"])
def test_a_writer_that_dies_while_it_closes(
    tmp_path: Path, shape: str, skipped: Iterable[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whenever ``close`` is interrupted, every frame is there after recovery: all are on disk before close says so."""
    model = Acquisition(settings_for(tmp_path / "a.zarr", SHAPES[shape]), skipped=skipped)
    dead: list[Path] = []

    class Watched(FileSystem):
        """Takes a copy of the dataset before each file gets its name."""

        def replace(self, source: Path, target: Path) -> None:
            dead.append(crashed(tmp_path / "a.zarr", tmp_path / f"dead{len(dead)}.zarr"))
            super().replace(source, target)

    with create_stream(model.settings) as stream:
        model.append(stream, 21)
        stream.flush()
        monkeypatch.setattr(_files, "system", Watched())
    monkeypatch.undo()
    assert len(dead) >= 2
    for copy in dead:
        report = recover(copy)
        assert report.frames_taken == 21
        model.check(copy, numbers(report.lost))
    assert not report.lost


def test_a_recovery_that_dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever recovery is interrupted, the next one gives the same dataset and the same report."""
    model = Acquisition(settings_for(tmp_path / "a.zarr", {"t": (None, 2, 4), "p": (2,), "y": (4, 2, 1), "x": (6,)}))
    with create_stream(model.settings) as stream:
        model.append(stream, 23)
        stream.flush()
        dead = crashed(stream.path, tmp_path / "dead.zarr")
        again = [crashed(stream.path, tmp_path / "again.zarr")]

    class Watched(FileSystem):
        """Takes a copy of the dataset before each file gets its name."""

        def replace(self, source: Path, target: Path) -> None:
            again.append(crashed(dead, tmp_path / f"again{len(again)}.zarr"))
            super().replace(source, target)

    monkeypatch.setattr(_files, "system", Watched())
    report = recover(dead)
    monkeypatch.undo()
    assert len(again) >= 6
    for copy in again:
        repeated = recover(copy)
        assert (repeated.frames_taken, repeated.lost) == (report.frames_taken, report.lost)
        model.check(copy, numbers(report.lost))
        assert not left_over(copy)


@pytest.mark.parametrize(
    "axes", [{"t": (None, 2, 3), "y": (4, 2, 1), "x": (6,)}, {"t": (8, 2), "y": (4, 2), "x": (6,)}]
)
def test_chunks_of_frames_that_are_not_whole_are_taken_out(tmp_path: Path, axes: Axes) -> None:
    """A frame of which one chunk is missing is lost as a whole: what is left of it reads as 0."""
    model = Acquisition(settings_for(tmp_path / "a.zarr", axes), 12, skipped=())
    with create_stream(model.settings) as stream:
        model.append(stream, 8)
        stream.flush()
        dead = crashed(stream.path, tmp_path / "dead.zarr")
    folder = dead / "0" / "c"
    sharded = (dead / "ome_writers" / "writing").exists() and axes["t"][0] is None
    victim = folder / "0" / "1" / "0"
    victim.unlink()
    report = recover(dead)
    lost = set(range(6)) if sharded else {0, 1}
    assert numbers(report.lost) == lost
    assert report.chunks_dropped == len(lost) // 2
    model.check(dead, lost)


def test_what_a_killed_writer_leaves_of_documents(tmp_path: Path) -> None:
    """Documents that were being written are removed; files of others stay."""
    model = Acquisition(settings_for(tmp_path / "a.zarr", SHAPES["positions"]))
    with create_stream(model.settings) as stream:
        model.append(stream, 5)
        dead = crashed(stream.path, tmp_path / "dead.zarr")
    image = plan_layout(model.settings).images[1]
    partial = [
        dead / ".zarr.json.01ab23cd.partial",
        dead / image.array_path / ".zarr.json.01ab23cd.partial",
        dead / "OME" / ".METADATA.ome.xml.01ab23cd.partial",
        dead / "ome_writers" / ".frames.txt.0.partial",
    ]
    foreign = [dead / ".notes.partial", dead / "OME" / "zarr.json.partial"]
    for file in [*partial, *foreign]:
        file.write_text("{")
    report = recover(dead)
    assert report.files_removed >= len(partial)
    assert not any(file.exists() for file in partial)
    assert all(file.exists() for file in foreign)


def test_metadata_of_frames_that_are_taken_again(tmp_path: Path) -> None:
    """Frames that are appended again have the metadata of the last time, and none if the writer dies before."""
    axes: Axes = {"t": (None, 8), "p": (2,), **YX}
    model = Acquisition(settings_for(tmp_path / "a.zarr", axes, "tensorstore"), skipped=())
    with create_stream(model.settings) as stream:
        model.append(stream, 9)
    stream, _ = resumed(model.settings)
    with stream:
        assert stream.next_frame == 0
        dead = crashed(stream.path, tmp_path / "dead.zarr")
        stream.append(model.pixels[0], frame_metadata={"again": 1})
    recover(dead)
    assert [group.get("frame_metadata") for group in model.groups(dead)] == [None, None]
    found = [group.get("frame_metadata") for group in model.groups(stream.path)]
    assert found == [[{"again": 1, "storage_index": [0]}], None]


def test_records_and_planes_go_on(tmp_path: Path) -> None:
    """The file of records is continued, without what a dead writer has left half, and OME-XML has all planes."""
    axes: Axes = {"t": (None, 2, 2), "p": (2,), **YX}
    settings = settings_for(tmp_path / "a.zarr", axes)
    pixels = random_pixels((12, 4, 6), "uint16")
    with create_stream(settings) as stream:
        for number in range(9):
            stream.append(pixels[number], frame_metadata={"delta_t": number / 2})
        stream.flush()
        dead = crashed(stream.path, tmp_path / "dead.zarr")
    file = dead / "ome_writers" / "frames.jsonl"
    with file.open("a") as records:
        records.write('{"frame":9,"image":"p')
    recover(dead)
    assert [json.loads(line)["frame"] for line in file.read_text().splitlines()] == list(range(9))
    assert delta_t(dead) == [number / 2 for number in range(9)]
    stream, _ = resumed(settings_for(dead, axes))
    with stream:
        first = stream.next_frame
        assert first == 8
        for number in range(first, 12):
            stream.append(pixels[number], frame_metadata={"delta_t": number + 0.25})
    assert [json.loads(line)["frame"] for line in file.read_text().splitlines()] == list(range(12))
    assert delta_t(dead) == sorted([*(n / 2 for n in range(8)), *(n + 0.25 for n in range(8, 12))])


def delta_t(root: Path) -> list[float]:
    """Return the times of all planes in the OME-XML document of a dataset."""
    ome = ome_types.from_xml((root / "OME" / "METADATA.ome.xml").read_text(encoding="utf-8"))
    planes = [plane for image in ome.images for plane in image.pixels.planes]
    return sorted(plane.delta_t for plane in planes if plane.delta_t is not None)


def test_completeness_while_writing(tmp_path: Path) -> None:
    """From the first moment on a dataset says that it is not closed; what a client writes does not change that."""
    model = Acquisition(settings_for(tmp_path / "a.zarr", SHAPES["files"]))
    with create_stream(model.settings) as stream:
        assert completeness(stream.path) == {
            "frames_expected": None,
            "frames_taken": 0,
            "frames_written": 0,
            "frames_skipped": 0,
            "frames_lost": [],
            "closed": False,
            "recovered": False,
            "first_frame": 0,
        }
        stream.update_metadata({".": {"ome_writers": {"completeness": {"closed": True}}, "mine": 1}})
        assert not completeness(stream.path)["closed"]
        model.append(stream, 6)
    assert completeness(stream.path)["frames_taken"] == 6
    assert completeness(stream.path)["closed"]


def test_a_report_in_words() -> None:
    """A report tells everything in words and as JSON, and names not more runs than can be read."""
    runs = tuple(range(n, n + 2) for n in range(0, 60, 5))
    report = RecoveryReport(Path("a.zarr"), True, None, 60, 30, 6, runs, 3, 1, 2, ("a/c/0",))
    words = str(report)
    for text in ("3 shards were given their index", "60 frames were taken", "24 are lost", "0 to 1, 5 to 6", "a/c/0"):
        assert text in words
    assert "and 2 more runs" in words
    assert json.loads(json.dumps(report.as_dict()))["lost"][1] == [5, 6]
    complete = RecoveryReport(Path("a.zarr"), False, 5, 5, 5, 0, ())
    assert "nothing was to be done" in str(complete)
    assert "5 frames of 5 declared" in str(complete)


# ---- the lock ------------------------------------------------------------------------------------------------------


COMMAND = [sys.executable, "-c", "from ome_writers.cli import main; main()", "recover"]


def run_recover(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run ``ome-writers recover``."""
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False)


def test_the_command(tmp_path: Path) -> None:
    """``recover`` refuses while a process writes, without a traceback; then it tells what it did in words or JSON."""
    model = Acquisition(settings_for(tmp_path / "a.zarr", {"t": (None, 4, 5), **YX}), skipped=())
    with create_stream(model.settings) as stream:
        model.append(stream, 10)
        stream.flush()
        dead = crashed(stream.path, tmp_path / "dead.zarr")
        refused = run_recover(stream.path)
    assert refused.returncode == 1
    assert f"is being written by process {os.getpid()}" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not refused.stdout
    done = run_recover(dead)
    assert done.returncode == 0
    assert "8 are on disk" in done.stdout
    assert "frames 8 to 9" in done.stdout
    as_json = json.loads(run_recover(dead, "--json").stdout)
    assert (as_json["needed"], as_json["lost"], as_json["frames_written"]) == (False, [[8, 9]], 8)
    missing = run_recover(tmp_path / "none.zarr")
    assert missing.returncode == 1
    assert missing.stderr.startswith("error: ")
    assert "Traceback" not in missing.stderr


PROGRAM = """
import sys
from ome_writers import AcquisitionSettings, create_stream
stream = create_stream(AcquisitionSettings.model_validate_json(sys.argv[1]))
print("ready", flush=True)
sys.stdin.read()
"""


def test_the_lock_dies_with_its_process(tmp_path: Path) -> None:
    """A dataset is locked while the process that writes to it lives, and free when it was killed."""
    settings = settings_for(tmp_path / "a.zarr", SHAPES["shards"])
    command = [sys.executable, "-c", PROGRAM, settings.model_dump_json()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        for attempt in (lambda: recover(tmp_path / "a.zarr"), lambda: create_stream(settings, resume=True)):
            with pytest.raises(DatasetInUseError, match=f"process {process.pid}"):
                attempt()
        process.kill()
        process.wait(30)
    assert recover(tmp_path / "a.zarr").frames_taken == 0
    with create_stream(settings, resume=True) as stream:
        assert stream.next_frame == 0


def test_a_lock_is_held_by_one(tmp_path: Path) -> None:
    """A lock is free again after its release, which may be done twice, and for everybody in a copy."""
    (tmp_path / "ome_writers").mkdir()
    lock = DatasetLock(tmp_path)
    with pytest.raises(DatasetInUseError, match=f"process {os.getpid()}"):
        DatasetLock(tmp_path)
    with pytest.raises(DatasetInUseError):
        check_unlocked(tmp_path)
    copy = crashed(tmp_path, tmp_path.with_name("copy"))
    check_unlocked(copy)
    DatasetLock(copy).release()
    lock.release()
    lock.release()
    check_unlocked(tmp_path)
    assert not (tmp_path / "ome_writers" / "lock").exists()
    DatasetLock(tmp_path).release()


@pytest.mark.skipif(os.name == "nt", reason="the file is looked at where an open one can be deleted")
def test_an_interruption_leaves_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while a lock is released does not leave it held by a process that knows nothing of it."""
    (tmp_path / "ome_writers").mkdir()
    lock = DatasetLock(tmp_path)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("os.path.samestat", interrupt)
        with pytest.raises(KeyboardInterrupt):
            lock.release()
    check_unlocked(tmp_path)
    lock.release()
    DatasetLock(tmp_path).release()


def test_a_lock_that_two_threads_release(tmp_path: Path) -> None:
    """One of them closes its file; the number of a file that is closed twice may be that of another one by then."""
    (tmp_path / "ome_writers").mkdir()
    errors: list[OSError] = []

    def release(lock: DatasetLock, both: threading.Barrier) -> None:
        both.wait(10)
        try:
            lock.release()
        except OSError as error:
            errors.append(error)

    for _ in range(300):
        lock, both = DatasetLock(tmp_path), threading.Barrier(2)
        threads = [threading.Thread(target=release, args=(lock, both)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
    assert not errors
    check_unlocked(tmp_path)


FORKING = """
import os, sys
from pathlib import Path
from ome_writers._lock import DatasetLock, check_unlocked
from ome_writers.errors import DatasetInUseError

root = Path(sys.argv[1])
lock = DatasetLock(root)
read, write = os.pipe()
if not (first := os.fork()):
    lock.release()  # must not be that of the parent
    os._exit(0)
os.waitpid(first, 0)
try:
    check_unlocked(root)
except DatasetInUseError:
    print("held")
if not (second := os.fork()):
    os.close(write)
    os.read(read, 1)  # until the parent has closed its end
    os._exit(0)
lock.release()
DatasetLock(root).release()  # the child that lives does not hold it
print("free")
os.close(write)
os.waitpid(second, 0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a call of POSIX systems")
def test_a_lock_is_not_inherited(tmp_path: Path) -> None:
    """A child process neither releases the lock of its parent when it ends, nor keeps it when the parent does."""
    (tmp_path / "ome_writers").mkdir()
    command = [sys.executable, "-c", FORKING, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.split() == ["held", "free"]


# ---- what is known of frames ---------------------------------------------------------------------------------------


class SlowFiles(FileSystem):
    """A file system whose writes take as long as a test says, on a clock of its own."""

    def __init__(self) -> None:
        self.now = 0.0
        self.seconds = 0.0
        self.calls = 0

    def perf_counter(self) -> float:
        """Return the time."""
        return self.now

    def write(self, file: FileIO, offset: int, *pieces: memoryview) -> int:
        """Write everything, and let time pass."""
        self.calls += 1
        self.now += self.seconds
        return super().write(file, offset, *pieces)


@pytest.fixture
def slow_files(monkeypatch: pytest.MonkeyPatch) -> SlowFiles:
    """Have fates written to a file system with a clock of its own."""
    slow = SlowFiles()
    monkeypatch.setattr(_files, "system", slow)
    monkeypatch.setattr("ome_writers.engine._fates.time", slow)
    return slow


def test_every_frame_is_noted_at_once(tmp_path: Path, slow_files: SlowFiles) -> None:
    """A call that takes long now and then, on a busy machine, delays no note."""
    fates = FrameFates(tmp_path / "frames.txt")
    for number in range(50):
        slow_files.seconds = 0.0 if number % 7 == 0 else 0.01
        fates.note(number, APPENDED)
        assert len(read_fates(tmp_path / "frames.txt")) == number + 1
    fates.close()


def test_a_slow_file_system_delays_notes_not_frames(tmp_path: Path, slow_files: SlowFiles) -> None:
    """Where every call takes long, a tenth of the time is spent on notes, and nothing is forgotten."""
    slow_files.seconds = 0.01
    fates = FrameFates(tmp_path / "frames.txt")
    for number in range(1, 1001):
        fates.note(number - 1, APPENDED)
        slow_files.now += 0.001
        noted = len(read_fates(tmp_path / "frames.txt"))
        assert number - noted <= 0.1 / 0.001
    assert slow_files.calls <= 8 + 1.0 / (10 * 0.01) * 2
    fates.drain()
    assert len(read_fates(tmp_path / "frames.txt")) == 1000
    fates.close()


def test_notes_that_fail_slowly_are_few(tmp_path: Path, slow_files: SlowFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where every call takes long and then fails, a camera does not wait for each of them."""
    fates = FrameFates(tmp_path / "frames.txt")

    def fail(file: FileIO, offset: int, *pieces: memoryview) -> int:
        del file, offset, pieces
        slow_files.calls += 1
        slow_files.now += 30.0
        raise OSError(errno.EIO, "gone")

    with monkeypatch.context() as patch:
        patch.setattr(slow_files, "write", fail)
        for number in range(64):
            fates.note(number, APPENDED)
        assert slow_files.calls == 8
    fates.close()
    assert len(read_fates(tmp_path / "frames.txt")) == 64


def test_nothing_is_written_when_nothing_waits(tmp_path: Path, slow_files: SlowFiles) -> None:
    """To drain up to a frame whose note is still to come makes no system call."""
    fates = FrameFates(tmp_path / "frames.txt")
    fates.note(0, APPENDED)
    fates.drain(1)
    fates.drain(2)
    assert slow_files.calls == 1
    fates.close()


def test_what_is_settled_stays_settled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that writes notes which another one has just changed does not bring back what they were before."""
    begun, gate = threading.Event(), threading.Event()

    class Files(FileSystem):
        def write(self, file: FileIO, offset: int, *pieces: memoryview) -> int:
            if threading.current_thread() is threading.main_thread():
                raise OSError(errno.EIO, "not now")  # so that the notes wait for the next thread
            if threading.current_thread() is draining:
                begun.set()
                assert gate.wait(30)
            return super().write(file, offset, *pieces)

    fates = FrameFates(tmp_path / "frames.txt", b"", 3)
    monkeypatch.setattr(_files, "system", Files())
    for number in range(3):
        fates.note(number, APPENDED)
    draining, settling = (threading.Thread(target=call) for call in (fates.drain, lambda: fates.settle([0, 1, 2])))
    draining.start()
    assert begun.wait(30)
    settling.start()
    settling.join(0.05)
    gate.set()
    draining.join(30)
    settling.join(30)
    fates.close()
    assert read_fates(tmp_path / "frames.txt").tolist() == [APPENDED] * 3


class GatedFiles(FileSystem):
    """A file system whose first write waits."""

    def __init__(self) -> None:
        self.begun, self.gate = threading.Event(), threading.Event()

    def write(self, file: FileIO, offset: int, *pieces: memoryview) -> int:
        """Wait, then write."""
        self.begun.set()
        assert self.gate.wait(30)
        return super().write(file, offset, *pieces)


def test_writing_does_not_wait_for_the_note_of_a_later_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame whose note stands is written while the note of the next one is still being written."""
    begun, gate, busy, written = (threading.Event() for _ in range(4))

    class Files(FileSystem):
        def write(self, file: FileIO, offset: int, *pieces: memoryview) -> int:
            if Path(str(file.name)).name == "frames.txt" and offset == 1:
                begun.set()
                assert gate.wait(30)
            done = super().write(file, offset, *pieces)
            if Path(str(file.name)).parent.name == "writing":
                written.set()
            return done

    def hold() -> None:
        assert busy.wait(30)

    stream = create_stream(settings_for(tmp_path / "a.ome.zarr", {"t": (2,), **YX}))
    monkeypatch.setattr(_files, "system", Files())
    for _ in range(stream.stats.workers):
        stream._engine._workers.submit(hold)
    stream.append(np.ones((4, 6), np.uint16))
    appending = threading.Thread(target=lambda: stream.append(np.ones((4, 6), np.uint16)))
    appending.start()
    try:
        assert begun.wait(30)
        busy.set()
        assert written.wait(10)
    finally:
        busy.set()
        gate.set()
        appending.join()
        stream.close()
    assert (read_images(stream.path)[0] == 1).all()


def test_draining_waits_for_records_of_other_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who drains records may rely on all of them being in the file, also when another thread is writing them."""
    files = GatedFiles()
    monkeypatch.setattr(_files, "system", files)
    log, order = RecordLog(tmp_path / "frames.jsonl", [""]), []
    log.add(0, 0, (0,), "{}")

    def drain(name: str) -> None:
        log.drain()
        order.append((name, (tmp_path / "frames.jsonl").stat().st_size > 0))

    first = threading.Thread(target=drain, args=("first",))
    first.start()
    assert files.begun.wait(30)
    second = threading.Thread(target=drain, args=("second",))
    second.start()
    second.join(0.05)
    assert not order
    files.gate.set()
    first.join(30)
    second.join(30)
    assert sorted(order) == [("first", True), ("second", True)]
    log.close()


# ---- samples of the campaigns ----------------------------------------------------------------------------------------


@pytest.mark.faults
@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX systems")
@pytest.mark.parametrize("seed", range(6))
def test_killed_at_a_random_instant(tmp_path: Path, seed: int) -> None:
    """A sample of the campaign of kills; the seed stands in the test's name."""
    result = kill.run(kill.Case.drawn(seed), tmp_path)
    assert result.kills
    assert not result.failures


@pytest.mark.faults
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="signals of POSIX systems")
@pytest.mark.parametrize("durability", ["process", "system"])
def test_files_that_are_cut_off(tmp_path: Path, durability: truncate.Durability) -> None:
    """A sample of the campaign of files that are cut off or changed."""
    truncate.write_and_die(tmp_path / "data.zarr", durability)
    tally, rng = truncate.Tally(durability), random.Random(0)  # noqa: S311  not for secrets
    everything = list(truncate.damages(tmp_path / "data.zarr", durability, rng, 40))
    for damage in (damage for n, damage in enumerate(everything) if n % 17 == 0 or damage.flip):
        truncate.try_damage(tmp_path / "data.zarr", tmp_path, damage, tally)
    assert len(tally.cases) >= 5
    assert not tally.messages


# ---- more ways to end ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axes", [{}, {"p": (3,)}], ids=["one frame", "one frame each"])
@pytest.mark.parametrize("tiles", [(16,), (16, 8, 2)], ids=["files", "shards"])
def test_frames_without_an_index_are_recovered(
    tmp_path: Path, axes: dict[str, tuple[int, ...]], tiles: tuple[int, ...]
) -> None:
    """A single image, or one of each position: there is no axis to count along, but there are chunks."""
    settings = settings_for(tmp_path / "a.ome.zarr", {**axes, "y": tiles, "x": tiles})
    stream = create_stream(settings)
    stream.append(np.full((16, 16), 7, np.uint16))
    stream.flush()
    copied = tmp_path / "copy.ome.zarr"
    shutil.copytree(stream.path, copied)
    stream.close()
    report = recover(copied)
    assert (report.frames_taken, report.frames_written, report.lost) == (1, 1, ())
    assert (read_images(copied)[0] == 7).all()


def test_a_continued_shard_is_on_the_medium_before_the_journal_speaks_of_it(tmp_path: Path) -> None:
    """With durability "system", what was copied from a complete shard is synced before its journal entry is written."""
    settings = settings_for(tmp_path / "a.ome.zarr", {"t": (8, 1, 8), **YX}, durability="system")
    with create_stream(settings) as stream:
        for _ in range(4):
            stream.append(np.ones((4, 6), np.uint16))
    calls: list[str] = []

    class Noting(FileSystem):
        def write(self, file: FileIO, offset: int, *pieces: memoryview) -> int:
            calls.append(f"write {Path(str(file.name)).name}")
            return super().write(file, offset, *pieces)

        def sync(self, file: FileIO) -> None:
            calls.append(f"sync {Path(str(file.name)).name}")
            super().sync(file)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_files, "system", Noting())
        with create_stream(settings, resume=True) as stream:
            stream.append(np.ones((4, 6), np.uint16))
            stream.flush()
            assert calls.index("sync 0-0.0.0") < calls.index("write journal")


def test_a_damaged_copy_does_not_replace_a_complete_shard(tmp_path: Path) -> None:
    """After a power failure the copy of a shard may be long enough and hold other bytes: the shard itself stays."""
    settings = settings_for(tmp_path / "a.ome.zarr", {"t": (8, 1, 8), **YX})
    with create_stream(settings) as stream:
        for _ in range(4):
            stream.append(np.ones((4, 6), np.uint16))
    stream = create_stream(settings, resume=True)
    stream.append(np.ones((4, 6), np.uint16))
    stream.flush()
    copied = tmp_path / "copy.ome.zarr"
    shutil.copytree(stream.path, copied)
    stream.close()
    shard = copied / WRITING_FOLDER / "0-0.0.0"
    shard.write_bytes(bytes(shard.stat().st_size))
    report = recover(copied)
    assert (report.frames_written, report.lost) == (4, (range(4, 5),))
    assert (read_images(copied)[0][:4] == 1).all()


def test_recovery_of_durable_datasets_is_durable(tmp_path: Path) -> None:
    """What recovery completes is on the medium before the root says so, and before the journal goes."""
    settings = settings_for(tmp_path / "a.ome.zarr", {"t": (8, 1, 8), **YX}, durability="system")
    stream = create_stream(settings)
    stream.append(np.ones((4, 6), np.uint16))
    stream.flush()
    copied = tmp_path / "copy.ome.zarr"
    shutil.copytree(stream.path, copied)
    stream.close()
    calls: list[str] = []

    class Noting(FileSystem):
        def sync(self, file: FileIO) -> None:
            calls.append(Path(str(file.name)).name)
            super().sync(file)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_files, "system", Noting())
        assert recover(copied).frames_written == 1
    assert calls[0] == "0-0.0.0"
    assert ".zarr.json" in calls[-1]


def test_recovery_goes_by_the_last_backend(tmp_path: Path) -> None:
    """A dataset that another backend has begun is recovered by the promise of the one that went on with it."""
    settings = settings_for(tmp_path / "a.ome.zarr", {"t": (8, 1, 4), **YX}, "tensorstore")
    with create_stream(settings) as stream:
        for _ in range(4):
            stream.append(np.ones((4, 6), np.uint16))
    settings.format = "direct"  # type: ignore[assignment]
    with create_stream(settings, resume=True) as stream:
        assert json.loads((stream.path / "ome_writers" / "settings.json").read_text())["backend"] == "direct"


def test_numbers_of_many_frames_are_those_of_each(tmp_path: Path) -> None:
    """Both ways between numbers and places of many frames at once agree with those of one frame."""
    del tmp_path
    layout = plan_layout(acquisition({"t": (5,), "p": (3,), "c": (2,), "z": (4,), "y": (4,), "x": (4,)}))
    router = Router(layout.axes)
    numbers = np.arange(router.total or 0)
    arrays, indices = router.locate_many(numbers)
    assert [(int(a), tuple(i.tolist())) for a, i in zip(arrays, indices.T, strict=True)] == [
        router.locate(number) for number in numbers.tolist()
    ]
    assert (router.number_many(arrays, list(indices)) == numbers).all()


def test_undoing_leaves_the_folder_of_somebody_else(tmp_path: Path) -> None:
    """A dataset that another process has made in the place of this one is not deleted with it."""
    folder = DatasetFolder(tmp_path / "a.zarr")
    folder.create({".": {"zarr_format": 3, "node_type": "group"}}, {})
    folder.root.rename(tmp_path / "moved.zarr")
    folder.root.mkdir()
    (folder.root / "theirs").touch()
    folder.undo()
    assert (folder.root / "theirs").exists()
