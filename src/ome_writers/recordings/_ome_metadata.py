"""OME-XML as dimensions, channels, positions and plates.

The elements are those of the OME data model 2016-06; namespaces are not looked at, so that files of earlier versions,
which name the same things alike, are read too. Planes and the blocks that say where they are (there may be hundreds of
thousands) go to arrays while the document is parsed, so that the document never stands in memory as a whole.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, Final
from xml.etree import ElementTree as ET

import numpy as np
import numpy.typing as npt

from ome_writers.errors import RecordingError
from ome_writers.settings import Channel, Plate, in_base_units, row_label
from ome_writers.settings._units import SPACE_UNITS, TIME_UNITS, canonical_unit

from ._recording import Index
from ._source_names import channels_of
from ._tiff_recording import finite, positive

_UNITS: Final = {
    "Ym": "yottameter", "Zm": "zettameter", "Em": "exameter", "Pm": "petameter", "Tm": "terameter", "Gm": "gigameter",
    "Mm": "megameter", "km": "kilometer", "hm": "hectometer", "dm": "decimeter", "fm": "femtometer", "am": "attometer",
    "in": "inch", "ft": "foot", "yd": "yard", "mi": "mile", "pc": "parsec", "ks": "kilosecond", "ps": "picosecond",
    "fs": "femtosecond", "cs": "centisecond", "ds": "decisecond",
}  # fmt: skip
"""Symbols of the OME data model (UnitsLength, UnitsTime) that :func:`canonical_unit` has no name for."""

_PATHS: Final = {
    "TiffData": ("OME", "Image", "Pixels"), "Plane": ("OME", "Image", "Pixels"), "Image": ("OME",), "Plate": ("OME",),
    "BinaryOnly": ("OME",), "OME": (),
}  # fmt: skip
"""Where elements stand; those of the same name in annotations, which hold any XML, are others."""

_MAX_WELLS: Final = 1024  # along each side of a plate; the largest that are made have 72

_PLANE_KEYS: Final = ("delta_t", "exposure_time", "position_x", "position_y", "position_z")
_PLANE_ATTRIBUTES: Final = ("DeltaT", "ExposureTime", "PositionX", "PositionY", "PositionZ")


@dataclass(slots=True)
class Block:
    """Where planes are, as a TiffData element says; None for what it leaves out."""

    ifd: int | None
    first: tuple[int, int, int]  # t, c, z
    planes: int | None
    file: str | None
    uuid: str | None


@dataclass(slots=True)
class OMEImage:
    """An image of an OME document.

    Attributes
    ----------
    id, name : str
        As in the document; the name may be empty.
    sizes : dict
        Number of steps of t, c, z, y, x; those of c count samples.
    order : str
        Index dimensions, slowest first, such as ``"tcz"``.
    pixel_type : str
        Name of the pixel type as NumPy knows it; empty if the document does not say.
    scales : dict
        (scale, unit) of t, z, y, x, where known.
    channels : list of dict
        Attributes of each channel.
    blocks : list of Block
        Where its planes are.
    planes : ndarray of float, shape (planes, 8)
        t, c, z, then what was recorded about the plane: time (s), exposure (s), position x, y, z (um); NaN: unknown.
    stage : tuple
        Stage position x, y, z in um, None where unknown.
    stage_name : str
        Name of the stage position; may be empty.
    """

    id: str
    name: str
    sizes: dict[str, int] = field(default_factory=dict)
    order: str = "tcz"
    pixel_type: str = ""
    scales: dict[str, tuple[float, str | None]] = field(default_factory=dict)
    channels: list[dict[str, str]] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    planes: npt.NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 8)))
    stage: tuple[float | None, float | None, float | None] = (None, None, None)
    stage_name: str = ""

    @property
    def title(self) -> str:
        """How messages name it."""
        return repr(self.name) if self.name else self.id

    def scale(self, axis: str) -> tuple[float | None, str | None]:
        """Return scale and unit of an axis, Nones where unknown."""
        return self.scales.get(axis, (None, None))


@dataclass(slots=True)
class OMEPlate:
    """A plate that has images.

    Attributes
    ----------
    plate : Plate
        Its rows and columns.
    wells : dict
        {image ID: (row name, column name)}.
    """

    plate: Plate
    wells: dict[str, tuple[str, str]]


@dataclass(slots=True)
class OMEDocument:
    """What an OME document says.

    Attributes
    ----------
    uuid : str or None
        Of the file that holds it.
    metadata_file : str or None
        Name of the file that holds the document, if this one only points to it.
    images : list of OMEImage
        All images.
    plates : list of OMEPlate
        Those that images are fields of.
    """

    uuid: str | None = None
    metadata_file: str | None = None
    images: list[OMEImage] = field(default_factory=list)
    plates: list[OMEPlate] = field(default_factory=list)


def parse_ome_xml(text: bytes, source: str) -> OMEDocument:
    """Return what an OME document says.

    Raises
    ------
    RecordingError
        If it is none.
    """
    document = OMEDocument()
    path: list[str] = []
    open_elements: list[ET.Element] = []
    blocks: list[Block] = []
    numbers = array("d")
    try:
        for event, element in ET.iterparse(BytesIO(text), events=("start", "end")):  # noqa: S314  expat limits expansion
            if event == "start":
                open_elements.append(element)
                path.append(_local(element))
                continue
            open_elements.pop()
            name = path.pop()
            if _PATHS.get(name, ()) != tuple(path) and name != "StructuredAnnotations":
                continue
            if name == "TiffData":
                blocks.append(_block(element))
            elif name == "Plane":
                numbers.extend(_plane_numbers(element))
            elif name == "Image":
                document.images.append(_image(element, blocks, numbers))
                blocks, numbers = [], array("d")
            elif name == "Plate":
                document.plates += _plates(element)
            elif name == "BinaryOnly":
                document.metadata_file = element.get("MetadataFile")
            elif name == "OME":
                document.uuid = element.get("UUID")
            if name in ("TiffData", "Plane", "StructuredAnnotations") and open_elements:
                open_elements[-1].remove(element)
    except (ET.ParseError, ValueError, TypeError, LookupError) as error:
        raise RecordingError(f"{source}: its OME-XML can't be read: {error}") from error
    return document


def _local(element: ET.Element) -> str:
    return element.tag.rpartition("}")[2]


def _all(element: ET.Element, name: str) -> Iterator[ET.Element]:
    return (child for child in element if _local(child) == name)


def _number(element: ET.Element, name: str) -> int:
    """Return an attribute that counts something, a NonNegativeInt of the data model; 0 by default."""
    number = int(element.get(name, 0))
    if number < 0:
        raise ValueError(f"{_local(element)} has {name}={number}, which can't be less than 0")
    return number


def _given_number(element: ET.Element, name: str) -> int | None:
    return None if element.get(name) is None else _number(element, name)


def _block(element: ET.Element) -> Block:
    uuid = next(_all(element, "UUID"), None)
    return Block(
        ifd=_given_number(element, "IFD"),
        first=(_number(element, "FirstT"), _number(element, "FirstC"), _number(element, "FirstZ")),
        planes=_given_number(element, "PlaneCount" if "PlaneCount" in element.attrib else "NumPlanes"),
        file=None if uuid is None else uuid.get("FileName"),
        uuid=None if uuid is None else (uuid.text or "").strip(),
    )


def _plane_numbers(element: ET.Element) -> list[float]:
    found = [float(element.get(name, 0)) for name in ("TheT", "TheC", "TheZ")]
    for name in _PLANE_ATTRIBUTES:
        value, base = finite(element.get(name)), 1.0
        if value is not None:
            time = name in ("DeltaT", "ExposureTime")
            # the data model's default for positions is a frame of reference whose unit nobody knows
            unit = unit_name(element.get(f"{name}Unit", "s" if time else "reference frame"))
            base = factor_to(unit, "second" if time else "micrometer") or math.nan
        found.append(math.nan if value is None else value * base)
    return found


def _image(element: ET.Element, blocks: list[Block], numbers: array[float]) -> OMEImage:
    image = OMEImage(element.get("ID", ""), element.get("Name", "").strip())
    image.blocks = blocks
    image.planes = np.array(numbers).reshape(-1, 3 + len(_PLANE_KEYS))
    pixels = next(_all(element, "Pixels"), None)
    if pixels is None:
        raise ValueError(f"image {image.title} has no pixels")
    image.sizes = {axis: int(pixels.get(f"Size{axis.upper()}", 0)) for axis in "tczyx"}
    if min(image.sizes.values()) < 1:
        raise ValueError(f"image {image.title} has sizes {image.sizes}")
    order = pixels.get("DimensionOrder", "XYZCT").lower()
    if sorted(order) != sorted("xyzct") or order[:2] != "xy":
        raise ValueError(f"image {image.title} has DimensionOrder {order.upper()}")
    image.order = order[:1:-1]
    told = pixels.get("Type", pixels.get("PixelType", "")).lower()
    image.pixel_type = {"float": "float32", "double": "float64"}.get(told, told)
    for axis, attribute, default in (
        ("t", "TimeIncrement", "s"), ("z", "PhysicalSizeZ", "µm"), ("y", "PhysicalSizeY", "µm"),
        ("x", "PhysicalSizeX", "µm"),
    ):  # fmt: skip
        if (scale := positive(pixels.get(attribute))) is not None:
            image.scales[axis] = _scaled(scale, pixels.get(f"{attribute}Unit", default), time=axis == "t")
    image.channels = [dict(channel.attrib) for channel in _all(pixels, "Channel")]
    _read_stage(element, image)
    return image


def _scaled(scale: float, symbol: str, *, time: bool) -> tuple[float, str | None]:
    if symbol == "thou":  # a thousandth of an inch, which OME-NGFF has no name for
        return scale * 25.4, "micrometer"
    unit = unit_name(symbol)
    return scale, unit if unit in (TIME_UNITS if time else SPACE_UNITS) else None


def unit_name(symbol: str) -> str:
    """Return the name of a unit that OME-XML writes as a symbol; the symbol if there is none."""
    return _UNITS.get(symbol) or canonical_unit(symbol)


def factor_to(unit: str, wanted: str) -> float | None:
    """Return by what numbers of a unit are multiplied to be of another; None if they can't be."""
    if unit not in (TIME_UNITS if wanted in TIME_UNITS else SPACE_UNITS):
        return None
    return float(f"{in_base_units(unit) / in_base_units(wanted):.15g}")


