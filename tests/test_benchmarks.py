"""The benchmarks run, with tiny frames, and check what was written."""

from __future__ import annotations

import itertools
import json
import mmap
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from numcodecs import blosc

from benchmarks import _bare, profiles
from benchmarks import parts as parts_module
from benchmarks.__main__ import main
from benchmarks._bare import bare_pipeline
from benchmarks._contenders import BARE, CONTENDERS, COPY_AND_WRITE, LOOPS, SAME_BLOCKS
from benchmarks._measure import _LOOSE_BYTES, _run, held_memory, loose_memory, wrong_frames
from benchmarks._options import UNPACED
from benchmarks._timing import Timing
from benchmarks._workloads import WORKLOADS, Frames, Workload
from benchmarks.bounds import main as bounds_main
from benchmarks.loops import main as loops_main
from benchmarks.parts import Cost
from benchmarks.parts import main as parts_main
from benchmarks.parts import measure as measure_parts
from benchmarks.replay import CONTENDERS as REPLAY_CONTENDERS
from benchmarks.replay import main as replay_main
from ome_writers.engine import plan_memory

TINY = WORKLOADS["sharded-raw"].scaled(0.1).shrunk(64)


@pytest.mark.timeout(300)
def test_benchmarks_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every workload runs over its contenders, all frames come out right, and tables and picture have them all."""
    saved, picture = tmp_path / "results.json", tmp_path / "picture.svg"
    arguments = ["--runs", "1", "--scale", "0.01", "--side", "64", "--scratch", str(tmp_path)]
    arguments += ["--backend", "direct", "tensorstore", "--json", str(saved), "--plot", str(picture)]
    assert main(arguments) == 0
    rows = json.loads(saved.read_text())["rows"]
    assert {row["workload"] for row in rows} == set(WORKLOADS)
    ours = {"direct stream", "tensorstore stream"}
    others = {"tensorstore frames", SAME_BLOCKS, "acquire-zarr frames", BARE, "limit", COPY_AND_WRITE}
    assert {row["contender"] for row in rows} == ours | others
    assert [row["workload"] for row in rows if row["contender"] == SAME_BLOCKS] == ["sharded-blosc-zstd"]
    assert all(run["wrong_frames"] == 0 and run["gigabytes_per_second"] > 0 for row in rows for run in row["runs"])
    printed = capsys.readouterr().out
    assert all(name in printed for name in WORKLOADS)
    assert picture.read_text().count("</svg>") == 1


@pytest.mark.parametrize("name", ["sharded-raw", "light-sheet-transposed", "fast-frames", "positions"])
def test_the_bare_pipeline_writes_every_chunk(name: str, tmp_path: Path) -> None:
    """What it is compared with: each chunk of each array, encoded as in a stream, once."""
    workload = replace(WORKLOADS[name].scaled(0.1).shrunk(64), compression="none")
    pixels = workload.pixels()
    timing = bare_pipeline(workload, pixels, tmp_path / "bare")
    assert len(timing.calls) == workload.frames
    chunk_bytes = 2 * int(np.prod(workload.chunk_shape))
    written = b"".join(path.read_bytes() for path in (tmp_path / "bare").iterdir())
    expected = []
    for position in range(workload.positions):
        array = pixels[workload.numbers(position) % len(pixels)]
        for origin in np.ndindex(*(n // c for n, c in zip(workload.shape, workload.chunk_shape, strict=True))):
            where = (slice(o * c, o * c + c) for o, c in zip(origin, workload.chunk_shape, strict=True))
            expected.append(array[tuple(where)].tobytes())
    assert sorted(expected) == sorted(written[i : i + chunk_bytes] for i in range(0, len(written), chunk_bytes))
    bare_pipeline(replace(workload, compression="blosc-lz4"), pixels, tmp_path / "encoded")
    encoded, decoded = b"".join(path.read_bytes() for path in (tmp_path / "encoded").iterdir()), []
    while encoded:
        nbytes = int.from_bytes(encoded[12:16], "little")  # of one chunk, from the header of blosc
        decoded.append(blosc.decompress(encoded[:nbytes]))
        encoded = encoded[nbytes:]
    assert sorted(expected) == sorted(decoded)


@pytest.mark.parametrize(("failing", "buffers"), [(0, 4), (3, 99)], ids=["all", "the last"])
def test_a_bare_pipeline_that_fails_says_so(
    failing: int, buffers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It neither waits for ever for memory that a thread has, which can't write, nor takes less for writing less."""
    workload = replace(TINY, compression="none")
    numbers = itertools.count()

    def write(*_: object) -> None:
        if next(numbers) >= failing:
            raise OSError("no space")

    monkeypatch.setattr(_bare, "plan_memory", lambda *given: replace(plan_memory(*given), buffers=buffers))
    monkeypatch.setattr(_bare, "write_all", write)
    with pytest.raises(OSError, match="bare pipeline could not write"):
        bare_pipeline(workload, workload.pixels(), tmp_path / "bare")


