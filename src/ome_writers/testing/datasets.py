"""Datasets for tests of sinks: made without a stream, read back without the backend that wrote them."""
# ruff: noqa: S101

from __future__ import annotations

import itertools
import math
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import tensorstore as ts
import zarr

from ome_writers._dataset import DatasetFolder
from ome_writers._documents import plan_dataset
from ome_writers._layout import ArrayGeometry
from ome_writers.abc import Sink, WritePlan
from ome_writers.metadata import group_document, with_shape
from ome_writers.settings import AcquisitionSettings, Codec, Dimension, PositionDimension

__all__ = [
    "READERS",
    "Axes",
    "acquisition",
    "assert_reads",
    "block_origins",
    "check_files",
    "chunk_bytes",
    "crc32c",
    "finish_documents",
    "make_plan",
    "random_pixels",
    "stored_chunks",
]

Pixels = npt.NDArray[Any]
Cell = tuple[int, ...]
Axes = Mapping[str, tuple[int | None, ...]]

_KINDS: Final = {"t": "time", "c": "channel", "z": "space", "y": "space", "x": "space"}
_KEY: Final = re.compile(r"c(/(0|[1-9]\d*))*")
_MISSING: Final = (1 << 64) - 1


def acquisition(axes: Axes, dtype: str = "uint16", compression: str | Codec = "none") -> AcquisitionSettings:
    """Return settings from a short tuple per dimension.

    Parameters
    ----------
    axes : mapping
        Name of each dimension, in acquisition order, to its count, chunk size and shard size (in chunks), or the first
        of them. Names are t, c, z, y, x, and p for positions; y and x have to be the last.
    dtype : str
        As in the settings.
    compression : str or Codec
        As in the settings.
    """
    dimensions: list[Dimension] = []
    for name, (count, *grid) in axes.items():
        if name == "p":
            dimensions.append(PositionDimension(count=count))
            continue
        chunk, shard = (*grid, None, None)[:2]
        dimensions.append(
            Dimension(name=name, type=_KINDS[name], count=count, chunk_size=chunk, shard_size_chunks=shard)
        )
    return AcquisitionSettings(root_path="test.zarr", dimensions=dimensions, dtype=dtype, compression=compression)


def make_plan(root: Path, sink: type[Sink], settings: AcquisitionSettings) -> WritePlan:
    """Make the folder of a dataset with the documents of its arrays, and return what a sink of that class is given.

    Raises
    ------
    UnsupportedError
        If the sink refuses the plan; then nothing is made.
    """
    plan = plan_dataset(settings, root, always_sharded=sink.capabilities.always_sharded)
    sink.check(plan)
    groups = {image.path or ".": group_document({}) for image in plan.layout.images}
    arrays = {image.array_path: plan.array_document for image in plan.layout.images}
    DatasetFolder(root).create({".": group_document({}), **groups, "ome_writers": group_document({})}, arrays)
    return plan


def finish_documents(plan: WritePlan, extent: int = 0) -> None:
    """Write the documents of all arrays as a stream does in the end, with an extent for an unbounded axis."""
    shape = [extent if n is None else n for n in plan.geometry.shape]
    for image in plan.layout.images:
        DatasetFolder(plan.root).write(image.array_path, with_shape(plan.array_document, shape))


def random_pixels(shape: Sequence[int], dtype: str, seed: int = 0) -> Pixels:
    """Return pixels over the whole range of a dtype, none of them 0, not a number or infinite."""
    rng = np.random.default_rng(seed)
    kind = np.dtype(dtype)
    if kind.kind == "f":
        scale = float(np.finfo(kind).max) / 2
        return np.asarray(rng.uniform(0.5, 1.0, shape) * scale * rng.choice([-1, 1], shape)).astype(kind)
    pixels = rng.integers(np.iinfo(kind).min, np.iinfo(kind).max, shape, kind, endpoint=True)
    pixels[pixels == 0] = 1
    return pixels


def block_origins(extent: Sequence[int], shape: Sequence[int]) -> list[Cell]:
    """Return the origins of all blocks of an array.

    Parameters
    ----------
    extent : sequence of int
        Of a whole block, along the index axes.
    shape : sequence of int
        Of the array along the index axes; of an unbounded axis, what was acquired.
    """
    return list(itertools.product(*(range(0, n, e) for n, e in zip(shape, extent, strict=True))))


def _read_with_tensorstore(array: Path) -> Pixels:
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(array)}}
    return np.asarray(ts.open(spec, open=True).result().read().result())


