"""TIFF files that say one thing and hold another, and pages that differ from the first one."""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile

from ome_writers import open_recording
from ome_writers.errors import RecordingError
from ome_writers.recordings import Recording
from recorded_tiff import KINDS, Made, noise

Pixels = npt.NDArray[Any]


def make(name: str, folder: Path) -> Made:
    return next(kind for kind in KINDS if str(kind) == name).make(folder)


def read_all(recording: Recording) -> Pixels:
    pixels = np.zeros((*recording.index_shape, *recording.frame_shape), recording.dtype)
    for index in np.ndindex(recording.index_shape):
        recording.read(index, pixels[index])
    return pixels


def spacing(recording: Recording) -> dict[str, tuple[float | None, str | None]]:
    return {d.name: (d.scale, d.unit) for d in recording.dimensions if d.scale is not None}


def positions(recording: Recording) -> Sequence[Any]:
    return next(d.coords or [] for d in recording.dimensions if d.name == "p")


def write_pages(path: Path, pages: Sequence[tuple[dict[int, int | bytes], bytes]]) -> None:
    """Write a little-endian TIFF file of one strip per page, given tags and the strip of each."""
    with path.open("wb") as file:
        file.write(struct.pack("<2sHI", b"II", 42, 8))
        for number, (tags, strip) in enumerate(pages):
            tags = {259: 1, 262: 1, 277: 1, 279: len(strip), **tags}
            start = file.tell()
            place = start + 2 + 12 * (len(tags) + 1) + 4
            values = b"".join(value for value in tags.values() if isinstance(value, bytes))
            data = place + len(values)
            tags[273] = data
            file.write(struct.pack("<H", len(tags)))
            for tag, value in sorted(tags.items()):
                if isinstance(value, bytes):
                    file.write(struct.pack("<HHII", tag, 7, len(value), place))
                    place += len(value)
                else:
                    file.write(struct.pack("<HHII", tag, 4, 1, value))
            last = number == len(pages) - 1
            file.write(struct.pack("<I", 0 if last else data + len(strip)))
            file.write(values + strip)


def ome(body: str, attributes: str = "") -> str:
    return (
        '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
        f"{attributes}>{body}</OME>"
    )


def image(number: int, blocks: str, *, frames: int = 2, pixels: str = 'Type="uint16" SizeX="9" SizeY="8"') -> str:
    return (
        f'<Image ID="Image:{number}" Name="i{number}"><Pixels ID="Pixels:{number}" DimensionOrder="XYZCT" {pixels} '
        f'SizeZ="1" SizeC="1" SizeT="{frames}">{blocks}</Pixels></Image>'
    )


def write_ome(path: Path, pixels: Pixels, text: str) -> Path:
    tifffile.imwrite(path, pixels, photometric="minisblack", metadata=None, description=text.encode())
    return path


# ---- how pages store their pixels ----------------------------------------------------------------------------------


def jpeg_page(pixels: Pixels, level: int) -> tuple[dict[int, int | bytes], bytes]:
    """Return a page whose quantization and Huffman tables are in the tag JPEGTables (TIFF Technical Note 2)."""
    import imagecodecs

    stream = imagecodecs.jpeg8_encode(pixels, level=level)
    place, tables, rest = 2, b"", b""
    while stream[place + 1] != 0xDA:  # the scan, which ends the header
        end = place + 2 + struct.unpack(">H", stream[place + 2 : place + 4])[0]
        if stream[place + 1] in (0xDB, 0xC4):
            tables += stream[place:end]
        else:
            rest += stream[place:end]
        place = end
    height, width = pixels.shape
    tags: dict[int, int | bytes] = {
        256: width, 257: height, 258: 8, 259: 7, 278: height, 347: b"\xff\xd8" + tables + b"\xff\xd9",
    }  # fmt: skip
    return tags, b"\xff\xd8" + rest + stream[place:]


