"""Random acquisitions and every layout, on every backend, equal a model in numpy when four libraries read them back."""

from __future__ import annotations

import itertools
import math
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from ome_writers import AcquisitionSettings, Dimension, Plate, Position, PositionDimension, create_stream
from ome_writers.errors import BufferTooSmallError, UnsupportedError
from ome_writers.testing.strategies import acquisitions
from readers import assert_holds, document, find_images, stored_chunks, validate

MOST_FRAMES = 60
FORMS = ("plain", "fortran", "byteswapped", "strided")


@dataclass(frozen=True)
class Step:
    """What is done next: append frames of some content and memory layout, skip some, or flush."""

    action: str
    frames: int = 1
    content: str = "random"
    form: str = "plain"


def steps() -> st.SearchStrategy[Step]:
    """Draw a step: mostly frames, some of them black, sometimes as many as fill a chunk."""
    content = st.sampled_from(["random", "random", "zero", "extreme"])
    appended = st.builds(Step, st.just("append"), st.sampled_from([1, 2, 8]), content, st.sampled_from(FORMS))
    skipped = st.builds(Step, st.just("skip"), st.integers(1, 7))
    return st.integers(0, 9).flatmap(lambda n: skipped if n == 9 else st.just(Step("flush")) if n == 8 else appended)


@st.composite
def budgets(draw: st.DrawFn) -> dict[str, Any]:
    """Draw buffer settings; 0 bytes stand for the least that is enough."""
    return {
        "max_bytes": draw(st.sampled_from([0, 0, 1 << 30])),
        "workers": draw(st.sampled_from([None, 1, 3])),
        "timeout": 60.0,  # a deadlock fails
    }


def _visits(counts: list[int | None]) -> Iterator[tuple[int, ...]]:
    """Yield the places that an acquisition visits, in order; without end if the first dimension has none."""
    if None not in counts:
        yield from np.ndindex(*[n or 0 for n in counts])
        return
    for first in itertools.count():
        for rest in np.ndindex(*[n or 0 for n in counts[1:]]):
            yield (first, *rest)


