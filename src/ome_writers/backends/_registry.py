"""Backends by name, imported only when they are asked for."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from typing import Final

from ome_writers.abc import Sink
from ome_writers.errors import BackendMissingError


@dataclass(frozen=True, slots=True)
class _Entry:
    module: str
    sink: str
    libraries: tuple[str, ...]  # import names of what must be installed


_BACKENDS: Final = {  # in the order in which "auto" tries them
    "direct": _Entry("direct", "DirectSink", ()),
    "tensorstore": _Entry("tensorstore", "TensorStoreSink", ("tensorstore",)),
    "zarrs-python": _Entry("zarr_python", "ZarrsSink", ("zarr", "zarrs")),
    "zarr-python": _Entry("zarr_python", "ZarrPythonSink", ("zarr",)),
    "acquire-zarr": _Entry("acquire_zarr", "AcquireZarrSink", ("acquire_zarr",)),
}


def available_backends() -> list[str]:
    """Return the names of the backends whose libraries are installed, in the order in which ``"auto"`` tries them."""
    return [name for name in _BACKENDS if not _missing(name)]


def load_backend(name: str) -> type[Sink]:
    """Return the sink class of a backend.

    Parameters
    ----------
    name : str
        A backend's name, or ``"auto"`` for the first that is installed.

    Raises
    ------
    BackendMissingError
        If its library is not installed, or none is; names the command that installs it.
    """
    if name == "auto":
        name = next(iter(available_backends()), "")
        if not name:
            raise BackendMissingError(
                'no library that writes OME-Zarr is installed. Install one with: pip install "ome-writers[tensorstore]"'
            )
    if missing := _missing(name):
        installed = ", ".join(map(repr, available_backends())) or "none"
        raise BackendMissingError(
            f"backend {name!r} needs {' and '.join(missing)}, which is not installed. Install it with: "
            f'pip install "ome-writers[{name}]" (installed backends: {installed})'
        )
    entry = _BACKENDS[name]
    sink: type[Sink] = getattr(importlib.import_module(f"ome_writers.backends.{entry.module}"), entry.sink)
    return sink


def _missing(name: str) -> list[str]:
    return [library for library in _BACKENDS[name].libraries if importlib.util.find_spec(library) is None]
