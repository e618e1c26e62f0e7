"""TIFF files, by what they say of themselves."""

from __future__ import annotations

from pathlib import Path

from ome_writers.errors import RecordingError

from ._imagej import open_imagej
from ._micromanager import is_micromanager, open_micromanager
from ._ndtiff import is_of_ndtiff, open_ndtiff
from ._ome_files import is_companion, read_companion
from ._ome_tiff import open_ome_tiff
from ._plain_tiff import open_plain
from ._recording import Recording
from ._sources import ReadOptions
from ._tiff_ifds import description_of, is_ome
from ._tifffile import tifffile_module


def open_tiff(path: Path, options: ReadOptions) -> Recording:
    """Open a TIFF file, or the companion file of an OME-TIFF; the other files that belong to it are opened too.

    Parameters
    ----------
    path : Path
        The file.
    options : ReadOptions
        Image to read, and names of axes, where the file does not say.

    Raises
    ------
    RecordingError
        If it is damaged, or of a kind that can't be read.
    BackendMissingError
        If tifffile, or a codec that it needs, is not installed.
    """
    if options.dtype is not None or options.offset:
        raise RecordingError(f"{path} says by itself what its pixels are; leave dtype and offset out")
    tifffile_module()
    try:
        return _opened(path, options)
    except ValueError as error:
        if isinstance(error, RecordingError):
            raise
        raise RecordingError(f"{path}: the file is damaged, or describes what can't be stored: {error}") from error


def _opened(path: Path, options: ReadOptions) -> Recording:
    if is_companion(path):
        return open_ome_tiff(path, read_companion(path), options)
    if is_of_ndtiff(path):
        return open_ndtiff(path.parent, options)
    if is_micromanager(path):
        return open_micromanager(path, options)
    description = description_of(path)
    if is_ome(description):
        return open_ome_tiff(path, description, options)
    if description.startswith(b"ImageJ="):
        return open_imagej(path, options)
    return open_plain(path, options)
