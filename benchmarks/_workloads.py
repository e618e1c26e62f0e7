"""What is written: named workloads."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ome_writers import AcquisitionSettings, BufferSettings, Dimension

Frames = npt.NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class Workload:
    """A time-lapse of camera-like noise.

    Attributes
    ----------
    name : str
        How it is called on the command line.
    frames : int
        Number of frames.
    side : int
        Height and width of a frame in pixels.
    chunk : tuple of int
        Extent of a chunk (t, y, x).
    shard_frames : int
        Frames in a shard, which spans the whole frame.
    compression : str
        As in the settings.
    """

    name: str
    frames: int
    side: int
    chunk: tuple[int, int, int]
    shard_frames: int
    compression: str

    @property
    def nbytes(self) -> int:
        """Bytes of all frames."""
        return 2 * self.frames * self.side**2

    def scaled(self, factor: float) -> Workload:
        """Return a workload with fewer frames, whole shards still."""
        shards = max(1, round(self.frames * factor / self.shard_frames))
        return replace(self, frames=shards * self.shard_frames)

    def shrunk(self, side: int) -> Workload:
        """Return a workload with small frames, for tests."""
        return replace(self, side=side, chunk=(self.chunk[0], max(1, side // 4), max(1, side // 4)))

    def settings(self, root_path: str, backend: str, max_bytes: int) -> AcquisitionSettings:
        """Return the settings of a stream that writes this workload."""
        across = math.ceil(self.side / self.chunk[1])
        y, x = (
            Dimension(name=n, type="space", count=self.side, chunk_size=self.chunk[1], shard_size_chunks=across)
            for n in "yx"
        )
        t = Dimension(
            name="t",
            type="time",
            count=self.frames,
            chunk_size=self.chunk[0],
            shard_size_chunks=self.shard_frames // self.chunk[0],
        )
        return AcquisitionSettings(
            root_path=root_path,
            dimensions=(t, y, x),
            dtype="uint16",
            compression=self.compression,
            format=backend,
            buffer=BufferSettings(max_bytes=max_bytes),
        )

    def pixels(self, distinct: int = 32) -> Frames:
        """Return distinct frames of camera-like noise, shape (n, side, side); the workload repeats them."""
        number = self.shard_frames * max(1, min(distinct, self.frames) // self.shard_frames)
        rng = np.random.default_rng(0)
        tile = rng.poisson(100, (number, min(self.side, 512), min(self.side, 512))).astype(np.uint16)
        repeats = math.ceil(self.side / tile.shape[1])
        return np.ascontiguousarray(np.tile(tile, (1, repeats, repeats))[:, : self.side, : self.side])


WORKLOADS = {
    w.name: w
    for w in (
        Workload("sharded-raw", 128, 2048, (1, 512, 512), 16, "none"),
        Workload("sharded-blosc-lz4", 128, 2048, (1, 512, 512), 16, "blosc-lz4"),
    )
}