def _read_stage(element: ET.Element, image: OMEImage) -> None:
    """Find where the stage was: at the first plane that says so, else at the stage's label."""
    found: list[float | None] = [None, None, None]
    if len(image.planes):
        first = np.lexsort((image.planes[:, 1], image.planes[:, 2], image.planes[:, 0]))[0]
        found = [finite(value) if not math.isnan(value) else None for value in image.planes[first, 5:].tolist()]
    for stage in _all(element, "StageLabel"):
        image.stage_name = stage.get("Name", "").strip()
        for place, axis in enumerate("XYZ"):
            value = finite(stage.get(axis))
            factor = factor_to(unit_name(stage.get(f"{axis}Unit", "reference frame")), "micrometer")
            if found[place] is None and value is not None and factor is not None:
                found[place] = value * factor
    image.stage = found[0], found[1], found[2]


def channels_along(image: OMEImage, count: int) -> list[Channel] | None:
    """Return the channels of an image, None if nothing is known of them."""
    given = (image.channels + [{}] * count)[:count]
    if not any(set(c) - {"ID", "SamplesPerPixel"} for c in given):
        return None
    return channels_of(
        [c.get("Name") for c in given],
        [
            {
                "excitation_wavelength_nm": _wavelength(c, "Excitation"),
                "emission_wavelength_nm": _wavelength(c, "Emission"),
                "fluorophore": c.get("Fluor") or None,
                "color": _color(c.get("Color")),
            }
            for c in given
        ],
    )


