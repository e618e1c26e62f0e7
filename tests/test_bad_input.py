"""Bad input is a clear error, on every backend, and nothing is lost: the stream goes on and the dataset is complete."""

from __future__ import annotations

import importlib.util
import re
import shutil
import threading
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ome_writers import AcquisitionSettings, Dimension, OMEStream, OMEWritersError, create_stream
from ome_writers.backends._registry import available_backends
from ome_writers.errors import (
    BackendMissingError,
    BufferTooSmallError,
    DestinationExistsError,
    FrameCountError,
    FrameError,
    MetadataError,
    SettingsError,
    StreamClosedError,
    WriteError,
)
from readers import assert_holds, validate

HEIGHT, WIDTH = 6, 10
FRAMES = np.random.default_rng(0).integers(1, 1 << 16, (5, HEIGHT, WIDTH), np.uint16)


def settings_for(path: Path, backend: str, *, count: int | None = 5, **fields: Any) -> AcquisitionSettings:
    """Return settings of a time lapse in sharded chunks that its five frames do not fill."""
    return AcquisitionSettings(
        root_path=path,
        dimensions=[
            Dimension(name="t", count=count, chunk_size=2, shard_size_chunks=2),
            Dimension(name="y", count=HEIGHT, chunk_size=4, shard_size_chunks=2),
            Dimension(name="x", count=WIDTH, chunk_size=10, shard_size_chunks=1),
        ],
        dtype=fields.pop("dtype", "uint16"),
        format=backend,
        **fields,
    )


