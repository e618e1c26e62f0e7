"""Datasets of Zarr: images by their OME-NGFF metadata, arrays, and how far an acquisition is complete."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ome_writers._dataset import DatasetFolder
from ome_writers._documents import SETTINGS_FILE, Completeness
from ome_writers._lock import check_unlocked
from ome_writers.engine import FATES_FILE, RECORDS_FILE
from ome_writers.errors import DatasetInUseError

from ._arrays import array_info
from ._images import ArrayInfo, AxisInfo, ChannelInfo, ImageInfo
from ._nodes import Nodes, natural, read_nodes
from ._report import DatasetInfo, FramesInfo, PlateInfo

_DEFAULT_AXES: Final = ("t", "c", "z", "y", "x")
"""Of OME-NGFF 0.1 and 0.2, which do not name them."""

_TYPES: Final = {"t": "time", "c": "channel", "z": "space", "y": "space", "x": "space"}
_PIECE: Final = 1 << 20  # bytes

Attributes = Mapping[str, Any]


def describe_dataset(root: Path, *, count_bytes: bool) -> DatasetInfo:
    """Return what a Zarr dataset holds.

    Raises
    ------
    NotADatasetError
        If the document of its root is damaged.
    """
    nodes = read_nodes(root, count_bytes=count_bytes)
    ome = {path: _ome(attributes) for path, attributes in nodes.groups.items()}
    arrays = _arrays(nodes, count_bytes=count_bytes)
    wells = _wells(ome)
    images: list[ImageInfo] = []
    for path in _in_order(ome):
        images += _images(path, ome[path], arrays, wells.get(path), nodes.problems)
    of_images = {level.path for image in images for level in image.levels}
    frames = _frames(root) if "" in nodes.groups and nodes.zarr_format == 3 else None
    return DatasetInfo(
        path=str(root),
        kind=_kind(ome.get("")),
        zarr_format=nodes.zarr_format,
        ngff_version=_version(nodes.groups),
        images=tuple(images),
        arrays=tuple(array for path, array in arrays.items() if path not in of_images),
        plate=_plate(ome.get(""), nodes.problems),
        frames=frames,
        files=nodes.files if count_bytes else None,
        stored_bytes=nodes.nbytes if count_bytes else None,
        problems=tuple(nodes.problems),
    )


def _ome(attributes: Attributes) -> Attributes:
    """Return the OME metadata of a group: under a key of its own since OME-NGFF 0.5, beside others before."""
    ome = attributes.get("ome")
    return ome if isinstance(ome, dict) else attributes


def _kind(root: Attributes | None) -> str:
    if root is None:
        return "array"
    if "plate" in root:
        return "plate"
    if "bioformats2raw.layout" in root:
        return "collection"
    return "image" if "multiscales" in root else "group"


def _version(groups: Mapping[str, Attributes]) -> str | None:
    """Return the version that the first group with metadata of OME-NGFF names: in "ome" since 0.5, inside before."""
    for attributes in groups.values():
        multiscales = attributes.get("multiscales")
        images = multiscales[:1] if isinstance(multiscales, list) else []
        for holder in [attributes.get("ome"), *images, attributes.get("plate"), attributes.get("well")]:
            version = holder.get("version") if isinstance(holder, Mapping) else None
            if isinstance(version, str):
                return version
    return None


def _arrays(nodes: Nodes, *, count_bytes: bool) -> dict[str, ArrayInfo]:
    arrays = {}
    for path, document in nodes.arrays.items():
        try:
            arrays[path] = array_info(path, document, nodes.stored.get(path, 0) if count_bytes else None)
        except ValueError as error:
            nodes.problems.append(f"array {path or '.'}: {error}")
    return arrays


# ---- images ----------------------------------------------------------------------------------------------------------


def _wells(ome: Mapping[str, Attributes]) -> dict[str, str]:
    """Return the well of each field of view, by the paths of their groups."""
    wells = {}
    for path, attributes in ome.items():
        for name in _paths(attributes.get("well"), "images"):
            wells[_join(path, name)] = path
    return wells


def _in_order(ome: Mapping[str, Attributes]) -> list[str]:
    """Return the paths of all groups: those first that the metadata list, in that order."""
    listed: list[str] = []
    for path, attributes in ome.items():
        series = attributes.get("series")
        if isinstance(series, list):  # the paths of a series are those of the group above
            listed += [_join(path, f"../{name}") for name in series if isinstance(name, str)]
    for well in _paths(ome.get("", {}).get("plate"), "wells"):
        listed += [_join(well, name) for name in _paths(ome.get(well, {}).get("well"), "images")]
    return list(dict.fromkeys([*(path for path in listed if path in ome), *sorted(ome, key=natural)]))


def _paths(holder: object, key: str) -> list[str]:
    """Return the paths in a list of objects; none where anything else stands."""
    entries = holder.get(key) if isinstance(holder, Mapping) else None
    found = [entry.get("path") for entry in entries if isinstance(entry, Mapping)] if isinstance(entries, list) else []
    return [path for path in found if isinstance(path, str)]


def _images(
    path: str, ome: Attributes, arrays: Mapping[str, ArrayInfo], well: str | None, problems: list[str]
) -> list[ImageInfo]:
    """Return the images of a group; what can't be understood becomes a problem."""
    if "multiscales" not in ome:
        return []
    try:
        images = [_image(path, multiscale, ome, arrays, well) for multiscale in ome["multiscales"]]
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:  # any JSON may stand there
        problems.append(f"the metadata of image {path or '.'} are damaged: {error!r:.200}")
        return []
    problems += [
        f"array {level.path}, which the image {path or '.'} names, can't be found or read"
        for image in images
        for level in image.levels
        if level.path not in arrays
    ]
    return images


