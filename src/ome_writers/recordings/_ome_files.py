"""The files that an OME-TIFF consists of, by their names and UUIDs (OME-TIFF specification, "Storage of pixels")."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Any, Final
from xml.etree import ElementTree as ET

from ome_writers.errors import RecordingError

from ._ome_metadata import Block, OMEDocument, OMEImage, parse_ome_xml
from ._tiff_ifds import description_of, is_ome

_SHOWN: Final = 6  # files that a message lists
_HEAD: Final = 1 << 16
"""Bytes of OME-XML within which its first element ends."""


@dataclass(frozen=True, slots=True)
class Source:
    """An OME document and the files that it speaks of.

    Attributes
    ----------
    path : Path
        The file that was opened.
    folder : Path
        Where the files are.
    document : OMEDocument
        What it says.
    own : str or None
        Name of the TIFF file that holds the document; None for a companion file, which has no pixels.
    places : dict
        {FileName: path of the file in the folder}, of all files that the document names.
    """

    path: Path
    folder: Path
    document: OMEDocument
    own: str | None
    places: dict[str, str] = field(default_factory=dict)

    def file_of(self, block: Block) -> str | None:
        """Return the file that a block is in; None if that is the companion file, which can't be."""
        uuid = self.document.uuid
        if block.file is None:
            if block.uuid and uuid and block.uuid != uuid:
                raise RecordingError(
                    f"{self.path}: OME-XML says that planes are in the file {block.uuid}, and not what it is called; "
                    f"this file is {uuid}"
                )
            return self.own
        return self.own if self.own and block.uuid and block.uuid == uuid else self.places[block.file]


def is_companion(path: Path) -> bool:
    """Tell by its name whether a file holds OME-XML and nothing else."""
    return path.suffix.lower() in (".ome", ".xml")


def source_of(path: Path, text: bytes) -> Source:
    """Return the document that a file holds or points to, given the OME-XML in it.

    Raises
    ------
    RecordingError
        If the document is damaged or not there, or does not tell its files apart.
    """
    document = parse_ome_xml(text, str(path))
    holder = path.name
    if document.metadata_file is not None:
        holder = _place_of(document.metadata_file, path.parent)
        document = _pointed_to(path, path.parent / holder)
    source = Source(path, path.parent, document, None if is_companion(Path(holder)) else holder)
    for image in document.images:
        for block in image.blocks:
            if block.file is not None and block.file not in source.places:
                source.places[block.file] = _place_of(block.file, source.folder)
    _check_distinct(source)
    return source


def _pointed_to(path: Path, holder: Path) -> OMEDocument:
    if not holder.is_file():
        raise RecordingError(
            f"{path}: it is part of an OME-TIFF of several files whose metadata are in {holder.name}, which is not "
            f"in {path.parent}; put it there"
        )
    found = read_companion(holder) if is_companion(holder) else description_of(holder)
    if not is_ome(found):
        raise RecordingError(f"{holder}: it should hold the OME-XML of {path.name}, and has none; it is damaged")
    document = parse_ome_xml(found, str(holder))
    if document.metadata_file is not None:
        raise RecordingError(f"{holder}: it should hold the OME-XML of {path.name}, and points to another file")
    return document


def read_companion(path: Path) -> bytes:
    """Return the OME-XML of a companion file.

    Raises
    ------
    RecordingError
        If it can't be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise RecordingError(f"{path}: the file can't be read: {error.strerror or error}") from error


def _place_of(name: str, folder: Path) -> str:
    """Return where a file is, seen from the folder: where its name says, else in the folder itself.

    A dataset may have been moved, so folders in names may not be there any more; and it must not point out of its own.
    """
    path = PureWindowsPath(name)  # knows the separators of all systems
    inside = not path.anchor and ".." not in path.parts
    return path.as_posix() if inside and (folder / path.as_posix()).is_file() else path.name


def _check_distinct(source: Source) -> None:
    """Raise an error if two of the document's files are one in the folder."""
    names: dict[str, str] = {}
    for image in source.document.images:
        for block in image.blocks:
            place = source.file_of(block)
            if block.file is None or place is None:
                continue
            told = PureWindowsPath(block.file).as_posix()
            if names.setdefault(place, told) != told:
                raise RecordingError(
                    f"{source.path}: OME-XML speaks of {names[place]} and {told}, and both would be {place} in "
                    f"{source.folder}: files were renamed, or taken out of their folders; put them back"
                )


def files_of(source: Source, images: Sequence[OMEImage]) -> list[str]:
    """Return the files that images are in.

    Raises
    ------
    RecordingError
        If they are not there, or others have taken their places.
    """
    names = list(dict.fromkeys(source.file_of(block) for image in images for block in image.blocks))
    if any(not image.blocks for image in images):  # all planes are in the file that holds the document
        names = list(dict.fromkeys([*names, source.own]))
    if None in names:
        raise RecordingError(f"{source.path}: its OME-XML does not say which TIFF files hold the pixels")
    known = [name for name in names if name is not None]
    missing = [name for name in known if not (source.folder / name).is_file()]
    if missing and _is_renamed(source, missing):
        return missing
    if missing:
        shown = ", ".join(missing[:_SHOWN]) + (f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else "")
        one = len(missing) == 1
        raise RecordingError(
            f"{source.path}: this OME-TIFF has {len(known)} files, and {shown} "
            f"{'is' if one else 'are'} missing in {source.folder}; put {'it' if one else 'them'} there, under "
            f"{'this name' if one else 'these names'}"
        )
    _check_uuids(source, images, known)
    return known


def _is_renamed(source: Source, missing: Sequence[str]) -> bool:
    """Tell whether the document speaks of a single file, which is its own by another name."""
    blocks = [block for image in source.document.images for block in image.blocks]
    uuids = {block.uuid for block in blocks if block.uuid}
    return (
        source.own is not None
        and {source.file_of(block) for block in blocks} == set(missing)
        and len(missing) == 1
        and (source.document.uuid is None or not uuids)  # others would have been found by their UUID
    )


def path_of(source: Source, name: str) -> Path:
    """Return the path of a file of the document; of the one that was opened, if it has another name by now."""
    path = source.folder / name
    return path if path.is_file() or source.own is None else source.folder / source.own


def _check_uuids(source: Source, images: Sequence[OMEImage], names: Sequence[str]) -> None:
    """Raise an error if a file says that it is another one than the document means."""
    wanted: dict[str, str] = {}
    for image in images:
        for block in image.blocks:
            if (name := source.file_of(block)) is not None and block.uuid:
                wanted.setdefault(name, block.uuid)
    for name in names:
        if name not in wanted:
            continue
        found = _uuid_of(source.folder / name)
        if found and found != wanted[name]:
            raise RecordingError(
                f"{source.folder / name}: OME-XML of {source.path.name} means the file {wanted[name]} by this name, "
                f"and this one says that it is {found}; it was replaced by another file, or renamed"
            )


def _uuid_of(path: Path) -> str | None:
    """Return the UUID that a TIFF file's OME-XML gives it, if it has one."""
    parser: ET.XMLPullParser[ET.Element] = ET.XMLPullParser(events=("start",))
    try:
        parser.feed(description_of(path, _HEAD))
        events: list[Any] = list(parser.read_events())
    except (ET.ParseError, ValueError, LookupError):  # no OME-XML, or in no known encoding: nothing to compare
        return None
    return events[0][1].get("UUID") if events else None
