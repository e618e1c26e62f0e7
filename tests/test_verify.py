"""``verify``: datasets that are whole, by many writers, and each kind of damage by its name."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore as ts
import zarr
from yaozarrs import v05
from yaozarrs.write.v05 import write_bioformats2raw, write_image, write_plate

from campaigns import flips
from ome_writers import AcquisitionSettings, create_stream
from ome_writers._verify import VerificationReport, verify
from ome_writers._verify import _chunks as chunks_module
from ome_writers.errors import NotADatasetError, SettingsError, UnsupportedError

COMMAND = [sys.executable, "-c", "from ome_writers.cli import main; main()"]
BOTH = ["left", "right"]


def settings(
    path: Path,
    *,
    backend: str = "direct",
    count: int | None = 6,
    positions: Any = None,
    sharded: bool = True,
    compression: Any = "blosc-lz4",
    **more: Any,
) -> AcquisitionSettings:
    """Return settings of frames of 20 x 30 pixels in 2 x 2 chunks; chunks of two time points, shards of two chunks."""
    shards = {"shard_size_chunks": 2} if sharded else {}
    dimensions = [
        {"name": "t", "count": count, "type": "time", "chunk_size": 2, **shards},
        *([] if positions is None else [{"name": "p", "type": "position", "coords": positions}]),
        {"name": "c", "count": 2, "type": "channel"},
        {"name": "y", "count": 20, "type": "space", "chunk_size": 16},
        {"name": "x", "count": 30, "type": "space", "chunk_size": 16},
    ]
    return AcquisitionSettings.model_validate(
        {
            "root_path": str(path),
            "dtype": "uint16",
            "format": {"name": "ome-zarr", "backend": backend},
            "compression": compression,
            "dimensions": dimensions,
            **more,
        }
    )


def write(what: AcquisitionSettings, frames: int, skipped: frozenset[int] | set[int] = frozenset()) -> Path:
    """Write frames, of which some are skipped; the first one is black."""
    with create_stream(what) as stream:
        for number in range(frames):
            if number in skipped:
                stream.skip()
            else:
                stream.append(np.full((20, 30), number, np.uint16))
    return Path(what.root_path)


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """Return a dataset of 24 frames: 6 time points, of 2 positions, of 2 channels."""
    return write(
        settings(tmp_path / "whole.ome.zarr", positions=BOTH, compression={"name": "zstd", "checksum": True}), 24
    )


def numbers(frames: Any) -> list[int]:
    """Return the numbers in the ranges of a report."""
    found = [number for run in frames.ranges for number in run]
    assert len(found) == frames.count
    return found


def change(file: Path, offset: int, mask: int = 0x10) -> None:
    """Change a byte of a file, counted from the end if the offset is negative."""
    data = bytearray(file.read_bytes())
    data[offset] ^= mask
    file.write_bytes(data)


def edit(file: Path, change_it: Callable[[dict[str, Any]], object]) -> None:
    """Change a JSON document."""
    document = json.loads(file.read_text())
    change_it(document)
    file.write_text(json.dumps(document))


def has(report: VerificationReport, *words: str) -> bool:
    """Tell whether one of the problems has all these words."""
    return any(all(word in problem for word in words) for problem in report.problems)


# ---- what is whole -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sharded", [True, False], ids=["sharded", "unsharded"])
@pytest.mark.parametrize("count", [6, None], ids=["bounded", "unbounded"])
def test_datasets_of_every_backend_are_ok(backend: str, count: int | None, sharded: bool, tmp_path: Path) -> None:
    """All frames are found as they were appended or skipped, black ones and those beyond the last whole chunk too."""
    what = settings(tmp_path / "a.ome.zarr", backend=backend, count=count, positions=BOTH, sharded=sharded)
    report = verify(write(what, 22, skipped={3, 4, 17}))
    assert report.ok, str(report)
    assert report.problems == ()
    assert report.frames is not None
    assert (report.frames.expected, report.frames.taken) == (None if count is None else 24, 22)
    assert report.frames.not_acquired == (None if count is None else 2)
    assert report.frames.written == 19
    assert numbers(report.frames.skipped) == [3, 4, 17]
    assert not report.frames.missing.count
    assert {array.path: array.chunks for array in report.arrays} == {"left/0": 24, "right/0": 24}
    assert all(array.corrupt == array.unchecked == array.unexpected == 0 for array in report.arrays)


@pytest.mark.parametrize("compression", ["none", "zstd", "blosc-zstd", {"name": "zstd", "checksum": True}])
def test_early_end_and_layers_that_were_skipped(compression: Any, tmp_path: Path) -> None:
    """A chunk whose frames were all skipped is missing, and no frame is; frames that were not acquired are counted."""
    what = settings(tmp_path / "a.ome.zarr", compression=compression)
    report = verify(write(what, 7, skipped={0, 2}))  # both time points of the first channel
    assert report.ok, str(report)
    assert report.frames is not None
    assert (report.frames.written, report.frames.not_acquired) == (5, 5)
    assert numbers(report.frames.skipped) == [0, 2]
    (array,) = report.arrays
    assert (array.path, array.shape) == ("0", (6, 2, 20, 30))
    assert array.written == 3 * 4
    assert array.missing == array.chunks - array.written


def test_plates_and_stacks_are_ok(tmp_path: Path) -> None:
    """A plate, and an axis beyond the fifth that is split into images, verify frame by frame too."""
    plate = settings(
        tmp_path / "plate.ome.zarr",
        positions=[
            {"name": "f0", "plate_row": "A", "plate_column": "1"},
            {"name": "f0", "plate_row": "B", "plate_column": "2"},
        ],
        plate={"row_names": ["A", "B"], "column_names": ["1", "2"]},
    )
    report = verify(write(plate, 24))
    assert report.ok, str(report)
    assert report.frames is not None
    assert report.frames.written == 24
    assert len(report.arrays) == 2


def ngff_image(levels: int = 2) -> tuple[v05.Image, list[np.ndarray[Any, Any]]]:
    """Return an image of several levels: metadata of yaozarrs and pixels."""
    pixels = np.random.default_rng(0).integers(1, 200, (3, 40, 50)).astype(np.uint16)
    axes: list[Any] = [v05.TimeAxis(name="t"), v05.SpaceAxis(name="y"), v05.SpaceAxis(name="x")]
    datasets = [
        v05.Dataset(
            path=str(level),
            coordinateTransformations=[v05.ScaleTransformation(scale=[1.0, 2.0**level, 2.0**level])],
        )
        for level in range(levels)
    ]
    image = v05.Image(multiscales=[v05.Multiscale(name="x", axes=axes, datasets=datasets)])
    return image, [pixels[:, :: 2**level, :: 2**level] for level in range(levels)]


@pytest.mark.parametrize("shards", [None, (2, 32, 32)])
@pytest.mark.parametrize("compression", ["blosc-zstd", "blosc-lz4", "zstd", "none"])
@pytest.mark.parametrize("writer", ["zarr", "tensorstore"])
def test_images_of_others_are_ok(writer: Any, compression: Any, shards: Any, tmp_path: Path) -> None:
    """An image with levels, written by yaozarrs with zarr-python or tensorstore, is whole; it has no frames."""
    image, levels = ngff_image()
    path = write_image(
        tmp_path / "i.zarr", image, levels, writer=writer, chunks=(1, 16, 16), shards=shards, compression=compression
    )
    report = verify(path)
    assert report.ok, str(report)
    assert report.frames is None
    assert [(a.path, a.written, a.missing) for a in report.arrays] == [("0", 36, 0), ("1", 12, 0)]


def test_collections_and_plates_of_others_are_ok(tmp_path: Path) -> None:
    """Every member of a collection (bioformats2raw) and of a plate is looked at."""
    image, levels = ngff_image(1)
    report = verify(write_bioformats2raw(tmp_path / "b.zarr", {"0": (image, levels), "1": (image, levels)}))
    assert report.ok, str(report)
    assert [array.path for array in report.arrays] == ["0/0", "1/0"]
    report = verify(write_plate(tmp_path / "p.zarr", {("A", "1", "0"): (image, levels)}))
    assert report.ok, str(report)
    assert [array.path for array in report.arrays] == ["A/1/0/0"]


def test_missing_chunks_of_others_are_no_fault(tmp_path: Path) -> None:
    """In a dataset that says nothing about frames, a chunk that is not there has the fill value: counted, and ok."""
    array = zarr.create_array(tmp_path / "a.zarr", shape=(10, 10), chunks=(4, 4), dtype="u1", zarr_format=3)
    array[:4] = 1
    report = verify(tmp_path / "a.zarr")
    assert report.ok
    assert [(a.path, a.chunks, a.written, a.missing) for a in report.arrays] == [("", 9, 3, 6)]
    assert "there is no OME metadata" in report.notes


@pytest.mark.parametrize("shape", [(), (0,), (0, 5), (7,)])
def test_arrays_of_any_shape(shape: tuple[int, ...], tmp_path: Path) -> None:
    """An array without axes has one chunk, one without pixels has none."""
    array = zarr.create_array(tmp_path / "a.zarr", shape=shape, chunks=(4,) * len(shape), dtype="i4", zarr_format=3)
    array[...] = 3
    report = verify(tmp_path / "a.zarr")
    assert report.ok, str(report)
    assert report.arrays[0].written == report.arrays[0].chunks == {(): 1, (0,): 0, (0, 5): 0, (7,): 2}[shape]


@pytest.mark.parametrize(
    "encoding",
    [{"name": "v2", "separator": "."}, {"name": "v2", "separator": "/"}, {"name": "default", "separator": "."}],
)
def test_other_names_of_chunks(encoding: Any, tmp_path: Path) -> None:
    """Chunks are found under whatever keys the array gives them, and files of no chunk are named."""
    array = zarr.create_array(
        tmp_path / "a.zarr", shape=(10, 10), chunks=(4, 4), dtype="u1", zarr_format=3, chunk_key_encoding=encoding
    )
    array[...] = 1
    (tmp_path / "a.zarr" / "3.0").write_bytes(b"")
    report = verify(tmp_path / "a.zarr")
    assert report.ok
    assert report.arrays[0].written == 9
    assert report.arrays[0].unexpected_files == ("3.0",)


def test_chunks_of_a_shard_beyond_the_array(tmp_path: Path) -> None:
    """What a shard holds beyond the end of its array is read by nobody, and not counted."""
    array = zarr.create_array(tmp_path / "a.zarr", shape=(8,), shards=(8,), chunks=(2,), dtype="u2", zarr_format=3)
    array[...] = 1
    edit(tmp_path / "a.zarr" / "zarr.json", lambda d: d.update(shape=[5]))
    report = verify(tmp_path / "a.zarr")
    assert report.ok
    assert (report.arrays[0].chunks, report.arrays[0].written, report.arrays[0].missing) == (3, 3, 0)


def test_what_can_not_be_decoded_is_unchecked(tmp_path: Path) -> None:
    """Chunks of a codec or data type that is not known are counted and named, and nothing is said to be wrong."""
    array = zarr.create_array(tmp_path / "a.zarr", shape=(4,), chunks=(2,), dtype="M8[s]", zarr_format=3)
    array[:2] = np.array([1, 2], "M8[s]")
    report = verify(tmp_path / "a.zarr")
    assert report.ok
    assert [(a.written, a.unchecked, a.missing) for a in report.arrays] == [(0, 1, 1)]
    assert any("datetime64" in note for note in report.notes)


# ---- what is damaged ---------------------------------------------------------------------------------------------


def test_a_shard_that_was_deleted(whole: Path) -> None:
    """The frames of the chunks in it are missing, and named by their numbers in acquisition order."""
    (whole / "right" / "0" / "c" / "0" / "1" / "0" / "0").unlink()  # time points 0 to 3 of the second channel
    report = verify(whole)
    assert not report.ok
    assert report.frames is not None
    assert numbers(report.frames.missing) == [3, 7, 11, 15]
    assert report.frames.written == 20
    assert [(array.missing, array.corrupt) for array in report.arrays] == [(0, 0), (2, 0)]
    assert "missing: 4 (3, 7, 11, 15)" in str(report)


def test_a_chunk_that_was_deleted(tmp_path: Path) -> None:
    """The frames of one chunk file are missing, though the other chunks of their plane are there."""
    path = write(settings(tmp_path / "a.ome.zarr", sharded=False), 12, skipped={5})
    (path / "0" / "c" / "1" / "1" / "0" / "1").unlink()  # time points 2 and 3 of the second channel
    report = verify(path)
    assert not report.ok
    assert report.frames is not None
    assert numbers(report.frames.missing) == [7]
    assert numbers(report.frames.skipped) == [5]


@pytest.mark.parametrize("left", [0, 3, 20, 100, -1])
def test_a_shard_that_was_cut_off(left: int, whole: Path) -> None:
    """All chunks of a shard without its index are corrupt, wherever it was cut off."""
    shard = whole / "left" / "0" / "c" / "1" / "0" / "0" / "0"  # time points 4 and 5 of the first channel
    os.truncate(shard, shard.stat().st_size - 1 if left == -1 else left)
    report = verify(whole)
    assert not report.ok
    assert report.frames is not None
    assert numbers(report.frames.corrupt) == [16, 20]
    (array, _) = report.arrays
    assert (array.corrupt, array.missing, array.chunks) == (1, 0, 24)
    (chunk,) = array.corrupt_chunks
    assert (chunk.file, chunk.chunk) == ("left/0/c/1/0/0/0", None)


@pytest.mark.parametrize("offset", [-1, -5, -20])
def test_a_flipped_bit_in_an_index(offset: int, whole: Path) -> None:
    """A changed index is found by its checksum."""
    change(whole / "left" / "0" / "c" / "0" / "0" / "1" / "1", offset)
    report = verify(whole)
    assert not report.ok
    assert report.frames is not None
    assert numbers(report.frames.corrupt) == [0, 4, 8, 12]
    assert "checksum" in report.arrays[0].corrupt_chunks[0].reason


@pytest.mark.parametrize("offset", [0, 7])
def test_a_flipped_bit_in_a_chunk(offset: int, whole: Path) -> None:
    """A changed chunk is found by its checksum; the others are as they were."""
    change(whole / "right" / "0" / "c" / "1" / "1" / "1" / "0", offset)
    report = verify(whole)
    assert not report.ok
    assert report.frames is not None
    assert numbers(report.frames.corrupt) == [19, 23]
    (chunk,) = report.arrays[1].corrupt_chunks
    assert (chunk.file, chunk.chunk) == ("right/0/c/1/1/1/0", (2, 1, 1, 0))
    assert "checksum" in chunk.reason
    assert "right/0/c/1/1/1/0, chunk 2.1.1.0: " in str(report)


@pytest.mark.parametrize("size", [0, 5, 1023, 1025, 1 << 20])
def test_a_chunk_file_of_another_size(size: int, tmp_path: Path) -> None:
    """A chunk without compression must have exactly its bytes."""
    path = write(settings(tmp_path / "a.ome.zarr", sharded=False, compression="none"), 12)
    os.truncate(path / "0" / "c" / "2" / "0" / "0" / "0", size)
    report = verify(path)
    assert not report.ok
    assert report.frames is not None
    assert numbers(report.frames.corrupt) == [8, 10]
    reason = report.arrays[0].corrupt_chunks[0].reason
    assert ("more than any chunk" in reason) == (size > 1024)  # and is not read


def test_many_corrupt_chunks_are_all_counted(tmp_path: Path) -> None:
    """No more than 100 are listed, and ten in words."""
    array = zarr.create_array(
        tmp_path / "a.zarr", shape=(150,), chunks=(1,), dtype="u2", zarr_format=3, compressors=None
    )
    array[...] = 1
    for file in (tmp_path / "a.zarr" / "c").iterdir():
        file.write_bytes(b"x")
    report = verify(tmp_path / "a.zarr")
    assert (report.arrays[0].corrupt, len(report.arrays[0].corrupt_chunks)) == (150, 100)
    assert "and 140 more" in str(report)
    assert len(str(report).splitlines()) < 20


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="permissions keep nobody out")
def test_a_file_without_permission(whole: Path) -> None:
    """A file that can't be read is corrupt, with the system's reason; nothing is raised."""
    shard = whole / "left" / "0" / "c" / "0" / "0" / "0" / "0"
    shard.chmod(0)
    report = verify(whole)
    assert "Permission denied" in report.arrays[0].corrupt_chunks[0].reason


def test_an_error_of_the_system_is_a_corrupt_chunk(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An input/output error of the medium makes its chunk corrupt, and the others are decoded."""
    original = chunks_module._read

    def failing(file: Any, *place: int) -> bytes:
        if Path(file.name).parts[-7:] == ("left", "0", "c", "1", "0", "0", "0"):
            raise OSError(5, "Input/output error")
        return original(file, *place)

    monkeypatch.setattr(chunks_module, "_read", failing)
    report = verify(whole)
    assert [array.corrupt for array in report.arrays] == [1, 0]
    assert "Input/output error" in report.arrays[0].corrupt_chunks[0].reason
    assert report.frames is not None
    assert numbers(report.frames.corrupt) == [16, 20]