def tree(folder: Path) -> dict[str, bytes | None]:
    """Return the content of all files and the names of all folders below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


# ---- frames --------------------------------------------------------------------------------------------------------

BAD_FRAMES: dict[str, tuple[Any, str]] = {
    "too high": (np.ones((HEIGHT + 1, WIDTH), np.uint16), r"\(7, 10\).*\(6, 10\)"),
    "transposed": (np.ones((WIDTH, HEIGHT), np.uint16), r"\(10, 6\).*\(6, 10\)"),
    "of the same size": (np.ones((HEIGHT // 2, WIDTH * 2), np.uint16), r"\(3, 20\)"),
    "empty": (np.ones((0, WIDTH), np.uint16), r"\(0, 10\)"),
    "three dimensions": (np.ones((1, HEIGHT, WIDTH), np.uint16), "2 dimensions, not 3"),
    "colours": (np.ones((HEIGHT, WIDTH, 3), np.uint16), "2 dimensions, not 3"),
    "one dimension": (np.ones(HEIGHT * WIDTH, np.uint16), "2 dimensions, not 1"),
    "a number": (7, "2 dimensions, not 0"),
    "None": (None, "None"),
    "a text": ("frame", "shape"),
    "list of another shape": ([[1, 2], [3, 4]], r"\(2, 2\)"),
    "ragged list": ([[1, 2], [3]], "can't be made an array"),
    "list with values too large": ([[1 << 16] * WIDTH] * HEIGHT, "without loss"),
    "list with fractions": ([[0.5] * WIDTH] * HEIGHT, "without loss"),
    "list of None": ([[None] * WIDTH] * HEIGHT, "object"),
    "wider integers": (np.ones((HEIGHT, WIDTH), np.uint32), "uint32.*uint16"),
    "signed": (np.ones((HEIGHT, WIDTH), np.int16), "int16.*uint16"),
    "floats": (np.ones((HEIGHT, WIDTH), np.float32), "float32.*uint16"),
    "complex": (np.ones((HEIGHT, WIDTH), np.complex64), "complex64"),
    "objects": (np.ones((HEIGHT, WIDTH), object), "object"),
    "dates": (np.ones((HEIGHT, WIDTH), "datetime64[s]"), "datetime64"),
}


@pytest.mark.parametrize(("frame", "message"), BAD_FRAMES.values(), ids=BAD_FRAMES)
def test_bad_frame_is_refused_and_the_next_takes_its_place(
    tmp_path: Path, backend: str, frame: Any, message: str
) -> None:
    """A frame that does not fit is a FrameError (a ValueError) that says what was given; nothing of it is stored."""
    settings = settings_for(tmp_path / "a.ome.zarr", backend)
    with create_stream(settings) as stream:
        for good in FRAMES:
            before = stream.stats
            with pytest.raises(FrameError, match=f"(?s){message}") as error:
                stream.append(frame, frame_metadata={"delta_t": 1.0})
            assert isinstance(error.value, ValueError)
            assert stream.stats.frames_appended == before.frames_appended
            stream.append(good)
    assert_holds(Path(settings.output_path), [FRAMES])
    validate(Path(settings.output_path))
    assert not (Path(settings.output_path) / "ome_writers" / "frames.jsonl").exists()


def _strided(frame: npt.NDArray[Any]) -> npt.NDArray[Any]:
    wide = np.zeros((HEIGHT * 2, WIDTH * 3), frame.dtype)
    wide[::2, ::3] = frame
    return wide[::2, ::3]


def _read_only(frame: npt.NDArray[Any]) -> npt.NDArray[Any]:
    frame = frame.copy()
    frame.flags.writeable = False
    return frame


GOOD_FORMS: dict[str, Callable[[npt.NDArray[Any]], Any]] = {
    "other byte order": lambda f: f.astype(f.dtype.newbyteorder()),
    "Fortran order": np.asfortranarray,
    "strided": _strided,
    "negative strides": lambda f: f[::-1, ::-1].copy()[::-1, ::-1],
    "read-only": _read_only,
    "list": lambda f: f.tolist(),
    "narrower dtype": lambda f: f.astype(np.uint16),
    "memoryview": lambda f: memoryview(f.data),
    "masked array": np.ma.masked_array,
}


@pytest.mark.parametrize("form", GOOD_FORMS.values(), ids=GOOD_FORMS)
def test_any_memory_layout_is_accepted(tmp_path: Path, backend: str, form: Callable[[Any], Any]) -> None:
    """Byte order is converted, and non-contiguous, Fortran-ordered and array-like frames are stored as meant."""
    settings = settings_for(tmp_path / "a.ome.zarr", backend)
    with create_stream(settings) as stream:
        for frame in FRAMES:
            stream.append(form(frame))
    assert_holds(Path(settings.output_path), [FRAMES])


@pytest.mark.parametrize(
    ("given", "stored", "fits"),
    [
        ("uint8", "uint16", True),
        ("bool", "uint16", True),
        ("uint8", "int16", True),
        ("uint16", "float32", True),
        ("float32", "float64", True),
        ("uint16", "int16", False),
        ("int8", "uint16", False),
        ("int32", "float32", False),
        ("int64", "float64", False),
        ("float64", "float32", False),
        ("float32", "uint16", False),
    ],
)
def test_dtypes_are_cast_only_without_loss(tmp_path: Path, backend: str, given: str, stored: str, fits: bool) -> None:
    """A dtype is cast when the stream's holds all of its values, whatever those of the frame are; else refused."""
    settings = settings_for(tmp_path / "a.ome.zarr", backend, count=1, dtype=stored)
    frame = (FRAMES[0] % 2).astype(given)
    with create_stream(settings) as stream:
        if fits:
            stream.append(frame)
        else:
            with pytest.raises(FrameError, match="without loss"):
                stream.append(frame)
            stream.append(frame.astype(stored))
    assert_holds(Path(settings.output_path), [frame.astype(stored)[None]])


def test_one_frame_too_many(tmp_path: Path, backend: str) -> None:
    """More frames than declared are an IndexError, as often as it is tried, and the dataset stays as it is."""
    settings = settings_for(tmp_path / "a.ome.zarr", backend)
    with create_stream(settings) as stream:
        for frame in FRAMES:
            stream.append(frame)
        for _ in range(2):
            with pytest.raises(FrameCountError, match="declare 5 frames") as error:
                stream.append(FRAMES[0])
            assert isinstance(error.value, IndexError)
    assert_holds(Path(settings.output_path), [FRAMES])


def test_skips_that_can_not_be(tmp_path: Path, backend: str) -> None:
    """Skipping no frames, less than none, parts of one or more than are left is an error, and skips none."""
    settings = settings_for(tmp_path / "a.ome.zarr", backend)
    bad: Any
    with create_stream(settings) as stream:
        stream.append(FRAMES[0])
        for bad in (0, -1, 1.5, "1", None, True):
            with pytest.raises(SettingsError, match="1 or more"):
                stream.skip(frames=bad)
        with pytest.raises(FrameCountError, match="5 more"):
            stream.skip(frames=5)
        stream.skip(frames=1)
        for frame in FRAMES[2:]:
            stream.append(frame)
        with pytest.raises(IndexError):
            stream.skip()
        assert stream.stats.frames_skipped == 1
    expected = FRAMES.copy()
    expected[1] = 0
    assert_holds(Path(settings.output_path), [expected])


