"""Decoding chunks without a Zarr library: what other libraries have written, and what nobody has."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
import pytest
import tensorstore as ts
import zarr
from hypothesis import given
from hypothesis import strategies as st
from numcodecs import blosc, zstd

from ome_writers.backends._decoding import (
    DTYPES,
    MISSING,
    ChunkDecoder,
    CorruptChunkError,
    StoredGrid,
    UncheckedCodecError,
    chunk_path,
    read_index,
)

Pixels = npt.NDArray[Any]
Document = dict[str, Any]

BLOSC = {"cname": "lz4", "clevel": 5, "shuffle": "shuffle", "typesize": 2, "blocksize": 0}
CRC32C = {"name": "crc32c"}
GZIP = {"name": "gzip", "configuration": {"level": 3}}
ZSTD = {"name": "zstd", "configuration": {"level": 3, "checksum": False}}
BYTE_CODECS: dict[str, list[Document]] = {
    "none": [],
    "zstd": [ZSTD],
    "zstd with checksum": [{"name": "zstd", "configuration": {"level": 3, "checksum": True}}],
    "gzip": [GZIP],
    **{
        f"blosc-{name}-{shuffle}": [{"name": "blosc", "configuration": {**BLOSC, "cname": name, "shuffle": shuffle}}]
        for name, shuffle in (
            ("lz4", "shuffle"),
            ("lz4hc", "noshuffle"),
            ("zstd", "bitshuffle"),
            ("zlib", "shuffle"),
            ("blosclz", "bitshuffle"),
        )
    },
    "crc32c": [CRC32C],
    "zstd, crc32c": [ZSTD, CRC32C],
    "crc32c, gzip": [CRC32C, GZIP],
    "zstd, gzip": [ZSTD, GZIP],
}
SHARDS = (None, "end", "start")


def document(
    *,
    shape: tuple[int, ...] = (3, 5, 20, 30),
    chunks: tuple[int, ...] = (2, 2, 8, 8),
    shards: tuple[int, ...] = (2, 4, 16, 16),
    dtype: str = "uint16",
    endian: str = "little",
    codecs: list[Document] | None = None,
    order: list[int] | None = None,
    index_location: str | None = None,
    **more: Any,
) -> Document:
    """Return the ``zarr.json`` of an array."""
    transpose = [] if order is None else [{"name": "transpose", "configuration": {"order": order}}]
    inner = [*transpose, {"name": "bytes", "configuration": {"endian": endian}}, *(codecs or [])]
    if index_location is not None:
        configuration = {
            "chunk_shape": list(chunks),
            "codecs": inner,
            "index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, CRC32C],
            "index_location": index_location,
        }
        inner, chunks = [{"name": "sharding_indexed", "configuration": configuration}], shards
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunks)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 7 if dtype != "bool" else False,
        "codecs": inner,
        "attributes": {},
        **more,
    }


def write_with_tensorstore(folder: Path, wanted: Document, pixels: Pixels) -> None:
    """Write an array whose document says what is wanted."""
    metadata = {key: value for key, value in wanted.items() if key not in ("zarr_format", "node_type", "attributes")}
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(folder)}, "metadata": metadata}
    ts.open(spec, create=True).result().write(pixels).result()


def write_with_zarr(folder: Path, wanted: Document, pixels: Pixels) -> None:
    """Write the document, and the pixels with zarr-python."""
    folder.mkdir(parents=True)
    (folder / "zarr.json").write_text(json.dumps(wanted))
    zarr.open_array(folder, mode="r+", zarr_format=3)[...] = pixels


WRITERS: dict[str, Callable[[Path, Document, Pixels], None]] = {
    "tensorstore": write_with_tensorstore,
    "zarr-python": write_with_zarr,
}


def decode(folder: Path) -> tuple[Pixels, int]:
    """Return the pixels of an array and how many chunks it has."""
    parsed = json.loads((folder / "zarr.json").read_text())
    decoder = ChunkDecoder(parsed)
    pixels = np.full(decoder.shape, decoder.fill_value, decoder.dtype)
    grid = [-(-n // step) for n, step in zip(decoder.shape, decoder.shard_shape, strict=True)]
    chunks = 0
    for cell in np.ndindex(*grid):
        file = folder / chunk_path(parsed, cell)
        if not file.exists():
            continue
        with file.open("rb") as opened:
            whole = np.array([[0, file.stat().st_size]], np.uint64)
            index = read_index(opened, decoder) if decoder.sharded else whole
            for slot, (offset, length) in enumerate(index.tolist()):
                if offset == MISSING:
                    continue
                opened.seek(offset)
                chunk = decoder(opened.read(length))
                assert chunk.shape == decoder.chunk_shape
                assert chunk.dtype == decoder.dtype
                inside = np.unravel_index(slot, decoder.slots_shape)
                place = [c * n + int(i) for c, n, i in zip(cell, decoder.slots_shape, inside, strict=True)]
                region = tuple(
                    slice(p * step, min((p + 1) * step, n))
                    for p, step, n in zip(place, decoder.chunk_shape, decoder.shape, strict=True)
                )
                pixels[region] = chunk[tuple(slice(0, r.stop - r.start) for r in region)]
                chunks += 1
    return pixels, chunks


def some_pixels(shape: tuple[int, ...] = (3, 5, 20, 30), dtype: str = "uint16") -> Pixels:
    """Return pixels that compress a little, without NaN."""
    return np.random.default_rng(1).integers(0, 120, shape).astype(dtype)


# ---- what other libraries write ----------------------------------------------------------------------------------


@pytest.mark.parametrize("index_location", SHARDS)
@pytest.mark.parametrize("codecs", BYTE_CODECS.values(), ids=BYTE_CODECS)
@pytest.mark.parametrize("writer", WRITERS)
def test_decodes_what_others_have_written(
    writer: str, codecs: list[Document], index_location: str | None, tmp_path: Path
) -> None:
    """Every codec, in shards (index first or last) and not, with chunks that reach beyond the edge of the array."""
    pixels = some_pixels()
    WRITERS[writer](tmp_path / "a", document(codecs=codecs, index_location=index_location), pixels)
    decoded, chunks = decode(tmp_path / "a")
    assert np.array_equal(decoded, pixels)
    assert chunks >= 2 * 3 * 3 * 4


@pytest.mark.parametrize("index_location", SHARDS)
@pytest.mark.parametrize("order", [[3, 2, 1, 0], [2, 0, 3, 1], [0, 1, 2, 3]])
@pytest.mark.parametrize("endian", ["little", "big"])
@pytest.mark.parametrize("writer", WRITERS)
def test_decodes_any_order_of_axes_and_bytes(
    writer: str, endian: str, order: list[int], index_location: str | None, tmp_path: Path
) -> None:
    """Transposed chunks and both byte orders come out as they went in."""
    wanted = document(chunks=(2, 1, 8, 4), endian=endian, order=order, codecs=[ZSTD], index_location=index_location)
    WRITERS[writer](tmp_path / "a", wanted, some_pixels())
    assert np.array_equal(decode(tmp_path / "a")[0], some_pixels())


@pytest.mark.parametrize("endian", ["little", "big"])
@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_decodes_all_data_types(dtype: str, endian: str, tmp_path: Path) -> None:
    """All data types of the Zarr v3 core specification, written by zarr-python, are decoded."""
    fill = [7, 0] if dtype.startswith("complex") else False if dtype == "bool" else 7
    wanted = document(shape=(9, 5), chunks=(4, 4), dtype=dtype, endian=endian, fill_value=fill)
    pixels = some_pixels((9, 5), dtype)
    write_with_zarr(tmp_path / "a", wanted, pixels)
    decoded, _ = decode(tmp_path / "a")
    assert decoded.dtype == np.dtype(dtype)
    assert decoded.tobytes() == pixels.tobytes()


@pytest.mark.parametrize(
    ("encoding", "separator"),
    [("default", "/"), ("default", "."), ("v2", "."), ("v2", "/"), ("default", None), ("v2", None)],
)
@pytest.mark.parametrize("shape", [(), (5,), (9, 5)])
def test_finds_the_files_of_every_key_encoding(
    shape: tuple[int, ...], encoding: str, separator: str | None, tmp_path: Path
) -> None:
    """Chunks are found under the keys that zarr-python gives them, those of an array without axes too."""
    configuration = {} if separator is None else {"configuration": {"separator": separator}}
    wanted = document(
        shape=shape, chunks=(4,) * len(shape), dtype="uint8", chunk_key_encoding={"name": encoding, **configuration}
    )
    pixels = some_pixels(shape, "uint8") + np.uint8(1)
    write_with_zarr(tmp_path / "a", wanted, pixels)
    assert np.array_equal(decode(tmp_path / "a")[0], pixels)


def test_what_is_not_there_is_missing(tmp_path: Path) -> None:
    """Chunks that tensorstore leaves out of a shard are missing in the index, and take the fill value."""
    pixels = np.full((3, 5, 20, 30), 7, np.uint16)
    pixels[0, 0, 0, 0] = 1
    write_with_tensorstore(tmp_path / "a", document(index_location="end"), pixels)
    decoded, chunks = decode(tmp_path / "a")
    assert chunks == 1
    assert np.array_equal(decoded, pixels)


@pytest.mark.parametrize(
    ("dtype", "value", "expected"),
    [
        ("float32", "NaN", np.nan),
        ("float64", "-Infinity", -np.inf),
        ("float16", "Infinity", np.inf),
        ("float32", "0x7fc00000", np.nan),
        ("float32", 1, 1.0),
        ("complex64", [1, "NaN"], complex(1, np.nan)),
        ("int8", -3, -3),
        ("bool", True, True),
    ],
)
def test_fill_values(dtype: str, value: Any, expected: Any) -> None:
    """The fill value has the type of the array, in every form that the specification has for it."""
    found = ChunkDecoder(document(dtype=dtype, fill_value=value)).fill_value
    assert found.dtype == np.dtype(dtype)
    assert np.array_equal(found, np.dtype(dtype).type(expected), equal_nan=dtype != "bool")


# ---- documents ---------------------------------------------------------------------------------------------------


def sharding(**changes: Any) -> list[Document]:
    """Return codecs with some of the sharding codec's configuration replaced."""
    (codec,) = document(index_location="end")["codecs"]
    return [{**codec, "configuration": {**codec["configuration"], **changes}}]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"zarr_format": 2}, "zarr_format"),
        ({"node_type": "group"}, "node_type"),
        ({"shape": "10"}, "shape"),
        ({"shape": [1, 2, -3, 4]}, "shape"),
        ({"shape": [1, 2, True, 4]}, "shape"),
        ({"chunk_grid": None}, "chunk_grid"),
        ({"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1, 2, 3, 0]}}}, "chunk_shape"),
        ({"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1, 2]}}}, "2 axes"),
        ({"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [10**9] * 4}}}, "no computer"),
        ({"codecs": []}, "codecs"),
        ({"codecs": [ZSTD]}, "'bytes'"),
        ({"codecs": [{"name": "bytes"}]}, "endian"),
        ({"codecs": [{"name": "transpose", "configuration": {"order": [0, 0, 1, 2]}}, {"name": "bytes"}]}, "order"),
        ({"codecs": sharding(chunk_shape=[2, 3, 8, 8])}, "divided"),
        ({"codecs": sharding(index_location="middle")}, "index_location"),
        ({"codecs": sharding(index_codecs=[])}, "index_codecs"),
        ({"chunk_key_encoding": {"name": "default", "configuration": {"separator": "-"}}}, "separator"),
        ({"fill_value": None}, "fill_value"),
        ({"fill_value": 70000}, "fill_value"),
        ({"fill_value": "NaN"}, "fill_value"),
    ],
)
def test_wrong_documents_are_refused(changes: Document, words: str) -> None:
    """A document that breaks the specification is a ``ValueError`` that says what is wrong."""
    with pytest.raises(ValueError, match=words):
        ChunkDecoder(document() | changes)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        (
            {"codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "numcodecs.lzma"}]},
            "numcodecs.lzma",
        ),
        ({"codecs": [{"name": "vlen-utf8"}]}, "vlen-utf8"),
        ({"codecs": sharding(codecs=sharding())}, "sharding_indexed"),
        ({"codecs": [*sharding(), CRC32C]}, "sharding_indexed"),
        ({"codecs": sharding(index_codecs=[{"name": "bytes", "configuration": {"endian": "little"}}, ZSTD])}, "zstd"),
        ({"data_type": "string"}, "string"),
        ({"data_type": {"name": "numpy.datetime64", "configuration": {"unit": "s"}}}, "numpy.datetime64"),
        ({"chunk_grid": {"name": "rectilinear", "configuration": {}}}, "rectilinear"),
        ({"chunk_key_encoding": {"name": "hashed"}}, "hashed"),
        ({"storage_transformers": [{"name": "cipher"}]}, "cipher"),
    ],
)
def test_what_is_not_known_is_named(changes: Document, name: str) -> None:
    """What can't be decoded is told apart from what is wrong, by an error of its own that names it."""
    with pytest.raises(UncheckedCodecError, match=name):
        ChunkDecoder(document() | changes)


def test_the_grid_is_known_where_the_codec_is_not() -> None:
    """Which chunks there are can be told without decoding them."""
    grid = StoredGrid(document(codecs=[{"name": "numcodecs.lzma"}], index_location="end"))
    assert (grid.sharded, grid.slots, grid.slots_shape) == (True, 8, (1, 2, 2, 2))
    assert (grid.shard_shape, grid.chunk_shape) == ((2, 4, 16, 16), (2, 2, 8, 8))


# ---- damage ------------------------------------------------------------------------------------------------------


def small(codecs: list[Document]) -> ChunkDecoder:
    """Return what decodes chunks of 64 x 16 pixels of 16 bits."""
    return ChunkDecoder(document(shape=(64, 16), chunks=(64, 16), codecs=codecs))


def encoded(codec: str) -> bytes:
    """Return a chunk of 64 x 16 pixels, encoded by the codecs' own libraries."""
    pixels = some_pixels((64, 16))
    data = pixels.tobytes()
    checksum = google_crc32c.value(data).to_bytes(4, "little")
    forms: dict[str, bytes] = {
        "none": data,
        "zstd": zstd.compress(data, 3),
        "gzip": gzip.compress(data),
        "blosc-lz4-shuffle": blosc.compress(pixels, b"lz4", 5, blosc.SHUFFLE),
        "crc32c": data + checksum,
    }
    return forms[codec]


DAMAGED = ("none", "zstd", "gzip", "blosc-lz4-shuffle", "crc32c")


@pytest.mark.parametrize("codec", DAMAGED)
def test_lengths_must_agree(codec: str) -> None:
    """A chunk that is cut off anywhere, or has more bytes than it should, is corrupt."""
    decoder, data = small(BYTE_CODECS[codec]), encoded(codec)
    assert np.array_equal(decoder(memoryview(data)), some_pixels((64, 16)))
    for length in {*range(40), len(data) // 2, len(data) - 1}:
        with pytest.raises(CorruptChunkError):
            decoder(data[:length])
    if codec != "zstd":  # whose frame says itself where it ends
        with pytest.raises(CorruptChunkError):
            decoder(data + b"x")


@pytest.mark.parametrize("codec", DAMAGED)
def test_other_sizes_are_corrupt(codec: str) -> None:
    """A chunk that decodes well, but to another size than the document says, is corrupt."""
    other = ChunkDecoder(document(shape=(64, 17), chunks=(64, 17), codecs=BYTE_CODECS[codec]))
    with pytest.raises(CorruptChunkError):
        other(encoded(codec))


@pytest.mark.parametrize("codec", [name for name in BYTE_CODECS if "crc32c" in name])
def test_a_checksum_finds_every_changed_bit(codec: str, tmp_path: Path) -> None:
    """With a checksum, whatever is changed in a chunk is noticed."""
    write_with_tensorstore(
        tmp_path / "a", document(shape=(8, 8), chunks=(8, 8), codecs=BYTE_CODECS[codec]), some_pixels((8, 8))
    )
    data = bytearray((tmp_path / "a" / "c" / "0" / "0").read_bytes())
    decoder = ChunkDecoder(json.loads((tmp_path / "a" / "zarr.json").read_text()))
    decoded = decoder(bytes(data))
    for place, bit in itertools.product(range(len(data)), range(8)):
        data[place] ^= 1 << bit
        try:
            assert np.array_equal(decoder(bytes(data)), decoded)  # such as a flag of gzip that means nothing
            assert codec == "crc32c, gzip"
        except CorruptChunkError:
            pass
        data[place] ^= 1 << bit


def without_content_size(*blocks: tuple[int, int, bytes]) -> bytes:
    """Return a zstd frame that does not say how large it is, of blocks (type, size, data); RFC 8878, 3.1.1."""
    frame = b"\x28\xb5\x2f\xfd\x00\x58"
    for number, (kind, size, data) in enumerate(blocks):
        frame += (size << 3 | kind << 1 | (number == len(blocks) - 1)).to_bytes(3, "little") + data
    return frame


def test_zstd_without_content_size_is_bounded() -> None:
    """A frame of zstd need not say its size: it is decoded all the same, and never to more than the chunk has."""
    decoder, data = small([ZSTD]), some_pixels((64, 16)).tobytes()
    assert decoder(without_content_size((0, 2048, data))).tobytes() == data
    assert not decoder(without_content_size((1, 2048, b"\0"))).any()
    with pytest.raises(CorruptChunkError):
        decoder(without_content_size((1, 2047, b"\0")))
    for wrong in ([(1, 2049, b"\0")], [(1, 131072, b"\0")] * 10_000):
        with pytest.raises(CorruptChunkError, match="too small"):
            decoder(without_content_size(*wrong))


def test_gzip_is_bounded() -> None:
    """A gzip file that decompresses to far more than a chunk is given up early; several members are one chunk."""
    decoder, data = small([GZIP]), some_pixels((64, 16)).tobytes()
    with pytest.raises(CorruptChunkError, match="more than 2048"):
        decoder(gzip.compress(bytes(1 << 26)))
    assert decoder(gzip.compress(data[:100]) + gzip.compress(data[100:]) + b"\0\0").tobytes() == data
    with pytest.raises(CorruptChunkError):
        decoder(zlib.compress(data))


def test_blosc_headers_are_not_trusted() -> None:
    """Every field of blosc's header is checked before the library sees it; lengths that lie are corrupt."""
    decoder, data = small(BYTE_CODECS["blosc-lz4-shuffle"]), encoded("blosc-lz4-shuffle")
    fields = list(struct.unpack_from("<4B3I", data))
    changes = [(0, 3), (0, 0), (2, fields[2] | 8), (2, fields[2] | 2), (3, 0)]
    changes += [(place, value) for place in (4, 6) for value in (0, 1, 16, 2**31 - 1, 2**31, 2**32 - 1)]
    changes += [(5, value) for value in (0, 1, fields[4] + 1, 2**31, 2**32 - 1)]
    for place, value in changes:
        wrong = [value if i == place else field for i, field in enumerate(fields)]
        with pytest.raises(CorruptChunkError):
            decoder(struct.pack("<4B3I", *wrong) + data[16:])
    with pytest.raises(CorruptChunkError, match="it says that it decompresses to 2049 bytes"):
        decoder(data[:4] + struct.pack("<I", 2049) + data[8:])
    for start in (0, 16, len(data) - 3, len(data), 2**31, 2**32 - 1):
        with pytest.raises(CorruptChunkError):
            decoder(data[:16] + struct.pack("<I", start) + data[20:])


FUZZED = {name: small(codecs) for name, codecs in BYTE_CODECS.items() if "blosc" not in name or "lz4-" in name}


@given(st.sampled_from(sorted(FUZZED)), st.binary(max_size=4096))
def test_random_bytes_are_corrupt_and_nothing_else(codec: str, data: bytes) -> None:
    """Whatever bytes stand where a chunk should be: it is decoded, or it is corrupt; no other error comes out."""
    with suppress(CorruptChunkError):
        assert FUZZED[codec](data).shape == (64, 16)


@given(st.sampled_from(["zstd", "gzip"]), st.integers(0, 2000), st.binary(min_size=1, max_size=8))
def test_overwritten_bytes_are_corrupt_and_nothing_else(codec: str, place: int, patch: bytes) -> None:
    """The same for a chunk of which some bytes were overwritten."""
    data = encoded(codec)
    place %= len(data)
    with suppress(CorruptChunkError):
        assert FUZZED[codec](data[:place] + patch + data[place + len(patch) :]).shape == (64, 16)


# ---- the index of a shard ----------------------------------------------------------------------------------------


def shard(entries: list[tuple[int, int]], *, body: int = 100, at_end: bool = True) -> io.BytesIO:
    """Return a shard with an index of these offsets and lengths, with its checksum."""
    index = struct.pack(f"<{2 * len(entries)}Q", *itertools.chain.from_iterable(entries))
    index += google_crc32c.value(index).to_bytes(4, "little")
    return io.BytesIO(bytes(body) + index if at_end else index + bytes(body))


@pytest.mark.parametrize("at_end", [True, False])
def test_index_entries_must_be_inside_of_the_file(at_end: bool) -> None:
    """Offsets and lengths may reach from one end of the chunks to the other and not beyond, nor into the index."""
    grid = StoredGrid(document(index_location="end" if at_end else "start"))
    assert grid.index_bytes == 8 * 16 + 4
    first = 0 if at_end else grid.index_bytes
    gone = (MISSING, MISSING)
    good = [(first, 100), (first + 99, 1), (first + 100, 0), (first, 0), gone, gone, gone, gone]
    assert read_index(shard(good, at_end=at_end), grid).tolist() == [list(entry) for entry in good]
    wrong = [
        (first, 101),
        (first + 1, 100),
        (first + 101, 0),
        (MISSING, 0),
        (MISSING, 100),
        (first, MISSING),
        (2**63, 2**63),
        (MISSING - 50, 100),
    ]
    if not at_end:
        wrong.append((first - 1, 1))
    for entry in wrong:
        with pytest.raises(CorruptChunkError, match="chunk 3"):
            read_index(shard([*good[:3], entry, *good[4:]], at_end=at_end), grid)


@pytest.mark.parametrize("at_end", [True, False])
def test_a_flipped_bit_in_an_index_is_found(at_end: bool) -> None:
    """The checksum of the index covers every bit of it; a shard that is too short has no index."""
    grid = StoredGrid(document(index_location="end" if at_end else "start"))
    whole = bytearray(shard([(MISSING, MISSING)] * 8, body=0).getvalue())
    for place, bit in itertools.product(range(len(whole)), range(8)):
        whole[place] ^= 1 << bit
        with pytest.raises(CorruptChunkError, match="checksum"):
            read_index(io.BytesIO(whole), grid)
        whole[place] ^= 1 << bit
    for length in (0, 3, 131):
        with pytest.raises(CorruptChunkError, match="too short"):
            read_index(io.BytesIO(whole[:length]), grid)


def test_an_index_of_other_codecs(tmp_path: Path) -> None:
    """An index may be without a checksum, and big endian, as zarr-python writes it when asked."""
    codecs = sharding(index_codecs=[{"name": "bytes", "configuration": {"endian": "big"}}])
    write_with_zarr(tmp_path / "a", document(index_location="end") | {"codecs": codecs}, some_pixels())
    assert np.array_equal(decode(tmp_path / "a")[0], some_pixels())
