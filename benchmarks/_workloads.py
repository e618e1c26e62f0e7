"""What is written: named workloads."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ome_writers import AcquisitionSettings, Dimension

Frames = npt.NDArray[np.uint16]

_DISTINCT_BYTES = 1 << 28
_TILE = 512


@dataclass(frozen=True, slots=True)
class Workload:
    """An acquisition of camera-like noise (Poisson, mean 100, uint16).

    Attributes
    ----------
    name : str
        How it is called on the command line.
    index : tuple of (str, int)
        Name and count of every index dimension in acquisition order; ``"p"`` for positions.
    side : int
        Height and width of a frame in pixels.
    chunk : tuple of (str, int)
        Extent of a chunk along each dimension, of those where it is not 1; ``"y"`` and ``"x"`` among them.
    shard : tuple of (str, int)
        Extent of a shard in elements along index dimensions, of those where it is not that of a chunk; a shard spans
        the whole frame. Empty: not sharded.
    compression : str
        As in the settings.
    fps : float, optional
        Frames per second of a camera that doesn't wait; None appends as fast as it goes.
    """

    name: str
    index: tuple[tuple[str, int], ...]
    side: int
    chunk: tuple[tuple[str, int], ...]
    shard: tuple[tuple[str, int], ...]
    compression: str
    fps: float | None = None

    @property
    def frames(self) -> int:
        """Number of frames."""
        return math.prod(count for _, count in self.index)

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame."""
        return 2 * self.side**2

    @property
    def nbytes(self) -> int:
        """Bytes of all frames."""
        return self.frames * self.frame_bytes

    @property
    def positions(self) -> int:
        """Number of positions."""
        return dict(self.index).get("p", 1)

    @property
    def stored(self) -> tuple[str, ...]:
        """Names of the index dimensions of an array, in storage order."""
        return tuple(name for name in "tcz" if name in dict(self.index))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an array."""
        return (*(dict(self.index)[name] for name in self.stored), self.side, self.side)

    @property
    def chunk_shape(self) -> tuple[int, ...]:
        """Shape of a chunk."""
        return tuple(dict(self.chunk).get(name, 1) for name in (*self.stored, "y", "x"))

    @property
    def block_shape(self) -> tuple[int, ...]:
        """Shape of a shard; of a layer of chunks when not sharded."""
        extents = {**dict(self.chunk), **dict(self.shard)}
        return (*(min(extents.get(n, 1), dict(self.index)[n]) for n in self.stored), self.side, self.side)

    def scaled(self, factor: float) -> Workload:
        """Return a workload whose first dimension is shorter, by whole shards."""
        (name, count), *others = self.index
        step = {**dict(self.chunk), **dict(self.shard)}.get(name, 1)
        return replace(self, index=((name, max(1, round(count * factor / step)) * step), *others))

    def shrunk(self, side: int) -> Workload:
        """Return a workload with small frames, for tests."""
        chunk = {name: n if name in "tcz" else max(1, n * side // self.side) for name, n in self.chunk}
        return replace(self, side=side, chunk=tuple(chunk.items()))

    def settings(self, root_path: str, backend: str) -> AcquisitionSettings:
        """Return the settings of a stream that writes this workload, with the default buffer."""
        chunk, shard = dict(self.chunk), dict(self.shard)
        dimensions = [
            Dimension(
                name=name,
                type={"t": "time", "c": "channel", "z": "space", "p": "position"}[name],
                count=count,
                chunk_size=None if name == "p" else chunk.get(name, 1),
                shard_size_chunks=None if name == "p" or not shard else shard.get(name, 1) // chunk.get(name, 1) or 1,
            )
            for name, count in self.index
        ]
        dimensions += [
            Dimension(
                name=name,
                type="space",
                count=self.side,
                chunk_size=chunk[name],
                shard_size_chunks=math.ceil(self.side / chunk[name]) if shard else None,
            )
            for name in "yx"
        ]
        return AcquisitionSettings(
            root_path=root_path, dimensions=tuple(dimensions), dtype="uint16", compression=self.compression,
            format=backend,
        )  # fmt: skip

    def pixels(self) -> Frames:
        """Return distinct frames of camera-like noise, shape (n, side, side); frame i of the workload is i modulo n."""
        number = max(1, min(self.frames, _DISTINCT_BYTES // self.frame_bytes))
        rng = np.random.default_rng(0)
        side = min(self.side, _TILE)
        tile = rng.poisson(100, (min(number, 64), side, side)).astype(np.uint16)
        repeats = math.ceil(self.side / side)
        frames = np.tile(tile, (math.ceil(number / len(tile)), repeats, repeats))[:number, : self.side, : self.side]
        numbered = np.ascontiguousarray(frames)
        numbered[:, 0, 0] = np.arange(number)  # so that no two are equal
        return numbered

    def numbers(self, position: int) -> npt.NDArray[np.int64]:
        """Return the number of each frame of a position's array, index axes in storage order."""
        names = [name for name, _ in self.index]
        numbers = np.arange(self.frames, dtype=np.int64).reshape([count for _, count in self.index])
        if "p" in names:
            numbers = numbers[(slice(None),) * names.index("p") + (position,)]
            names.remove("p")
        return numbers.transpose([names.index(name) for name in self.stored])

    def places(self) -> Iterator[tuple[int, tuple[int, ...]]]:
        """Yield (position, index in its array along the index axes) of each frame, in acquisition order."""
        names = [name for name, _ in self.index]
        for steps in itertools.product(*(range(count) for _, count in self.index)):
            step = dict(zip(names, steps, strict=True))
            yield step.get("p", 0), tuple(step[name] for name in self.stored)

    def blocks(self) -> Iterator[tuple[int, tuple[slice, ...]]]:
        """Yield (position, place along the index axes) of every shard (or layer of chunks), in storage order."""
        index_shape, step = self.shape[:-2], self.block_shape[:-2]
        starts = [range(0, n, s) for n, s in zip(index_shape, step, strict=True)]
        for position in range(self.positions):
            for origin in itertools.product(*starts):
                yield (
                    position,
                    tuple(slice(o, min(o + s, n)) for o, s, n in zip(origin, step, index_shape, strict=True)),
                )

    def array_path(self, position: int) -> str:
        """Return the path of a position's array below the dataset's root."""
        return f"{position}/0" if self.positions > 1 else "0"


