"""The engine, with sinks in memory: copies, places, memory bounds, errors, records and threads."""

from __future__ import annotations

import dataclasses
import errno
import itertools
import json
import math
import re
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Never, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ome_writers._layout import plan_layout
from ome_writers._router import Router
from ome_writers.abc import WritePlan
from ome_writers.engine import (
    RECORDS_PER_IMAGE,
    BatchAssembly,
    BlockAssembly,
    BufferPool,
    Engine,
    FrameFates,
    LayerAssembly,
    MemoryPlan,
    RecordLog,
    Workers,
    _engine,
    _forms,
    _plan,
    _upkeep,
    plan_memory,
)
from ome_writers.errors import (
    BufferFullError,
    BufferTooSmallError,
    FrameCountError,
    FrameError,
    MetadataError,
    OMEWritersError,
    SettingsError,
    StreamClosedError,
    WriteError,
)
from ome_writers.settings import DTYPES, AcquisitionSettings, BufferSettings, Codec
from ome_writers.testing.datasets import Axes, acquisition, random_pixels
from ome_writers.testing.faults import Faults, MemoryBlockSink, MemoryFrameSink, MemoryLayerSink
from ome_writers.testing.files import FileFault, faulty_files
from ome_writers.testing.strategies import acquisitions

pytestmark = pytest.mark.timeout(60)

Pixels: TypeAlias = npt.NDArray[Any]
MemorySink: TypeAlias = MemoryBlockSink | MemoryLayerSink | MemoryFrameSink
KINDS: dict[str, type[MemorySink]] = {"blocks": MemoryBlockSink, "layers": MemoryLayerSink, "frames": MemoryFrameSink}
SINKS = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
UNORDERED = pytest.mark.parametrize("kind", [MemoryBlockSink, MemoryLayerSink], ids=["blocks", "layers"])
FRAME = (4, 6)
YX: dict[str, tuple[int | None, ...]] = {"y": (FRAME[0],), "x": (FRAME[1],)}
PATIENT = BufferSettings(timeout=20)  # whoever waits for longer is in a deadlock


@dataclass
class Rig:
    """An engine and all that it works with."""

    engine: Engine
    sink: MemorySink
    plan: WritePlan
    pool: BufferPool
    workers: Workers
    records: RecordLog
    path: Path
    assembly: BlockAssembly | LayerAssembly | BatchAssembly
    grown: list[dict[int, int]] = field(default_factory=list)

    def append(self, frame: object, metadata: Any = None) -> None:
        """Append one frame."""
        self.engine.append(frame, metadata)

    def append_numbered(self, count: int) -> None:
        """Append frames that hold their number plus 1."""
        for _ in range(count):
            self.append(numbered(self.engine.frames, self.plan))

    def close(self) -> None:
        """Close engine and sink."""
        self.engine.close((self.sink.close,))

    def written(self) -> list[Pixels]:
        """Return all arrays."""
        return [self.sink.pixels(array) for array in range(len(self.plan.layout.images))]


def numbered(number: int, plan: WritePlan) -> Pixels:
    """Return a frame that holds its number plus 1."""
    return np.full(plan.geometry.frame_shape, number + 1, plan.geometry.dtype)


def build(
    declared: AcquisitionSettings,
    folder: Path,
    kind: type[MemorySink] = MemoryBlockSink,
    *,
    faults: Faults | None = None,
    buffer: BufferSettings = PATIENT,
    batch: int | None = None,
    part_bytes: int = 1 << 24,
    workers: Workers | None = None,
) -> Rig:
    """Put an engine together as a stream does; ``part_bytes`` is the size of parts of large layers."""
    layout = plan_layout(declared)
    plan = WritePlan(folder, layout, Codec(name="none"), {})
    router = Router(layout.axes)
    sink = kind(plan, faults)
    assembly: BlockAssembly | LayerAssembly | BatchAssembly
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_forms, "_PART_BYTES", part_bytes)
        memory = plan_memory(kind, plan, buffer)
        if isinstance(sink, MemoryLayerSink):
            assembly = LayerAssembly(sink, plan.geometry, router)
        elif isinstance(sink, MemoryBlockSink):
            assembly = BlockAssembly(sink, plan.geometry, router, memory.extent)
        else:
            assembly = BatchAssembly(sink, plan.geometry, router, batch or memory.extent[0])
    pool = BufferPool(memory.buffer_bytes, memory.buffers, buffer, ahead=memory.ahead)
    workers = workers or Workers(memory.workers)
    path = folder / "frames.jsonl"
    records = RecordLog(path, [image.path for image in layout.images])
    grown: list[dict[int, int]] = []
    engine = Engine(
        assembly=assembly,
        router=router,
        geometry=plan.geometry,
        array_paths=[image.array_path for image in layout.images],
        pool=pool,
        workers=workers,
        records=records,
        fates=FrameFates(folder / "frames.txt"),
        on_growth=grown.append,
    )
    return Rig(engine, sink, plan, pool, workers, records, path, assembly, grown)


Start: TypeAlias = Callable[..., Rig]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Build engines that are closed after the test."""
    rigs: list[Rig] = []

    def make(axes: Axes, dtype: str = "uint16", **options: Any) -> Rig:
        rigs.append(build(acquisition(axes, dtype), tmp_path, **options))
        return rigs[-1]

    yield make
    for rig in rigs:
        if (gate := rig.sink._faults.gate) is not None:
            gate.set()
        with suppress(WriteError):
            rig.close()


def least_memory(declared: AcquisitionSettings, kind: type[MemorySink], workers: int | None = None) -> int:
    """Return the least budget that is enough, by the message of the error that says so."""
    plan = WritePlan(Path(), plan_layout(declared), Codec(name="none"), {})
    with pytest.raises(BufferTooSmallError) as caught:
        plan_memory(kind, plan, BufferSettings(max_bytes=1, workers=workers))
    found = re.search(r"Allow at least ([\d,]+) bytes", str(caught.value))
    assert found is not None
    return int(found[1].replace(",", ""))


def in_thread(action: Callable[[], None]) -> tuple[threading.Thread, list[BaseException]]:
    """Run an action in a thread; return it and the list that its error will be in."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            action()
        except BaseException as error:  # noqa: BLE001  looked at by the test
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, errors


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for something that another thread does, and that has no event."""
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.001)


# ---- frames --------------------------------------------------------------------------------------------------------


@SINKS
def test_frames_are_copied(start: Start, kind: type[MemorySink]) -> None:
    """The caller may overwrite its buffer as soon as append returns, whatever waits to be written."""
    gate = threading.Event()
    rig = start({"t": (10, 2), **YX}, kind=kind, faults=Faults(gate=gate), batch=2)
    camera = np.empty(FRAME, np.uint16)
    for number in range(10):
        camera[...] = number + 1
        rig.append(camera)
        camera[...] = 0xDEAD
    gate.set()
    rig.close()
    assert [int(frame[0, 0]) for frame in rig.written()[0]] == list(range(1, 11))


FORMS: dict[str, Callable[[Pixels], Any]] = {
    "fortran": np.asfortranarray,
    "strided": lambda a: np.repeat(np.repeat(a, 2, 0), 3, 1)[::2, ::3],
    "reversed": lambda a: a[::-1, ::-1].copy()[::-1, ::-1],
    "big endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "little endian": lambda a: a.astype(a.dtype.newbyteorder("<")),
    "read-only": lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape),
    "list": lambda a: a.tolist(),
    "tuple": lambda a: tuple(map(tuple, a.tolist())),
    "memoryview": lambda a: np.ascontiguousarray(a).data,
    "subclass": lambda a: a.view(np.ma.MaskedArray),
}


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int64", "float32"])
@pytest.mark.parametrize("form", FORMS)
def test_any_memory_layout_is_taken(start: Start, form: str, dtype: str) -> None:
    """Frames of any memory order and byte order, and plain sequences, arrive unchanged."""
    rig = start({"t": (2,), **YX}, dtype)
    frames = random_pixels((2, *FRAME), dtype)
    for frame in frames:
        rig.append(FORMS[form](frame))
    rig.close()
    assert np.array_equal(rig.written()[0], frames)


def extremes(dtype: np.dtype[Any]) -> Pixels:
    """Return the values of a dtype at which a conversion can go wrong."""
    if dtype.kind == "b":
        return np.array([False, True])
    if dtype.kind == "f":
        info = np.finfo(dtype)
        listed = [0.5, info.max, info.min, info.smallest_subnormal, 1 + info.eps, np.inf, np.nan]
        return np.array([0.0, *listed], dtype)
    low, high = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
    near = {2**n + d for n in range(64) for d in (-1, 0, 1)}
    return np.array(sorted(v for v in {low, high, *near, *(-v for v in near)} if low <= v <= high), dtype)


def fits(value: float, dtype: np.dtype[Any]) -> bool:
    """Tell whether a dtype can hold a Python number, by value."""
    if dtype.kind == "f":
        with np.errstate(all="ignore"):
            try:
                held = float(dtype.type(value))
            except OverflowError:
                return False
        return math.isnan(value) if math.isnan(held) else held == value
    if not math.isfinite(value) or value != int(value):
        return False
    return int(np.iinfo(dtype).min) <= value <= int(np.iinfo(dtype).max)


@pytest.mark.parametrize("wanted", DTYPES)
@pytest.mark.parametrize("given_dtype", ["bool", *DTYPES])
def test_a_dtype_is_taken_if_all_its_values_fit(start: Start, given_dtype: str, wanted: str) -> None:
    """Arrays of another dtype are taken only if the stream's dtype can hold its every value, whatever these are."""
    values = extremes(np.dtype(given_dtype))
    lossless = all(fits(value, np.dtype(wanted)) for value in values.tolist())
    rig = start({"t": (2,), "y": (1,), "x": (len(values),)}, wanted)
    if lossless:
        rig.append(values[None])
        rig.append(values.astype(values.dtype.newbyteorder(">"))[None])
        rig.close()
        stored = rig.written()[0]
        assert np.array_equal(stored[0, 0], values, equal_nan=wanted.startswith("f"))
        assert np.array_equal(stored[1, 0], values, equal_nan=wanted.startswith("f"))
    else:
        with pytest.raises(
            FrameError, match=rf"dtype {given_dtype}, which {wanted} can't hold.*\.astype\('{wanted}'\)"
        ):
            rig.append(np.zeros_like(values)[None])  # also when the values at hand would fit


