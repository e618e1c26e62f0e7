"""A writer of Micro-Manager image stacks, after the documentation of the format ("Micro-Manager Image File Stacks").

No library on PyPI writes them.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Place = tuple[int, int, int, int]
"""Channel, slice, frame, position."""


def write_stack(
    path: Path,
    summary: dict[str, Any],
    frames: Sequence[tuple[Place, npt.NDArray[Any], dict[str, Any]]],
    *,
    index: bool = True,
    description: bytes = b"",
) -> None:
    """Write a file of frames.

    Parameters
    ----------
    path : Path
        The file.
    summary : dict
        Summary metadata.
    frames : sequence
        Place, pixels (uint8 or uint16) and tags of each frame.
    index : bool
        Whether the index of frames is written, as it is when an acquisition ends.
    description : bytes
        ImageDescription of the first page, such as OME-XML; none if empty.
    """
    text = json.dumps(summary).encode()
    data = bytearray(struct.pack("<2sHI", b"II", 42, 0))
    data += struct.pack("<8I", 54773648, 0, 483765892, 0, 99384722, 0, 2355492, len(text)) + text
    link = 4  # where the place of the next directory stands
    entries = []
    for number, (place, pixels, tags) in enumerate(frames):
        data += bytes(len(data) % 2)
        start = len(data)
        struct.pack_into("<I", data, link, start)
        entries.append((*place, start))
        note = json.dumps(tags).encode() + b"\0"
        text = description + b"\0" if description and number == 0 else b""
        fields = [
            (256, 4, 1, pixels.shape[1]), (257, 4, 1, pixels.shape[0]), (258, 3, 1, 8 * pixels.itemsize),
            (259, 3, 1, 1), (262, 3, 1, 1), (270, 2, len(text), 0), (273, 4, 1, 0), (277, 3, 1, 1),
            (278, 3, 1, pixels.shape[0]), (279, 4, 1, pixels.nbytes), (51123, 2, len(note), 0),
        ]  # fmt: skip
        fields = [f for f in fields if f[0] != 270 or text]
        pixels_at = start + 2 + 12 * len(fields) + 4
        note_at = pixels_at + pixels.nbytes
        values = {273: pixels_at, 51123: note_at, 270: note_at + len(note)}
        data += struct.pack("<H", len(fields))
        for tag, kind, count, value in fields:
            data += struct.pack("<HHII", tag, kind, count, values.get(tag, value))
        link = len(data)
        data += bytes(4) + pixels.astype(pixels.dtype.newbyteorder("<")).tobytes() + note + text
    if index:
        struct.pack_into("<I", data, 12, len(data))
        data += struct.pack("<2I", 3453623, len(entries)) + np.array(entries, "<i4").tobytes()
    path.write_bytes(data)
