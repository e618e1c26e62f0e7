"""The documents of an OME-Zarr dataset: which images it holds, and what they say of their axes.

OME-NGFF 0.4 in Zarr v2, and OME-NGFF 0.5 in Zarr v3.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ome_writers.errors import RecordingError

from ._zarr_documents import Node, entries, mapping, read_node

_NO_USER_ATTRIBUTES: Final = frozenset(
    {
        "ome", "ome_writers", "multiscales", "omero", "plate", "well", "series", "labels", "image-label",
        "bioformats2raw.layout", "_ARRAY_DIMENSIONS",
    }
)  # fmt: skip
OTHER_ATTRIBUTES: Final = "source_attributes"
"""Namespace of attributes that are no mappings."""


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis of an image, as its metadata describe it."""

    name: str
    type: str | None = None
    unit: str | None = None
    scale: float | None = None
    translation: float | None = None


@dataclass(frozen=True, slots=True)
class FoundImage:
    """An image of a dataset.

    Attributes
    ----------
    path : str
        Of its group below the root; ``""`` for the root itself.
    array_path : str
        Of its full-resolution array.
    array : Node
        That array.
    axes : tuple of Axis or None
        In the order of the array; None when nothing names them.
    name : str or None
        That its metadata give it.
    channels : tuple of mapping
        ``omero.channels``.
    own : mapping
        Attributes of this package.
    multiscales : sequence
        As they stand in the document.
    well : tuple of str or None
        Names of the row and the column of its well.
    """

    path: str
    array_path: str
    array: Node
    axes: tuple[Axis, ...] | None
    name: str | None = None
    channels: tuple[Mapping[str, Any], ...] = ()
    own: Mapping[str, Any] = field(default_factory=dict)
    multiscales: Sequence[Any] = ()
    well: tuple[str, str] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Extent of each axis of the array."""
        return tuple(int(n) for n in (self.array.array or {})["shape"])


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """What stands at a path.

    Attributes
    ----------
    root : Node
        The group or array there.
    kind : str
        ``"array"``, ``"arrays"``, ``"image"``, ``"collection"``, ``"well"`` or ``"plate"``.
    images : tuple of FoundImage
        In the order in which the metadata list them.
    plate : mapping or None
        Metadata of the plate.
    """

    root: Node
    kind: str
    images: tuple[FoundImage, ...]
    plate: Mapping[str, Any] | None = None


def read_hierarchy(folder: Path) -> Hierarchy:
    """Return what stands in a folder.

    Raises
    ------
    RecordingError
        If it is no dataset, or documents are missing or damaged; says which.
    """
    root = read_node(folder)
    if root is None:
        raise RecordingError(f"{folder} is no Zarr dataset: there is no zarr.json, .zgroup, .zattrs or .zarray in it")
    if root.array is not None:
        return Hierarchy(root, "array", (_bare_image("", root),))
    ome = root.ome
    if "multiscales" in ome:
        return Hierarchy(root, "image", (_image(folder, "", root),))
    if "plate" in ome:
        plate = mapping(ome["plate"], folder, "plate")
        return Hierarchy(root, "plate", tuple(_plate_images(folder, plate)), plate)
    if "well" in ome:
        return Hierarchy(root, "well", tuple(_well_images(folder, "", root, None)))
    if images := tuple(_collection_images(folder)):
        return Hierarchy(root, "collection", images)
    if arrays := tuple(_bare_image(child.folder.name, child) for child in _children(folder) if child.array is not None):
        return Hierarchy(root, "arrays", arrays)
    raise RecordingError(
        f"{folder}: a Zarr group that holds no image: no multiscales, plate, well or series in its metadata, and no "
        "arrays or images in it. Give the path of an image, of a collection or of a plate"
    )


def image_around(folder: Path) -> Path | None:
    """Return the folder of the image whose full-resolution array is in a folder; None if there is none."""
    node = read_node(folder)
    group = None if node is None or node.array is None else read_node(folder.resolve().parent)
    if group is None or "multiscales" not in group.ome:
        return None
    image = _image(group.folder, "", group)
    return group.folder if image.array.folder.resolve() == folder.resolve() else None


def user_attributes(root: Node) -> dict[str, Mapping[str, Any]]:
    """Return what stands in the attributes of the root besides OME-NGFF; what is no mapping, in one of its own."""
    users = {k: v for k, v in root.attributes.items() if k not in _NO_USER_ATTRIBUTES} if root.array is None else {}
    found: dict[str, Mapping[str, Any]] = {k: v for k, v in users.items() if isinstance(v, Mapping) and k.strip()}
    if others := {k: v for k, v in users.items() if k not in found}:
        found[OTHER_ATTRIBUTES] = {**found.get(OTHER_ATTRIBUTES, {}), **others}
    return found


# ---- which images there are ------------------------------------------------------------------------------------------


def _children(folder: Path) -> Iterator[Node]:
    """Yield groups and arrays in a folder, in the order of the numbers in their names."""
    for child in sorted((c for c in folder.iterdir() if c.is_dir()), key=lambda c: _natural(c.name)):
        if (node := read_node(child)) is not None:
            yield node


def _natural(name: str) -> list[tuple[bool, int, str]]:
    return [
        (not part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in re.split(r"(\d+)", name) if part
    ]


def _collection_images(folder: Path) -> Iterator[FoundImage]:
    """Yield the images of a collection (OME-NGFF 0.5, "bioformats2raw.layout"), by its series or the groups' order."""
    series = series_of(folder)
    if series is None:
        for child in _children(folder):
            if child.array is None and "multiscales" in child.ome:
                yield _image(folder, child.folder.name, child)
        return
    for path in series:
        node = read_node(folder / path)
        if node is None:
            raise RecordingError(f"{folder}: image {path!r}, which OME/ lists in its series, is not there")
        yield _image(folder, path, node)


