"""What a dataset holds, read from its documents alone; pixels are not looked at."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ome_writers.errors import NotADatasetError, SettingsError

from ._images import ArrayInfo, AxisInfo, ChannelInfo, ImageInfo, Outline
from ._report import DatasetInfo, FramesInfo, PlateInfo, RecordingInfo

__all__ = [
    "ArrayInfo",
    "AxisInfo",
    "ChannelInfo",
    "DatasetInfo",
    "FramesInfo",
    "ImageInfo",
    "Outline",
    "PlateInfo",
    "RecordingInfo",
    "describe",
]


def describe(
    path: str | os.PathLike[str],
    *,
    count_bytes: bool = True,
    axes: str | None = None,
    shape: Sequence[int] | None = None,
    dtype: Any = None,
    offset: int = 0,
    image: int | str | None = None,
) -> DatasetInfo:
    """Return what a dataset holds: images, axes, chunks, channels, and how far it is complete.

    Only documents are read, so it takes no Zarr library; without counting bytes, it is quick for thousands of images. A
    path that is no Zarr dataset is described as the recorded acquisition that :func:`open_recording` finds there.

    Parameters
    ----------
    path : path-like
        An OME-Zarr dataset, 0.5 or older, any Zarr group or array (v3 or v2), or anything else that
        :func:`open_recording` takes.
    count_bytes : bool
        Whether to add up the bytes of all files. That asks the file system for each of them, which takes long for
        millions.
    axes, shape, dtype, offset, image
        As for :func:`open_recording`; for recorded acquisitions only.

    Returns
    -------
    DatasetInfo
        What was found; ``str`` gives it in words, and its ``as_dict`` as JSON. Its ``problems`` name what is damaged.

    Raises
    ------
    NotADatasetError
        If there is nothing at the path, or the document of its root is damaged (also a ValueError).
    RecordingError
        If it is neither a Zarr dataset nor a recording that can be read (also a ValueError).
    SettingsError
        If options for recordings are given for a Zarr dataset (also a ValueError).
    """
    from ._nodes import ROOT_DOCUMENTS

    root = Path(path).expanduser()
    if root.name in ROOT_DOCUMENTS and root.is_file():
        root = root.parent
    if any(os.path.lexists(root / name) for name in ROOT_DOCUMENTS):
        if axes is not None or shape is not None or dtype is not None or offset or image is not None:
            raise SettingsError(
                f"{root} is a Zarr dataset, which says by itself what it holds; leave axes, shape, dtype, offset and "
                "image out"
            )
        from ._datasets import describe_dataset

        return describe_dataset(root, count_bytes=count_bytes)
    if not os.path.lexists(root) and not any(character in os.fspath(path) for character in "*?["):
        raise NotADatasetError(f"there is nothing at {root}; give the path of a dataset")
    from ._recorded import describe_recording

    return describe_recording(
        path, count_bytes=count_bytes, axes=axes, shape=shape, dtype=dtype, offset=offset, image=image
    )
