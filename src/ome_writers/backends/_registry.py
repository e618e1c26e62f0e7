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


_BACKENDS: Final = {  # the first is what "auto" means
    "direct": _Entry("direct", "DirectSink", ()),
    "tensorstore": _Entry("tensorstore", "TensorStoreSink", ("tensorstore",)),
    "zarrs-python": _Entry("zarr_python", "ZarrsSink", ("zarr", "zarrs")),
    "zarr-python": _Entry("zarr_python", "ZarrPythonSink", ("zarr",)),
    "acquire-zarr": _Entry("acquire_zarr", "AcquireZarrSink", ("acquire_zarr",)),
}


def available_backends() -> list[str]:
    """Return the names of the backends whose libraries are installed, ``"direct"`` first."""
    return [name for name in _BACKENDS if not _missing(name)]


def load_backend(name: str) -> type[Sink]:
    """Return the sink class of a backend.

    Parameters
    ----------
    name : str
        A backend's name, or ``"auto"`` for ``"direct"``.

    Raises
    ------
    BackendMissingError
        If its library is not installed; names the command that installs it.
    """
    if name == "auto":
        name = next(iter(_BACKENDS))
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
