"""Recorded acquisitions, read frame by frame."""

from ._recording import Frame, Index, Recording
from ._sources import ReadOptions, open_recording

__all__ = ["Frame", "Index", "ReadOptions", "Recording", "open_recording"]
