"""Writes docs/events.md from the event classes and their golden files."""

import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from enum import StrEnum
from itertools import product
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints
from uuid import UUID

import msgspec
from msgspec.structs import replace

from guestledger.adapters.forms.messages import CAUSES, WAITS
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.events import EVENT_TYPES, AccessEvent, Event
from guestledger.engine.domain.evolve import evolve
from guestledger.engine.domain.outcomes import FailureKind
from guestledger.engine.domain.personal import personal_fields
from guestledger.engine.domain.session import Session, Status
from guestledger.engine.limits.retry import WaitBasis
from guestledger.engine.log.codec import decode, encode
from guestledger.engine.log.personal_fields import personal_values, with_values
from tests.docs.blocks import ROOT
from tests.docs.reference import GENERATED, meanings, sentences, table
from tests.unit.samples import at

_INTRO = f"""{GENERATED}

# Which events are there, and what do they hold?

An event is a fact about one session. Its data is JSON, stored as the text that was hashed: keys sorted, no blanks, one way to
write each value (RFC 8785). The examples here have line breaks, so that you can read them. `guestledger events --json` prints
what is stored.

Every event has `at`, the time at which it was decided. Every event of a session has `channel_id`. The tables do not repeat them.

| word | meaning |
|---|---|
| schema version | stored with each event. Old versions stay readable: they are upcast when they are read |
| personal | the log holds a commitment (43 characters, base64url) in place of the value. The value is encrypted in the table `personal`, for the purpose that is named |
| leads to | the statuses in which it can leave a session. [Architecture](architecture.md#the-states-of-a-session) draws all transitions |
| time | UTC, ISO 8601, ends with `Z` |

What you see of a session as a person is in [Debugging](debugging.md#what-happened); what a word means, in the [glossary](glossary.md).
"""
_COMMITMENT = "(commitment)"
_LONGEST_LIST = 12
_SENTENCES = {Cause: CAUSES, WaitBasis: WAITS}


def events() -> str:
    """The page of events."""
    parts: list[str] = [_INTRO]
    parts += [_event(name, kind) for name, kind in EVENT_TYPES.items()]
    parts.append("## Parts of events\n")
    used = dict.fromkeys(part for kind in EVENT_TYPES.values() for part in _parts(kind))
    parts += [_part(kind) for kind in sorted(used, key=lambda kind: kind.__name__)]
    return "\n".join(parts).replace("`None`", "`null`")


def _event(name: str, kind: type[Event]) -> str:
    facts = [f"Schema version {kind.schema_version}", _leads_to(name, kind)]
    if kind.purpose is not None:
        facts.append(f"purpose of its personal data: `{kind.purpose}`")
    if kind.erases:
        facts.append("deletes personal data of: " + ", ".join(f"`{purpose}`" for purpose in sorted(kind.erases)))
    parts = [f"## {name}\n", f"{sentences(kind.__doc__)}\n", f"{'; '.join(facts)}.\n"]
    if rows := list(_rows(kind)):
        parts.append(_fields(rows))
    parts.append(f"```json\n{_example(name, kind)}\n```\n")
    return "\n".join(parts)


def _fields(rows: list[tuple[str, ...]]) -> str:
    """The table of fields, without the columns that would be empty."""
    columns = ("field", "type", "personal", "meaning")
    used = [number for number in range(len(columns)) if any(row[number] for row in rows)]
    return table(tuple(columns[number] for number in used), [tuple(row[number] for number in used) for row in rows])


def _rows(kind: type[msgspec.Struct]) -> Iterator[tuple[str, ...]]:
    texts, hints = meanings(kind), get_type_hints(kind, include_extras=True)
    for field in msgspec.structs.fields(kind):
        if field.name in kind.__annotations__:
            personal = "yes" if field.name in personal_fields(kind) else ""
            kinds = _type(hints[field.name]) + _unit(field.name)
            yield f"`{field.name}`", kinds, personal, texts.get(field.name, "")


def _unit(name: str) -> str:
    return next((f", {unit}" for unit in ("ms", "days") if name == unit or name.endswith(f"_{unit}")), "")


