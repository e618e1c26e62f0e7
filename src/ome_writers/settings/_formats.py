"""File formats that a stream can write."""

from __future__ import annotations

import os
from pathlib import PurePath
from typing import Any, Final, Literal, TypeAlias

from pydantic import Field

from ._model import Settings

Backend: TypeAlias = Literal["auto", "direct", "tensorstore", "zarr-python", "zarrs-python", "acquire-zarr"]

FORMATS_TO_COME: Final = {
    "ome-tiff": "OME-TIFF", "tiff": "OME-TIFF", "tifffile": "OME-TIFF",
    "scratch": "scratch arrays in memory", "memory": "scratch arrays in memory",
}  # fmt: skip
"""Names that clients may know, of formats that this version does not write."""


class OmeZarrFormat(Settings):
    """OME-Zarr 0.5 (Zarr v3).

    Attributes
    ----------
    name : str
        ``"ome-zarr"``.
    backend : str
        What writes: ``"direct"`` (this package itself), a library (``"tensorstore"``, ``"zarr-python"``,
        ``"zarrs-python"``, ``"acquire-zarr"``), or ``"auto"`` for ``"direct"``.
    suffix : str
        Suffix of the dataset's folder, added to a root path that does not end with ``.zarr``.
    """

    name: Literal["ome-zarr"] = "ome-zarr"
    backend: Backend = "auto"
    suffix: str = Field(default=".ome.zarr", pattern=r"^(\.[^/\\\x00]+)?$")

    def get_output_path(self, root_path: str, *, num_positions: int = 1) -> str:  # noqa: ARG002
        """Return the path of the dataset's folder.

        Parameters
        ----------
        root_path : str
            As given by the user.
        num_positions : int
            Not used: an OME-Zarr dataset is one folder, whatever it holds.
        """
        path = root_path.rstrip(f"/{os.sep}")
        if PurePath(path).name in ("", ".."):  # a folder that can't be given a suffix
            return root_path
        return path if path.endswith(self.suffix) or PurePath(path).suffix.lower() == ".zarr" else path + self.suffix


def format_from_name(name: str) -> dict[str, Any]:
    """Return the fields of the format that a short name means (``"tensorstore"``, ``"zarr"``, ...).

    Raises
    ------
    ValueError
        For a name that is unknown, or a format that this version can't write.
    """
    if name in FORMATS_TO_COME:
        raise ValueError(
            f"format {name!r} is not available: this version can't write {FORMATS_TO_COME[name]}; use 'ome-zarr'"
        )
    if name in ("ome-zarr", "zarr"):
        return {"name": "ome-zarr"}
    backends = Backend.__args__  # type: ignore[attr-defined]
    if name not in backends:
        raise ValueError(f"format {name!r} is not known; allowed: 'ome-zarr', {', '.join(map(repr, backends))}")
    return {"name": "ome-zarr", "backend": name}
