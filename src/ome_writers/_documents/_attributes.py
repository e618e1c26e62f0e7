"""What this package says in the attributes of groups."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version as _distribution_version
from typing import Any, Final

from ome_writers._dataset import DatasetFolder

__version__: Final = _distribution_version("ome-writers")

OURS: Final = "ome_writers"
"""The attribute that holds it."""

FRAME_METADATA: Final = ("frame_metadata", "frame_metadata_file")
"""What it says of an image's frames: the first records, and the file with all of them, if there are more."""


def set_ours(folder: DatasetFolder, path: str, values: Mapping[str, Any]) -> None:
    """Set some of this package's attributes of a group; its other ones stay."""
    attributes = folder.attributes(path)
    folder.set_attributes(path, {**attributes, OURS: {**ours_of(attributes), "version": __version__, **values}})


def ours_of(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return this package's part of the attributes of a group."""
    ours = attributes.get(OURS)
    return dict(ours) if isinstance(ours, dict) else {}