def test_leftovers_are_named_and_no_fault(whole: Path) -> None:
    """Files that are no chunks of the array, or chunks outside of its grid, are named and do no harm."""
    array = whole / "left" / "0"
    names = ["c/0/0/0/0.__lock", "c/0/0/0/7", "c/2/0/0/0", "notes.txt", "c/00/0/0/0", "c/0/0/0/0.0a1b.partial"]
    for name in names:
        (array / name).parent.mkdir(parents=True, exist_ok=True)
        (array / name).write_bytes(b"junk")
    (array / "thumbnails").mkdir()
    report = verify(whole)
    assert report.ok, str(report)
    assert sorted(report.arrays[0].unexpected_files) == sorted(f"left/0/{name}" for name in [*names, "thumbnails/"])


# ---- metadata ----------------------------------------------------------------------------------------------------


def ome(document: dict[str, Any]) -> dict[str, Any]:
    """Return the OME metadata of a group's document."""
    found: dict[str, Any] = document["attributes"]["ome"]
    return found


DOCUMENTS: dict[str, tuple[str, Callable[[dict[str, Any]], object], tuple[str, ...]]] = {
    "a well-known field is wrong": (
        "left",
        lambda d: ome(d)["multiscales"][0].update(axes="none"),
        ("OME metadata of left", "axes"),
    ),
    "a level is not there": (
        "left",
        lambda d: ome(d)["multiscales"][0]["datasets"][0].update(path="1"),
        ("left/1", "not in the dataset"),
    ),
    "another number of axes": ("left/0", lambda d: d.update(shape=[6, 2, 20]), ("left/0",)),
    "other names of axes": ("left/0", lambda d: d.update(dimension_names=["t", "z", "y", "x"]), ("dimension_names",)),
    "an image of the series is not there": (
        "OME",
        lambda d: ome(d).update(series=["left", "gone"]),
        ("gone", "no group"),
    ),
    "an image of the series is none": ("right", lambda d: d["attributes"].pop("ome"), ("right", "multiscales")),
    "an array that is none": ("left/0", lambda d: d.update(node_type="table"), ("left/0/zarr.json", "table")),
    "a document of Zarr v2": ("left/0", lambda d: d.update(zarr_format=2), ("left/0/zarr.json", "Zarr v3")),
    "no shape": ("left/0", lambda d: d.pop("shape"), ("left/0/zarr.json", "shape")),
    "a wrong codec": ("left/0", lambda d: d.update(codecs=[]), ("left/0/zarr.json", "codecs")),
    "another shape": ("left/0", lambda d: d["shape"].__setitem__(2, 21), ("left/0", "shape")),
    "another data type": ("left/0", lambda d: d.update(data_type="int16"), ("left/0", "data type int16")),
    "attributes that are none": ("left", lambda d: d.update(attributes=[]), ("left/zarr.json", "attributes")),
    "no completeness": (".", lambda d: d["attributes"].pop("ome_writers"), ("completeness",)),
}


