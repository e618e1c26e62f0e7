"""The contracts between the engine and the backends.

A backend is one class: a :class:`LayerSink`, which is given layers of chunks, a :class:`BlockSink`, which is given
whole shards, or a :class:`FrameSink`, which is given frames in acquisition order. It says what it can do in its
:class:`Capabilities` and gets a :class:`WritePlan`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt

from ._layout import ArrayGeometry, Layout
from .errors import UnsupportedError
from .settings import Codec

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
    shuffles : frozenset of str
        Shuffles of blosc that it can write, ``"none"`` included.
    checksum : bool
        Whether it can store chunks with a checksum.
    workers : int
        Threads that should hand blocks to it, unless the settings say otherwise.
    copies : float
        Memory that the library itself takes for each block that is being written, in blocks.
    always_sharded : bool
        Whether it writes unsharded arrays as shards of one chunk each.
    durable : bool
        Whether it can have data on the medium, and not only in the system's memory.
    resumes : bool
        Whether it can go on with arrays that were begun before.
    """

    name: str
    dtypes: frozenset[str]
    compressions: frozenset[str]
    shuffles: frozenset[str] = frozenset({"none", "byte"})
    checksum: bool = False
    workers: int = 1
    copies: float = 1.0
    always_sharded: bool = False
    durable: bool = False
    resumes: bool = True


@dataclass(frozen=True, slots=True)
class WritePlan:
    """What a sink is given.

    Attributes
    ----------
    root : Path
        The dataset's folder; it exists and holds all metadata documents.
    layout : Layout
        The dataset's arrays.
    codec : Codec
        How chunks are compressed, with the defaults filled in.
    array_document : mapping
        The Zarr v3 metadata of every array, with a shape of 0 along an unbounded axis.
    first_frame : int
        Number of the first frame that will be written; earlier ones stand in the dataset. Layers and blocks that hold
        both are written whole.
    durable : bool
        Whether everything that is complete must be on the medium, and the rest at each :meth:`Sink.sync`.
    """

    root: Path
    layout: Layout
    codec: Codec
    array_document: Mapping[str, Any]
    first_frame: int = 0
    durable: bool = False

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
        codec = plan.codec
        if codec.name not in caps.compressions:
            raise UnsupportedError(
                f"backend {caps.name!r} can't write compression {codec.name!r}; it can write "
                f"{', '.join(sorted(caps.compressions))}."
            )
        if codec.shuffle not in caps.shuffles:
            raise UnsupportedError(
                f"backend {caps.name!r} can't write shuffle {codec.shuffle!r}; it can write "
                f"{', '.join(sorted(caps.shuffles))}. Use another backend, such as 'tensorstore'."
            )
        if codec.checksum and not caps.checksum:
            raise UnsupportedError(
                f"backend {caps.name!r} can't write a checksum for each chunk. Set checksum=False, or use another "
                "backend, such as 'tensorstore'."
            )
        if plan.durable and not caps.durable:
            raise UnsupportedError(
                f"backend {caps.name!r} can't have data on the medium at given times. Leave durability at 'process', "
                "or use backend 'direct'."
            )

    @classmethod
    def memory_needed(cls, plan: WritePlan) -> int:
        """Return the bytes that the library takes for itself, whatever is being written (0 when next to nothing)."""
        del plan
        return 0

    @abstractmethod
    def __init__(self, plan: WritePlan) -> None: ...

    def sync(self) -> None:
        """Have everything that was written on the medium; called about every second if the plan is durable.

        A sink whose capabilities don't say ``durable`` is never asked.

        Raises
        ------
        OSError
            If that fails; a :class:`LayersLostError` names what may be lost.
        """
        raise NotImplementedError

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


class LayersLostError(OSError):
    """Layers that were written before are lost: what they are part of could not be completed.

    Attributes
    ----------
    layers : tuple of (int, tuple of int)
        Number of the array and place in the chunk grid, along the index axes, of each layer.
    """

    def __init__(self, message: str, layers: Iterable[tuple[int, tuple[int, ...]]]) -> None:
        super().__init__(message)
        self.layers = tuple(layers)


class FramesLostError(OSError):
    """Frames can't be read, though they were written.

    Attributes
    ----------
    frames : tuple of int
        Their numbers.
    """

    def __init__(self, message: str, frames: Iterable[int]) -> None:
        super().__init__(message)
        self.frames = tuple(frames)


class LayerSink(Sink):
    """A sink that takes layers of chunks, in any order, possibly from several threads at once.

    A layer is all chunks in the frame for one step of the chunk grid along the index axes. Its chunks are whole and
    lie one after the other in memory, as on disk.
    """

    takes_groups: ClassVar[bool] = False
    """Whether :meth:`write_layers` is there."""

    @abstractmethod
    def write_chunks(self, array: int, cell: tuple[int, ...], first_row: int, chunks: Block) -> None:
        """Write whole rows of chunks of a layer; when this returns, the sink holds no reference to them.

        Parameters
        ----------
        array : int
            Number of the array.
        cell : tuple of int
            Place of the layer in the chunk grid, along the index axes.
        first_row : int
            Place of the first row of chunks in the grid, along the frame's height.
        chunks : ndarray, shape (rows, columns, *chunk)
            The chunks of these rows, C-contiguous; 0 (the fill value) where there is no frame or no pixel.

        Raises
        ------
        LayersLostError
            If layers that were written before can't be read any more. Any other error concerns these chunks alone.
        """

    def write_layers(self, array: int, cells: Sequence[tuple[int, ...]], layers: Sequence[Block]) -> None:
        """Write several small layers of one shard, all of them or none.

        Called only if :attr:`takes_groups` is set, for arrays whose shards span the frame. After an error each of them
        is given to :meth:`write_chunks`.

        Parameters
        ----------
        array : int
            Number of the array.
        cells : sequence of tuple of int
            Place of each layer in the chunk grid, along the index axes.
        layers : sequence of ndarray, shape (rows, columns, *chunk)
            All chunks of each layer, C-contiguous.
        """
        raise NotImplementedError

    @abstractmethod
    def skip_layer(self, array: int, cell: tuple[int, ...]) -> None:
        """Take note that no frame of a layer was acquired; its chunks must not be stored."""

    def read_layer(self, array: int, cell: tuple[int, ...]) -> Block | None:
        """Return the chunks of a layer that stands in the dataset, shaped as for :meth:`write_chunks`.

        Called before the first frame of a stream that goes on with a dataset. None when there is no such layer.
        """
        raise NotImplementedError

    def readable_extent(self, array: int) -> int | None:
        """Return how far along the unbounded axis others can read now; None when as far as layers were written."""
        del array
        return None


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
