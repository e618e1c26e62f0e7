"""The documents of a dataset that depend on what was acquired: shapes, per-frame metadata, completeness.

A stream writes them while it runs and when it is closed, recovery when a stream was not.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version as _distribution_version
from pathlib import Path
from typing import Any, Final, Self

from pydantic import ValidationError

from ._dataset import DatasetFolder, encode
from ._layout import Layout, plan_layout
from ._router import Router
from .abc import FramesLostError, WritePlan
from .engine import RECORDS_FILE, RECORDS_PER_IMAGE, RecordLog
from .errors import NotRecoverableError, ResumeError
from .metadata import Plane, array_document, ome_xml, with_shape
from .settings import AcquisitionSettings

__version__: Final = _distribution_version("ome-writers")

OME_XML: Final = "OME/METADATA.ome.xml"
SETTINGS_FILE: Final = "ome_writers/settings.json"
"""Path of the settings that a dataset was begun with, below its root."""

_OURS: Final = "ome_writers"
_COMPLETENESS: Final = "completeness"
_PLANE_KEYS: Final = ("delta_t", "exposure_time", "position_x", "position_y", "position_z")
_NOT_OF_THE_DATA: Final = frozenset({"root_path", "overwrite", "buffer", "format", "durability"})
_MOST_RANGES: Final = 10_000


# ---- how far the dataset is complete ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Completeness:
    """What a dataset holds of its acquisition; attribute ``ome_writers.completeness`` of the root group.

    Attributes
    ----------
    frames_expected : int, optional
        Frames that the settings declare; None when the acquisition is unbounded.
    frames_taken : int
        Frames that were appended or skipped.
    frames_written : int
        Frames that were appended and are on disk.
    frames_skipped : int
        Frames that were skipped.
    lost : tuple of range
        Frames that were appended and are not on disk.
    closed : bool
        Whether the stream was closed and everything was written.
    recovered : bool
        Whether the dataset was completed by recovery, after a stream that was not closed.
    first_frame : int
        Number of the first frame of the last stream; other than 0 if it has resumed the dataset.
    """

    frames_expected: int | None
    frames_taken: int = 0
    frames_written: int = 0
    frames_skipped: int = 0
    lost: tuple[range, ...] = ()
    closed: bool = False
    recovered: bool = False
    first_frame: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON; of lost frames, the first and last of each run, 10,000 runs at most."""
        return {
            "frames_expected": self.frames_expected,
            "frames_taken": self.frames_taken,
            "frames_written": self.frames_written,
            "frames_skipped": self.frames_skipped,
            "frames_lost": [[run.start, run[-1]] for run in self.lost[:_MOST_RANGES]],
            "closed": self.closed,
            "recovered": self.recovered,
            "first_frame": self.first_frame,
        }

    @classmethod
    def read(cls, folder: DatasetFolder) -> Self | None:
        """Return what the root group says; None when it says nothing that can be understood."""
        try:
            said = folder.attributes(".")[_OURS][_COMPLETENESS]
            expected = said["frames_expected"]
            return cls(
                frames_expected=None if expected is None else int(expected),
                frames_taken=int(said["frames_taken"]),
                frames_written=int(said["frames_written"]),
                frames_skipped=int(said["frames_skipped"]),
                lost=tuple(range(int(first), int(last) + 1) for first, last in said["frames_lost"]),
                closed=bool(said["closed"]),
                recovered=bool(said["recovered"]),
                first_frame=int(said["first_frame"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError, OSError):  # any JSON may stand there
            return None

    def write(self, folder: DatasetFolder) -> None:
        """Write it to the root group."""
        set_ours(folder, ".", {_COMPLETENESS: self.as_dict()})


def set_ours(folder: DatasetFolder, path: str, values: Mapping[str, Any]) -> None:
    """Set some of this package's attributes of a group; its other ones stay."""
    attributes = folder.attributes(path)
    folder.set_attributes(path, {**attributes, _OURS: {**ours_of(attributes), "version": __version__, **values}})


def ours_of(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return this package's part of the attributes of a group."""
    ours = attributes.get(_OURS)
    return dict(ours) if isinstance(ours, dict) else {}


def with_completeness_of(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Return new attributes of a group with the completeness of the old ones, which is not the caller's to change."""
    kept, ours = ours_of(old).get(_COMPLETENESS), ours_of(new)
    if kept is None and _COMPLETENESS not in ours:
        return dict(new)
    ours.pop(_COMPLETENESS, None)
    if kept is not None:
        ours |= {"version": __version__, _COMPLETENESS: kept}
    return {**new, _OURS: ours}


# ---- the settings ----------------------------------------------------------------------------------------------------


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


# ---- shapes ----------------------------------------------------------------------------------------------------------


class ArrayDocuments:
    """The ``zarr.json`` of the arrays, whose shape follows the data while an unbounded acquisition grows.

    Parameters
    ----------
    folder : DatasetFolder
        The dataset.
    plan : WritePlan
        Its arrays.
    extents : sequence of int, optional
        What stands on disk, along the unbounded axis, of each array; None: nothing.
    """

    def __init__(self, folder: DatasetFolder, plan: WritePlan, extents: Sequence[int] | None = None) -> None:
        self._folder = folder
        self._plan = plan
        self.shape = tuple(n or 0 for n in plan.geometry.shape)
        self._extents = list(extents or [0] * len(plan.layout.images))

    def grow(self, extents: Mapping[int, int]) -> None:
        """Write the documents of arrays that have grown along the unbounded axis."""
        for array, extent in extents.items():
            if extent > self._extents[array]:
                self._write(array, extent)

    def finish(self, router: Router, frames: int) -> None:
        """Write the documents of all arrays with the extent that they have in the end; every one is tried.

        Raises
        ------
        FramesLostError
            If some can't be written; names the frames beyond the extent that stands on disk.
        """
        axis = self._plan.geometry.unbounded_axis
        wanted = [0 if axis is None else router.extent(array, frames) for array in range(len(self._extents))]
        errors: dict[int, OSError] = {}
        for array, extent in enumerate(wanted):
            try:
                self._write(array, extent)
            except OSError as error:
                errors[array] = error
        if axis is not None:
            self.shape = (*self.shape[:axis], max(wanted), *self.shape[axis + 1 :])
        if not errors:
            return
        # what lies beyond the extent that stands on disk can't be read; without a document nothing can
        readable = {array: 0 if axis is None else self._extents[array] for array in errors}
        readable |= {array: 0 for array in errors if not self._stands(array)}
        lost: list[int] = []
        for number in range(frames):
            array, index = router.locate(number)
            if array in errors and (axis is None or index[axis] >= readable[array]):
                lost.append(number)
        first = next(iter(errors.values()))
        raise FramesLostError(f"the shape of an array can't be written to its zarr.json: {first}", lost) from first

    def _stands(self, array: int) -> bool:
        """Tell whether the document of an array is there."""
        return (self._folder.root / self._plan.layout.images[array].array_path / "zarr.json").is_file()

    def _write(self, array: int, extent: int) -> None:
        shape = [extent if n is None else n for n in self._plan.geometry.shape]
        path = self._plan.layout.images[array].array_path
        document = with_shape(self._plan.array_document, shape)
        if not self._folder.holds(path, document):
            self._folder.write(path, document)
        self._extents[array] = extent


def extents_on_disk(folder: DatasetFolder, plan: WritePlan) -> list[int] | None:
    """Return the extent of each array along the unbounded axis, as its ``zarr.json`` says; None when all are bounded.

    Raises
    ------
    NotRecoverableError
        If a document is not there or is damaged.
    """
    axis = plan.geometry.unbounded_axis
    if axis is None:
        return None
    try:
        return [int(folder.document(image.array_path)["shape"][axis]) for image in plan.layout.images]
    except (KeyError, IndexError, TypeError, ValueError, OSError) as error:
        raise NotRecoverableError(f"a zarr.json of {folder.root} is not there or damaged: {error!r}") from error


# ---- per-frame metadata ----------------------------------------------------------------------------------------------


def write_frame_metadata(folder: DatasetFolder, layout: Layout, records: RecordLog) -> None:
    """Write the first records of each image to the attributes of its group."""
    for array in records.arrays():
        path = layout.images[array].path or "."
        found = [{**r["metadata"], "storage_index": r["storage_index"]} for r in records.of_array(array)]
        more = {"frame_metadata_file": RECORDS_FILE} if len(found) == RECORDS_PER_IMAGE else {}
        set_ours(folder, path, {"frame_metadata": found, **more})


def write_ome_xml(
    folder: DatasetFolder,
    settings: AcquisitionSettings,
    layout: Layout,
    records: RecordLog,
    shape: tuple[int, ...],
    *,
    stands: tuple[int, ...] | None = None,
) -> None:
    """Write the OME-XML document with what is known of the planes, if the dataset has one.

    Parameters
    ----------
    folder : DatasetFolder
        The dataset.
    settings : AcquisitionSettings
        Its settings.
    layout : Layout
        Its layout.
    records : RecordLog
        What was recorded with the frames.
    shape : tuple of int
        Of the arrays.
    stands : tuple of int, optional
        Shape in the document that was written when the dataset was begun. With the same shape and no planes it is not
        written again: that takes about 1 ms for each image.
    """
    planes = list(_planes(records))
    if not planes and shape == stands and (folder.root / OME_XML).is_file():
        return
    text = ome_xml(settings, layout, planes, counts=shape)
    if text is not None:
        folder.write_text(OME_XML, text)


def _planes(records: RecordLog) -> Iterator[Plane]:
    left = RECORDS_PER_IMAGE
    for array in records.arrays():
        for record in records.of_array(array):
            values = {key: _number(record["metadata"].get(key)) for key in _PLANE_KEYS}
            if left and any(value is not None for value in values.values()):
                left -= 1
                yield Plane(array, tuple(record["storage_index"]), **values)


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


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