@pytest.mark.parametrize(("node", "change_it", "words"), DOCUMENTS.values(), ids=DOCUMENTS)
def test_wrong_metadata_is_a_problem(
    node: str, change_it: Callable[[dict[str, Any]], object], words: tuple[str, ...], whole: Path
) -> None:
    """Whatever is wrong in a document is named, with its place, and the rest of the dataset is looked at."""
    edit(whole / node / "zarr.json", change_it)
    report = verify(whole)
    assert not report.ok
    assert has(report, *words), report.problems
    assert "right/0" in {array.path for array in report.arrays}


DAMAGED = ["", "{", "[]", "\xff", "[" * 100_000, '{"zarr_format": 3, "node_type": []}']


@pytest.mark.parametrize("text", DAMAGED, ids=range(len(DAMAGED)))
@pytest.mark.parametrize("node", [".", "left", "left/0"])
def test_a_damaged_document_is_a_problem(node: str, text: str, whole: Path) -> None:
    """A document that can't be parsed is named, and what is below it is looked at all the same."""
    (whole / node / "zarr.json").write_text(text, encoding="latin-1")
    report = verify(whole)
    assert not report.ok
    assert has(report, "zarr.json")
    assert {"left/0", "right/0"} - {node} <= {array.path for array in report.arrays}


