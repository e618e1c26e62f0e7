"""pymmcore-plus drives a simulated Micro-Manager camera and writes through this package, unchanged."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import yaozarrs
import zarr

# In a process of its own, which is ended hard: an interpreter that has used MMCore may abort when it ends.
PROGRAM = """
import os, sys, warnings
import numpy as np
import useq
from pymmcore_plus import CMMCorePlus
from ome_writers import AcquisitionSettings

path, backend, name = sys.argv[1:4]
times = useq.TIntervalLoops(interval=0, loops=2)
channels = [useq.Channel(config="DAPI", exposure=1), useq.Channel(config="FITC", exposure=1)]
stack = useq.ZRangeAround(range=2, step=1)
plate = useq.WellPlatePlan(plate=96, a1_center_xy=(0, 0), selected_wells=([0, 1], [0, 0]),
                           well_points_plan=useq.GridRowsColumns(rows=1, columns=2, fov_width=10, fov_height=10))
sequences = {
    "transposed": useq.MDASequence(axis_order="tpzc", stage_positions=[(0, 0, 0), (5, 0, 0)], time_plan=times,
                                   channels=channels, z_plan=stack),
    "plate": useq.MDASequence(axis_order="tpc", stage_positions=plate, time_plan=times, channels=channels),
    "ragged": useq.MDASequence(channels=[channels[0], channels[1].replace(do_stack=False)], z_plan=stack),
}
core = CMMCorePlus()
core.loadSystemConfiguration()
core.setProperty("Camera", "PixelType", "16bit")
core.setProperty("Camera", "OnCameraCCDXSize", 64)
core.setProperty("Camera", "OnCameraCCDYSize", 48)
frames = []
core.mda.events.frameReady.connect(lambda img, event, meta: frames.append((img.copy(), dict(event.index))))
output = path if backend == "auto" else AcquisitionSettings(root_path=path, format=backend)
core.run_mda(sequences[name], output=output).join()
np.savez(path + ".npz", *(f for f, _ in frames))
with open(path + ".json", "w") as file:
    import json
    json.dump([{str(k): v for k, v in index.items()} for _, index in frames], file)
sys.stdout.flush()
os._exit(0)
"""


def acquire(tmp_path: Path, backend: str, name: str) -> tuple[Path, list[np.ndarray], list[dict[str, int]]]:
    """Run a sequence; return the dataset, and the frames and indices that the engine gave."""
    path = tmp_path / f"{name}.ome.zarr"
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), str(path), backend, name],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with np.load(f"{path}.npz") as saved:
        frames = [saved[key] for key in saved.files]
    yaozarrs.validate_zarr_store(str(path))
    return path, frames, json.loads(Path(f"{path}.json").read_text())


def read(path: Path) -> np.ndarray:
    """Read an array with zarr-python."""
    return np.asarray(zarr.open_array(str(path), mode="r")[:])


def test_positions_in_transposed_order(tmp_path: Path, backend: str) -> None:
    """Frames of positions, with channels inside of z, land where their events say, on every backend."""
    path, frames, indices = acquire(tmp_path, backend, "transposed")
    series = json.loads((path / "OME" / "zarr.json").read_text())["attributes"]["ome"]["series"]
    stored = [read(path / name / "0") for name in series]
    assert len(frames) == 24
    for frame, at in zip(frames, indices, strict=True):
        np.testing.assert_array_equal(stored[at["p"]][at["t"], at["c"], at["z"]], frame)
    attributes = json.loads((path / series[0] / "zarr.json").read_text())["attributes"]
    assert attributes["pymmcore_plus"]["summary_metadata"]
    assert len(attributes["ome_writers"]["frame_metadata"]) == 12


@pytest.mark.filterwarnings("ignore:The FieldOfView.path:UserWarning")
def test_plate_given_as_a_path(tmp_path: Path) -> None:
    """A well plate plan becomes a plate: wells, and fields in the order acquired."""
    path, frames, indices = acquire(tmp_path, "auto", "plate")
    plate = json.loads((path / "zarr.json").read_text())["attributes"]["ome"]["plate"]
    stored = []
    for well in plate["wells"]:
        fields = json.loads((path / well["path"] / "zarr.json").read_text())["attributes"]["ome"]["well"]["images"]
        stored += [read(path / well["path"] / field["path"] / "0") for field in fields]
    assert len(frames) == 16
    for frame, at in zip(frames, indices, strict=True):
        np.testing.assert_array_equal(stored[at["p"]][at["t"], at["c"]], frame)


def test_ragged_sequence_falls_back_to_a_time_series(tmp_path: Path) -> None:
    """A sequence that is no regular array is written as an unbounded series of its frames, in order."""
    path, frames, _ = acquire(tmp_path, "auto", "ragged")
    np.testing.assert_array_equal(read(path / "0"), np.stack(frames))
