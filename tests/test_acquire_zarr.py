"""The backend acquire-zarr: how far its library is behind, its memory, and files that it could not complete."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore as ts
import yaozarrs
from numcodecs import blosc, zstd

from ome_writers import create_stream
from ome_writers._router import Router
from ome_writers.backends import acquire_zarr as module
from ome_writers.backends._behind import ChunksBehind
from ome_writers.backends.acquire_zarr import AcquireZarrSink
from ome_writers.engine import plan_memory
from ome_writers.errors import WriteError
from ome_writers.settings import AcquisitionSettings, BufferSettings, Codec
from ome_writers.testing.datasets import (
    Axes,
    acquisition,
    assert_reads,
    finish_documents,
    make_plan,
    random_pixels,
    stored_chunks,
)

GRIDS: Mapping[str, Axes] = {
    "shards": {"t": (32, 1, 8), "y": (64, 32, 2), "x": (96, 32, 3)},
    "several shards in the frame": {"t": (32, 2, 4), "y": (64, 32, 1), "x": (96, 32, 2)},
    "one chunk each": {"t": (32, 4), "y": (64, 16), "x": (96, 16)},
    "uneven": {"t": (32, 3, 2), "y": (61, 32, 2), "x": (90, 32, 2)},
    "index longer than a chunk": {"t": (32, 1, 16), "y": (4, 2, 2), "x": (4, 2, 2)},
    "several axes": {"t": (8, 1, 3), "c": (2,), "z": (5, 2, 2), "y": (64, 32, 2), "x": (96, 32, 3)},
    "positions": {"t": (16, 1, 4), "p": (3,), "y": (64, 32, 2), "x": (96, 32, 3)},
    "one step gathered": {"t": (6, 1, 2), "z": (7, 3, 1), "y": (64, 32, 2), "x": (96, 32, 3)},
    "an axis gathered": {"t": (4, 1, 2), "c": (2, 2), "z": (5, 2, 2), "y": (64, 32, 2), "x": (96, 32, 3)},
    "all of a chunk gathered": {"t": (7, 2, 2), "z": (5,), "y": (64, 32, 2), "x": (96, 32, 3)},
    "another order": {"t": (5, 1, 2), "z": (3, 2), "c": (2,), "y": (64, 32, 2), "x": (96, 32, 3)},
    "no index axis": {"p": (5,), "y": (64, 32, 2), "x": (96, 32, 3)},
}
CODECS = {
    "none": Codec(name="none"),
    "blosc-lz4": Codec(name="blosc-lz4"),
    "blosc-zstd": Codec(name="blosc-zstd", level=1, shuffle="bit"),
    "zstd": Codec(name="zstd", level=1),
    "zstd, better": Codec(name="zstd", level=19),
}


def _settings(folder: Path, axes: Axes) -> AcquisitionSettings:
    fields = acquisition(axes).model_dump() | {"root_path": str(folder / "a.ome.zarr"), "format": "acquire-zarr"}
    return AcquisitionSettings.model_validate(fields)


# ---- how far the library is behind -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("grid", GRIDS)
def test_complete_chunks_are_found_in_files(
    tmp_path: Path, grid: str, codec: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing stays behind, whatever grid, codec, pixels and batches, so that a sink never waits until it gives up."""
    monkeypatch.setattr(module, "_allowed_behind", lambda *_: 0)
    monkeypatch.setattr(module, "_GIVE_UP_SECONDS", 30)
    expected = 0
    expect = ChunksBehind.expect

    def counted(self: ChunksBehind, array: int, shard: int, chunks: int, *, last: bool) -> None:
        nonlocal expected
        expected += chunks
        expect(self, array, shard, chunks, last=last)

    monkeypatch.setattr(ChunksBehind, "expect", counted)
    plan = make_plan(tmp_path / "data.zarr", AcquireZarrSink, acquisition(GRIDS[grid], compression=CODECS[codec]))
    router, rng = Router(plan.layout.axes), np.random.default_rng(0)
    sink = AcquireZarrSink(plan)
    batches: dict[int, list[Any]] = {array: [] for array in range(len(plan.layout.images))}

    def write(array: int) -> None:
        if batches[array]:
            sink.write_frames(array, np.stack(batches[array]))
            batches[array].clear()
        assert sink._behind.nbytes(0) == 0

    try:
        for number in range(router.total or 0):
            array, _ = router.locate(number)
            frame = rng.integers(1, 1 << 8, plan.geometry.frame_shape, np.uint16)
            frame[: len(frame) * (number % 3) // 2] = 0  # black chunks are not in the files before the end
            if number % 11 == 10:
                write(array)
                sink.skip_frames(array, 1)
                write(array)
            else:
                batches[array].append(frame * (number % 7 != 5))
            if len(batches[array]) == size:
                write(array)
        for array in batches:
            write(array)
        black = sum(len(cells) for cells in sink._black.values())
    finally:
        sink.close()
    finish_documents(plan)
    stored = sum(len(stored_chunks(plan, array)) for array in range(len(plan.layout.images)))
    complete = plan.geometry.shape[0] is None or plan.geometry.shape[0] % plan.geometry.chunks[0] == 0
    assert expected + black == stored or (not complete and expected + black < stored)
    assert expected > stored / 3


@pytest.mark.parametrize("pixels", ["noise", "grey", "both"])
@pytest.mark.parametrize(
    ("codec", "encode"),
    [
        ("none", bytes),
        ("blosc-lz4", lambda pixels: blosc.compress(pixels, b"lz4", 1, blosc.SHUFFLE)),
        ("zstd", lambda pixels: zstd.compress(pixels, 1)),
        ("zstd", lambda pixels: zstd.compress(pixels, 19, True)),
    ],
    ids=["none", "blosc", "zstd", "zstd with checksums"],
)
def test_chunks_count_when_they_are_whole(
    tmp_path: Path, codec: str, encode: Callable[[np.ndarray[tuple[int], np.dtype[np.uint8]]], bytes], pixels: str
) -> None:
    """A chunk is behind until its last byte is in the file, wherever that ends, as is one of which nothing is."""
    axes: Axes = {"t": (4, 1, 4), "y": (600,), "x": (500,)}  # zstd stores 300,000 bytes in three blocks
    plan = make_plan(tmp_path / "data.zarr", AcquireZarrSink, acquisition(axes, "uint8", codec))
    noise = random_pixels((4, 300_000), "uint8")
    if pixels != "noise":
        noise[:, : 300_000 if pixels == "grey" else 150_000] = 7
    chunks = [encode(chunk) for chunk in noise]
    ends = np.cumsum([len(chunk) for chunk in chunks])
    file = plan.array_path(0) / "c" / "0" / "0" / "0"
    file.parent.mkdir(parents=True)
    contents = b"".join(chunks) + bytes(4 * 16 + 4)
    for length in sorted({*ends, *(ends - 1), *(ends + 1), *(ends - 17), *(ends + 17), 0, 3, 20, len(contents)}):
        file.write_bytes(contents[:length])
        behind = ChunksBehind(plan)
        behind.expect(0, 0, 2, last=False)
        behind.expect(0, 0, 2, last=True)
        whole = int((ends <= length).sum())
        assert behind.nbytes(0) == (4 - whole) * 300_000, length
        file.write_bytes(contents)
        assert behind.nbytes(0) == 0, length


def test_files_are_left_alone_while_little_is_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are looked at only when more may be behind than is allowed."""
    plan = make_plan(tmp_path / "data.zarr", AcquireZarrSink, acquisition({"t": (8, 1, 8), "y": (10,), "x": (10,)}))
    looks = 0

    def look(_: ChunksBehind) -> None:
        nonlocal looks
        looks += 1

    monkeypatch.setattr(ChunksBehind, "_look", look)
    behind = ChunksBehind(plan)
    for chunks in range(1, 5):
        behind.expect(0, 0, 1, last=False)
        assert behind.nbytes(600) == chunks * 200
    assert looks == 1


def test_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a system makes no links, arrays have streams of their own, and the dataset's documents stand in the end."""

    def refused(path: Path, target: Path, *, target_is_directory: bool) -> None:
        raise OSError(f"{path} can't be a link to {target}, {target_is_directory=}")

    monkeypatch.setattr(Path, "symlink_to", refused)
    settings = _settings(tmp_path, GRIDS["positions"])
    frames = random_pixels((48, 64, 96), "uint16")
    with create_stream(settings) as stream:
        for frame in frames:
            stream.append(frame)
    yaozarrs.validate_zarr_store(settings.root_path)
    for array in range(3):
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{settings.root_path}/{array}/0"}}
        assert np.array_equal(ts.open(spec, open=True).result().read().result(), frames[array::3])


# ---- memory ----------------------------------------------------------------------------------------------------------

_GROWTH = """
    import resource, sys
    import numpy as np
    from ome_writers import AcquisitionSettings, Dimension, create_stream
    from ome_writers.errors import BufferTooSmallError

    path, compression, kind = sys.argv[1:]
    index = {
        "series": [Dimension(name="t", type="time", count=None, chunk_size=1, shard_size_chunks=8)],
        "positions": [
            Dimension(name="t", type="time", count=None, chunk_size=1, shard_size_chunks=8),
            Dimension(name="p", type="position", coords=["a", "b", "c", "d"]),
        ],
        "volumes": [
            Dimension(name="t", type="time", count=2, chunk_size=1, shard_size_chunks=1),
            Dimension(name="z", type="space", count=2000, chunk_size=1, shard_size_chunks=8),
        ],
    }[kind]
    plane = [Dimension(name=n, type="space", count=256, chunk_size=128, shard_size_chunks=2) for n in "yx"]

    def settings(budget):
        return AcquisitionSettings(
            root_path=path, dimensions=index + plane, dtype="uint16", compression=compression, format="acquire-zarr",
            buffer={"max_bytes": budget},
        )

    try:
        create_stream(settings(1))
    except BufferTooSmallError as error:
        budget = int(str(error).split("Allow at least ")[1].split(" bytes")[0].replace(",", ""))
    frames = np.random.default_rng(0).integers(0, 1000, (16, 256, 256)).astype(np.uint16)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with create_stream(settings(budget)) as stream:
        for number in range(4000):
            stream.append(frames[number % 16])
    print(budget, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the unit of ru_maxrss")
@pytest.mark.parametrize("kind", ["series", "positions", "volumes"])
@pytest.mark.parametrize("compression", ["none", "blosc-zstd"])
def test_memory_stays_within_the_budget(tmp_path: Path, compression: str, kind: str) -> None:
    """With the least budget and a camera that is faster than the library, a process grows by the budget and 150 MB."""
    program = [
        sys.executable,
        "-c",
        textwrap.dedent(_GROWTH),
        str(tmp_path / "a.ome.zarr"),
        compression,
        kind,
    ]
    done = subprocess.run(program, capture_output=True, text=True, check=True, timeout=300)
    budget, growth = map(int, done.stdout.split())
    assert budget < 200 << 20  # of 500 MiB that are written
    assert growth < budget + 150_000_000


def test_positions_that_are_not_open_need_no_memory(tmp_path: Path) -> None:
    """Of 200 positions, one at a time has frames that the library gathers; with chunks of two frames, all have."""
    needed = []
    for chunk in (1, 2):
        axes: Axes = {"t": (50, chunk), "p": (200,), "y": (2048,), "x": (2048,)}
        plan = make_plan(tmp_path / f"{chunk}.zarr", AcquireZarrSink, acquisition(axes))
        needed.append(AcquireZarrSink.memory_needed(plan))
    assert needed[0] < 500 << 20
    assert needed[1] > 400 * 2048**2 * 2


def test_the_usual_budget_holds_a_light_sheet(tmp_path: Path) -> None:
    """64 frames of 2048 x 2048 that the library gathers, to store them in another order, fit without a setting."""
    axes: Axes = {"t": (2,), "z": (32, 16), "c": (2,), "y": (2048, 256), "x": (2048, 256)}
    plan = make_plan(tmp_path / "a.zarr", AcquireZarrSink, acquisition(axes, compression="blosc-lz4"))
    assert plan.layout.axes[1].name != plan.geometry.dimension_names[1]
    assert plan_memory(AcquireZarrSink, plan, BufferSettings()).buffers >= 2
    assert AcquireZarrSink.memory_needed(plan) > 64 * 2048**2 * 2


# ---- skipped frames --------------------------------------------------------------------------------------------------


def test_skipped_frames_are_zeros_when_the_queue_has_been_used(tmp_path: Path) -> None:
    """Skipped frames read as 0 and are not stored alone, also after the 512 frames that the library's queue holds."""
    for chunk in (1, 4):
        plan = make_plan(
            tmp_path / f"{chunk}.zarr", AcquireZarrSink, acquisition({"t": (1600, chunk, 4), "y": (8,), "x": (8,)})
        )
        skipped = [n for n in range(1600) if n % 50 < n // 200]
        pixels = random_pixels((1600, 8, 8), "uint16")
        pixels[skipped] = 0
        sink = AcquireZarrSink(plan)
        try:
            for number, frame in enumerate(pixels):
                if number % 50 < number // 200:
                    sink.skip_frames(0, 1)
                else:
                    sink.write_frames(0, frame[np.newaxis])
        finally:
            sink.close()
        finish_documents(plan)
        assert_reads(plan, 0, pixels)
        stored = {t for t, *_ in stored_chunks(plan, 0)}
        assert stored == {n // chunk for n in range(1600) if n not in skipped}


# ---- files that could not be completed -------------------------------------------------------------------------------

_LIMITED = """
    import json, resource, signal, sys
    import numpy as np
    from ome_writers import AcquisitionSettings, Dimension, create_stream
    from ome_writers.backends import acquire_zarr
    from ome_writers.errors import WriteError

    if sys.argv[2] == "waits":
        acquire_zarr._allowed_behind = lambda *_: 0
    index = [
        Dimension(name="t", type="time", count=40, chunk_size=1, shard_size_chunks=8),
        Dimension(name="p", type="position", coords=["a", "b"]),
    ]
    plane = [Dimension(name=n, type="space", count=64, chunk_size=64, shard_size_chunks=1) for n in "yx"]
    settings = AcquisitionSettings(
        root_path=sys.argv[1], dimensions=index + plane, dtype="uint16", compression="blosc-lz4", format="acquire-zarr",
    )
    noise = np.random.default_rng(0).integers(1, 1 << 16, (64, 64), np.uint16)
    if sys.argv[2] == "is interrupted":
        census, calls = acquire_zarr.ChunkCensus, []

        def interrupted(plan):
            calls.append(plan)
            if len(calls) == 1:
                raise KeyboardInterrupt
            return census(plan)

        acquire_zarr.ChunkCensus = interrupted
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
    stream = create_stream(settings)

    def stream_lost():
        document = json.loads((stream.path / "zarr.json").read_text(encoding="utf-8"))
        return document["attributes"]["ome_writers"]["completeness"]["frames_lost"]

    try:
        for number in range(80):
            noisy = 20 <= number < 40 and number % 2  # of these, eight take more than a file may have
            if number % 13 == 12:
                stream.skip()
            else:
                stream.append(noise + np.uint16(number) if noisy else np.full((64, 64), number + 1, np.uint16))
    except WriteError:
        pass
    try:
        stream.close()
    except KeyboardInterrupt:
        lost = [range(first, last + 1) for first, last in stream_lost()]
        print(stream.next_frame, *(number for run in lost for number in run))
    except WriteError as error:
        print(stream.next_frame, *(number for run in error.frames for number in run))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="how a limit of the length of files is told")
@pytest.mark.parametrize("way", ["waits", "does not wait", "is interrupted"])
def test_all_frames_of_incomplete_shards_are_named(tmp_path: Path, way: str) -> None:
    """Where the library fails to write, the error names exactly the frames that can't be read, also earlier ones.

    A sink that waits for the library finds out that it has failed, and does not wait for what will never be there. When
    Ctrl-C strikes while it closes, the dataset says it.
    """
    path = tmp_path / "a.ome.zarr"
    program = [sys.executable, "-c", textwrap.dedent(_LIMITED), str(path), way]
    done = subprocess.run(program, capture_output=True, text=True, check=True, timeout=50)
    taken, *named = map(int, done.stdout.split())
    lost = set(named)
    skipped = set(range(12, 80, 13))
    unread = set()
    for array, name in enumerate("ab"):
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path / name / "0")}}
        opened = ts.open(spec, open=True).result()
        for t in range(opened.shape[0]):
            try:
                if opened[t].read().result()[0, 0] == 0:
                    unread.add(2 * t + array)
            except ValueError:  # a shard without an index
                unread.add(2 * t + array)
    assert lost
    assert lost == {number for number in unread - skipped if number < taken}
    assert (taken < 80) == (way == "waits")


@pytest.mark.parametrize("waits", [True, False])
def test_the_folder_of_links_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waits: bool) -> None:
    """Whoever tidies the system's temporary folder makes a stream fail, which names the frames that are elsewhere."""
    aside = tmp_path / "aside"
    aside.mkdir()
    monkeypatch.setattr("tempfile.mkdtemp", lambda **_: str(aside))
    if waits:
        monkeypatch.setattr(module, "_allowed_behind", lambda *_: 0)
    settings = _settings(tmp_path, {"t": (64, 1, 4), "p": (2,), "y": (64,), "x": (96,)})
    frames = random_pixels((128, 64, 96), "uint16")
    stream = create_stream(settings)
    for frame in frames[:64]:
        stream.append(frame)
    stream.flush()
    for link in aside.glob("*/c"):
        link.unlink()
    with suppress(WriteError):
        for frame in frames[64:]:
            stream.append(frame)
        stream.flush()
        assert not waits
    with pytest.raises(WriteError, match="removed while it was written") as failed:
        stream.close()
    lost = {number for run in failed.value.frames for number in run}
    for array in range(2):
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{settings.root_path}/{array}/0"}}
        found = ts.open(spec, open=True).result().read().result()
        right = {2 * t + array for t in range(64) if np.array_equal(found[t], frames[2 * t + array])}
        assert right | lost >= set(range(array, stream.next_frame, 2))
        assert len(right) > 16 or not waits
    assert lost
    assert not aside.exists()
