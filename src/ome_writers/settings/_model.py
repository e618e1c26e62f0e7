"""The base class of all settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError


class Settings(BaseModel):
    """Base of all settings: unknown fields are errors, and defaults and assignments are validated.

    An assignment that fails leaves the object as it was.
    """

    model_config = ConfigDict(validate_default=True, validate_assignment=True, extra="forbid")

    if not TYPE_CHECKING:  # type checkers would accept an assignment to any name

        def __setattr__(self, name: str, value: Any) -> None:
            # pydantic stores the value before it runs the validators of the whole model
            fields, given = dict(self.__dict__), set(self.__pydantic_fields_set__)
            try:
                super().__setattr__(name, value)
            except Exception:
                object.__setattr__(self, "__dict__", fields)
                object.__setattr__(self, "__pydantic_fields_set__", given)
                raise


def report(faults: list[str]) -> None:
    """Raise one ValueError that lists all faults found, if there are any."""
    if faults:
        raise ValueError("; ".join(faults))


def fault_lines(error: ValidationError) -> list[str]:
    """Return one text per fault of a validation error, each with the place of the fault."""
    lines = []
    for fault in error.errors(include_url=False, include_context=False, include_input=False):
        place = ".".join(map(str, fault["loc"]))
        message = fault["msg"].removeprefix("Value error, ")
        lines.append(f"{place}: {message}" if place else message)
    return lines
