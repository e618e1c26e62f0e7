"""A multi-dimensional acquisition with pymmcore-plus and the cameras that Micro-Manager simulates.

Needs pymmcore-plus and device adapters: pip install "ome-writers[pymmcore-plus]" mm-test-adapters

usage: python pymmcore_demo.py [PATH]
"""

import os
import sys

path = sys.argv[1] if len(sys.argv) > 1 else "pymmcore_demo.ome.zarr"
try:
    import useq
    from pymmcore_plus import CMMCorePlus

    core = CMMCorePlus()
    core.loadSystemConfiguration()  # Micro-Manager's demo configuration
except (ImportError, OSError, RuntimeError) as error:
    sys.exit(print(f"skipped: pymmcore-plus or its device adapters are not installed ({error})"))

core.setProperty("Camera", "PixelType", "16bit")
core.setProperty("Camera", "OnCameraCCDXSize", 256)
core.setProperty("Camera", "OnCameraCCDYSize", 256)
sequence = useq.MDASequence(
    axis_order="tpcz",
    time_plan=useq.TIntervalLoops(interval=0, loops=3),
    stage_positions=[useq.Position(x=0, y=0, name="left"), useq.Position(x=400, y=0, name="right")],
    channels=[useq.Channel(config="DAPI", exposure=1), useq.Channel(config="FITC", exposure=1)],
    z_plan=useq.ZRangeAround(range=2, step=1),
)
core.run_mda(sequence, output=path).join()
print(f"{len(list(sequence))} frames at {len(sequence.stage_positions)} positions in {path}")
sys.stdout.flush()
os._exit(0)  # an interpreter that has used Micro-Manager's core may abort when it ends
