"""Checks of what callers hand to ``append``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ome_writers._json import plain
from ome_writers.errors import FrameError, MetadataError
from ome_writers.settings import DTYPES

Frame = npt.NDArray[Any]


def as_frame(frame: object, shape: tuple[int, int], dtype: np.dtype[Any]) -> Frame:
    """Return a frame as an array that can be copied into the buffer without loss.

    Parameters
    ----------
    frame : array_like, shape (height, width)
        Any memory order and byte order; a dtype whose every value the stream's dtype can hold. Of lists and tuples
        the values must fit.
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
    if np.ma.is_masked(frame):
        raise FrameError("the frame is a masked array with masked pixels, which can't be stored; fill them first")
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
    if isinstance(frame, list | tuple):
        if (converted := _converted(frame, dtype)) is not None:
            return converted
    elif array.dtype == dtype or _holds_all_values(array.dtype, dtype):
        return array
    raise FrameError(
        f"the frame has dtype {array.dtype}, which {dtype} can't hold without loss; convert it with "
        f".astype({dtype.name!r}) if that is meant"
        + (f", or declare dtype {array.dtype.name!r} in the settings" if array.dtype.name in DTYPES else "")
    )


def _holds_all_values(given: np.dtype[Any], wanted: np.dtype[Any]) -> bool:
    """Tell whether one dtype holds every value of another (numpy calls int64 to float64 safe, which it is not)."""
    if given.kind in "iu" and wanted.kind == "f":
        return bool(given.itemsize * 8 <= np.finfo(wanted).nmant + 1)
    return given.kind in "biuf" and bool(np.can_cast(given, wanted, "safe"))


def _converted(frame: Sequence[Any], dtype: np.dtype[Any]) -> Frame | None:
    """Return a plain sequence as an array of a dtype; None if it does not hold each value exactly."""
    # as Python's numbers: numpy would make floats of some integers, and compare as floats
    given = np.asarray(frame, object)
    try:
        with np.errstate(all="ignore"):
            converted = given.astype(dtype)
    except (TypeError, ValueError, OverflowError):
        return None
    pairs = zip(given.ravel().tolist(), converted.ravel().tolist(), strict=True)
    return converted if all(g == c or (g != g and c != c) for g, c in pairs) else None


def encode_metadata(metadata: Mapping[str, Any] | None) -> str | None:
    """Return metadata as JSON text; None for none.

    NumPy scalars and arrays are written as numbers and lists.

    Raises
    ------
    MetadataError
        If it is not a mapping with text keys, or has a value that JSON has no form for (also NaN and infinity).
    """
    if metadata is None:
        return None
    if not isinstance(metadata, Mapping):
        raise MetadataError(
            f"frame_metadata must be a mapping, not {type(metadata).__name__}. The frame was not taken."
        )
    if not metadata:
        return None
    given = dict(metadata)
    if "storage_index" in given:
        raise MetadataError(
            "frame_metadata can't have a key 'storage_index': that is where the frame's index is recorded. Give it "
            "another name. The frame was not taken."
        )
    try:
        _check_keys(given)
        text = json.dumps(given, default=plain, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
        text.encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:
        raise MetadataError(
            f"frame_metadata can't be written as JSON: {error}. Give numbers (no NaN or infinity), texts, lists and "
            "mappings with texts as keys only. The frame was not taken."
        ) from error
    return text


def _check_keys(value: dict[Any, Any] | list[Any] | tuple[Any, ...]) -> None:
    """Raise TypeError for keys that are not text (json would write numbers as texts, and two keys may become one)."""
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"the key {key!r} is a {type(key).__name__}, not a text")
        value = [*value.values()]
    for item in value:
        if isinstance(item, dict | list | tuple):
            _check_keys(item)