def _read_with_zarr(array: Path) -> Pixels:
    return np.asarray(zarr.open_array(array, mode="r", zarr_format=3)[...])


READERS: Final[dict[str, Callable[[Path], Pixels]]] = {
    "tensorstore": _read_with_tensorstore,
    "zarr-python": _read_with_zarr,
}
"""Functions that read the pixels of an array by its folder."""


def assert_reads(plan: WritePlan, array: int, expected: Pixels) -> None:
    """Check that tensorstore and zarr-python read the expected pixels, bit by bit."""
    for library, read in READERS.items():
        pixels = read(plan.array_path(array))
        assert pixels.shape == expected.shape, f"{library} reads shape {pixels.shape}, not {expected.shape}"
        assert pixels.dtype == expected.dtype, f"{library} reads dtype {pixels.dtype}, not {expected.dtype}"
        if pixels.tobytes() != expected.tobytes():
            wrong = sorted({tuple(map(int, at[:-2])) for at in np.argwhere(pixels != expected)})
            raise AssertionError(f"{library} reads other pixels than were written, in frames {wrong[:10]}")


def check_files(plan: WritePlan) -> None:
    """Check that every file of the arrays is named after a chunk or shard of the grid, and that shards are valid.

    A shard is checked against the Zarr v3 specification "sharding_indexed", 1.0: its index stands at the end, has the
    right CRC-32C, and points at bytes of the file that no two chunks share.
    """
    for array in range(len(plan.layout.images)):
        folder = plan.array_path(array)
        for file in folder.rglob("*"):
            if not file.is_file() or file.name == "zarr.json":
                continue
            key = file.relative_to(folder).as_posix()
            assert _KEY.fullmatch(key), f"{key} is left behind"
            if plan.geometry.shards is not None:
                _read_index(file, plan.geometry)


def stored_chunks(plan: WritePlan, array: int) -> set[Cell]:
    """Return the place in the chunk grid of every chunk that is stored, inside of shards or as a file of its own."""
    return set(chunk_bytes(plan, array))


def chunk_bytes(plan: WritePlan, array: int) -> dict[Cell, tuple[Path, range]]:
    """Return where the bytes of every stored chunk are, by its place in the chunk grid: the file, and where in it."""
    geometry, folder = plan.geometry, plan.array_path(array)
    stored = {}
    for file in (folder / "c").rglob("*"):
        if not file.is_file():
            continue
        cell = tuple(map(int, file.relative_to(folder / "c").parts))
        if geometry.shards is None:
            stored[cell] = file, range(file.stat().st_size)
            continue
        inner = _chunks_per_shard(geometry)
        for place, where in _read_index(file, geometry).items():
            stored[tuple(s * n + i for s, n, i in zip(cell, inner, place, strict=True))] = file, where
    return stored


def _chunks_per_shard(geometry: ArrayGeometry) -> Cell:
    return tuple(s // c for s, c in zip(geometry.shards or geometry.chunks, geometry.chunks, strict=True))


def _read_index(file: Path, geometry: ArrayGeometry) -> Mapping[Cell, range]:
    """Return where the bytes of each stored chunk of a shard stand in its file; checks the index."""
    inner = _chunks_per_shard(geometry)
    raw = file.read_bytes()
    size = 16 * math.prod(inner)
    assert len(raw) >= size + 4, f"{file} is too short to have an index"
    index, (checksum,) = raw[-size - 4 : -4], struct.unpack("<I", raw[-4:])
    assert crc32c(index) == checksum, f"the index of {file} has another checksum than it says"
    entries = np.frombuffer(index, "<u8").reshape(-1, 2).tolist()
    found = {
        place: range(offset, offset + length)
        for place, (offset, length) in zip(np.ndindex(*inner), entries, strict=True)
        if (offset, length) != (_MISSING, _MISSING)
    }
    bounds = sorted((r.start, r.stop) for r in found.values())
    assert all(stop <= len(raw) - size - 4 for _, stop in bounds), f"the index of {file} points outside of its data"
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(bounds)), f"chunks of {file} overlap"
    return found


def crc32c(data: bytes) -> int:
    """Return the CRC-32C checksum (RFC 3720, appendix B.4) of some bytes."""
    value = 0xFFFFFFFF
    for byte in data:
        value = _CRC_TABLE[(value ^ byte) & 0xFF] ^ (value >> 8)
    return value ^ 0xFFFFFFFF


def _crc_entry(value: int) -> int:
    for _ in range(8):
        value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
    return value


_CRC_TABLE: Final = [_crc_entry(value) for value in range(256)]
