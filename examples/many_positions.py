"""Positions visited in turn at each time point; the stage's coordinates become part of each image.

usage: python many_positions.py [PATH]
"""

import sys

import numpy as np

from ome_writers import AcquisitionSettings, Dimension, Position, create_stream

path = sys.argv[1] if len(sys.argv) > 1 else "many_positions.ome.zarr"
stage = [Position(name=f"field{i}", x_coord=100.0 * i, y_coord=0.0) for i in range(4)]
settings = AcquisitionSettings(
    root_path=path,
    dtype="uint16",
    dimensions=[
        Dimension(name="t", count=5, unit="second", scale=1.0),
        Dimension(name="p", type="position", coords=stage),
        Dimension(name="z", count=3, unit="micrometer", scale=0.5),
        Dimension(name="y", count=128, unit="micrometer", scale=0.65),
        Dimension(name="x", count=128, unit="micrometer", scale=0.65),
    ],
)
with create_stream(settings) as stream:
    for number in range(settings.num_frames or 0):
        stream.append(np.full((128, 128), number, np.uint16))
print(f"{stream.stats.frames_written} frames at {len(stage)} positions in {stream.path}")