def test_the_threads_of_a_bare_pipeline_share_a_file(tmp_path: Path) -> None:
    """As those of a stream share a shard: what is in it is what is in the files that they would have of their own."""
    workload = replace(WORKLOADS["sharded-raw"].scaled(0.1).shrunk(64), compression="none")
    chunks: list[list[bytes]] = []
    for one_file in (False, True):
        folder = tmp_path / str(one_file)
        bare_pipeline(workload, workload.pixels(), folder, one_file=one_file)
        assert len(list(folder.iterdir())) == (1 if one_file else os.cpu_count())
        written = b"".join(path.read_bytes() for path in folder.iterdir())
        chunks.append(sorted(written[i : i + 512] for i in range(0, len(written), 512)))  # 16 x 16 of 2 bytes
    assert chunks[0] == chunks[1]
    assert len(chunks[0]) == 16 * workload.frames


def test_the_bare_pipeline_takes_frames_of_parts_of_chunks(tmp_path: Path) -> None:
    """As with any side that is asked for."""
    workload = replace(WORKLOADS["sharded-raw"].scaled(0.1).shrunk(65), compression="none")
    bare_pipeline(workload, workload.pixels(), tmp_path / "bare")
    written = sum(path.stat().st_size for path in (tmp_path / "bare").iterdir())
    assert written == workload.frames * 2 * 80**2  # chunks of 16 x 16, those at the edge whole


def test_the_bare_pipeline_takes_layers_that_are_not_full(tmp_path: Path) -> None:
    """Those at the end of an array are written whole, as a stream does."""
    shallow = replace(WORKLOADS["light-sheet"].shrunk(64), index=(("t", 2), ("z", 20)), compression="none")
    bare_pipeline(shallow, shallow.pixels(), tmp_path / "bare")
    written = sum(path.stat().st_size for path in (tmp_path / "bare").iterdir())
    assert written == 2 * 32 * 2 * 64**2  # chunks of 16 planes


def test_the_bare_pipeline_has_as_many_layers_open_as_the_stream(tmp_path: Path) -> None:
    """More than those that may wait: it would stand still for ever for memory that nobody gives back."""
    planes = WORKLOADS["light-sheet-transposed"].shrunk(64)
    workload = replace(planes, index=(("t", 1), ("z", 16), ("c", 20)), compression="none")
    timing = bare_pipeline(workload, workload.pixels(), tmp_path / "bare")
    assert len(timing.calls) == 320


def test_what_bounds_a_stream_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Stream, bare pipeline, loop and limit take turns; the table has every workload, and nothing stays behind."""
    arguments = ["--turns", "2", "--scale", "0.1", "--side", "64", "--scratch", str(tmp_path)]
    assert bounds_main(arguments) == 0
    printed = capsys.readouterr().out
    for name in UNPACED:
        assert printed.count(f"│ {name} ") == (3 if WORKLOADS[name].shard else 2)  # the name, not the end of another
    assert "0 wrong frames" in printed
    assert not list(tmp_path.iterdir())


def test_the_benchmark_of_loops_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each library's stream and its loops, shards ready-made or gathered, write what they should; the table has all."""
    arguments = ["--turns", "2", "--scale", "0.1", "--side", "64", "--scratch", str(tmp_path)]
    assert loops_main(arguments) == 0
    printed = capsys.readouterr().out
    assert all(printed.count(name) == 2 for name in LOOPS)
    assert "0 wrong frames" in printed
    assert not list(tmp_path.iterdir())


