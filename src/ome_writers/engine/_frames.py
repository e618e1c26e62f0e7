"""Checks of what callers hand to ``append``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ome_writers.errors import FrameError, MetadataError

Frame = npt.NDArray[Any]


def as_frame(frame: object, shape: tuple[int, int], dtype: np.dtype[Any]) -> Frame:
    """Return a frame as an array that can be copied into the buffer without loss.

    Parameters
    ----------
    frame : array_like, shape (height, width)
        Any memory order and byte order; a dtype whose every value the stream's dtype can hold. Of plain sequences the
        values must fit.
    shape : tuple of int
        Height and width that the settings declare.
    dtype : numpy.dtype
        The stream's dtype.

    Raises
    ------
    FrameError
        If the frame has another shape or number of dimensions, or can't be stored without loss.
    """
    if type(frame) is np.ndarray and frame.dtype == dtype and frame.shape == shape:
        return frame
    if frame is None:
        raise FrameError(f"the frame is None; append an array of shape {shape} and dtype {dtype}")
    try:
        array = np.asarray(frame)
    except (ValueError, TypeError) as error:
        raise FrameError(
            f"the frame (a {type(frame).__name__}) can't be made an array: {error}; append an array of shape {shape} "
            f"and dtype {dtype}"
        ) from error
    if array.shape != shape:
        raise FrameError(
            f"the frame has shape {array.shape}, but the settings declare frames of shape {shape}"
            + ("" if array.ndim == 2 else f"; a frame has 2 dimensions, not {array.ndim}")
            + ". Append one frame of that shape at a time."
        )
    if array.dtype == dtype or _holds_all_values(array.dtype, dtype):
        return array
    if not hasattr(frame, "dtype") and _values_fit(array, dtype):
        return array
    raise FrameError(
        f"the frame has dtype {array.dtype}, which {dtype} can't hold without loss; convert it with "
        f".astype({dtype.name!r}) if that is meant, or declare dtype {array.dtype.name!r} in the settings"
    )


def _holds_all_values(given: np.dtype[Any], wanted: np.dtype[Any]) -> bool:
    """Tell whether one dtype holds every value of another (numpy calls int64 to float64 safe, which it is not)."""
    if given.kind in "iu" and wanted.kind == "f":
        return bool(given.itemsize * 8 <= np.finfo(wanted).nmant + 1)
    return given.kind in "biuf" and bool(np.can_cast(given, wanted, "safe"))


def _values_fit(array: Frame, dtype: np.dtype[Any]) -> bool:
    if array.dtype.kind not in "biuf":
        return False
    with np.errstate(all="ignore"):
        return bool(np.array_equal(array, array.astype(dtype), equal_nan=array.dtype.kind == "f"))


def encode_metadata(metadata: Mapping[str, Any] | None) -> str | None:
    """Return metadata as JSON text; None for none.

    NumPy scalars and arrays are written as numbers and lists.

    Raises
    ------
    MetadataError
        If it is not a mapping with text keys, or has a value that JSON has no form for (also NaN and infinity).
    """
    if not metadata:
        if metadata is None or isinstance(metadata, Mapping):
            return None
        raise MetadataError(f"frame_metadata must be a mapping, not {type(metadata).__name__}")
    if not isinstance(metadata, Mapping):
        raise MetadataError(f"frame_metadata must be a mapping, not {type(metadata).__name__}")
    if odd := [key for key in metadata if not isinstance(key, str)]:
        raise MetadataError(f"the keys of frame_metadata must be text; {odd[0]!r} is not")
    try:
        text = json.dumps(dict(metadata), default=_plain, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
        text.encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:
        raise MetadataError(
            f"frame_metadata can't be written as JSON: {error}. Give numbers (no NaN or infinity), texts, lists and "
            "mappings only. The frame was not taken."
        ) from error
    return text


def _plain(value: object) -> object:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"a value of type {type(value).__name__} has no form in JSON")
