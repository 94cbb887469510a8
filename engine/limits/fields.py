"""The fields of policies and settings that are made in code, which msgspec does not check. Pure."""

from enum import Enum
from typing import Any, get_args

import msgspec
from msgspec.structs import fields, force_setattr


class InvalidField(ValueError):
    """A field has a value of another type, or one that is out of bounds."""

    def __init__(self, kind: type[msgspec.Struct], field: str, expected: str) -> None:
        super().__init__(f"{kind.__name__}.{field} must be {expected}")
        self.field = field


def check_fields(made: msgspec.Struct) -> None:
    """Make each field what its type says: the text of a choice becomes the choice. Raise `InvalidField`."""
    for field in fields(made):
        given = getattr(made, field.name)
        try:
            value = msgspec.convert(given, field.type, dec_hook=lambda kind, value: kind(value))
        except msgspec.ValidationError as error:
            raise InvalidField(type(made), field.name, _choices(field.type) or _bounds(error)) from None
        if value is not given:
            force_setattr(made, field.name, value)


def _choices(kind: Any) -> str:
    enums = (part for part in (kind, *get_args(kind)) if isinstance(part, type) and issubclass(part, Enum))
    choices = [str(one) for enum in enums for one in enum]
    return f"one of {', '.join(choices)}" if choices else ""


def _bounds(error: msgspec.ValidationError) -> str:
    return str(error).removeprefix("Expected ")
