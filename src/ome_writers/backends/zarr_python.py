"""Writing with zarr-python, whole shards at a time, through its own codec pipeline or that of zarrs.

The stream writes the metadata documents; an array is opened from the metadata in memory, so that an unbounded one can
grow without a rewrite for every block.
"""

from __future__ import annotations

import threading
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt
import zarr
from zarr.storage import LocalStore, StorePath

from ome_writers.abc import Block, BlockSink, Capabilities, WritePlan
from ome_writers.settings import DTYPES

from ._chunks import black_chunks, region_of, virtual_document
from ._zeros import BlackChunks

_ZARR_PYTHON: Final = "zarr.core.codec_pipeline.BatchedCodecPipeline"
_ZARRS: Final = "zarrs.ZarrsCodecPipeline"
_CONFIGURING: Final = threading.Lock()  # the configuration is one for all streams of the process


class ZarrPythonSink(BlockSink):
    """Writes blocks with zarr-python's own codecs."""

    capabilities: ClassVar[Capabilities] = Capabilities(
        name="zarr-python",
        dtypes=frozenset(DTYPES),
        compressions=frozenset({"none", "zstd", "blosc-zstd", "blosc-lz4"}),
        shuffles=frozenset({"none", "byte", "bit"}),
        checksum=True,
        workers=2,  # while one waits for the library's event loop or the disk, the other one copies
        copies=2.0,  # the encoded chunks, and the shard that they are joined to
    )

    def __init__(self, plan: WritePlan) -> None:
        self._plan = plan
        self._store = LocalStore(plan.root)
        self._arrays: dict[tuple[int, str, bool], Any] = {}
        self._lock = threading.Lock()
        self._black = BlackChunks(plan)

    def write_block(
        self, array: int, origin: tuple[int, ...], block: Block, stored: npt.NDArray[np.bool_] | None
    ) -> None:
        """Write one block; returns when it is in the file.

        The library writes all chunks of a block or leaves out those of zeros only. So chunks that no frame was
        acquired for are left out, and then those that were acquired and are black are written after the others.
        """
        if stored is None:
            self._write(array, origin, block, _ZARR_PYTHON, everything=True)
        else:
            self._write(array, origin, block, _ZARR_PYTHON, everything=False)
            self._add_black_chunks(array, origin, black_chunks(block, self._plan.geometry.chunks, stored))

    def _add_black_chunks(self, array: int, origin: tuple[int, ...], black: npt.NDArray[np.bool_]) -> None:
        """Store the chunks of zeros of a block that the library has left out."""
        if black.any():
            first = [o // c for o, c in zip((*origin, 0, 0), self._plan.geometry.chunks, strict=True)]
            self._black.add(array, [tuple(map(int, cell)) for cell in np.argwhere(black) + first])

    def close(self) -> None:
        """Let go of all arrays."""
        self._arrays.clear()

    def _write(self, array: int, origin: tuple[int, ...], block: Block, pipeline: str, *, everything: bool) -> None:
        self._open(array, pipeline, write_empty_chunks=everything)[region_of(origin, block.shape[:-2])] = block

    def _open(self, array: int, pipeline: str, *, write_empty_chunks: bool) -> Any:
        key = array, pipeline, write_empty_chunks
        with self._lock:
            if key not in self._arrays:
                path = StorePath(self._store, self._plan.layout.images[array].array_path)
                document = virtual_document(self._plan.array_document, self._plan.geometry.shape)
                # the library takes both from its global configuration when an array is opened
                with (
                    _CONFIGURING,
                    zarr.config.set({"codec_pipeline.path": pipeline, "array.write_empty_chunks": write_empty_chunks}),
                ):
                    self._arrays[key] = zarr.Array.from_dict(path, document)
            return self._arrays[key]


class ZarrsSink(ZarrPythonSink):
    """Writes blocks with zarr-python and the codecs of zarrs."""

    capabilities: ClassVar[Capabilities] = Capabilities(
        name="zarrs-python",
        dtypes=frozenset(DTYPES),
        compressions=frozenset({"none", "zstd", "blosc-zstd", "blosc-lz4"}),
        shuffles=frozenset({"none", "byte", "bit"}),
        checksum=True,
        workers=1,
        copies=1.0,  # the encoded shard
    )

    def write_block(
        self, array: int, origin: tuple[int, ...], block: Block, stored: npt.NDArray[np.bool_] | None
    ) -> None:
        """Write one block; returns when it is in the file.

        zarrs leaves out chunks of zeros only, also when it is told to write them (version 0.2.3). Those that were
        acquired are written after the others.
        """
        black = black_chunks(block, self._plan.geometry.chunks, stored)
        self._write(array, origin, block, _ZARRS, everything=stored is None)
        self._add_black_chunks(array, origin, black)
