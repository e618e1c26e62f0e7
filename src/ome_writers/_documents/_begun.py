"""What a dataset was begun with: its settings, and whether others say the same of the data."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

from pydantic import ValidationError

from ome_writers._dataset import DatasetFolder, encode
from ome_writers._layout import plan_layout
from ome_writers.abc import WritePlan
from ome_writers.errors import NotRecoverableError, ResumeError
from ome_writers.metadata import array_document
from ome_writers.settings import AcquisitionSettings

from ._attributes import __version__

SETTINGS_FILE: Final = "ome_writers/settings.json"
"""Path of the settings that a dataset was begun with, below its root."""

_NOT_OF_THE_DATA: Final = frozenset({"root_path", "overwrite", "buffer", "format", "durability"})


@dataclass(frozen=True, slots=True)
class Begun:
    """What is known of a dataset that a stream has begun.

    Attributes
    ----------
    settings : AcquisitionSettings
        Those that it was created with.
    backend : str
        The name of the backend that wrote.
    always_sharded : bool
        Whether that backend writes unsharded arrays as shards of one chunk each.
    """

    settings: AcquisitionSettings
    backend: str
    always_sharded: bool = False

    @classmethod
    def read(cls, folder: DatasetFolder) -> Self:
        """Return what stands in a dataset.

        Raises
        ------
        NotRecoverableError
            If there is no dataset, it was not written by a stream of this version, or this is damaged.
        """
        path = folder.root / SETTINGS_FILE
        try:
            said = json.loads(path.read_text(encoding="utf-8"))
            settings = AcquisitionSettings.model_validate(said["settings"])
            return cls(settings, str(said["backend"]), bool(said["always_sharded"]))
        except (FileNotFoundError, NotADirectoryError) as error:
            if not os.path.lexists(folder.root):
                raise NotRecoverableError(f"there is nothing at {folder.root}; give a dataset's folder") from error
            raise NotRecoverableError(
                f"{folder.root} holds no {SETTINGS_FILE}: it is no dataset that a stream of ome-writers 0.4 or later "
                "has begun. Give the path of the dataset's folder."
            ) from error
        except (OSError, ValueError, KeyError, TypeError, RecursionError, ValidationError) as error:
            raise NotRecoverableError(f"{path} can't be read: {error}") from error

    def write(self, folder: DatasetFolder) -> None:
        """Write it to the dataset."""
        document = {
            "version": __version__,
            "backend": self.backend,
            "always_sharded": self.always_sharded,
            "fingerprint": fingerprint(self.settings),
            "settings": self.settings.model_dump(mode="json"),
        }
        folder.write_text(SETTINGS_FILE, encode(document))


def fingerprint(settings: AcquisitionSettings) -> str:
    """Return the SHA-256 of what settings say about the data: not where they go, who writes them, and how they wait."""
    return hashlib.sha256(json.dumps(_of_the_data(settings), sort_keys=True).encode()).hexdigest()


def differences(settings: AcquisitionSettings, others: AcquisitionSettings) -> list[str]:
    """Return in words in which fields settings differ that say something about the data."""
    ours, theirs = _of_the_data(settings), _of_the_data(others)
    return [*_of_dimensions(ours.pop("dimensions"), theirs.pop("dimensions")), *_of_fields(ours, theirs)]


def _of_dimensions(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> list[str]:
    """Return in words how dimensions differ: which there are, their order, then the fields of each."""
    names, old_names = ([d["name"] for d in dimensions] for dimensions in (ours, theirs))
    found = []
    if set(names) != set(old_names):
        found.append(f"the dimensions are {', '.join(names)}, were {', '.join(old_names)}")
    elif names != old_names:
        of_index = slice(None) if names[-2:] != old_names[-2:] else slice(-2)  # those of the frame, where they moved
        found.append(f"the order of dimensions is {', '.join(names[of_index])}, was {', '.join(old_names[of_index])}")
    old = {d["name"]: d for d in theirs}
    for dimension in ours:
        name = dimension["name"]
        found += [f"dimension {name}: {said}" for said in _of_fields(dimension, old.get(name, dimension))]
    return found


def _of_fields(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Return which fields differ, those included that only one of two kinds of dimension has."""
    return [
        f"{name} is {_in_short(ours.get(name))}, was {_in_short(theirs.get(name))}"
        for name in {**ours, **theirs}
        if ours.get(name) != theirs.get(name)
    ]


def _of_the_data(settings: AcquisitionSettings) -> dict[str, Any]:
    dump = settings.model_dump(mode="json")
    return {
        **{name: value for name, value in dump.items() if name not in _NOT_OF_THE_DATA},
        "compression": settings.codec.model_dump(mode="json"),
    }


def _in_short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 200 else f"{text[:200]} ..."


def check_same_data(settings: AcquisitionSettings, begun: Begun) -> None:
    """Raise an error unless a dataset that was begun can be continued with these settings.

    Raises
    ------
    ResumeError
        Naming what differs.
    """
    if fingerprint(settings) != fingerprint(begun.settings):
        raise ResumeError(
            f"the dataset was begun with other settings: {'; '.join(differences(settings, begun.settings))}. Resume it "
            "with the settings that it was begun with, or choose another root_path."
        )


def plan_dataset(settings: AcquisitionSettings, root: Path, *, always_sharded: bool, first_frame: int = 0) -> WritePlan:
    """Return what a sink is given to write a dataset with.

    Parameters
    ----------
    settings : AcquisitionSettings
        What is acquired and how it is stored.
    root : Path
        The dataset's folder.
    always_sharded : bool
        Whether unsharded arrays are written as shards of one chunk each.
    first_frame : int
        The frame that is written first; earlier ones stand in the dataset.
    """
    layout = plan_layout(settings)
    if always_sharded and layout.geometry.shards is None:
        layout = replace(layout, geometry=replace(layout.geometry, shards=layout.geometry.chunks))
    document = array_document(layout.geometry, settings.codec)
    return WritePlan(root, layout, settings.codec, document, first_frame, durable=settings.durability == "system")
