"""The declaration of an acquisition: what is acquired, and how it is stored.

Pure data: nothing here touches storage or knows which backends are installed.
"""

from ._acquisition import DTYPES, AcquisitionSettings
from ._axes import MAX_AXES
from ._blocks import gathering_place, open_blocks
from ._buffer import BufferSettings
from ._chunking import Chunking
from ._codec import Codec, Compression, codec_of
from ._consistency import image_labels, image_path
from ._coordinates import Channel, Position
from ._dimension import (
    Dimension,
    PositionDimension,
    StandardAxis,
    dims_from_standard_axes,
)
from ._formats import Backend, OmeZarrFormat
from ._names import name_fault
from ._plate import Plate, row_label
from ._units import in_base_units

__all__ = [
    "DTYPES",
    "MAX_AXES",
    "AcquisitionSettings",
    "Backend",
    "BufferSettings",
    "Channel",
    "Chunking",
    "Codec",
    "Compression",
    "Dimension",
    "OmeZarrFormat",
    "Plate",
    "Position",
    "PositionDimension",
    "StandardAxis",
    "codec_of",
    "dims_from_standard_axes",
    "gathering_place",
    "image_labels",
    "image_path",
    "in_base_units",
    "name_fault",
    "open_blocks",
    "row_label",
]
