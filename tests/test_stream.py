"""A stream from its creation to its end, and after: metadata, closing, and what stands on disk at any moment."""

from __future__ import annotations

import gc
import itertools
import json
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import ome_types
import pytest
import zarr

from ome_writers import (
    AcquisitionSettings,
    Channel,
    Dimension,
    OMEStream,
    Plate,
    Position,
    __version__,
    _running,
    create_stream,
)
from ome_writers.errors import MetadataError, StreamClosedError, UnknownGroupError, WriteError
from readers import assert_holds, document, find_images, read_images, readers, validate

FRAMES = np.random.default_rng(0).integers(1, 1 << 16, (12, 6, 10), np.uint16)
YX = [Dimension(name="y", count=6), Dimension(name="x", count=10)]
SITES = Dimension(name="p", type="position", coords=["a", "b"])


def settings_for(path: Path | str, backend: str, *index: Dimension, **fields: Any) -> AcquisitionSettings:
    """Return settings of frames of 6 x 10 pixels; a time lapse of four unless other dimensions are given."""
    given = [*(index or [Dimension(name="t", count=4, chunk_size=2)]), *YX]
    dimensions = [dimension.model_copy(deep=True) for dimension in given]  # some tests change them
    return AcquisitionSettings(root_path=path, dimensions=dimensions, dtype="uint16", format=backend, **fields)


def records(root: Path) -> list[dict[str, Any]]:
    """Return what stands in the file of per-frame metadata."""
    text = (root / "ome_writers" / "frames.jsonl").read_text(encoding="utf-8")
    assert text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def ome_xml_images(path: Path) -> list[ome_types.model.Image]:
    """Return the images that an OME-XML file describes."""
    return ome_types.from_xml(path.read_text(encoding="utf-8")).images


@pytest.fixture
def growth_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Announce the extent of growing arrays whenever a block is written, not once a second."""
    monkeypatch.setattr("ome_writers.engine._upkeep._GROWTH_SECONDS", 0.0)


# ---- per-frame metadata --------------------------------------------------------------------------------------------


def test_frame_metadata_lands_in_the_image_group(tmp_path: Path, backend: str) -> None:
    """Old clients read the metadata of frames, each with its storage index, from the attributes of its image group."""
    root = tmp_path / "a.ome.zarr"
    channels = Dimension(name="c", coords=["DAPI", "FITC"])
    known = {"exposure_time": 0.01, "position_x": 1.5, "lens": {"name": "20x", "na": [1]}}
    with create_stream(settings_for(root, backend, Dimension(name="t", count=2), SITES, channels)) as stream:
        for number in range(8):
            stream.append(FRAMES[number], frame_metadata={"delta_t": number / 2, **known} if number != 3 else None)
    for site, group in enumerate(("a", "b")):
        ours = document(root / group)["attributes"]["ome_writers"]
        assert ours["version"] == __version__
        numbers = [n for n in range(8) if (n // 2) % 2 == site and n != 3]
        assert ours["frame_metadata"] == [
            {"delta_t": n / 2, **known, "storage_index": [n // 4, n % 2]} for n in numbers
        ]
    validate(root)


def test_frame_metadata_follows_the_storage_order(tmp_path: Path, backend: str) -> None:
    """Storage indices are those of the array, not of the acquisition; skipped frames count."""
    root = tmp_path / "a.ome.zarr"
    index = Dimension(name="t", count=2), Dimension(name="z", count=2), Dimension(name="c", count=2)
    with create_stream(settings_for(root, backend, *index)) as stream:
        stream.skip(frames=2)
        stream.append(FRAMES[0], frame_metadata={"n": 2})
        stream.append(FRAMES[1], frame_metadata={"n": 3})
    found = document(root)["attributes"]["ome_writers"]["frame_metadata"]
    assert found == [{"n": 2, "storage_index": [0, 0, 1]}, {"n": 3, "storage_index": [0, 1, 1]}]
    for place, frame in zip(found, FRAMES, strict=False):
        assert np.array_equal(read_images(root)[0][tuple(place["storage_index"])], frame)


def test_records_stand_in_a_file_before_close(tmp_path: Path, backend: str) -> None:
    """What is known of frames is on disk after a flush, also of frames whose block is not complete."""
    root = tmp_path / "a.ome.zarr"
    with create_stream(settings_for(root, backend, Dimension(name="t", chunk_size=50), SITES)) as stream:
        assert not (root / "ome_writers" / "frames.jsonl").exists()
        for number in range(3):
            stream.append(FRAMES[number], frame_metadata={"delta_t": np.float32(number), "who": "Zoë"})
        stream.append(FRAMES[3])
        stream.flush()
        expected = [
            {"frame": n, "image": "ab"[n % 2], "storage_index": [n // 2], "metadata": {"delta_t": n, "who": "Zoë"}}
            for n in range(3)
        ]
        assert records(root) == expected
        assert "Zoë" in (root / "ome_writers" / "frames.jsonl").read_text(encoding="utf-8")
        stream.append(FRAMES[4], frame_metadata={"last": np.arange(3)})
    last = {"frame": 4, "image": "a", "storage_index": [2], "metadata": {"last": [0, 1, 2]}}
    assert records(root) == [*expected, last]


def test_attributes_hold_a_bounded_number_of_records(
    tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long acquisition makes no giant ``zarr.json``: the first records are in it, and the name of the file."""
    monkeypatch.setattr("ome_writers.engine._records.RECORDS_PER_IMAGE", 3)
    monkeypatch.setattr("ome_writers._documents._frames.RECORDS_PER_IMAGE", 3)
    root = tmp_path / "a.ome.zarr"
    with create_stream(settings_for(root, backend, Dimension(name="t", count=8))) as stream:
        for number in range(8):
            stream.append(FRAMES[number], frame_metadata={"n": number})
    ours = document(root)["attributes"]["ome_writers"]
    assert [record["n"] for record in ours["frame_metadata"]] == [0, 1, 2]
    assert ours["frame_metadata_file"] == "ome_writers/frames.jsonl"
    assert [record["metadata"]["n"] for record in records(root)] == list(range(8))