class Model:
    """What the images of an acquisition must hold, by ``numpy.ndindex`` and nothing else."""

    def __init__(self, settings: AcquisitionSettings) -> None:
        self.dtype = np.dtype(settings.dtype)
        *index, height, width = settings.dimensions
        self.frame_shape = height.count or 0, width.count or 0
        self.names = [d.name for d in index]
        # an image has five axes at most: of four index dimensions the custom one makes images of their own
        four = sum(d.type != "position" for d in index) == 4
        self.image_names = [d.name for d in index if d.type == "position" or (four and d.type == "other")]
        self.image_names.sort(key=lambda name: name != "p")
        self.counts = {d.name: d.count for d in index}
        self._places = _visits([d.count for d in index])
        self.frames: dict[tuple[int, ...], npt.NDArray[Any] | None] = {}

    @property
    def total(self) -> float:
        """Number of frames that can be acquired."""
        return math.prod(math.inf if n is None else n for n in self.counts.values())

    def add(self, frame: npt.NDArray[Any] | None) -> None:
        """Take the next frame; None for one that is skipped."""
        self.frames[next(self._places)] = frame

    def steps_of(self, place: tuple[int, ...]) -> tuple[int, dict[str, int]]:
        """Return the number of the image at a place, and the steps along the axes of that image."""
        steps = dict(zip(self.names, place, strict=True))
        image = 0
        for name in self.image_names:
            image = image * (self.counts[name] or 0) + steps.pop(name)
        return image, steps

    def images(self, axes: tuple[str, ...]) -> list[npt.NDArray[Any]]:
        """Return all images, axes in the order of their names."""
        number = math.prod(self.counts[name] or 0 for name in self.image_names)
        begun = [0] * number  # steps of an unbounded axis
        for place in self.frames:
            image, _ = self.steps_of(place)
            begun[image] = max(begun[image], place[0] + 1 if place else 1)
        images = []
        for image in range(number):
            shape = [n if (n := self.counts[name]) is not None else begun[image] for name in axes[:-2]]
            images.append(np.zeros((*shape, *self.frame_shape), self.dtype))
        for place, frame in self.frames.items():
            image, steps = self.steps_of(place)
            if frame is not None:
                images[image][tuple(steps[name] for name in axes[:-2])] = frame
        return images

    def chunks(self, axes: tuple[str, ...], chunks: tuple[int, ...]) -> list[dict[tuple[int, ...], bool]]:
        """Return for each image the chunks that a frame was acquired for, and whether all pixels in it are 0."""
        number = math.prod(self.counts[name] or 0 for name in self.image_names)
        found: list[dict[tuple[int, ...], bool]] = [{} for _ in range(number)]
        grid = [-(-n // c) for n, c in zip(self.frame_shape, chunks[-2:], strict=True)]
        for place, frame in self.frames.items():
            if frame is None:
                continue
            image, steps = self.steps_of(place)
            cell = tuple(steps[name] // c for name, c in zip(axes[:-2], chunks, strict=False))
            for y, x in np.ndindex(*grid):
                planes = [slice(i * c, (i + 1) * c) for i, c in zip((y, x), chunks[-2:], strict=True)]
                black = not frame[tuple(planes)].any()
                found[image][*cell, y, x] = black and found[image].get((*cell, y, x), True)
        return found


class Camera:
    """Makes frames in one buffer, which it uses again for the next frame."""

    def __init__(self, shape: tuple[int, int], dtype: str, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._shape = shape
        self._dtype = np.dtype(dtype)
        self._buffers = {
            "plain": np.empty(shape, self._dtype),
            "fortran": np.empty(shape, self._dtype, order="F"),
            "byteswapped": np.empty(shape, self._dtype.newbyteorder()),
            "strided": np.empty((2 * shape[0], 3 * shape[1]), self._dtype)[::2, ::-3],
        }

    def expose(self, content: str) -> npt.NDArray[Any]:
        """Return a new frame in native byte order."""
        if content == "zero":
            return np.zeros(self._shape, self._dtype)
        if self._dtype.kind == "f":
            if content == "extreme":
                values = [np.nan, np.inf, -np.inf, -0.0, np.finfo(self._dtype).max, np.finfo(self._dtype).tiny]
                return self._random.choice(np.array(values, self._dtype), self._shape)
            return self._random.normal(0, 100, self._shape).astype(self._dtype)
        limits = np.iinfo(self._dtype)
        if content == "extreme":
            return self._random.choice(np.array([limits.min, limits.max], self._dtype), self._shape)
        return self._random.integers(limits.min, limits.max, self._shape, self._dtype, endpoint=True)

    def grab(self, pixels: npt.NDArray[Any], form: str) -> npt.NDArray[Any]:
        """Return a frame as the buffer of some memory layout."""
        buffer = self._buffers[form]
        buffer[...] = pixels
        return buffer

    def overwrite(self, form: str) -> None:
        """Begin the next exposure: what the buffer held is gone."""
        self._buffers[form][...] = 77


def acquire_zarr_limit(settings: AcquisitionSettings) -> bool:
    """Tell whether the acquisition is one that acquire-zarr is documented not to write."""
    stored = [d for d in settings.index_dimensions if d in settings.storage_index_dimensions]
    return settings.dtype == "float16" or (bool(stored) and settings.storage_index_dimensions[0] != stored[0])


def run(settings: AcquisitionSettings, plan: list[Step], *, complete: bool, seed: int) -> Model:
    """Acquire: carry out the plan once, or again and again until the acquisition is complete."""
    model = Model(settings)
    camera = Camera(model.frame_shape, settings.dtype, seed)
    enough = min(model.total, MOST_FRAMES)
    with create_stream(settings) as stream:
        for step in itertools.cycle([*plan, Step("append")]) if complete else plan:
            frames = int(min(step.frames, enough - len(model.frames)))
            if not frames:
                break
            if step.action == "skip":
                stream.skip(frames=frames)
                for _ in range(frames):
                    model.add(None)
            elif step.action == "flush":
                stream.flush()
            else:
                for _ in range(frames):
                    pixels = camera.expose(step.content)
                    stream.append(camera.grab(pixels, step.form))
                    camera.overwrite(step.form)
                    model.add(pixels)
        stats = stream.stats
        assert stats.frames_appended + stats.frames_skipped == len(model.frames)
        assert stats.max_buffered_bytes <= stats.buffer_bytes <= settings.buffer.allowed_bytes
    assert stream.stats.frames_written == sum(frame is not None for frame in model.frames.values())
    return model


def with_least_memory(settings: AcquisitionSettings) -> AcquisitionSettings:
    """Return the settings with the budget that the refusal of a smaller one names."""
    settings = settings.model_copy(update={"buffer": settings.buffer.model_copy(update={"max_bytes": 1})})
    with pytest.raises(BufferTooSmallError, match="Allow at least") as refusal:
        create_stream(settings)
    assert not Path(settings.output_path).exists()
    found = re.search(r"at least ([\d,]+) bytes", str(refusal.value))
    assert found
    least = int(found[1].replace(",", ""))
    return settings.model_copy(update={"buffer": settings.buffer.model_copy(update={"max_bytes": least})})


@given(
    drawn=acquisitions(max_index_dims=4),
    budget=budgets(),
    plan=st.lists(steps(), min_size=1, max_size=20),
    complete=st.booleans(),
    seed=st.integers(0, 1 << 32),
)
@pytest.mark.timeout(1800)
def test_random_acquisitions_equal_the_model(
    tmp_path_factory: pytest.TempPathFactory,
    backend: str,
    drawn: AcquisitionSettings,
    budget: dict[str, Any],
    plan: list[Step],
    complete: bool,
    seed: int,
) -> None:
    """Every frame is where ``numpy.ndindex`` says, whatever the geometry, the budget and the camera's buffers.

    What was skipped or not acquired reads as 0; black frames are stored like others; shapes are those declared, or the
    steps begun of an unbounded dimension. A backend refuses what it can't do in ``create_stream``, and nothing else.
    """
    folder = tmp_path_factory.mktemp("acquisition")
    settings = AcquisitionSettings(
        **{name: value for name, value in drawn if name not in ("root_path", "format", "buffer")},
        root_path=folder / "a.ome.zarr",
        format=backend,
        buffer={**budget, "max_bytes": budget["max_bytes"] or 1 << 30},
    )
    if backend == "acquire-zarr" and acquire_zarr_limit(settings):
        with pytest.raises(UnsupportedError, match="tensorstore"):
            create_stream(settings)
        assert not any(folder.iterdir())
        event("refused")
        return
    if not budget["max_bytes"]:
        settings = with_least_memory(settings)
    model = run(settings, plan, complete=complete, seed=seed)
    root = Path(settings.output_path)
    (axes,) = {image.axes for image in find_images(root)}
    assert_holds(root, model.images(axes))
    check_stored_chunks(root, model)
    validate(root)
    shutil.rmtree(folder)


def check_stored_chunks(root: Path, model: Model) -> None:
    """Check that chunks are in the files if and only if a frame was acquired for them, black ones too."""
    for number, image in enumerate(find_images(root)):
        metadata = document(root / image.array)
        codec = metadata["codecs"][0]["configuration"]
        chunks = tuple(codec.get("chunk_shape") or metadata["chunk_grid"]["configuration"]["chunk_shape"])
        acquired = model.chunks(image.axes, chunks)[number]
        stored = stored_chunks(root / image.array)
        assert acquired.keys() <= stored, "chunks of frames that were acquired are not in the files"
        assert acquired.keys() == stored, "chunks are in the files that no frame was acquired for"


# ---- layouts -------------------------------------------------------------------------------------------------------

FRAME = [Dimension(name="y", count=6, chunk_size=4), Dimension(name="x", count=5)]
TIME = Dimension(name="t", count=3, chunk_size=2, shard_size_chunks=2, unit="s", scale=0.5)
ENDLESS = Dimension(name="t", chunk_size=2, shard_size_chunks=2)
CHANNELS = Dimension(name="c", coords=["DAPI", "FITC"])
DEPTH = Dimension(name="z", count=3, chunk_size=3, scale=2.0)
ANGLES = Dimension(name="angle", coords=[0.0, 90.0])
SITES = PositionDimension(coords=["a", "b"])
GRID = PositionDimension(coords=[Position(name="p", grid_row=0, grid_column=c) for c in (0, 1)])
WELLS = [("0", "A", "1"), ("1", "A", "1"), ("0", "B", "3")]
FIELDS = PositionDimension(coords=[Position(name=n, plate_row=r, plate_column=c) for n, r, c in WELLS])
GRID_ON_PLATE = PositionDimension(
    coords=[Position(name="f", plate_row="A", plate_column="1", grid_row=0, grid_column=c) for c in (0, 1)]
)
PLATE = {"plate": Plate.from_standard_wells(6, name="screen")}


@dataclass(frozen=True)
class Layout:
    """An acquisition, its image groups in the order of the metadata, and the names of its stored index axes."""

    dimensions: list[Dimension]
    groups: list[str]
    axes: str
    fields: dict[str, Any] = field(default_factory=dict)


LAYOUTS = {
    "frame": Layout([], ["."], ""),
    "single": Layout([TIME, CHANNELS, DEPTH], ["."], "tcz"),
    "unbounded": Layout([ENDLESS, CHANNELS], ["."], "tc"),
    "one position": Layout([PositionDimension(coords=["only"]), TIME], ["."], "t"),
    "positions only": Layout([SITES], ["a", "b"], ""),
    "positions first": Layout([SITES, TIME, CHANNELS], ["a", "b"], "tc"),
    "positions in the middle": Layout([TIME, SITES, CHANNELS], ["a", "b"], "tc"),
    "positions last": Layout([TIME, CHANNELS, SITES], ["a", "b"], "tc"),
    "numbered positions": Layout([TIME, PositionDimension(count=2)], ["0", "1"], "t"),
    "unbounded with positions": Layout([ENDLESS, SITES, DEPTH], ["a", "b"], "tz"),
    "grid": Layout([TIME, GRID], ["p_0_0", "p_0_1"], "t"),
    "plate": Layout([FIELDS, TIME], ["A/1/0", "A/1/1", "B/3/0"], "t", PLATE),
    "plate with fields inside": Layout([TIME, FIELDS, CHANNELS], ["A/1/0", "A/1/1", "B/3/0"], "tc", PLATE),
    "plate of a grid": Layout([TIME, GRID_ON_PLATE], ["A/1/fr0c0", "A/1/fr0c1"], "t", PLATE),
    "split": Layout([TIME, ANGLES, CHANNELS, DEPTH], ["angle-0", "angle-1"], "tcz"),
    "split with positions": Layout(
        [TIME, ANGLES, SITES, CHANNELS, DEPTH], ["a_angle-0", "a_angle-1", "b_angle-0", "b_angle-1"], "tcz"
    ),
    "split on a plate": Layout(
        [FIELDS, TIME, ANGLES, CHANNELS, DEPTH],
        [f"{w}angle{i}" for w in ("A/1/0", "A/1/1", "B/3/0") for i in (0, 1)],
        "tcz",
        PLATE,
    ),
    "custom axis": Layout([TIME, ANGLES, DEPTH], ["."], "t,angle,z"),
    "stored as listed": Layout([TIME, DEPTH, CHANNELS], ["."], "tcz", {"storage_order": ["t", "c", "z"]}),
    "stored as acquired": Layout([TIME, CHANNELS, DEPTH], ["."], "tcz", {"storage_order": "acquisition"}),
    "stored as OME wants": Layout([TIME, DEPTH, CHANNELS], ["."], "tcz", {"storage_order": "ome"}),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_layouts(tmp_path: Path, backend: str, layout: Layout) -> None:
    """Every layout has the groups that clients look for, is valid from the first moment on, and reads back."""
    root = tmp_path / "a.ome.zarr"
    settings = AcquisitionSettings(
        root_path=root,
        dimensions=[*layout.dimensions, *FRAME],
        dtype="uint16",
        format=backend,
        **layout.fields,
    )
    axes = (*(layout.axes.split(",") if "," in layout.axes else layout.axes), "y", "x")
    model, camera = Model(settings), Camera((6, 5), "uint16", seed=1)
    frames = settings.num_frames or 5 * 6
    with create_stream(settings) as stream:
        check_layout(root, layout, axes)
        assert list(stream.get_metadata()) == layout.groups
        for number in range(frames):
            pixels = camera.expose("random")
            stream.append(pixels, frame_metadata={"delta_t": number / 10})
            model.add(pixels)
            if number == frames // 2:
                stream.flush()
                check_layout(root, layout, axes)
    check_layout(root, layout, axes)
    assert_holds(root, model.images(axes))


def check_layout(root: Path, layout: Layout, axes: tuple[str, ...]) -> None:
    """Check the paths and axes of all images, that there are no other groups, and that all is valid."""
    images = find_images(root)
    assert [image.group for image in images] == layout.groups
    assert [image.array for image in images] == ["0" if g == "." else f"{g}/0" for g in layout.groups]
    assert {image.axes for image in images} == {axes}
    kind = "plate" if "plate" in layout.fields else "collection" if layout.groups != ["."] else "image"
    folders = {PurePosixPath(image.array) for image in images}
    expected = {str(parent) for folder in folders for parent in (folder, *folder.parents)} | {"ome_writers"}
    found = {file.parent.relative_to(root).as_posix() for file in root.rglob("zarr.json")}
    assert found == expected | ({"OME"} if kind == "collection" else set())
    assert (root / "OME" / "METADATA.ome.xml").exists() == (kind == "collection")
    validate(root)
