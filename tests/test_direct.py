"""The backend that appends chunks to shards itself: its files byte by byte, handles, and a disk that fails."""

from __future__ import annotations

import dataclasses
import errno
import os
import struct
import threading
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from io import FileIO
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import numcodecs
import numpy as np
import numpy.typing as npt
import psutil
import pytest

from ome_writers import AcquisitionSettings, OMEStream, _files, create_stream
from ome_writers._files import FileSystem
from ome_writers.abc import LayersLostError, WritePlan
from ome_writers.backends import _encoding, _shards, direct
from ome_writers.backends._journal import JOURNAL_FILE, read_journal
from ome_writers.backends._shards import WRITING_FOLDER, Shard
from ome_writers.backends.direct import DirectSink
from ome_writers.errors import UnsupportedError, WriteError
from ome_writers.settings import BufferSettings, Codec
from ome_writers.testing.datasets import (
    Axes,
    acquisition,
    assert_reads,
    check_files,
    crc32c,
    finish_documents,
    make_plan,
    random_pixels,
    stored_chunks,
)
from ome_writers.testing.files import FileFault, faulty_files
from readers import assert_holds, document, read_images

pytestmark = pytest.mark.timeout(60)

Pixels = npt.NDArray[Any]
MISSING = 2**64 - 1
AXES: Axes = {"t": (4, 1, 4), "y": (4, 2, 2), "x": (3,)}  # one shard: four steps of two chunks, 12 bytes each
UNSHARDED: Axes = {"t": (4,), "y": (4, 2), "x": (3,)}


def planned(tmp_path: Path, axes: Axes = AXES, codec: str | Codec = "none") -> WritePlan:
    """Make the folder of a dataset."""
    return make_plan(tmp_path / "data.zarr", DirectSink, acquisition(axes, compression=codec))


def frames_of(plan: WritePlan, steps: int = 4) -> Pixels:
    """Return pixels of all steps."""
    return random_pixels((steps, *plan.geometry.frame_shape), "uint16")


def layer_of(plan: WritePlan, frame: Pixels) -> Pixels:
    """Return the layer of one frame whose rows of chunks are as wide as itself."""
    rows, _, _, tall, wide = plan.geometry.layer_shape
    return frame.reshape(rows, 1, 1, tall, wide)


def write(sink: DirectSink, plan: WritePlan, frames: Pixels, *steps: int, array: int = 0) -> None:
    """Write some steps, one layer each."""
    for step in steps:
        sink.write_chunks(array, (step,), 0, layer_of(plan, frames[step]))


