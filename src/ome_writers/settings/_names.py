"""Which names may become part of a path inside a dataset.

A dataset is copied between operating systems and served over HTTP, so a name must be usable on all of them
(Zarr v3 specification, "node names"; the Windows file name rules), not only where it was written.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from typing import Annotated, Final, TypeAlias

from pydantic import AfterValidator

RESERVED: Final = frozenset({"ome", "ome_writers", "zarr.json", ".zgroup", ".zarray", ".zattrs", ".zmetadata"})
"""Names with a meaning in the layout of a dataset, in lower case."""

_DEVICES: Final = frozenset({"con", "prn", "aux", "nul", *(f"{d}{n}" for d in ("com", "lpt") for n in "123456789¹²³")})
_FORBIDDEN: Final = re.compile(r'[/\\<>:"|?*\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]')
_INVISIBLE: Final = frozenset({"Zs", "Zl", "Zp", "Cf"})  # Unicode categories
# what neither XML 1.0 (section 2.2, "Characters") nor UTF-8 can hold
_UNPRINTABLE: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_ALNUM: Final = re.compile(r"[A-Za-z0-9]+")


def name_fault(name: str, what: str) -> str | None:
    """Return why a name can't be part of a path, or None if it can.

    Parameters
    ----------
    name : str
        The name.
    what : str
        What it names, for the message (``"position"``).
    """
    if all(unicodedata.category(character) in _INVISIBLE for character in name):
        return f"{what} name {name!r} is empty; give it at least one visible character"
    if found := _FORBIDDEN.search(name):
        return (
            f"{what} name {name!r} contains {found.group()!r}; slashes, control characters and any of "
            '<>:"|?* can\'t be part of a path on every system; use letters, digits, "_", "-" or "."'
        )
    if not name.strip("."):
        return f"{what} name {name!r} means a folder of the file system; use another name"
    if name != name.strip() or name.endswith("."):
        return f"{what} name {name!r} begins or ends with white space or ends with a dot, which some systems drop"
    if name.startswith("__"):
        return f"{what} name {name!r} begins with two underscores, which Zarr reserves"
    folded = name.casefold()
    if folded in RESERVED or folded.split(".")[0].rstrip() in _DEVICES:
        return f"{what} name {name!r} is reserved by the dataset layout or by an operating system; use another name"
    if len(name.encode()) > 200:
        return f"{what} name {name[:20]!r}... is longer than 200 bytes; file systems take about 255"
    return None


def label_fault(text: str) -> str | None:
    """Return why a text can't be a label in a metadata document (JSON, OME-XML), or None if it can."""
    if found := _UNPRINTABLE.search(text):
        return f"{text!r} contains {found.group()!r}, which a metadata document can't hold; leave it out"
    return None


def _checked_label(text: str) -> str:
    if fault := label_fault(text):
        raise ValueError(fault)
    return text


LABEL: Final = AfterValidator(_checked_label)
"""Makes a field of type str one of type :data:`Label`, where the field has further constraints."""

Label: TypeAlias = Annotated[str, LABEL]
"""Text that metadata documents show and that is no part of a path."""


def is_alphanumeric(name: str) -> bool:
    """Tell whether a name has ASCII letters and digits only, as rows and columns of plates must (OME-NGFF 0.5)."""
    return _ALNUM.fullmatch(name) is not None


def folded(name: str) -> str:
    """Return what names that differ in case or Unicode form only have in common."""
    return unicodedata.normalize("NFD", name).casefold()


def collisions(names: Iterable[str]) -> list[str]:
    """Return a text such as ``'a' and 'A'`` for each group of names that differ in case or Unicode form only.

    Names are compared by canonical caseless matching (The Unicode Standard, section 3.13, D145).
    """
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[folded(name)].append(name)
    return [" and ".join(repr(n) for n in group) for group in groups.values() if len(group) > 1]
