"""The engine between ``append`` and a backend: copy, gather, bound memory, write in the background, latch errors."""

from ._assembly import BatchAssembly, BlockAssembly, LayerAssembly
from ._engine import Engine, StreamStats
from ._plan import MemoryPlan, plan_memory
from ._pool import BufferPool
from ._records import RECORDS_FILE, RECORDS_PER_IMAGE, RecordLog
from ._workers import Workers

__all__ = [
    "RECORDS_FILE",
    "RECORDS_PER_IMAGE",
    "BatchAssembly",
    "BlockAssembly",
    "BufferPool",
    "Engine",
    "LayerAssembly",
    "MemoryPlan",
    "RecordLog",
    "StreamStats",
    "Workers",
    "plan_memory",
]
