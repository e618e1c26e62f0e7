"""Sources by what stands at a path; the modules that read them, and their libraries, are imported when needed."""

from __future__ import annotations

import operator
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ome_writers.errors import RecordingError

from ._recording import Recording

__all__ = ["ReadOptions", "open_recording"]

TIFF_SUFFIXES = (".tif", ".tiff", ".btf", ".tf2", ".tf8")
_RAW_SUFFIXES = (".raw", ".bin", ".dat", ".img")


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """What a source may not say of itself.

    Attributes
    ----------
    axes : str, optional
        Names of the dimensions, slowest first: letters (``"tcyx"``) or names separated by commas (``"t,angle,y,x"``).
    shape : tuple of int, optional
        Number of steps of each dimension; for raw binary files, and with ``axes`` for TIFF pages that do not say.
    dtype : str, optional
        Pixel type; for raw binary files. May name a byte order, such as ``">u2"``.
    offset : int
        Bytes before the first frame; for raw binary files.
    image : int or str, optional
        Number, from 0, or name of the image to read of a source that holds several; None: all of them.
    """

    axes: str | None = None
    shape: tuple[int, ...] | None = None
    dtype: str | None = None
    offset: int = 0
    image: int | str | None = None


def open_recording(
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | npt.NDArray[Any],
    *,
    axes: str | None = None,
    shape: Sequence[int] | None = None,
    dtype: Any = None,
    offset: int = 0,
    image: int | str | None = None,
) -> Recording:
    """Open a recorded acquisition.

    Parameters
    ----------
    source : path, sequence of paths, or ndarray
        - a TIFF file: OME-TIFF (also of several files, given one of them or the companion file), Micro-Manager image
          stack, ImageJ hyperstack, any other whose pages have one shape
        - a folder or a pattern (``"run/*.tif"``) of TIFF files, or a list of them, numbered by their names
        - a folder with an NDTiff dataset or a Micro-Manager acquisition
        - an OME-Zarr dataset, 0.4 or 0.5: image, collection or plate
        - a ``.npy`` file, or an array (also a ``numpy.memmap``)
        - any other file as raw binary, given ``shape`` and ``dtype``
    axes : str, optional
        Names of the dimensions, slowest first, where the source does not say: letters (``"tcyx"``) or names separated
        by commas (``"t,angle,y,x"``).
    shape : sequence of int, optional
        Of a raw binary file; or, with ``axes``, of TIFF pages that do not say what they are.
    dtype : dtype-like, optional
        Of a raw binary file; may name a byte order.
    offset : int
        Bytes before the first frame of a raw binary file.
    image : int or str, optional
        Number, from 0, or name of the image to read, of a source that holds several; all by default.

    Returns
    -------
    Recording
        Close it after use.

    Raises
    ------
    RecordingError
        If the source is not there, damaged or of no kind that can be read (also a ValueError).
    BackendMissingError
        If the library that reads it is not installed (also an ImportError); names the command that installs it.
    """
    options = _checked(axes, shape, dtype, offset, image)
    if isinstance(source, np.ndarray):
        from ._arrays import open_array

        return open_array(source, options)
    try:
        recording = _open(source, options)
    except OSError as error:  # of a folder that may not be looked into, or a name that no file can have
        told = source if isinstance(source, str | os.PathLike) else error.filename or "one of the files"
        raise RecordingError(
            f"{os.fspath(told)}: it can't be read: {error.strerror or error}; check the path, and whether you may read "
            "the file and its folder"
        ) from error
    again = _absolute(source) if isinstance(source, str | os.PathLike) else [_absolute(path) for path in source]
    recording.origin = (again, asdict(options))
    return recording