def test_the_parts_of_the_work_are_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every workload has a row; what there is to do takes time, and what there is not, none."""
    arguments = ["--turns", "1", "--scale", "0.01", "--side", "64", "--scratch", str(tmp_path)]
    assert parts_main(arguments) == 0
    printed = capsys.readouterr().out
    assert all((f"│ {name} " in printed) == (workload.fps is None) for name, workload in WORKLOADS.items())
    for compression in ("none", "blosc-zstd"):
        costs = measure_parts(replace(TINY.scaled(4), compression=compression), 2, tmp_path)
        assert list(costs) == ["copying", "encoding", "writing", "stream"]
        assert all(len(of_part) == 2 for of_part in costs.values())
        for name, of_part in costs.items():
            assert all((cost.processor > 0) == (name != "encoding" or compression != "none") for cost in of_part)
            assert all(cost.wall >= 0 and cost.user >= 0 and cost.system >= 0 for cost in of_part)
    assert not list(tmp_path.iterdir())


def test_each_part_does_its_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every chunk is encoded once, and all that comes out is written; the stream writes every frame."""
    encoded: list[bytes] = []

    def encode(chunk: Frames) -> bytes:
        encoded.append(chunk.tobytes()[::2])
        return encoded[-1]

    monkeypatch.setattr(parts_module, "encoder", lambda _: encode)
    workload = replace(TINY, compression="blosc-lz4")
    pixels = workload.pixels()
    named = parts_module.parts(workload, pixels)
    encoded.clear()
    named["encoding"](tmp_path)
    assert 2 * sum(map(len, encoded)) == workload.nbytes
    (tmp_path / "writing").mkdir()
    named["writing"](tmp_path / "writing")
    assert 2 * sum(f.stat().st_size for f in (tmp_path / "writing").rglob("*") if f.is_file()) == workload.nbytes
    named["stream"](tmp_path)
    assert wrong_frames(workload, pixels, tmp_path / "data.ome.zarr") == 0


def test_what_the_parts_tell() -> None:
    """The most is all cores busy with the three parts; the stream's rate is a part of that."""
    costs = {
        name: [Cost(processor=seconds)] for name, seconds in [("copying", 1.0), ("encoding", 2.0), ("writing", 1.0)]
    }
    costs["stream"] = [Cost(wall=2.0, processor=6.0, user=4.0, system=2.0)]
    workload = replace(TINY, index=(("t", 1_000_000),), side=1000)  # 2000 GB
    cells = parts_module._cells(workload, 4, costs)
    assert cells[3:] == ["2000.00", "0.003", "33%", "3.00", "1000.00", "0.50"]


def perf_sample(thread: int, at: float, *frames: str) -> str:
    """Return what ``perf script`` prints of a sample of a process with the number 7."""
    return f"      7/{thread} {at:.6f}: \n" + "".join(f"\t  7f001122 {frame}\n" for frame in frames) + "\n"


