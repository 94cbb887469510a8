"""What changed between two values of one type, field by field."""

from collections.abc import Iterator
from typing import Any

import msgspec

from guestledger.engine.domain.personal import Guarded, Personal, personal_fields


class Change(Guarded, frozen=True, kw_only=True):
    """One field that changed. A nested struct that appears, or is gone, is one change of the whole struct."""

    field: str
    """Its path: `retry_at`, `guest.source`."""
    before: Any
    after: Any


class PersonalChange(Change, frozen=True, kw_only=True):
    """A change of a personal field: both values are masked."""

    before: Personal | None
    after: Personal | None


def changes(before: msgspec.Struct, after: msgspec.Struct) -> tuple[Change, ...]:
    """The fields of `before` that differ in `after`, in the order of the fields. Both have the same type."""
    return tuple(_changes(before, after, ""))


def _changes(before: msgspec.Struct, after: msgspec.Struct, path: str) -> Iterator[Change]:
    personal = personal_fields(type(after))
    for name in after.__struct_fields__:
        old, new = getattr(before, name), getattr(after, name)
        if old == new:
            continue
        if isinstance(old, msgspec.Struct) and type(old) is type(new):
            yield from _changes(old, new, f"{path}{name}.")
        else:
            kind = PersonalChange if name in personal else Change
            yield kind(field=path + name, before=old, after=new)