def _image(
    path: str, multiscale: Attributes, ome: Attributes, arrays: Mapping[str, ArrayInfo], well: str | None
) -> ImageInfo:
    datasets = multiscale["datasets"]
    names = [_join(path, str(dataset["path"])) for dataset in datasets]
    unknown = ((), "", None, None, None, None, (), None, None)
    levels = tuple(arrays.get(name) or ArrayInfo(name, *unknown) for name in names)
    shape = levels[0].shape
    axes = _axes(multiscale.get("axes"), len(shape))
    scale, translation = _transformation(datasets[0], multiscale, len(axes))
    offsets = {str(axis["name"]): value for axis, value in zip(axes, translation or [], strict=False) if value}
    return ImageInfo(
        path=path,
        name=str(multiscale.get("name") or path.rpartition("/")[2]),
        axes=tuple(
            AxisInfo(
                name=str(axis["name"]),
                type=_text(axis.get("type")) or _TYPES.get(str(axis["name"])),
                unit=_text(axis.get("unit")),
                size=size,
                scale=None if scale is None else scale[place],
            )
            for place, (axis, size) in enumerate(zip(axes, shape, strict=False))
        ),
        levels=levels,
        channels=_channels(ome.get("omero")),
        well=well,
        translation=offsets,
        label="image-label" in ome or "labels" in path.split("/")[:-1],
    )


def _axes(axes: Any, ndim: int) -> list[dict[str, Any]]:
    """Return axes as OME-NGFF 0.4 and later have them; 0.3 has names only, older ones have none."""
    if axes is None:
        axes = _DEFAULT_AXES[len(_DEFAULT_AXES) - ndim :]
    return [axis if isinstance(axis, dict) else {"name": axis} for axis in axes]


def _transformation(
    dataset: Attributes, multiscale: Attributes, ndim: int
) -> tuple[list[float] | None, list[float] | None]:
    """Return scale and translation of a level: its own, then those of the image (OME-NGFF, "multiscales" metadata)."""
    scale: list[float] | None = None
    translation: list[float] | None = None
    for step in [
        *(dataset.get("coordinateTransformations") or []),
        *(multiscale.get("coordinateTransformations") or []),
    ]:
        if step.get("type") == "scale" and isinstance(step.get("scale"), list):
            factors = [float(value) for value in step["scale"]]
            scale = [a * b for a, b in zip(scale or [1.0] * ndim, factors, strict=True)]
            translation = translation and [a * b for a, b in zip(translation, factors, strict=True)]
        elif step.get("type") == "translation" and isinstance(step.get("translation"), list):
            steps = [float(value) for value in step["translation"]]
            translation = [a + b for a, b in zip(translation or [0.0] * ndim, steps, strict=True)]
    return scale, translation


def _channels(omero: object) -> tuple[ChannelInfo, ...]:
    channels = omero.get("channels") if isinstance(omero, Mapping) else None
    return tuple(
        ChannelInfo(str(channel.get("label") or f"channel {place}"), _text(channel.get("color")))
        for place, channel in enumerate(channels if isinstance(channels, list) else [])
        if isinstance(channel, Mapping)
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _plate(root: Attributes | None, problems: list[str]) -> PlateInfo | None:
    plate = (root or {}).get("plate")
    if plate is None:
        return None
    try:
        return PlateInfo(
            str(plate.get("name") or ""), len(plate["rows"]), len(plate["columns"]), len(plate.get("wells", []))
        )
    except (KeyError, TypeError, AttributeError) as error:  # any JSON may stand there
        problems.append(f"the metadata of the plate are damaged: {error!r:.200}")
        return None


def _join(group: str, member: str) -> str:
    """Return the path below the root of what a group names."""
    path = posixpath.normpath(posixpath.join(group, member))
    return "" if path == "." else path


# ---- the acquisition -------------------------------------------------------------------------------------------------


def _frames(root: Path) -> FramesInfo | None:
    """Return how far the acquisition is complete; None when the dataset does not say so."""
    state = Completeness.read(DatasetFolder(root))
    if state is None:
        return None
    in_use = False
    try:
        check_unlocked(root)
    except DatasetInUseError:
        in_use = True
    noted = _bytes_of(root / FATES_FILE) if not (state.closed or state.recovered) or in_use else 0
    return FramesInfo(
        closed=state.closed,
        recovered=state.recovered,
        in_use=in_use,
        expected=state.frames_expected,
        taken=max(state.frames_taken, noted),  # one byte for each
        written=state.frames_written,
        skipped=state.frames_skipped,
        lost=sum(map(len, state.lost)),
        with_metadata=_lines(root / RECORDS_FILE),
        backend=_backend(root),
    )


def _bytes_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _lines(path: Path) -> int:
    """Return how many complete lines a file has; 0 when it is not there."""
    try:
        with path.open("rb") as file:
            return sum(piece.count(b"\n") for piece in iter(lambda: file.read(_PIECE), b""))
    except OSError:
        return 0


def _backend(root: Path) -> str | None:
    try:
        return str(json.loads((root / SETTINGS_FILE).read_bytes())["backend"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
