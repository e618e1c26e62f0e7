"""What every sink must do: part of the suites of :mod:`ome_writers.testing.conformance`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Final

import numpy as np
import pytest

from ome_writers.abc import Sink, WritePlan
from ome_writers.errors import UnsupportedError
from ome_writers.settings import DTYPES, AcquisitionSettings

from .codec_conformance import CodecConformance
from .datasets import Axes, acquisition, assert_reads, check_files, finish_documents, make_plan

__all__ = ["GRIDS", "SMALL", "UNBOUNDED", "UNBOUNDED_INSIDE", "SinkConformance"]

SMALL: Final[Axes] = {"t": (2,), "y": (4,), "x": (4,)}
GRIDS: Final[dict[str, Axes]] = {
    "unsharded": {"t": (6, 2), "c": (2,), "y": (8, 4), "x": (8, 8)},
    "sharded": {"t": (8, 2, 2), "c": (2,), "y": (8, 4, 2), "x": (8, 8, 1)},
    "uneven": {"t": (5, 2), "c": (3, 2), "y": (13, 4), "x": (9, 5)},
    "uneven shards": {"t": (7, 2, 2), "c": (3, 1, 2), "y": (13, 4, 3), "x": (9, 5, 1)},
    "chunks in depth": {"c": (2,), "z": (7, 3, 2), "y": (10, 4, 2), "x": (6, 3, 2)},
    "one step per shard": {"t": (4, 1, 1), "y": (8,), "x": (8,)},
    "chunks larger than the axis": {"t": (3, 10, 2), "y": (5, 100), "x": (7, 9)},
}
UNBOUNDED: Final[dict[str, Axes]] = {
    "unsharded": {"t": (None, 4), "c": (2,), "y": (8, 4), "x": (6,)},
    "sharded": {"t": (None, 2, 3), "c": (2,), "y": (8, 4, 2), "x": (6,)},
}
UNBOUNDED_INSIDE: Final[dict[str, Axes]] = {  # stored as t, z, y, x
    "unsharded": {"z": (None, 4), "t": (3,), "y": (8, 4), "x": (6,)},
    "sharded": {"z": (None, 2, 3), "t": (3, 1, 2), "y": (8, 4, 2), "x": (6,)},
}


class SinkConformance(CodecConformance):
    """What every sink must do, whatever it is given."""

    sink_class: ClassVar[type[Sink]]

    def plan(self, root: Path, settings: AcquisitionSettings) -> WritePlan:
        """Make a dataset's folder and documents below ``root``; skip the test when the backend refuses the plan."""
        try:
            return make_plan(root / "data.zarr", self.sink_class, settings)
        except UnsupportedError as error:
            pytest.skip(str(error))

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_dtypes_outside_of_the_capabilities_are_refused(self, tmp_path: Path, dtype: str) -> None:
        """A plan is accepted or refused before anything is touched, as the capabilities say; a refusal names both."""
        plan = make_plan(tmp_path / "data.zarr", self.sink_class, acquisition(SMALL, "uint8"))
        wanted = replace(plan, layout=replace(plan.layout, geometry=replace(plan.geometry, dtype=dtype)))
        caps = self.sink_class.capabilities
        if dtype in caps.dtypes:
            self.sink_class.check(wanted)
            return
        with pytest.raises(UnsupportedError, match=f"{caps.name}.*{dtype}"):
            self.sink_class.check(wanted)

    def test_unknown_compressions_are_refused(self, tmp_path: Path) -> None:
        """A compression that is not among the capabilities is refused, and the message names it."""
        plan = make_plan(tmp_path / "data.zarr", self.sink_class, acquisition(SMALL))
        with pytest.raises(UnsupportedError, match=f"{self.sink_class.capabilities.name}.*'lossy'"):
            self.sink_class.check(replace(plan, codec=plan.codec.model_copy(update={"name": "lossy"})))

    def test_an_unused_sink_leaves_a_valid_dataset(self, tmp_path: Path) -> None:
        """A sink that is closed before any write leaves arrays of zeros and no files."""
        plan = self.plan(tmp_path, acquisition(SMALL))
        self.sink_class(plan).close()
        finish_documents(plan)
        check_files(plan)
        assert_reads(plan, 0, np.zeros((2, 4, 4), np.uint16))