def _checked(axes: Any, shape: Any, dtype: Any, offset: Any, image: Any) -> ReadOptions:
    """Return what the user gave.

    Raises
    ------
    RecordingError
        If something is of a type that it can't have.
    """
    if axes is not None and not isinstance(axes, str):
        raise RecordingError(f"axes {axes!r} are no text; give letters such as 'tcyx', or names separated by commas")
    try:
        steps = None if shape is None else tuple(operator.index(n) for n in shape)
    except TypeError as error:
        raise RecordingError(f"shape {shape!r} must be whole numbers, one for each dimension") from error
    try:
        first = operator.index(offset)
    except TypeError as error:
        raise RecordingError(f"offset {offset!r} must be a whole number of bytes") from error
    try:
        kind = None if dtype is None else dtype if isinstance(dtype, str) else np.dtype(dtype).str
    except (TypeError, ValueError) as error:
        raise RecordingError(f"dtype {dtype!r} is not known; give one such as 'uint16'") from error
    if image is not None and not isinstance(image, str):
        try:
            image = operator.index(image)
        except TypeError as error:
            raise RecordingError(f"image {image!r} must be a number, from 0, or a name") from error
    return ReadOptions(axes, steps, kind, first, image)


def _expanded(path: str | os.PathLike[str]) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise RecordingError(f"{os.fspath(path)}: {error}; give the path without ~") from error


def _absolute(path: str | os.PathLike[str]) -> str:
    return os.path.abspath(os.path.expanduser(path))  # noqa: PTH100, PTH111  of a pattern, too


def _open(source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], options: ReadOptions) -> Recording:
    if not isinstance(source, str | os.PathLike):
        from ._tiff_series import open_tiff_series

        return open_tiff_series([_expanded(file) for file in source], options)
    text = os.fspath(source)
    if not text:
        raise RecordingError("the path of the source is empty; give that of a file or folder")
    path = _expanded(text)
    if not path.exists():
        if any(character in text for character in "*?["):
            from ._tiff_series import open_tiff_pattern

            return open_tiff_pattern(text, options)
        raise RecordingError(f"{text}: there is nothing at this path; check it, and whether the drive is mounted")
    return _open_folder(path, options) if path.is_dir() else _open_file(path, options)


def _open_folder(path: Path, options: ReadOptions) -> Recording:
    if any((path / name).is_file() for name in ("zarr.json", ".zattrs", ".zgroup", ".zarray")):
        from ._ome_zarr import open_ome_zarr

        return open_ome_zarr(path, options)
    # NDTiff with a pyramid has a folder for each of its levels
    for folder in (path, path / "Full resolution"):
        if (folder / "NDTiff.index").is_file():
            from ._ndtiff import open_ndtiff

            return open_ndtiff(folder, options)
    if any(child.suffix.lower() in TIFF_SUFFIXES for child in path.iterdir()):
        from ._tiff_series import open_tiff_folder

        return open_tiff_folder(path, options)
    raise RecordingError(
        f"{path}: a folder that holds no OME-Zarr dataset, no NDTiff.index and no TIFF files; give the folder of a "
        "dataset, or a file"
    )


def _open_file(path: Path, options: ReadOptions) -> Recording:
    if path.stat().st_size == 0:
        raise RecordingError(f"{path}: the file is empty")
    suffix = path.suffix.lower()
    if suffix == ".npy":
        from ._arrays import open_npy

        return open_npy(path, options)
    if suffix in TIFF_SUFFIXES or path.name.lower().endswith((".companion.ome", ".ome.xml")):
        from ._tiff import open_tiff

        return open_tiff(path, options)
    if path.name in ("zarr.json", ".zattrs", ".zgroup", ".zarray"):
        return _open_folder(path.parent, options)
    if path.name == "NDTiff.index":
        return _open_folder(path.parent, options)
    if suffix in _RAW_SUFFIXES or options.shape is not None or options.dtype is not None:
        from ._arrays import open_raw

        return open_raw(path, options)
    raise RecordingError(
        f"{path}: {suffix or 'a file without a suffix'} is no kind of source that can be read; allowed are TIFF "
        "(.tif, .tiff), .npy, folders of OME-Zarr and NDTiff, and raw binary files, given shape and dtype"
    )