def test_jpeg_tables_of_each_page(tmp_path: Path) -> None:
    """Pages of one layout with different JPEG tables are decoded with their own, not with those of the first."""
    y, x = np.mgrid[:32, :40]
    pages = [((np.sin(x / 5 + n) * np.cos(y / 7) + 1) * 127).astype(np.uint8) for n in range(2)]
    path = tmp_path / "jpeg.tif"
    write_pages(path, [jpeg_page(page, level) for page, level in zip(pages, (95, 30), strict=True)])
    wanted = np.stack([tifffile.imread(path, key=n) for n in range(2)])
    assert all(np.abs(wanted[n].astype(int) - page).max() < 30 for n, page in enumerate(pages))
    with open_recording(path) as recording:
        np.testing.assert_array_equal(read_all(recording), wanted)


def test_order_of_bits(tmp_path: Path) -> None:
    """Pixels whose bits are stored in the other order (FillOrder 2) are turned round."""
    pixels = noise(2, 8, 9, dtype="uint8")
    stored = np.packbits(np.unpackbits(pixels), bitorder="little").reshape(pixels.shape)
    tags: dict[int, int | bytes] = {256: 9, 257: 8, 258: 8, 266: 2, 278: 8}
    write_pages(tmp_path / "bits.tif", [(tags, page.tobytes()) for page in stored])
    with open_recording(tmp_path / "bits.tif") as recording:
        np.testing.assert_array_equal(read_all(recording), pixels)


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}])
@pytest.mark.parametrize("samples", [(4, 3), (3, 4), (1, 3)], ids=str)
def test_samples_of_the_chosen_image(samples: tuple[int, int], options: dict[str, Any], tmp_path: Path) -> None:
    """A chosen image has its own number of samples, whatever the images before it have."""
    path = tmp_path / "mixed.ome.tif"
    images = [noise(2, 8, 9, *([n] if n > 1 else []), dtype="uint8") for n in samples]
    with tifffile.TiffWriter(path) as writer:
        for n, pixels in zip(samples, images, strict=True):
            writer.write(
                pixels,
                metadata={"axes": "ZYXS"[: pixels.ndim]},
                photometric="rgb" if n > 1 else "minisblack",
                extrasamples=["unassalpha"] if n == 4 else None,
                **options,
            )
    with open_recording(path, image=1) as recording:
        np.testing.assert_array_equal(read_all(recording)[0], np.moveaxis(images[1], -1, 1))


@pytest.mark.parametrize("count", [3, 4])
@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}])
def test_stack_stored_as_planes_of_one_page(count: int, options: dict[str, Any], tmp_path: Path) -> None:
    """A stack that tifffile stored as the planes of a colour image is what its axes say: frames in time."""
    pixels = noise(count, 16, 18)
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, pixels, photometric="rgb", planarconfig="separate", metadata={"axes": "TYX"}, **options)
    with tifffile.TiffFile(path) as file:
        assert (len(file.pages), file.series[0].axes) == (1, "TYX")
    with open_recording(path) as recording:
        assert [(d.name, d.count) for d in recording.dimensions] == [("t", count), ("y", 16), ("x", 18)]
        np.testing.assert_array_equal(read_all(recording), pixels)


def test_axes_that_are_not_those_of_pages(tmp_path: Path) -> None:
    """A description whose frames are not the pages is an error, not frames of another shape."""
    path = tmp_path / "shaped.tif"
    tifffile.imwrite(path, noise(5, 16, 3), photometric="rgb", metadata={"axes": "TYX"})
    with pytest.raises(RecordingError, match=r"axes TYX have 5 images of 16 x 3, but there are 1 of 5 x 16"):
        open_recording(path)


