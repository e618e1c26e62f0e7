"""Planned sizes of chunks and shards: near their targets, within the budget, and never against the user."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ome_writers import (
    AcquisitionSettings,
    BufferSettings,
    Chunking,
    Codec,
    Dimension,
    OmeZarrFormat,
    PositionDimension,
    create_stream,
)
from ome_writers._layout import ArrayGeometry, plan_layout
from ome_writers.abc import WritePlan
from ome_writers.backends._registry import load_backend
from ome_writers.backends.direct import DirectSink
from ome_writers.backends.tensorstore import TensorStoreSink
from ome_writers.engine import plan_memory
from ome_writers.errors import BufferTooSmallError, SettingsError
from ome_writers.testing.strategies import acquisitions, declarations
from readers import assert_holds, document, read_with_zarr, validate

Counts = dict[str, int | None]
DIRECT = OmeZarrFormat(backend="direct")
"""The format with a backend that streams shards."""


def planned(index: Counts, frame: tuple[int, int], dtype: str = "uint16", **fields: Any) -> AcquisitionSettings:
    """Return settings with planned chunks for a backend that gathers whole shards; ``index`` is slowest first."""
    sizes = {**index, "y": frame[0], "x": frame[1]}
    dimensions = [Dimension(name=name, count=count) for name, count in sizes.items()]
    fixed: dict[str, Any] = {"dimensions": dimensions, "dtype": dtype, "chunking": "auto", "format": "tensorstore"}
    return AcquisitionSettings(**{**fixed, **fields})


def with_sizes(settings: AcquisitionSettings, **sizes: dict[str, Any]) -> AcquisitionSettings:
    """Return settings with sizes of chunks and shards given for some dimensions."""
    dimensions = tuple(d.model_copy(update=sizes.get(d.name, {})) for d in settings.dimensions)
    return settings.model_copy(update={"dimensions": dimensions})


def streamed(settings: AcquisitionSettings) -> AcquisitionSettings:
    """Return settings for a backend that keeps no shard in memory."""
    return settings.model_copy(update={"format": DIRECT})


def chunk_bytes(geometry: ArrayGeometry) -> int:
    return math.prod(geometry.chunks) * np.dtype(geometry.dtype).itemsize


def shard_bytes(geometry: ArrayGeometry) -> int:
    return math.prod(geometry.shards or geometry.chunks) * np.dtype(geometry.dtype).itemsize


def chunks_per_shard(geometry: ArrayGeometry) -> int:
    return math.prod(s // c for s, c in zip(geometry.shards or geometry.chunks, geometry.chunks, strict=True))


@st.composite
def large_acquisitions(draw: st.DrawFn) -> AcquisitionSettings:
    """Draw an acquisition as microscopes make them, too large to be written in a test, with no or few sizes given."""
    names: list[str] = draw(st.permutations(["t", "c", "z", "angle"]))
    names = names[: draw(st.integers(0, 3))]
    limits = {"t": 200_000, "c": 6, "z": 500, "angle": 8}
    dimensions = [Dimension(name=n, count=draw(st.integers(1, limits[n]))) for n in names]
    if draw(st.booleans()) and names:
        dimensions[0] = Dimension(name=names[0], count=None)
    if draw(st.booleans()):
        place = draw(st.integers(1 if names and dimensions[0].count is None else 0, len(names)))
        dimensions.insert(place, PositionDimension(count=draw(st.integers(1, 400))))
    dimensions += [Dimension(name=name, count=draw(st.integers(1, 8192))) for name in ("y", "x")]
    dtype = draw(st.sampled_from(["uint8", "uint16", "float32", "float64"]))
    return AcquisitionSettings(dimensions=dimensions, dtype=dtype)


@st.composite
def with_given_sizes(draw: st.DrawFn) -> AcquisitionSettings:
    """Draw a large acquisition with some sizes given."""
    settings = draw(large_acquisitions())
    given_sizes = st.fixed_dictionaries(
        {"chunk_size": st.none() | st.integers(1, 3000), "shard_size_chunks": st.none() | st.integers(1, 300)}
    )
    return with_sizes(settings, **{d.name: draw(given_sizes) for d in settings.dimensions if d.type != "position"})


CHUNKINGS = st.just("auto") | st.builds(
    Chunking, chunk_bytes=st.integers(1, 1 << 29), shard_bytes=st.integers(1, 1 << 40)
)
DECLARED = declarations().filter(lambda s: bool(s.dimensions and s.dtype))


class WithoutIndices(DirectSink):
    """Takes no memory for the indices of shards, which only chunks of a few bytes make large."""

    @classmethod
    def memory_needed(cls, plan: WritePlan) -> int:
        """Return nothing."""
        return 0


def is_refused(settings: AcquisitionSettings) -> bool:
    """Tell whether the backend would refuse the acquisition for its need of memory."""
    sink = WithoutIndices if settings.format.backend in ("auto", "direct") else TensorStoreSink
    try:
        plan_memory(sink, WritePlan(Path(), plan_layout(settings), Codec(name="none"), {}), settings.buffer)
    except BufferTooSmallError:
        return True
    return False


# ---- typical acquisitions ----------------------------------------------------------------------------------------

TYPICAL: dict[str, tuple[AcquisitionSettings, tuple[int, ...], tuple[int, ...] | None]] = {
    "2048 camera": (planned({"t": 1000}, (2048, 2048)), (1, 512, 512), (16, 2048, 2048)),
    "2048 camera, unbounded": (planned({"t": None}, (2048, 2048)), (1, 512, 512), (16, 2048, 2048)),
    "2048 camera, streamed": (streamed(planned({"t": None}, (2048, 2048))), (1, 512, 512), (32, 2048, 2048)),
    "2048 camera, 8 bits": (planned({"t": 1000}, (2048, 2048), "uint8"), (1, 1024, 1024), (32, 2048, 2048)),
    "2048 camera, floats": (planned({"t": 1000}, (2048, 2048), "float32"), (1, 512, 512), (8, 2048, 2048)),
    "2304 camera": (planned({"t": 1000}, (2304, 2304)), (1, 576, 576), (12, 2304, 2304)),
    "3200 camera": (planned({"t": 1000}, (3200, 3200)), (1, 640, 640), (6, 3200, 3200)),
    "2160 x 2560 camera": (planned({"t": 1000}, (2160, 2560)), (1, 540, 512), (12, 2160, 2560)),
    "1030 x 1300 camera": (planned({"t": 1000}, (1030, 1300)), (1, 515, 650), (50, 1030, 1300)),
    "small and fast": (planned({"t": 100_000}, (128, 128)), (16, 128, 128), (4000, 128, 128)),
    "small and fast, unbounded": (planned({"t": None}, (128, 128)), (16, 128, 128), (4096, 128, 128)),
    "stacks of small frames": (
        planned({"t": 100, "c": 3, "z": 20}, (128, 128)), (1, 1, 20, 128, 128), (50, 3, 20, 128, 128)
    ),
    "light sheet": (planned({"t": 100, "z": 200, "c": 2}, (2048, 2048)), (1, 1, 1, 512, 512), (1, 2, 8, 2048, 2048)),
    "light sheet, channels apart": (
        planned({"t": 100, "c": 2, "z": 200}, (2048, 2048)), (1, 1, 1, 512, 512), (1, 1, 16, 2048, 2048)
    ),
    "light sheet, deep chunks": (
        with_sizes(planned({"t": 100, "z": 200, "c": 2}, (2048, 2048)), z={"chunk_size": 16}),
        (1, 1, 16, 128, 128), (1, 1, 16, 2048, 2048)
    ),
    "plate, 96 wells of 4 fields": (
        planned({"t": 48, "p": 384, "c": 3, "z": 5}, (2048, 2048)), (1, 1, 1, 512, 512), (1, 3, 5, 2048, 2048)
    ),
    "plate, one plane": (planned({"t": 48, "p": 384}, (2048, 2048)), (1, 512, 512), (1, 2048, 2048)),
    "positions": (planned({"t": 100, "p": 24, "c": 2}, (1024, 1024)), (1, 1, 512, 512), (2, 2, 1024, 1024)),
    "positions, streamed": (
        streamed(planned({"t": 100, "p": 24, "c": 2}, (1024, 1024))), (1, 1, 512, 512), (50, 2, 1024, 1024)
    ),
    "one small frame": (planned({}, (512, 512)), (512, 512), None),
    "one frame": (planned({}, (2048, 2048)), (512, 512), (2048, 2048)),
    "line scan": (planned({"t": None}, (1, 4096)), (64, 1, 4096), (16384, 1, 4096)),
}  # fmt: skip


@pytest.mark.parametrize("name", TYPICAL)
def test_typical_acquisitions(name: str) -> None:
    """What is planned for common cameras and orders is what was thought through for them."""
    settings, chunks, shards = TYPICAL[name]
    geometry = plan_layout(settings).geometry
    assert (geometry.chunks, geometry.shards) == (chunks, shards)
    assert not is_refused(settings)


def test_auto_is_planned_for_what_it_takes() -> None:
    """``"auto"`` takes the backend that streams shards, and shards are planned for it."""
    settings = planned({"t": 100, "p": 24, "c": 2}, (1024, 1024), format="auto")
    assert load_backend("auto") is DirectSink
    assert settings.planned_dimensions == streamed(settings).planned_dimensions
    assert plan_layout(settings).geometry.shards == (50, 2, 1024, 1024)


# ---- properties --------------------------------------------------------------------------------------------------


@given(large_acquisitions() | with_given_sizes() | acquisitions() | DECLARED, CHUNKINGS)
def test_plans_are_valid(settings: AcquisitionSettings, chunking: Any) -> None:
    """Every plan is a grid that Zarr allows, keeps the sizes that are given, and fits into memory if any does."""
    wanted = settings.model_copy(update={"chunking": chunking})
    stored = {d.name for d in settings.array_storage_dimensions}
    for d, plan in zip(settings.dimensions, wanted.planned_dimensions, strict=True):
        if d.name not in stored:
            assert plan == d
            continue
        assert plan.chunk_size == d.chunk_size if d.chunk_size else plan.chunk_size
        assert d.shard_size_chunks in (None, plan.shard_size_chunks)
        assert type(plan).model_validate(plan.model_dump()).chunk_size == plan.chunk_size
    geometry = plan_layout(wanted).geometry
    for axis, (count, chunk) in enumerate(zip(geometry.shape, geometry.chunks, strict=True)):
        shard = chunk if geometry.shards is None else geometry.shards[axis]
        assert shard % chunk == 0
        assert count is None or (chunk <= count and shard - chunk < count)
    assert not is_refused(wanted) or is_refused(settings)


@given(large_acquisitions(), st.booleans())
def test_plans_meet_the_targets(settings: AcquisitionSettings, streams: bool) -> None:
    """Chunks of large frames are within a factor of 3 of the target; shards are no larger than theirs or one frame."""
    backend = "direct" if streams else "tensorstore"
    settings = settings.model_copy(update={"chunking": "auto", "format": OmeZarrFormat(backend=backend)})
    layout, targets = plan_layout(settings), Chunking()
    geometry = layout.geometry
    assert chunk_bytes(geometry) <= 3 * targets.chunk_bytes
    if geometry.frame_bytes >= targets.chunk_bytes:
        assert 3 * chunk_bytes(geometry) >= targets.chunk_bytes
    plane = shard_bytes(geometry) // math.prod((geometry.shards or geometry.chunks)[:-2])
    assert shard_bytes(geometry) <= max(targets.shard_bytes, plane)
    assert chunks_per_shard(geometry) <= 1 << 14
    blocks = layout.open_blocks(geometry.index_extent("shard"))
    if streams:
        assert blocks <= 128
    elif blocks > 1:
        assert (
            blocks * math.prod(geometry.index_extent("shard")) * geometry.frame_bytes
            <= settings.buffer.allowed_bytes // 4
        )


@given(st.none() | st.integers(1, 100_000), st.integers(512, 4096), st.integers(512, 4096))
def test_long_acquisitions_make_few_files(count: int | None, height: int, width: int) -> None:
    """A plain time series has shards of at least half of what memory allows, or a single one."""
    geometry = plan_layout(planned({"t": count}, (height, width))).geometry
    steps = geometry.index_extent("shard")[0]
    assert steps == count or steps * geometry.frame_bytes >= (1 << 27) // 2 - geometry.frame_bytes


@given(large_acquisitions(), st.integers(1, 1 << 33), st.booleans())
def test_plans_keep_to_the_budget(settings: AcquisitionSettings, max_bytes: int, streams: bool) -> None:
    """With any budget, an acquisition that fits frame by frame fits as planned."""
    backend = "direct" if streams else "tensorstore"
    settings = settings.model_copy(
        update={"buffer": BufferSettings(max_bytes=max_bytes), "format": OmeZarrFormat(backend=backend)}
    )
    assert not is_refused(settings.model_copy(update={"chunking": "auto"})) or is_refused(settings)


@given(acquisitions() | DECLARED, CHUNKINGS)
def test_settings_stay_as_they_are(settings: AcquisitionSettings, chunking: Any) -> None:
    """Planning changes nothing that the user declared, and JSON gives back equal settings with an equal plan."""
    settings = settings.model_copy(update={"chunking": chunking})
    before, plan = settings.model_copy(deep=True), settings.planned_dimensions
    again = AcquisitionSettings.model_validate_json(settings.model_dump_json())
    assert settings == before == again
    assert again.planned_dimensions == plan == settings.planned_dimensions


# ---- what the user says ------------------------------------------------------------------------------------------


def test_nothing_is_planned_unless_asked_for() -> None:
    """Without ``chunking`` the dimensions are as they are, and a chunk is one frame."""
    settings = planned({"t": 1000}, (2048, 2048), chunking=None)
    assert settings.planned_dimensions == settings.dimensions
    assert plan_layout(settings).geometry.chunks == (1, 2048, 2048)


@pytest.mark.parametrize(
    ("sizes", "chunks", "shards"),
    [
        ({"y": {"chunk_size": 256}}, (1, 256, 1024), (16, 2048, 2048)),
        ({"y": {"chunk_size": 2048}, "x": {"chunk_size": 2048}}, (1, 2048, 2048), (16, 2048, 2048)),
        ({"t": {"chunk_size": 4}}, (4, 256, 256), (16, 2048, 2048)),
        ({"t": {"chunk_size": 500}}, (500, 128, 128), (500, 2048, 2048)),
        ({"t": {"shard_size_chunks": 3}}, (1, 512, 512), (3, 2048, 2048)),
        ({"y": {"shard_size_chunks": 2}}, (1, 512, 512), (16, 1024, 2048)),
    ],
)
def test_given_sizes_win(sizes: dict[str, Any], chunks: tuple[int, ...], shards: tuple[int, ...]) -> None:
    """A size that is given stays, and the others are planned around it."""
    geometry = plan_layout(with_sizes(planned({"t": 1000}, (2048, 2048)), **sizes)).geometry
    assert (geometry.chunks, geometry.shards) == (chunks, shards)


def test_own_targets() -> None:
    """Targets of the user's own are aimed at; with less than two chunks in a shard there are no shards."""
    settings = planned({"t": 1000}, (2048, 2048), chunking=Chunking(chunk_bytes=1 << 23, shard_bytes=1 << 25))
    assert plan_layout(settings).geometry.shards == (4, 2048, 2048)
    settings.chunking = Chunking(shard_bytes=1)
    assert plan_layout(settings).geometry.shards is None
    settings.chunking = {"chunk_bytes": 1 << 17}  # type: ignore[assignment]
    assert plan_layout(settings).geometry.chunks == (1, 256, 256)


