"""The base class of all settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError


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


_Model = TypeVar("_Model", bound=Settings)


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


def faulty_fields(error: ValidationError) -> set[str]:
    """Return the names of the fields that a validation error is about."""
    return {str(fault["loc"][0]) for fault in error.errors(include_url=False) if fault["loc"]}


def with_faults(error: ValidationError, faults: list[str]) -> ValidationError:
    """Return a validation error that reports further faults, too."""
    details = [
        InitErrorDetails(type=e["type"], loc=e["loc"], input=e["input"], ctx=e.get("ctx", {}))
        for e in error.errors(include_url=False)
    ]
    if faults:
        more = PydanticCustomError("value_error", "{faults}", {"faults": "; ".join(faults)})
        details.append(InitErrorDetails(type=more, loc=(), input=None))
    return ValidationError.from_exception_data(error.title, details)


def salvaged(model: type[_Model], value: Any, **instead: Any) -> _Model | None:
    """Return what is left of a value when its faulty fields are taken out, so that the rest can still be checked.

    Parameters
    ----------
    model : type
        What the value should become.
    value : Any
        What was given.
    **instead : Any
        Values for required fields, should these be at fault.

    Returns
    -------
    Settings or None
        None if nothing can be saved.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        if not isinstance(value, Mapping):
            return None
        faulty = faulty_fields(error)
    faulty |= {name.replace("_column", "_row") for name in faulty}  # they come in pairs
    left = {name: field for name, field in value.items() if name not in faulty}
    try:
        return model.model_validate(left | {name: field for name, field in instead.items() if name in faulty})
    except ValidationError:
        return None