@pytest.mark.parametrize("tag", ["StripByteCounts", "TileByteCounts"])
def test_part_without_bytes(tag: str, tmp_path: Path) -> None:
    """A strip without bytes, or a tile that has a place and no bytes, is damage; it is not read as zeros."""
    path = tmp_path / "part.tif"
    options: dict[str, Any] = {"rowsperstrip": 16} if tag.startswith("Strip") else {"tile": (16, 16)}
    tifffile.imwrite(path, noise(32, 16), compression="zlib", metadata=None, **options)
    with tifffile.TiffFile(path) as file:
        entry = file.pages.first.tags[tag]
        width = {3: "<H", 4: "<I"}[int(entry.dtype)]
        place = entry.valueoffset + struct.calcsize(width)
    with path.open("r+b") as raw:
        raw.seek(place)
        raw.write(bytes(struct.calcsize(width)))
    with pytest.raises(RecordingError, match="part 1 of the pixels of page 0 has no bytes"):
        open_recording(path)


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}])
def test_close_while_samples_are_read(options: dict[str, Any], tmp_path: Path) -> None:
    """A recording that is closed while a colour image is read ends that reading, or fails it with its own error."""
    pixels = noise(2, 8, 9, 3, dtype="uint8")
    tifffile.imwrite(tmp_path / "rgb.tif", pixels, photometric="rgb", metadata=None, **options)
    recording: Any = open_recording(tmp_path / "rgb.tif")
    for name in ("read_into", "read_bytes"):
        inner = getattr(recording.pixels.files, name)

        def read(*arguments: Any, inner: Any = inner) -> Any:
            found = inner(*arguments)
            recording.close()
            return found

        setattr(recording.pixels.files, name, read)
    out = np.empty(recording.frame_shape, recording.dtype)
    recording.read((0, 1), out)
    np.testing.assert_array_equal(out, pixels[0, :, :, 1])
    with pytest.raises(RecordingError, match="closed"):
        recording.read((1, 1), out)


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}])
def test_working_directory_that_changes(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recording opened by a relative path reads its own file when the process has gone to another folder."""
    for n, folder in enumerate(("here", "there")):
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / "one.tif"
        tifffile.imwrite(path, noise(5, 8, 9, seed=n), photometric="minisblack", metadata=None, **options)
    monkeypatch.chdir(tmp_path / "here")
    with open_recording("one.tif") as recording:
        assert recording.name == "one.tif"
        monkeypatch.chdir(tmp_path / "there")
        np.testing.assert_array_equal(read_all(recording), tifffile.imread(tmp_path / "here" / "one.tif"))


# ---- OME-XML and the files it speaks of ----------------------------------------------------------------------------


@pytest.mark.parametrize("block", ["", "<TiffData/>"])
def test_images_that_do_not_say_where_they_are(block: str, tmp_path: Path) -> None:
    """Several images in a file that do not say at which page they begin are refused, not all read from the first."""
    path = write_ome(tmp_path / "two.ome.tif", noise(4, 8, 9), ome(image(0, block) + image(1, block)))
    for chosen in (None, 1):
        with pytest.raises(RecordingError, match=r"does not say at which pages of two\.ome\.tif"):
            open_recording(path, image=chosen)


@pytest.mark.parametrize("name", ["OME-TIFF, several files", "OME-TIFF, companion file"])
def test_files_that_were_swapped(name: str, tmp_path: Path) -> None:
    """Files whose names were swapped are found out by their UUIDs; their planes are not read as each other's."""
    made = make(name, tmp_path)
    first, second = tmp_path / "p0_t0.ome.tif", tmp_path / "p0_t1.ome.tif"
    first.rename(tmp_path / "kept")
    second.rename(first)
    (tmp_path / "kept").rename(second)
    with pytest.raises(RecordingError, match=r"p0_t0\.ome\.tif: OME-XML of .* means the file .*0000 by this name"):
        open_recording(made.source)


def test_uuid_of_a_file_without_its_name(tmp_path: Path) -> None:
    """Planes in a file of another UUID are not read from the file that speaks of them."""
    block = "<TiffData IFD='0' PlaneCount='2'><UUID>urn:uuid:1</UUID></TiffData>"
    path = write_ome(tmp_path / "one.ome.tif", noise(2, 8, 9), ome(image(0, block), "UUID='urn:uuid:2'"))
    with pytest.raises(RecordingError, match="in the file urn:uuid:1, and not what it is called"):
        open_recording(path)


def test_files_of_one_name_in_several_folders(tmp_path: Path) -> None:
    """Files of one name in several folders stay several, and if the folders are gone, that is an error."""
    pixels = noise(4, 8, 9)
    blocks = ""
    for n in range(2):
        (tmp_path / f"p{n}").mkdir()
        tifffile.imwrite(tmp_path / f"p{n}" / "x.tif", pixels[2 * n : 2 * n + 2], metadata=None)
        blocks += f"<TiffData IFD='0' FirstT='{2 * n}' PlaneCount='2'><UUID FileName='p{n}/x.tif'/></TiffData>"
    companion = tmp_path / "run.companion.ome"
    companion.write_text(ome(image(0, blocks, frames=4)), encoding="utf-8")
    with open_recording(companion) as recording:
        np.testing.assert_array_equal(read_all(recording)[0], pixels)
    (tmp_path / "p0" / "x.tif").rename(tmp_path / "x.tif")
    (tmp_path / "p1" / "x.tif").unlink()
    with pytest.raises(RecordingError, match=r"p0/x\.tif and p1/x\.tif, and both would be x\.tif"):
        open_recording(companion)


def test_single_file_that_was_renamed(tmp_path: Path) -> None:
    """An OME-TIFF of one file is read by any name, also if the name in it has no UUID."""
    pixels = noise(2, 8, 9)
    block = "<TiffData IFD='0' PlaneCount='2'><UUID FileName='before.ome.tif'/></TiffData>"
    path = write_ome(tmp_path / "after.ome.tif", pixels, ome(image(0, block), "UUID='urn:uuid:2'"))
    with open_recording(path) as recording:
        np.testing.assert_array_equal(read_all(recording)[0], pixels)
    block = block.replace("/></", ">urn:uuid:3</UUID></")
    write_ome(path, pixels, ome(image(0, block), "UUID='urn:uuid:2'"))
    with pytest.raises(RecordingError, match=r"before\.ome\.tif is missing"):
        open_recording(path)


@pytest.mark.parametrize(
    ("told", "instead", "message"),
    [
        ('IFD="0"', 'IFD="-1"', "TiffData has IFD=-1"),
        ('FirstT="0"', 'FirstT="-1"', "TiffData has FirstT=-1"),
        ('PlaneCount="2"', 'PlaneCount="-2"', "TiffData has PlaneCount=-2"),
        ('SizeT="2"', 'SizeT="-2"', "has sizes"),
        ('Row="0"', 'Row="-1"', "Well has Row=-1"),
        ('Column="0"', 'Column="-1"', "Well has Column=-1"),
        ('Rows="1"', 'Rows="200000"', "has 200000 rows"),
    ],
)
@pytest.mark.parametrize("companion", [False, True])
def test_numbers_that_count_nothing(told: str, instead: str, message: str, companion: bool, tmp_path: Path) -> None:
    """Numbers of OME-XML below zero, or larger than any plate, are errors of the recording that name what has them."""
    uuid = '<UUID FileName="one.ome.tif">urn:uuid:1</UUID>'
    text = ome(
        image(0, f'<TiffData IFD="0" FirstT="0" PlaneCount="2">{uuid}</TiffData>')
        + '<Plate ID="Plate:0" Rows="1" Columns="1"><Well ID="Well:0" Row="0" Column="0"><WellSample ID="WellSample:0">'
        '<ImageRef ID="Image:0"/></WellSample></Well></Plate>',
        'UUID="urn:uuid:1"',
    )
    assert told in text
    path = write_ome(tmp_path / "one.ome.tif", noise(2, 8, 9), text)
    open_recording(path).close()
    text = text.replace(told, instead)
    if companion:
        path = tmp_path / "run.companion.ome"
        path.write_text(text, encoding="utf-8")
    else:
        write_ome(path, noise(2, 8, 9), text)
    with pytest.raises(RecordingError, match=re.escape(path.name) + f".*{message}"):
        open_recording(path)


@pytest.mark.parametrize(
    ("told", "wanted"),
    [
        ('Type="uint16" SizeX="90" SizeY="8"', "8 x 90 uint16"),
        ('Type="uint16" SizeX="9" SizeY="80"', "80 x 9 uint16"),
        ('Type="float" SizeX="9" SizeY="8"', "8 x 9 float32"),
    ],
)
def test_pixels_that_are_not_what_ome_xml_says(told: str, wanted: str, tmp_path: Path) -> None:
    """Pages of another shape or type than OME-XML says are an error that names both."""
    path = write_ome(tmp_path / "one.ome.tif", noise(2, 8, 9), ome(image(0, "<TiffData/>", pixels=told)))
    with pytest.raises(RecordingError, match=f"image 'i0' is {wanted}, and page 0 is 8 x 9 uint16"):
        open_recording(path)


def test_elements_within_annotations(tmp_path: Path) -> None:
    """What stands in annotations is no image, plane or plate of the recording, whatever it is called."""
    inner = (
        "<Image ID='Image:9'/><TiffData IFD='x'/><Plane/><BinaryOnly MetadataFile='none.companion.ome'/>"
        "<Plate><Well Row='x'/></Plate><OME UUID='urn:uuid:9'><Image/></OME>"
    )
    annotation = f"<StructuredAnnotations><XMLAnnotation ID='A'><Value>{inner}</Value></XMLAnnotation>"
    pixels = noise(2, 8, 9)
    text = ome(f"{annotation}</StructuredAnnotations>{image(0, '<TiffData/>')}")
    with open_recording(write_ome(tmp_path / "one.ome.tif", pixels, text)) as recording:
        np.testing.assert_array_equal(read_all(recording)[0], pixels)
        assert recording.plate is None


def test_shape_of_ome_tiff(tmp_path: Path) -> None:
    """A shape declared for a file that tells its own is refused, not ignored."""
    path = write_ome(tmp_path / "one.ome.tif", noise(2, 8, 9), ome(image(0, "<TiffData/>")))
    with pytest.raises(RecordingError, match="leave shape out"):
        open_recording(path, shape=(7, 7, 7))


def test_declared_shape_of_frames(tmp_path: Path) -> None:
    """A declared shape that ends with other frames than the pages is refused."""
    tifffile.imwrite(tmp_path / "pages.tif", noise(6, 8, 9), photometric="minisblack", metadata=None)
    with pytest.raises(RecordingError, match="frames of 9 x 8, but pages are 8 x 9"):
        open_recording(tmp_path / "pages.tif", axes="tzyx", shape=(2, 3, 9, 8))


def plate(number: int, wells: str, attributes: str = "") -> str:
    return f'<Plate ID="Plate:{number}" {attributes}>{wells}</Plate>'


def well(row: int, column: int, image_number: int) -> str:
    return (
        f'<Well ID="Well:{row}:{column}" Row="{row}" Column="{column}"><WellSample ID="S:{row}:{column}">'
        f'<ImageRef ID="Image:{image_number}"/></WellSample></Well>'
    )


TWO_IMAGES = image(0, '<TiffData IFD="0" PlaneCount="2"/>') + image(1, '<TiffData IFD="2" PlaneCount="2"/>')


def test_two_plates(tmp_path: Path) -> None:
    """Images of two plates are refused, since a dataset has one; one of them can be read, on its own plate."""
    text = ome(TWO_IMAGES + plate(0, well(0, 0, 0), 'Name="a"') + plate(1, well(0, 1, 1), 'Name="b"'))
    path = write_ome(tmp_path / "plates.ome.tif", noise(4, 8, 9), text)
    with pytest.raises(RecordingError, match=r"lie on 2 plates.*0: 'i0', 1: 'i1'"):
        open_recording(path)
    with open_recording(path, image=1) as recording:
        assert recording.plate is not None
        assert recording.plate.name == "b"
        assert (positions(recording)[0].plate_row, positions(recording)[0].plate_column) == ("A", "2")


def test_image_in_two_wells(tmp_path: Path) -> None:
    """An image that lies in two wells is refused: one of them would be lost."""
    text = ome(TWO_IMAGES + plate(0, well(0, 0, 0) + well(0, 2, 0) + well(1, 1, 1)))
    path = write_ome(tmp_path / "wells.ome.tif", noise(4, 8, 9), text)
    with pytest.raises(RecordingError, match="Image:0 lies in the wells A1 and A3"):
        open_recording(path)


def test_names_of_rows_and_columns(tmp_path: Path) -> None:
    """Rows may have numbers, and columns letters, if the plate says so."""
    conventions = 'RowNamingConvention="number" ColumnNamingConvention="letter" Rows="3" Columns="2"'
    text = ome(TWO_IMAGES + plate(0, well(0, 0, 0) + well(2, 1, 1), conventions))
    with open_recording(write_ome(tmp_path / "plate.ome.tif", noise(4, 8, 9), text)) as recording:
        assert recording.plate is not None
        assert (recording.plate.row_names, recording.plate.column_names) == (["1", "2", "3"], ["A", "B"])
        assert [(p.plate_row, p.plate_column) for p in positions(recording)] == [("1", "A"), ("3", "B")]


def test_stage_position_of_the_first_plane(tmp_path: Path) -> None:
    """The position of an image is that of its first plane in time, then in z, wherever it is listed."""
    planes = "".join(
        f'<Plane TheT="{t}" TheC="0" TheZ="{z}" PositionX="{10 * t + z + 1}" PositionXUnit="µm"/>'
        for t, z in ((1, 0), (0, 1), (0, 0), (1, 1))
    )
    text = ome(image(0, f"<TiffData/>{planes}").replace('SizeZ="1"', 'SizeZ="2"'))
    with open_recording(write_ome(tmp_path / "one.ome.tif", noise(4, 8, 9), text)) as recording:
        assert positions(recording)[0].x_coord == 1.0
        assert recording.metadata((0, 1, 0)) == {"position_x": 11.0}


# ---- ImageJ --------------------------------------------------------------------------------------------------------


def write_imagej(path: Path, pixels: Pixels, *lines: str, **options: Any) -> Path:
    text = "\n".join(["ImageJ=1.54f", *lines, ""])
    with tifffile.TiffWriter(path) as writer:
        for number, page in enumerate(pixels):
            description = text if number == 0 else None
            writer.write(page, metadata=None, contiguous=False, description=description, **options)
    return path


def test_imagej_with_more_pages_than_images(tmp_path: Path) -> None:
    """Pages that ImageJ's description does not count are an error; they are not left out."""
    path = write_imagej(tmp_path / "more.tif", noise(6, 8, 9), "images=4", "slices=4")
    with pytest.raises(RecordingError, match="tells of 4 images, but it has 6 pages"):
        open_recording(path)


def test_imagej_that_counts_nothing(tmp_path: Path) -> None:
    """A description without any count is of all pages."""
    pixels = noise(3, 8, 9)
    with open_recording(write_imagej(tmp_path / "none.tif", pixels, "unit=um")) as recording:
        np.testing.assert_array_equal(read_all(recording), pixels)


@pytest.mark.parametrize("images", [10**12, 10**25])
def test_imagej_with_a_huge_count(images: int, tmp_path: Path) -> None:
    """A damaged count is compared with the file before memory is taken for it."""
    path = write_imagej(tmp_path / "huge.tif", noise(1, 8, 9), f"images={images}", f"slices={images}")
    with pytest.raises(RecordingError, match=f"truncated: {images} images need .*; 1 are whole"):
        open_recording(path)


@pytest.mark.parametrize(
    ("lines", "step"),
    [
        (["finterval=2", "tunit=min"], (120.0, "second")),
        (["finterval=2", "tunit=ms"], (0.002, "second")),
        (["finterval=2", "tunit=h"], (7200.0, "second")),
        (["finterval=2", "tunit=sec"], (2.0, "second")),
        (["finterval=2"], (2.0, "second")),
        (["finterval=2", "tunit=cycles"], (2.0, None)),
        (["fps=4", "tunit=min"], (0.25, "second")),
    ],
)
def test_imagej_time(lines: list[str], step: tuple[float, str | None], tmp_path: Path) -> None:
    """The interval between frames is counted in tunit; the rate is frames per second."""
    path = write_imagej(tmp_path / "time.tif", noise(3, 8, 9), "images=3", "frames=3", *lines)
    with open_recording(path) as recording:
        assert spacing(recording) == {"t": step}


@pytest.mark.parametrize(
    ("lines", "sizes"),
    [
        ([], {"y": (10.0, "micrometer"), "x": (5.0, "micrometer")}),
        (["unit=cm"], {"y": (0.001, "centimeter"), "x": (0.0005, "centimeter")}),
        (["unit=um", "yunit=mm"], {"y": (0.001, "millimeter"), "x": (0.0005, "micrometer")}),
        (["unit=um", "yunit=pixel"], {"x": (0.0005, "micrometer")}),
        (["unit=pixel"], {}),
    ],
)
def test_imagej_pixel_sizes(lines: list[str], sizes: dict[str, tuple[float, str]], tmp_path: Path) -> None:
    """Pixels are counted in unit, along y in yunit; where neither is given, in the TIFF tag's unit."""
    path = write_imagej(
        tmp_path / "size.tif", noise(2, 8, 9), "images=2", "slices=2", *lines, resolution=(2000, 1000), resolutionunit=3
    )
    with open_recording(path) as recording:
        assert spacing(recording) == sizes


def test_imagej_origin(tmp_path: Path) -> None:
    """ImageJ gives the pixel at which the coordinate is 0, so the first one is at minus that many steps."""
    path = write_imagej(
        tmp_path / "origin.tif", noise(2, 8, 9), "images=2", "slices=2", "unit=um", "spacing=0.5", "xorigin=8",
        "yorigin=-4", "zorigin=1", resolution=(4, 2),
    )  # fmt: skip
    with open_recording(path) as recording:
        assert {d.name: d.translation for d in recording.dimensions} == {"z": -0.5, "y": 2.0, "x": -2.0}


# ---- series --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metadata", [{}, None], ids=["shaped", "pages"])
@pytest.mark.parametrize(("number", "size"), [(0, 10.0), (1, 2.0)])
def test_pixel_size_of_the_chosen_series(
    metadata: dict[str, Any] | None, number: int, size: float, tmp_path: Path
) -> None:
    """The pixel size of a series is that of its own first page, not of the file's."""
    path = tmp_path / "two.tif"
    with tifffile.TiffWriter(path) as writer:
        for resolution, pixels in ((1000, noise(3, 16, 18)), (5000, noise(2, 30, 20))):
            writer.write(
                pixels, metadata=metadata, resolution=(resolution, resolution), resolutionunit="CENTIMETER",
                photometric="minisblack",
            )  # fmt: skip
    with open_recording(path, image=number) as recording:
        assert spacing(recording) == {"y": (size, "micrometer"), "x": (size, "micrometer")}
