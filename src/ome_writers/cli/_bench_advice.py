"""What measurements mean for a camera."""

from __future__ import annotations

import math
import os
import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ome_writers.errors import WriteError

from ._bench_run import Camera, Result

_RANKS: Final = ("failed", "no", "not for long", "barely", "yes")
_AS_SMALL: Final = 1.05
_AS_FAST: Final = 1.1  # another library is not worth less than that
_PLENTY: Final = 4.0  # times the camera: beyond that, being faster is worth nothing
_SPARE_BYTES: Final = 1 << 26
_IN_MEMORY: Final = ("tmpfs", "ramfs", "devtmpfs")
_LEAST_BUFFER: Final = 1 << 28
_MOST_BUFFER: Final = 1 << 33


@dataclass(frozen=True, slots=True)
class Storage:
    """A folder and the machine that it is on.

    Attributes
    ----------
    folder : Path
        Where datasets go.
    free_bytes : int
        Free space.
    file_system : str, optional
        Its type, where the system tells.
    memory_bytes : int, optional
        Memory that the system can use as a cache for files, where it tells.
    """

    folder: Path
    free_bytes: int
    file_system: str | None
    memory_bytes: int | None

    @classmethod
    def of(cls, folder: Path) -> Storage:
        """Return what a folder is on."""
        return cls(folder, shutil.disk_usage(folder).free, _file_system(folder), _memory())

    @property
    def in_memory(self) -> bool:
        """Whether files there are in memory, and on no disk."""
        return self.file_system in _IN_MEMORY

    def check_space(self, camera: Camera) -> None:
        """Raise an error unless there is room for a run.

        Raises
        ------
        WriteError
            Saying how much is needed and how much there is.
        """
        needed = camera.frames * camera.frame_bytes + _SPARE_BYTES
        if needed > self.free_bytes:
            raise WriteError(
                f"a run of {camera.seconds:g} s needs {needed / 1e9:.2f} GB, and {self.folder} has "
                f"{self.free_bytes / 1e9:.2f} GB free. Free some, choose another folder, or fewer --seconds."
            )


