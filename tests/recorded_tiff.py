"""Recorded acquisitions as TIFF files, each made by the reference writer of its kind.

:data:`KINDS` names every kind that can be replayed; the tests and the table in ``docs/replay.md`` are made from it.
"""

from __future__ import annotations

import gc
import json
import uuid
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import tifffile
from ome_types import model

from micromanager_writer import write_stack

Pixels = npt.NDArray[Any]


@dataclass(frozen=True)
class Made:
    """A recorded acquisition on disk.

    Attributes
    ----------
    source : path or list of Path
        What is given to ``open_recording``.
    expected : ndarray
        Its pixels, along :attr:`names`.
    names : tuple of str
        The dimensions, slowest first, with y and x.
    options : dict
        Keyword arguments for ``open_recording``.
    """

    source: Path | str | list[Path]
    expected: Pixels
    names: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Kind:
    """A kind of source.

    Attributes
    ----------
    kind : str
        As ``Recording.kind``.
    variant : str
        How it is stored.
    writer : str
        The library that makes the test's files.
    carries : str
        Which metadata carry over.
    make : callable
        Makes one in a folder.
    """

    kind: str
    variant: str
    writer: str
    carries: str
    make: Callable[[Path], Made]

    def __str__(self) -> str:
        return f"{self.kind}, {self.variant}"


def noise(*shape: int, dtype: str = "uint16", seed: int = 0) -> Pixels:
    """Return pixels that compress badly and differ everywhere."""
    values = np.random.default_rng([seed, *shape])
    if np.dtype(dtype).kind == "f":
        return values.normal(size=shape).astype(dtype)
    limits = np.iinfo(dtype)
    return values.integers(limits.min, limits.max, shape, dtype, endpoint=True)


# ---- OME-TIFF ------------------------------------------------------------------------------------------------------

TCZYX = ("p", "t", "c", "z", "y", "x")

OME_METADATA: dict[str, Any] = {
    "axes": "TCZYX",
    "Name": "embryo",
    "PhysicalSizeX": 0.325,
    "PhysicalSizeXUnit": "µm",
    "PhysicalSizeY": 325.0,
    "PhysicalSizeYUnit": "nm",
    "PhysicalSizeZ": 1.5,
    "PhysicalSizeZUnit": "µm",
    "TimeIncrement": 250.0,
    "TimeIncrementUnit": "ms",
    "Channel": {
        "Name": ["GFP", "mCherry"],
        "Color": [0x00FF00FF, -16776961],
        "ExcitationWavelength": [488.0, 561.0],
        "ExcitationWavelengthUnit": ["nm", "nm"],
        "EmissionWavelength": [509.0, 610.0],
        "EmissionWavelengthUnit": ["nm", "nm"],
        "Fluor": ["EGFP", "mCherry"],
    },
    "Plane": {
        "DeltaT": [float(n) for n in range(12)],
        "DeltaTUnit": ["ms"] * 12,
        "ExposureTime": [0.01] * 12,
        "PositionX": [12.5] * 12,
        "PositionXUnit": ["µm"] * 12,
        "PositionY": [0.25] * 12,
        "PositionYUnit": ["mm"] * 12,
        "PositionZ": [100.0 + n % 3 for n in range(12)],
        "PositionZUnit": ["µm"] * 12,
    },
}


def _ome(variant: dict[str, Any], **metadata: Any) -> Callable[[Path], Made]:
    def make(folder: Path) -> Made:
        pixels = noise(2, 2, 3, 37, 41)
        path = folder / "one.ome.tif"
        tifffile.imwrite(path, pixels, metadata={**OME_METADATA, **metadata}, **variant)
        return Made(path, pixels[None], TCZYX)

    return make


def _ome_pyramid(folder: Path) -> Made:
    pixels = noise(2, 3, 64, 64)
    path = folder / "pyramid.ome.tif"
    with tifffile.TiffWriter(path) as writer:
        options: dict[str, Any] = {"tile": (32, 32), "compression": "zlib"}
        writer.write(pixels, subifds=1, metadata={"axes": "CZYX"}, **options)
        writer.write(pixels[..., ::2, ::2], subfiletype=1, metadata=None, **options)
    return Made(path, pixels[None], ("p", "c", "z", "y", "x"))