def test_missing_arrays_and_wells_are_problems(tmp_path: Path) -> None:
    """What the metadata names and the dataset has not, is named."""
    image, levels = ngff_image(1)
    path = write_plate(tmp_path / "p.zarr", {("A", "1", "0"): (image, levels), ("B", "2", "0"): (image, levels)})
    shutil.rmtree(path / "A" / "1")
    shutil.rmtree(path / "B" / "2" / "0")
    report = verify(path)
    assert not report.ok
    assert has(report, "well 'A/1'")
    assert has(report, "field of view 'B/2/0'")


def test_settings_that_are_damaged(whole: Path) -> None:
    """Without its settings a dataset's frames can't be told apart: a problem, and the chunks are decoded."""
    (whole / "ome_writers" / "settings.json").write_text("{}")
    report = verify(whole)
    assert not report.ok
    assert report.frames is None
    assert sum(array.written for array in report.arrays) == 48


def completeness(whole: Path, **changes: Any) -> VerificationReport:
    """Return the report of a dataset that says something else about its completeness."""
    edit(whole / "zarr.json", lambda d: d["attributes"]["ome_writers"]["completeness"].update(changes))
    return verify(whole)


def test_a_stream_that_was_not_closed(whole: Path) -> None:
    """The remedy is named."""
    report = completeness(whole, closed=False)
    assert not report.ok
    assert has(report, "not closed", "ome-writers recover")
    assert report.frames is not None
    assert report.frames.written == 24


