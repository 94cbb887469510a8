"""The personal fields of an event, by path: `guest_token`, `guest.ip_address`."""

from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

from msgspec import Struct, inspect
from msgspec.structs import replace

from guestledger.engine.domain.events import Event
from guestledger.engine.domain.personal import Sealed, personal_fields


class _Place(NamedTuple):
    """Where personal fields are in an event: in itself, or in its field `below`."""

    below: str
    fields: tuple[tuple[str, str], ...]
    """Path and name of each."""


def personal_values(event: Event) -> dict[str, str]:
    """The personal values that `event` has, by path."""
    found = {}
    for below, fields in _places(type(event)):
        holder = getattr(event, below) if below else event
        for path, name in fields:
            if (value := getattr(holder, name)) is not None:
                found[path] = value
    return found


def with_values(event: Event, values: Mapping[str, str]) -> Event:
    """`event` with these values at these paths."""
    changes: dict[str, Any] = {}
    for below, fields in _places(type(event)):
        changed = {name: values[path] for path, name in fields if path in values}
        if not below:
            changes |= changed
        elif changed:
            changes[below] = replace(getattr(event, below), **changed)
    return replace(event, **changes)


def as_sealed(event: Event) -> Event:
    """`event` as it is in the log, its commitments marked as such."""
    if event.purpose is None:
        return event
    return with_values(event, {path: Sealed(value) for path, value in personal_values(event).items()})


@cache
def _places(kind: type[Struct]) -> tuple[_Place, ...]:
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)
    below = {field.name: field.type.cls for field in info.fields if isinstance(field.type, inspect.StructType)}
    holders = {"": kind, **below}
    assert not any(place.below for held in below.values() for place in _places(held)), "a path has two names at most"
    return tuple(
        _Place(name, tuple((f"{name}.{field}" if name else field, field) for field in sorted(personal_fields(held))))
        for name, held in holders.items()
        if personal_fields(held)
    )
