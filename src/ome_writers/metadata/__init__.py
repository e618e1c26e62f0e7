"""The documents of a dataset, as values: settings and layout in, JSON objects and XML text out. Nothing is written.

Sources of the formats: the Zarr v3 core specification, OME-NGFF 0.5 (https://ngff.openmicroscopy.org/0.5/) and the
OME-XML schema 2016-06.
"""

from __future__ import annotations

from typing import Final

from ._ngff import hierarchy
from ._ome_xml import Plane, ome_xml
from ._zarr import array_document, group_document, with_shape

__all__ = [
    "Plane",
    "array_document",
    "group_document",
    "hierarchy",
    "ome_xml",
    "reserved_namespaces",
    "with_shape",
]

reserved_namespaces: Final = frozenset({"ome", "ome_writers"})
"""Keys of a group's attributes that belong to this package and that a user's own metadata can't take."""
