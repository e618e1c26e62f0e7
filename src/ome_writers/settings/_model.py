"""The base class of all settings."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Base of all settings: unknown fields are errors, and defaults and assignments are validated."""

    model_config = ConfigDict(validate_default=True, validate_assignment=True, extra="forbid")


def report(faults: list[str]) -> None:
    """Raise one ValueError that lists all faults found, if there are any."""
    if faults:
        raise ValueError("; ".join(faults))
