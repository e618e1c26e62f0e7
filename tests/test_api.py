"""The names that clients import, what importing costs, and code that a client of version 0.3 contains."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ome_writers
from ome_writers import (
    AcquisitionSettings,
    Channel,
    Dimension,
    OMEStream,
    OmeZarrFormat,
    Plate,
    Position,
    PositionDimension,
    StandardAxis,
    create_stream,
    dims_from_standard_axes,
    useq_to_acquisition_settings,
)
from readers import assert_holds, document, read_images, validate

OF_VERSION_3 = {
    "AcquisitionSettings", "Channel", "Dimension", "OMEStream", "OmeZarrFormat", "Plate", "Position",
    "PositionDimension", "StandardAxis", "__version__", "create_stream", "dims_from_standard_axes", "dims_from_useq",
    "useq_to_acquisition_settings",
}  # fmt: skip
NEW = {
    "BufferSettings", "Chunking", "Codec", "DatasetInfo", "OMEWritersError", "Recording", "RecoveryReport",
    "ReplayProgress", "ReplayReport", "StreamStats", "VerificationReport", "describe", "open_recording", "recover",
    "replay", "verify",
}  # fmt: skip
TO_COME = {"CoordUpdate", "OmeTiffFormat", "ScratchFormat"}
FRAMES = np.random.default_rng(0).integers(1, 1 << 16, (12, 8, 10), np.uint16)


def test_public_names() -> None:
    """All names of version 0.3 whose feature exists are there, and none of those to come: no stubs."""
    assert set(ome_writers.__all__) == OF_VERSION_3 | NEW
    assert list(ome_writers.__all__) == sorted(ome_writers.__all__)
    for name in ome_writers.__all__:
        assert getattr(ome_writers, name) is not None
    assert not any(hasattr(ome_writers, name) for name in TO_COME)


def test_star_import() -> None:
    """``from ome_writers import *`` gives exactly the public names."""
    names: dict[str, Any] = {}
    exec("from ome_writers import *", names)  # noqa: S102
    assert names.keys() - {"__builtins__"} == set(ome_writers.__all__)


def test_version_is_plain() -> None:
    """Clients require ``ome-writers>=0.3.0``; a version with a suffix would not satisfy all of their tools."""
    assert re.fullmatch(r"\d+\.\d+\.\d+", ome_writers.__version__)
    assert [int(part) for part in re.findall(r"\d+", ome_writers.__version__)] >= [0, 4, 0]


def test_import_loads_no_storage_library() -> None:
    """Importing the package imports neither a storage library nor a client's: they cost seconds, or are not there."""
    foreign = (
        "tensorstore",
        "zarr",
        "zarrs",
        "acquire_zarr",
        "useq",
        "pymmcore_plus",
        "numcodecs",
        "fsspec",
        "hypothesis",
    )
    code = f"import ome_writers, sys; print([m for m in {foreign!r} if m in sys.modules])"
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.stdout.strip(), ended.stderr) == ("[]", "")


