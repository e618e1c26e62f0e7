"""The libraries that write, one module each; none is imported before it is asked for."""

from ._journal import JOURNAL_FILE
from ._registry import available_backends, load_backend
from ._salvage import ChunkCensus, Salvage
from ._shards import WRITING_FOLDER

__all__ = ["JOURNAL_FILE", "WRITING_FOLDER", "ChunkCensus", "Salvage", "available_backends", "load_backend"]