def test_metadata_may_be_changed_after_append(tmp_path: Path, backend: str) -> None:
    """A client that fills one mapping again and again, as cameras do with buffers, gets what it meant."""
    root = tmp_path / "a.ome.zarr"
    known: dict[str, Any] = {"inner": {}}
    with create_stream(settings_for(root, backend)) as stream:
        for number in range(4):
            known["inner"]["n"] = number
            stream.append(FRAMES[number], frame_metadata=known)
    assert [record["metadata"]["inner"]["n"] for record in records(root)] == [0, 1, 2, 3]


def test_collections_have_planes_after_close(tmp_path: Path, backend: str) -> None:
    """The OME-XML of a collection tells when and where each frame was taken, and has the size that was acquired."""
    root = tmp_path / "a.ome.zarr"
    with create_stream(settings_for(root, backend, Dimension(name="t"), SITES)) as stream:
        path = root / "OME" / "METADATA.ome.xml"
        assert [image.pixels.planes for image in ome_types.from_xml(path.read_text(encoding="utf-8")).images] == [
            [],
            [],
        ]
        for number in range(6):
            known = {"delta_t": number * 0.5, "exposure_time": 0.02, "position_x": 10.0 * number, "other": "kept"}
            stream.append(FRAMES[number], frame_metadata=known | ({"delta_t": "unknown"} if number == 5 else {}))
    for site, image in enumerate(ome_xml_images(path)):
        assert image.pixels.size_t == 3
        numbers = range(site, 6, 2)
        assert [plane.the_t for plane in image.pixels.planes] == [0, 1, 2]
        assert [plane.delta_t for plane in image.pixels.planes] == [n * 0.5 if n != 5 else None for n in numbers]
        assert [plane.position_x for plane in image.pixels.planes] == [n * 10.0 for n in numbers]
        assert {plane.exposure_time for plane in image.pixels.planes} == {0.02}