@dataclass(frozen=True, slots=True)
class Advice:
    """What to use.

    Attributes
    ----------
    result : Result, optional
        Of the setting that is recommended; None when all failed.
    verdict : str
        Whether that keeps up.
    reason : str
        Why it is recommended, and what to expect.
    settings : str
        Arguments of AcquisitionSettings, as Python; empty when all failed.
    """

    result: Result | None
    verdict: str
    reason: str
    settings: str

    def as_dict(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {
            "backend": self.result and self.result.backend,
            "compression": self.result and self.result.compression,
            "verdict": self.verdict,
            "reason": self.reason,
            "settings": self.settings,
        }


def advise(results: Sequence[Result], camera: Camera) -> Advice:
    """Return what to use: of the settings that keep up the one with the smallest files, else the fastest.

    Of those that are as good as each other, ``"direct"``, which needs no library.
    """
    verdict = max((result.verdict(camera) for result in results), key=_RANKS.index, default="failed")
    if verdict == "failed":
        return Advice(None, verdict, "No setting can be used.", "")
    candidates = [result for result in results if result.verdict(camera) == verdict]
    if verdict == "yes":
        smallest = max(result.ratio for result in candidates)
        candidates = [result for result in candidates if result.ratio * _AS_SMALL >= smallest]
    fastest = max(candidates, key=lambda result: result.synced_frames_per_second)
    enough = min(fastest.synced_frames_per_second / _AS_FAST, _PLENTY * camera.fps)
    best = next(
        (r for r in candidates if r.backend == "direct" and r.synced_frames_per_second >= enough),
        fastest,
    )
    arguments = f'format="{best.backend}", compression="{best.compression}", chunking="auto"'
    pauses = verdict == "no" and best.synced_frames_per_second >= camera.fps
    if pauses:
        arguments += f", buffer=BufferSettings(max_bytes={_buffer_for(best, camera)})"
    return Advice(best, verdict, _reason(best, verdict, camera, pauses=pauses), arguments)


def _reason(best: Result, verdict: str, camera: Camera, *, pauses: bool) -> str:
    name = f"backend {best.backend} with compression {best.compression}"
    takes = f"the storage takes {best.synced_frames_per_second:,.0f} frames/s with everything on the medium"
    times = best.synced_frames_per_second / camera.fps
    if verdict == "yes":
        smaller = f", and its files are {best.ratio:.1f} times smaller than the frames" if best.ratio > 1.05 else ""
        return f"{name} keeps up: {takes}, {times:.1f} times what the camera gives{smaller}."
    if verdict == "barely":
        return (
            f"{name} keeps up, with little to spare: {takes}, {times:.2f} times what the camera gives. Test it for as "
            "long as an experiment takes, on a disk that is as full."
        )
    if verdict == "not for long":
        return (
            f"no setting keeps up for long: {name} took every frame in time, but only into the system's cache; "
            f"{takes}, {times:.2f} times what the camera gives. Use a faster disk, fewer or "
            "smaller frames, or more compression."
        )
    if pauses:
        return (
            f"no setting took every frame in time, though {name} is fast enough in the mean ({takes}): the storage "
            f"pauses, for up to {best.max_ms:,.0f} ms. A larger buffer bridges that."
        )
    return (
        f"no setting keeps up. The fastest is {name}: {takes}, {times:.2f} times what the camera gives. Use a faster "
        "disk, fewer or smaller frames, or another compression."
    )


def _buffer_for(result: Result, camera: Camera) -> int:
    """Return a buffer, in bytes, for pauses three times as long as those that were seen; a power of 2."""
    wanted = 3 * (result.max_ms / 1e3 + result.stalled_seconds) * camera.rate + result.buffer_bytes
    return min(_MOST_BUFFER, max(_LEAST_BUFFER, 1 << math.ceil(math.log2(wanted))))


def notes(results: Sequence[Result], camera: Camera, storage: Storage, best: Result | None) -> list[str]:
    """Return what the measurements do not tell, and how long the disk lasts."""
    lines = []
    rate = camera.rate / (best.ratio if best else 1.0)
    lines.append(
        f"Free space: {storage.free_bytes / 1e9:,.1f} GB, which lasts {_duration(storage.free_bytes / rate)} of this "
        f"camera ({rate / 1e6:,.0f} MB/s on disk)."
    )
    if storage.in_memory:
        lines.append(
            f"{storage.folder} is in memory ({storage.file_system}), on no disk: this measures the computer, and "
            "says nothing about its disks."
        )
        return lines
    stored = max(
        (result.frames * camera.frame_bytes / result.ratio for result in results if not result.error), default=0
    )
    if storage.memory_bytes is None:
        lines.append(
            "The paced runs may have gone to the system's cache in memory and not to the disk; the synced rates have "
            "not. Longer runs (--seconds) tell more."
        )
    elif stored < storage.memory_bytes:
        enough = math.ceil(camera.seconds * storage.memory_bytes / stored * 1.2) if stored else 0
        lines.append(
            f"The paced runs wrote {stored / 1e9:.2f} GB at most, which fits the system's cache in memory "
            f"({storage.memory_bytes / 1e9:.1f} GB): late frames on a slow disk may not show. The synced rates include "
            f"getting everything on the medium. A run that is longer than the cache lasts: --seconds {enough}."
        )
    lines.append("Disks that have a cache of their own, or slow down as they fill or warm up, do so after minutes.")
    return lines


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _file_system(folder: Path) -> str | None:
    """Return the type of the file system that a folder is on, where Linux tells."""
    best, kind = -1, None
    with suppress(OSError):
        where = folder.resolve()
        for line in Path("/proc/mounts").read_text(errors="replace").splitlines():
            _, place, name, *_ = line.split(" ")
            mount = Path(re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), place))
            if where.is_relative_to(mount) and len(mount.parts) >= best:
                best, kind = len(mount.parts), name
    return kind


def _memory() -> int | None:
    """Return the memory that files can be cached in, where the system tells."""
    with suppress(OSError):
        found = re.search(r"MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text())
        if found:
            return int(found[1]) * 1024
    with suppress(AttributeError, ValueError, OSError):
        return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return None
