"""How chunks are compressed and protected."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, Self, TypeAlias

from pydantic import ValidationError, ValidationInfo, field_validator, model_validator

from ._model import Settings, fault_lines, report

Compression: TypeAlias = Literal["blosc-zstd", "blosc-lz4", "zstd", "none"]

_COMPRESSIONS: Final[tuple[str, ...]] = Compression.__args__  # type: ignore[attr-defined]
_DEFAULT_LEVELS: Final = {"zstd": 3, "blosc-zstd": 3, "blosc-lz4": 5}
_LEVELS: Final = {"zstd": (-7, 22), "blosc-zstd": (0, 9), "blosc-lz4": (0, 9)}
_ZSTD_BLOCK_BYTES: Final = 1 << 19
"""Up to level 5 zstd is faster both ways with these, and packs better, than with blosc's own blocks (decision 14)."""


class Codec(Settings):
    """Compression of the chunks, with all that can be chosen.

    Attributes
    ----------
    name : str
        ``"none"``, ``"zstd"``, ``"blosc-zstd"`` or ``"blosc-lz4"``.
    level : int, optional
        The larger, the smaller and slower: -7 to 22 but for 0 with ``"zstd"``, 0 (stored) to 9 with blosc. None for the
        default: 5 with ``"blosc-lz4"``, else 3.
    shuffle : str, optional
        How blosc sorts the pixels' bytes before it compresses them: ``"none"``, ``"byte"`` or ``"bit"``. None for the
        default: ``"byte"`` with blosc and pixels of several bytes, else ``"none"``.
    checksum : bool
        Whether each chunk is stored with a CRC-32C, so that readers notice when its bytes have changed.
    """

    # in this order, so that the validator of a field sees what it must agree with
    name: Compression
    level: int | None = None
    shuffle: Literal["none", "byte", "bit"] | None = None
    checksum: bool = False

    @field_validator("level")
    @classmethod
    def _in_range(cls, level: int | None, info: ValidationInfo) -> int | None:
        report(_level_faults(info.data.get("name"), level))
        return level

    @field_validator("shuffle")
    @classmethod
    def _of_blosc(cls, shuffle: str | None, info: ValidationInfo) -> str | None:
        report(_shuffle_faults(info.data.get("name"), shuffle))
        return shuffle

    @model_validator(mode="after")
    def _still_fit_together(self) -> Self:
        """Check again after an assignment to the name."""
        report(_level_faults(self.name, self.level) + _shuffle_faults(self.name, self.shuffle))
        return self

    @property
    def block_bytes(self) -> int:
        """Bytes of the blocks into which blosc cuts a chunk, each of them compressed alone; 0 leaves it to blosc."""
        return _ZSTD_BLOCK_BYTES if self.name == "blosc-zstd" else 0

    def resolved(self, itemsize: int) -> Codec:
        """Return a codec with the defaults filled in; the level stays None where there is no compression.

        Parameters
        ----------
        itemsize : int
            Bytes of a pixel.
        """
        level = _DEFAULT_LEVELS.get(self.name) if self.level is None else self.level
        byte = self.name.startswith("blosc") and itemsize > 1  # single bytes have nothing to shuffle
        shuffle = self.shuffle or ("byte" if byte else "none")
        return Codec(name=self.name, level=level, shuffle=shuffle, checksum=self.checksum)


def codec_of(compression: str | Codec | None) -> Codec:
    """Return a compression as a codec, whichever way it was given; None means ``"none"``.

    Raises
    ------
    ValueError
        For a name that is not known.
    """
    return compression if isinstance(compression, Codec) else Codec.model_validate({"name": compression or "none"})


def checked_compression(value: Any) -> Any:
    """Return what was given as a compression: a name as it is, a mapping as a :class:`Codec`.

    Raises
    ------
    ValueError
        For anything that is no compression; lists all faults.
    """
    if value == "lzw" or (isinstance(value, Mapping) and value.get("name") == "lzw"):
        raise ValueError("compression 'lzw' belongs to OME-TIFF, which this version can't write; use 'zstd'")
    if value is None or isinstance(value, Codec) or (isinstance(value, str) and value in _COMPRESSIONS):
        return value
    if not isinstance(value, Mapping):
        allowed = ", ".join(map(repr, _COMPRESSIONS))
        raise ValueError(f"compression {value!r:.100} is not known; allowed: {allowed}, a Codec, or None")
    try:
        return Codec.model_validate(value)
    except ValidationError as error:
        raise ValueError("; ".join(fault_lines(error))) from None


def _level_faults(name: str | None, level: int | None) -> list[str]:
    if level is None or name is None:
        return []
    if name == "none":
        return [f"level {level} is given, but there is no compression; leave it out, or choose a compression"]
    least, most = _LEVELS[name]
    if name == "zstd" and level == 0:
        return ["level 0 leaves the choice to the library that writes; leave level out for level 3"]
    if not least <= level <= most:
        return [f"level {level} is not one of {name!r}; allowed: {least} to {most}{' but for 0' * (name == 'zstd')}"]
    return []


def _shuffle_faults(name: str | None, shuffle: str | None) -> list[str]:
    if name is None or name.startswith("blosc") or shuffle in (None, "none"):
        return []
    return [f"compression {name!r} can't shuffle ({shuffle!r}); leave shuffle out, or use 'blosc-zstd' or 'blosc-lz4'"]
