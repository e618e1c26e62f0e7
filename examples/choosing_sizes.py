"""What ``chunking="auto"`` plans for an acquisition, and what changes it; then one of them is written.

usage: python choosing_sizes.py [PATH]
"""

import sys

import numpy as np

from ome_writers import AcquisitionSettings, BufferSettings, Chunking, Dimension, create_stream

path = sys.argv[1] if len(sys.argv) > 1 else "choosing_sizes.ome.zarr"


def show(what: str, settings: AcquisitionSettings) -> None:
    """Print the chunk and shard of each dimension."""
    planned = settings.planned_dimensions
    chunk = " x ".join(f"{d.chunk_size or (d.count if d in planned[-2:] else 1)} {d.name}" for d in planned)
    shard = " x ".join(str(d.shard_size_chunks or 1) for d in planned)
    print(f"{what}: chunks of {chunk}; shards of {shard} chunks")


def time_lapse(size: int, **fields: object) -> AcquisitionSettings:
    """Return the settings of 1000 time points of a square camera."""
    return AcquisitionSettings(
        root_path=path,
        dtype="uint16",
        dimensions=[
            Dimension(name="t", count=1000),
            Dimension(name="y", count=size),
            Dimension(name="x", count=size),
        ],
        **{"chunking": "auto", **fields},
    )


show("large frames", time_lapse(2304))
show("small frames", time_lapse(128))
show("targets of one's own", time_lapse(2304, chunking=Chunking(chunk_bytes=2 << 20, shard_bytes=32 << 20)))
show("a library as backend", time_lapse(2304, format="tensorstore"))
show("and a small buffer", time_lapse(2304, format="tensorstore", buffer=BufferSettings(max_bytes=256 << 20)))

stack = time_lapse(2304)
stack.dimensions = (Dimension(name="z", count=500, chunk_size=16), *stack.dimensions[1:])
show("a size that is given stays", stack)

with create_stream(time_lapse(128)) as stream:
    for number in range(1000):
        stream.append(np.full((128, 128), number, np.uint16))
files = [file for file in (stream.path / "0" / "c").rglob("*") if file.is_file()]
print(f"the {stream.stats.frames_written} small frames are in {len(files)} file")