numbers = st.one_of(
    st.lists(st.integers(-(2**66), 2**66) | st.integers(-300, 300), min_size=2, max_size=2),
    st.lists(st.sampled_from([2**n + d for n in range(65) for d in (-1, 0, 1)]), min_size=2, max_size=2),
    st.lists(st.floats() | st.integers(-300, 300).map(float) | st.floats(width=16), min_size=2, max_size=2),
)


@given(values=numbers, dtype=st.sampled_from(DTYPES))
@example(values=[0, 2**63 + 1], dtype="float64")  # of which numpy makes floats
@example(values=[2**53 + 1, 1], dtype="float64")
@example(values=[0, -1], dtype="uint64")
@example(values=[math.nan, math.inf], dtype="float16")
@settings(max_examples=300)
def test_a_list_is_taken_if_its_values_fit(values: list[float | int], dtype: str) -> None:
    """A plain list is taken if and only if the stream's dtype holds each of its values exactly."""
    with tempfile.TemporaryDirectory() as folder:
        rig = build(acquisition({"t": (1,), "y": (1,), "x": (2,)}, dtype), Path(folder))
        try:
            if all(fits(value, np.dtype(dtype)) for value in values):
                rig.append([values])
                rig.close()
                for held, value in zip(rig.written()[0].ravel().tolist(), values, strict=True):
                    assert held == value or (math.isnan(held) and math.isnan(value))
            else:
                with pytest.raises(FrameError):
                    rig.append([values])
        finally:
            rig.close()


BAD_FRAMES: dict[str, tuple[object, str]] = {
    "none": (None, r"is None; append an array of shape \(4, 6\) and dtype uint16"),
    "other shape": (np.zeros((6, 4), np.uint16), r"shape \(6, 4\).*declare frames of shape \(4, 6\).*Append one frame"),
    "too few dimensions": (np.zeros(6, np.uint16), r"\(6,\).*\(4, 6\); a frame has 2 dimensions, not 1"),
    "too many dimensions": (np.zeros((1, 4, 6), np.uint16), r"\(1, 4, 6\).*2 dimensions, not 3.*one frame"),
    "number": (7, r"shape \(\).*\(4, 6\)"),
    "empty": ([], r"shape \(0,\)"),
    "ragged": ([[1, 2], [3]], r"a list\) can't be made an array.*\(4, 6\) and dtype uint16"),
    "float": (np.zeros(FRAME), r"float64, which uint16 can't hold without loss.*\.astype\('uint16'\).*'float64'"),
    "signed": (np.zeros(FRAME, np.int16), "int16, which uint16 can't hold"),
    "wider": (np.zeros(FRAME, ">u4"), "uint32, which uint16 can't hold|>u4, which uint16 can't hold"),
    "complex": (np.zeros(FRAME, np.complex64), "complex64, which uint16 can't hold"),
    "negative list": ([[-1] * 6] * 4, "int64, which uint16 can't hold"),
    "fractional list": ([[0.5] * 6] * 4, "float64, which uint16 can't hold"),
    "huge list": ([[10**30] * 6] * 4, "object, which uint16 can't hold"),
    "text": ("frame", r"shape \(\)"),
    "texts": (np.full(FRAME, "a"), "<U1, which uint16 can't hold"),
    "objects": (np.full(FRAME, None), "object, which uint16 can't hold"),
}


@SINKS
@pytest.mark.parametrize("bad", BAD_FRAMES)
def test_after_a_bad_frame_the_stream_is_as_it_was(start: Start, kind: type[MemorySink], bad: str) -> None:
    """A bad frame is refused with what was given, what is allowed and what to do; the next one takes its place."""
    rig = start({"t": (6, 2), **YX}, kind=kind)
    frame, message = BAD_FRAMES[bad]
    for number in range(6):
        before = rig.engine.stats()
        with pytest.raises(FrameError, match=message):
            rig.append(frame, {"number": number})
        assert dataclasses.replace(before, frames_written=0, bytes_out=0, buffered_bytes=0) == dataclasses.replace(
            rig.engine.stats(), frames_written=0, bytes_out=0, buffered_bytes=0
        )
        rig.append_numbered(1)
    rig.close()
    assert [int(frame[0, 0]) for frame in rig.written()[0]] == [1, 2, 3, 4, 5, 6]
    assert not rig.path.exists(), "a record of a frame that was not taken"
    assert rig.pool.used == 0


BAD_METADATA: dict[str, Any] = {
    "nan": {"a": math.nan},
    "infinity": {"a": [1.0, -math.inf]},
    "numpy nan": {"a": np.float32("nan")},
    "object": {"a": object()},
    "set": {"a": {1}},
    "bytes": {"a": b"b"},
    "complex": {"a": np.complex64(1)},
    "surrogate": {"a": "\ud800"},
    "surrogate in a key": {"\ud800": 1},
    "number as key": {1: 2},
    "number as inner key": {"a": {1: 2}},
    "number as key in a list": {"a": [({None: 2},)]},
    "text": "abc",
    "empty text": "",
    "pairs": [("a", 1)],
    "array": np.zeros(3),
    "number": 0,
    "huge number": {"a": 10**5000},
}


@SINKS
@pytest.mark.parametrize("bad", BAD_METADATA)
def test_metadata_that_json_cannot_hold_is_refused(start: Start, kind: type[MemorySink], bad: str) -> None:
    """Metadata are checked before the frame is taken, and the message says so."""
    rig = start({"t": (2,), **YX}, kind=kind)
    for _ in range(2):
        with pytest.raises(MetadataError, match="The frame was not taken"):
            rig.append(numbered(7, rig.plan), BAD_METADATA[bad])
        rig.append_numbered(1)
    rig.close()
    assert [int(frame[0, 0]) for frame in rig.written()[0]] == [1, 2]
    assert not rig.path.exists()


@pytest.mark.parametrize("shape", [dict, list])
def test_metadata_that_hold_themselves_are_refused(start: Start, shape: type) -> None:
    """A cycle is an error, not an endless loop."""
    cycle: Any = shape()
    if shape is dict:
        cycle["a"] = cycle
    else:
        cycle.append(cycle)
    rig = start({"t": (2,), **YX})
    with pytest.raises(MetadataError, match="The frame was not taken"):
        rig.append(numbered(0, rig.plan), {"a": cycle})
    assert rig.engine.frames == 0


@SINKS
def test_one_frame_too_many(start: Start, kind: type[MemorySink]) -> None:
    """The frame after the last is refused, also after skips, and what was taken stays complete."""
    rig = start({"t": (3,), **YX}, kind=kind)
    rig.append_numbered(2)
    rig.engine.skip(1)
    for _ in range(2):
        with pytest.raises(
            FrameCountError, match=r"declare 3 frames and 3 were appended or skipped; 1 more.*count=None"
        ):
            rig.append_numbered(1)
    rig.close()
    assert [int(frame[0, 0]) for frame in rig.written()[0]] == [1, 2, 0]


# ---- memory --------------------------------------------------------------------------------------------------------


def small(**limits: Any) -> AcquisitionSettings:
    """Draw nothing: a plain acquisition of ten frames in blocks of two."""
    return acquisition({"t": (10, 2), **YX}, **limits)


@SINKS
def test_append_raises_when_the_buffer_is_full(start: Start, kind: type[MemorySink]) -> None:
    """With on_full="raise" a full buffer is an error, and the same frame may be appended again later."""
    gate = threading.Event()
    budget = least_memory(small(), kind, 1) if kind is MemoryFrameSink else 2 * least_memory(small(), kind, 1)
    buffer = BufferSettings(max_bytes=budget, on_full="raise", workers=1)
    rig = start({"t": (10, 2), **YX}, kind=kind, faults=Faults(gate=gate), buffer=buffer, batch=2)
    rig.append_numbered(4)
    for _ in range(3):
        with pytest.raises(BufferFullError, match=r"full \(2 buffers of .*'raise'.*not taken.*max_bytes"):
            rig.append_numbered(1)
    assert (rig.engine.frames, rig.pool.used) == (4, 2)
    gate.set()
    rig.engine.flush()
    for _ in range(6):
        rig.append_numbered(1)
        rig.engine.flush()
    rig.close()
    assert [int(frame[0, 0]) for frame in rig.written()[0]] == list(range(1, 11))


@SINKS
def test_append_waits_no_longer_than_the_timeout(start: Start, kind: type[MemorySink]) -> None:
    """With a timeout append gives up, tells the seconds, and counts them as stalled; nothing is lost."""
    gate = threading.Event()
    budget = least_memory(small(), kind, 1) if kind is MemoryFrameSink else 2 * least_memory(small(), kind, 1)
    buffer = BufferSettings(max_bytes=budget, timeout=0.05, workers=1)
    rig = start({"t": (10, 2), **YX}, kind=kind, faults=Faults(gate=gate), buffer=buffer, batch=2)
    rig.append_numbered(4)
    begun = time.perf_counter()
    with pytest.raises(BufferFullError, match=r"full for 0\.05 s .*slower than the camera.*not taken.*max_bytes"):
        rig.append_numbered(1)
    assert time.perf_counter() - begun >= 0.05
    assert rig.engine.stats().stalled_seconds >= 0.05
    gate.set()
    rig.engine.flush()
    rig.append_numbered(1)
    rig.close()
    assert [int(frame[0, 0]) for frame in rig.written()[0][:5]] == [1, 2, 3, 4, 5]


