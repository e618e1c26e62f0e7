"""A screen: two fields in each of four wells of a 96-well plate, stored as an OME-Zarr plate.

usage: python multiwell_plate.py [PATH]
"""

import sys

import numpy as np

from ome_writers import AcquisitionSettings, Dimension, Plate, Position, create_stream

path = sys.argv[1] if len(sys.argv) > 1 else "multiwell_plate.ome.zarr"
wells = [("A", "1"), ("A", "2"), ("B", "1"), ("B", "2")]
fields = [
    Position(name=f"field{number}", plate_row=row, plate_column=column, x_coord=300.0 * number, y_coord=0.0)
    for row, column in wells
    for number in range(2)
]
settings = AcquisitionSettings(
    root_path=path,
    dtype="uint16",
    compression="blosc-lz4",
    plate=Plate.from_standard_wells(96, name="screen 1"),
    dimensions=[
        Dimension(name="p", type="position", coords=fields),
        Dimension(name="c", coords=["DAPI", "FITC"]),
        Dimension(name="y", count=128, unit="micrometer", scale=0.65),
        Dimension(name="x", count=128, unit="micrometer", scale=0.65),
    ],
)
with create_stream(settings) as stream:
    for field in fields:  # the acquisition order: all channels of a field, then the next field
        for channel in range(2):
            frame = np.random.default_rng(channel).poisson(100 * (channel + 1), (128, 128)).astype(np.uint16)
            stream.append(frame)
        print(f"well {field.plate_row}{field.plate_column}, {field.name}: {stream.stats.frames_appended} frames so far")
print(f"{len(wells)} of 96 wells in {stream.path}")