def series_of(folder: Path) -> list[str] | None:
    """Return the paths of the images that a collection lists, in the order of its OME-XML; None if it lists none."""
    node = read_node(folder / "OME")
    series = None if node is None else node.ome.get("series")
    if series is None:
        return None
    if not isinstance(series, list) or not all(isinstance(path, str) and path for path in series):
        raise RecordingError(f"{folder / 'OME'}: series should be a list of paths, but is {str(series)[:100]!r}")
    return series


def _plate_images(folder: Path, plate: Mapping[str, Any]) -> Iterator[FoundImage]:
    """Yield the fields of the wells of a plate (OME-NGFF 0.5, "plate" and "well" metadata)."""
    rows, columns = plate_names(folder, plate)
    for well in entries(plate.get("wells", []), folder, "wells of the plate"):
        path = str(well.get("path", ""))
        names = path.split("/")
        if len(names) != 2:
            raise RecordingError(f"{folder}: the plate lists a well with path {path!r}; it has to be row/column")
        row, column = well.get("rowIndex"), well.get("columnIndex")
        place = (
            rows[row] if isinstance(row, int) and 0 <= row < len(rows) else names[0],
            columns[column] if isinstance(column, int) and 0 <= column < len(columns) else names[1],
        )
        node = read_node(folder / path)
        if node is None:
            raise RecordingError(f"{folder}: well {path}, which the plate lists, is not there")
        yield from _well_images(folder, path, node, place)


