"""Separate image files of Micro-Manager: what ``metadata.txt`` beside them says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ._micromanager_metadata import frame_metadata, parse_json
from ._recording import Index
from ._tiff_recording import Planes

_FILE: Final = "metadata.txt"


@dataclass(slots=True)
class SeparateFiles:
    """What is known of an acquisition in separate files.

    Attributes
    ----------
    summary : mapping
        Of the acquisition.
    tags : list of mapping or None
        Of each file.
    """

    summary: Mapping[str, Any]
    tags: Sequence[Mapping[str, Any] | None]

    def of_planes(self, planes: Planes) -> _SeparateNotes:
        """Return what is known of each frame."""
        return _SeparateNotes(self.tags, planes)


class _SeparateNotes:
    def __init__(self, tags: Sequence[Mapping[str, Any] | None], planes: Planes) -> None:
        self._tags = tags
        self._planes = planes

    def of(self, index: Index) -> Mapping[str, Any] | None:
        number = int(self._planes.files[index])
        tags = self._tags[number] if number >= 0 else None
        return frame_metadata(tags) if tags else None


def read_metadata_text(files: Sequence[Path]) -> SeparateFiles | None:
    """Return what is known of files; None if no ``metadata.txt`` is beside them.

    Raises
    ------
    RecordingError
        If it is damaged.
    """
    folders = list(dict.fromkeys(file.parent for file in files))
    summary: Mapping[str, Any] = {}
    by_file: dict[Path, Mapping[str, Any]] = {}
    for folder in folders:
        path = folder / _FILE
        if not path.is_file():
            continue
        known = parse_json(path.read_bytes(), f"{path}: its metadata")
        summary = summary or known.get("Summary", {})
        for key, tags in known.items():
            if not isinstance(tags, dict):
                continue
            if key.startswith("Metadata-"):  # version 2: the file's path below the acquisition's folder
                by_file[folder / key.removeprefix("Metadata-").rpartition("/")[2]] = tags
            elif key.startswith("FrameKey-") and isinstance(tags.get("FileName"), str):  # version 1.4
                by_file[folder / tags["FileName"].rpartition("/")[2]] = tags
    if not summary and not by_file:
        return None
    return SeparateFiles(summary, [by_file.get(file) for file in files])
