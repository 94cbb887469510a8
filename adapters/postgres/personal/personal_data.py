"""Seals the personal fields of events on their way into the log, and opens them on their way out."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from ipaddress import ip_address
from typing import Any, NamedTuple
from uuid import UUID

from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncEngine

from guestledger.adapters.postgres.errors import reported
from guestledger.adapters.postgres.personal.ledger_facts import LedgerFacts
from guestledger.adapters.postgres.personal.recent import Recent
from guestledger.adapters.postgres.personal.vault import KeyRow
from guestledger.adapters.postgres.sql import quoted
from guestledger.adapters.postgres.transactions import reading
from guestledger.engine.domain.errors import SealedEventBroken, ServiceError, SubjectErased
from guestledger.engine.domain.events import ConsentRecorded, ConsentRefused, Event
from guestledger.engine.domain.personal import Purpose
from guestledger.engine.log.appends import Append, KeyTaken
from guestledger.engine.log.codec import wire_name
from guestledger.engine.log.personal_fields import personal_values, with_values
from guestledger.engine.log.recorded import RecordedEvent
from guestledger.engine.ports.key_vault import DataKey, KeyVault, SealBroken

HASH_BYTES = 16


class SealedRow(NamedTuple):
    """A row of `personal`."""

    stream_id: UUID
    version: int
    purpose: str
    key_id: UUID
    sealed: bytes


class IndexRow(NamedTuple):
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
    """The hash of its idempotency key."""
    data_keys: Sequence[KeyRow] = ()
    """New keys, which are stored with it."""


class PersonalData:
    """The personal data of one ledger."""

    def __init__(self, engine: AsyncEngine, schema: str, vault: KeyVault) -> None:
        self.vault = vault
        self._engine = engine
        self._facts = LedgerFacts(engine, schema)
        s = quoted(schema)
        self._read_subject = f"SELECT subject FROM {s}.personal_index WHERE stream_id = $1::uuid"
        self._read_rows = f"""
            SELECT stream_id, version, purpose, key_id, sealed FROM {s}.personal WHERE stream_id = ANY($1::uuid[])"""
        self._subjects: Recent[UUID, bytes] = Recent()

    async def seal(self, append: Append) -> Sealing:
        """The append without its personal values, and the rows that hold them. Raises `ServiceError`, `SubjectErased`."""
        found = [personal_values(event) if event.purpose else None for event in append.events]
        key = None if append.idempotency_key is None else (await self.hashed("key", append.idempotency_key)).hex()
        if not any(found):
            return Sealing(append.events, key=key)
        stream_id, index = append.stream_id, await self._index(append)
        subject = index.subject if index else await self._subject(stream_id)
        # Nobody else knows a new session: its keys need no look-up, and are stored with its first events.
        is_new = index is not None and subject == stream_id.bytes
        data_keys = self.vault.propose(subject, _purposes(append.events[0])) if is_new else ()
        stream_place = await self._facts.id() + stream_id.bytes
        events = list(append.events)
        rows: list[SealedRow] = []
        for number, values in enumerate(found):
            purpose = events[number].purpose
            if purpose is None or not values:
                continue
            version = append.expected_version + 1 + number
            data_key = await self.vault.key_of(subject, purpose)
            box, commitments = data_key.seal(values, _place(stream_place, version, purpose))
            rows.append(SealedRow(stream_id, version, purpose, data_key.id, box))
            events[number] = with_values(events[number], commitments)
        return Sealing(events, rows, index, key, data_keys)

    async def discard(self, sealing: Sealing, refused: KeyTaken | SubjectErased) -> None:
        """Clean up after an append that was refused: nothing will need the keys that were made for it."""
        opened = sealing.index_row
        if sealing.data_keys or isinstance(refused, SubjectErased):
            self.vault.forget({row.key_id for row in sealing.data_keys} | {row.key_id for row in sealing.rows})
        elif opened is not None and opened.subject == opened.stream_id.bytes:
            with suppress(ServiceError):  # a key that is left opens nothing
                await self.vault.destroy(opened.subject)

    async def opened(self, recorded: Sequence[RecordedEvent]) -> list[RecordedEvent]:
        """These events with their personal values. What was erased stays `Sealed`. Raises `ServiceError`, `SealedEventBroken`."""
        streams = list({one.stream_id for one in recorded if one.event.purpose})
        boxes = {tuple(row)[:3]: row for row in await self._fetch(self._read_rows, streams)} if streams else {}
        keys = await self.vault.keys({row["key_id"] for row in boxes.values()})
        ledger_id = await self._facts.id() if keys else b""
        return [_opened(one, boxes, keys, ledger_id) for one in recorded]

    async def hashed(self, field: str, value: str) -> bytes:
        """The keyed hash of a value, for look-ups. Raises `ServiceError`."""
        return (await self.vault.index_key())(f"{field}\x1f{value}".encode())[:HASH_BYTES]

    async def subject_of(self, subject_id: str) -> bytes:
        """How a subject is named in vault and index. Raises `ServiceError`."""
        return await self.hashed("subject", subject_id)

    async def hashed_address(self, address: str) -> bytes:
        """As `hashed`; all ways to write an address give the same."""
        # IPv4 has one way, and parsing takes longer than hashing.
        return await self.hashed("ip_address", ip_address(address).compressed if ":" in address else address)

    async def _index(self, append: Append) -> IndexRow | None:
        stream_id, opened = append.stream_id, append.events[0]
        if append.expected_version or not isinstance(opened, ConsentRecorded | ConsentRefused):
            return None
        guest = opened.guest
        subject = stream_id.bytes if guest.subject_id is None else await self.subject_of(guest.subject_id)
        self._subjects.keep(stream_id, subject)
        return IndexRow(
            stream_id,
            subject,
            await self.hashed_address(guest.ip_address),
            await self.hashed("fingerprint", guest.fingerprint),
        )

    async def _subject(self, stream_id: UUID) -> bytes:
        subject = self._subjects.get(stream_id)
        if subject is None:
            rows = await self._fetch(self._read_subject, stream_id)
            if not rows:
                raise SubjectErased(stream_id)
            subject = self._subjects.keep(stream_id, rows[0][0])
        return subject

    async def _fetch(self, statement: str, *values: Any) -> Sequence[Any]:
        with reported():
            async with reading(self._engine) as driver:
                rows: Sequence[Any] = await driver.fetch(statement, *values)
                return rows


def _purposes(opened: Event) -> tuple[Purpose, ...]:
    """What a session will need keys for."""
    return (Purpose.CONTACT, Purpose.ACCESS) if isinstance(opened, ConsentRecorded) else (Purpose.CONTACT,)


def _place(stream_place: bytes, version: int, purpose: Purpose) -> bytes:
    return stream_place + version.to_bytes(4) + purpose.encode()


def _opened(
    recorded: RecordedEvent, boxes: Mapping[Any, Any], keys: Mapping[UUID, DataKey], ledger_id: bytes
) -> RecordedEvent:
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