@SINKS
def test_append_waits_for_memory(start: Start, kind: type[MemorySink]) -> None:
    """By default append waits as long as it takes, and goes on as soon as a buffer is free."""
    gate = threading.Event()
    budget = least_memory(small(), kind, 1) if kind is MemoryFrameSink else 2 * least_memory(small(), kind, 1)
    buffer = BufferSettings(max_bytes=budget, workers=1)
    rig = start({"t": (10, 2), **YX}, kind=kind, faults=Faults(gate=gate), buffer=buffer, batch=2)
    thread, errors = in_thread(lambda: rig.append_numbered(10))
    wait_until(lambda: rig.pool.used == 2 and rig.engine.frames == 4)
    thread.join(0.3)
    assert thread.is_alive(), "append did not wait"
    assert rig.engine.frames == 4
    gate.set()
    thread.join(20)
    assert not thread.is_alive()
    assert not errors
    rig.close()
    assert rig.engine.stats().stalled_seconds > 0.2
    assert [int(frame[0, 0]) for frame in rig.written()[0]] == list(range(1, 11))


def test_whoever_waits_for_memory_has_all_workers_make_room(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is held back for the sake of the thread that copies has no reason to be while that waits."""
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    gate, workers = threading.Event(), Workers(2, backlog=99)
    buffer = BufferSettings(max_bytes=3 * least_memory(small(), MemoryLayerSink, 1), workers=2)
    rig = start({"t": (10, 2), **YX}, kind=MemoryLayerSink, faults=Faults(gate=gate), buffer=buffer, workers=workers)
    thread, errors = in_thread(lambda: rig.append_numbered(10))
    wait_until(lambda: workers._running == 2)  # that many are being carried out
    gate.set()
    thread.join(20)
    assert not thread.is_alive()
    assert not errors
    rig.close()
    assert [int(frame[0, 0]) for frame in rig.written()[0]] == list(range(1, 11))


@pytest.mark.parametrize("fate", ["a", "s"])
def test_idle_workers_write_notes_that_were_put_off(start: Start, tmp_path: Path, fate: str) -> None:
    """Where notes take long, frames of a box that is not complete are noted as well, without another frame."""
    rig = start({"t": (10, 4), **YX})
    rig.engine._fates._next = float("inf")  # as after a call that took very long
    if fate == "a":
        rig.append_numbered(2)
    else:
        rig.engine.skip(2)
    wait_until(lambda: (tmp_path / "frames.txt").read_text() == 2 * fate)


def test_notes_that_were_put_off_come_before_the_pixels(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is on disk is known after a crash, also where notes take long."""
    rig, found = start({"t": (10, 2), **YX}, kind=MemoryLayerSink), list[str]()
    write = MemoryLayerSink.write_chunks

    def look(sink: MemoryLayerSink, *given: Any) -> None:
        found.append((tmp_path / "frames.txt").read_text())
        write(sink, *given)

    monkeypatch.setattr(MemoryLayerSink, "write_chunks", look)
    rig.engine._fates._next = float("inf")
    rig.append_numbered(2)
    wait_until(lambda: found == ["aa"])
    rig.engine._fates._next = float("inf")
    rig.append_numbered(1)
    rig.engine.skip(1)
    wait_until(lambda: found[1:] == ["aaas"])


drawn = acquisitions(dtypes=["uint16"], compressions=[None], max_frame_size=3)
OFTEN = settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@OFTEN
@given(
    declared=drawn,
    kind=st.sampled_from(list(KINDS.values())),
    workers=st.integers(1, 3),
    extra=st.sampled_from([0, 0, 1, 100, 1 << 22]),
    seconds=st.sampled_from([0, 0, 1e-4]),
)
def test_the_least_memory_is_enough(
    declared: AcquisitionSettings, kind: type[MemorySink], workers: int, extra: int, seconds: float
) -> None:
    """The least budget by the error's own words leads to no deadlock, one byte less is refused, none is exceeded."""
    least = least_memory(declared, kind, workers)
    with tempfile.TemporaryDirectory() as folder:
        with pytest.raises(BufferTooSmallError):
            build(declared, Path(folder), kind, buffer=BufferSettings(max_bytes=least - 1, workers=workers))
        buffer = BufferSettings(max_bytes=least + extra, workers=workers, timeout=10)
        rig = build(declared, Path(folder), kind, buffer=buffer, faults=Faults(seconds=seconds))
        try:
            frames = min(200, declared.num_frames or 60)
            for _ in range(frames):
                rig.append_numbered(1)
                assert rig.engine.stats().buffered_bytes <= least + extra
                assert (rig.pool.used + len(rig.pool._free)) * rig.pool.buffer_bytes <= least + extra
        finally:
            rig.close()
        stats = rig.engine.stats()
        event(f"{rig.pool.limit > 1} {stats.max_buffered_bytes == stats.buffer_bytes}")
        assert 0 < stats.max_buffered_bytes <= stats.buffer_bytes <= least + extra
        assert (stats.frames_written, stats.buffered_bytes) == (frames, 0)


def test_too_little_memory_is_explained() -> None:
    """An order that keeps many blocks open is refused with the dimension, the bytes and the remedies."""
    declared = acquisition({"t": (100, 10), "z": (30,), "y": (64,), "x": (64,)})
    plan = WritePlan(Path(), plan_layout(declared), Codec(name="none"), {})
    one = 10 * 64 * 64 * 2
    with pytest.raises(BufferTooSmallError) as caught:
        plan_memory(MemoryBlockSink, plan, BufferSettings(max_bytes=10 * one))
    message = str(caught.value)
    assert f"needs {30 * one:,} bytes" in message
    assert f"max_bytes allows {10 * one:,}" in message
    assert "10 steps of dimension 't'" in message
    assert f"Allow at least {30 * one:,} bytes" in message
    assert "make chunks or shards smaller along 't', 'z', or acquire that dimension faster" in message


def test_fewer_workers_when_memory_is_short() -> None:
    """Workers, whose libraries take memory too, are given up before an acquisition is refused."""

    class Hungry(MemoryBlockSink):
        capabilities = dataclasses.replace(MemoryBlockSink.capabilities, copies=1.0, workers=4)

    plan = WritePlan(Path(), plan_layout(acquisition({"t": (100, 10), "y": (64,), "x": (64,)})), Codec(name="none"), {})
    one = 10 * 64 * 64 * 2
    found = {}
    for blocks in range(2, 12):
        memory = plan_memory(Hungry, plan, BufferSettings(max_bytes=blocks * one))
        found[blocks] = memory.workers
        assert memory.buffers + memory.workers == blocks
    # each worker has a block in its hands, and one as large that the library makes of it; one block is filled
    assert found == {2: 1, 3: 1, 4: 1, 5: 2, 6: 2, 7: 3, 8: 3, 9: 4, 10: 4, 11: 4}
    with pytest.raises(BufferTooSmallError):
        plan_memory(Hungry, plan, BufferSettings(max_bytes=2 * one - 1))


def test_memory_by_default() -> None:
    """Without a budget an acquisition takes what its order needs, 1 GiB at most, and some for what waits."""
    waiting = _plan._WAITING_BYTES >> 20

    def memory(axes: Axes, kind: type[MemorySink], **limits: Any) -> MemoryPlan:
        plan = WritePlan(Path(), plan_layout(acquisition(axes)), Codec(name="none"), {})
        return plan_memory(kind, plan, BufferSettings(**limits))

    megabyte = {"y": (512,), "x": (1024,)}  # 2 ** 20 bytes
    for kind in (MemoryBlockSink, MemoryLayerSink):
        for needed in (1, 30):
            series = memory({"t": (1000, 10), "z": (needed,), **megabyte}, kind)
            assert series.buffer_bytes == 10 << 20
            assert series.buffers == needed + 2 + waiting // 10
            assert series.ready == needed + 2
            assert series.ahead == series.buffers
            assert series.backlog == (waiting // 10) // 2
        assert memory({"t": (1000, 10), "z": (102,), **megabyte}, kind).buffers == 102
        with pytest.raises(BufferTooSmallError, match="max_bytes allows 1,073,741,824"):
            memory({"t": (1000, 10), "z": (103,), **megabyte}, kind)
        assert memory({"t": (1000, 10), "z": (103,), **megabyte}, kind, max_bytes=1 << 31).buffers == 204
    tiny = memory({"t": (1000000,), "y": (4,), "x": (4,)}, MemoryLayerSink)
    assert tiny.ahead == tiny.ready == 3
    assert tiny.buffers > 1000000
    frames = memory({"t": (1000,), **megabyte}, MemoryFrameSink)
    assert frames.buffers == frames.ahead == 2 + 1 + (_plan._WAITING_BATCHES_BYTES >> 20)


def test_large_layers_are_shared_by_workers() -> None:
    """A layer that is written in parts keeps several workers at work, and its encoded copy is counted by parts."""

    class Encodes(MemoryLayerSink):
        capabilities = dataclasses.replace(MemoryLayerSink.capabilities, copies=1.0, workers=4)

    large = {"t": (100,), "y": (4096, 512), "x": (8192, 512)}  # 64 MiB, in 8 rows of chunks
    plan = WritePlan(Path(), plan_layout(acquisition(large)), Codec(name="none"), {})
    layer = 64 << 20
    memory = plan_memory(Encodes, plan, BufferSettings(max_bytes=3 * layer))
    assert (memory.workers, memory.buffer_bytes, memory.buffers) == (4, layer, 2)
    memory = plan_memory(Encodes, plan, BufferSettings(max_bytes=3 * layer - 1))
    assert (memory.workers, memory.buffers) == (3, 2)
    assert plan_memory(Encodes, plan, BufferSettings(max_bytes=layer * 5 // 4)).workers == 1
    with pytest.raises(BufferTooSmallError, match=f"Allow at least {layer * 5 // 4:,} bytes"):
        plan_memory(Encodes, plan, BufferSettings(max_bytes=layer * 5 // 4 - 1))


_SLOW_WRITER = """
import os, sys, time
from pathlib import Path

import numpy as np
import psutil

sys.path.insert(0, sys.argv[1])
from test_engine import KINDS, build
from ome_writers.settings import BufferSettings
from ome_writers.testing.datasets import acquisition

kind = KINDS[sys.argv[2]]


class Slow(kind):
    def __init__(self, plan, faults=None):
        self.count = 0

    def write_block(self, array, origin, block, stored):
        time.sleep(0.02)
        self.count += 1

    def write_chunks(self, array, cell, first_row, chunks):
        time.sleep(0.01)
        self.count += 1

    def write_frames(self, array, frames):
        time.sleep(0.01)
        self.count += 1

    def close(self):
        pass


process = psutil.Process()
frame = np.ones((2048, 2048), np.uint16)
axes = {"t": (128, 1, 2), "y": (2048, 512, 4), "x": (2048, 512, 4)}
buffer = BufferSettings(max_bytes=64 << 20, timeout=60)
rig = build(acquisition(axes), Path(sys.argv[3]), Slow, buffer=buffer)
before = most = process.memory_info().rss
for _ in range(128):
    frame += 1
    rig.append(frame)
    most = max(most, process.memory_info().rss)
rig.close()
stats = rig.engine.stats()
print(most - before, stats.bytes_in, stats.max_buffered_bytes, stats.stalled_seconds > 0, rig.sink.count)
"""


@SINKS
def test_memory_stays_bounded_when_storage_is_slow(kind: type[MemorySink], tmp_path: Path) -> None:
    """A gigabyte through 64 MiB to a slow sink: the process grows by the budget and little more."""
    name = next(name for name in KINDS if KINDS[name] is kind)
    command = [sys.executable, "-c", _SLOW_WRITER, str(Path(__file__).parent), name, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    grown, bytes_in, most_buffered, stalled, writes = done.stdout.split()
    assert int(bytes_in) == 1 << 30
    assert int(most_buffered) <= 64 << 20
    assert int(grown) < (64 + 150) * 10**6
    assert stalled == "True"
    assert int(writes) == (64 if kind is MemoryBlockSink else 128)  # blocks of two frames


# ---- errors while writing ------------------------------------------------------------------------------------------

DISK_FULL = OSError(28, "No space left on device")


@SINKS
@pytest.mark.parametrize("error", [DISK_FULL, MemoryError("no memory"), SystemExit(3), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("call", ["append", "skip", "flush", "close"])
def test_an_error_in_a_worker_is_raised_by_the_next_call(
    start: Start, kind: type[MemorySink], error: BaseException, call: str
) -> None:
    """Whatever a sink raises comes out of the next call, with the array and the frames that are not on disk."""
    rig = start({"t": (9, 2), **YX}, kind=kind, faults=Faults(errors={0: error}), batch=2)
    rig.append_numbered(2)
    rig.workers.wait()
    calls: dict[str, Callable[[], None]] = {
        "append": lambda: rig.append_numbered(1),
        "skip": lambda: rig.engine.skip(1),
        "flush": rig.engine.flush,
        "close": rig.close,
    }
    for _ in range(1 if call == "close" else 3):  # a stream that failed stays failed
        with pytest.raises(
            WriteError, match=f"array '0' failed: {type(error).__name__}.*not on disk: 0 to 1"
        ) as caught:
            calls[call]()
        assert (caught.value.array, caught.value.frames) == ("0", (range(2),))
        assert caught.value.__cause__ is error
        assert ("close it" in str(caught.value)) == (call != "close")
    assert rig.engine.frames == 2
    with suppress(WriteError):
        rig.close()
    with pytest.raises(StreamClosedError):
        rig.append_numbered(1)
    stats = rig.engine.stats()
    assert (stats.frames_appended, stats.frames_written, stats.buffered_bytes) == (2, 0, 0)
    assert rig.sink.closed == 1


@UNORDERED
def test_other_blocks_are_still_written_after_an_error(start: Start, kind: type[MemorySink]) -> None:
    """One block that fails does not take along those that are complete or stand open."""
    gate = threading.Event()
    rig = start(
        {"p": (2,), "t": (9, 2), **YX},
        kind=kind,
        faults=Faults(gate=gate, errors={1: DISK_FULL}),
        buffer=BufferSettings(workers=1, timeout=20),
    )
    rig.append_numbered(15)
    gate.set()
    with pytest.raises(WriteError) as caught:
        rig.close()
    assert caught.value.frames == (range(2, 4),)
    assert caught.value.array == rig.plan.layout.images[0].array_path
    first, second = rig.written()
    assert first[:, 0, 0].tolist() == [1, 2, 0, 0, 5, 6, 7, 8, 9]
    assert second[:, 0, 0].tolist() == [10, 11, 12, 13, 14, 15, 0, 0, 0]
    assert rig.engine.stats().frames_written == 13


def test_a_frame_sink_stops_at_the_first_error(start: Start) -> None:
    """A library that wants order gets nothing after a failure, since it would land in the wrong place."""
    gate = threading.Event()
    faults = Faults(gate=gate, errors={1: DISK_FULL})
    rig = start({"t": (20,), **YX}, kind=MemoryFrameSink, faults=faults, batch=3)
    rig.append_numbered(4)
    rig.engine.skip(1)
    rig.append_numbered(6)
    gate.set()
    with pytest.raises(WriteError, match=r"Frames not on disk: 3, 5 to 10\.") as caught:
        rig.close()
    assert caught.value.frames == (range(3, 4), range(5, 11))
    assert isinstance(rig.sink, MemoryFrameSink)
    assert rig.sink.calls == [(0, 3, True)]
    assert rig.engine.stats().frames_written == 3


@UNORDERED
def test_many_lost_frames_are_told_in_short(start: Start, kind: type[MemorySink]) -> None:
    """The message names the first runs of frames; the attribute has them all."""
    gate = threading.Event()
    rig = start(
        {"t": (100,), **YX},
        kind=kind,
        faults=Faults(gate=gate, errors=dict.fromkeys(range(100), DISK_FULL)),
        buffer=BufferSettings(workers=1, timeout=20),
    )
    for _ in range(50):
        rig.append_numbered(1)
        rig.engine.skip(1)
    gate.set()
    with pytest.raises(WriteError, match=r"not on disk: 0, 2, 4, .*, 18 and 40 more runs\.") as caught:
        rig.close()
    assert caught.value.frames == tuple(range(n, n + 1) for n in range(0, 100, 2))


@SINKS
def test_an_error_ends_the_wait_for_memory(start: Start, kind: type[MemorySink]) -> None:
    """An append that waits for memory raises the error that made its buffer free; its frame is not taken."""
    gate = threading.Event()
    budget = least_memory(small(), kind, 1) if kind is MemoryFrameSink else 2 * least_memory(small(), kind, 1)
    buffer = BufferSettings(max_bytes=budget, workers=1)
    rig = start(
        {"t": (10, 2), **YX}, kind=kind, buffer=buffer, faults=Faults(gate=gate, errors={0: DISK_FULL}), batch=2
    )
    rig.append_numbered(4)
    thread, errors = in_thread(lambda: rig.append_numbered(1))
    thread.join(0.2)
    assert thread.is_alive()
    gate.set()
    thread.join(20)
    assert [type(error) for error in errors] == [WriteError]
    assert rig.engine.frames == 4


@SINKS
def test_close_raises_when_the_sink_cannot_be_closed(start: Start, kind: type[MemorySink]) -> None:
    """An error while the sink is closed is an error of close; everything is released, a second close does nothing."""
    rig = start({"t": (2,), **YX}, kind=kind, faults=Faults(close_error=DISK_FULL))
    rig.append_numbered(2)
    with pytest.raises(WriteError, match=r"writing the dataset failed: OSError.*No space") as caught:
        rig.close()
    assert (caught.value.array, caught.value.frames) == ("", ())
    assert rig.engine.closed
    rig.close()
    assert rig.sink.closed == 1
    assert rig.engine.stats().frames_written == 2


@SINKS
def test_nothing_is_left_after_close(start: Start, kind: type[MemorySink]) -> None:
    """Close ends all threads, which are daemons, and lets go of all memory, after errors too."""
    for faults in (Faults(), Faults(errors={0: DISK_FULL}), Faults(close_error=DISK_FULL)):
        rig = start({"t": (6, 2), **YX}, kind=kind, faults=faults, batch=2)
        threads = list(rig.workers._threads)
        assert all(thread.daemon and thread.is_alive() for thread in threads)
        with suppress(WriteError):
            rig.append_numbered(5)
        with suppress(WriteError):
            rig.close()
        assert not any(thread.is_alive() for thread in threads)
        assert (rig.pool.used, rig.pool._free) == (0, [])
        assert rig.engine.stats().buffered_bytes == 0


def test_after_close_nothing_is_taken(start: Start) -> None:
    """Append, skip and flush after close are errors; close and stats are not."""
    rig = start({"t": (6, 2), **YX})
    rig.append_numbered(3)
    rig.close()
    actions: list[Callable[[], None]] = [lambda: rig.append_numbered(1), lambda: rig.engine.skip(1), rig.engine.flush]
    for action in actions:
        with pytest.raises(StreamClosedError, match="create another"):
            action()
    rig.close()
    assert rig.engine.closed
    assert rig.engine.stats().frames_appended == 3


@SINKS
def test_ctrl_c_while_waiting_for_memory(start: Start, kind: type[MemorySink], monkeypatch: pytest.MonkeyPatch) -> None:
    """An append that is interrupted while it waits leaves the stream as it was, and all memory accounted for."""
    gate = threading.Event()
    budget = least_memory(small(), kind, 1) if kind is MemoryFrameSink else 2 * least_memory(small(), kind, 1)
    buffer = BufferSettings(max_bytes=budget, workers=1, timeout=20)
    rig = start({"t": (10, 2), **YX}, kind=kind, buffer=buffer, faults=Faults(gate=gate), batch=2)
    rig.append_numbered(4)

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(rig.pool, "_wait", interrupt)
        with pytest.raises(KeyboardInterrupt):
            rig.append_numbered(1)
    assert (rig.engine.frames, rig.pool.used) == (4, 2)
    gate.set()
    rig.append_numbered(6)
    rig.close()
    assert [int(frame[0, 0]) for frame in rig.written()[0]] == list(range(1, 11))
    assert rig.pool.used == 0


class Unwilling:
    """A frame that interrupts the copy of itself; the check of its dtype and shape passes."""

    dtype = np.dtype("uint16")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Pixels:
        raise KeyboardInterrupt


@SINKS
def test_ctrl_c_before_a_frame_is_taken(start: Start, kind: type[MemorySink]) -> None:
    """An interruption while a frame is looked at leaves the stream as it was."""
    rig = start({"t": (4, 2), **YX}, kind=kind)
    for _ in range(4):
        with pytest.raises(KeyboardInterrupt):
            rig.append(Unwilling())
        rig.append_numbered(1)
    rig.close()
    assert [int(frame[0, 0]) for frame in rig.written()[0]] == [1, 2, 3, 4]


@SINKS
@pytest.mark.parametrize("where", ["acquire", "copy"])
def test_ctrl_c_between_memory_and_frame_leaks_nothing(
    start: Start, kind: type[MemorySink], where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A buffer that was taken for an interrupted frame is used for the next, or given back."""
    rig = start({"p": (2,), "t": (3, 2), **YX}, kind=kind, batch=2)
    for _ in range(6):
        with monkeypatch.context() as patch:
            if where == "acquire":
                patch.setattr(rig.pool, "acquire", _interrupted(lambda: None))
            else:
                patch.setattr(_engine, "as_frame", lambda *_: InterruptsCopy())
            with suppress(KeyboardInterrupt):
                if where == "copy" or rig.assembly.place(rig.engine.frames)[0].pixels is None:
                    rig.append(numbered(99, rig.plan))
        rig.append_numbered(1)
    rig.close()
    assert [array[:, 0, 0].tolist() for array in rig.written()] == [[1, 2, 3], [4, 5, 6]]
    assert rig.pool.used == 0
    assert rig.engine.stats().frames_written == 6


class InterruptsCopy:
    """What is copied into the buffer when Ctrl-C strikes."""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Pixels:
        raise KeyboardInterrupt

    def __getitem__(self, part: Any) -> Pixels:  # a frame that is cut into chunks
        raise KeyboardInterrupt


def _interrupted(after: Callable[[], None]) -> Callable[..., Any]:
    def call(*_: Any, **__: Any) -> Any:
        after()
        raise KeyboardInterrupt

    return call


@SINKS
def test_ctrl_c_in_the_middle_of_counting_fails_the_stream(
    start: Start, kind: type[MemorySink], monkeypatch: pytest.MonkeyPatch
) -> None:
    """When nobody knows how far a frame got, the stream takes no more and names that frame."""
    rig = start({"t": (6, 2), **YX}, kind=kind)
    rig.append_numbered(1)
    with monkeypatch.context() as patch:
        patch.setattr(rig.assembly, "mark", _interrupted(lambda: None))
        with pytest.raises(KeyboardInterrupt):
            rig.append_numbered(1)
    for _ in range(2):
        with pytest.raises(WriteError, match="not on disk: 1"):
            rig.append_numbered(1)
    with pytest.raises(WriteError) as caught:
        rig.close()
    assert 1 in itertools.chain(*caught.value.frames)
    assert rig.pool.used == 0


@SINKS
@pytest.mark.parametrize("call", [0, 1, 3])
def test_ctrl_c_on_the_way_to_the_writers_names_what_is_lost(
    start: Start, kind: type[MemorySink], call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block whose way to the writers is interrupted is on disk as a whole, or all of its frames are named."""
    axes = {"t": (9, 2), "y": (5, 1), "x": (6,)}
    rig = start(axes, kind=kind, part_bytes=1, buffer=BufferSettings(workers=1, timeout=20), batch=2)
    submit, calls = rig.workers.submit, itertools.count()

    def interrupted(task: Callable[[], None], *shard: Any) -> None:
        if next(calls) == call:
            raise KeyboardInterrupt
        submit(task, *shard)

    def append_and_close() -> None:
        rig.append_numbered(9)
        rig.close()

    with monkeypatch.context() as patch:
        patch.setattr(rig.workers, "submit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            append_and_close()
    with pytest.raises(WriteError, match="KeyboardInterrupt") as caught:
        rig.close()
    lost = set(itertools.chain(*caught.value.frames))
    assert lost
    counts = rig.sink.counts(0)
    for number in range(rig.engine.frames):
        assert (number in lost) != counts[number]
        assert counts[number] == 0 or (rig.written()[0][number] == number + 1).all()


@SINKS
@pytest.mark.parametrize("when", ["before", "after"])
def test_ctrl_c_in_close_when_the_writers_get_what_is_left(
    start: Start, kind: type[MemorySink], when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next close hands it over, if it has to: nothing is lost, and nothing written twice."""
    rig = start({"t": (4, 4), "p": (3,), **YX}, kind=kind, batch=2)
    rig.append_numbered(7)
    rig.workers.wait()
    submit = rig.workers.submit

    def interrupted(task: Callable[[], None], *shard: Hashable) -> Never:
        if when == "after":
            submit(task, *shard)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(rig.workers, "submit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            rig.close()
        if when == "after":
            patch.setattr(rig.workers, "submit", submit)
            rig.workers.wait()
    assert rig.sink.closed == 0
    rig.close()
    assert rig.engine.stats().frames_written == 7
    assert rig.sink.closed == 1


@SINKS
def test_what_close_can_not_hand_over_is_named(
    start: Start, kind: type[MemorySink], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever goes wrong on the way from the assembly to the writers: close ends, and says what it has cost."""
    rig = start({"t": (4, 4), "p": (3,), **YX}, kind=kind, batch=2)
    rig.append_numbered(7)
    rig.workers.wait()
    before = rig.engine.stats().frames_written

    def fail(*_: object) -> Never:
        raise ValueError("no tasks")

    monkeypatch.setattr(rig.assembly, "tasks", fail)
    with pytest.raises(WriteError, match="no tasks") as caught:
        rig.close()
    assert len(list(itertools.chain(*caught.value.frames))) == 7 - before
    assert rig.engine.stats().frames_written == before
    assert rig.sink.closed == 1


@SINKS
def test_an_interrupted_close_can_be_called_again(
    start: Start, kind: type[MemorySink], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while close waits for the writers loses nothing: the next close completes the work."""
    gate = threading.Event()
    rig = start({"t": (9, 2), **YX}, kind=kind, faults=Faults(gate=gate), batch=2)
    rig.append_numbered(5)
    assert rig.sink.begun.wait(20)
    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(rig.workers, "wait", _interrupted(lambda: None))
            with pytest.raises(KeyboardInterrupt):
                rig.close()
        assert not rig.engine.closed
        assert rig.sink.closed == 0
    with pytest.raises(StreamClosedError):
        rig.append_numbered(1)
    gate.set()
    rig.close()
    assert rig.engine.closed
    assert rig.sink.closed == 1
    assert [int(frame[0, 0]) for frame in rig.written()[0]] == [1, 2, 3, 4, 5, 0, 0, 0, 0]


@UNORDERED
def test_a_dead_writer_thread_is_noticed(start: Start, kind: type[MemorySink]) -> None:
    """When threads are gone, as in the child of a fork, waiting for them is an error and not a hang."""
    rig = start({"t": (9, 2), **YX}, kind=kind)
    rig.workers._calls.put(False)
    rig.workers._calls.put(False)
    for thread in rig.workers._threads:
        thread.join(20)
    rig.append_numbered(2)
    with pytest.raises(OMEWritersError, match="ended unexpectedly"):
        rig.engine.flush()
    rig.workers._tasks.clear()  # so that the engine can be closed


# ---- skipping ------------------------------------------------------------------------------------------------------


@SINKS
@pytest.mark.parametrize("count", [0, -1, True, False, 1.5, 2.0, None, "2", np.float64(1), np.bool_(True)], ids=repr)
def test_skip_wants_a_whole_number(start: Start, kind: type[MemorySink], count: Any) -> None:
    """Anything but a whole number of 1 or more is refused, and nothing is skipped."""
    rig = start({"t": (6, 2), **YX}, kind=kind)
    with pytest.raises(SettingsError, match=r"whole number of 1 or more.*nothing was skipped"):
        rig.engine.skip(count)
    assert rig.engine.frames == 0
    rig.engine.skip(np.int8(2))  # type: ignore[arg-type]
    assert rig.engine.frames == 2


@SINKS
def test_skipping_too_many_takes_none(start: Start, kind: type[MemorySink]) -> None:
    """More skips than frames are declared are refused as a whole."""
    rig = start({"t": (6, 2), **YX}, kind=kind)
    rig.append_numbered(1)
    with pytest.raises(
        FrameCountError, match=r"declare 6 frames and 1 were .*; 6 more are too many. Nothing was taken"
    ):
        rig.engine.skip(6)
    stats = rig.engine.stats()
    assert (stats.frames_appended, stats.frames_skipped) == (1, 0)
    rig.append_numbered(1)
    rig.engine.skip(4)
    rig.close()
    assert rig.written()[0][:, 0, 0].tolist() == [1, 2, 0, 0, 0, 0]


def test_skipped_blocks_never_reach_a_block_sink(start: Start) -> None:
    """A block without an acquired frame is not written; of others the sink is told which chunks are."""
    rig = start({"t": (24, 2, 3), **YX})
    rig.engine.skip(6)  # the first block
    rig.append_numbered(1)  # one chunk of the second
    rig.engine.skip(1)
    rig.engine.skip(2)
    rig.append_numbered(2)
    rig.append_numbered(6)  # the third, complete
    rig.engine.skip(6)
    rig.close()
    assert isinstance(rig.sink, MemoryBlockSink)
    written = sorted(rig.sink.blocks, key=lambda block: block[1])
    assert [(origin, shape) for _, origin, shape, _ in written] == [((6,), (6, *FRAME)), ((12,), (6, *FRAME))]
    assert written[0][3] is not None
    assert written[0][3].tolist() == [True, False, True]
    assert written[1][3] is None
    assert rig.written()[0][:, 0, 0].tolist() == [0] * 6 + [7, 0, 0, 0, 11, 12] + list(range(13, 19)) + [0] * 6
    stats = rig.engine.stats()
    assert (stats.frames_appended, stats.frames_written, stats.frames_skipped) == (9, 9, 15)


def test_skipped_layers_are_only_told_of(start: Start) -> None:
    """A layer without an acquired frame is not written, but a sink that waits for it is told, once."""
    rig = start({"t": (12, 2, 3), "c": (2,), **YX}, kind=MemoryLayerSink)
    rig.engine.skip(5)
    rig.append_numbered(1)  # c 1, t 2: in the second layer of its channel
    rig.engine.skip(18)
    rig.close()
    assert isinstance(rig.sink, MemoryLayerSink)
    assert rig.sink.layers == [(0, (1, 1), 0, 1)]
    cells = {(0, cell) for cell in np.ndindex(6, 2)}
    assert sorted(rig.sink.skipped) == sorted(cells - {(0, (1, 1))})
    assert rig.written()[0][2, 1, 0, 0] == 6
    assert np.count_nonzero(rig.written()[0]) == FRAME[0] * FRAME[1]
    stats = rig.engine.stats()
    assert (stats.frames_appended, stats.frames_written, stats.frames_skipped) == (1, 1, 23)


def test_skipped_frames_take_no_memory(start: Start) -> None:
    """Skipping needs no buffer, so it never waits for one, and a million skipped blocks do not pile up."""
    gate = threading.Event()
    buffer = BufferSettings(max_bytes=2 * 2 * 4 * 6 * 2, workers=1, timeout=20)
    rig = start({"t": (None, 2), **YX}, faults=Faults(gate=gate), buffer=buffer)
    rig.append_numbered(4)
    assert rig.sink.begun.wait(20)
    rig.engine.skip(100_000)
    assert len(rig.workers._tasks) <= 1
    assert rig.engine.stats().frames_skipped == 100_000
    gate.set()
    rig.append(np.ones(FRAME, np.uint16))
    rig.close()
    assert rig.written()[0].shape[0] == 100_005


def test_a_frame_sink_is_told_of_skips_in_order(start: Start) -> None:
    """Skips of any length stand between the frames where they happened."""
    rig = start({"p": (2,), "t": (6,), **YX}, kind=MemoryFrameSink, batch=4)
    rig.append_numbered(2)
    rig.engine.skip(3)
    rig.append_numbered(2)  # the second opens the second array
    rig.engine.skip(5)
    rig.close()
    assert isinstance(rig.sink, MemoryFrameSink)
    merged = [
        (array, stored, sum(count for _, count, _ in calls))
        for (array, stored), calls in itertools.groupby(rig.sink.calls, key=lambda call: (call[0], call[2]))
    ]
    assert merged == [(0, True, 2), (0, False, 3), (0, True, 1), (1, True, 1), (1, False, 5)]


def test_small_frames_reach_a_frame_sink_together(start: Start) -> None:
    """Frames that follow each other in an array are handed over in batches, so that each costs no call."""
    rig = start({"t": (100,), **YX}, kind=MemoryFrameSink)
    rig.append_numbered(100)
    rig.close()
    assert isinstance(rig.sink, MemoryFrameSink)
    assert rig.sink.calls == [(0, 100, True)]


# ---- growth --------------------------------------------------------------------------------------------------------


class Clock:
    """A clock that stands still until told otherwise."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        """Return the time."""
        return self.now


@SINKS
def test_growth_is_announced_about_once_a_second(
    start: Start, kind: type[MemorySink], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However fast frames come, the extent of a growing array is announced once a second, and on flush."""
    clock = Clock()
    monkeypatch.setattr(_upkeep, "time", clock)
    rig = start({"t": (None, 2), **YX}, kind=kind, batch=2)

    def advance(seconds: float) -> None:
        clock.now += seconds
        rig.append_numbered(2)
        rig.workers.wait()

    for _ in range(9):
        advance(0.1)
    assert rig.grown == []
    advance(0.2)
    assert rig.grown == [{0: 20}]
    for _ in range(9):
        advance(0.1)
    assert rig.grown == [{0: 20}]
    rig.engine.flush()
    assert rig.grown == [{0: 20}, {0: 38}]
    rig.engine.flush()
    assert rig.grown == [{0: 20}, {0: 38}], "nothing has grown since"
    advance(100)
    assert rig.grown[2:] == [{0: 40}]


@SINKS
def test_growth_is_announced_after_the_data_are_written(
    start: Start, kind: type[MemorySink], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader who sees an extent finds the data; of several arrays only those that have grown are named."""
    monkeypatch.setattr(_upkeep, "_GROWTH_SECONDS", 0.0)
    gate = threading.Event()
    rig = start({"t": (None,), "p": (2,), **YX}, kind=kind, faults=Faults(gate=gate), buffer=BufferSettings(workers=1))
    found: list[bool] = []
    rig.engine._upkeep._on_growth = lambda grown: found.extend(
        rig.sink.counts(array).shape[0] >= extent for array, extent in grown.items()
    )
    rig.append_numbered(3)
    assert rig.sink.begun.wait(20)
    assert found == []
    gate.set()
    rig.engine.flush()
    assert len(found) == 3
    assert all(found)


@UNORDERED
def test_growth_never_falls(start: Start, kind: type[MemorySink], monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks that are complete out of order do not make an array shorter."""
    monkeypatch.setattr(_upkeep, "_GROWTH_SECONDS", 0.0)
    first_may_go = threading.Event()
    rig = start({"t": (None, 2), **YX}, kind=kind, buffer=BufferSettings(workers=2, timeout=20))
    write = rig.sink._store

    def store(array: int, origin: tuple[int, ...], block: Pixels, *part: slice) -> None:
        if origin == (0,):
            assert first_may_go.wait(20)
        write(array, origin, block, *part)

    rig.sink._store = store  # type: ignore[method-assign, assignment]
    rig.append_numbered(4)
    wait_until(lambda: rig.grown == [{0: 4}])
    first_may_go.set()
    rig.engine.flush()
    rig.append_numbered(2)
    rig.engine.flush()
    assert rig.grown == [{0: 4}, {0: 6}]


@SINKS
def test_a_failed_announcement_loses_no_frames(
    start: Start, kind: type[MemorySink], monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a shape can't be written the stream goes on and tries again; flush tells, and claims no frame lost."""
    monkeypatch.setattr(_upkeep, "_GROWTH_SECONDS", 0.0)
    rig = start({"t": (None, 2), **YX}, kind=kind, batch=2)
    announce, tries = rig.engine._upkeep._on_growth, []

    def fail(grown: Mapping[int, int]) -> None:
        tries.append(grown)
        raise DISK_FULL

    rig.engine._upkeep._on_growth = fail
    rig.append_numbered(2)
    rig.workers.wait()
    rig.append_numbered(2)
    with pytest.raises(WriteError, match="No space left on device") as caught:
        rig.engine.flush()
    assert caught.value.frames == ()
    assert len(tries) > 1
    rig.engine._upkeep._on_growth = announce
    rig.append_numbered(1)
    rig.engine.flush()
    assert rig.grown[-1][0] >= 4
    rig.close()
    assert rig.engine.stats().frames_written == 5


def test_bounded_acquisitions_announce_nothing(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrays that do not grow have their final shape from the start."""
    monkeypatch.setattr(_upkeep, "_GROWTH_SECONDS", 0.0)
    rig = start({"t": (4,), **YX})
    rig.append_numbered(4)
    rig.engine.flush()
    assert rig.grown == []


# ---- records -------------------------------------------------------------------------------------------------------


@SINKS
def test_records_are_lines_of_a_file(start: Start, kind: type[MemorySink]) -> None:
    """Each frame with metadata is a line, in the order of appending, with its number, image, index and metadata."""
    rig = start({"p": (2,), "t": (2,), "z": (3,), "c": (2,), **YX}, kind=kind)
    expected = []
    order = [(p, [t, c, z]) for p, t, z, c in np.ndindex(2, 2, 3, 2)]  # stored as t, c, z
    for number, (p, index) in enumerate(order):
        metadata = None if number % 5 == 0 else {"n": number, "ü": "\u2028'\"\n", "list": [1, None, True]}
        rig.append(numbered(number, rig.plan), metadata)
        if metadata:
            image = rig.plan.layout.images[p].path
            expected.append({"frame": number, "image": image, "storage_index": index, "metadata": metadata})
    assert rig.plan.geometry.dimension_names[:3] == ("t", "c", "z")
    rig.close()
    lines = rig.path.read_bytes().split(b"\n")
    assert lines.pop() == b""
    assert [json.loads(line) for line in lines] == expected
    assert rig.records.arrays() == [0, 1]
    for array in (0, 1):
        image = rig.plan.layout.images[array].path
        assert list(rig.records.of_array(array)) == [record for record in expected if record["image"] == image]


def test_numpy_values_become_numbers_and_lists(start: Start) -> None:
    """Scalars and arrays of numpy are written as plain JSON."""
    rig = start({"t": (2,), **YX})
    rig.append(
        numbered(0, rig.plan),
        {
            "int": np.uint16(7),
            "float": np.float32(0.5),
            "bool": np.bool_(True),
            "array": np.arange(4).reshape(2, 2),
            "inner": {"a": (np.int64(1),)},
            "text": np.str_("t"),
        },
    )
    rig.append(numbered(1, rig.plan), {})
    rig.close()
    (record,) = map(json.loads, rig.path.read_text("utf-8").splitlines())
    assert record["metadata"] == {
        "int": 7,
        "float": 0.5,
        "bool": True,
        "array": [[0, 1], [2, 3]],
        "inner": {"a": [1]},
        "text": "t",
    }


def test_records_stand_in_the_file_no_later_than_their_block(start: Start) -> None:
    """What is known of a frame survives whatever its pixels survive: both are written together."""
    rig = start({"t": (10, 2), **YX})
    for number in range(5):
        rig.append(numbered(number, rig.plan), {"n": number})
    rig.engine.flush()
    assert len(rig.path.read_bytes().splitlines()) >= 4


def test_records_are_not_kept_in_memory(tmp_path: Path) -> None:
    """Of 200,000 records the log keeps the places of the first few thousand only; the file has them all."""
    log = RecordLog(tmp_path / "frames.jsonl", ["a", "b"])
    text = json.dumps({"delta_t": 1.25, "text": "x" * 80})
    tracemalloc.start()
    try:
        for number in range(200_000):
            log.add(number, number // 150_000, (number,), text)
            if number % 100 == 0:
                log.drain()
        current, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    log.close()
    assert current < 1e6
    assert most < 2e6
    with (tmp_path / "frames.jsonl").open("rb") as file:
        assert sum(1 for _ in file) == 200_000
    for array, first in ((0, 0), (1, 150_000)):
        records = list(log.of_array(array))
        assert [r["frame"] for r in records] == list(range(first, first + RECORDS_PER_IMAGE))


def test_records_of_a_long_acquisition_leave_the_engine(start: Start) -> None:
    """Records wait for no longer than the frames of a block or two."""
    rig = start({"t": (2000, 10), **YX}, buffer=BufferSettings(max_bytes=4 * 10 * 48, timeout=20))
    most = 0
    for number in range(2000):
        rig.append(numbered(number, rig.plan), {"n": number})
        most = max(most, len(rig.records._waiting))
    rig.close()
    assert most <= 60
    assert len(rig.path.read_bytes().splitlines()) == 2000


def test_no_record_is_lost_between_threads(tmp_path: Path) -> None:
    """Records that are added while others are written stand in the file, once and in order."""
    log = RecordLog(tmp_path / "frames.jsonl", [""])
    count = 30_000
    done = threading.Event()

    def drain() -> None:
        while not done.is_set():
            log.drain()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [in_thread(drain) for _ in range(2)]
        for number in range(count):
            log.add(number, 0, (number,), "{}")
    finally:
        done.set()
        sys.setswitchinterval(interval)
    for thread, errors in threads:
        thread.join(20)
        assert not errors
    log.close()
    lines = (tmp_path / "frames.jsonl").read_bytes().splitlines()
    assert [json.loads(line)["frame"] for line in lines] == list(range(count))
    assert [record["frame"] for record in log.of_array(0)] == list(range(RECORDS_PER_IMAGE))


class InterruptedList(list[Any]):
    """A list to which something is appended just when another thread writes what is in it."""

    def __init__(self, items: list[Any], meanwhile: Callable[[], None]) -> None:
        super().__init__(items)
        self.meanwhile = meanwhile

    def append(self, item: Any) -> None:
        """Give the other thread time, and append."""
        thread, _ = in_thread(self.meanwhile)
        thread.join(0.2)
        super().append(item)


def test_no_record_is_lost_when_another_is_written(tmp_path: Path) -> None:
    """A record that is added while another thread takes those before it waits its turn."""
    log = RecordLog(tmp_path / "frames.jsonl", [""])
    log.add(0, 0, (0,), "{}")
    log._waiting = InterruptedList(log._waiting, log.drain)
    log.add(1, 0, (1,), "{}")
    log.add(2, 0, (2,), "{}")
    wait_until(lambda: not any(thread.name.startswith("Thread-") for thread in threading.enumerate()))
    log.close()
    lines = (tmp_path / "frames.jsonl").read_bytes().splitlines()
    assert [json.loads(line)["frame"] for line in lines] == [0, 1, 2]


def test_records_survive_a_full_disk(tmp_path: Path) -> None:
    """A failure leaves whole lines in the file, and what was not written is written by the next try."""
    log = RecordLog(tmp_path / "frames.jsonl", [""])
    log.add(0, 0, (0,), '{"a":1}')
    log.drain()
    whole = (tmp_path / "frames.jsonl").read_bytes()
    for number in (1, 2, 3):
        log.add(number, 0, (number,), '{"a":1}')
    with faulty_files(FileFault("write", errno.ENOSPC, after_bytes=2 * len(whole) - 5)):
        for _ in range(2):
            with pytest.raises(OSError, match="No space"):
                log.drain()
            assert (tmp_path / "frames.jsonl").read_bytes() == whole
    log.add(4, 0, (4,), '{"a":1}')
    log.close()
    lines = (tmp_path / "frames.jsonl").read_bytes().splitlines()
    assert [json.loads(line)["frame"] for line in lines] == [0, 1, 2, 3, 4]
    assert [record["frame"] for record in log.of_array(0)] == [0, 1, 2, 3, 4]


@SINKS
def test_a_record_that_cannot_be_written_fails_the_stream(start: Start, kind: type[MemorySink], tmp_path: Path) -> None:
    """Metadata that do not reach the disk are an error like pixels that do not."""
    rig = start({"t": (4, 2), **YX}, kind=kind, batch=2)
    rig.records._path = tmp_path / "missing" / "frames.jsonl"
    rig.append(numbered(0, rig.plan), {"a": 1})
    rig.append(numbered(1, rig.plan))
    with pytest.raises(WriteError, match="FileNotFoundError") as caught:
        rig.engine.flush()
    assert caught.value.frames == (range(2),)


# ---- statistics ----------------------------------------------------------------------------------------------------


@UNORDERED
def test_statistics_are_right_at_every_point(start: Start, kind: type[MemorySink]) -> None:
    """The record counts frames and bytes as they are taken, written, skipped and buffered; it can't be changed."""
    gate = threading.Event()
    size = FRAME[0] * FRAME[1] * 2
    buffer = BufferSettings(max_bytes=7 * size, workers=1, timeout=20)
    rig = start({"t": (10, 2), **YX}, kind=kind, faults=Faults(gate=gate), buffer=buffer)
    stats = rig.engine.stats()
    assert dataclasses.astuple(stats) == (0, 0, 0, 0, 0, 0, 0, 6 * size, 0.0, 1, 0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        stats.frames_appended = 1  # type: ignore[misc]
    rig.append_numbered(1)
    assert dataclasses.astuple(rig.engine.stats()) == (1, 0, 0, size, 0, 2 * size, 2 * size, 6 * size, 0.0, 1, 0)
    rig.append_numbered(2)
    assert dataclasses.astuple(rig.engine.stats()) == (3, 0, 0, 3 * size, 0, 4 * size, 4 * size, 6 * size, 0.0, 1, 0)
    rig.engine.skip(3)
    assert dataclasses.astuple(rig.engine.stats()) == (3, 0, 3, 3 * size, 0, 4 * size, 4 * size, 6 * size, 0.0, 1, 0)
    gate.set()
    rig.engine.flush()
    assert dataclasses.astuple(rig.engine.stats()) == (3, 3, 3, 3 * size, 3 * size, 0, 4 * size, 6 * size, 0.0, 1, 0)
    rig.append_numbered(1)
    rig.close()
    assert dataclasses.astuple(rig.engine.stats()) == (4, 4, 3, 4 * size, 4 * size, 0, 4 * size, 6 * size, 0.0, 1, 0)
    assert dataclasses.astuple(stats) == (0, 0, 0, 0, 0, 0, 0, 6 * size, 0.0, 1, 0), "an old record has changed"


@UNORDERED
def test_flush_waits_for_what_is_complete(start: Start, kind: type[MemorySink]) -> None:
    """After flush every complete block is written, and open blocks stay open."""
    rig = start({"t": (10, 2), **YX}, kind=kind, faults=Faults(seconds=0.01))
    rig.append_numbered(7)
    rig.engine.flush()
    assert rig.engine.stats().frames_written == 6
    rig.append_numbered(1)
    rig.engine.flush()
    assert rig.engine.stats().frames_written == 8


@UNORDERED
def test_writers_work_at_the_same_time(start: Start, kind: type[MemorySink]) -> None:
    """With several workers blocks are written side by side."""
    together = threading.Barrier(3, timeout=20)
    rig = start({"t": (6, 2), **YX}, kind=kind, buffer=BufferSettings(workers=3, timeout=20))
    rig.sink._misbehave = together.wait  # type: ignore[method-assign, assignment]
    rig.append_numbered(6)
    rig.engine.flush()
    assert rig.engine.stats().frames_written == 6


# ---- everything together -------------------------------------------------------------------------------------------


class EngineMachine(RuleBasedStateMachine):
    """Random calls, good and bad, against a dictionary of frames placed by ``numpy.ndindex``."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.rig: Rig | None = None

    @initialize(
        declared=acquisitions(dtypes=["uint16"], compressions=[None], max_frame_size=3, max_count=5),
        kind=st.sampled_from(list(KINDS.values())),
        workers=st.integers(1, 3),
        extra=st.sampled_from([0, 0, 64, 1 << 22]),
        batch=st.sampled_from([1, 2, 3, None]),
        part_bytes=st.sampled_from([1, 8, 1 << 24]),
        seconds=st.sampled_from([0, 0, 1e-4]),
    )
    def begin(
        self,
        declared: AcquisitionSettings,
        kind: type[MemorySink],
        workers: int,
        extra: int,
        batch: int | None,
        part_bytes: int,
        seconds: float,
    ) -> None:
        """Start an engine on little memory."""
        budget = least_memory(declared, kind, workers) + extra
        buffer = BufferSettings(max_bytes=budget, workers=workers, timeout=10)
        faults = Faults(seconds=seconds)
        folder = Path(self.folder.name)
        self.rig = rig = build(declared, folder, kind, buffer=buffer, faults=faults, batch=batch, part_bytes=part_bytes)
        *index, _, _ = declared.dimensions
        counts = [d.count for d in index]
        self.total = math.inf if None in counts else math.prod(n or 0 for n in counts)
        endless = counts and counts[0] is None
        firsts: Any = itertools.count() if endless else [None]
        inner = list(np.ndindex(*(n or 0 for n in (counts[1:] if endless else counts))))
        self.places = ((*([first] if endless else []), *rest) for first in firsts for rest in inner)
        names = [d.name for d in index]
        self.image_at = [i for i, d in enumerate(index) if d.type == "position"]
        self.index_at = [names.index(name) for name in rig.plan.geometry.dimension_names[:-2]]
        self.frames: dict[tuple[int, tuple[int, ...]], Pixels | None] = {}
        self.records: list[dict[str, Any]] = []
        self.number = 0

    def next_place(self) -> tuple[int, tuple[int, ...]]:
        """Return the array and the storage index of the next frame."""
        place = next(self.places)
        self.number += 1
        return (place[self.image_at[0]] if self.image_at else 0), tuple(place[i] for i in self.index_at)

    @property
    def open_rig(self) -> Rig:
        """The engine, which is running."""
        assert self.rig is not None
        return self.rig

    @precondition(lambda self: self.rig is not None and self.number < self.total)
    @rule(
        value=st.integers(0, 3) | st.integers(0, 65535),
        form=st.sampled_from(["plain", "plain", *FORMS]),
        metadata=st.none() | st.fixed_dictionaries({"v": st.integers()}),
        count=st.integers(1, 6),
    )
    def append(self, value: int, form: str, metadata: dict[str, int] | None, count: int) -> None:
        """Append some frames."""
        rig = self.open_rig
        for i in range(int(min(count, self.total - self.number))):
            frame = np.full(rig.plan.geometry.frame_shape, value, np.uint16)
            frame.flat[0] = i
            given_frame = FORMS[form](frame) if form != "plain" else frame.copy()
            number = self.number
            rig.append(given_frame, metadata)
            if form == "plain":
                given_frame[...] = 0x5A5A  # a camera reuses its buffer
            array, index = self.next_place()
            self.frames[array, index] = frame
            if metadata:
                image = rig.plan.layout.images[array].path
                self.records.append(
                    {"frame": number, "image": image, "storage_index": list(index), "metadata": metadata}
                )

    @precondition(lambda self: self.rig is not None)
    @rule(bad=st.sampled_from(["shape", "dtype", "none", "metadata"]))
    def append_bad(self, bad: str) -> None:
        """Append what can't be taken."""
        rig = self.open_rig
        good = np.zeros(rig.plan.geometry.frame_shape, np.uint16)
        frames = {"shape": good[None], "dtype": good.astype(np.float32), "none": None, "metadata": good}
        expected = FrameCountError if self.number == self.total else MetadataError if bad == "metadata" else FrameError
        used = rig.pool.most_used
        with pytest.raises(expected):
            rig.append(frames[bad], {"a": object()} if bad == "metadata" else {"a": 1})
        assert rig.pool.most_used == used

    @precondition(lambda self: self.rig is not None)
    @rule(count=st.integers(1, 9))
    def skip(self, count: int) -> None:
        """Skip some frames, or too many."""
        if self.number + count > self.total:
            with pytest.raises(FrameCountError):
                self.open_rig.engine.skip(count)
            return
        self.open_rig.engine.skip(count)
        for _ in range(count):
            self.frames[self.next_place()] = None

    @precondition(lambda self: self.rig is not None)
    @rule()
    def flush(self) -> None:
        """Flush; a frame sink then has everything."""
        self.open_rig.engine.flush()
        if isinstance(self.open_rig.sink, MemoryFrameSink):
            assert self.open_rig.engine.stats().frames_written == self.acquired

    @property
    def acquired(self) -> int:
        """Number of frames taken."""
        return sum(frame is not None for frame in self.frames.values())

    @invariant()
    def statistics_hold(self) -> None:
        """Compare the counts with those of the model, and the memory with the budget."""
        if self.rig is None:
            return
        stats = self.rig.engine.stats()
        assert stats.frames_appended == self.acquired
        assert stats.frames_skipped == self.number - self.acquired
        assert stats.frames_written <= stats.frames_appended
        assert stats.buffered_bytes <= stats.max_buffered_bytes <= stats.buffer_bytes

    def teardown(self) -> None:
        """Close, and compare everything with the model."""
        if self.rig is None:
            self.folder.cleanup()
            return
        rig = self.rig
        rig.close()
        try:
            assert rig.engine.stats().frames_written == self.acquired
            assert rig.pool.used == 0
            self.compare_pixels()
            lines = rig.path.read_bytes().splitlines() if self.records else []
            assert [json.loads(line) for line in lines] == self.records
            assert rig.path.exists() == bool(self.records)
        finally:
            self.folder.cleanup()

    def compare_pixels(self) -> None:
        """Check that every frame was written once, in its place, and nothing else but skipped frames beside it."""
        rig = self.open_rig
        found: dict[tuple[int, tuple[int, ...]], int] = {}
        for array in range(len(rig.plan.layout.images)):
            counts = rig.sink.counts(array)
            found.update({(array, tuple(map(int, at))): int(counts[tuple(at)]) for at in np.argwhere(counts)})
        for key, frame in self.frames.items():
            if frame is None:
                continue
            array, index = key
            assert found.pop(key, 0) == 1, f"frame {key} was not written once"
            assert np.array_equal(rig.sink.pixels(array)[index], frame)
        for array, index in found:  # in a block with frames that were acquired
            assert not isinstance(rig.sink, MemoryFrameSink)
            assert not rig.sink.pixels(array)[index].any()
        if isinstance(rig.sink, MemoryBlockSink):
            self.compare_masks(rig.sink)
        if isinstance(rig.sink, MemoryLayerSink):
            self.compare_layers(rig.sink)

    @property
    def wanted_chunks(self) -> set[tuple[int, tuple[int, ...]]]:
        """Array and place along the index axes of every chunk with an acquired frame."""
        chunks = self.open_rig.plan.geometry.chunks[:-2]
        return {
            (array, tuple(i // c for i, c in zip(index, chunks, strict=True)))
            for (array, index), frame in self.frames.items()
            if frame is not None
        }

    def compare_layers(self, sink: MemoryLayerSink) -> None:
        """Check that every layer with an acquired frame was written once and whole, and that the others were not."""
        geometry = self.open_rig.plan.geometry
        rows = sorted(
            (array, cell, row) for array, cell, first, count in sink.layers for row in range(first, first + count)
        )
        assert rows == sorted((*key, row) for key in self.wanted_chunks for row in range(geometry.layer_shape[0]))
        complete_or_begun = {
            (array, tuple(i // c for i, c in zip(index, geometry.chunks, strict=False))) for array, index in self.frames
        }
        told = complete_or_begun - self.wanted_chunks if geometry.shards else set()  # a shard waits for them
        assert sorted(sink.skipped) == sorted(told)
        assert sink.outside == 0

    def compare_masks(self, sink: MemoryBlockSink) -> None:
        """Check that every chunk with an acquired frame is to be stored, and no other."""
        chunks = self.open_rig.plan.geometry.chunks[:-2]
        told = set()
        for array, origin, shape, stored in sink.blocks:
            steps = [-(-n // c) for n, c in zip(shape, chunks, strict=False)]
            mask = np.ones(steps, bool) if stored is None else stored
            assert mask.shape == tuple(steps)
            for cell in np.argwhere(mask):
                told.add((array, tuple(o // c + int(i) for o, c, i in zip(origin, chunks, cell, strict=True))))
        assert told == self.wanted_chunks


TestEngineMachine = EngineMachine.TestCase
TestEngineMachine.settings = settings(max_examples=150, stateful_step_count=25, deadline=None)


def test_workers_that_are_interrupted_while_they_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while threads start leaves none of them behind."""
    start, started = threading.Thread.start, list[threading.Thread]()

    def interrupted(thread: threading.Thread) -> None:
        if len(started) == 2:
            raise KeyboardInterrupt
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Workers(4)
    for thread in started:
        thread.join(timeout=5)
        assert not thread.is_alive()
