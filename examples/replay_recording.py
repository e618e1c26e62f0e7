"""An OME-TIFF is replayed into OME-Zarr: first a part of it, then the rest as if a camera took it.

Needs tifffile: pip install "ome-writers[replay]"

usage: python replay_recording.py [PATH]
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import tifffile

from ome_writers import AcquisitionSettings, open_recording, replay

path = sys.argv[1] if len(sys.argv) > 1 else "replay_recording.ome.zarr"

with tempfile.TemporaryDirectory() as folder:
    source = Path(folder) / "recording.ome.tif"  # stands for yours
    tifffile.imwrite(
        source,
        np.random.default_rng(7).poisson(100, (10, 2, 256, 256)).astype(np.uint16),
        metadata={
            "axes": "TCYX",
            "TimeIncrement": 0.5,
            "TimeIncrementUnit": "s",
            "PhysicalSizeX": 0.65,
            "PhysicalSizeXUnit": "µm",
            "PhysicalSizeY": 0.65,
            "PhysicalSizeYUnit": "µm",
            "Channel": {"Name": ["DAPI", "FITC"]},
        },
    )

    with open_recording(source) as recording:
        print(f"{recording.kind}: {recording.frames} frames of {recording.dtype}")
        for dimension in recording.dimensions:
            size = "" if dimension.scale is None else f", {dimension.scale:g} {dimension.unit} each"
            print(f"  {dimension.name}: {dimension.count}{size}")
        settings = AcquisitionSettings(root_path=path, compression="blosc-zstd", chunking="auto")

        first = replay(recording, settings, limit=8)
        print(f"a part of it: {first.frames_done} of {first.frames_total} frames, complete: {first.complete}")

        rest = replay(recording, settings, resume=True, fps=100)
        print(f"the rest at {rest.fps:.0f} frames per second: {rest.frames_appended} frames, complete: {rest.complete}")