def _ome_rgb(folder: Path) -> Made:
    pixels = noise(3, 20, 24, 3, dtype="uint8")
    path = folder / "rgb.ome.tif"
    tifffile.imwrite(path, pixels, photometric="rgb", compression="zlib", metadata={"axes": "ZYXS"})
    return Made(path, np.moveaxis(pixels, -1, 1)[None], ("p", "z", "c", "y", "x"))


def _ome_planar_rgb(folder: Path) -> Made:
    pixels = noise(2, 3, 20, 24, dtype="uint16")
    path = folder / "planar.ome.tif"
    tifffile.imwrite(path, pixels, photometric="rgb", planarconfig="separate", metadata={"axes": "TSYX"})
    return Made(path, pixels[None], ("p", "t", "c", "y", "x"))


def _ome_positions(folder: Path) -> Made:
    pixels = noise(3, 2, 4, 16, 18)
    path = folder / "positions.ome.tif"
    with tifffile.TiffWriter(path) as writer:
        for number, image in enumerate(pixels):
            plane = {"PositionX": [100.0 * number] * 8, "PositionXUnit": ["µm"] * 8}
            writer.write(image, metadata={"axes": "TZYX", "Name": f"field {number}", "Plane": plane})
    return Made(path, pixels, ("p", "t", "z", "y", "x"))


def _image(number: int, shape: tuple[int, ...], blocks: list[model.TiffData], name: str) -> model.Image:
    frames, channels, height, width = shape
    return model.Image(
        id=f"Image:{number}",
        name=name,
        stage_label=model.StageLabel(name=f"{name} stage", x=10.0 * number, x_unit="µm", y=5.0, y_unit="µm"),
        pixels=model.Pixels(
            id=f"Pixels:{number}",
            dimension_order=model.Pixels_DimensionOrder.XYCZT,
            type="uint16",
            size_t=frames,
            size_c=channels,
            size_z=1,
            size_y=height,
            size_x=width,
            physical_size_x=0.5,
            physical_size_y=0.5,
            channels=[model.Channel(id=f"Channel:{number}:{c}", name=f"channel {c}") for c in range(channels)],
            tiff_data_blocks=blocks,
        ),
    )


def _block(file: str, text: str, frame: int, channel: int, ifd: int) -> model.TiffData:
    return model.TiffData(
        ifd=ifd, first_t=frame, first_c=channel, first_z=0, plane_count=1,
        uuid=model.TiffData.UUID(file_name=file, value=text),
    )  # fmt: skip


def _ome_of_files(folder: Path) -> tuple[model.OME, dict[str, Pixels], Pixels]:
    """Return the document of a dataset with a file for each position and time, and the pixels of each file."""
    pixels = noise(2, 3, 2, 21, 19)
    files: dict[str, Pixels] = {}
    images = []
    for position, frames in enumerate(pixels):
        blocks = []
        for frame, planes in enumerate(frames):
            name = f"p{position}_t{frame}.ome.tif"
            files[name] = planes[::-1]  # stored in another order than OME-XML gives them
            text = f"urn:uuid:{uuid.UUID(int=10 * position + frame)}"
            blocks += [_block(name, text, frame, channel, 1 - channel) for channel in range(2)]
        images.append(_image(position, pixels.shape[1:], blocks, f"well {position}"))
    return model.OME(images=images), files, pixels


def _ome_files(folder: Path) -> Made:
    document, files, pixels = _ome_of_files(folder)
    for number, (name, planes) in enumerate(files.items()):
        text = document.model_copy(update={"uuid": f"urn:uuid:{uuid.UUID(int=10 * (number // 3) + number % 3)}"})
        tifffile.imwrite(
            folder / name, planes, photometric="minisblack", metadata=None, description=text.to_xml().encode()
        )
    return Made(folder / "p1_t1.ome.tif", pixels, ("p", "t", "c", "y", "x"))


