"""Marks personal and secret fields, and masks them."""

from enum import StrEnum
from functools import cache
from typing import Annotated, Any

import msgspec
from msgspec import Meta, inspect

Personal = Annotated[str, Meta(extra={"personal": True})]
"""A personal or secret string: never in a log or an error, masked in every `repr`."""

MASK = "•••"


class Purpose(StrEnum):
    """Why personal data is kept. A subject has one data key for each purpose, so that each can be erased alone."""

    CONTACT = "contact"
    """Who asked and from where: address, browser, fingerprint, subject id, idempotency key; and the key of requests' digests."""
    ACCESS = "access"
    """The guest token."""

    __hash__ = str.__hash__  # an enum's own is slow, and these are keys


class Sealed(str):
    """The commitment to a personal value, in place of the value: it is not revealed here, or it was erased."""

    __slots__ = ()


def clear(value: str | None) -> str | None:
    """`value`, unless only its commitment is there."""
    return None if isinstance(value, Sealed) else value


PersonalBytes = Annotated[bytes, Meta(extra={"personal": True})]


class Secret(str):
    """A string that is masked in every `repr`, also as a local variable or in a tuple."""

    __slots__ = ()

    def __repr__(self) -> str:
        return MASK

    def __rich_repr__(self) -> list[str]:
        return [MASK]


class SecretBytes(bytes):
    """As `Secret`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return MASK

    def __rich_repr__(self) -> list[str]:
        return [MASK]


class Guarded(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A value whose `repr` masks `Personal` fields: in logs, exception texts, assertions and rich tracebacks.

    Values form no cycles: the garbage collector need not visit them.
    """

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in masked(self).items())
        return f"{type(self).__name__}({shown})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return list(masked(self).items())


def masked(value: Guarded) -> dict[str, Any]:
    """The fields of `value` by name; personal ones that are set become `MASK`."""
    hidden = personal_fields(type(value))
    return {
        name: MASK if name in hidden and getattr(value, name) is not None else getattr(value, name)
        for name in value.__struct_fields__
    }


def public(value: Any, *, revealed: bool = False) -> Any:
    """`value` as plain dicts and lists for JSON, personal data masked at any depth; if `revealed`, only what is sealed."""
    if isinstance(value, Guarded) and not revealed:
        return {name: public(field) for name, field in masked(value).items()}
    if isinstance(value, msgspec.Struct):
        return {name: public(field, revealed=revealed) for name, field in msgspec.structs.asdict(value).items()}
    return MASK if isinstance(value, Sealed) else value


@cache
def personal_fields(cls: type[msgspec.Struct]) -> frozenset[str]:
    """The names of the fields of `cls` that are marked `Personal`."""
    info = inspect.type_info(cls)
    assert isinstance(info, inspect.StructType)
    return frozenset(field.name for field in info.fields if _is_personal(field.type))


def _is_personal(kind: inspect.Type) -> bool:
    if isinstance(kind, inspect.Metadata):
        return bool((kind.extra or {}).get("personal")) or _is_personal(kind.type)
    if isinstance(kind, inspect.UnionType):
        return any(_is_personal(option) for option in kind.types)
    return False
