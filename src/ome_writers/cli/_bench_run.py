"""Measuring how one setting takes the frames of a camera."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from io import FileIO
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ome_writers import _files
from ome_writers._stream import create_stream
from ome_writers.errors import OMEWritersError, WriteError
from ome_writers.settings import AcquisitionSettings, Dimension

RESERVE: Final = 1.25
"""Storage should take this many times the frames of the camera, since its speed changes."""

_WARM_UP_FRAMES: Final = 4
_WARM_UP_SIDE: Final = 64
_NAP_SECONDS: Final = 0.1
_PATIENCE: Final = 2.0  # a run that takes this many times as long as it should ends early

Frames = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Camera:
    """A camera that waits for nobody.

    Attributes
    ----------
    height, width : int
        Of a frame in pixels.
    dtype : str
        Pixel type.
    fps : float
        Frames per second.
    seconds : float
        How long it runs for one setting.
    """

    height: int
    width: int
    dtype: str
    fps: float
    seconds: float

    @property
    def frame_bytes(self) -> int:
        """Bytes of a frame."""
        return self.height * self.width * np.dtype(self.dtype).itemsize

    @property
    def frames(self) -> int:
        """Frames in one run."""
        return max(2, round(self.fps * self.seconds))

    @property
    def rate(self) -> float:
        """Bytes per second."""
        return self.fps * self.frame_bytes

    def settings(self, path: Path, backend: str, compression: str) -> AcquisitionSettings:
        """Return the settings of a stream for one run."""
        return AcquisitionSettings(
            root_path=str(path),
            format=backend,
            compression=compression,
            chunking="auto",
            dtype=self.dtype,
            dimensions=(
                Dimension(name="t", count=self.frames, unit="second", scale=1 / self.fps),
                Dimension(name="y", count=self.height),
                Dimension(name="x", count=self.width),
            ),
        )


@dataclass(frozen=True, slots=True)
class Result:
    """How a setting took the frames of a camera.

    Attributes
    ----------
    backend, compression : str
        The setting.
    error : str, optional
        Why it can't be used; then nothing else is known.
    frames : int
        Frames of the paced run.
    frames_late : int
        Those of them that were not appended before the next one was due.
    p99_ms, max_ms : float
        How long ``append`` took in the paced run, in ms.
    stalled_seconds : float
        How long ``append`` waited in it because the buffer was full.
    frames_per_second : float
        Highest rate, until the dataset was closed.
    synced_frames_per_second : float
        The same until all of it was on the medium (``fsync`` of every file).
    ratio : float
        Bytes of the frames over bytes of the files.
    buffer_bytes : int
        Memory that held frames, at most.
    growth_bytes : int, optional
        By how much the process grew, at most; None where the system does not tell.
    """

    backend: str
    compression: str
    error: str | None = None
    frames: int = 0
    frames_late: int = 0
    p99_ms: float = 0.0
    max_ms: float = 0.0
    stalled_seconds: float = 0.0
    frames_per_second: float = 0.0
    synced_frames_per_second: float = 0.0
    ratio: float = 1.0
    buffer_bytes: int = 0
    growth_bytes: int | None = None

    @property
    def kept_up(self) -> bool:
        """Whether every frame was taken in time."""
        return self.error is None and not self.frames_late

    def verdict(self, camera: Camera) -> str:
        """Return whether it keeps up: ``"yes"``, ``"barely"``, ``"not for long"``, ``"no"`` or ``"failed"``."""
        if self.error is not None:
            return "failed"
        if self.frames_late:
            return "no"
        if self.synced_frames_per_second < camera.fps:
            return "not for long"
        return "yes" if self.synced_frames_per_second >= RESERVE * camera.fps else "barely"

    def as_dict(self, camera: Camera) -> dict[str, Any]:
        """Return a JSON object."""
        per_frame = camera.frame_bytes
        return {
            **asdict(self),
            "kept_up": self.kept_up,
            "verdict": self.verdict(camera),
            "bytes_per_second": self.frames_per_second * per_frame,
            "synced_bytes_per_second": self.synced_frames_per_second * per_frame,
        }


class Bench:
    """Measures settings, one after the other.

    Parameters
    ----------
    camera : Camera
        What they have to take.
    ring : ndarray, shape (frames, height, width)
        Its frames; they are used again and again.
    folder : Path
        Where datasets go, for as long as a run takes.
    stop : Event
        Ends a run between two frames, with a KeyboardInterrupt.
    tick : callable
        Called after each frame.
    """

    def __init__(
        self, camera: Camera, ring: Frames, folder: Path, stop: threading.Event, tick: Callable[[], object]
    ) -> None:
        self._camera = camera
        self._ring = ring
        self._folder = folder
        self._stop = stop
        self._tick = tick

    def measure(self, backend: str, compression: str) -> Result:
        """Measure a setting: at the camera's pace, then as fast as it goes.

        Raises
        ------
        WriteError
            If the storage fails, such as a full disk.
        KeyboardInterrupt
            If it is stopped.
        """
        try:
            self._warm_up(backend, compression)
            before = _reset_peak()
            paced = self._paced(backend, compression)
            fast = self._fast(backend, compression)
        except WriteError:
            raise
        except OMEWritersError as error:
            return Result(backend, compression, error=str(error))
        grown = _peak()
        growth = None if grown is None or before is None else max(0, grown - before)
        return Result(backend, compression, growth_bytes=growth, **{**paced, **fast})

    def _warm_up(self, backend: str, compression: str) -> None:
        """Have libraries imported and their threads started: that is no part of what is measured."""
        camera = self._camera
        small = Camera(_WARM_UP_SIDE, _WARM_UP_SIDE, camera.dtype, 1.0, float(_WARM_UP_FRAMES))
        pixels = np.zeros((_WARM_UP_SIDE, _WARM_UP_SIDE), camera.dtype)
        with self._dataset() as path, create_stream(small.settings(path, backend, compression)) as stream:
            for _ in range(small.frames):
                stream.append(pixels)

    def _paced(self, backend: str, compression: str) -> dict[str, Any]:
        camera, interval = self._camera, 1 / self._camera.fps
        took: list[float] = []
        late = 0
        with self._dataset() as path:
            with create_stream(camera.settings(path, backend, compression)) as stream:
                began = time.perf_counter()
                for number in range(camera.frames):
                    ready = self._wait_until(began + number * interval)
                    stream.append(self._ring[number % len(self._ring)])
                    done = time.perf_counter()
                    took.append(done - ready)
                    late += done > began + (number + 1) * interval
                    self._tick()
                    if done - began > _PATIENCE * camera.seconds + 1:
                        break
                stats = stream.stats
            stored = _bytes_below(path)
        milliseconds = np.array(took) * 1e3
        return {
            "frames": len(took),
            "frames_late": late,
            "p99_ms": float(np.percentile(milliseconds, 99)),
            "max_ms": float(milliseconds.max()),
            "stalled_seconds": stats.stalled_seconds,
            "ratio": len(took) * camera.frame_bytes / stored,
            "buffer_bytes": stats.max_buffered_bytes,
        }

    def _fast(self, backend: str, compression: str) -> dict[str, Any]:
        camera = self._camera
        with self._dataset() as path:
            with create_stream(camera.settings(path, backend, compression)) as stream:
                began = time.perf_counter()
                for number in range(camera.frames):
                    self._check()
                    stream.append(self._ring[number % len(self._ring)])
                    self._tick()
                    if time.perf_counter() - began > _PATIENCE * camera.seconds + 1:
                        break
                frames = number + 1
            closed = time.perf_counter() - began
            for file in _files_below(path):
                self._check()
                _sync(file)
            synced = time.perf_counter() - began
        return {"frames_per_second": frames / closed, "synced_frames_per_second": frames / synced}

    def _wait_until(self, due: float) -> float:
        """Return the time, which is that of the frame or later."""
        while True:
            self._check()
            now = time.perf_counter()
            if now >= due:
                return now
            time.sleep(min(due - now, _NAP_SECONDS))

    def _check(self) -> None:
        if self._stop.is_set():
            raise KeyboardInterrupt

    @contextmanager
    def _dataset(self) -> Iterator[Path]:
        folder = Path(tempfile.mkdtemp(prefix="ome-writers-bench-", dir=self._folder))
        try:
            yield folder / "data.ome.zarr"
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _files_below(path: Path) -> Iterator[Path]:
    return (file for file in path.rglob("*") if file.is_file())


def _bytes_below(path: Path) -> int:
    return sum(file.stat().st_size for file in _files_below(path))


def _sync(file: Path) -> None:
    with FileIO(file, "rb+") as opened:
        _files.system.sync(opened)


# ---- memory of this process, where Linux tells -----------------------------------------------------------------------


def _reset_peak() -> int | None:
    """Reset the peak of resident memory; return what is resident now."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
        return _status("VmRSS")
    return None


def _peak() -> int | None:
    return _status("VmHWM")


def _status(name: str) -> int | None:
    if os.name != "posix":
        return None
    with suppress(OSError):
        found = re.search(rf"{name}:\s*(\d+) kB", Path("/proc/self/status").read_text())
        return int(found[1]) * 1024 if found else None
    return None