def _ome_companion(folder: Path) -> Made:
    document, files, pixels = _ome_of_files(folder)
    companion = folder / "run.companion.ome"
    companion.write_text(document.to_xml(), encoding="utf-8")
    there = model.OME.BinaryOnly(metadata_file=companion.name, uuid=f"urn:uuid:{uuid.UUID(int=99)}")
    for number, (name, planes) in enumerate(files.items()):
        pointer = model.OME(uuid=f"urn:uuid:{uuid.UUID(int=10 * (number // 3) + number % 3)}", binary_only=there)
        tifffile.imwrite(
            folder / name, planes, photometric="minisblack", metadata=None, description=pointer.to_xml().encode()
        )
    return Made(companion, pixels, ("p", "t", "c", "y", "x"))


def _ome_plate(folder: Path) -> Made:
    pixels = noise(4, 2, 1, 12, 14)
    name = "plate.ome.tif"
    text = f"urn:uuid:{uuid.UUID(int=5)}"
    images = [
        _image(n, image.shape, [_block(name, text, t, 0, 2 * n + t) for t in range(2)], f"field {n % 2}")
        for n, image in enumerate(pixels)
    ]
    wells = [
        model.Well(
            id=f"Well:{w}",
            row=1,
            column=2 + w,
            well_samples=[
                model.WellSample(id=f"WellSample:{n}", index=n, image_ref=model.ImageRef(id=f"Image:{n}"))
                for n in (2 * w, 2 * w + 1)
            ],
        )
        for w in range(2)
    ]
    plate = model.Plate(
        id="Plate:0", name="assay", rows=2, columns=4, wells=wells,
        row_naming_convention="letter", column_naming_convention="number",
    )  # fmt: skip
    document = model.OME(uuid=text, images=images, plates=[plate])
    tifffile.imwrite(
        folder / name, pixels.reshape(8, 12, 14), photometric="minisblack", metadata=None,
        description=document.to_xml().encode(),
    )  # fmt: skip
    return Made(folder / name, pixels, ("p", "t", "c", "y", "x"))


# ---- Micro-Manager -------------------------------------------------------------------------------------------------

MICROMANAGER_SUMMARY: dict[str, Any] = {
    "Channels": 2,
    "Slices": 3,
    "Frames": 2,
    "Positions": 1,
    "ChNames": ["DAPI", "Cy5"],
    "ChColors": [-16776961, -65536],
    "PixelSize_um": 0.65,
    "z-step_um": 2.0,
    "Interval_ms": 1500.0,
    "Prefix": "run",
    "Note": float("nan"),
}


def _stack_frames(pixels: Pixels, position: int) -> list[tuple[tuple[int, int, int, int], Pixels, dict[str, Any]]]:
    frames = []
    for t, z, c in np.ndindex(*pixels.shape[:3]):
        tags = {
            "FrameIndex": t,
            "SliceIndex": z,
            "ChannelIndex": c,
            "PositionIndex": position,
            "PositionName": f"Pos{position}",
            "ElapsedTime-ms": 1500.0 * t + 10 * z + c,
            "Exposure-ms": 20.0,
            "XPositionUm": 100.0 * position,
            "YPositionUm": -3.5,
            "ZPositionUm": 2.0 * z,
            "Temperature": float("nan"),
        }
        frames.append(((c, z, t, position), pixels[t, z, c], tags))
    return frames


def _stack(index: bool, ome: bool) -> Callable[[Path], Made]:
    def make(folder: Path) -> Made:
        pixels = noise(2, 3, 2, 15, 17)
        path = folder / "run_MMStack_Pos0.ome.tif"
        xml = b""
        if ome:
            xml = b'<?xml version="1.0" encoding="UTF-8"?><OME><Image ID="Image:0"/></OME>'
        write_stack(path, MICROMANAGER_SUMMARY, _stack_frames(pixels, 0), index=index, description=xml)
        return Made(path, pixels[None], ("p", "t", "z", "c", "y", "x"))

    return make


