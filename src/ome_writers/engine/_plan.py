"""How much memory an acquisition needs, and how the allowed memory is used; computed before the first frame."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from ome_writers._layout import Layout
from ome_writers.abc import BlockSink, Sink, WritePlan
from ome_writers.errors import BufferTooSmallError
from ome_writers.settings import BufferSettings

_BATCH_BYTES: Final = 1 << 20
"""Frames smaller than this are handed to a frame sink several at a time."""

_WAITING_SHARE: Final = 4
"""Parcels that wait for a worker may take this part of the budget: a deeper queue only touches more memory."""

_LARGE_BYTES: Final = 1 << 22
"""Parcels of this size or more are made ready before the first frame, where the first use of so much memory is felt."""

_MIN_BATCHES: Final = 2  # one that is filled while another is written


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """How the memory for frames is cut.

    Attributes
    ----------
    extent : tuple of int
        Frames of a parcel along each index axis (of a batch: their number).
    buffer_bytes : int
        Size of the buffer of one parcel.
    buffers : int
        The most buffers in use at once.
    ready : int
        How many of them to make before the first frame.
    workers : int
        Threads that write.
    """

    extent: tuple[int, ...]
    buffer_bytes: int
    buffers: int
    ready: int
    workers: int


def plan_memory(sink: type[Sink], plan: WritePlan, settings: BufferSettings) -> MemoryPlan:
    """Return how the allowed memory is used for an acquisition.

    What a library takes for itself while it writes (:attr:`Capabilities.copies` of every block in its hands, and
    :meth:`Sink.memory_needed`) counts as used. The rest holds open blocks, one for each worker, and as a quarter of
    the budget blocks that wait; when it can't hold the open ones and one for each worker, fewer workers are used.

    Raises
    ------
    BufferTooSmallError
        If the open blocks of this acquisition order don't fit. Waiting could not help: the frames that would complete
        them are the ones that would have to wait.
    """
    layout, geometry, caps = plan.layout, plan.geometry, sink.capabilities
    if issubclass(sink, BlockSink):
        extent = geometry.index_extent(caps.block)
        needed = layout.open_blocks(extent)
        parcels = layout.block_count(extent)
        workers = settings.workers or caps.workers
        reason = layout.explain_open_blocks(extent)
    else:
        extent = (max(1, _BATCH_BYTES // geometry.frame_bytes),)
        needed, workers = _MIN_BATCHES, 1
        parcels = layout.block_count((1,) * len(geometry.shape[:-2]))
        reason = f"{_MIN_BATCHES} batches of frames are in use at a time"
    parcel_bytes = math.prod(extent) * geometry.frame_bytes
    fixed = sink.memory_needed(plan)
    for count in range(workers, 0, -1):
        taken = fixed + math.ceil(caps.copies * parcel_bytes) * count
        buffers = max(0, settings.max_bytes - taken) // parcel_bytes
        # every worker should have a block in its hands while the open ones are filled; one worker makes do with less
        if buffers >= needed + (count if count > 1 else 0):
            waiting = max(1, settings.max_bytes // _WAITING_SHARE // parcel_bytes)
            buffers = min(buffers, needed + count + waiting)
            ready = buffers if parcel_bytes >= _LARGE_BYTES else min(buffers, needed + count)
            return MemoryPlan(extent, parcel_bytes, buffers, ready if parcels is None else min(ready, parcels), count)
    raise BufferTooSmallError(_explain(layout, caps.name, reason, needed, parcel_bytes, taken, settings.max_bytes))


def _explain(
    layout: Layout, backend: str, reason: str, needed: int, parcel_bytes: int, taken: int, allowed: int
) -> str:
    total = needed * parcel_bytes + taken
    return (
        f"this acquisition needs {total:,} bytes of memory at once, and settings.buffer.max_bytes allows {allowed:,}: "
        f"{reason}, of {parcel_bytes:,} bytes each, and backend {backend!r} takes {taken:,} bytes while it writes. "
        f"Allow at least {total:,} bytes, make chunks or shards smaller along "
        f"{', '.join(repr(axis.name) for axis in layout.axes if axis.storage_axis is not None) or 'the frame'}, or "
        "acquire that dimension faster than the others."
    )
