"""The library tifffile: imported when a TIFF file is opened, and what it logs."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ome_writers.errors import BackendMissingError, OMEWritersError, RecordingError

_INSTALL = 'install it with: pip install "ome-writers[replay]"'


def tifffile_module() -> ModuleType:
    """Import tifffile.

    Raises
    ------
    BackendMissingError
        If it is not installed.
    """
    try:
        import tifffile
    except ImportError as error:
        raise BackendMissingError(f"tifffile is needed to read TIFF files; {_INSTALL}") from error
    return tifffile


@contextmanager
def listening(path: Path) -> Iterator[None]:
    """Turn what tifffile logs in this thread about a file into one warning, and its errors into ours.

    Raises
    ------
    RecordingError
        If tifffile can't make sense of the file.
    """
    said: list[str] = []
    thread = threading.get_ident()

    def keep(record: logging.LogRecord) -> bool:
        if record.thread != thread or record.levelno < logging.WARNING:
            return True
        said.append(record.getMessage())
        return False

    logger = logging.getLogger("tifffile")
    logger.addFilter(keep)
    try:
        yield
    except OMEWritersError:
        raise
    except Exception as error:  # of a damaged file, tifffile raises any
        told = str(error) or type(error).__name__
        raise RecordingError(f"{path}: the file is damaged, or of a kind that can't be read: {told}") from error
    finally:
        logger.removeFilter(keep)
    if said:
        more = f", and {len(said) - 1} more of this kind" if len(said) > 1 else ""
        warnings.warn(f"{path}: the file may be damaged: {said[0]}{more}", UserWarning, stacklevel=4)


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Open a file with tifffile, as :func:`listening`."""
    with listening(path), tifffile_module().TiffFile(path) as file:
        yield file


def tifffile_page(path: Path, offset: int, page: int) -> Any:
    """Return a page of tifffile, whose method ``decode`` decodes the segments of all pages of its kind.

    Raises
    ------
    BackendMissingError
        If the codec needs a library that is not installed.
    RecordingError
        If its pixels can't be decoded.
    """
    tifffile = tifffile_module()
    with opened(path) as file:
        file.filehandle.seek(offset)
        template = tifffile.TiffPage(file, index=page)
        compression = str(getattr(template.compression, "name", template.compression))
        try:
            if template.compression != 1:
                _ = tifffile.TIFF.DECOMPRESSORS[template.compression]
            decode = template.decode  # made here, while no other thread asks for it
            decode(None, 0)
        except (KeyError, ValueError, ImportError) as error:
            if "imagecodecs" in str(error):
                raise BackendMissingError(
                    f"{path}: imagecodecs is needed to decode {compression}; {_INSTALL}"
                ) from error
            raise RecordingError(f"{path}: pixels stored as {compression} can't be decoded: {error}") from error
        if template.dtype is None or np.dtype(template.dtype).kind not in "uif":
            raise RecordingError(f"{path}: page {page} has pixels of a type that can't be stored: {template.dtype}")
    return template
