"""The contracts between the engine and the backends.

A backend is one class: a :class:`BlockSink`, which is given aligned blocks, or a :class:`FrameSink`, which is given
frames in acquisition order. It says what it can do in its :class:`Capabilities` and gets a :class:`WritePlan`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from ._layout import ArrayGeometry, Layout
from .errors import UnsupportedError

Block: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a backend can do and what it costs.

    Attributes
    ----------
    name : str
        The backend's name, as in the settings.
    dtypes : frozenset of str
        Pixel types that it can write.
    compressions : frozenset of str
        Compressions that it can write, ``"none"`` included.
    block : str
        For a block sink, the block that it wants: ``"shard"`` (whole shards) or ``"chunk"`` (one layer of chunks).
    workers : int
        Threads that should hand blocks to it, unless the settings say otherwise.
    copies : float
        Memory that the library itself takes for each block that is being written, in blocks.
    always_sharded : bool
        Whether it writes unsharded arrays as shards of one chunk each.
    """

    name: str
    dtypes: frozenset[str]
    compressions: frozenset[str]
    block: Literal["shard", "chunk"] = "shard"
    workers: int = 1
    copies: float = 1.0
    always_sharded: bool = False


@dataclass(frozen=True, slots=True)
class WritePlan:
    """What a sink is given.

    Attributes
    ----------
    root : Path
        The dataset's folder; it exists and holds all metadata documents.
    layout : Layout
        The dataset's arrays.
    compression : str
        ``"none"``, ``"zstd"``, ``"blosc-zstd"`` or ``"blosc-lz4"``.
    array_document : mapping
        The Zarr v3 metadata of every array, with a shape of 0 along an unbounded axis.
    """

    root: Path
    layout: Layout
    compression: str
    array_document: Mapping[str, Any]

    @property
    def geometry(self) -> ArrayGeometry:
        """Shape and grid of every array."""
        return self.layout.geometry

    def array_path(self, array: int) -> Path:
        """Return the folder of an array by its number."""
        return self.root / self.layout.images[array].array_path


class Sink(ABC):
    """What block sinks and frame sinks have in common.

    A sink is made in the thread that creates the stream. The engine calls its write methods from worker threads and
    :meth:`close` once, after the last of them has returned, also when one of them has failed.
    """

    capabilities: ClassVar[Capabilities]

    @classmethod
    def check(cls, plan: WritePlan) -> None:
        """Refuse a plan that this backend can't carry out, before anything is touched.

        Raises
        ------
        UnsupportedError
            Naming the limit and what to use instead.
        """
        caps = cls.capabilities
        if plan.geometry.dtype not in caps.dtypes:
            raise UnsupportedError(
                f"backend {caps.name!r} can't write {plan.geometry.dtype}; it can write "
                f"{', '.join(sorted(caps.dtypes))}. Use another dtype or another backend, such as 'tensorstore'."
            )
        if plan.compression not in caps.compressions:
            raise UnsupportedError(
                f"backend {caps.name!r} can't write compression {plan.compression!r}; it can write "
                f"{', '.join(sorted(caps.compressions))}."
            )

    @classmethod
    def memory_needed(cls, plan: WritePlan) -> int:
        """Return the bytes that the library takes for itself, whatever is being written (0 when next to nothing)."""
        del plan
        return 0

    @abstractmethod
    def __init__(self, plan: WritePlan) -> None: ...

    @abstractmethod
    def close(self) -> None:
        """Finish all files and release everything."""


class BlockSink(Sink):
    """A sink that takes aligned blocks, in any order, possibly from several threads at once."""

    @abstractmethod
    def write_block(
        self, array: int, origin: tuple[int, ...], block: Block, stored: npt.NDArray[np.bool_] | None
    ) -> None:
        """Write one block; when this returns, the library holds no reference to it.

        Parameters
        ----------
        array : int
            Number of the array.
        origin : tuple of int
            Index of the block's first element along the index axes, in storage order: a multiple of the block's grid.
        block : ndarray
            The pixels, axes in storage order, the whole frame plane; smaller than the grid's step at the end of an
            axis or of an unbounded acquisition. Frames that were skipped hold the fill value 0.
        stored : ndarray of bool, optional
            For each chunk along the index axes, whether a frame of it was acquired; chunks without any must not be
            stored. None means all.
        """


class FrameSink(Sink):
    """A sink that takes frames in acquisition order, from one thread."""

    @abstractmethod
    def write_frames(self, array: int, frames: Block) -> None:
        """Write the next frames of an array; when this returns, the library holds no reference to them.

        Parameters
        ----------
        array : int
            Number of the array.
        frames : ndarray, shape (n, height, width)
            Frames that follow each other in the array's acquisition order.
        """

    @abstractmethod
    def skip_frames(self, array: int, count: int) -> None:
        """Leave out the next frames of an array."""
