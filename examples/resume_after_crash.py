"""A process dies in the middle of an acquisition; another one finds out what is on disk, and goes on.

usage: python resume_after_crash.py [PATH]
"""

import os
import subprocess
import sys
import warnings

import numpy as np

from ome_writers import AcquisitionSettings, Dimension, create_stream, verify

DIES_AT = 26


def settings_for(path: str) -> AcquisitionSettings:
    """Return the settings: the same ones for the process that dies and for the one that goes on."""
    return AcquisitionSettings(
        root_path=path,
        dtype="uint16",
        compression="blosc-lz4",
        dimensions=[
            Dimension(name="t", count=40, chunk_size=4, shard_size_chunks=5),
            Dimension(name="y", count=64),
            Dimension(name="x", count=64),
        ],
    )


def acquire_and_die(path: str) -> None:
    """Append some frames, then end as after ``kill -9``: nothing is closed, nothing is tidied up."""
    stream = create_stream(settings_for(path))
    for number in range(DIES_AT):
        stream.append(np.full((64, 64), number + 1, np.uint16))
    stream.flush()  # only so that this example always prints the same: what is complete has left the buffer
    os._exit(1)


def go_on(path: str) -> None:
    """Resume the dataset at the first frame that is not on disk."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        stream = create_stream(settings_for(path), resume=True)
    for warning in told:  # the frames that were in the buffer
        print("warning:", str(warning.message).replace(str(stream.path), "the dataset"))
    with stream:
        for number in range(stream.next_frame, 40):
            stream.append(np.full((64, 64), number + 1, np.uint16))
    print(f"frames {stream.stats.first_frame} to 39 were appended by the second process")
    print(f"every chunk can be read: {verify(path).ok}")


if sys.argv[1:2] == ["--die"]:
    acquire_and_die(sys.argv[2])
else:
    target = sys.argv[1] if len(sys.argv) > 1 else "resume_after_crash.ome.zarr"
    died = subprocess.run([sys.executable, __file__, "--die", target], check=False)  # noqa: S603  this very file
    print(f"the first process took {DIES_AT} frames and ended with status {died.returncode}")
    go_on(target)
