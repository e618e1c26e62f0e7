"""The documents of a dataset that depend on what was acquired: shapes, per-frame metadata, completeness.

A stream writes them while it runs and when it is closed, recovery when a stream was not.
"""

from ._arrays import ArrayDocuments, extents_on_disk
from ._attributes import FRAME_METADATA, __version__, ours_of
from ._begun import SETTINGS_FILE, Begun, check_same_data, fingerprint, plan_dataset
from ._completeness import Completeness, with_statements_of
from ._frames import OME_XML, write_frame_metadata, write_ome_xml

__all__ = [
    "FRAME_METADATA",
    "OME_XML",
    "SETTINGS_FILE",
    "ArrayDocuments",
    "Begun",
    "Completeness",
    "__version__",
    "check_same_data",
    "extents_on_disk",
    "fingerprint",
    "ours_of",
    "plan_dataset",
    "with_statements_of",
    "write_frame_metadata",
    "write_ome_xml",
]