def files_below(folder: Path) -> list[str]:
    """Return the names of all files below a folder but documents, relative to it."""
    found = (file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    return sorted(name for name in found if not name.endswith("zarr.json"))


def index_of(file: Path, slots: int) -> list[tuple[int, int]]:
    """Return (offset, length) of each chunk by the index of a shard, read with nothing but struct."""
    raw = file.read_bytes()
    numbers = struct.unpack(f"<{2 * slots}Q", raw[-16 * slots - 4 : -4])
    assert struct.unpack("<I", raw[-4:]) == (crc32c(raw[-16 * slots - 4 : -4]),)
    return list(zip(numbers[::2], numbers[1::2], strict=True))


# ---- bytes ---------------------------------------------------------------------------------------------------------


def test_a_shard_byte_by_byte(tmp_path: Path) -> None:
    """A shard is chunks in the order they came, then the index in the order of the grid, then its checksum."""
    plan = planned(tmp_path)
    frames = frames_of(plan)
    with closing(DirectSink(plan)) as sink:
        write(sink, plan, frames, 2, 0)
        sink.skip_layer(0, (3,))
        sink.write_chunks(0, (1,), 1, layer_of(plan, frames[1])[1:])
    file = plan.array_path(0) / "c" / "0" / "0" / "0"
    chunks = {(t, y): frames[t, 2 * y : 2 * y + 2].astype("<u2").tobytes() for t in range(4) for y in range(2)}
    data = [chunks[2, 0], chunks[2, 1], chunks[0, 0], chunks[0, 1], chunks[1, 1]]
    index = [(24, 12), (36, 12), (MISSING, MISSING), (48, 12), (0, 12), (12, 12), (MISSING,) * 2, (MISSING,) * 2]
    packed = b"".join(struct.pack("<QQ", *entry) for entry in index)
    assert file.read_bytes() == b"".join(data) + packed + struct.pack("<I", crc32c(packed))
    assert files_below(plan.root) == ["0/c/0/0/0"]


CODECS = [
    Codec(name="none"),
    Codec(name="none", checksum=True),
    Codec(name="zstd"),
    Codec(name="zstd", checksum=True),
    Codec(name="blosc-lz4", shuffle="bit"),
    Codec(name="blosc-zstd", checksum=True),
]


@pytest.mark.parametrize("axes", [AXES, UNSHARDED], ids=["sharded", "unsharded"])
@pytest.mark.parametrize("codec", CODECS, ids=str)
def test_chunks_byte_by_byte(tmp_path: Path, codec: Codec, axes: Axes) -> None:
    """Each chunk is its pixels, little endian, compressed, and then its checksum if it is to have one."""
    plan = planned(tmp_path, axes, codec)
    frames = frames_of(plan)
    with closing(DirectSink(plan)) as sink:
        write(sink, plan, frames, 0, 1, 2, 3)
    decode: Callable[[bytes], Any] = {
        "none": lambda data: data,
        "zstd": numcodecs.Zstd().decode,
        "blosc-lz4": numcodecs.Blosc().decode,
        "blosc-zstd": numcodecs.Blosc().decode,
    }[codec.name]
    folder = plan.array_path(0) / "c"
    for t, y in np.ndindex(4, 2):
        if plan.geometry.shards is None:
            chunk = (folder / f"{t}" / f"{y}" / "0").read_bytes()
        else:
            file = folder / "0" / "0" / "0"
            offset, length = index_of(file, 8)[2 * t + y]
            chunk = file.read_bytes()[offset : offset + length]
        if codec.checksum:
            chunk, checksum = chunk[:-4], chunk[-4:]
            assert checksum == struct.pack("<I", crc32c(chunk))
        assert bytes(decode(chunk)) == frames[t, 2 * y : 2 * y + 2].astype("<u2").tobytes()


def test_pixels_are_little_endian_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where memory is big endian, chunks are bytes whose length is that of the chunk."""
    monkeypatch.setattr(_encoding, "sys", SimpleNamespace(byteorder="big"))
    chunk = random_pixels((3, 5), "uint16")
    for codec in CODECS:
        encode = _encoding.encoder(acquisition(AXES, compression=codec).codec)
        assert encode is not None
        for pixels in (chunk, chunk.astype(">u2")):
            data = encode(pixels)
            assert isinstance(data, bytes)
            if codec.name == "none":
                assert data[:30] == chunk.astype("<u2").tobytes()


def test_shards_at_the_edge_have_a_whole_index(tmp_path: Path) -> None:
    """Where a shard reaches beyond the array its index lists all chunks of a shard, and those outside are missing."""
    plan = planned(tmp_path, {"t": (3, 1, 2), "y": (6, 2, 2), "x": (3,)})
    frames = frames_of(plan, 3)
    with closing(DirectSink(plan)) as sink:
        write(sink, plan, frames, 0, 1, 2)
        complete = [f"0/c/{t}/{y}/0" for t in range(2) for y in range(2)]
        assert files_below(plan.root) == [*complete, "ome_writers/journal"]
    counts = {
        (t, y): [offset != MISSING for offset, _ in index_of(plan.array_path(0) / "c" / str(t) / str(y) / "0", 4)]
        for t, y in np.ndindex(2, 2)
    }
    assert counts == {
        (0, 0): [True] * 4,
        (0, 1): [True, False, True, False],
        (1, 0): [True, True, False, False],
        (1, 1): [True, False, False, False],
    }
    check_files(plan)
    assert_reads(plan, 0, frames)


@pytest.mark.parametrize("codec", ["none", "blosc-lz4"])
@pytest.mark.parametrize(
    "wide",
    [(6, 2, 2), (6, 2, 3), (6, 2, 4), (10, 2, 2)],
    ids=["edge", "whole", "wider", "two and edge"],
)
def test_several_rows_of_chunks_have_their_places_in_each_shard(
    tmp_path: Path, wide: tuple[int, ...], codec: str
) -> None:
    """Also in the shard at the right edge of a frame, whose rows of chunks are shorter than those of its index."""
    plan = planned(tmp_path, {"t": (2, 1, 2), "y": (12, 2, 3), "x": wide}, codec)
    frames = frames_of(plan, 2)
    with closing(DirectSink(plan)) as sink:
        for step, frame in enumerate(frames):
            rows, columns, _, tall, across = plan.geometry.layer_shape
            layer = np.ascontiguousarray(frame.reshape(rows, tall, columns, across).swapaxes(1, 2))[:, :, None]
            sink.write_chunks(0, (step,), 0, layer[:2])  # parts of a layer begin anywhere
            sink.write_chunks(0, (step,), 2, layer[2:])
    check_files(plan)
    assert_reads(plan, 0, frames)


def _with_two_workers(tmp_path: Path, axes: Axes, **fields: Any) -> AcquisitionSettings:
    given = dict(acquisition(axes)) | {"root_path": tmp_path / "a.ome.zarr", "buffer": BufferSettings(workers=2)}
    return AcquisitionSettings(**given | fields)


def test_one_writer_leaves_the_last_processor_to_the_camera(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until half of what may wait does, a thread less writes."""
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    begun, permits, write = SimpleQueue[str](), threading.Semaphore(0), DirectSink.write_chunks

    def hold(sink: DirectSink, *given: Any) -> None:
        begun.put(threading.current_thread().name)
        assert permits.acquire(timeout=20)
        write(sink, *given)

    monkeypatch.setattr(DirectSink, "write_chunks", hold)
    frames = random_pixels((58, 512, 1024), "uint16")  # 1 MiB each, of which 96 may wait
    with create_stream(_with_two_workers(tmp_path, {"t": (58, 1, 29), "y": (512,), "x": (1024,)})) as stream:
        for frame in frames[:40]:
            stream.append(frame)
        permits.release(3)
        alone = {begun.get(timeout=20) for _ in range(4)}  # two writers would both be among the first
        for frame in frames[40:]:
            stream.append(frame)
        other = begun.get(timeout=20)  # the first one waits
        permits.release(len(frames))
    assert len(alone) == 1
    assert other not in alone
    assert_holds(tmp_path / "a.ome.zarr", [frames])


@pytest.mark.parametrize(
    ("backend", "side", "held"), [("direct", 1024, 1), ("direct", 64, 0), ("tensorstore", 1024, 0)]
)
def test_where_a_writer_is_held_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str, side: int, held: int
) -> None:
    """Only where layers are written one by one, and by no library with threads of its own."""
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    axes: Axes = {"t": (8, 1, 4), "y": (side,), "x": (side,)}
    with create_stream(_with_two_workers(tmp_path, axes, format=backend)) as stream:
        assert stream._engine._workers._reserve == held


