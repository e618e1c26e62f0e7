"""The declaration of an acquisition: what is acquired, and how it is stored.

Pure data: nothing here touches storage or knows which backends are installed.
"""

from ._acquisition import DTYPES, AcquisitionSettings, Compression
from ._axes import MAX_AXES
from ._buffer import BufferSettings
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
    "Compression",
    "Dimension",
    "OmeZarrFormat",
    "Plate",
    "Position",
    "PositionDimension",
    "StandardAxis",
    "dims_from_standard_axes",
    "image_labels",
    "image_path",
    "in_base_units",
    "name_fault",
    "row_label",
]
