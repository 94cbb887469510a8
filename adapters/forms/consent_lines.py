"""A consent record in words, with the names of ISO/IEC TS 27560."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from guestledger.adapters.forms.values import time

if TYPE_CHECKING:
    from guestledger.engine.operations.consent_record import ConsentRecord


def stated(record: Any) -> Any:
    """Return the record as JSON objects, in the standard's names; what is not stated says so."""
    import msgspec

    def filled(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: filled(item) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [filled(item) for item in value]
        return "not stated" if value is None else value

    return filled(msgspec.to_builtins(record))


def consent_lines(record: ConsentRecord) -> Iterator[str]:
    """Yield the record line by line, for people."""
    shown = stated(record)
    processing = shown["pii_processing"]
    yield f"session {record.record_id}: consent {_words(record.state)}"
    for name in ("schema_version", "record_version", "pii_principal_id", "terms_version"):
        yield f"  {_words(name)}: {shown[name]}"
    yield f"  flags: {', '.join(f'{name} {value}' for name, value in record.flags.items())}"
    notice = processing["privacy_notice"]
    yield f"  privacy notice: {notice if isinstance(notice, str) else _fields(notice)}"
    for purpose in processing["purposes"]:
        yield f"purpose {purpose.pop('flag')}: {_words(purpose.pop('state'))}"
        yield from (f"  {_words(name)}: {_value(value)}" for name, value in purpose.items())
    for party in shown["parties"]:
        yield f"party {party.pop('party_id')}: {_fields(party)}"
    for change, event in zip(record.events, shown["events"], strict=True):
        yield f"{time(change.event_time)} UTC: {_words(change.event_state)} ({', '.join(change.flags)})"
        for name in ("entity_id", "event_type", "validity_duration", "reason", "recorded_by", "position"):
            yield f"  {_words(name)}: {event[name]}"
    if record.not_stated:
        yield f"mandatory, but not stated: {', '.join(record.not_stated)}"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _value(value: Any) -> str:
    return (", ".join(value) or "none") if isinstance(value, list) else str(value)


def _fields(values: dict[str, Any]) -> str:
    return ", ".join(f"{_words(name)} {value}" for name, value in values.items())