def _wavelength(channel: Mapping[str, str], kind: str) -> float | None:
    value = positive(channel.get(f"{kind}Wavelength"))
    factor = factor_to(unit_name(channel.get(f"{kind}WavelengthUnit", "nm")), "nanometer")
    return None if value is None or factor is None else float(f"{value * factor:.12g}")


def _color(text: str | None) -> str | None:
    """Return the colour of an OME document, a signed 32 bit RGBA number."""
    try:
        return None if text is None else f"#{(int(text) >> 8) & 0xFFFFFF:06x}"
    except ValueError:
        return None


def _plates(element: ET.Element) -> Iterator[OMEPlate]:
    """Return a plate and the wells of images; none if it has no images, so that it says nothing about a recording.

    Raises
    ------
    ValueError
        If the numbers of rows and columns make no sense, or an image lies in several wells.
    """
    fields = [
        (_number(well, "Row"), _number(well, "Column"), ref.get("ID", ""))
        for well in _all(element, "Well")
        for sample in _all(well, "WellSample")
        for ref in _all(sample, "ImageRef")
    ]
    if not fields:
        return
    title = element.get("Name") or element.get("ID", "")
    rows = max(_number(element, "Rows"), 1 + max(row for row, _, _ in fields))
    columns = max(_number(element, "Columns"), 1 + max(column for _, column, _ in fields))
    if max(rows, columns) > _MAX_WELLS:
        raise ValueError(f"plate {title} has {rows} rows and {columns} columns")
    row_names = _plate_names(rows, element.get("RowNamingConvention", "letter"))
    column_names = _plate_names(columns, element.get("ColumnNamingConvention", "number"))
    wells: dict[str, tuple[str, str]] = {}
    for row, column, image in fields:
        well = row_names[row], column_names[column]
        if wells.setdefault(image, well) != well:
            raise ValueError(f"{image} lies in the wells {''.join(wells[image])} and {''.join(well)} of plate {title}")
    yield OMEPlate(Plate(row_names=row_names, column_names=column_names, name=element.get("Name") or None), wells)


