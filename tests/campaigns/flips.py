"""Bit flips: that ``verify`` finds every changed byte that changes a pixel.

Random single bytes are changed in the shards of datasets that were written with checksums. Whatever tensorstore then
reads differently, or not at all, ``verify`` must report.

    python -m tests.campaigns.flips --flips 1000
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorstore as ts

import ome_writers
from ome_writers._verify import verify

CODECS = ("none", "zstd", "blosc-lz4", "blosc-zstd")

_FRAMES, _HEIGHT, _WIDTH = 12, 48, 64


@dataclass
class Tally:
    """How many flips did what, for one codec."""

    codec: str
    flips: int = 0
    changed: int = 0
    unreadable: int = 0
    found: int = 0
    missed: int = 0

    def row(self) -> str:
        """Return a row of the table."""
        harmless = self.flips - self.changed - self.unreadable
        numbers = (self.flips, self.changed, self.unreadable, harmless, self.found, self.missed)
        return f"{self.codec:<12}" + "".join(f"{number:>12}" for number in numbers)


HEADER = "".join(f"{name:<12}" if name == "codec" else f"{name:>12}" for name in (
    "codec", "flips", "changed", "unreadable", "harmless", "found", "missed"
))  # fmt: skip


def write_dataset(root: Path, codec: str, *, checksum: bool = True) -> None:
    """Write a dataset of two positions in shards: noise on a gradient, which compresses a little."""
    settings = ome_writers.AcquisitionSettings.model_validate(
        {
            "root_path": str(root),
            "dtype": "uint16",
            "format": {"name": "ome-zarr", "backend": "direct"},
            "compression": {"name": codec, "checksum": checksum},
            "dimensions": [
                {"name": "p", "type": "position", "coords": ["left", "right"]},
                {"name": "t", "count": _FRAMES // 2, "type": "time", "chunk_size": 2, "shard_size_chunks": 3},
                {"name": "y", "count": _HEIGHT, "type": "space", "chunk_size": 32, "shard_size_chunks": 2},
                {"name": "x", "count": _WIDTH, "type": "space", "chunk_size": 32, "shard_size_chunks": 1},
            ],
        }
    )
    noise = np.random.default_rng(0)
    gradient = np.add.outer(np.arange(_HEIGHT), np.arange(_WIDTH))
    with ome_writers.create_stream(settings) as stream:
        for _ in range(_FRAMES):
            stream.append((gradient + noise.integers(0, 8, gradient.shape)).astype(np.uint16))


def read_pixels(root: Path) -> list[npt.NDArray[Any] | None]:
    """Return what tensorstore reads of both positions; None for what it refuses."""
    images: list[npt.NDArray[Any] | None] = []
    for position in ("left", "right"):
        path = str(root / position / "0")
        array = ts.open({"driver": "zarr3", "kvstore": {"driver": "file", "path": path}}, open=True).result()
        try:
            images.append(array.read().result())
        except ValueError:
            images.append(None)
    return images


@contextmanager
def changed_byte(random: np.random.Generator, files: list[Path]) -> Iterator[tuple[Path, int]]:
    """Change a random byte of the files, all bytes alike, while the block runs; yields where."""
    sizes = np.array([file.stat().st_size for file in files])
    place = int(random.integers(sizes.sum()))
    number = int(np.searchsorted(np.cumsum(sizes), place, side="right"))
    file, offset = files[number], place - int(sizes[:number].sum())
    with file.open("rb+") as opened:
        opened.seek(offset)
        (byte,) = opened.read(1)
        opened.seek(offset)
        opened.write(bytes([byte ^ int(random.integers(1, 256))]))
        opened.flush()
        try:
            yield file, offset
        finally:
            opened.seek(offset)
            opened.write(bytes([byte]))


def flip(root: Path, codec: str, flips: int, seed: int = 0) -> Tally:
    """Change single bytes of a dataset that is written here, and compare what tensorstore and ``verify`` say."""
    write_dataset(root, codec)
    wanted = read_pixels(root)
    files = sorted(file for file in root.rglob("*") if file.is_file() and "c" in file.relative_to(root).parts[:-1])
    assert verify(root).ok
    random = np.random.default_rng(seed)
    tally = Tally(codec)
    for _ in range(flips):
        with changed_byte(random, files) as (file, offset):
            pixels, found = read_pixels(root), not verify(root).ok
        unreadable = any(image is None for image in pixels)
        changed = not unreadable and not all(map(np.array_equal, pixels, wanted))  # type: ignore[arg-type]
        tally.flips += 1
        tally.unreadable += unreadable
        tally.changed += changed
        tally.found += found
        if (unreadable or changed) and not found:
            tally.missed += 1
            print(f"missed: {codec}, byte {offset} of {file.relative_to(root)}", file=sys.stderr)
    assert verify(root).ok
    return tally


def main(arguments: list[str] | None = None) -> int:
    """Run the campaign; returns the exit status."""
    parser = argparse.ArgumentParser(description="Change random bytes of datasets and see whether verify finds them.")
    parser.add_argument("--flips", type=int, default=1000, help="in all, over all codecs")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    print(HEADER)
    missed = 0
    for number, codec in enumerate(CODECS):
        share = options.flips // len(CODECS) + (number < options.flips % len(CODECS))
        with tempfile.TemporaryDirectory() as folder:
            tally = flip(Path(folder, "flips.ome.zarr"), codec, share, options.seed + number)
        print(tally.row(), flush=True)
        missed += tally.missed
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