def test_stream_loads_only_its_own_library(tmp_path: Path) -> None:
    """A stream imports the library of its backend and no other."""
    code = """
import sys
from ome_writers import AcquisitionSettings, create_stream, dims_from_standard_axes
dims = dims_from_standard_axes({"t": 1, "y": 8, "x": 8})
create_stream(AcquisitionSettings(root_path=sys.argv[1], dimensions=dims, dtype="u1", format="tensorstore")).close()
print([m for m in ("tensorstore", "zarr", "zarrs", "acquire_zarr") if m in sys.modules])
"""
    command = [sys.executable, "-c", code, str(tmp_path / "a.zarr")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout.strip() == "['tensorstore']"


# ---- a client of version 0.3 ---------------------------------------------------------------------------------------


def test_client_with_standard_axes(tmp_path: Path, backend: str) -> None:
    """The short way: sizes of standard axes in, an OME-Zarr dataset out."""
    dims = dims_from_standard_axes(
        {"t": 2, "c": ["DAPI", Channel(name="FITC", color="lime")], "y": 8, "x": 10},
        chunk_shapes={"y": 4, "x": 5},
        shard_shapes={"y": 2, "x": 2},
    )
    settings = AcquisitionSettings(
        root_path=tmp_path / "cells.ome.zarr",
        dimensions=dims,
        dtype=np.uint16,
        format=backend,
        compression="blosc-zstd",
        overwrite=True,
    )
    assert (settings.shape, settings.num_frames, settings.is_unbounded) == ((2, 2, 8, 10), 4, False)
    with create_stream(settings) as stream:
        assert isinstance(stream, OMEStream)
        for number, frame in enumerate(FRAMES[:4]):
            stream.append(frame, frame_metadata={"delta_t": 0.5 * number, "exposure_time": 0.1, "position_z": 1.0})
    assert stream.closed
    assert_holds(Path(settings.output_path), [FRAMES[:4].reshape(2, 2, 8, 10)])
    validate(Path(settings.output_path))
    axes = document(tmp_path / "cells.ome.zarr")["attributes"]["ome"]["multiscales"][0]["axes"]
    assert [(axis["name"], axis.get("unit")) for axis in axes] == [
        ("t", "second"), ("c", None), ("y", "micrometer"), ("x", "micrometer"),
    ]  # fmt: skip


def test_client_with_dimensions_positions_and_plate(tmp_path: Path, backend: str) -> None:
    """The long way: dimensions one by one, positions on a plate, metadata of frames, images and the dataset."""
    wells = [Position(name="0", plate_row=row, plate_column="1", x_coord=1.0, y_coord=2.0) for row in "AB"]
    settings = AcquisitionSettings(
        root_path=str(tmp_path / "screen"),
        dimensions=[
            Dimension(name="t", count=None, type="time", unit="second", scale=2.0),
            PositionDimension(coords=wells),
            Dimension(name="z", count=2, type="space", unit="micrometer", scale=0.5, chunk_size=2),
            StandardAxis.Y.to_dimension(count=8, scale=0.1),
            StandardAxis.X.to_dimension(count=10, scale=0.1),
        ],
        dtype="uint16",
        plate=Plate.from_standard_wells(96, name="screen"),
        format=OmeZarrFormat(backend=backend, suffix=".ome.zarr"),
    )
    assert settings.output_path == str(tmp_path / "screen.ome.zarr")
    assert settings.num_frames is None
    assert [p.plate_row for p in settings.positions] == ["A", "B"]
    assert settings.position_dimension_index == 1
    stream = create_stream(settings)
    for frame in FRAMES[:6]:
        stream.append(frame)
    stream.skip(frames=1)
    stream.append(FRAMES[7])
    metadata = stream.get_metadata()
    assert list(metadata) == ["A/1/0", "B/1/0"]
    metadata["A/1/0"]["ome"]["omero"] = None
    del metadata["A/1/0"]["ome"]["omero"]
    stream.update_metadata(metadata)
    stream.close()
    stream.set_global_metadata("lab", {"operator": "me"})
    root = Path(settings.output_path)
    expected = FRAMES[:8].copy()
    expected[6] = 0
    assert_holds(root, [expected[[0, 1, 4, 5]].reshape(2, 2, 8, 10), expected[[2, 3, 6, 7]].reshape(2, 2, 8, 10)])
    validate(root)
    assert document(root)["attributes"]["lab"] == {"operator": "me"}


def test_client_that_handles_errors(tmp_path: Path, backend: str) -> None:
    """The exceptions that clients catch are the builtin ones that the old API raised."""
    with pytest.raises(ValueError, match="root_path is required"):
        create_stream(
            AcquisitionSettings(dimensions=dims_from_standard_axes({"y": 8, "x": 10}), dtype="u2", format=backend)
        )
    settings = AcquisitionSettings(
        root_path=tmp_path / "a.ome.zarr",
        dimensions=dims_from_standard_axes({"t": 1, "y": 8, "x": 10}),
        dtype="uint16",
        format=backend,
    )
    with create_stream(settings) as stream:
        stream.append(FRAMES[0])
        with pytest.raises(IndexError):
            stream.append(FRAMES[1])
        with pytest.raises(ValueError, match="frames"):
            stream.skip(frames=0)
        with pytest.raises(KeyError):
            stream.update_metadata({"nowhere": {}})
        with pytest.raises(ValueError, match="ome_writers"):
            stream.set_global_metadata("ome_writers", {"a": 1})
    with pytest.raises(RuntimeError):
        stream.append(FRAMES[0])
    with pytest.raises(FileExistsError):
        create_stream(settings)
    with pytest.raises(ValueError, match="Cannot access 'shape'"):
        _ = AcquisitionSettings().shape


def test_client_that_builds_settings_in_steps(tmp_path: Path, backend: str) -> None:
    """A client such as pymmcore-plus gets settings without dimensions, and fills them in from a sequence."""
    useq = pytest.importorskip("useq")
    given = AcquisitionSettings(root_path=str(tmp_path / "run.ome.zarr"), format=backend)
    sequence = useq.MDASequence(
        axis_order="tpcz",
        time_plan={"interval": 0, "loops": 2},
        stage_positions=[(0, 0, 0), (10, 0, 0)],
        channels=["DAPI", "FITC"],
    )
    derived = useq_to_acquisition_settings(sequence, image_width=10, image_height=8, pixel_size_um=0.25)
    derived["dimensions"] = list(derived["dimensions"])
    merged = AcquisitionSettings.model_validate({**given.model_dump(), **derived, "dtype": "uint16"})
    with create_stream(merged) as stream:
        for frame in FRAMES[:8]:
            stream.append(frame)
    assert_holds(
        tmp_path / "run.ome.zarr",
        [FRAMES[[0, 1, 4, 5]].reshape(2, 2, 8, 10), FRAMES[[2, 3, 6, 7]].reshape(2, 2, 8, 10)],
    )
    ragged = useq.MDASequence(
        channels=[{"config": "DAPI"}, {"config": "FITC", "do_stack": False}], z_plan={"range": 2, "step": 1}
    )
    with pytest.raises(NotImplementedError):
        useq_to_acquisition_settings(ragged, 10, 8)


def test_settings_survive_json(tmp_path: Path, backend: str) -> None:
    """Settings written to a file, as clients do with their configuration, are the same when read back."""
    settings = AcquisitionSettings(
        root_path=tmp_path / "a.ome.zarr",
        dimensions=dims_from_standard_axes({"p": ["a", "b"], "c": ["DAPI"], "y": 8, "x": 10}),
        dtype="uint16",
        format=backend,
    )
    dumped = json.loads(json.dumps(settings.model_dump(mode="json")))
    assert dumped["format"] == {"name": "ome-zarr", "backend": backend, "suffix": ".ome.zarr"}
    restored = AcquisitionSettings.model_validate(dumped)
    assert restored == settings == AcquisitionSettings.model_validate_json(settings.model_dump_json())
    with create_stream(restored) as stream:
        stream.append(FRAMES[0])
        stream.append(FRAMES[1])
    assert [image.shape for image in read_images(tmp_path / "a.ome.zarr")] == [(1, 8, 10)] * 2


def test_nothing_warns(tmp_path: Path, backend: str) -> None:
    """An ordinary acquisition runs without a warning, of this package or a library."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dims = dims_from_standard_axes({"t": None, "y": 8, "x": 10}, {"y": 4, "x": 4}, {"y": 2, "x": 3})
        settings = AcquisitionSettings(
            root_path=tmp_path / "a.ome.zarr", dimensions=dims, dtype="uint16", format=backend, compression="blosc-lz4"
        )
        with create_stream(settings) as stream:
            for frame in FRAMES:
                stream.append(frame)
    assert_holds(tmp_path / "a.ome.zarr", [FRAMES])
