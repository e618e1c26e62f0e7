"""Replay on a Dask cluster of processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from ome_writers import (
    AcquisitionSettings,
    Channel,
    Dimension,
    Plate,
    PositionDimension,
    ReplayProgress,
    create_stream,
    open_recording,
    recover,
    replay,
    verify,
)
from ome_writers._replay._region_task import RegionTask, write_region
from ome_writers._replay._regions import Region
from ome_writers.engine import FATES_FILE, RECORDS_FILE
from ome_writers.errors import ResumeError, SettingsError, UnsupportedError, WriteError

dask = pytest.importorskip("dask")
distributed = pytest.importorskip("distributed")

pytestmark = [
    pytest.mark.dask,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # sockets of the cluster's own
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    """Start a cluster of two processes with a thread each."""
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0", silence_logs=50
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


PIXELS = np.random.default_rng(5).integers(1, 4000, (5, 3, 2, 7, 24, 40), np.uint16)  # t, p, c, z, y, x


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Record an acquisition of three positions."""
    np.save(tmp_path / "run.npy", PIXELS)
    return tmp_path / "run.npy"


def dimensions(**changes: dict[str, Any]) -> tuple[Dimension, ...]:
    """Return the dimensions of the acquisition, in chunks and shards that do not divide it."""
    fields: dict[str, dict[str, Any]] = {
        "t": {"count": 5, "scale": 2.0, "unit": "second"},
        "p": {"coords": ["left", "middle", "right"]},
        "c": {"coords": [Channel(name="DAPI", color="blue"), Channel(name="FITC", color="lime")]},
        "z": {"count": 7, "chunk_size": 2, "shard_size_chunks": 2, "scale": 0.5, "unit": "micrometer"},
        "y": {"count": 24, "chunk_size": 16, "shard_size_chunks": 1},
        "x": {"count": 40, "chunk_size": 16, "shard_size_chunks": 2},
    }
    merged = {name: {**values, **changes.get(name, {})} for name, values in fields.items()}
    return tuple((PositionDimension if name == "p" else Dimension)(name=name, **v) for name, v in merged.items())


def without(*names: str) -> tuple[Dimension, ...]:
    """Return the dimensions of the acquisition without some of them."""
    return tuple(d for d in dimensions() if d.name not in names)


def documents(root: Path) -> dict[str, Any]:
    """Return every document of a dataset."""
    return {str(path.relative_to(root)): json.loads(path.read_text()) for path in root.rglob("zarr.json")}


def assert_same(root: Path, other: Path) -> None:
    """Assert that two datasets have the same documents, files and pixels."""
    assert documents(root) == documents(other)
    names = [
        {str(p.relative_to(r)) for p in r.rglob("*") if p.is_file() and p.name != "settings.json"}
        for r in (root, other)
    ]
    assert names[0] == names[1]
    for path, document in documents(root).items():
        if document["node_type"] == "array":
            array = path.removesuffix("/zarr.json")
            np.testing.assert_array_equal(zarr.open_array(root / array)[...], zarr.open_array(other / array)[...])


@pytest.mark.parametrize("sharded", [True, False])
@pytest.mark.parametrize("order", [("t", "p", "c", "z"), ("p", "z", "t", "c")])
def test_the_same_as_in_one_process(
    client: Any, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: tuple[str, ...], sharded: bool
) -> None:
    """A cluster writes what a single process writes: documents, files, and every pixel, in any order of acquisition."""
    whole = {} if sharded else {name: {"shard_size_chunks": None} for name in "zyx"}
    monkeypatch.setattr("ome_writers._replay._regions.REGION_BYTES", 1)
    with open_recording(source, axes="tpczyx") as recording:
        for where, on in ((tmp_path / "one.ome.zarr", None), (tmp_path / "many.ome.zarr", client)):
            settings = AcquisitionSettings(
                root_path=str(where), dimensions=dimensions(**whole), compression="blosc-lz4", dtype="uint16"
            )
            report = replay(recording, settings, order=order, client=on)
            assert report.complete
            assert report.frames_appended == 5 * 3 * 2 * 7
    assert_same(tmp_path / "one.ome.zarr", tmp_path / "many.ome.zarr")
    found = zarr.open_array(tmp_path / "many.ome.zarr" / "middle" / "0")
    np.testing.assert_array_equal(found[...], PIXELS[:, 1])
    assert verify(tmp_path / "many.ome.zarr").ok
    assert not recover(tmp_path / "many.ome.zarr").needed