@pytest.mark.parametrize(
    ("kind", "thread", "frames"),
    [
        ("write()", 8, ["copy_folio_from_iter_atomic ([kernel.kallsyms])", "shmem_file_write_iter ([kernel.kallsyms])",
                        "entry_SYSCALL_64 ([kernel.kallsyms])", "writev (/lib/libc.so.6)"]),
        ("write()", 8, ["ext4_get_block ([ext4])", "vfs_write ([kernel.kallsyms])"]),
        ("rest of the kernel", 7, ["shmem_write_end ([kernel.kallsyms])", "vfs_write ([kernel.kallsyms])"]),
        ("rest of the kernel", 8, ["native_write_msr ([kernel.kallsyms])", "futex_wake ([kernel.kallsyms])",
                                   "writev (/lib/libc.so.6)"]),
        ("codec", 8, ["shuffle_avx2 (/x/blosc_extension.cpython-311.so)"]),
        ("codec", 8, ["ZSTD_compress (/x/zstd.cpython-311.so)"]),
        ("codec", 8, ["__memmove_avx512 (/lib/libc.so.6)"]),
        ("copying frames", 7, ["__memmove_avx512 (/lib/libc.so.6)"]),
        ("copying frames", 7, ["_contig_to_contig (/x/_multiarray_umath.cpython-311.so)"]),
        ("Python and others", 7, ["array_subscript (/x/_multiarray_umath.cpython-311.so)"]),
        ("Python and others", 8, ["_contig_to_contig (/x/_multiarray_umath.cpython-311.so)"]),
        ("Python and others", 8, ["_PyEval_EvalFrameDefault (/x/libpython3.11.so.1.0)"]),
        ("Python and others", 8, ["clock_gettime ([vdso])"]),
    ],
)  # fmt: skip
def test_a_sample_is_of_a_kind(kind: str, thread: int, frames: list[str]) -> None:
    """The innermost call and its thread tell what the processor did."""
    (sample,) = profiles.samples(perf_sample(thread, 1.5, *frames))
    assert (sample.kind, sample.main, sample.time) == (kind, thread == 7, 1.5)


def test_shares_are_those_within_the_spans() -> None:
    """Samples before, between and after the streams do not count; the room is what the rest of the work takes."""
    codec, python = "LZ4 (/x/blosc.so)", "eval (/x/libpython3.11.so)"
    script = "".join(perf_sample(8, at, codec) for at in (1.0, 1.2, 2.0, 3.5))
    script += (
        perf_sample(8, 1.1, python) + perf_sample(8, 2.5, python) + perf_sample(8, 0.9) + perf_sample(9, 4, python)
    )
    spans = [profiles.Span(1, 2, 1.5), profiles.Span(3, 3.9, 1.5)]
    found = profiles.shares(spans, profiles.samples(script))
    assert found == dict.fromkeys(profiles.KINDS, 0) | {"codec": 0.8, "Python and others": 0.2}
    assert profiles.room(found, busy=1.6, cores=2) == pytest.approx(2 / (1.6 * 0.8))
    assert profiles.shares([], profiles.samples(script)) == dict.fromkeys(profiles.KINDS, 0)


def test_profiles_know_when_streams_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each stream but the first has its span, one after the other, and nothing is left behind."""
    arguments = ["--turns", "2", "--scale", "0.1", "--side", "64", "--scratch", str(tmp_path), "--spans"]
    assert profiles.main([*arguments, "--workload", "sharded-raw"]) == 0
    first, second = (profiles.Span(**json.loads(line)) for line in capsys.readouterr().out.splitlines())
    assert first.start < first.end < second.start < second.end
    assert min(first.processor, second.processor) > 0
    assert not list(tmp_path.iterdir())


def test_profiles_end_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a perf that samples one instant of each stream, the table has it; without one, or a broken one: an error."""
    perf = tmp_path / "perf"
    perf.write_text(
        f"""#!{sys.executable}
import json, pathlib, subprocess, sys
notes = pathlib.Path({str(tmp_path / "spans")!r})
if sys.argv[1] == "record":
    done = subprocess.run(sys.argv[sys.argv.index("--") + 1 :], capture_output=True, text=True, check=True)
    notes.write_text(done.stdout)
    print(done.stdout)
else:
    for line in notes.read_text().splitlines():
        at = json.loads(line)["end"] - 1e-5
        for library in ("/x/blosc.so", "/x/libpython.so"):
            print(f"  7/8 {{at:.6f}}: \\n\\t 7f00 name ({{library}})\\n")
"""
    )
    perf.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    arguments = ["--turns", "2", "--scale", "0.1", "--side", "64", "--scratch", str(tmp_path)]
    assert profiles.main([*arguments, "--workload", "sharded-raw", "positions"]) == 0
    printed = capsys.readouterr().out
    for name in ("sharded-raw", "positions"):
        (row,) = (line for line in printed.splitlines() if f" {name} " in line)
        assert [cell.strip() for cell in row.strip("│ ").split("│")][1:6] == ["0%", "50%", "0%", "0%", "50%"]
    perf.write_text(f"#!{sys.executable}\nimport sys\nsys.exit('no permission')\n")
    with pytest.raises(SystemExit, match="no permission"):
        profiles.main([*arguments, "--workload", "sharded-raw"])
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with pytest.raises(SystemExit, match="perf is not there"):
        profiles.main([*arguments, "--workload", "sharded-raw"])