@pytest.mark.parametrize("wrong", ["small", 17, {"chunk_bytes": 0}, {"chunk_bytes": 1 << 30}, {"bytes": 5}, Chunking])
def test_wrong_targets_are_refused(wrong: Any) -> None:
    """What is neither ``"auto"`` nor targets is an error that names the field."""
    with pytest.raises(ValueError, match="chunking"):
        AcquisitionSettings(chunking=wrong)


def test_changes_are_planned_anew() -> None:
    """The plan follows the dtype, the dimensions and the budget, whenever they change."""
    settings = planned({"t": 1000}, (2048, 2048))
    settings.dtype = "float64"
    assert plan_layout(settings).geometry.chunks == (1, 256, 256)
    settings.buffer.max_bytes = 1 << 28
    assert plan_layout(settings).geometry.shards == (1, 2048, 2048)
    settings.dimensions = settings.dimensions[1:]
    assert plan_layout(settings).geometry.chunks == (256, 256)


def test_incomplete_settings(tmp_path: Path) -> None:
    """Settings may be incomplete; a plan is refused without a dtype, and a stream names what is missing."""
    with pytest.raises(SettingsError, match="no dimensions yet"):
        _ = AcquisitionSettings(chunking="auto").planned_dimensions
    settings = planned({"t": 3}, (16, 16), "", root_path=tmp_path / "a.zarr")
    with pytest.raises(SettingsError, match="no dtype yet"):
        _ = settings.planned_dimensions
    with pytest.raises(SettingsError, match="dtype is required"):
        create_stream(settings)