def test_a_stream_that_was_recovered(whole: Path) -> None:
    """Frames that recovery has named as lost are missing, even in a chunk that is there."""
    report = completeness(whole, closed=False, recovered=True, frames_lost=[[20, 20], [22, 23]])
    assert not report.ok
    assert report.problems == ()
    assert report.frames is not None
    assert numbers(report.frames.missing) == [20, 22, 23]
    assert report.frames.written == 21


def test_contradictions_are_problems(whole: Path) -> None:
    """More frames than the settings declare, or other fates than the counts say, are named."""
    report = completeness(whole, frames_taken=25)
    assert has(report, "more than the settings declare")
    assert report.frames is not None
    assert report.frames.written == 24
    assert has(completeness(whole, frames_taken=24, frames_skipped=2), "0 skipped frames of 2")
    (whole / "ome_writers" / "frames.txt").write_bytes(b"a" * 23)
    assert has(completeness(whole, frames_skipped=0), "23 frames")


# ---- what is no dataset ------------------------------------------------------------------------------------------


def test_what_is_no_dataset(tmp_path: Path) -> None:
    """Nothing, a file, a folder of something else: an error that says what to do. Zarr v2 is named."""
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    for name in ("gone", "file", "folder"):
        with pytest.raises(NotADatasetError, match="give"):
            verify(tmp_path / name)
    zarr.create_array(tmp_path / "two", shape=(4,), chunks=(2,), dtype="u1", zarr_format=2)
    zarr.create_group(tmp_path / "group", zarr_format=2)
    for name in ("two", "group"):
        with pytest.raises(UnsupportedError, match="Zarr v2"):
            verify(tmp_path / name)
    with pytest.raises(SettingsError, match="workers"):
        verify(tmp_path, workers=0)


