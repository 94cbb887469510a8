"""Takes the personal values out of an append, and puts them back into events. Pure, apart from the keys' randomness."""

from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from typing import Any, NamedTuple
from uuid import UUID

from msgspec import Struct
from msgspec.structs import replace

from guestledger.adapters.postgres.personal.vault import KeyRow
from guestledger.engine.domain.events import ConsentRecorded, ConsentRefused, Event
from guestledger.engine.domain.personal import Purpose
from guestledger.engine.domain.unreadable import SealedEventBroken
from guestledger.engine.log.appends import Append, is_remote_key
from guestledger.engine.log.codec import wire_name
from guestledger.engine.log.personal_fields import personal_values, with_values
from guestledger.engine.log.recorded import RecordedEvent
from guestledger.engine.ports.key_vault import DataKey, Hashing, SealBroken

HASH_BYTES = 16
Found = Sequence[Mapping[str, str]]
"""The personal values of each event, by path."""


class SealedRow(Struct, frozen=True, gc=False):
    """A row of `personal`."""

    stream_id: UUID
    version: int
    purpose: str
    key_id: UUID
    sealed: bytes


class IndexRow(Struct, frozen=True, gc=False):
    """A row of `personal_index`: keyed hashes, for look-ups."""

    stream_id: UUID
    subject: bytes
    ip_address: bytes
    fingerprint: bytes


class Sealing(NamedTuple):
    """An append as it is stored."""

    events: Sequence[Event]
    """With a commitment in place of each personal value."""
    rows: Sequence[SealedRow] = ()
    index_row: IndexRow | None = None
    key: str | None = None
    """Its key: a caller's as a keyed hash."""
    refused: bool = False
    """The stream's personal data has been erased: no more is recorded."""
    subject: bytes | None = None
    """Whose personal data it holds or uses."""
    key_ids: frozenset[UUID] = frozenset()
    """The data keys of that."""
    data_keys: Sequence[KeyRow] = ()
    """New keys, which are stored with it."""


class Needed(NamedTuple):
    """What an append is sealed with."""

    ledger_id: bytes
    hashed: Hashing
    subject: bytes | None
    """`None`: the stream's personal data has been erased."""
    keys: Mapping[Purpose, DataKey]
    data_keys: Sequence[KeyRow] = ()


def purposes_of(append: Append, found: Found) -> set[Purpose]:
    """What the personal values in `found` are kept for, and what else of the kind it uses."""
    held = {event.purpose for event, values in zip(append.events, found, strict=True) if event.purpose and values}
    return held | {event.uses for event in append.events if event.uses}


def purposes_of_session(opened: Event) -> tuple[Purpose, ...]:
    """What a session will need keys for."""
    return (Purpose.CONTACT, Purpose.ACCESS) if isinstance(opened, ConsentRecorded) else (Purpose.CONTACT,)


def found_values(append: Append) -> Found:
    """The personal values of each event of `append`."""
    return [personal_values(event) if event.purpose else {} for event in append.events]


def sealed(append: Append, found: Found, needed: Needed) -> Sealing:
    """`append` as it is stored."""
    key = append.idempotency_key
    if key is not None and not is_remote_key(key):
        key = hash_value(needed.hashed, "key", key).hex()
    key_ids = frozenset(data_key.id for data_key in needed.keys.values())
    if needed.subject is None or not any(found):
        refused = needed.subject is None
        return Sealing(append.events, key=key, refused=refused, subject=needed.subject, key_ids=key_ids)
    stream_place = needed.ledger_id + append.stream_id.bytes
    events = list(append.events)
    rows: list[SealedRow] = []
    for number, values in enumerate(found):
        purpose = events[number].purpose
        if purpose is None or not values:
            continue
        version, data_key = append.expected_version + 1 + number, needed.keys[purpose]
        box, commitments = data_key.seal(values, _place(stream_place, version, purpose))
        rows.append(SealedRow(append.stream_id, version, purpose, data_key.id, box))
        events[number] = with_values(events[number], commitments)
    return Sealing(
        events,
        rows,
        _index(append, needed),
        key,
        subject=needed.subject,
        key_ids=key_ids,
        data_keys=needed.data_keys,
    )


def _index(append: Append, needed: Needed) -> IndexRow | None:
    opened = append.events[0]
    if append.expected_version or not isinstance(opened, ConsentRecorded | ConsentRefused):
        return None
    assert needed.subject is not None
    return IndexRow(
        append.stream_id,
        needed.subject,
        hash_address(needed.hashed, opened.guest.ip_address),
        hash_value(needed.hashed, "fingerprint", opened.guest.fingerprint),
    )


def hash_value(hashed: Hashing, field: str, value: str) -> bytes:
    """The keyed hash of a value, for look-ups."""
    return hashed(f"{field}\x1f{value}".encode())[:HASH_BYTES]


def hash_address(hashed: Hashing, address: str) -> bytes:
    """As `hash_value`; all ways to write an address give the same."""
    # IPv4 has one way, and parsing takes longer than hashing.
    return hash_value(hashed, "ip_address", ip_address(address).compressed if ":" in address else address)


def _place(stream_place: bytes, version: int, purpose: Purpose) -> bytes:
    return stream_place + version.to_bytes(4) + purpose.encode()


def opened_event(
    recorded: RecordedEvent, boxes: Mapping[Any, Any], keys: Mapping[UUID, DataKey], ledger_id: bytes
) -> RecordedEvent:
    """`recorded` with the values in its box; as it is, if it has none or the key is gone. Raises `SealedEventBroken`."""
    event, purpose = recorded.event, recorded.event.purpose
    row = boxes.get((recorded.stream_id, recorded.version, purpose)) if purpose else None
    key = keys.get(row["key_id"]) if row is not None else None
    if purpose is None or row is None or key is None:
        return recorded
    place = _place(ledger_id + recorded.stream_id.bytes, recorded.version, purpose)
    try:
        values = key.open(row["sealed"], place, personal_values(event))
    except SealBroken:
        broken = SealedEventBroken(wire_name(event), event.schema_version)
        raise broken.found_at(recorded.position, recorded.stream_id, recorded.version) from None
    return replace(recorded, event=with_values(event, values))