@pytest.mark.parametrize(
    ("command", "option", "said"),
    [(loops_main, ["--turns", "0"], "--turns takes 1"), (bounds_main, ["--turns", "0"], "--turns takes 1"),
     (replay_main, ["--runs", "0"], "--runs takes 1"),
     (main, ["--runs", "-1"], "--runs takes 1"), (parts_main, ["--scratch", "nowhere"], "not nowhere")],
)  # fmt: skip
def test_options_that_make_no_sense(
    command: Callable[[list[str]], int], option: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are refused by name."""
    with pytest.raises(SystemExit):
        command(option)
    assert said in capsys.readouterr().err


@pytest.mark.timeout(300)
def test_the_benchmark_of_replay_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A recording is read, written and replayed, all frames come out right, and the table has all three."""
    arguments = ["--runs", "1", "--scale", "0.1", "--side", "64", "--scratch", str(tmp_path)]
    assert replay_main(arguments) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in REPLAY_CONTENDERS)
    assert not list(tmp_path.iterdir())


def test_a_wrong_frame_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A contender that changes one pixel of two frames is found out."""

    def careless(workload: Workload, pixels: Frames, path: Path) -> Timing:
        wrong = pixels.copy()
        wrong[3:5, -1, -1] += 1
        return CONTENDERS["tensorstore loop"](workload, wrong, path)

    monkeypatch.setitem(CONTENDERS, "careless", careless)
    assert _run({"contender": "careless", "workload": asdict(TINY), "scratch": str(tmp_path)}).wrong_frames == 2


def test_memory_is_held_but_for_some(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that is available is held but for what is to be left; where there is less, nothing."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=5000))
    assert held_memory(1000).nbytes == 4000
    assert held_memory(6000).nbytes == 0


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere memory is left as it is")
def test_loose_memory_is_free_but_for_single_pages() -> None:
    """One page of every 64 KiB stays in use, so that no block that a machine would give back is free."""
    before = psutil.Process().memory_info().rss
    memory = loose_memory(1 << 27)
    assert memory is not None
    assert psutil.Process().memory_info().rss - before < 1 << 25
    kept = np.frombuffer(memory, np.uint8)[::_LOOSE_BYTES]
    assert kept.size == (1 << 27) >> 16
    assert kept.all()
    assert not np.frombuffer(memory, np.uint8)[mmap.PAGESIZE :: _LOOSE_BYTES].any()
    assert loose_memory(0) is None


def test_other_writers_choose_their_blocks(tmp_path: Path) -> None:
    """The loop that streams are compared with leaves the size of blosc's blocks to blosc, but for the one with ours."""
    workload = WORKLOADS["sharded-blosc-zstd"].scaled(0.1).shrunk(64)
    sizes = {}
    for name in ("tensorstore frames", SAME_BLOCKS, "direct stream"):
        path = tmp_path / f"{name}.ome.zarr"
        CONTENDERS[name](workload, workload.pixels(), path)
        (codec,) = json.loads((path / "0" / "zarr.json").read_text())["codecs"]
        sizes[name] = codec["configuration"]["codecs"][-1]["configuration"]["blocksize"]
    assert sizes == {"tensorstore frames": 0, SAME_BLOCKS: 1 << 19, "direct stream": 1 << 19}


def test_places_and_numbers_agree() -> None:
    """Frame n of a workload is where the numbers of its array say, for every workload."""
    for workload in WORKLOADS.values():
        small = replace(workload.scaled(0.01), fps=None)
        numbers = [small.numbers(position) for position in range(small.positions)]
        found = [int(numbers[position][index]) for position, index in small.places()]
        assert np.array_equal(found, np.arange(small.frames))
