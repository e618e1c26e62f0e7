"""The groups of a dataset and their attributes (OME-NGFF 0.5)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel
from yaozarrs import v05

from ome_writers._layout import Image, Layout
from ome_writers.errors import SettingsError
from ome_writers.settings import AcquisitionSettings, Plate

from ._image import image_attributes

ACQUISITION_ID = 0  # a dataset is one acquisition


class _PlateDef(v05.PlateDef):
    """With the version that OME-NGFF 0.5, "plate" metadata, asks for."""

    version: Literal["0.5"] = "0.5"


class _WellDef(v05.WellDef):
    """With the version that OME-NGFF 0.5, "well" metadata, asks for."""

    version: Literal["0.5"] = "0.5"


def hierarchy(settings: AcquisitionSettings, layout: Layout, *, version: str) -> dict[str, dict[str, Any]]:
    """Return the attributes of every group of the dataset.

    Parameters
    ----------
    settings : AcquisitionSettings
        The acquisition.
    layout : Layout
        Its layout.
    version : str
        Version of this package, kept in the images' ``ome_writers`` attributes.

    Returns
    -------
    dict of str to dict
        Path below the root (``"."`` for the root itself, ``"A/1/0"``) to attributes; groups come before what they
        hold. Collections follow OME-NGFF 0.5, "bioformats2raw.layout"; plates "plate" and "well" metadata.
    """
    groups: dict[str, dict[str, Any]] = {}
    if layout.kind == "collection":
        groups["."] = _ome(v05.Bf2Raw.model_validate({"bioformats2raw.layout": 3}))
        groups["OME"] = _ome(v05.Series(series=[image.path for image in layout.images]))
    elif layout.kind == "plate":
        if settings.plate is None:
            raise SettingsError("the layout is that of a plate, but the settings have none; plan it from them")
        groups.update(_plate_groups(settings.plate, layout.images))
    for image in layout.images:
        groups[image.path or "."] = image_attributes(settings, image, version=version)
    return groups


def _plate_groups(plate: Plate, images: tuple[Image, ...]) -> dict[str, dict[str, Any]]:
    """Return the groups of the plate, of its imaged rows and of its imaged wells, in plate order."""
    fields: dict[str, list[str]] = {}
    for image in images:
        well, _, field = image.path.rpartition("/")
        fields.setdefault(well, []).append(field)
    most_fields = max(map(len, fields.values()))
    wells = [
        v05.PlateWell(path=f"{row}/{column}", rowIndex=r, columnIndex=c)
        for r, row in enumerate(plate.row_names)
        for c, column in enumerate(plate.column_names)
        if f"{row}/{column}" in fields
    ]
    definition = _PlateDef(
        columns=[v05.Column(name=name) for name in plate.column_names],
        rows=[v05.Row(name=name) for name in plate.row_names],
        wells=wells,
        acquisitions=[v05.Acquisition(id=ACQUISITION_ID, name=str(ACQUISITION_ID), maximumfieldcount=most_fields)],
        field_count=most_fields,
        name=plate.name,
    )
    groups = {".": _ome(v05.Plate(plate=definition))}
    for place in wells:
        groups.setdefault(place.path.partition("/")[0], {})
        groups[place.path] = _ome(v05.Well(well=_WellDef(images=[_field(name) for name in fields[place.path]])))
    return groups


def _field(name: str) -> v05.FieldOfView:
    # The specification has letters and digits only. Names with "_", "-" and "." are in wide use, the settings allow
    # them and readers open them; validating here would warn of each.
    return v05.FieldOfView.model_construct(path=name, acquisition=ACQUISITION_ID)


def _ome(model: BaseModel) -> dict[str, Any]:
    return {"ome": model.model_dump(mode="json", by_alias=True, exclude_none=True, serialize_as_any=True)}