def test_closed_stream_takes_nothing(tmp_path: Path, backend: str) -> None:
    """After close, append, skip and flush are RuntimeErrors, and the dataset is complete."""
    settings = settings_for(tmp_path / "a.ome.zarr", backend)
    with create_stream(settings) as stream:
        for frame in FRAMES:
            stream.append(frame)
    calls: list[Callable[[], None]] = [lambda: stream.append(FRAMES[0]), stream.skip, stream.flush]
    for call in calls:
        with pytest.raises(StreamClosedError, match="closed") as error:
            call()
        assert isinstance(error.value, RuntimeError)
    assert_holds(Path(settings.output_path), [FRAMES])


@pytest.mark.parametrize(
    "metadata",
    [
        {"a": len},
        {"a": float("nan")},
        {"a": [float("inf")]},
        {1: "a"},
        {"a": b"bytes"},
        {"a": {1, 2}},
        {"a": "\ud800"},
        ["a"],
        "text",
        7,
    ],
    ids=repr,
)
def test_frame_metadata_that_json_can_not_hold(tmp_path: Path, backend: str, metadata: Any) -> None:
    """Metadata without a form in JSON is an error at append, before the frame is taken."""
    settings = settings_for(tmp_path / "a.ome.zarr", backend)
    with create_stream(settings) as stream:
        for frame in FRAMES:
            with pytest.raises(MetadataError, match="frame_metadata"):
                stream.append(frame, frame_metadata=metadata)
            stream.append(frame)
    assert_holds(Path(settings.output_path), [FRAMES])


def test_metadata_that_refers_to_itself(tmp_path: Path, backend: str) -> None:
    """Metadata that contains itself is refused like any other that JSON can't hold."""
    circle: dict[str, Any] = {}
    circle["again"] = circle
    settings = settings_for(tmp_path / "a.ome.zarr", backend, count=1)
    with create_stream(settings) as stream:
        with pytest.raises(MetadataError, match="JSON"):
            stream.append(FRAMES[0], frame_metadata=circle)
        with pytest.raises(MetadataError, match="JSON"):
            stream.set_global_metadata("a", circle)
        with pytest.raises(MetadataError, match="JSON"):
            stream.update_metadata({".": circle})
        stream.append(FRAMES[0])
    assert_holds(Path(settings.output_path), [FRAMES[:1]])


# ---- settings that are not ready -----------------------------------------------------------------------------------


def test_settings_without_what_a_stream_needs(tmp_path: Path) -> None:
    """Missing root path, dimensions and dtype are named all at once, and nothing is made."""
    with pytest.raises(SettingsError, match=r"root_path is required.*dimensions are required.*dtype is required"):
        create_stream(AcquisitionSettings())
    with pytest.raises(ValueError, match="root_path is required"):
        create_stream(settings_for(tmp_path, "tensorstore").model_copy(update={"root_path": ""}))


# ---- the destination -----------------------------------------------------------------------------------------------


def written(path: Path, backend: str, frames: npt.NDArray[Any] = FRAMES, **fields: Any) -> Path:
    """Write a dataset and return its folder."""
    settings = settings_for(path, backend, count=len(frames), **fields)
    with create_stream(settings) as stream:
        for frame in frames:
            stream.append(frame)
    return Path(settings.output_path)


def test_existing_dataset_is_not_touched(tmp_path: Path, backend: str) -> None:
    """Without overwrite, whatever stands at the path is a FileExistsError, and stays as it is."""
    root = written(tmp_path / "a.ome.zarr", backend)
    before = tree(tmp_path)
    with pytest.raises(DestinationExistsError, match="overwrite=True") as error:
        create_stream(settings_for(root, backend))
    assert isinstance(error.value, FileExistsError)
    (tmp_path / "b.ome.zarr").mkdir()
    with pytest.raises(FileExistsError):
        create_stream(settings_for(tmp_path / "b.ome.zarr", backend))
    (tmp_path / "b.ome.zarr").rmdir()
    assert tree(tmp_path) == before


