"""A camera loop: two channels, unbounded in time, written with whichever backend is installed.

usage: python plain_camera.py [PATH]
"""

import sys

import numpy as np

from ome_writers import AcquisitionSettings, Dimension, create_stream


def snap(camera_buffer: np.ndarray, number: int) -> np.ndarray:
    """Pretend to be a camera: fill the same buffer with each new frame."""
    camera_buffer[:] = np.random.default_rng(number).poisson(100, camera_buffer.shape)
    return camera_buffer


path = sys.argv[1] if len(sys.argv) > 1 else "plain_camera.ome.zarr"
settings = AcquisitionSettings(
    root_path=path,
    dtype="uint16",
    compression="blosc-lz4",
    dimensions=[
        Dimension(name="t", count=None, unit="second"),
        Dimension(name="c", coords=["DAPI", "FITC"]),
        Dimension(name="y", count=256, unit="micrometer", scale=0.65),
        Dimension(name="x", count=256, unit="micrometer", scale=0.65),
    ],
)
camera_buffer = np.empty((256, 256), np.uint16)
with create_stream(settings) as stream:
    for number in range(20):
        stream.append(snap(camera_buffer, number), frame_metadata={"delta_t": number * 0.1})
print(f"{stream.stats.frames_written} frames in {stream.path}")
