"""A simulated microscope: spots that drift through a sample, on camera noise."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from ome_writers.settings import AcquisitionSettings, Backend, Channel, Dimension, Position

Frame = npt.NDArray[np.uint16]

_POSITIONS: Final = (Position(name="left", x_coord=0, y_coord=0), Position(name="right", x_coord=400, y_coord=0))
_CHANNELS: Final = (Channel(name="DAPI", color="#5555ff"), Channel(name="FITC", color="#00ff00"))
_SLICES: Final = 5
_PIXEL_UM: Final = 0.65
_SPOTS: Final = 40
_NOISE_FRAMES: Final = 8
_BACKGROUND: Final = 100  # photons


@dataclass(frozen=True, slots=True)
class SimulatedFrame:
    """One frame of the simulation and what the camera says of it."""

    pixels: Frame
    metadata: dict[str, Any]


def simulated_settings(
    path: str, backend: Backend | Literal["ome-zarr"], size: int, *, overwrite: bool
) -> AcquisitionSettings:
    """Return the settings of an unbounded time-lapse of two positions, two channels and five slices.

    Parameters
    ----------
    path, backend, overwrite
        As in :class:`~ome_writers.AcquisitionSettings`.
    size : int
        Height and width of a frame in pixels.
    """
    return AcquisitionSettings(
        root_path=path,
        format=backend,
        dtype="uint16",
        compression="blosc-lz4",
        overwrite=overwrite,
        dimensions=(
            Dimension(name="t", count=None, unit="second", scale=1.0),
            Dimension(name="p", coords=list(_POSITIONS)),
            Dimension(name="c", coords=list(_CHANNELS)),
            Dimension(name="z", count=_SLICES, unit="micrometer", scale=2.0),
            Dimension(name="y", count=size, unit="micrometer", scale=_PIXEL_UM, chunk_size=min(size, 512)),
            Dimension(name="x", count=size, unit="micrometer", scale=_PIXEL_UM, chunk_size=min(size, 512)),
        ),
    )


def simulate(settings: AcquisitionSettings, frames: int) -> Iterator[SimulatedFrame]:
    """Yield the frames of a simulated acquisition.

    The camera uses one buffer for all of them, as real ones do: a frame is overwritten when the next one is taken.
    """
    size = settings.frame_dimensions[0].count or 1
    rng = np.random.default_rng(7)
    noise = rng.poisson(_BACKGROUND, (_NOISE_FRAMES, size, size)).astype(np.uint16)
    start = rng.uniform(0, size, (len(_POSITIONS), len(_CHANNELS), _SPOTS, 2))
    drift = rng.normal(0, size / 100, start.shape)
    depth = rng.uniform(0, _SLICES - 1, start.shape[:-1])
    counts = [d.count or frames for d in settings.dimensions[:-2]]
    camera = np.empty((size, size), np.uint16)
    for number, (t, p, c, z) in zip(range(frames), np.ndindex(*counts), strict=False):
        camera[:] = noise[number * 5 % _NOISE_FRAMES]
        centers = (start[p, c] + t * drift[p, c]) % size
        for (y, x), spot_depth in zip(centers, depth[p, c], strict=True):
            _add_spot(camera, int(y), int(x), distance=abs(z - spot_depth))
        position = _POSITIONS[p]
        yield SimulatedFrame(
            camera,
            {
                "delta_t": float(t),
                "exposure_time": 0.01,
                "position_x": position.x_coord,
                "position_y": position.y_coord,
                "position_z": 2.0 * z,
            },
        )


def _add_spot(camera: Frame, y: int, x: int, *, distance: float) -> None:
    """Add a spot that is wider and dimmer the further it is from focus, in slices."""
    width = 2.0 + distance
    spot(camera, y, x, width=width, peak=2000 / width**2)


def spot(camera: npt.NDArray[Any], y: int, x: int, *, width: float, peak: float) -> None:
    """Add a spot to a frame: a Gaussian of some width in pixels, in the frame's own pixel type."""
    radius = math.ceil(3 * width)
    offsets = np.arange(-radius, radius + 1)
    profile = np.exp(-(offsets**2) / (2 * width**2))
    stamp = (peak * np.outer(profile, profile)).astype(camera.dtype)
    top, left = max(0, y - radius), max(0, x - radius)
    area = camera[top : y + radius + 1, left : x + radius + 1]
    area += stamp[top - (y - radius) :, left - (x - radius) :][: area.shape[0], : area.shape[1]]