def test_channels_are_kept_apart() -> None:
    """A chunk of small frames never spans channels or dimensions of other types: these are looked at one by one."""
    for name in ("c", "angle"):
        assert plan_layout(planned({"t": 1, name: 50}, (64, 64))).geometry.chunks[1] == 1


def test_a_budget_too_small_for_shards() -> None:
    """Where memory holds no more than single frames, a shard is a frame; where not even these, nothing is larger."""
    for max_bytes in (1, 1 << 26):
        settings = planned({"t": 100, "z": 50}, (2048, 2048), buffer=BufferSettings(max_bytes=max_bytes))
        assert plan_layout(settings).geometry.shards == (1, 1, 2048, 2048)


# ---- on disk -----------------------------------------------------------------------------------------------------


def test_planned_chunks_on_disk(backend: str, tmp_path: Path) -> None:
    """What is planned is what is written, through every backend, and reads back bit by bit."""
    settings = planned(
        {"t": 5, "c": 2, "z": 6},
        (96, 130),
        root_path=tmp_path / "a.zarr",
        format=backend,
        chunking=Chunking(chunk_bytes=1 << 16, shard_bytes=1 << 19),
        compression="zstd",
    )
    frames = np.random.default_rng(0).integers(1, 1 << 16, (5, 2, 6, 96, 130), np.uint16)
    with create_stream(settings) as stream:
        for frame in frames.reshape(-1, 96, 130):
            stream.append(frame)
    validate(tmp_path / "a.zarr")
    assert_holds(tmp_path / "a.zarr", [frames])
    np.testing.assert_array_equal(read_with_zarr(tmp_path / "a.zarr" / "0")[0], frames)
    metadata = document(tmp_path / "a.zarr" / "0")
    (codec,) = metadata["codecs"]
    by_name = {d.name: d for d in settings.planned_dimensions}
    sizes = [by_name[name] for name in metadata["dimension_names"]]
    assert codec["configuration"]["chunk_shape"] == [d.chunk_size for d in sizes]
    assert metadata["chunk_grid"]["configuration"]["chunk_shape"] == [
        (d.chunk_size or 0) * (d.shard_size_chunks or 0) for d in sizes
    ]
