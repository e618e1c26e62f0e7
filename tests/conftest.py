"""Fixtures shared by all tests: the backends, a check for leaks, and the profiles of hypothesis."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import psutil
import pytest

from zarrita_reader import ZARRITA

BACKENDS = ("direct", "tensorstore", "zarr-python", "zarrs-python", "acquire-zarr")

_LONG_ENOUGH = 30  # s; a virtual machine may stand still for seconds while a library's thread closes a file

# "ci" is the default, the same examples each time; run "pytest --hypothesis-profile=thorough", which draws others,
# before a release
hypothesis.settings.register_profile("ci", max_examples=40, deadline=None, derandomize=True)
hypothesis.settings.register_profile("thorough", max_examples=500, deadline=None)
hypothesis.settings.load_profile("ci")


@pytest.fixture(params=BACKENDS, scope="module")
def backend(request: pytest.FixtureRequest) -> str:
    """Name of a backend; the test runs once for each."""
    return str(request.param)


@pytest.fixture(scope="session", autouse=True)
def _zarrita_ends() -> Iterator[None]:
    """End the process of zarrita if a test started it."""
    yield
    ZARRITA.close()


def _writer_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("ome-writers")}


def _open_files(folder: Path) -> set[str]:
    inside = folder.resolve()
    return {file.path for file in psutil.Process().open_files() if Path(file.path).is_relative_to(inside)}


@pytest.fixture(autouse=True)
def _nothing_leaks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fail a test after which threads of this package still run, or files below the temporary folder are open."""
    folder = tmp_path_factory.getbasetemp()
    threads, files = _writer_threads(), _open_files(folder)
    yield
    end = time.monotonic() + _LONG_ENOUGH
    # asked once: a library may yet begin with reads that nobody waits for, since another one has failed
    while (left := [*(_writer_threads() - threads), *(_open_files(folder) - files)]) and time.monotonic() < end:
        gc.collect()  # what nobody refers to any more is no leak
        time.sleep(0.01)  # libraries close files that they have read in threads of their own
    assert not left, "threads of the writer still run, or files below the temporary folder are still open"
