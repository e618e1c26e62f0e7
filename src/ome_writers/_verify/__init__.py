"""Checking a dataset: every chunk of every array is decoded, and told apart frame by frame."""

from __future__ import annotations

import os
from pathlib import Path

from ome_writers._dataset import DatasetFolder
from ome_writers._documents import SETTINGS_FILE, Begun, Completeness
from ome_writers._layout import Layout, plan_layout
from ome_writers.errors import NotRecoverableError, SettingsError

from ._report import ArrayReport, CorruptChunk, FrameReport, Frames, ProgressCallback, VerificationReport

__all__ = ["ArrayReport", "CorruptChunk", "FrameReport", "Frames", "ProgressCallback", "VerificationReport", "verify"]


def verify(
    path: str | os.PathLike[str], *, workers: int | None = None, progress: ProgressCallback | None = None
) -> VerificationReport:
    """Check that a dataset can be read, all of it.

    All chunks of all arrays are decoded, with their checksums where they have some, and the OME metadata is checked.
    For a dataset of this package, the report says of each frame, in acquisition order, whether it is written, was
    skipped, is missing, or is corrupt. Nothing is changed.

    Parameters
    ----------
    path : path-like
        Folder of an OME-Zarr 0.5 dataset, or of any group or array of Zarr v3, whoever has written it.
    workers : int, optional
        Threads that decode; None for as many as there are processors.
    progress : callable, optional
        Called now and then with the bytes that were read and the bytes that there are.

    Returns
    -------
    VerificationReport
        What was found; ``str`` gives it in words, and its ``as_dict`` as JSON.

    Raises
    ------
    NotADatasetError
        If there is nothing at the path, or no Zarr group or array.
    UnsupportedError
        If it is one of Zarr v2, such as that of an OME-Zarr 0.4.
    SettingsError
        If ``workers`` is less than 1.
    """
    if workers is not None and workers < 1:
        raise SettingsError(f"workers is {workers}; it must be 1 or more, or None for as many as there are processors")
    from ome_writers.backends._shards import WRITING_FOLDER

    from ._chunks import StoredArray, check_chunks
    from ._frames import array_paths, check_frames
    from ._hierarchy import check_ome, read_hierarchy

    root = Path(path).expanduser()
    found = read_hierarchy(root)
    check_ome(found)
    problems, notes = found.problems, found.notes
    layout = _layout(root, problems)
    of_frames = frozenset[str]() if layout is None else array_paths(layout)
    arrays = {
        name: StoredArray(root, name, document, by_layer=name in of_frames) for name, document in found.arrays.items()
    }
    check_chunks(list(arrays.values()), workers or os.cpu_count() or 1, progress)
    for array in arrays.values():
        problems += [*filter(None, [array.problem]), *array.problems]
        notes += [*filter(None, [array.note])]
    frames = None
    if layout is not None:
        completeness = Completeness.read(DatasetFolder(root)) if "" in found.groups else None
        frames = check_frames(root, completeness, layout, arrays, problems)
    if (root / WRITING_FOLDER).is_dir():
        notes.append(f"there are chunks in {WRITING_FOLDER} that are no part of an array yet")
    reports = tuple(arrays[name].report() for name in sorted(arrays))
    corrupt = any(report.corrupt for report in reports)
    lost = frames is not None and bool(frames.missing.count or frames.corrupt.count)
    return VerificationReport(
        path=str(root),
        ok=not (corrupt or lost or problems),
        arrays=reports,
        frames=frames,
        problems=tuple(problems),
        notes=tuple(notes),
    )


def _layout(root: Path, problems: list[str]) -> Layout | None:
    """Return the layout of a dataset of this package; None for others, and when its settings can't be read."""
    if not os.path.lexists(root / SETTINGS_FILE):
        return None
    try:
        return plan_layout(Begun.read(DatasetFolder(root)).settings)
    except (NotRecoverableError, SettingsError, RecursionError) as error:
        problems.append(f"the frames can't be told apart: {error}")
        return None
