"""The engine between ``append`` and a backend: copy, gather, bound memory, write in the background, latch errors."""

from ._assembly import BlockAssembly, LayerAssembly, end_of_begun_layers, first_to_rewrite
from ._batches import BatchAssembly
from ._engine import Engine
from ._fates import APPENDED, FATES_FILE, LOST, PENDING, SKIPPED, FrameFates, ranges_of, read_fates, write_fates
from ._frames import encode_metadata
from ._plan import MemoryPlan, plan_memory
from ._pool import BufferPool
from ._records import RECORDS_FILE, RECORDS_PER_IMAGE, RecordLog
from ._stats import StreamStats
from ._workers import Workers

__all__ = [
    "APPENDED",
    "FATES_FILE",
    "LOST",
    "PENDING",
    "RECORDS_FILE",
    "RECORDS_PER_IMAGE",
    "SKIPPED",
    "BatchAssembly",
    "BlockAssembly",
    "BufferPool",
    "Engine",
    "FrameFates",
    "LayerAssembly",
    "MemoryPlan",
    "RecordLog",
    "StreamStats",
    "Workers",
    "encode_metadata",
    "end_of_begun_layers",
    "first_to_rewrite",
    "plan_memory",
    "ranges_of",
    "read_fates",
    "write_fates",
]
