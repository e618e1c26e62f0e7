"""The benchmarks run, with tiny frames, and check what was written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.__main__ import main


def test_benchmarks_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every workload runs over every backend and its loop, all frames come out right, and the table has them all."""
    saved = tmp_path / "results.json"
    arguments = ["--runs", "1", "--scale", "0.25", "--side", "64", "--scratch", str(tmp_path), "--json", str(saved)]
    assert main(arguments) == 0
    rows = json.loads(saved.read_text())["rows"]
    assert {row["backend"] for row in rows} == {"tensorstore", "zarr-python", "zarrs-python", "acquire-zarr"}
    assert {row["kind"] for row in rows} == {"stream", "loop"}
    assert all(run["wrong_frames"] == 0 and run["gigabytes_per_second"] > 0 for row in rows for run in row["runs"])
    table = capsys.readouterr().out
    assert "sharded-raw" in table
    assert "p99 ms" in table