def _camera(
    name: str, frames: int, compression: str, *, shard: int = 0, side: int = 2048, chunk: int = 512,
    fps: float | None = None,
) -> Workload:  # fmt: skip
    shards = (("t", shard),) if shard else ()
    return Workload(name, (("t", frames),), side, (("y", chunk), ("x", chunk)), shards, compression, fps)


_SHEET_CHUNK = (("z", 16), ("y", 256), ("x", 256))

WORKLOADS = {
    w.name: w
    for w in (
        _camera("sharded-raw", 128, "none", shard=16),
        _camera("sharded-blosc-lz4", 128, "blosc-lz4", shard=16),
        _camera("sharded-blosc-zstd", 64, "blosc-zstd", shard=16),
        _camera("unsharded-raw", 64, "none"),
        Workload("light-sheet", (("t", 4), ("z", 32)), 2048, _SHEET_CHUNK, (), "blosc-lz4"),
        Workload("light-sheet-transposed", (("t", 2), ("z", 32), ("c", 2)), 2048, _SHEET_CHUNK, (), "blosc-lz4"),
        Workload("fast-frames", (("t", 16000),), 128, (("t", 100), ("y", 128), ("x", 128)), (("t", 1000),), "none"),
        Workload(
            "positions",
            (("t", 8), ("p", 24), ("c", 2)),
            1024,
            (("y", 512), ("x", 512)),
            (("t", 8),),
            "blosc-lz4",
        ),
        _camera("paced", 1200, "blosc-lz4", shard=32, fps=60.0),
    )
}
