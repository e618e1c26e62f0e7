"""How much memory an acquisition needs, and how the allowed memory is used; computed before the first frame."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from ome_writers._layout import Layout
from ome_writers.abc import BlockSink, LayerSink, Sink, WritePlan
from ome_writers.errors import BufferTooSmallError
from ome_writers.settings import BufferSettings

from ._forms import ChunkMajor

_BATCH_BYTES: Final = 1 << 20
"""Frames smaller than this are handed to a frame sink several at a time."""

_WAITING_BYTES: Final = 96 << 20
"""What may wait for a worker when the settings say nothing: enough for both cores to have work, and for a camera of
500 MB/s to go on for a fifth of a second while the disk does something else."""

_WAITING_BATCHES_BYTES: Final = 32 << 20
"""The same for sinks that take frames: their libraries have queues of their own. More than the processor's cache holds
would make copying slower where storage is the slower one: measured, 5 to 15 % of throughput."""

_SMALL_BYTES: Final = 1 << 16
"""Buffers smaller than this are made when they are needed: that takes no longer than a caller can wait, and there would
be a great many of them."""

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
    ahead : int
        How many of them to make before they are needed, those that are ready among them.
    workers : int
        Threads that write.
    backlog : int
        Tasks for them, half of those that may wait: when there are more, no thread should be held back.
    """

    extent: tuple[int, ...]
    buffer_bytes: int
    buffers: int
    ready: int
    ahead: int
    workers: int
    backlog: int


def plan_memory(sink: type[Sink], plan: WritePlan, settings: BufferSettings) -> MemoryPlan:
    """Return how the allowed memory is used for an acquisition.

    What a library takes for itself while it writes (:attr:`Capabilities.copies` of everything in its hands, and
    :meth:`Sink.memory_needed`) counts as used. The rest holds open blocks, one for each worker (a large layer is shared
    by several), and blocks that wait; when it can't hold the open ones and those of the workers, fewer workers are
    used.

    Raises
    ------
    BufferTooSmallError
        If the open blocks of this acquisition order don't fit. Waiting could not help: the frames that would complete
        them are the ones that would have to wait.
    """
    layout, geometry, caps = plan.layout, plan.geometry, sink.capabilities
    pieces = 1  # that one parcel is handed over in
    if issubclass(sink, LayerSink):
        extent = geometry.index_extent("chunk")
        layer = ChunkMajor(geometry)
        parcel_bytes, pieces = layer.nbytes(extent), len(layer.parts)
    elif issubclass(sink, BlockSink):
        extent = geometry.index_extent("shard")
        parcel_bytes = math.prod(extent) * geometry.frame_bytes
    else:
        extent = (max(1, _BATCH_BYTES // geometry.frame_bytes),)
        parcel_bytes = extent[0] * geometry.frame_bytes
    if issubclass(sink, LayerSink | BlockSink):
        needed, parcels = layout.open_blocks(extent), layout.block_count(extent)
        waiting_bytes = _WAITING_BYTES
        workers = settings.workers or caps.workers
        reason = layout.explain_open_blocks(extent)
    else:
        needed, parcels = _MIN_BATCHES, layout.block_count((1,) * len(geometry.shape[:-2]))
        waiting_bytes = _WAITING_BATCHES_BYTES
        workers = 1
        reason = f"{_MIN_BATCHES} batches of frames are in use at a time"
    allowed = settings.allowed_bytes
    fixed = sink.memory_needed(plan)
    for count in range(workers, 0, -1):
        taken = fixed + math.ceil(caps.copies * parcel_bytes / pieces * count)
        buffers = max(0, allowed - taken) // parcel_bytes
        in_hand = -(-count // pieces)
        # every worker should have work in its hands while the open parcels are filled; one worker makes do with less
        if buffers >= needed + (in_hand if count > 1 else 0):
            usual = needed + in_hand + waiting_bytes // parcel_bytes
            if settings.max_bytes is None:
                buffers = min(buffers, usual)
            used = buffers if parcels is None else min(buffers, parcels)
            ready = min(used, needed + in_hand)
            ahead = ready if parcel_bytes < _SMALL_BYTES else min(used, usual)
            backlog = max(1, (buffers - needed - in_hand) * pieces // 2)
            return MemoryPlan(extent, parcel_bytes, buffers, ready, ahead, count, backlog)
    raise BufferTooSmallError(_explain(layout, caps.name, reason, needed, parcel_bytes, taken, allowed))


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