def test_chunks_that_are_too_large_for_blosc_are_refused(tmp_path: Path) -> None:
    """Blosc takes less than 2 GiB; the message names another compression, and nothing is made."""
    axes: Axes = {"t": (64, 64), "y": (4096,), "x": (4096,)}
    with pytest.raises(UnsupportedError, match=r"2,147,483,648 bytes.*blosc.*'zstd'"):
        planned(tmp_path, axes, "blosc-lz4")
    assert not any(tmp_path.iterdir())
    planned(tmp_path, axes, "zstd")


# ---- names ---------------------------------------------------------------------------------------------------------


def test_a_shard_gets_its_name_with_its_last_chunk(tmp_path: Path) -> None:
    """Until it is complete a shard has a temporary name; then at once, without close, others can read it."""
    plan = planned(tmp_path, {"t": (None, 1, 2), "y": (4, 2, 2), "x": (3,)})
    frames = frames_of(plan, 5)
    with closing(DirectSink(plan)) as sink:
        found = []
        for step in range(5):
            write(sink, plan, frames, step)
            found.append(
                (files_below(plan.root / "0"), files_below(plan.root / WRITING_FOLDER), sink.readable_extent(0))
            )
        first, second = "c/0/0/0", "c/1/0/0"
        assert found == [
            ([], ["0-0.0.0"], 0),
            ([first], [], 2),
            ([first], ["0-1.0.0"], 2),
            ([first, second], [], 4),
            ([first, second], ["0-2.0.0"], 4),
        ]
        finish_documents(plan, 4)
        assert_reads(plan, 0, frames[:4])
    assert files_below(plan.root / "0") == [first, second, "c/2/0/0"]
    assert not (plan.root / WRITING_FOLDER).exists()
    finish_documents(plan, 5)
    assert_reads(plan, 0, frames)


@pytest.mark.parametrize("last", ["written", "skipped", "part"])
def test_a_shard_is_complete_with_its_last_layer(tmp_path: Path, last: str) -> None:
    """A shard is complete as soon as the last of its chunks is written or skipped, in whatever order they come."""
    plan = planned(tmp_path)
    frames = frames_of(plan)
    final = plan.array_path(0) / "c" / "0" / "0" / "0"
    with closing(DirectSink(plan)) as sink:
        write(sink, plan, frames, 3)
        sink.skip_layer(0, (0,))
        write(sink, plan, frames, 1)
        if last == "written":
            write(sink, plan, frames, 2)
        elif last == "skipped":
            sink.skip_layer(0, (2,))
        else:
            sink.write_chunks(0, (2,), 1, layer_of(plan, frames[2])[1:])
            assert not final.exists()
            sink.write_chunks(0, (2,), 0, layer_of(plan, frames[2])[:1])
        assert final.exists()
        assert not sink._shards
    frames[[0, 2] if last == "skipped" else 0] = 0
    assert_reads(plan, 0, frames)


def test_a_shard_of_skipped_layers_is_no_file(tmp_path: Path) -> None:
    """A shard of which all layers were skipped is never opened, and takes no memory afterwards."""
    plan = planned(tmp_path, {"t": (None, 1, 2), "y": (4, 2, 2), "x": (3,)})
    with closing(DirectSink(plan)) as sink:
        for step in range(1000):
            sink.skip_layer(0, (step,))
        assert not sink._shards
        assert sink.readable_extent(0) == 1000
        assert files_below(plan.root) == []
    assert files_below(plan.root) == []
    assert not (plan.root / WRITING_FOLDER).exists()


def test_chunks_without_shards_are_files_at_once(tmp_path: Path) -> None:
    """Without shards each chunk has its file as soon as it is written, and nothing is left of its temporary name."""
    plan = planned(tmp_path, UNSHARDED)
    frames = frames_of(plan)
    with closing(DirectSink(plan)) as sink:
        write(sink, plan, frames, 2)
        assert files_below(plan.root) == ["0/c/2/0/0", "0/c/2/1/0"]
        assert sink.readable_extent(0) is None
        sink.skip_layer(0, (1,))
    assert files_below(plan.root) == ["0/c/2/0/0", "0/c/2/1/0"]
    assert not (plan.root / WRITING_FOLDER).exists()


