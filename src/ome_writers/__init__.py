"""Streaming writer for microscopes: camera frames to OME-Zarr, one call per frame.

Declare an acquisition with :class:`AcquisitionSettings`, open it with :func:`create_stream`, and call
:meth:`OMEStream.append` with each frame.
"""

from ._documents import __version__
from ._info import DatasetInfo, describe
from ._recovery import RecoveryReport, recover
from ._replay import ReplayProgress, ReplayReport, replay
from ._stream import OMEStream, create_stream
from ._verify import VerificationReport, verify
from .engine import StreamStats
from .errors import OMEWritersError
from .integrations.useq import dims_from_useq, useq_to_acquisition_settings
from .recordings import Recording, open_recording
from .settings import (
    AcquisitionSettings,
    BufferSettings,
    Channel,
    Chunking,
    Codec,
    Dimension,
    OmeZarrFormat,
    Plate,
    Position,
    PositionDimension,
    StandardAxis,
    dims_from_standard_axes,
)

__all__ = [
    "AcquisitionSettings",
    "BufferSettings",
    "Channel",
    "Chunking",
    "Codec",
    "DatasetInfo",
    "Dimension",
    "OMEStream",
    "OMEWritersError",
    "OmeZarrFormat",
    "Plate",
    "Position",
    "PositionDimension",
    "Recording",
    "RecoveryReport",
    "ReplayProgress",
    "ReplayReport",
    "StandardAxis",
    "StreamStats",
    "VerificationReport",
    "__version__",
    "create_stream",
    "describe",
    "dims_from_standard_axes",
    "dims_from_useq",
    "open_recording",
    "recover",
    "replay",
    "useq_to_acquisition_settings",
    "verify",
]
