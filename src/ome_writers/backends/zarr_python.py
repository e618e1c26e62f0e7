"""Writing with zarr-python, whole shards at a time, through its own codec pipeline or that of zarrs.

The stream writes the metadata documents; an array is opened from the metadata in memory, so that an unbounded one can
grow without a rewrite for every block.
"""

from __future__ import annotations

import threading
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import zarr
from zarr.storage import LocalStore, StorePath

from ome_writers.abc import Block, BlockSink, Capabilities, WritePlan
from ome_writers.settings import DTYPES

from ._chunks import region_of, stored_chunks, virtual_document


class ZarrPythonSink(BlockSink):
    """Writes blocks with zarr-python's own codecs."""

    capabilities: ClassVar[Capabilities] = Capabilities(
        name="zarr-python",
        dtypes=frozenset(DTYPES),
        compressions=frozenset({"none", "zstd", "blosc-zstd", "blosc-lz4"}),
        workers=1,
        copies=2.0,  # the encoded chunks, and the shard that they are joined to
    )
    pipeline: ClassVar[str] = "zarr.core.codec_pipeline.BatchedCodecPipeline"

    def __init__(self, plan: WritePlan) -> None:
        self._plan = plan
        self._store = LocalStore(plan.root)
        self._arrays: dict[tuple[int, bool], Any] = {}
        self._lock = threading.Lock()

    def write_block(
        self, array: int, origin: tuple[int, ...], block: Block, stored: npt.NDArray[np.bool_] | None
    ) -> None:
        """Write one block; returns when it is in the file.

        The library writes all chunks of a block or leaves out those of zeros only. So chunks that no frame was
        acquired for are left out unless an acquired one is black: then the block is written with all of its chunks,
        and its skipped frames are stored as zeros.
        """
        black = stored is None or any(
            not block[cell].any()
            for cell in stored_chunks(block.shape, self._plan.geometry.chunks, self._planes(stored))
        )
        self._open(array, write_empty_chunks=black)[region_of(origin, block.shape[:-2])] = block

    def _planes(self, stored: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Return for each chunk of a block, along the frame axes too, whether it is to be stored."""
        geometry = self._plan.geometry
        plane = tuple(-(-n // c) for n, c in zip(geometry.frame_shape, geometry.chunks[-2:], strict=True))
        return np.broadcast_to(stored[..., None, None], stored.shape + plane)

    def close(self) -> None:
        """Let go of all arrays."""
        self._arrays.clear()

    def _open(self, array: int, *, write_empty_chunks: bool) -> Any:
        key = array, write_empty_chunks
        with self._lock:
            if key not in self._arrays:
                path = StorePath(self._store, self._plan.layout.images[array].array_path)
                document = virtual_document(self._plan.array_document, self._plan.geometry.shape)
                # the library takes both from its global configuration when an array is opened
                with zarr.config.set(
                    {"codec_pipeline.path": self.pipeline, "array.write_empty_chunks": write_empty_chunks}
                ):
                    self._arrays[key] = zarr.Array.from_dict(path, document)
            return self._arrays[key]


class ZarrsSink(ZarrPythonSink):
    """Writes blocks with zarr-python and the codecs of zarrs."""

    capabilities: ClassVar[Capabilities] = Capabilities(
        name="zarrs-python",
        dtypes=frozenset(DTYPES),
        compressions=frozenset({"none", "zstd", "blosc-zstd", "blosc-lz4"}),
        workers=1,
        copies=1.0,
    )
    pipeline: ClassVar[str] = "zarrs.ZarrsCodecPipeline"