def plate_names(folder: Path, plate: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Return the names of the rows and of the columns of a plate."""
    rows, columns = (
        [str(entry.get("name", "")) for entry in entries(plate.get(what), folder, f"{what} of the plate")]
        for what in ("rows", "columns")
    )
    return rows, columns


def _well_images(folder: Path, path: str, well: Node, place: tuple[str, str] | None) -> Iterator[FoundImage]:
    metadata = mapping(well.ome.get("well"), well.folder, "well")
    for entry in entries(metadata.get("images", []), well.folder, "images of the well"):
        field_path = str(entry.get("path", ""))
        node = read_node(well.folder / field_path) if field_path else None
        if node is None:
            raise RecordingError(f"{folder}: field {field_path!r} of well {path or folder.name} is not there")
        yield _image(folder, f"{path}/{field_path}" if path else field_path, node, place)


# ---- an image --------------------------------------------------------------------------------------------------------


def _bare_image(path: str, node: Node) -> FoundImage:
    """Return an array without OME-NGFF metadata; its axes have the names of Zarr v3 or of xarray, if any."""
    names = (node.array or {}).get("dimension_names") or node.attributes.get("_ARRAY_DIMENSIONS")
    axes = None
    if isinstance(names, list) and names and all(isinstance(name, str) and name for name in names):
        axes = tuple(Axis(name) for name in names)
    return FoundImage(path, path, node, axes)


def _image(root: Path, path: str, group: Node, well: tuple[str, str] | None = None) -> FoundImage:
    folder = group.folder
    multiscales = entries(group.ome.get("multiscales"), folder, "multiscales")
    if group.array is not None or not multiscales:
        raise RecordingError(f"{folder}: image {path!r} has no multiscales in its metadata")
    multiscale = multiscales[0]
    datasets = entries(multiscale.get("datasets"), folder, "datasets of multiscales")
    if not datasets or not isinstance(datasets[0].get("path"), str):
        raise RecordingError(f"{folder}: multiscales name no array; datasets should have a path")
    level = datasets[0]
    array = read_node(folder / level["path"])
    if array is None or array.array is None:
        raise RecordingError(f"{folder}: array {level['path']!r}, which multiscales name, is not there")
    omero = group.ome.get("omero")
    channels = omero.get("channels") if isinstance(omero, Mapping) else None
    own = group.attributes.get("ome_writers")
    return FoundImage(
        path=path,
        array_path=array.folder.relative_to(root).as_posix(),
        array=array,
        axes=_axes(multiscale, level, len(array.array["shape"]), folder),
        name=multiscale["name"] if isinstance(multiscale.get("name"), str) else None,
        channels=tuple(c for c in channels if isinstance(c, Mapping)) if isinstance(channels, list) else (),
        own=own if isinstance(own, Mapping) else {},
        multiscales=multiscales,
        well=well,
    )


def _axes(multiscale: Mapping[str, Any], level: Mapping[str, Any], ndim: int, folder: Path) -> tuple[Axis, ...] | None:
    """Return the axes, with the transformations of the first level, after which those of all levels come.

    OME-NGFF 0.4 and 0.5, "axes" and "multiscales" metadata; the axes of 0.3 are plain names.
    """
    axes = multiscale.get("axes")
    if axes is None:
        return None
    axes = [{"name": axis} if isinstance(axis, str) else axis for axis in axes] if isinstance(axes, list) else axes
    axes = entries(axes, folder, "axes")
    if len(axes) != ndim:
        raise RecordingError(f"{folder}: multiscales name {len(axes)} axes, but the array has {ndim} dimensions")
    scale: list[float | None] = [None] * ndim
    translation: list[float | None] = [None] * ndim
    for place in (level, multiscale):
        given = place.get("coordinateTransformations") or []
        for transformation in entries(given, folder, "coordinateTransformations"):
            _apply(transformation, scale, translation, folder)
    found = []
    for axis, size, first in zip(axes, scale, translation, strict=True):
        name, kind, unit = (axis.get(key) for key in ("name", "type", "unit"))
        if not isinstance(name, str) or not name:
            raise RecordingError(f"{folder}: an axis has no name: {axis!r}")
        found.append(
            Axis(name, kind if isinstance(kind, str) else None, unit if isinstance(unit, str) else None, size, first)
        )
    return tuple(found)


def _apply(
    transformation: Mapping[str, Any], scale: list[float | None], translation: list[float | None], folder: Path
) -> None:
    kind = transformation.get("type")
    if kind not in ("scale", "translation"):
        return
    numbers = transformation.get(kind)
    if not isinstance(numbers, list) or len(numbers) != len(scale):
        raise RecordingError(
            f"{folder}: the {kind} in coordinateTransformations should be {len(scale)} numbers, but is {numbers!r:.100}"
        )
    for place, value in enumerate(numbers):
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise RecordingError(f"{folder}: the {kind} in coordinateTransformations holds {value!r}, no number")
        shift, factor = translation[place], scale[place]
        if kind == "translation":
            translation[place] = (shift or 0.0) + float(value)
        else:
            scale[place] = (1.0 if factor is None else factor) * float(value)
            translation[place] = None if shift is None else shift * float(value)