def _stack_files(folder: Path) -> Made:
    pixels = noise(2, 2, 3, 2, 15, 17)
    summary = {**MICROMANAGER_SUMMARY, "Positions": 2}
    for position in range(2):
        frames = _stack_frames(pixels[position], position)
        write_stack(folder / f"run_MMStack_Pos{position}.ome.tif", summary, frames[:7])
        write_stack(folder / f"run_MMStack_Pos{position}_1.ome.tif", summary, frames[7:])
    return Made(folder / "run_MMStack_Pos1.ome.tif", pixels, ("p", "t", "z", "c", "y", "x"))


def _separate_files(folder: Path) -> Made:
    pixels = noise(2, 3, 2, 15, 17)
    known: dict[str, Any] = {"Summary": MICROMANAGER_SUMMARY}
    for (c, z, t, _), plane, tags in _stack_frames(pixels, 0):
        name = f"img_channel{c:03}_position000_time{t:09}_z{z:03}.tif"
        tifffile.imwrite(folder / name, plane, metadata=None)
        known[f"Metadata-Default/{name}"] = tags
    (folder / "metadata.txt").write_text(json.dumps(known), encoding="utf-8")
    return Made(folder, np.moveaxis(pixels, 2, 0), ("c", "t", "z", "y", "x"))


# ---- NDTiff --------------------------------------------------------------------------------------------------------


def _finish(dataset: Any) -> None:
    with warnings.catch_warnings():  # the library leaves closing its file to the garbage collector
        warnings.simplefilter("ignore", ResourceWarning)
        dataset.finish()
        gc.collect()
    dataset.close()


def _ndtiff(folder: Path) -> Made:
    import ndstorage

    pixels = noise(2, 2, 2, 3, 14, 16)
    summary = {"PixelSize_um": 0.1, "z-step_um": 0.5, "Interval_ms": 100.0, "Prefix": "nd"}
    dataset = ndstorage.NDTiffDataset(str(folder / "nd"), summary_metadata=summary, writable=True)
    for p, t, c, z in np.ndindex(2, 2, 2, 3):
        tags = {
            "ElapsedTime-ms": 100.0 * t,
            "Exposure-ms": 5.0,
            "XPositionUm": 50.0 * p,
            "YPositionUm": 1.0,
            "ZPositionUm": 0.5 * z,
            "Laser": float("nan"),
        }
        axes = {"position": p, "time": t, "channel": ("GFP", "RFP")[c], "z": z}
        dataset.put_image(axes, pixels[p, t, c, z], tags)
    _finish(dataset)
    return Made(folder / "nd", pixels, ("p", "t", "c", "z", "y", "x"))


def _ndtiff_other(folder: Path) -> Made:
    import ndstorage

    pixels = noise(3, 2, 14, 16, dtype="uint8")
    dataset = ndstorage.NDTiffDataset(str(folder / "nd"), summary_metadata={}, writable=True)
    for t, angle in np.ndindex(3, 2):
        dataset.put_image({"time": t, "angle": angle}, pixels[t, angle], {})
    _finish(dataset)
    return Made(folder / "nd", pixels, ("t", "angle", "y", "x"))


# ---- ImageJ --------------------------------------------------------------------------------------------------------


def imagej_table(red: int, green: int, blue: int) -> npt.NDArray[np.uint8]:
    """Return a lookup table from black to a colour."""
    ramp = np.arange(256, dtype=np.uint8)[None] / 255
    table: npt.NDArray[np.uint8] = np.round(ramp * np.array([[red], [green], [blue]])).astype(np.uint8)
    return table


def _imagej(folder: Path) -> Made:
    pixels = noise(2, 3, 2, 22, 26)
    path = folder / "hyper.tif"
    metadata = {
        "axes": "TZCYX", "spacing": 0.75, "unit": "um", "finterval": 2.5, "mode": "composite",
        "LUTs": [imagej_table(255, 0, 0), imagej_table(0, 128, 255)], "Ranges": (0.0, 100.0, 5.0, 200.0),
        "Labels": [f"slice {n}" for n in range(12)], "Info": "made by a test",
    }  # fmt: skip
    tifffile.imwrite(path, pixels, imagej=True, resolution=(4.0, 2.0), metadata=metadata)
    return Made(path, pixels, ("t", "z", "c", "y", "x"))


