"""What replay knows of a recorded acquisition, whatever file format it was recorded in."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import TracebackType
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from ome_writers.settings import Dimension, Plate

__all__ = ["Frame", "Index", "Recording"]

Frame = npt.NDArray[Any]
Index = tuple[int, ...]


class Recording(ABC):
    """A recorded acquisition, whose frames are read one by one; made by :func:`open_recording`.

    Use it as a context manager, or call :meth:`close`. Frames may be read from several threads at once.

    Attributes
    ----------
    name : str
        Where it was recorded: a path, as the user gave it.
    dimensions : tuple of Dimension
        What was recorded, slowest first, in the order of acquisition where the source tells it, else as it is stored;
        the last two are the frame's. All have a count. Several images are a position dimension. Sizes of chunks and
        shards are left open.
    dtype : str
        Name of the pixel type, in native byte order.
    plate : Plate or None
        The plate that the positions lie on.
    present : ndarray of bool or None
        Which frames were recorded, along the index dimensions; None when all were.
    attributes : mapping
        What else is known of the whole recording: for each namespace (such as ``"micromanager"``) a mapping that JSON
        can hold, written as an attribute of the dataset's root group.
    decodes : bool
        Whether reading a frame takes computing, so that several threads should read.
    origin : tuple, optional
        Arguments, and keyword arguments, with which :func:`open_recording` opens it again in another process; None
        when that can't be done.
    """

    kind: ClassVar[str]
    """What kind of source it is, as the documentation calls it, such as ``"OME-TIFF"``."""

    name: str
    dimensions: tuple[Dimension, ...]
    dtype: str
    plate: Plate | None = None
    present: npt.NDArray[np.bool_] | None = None
    attributes: Mapping[str, Mapping[str, Any]] = {}
    decodes: bool = False
    origin: tuple[Any, Mapping[str, Any]] | None = None

    @property
    def index_shape(self) -> Index:
        """Number of steps of each index dimension (all but the last two)."""
        return tuple(d.count or 0 for d in self.dimensions[:-2])

    @property
    def frame_shape(self) -> tuple[int, int]:
        """Height and width of a frame in pixels."""
        height, width = (d.count or 0 for d in self.dimensions[-2:])
        return height, width

    @property
    def frame_bytes(self) -> int:
        """Bytes of a frame."""
        return math.prod(self.frame_shape) * np.dtype(self.dtype).itemsize

    @property
    def frames(self) -> int:
        """Number of frames, whether they were recorded or not."""
        return math.prod(self.index_shape)

    @property
    def frames_missing(self) -> int:
        """Number of frames that the dimensions declare, but that were not recorded."""
        return 0 if self.present is None else int(self.present.size - self.present.sum())

    @abstractmethod
    def read(self, index: Index, out: Frame) -> None:
        """Read a frame.

        Parameters
        ----------
        index : tuple of int
            Step along each index dimension, in the order of :attr:`dimensions`; of a frame that is present.
        out : ndarray, shape (height, width)
            Filled with the pixels, exactly as recorded; of :attr:`dtype`, C-contiguous.

        Raises
        ------
        RecordingError
            If the frame can't be read (also a ValueError); names the frame and the file.
        IndexError
            If there is no such frame: steps are counted from 0.
        """

    def metadata(self, index: Index) -> Mapping[str, Any] | None:
        """Return what was recorded about a frame, as for :meth:`OMEStream.append`; None when nothing was.

        Keys with a meaning: ``delta_t`` (s), ``exposure_time`` (s), ``position_x``, ``position_y``, ``position_z``
        (um); others are kept as they are.
        """
        del index
        return None

    def __getstate__(self) -> dict[str, Any]:
        """Refuse to be pickled: other processes open the source themselves."""
        raise TypeError("a recording can't be pickled; open it again from its source")

    def close(self) -> None:  # noqa: B027  there may be none
        """Release files; does nothing when already closed."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