def test_overwrite_replaces_a_dataset_entirely(tmp_path: Path, backend: str) -> None:
    """With overwrite, nothing of the older dataset is left, also not frames that the new one does not have."""
    root = written(tmp_path / "a.ome.zarr", backend)
    with create_stream(settings_for(root, backend, overwrite=True)) as stream:
        stream.append(FRAMES[3], frame_metadata={"n": 1})
    expected = np.zeros_like(FRAMES)
    expected[0] = FRAMES[3]
    assert_holds(root, [expected])
    assert [p.name for p in tmp_path.iterdir()] == ["a.ome.zarr"]
    other = AcquisitionSettings(
        root_path=root,
        dimensions=[Dimension(name="p", count=2), *settings_for(root, backend).dimensions],
        dtype="uint8",
        format=backend,
        overwrite=True,
    )
    create_stream(other).close()  # a collection with frames.jsonl and OME-XML of its own kind
    assert not (root / "0" / "c").exists()
    assert not (root / "ome_writers" / "frames.jsonl").exists()
    validate(root)
    written(root, backend, overwrite=True)
    assert not (root / "OME").exists()
    assert_holds(root, [FRAMES])


def _plain_folder(path: Path) -> None:
    path.mkdir()
    (path / "thesis.txt").write_text("years of work")


def _numbered_files(path: Path) -> None:
    path.mkdir()
    (path / "1").write_text("years of work")


def _plain_file(path: Path) -> None:
    path.write_text("years of work")