def _imagej_contiguous(folder: Path) -> Made:
    pixels = noise(5, 2, 22, 26)
    path = folder / "large.tif"
    tifffile.imwrite(path, pixels, imagej=True, metadata={"axes": "TCYX", "fps": 4.0})
    with tifffile.TiffFile(path) as file:  # as in stacks of more than 4 GB, only the first page has a directory
        page = file.pages.first
        link, end = page.offset + 2 + 12 * len(page.tags), page.dataoffsets[0] + pixels.nbytes
    with path.open("r+b") as raw:
        raw.truncate(end)
        raw.seek(link)
        raw.write(bytes(4))
    return Made(path, pixels, ("t", "c", "y", "x"))


def _imagej_rgb(folder: Path) -> Made:
    pixels = noise(4, 22, 26, 3, dtype="uint8")
    path = folder / "rgb.tif"
    tifffile.imwrite(path, pixels, imagej=True, metadata={"axes": "TYXS"})
    return Made(path, np.moveaxis(pixels, -1, 1), ("t", "c", "y", "x"))


# ---- plain TIFF and series -----------------------------------------------------------------------------------------


def _pages(
    variant: dict[str, Any], dtype: str = "uint16", byteorder: Literal["<", ">"] = "<"
) -> Callable[[Path], Made]:
    def make(folder: Path) -> Made:
        pixels = noise(5, 33, 29, dtype=dtype)
        path = folder / "pages.tif"
        with tifffile.TiffWriter(path, **{k: v for k, v in variant.items() if k in ("byteorder", "bigtiff")}) as writer:
            for page in pixels:
                options = {k: v for k, v in variant.items() if k not in ("byteorder", "bigtiff")}
                writer.write(
                    page, metadata=None, contiguous=False, resolution=(20000, 10000), resolutionunit=3, **options
                )
        return Made(path, pixels, ("t", "y", "x"))

    return make


def _shaped(folder: Path) -> Made:
    pixels = noise(2, 3, 33, 29, dtype="float32")
    path = folder / "shaped.tif"
    tifffile.imwrite(path, pixels, photometric="minisblack", metadata={"axes": "TZYX"})
    return Made(path, pixels, ("t", "z", "y", "x"))


def _declared(folder: Path) -> Made:
    pixels = noise(6, 33, 29)
    path = folder / "pages.tif"
    tifffile.imwrite(path, pixels, photometric="minisblack", metadata=None)
    return Made(path, pixels.reshape(2, 3, 33, 29), ("t", "z", "y", "x"), {"axes": "tzyx", "shape": (2, 3, 33, 29)})


def _series(folder: Path) -> Made:
    pixels = noise(2, 3, 2, 2, 10, 12)
    for t, z, c, p in np.ndindex(2, 3, 2, 2):
        tifffile.imwrite(folder / f"img_t{t + 1:04}_z{z:03}_c{c}_p{p}.tif", pixels[t, z, c, p], metadata=None)
    return Made(folder, pixels, ("t", "z", "c", "p", "y", "x"))


def _series_pattern(folder: Path) -> Made:
    pixels = noise(12, 10, 12)
    for t, page in enumerate(pixels):
        tifffile.imwrite(folder / f"frame{t}.tif", page, metadata=None)  # frame10 comes after frame9
    return Made(str(folder / "frame*.tif"), pixels, ("t", "y", "x"))


def _series_list(folder: Path) -> Made:
    pixels = noise(3, 4, 10, 12)
    files = [folder / name for name in ("later.tif", "before.tif", "after.tif")]
    for file, stack in zip(files, pixels, strict=True):
        tifffile.imwrite(file, stack, photometric="minisblack", metadata={"axes": "ZYX"})
    return Made(files, pixels, ("t", "z", "y", "x"))


