"""A time-lapse that ends when somebody stops it, with metadata of each frame, of the image and of the experiment.

usage: python unbounded_timelapse.py [PATH]
"""

import json
import sys
import time

import numpy as np

from ome_writers import AcquisitionSettings, Dimension, create_stream

path = sys.argv[1] if len(sys.argv) > 1 else "unbounded_timelapse.ome.zarr"
settings = AcquisitionSettings(
    root_path=path,
    dtype="uint16",
    compression="blosc-zstd",
    dimensions=[
        Dimension(name="t", count=None, unit="second", scale=0.05, shard_size_chunks=10),  # no count: no end
        Dimension(name="y", count=128, unit="micrometer", scale=0.65),
        Dimension(name="x", count=128, unit="micrometer", scale=0.65),
    ],
)
seconds = 0.5  # until somebody stops it
start = time.perf_counter()
with create_stream(settings) as stream:
    stream.set_global_metadata("experiment", {"operator": "me", "sample": "HeLa"})
    number = 0
    while number == 0 or time.perf_counter() - start < seconds:
        frame = np.full((128, 128), number, np.uint16)
        stream.append(
            frame,
            frame_metadata={"delta_t": time.perf_counter() - start, "exposure_time": 0.01, "laser": {"power_mW": 3}},
        )
        number += 1
        time.sleep(0.05)
    attributes = stream.get_metadata()
    attributes["."]["stopped_by"] = "the clock"
    stream.update_metadata(attributes)

with (stream.path / "0" / "zarr.json").open() as file:
    shape = json.load(file)["shape"]
print(f"the array has as many time points as there were frames: {shape[0] == stream.stats.frames_written}")
records = (stream.path / "ome_writers" / "frames.jsonl").read_text().splitlines()
print(f"one record for each frame: {len(records) == number}")
print(f"the first one: laser {json.loads(records[0])['metadata']['laser']}")