# ---- how it works ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 7, None])
def test_progress_ends_with_all_bytes(workers: int | None, whole: Path) -> None:
    """Progress grows from call to call in the caller's thread, and the last call says that all is done."""
    calls: list[tuple[int, int]] = []

    def note(done: int, total: int) -> None:
        assert threading.current_thread() is threading.main_thread()
        calls.append((done, total))

    verify(whole, workers=workers, progress=note)
    files = [file for name in BOTH for file in (whole / name / "0" / "c").rglob("*") if file.is_file()]
    assert calls == sorted(calls)
    assert calls[-1] == (sum(file.stat().st_size for file in files),) * 2


def test_ctrl_c_ends_the_threads(whole: Path) -> None:
    """An exception in the caller's thread stops all others and closes all files (which a fixture checks)."""

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        verify(whole, workers=3, progress=interrupt)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ome-writers-verify")]


def test_ctrl_c_does_not_wait_for_the_rest(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an exception in the caller's thread, the others end with the chunk that they are at."""
    original, interrupted = chunks_module._read, threading.Event()
    read = []

    def slow(*place: Any) -> bytes:
        assert interrupted.wait(10)
        read.append(place)
        return original(*place)

    def interrupt(done: int, total: int) -> None:
        timer.start()
        raise KeyboardInterrupt

    monkeypatch.setattr(chunks_module, "_read", slow)
    timer = threading.Timer(0.2, interrupted.set)
    with pytest.raises(KeyboardInterrupt):
        verify(whole, workers=3, progress=interrupt)
    timer.join()
    assert len(read) <= 3


def test_an_error_in_a_thread_is_raised(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What should not happen is raised where ``verify`` was called, and does not hang."""

    def broken(*_: Any) -> bytes:
        raise AssertionError("broken")

    monkeypatch.setattr(chunks_module, "_read", broken)
    with pytest.raises(AssertionError, match="broken"):
        verify(whole, workers=3)


def test_links_in_circles_end(whole: Path) -> None:
    """A link to a folder above is followed once."""
    try:
        (whole / "left" / "again").symlink_to(whole, target_is_directory=True)
    except OSError:
        pytest.skip("this system makes no links")
    assert verify(whole).ok


def test_report_as_json(whole: Path) -> None:
    """The report is JSON, with the same findings."""
    (whole / "right" / "0" / "c" / "0" / "1" / "0" / "0").unlink()
    report = verify(whole)
    found = json.loads(json.dumps(report.as_dict()))
    assert found["ok"] is False
    assert found["frames"]["missing"] == {"count": 4, "ranges": [[n, n] for n in (3, 7, 11, 15)]}
    assert found["frames"]["written"] == 20
    assert [array["path"] for array in found["arrays"]] == ["left/0", "right/0"]


def test_an_array_that_is_almost_empty_is_quick(tmp_path: Path) -> None:
    """What is not there costs nothing, however large an array says it is."""
    path = tmp_path / "a.zarr"
    array = ts.open(
        {
            "driver": "zarr3",
            "kvstore": {"driver": "file", "path": str(path)},
            "metadata": {
                "shape": [10**9, 10**9],
                "data_type": "uint8",
                "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [8, 8]}},
            },
        },
        create=True,
    ).result()
    array[80:88, 800:808].write(1).result()
    report = verify(path)
    assert (report.arrays[0].written, report.arrays[0].missing) == (1, 125_000_000**2 - 1)


# ---- the command line --------------------------------------------------------------------------------------------


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    return subprocess.run([*COMMAND, "verify", *arguments], capture_output=True, text=True, timeout=60, check=False)


def test_command(whole: Path) -> None:
    """Status 0 when nothing is wrong and 1 when something is, with the findings in words or as JSON."""
    done = run(str(whole))
    assert (done.returncode, done.stderr) == (0, "")
    assert "nothing is wrong" in done.stdout
    done = run(str(whole), "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    (whole / "right" / "0" / "c" / "0" / "1" / "0" / "0").unlink()
    for options in ([], ["--quiet"], ["--workers", "2"]):
        done = run(str(whole), *options)
        assert done.returncode == 1
        assert "missing: 4 (3, 7, 11, 15)" in done.stdout
    done = run(str(whole), "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout) == verify(whole).as_dict()


def test_command_without_a_dataset(tmp_path: Path) -> None:
    """A path with nothing to verify is an error without a traceback; wrong usage ends with status 2."""
    done = run(str(tmp_path / "gone"))
    assert done.returncode == 1
    assert "error: there is nothing at" in done.stderr
    assert "Traceback" not in done.stderr
    assert run().returncode == 2
    assert run(str(tmp_path), "--workers", "0").returncode == 2


# ---- bit flips ---------------------------------------------------------------------------------------------------


@pytest.mark.faults
@pytest.mark.parametrize("codec", flips.CODECS)
def test_flipped_bytes_are_found(codec: str, tmp_path: Path) -> None:
    """A sample of the campaign: every changed byte that tensorstore notices or reads otherwise is found."""
    tally = flips.flip(tmp_path / "a.ome.zarr", codec, 10, seed=42)
    assert tally.changed + tally.unreadable > 0
    assert tally.missed == 0


WITHOUT_CHECKSUMS = """
import sys
from pathlib import Path
import numpy as np
from campaigns.flips import changed_byte, write_dataset
from ome_writers._verify import verify

root, codec = Path(sys.argv[1]), sys.argv[2]
write_dataset(root, codec, checksum=False)
files = sorted((root / "left" / "0" / "c").rglob("0"))
files = [file for file in files if file.is_file()]
random = np.random.default_rng(3)
found = 0
for _ in range(300):
    with changed_byte(random, files):
        found += not verify(root, workers=2).ok
assert verify(root).ok
print(found)
"""


@pytest.mark.faults
@pytest.mark.parametrize("codec", ["blosc-lz4", "blosc-zstd", "zstd"])
def test_flipped_bytes_without_checksums_do_no_harm(codec: str, tmp_path: Path) -> None:
    """Without checksums a codec sees the changed bytes: 300 of them crash no process, and raise nothing."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_CHECKSUMS, str(tmp_path / "a.ome.zarr"), codec],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        cwd=Path(__file__).parent,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 5