def test_a_stream_leaves_no_temporary_names(tmp_path: Path) -> None:
    """The folder of files that are being written is there during the acquisition, and is gone after it."""
    settings = acquisition({"t": (None, 1, 4), "y": (4, 2, 2), "x": (3,)})
    settings.root_path = str(tmp_path / "a.ome.zarr")
    settings.format = "direct"  # type: ignore[assignment]
    frames = random_pixels((6, 4, 3), "uint16")
    with create_stream(settings) as stream:
        for frame in frames:
            stream.append(frame)
        stream.flush()
        assert files_below(stream.path / WRITING_FOLDER) == ["0-1.0.0"]
        assert files_below(stream.path / "0") == ["c/0/0/0"]
    assert not (stream.path / WRITING_FOLDER).exists()
    assert_holds(stream.path, [frames])


# ---- handles -------------------------------------------------------------------------------------------------------


def open_below(folder: Path) -> int:
    """Return how many files below a folder this process has open."""
    return sum(Path(file.path).is_relative_to(folder.resolve()) for file in psutil.Process().open_files())


@pytest.mark.parametrize("workers", [1, 4])
def test_few_files_are_open(tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With more shards open than files may be, files are closed and opened again, and nothing gets lost."""
    monkeypatch.setattr(_shards, "MAX_OPEN_FILES", 3)
    plan = planned(tmp_path, {"t": (6, 1, 3), "p": (24,), "y": (4, 2, 2), "x": (3,)})
    images = [random_pixels((6, 4, 3), "uint16", seed) for seed in range(24)]
    tasks = [(step, array) for step in range(6) for array in range(24)]
    most: list[int] = []
    errors: list[BaseException] = []

    def run(share: list[tuple[int, int]]) -> None:
        try:
            for step, array in share:
                write(sink, plan, images[array], step, array=array)
                most.append(open_below(plan.root))
        except BaseException as error:  # noqa: BLE001  raised below
            errors.append(error)

    with closing(DirectSink(plan)) as sink:
        threads = [threading.Thread(target=run, args=(tasks[i::workers],)) for i in range(workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        if errors:
            raise errors[0]
        assert open_below(plan.root) == 1  # the journal
    assert max(most) <= 1 + (3 if workers == 1 else 3 + workers)
    assert max(most) >= 2
    check_files(plan)
    for array, image in enumerate(images):
        assert_reads(plan, array, image)


def test_few_files_are_open_in_a_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Positions whose shards are all open at once share a few files, and partial shards are complete after close."""
    monkeypatch.setattr(_shards, "MAX_OPEN_FILES", 3)
    settings = acquisition({"t": (None, 1, 4), "p": (24,), "y": (4, 2, 2), "x": (3,)})
    settings.root_path = str(tmp_path / "a.ome.zarr")
    settings.format = "direct"  # type: ignore[assignment]
    settings.buffer = BufferSettings(workers=2)
    images = random_pixels((24, 6, 4, 3), "uint16")
    most = 0
    with create_stream(settings) as stream:
        for step in range(6):
            for image in images:
                stream.append(image[step])
                most = max(most, open_below(stream.path))
    # one more for each worker; the lock, the journal, the fates, and a document that is being written
    assert most <= 3 + 2 + 4 < len(images)
    assert_holds(stream.path, list(images))


# ---- a disk that fails ---------------------------------------------------------------------------------------------


class Disk:
    """What writes of files below a folder do: less than they are asked to, or fail when the disk is full."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, most: int | None = None) -> None:
        self.most = most
        self.room: int | None = None
        self.writes = 0
        disk = self

        class File(FileIO):
            def write(self, data: Any) -> int:
                view = memoryview(data).cast("B")
                disk.writes += 1
                if disk.most is not None:
                    view = view[: disk.most]
                if disk.room is not None:
                    view = view[: disk.room]
                    if not view:
                        raise OSError(errno.ENOSPC, "No space left on device")
                    disk.room -= len(view)
                return super().write(view)

        class Files(FileSystem):
            def open(self, path: Path, mode: str) -> FileIO:
                return (File if path.parent.name == "writing" else FileIO)(path, mode)

            def write(self, file: FileIO, offset: int, *pieces: memoryview) -> int:
                file.seek(offset)
                return file.write(b"".join(pieces))  # of the class above

        self.file_class = File
        monkeypatch.setattr(_files, "system", Files())


def fail_once(disk: Disk, sink: DirectSink, plan: WritePlan, frames: Pixels, room: int) -> None:
    """Write step 1 to a disk that has too little room, and step 2 when it has more again."""
    disk.room = room
    with pytest.raises(OSError, match="No space left"):
        write(sink, plan, frames, 1)
    disk.room = None
    write(sink, plan, frames, 2)


@pytest.mark.parametrize("most", [1, 5, 7])
@pytest.mark.parametrize("axes", [AXES, UNSHARDED], ids=["sharded", "unsharded"])
@pytest.mark.parametrize("codec", [Codec(name="none"), Codec(name="zstd", checksum=True)], ids=str)
def test_short_writes_are_continued(
    tmp_path: Path, most: int, axes: Axes, codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A system call that writes less than it is given is followed by another one."""
    disk = Disk(monkeypatch, most=most)
    plan = planned(tmp_path, axes, codec)
    frames = frames_of(plan)
    with closing(DirectSink(plan)) as sink:
        write(sink, plan, frames, 0, 1, 2, 3)
    assert disk.writes > 8
    check_files(plan)
    assert_reads(plan, 0, frames)


@pytest.mark.parametrize("most", [1, 3, 4, 7, 1000])
@pytest.mark.parametrize("how", ["pwritev", "pwrite", "write"])
def test_pieces_are_written_whole(tmp_path: Path, most: int, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces stand in a file one after the other, however many a system call takes and wherever it stops."""
    pieces = [np.arange(n, dtype="<u2") for n in (2, 0, 1, 5)] + [b"", b"abc"] + [bytes([i % 251]) for i in range(5000)]
    calls = []

    def short(descriptor: int, buffers: Sequence[memoryview], offset: int) -> int:
        calls.append(len(buffers))
        return os.pwrite(descriptor, b"".join(buffers)[:most], offset)  # where there is the one, there is the other

    if how == "pwritev" and not hasattr(os, "pwritev"):
        pytest.skip("this system has no pwritev()")
    for name in ("pwritev", "pwrite")[: ("pwritev", "pwrite", "write").index(how)]:
        monkeypatch.delattr(os, name, raising=False)
    if how == "pwritev":
        monkeypatch.setattr(os, "pwritev", short)
    with FileIO(tmp_path / "a", "wb") as file:
        _files.write_all(file, 5, *pieces)
        _files.write_all(file, 0, b"begin")
        _files.write_all(file, 1)
    assert (tmp_path / "a").read_bytes() == b"begin" + b"".join(
        piece.tobytes() if isinstance(piece, np.ndarray) else piece for piece in pieces
    )
    assert bool(calls) == (how == "pwritev")
    assert max(calls, default=0) <= _files._MOST_PIECES


def test_more_than_a_system_call_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces that are larger together, or alone, than what some systems take in one call go into several."""
    asked = []

    def noting(descriptor: int, data: memoryview, offset: int, write: Callable[..., int] = os.pwrite) -> int:
        asked.append(len(data))
        return write(descriptor, data, offset)

    monkeypatch.setattr(_files, "_MOST_BYTES", 10)
    monkeypatch.setattr(os, "pwrite", noting)
    with FileIO(tmp_path / "a", "wb") as file:
        _files.write_all(file, 0, b"abc", bytes(range(25)), b"defg")
        _files.write_all(file, 32, bytes(range(25)))
    assert (tmp_path / "a").read_bytes() == b"abc" + bytes(range(25)) + b"defg" + bytes(range(25))
    assert max(asked) == 10


FOUR: Axes = {"t": (4, 1, 4), "y": (8, 2, 4), "x": (3,)}  # one shard: four steps of four chunks


@pytest.fixture
def _a_chunk_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have each encoded chunk appended on its own."""
    monkeypatch.setattr(direct, "_APPEND_BYTES", 1)


@pytest.mark.usefixtures("_a_chunk_at_a_time")
@pytest.mark.parametrize("durable", [False, True], ids=["", "durable"])
def test_layers_that_are_appended_in_turn(tmp_path: Path, *, durable: bool) -> None:
    """Two threads append to one shard, a chunk of each in turn: all are found, by the journal, too."""
    plan = dataclasses.replace(planned(tmp_path, FOUR, "zstd"), durable=durable)
    frames = frames_of(plan)
    turn = threading.Barrier(2)
    with closing(DirectSink(plan)) as sink:
        encode = sink._encode
        assert encode is not None

        def encode_in_turn(chunk: Pixels) -> bytes:
            with suppress(threading.BrokenBarrierError):
                turn.wait(5)
            return encode(chunk)

        sink._encode = encode_in_turn
        threads = [threading.Thread(target=write, args=(sink, plan, frames, step)) for step in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        entries = list(read_journal(plan.root / JOURNAL_FILE))
        sink._encode = encode
        write(sink, plan, frames, 2, 3)
    assert_reads(plan, 0, frames)
    check_files(plan)
    shard = plan.array_path(0) / "c" / "0" / "0" / "0"
    index, data = index_of(shard, 16), shard.read_bytes()
    assert sorted(slot for entry in entries for slot in entry.slots.tolist()) == list(range(8))
    for entry in entries:
        places = list(zip(entry.offsets.tolist(), entry.lengths.tolist(), strict=True))
        assert places == [index[slot] for slot in entry.slots]
        sums = None if entry.checksums is None else entry.checksums.tolist()
        assert sums == ([crc32c(data[o : o + n]) for o, n in places] if durable else None)


@pytest.mark.usefixtures("_a_chunk_at_a_time")
def test_chunks_gather_while_another_thread_appends(tmp_path: Path) -> None:
    """Chunks are encoded while another thread holds the shard, and are appended together when it lets go."""
    plan = planned(tmp_path, FOUR, "zstd")
    frames = frames_of(plan)
    with closing(DirectSink(plan)) as sink:
        write(sink, plan, frames, 0)
        (shard,) = sink._shards.values()
        encode, encoded = sink._encode, threading.Semaphore(0)
        assert encode is not None

        def counted(chunk: Pixels) -> bytes:
            encoded.release()
            return encode(chunk)

        sink._encode = counted
        size = shard.temporary.stat().st_size
        with shard.lock:
            thread = threading.Thread(target=write, args=(sink, plan, frames, 1))
            thread.start()
            assert all(encoded.acquire(timeout=30) for _ in range(4))
            assert shard.temporary.stat().st_size == size
        thread.join()
        write(sink, plan, frames, 3, 2)
    assert_reads(plan, 0, frames)
    check_files(plan)


@pytest.mark.usefixtures("_a_chunk_at_a_time")
@pytest.mark.parametrize("room", [*range(0, 84, 7), 83])  # of four chunks of 21 bytes
def test_a_disk_that_is_full_in_the_middle_of_a_layer(
    tmp_path: Path, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a layer that could not be written as a whole nothing is found, neither in the shard nor in the journal."""
    disk = Disk(monkeypatch)
    plan = planned(tmp_path, FOUR, "zstd")
    frames = frames_of(plan)
    with closing(DirectSink(plan)) as sink:
        write(sink, plan, frames, 0)
        fail_once(disk, sink, plan, frames, room)
        slots = [slot for entry in read_journal(plan.root / JOURNAL_FILE) for slot in entry.slots.tolist()]
    assert slots == [*range(4), *range(8, 12)]
    frames[[1, 3]] = 0
    check_files(plan)
    assert_reads(plan, 0, frames)


@pytest.mark.usefixtures("_a_chunk_at_a_time")
def test_a_shard_without_a_whole_layer_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a layer has left that could not be written as a whole takes no room, and needs none for an index."""
    disk = Disk(monkeypatch)
    plan = planned(tmp_path, FOUR, "zstd")
    sink = DirectSink(plan)
    disk.room = 50
    with pytest.raises(OSError, match="No space left"):
        write(sink, plan, frames_of(plan), 0)
    disk.room = 0
    sink.close()
    assert files_below(plan.root) == []


def test_a_layer_that_the_journal_does_not_have(tmp_path: Path) -> None:
    """A layer whose record can't be written is lost, and reads as such after a close as well as after a crash."""
    plan = planned(tmp_path)
    frames = frames_of(plan)
    with closing(DirectSink(plan)) as sink:
        write(sink, plan, frames, 0)
        with (
            faulty_files(FileFault("write", errno.ENOSPC, "*/journal")),
            pytest.raises(OSError, match="No space left"),
        ):
            write(sink, plan, frames, 1)
        write(sink, plan, frames, 2)
    frames[[1, 3]] = 0
    check_files(plan)
    assert_reads(plan, 0, frames)


@pytest.mark.parametrize("codec", ["none", "zstd"])
def test_layers_that_are_written_together_in_any_order(tmp_path: Path, codec: str) -> None:
    """Small layers of a shard that workers hand over together need not come in its order."""
    plan = planned(tmp_path, FOUR, codec)
    frames = frames_of(plan)
    with closing(DirectSink(plan)) as sink:
        for steps in ((2, 0, 3), (1,)):
            sink.write_layers(0, [(step,) for step in steps], [layer_of(plan, frames[step]) for step in steps])
    check_files(plan)
    assert_reads(plan, 0, frames)


@pytest.mark.parametrize("room", [0, 1, 12, 17])
@pytest.mark.parametrize("first", [False, True], ids=["later", "first"])
def test_an_append_that_fails(tmp_path: Path, room: int, first: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full in the middle of an append spoils nothing: what stood before and comes after is readable."""
    disk = Disk(monkeypatch)
    plan = planned(tmp_path)
    frames = frames_of(plan)
    with closing(DirectSink(plan)) as sink:
        if not first:
            write(sink, plan, frames, 0)
        fail_once(disk, sink, plan, frames, room)
    frames[[0, 1, 3] if first else [1, 3]] = 0
    check_files(plan)
    assert_reads(plan, 0, frames)
    assert (plan.array_path(0) / "c" / "0" / "0" / "0").stat().st_size == 24 * (1 if first else 2) + 8 * 16 + 4
    assert not (plan.root / WRITING_FOLDER).exists()


def test_chunks_of_a_shard_in_any_order(tmp_path: Path) -> None:
    """The index says where each chunk begins; of a chunk that is written again, it is the last one."""
    shard = Shard(tmp_path / "final", tmp_path / "temporary", 3, 3)
    shard.open()
    for slots, lengths in ([0, 1, 2], [2, 3, 4]), ([2, 0, 1], [3, 5, 1]):
        shard.note(slots, shard.append(lengths, [b"abcd", b"efghi"]), lengths)
    shard.finish()
    assert index_of(tmp_path / "final", 3) == [(12, 5), (17, 1), (9, 3)]


def test_a_failed_append_leaves_nothing_behind_the_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a failed append of large chunks has left does not stand behind the index, where it would be taken for it."""
    disk = Disk(monkeypatch)
    plan = planned(tmp_path, {"t": (4, 1, 4), "y": (40, 20, 2), "x": (30,)})
    frames = frames_of(plan)
    with closing(DirectSink(plan)) as sink:
        write(sink, plan, frames, 0)
        disk.room = 2300  # of 2400
        with pytest.raises(OSError, match="No space left"):
            write(sink, plan, frames, 1)
        disk.room = None
    frames[1:] = 0
    check_files(plan)
    assert_reads(plan, 0, frames)
    assert (plan.array_path(0) / "c" / "0" / "0" / "0").stat().st_size == 2400 + 8 * 16 + 4


def test_an_append_that_fails_on_a_closed_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a failed append has left is overwritten also when the file was closed and opened again meanwhile."""
    monkeypatch.setattr(_shards, "MAX_OPEN_FILES", 1)
    disk = Disk(monkeypatch)
    plan = planned(tmp_path, {"p": (2,), **AXES})
    frames = frames_of(plan)
    with closing(DirectSink(plan)) as sink:
        write(sink, plan, frames, 0)
        disk.room = 17
        with pytest.raises(OSError, match="No space left"):
            write(sink, plan, frames, 1)
        disk.room = None
        write(sink, plan, frames, 0, array=1)  # closes the other file
        write(sink, plan, frames, 3)
    check_files(plan)
    only_first = np.zeros_like(frames)
    only_first[0] = frames[0]
    assert_reads(plan, 1, only_first)
    frames[1:3] = 0
    assert_reads(plan, 0, frames)


def test_a_disk_that_cannot_be_cleaned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the file can't be shortened, what comes after a failed append is written where the index says."""
    disk = Disk(monkeypatch)
    plan = planned(tmp_path)
    frames = frames_of(plan)
    with closing(DirectSink(plan)) as sink:
        write(sink, plan, frames, 0)
        disk.room = 17
        with monkeypatch.context() as patch:
            patch.setattr(disk.file_class, "truncate", _fails)
            with pytest.raises(OSError, match="No space left"):
                write(sink, plan, frames, 1)
        disk.room = None
        write(sink, plan, frames, 2)
    frames[[1, 3]] = 0
    check_files(plan)
    assert_reads(plan, 0, frames)


def _fails(*_: Any) -> Any:
    raise OSError(errno.EIO, "Input/output error")


@pytest.mark.parametrize("room", [0, 50])
def test_an_index_that_cannot_be_written_is_tried_again(
    tmp_path: Path, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard that can't be completed when its last chunk has come is completed by close, if there is room then."""
    disk = Disk(monkeypatch)
    plan = planned(tmp_path)
    frames = frames_of(plan)
    with closing(DirectSink(plan)) as sink:
        write(sink, plan, frames, 0, 1, 2)
        disk.room = 24 + room
        with pytest.raises(OSError, match="No space left"):
            write(sink, plan, frames, 3)
        assert files_below(plan.root / "0") == []
        assert sink.readable_extent(0) == 0
        disk.room = None
    check_files(plan)
    assert_reads(plan, 0, frames)
    assert not (plan.root / WRITING_FOLDER).exists()


def test_close_names_the_shards_that_are_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When shards can't be completed, close tries all of them, then names those; their chunks stay where they are."""
    disk = Disk(monkeypatch)
    plan = planned(tmp_path, {"p": (15,), **AXES})
    frames = frames_of(plan)
    sink = DirectSink(plan)
    for array in range(15):
        write(sink, plan, frames, 0, array=array)
    disk.room = 2 * (8 * 16 + 4) + 40
    message = r"No space left on device; shards that are not complete.*and 3 more$"
    with pytest.raises(LayersLostError, match=message) as caught:
        sink.close()
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.ENOSPC
    assert set(caught.value.layers) == {(array, (0,)) for array in range(2, 15)}
    for array in range(15):
        complete = (plan.array_path(array) / "c" / "0" / "0" / "0").exists()
        assert complete == (array < 2)
        assert (plan.root / WRITING_FOLDER / f"{array}-0.0.0").exists() != complete
        assert (str(plan.array_path(array) / "c") in str(caught.value)) == (2 <= array < 12)
    assert open_below(plan.root) == 0
    check_files(plan)
    only_first = np.zeros_like(frames)
    only_first[0] = frames[0]
    assert_reads(plan, 1, only_first)
    assert_reads(plan, 2, np.zeros_like(frames))


def test_a_file_of_one_chunk_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without shards, a chunk that can't be written leaves no file under any name."""
    disk = Disk(monkeypatch)
    plan = planned(tmp_path, UNSHARDED)
    frames = frames_of(plan)
    with closing(DirectSink(plan)) as sink:
        write(sink, plan, frames, 0)
        disk.room = 17  # of 24
        with pytest.raises(OSError, match="No space left"):
            write(sink, plan, frames, 1)
        disk.room = None
        write(sink, plan, frames, 2)
    assert stored_chunks(plan, 0) == {(0, 0, 0), (0, 1, 0), (1, 0, 0), (2, 0, 0), (2, 1, 0)}
    assert not (plan.root / WRITING_FOLDER).exists()


def full_stream(tmp_path: Path, disk: Disk, room: int) -> tuple[OMEStream, Pixels, WriteError]:
    """Write frames to a disk that is full after ``room`` bytes; return what close raises."""
    settings = acquisition({"t": (None, 1, 4), "y": (4, 2, 2), "x": (3,)})
    settings.root_path = str(tmp_path / "a.ome.zarr")
    settings.format = "direct"  # type: ignore[assignment]
    settings.buffer = BufferSettings(workers=1)
    frames = random_pixels((7, 4, 3), "uint16")
    stream = create_stream(settings)
    disk.room = room
    with suppress(WriteError):
        for frame in frames:
            stream.append(frame)
            stream.flush()
    disk.room = None
    with pytest.raises(WriteError) as caught:
        stream.close()
    return stream, frames[: stream.stats.frames_appended], caught.value


@pytest.mark.parametrize("steps", [1, 3, 5])
@pytest.mark.parametrize("extra", [0, 5, 13])
def test_a_stream_to_a_full_disk(tmp_path: Path, steps: int, extra: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The frame that could not be written is named, all others are in the dataset after close, which is valid."""
    disk = Disk(monkeypatch)
    index = 8 * 16 + 4
    stream, frames, error = full_stream(tmp_path, disk, 24 * steps + (index if steps >= 4 else 0) + extra)
    assert error.frames == (range(steps, steps + 1),)
    assert "No space left on device" in str(error)
    assert stream.closed
    assert len(frames) == steps + 1
    frames[steps] = 0
    assert_holds(stream.path, [frames])
    assert not (stream.path / WRITING_FOLDER).exists()


def test_a_stream_whose_shard_cannot_be_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that can't write the index of its last shard says so at close, and names the shard and its frames."""
    disk = Disk(monkeypatch)
    settings = acquisition({"t": (6, 1, 4), "y": (4, 2, 2), "x": (3,)})
    settings.root_path = str(tmp_path / "a.ome.zarr")
    settings.format = "direct"  # type: ignore[assignment]
    frames = random_pixels((6, 4, 3), "uint16")
    stream = create_stream(settings)
    for frame in frames[:5]:
        stream.append(frame)
    stream.flush()
    disk.room = 3
    with pytest.raises(WriteError, match=r"writing the dataset failed: .*No space.*not complete.*0/c/1/0/0") as caught:
        stream.close()
    assert caught.value.frames == (range(4, 5),)
    disk.room = None
    frames[4:] = 0
    assert_holds(stream.path, [frames])
    assert files_below(stream.path / WRITING_FOLDER) == ["0-1.0.0"]


@pytest.mark.parametrize("when", ["last chunk", "close"])
def test_frames_of_a_lost_shard_are_named(tmp_path: Path, when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All frames of a shard that can't be completed are named, also those that were written to it long before."""
    disk = Disk(monkeypatch)
    settings = acquisition({"t": (None, 2, 2), "p": (2,), "y": (4, 2, 1), "x": (3,)})
    settings.root_path = str(tmp_path / "a.ome.zarr")
    settings.format = "direct"  # type: ignore[assignment]
    settings.buffer = BufferSettings(workers=1)
    images = random_pixels((2, 9, 4, 3), "uint16")
    count = 15 if when == "last chunk" else 14  # t 7 of position 0 is its last of the second shards, or there is none
    stream = create_stream(settings)
    for number in range(14):
        stream.append(images[number % 2, number // 2])
    stream.flush()
    disk.room = 24 if when == "last chunk" else 48 * 2 + 10  # a chunk of two frames, or what is left of both positions
    if when == "last chunk":
        stream.append(images[0, 7])
    with pytest.raises(WriteError) as caught:
        stream.close()
    disk.room = None
    lost = {number for frames in caught.value.frames for number in frames}
    held = read_images(stream.path)
    for number in range(count):
        step = number // 2
        stored = held[number % 2][step] if step < len(held[number % 2]) else None
        assert (number in lost) == (stored is None or not np.array_equal(stored, images[number % 2, step]))
    assert lost
    assert min(lost) >= 8


# ---- what others see -----------------------------------------------------------------------------------------------


def test_a_growing_dataset_has_the_extent_of_its_complete_shards(tmp_path: Path) -> None:
    """Whoever opens an unbounded dataset finds all frames that its shape promises: those of complete shards."""
    settings = acquisition({"t": (None, 1, 3), "c": (2,), "y": (4, 2, 2), "x": (3,)})
    settings.root_path = str(tmp_path / "a.ome.zarr")
    settings.format = "direct"  # type: ignore[assignment]
    frames = random_pixels((7, 2, 4, 3), "uint16")
    with create_stream(settings) as stream:
        for number in range(7):
            stream.append(frames[number, 0])
            stream.append(frames[number, 1])
            stream.flush()
            extent = (number + 1) // 3 * 3
            assert document(stream.path / "0")["shape"] == [extent, 2, 4, 3]
            assert_holds(stream.path, [frames[:extent]])
    assert_holds(stream.path, [frames])