def _type(kind: Any) -> str:
    if get_origin(kind) is Annotated:
        return _type(get_args(kind)[0])
    if NoneType in get_args(kind):
        options = [_type(option) for option in get_args(kind) if option is not NoneType]
        return " or ".join([*options, "null"])
    if get_origin(kind) is tuple:
        return f"list of {_type(get_args(kind)[0])}"
    if get_origin(kind) is dict:
        return "object: text by name"
    if get_origin(kind) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(kind))
    if isinstance(kind, type) and issubclass(kind, StrEnum) and len(kind) <= _LONGEST_LIST:
        return ", ".join(f"`{value}`" for value in kind)
    words = {str: "text", bool: "true or false", int: "whole number", datetime: "time", UUID: "UUID"}
    return words.get(kind) or f"[{kind.__name__}](#{kind.__name__.lower()})"


def _parts(kind: Any) -> Iterator[type]:
    """The structs and the long enums below the fields of a type."""
    if isinstance(kind, type) and issubclass(kind, StrEnum) and len(kind) > _LONGEST_LIST:
        yield kind
    elif isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        if not issubclass(kind, Event):
            yield kind
        for hint in get_type_hints(kind, include_extras=True).values():
            yield from _parts(hint)
    else:
        for option in get_args(kind):
            yield from _parts(option)


def _part(kind: type) -> str:
    head = f"### {kind.__name__}\n\n{sentences(kind.__doc__)}\n"
    if issubclass(kind, msgspec.Struct):
        return f"{head}\n{_fields(list(_rows(kind)))}"
    assert issubclass(kind, StrEnum)
    texts, sentences_of = meanings(kind), _SENTENCES[kind]
    shown = (re.sub(r"{.+?}", "…", sentences_of[value]) for value in kind)
    rows = [(f"`{value}`", said, texts.get(value.name, "")) for value, said in zip(kind, shown, strict=True)]
    return f"{head}\n{table(('value', 'commands print', 'meaning'), rows)}"


def _example(name: str, kind: type[Event]) -> str:
    event = golden(name, kind)
    hidden = with_values(event, dict.fromkeys(personal_values(event), _COMMITMENT))
    return msgspec.json.format(encode(hidden), indent=2)


def golden(name: str, kind: type[Event]) -> Event:
    """The event of a golden file, of the current schema version."""
    file = ROOT / "tests" / "golden" / f"{name}.v{kind.schema_version}.json"
    return decode(name, kind.schema_version, file.read_text())


def _leads_to(name: str, kind: type[Event]) -> str:
    if issubclass(kind, AccessEvent):
        return "belongs to no session"
    event = golden(name, kind)
    words = [f"leads to {_or(f'`{status}`' for status in found)}"] if (found := statuses_after(event)) else []
    if not found or can_stay(event):
        words.append("leaves the status as it is")
    return " or ".join(words)


def _or(words: Iterable[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last


def statuses_after(event: Event) -> list[Status]:
    """The statuses to which an event of this kind can move a session, found by folding its variants."""
    moves = {(session.status, evolve(session, variant).status) for variant in _variants(event) for session in _SESSIONS}
    return [status for status in Status if any(after is status is not before for before, after in moves)]


def can_stay(event: Event) -> bool:
    """Whether a variant of the event moves no session."""
    return any(
        all(evolve(session, variant).status is session.status for session in _SESSIONS) for variant in _variants(event)
    )


def _session(status: Status) -> Session:
    doubted = (1,) if status in {Status.IN_DOUBT, Status.PARKED} else ()
    return Session(id=UUID(int=0), status=status, attempts=1, in_doubt=doubted, retry_at=at(0), accepted_at=at(0))


_SESSIONS = [_session(status) for status in Status]


def _variants(event: Event) -> Iterator[Event]:
    """The event with each kind of failure, with and without a retry."""
    names = set(event.__struct_fields__)
    kinds = [{"kind": kind} for kind in FailureKind] if "kind" in names else [{}]
    optional = "retry_at" in names and NoneType in get_args(get_type_hints(type(event))["retry_at"])
    retries = [{"retry_at": None}, {"retry_at": at(60)}] if optional else [{}]
    for kind, retry in product(kinds, retries):
        yield replace(event, **kind, **retry)
