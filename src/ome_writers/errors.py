"""The error tree.

Every error raised on purpose is an :class:`OMEWritersError`; each class is also the builtin exception that a caller
would expect, and has a stable ``kind`` string to switch on.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "BackendMissingError",
    "BufferFullError",
    "BufferTooSmallError",
    "DatasetInUseError",
    "DestinationExistsError",
    "FrameCountError",
    "FrameError",
    "MetadataError",
    "NotADatasetError",
    "NotRecoverableError",
    "OMEWritersError",
    "RecordingError",
    "ResumeError",
    "SettingsError",
    "StreamClosedError",
    "UnknownGroupError",
    "UnsupportedError",
    "WriteError",
]


class OMEWritersError(Exception):
    """Base class of all errors that this package raises on purpose."""

    kind: ClassVar[str] = "error"


class SettingsError(OMEWritersError, ValueError):
    """The settings can't describe a stream yet, or an argument has a value that is not allowed."""

    kind = "settings"


class BufferTooSmallError(SettingsError):
    """The acquisition needs more memory at once than ``settings.buffer.max_bytes`` allows."""

    kind = "buffer-too-small"


class UnsupportedError(OMEWritersError, NotImplementedError):
    """The chosen backend (or a version of this package) can't do what the settings ask for."""

    kind = "unsupported"


class BackendMissingError(OMEWritersError, ImportError):
    """The chosen backend needs a library that is not installed."""

    kind = "backend-missing"


class DestinationExistsError(OMEWritersError, FileExistsError):
    """Something stands at the output path, and it may not be replaced."""

    kind = "destination-exists"


class DatasetInUseError(DestinationExistsError):
    """A living process is writing to the dataset."""

    kind = "dataset-in-use"


class NotADatasetError(OMEWritersError, ValueError):
    """There is nothing at a path, or it is no Zarr dataset."""

    kind = "not-a-dataset"


class NotRecoverableError(OMEWritersError, ValueError):
    """A path holds no dataset that a stream of this package has begun, or what is needed to complete it is damaged."""

    kind = "not-recoverable"


class RecordingError(OMEWritersError, ValueError):
    """A recorded acquisition is not there, is damaged, or is of no kind that can be read."""

    kind = "recording"


class ResumeError(OMEWritersError, ValueError):
    """A dataset can't be continued with these settings."""

    kind = "resume"


class FrameError(OMEWritersError, ValueError):
    """A frame does not fit the settings (shape, number of dimensions, dtype); nothing of it was taken."""

    kind = "frame"


class FrameCountError(OMEWritersError, IndexError):
    """More frames were appended or skipped than the settings declare."""

    kind = "frame-count"


class MetadataError(OMEWritersError, ValueError):
    """Metadata can't be encoded as JSON, or uses a reserved name; nothing was taken."""

    kind = "metadata"


class UnknownGroupError(OMEWritersError, KeyError):
    """A group path is not part of this dataset."""

    kind = "unknown-group"

    def __str__(self) -> str:
        """Return the message as it is (``KeyError`` would quote it)."""
        return Exception.__str__(self)


class StreamClosedError(OMEWritersError, RuntimeError):
    """The stream is closed."""

    kind = "stream-closed"


class BufferFullError(OMEWritersError, TimeoutError):
    """The buffer is full and the settings say not to wait longer; the frame was not taken and may be appended again."""

    kind = "buffer-full"


class WriteError(OMEWritersError, OSError):
    """Data could not be written.

    Attributes
    ----------
    array : str
        Path of the array below the dataset's root (``""`` when no single array is concerned).
    frames : tuple of range
        Numbers of the frames, in acquisition order, that were appended and are not on disk, as ascending ranges.
    """

    kind = "write"

    def __init__(self, message: str, *, array: str = "", frames: tuple[range, ...] = ()) -> None:
        super().__init__(message)
        self.array = array
        self.frames = frames
