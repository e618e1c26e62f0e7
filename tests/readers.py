"""Reading datasets back without the package that wrote them: through the OME metadata alone, with four libraries."""

from __future__ import annotations

import itertools
import json
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorstore as ts
import yaozarrs
import zarr
from ome_zarr_models.v05.bioformats2raw import BioFormats2Raw
from ome_zarr_models.v05.hcs import HCS
from ome_zarr_models.v05.image import Image

from zarrita_reader import ZARRITA, ZarritaUnavailableError

Pixels = npt.NDArray[Any]


@dataclass(frozen=True)
class ImageOnDisk:
    """An image as the OME metadata describes it: paths below the root, and the names of its axes."""

    group: str
    array: str
    axes: tuple[str, ...]


def document(folder: Path) -> dict[str, Any]:
    """Return the ``zarr.json`` of a group or array."""
    parsed: dict[str, Any] = json.loads((folder / "zarr.json").read_text(encoding="utf-8"))
    return parsed


def find_images(root: Path, group: str = ".") -> list[ImageOnDisk]:
    """Return all images below a group, in the order in which the metadata lists them."""
    ome = document(root / group)["attributes"]["ome"]
    if "multiscales" in ome:
        (multiscale,) = ome["multiscales"]
        (dataset,) = multiscale["datasets"]
        axes = tuple(axis["name"] for axis in multiscale["axes"])
        return [ImageOnDisk(group, _join(group, dataset["path"]), axes)]
    if "plate" in ome:
        members = [well["path"] for well in ome["plate"]["wells"]]
    elif "well" in ome:
        members = [field["path"] for field in ome["well"]["images"]]
    else:
        assert ome["bioformats2raw.layout"] == 3
        members = document(root / group / "OME")["attributes"]["ome"]["series"]
    return [image for member in members for image in find_images(root, _join(group, member))]


def _join(group: str, member: str) -> str:
    return member if group == "." else f"{group}/{member}"


def read_with_tensorstore(array: Path) -> tuple[Pixels, tuple[str, ...]]:
    """Return the pixels of an array and the names of its axes."""
    opened = ts.open({"driver": "zarr3", "kvstore": {"driver": "file", "path": str(array)}}, open=True).result()
    return opened.read().result(), tuple(opened.domain.labels)


def read_with_zarr(array: Path) -> tuple[Pixels, tuple[str, ...]]:
    """Return the pixels of an array and the names of its axes."""
    opened = zarr.open_array(array, mode="r", zarr_format=3)
    return np.asarray(opened[...]), tuple(opened.metadata.dimension_names)  # type: ignore[union-attr, arg-type]


def read_with_zarrs(array: Path) -> tuple[Pixels, tuple[str, ...]]:
    """Return the pixels of an array, decoded by zarrs, and the names of its axes."""
    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        return read_with_zarr(array)


READERS: dict[str, Callable[[Path], tuple[Pixels, tuple[str, ...]]]] = {
    "tensorstore": read_with_tensorstore,
    "zarr-python": read_with_zarr,
    "zarrs-python": read_with_zarrs,
    "zarrita": ZARRITA.read,
}


def readers() -> list[str]:
    """Return the names of all readers; where npm can't install zarrita, the others.

    With ``CI`` or ``OME_WRITERS_ALL_READERS`` in the environment, a reader that is not there is an error.
    """
    try:
        ZARRITA.start()
    except ZarritaUnavailableError:
        if os.environ.get("CI") or os.environ.get("OME_WRITERS_ALL_READERS"):
            raise
        return [library for library in READERS if library != "zarrita"]
    return list(READERS)


def read_images(root: Path, library: str = "tensorstore") -> list[Pixels]:
    """Return the pixels of all images, in the order of the metadata; checks that array and metadata name the axes."""
    images = []
    for image in find_images(root):
        pixels, axes = READERS[library](root / image.array)
        assert axes == image.axes
        images.append(pixels)
    return images


def assert_holds(root: Path, expected: list[Pixels]) -> None:
    """Check that all libraries read the expected images, bit by bit."""
    for library in readers():
        images = read_images(root, library)
        assert len(images) == len(expected)
        for read, wanted in zip(images, expected, strict=True):
            assert (read.shape, read.dtype) == (wanted.shape, wanted.dtype), library
            assert read.tobytes() == wanted.tobytes(), f"{library} reads other pixels than were appended"


def validate(root: Path) -> None:
    """Check the dataset with two independent validators, and that every file under its final name is complete."""
    yaozarrs.validate_zarr_store(str(root))
    ome = document(root)["attributes"]["ome"]
    group = zarr.open_group(root, mode="r", zarr_format=3)
    if "plate" in ome:
        assert len(list(HCS.from_zarr(group).well_groups)) == len(ome["plate"]["wells"])
    elif "multiscales" not in ome:
        assert BioFormats2Raw.from_zarr(group).ome_attributes.bioformats2raw_layout == 3
    for image in find_images(root):
        Image.from_zarr(zarr.open_group(root / image.group, mode="r", zarr_format=3))
    for file in root.rglob("*.json*"):
        for line in file.read_text(encoding="utf-8").splitlines() if file.suffix == ".jsonl" else [file.read_text()]:
            json.loads(line)


def stored_chunks(array: Path) -> set[tuple[int, ...]]:
    """Return the grid indices of all chunks that are in the files of an array, inside shards too.

    The index of a shard is that of the Zarr v3 codec "sharding_indexed" 1.0: at the end, 16 bytes per chunk (offset
    and length, little endian, all bits set for a chunk that is not there), and 4 bytes of checksum.
    """
    metadata = document(array)
    (codec, *_) = metadata["codecs"]
    grid = metadata["chunk_grid"]["configuration"]["chunk_shape"]
    inner = codec["configuration"]["chunk_shape"] if codec["name"] == "sharding_indexed" else grid
    per_shard = [outer // chunk for outer, chunk in zip(grid, inner, strict=True)]
    chunks = set()
    for file in (array / "c").rglob("*"):
        if not file.is_file():
            continue
        shard = [int(part) for part in file.relative_to(array / "c").parts]
        if inner is grid:
            chunks.add(tuple(shard))
            continue
        cells = list(itertools.product(*map(range, per_shard)))
        index = struct.unpack(f"<{2 * len(cells)}Q", file.read_bytes()[-4 - 16 * len(cells) : -4])
        for cell, offset in zip(cells, index[::2], strict=True):
            if offset != (1 << 64) - 1:
                chunks.add(tuple(s * n + c for s, n, c in zip(shard, per_shard, cell, strict=True)))
    return chunks