@pytest.mark.parametrize(
    ("count", "frames", "metadata", "again"),
    [(2, 4, None, False), (2, 3, {"gain": 1}, False), (2, 4, {"delta_t": 0.5}, True), (None, 4, None, True),
     (None, 0, None, False)],
)  # fmt: skip
def test_ome_xml_is_written_again_if_it_changed(
    tmp_path: Path, count: int | None, frames: int, metadata: dict[str, Any] | None, again: bool
) -> None:
    """What it says is right at the end; a file that says it already stays as it is, which is faster for many images."""
    path = tmp_path / "a.ome.zarr" / "OME" / "METADATA.ome.xml"
    with create_stream(settings_for(tmp_path / "a.ome.zarr", "direct", Dimension(name="t", count=count), SITES)) as s:
        begun, file = path.read_bytes(), path.stat().st_ino
        for frame in FRAMES[:frames]:
            s.append(frame, frame_metadata=metadata)
    assert (path.stat().st_ino != file) == (path.read_bytes() != begun) == again
    steps = count or max(1, frames // 2)
    assert [image.pixels.size_t for image in ome_xml_images(path)] == [steps, steps]
    planes = [plane.delta_t for image in ome_xml_images(path) for plane in image.pixels.planes]
    assert planes == ([0.5] * frames if metadata and "delta_t" in metadata else [])


def test_ome_xml_that_somebody_removed(tmp_path: Path) -> None:
    """It is there at the end."""
    path = tmp_path / "a.ome.zarr" / "OME" / "METADATA.ome.xml"
    with create_stream(settings_for(tmp_path / "a.ome.zarr", "direct", Dimension(name="t", count=1), SITES)) as stream:
        begun = path.read_bytes()
        path.unlink()
        stream.append(FRAMES[0])
    assert path.read_bytes() == begun


def test_ome_xml_after_a_resumed_acquisition(tmp_path: Path) -> None:
    """A stream that resumes and takes nothing with metadata keeps the planes of the earlier one."""
    settings = settings_for(tmp_path / "a.ome.zarr", "direct", Dimension(name="t", count=3), SITES)
    with create_stream(settings) as stream:
        stream.append(FRAMES[0], frame_metadata={"delta_t": 0.5})
    with create_stream(settings, resume=True) as stream:
        stream.append(FRAMES[1])
    images = ome_xml_images(tmp_path / "a.ome.zarr" / "OME" / "METADATA.ome.xml")
    assert [[plane.delta_t for plane in image.pixels.planes] for image in images] == [[0.5], []]


# ---- metadata of images and of the dataset -------------------------------------------------------------------------


def test_metadata_round_trip_at_any_time(tmp_path: Path, backend: str) -> None:
    """A client changes what get_metadata returns and hands it back: before, during and after the acquisition."""
    root = tmp_path / "a.ome.zarr"
    stream = create_stream(settings_for(root, backend, SITES, Dimension(name="t", count=2)))
    frames = iter(FRAMES)
    for moment in ("before", "during", "after"):
        metadata = stream.get_metadata()
        assert list(metadata) == ["a", "b"]
        metadata["b"]["ome"]["multiscales"][0]["name"] = moment
        metadata["b"].setdefault("mine", {})[moment] = {"ü": [1, None]}
        assert stream.get_metadata() != metadata, "a copy is returned"
        stream.update_metadata(metadata)
        assert stream.get_metadata() == metadata
        validate(root)
        if moment == "before":
            stream.append(next(frames), frame_metadata={"n": 0})
        elif moment == "during":
            for frame in itertools.islice(frames, 3):
                stream.append(frame)
            stream.close()
    attributes = document(root / "b")["attributes"]
    assert attributes["mine"] == {moment: {"ü": [1, None]} for moment in ("before", "during", "after")}
    assert attributes["ome"]["multiscales"][0]["name"] == "after"
    assert document(root / "a")["attributes"]["ome_writers"]["frame_metadata"] == [{"n": 0, "storage_index": [0]}]
    assert_holds(root, [FRAMES[:2], FRAMES[2:4]])


def test_close_keeps_what_a_client_changed(tmp_path: Path, backend: str) -> None:
    """Close adds the records of frames to the attributes; whatever a client made of them stays."""
    root = tmp_path / "a.ome.zarr"
    made: tuple[Any, ...] = ({"note": 1}, None, "text", [])
    for number, ours in enumerate(made):
        settings = settings_for(root, backend, overwrite=True)
        with create_stream(settings) as stream:
            stream.append(FRAMES[0], frame_metadata={"n": number})
            metadata = stream.get_metadata()["."]
            changed = {**metadata, "mine": number, "ome_writers": ours}
            stream.update_metadata({".": changed})
            stream.set_global_metadata("lab", {"room": 7})
        attributes = document(root)["attributes"]
        assert attributes["mine"] == number
        assert attributes["lab"] == {"room": 7}
        assert attributes["ome_writers"]["frame_metadata"] == [{"n": number, "storage_index": [0]}]
        assert attributes["ome_writers"].get("note") == (1 if number == 0 else None)


def test_unknown_groups_change_nothing(tmp_path: Path, backend: str) -> None:
    """A path that is no group, or attributes that JSON can't hold, are errors after which all is as it was."""
    root = tmp_path / "a.ome.zarr"
    bad: tuple[Any, ...] = ({"x": float("nan")}, {"x": {1}}, None, [["x", 1]], "x")
    with create_stream(settings_for(root, backend, SITES)) as stream:
        before = stream.get_metadata()
        for path in ("c", "a/0", "ome_writers", "", "./a", "../a.ome.zarr", "/"):
            with pytest.raises(UnknownGroupError, match="no group") as error:
                stream.update_metadata({"a": {"lost": 1}, path: {}})
            assert isinstance(error.value, KeyError)
            assert not str(error.value).startswith('"')
        for wrong in bad:
            with pytest.raises(MetadataError):
                stream.update_metadata({"a": {"lost": 1}, "b": wrong})
        assert stream.get_metadata() == before


def test_global_metadata(tmp_path: Path, backend: str) -> None:
    """Global metadata lands in the attributes of the root, beside what is there, also after close."""
    root = tmp_path / "a.ome.zarr"
    bad: Any
    with create_stream(settings_for(root, backend, SITES)) as stream:
        before = document(root)["attributes"]
        for reserved in ("ome", "ome_writers", "", "  ", None, 3):
            bad = reserved
            with pytest.raises(MetadataError, match="namespace"):
                stream.set_global_metadata(bad, {"a": 1})
        for unencodable in ({"a": object()}, {"a": float("inf")}, None, "text", [("a", 1)]):
            bad = unencodable
            with pytest.raises(MetadataError):
                stream.set_global_metadata("lab", bad)
        assert document(root)["attributes"] == before
        stream.set_global_metadata("lab", {"room": 1})
        stream.set_global_metadata("lab", {"room": 2})
    stream.set_global_metadata("späte notes", {"ok": [True, None, "µ"]})
    after = document(root)["attributes"]
    assert after.pop("ome_writers").keys() == before.pop("ome_writers").keys()  # what is in it follows the frames
    assert after == {**before, "lab": {"room": 2}, "späte notes": {"ok": [True, None, "µ"]}}
    validate(root)


# ---- the life of a stream ------------------------------------------------------------------------------------------


def test_stats_count_what_is_done(tmp_path: Path, backend: str) -> None:
    """The record of a stream counts frames and bytes taken, skipped and written, and stays readable after close."""
    with create_stream(settings_for(tmp_path / "a.ome.zarr", backend, Dimension(name="t", count=6))) as stream:
        assert (stream.stats.frames_appended, stream.stats.frames_written, stream.stats.bytes_in) == (0, 0, 0)
        stream.append(FRAMES[0])
        stream.skip(frames=2)
        stream.append(FRAMES[1])
        stream.flush()
        stats = stream.stats
        assert (stats.frames_appended, stats.frames_skipped, stats.frames_written) == (2, 2, 2)
        assert stats.bytes_in == stats.bytes_out == 2 * FRAMES[0].nbytes
        assert 0 < stats.max_buffered_bytes <= stats.buffer_bytes <= 1 << 30
        assert stats.buffered_bytes == 0
        assert stats.workers >= 1
        stream.append(FRAMES[2])
    assert stream.stats.frames_written == 3
    assert stream.stats.buffered_bytes == 0


def test_flush_puts_complete_blocks_on_disk(tmp_path: Path, backend: str) -> None:
    """After a flush, blocks that are complete can be read; flush may be called at any time, and again."""
    root = tmp_path / "a.ome.zarr"
    with create_stream(settings_for(root, backend)) as stream:
        stream.flush()
        for frame in FRAMES[:3]:
            stream.append(frame)
        stream.flush()
        stream.flush()
        if backend != "acquire-zarr":  # the library keeps frames to itself for as long as it likes
            assert np.array_equal(read_images(root)[0][:2], FRAMES[:2])
        stream.append(FRAMES[3])
    assert_holds(root, [FRAMES[:4]])


def test_close_twice(tmp_path: Path, backend: str) -> None:
    """Closing a closed stream does nothing, also after its folder is gone."""
    stream = create_stream(settings_for(tmp_path / "a.ome.zarr", backend))
    states = [stream.closed]
    stream.close()
    states.append(stream.closed)
    assert states == [False, True]
    validate(tmp_path / "a.ome.zarr")
    (tmp_path / "a.ome.zarr").rename(tmp_path / "moved")
    stream.close()
    with stream:
        pass
    assert stream.closed


def leave_with(error: BaseException, stream: OMEStream) -> None:
    """Append a frame in a with statement, and leave it by an exception."""
    with stream:
        stream.append(FRAMES[0])
        raise error


@pytest.mark.parametrize("error", [ZeroDivisionError("the body's"), KeyboardInterrupt(), SystemExit(3)], ids=repr)
def test_exception_in_the_body(tmp_path: Path, backend: str, error: BaseException) -> None:
    """A with statement that is left by an exception, Ctrl-C too, leaves a valid dataset of what was acquired."""
    root = tmp_path / "a.ome.zarr"
    stream = create_stream(settings_for(root, backend, SITES))
    with pytest.raises(type(error)) as caught:
        leave_with(error, stream)
    assert caught.value is error
    assert stream.closed
    assert_holds(root, [FRAMES[0], np.zeros_like(FRAMES[0])])
    validate(root)


def test_error_in_the_body_is_not_hidden_by_one_of_close(
    tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When body and close both fail, the caller sees the error of the body, else that of close; metadata is saved."""
    stream = create_stream(settings_for(tmp_path / "a.ome.zarr", backend))
    _let_close_fail(monkeypatch, stream)
    with pytest.raises(ZeroDivisionError):
        leave_with(ZeroDivisionError(), stream)
    stream = create_stream(settings_for(tmp_path / "b.ome.zarr", backend))
    stream.append(FRAMES[0], frame_metadata={"n": 0})
    _let_close_fail(monkeypatch, stream)
    with pytest.raises(WriteError, match="Input/output error"):
        stream.close()
    assert stream.closed
    assert document(tmp_path / "b.ome.zarr")["attributes"]["ome_writers"]["frame_metadata"]
    validate(tmp_path / "b.ome.zarr")


def _let_close_fail(monkeypatch: pytest.MonkeyPatch, stream: OMEStream) -> None:
    close = stream._sink.close

    def fail() -> None:
        close()
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(stream._sink, "close", fail)


def test_dropped_stream_warns_and_is_written(tmp_path: Path, backend: str) -> None:
    """A stream that is collected without close is closed, with a warning if frames were appended."""
    root = tmp_path / "a.ome.zarr"
    stream = create_stream(settings_for(root, backend))
    for frame in FRAMES[:4]:
        stream.append(frame)
    holder = [stream]
    del stream
    with pytest.warns(UserWarning, match=r"without close\(\)"):
        holder.clear()
    assert_holds(root, [FRAMES[:4]])
    stream = create_stream(settings_for(tmp_path / "b.ome.zarr", backend))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del stream
        gc.collect()
    validate(tmp_path / "b.ome.zarr")


def test_dropped_stream_is_written_where_warnings_are_errors(
    tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A warning that is made an error does not keep a dropped stream from being written."""
    unraisable: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda hook: unraisable.append(hook.exc_type))
    stream = create_stream(settings_for(tmp_path / "a.ome.zarr", backend))
    for frame in FRAMES[:4]:
        stream.append(frame)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del stream
        gc.collect()
    assert unraisable == [UserWarning]
    assert_holds(tmp_path / "a.ome.zarr", [FRAMES[:4]])


def test_settings_are_copied(tmp_path: Path, backend: str) -> None:
    """What is done to the settings after create_stream changes nothing of the stream, and the other way round."""
    root = tmp_path / "a.ome.zarr"
    channels = Dimension(name="c", coords=[Channel(name="DAPI"), Channel(name="FITC")])
    settings = settings_for(root, backend, channels)
    with create_stream(settings) as stream:
        settings.dtype = "uint8"
        settings.root_path = str(tmp_path / "b.ome.zarr")
        settings.dimensions[-1].count = 3
        first = settings.dimensions[0].coords
        assert first is not None
        assert isinstance(first[0], Channel)
        first[0].name = "changed"
        stream.settings.dimensions[-1].count = 2
        stream.append(FRAMES[0])
        stream.append(FRAMES[1])
        assert stream.path == root
        assert stream.settings.dtype == "uint16"
    assert_holds(root, [FRAMES[:2]])
    assert [c["label"] for c in document(root)["attributes"]["ome"]["omero"]["channels"]] == ["DAPI", "FITC"]
    assert not (tmp_path / "b.ome.zarr").exists()


def test_two_streams_at_once(tmp_path: Path, backend: str) -> None:
    """Streams of one process do not disturb each other, also one of another backend."""
    other = "zarrs-python" if backend == "zarr-python" else "zarr-python"
    with (
        create_stream(settings_for(tmp_path / "a.ome.zarr", backend)) as first,
        create_stream(settings_for(tmp_path / "b.ome.zarr", other, SITES)) as second,
        create_stream(settings_for(tmp_path / "c.ome.zarr", backend)) as third,
    ):
        for number in range(4):
            first.append(FRAMES[number])
            third.append(FRAMES[number + 4])
            if number < 2:
                second.append(FRAMES[number])
    assert_holds(tmp_path / "a.ome.zarr", [FRAMES[:4]])
    assert_holds(tmp_path / "b.ome.zarr", [*FRAMES[:2]])
    assert_holds(tmp_path / "c.ome.zarr", [FRAMES[4:8]])


def test_streams_in_threads_leave_the_configuration_of_zarr(tmp_path: Path) -> None:
    """Streams in several threads write right and do not change how the rest of the process uses zarr-python."""
    before = {key: zarr.config.get(key) for key in ("codec_pipeline.path", "array.write_empty_chunks")}
    start = threading.Barrier(4)
    errors: list[BaseException] = []

    def acquire(number: int) -> None:
        try:
            start.wait(10)
            path = tmp_path / f"{number}.ome.zarr"
            backend = ("zarr-python", "zarrs-python")[number % 2]
            with create_stream(settings_for(path, backend, Dimension(name="p", count=6))) as stream:
                for frame in FRAMES[:6]:
                    stream.append(frame)
        except BaseException as error:  # noqa: BLE001  a thread's edge
            errors.append(error)

    threads = [threading.Thread(target=acquire, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors
    for number in range(4):
        assert_holds(tmp_path / f"{number}.ome.zarr", list(FRAMES[:6]))
    assert {key: zarr.config.get(key) for key in before} == before


def test_relative_path_is_that_of_the_creation(tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that changes its working folder during the acquisition still gets one whole dataset."""
    (tmp_path / "there").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "there")
    stream = create_stream(settings_for("data/a.ome.zarr", backend))
    monkeypatch.chdir(tmp_path / "elsewhere")
    with stream:
        for frame in FRAMES[:4]:
            stream.append(frame, frame_metadata={"n": 1})
    stream.set_global_metadata("late", {})
    assert_holds(tmp_path / "there" / "data" / "a.ome.zarr", [FRAMES[:4]])
    assert not any((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize(
    "name", ["with space.ome.zarr", "Zellen-ü-细胞-🔬.ome.zarr", "per%20cent#?&.ome.zarr", "'\"[0].zarr"]
)
def test_paths_of_all_kinds(tmp_path: Path, backend: str, name: str) -> None:
    """Spaces, letters of all scripts and characters with a meaning in URLs or patterns may be part of the path."""
    path = tmp_path / "new folder" / f"{name}.ome.zarr"
    with create_stream(settings_for(path, backend, Dimension(name="p", coords=["α β", "#1%"]))) as stream:
        stream.append(FRAMES[0])
        stream.append(FRAMES[1])
    assert stream.path == path
    assert_holds(path, list(FRAMES[:2]))
    with create_stream(settings_for(path, backend, overwrite=True)) as stream:
        stream.append(FRAMES[0])
    assert [p.name for p in path.parent.iterdir()] == [path.name]


# ---- what others see while it is written ---------------------------------------------------------------------------


@pytest.mark.usefixtures("growth_at_once")
def test_readers_see_an_unbounded_dataset_grow(tmp_path: Path, backend: str) -> None:
    """Who opens the dataset during the acquisition sees as many steps as are written, and the pixels of the blocks."""
    root = tmp_path / "a.ome.zarr"
    endless = Dimension(name="t", chunk_size=2, shard_size_chunks=1)
    with create_stream(settings_for(root, backend, endless)) as stream:
        for library in readers():
            assert read_images(root, library)[0].shape == (0, 6, 10)
        for number in range(0, 12, 2):
            stream.append(FRAMES[number])
            stream.append(FRAMES[number + 1])
            stream.flush()
            assert document(root / "0")["shape"] == [number + 2, 6, 10]
            for library in readers() if backend != "acquire-zarr" else ():  # it writes behind, the end of a shard last
                (pixels,) = read_images(root, library)
                assert np.array_equal(pixels, FRAMES[: number + 2])
        found = subprocess.run(
            [sys.executable, "-c", f"import zarr; print(zarr.open_array({str(root / '0')!r}, mode='r').shape)"],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert found.stdout.strip() == "(12, 6, 10)"
    assert_holds(root, [FRAMES])


@pytest.mark.usefixtures("growth_at_once")
def test_documents_are_replaced_in_one_step(tmp_path: Path, backend: str) -> None:
    """Who polls the documents of a growing dataset never sees a broken one, nor an array that shrinks."""
    root = tmp_path / "a.ome.zarr"
    end, polled = threading.Event(), threading.Event()
    faults: list[str] = []

    def poll() -> None:
        longest: dict[Path, int] = {}
        while not end.is_set():
            for path in documents:
                try:
                    found = json.loads(path.read_text(encoding="utf-8"))
                except (OSError, ValueError) as error:
                    faults.append(f"{path}: {error!r}")
                    continue
                if found["node_type"] == "array":
                    if found["shape"][0] < longest.get(path, 0) or found["dimension_names"] != ["t", "y", "x"]:
                        faults.append(f"{path}: {found}")
                    longest[path] = found["shape"][0]
                elif path.parent.name in ("a", "b") and "multiscales" not in found["attributes"]["ome"]:
                    faults.append(f"{path}: {found}")
            polled.set()

    stream = create_stream(settings_for(root, backend, Dimension(name="t", chunk_size=2), SITES))
    documents = sorted(root.rglob("zarr.json"))
    assert len(documents) == 7
    reader = threading.Thread(target=poll)
    reader.start()
    try:
        with stream:
            for number in range(60):
                stream.append(FRAMES[number % 12], frame_metadata={"n": number})
                if number % 20 == 0:
                    stream.set_global_metadata("progress", {"n": number})
                    polled.clear()
                    assert polled.wait(30)
    finally:
        end.set()
        reader.join(30)
    assert not faults
    assert read_images(root)[0].shape == (30, 6, 10)
    leftovers = [file for file in root.rglob("*") if file.name.endswith(".partial")]
    assert not leftovers


# ---- processes that end without close ------------------------------------------------------------------------------

PLATE = Plate.from_standard_wells(6)
WELLS = Dimension(
    name="p", coords=[Position(name=n, plate_row=r, plate_column="1") for n, r in (("0", "A"), ("1", "A"), ("0", "B"))]
)
ENDLESS = Dimension(name="t", chunk_size=2, shard_size_chunks=1)
KINDS = {
    "single": [Dimension(name="t", count=4)],
    "unbounded": [ENDLESS],
    "positions": [ENDLESS, SITES],
    "plate": [ENDLESS, WELLS],
}

PROGRAM = """
import os, signal, sys, warnings
from pathlib import Path
import numpy as np
from ome_writers import AcquisitionSettings, create_stream

warnings.simplefilter("error")
folder, how = Path(sys.argv[1]), sys.argv[2]
frames = np.load(folder / "frames.npy")
streams = []
for file in sorted(folder.glob("*.json")):
    stream = create_stream(AcquisitionSettings.model_validate_json(file.read_text()))
    streams.append(stream)
    for number, frame in enumerate(frames):
        stream.append(frame, frame_metadata={"n": number})
    if how != "end":
        stream.flush()
        stream.append(frames[0], frame_metadata={"n": len(frames)})
if how == "exit":
    os._exit(7)
elif how == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
elif how == "raise":
    raise ZeroDivisionError
"""


def run_program(folder: Path, how: str, backend: str, frames: int) -> Iterator[SimpleNamespace]:
    """Run a program that ends without closing its streams, one of each kind; yield kind and folder of each."""
    np.save(folder / "frames.npy", FRAMES[:frames])
    for kind, index in KINDS.items():
        settings = settings_for(folder / f"{kind}.ome.zarr", backend, *index, plate=PLATE if kind == "plate" else None)
        (folder / f"{kind}.json").write_text(settings.model_dump_json())
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, folder, how],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env={**os.environ, "TMPDIR": str(folder)},
    )
    expected = {"end": [0], "exit": [7], "kill": [-9, 1], "raise": [1]}[how]
    assert ended.returncode in expected, ended.stderr
    assert "Traceback" not in ended.stderr or "ZeroDivisionError" in ended.stderr, ended.stderr
    assert ended.stderr.count("Traceback") <= (how == "raise"), ended.stderr
    for kind in KINDS:
        yield SimpleNamespace(kind=kind, root=folder / f"{kind}.ome.zarr")


def expected_images(kind: str, frames: int) -> list[Any]:
    """Return the images of a kind after a number of frames."""
    if kind == "single":
        return [FRAMES[:frames]]
    number = {"unbounded": 1, "positions": 2, "plate": 3}[kind]
    return [FRAMES[image:frames:number] for image in range(number)]


@pytest.mark.parametrize("how", ["end", "raise"])
def test_interpreter_that_ends_writes_what_is_held(tmp_path: Path, backend: str, how: str) -> None:
    """A program that ends, by an exception too, without closing its streams loses no frame."""
    for ended in run_program(tmp_path, how, backend, 3 if how == "raise" else 4):
        if how == "raise":
            validate(ended.root)
            assert [record["metadata"]["n"] for record in records(ended.root)] == [0, 1, 2, 3]
        else:
            assert_holds(ended.root, expected_images(ended.kind, 4))
            validate(ended.root)


LATE_PROGRAM = """
import sys, threading
import numpy as np
from ome_writers import AcquisitionSettings, create_stream, dims_from_standard_axes

dims = dims_from_standard_axes({"t": 4, "y": 6, "x": 10})
settings = AcquisitionSettings(root_path=sys.argv[1], dimensions=dims, dtype="uint16", format=sys.argv[2])
frames = np.load(sys.argv[3])

def acquire():
    with create_stream(settings) as stream:
        stream.append(frames[0])
        stream.flush()
        started.set()
        threading.main_thread().join()
        for frame in frames[1:]:
            stream.append(frame)

started = threading.Event()
threading.Thread(target=acquire).start()
started.wait()
"""


def test_thread_that_outlives_the_main_one_goes_on(tmp_path: Path, backend: str) -> None:
    """A thread that still acquires when the main one ends keeps its stream; if the library can't, it gets the error."""
    np.save(tmp_path / "frames.npy", FRAMES[:4])
    root = tmp_path / "a.ome.zarr"
    ended = subprocess.run(
        [sys.executable, "-c", LATE_PROGRAM, root, backend, tmp_path / "frames.npy"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    validate(root)
    if "zarr-python" in backend or "zarrs" in backend:  # the pools of concurrent.futures end with the main thread
        assert "WriteError" in ended.stderr
        assert "Frames not on disk: 1" in ended.stderr  # up to the frame whose append or close raised it
        assert np.array_equal(read_images(root)[0][0], FRAMES[0])
    else:
        assert not ended.stderr
        assert_holds(root, [FRAMES[:4]])


@pytest.mark.parametrize("how", ["exit", "kill"])
def test_killed_process_leaves_a_valid_dataset(tmp_path: Path, backend: str, how: str) -> None:
    """A process that is killed leaves complete documents, the records of frames that were flushed, and their pixels."""
    for ended in run_program(tmp_path, how, backend, 3):
        validate(ended.root)
        images = find_images(ended.root)
        assert len(images) == {"single": 1, "unbounded": 1, "positions": 2, "plate": 3}[ended.kind]
        for image in images:
            array = document(ended.root / image.array)
            assert array["dimension_names"] == list(image.axes)
            assert array["attributes"] == {}
        assert [record["metadata"]["n"] for record in records(ended.root)][:3] == [0, 1, 2]
        if backend != "acquire-zarr":  # it writes the index of a shard last
            if ended.kind == "single":
                assert np.array_equal(read_images(ended.root)[0][:3], FRAMES[:3])
            if ended.kind == "unbounded":
                assert np.array_equal(read_images(ended.root)[0], FRAMES[:2])
        settings = settings_for(ended.root, backend, overwrite=True)
        with create_stream(settings) as stream:  # what is left of it can be replaced
            stream.append(FRAMES[0])


def test_one_stream_that_fails_at_exit_does_not_keep_others_from_being_written(
    tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the end of the interpreter every open stream is closed, whatever happens to the others."""
    streams = []
    for name in "abc":
        stream = create_stream(settings_for(tmp_path / f"{name}.ome.zarr", backend))
        for frame in FRAMES[:4]:
            stream.append(frame)
        streams.append(stream)
    for stream in streams[:2]:
        _let_close_fail(monkeypatch, stream)
    with pytest.raises(WriteError):
        _running.close_all()
    assert all(stream.closed for stream in streams)
    for name in "abc":
        assert_holds(tmp_path / f"{name}.ome.zarr", [FRAMES[:4]])
    with pytest.raises(StreamClosedError):
        streams[2].append(FRAMES[0])


def test_a_stream_that_is_interrupted_while_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in ``create_stream`` leaves no thread and no dataset behind."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ome_writers._stream.Engine", interrupted)
    dimensions = [Dimension(name="y", count=8), Dimension(name="x", count=8)]
    settings = AcquisitionSettings(root_path=str(tmp_path / "x.ome.zarr"), dtype="uint8", dimensions=dimensions)
    with pytest.raises(KeyboardInterrupt):
        create_stream(settings)
    assert not list(tmp_path.iterdir())
