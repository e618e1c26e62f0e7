"""What every backend must do with compression: part of the suites of :mod:`ome_writers.testing.conformance`."""
# ruff: noqa: S101

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest

from ome_writers.abc import Sink, WritePlan
from ome_writers.errors import UnsupportedError
from ome_writers.settings import AcquisitionSettings, Codec

from .datasets import READERS, Axes, acquisition, chunk_bytes, crc32c, make_plan, random_pixels

__all__ = ["CodecConformance"]

Pixels = npt.NDArray[Any]
Shuffle: TypeAlias = Literal["none", "byte", "bit"]

_COMPRESSIONS: Final = ("none", "zstd", "blosc-zstd", "blosc-lz4")
_UNEVEN: Final[dict[str, Axes]] = {
    "unsharded": {"t": (5, 2), "c": (3, 2), "y": (13, 4), "x": (9, 5)},
    "sharded": {"t": (7, 2, 2), "c": (3, 1, 2), "y": (13, 4, 3), "x": (9, 5, 1)},
}
_LARGE: Final[Axes] = {"t": (2,), "y": (256,), "x": (256,)}
_BLOSC_HEADER: Final = 16  # bytes, c-blosc 1: version, version of the format, flags, bytes of a pixel, three sizes
_FLAGS: Final[dict[Shuffle, int]] = {"none": 0, "byte": 1, "bit": 4}


class CodecConformance(ABC):
    """What a sink must do with the codec of its plan.

    Attributes
    ----------
    sink_class : type of Sink
        The sink to be tested.
    """

    sink_class: ClassVar[type[Sink]]

    @abstractmethod
    def plan(self, root: Path, settings: AcquisitionSettings) -> WritePlan:
        """Make a dataset's folder and documents below ``root``; skip the test when the backend refuses the plan."""

    @abstractmethod
    def write_all(self, plan: WritePlan, images: Sequence[Pixels]) -> None:
        """Write all arrays, close the sink, and check what is on disk."""

    def encoded(self, root: Path, codec: Codec, dtype: str = "uint16") -> list[bytes]:
        """Return the bytes of the chunks that a sink makes of pixels which compress somewhat."""
        root.mkdir()
        plan = self.plan(root, acquisition(_LARGE, dtype, codec))
        rng = np.random.default_rng(3)
        walk = rng.integers(-3, 4, (2, 256, 256)).cumsum(axis=2) + 100
        self.write_all(plan, [np.maximum(np.abs(walk), 1).astype(dtype)])
        places = sorted(chunk_bytes(plan, 0).items())
        return [file.read_bytes()[where.start : where.stop] for _, (file, where) in places]

    @pytest.mark.parametrize("grid", _UNEVEN)
    @pytest.mark.parametrize("dtype", ["uint8", "uint16", "float64"])
    @pytest.mark.parametrize("compression", _COMPRESSIONS)
    def test_compressions(self, tmp_path: Path, compression: str, dtype: str, grid: str) -> None:
        """Every compression of the capabilities can be read by others."""
        plan = self.plan(tmp_path, acquisition(_UNEVEN[grid], dtype, compression))
        self.write_all(plan, [random_pixels([n or 0 for n in plan.geometry.shape], dtype)])

    @pytest.mark.parametrize(
        ("name", "levels"),
        [("zstd", (1, 9, 19)), ("zstd", (-7, 1)), ("blosc-zstd", (0, 1, 9)), ("blosc-lz4", (0, 1, 9))],
    )
    def test_a_higher_level_makes_smaller_chunks(
        self, tmp_path: Path, name: Literal["zstd", "blosc-zstd", "blosc-lz4"], levels: Sequence[int]
    ) -> None:
        """The level is that of the plan, not the library's own: it shows in the number of bytes."""
        sizes = []
        for level in levels:
            chunks = self.encoded(tmp_path / f"level{level}", Codec(name=name, level=level))
            sizes.append(sum(map(len, chunks)))
            if level == 0:  # blosc stores
                assert {len(chunk) for chunk in chunks} == {2 * 256 * 256 + _BLOSC_HEADER}
        assert sizes == sorted(set(sizes), reverse=True)

    @pytest.mark.parametrize("dtype", ["uint8", "uint16", "float64"])
    @pytest.mark.parametrize("shuffle", [None, "none", "byte", "bit"])
    @pytest.mark.parametrize("name", ["blosc-zstd", "blosc-lz4"])
    def test_pixels_are_shuffled(
        self, tmp_path: Path, name: Literal["blosc-zstd", "blosc-lz4"], shuffle: Shuffle | None, dtype: str
    ) -> None:
        """Blosc's header tells the shuffle of the plan, and the bytes of a pixel."""
        itemsize = np.dtype(dtype).itemsize
        flags = _FLAGS[shuffle or ("byte" if itemsize > 1 else "none")]
        for chunk in self.encoded(tmp_path / "data", Codec(name=name, shuffle=shuffle), dtype):
            assert (chunk[2] & 5, chunk[3]) == (flags, itemsize)

    @pytest.mark.parametrize("shuffle", _FLAGS)
    def test_shuffles_outside_of_the_capabilities_are_refused(self, tmp_path: Path, shuffle: Shuffle) -> None:
        """A shuffle that the backend has not is refused before anything is made, and the message names both."""
        settings = acquisition(_LARGE, "uint16", Codec(name="blosc-lz4", shuffle=shuffle))
        has = shuffle in self.sink_class.capabilities.shuffles
        self.refused_unless(has, tmp_path, settings, f"shuffle '{shuffle}'")

    def test_checksums_outside_of_the_capabilities_are_refused(self, tmp_path: Path) -> None:
        """A backend without checksums says so before anything is made, and names another."""
        settings = acquisition(_LARGE, "uint16", Codec(name="none", checksum=True))
        has = self.sink_class.capabilities.checksum
        self.refused_unless(has, tmp_path, settings, "checksum.*use another backend, such as")

    def refused_unless(self, can: bool, root: Path, settings: AcquisitionSettings, message: str) -> None:
        """Check that settings are refused with a message, or, if the backend can write them, are not."""
        if can:
            make_plan(root / "data.zarr", self.sink_class, settings)
            return
        with pytest.raises(UnsupportedError, match=f"{self.sink_class.capabilities.name}.*{message}"):
            make_plan(root / "data.zarr", self.sink_class, settings)
        assert not (root / "data.zarr").exists()

    @pytest.mark.parametrize("grid", _UNEVEN)
    @pytest.mark.parametrize("name", _COMPRESSIONS)
    def test_checksums_tell_changed_bytes(
        self, tmp_path: Path, name: Literal["none", "zstd", "blosc-zstd", "blosc-lz4"], grid: str
    ) -> None:
        """Each chunk ends with its CRC-32C, little endian, and readers refuse one of which a byte has changed."""
        plan = self.plan(tmp_path, acquisition(_UNEVEN[grid], "uint16", Codec(name=name, checksum=True)))
        self.write_all(plan, [random_pixels([n or 0 for n in plan.geometry.shape], "uint16")])
        places = chunk_bytes(plan, 0)
        for file, where in places.values():
            chunk = file.read_bytes()[where.start : where.stop]
            assert crc32c(chunk[:-4]) == int.from_bytes(chunk[-4:], "little")
        file, where = places[max(places)]
        changed = bytearray(file.read_bytes())
        changed[where[len(where) // 2]] ^= 1
        file.write_bytes(changed)
        for read in READERS.values():
            with pytest.raises((ValueError, RuntimeError, OSError), match=r"(?i)checksum|crc-?32c|digest"):
                read(plan.array_path(0))
