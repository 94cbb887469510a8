"""The personal fields of an event, by path: `guest_token`, `guest.ip_address`."""

from collections.abc import Mapping
from functools import cache
from typing import Any

from msgspec import Struct, inspect
from msgspec.structs import replace

from guestledger.engine.domain.events import Event
from guestledger.engine.domain.personal import Sealed, personal_fields

Path = tuple[str, ...]


def personal_values(event: Event) -> dict[str, str]:
    """The personal values that `event` has, by path."""
    found = {}
    for path in _paths(type(event)):
        value: Any = event
        for name in path:
            value = getattr(value, name)
        if value is not None:
            found[".".join(path)] = value
    return found


def with_values(event: Event, values: Mapping[str, str]) -> Event:
    """`event` with these values at these paths."""
    changes: dict[str, Any] = {}
    nested: dict[str, dict[str, str]] = {}
    for path, value in values.items():
        name, _, rest = path.partition(".")
        if rest:
            nested.setdefault(name, {})[rest] = value
        else:
            changes[name] = value
    for name, fields in nested.items():
        changes[name] = replace(getattr(event, name), **fields)
    return replace(event, **changes)


def as_sealed(event: Event) -> Event:
    """`event` as it is in the log, its commitments marked as such."""
    if event.purpose is None:
        return event
    return with_values(event, {path: Sealed(value) for path, value in personal_values(event).items()})


@cache
def _paths(kind: type[Struct]) -> tuple[Path, ...]:
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)
    own = tuple((name,) for name in sorted(personal_fields(kind)))
    below = (
        (field.name, *path)
        for field in info.fields
        if isinstance(field.type, inspect.StructType)
        for path in _paths(field.type.cls)
    )
    return (*own, *below)