_OME = (
    "pixel sizes, time step, channels (name, colour, wavelengths, dye), stage position, times and exposures of planes"
)
_MM = "pixel size, z step, interval, channels (name, colour), positions, all metadata of the acquisition and of frames"

KINDS: tuple[Kind, ...] = (
    Kind("OME-TIFF", "one file", "tifffile", _OME, _ome({})),
    Kind("OME-TIFF", "BigTIFF, big endian", "tifffile", _OME, _ome({"bigtiff": True, "byteorder": ">"})),
    Kind("OME-TIFF", "several strips per page", "tifffile", _OME, _ome({"rowsperstrip": 10})),
    Kind("OME-TIFF", "tiled", "tifffile", _OME, _ome({"tile": (16, 32)})),
    Kind("OME-TIFF", "deflate", "tifffile", _OME, _ome({"compression": "zlib", "rowsperstrip": 10})),
    Kind("OME-TIFF", "LZW with predictor", "tifffile", _OME, _ome({"compression": "lzw", "predictor": True})),
    Kind(
        "OME-TIFF", "Zstandard, tiled, big endian", "tifffile", _OME,
        _ome({"compression": "zstd", "tile": (32, 16), "byteorder": ">"}),
    ),
    Kind("OME-TIFF", "pyramid", "tifffile", "the largest level", _ome_pyramid),
    Kind("OME-TIFF", "colour", "tifffile", "samples as channels", _ome_rgb),
    Kind("OME-TIFF", "colour, planar", "tifffile", "samples as channels", _ome_planar_rgb),
    Kind("OME-TIFF", "several images", "tifffile", "images as positions: names, stage positions", _ome_positions),
    Kind("OME-TIFF", "several files", "tifffile, ome-types", "as one file", _ome_files),
    Kind("OME-TIFF", "companion file", "tifffile, ome-types", "as one file", _ome_companion),
    Kind("OME-TIFF", "plate", "tifffile, ome-types", "plate, wells and fields", _ome_plate),
    Kind("Micro-Manager image stack", "one file", "as documented", _MM, _stack(True, False)),
    Kind("Micro-Manager image stack", "with OME-XML", "as documented", _MM, _stack(True, True)),
    Kind("Micro-Manager image stack", "without index, after a crash", "as documented", _MM, _stack(False, False)),
    Kind("Micro-Manager image stack", "several positions and files", "as documented", _MM, _stack_files),
    Kind("NDTiff", "time, position, channel, z", "ndstorage", _MM, _ndtiff),
    Kind("NDTiff", "other axes", "ndstorage", "names of axes", _ndtiff_other),
    Kind(
        "ImageJ hyperstack", "one file", "tifffile", "pixel sizes, interval, colours, labels, display ranges", _imagej
    ),
    Kind("ImageJ hyperstack", "more than 4 GB, one directory", "tifffile", "as one file", _imagej_contiguous),
    Kind("ImageJ hyperstack", "colour", "tifffile", "samples as channels", _imagej_rgb),
    Kind("TIFF", "pages", "tifffile", "pixel size, if not per inch", _pages({})),
    Kind("TIFF", "pages, big endian, deflate", "tifffile", "pixel size",
         _pages({"compression": "zlib"}, byteorder=">")),
    Kind("TIFF", "pages, signed", "tifffile", "pixel size", _pages({}, "int8")),
    Kind("TIFF", "pages, floating point, predictor", "tifffile", "pixel size",
         _pages({"compression": "zlib", "predictor": True}, "float64")),
    Kind("TIFF", "pages of declared dimensions", "tifffile", "nothing", _declared),
    Kind("TIFF", "with tifffile's axes", "tifffile", "axes", _shaped),
    Kind("TIFF series", "numbered by names, in a folder", "tifffile", "axes", _series),
    Kind("TIFF series", "a pattern, one number", "tifffile", "nothing", _series_pattern),
    Kind("TIFF series", "a list of stacks", "tifffile", "axes", _series_list),
    Kind("TIFF series", "Micro-Manager separate files", "as documented", _MM, _separate_files),
)  # fmt: skip
