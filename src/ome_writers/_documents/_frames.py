"""What was recorded with frames, in the attributes of images and in the OME-XML."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from ome_writers._dataset import DatasetFolder
from ome_writers._layout import Layout
from ome_writers.engine import RECORDS_FILE, RECORDS_PER_IMAGE, RecordLog
from ome_writers.metadata import Plane, ome_xml
from ome_writers.settings import AcquisitionSettings

from ._attributes import FRAME_METADATA, set_ours

OME_XML: Final = "OME/METADATA.ome.xml"

_PLANE_KEYS: Final = ("delta_t", "exposure_time", "position_x", "position_y", "position_z")


def write_frame_metadata(folder: DatasetFolder, layout: Layout, records: RecordLog) -> None:
    """Write the first records of each image to the attributes of its group."""
    for array in records.arrays():
        path = layout.images[array].path or "."
        found = [{**r["metadata"], "storage_index": r["storage_index"]} for r in records.of_array(array)]
        values = (found, RECORDS_FILE) if len(found) == RECORDS_PER_IMAGE else (found,)
        set_ours(folder, path, dict(zip(FRAME_METADATA, values, strict=False)))


def write_ome_xml(
    folder: DatasetFolder,
    settings: AcquisitionSettings,
    layout: Layout,
    records: RecordLog,
    shape: tuple[int, ...],
    *,
    stands: tuple[int, ...] | None = None,
) -> None:
    """Write the OME-XML document with what is known of the planes, if the dataset has one.

    Parameters
    ----------
    folder : DatasetFolder
        The dataset.
    settings : AcquisitionSettings
        Its settings.
    layout : Layout
        Its layout.
    records : RecordLog
        What was recorded with the frames.
    shape : tuple of int
        Of the arrays.
    stands : tuple of int, optional
        Shape in the document that was written when the dataset was begun. With the same shape and no planes it is not
        written again: that takes about 1 ms for each image.
    """
    planes = list(_planes(records))
    if not planes and shape == stands and (folder.root / OME_XML).is_file():
        return
    text = ome_xml(settings, layout, planes, counts=shape)
    if text is not None:
        folder.write_text(OME_XML, text)


def _planes(records: RecordLog) -> Iterator[Plane]:
    left = RECORDS_PER_IMAGE
    for array in records.arrays():
        for record in records.of_array(array):
            values = {key: _number(record["metadata"].get(key)) for key in _PLANE_KEYS}
            if left and any(value is not None for value in values.values()):
                left -= 1
                yield Plane(array, tuple(record["storage_index"]), **values)


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