def test_a_worker_that_is_killed(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The regions of a worker that is killed in the middle are written by the others; the result is the same."""
    monkeypatch.setattr("ome_writers._replay._regions.REGION_BYTES", 1)
    killed = threading.Event()
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0", silence_logs=50
        ) as cluster,
        distributed.Client(cluster) as client,
        open_recording(source, axes="tpczyx") as recording,
    ):

        def kill_one(progress: ReplayProgress) -> None:
            if progress.frames_done > 20 and not killed.is_set():
                killed.set()
                pids = client.run(os.getpid)
                os.kill(next(iter(pids.values())), signal.SIGKILL)

        settings = AcquisitionSettings(
            root_path=str(tmp_path / "many.ome.zarr"), dimensions=dimensions(), compression="blosc-lz4", dtype="uint16"
        )
        report = replay(recording, settings, client=client, progress=kill_one)
        alone = settings.model_copy(update={"root_path": str(tmp_path / "one.ome.zarr")}, deep=True)
        replay(recording, alone)
    assert killed.is_set()
    assert report.complete
    assert_same(tmp_path / "one.ome.zarr", tmp_path / "many.ome.zarr")
    assert verify(tmp_path / "many.ome.zarr").ok


def test_frames_that_are_missing(client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames that were not recorded are left out, as in one process, also where a whole shard lacks them."""
    tifffile = pytest.importorskip("tifffile")
    monkeypatch.setattr("ome_writers._replay._regions.REGION_BYTES", 1)
    folder = tmp_path / "series"
    folder.mkdir()
    for t, z, c in np.ndindex(3, 5, 2):
        if (t, z, c) not in {(0, 1, 1), (1, 2, 0), (1, 2, 1), (1, 3, 0), (1, 3, 1), (2, 0, 0)}:
            tifffile.imwrite(folder / f"img_t{t}_z{z}_c{c}.tif", PIXELS[t, 0, c, z])
    with open_recording(folder) as recording:
        assert recording.frames_missing == 6
        for name, on in (("one", None), ("many", client)):
            settings = AcquisitionSettings(
                root_path=str(tmp_path / name / "x.ome.zarr"),
                dimensions=[
                    Dimension(**{**dict(d), "chunk_size": 1, "shard_size_chunks": 2 if d.name == "z" else None})
                    for d in recording.dimensions[:-2]
                ]
                + list(recording.dimensions[-2:]),
            )
            report = replay(recording, settings, order=("z", "c", "t"), skip_missing=True, client=on)
            assert (report.frames_appended, report.frames_skipped) == (24, 6)
            assert report.complete
    assert_same(tmp_path / "one" / "x.ome.zarr", tmp_path / "many" / "x.ome.zarr")
    fates = [(tmp_path / name / "x.ome.zarr" / "ome_writers" / "frames.txt").read_text() for name in ("one", "many")]
    assert fates[0] == fates[1]
    assert fates[0].count("s") == 6
    assert verify(tmp_path / "many" / "x.ome.zarr").ok


def test_workers_that_end_again_and_again(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster that gives up on a region is an error that says so, and the dataset can be resumed."""
    monkeypatch.setattr("ome_writers._replay._regions.REGION_BYTES", 1)
    settings = AcquisitionSettings(root_path=str(tmp_path / "x.ome.zarr"), dimensions=dimensions(), dtype="uint16")

    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0", silence_logs=50
        ) as cluster,
        distributed.Client(cluster) as own,
        open_recording(source, axes="tpczyx") as recording,
    ):

        def kill_all(progress: ReplayProgress) -> None:
            for pid in own.run(os.getpid).values():
                os.kill(pid, signal.SIGKILL)

        with pytest.raises(WriteError, match="ended again and again"):
            replay(recording, settings, client=own, progress=kill_all)
        said = documents(tmp_path / "x.ome.zarr")["zarr.json"]["attributes"]["ome_writers"]["completeness"]
        assert not said["closed"]
        assert replay(recording, settings, client=own, resume=True).complete
    assert verify(tmp_path / "x.ome.zarr").ok


def test_a_worker_that_does_not_see_the_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker for which the destination is not there says so, and makes nothing: its files would be nowhere."""
    monkeypatch.setattr("ome_writers._replay._region_task._VISIBLE_SECONDS", 0.3)
    np.save(tmp_path / "run.npy", PIXELS[0, 0, 0])
    settings = AcquisitionSettings(root_path=str(tmp_path / "x.ome.zarr"), dimensions=dimensions(), dtype="uint16")
    region = Region(0, 0, (0, 0, 0), (1, 1, 4))
    elsewhere = tmp_path / "not" / "mounted.ome.zarr"
    task = RegionTask("run", (str(tmp_path / "run.npy"), {}), settings.model_dump_json(), str(elsewhere), region)
    with pytest.raises(WriteError, match=r"does not see .*mounted\.ome\.zarr"):
        write_region(task)
    assert not elsewhere.parent.exists()


KILLED = """
import os, signal, sys
import distributed
import ome_writers._replay._regions as regions
from ome_writers import AcquisitionSettings, replay

def main():
    source, target, frames, resume = sys.argv[1:]
    regions.REGION_BYTES = 1
    def kill(progress):
        if progress.frames_done >= int(frames):
            os.kill(os.getpid(), signal.SIGKILL)
    cluster = distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs=50)
    client = distributed.Client(cluster)
    settings = AcquisitionSettings.model_validate_json(sys.stdin.read())
    replay(source, settings, client=client, progress=kill, skip_missing=True, resume=resume == "resume")

if __name__ == "__main__":
    main()
"""


def run_and_kill(source: Path, settings: AcquisitionSettings, frames: int, *, resume: bool = False) -> None:
    """Replay on a cluster in a process that kills itself when so many frames are done."""
    arguments = [str(source), settings.root_path, str(frames), "resume" if resume else "begin"]
    script = source.parent / "killed.py"
    script.write_text(KILLED)
    done = subprocess.run(
        [sys.executable, str(script), *arguments],
        input=settings.model_dump_json(), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    time.sleep(1)  # its workers end when they notice


@pytest.fixture(scope="module")
def gaps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Record an acquisition with metadata of frames, of which some are missing."""
    path = tmp_path_factory.mktemp("gaps") / "source.ome.zarr"
    settings = AcquisitionSettings(
        root_path=str(path), dimensions=(*dimensions()[:1], *dimensions()[3:]), dtype="uint16"
    )
    with create_stream(settings) as stream:
        for number, (t, z) in enumerate(np.ndindex(5, 7)):
            if number % 5 == 1 or t == 2:
                stream.skip()
            else:
                stream.append(PIXELS[t, 0, 0, z], frame_metadata={"delta_t": number / 4})
    return path


@pytest.mark.parametrize("then", ["cluster", "stream", "recover"])
@pytest.mark.parametrize("twice", [False, True])
def test_a_coordinator_that_is_killed(client: Any, gaps: Path, tmp_path: Path, then: str, twice: bool) -> None:
    """After kill -9, once or again after resuming, the dataset tells which frames it has; going on completes it."""
    path, alone = tmp_path / "x.ome.zarr", tmp_path / "alone" / "x.ome.zarr"
    alone.parent.mkdir()
    settings = AcquisitionSettings(
        root_path=str(path), dimensions=(*dimensions()[:1], *dimensions()[3:]), dtype="uint16"
    )
    run_and_kill(gaps, settings, 9)
    if twice:
        run_and_kill(gaps, settings, 24, resume=True)
    with open_recording(gaps) as recording:
        assert recording.present is not None
        present = recording.present.ravel()
        one = settings.model_copy(update={"root_path": str(alone)}, deep=True)
        replay(recording, one, skip_missing=True)
        report = recover(path)
        assert report.needed
        lost = {frame for run in report.lost for frame in run}
        assert report.frames_skipped == (~present).sum()
        assert not lost & set(np.flatnonzero(~present).tolist())
        assert report.frames_written == present.sum() - len(lost) > 0
        found, whole = (np.asarray(zarr.open_array(root / "0")[...]) for root in (path, alone))
        for number, index in enumerate(np.ndindex(5, 7)):
            np.testing.assert_array_equal(found[index], 0 if number in lost else whole[index])
        if then == "recover":
            assert len(verify(path).problems) == 0 or lost
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of frames that are needed again
            on = client if then == "cluster" else None
            assert replay(recording, settings, client=on, resume=True, skip_missing=True).complete
    assert_same(alone, path)
    assert (path / RECORDS_FILE).read_text() == (alone / RECORDS_FILE).read_text()
    assert (path / FATES_FILE).read_text() == (alone / FATES_FILE).read_text()
    assert verify(path).ok


def test_metadata_and_missing_frames_of_a_plate(client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wells, metadata of frames and missing frames are written by a cluster as by one process."""
    monkeypatch.setattr("ome_writers._replay._regions.REGION_BYTES", 1)
    source = tmp_path / "plate.ome.zarr"
    wells = [{"name": f"f{f}", "plate_row": row, "plate_column": "2"} for row in "AB" for f in range(2)]
    settings = AcquisitionSettings(
        root_path=str(source),
        dtype="uint16",
        plate=Plate.from_standard_wells(6),
        dimensions=[Dimension(name="t", count=3), PositionDimension(coords=wells), *dimensions()[-2:]],
    )
    with create_stream(settings) as stream:
        for number in range(12):
            if number == 5:
                stream.skip()
            else:
                stream.append(PIXELS[0, 0, 0, number % 7], frame_metadata={"delta_t": number / 8, "well": number % 4})
    with open_recording(source) as recording:
        for name, on in (("one", None), ("many", client)):
            (tmp_path / name).mkdir()
            report = replay(recording, tmp_path / name / "x.ome.zarr", skip_missing=True, client=on)
            assert (report.frames_appended, report.frames_skipped) == (11, 1)
            assert report.bytes_in == 11 * PIXELS[0, 0, 0, 0].nbytes
    one, many = (tmp_path / name / "x.ome.zarr" for name in ("one", "many"))
    assert_same(one, many)
    for file in (RECORDS_FILE, FATES_FILE):
        assert (one / file).read_text() == (many / file).read_text()
    assert verify(many).ok


def test_a_scheduler_that_is_lost(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster that is gone is an error that says so; the dataset tells what it holds, and can be resumed."""
    monkeypatch.setattr("ome_writers._replay._regions.REGION_BYTES", 1)
    settings = AcquisitionSettings(root_path=str(tmp_path / "x.ome.zarr"), dimensions=dimensions(), dtype="uint16")
    with (
        dask.config.set({"distributed.comm.retry.count": 0, "distributed.comm.timeouts.connect": "3s"}),
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, processes=True, dashboard_address=":0", silence_logs=50
        ) as cluster,
        distributed.Client(cluster) as own,
        open_recording(source, axes="tpczyx") as recording,
    ):

        def close_it(progress: ReplayProgress) -> None:
            if progress.frames_done > 10:
                own.sync(cluster.scheduler.close)

        with pytest.raises(WriteError, match="cluster"):
            replay(recording, settings, client=own, progress=close_it)
        said = documents(tmp_path / "x.ome.zarr")["zarr.json"]["attributes"]["ome_writers"]["completeness"]
        assert said["recovered"]
        assert 10 < said["frames_written"] < 210
        with pytest.warns(UserWarning, match="again"):
            assert replay(recording, settings, resume=True).complete
    assert verify(tmp_path / "x.ome.zarr").ok


def test_a_cluster_without_workers(source: Path, tmp_path: Path) -> None:
    """While there are no workers yet, progress goes on, so that it can be stopped."""
    calls: list[ReplayProgress] = []

    def stop(progress: ReplayProgress) -> None:
        calls.append(progress)
        if len(calls) == 2:
            raise KeyboardInterrupt

    with (
        distributed.LocalCluster(n_workers=0, processes=True, dashboard_address=":0", silence_logs=50) as cluster,
        distributed.Client(cluster) as own,
        open_recording(source, axes="tpczyx") as recording,
    ):
        start = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            replay(recording, str(tmp_path / "x.ome.zarr"), client=own, progress=stop)
        assert time.monotonic() - start < 20
    assert calls[-1].frames_done == 0


@pytest.mark.parametrize("then", ["resume", "overwrite", "recover"])
def test_what_a_coordinator_that_was_killed_leaves(client: Any, source: Path, tmp_path: Path, then: str) -> None:
    """Regions that were being put together when everything was killed are removed, whatever is done next."""
    path = tmp_path / "x.ome.zarr"
    settings = AcquisitionSettings(root_path=str(path), dimensions=dimensions(), dtype="uint16")
    with open_recording(source, axes="tpczyx") as recording:
        replay(recording, settings, limit=50)
        left = path / "ome_writers" / "regions" / "3.abcd.ome.zarr"
        replay(PIXELS[0, 0, 0], AcquisitionSettings(root_path=str(left)), limit=2)
        if then == "recover":
            recover(path)
        else:
            settings.overwrite = then == "overwrite"
            assert replay(recording, settings, client=client, resume=then == "resume").complete
            assert verify(path).ok
    assert not left.parent.exists()


def test_interrupted_and_resumed(client: Any, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is interrupted says what it holds, and a second replay writes only the rest, with a cluster or without."""
    monkeypatch.setattr("ome_writers._replay._regions.REGION_BYTES", 1)

    def interrupt(progress: ReplayProgress) -> None:
        if progress.frames_done > 100:
            raise KeyboardInterrupt

    with open_recording(source, axes="tpczyx") as recording:
        for name, again in (("many", client), ("one", None)):
            path = tmp_path / f"{name}.ome.zarr"
            settings = AcquisitionSettings(
                root_path=str(path), dimensions=dimensions(), compression="blosc-lz4", dtype="uint16"
            )
            with pytest.raises(KeyboardInterrupt):
                replay(recording, settings, client=client, progress=interrupt)
            said = documents(path)["zarr.json"]["attributes"]["ome_writers"]["completeness"]
            assert not said["closed"]
            assert 100 < said["frames_written"] < 210
            assert not (path / "ome_writers" / "regions").exists()
            if again is None:
                with pytest.warns(UserWarning, match="again"):
                    report = replay(recording, settings, resume=True)
            else:
                report = replay(recording, settings, client=again, resume=True)
                assert report.frames_appended == 210 - said["frames_written"]
            assert report.complete
    assert_same(tmp_path / "one.ome.zarr", tmp_path / "many.ome.zarr")


def test_resume_what_a_single_process_began(client: Any, source: Path, tmp_path: Path) -> None:
    """A cluster goes on with a dataset that a single process has begun, also inside of a shard."""
    with open_recording(source, axes="tpczyx") as recording:
        settings = AcquisitionSettings(
            root_path=str(tmp_path / "a.ome.zarr"), dimensions=dimensions(), compression="zstd", dtype="uint16"
        )
        replay(recording, settings, limit=45)
        assert replay(recording, settings, client=client, resume=True).complete
        replay(recording, settings.model_copy(update={"root_path": str(tmp_path / "b.ome.zarr")}, deep=True))
        other = settings.model_copy(deep=True)
        other.compression = "blosc-lz4"
        with pytest.raises(ResumeError, match="compression"):
            replay(recording, other, client=client, resume=True)
    assert_same(tmp_path / "a.ome.zarr", tmp_path / "b.ome.zarr")


def test_what_a_cluster_refuses(client: Any, source: Path, tmp_path: Path) -> None:
    """Pace, other backends and arrays in memory are refused before anything is written."""
    target = tmp_path / "x.ome.zarr"
    with open_recording(source, axes="tpczyx") as recording:
        for wrong in ({"fps": 10.0}, {"limit": 3}):
            with pytest.raises(SettingsError, match="camera"):
                replay(recording, str(target), client=client, **wrong)
        settings = AcquisitionSettings(root_path=str(target), format="tensorstore")
        with pytest.raises(UnsupportedError, match="'direct'"):
            replay(recording, settings, client=client)
    with pytest.raises(SettingsError, match="path"):
        replay(PIXELS[0, 0, 0], str(target), client=client)
    assert not target.exists()


def test_a_source_that_workers_can_not_read(client: Any, source: Path, tmp_path: Path) -> None:
    """An error of a worker arrives as it is, and the dataset does not claim to be complete."""
    target = tmp_path / "x.ome.zarr"
    with open_recording(source, axes="tpczyx") as recording:
        source.unlink()
        with pytest.raises(ValueError, match="nothing at this path"):
            replay(recording, str(target), client=client)
    assert not documents(target)["zarr.json"]["attributes"]["ome_writers"]["completeness"]["closed"]
