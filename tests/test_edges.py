"""Edges that cross the modules: what is refused rather than silently lost, and what is accepted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
import zarr
from pydantic import ValidationError

from ome_writers import AcquisitionSettings, Dimension, Plate, create_stream, dims_from_standard_axes
from ome_writers.cli import app
from ome_writers.errors import DestinationExistsError, FrameError, MetadataError


def settings(path: Path, **fields: Any) -> AcquisitionSettings:
    """Return the settings of four tiny frames."""
    sizes = {"t": 4, "y": 4, "x": 4}
    return AcquisitionSettings(root_path=path, dtype="uint16", dimensions=dims_from_standard_axes(sizes), **fields)


def test_dataset_that_is_being_written_is_not_replaced(tmp_path: Path) -> None:
    """Even with ``overwrite`` a stream does not take the folder of one that is open; the open one is not disturbed."""
    wanted = settings(tmp_path / "a.ome.zarr", overwrite=True)
    with create_stream(wanted) as stream:
        stream.append(np.ones((4, 4), np.uint16), frame_metadata={"delta_t": 1})
        with pytest.raises(DestinationExistsError, match="being written"):
            create_stream(wanted)
        for _ in range(3):
            stream.append(np.ones((4, 4), np.uint16))
    assert np.asarray(zarr.open_array(str(tmp_path / "a.ome.zarr" / "0"), mode="r")[:]).min() == 1
    create_stream(wanted).close()


def test_masked_pixels_are_refused(tmp_path: Path) -> None:
    """A mask can't be stored, so a masked frame is an error and not silently unmasked."""
    with create_stream(settings(tmp_path / "a.ome.zarr")) as stream:
        with pytest.raises(FrameError, match="masked"):
            stream.append(np.ma.masked_array(np.ones((4, 4), np.uint16), mask=True))
        stream.append(np.ma.masked_array(np.ones((4, 4), np.uint16)))
        assert stream.stats.frames_appended == 1


def test_index_key_of_records_is_reserved(tmp_path: Path) -> None:
    """A key that would be overwritten in the attributes is refused, and not silently lost."""
    with create_stream(settings(tmp_path / "a.ome.zarr")) as stream:
        with pytest.raises(MetadataError, match="storage_index"):
            stream.append(np.ones((4, 4), np.uint16), frame_metadata={"storage_index": 7})
        assert stream.stats.frames_appended == 0


def test_numpy_values_are_metadata_everywhere(tmp_path: Path) -> None:
    """What is allowed as metadata of a frame is allowed as metadata of a group too."""
    with create_stream(settings(tmp_path / "a.ome.zarr")) as stream:
        stream.set_global_metadata("lab", {"x": np.int64(1), "y": np.arange(2)})
        metadata = stream.get_metadata()
        assert metadata["."]["lab"] == {"x": 1, "y": [0, 1]}
        metadata["."]["gain"] = np.float32(0.5)
        stream.update_metadata(metadata)
        assert stream.get_metadata()["."]["gain"] == 0.5


def test_sizes_may_be_numpy_integers() -> None:
    """Sizes taken from an array's shape work like plain integers."""
    sizes: dict[str, Any] = {"t": np.int64(3), "y": 4, "x": 4}
    assert dims_from_standard_axes(sizes)[0].count == 3


def test_absurd_chunks_are_refused_by_the_settings() -> None:
    """A chunk or shard that no library could count is an error of the settings, whichever backend writes."""
    for field in ("chunk_size", "shard_size_chunks"):
        fields: dict[str, Any] = {"name": "t", field: 10**12}
        with pytest.raises(ValidationError, match="less than 2147483648"):
            Dimension(**fields)


def test_dimensions_that_do_not_fit_hide_no_other_fault() -> None:
    """Faults among the dimensions, of the storage order and of the plate are reported together."""
    sizes = [("t", 2), ("T", 2), ("y", 4), ("x", 4)]
    with pytest.raises(ValidationError) as caught:
        AcquisitionSettings(
            dtype="nope",
            dimensions=[Dimension(name=name, count=count) for name, count in sizes],
            storage_order=["q"],
            plate=Plate.from_standard_wells(6),
        )
    assert {fault["loc"][0] for fault in caught.value.errors()} == {"dimensions", "dtype", "storage_order", "plate"}


def test_faulty_dimensions_are_not_kept() -> None:
    """An assignment that fails leaves the settings as they were, and adds nothing to them."""
    wanted = settings(Path("a.ome.zarr"))
    before = wanted.model_dump()
    with pytest.raises(ValidationError):
        wanted.dimensions = (Dimension(name="t", count=1), *wanted.dimensions)
    assert wanted.model_dump() == before
    assert set(wanted.__dict__) == set(AcquisitionSettings.model_fields)


@pytest.mark.parametrize("name", ["v[b", "[red]x", "plain"])
def test_demo_takes_any_name(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Brackets in a path are no markup: the dataset lands where the demo says."""
    app(["demo", str(tmp_path / name), "--frames", "2", "--size", "16"], standalone_mode=False)
    assert (tmp_path / f"{name}.ome.zarr" / "zarr.json").exists()
    assert f"{name}.ome.zarr" in capsys.readouterr().out


def test_demo_without_a_name_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path without a name is wrong usage, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(typer.BadParameter, match="has no name"):
        app(["demo", ".", "--frames", "2", "--size", "16"], standalone_mode=False)
    assert not list(tmp_path.iterdir())
