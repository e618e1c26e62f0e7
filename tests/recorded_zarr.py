"""Recorded acquisitions as arrays and OME-Zarr datasets, made by other libraries: what can be replayed."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import numpy.typing as npt
import tensorstore as ts
import zarr
from zarr.codecs import BloscCodec, ZstdCodec

from ome_writers import (
    AcquisitionSettings,
    Channel,
    Dimension,
    Plate,
    Position,
    PositionDimension,
    create_stream,
)

Pixels = npt.NDArray[Any]


@dataclass(frozen=True)
class Made:
    """A source that was made, the pixels that are in it, and the names of their axes."""

    source: Any
    expected: Pixels
    names: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Kind:
    """A kind of source: a row of the table in the documentation.

    ``make`` takes an empty folder. ``carries`` names the metadata that a replay takes over.
    """

    kind: str
    variant: str
    writer: str
    carries: str
    make: Callable[[Path], Made]

    def __str__(self) -> str:
        return f"{self.kind}-{self.variant}-{self.writer}".replace(" ", "_").replace("/", "_")


def noise(*shape: int, dtype: str = "uint16") -> Pixels:
    """Return pixels of which no two frames are alike."""
    pixels = np.random.default_rng(len(shape)).integers(1, 200, shape)
    return pixels.astype(dtype)


# ---- documents, written by hand as the specifications say ------------------------------------------------------------

NAMES_OF_TYPES = {"t": "time", "c": "channel", "z": "space", "y": "space", "x": "space"}
UNITS = {"t": "second", "z": "micrometer", "y": "micrometer", "x": "micrometer"}
SCALES = {"t": 2.5, "c": 1.0, "z": 0.75, "y": 0.325, "x": 0.325}

OMERO = {
    "channels": [
        {"label": "DAPI", "color": "0000FF", "active": True, "window": {"min": 0, "max": 255, "start": 3, "end": 99}},
        {"label": "GFP", "color": "00FF00", "active": True, "window": {"min": 0, "max": 255, "start": 5, "end": 98}},
    ],
    "rdefs": {"model": "color"},
}


def multiscales(axes: str, version: str, *, translation: Sequence[float] | None = None, path: str = "0") -> Any:
    """Return ``multiscales`` of one level."""
    transformations: list[dict[str, Any]] = [{"type": "scale", "scale": [SCALES.get(a, 1.0) for a in axes]}]
    if translation is not None:
        transformations.append({"type": "translation", "translation": list(translation)})
    described = []
    for name in axes:
        axis = {"name": name, "type": NAMES_OF_TYPES.get(name, "other")}
        described.append({**axis, "unit": UNITS[name]} if name in UNITS else axis)
    scales: dict[str, Any] = {
        "axes": described,
        "datasets": [{"path": path, "coordinateTransformations": transformations}],
    }
    return [{**scales, "version": version}] if version == "0.4" else [scales]


def write_group(folder: Path, attributes: Mapping[str, Any], version: str) -> None:
    """Write the documents of a group: Zarr v2 for OME-Zarr 0.4, v3 for 0.5 with OME metadata below ``ome``."""
    folder.mkdir(parents=True, exist_ok=True)
    if version == "0.4":
        (folder / ".zgroup").write_text(json.dumps({"zarr_format": 2}))
        (folder / ".zattrs").write_text(json.dumps(attributes))
        return
    ngff = {"multiscales", "omero", "plate", "well", "series", "bioformats2raw.layout"}
    ome = {"version": "0.5", **{k: v for k, v in attributes.items() if k in ngff}}
    others = {k: v for k, v in attributes.items() if k not in ngff}
    document = {"zarr_format": 3, "node_type": "group", "attributes": {"ome": ome, **others}}
    (folder / "zarr.json").write_text(json.dumps(document))


def write_array(folder: Path, pixels: Pixels, version: str, **how: Any) -> Any:
    """Write an array with zarr-python; by default a chunk is one frame."""
    how = {"chunks": (1,) * (pixels.ndim - 2) + pixels.shape[-2:], "compressors": None, "dtype": pixels.dtype, **how}
    if version == "0.4":
        how = {"chunk_key_encoding": {"name": "v2", "separator": "/"}, **how}
    array = zarr.create_array(folder, shape=pixels.shape, zarr_format=2 if version == "0.4" else 3, **how)
    array[...] = pixels
    return array


def write_image(
    folder: Path, pixels: Pixels, axes: str, version: str, *, translation: Sequence[float] | None = None, **how: Any
) -> None:
    """Write an image, with the channels of :data:`OMERO` if it has two."""
    attributes: dict[str, Any] = {"multiscales": multiscales(axes, version, translation=translation)}
    if "c" in axes and pixels.shape[axes.index("c")] == 2:
        attributes["omero"] = OMERO
    write_group(folder, attributes, version)
    write_array(folder / "0", pixels, version, **how)


def _image(
    version: str, axes: str = "tczyx", shape: Sequence[int] = (3, 2, 4, 10, 14), **how: Any
) -> Callable[[Path], Made]:
    def make(folder: Path) -> Made:
        pixels = noise(*shape, dtype=how.pop("dtype", "uint16"))
        write_image(folder / "image.zarr", pixels, axes, version, **how)
        return Made(folder / "image.zarr", pixels, tuple(axes))

    return make


def _tensorstore(folder: Path) -> Made:
    pixels = noise(5, 2, 12, 20)
    root = folder / "image.ome.zarr"
    write_group(root, {"multiscales": multiscales("tcyx", "0.5"), "omero": OMERO}, "0.5")
    sharding = {
        "chunk_shape": [2, 1, 12, 10],
        "codecs": [
            {"name": "bytes", "configuration": {"endian": "big"}},
            {"name": "zstd", "configuration": {"level": 1}},
        ],
        "index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
        "index_location": "start",
    }
    array = ts.open(
        {
            "driver": "zarr3",
            "kvstore": {"driver": "file", "path": str(root / "0")},
            "create": True,
            "metadata": {
                "shape": list(pixels.shape),
                "data_type": "uint16",
                "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [4, 2, 12, 20]}},
                "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
                "dimension_names": ["t", "c", "y", "x"],
            },
        }
    ).result()
    array[...] = pixels
    return Made(root, pixels, ("t", "c", "y", "x"))


def _acquire(folder: Path) -> Made:
    import acquire_zarr as az

    pixels = noise(4, 2, 3, 16, 32)
    kinds = {"t": az.DimensionType.TIME, "c": az.DimensionType.CHANNEL}
    dimensions = [
        az.Dimension(
            name=name,
            kind=kinds.get(name, az.DimensionType.SPACE),
            array_size_px=size,
            chunk_size_px=1 if name in "tcz" else 16,
            shard_size_chunks=2 if name == "x" else 1,
            **({"unit": UNITS[name], "scale": SCALES[name]} if name in UNITS else {}),
        )
        for name, size in zip("tczyx", pixels.shape, strict=True)
    ]
    settings = az.StreamSettings(
        store_path=str(folder / "run.ome.zarr"),
        overwrite=True,
        arrays=[az.ArraySettings(dimensions=dimensions, data_type=az.DataType.UINT16, is_ngff=True)],
    )
    stream = az.ZarrStream(settings)
    stream.append(pixels)
    stream.close()
    return Made(folder / "run.ome.zarr", pixels, tuple("tczyx"))


def _ome_zarr_py(version: str) -> Callable[[Path], Made]:
    def make(folder: Path) -> Made:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its own and of the libraries that it stands on
            from ome_zarr.format import FormatV04, FormatV05
            from ome_zarr.writer import (
                write_image,
                write_plate_metadata,
                write_well_metadata,
            )

            style: Any = FormatV04() if version == "0.4" else FormatV05()
            pixels = noise(3, 2, 16, 18)
            root = zarr.open_group(folder / "plate.zarr", mode="w", zarr_format=2 if version == "0.4" else 3)
            fields = [("A/1", "0"), ("A/1", "1"), ("B/2", "0")]
            write_plate_metadata(root, ["A", "B"], ["1", "2"], ["A/1", "B/2"], fmt=style, name="screen")
            for well, images in (("A/1", ["0", "1"]), ("B/2", ["0"])):
                write_well_metadata(root.require_group(well), images, fmt=style)
            for (well, image), of_field in zip(fields, pixels, strict=True):
                write_image(
                    of_field,
                    root.require_group(f"{well}/{image}"),
                    axes="cyx",
                    fmt=style,
                    scale={"y": 0.5, "x": 0.5},
                    axes_units={"y": "micrometer", "x": "micrometer"},
                    scale_factors=[2],
                )
        return Made(folder / "plate.zarr", pixels, ("p", "c", "y", "x"))

    return make


STAGE = [(100.5, 20.0, 3.0), (350.25, 20.0, 3.0), (600.0, 45.5, 4.0)]


def ome_xml(names: Sequence[str], shape: Sequence[int]) -> str:
    """Return OME-XML as bioformats2raw writes it beside images of axes t, c, z, y, x."""
    t, c, z, y, x = shape
    images = []
    for number, name in enumerate(names):
        stage = STAGE[number]
        channels = "".join(
            f'<Channel ID="Channel:{number}:{i}" SamplesPerPixel="1" Name="{label}" EmissionWavelength="{wavelength}" '
            f'EmissionWavelengthUnit="nm" Fluor="dye {i}"/>'
            for i, (label, wavelength) in enumerate([("DAPI", 461.0), ("GFP", 509.0)][:c])
        )
        planes = "".join(
            f'<Plane TheT="{i}" TheC="{j}" TheZ="{k}" DeltaT="{i * 1000 + j}" DeltaTUnit="ms" ExposureTime="0.05" '
            f'PositionX="{stage[0]}" PositionXUnit="µm" PositionY="{stage[1]}" PositionYUnit="µm"/>'
            for i in range(t) for j in range(c) for k in range(z)
        )  # fmt: skip
        images.append(
            f'<Image ID="Image:{number}" Name="{name}"><Pixels ID="Pixels:{number}" DimensionOrder="XYZCT" '
            f'Type="uint16" SizeX="{x}" SizeY="{y}" SizeZ="{z}" SizeC="{c}" SizeT="{t}">{channels}<MetadataOnly/>'
            f"{planes}</Pixels></Image>"
        )
    return (
        '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
        f"{''.join(images)}</OME>"
    )


def _collection(version: str, *, described: bool) -> Callable[[Path], Made]:
    def make(folder: Path) -> Made:
        root = folder / "scan.zarr"
        pixels = noise(3, 2, 2, 3, 8, 12)
        write_group(root, {"bioformats2raw.layout": 3, "lab": {"operator": "Ada"}, "note": "second try"}, version)
        names = ["left", "right", "below/it"]
        if described:
            write_group(root / "OME", {"series": ["0", "1", "2"]}, version)
            (root / "OME" / "METADATA.ome.xml").write_text(ome_xml(names, pixels.shape[1:]), encoding="utf-8")
        for number, image in enumerate(pixels):
            x, y, z = STAGE[number]
            moved = None if described else (0.0, 0.0, z, y, x)
            write_image(
                root / str(number), image, "tczyx", version, translation=moved, compressors=_compressor(version)
            )
        return Made(root, pixels, ("p", "t", "c", "z", "y", "x"))

    return make


def _compressor(version: str) -> Any:
    return numcodecs.Blosc(cname="lz4") if version == "0.4" else BloscCodec(cname="lz4")


def _plate(version: str) -> Callable[[Path], Made]:
    def make(folder: Path) -> Made:
        root = folder / "plate.zarr"
        pixels = noise(3, 2, 9, 11)
        plate = {
            "name": "screen 7",
            "rows": [{"name": row} for row in "ABC"],
            "columns": [{"name": str(column)} for column in range(1, 5)],
            "wells": [
                {"path": "A/1", "rowIndex": 0, "columnIndex": 0},
                {"path": "C/4", "rowIndex": 2, "columnIndex": 3},
            ],
            **({"version": "0.4"} if version == "0.4" else {}),
        }
        write_group(root, {"plate": plate}, version)
        fields = {"A/1": ["0", "1"], "C/4": ["0"]}
        images = iter(pixels)
        for well, names in fields.items():
            write_group(root / well, {"well": {"images": [{"path": name} for name in names]}}, version)
            for name in names:
                write_image(root / well / name, next(images), "cyx", version)
        return Made(root, pixels, ("p", "c", "y", "x"))

    return make


def _bare(version: str) -> Callable[[Path], Made]:
    def make(folder: Path) -> Made:
        pixels = noise(3, 4, 9, 8, dtype="int32")
        names = ["t", "z", "y", "x"]
        how = {"attributes": {"_ARRAY_DIMENSIONS": names}} if version == "0.4" else {"dimension_names": names}
        write_array(folder / "array.zarr", pixels, version, **how)
        return Made(folder / "array.zarr", pixels, tuple(names))

    return make


# ---- this package ----------------------------------------------------------------------------------------------------


def acquire(path: Path, dimensions: Sequence[Dimension], skipped: Sequence[int] = (), **settings: Any) -> Pixels:
    """Write an acquisition with this package; return its pixels in acquisition order, skipped frames being 0."""
    declared = AcquisitionSettings(root_path=str(path), dimensions=tuple(dimensions), dtype="uint16", **settings)
    pixels = noise(*(d.count or 4 for d in declared.dimensions))
    frames = pixels.reshape(-1, *pixels.shape[-2:])
    frames[list(skipped)] = 0
    with create_stream(declared) as stream:
        stream.set_global_metadata("lab", {"operator": "Ada"})
        for number, frame in enumerate(frames):
            if number in skipped:
                stream.skip(frames=1)
            else:
                stream.append(frame, frame_metadata={"delta_t": number / 4, "laser": {"power": number}})
    return pixels


FRAME = (
    Dimension(name="y", count=12, scale=0.5, unit="um"),
    Dimension(name="x", count=16, scale=0.5, unit="um"),
)
CHANNELS = Dimension(
    name="c",
    coords=[Channel(name="DAPI", emission_wavelength_nm=461, color="blue"), Channel(name="free", fluorophore="?")],
)


def _own_image(folder: Path) -> Made:
    dimensions = (Dimension(name="t", count=5, scale=2.0, unit="s", chunk_size=2), CHANNELS, *FRAME)
    pixels = acquire(folder / "run.ome.zarr", dimensions, chunking="auto", compression="blosc-lz4")
    return Made(folder / "run.ome.zarr", pixels, tuple("tcyx"))


def _own_collection(folder: Path) -> Made:
    positions = [Position(name="a", x_coord=10.5, y_coord=3, z_coord=1.25), Position(name="b", x_coord=20, y_coord=3)]
    dimensions = (
        Dimension(name="t", count=3),
        PositionDimension(coords=positions),
        Dimension(name="z", count=2, scale=0.3, unit="um", translation=4.0),
        CHANNELS,
        *FRAME,
    )
    pixels = acquire(folder / "run.ome.zarr", dimensions)
    return Made(folder / "run.ome.zarr", pixels, tuple("tpzcyx"))


def _own_plate(folder: Path) -> Made:
    fields = [
        Position(name=f"f{n}", plate_row=row, plate_column=column, x_coord=n * 100.0, y_coord=0.0)
        for row, column in (("A", "1"), ("B", "2"))
        for n in range(2)
    ]
    dimensions = (PositionDimension(coords=fields), CHANNELS, *FRAME)
    plate = Plate(row_names=["A", "B"], column_names=["1", "2", "3"], name="screen")
    pixels = acquire(folder / "run.ome.zarr", dimensions, plate=plate)
    return Made(folder / "run.ome.zarr", pixels, tuple("pcyx"))


# ---- arrays ----------------------------------------------------------------------------------------------------------


def _npy(dtype: str = "uint16", *, fortran: bool = False) -> Callable[[Path], Made]:
    def make(folder: Path) -> Made:
        pixels = noise(3, 2, 9, 11).astype(dtype)
        np.save(folder / "run.npy", np.asfortranarray(pixels) if fortran else pixels)
        return Made(folder / "run.npy", pixels, tuple("tcyx"), {"axes": "tcyx"})

    return make


def _raw(folder: Path) -> Made:
    pixels = noise(3, 2, 9, 11)
    (folder / "run.raw").write_bytes(b"camera header" + pixels.astype(">u2").tobytes())
    return Made(
        folder / "run.raw",
        pixels,
        tuple("tzyx"),
        {"axes": "tzyx", "shape": (3, 2, 9, 11), "dtype": ">u2", "offset": 13},
    )


def _memmap(folder: Path) -> Made:
    pixels = noise(4, 9, 11)
    np.save(folder / "run.npy", pixels)
    return Made(np.load(folder / "run.npy", mmap_mode="r"), pixels, tuple("tyx"))


_SIZES = "axes, pixel sizes, units"
_CHANNELS = f"{_SIZES}, channel names and colours"
_OWN = "all dimensions as declared, channels, records of frames, attributes, frames that are missing"

KINDS: tuple[Kind, ...] = (
    Kind("OME-Zarr 0.4", "image, Blosc", "zarr-python", _CHANNELS, _image("0.4", compressors=numcodecs.Blosc())),
    Kind(
        "OME-Zarr 0.4", "image, zlib, keys with dots", "zarr-python", _CHANNELS,
        _image("0.4", compressors=numcodecs.Zlib(), chunk_key_encoding={"name": "v2", "separator": "."}),
    ),
    Kind("OME-Zarr 0.4", "image, big-endian, Fortran order", "zarr-python", _CHANNELS,
         _image("0.4", dtype=">i2", order="F", chunks=(2, 2, 3, 4, 5))),
    Kind("OME-Zarr 0.4", "image, other order of axes", "zarr-python", _SIZES,
         _image("0.4", "xyzc", (8, 9, 3, 2), dtype="float32", chunks=(8, 4, 2, 1))),
    Kind("OME-Zarr 0.5", "image", "zarr-python", _CHANNELS,
         _image("0.5", compressors=ZstdCodec(), chunks=(2, 1, 4, 5, 7))),
    Kind("OME-Zarr 0.5", "image, sharded", "zarr-python", _CHANNELS,
         _image("0.5", compressors=BloscCodec(), chunks=(1, 1, 2, 10, 7), shards=(2, 2, 4, 10, 14))),
    Kind("OME-Zarr 0.5", "image, sharded, big-endian", "tensorstore", _CHANNELS, _tensorstore),
    Kind("OME-Zarr 0.5", "image, sharded", "acquire-zarr", _SIZES, _acquire),
    Kind("OME-Zarr 0.4", "collection with OME-XML", "zarr-python",
         f"{_CHANNELS}, wavelengths, dyes, names, stage positions, times of frames, attributes",
         _collection("0.4", described=True)),
    Kind("OME-Zarr 0.5", "collection with OME-XML", "zarr-python",
         f"{_CHANNELS}, wavelengths, dyes, names, stage positions, times of frames, attributes",
         _collection("0.5", described=True)),
    Kind("OME-Zarr 0.4", "collection of numbered groups", "zarr-python",
         f"{_CHANNELS}, stage positions, attributes", _collection("0.4", described=False)),
    Kind("OME-Zarr 0.4", "plate", "zarr-python", f"{_CHANNELS}, plate, wells", _plate("0.4")),
    Kind("OME-Zarr 0.5", "plate", "zarr-python", f"{_CHANNELS}, plate, wells", _plate("0.5")),
    Kind("OME-Zarr 0.4", "plate", "ome-zarr-py", f"{_SIZES}, plate, wells", _ome_zarr_py("0.4")),
    Kind("OME-Zarr 0.5", "plate", "ome-zarr-py", f"{_SIZES}, plate, wells", _ome_zarr_py("0.5")),
    Kind("OME-Zarr 0.5", "image", "ome-writers", _OWN, _own_image),
    Kind("OME-Zarr 0.5", "collection", "ome-writers", f"{_OWN}, stage positions", _own_collection),
    Kind("OME-Zarr 0.5", "plate", "ome-writers", f"{_OWN}, plate, wells", _own_plate),
    Kind("Zarr array", "v2, named as xarray does", "zarr-python", "axes", _bare("0.4")),
    Kind("Zarr array", "v3", "zarr-python", "axes", _bare("0.5")),
    Kind("NumPy .npy", "C order", "NumPy", "axes, as given", _npy()),
    Kind("NumPy .npy", "Fortran order", "NumPy", "axes, as given", _npy(fortran=True)),
    Kind("NumPy .npy", "big-endian", "NumPy", "axes, as given", _npy(">f4")),
    Kind("array", "memmap", "NumPy", "axes, as given", _memmap),
    Kind("raw binary", "big-endian, after a header", "NumPy", "axes, as given", _raw),
)  # fmt: skip