def _dataset_with(relative: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        written(path, "tensorstore")
        (path / relative).parent.mkdir(exist_ok=True)
        (path / relative).write_text("years of work")

    return make


def _link_to_dataset(path: Path) -> None:
    path.symlink_to(written(path.with_name("b.ome.zarr"), "tensorstore"), target_is_directory=True)


def _dead_link(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere"))


def _not_zarr(path: Path) -> None:
    path.mkdir()
    (path / "zarr.json").write_text("my notes on the zarr format")


NOT_OURS: dict[str, Callable[[Path], None]] = {
    "folder": _plain_folder,
    "folder of numbered files": _numbered_files,
    "file": _plain_file,
    "dataset with notes": _dataset_with("notes.txt"),
    "dataset with a hidden file": _dataset_with(".notes"),
    "dataset with a file among its chunks": _dataset_with("0/c/0/analysis.csv"),
    "dataset with a folder": _dataset_with("analysis/table.csv"),
    "dataset with a numbered file that is no chunk": _dataset_with("2024"),
    "dataset with a folder of numbered files": _dataset_with("analysis/12"),
    "zarr.json that is not Zarr's": _not_zarr,
    "link to a dataset": _link_to_dataset,
    "dead link": _dead_link,
}


@pytest.mark.parametrize("make", NOT_OURS.values(), ids=NOT_OURS)
def test_overwrite_refuses_what_is_not_only_a_dataset(
    tmp_path: Path, backend: str, make: Callable[[Path], None]
) -> None:
    """With overwrite, what may hold a user's own files is refused, and nothing is deleted."""
    path = tmp_path / "a.ome.zarr"
    make(path)
    before = tree(tmp_path)
    with pytest.raises(DestinationExistsError, match="not replaced"):
        create_stream(settings_for(path, backend, overwrite=True))
    assert tree(tmp_path) == before


def test_overwrite_accepts_an_empty_folder_and_foreign_writers(tmp_path: Path) -> None:
    """An empty folder, and datasets of other Zarr writers (also of Zarr v2, and pyramids), can be replaced."""
    import zarr

    (tmp_path / "empty.ome.zarr").mkdir()
    written(tmp_path / "empty.ome.zarr", "tensorstore", overwrite=True)
    for version in (2, 3):
        path = tmp_path / f"v{version}.ome.zarr"
        group = zarr.open_group(path, mode="w", zarr_format=version)
        for level in range(2):
            array: Any = group.create_array(str(level), shape=(4, 4), chunks=(2, 2), dtype="uint8")
            array[...] = 1
        written(path, "tensorstore", overwrite=True)
        assert_holds(path, [FRAMES])


@pytest.mark.parametrize("step", ["rename", "mkdir", "documents", "xml", "sink", "interrupt"])
def test_failed_overwrite_leaves_the_old_dataset(
    tmp_path: Path, backend: str, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the new dataset can't be made, at whatever step, the old one stands as it was and nothing else is left."""
    root = written(tmp_path / "a.ome.zarr", backend)
    before = tree(tmp_path)
    settings = AcquisitionSettings(
        root_path=root,
        dimensions=[Dimension(name="p", count=2), *settings_for(root, backend).dimensions],
        dtype="uint16",
        format=backend,
        overwrite=True,
    )
    error: BaseException = KeyboardInterrupt() if step == "interrupt" else OSError(28, "No space left on device")

    def fail(*args: object, **kwargs: object) -> None:
        raise error

    target = {
        "rename": "pathlib.Path.rename",
        "mkdir": "pathlib.Path.mkdir",
        "documents": "pathlib.Path.replace",
        "interrupt": "pathlib.Path.replace",
        "xml": "ome_writers._dataset.DatasetFolder.write_text",
        "sink": "ome_writers._stream.OMEStream.__init__",
    }[step]
    if step == "xml":
        from ome_writers._dataset import DatasetFolder

        real = DatasetFolder.write_text

        def fail_for_xml(self: DatasetFolder, path: str, text: str) -> None:
            if path.endswith(".xml"):
                raise error
            real(self, path, text)

        monkeypatch.setattr(target, fail_for_xml)
    else:
        monkeypatch.setattr(target, fail)
    with pytest.raises(
        KeyboardInterrupt if step == "interrupt" else OSError, match=None if step == "interrupt" else "28"
    ):
        create_stream(settings)
    monkeypatch.undo()
    assert tree(tmp_path) == before
    assert_holds(root, [FRAMES])


def test_two_streams_at_one_path(tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dataset that appears while another one is made at the same path is not deleted by the one that fails."""
    path = tmp_path / "a.ome.zarr"
    with create_stream(settings_for(path, backend)) as first:
        monkeypatch.setattr("ome_writers._dataset.DatasetFolder.check", lambda *args, **kwargs: None)
        monkeypatch.setattr("pathlib.Path.exists", lambda self: False)  # as it was when the second one looked
        with pytest.raises(FileExistsError):
            create_stream(settings_for(path, backend))
        monkeypatch.undo()
        for frame in FRAMES:
            first.append(frame)
    assert_holds(path, [FRAMES])


def test_replaced_dataset_that_can_not_be_deleted(
    tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the old dataset can't be deleted, the new one is written all the same, and a warning says what is left."""
    root = written(tmp_path / "a.ome.zarr", backend)

    def fail(path: Path, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(shutil, "rmtree", fail)
    with pytest.warns(UserWarning, match=r"\.replaced"):
        stream = create_stream(settings_for(root, backend, overwrite=True))
    monkeypatch.undo()
    with stream:
        for frame in FRAMES[::-1]:
            stream.append(frame)
    assert_holds(root, [FRAMES[::-1]])


@pytest.mark.parametrize("where", ["below a file", "too long", "name too long", "proc"])
def test_unwritable_path(tmp_path: Path, backend: str, where: str) -> None:
    """A path that can't be made is a WriteError (an OSError) at create_stream, and leaves nothing behind."""
    (tmp_path / "file").write_text("a file")
    path = {
        "below a file": tmp_path / "file" / "a.ome.zarr",
        "too long": tmp_path.joinpath(*["d" * 100] * 60) / "a.ome.zarr",
        "name too long": tmp_path / ("n" * 300 + ".ome.zarr"),
        "proc": Path("/proc/self/a.ome.zarr"),
    }[where]
    before = tree(tmp_path)
    with pytest.raises(WriteError, match="can't be made") as error:
        create_stream(settings_for(path, backend))
    assert isinstance(error.value, OSError)
    assert tree(tmp_path) == before


def test_home_and_names_that_begin_with_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``~`` is the home folder; a name of no user that begins with a tilde is a name like others."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert create_and_close(settings_for(Path("~/a.ome.zarr"), "tensorstore")) == tmp_path / "a.ome.zarr"
    assert (
        create_and_close(settings_for(Path("~no-such-user.ome.zarr"), "tensorstore")).name == "~no-such-user.ome.zarr"
    )


def create_and_close(settings: AcquisitionSettings) -> Path:
    """Make an empty dataset and return its folder."""
    with create_stream(settings) as stream:
        return stream.path


# ---- backends ------------------------------------------------------------------------------------------------------

LIBRARIES = {
    "tensorstore": "tensorstore",
    "zarr-python": "zarr",
    "zarrs-python": "zarrs",
    "acquire-zarr": "acquire_zarr",
}


def _hide(monkeypatch: pytest.MonkeyPatch, *libraries: str) -> None:
    find_spec = importlib.util.find_spec

    def find(name: str, package: str | None = None) -> ModuleSpec | None:
        return None if name in libraries else find_spec(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find)


def test_missing_backend(tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend whose library is not installed is an ImportError that names the pip command and what is there."""
    if backend not in LIBRARIES:
        pytest.skip("its libraries are those of the package itself")
    _hide(monkeypatch, LIBRARIES[backend])
    with pytest.raises(BackendMissingError, match=re.escape(f'pip install "ome-writers[{backend}]"')) as error:
        create_stream(settings_for(tmp_path / "a.ome.zarr", backend))
    assert isinstance(error.value, ImportError)
    others = [name for name in LIBRARIES if name != backend and not (backend == "zarr-python" and "zarr" in name[:5])]
    assert any(repr(name) in str(error.value) for name in others)
    assert not any(tmp_path.iterdir())


def test_auto_needs_no_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The format alone takes the backend that comes with the package, whatever else is installed."""
    _hide(monkeypatch, *LIBRARIES.values())
    assert available_backends() == ["direct"]
    assert_holds(written(tmp_path / "a.ome.zarr", "ome-zarr"), [FRAMES])


# ---- memory --------------------------------------------------------------------------------------------------------


def test_budget_that_is_too_small(tmp_path: Path, backend: str) -> None:
    """A budget that can't hold the open blocks is refused in numbers, with the dimension, before anything is made."""
    path = tmp_path / "a.ome.zarr"
    with pytest.raises(BufferTooSmallError, match=r"(?s)bytes.*Allow at least") as error:
        create_stream(settings_for(path, backend, buffer={"max_bytes": 100}))
    assert isinstance(error.value, ValueError)
    assert "'t'" in str(error.value)
    assert repr(backend) in str(error.value)
    assert not any(tmp_path.iterdir())
    least = int(re.findall(r"at least ([\d,]+) bytes", str(error.value))[0].replace(",", ""))
    with pytest.raises(BufferTooSmallError):
        create_stream(settings_for(path, backend, buffer={"max_bytes": least - 1}))
    assert_holds(written(path, backend, buffer={"max_bytes": least, "timeout": 60.0}), [FRAMES])


def test_every_error_is_of_one_family(tmp_path: Path, backend: str) -> None:
    """All errors of this package can be caught at once, and have a text to switch on."""
    kinds = set()

    def attempt(call: Callable[[], object]) -> None:
        with pytest.raises(OMEWritersError) as error:
            call()
        kinds.add(error.value.kind)

    path = tmp_path / "a.ome.zarr"
    stream: OMEStream = create_stream(settings_for(path, backend, count=1))
    attempt(lambda: stream.append(None))
    stream.append(FRAMES[0])
    attempt(lambda: stream.append(FRAMES[0]))
    attempt(lambda: stream.skip(frames=0))
    attempt(lambda: stream.update_metadata({"nowhere": {}}))
    attempt(lambda: stream.set_global_metadata("ome", {}))
    stream.close()
    attempt(lambda: stream.append(FRAMES[0]))
    attempt(lambda: create_stream(settings_for(path, backend)))
    attempt(lambda: create_stream(settings_for(path, backend, overwrite=True, buffer={"max_bytes": 1})))
    assert kinds == {
        "frame",
        "frame-count",
        "settings",
        "unknown-group",
        "metadata",
        "stream-closed",
        "destination-exists",
        "buffer-too-small",
    }


# ---- storage that fails --------------------------------------------------------------------------------------------


def test_write_error_reaches_the_caller(tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """When storage fails, append or flush raises a WriteError that names the frames, and close releases everything.

    The failure is brought about at the boundary to the library: every backend then behaves alike.
    """
    from ome_writers.backends import load_backend

    sink = load_backend(backend)
    appended, failed = threading.Event(), threading.Event()

    def fail(*args: object, **kwargs: object) -> None:
        appended.wait(20)  # an earlier failure would be raised by the appends
        failed.set()
        raise OSError(28, "No space left on device")

    for method in ("write_block", "write_chunks", "write_layers", "write_frames"):
        if hasattr(sink, method):
            monkeypatch.setattr(sink, method, fail)
    settings = settings_for(tmp_path / "a.ome.zarr", backend, count=None)
    stream = create_stream(settings)
    for frame in FRAMES[:4]:
        stream.append(frame)
    appended.set()
    with pytest.raises(WriteError, match="No space left on device") as error:
        stream.flush()
    assert failed.is_set()
    assert error.value.frames == (range(4),)
    assert error.value.array == "0"
    with pytest.raises(WriteError, match="0 to 3"):
        stream.append(FRAMES[4])
    with pytest.raises(WriteError):
        stream.close()
    assert stream.closed
    stream.close()
    assert stream.stats.frames_written == 0
    validate(Path(settings.output_path))
