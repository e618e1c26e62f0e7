"""Dimensions in the names of files: ``img_t0001_z003_c1_p2.tif``."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ome_writers.errors import RecordingError

from ._source_names import position_names

_AXES: Final = {
    "t": "t", "time": "t", "frame": "t", "z": "z", "slice": "z", "c": "c", "ch": "c", "channel": "c", "p": "p",
    "pos": "p", "position": "p", "s": "p", "site": "p", "xy": "p",
}  # fmt: skip
"""What a number in a name counts, by the letters before it."""

_LETTERS: Final = rf"(?:{'|'.join(sorted(_AXES, key=len, reverse=True))})"
_NUMBERED: Final = re.compile(
    # letters may follow that begin another number, as in xy01c1
    rf"(?<![A-Za-z])({_LETTERS})[-_]?(\d+)(?=$|[^A-Za-z0-9]|(?:{_LETTERS}[-_]?\d+)+(?:$|[^A-Za-z0-9]))",
    re.IGNORECASE,
)
_MICROMANAGER_1: Final = re.compile(r"^img_(?P<t>\d{9})_(?P<c>.+)_(?P<z>\d{3})$")
"""Separate files of Micro-Manager 1.4: frame, name of the channel, slice."""

_DIGITS: Final = re.compile(r"\d+")
_RUNNING: Final = re.compile(r"(?<![A-Za-z0-9])\d+(?![A-Za-z0-9])")
"""A number that stands for itself, as one that counts the files does."""

_REMEDY: Final = (
    "give a pattern or a list of those that belong together, or axes and shape, to take files in the order of their "
    "names or of the list"
)


@dataclass(frozen=True, slots=True)
class FileAxis:
    """An axis along files.

    Attributes
    ----------
    name : str
        Of the dimension.
    texts : list of str
        What names have at each step.
    """

    name: str
    texts: list[str]


@dataclass(frozen=True, slots=True)
class Grid:
    """Files along axes.

    Attributes
    ----------
    axes : list of FileAxis
        In the order in which names have them.
    steps : ndarray of int, shape (files, axes)
        Step of each file along each axis.
    """

    axes: list[FileAxis]
    steps: npt.NDArray[np.int64]


def natural_key(path: Path) -> list[Any]:
    """Return a key that sorts names as people count: file2 before file10."""
    parts = re.split(r"(\d+)", str(path))
    return [(int(part), part) if number % 2 else part.casefold() for number, part in enumerate(parts)]


def grid_of(files: Sequence[Path]) -> Grid:
    """Return the axes that names of files tell; one along time, in the order given, where they tell none.

    Raises
    ------
    RecordingError
        If names are of several kinds, or two files have the same numbers.
    """
    texts = _texts(files)
    values = [_values(text) for text in texts]
    if any(values):
        kinds = [
            (tuple(value), rest) for value, rest in zip(values, _without_running([*map(_rest, texts)]), strict=True)
        ]
        if len(set(kinds)) > 1:
            other = next(text for text, kind in zip(texts, kinds, strict=True) if kind != kinds[0])
            raise RecordingError(
                f"{files[0].parent}: names of files are of different kinds, such as {texts[0]!r} and {other!r}; "
                f"{_REMEDY}"
            )
        return _grid(files, values)
    varying = [_DIGITS.findall(text) for text in texts]
    same = len({_DIGITS.sub("#", text) for text in texts}) == 1
    if (
        same
        and (places := [n for n in range(len(varying[0])) if len({int(v[n]) for v in varying}) > 1])
        and (len(places) == 1)
    ):
        return _grid(files, [{"t": v[places[0]]} for v in varying])
    return in_order(files)


def _texts(files: Sequence[Path]) -> list[str]:
    """Return what tells files apart: names without suffix, and folders if there are several."""
    if len({file.parent for file in files}) == 1:
        return [file.stem for file in files]
    depth = 0
    parts = [file.parent.parts for file in files]
    while all(len(p) > depth for p in parts) and len({p[depth] for p in parts}) == 1:
        depth += 1
    return ["/".join((*p[depth:], file.stem)) for p, file in zip(parts, files, strict=True)]


def _values(text: str) -> dict[str, str]:
    """Return what a name says: {axis: text}; of an axis that it has more than once, the last one."""
    folder, _, stem = text.rpartition("/")
    if match := _MICROMANAGER_1.match(stem):
        found = {axis: match[axis] for axis in "tcz"}
        return {**_numbered(folder), **found}
    return _numbered(text)


def _numbered(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for letters, digits in _NUMBERED.findall(text):
        axis = _AXES[letters.lower()]
        found.pop(axis, None)
        found[axis] = digits
    return found


def _rest(text: str) -> str:
    folder, _, stem = text.rpartition("/")
    if _MICROMANAGER_1.match(stem):
        return _NUMBERED.sub(r"\1#", folder)
    return _NUMBERED.sub(r"\1#", text)


def _without_running(rests: list[str]) -> list[str]:
    """Return what names have beside the numbers of axes, without a number that counts the files."""
    if len({_RUNNING.sub("#", rest) for rest in rests}) > 1:
        return rests
    numbers = [[int(number) for number in _RUNNING.findall(rest)] for rest in rests]
    for column in zip(*numbers, strict=True):
        # a few files may be missing; dates and times are no such numbers
        if len(set(column)) not in (1, len(rests)) or max(column) - min(column) >= 2 * len(rests):
            return rests
    return [_RUNNING.sub("#", rest) for rest in rests]


def in_order(files: Sequence[Path]) -> Grid:
    """Return files along one axis, in the order given."""
    order = np.arange(len(files)).reshape(-1, 1)
    return Grid([FileAxis("t", [str(n) for n in range(len(files))])], order)


def _grid(files: Sequence[Path], values: Sequence[dict[str, str]]) -> Grid:
    axes: list[FileAxis] = []
    columns: list[list[int]] = []
    for name in values[0]:
        texts = [value[name] for value in values]
        if name == "c" and not all(text.isdecimal() for text in texts):
            distinct = list(dict.fromkeys(texts))
            columns.append([distinct.index(text) for text in texts])
            axes.append(FileAxis(name, distinct))
            continue
        numbers = [int(text) for text in texts]
        known = dict(zip(numbers, texts, strict=True))
        steps = _steps(sorted(known), fill=name in "tz")
        columns.append([steps.index(number) if len(steps) < 16 else 0 for number in numbers])
        if len(steps) >= 16:
            place = {step: n for n, step in enumerate(steps)}
            columns[-1] = [place[number] for number in numbers]
        shown = [known.get(step, str(step)) for step in steps]
        axes.append(FileAxis(name, position_names(shown) if name == "p" else shown))
    several = [n for n, axis in enumerate(axes) if len(axis.texts) > 1]
    steps_of = np.array(columns, np.int64).T[:, several]
    _, first, counts = np.unique(steps_of, axis=0, return_index=True, return_counts=True)
    if (counts > 1).any():
        double = files[int(first[int(np.argmax(counts))])]
        raise RecordingError(f"{double}: another file has the same numbers in its name; {_REMEDY}")
    return Grid([axes[n] for n in several], steps_of)


def _steps(numbers: list[int], *, fill: bool) -> list[int]:
    """Return the steps of an axis: numbers that occur, and along time and z those between them that are missing."""
    if not fill or len(numbers) < 3:
        return numbers
    stride = math.gcd(*(b - a for a, b in pairwise(numbers)))
    # numbers that are far apart, such as times, are no steps
    if (numbers[-1] - numbers[0]) // stride >= 2 * len(numbers):
        return numbers
    return list(range(numbers[0], numbers[-1] + 1, stride))