def _plate_names(count: int, convention: str) -> list[str]:
    return [row_label(n) if convention == "letter" else str(n + 1) for n in range(count)]


class OMEPlanes:
    """What OME-XML says about planes.

    Parameters
    ----------
    images : list of OMEImage
        Along the slowest dimension, if that is of positions; else one.
    axes : list of str
        Index dimensions.
    samples : int
        Samples per channel; they follow each other along c.
    """

    def __init__(self, images: list[OMEImage], axes: list[str], samples: int) -> None:
        self._axes = axes
        self._samples = samples
        self._numbers = [image.planes[:, 3:] for image in images]
        self._rows = []
        for image in images:
            sizes = [image.sizes["t"], max(1, image.sizes["c"]), image.sizes["z"]]
            rows = np.full(sizes, -1, np.int32)
            places = image.planes[:, :3].astype(np.int64)
            inside = ((places >= 0) & (places < sizes)).all(axis=1)
            rows[tuple(places[inside].T)] = np.flatnonzero(inside)
            self._rows.append(rows)

    def of(self, index: Index) -> Mapping[str, Any] | None:
        """Return what was recorded about a frame."""
        steps = dict(zip(self._axes, index, strict=True))
        image = steps.get("p", 0)
        row = self._rows[image][steps.get("t", 0), steps.get("c", 0) // self._samples, steps.get("z", 0)]
        if row < 0:
            return None
        values = zip(_PLANE_KEYS, self._numbers[image][row].tolist(), strict=True)
        return {key: value for key, value in values if not math.isnan(value)} or None
