"""Which names may become part of a path inside a dataset.

A dataset is copied between operating systems and served over HTTP, so a name must be usable on all of them
(Zarr v3 specification, "node names"; the Windows file name rules), not only where it was written.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from typing import Final

RESERVED: Final = frozenset({"ome", "ome_writers", "zarr.json", ".zgroup", ".zarray", ".zattrs", ".zmetadata"})
"""Names with a meaning in the layout of a dataset, in lower case."""

_DEVICES: Final = frozenset({"con", "prn", "aux", "nul", *(f"{d}{n}" for d in ("com", "lpt") for n in range(1, 10))})
_FORBIDDEN: Final = re.compile(r'[/\\<>:"|?*\x00-\x1f\x7f-\x9f]')
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
    if not name.strip():
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
    if name.lower() in RESERVED or name.lower().split(".")[0] in _DEVICES:
        return f"{what} name {name!r} is reserved by the dataset layout or by an operating system; use another name"
    if len(name.encode("utf-8", "surrogatepass")) > 200:
        return f"{what} name {name[:20]!r}... is longer than 200 bytes"
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return f"{what} name {name!r} is not valid Unicode text"
    return None


def is_alphanumeric(name: str) -> bool:
    """Tell whether a name has ASCII letters and digits only, as rows and columns of plates must (OME-NGFF 0.5)."""
    return _ALNUM.fullmatch(name) is not None


def collisions(names: Iterable[str]) -> list[str]:
    """Return a text such as ``'a' and 'A'`` for each group of names that differ in case or Unicode form only."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[unicodedata.normalize("NFC", name).casefold()].append(name)
    return [" and ".join(repr(n) for n in group) for group in groups.values() if len(group) > 1]
