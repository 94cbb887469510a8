"""Seals the personal fields of events on their way into the log, and opens them on their way out."""

import hmac
from collections.abc import Collection, Mapping, Sequence
from hashlib import sha256
from ipaddress import ip_address
from typing import Any, NamedTuple
from uuid import UUID

from cachetools import LRUCache
from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncEngine

from guestledger.adapters.postgres.admin.grants import PRIVACY, role_name
from guestledger.adapters.postgres.errors import Access, NotAllowed, reported
from guestledger.adapters.postgres.sql import quoted
from guestledger.adapters.postgres.transactions import reading
from guestledger.engine.domain.errors import SealedEventBroken
from guestledger.engine.domain.events import ConsentRecorded, ConsentRefused, Event
from guestledger.engine.domain.guest_filter import GuestFilter, GuestHashes
from guestledger.engine.domain.personal import Purpose
from guestledger.engine.log.appends import Append, is_remote_key
from guestledger.engine.log.codec import wire_name
from guestledger.engine.log.personal_fields import personal_values, with_values
from guestledger.engine.log.recorded import RecordedEvent
from guestledger.engine.ports.key_vault import KeyVault, SealBroken

HASH_BYTES = 16
_MAX_CACHED = 10_000


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
    """Its key: a caller's as a keyed hash."""
    refused: bool = False
    """The stream's personal data has been erased: no more is recorded."""


class PersonalData:
    """The personal data of one ledger."""

    def __init__(self, engine: AsyncEngine, schema: str, vault: KeyVault) -> None:
        self.vault = vault
        self._engine = engine
        s = quoted(schema)
        self._read_ledger_id = f"SELECT ledger_id FROM {s}.head"
        self._read_subject = f"SELECT subject FROM {s}.personal_index WHERE stream_id = $1::uuid"
        self._read_rows = f"""
            SELECT stream_id, version, purpose, key_id, sealed
              FROM {s}.personal JOIN unnest($1::uuid[], $2::int[], $3::text[]) AS wanted(stream_id, version, purpose)
                                USING (stream_id, version, purpose)"""
        self._read_access = f"""
            SELECT current_user, has_table_privilege('{s}.personal', 'SELECT')
                                 AND has_table_privilege('{s}.personal_index', 'SELECT')"""
        self._schema = schema
        self._ledger_id: bytes | None = None
        self._subjects: LRUCache[UUID, bytes] = LRUCache(_MAX_CACHED)

    async def seal(self, append: Append) -> Sealing:
        """The append without its personal values, and the rows that hold them. Raises `ServiceError`."""
        found = [personal_values(event) if event.purpose else {} for event in append.events]
        key = append.idempotency_key
        if key is not None and not is_remote_key(key):
            key = (await self.hashed("key", key)).hex()
        if not any(found):
            return Sealing(append.events, key=key)
        index_row = None if append.expected_version else await self._index(append.stream_id, append.events[0])
        subject = await self._subject(append.stream_id)
        events: list[Event] = []
        rows: list[SealedRow] = []
        for version, (event, values) in enumerate(zip(append.events, found, strict=True), append.expected_version + 1):
            if event.purpose is None or not values or subject is None:
                events.append(event)
                continue
            data_key = await self.vault.key_of(subject, event.purpose)
            place = await self._place(append.stream_id, version, event.purpose)
            box, commitments = data_key.seal(values, place)
            rows.append(SealedRow(append.stream_id, version, event.purpose, data_key.id, box))
            events.append(with_values(event, commitments))
        return Sealing(events, rows, index_row, key, refused=subject is None)

    async def check_access(self) -> None:
        """See `PersonalData.check_access`."""
        [(user, may)] = await self._fetch(self._read_access)
        if not may:
            role = role_name(self._schema, PRIVACY)
            raise NotAllowed(Access.REVEAL, "it lacks SELECT on personal", schema=self._schema, role=role, user=user)
        await self.vault.index_key()

    async def opened(
        self, recorded: Sequence[RecordedEvent], purposes: Collection[Purpose] = tuple(Purpose)
    ) -> list[RecordedEvent]:
        """See `PersonalData.opened`."""
        places = [(one.stream_id, one.version, one.event.purpose) for one in recorded if one.event.purpose in purposes]
        columns = [list(column) for column in zip(*places, strict=True)]
        boxes = {tuple(row)[:3]: row for row in await self._fetch(self._read_rows, *columns)} if places else {}
        keys = await self.vault.keys({row["key_id"] for row in boxes.values()})
        return [await self._opened(one, boxes, keys) for one in recorded]

    async def hashes_of(self, guest: GuestFilter) -> GuestHashes:
        """See `PersonalData.hashes_of`."""
        await self.check_access()
        return GuestHashes(
            subject=None if guest.subject_id is None else await self.subject_of(guest.subject_id),
            ip_address=None if guest.ip_address is None else await self.hashed_address(guest.ip_address),
            fingerprint=None if guest.fingerprint is None else await self.hashed("fingerprint", guest.fingerprint),
        )

    async def hashed(self, field: str, value: str) -> bytes:
        """The keyed hash of a value, for look-ups. Raises `ServiceError`."""
        text = f"{field}\x1f{value}".encode()
        return hmac.digest(await self.vault.index_key(), text, sha256)[:HASH_BYTES]

    async def subject_of(self, subject_id: str) -> bytes:
        """How a subject is named in vault and index. Raises `ServiceError`."""
        return await self.hashed("subject", subject_id)

    async def hashed_address(self, address: str) -> bytes:
        """As `hashed`; all ways to write an address give the same."""
        return await self.hashed("ip_address", ip_address(address).compressed)

    async def _index(self, stream_id: UUID, opened: Event) -> IndexRow | None:
        """The index row of a new stream, whose subject is known from here on."""
        self._subjects[stream_id] = stream_id.bytes
        if not isinstance(opened, ConsentRecorded | ConsentRefused):
            return None
        guest = opened.guest
        if guest.subject_id is not None:
            self._subjects[stream_id] = await self.subject_of(guest.subject_id)
        return IndexRow(
            stream_id,
            self._subjects[stream_id],
            await self.hashed_address(guest.ip_address),
            await self.hashed("fingerprint", guest.fingerprint),
        )

    async def _subject(self, stream_id: UUID) -> bytes | None:
        """Whose data the stream holds; `None`: it holds none any more."""
        subject: bytes | None = self._subjects.get(stream_id)
        if subject is None:
            rows = await self._fetch(self._read_subject, stream_id)
            if rows:
                subject = self._subjects[stream_id] = rows[0][0]
        return subject

    async def _place(self, stream_id: UUID, version: int, purpose: Purpose) -> bytes:
        if self._ledger_id is None:
            [(ledger_id,)] = await self._fetch(self._read_ledger_id)
            self._ledger_id = ledger_id.bytes
        return self._ledger_id + stream_id.bytes + version.to_bytes(4) + purpose.encode()

    async def _opened(
        self, recorded: RecordedEvent, boxes: Mapping[Any, Any], keys: Mapping[UUID, Any]
    ) -> RecordedEvent:
        event, purpose = recorded.event, recorded.event.purpose
        row = boxes.get((recorded.stream_id, recorded.version, purpose)) if purpose else None
        key = keys.get(row["key_id"]) if row is not None else None
        if purpose is None or row is None or key is None:
            return recorded
        place = await self._place(recorded.stream_id, recorded.version, purpose)
        try:
            values = key.open(row["sealed"], place, personal_values(event))
        except SealBroken:
            broken = SealedEventBroken(wire_name(event), event.schema_version)
            raise broken.found_at(recorded.position, recorded.stream_id, recorded.version) from None
        return replace(recorded, event=with_values(event, values))

    async def _fetch(self, statement: str, *values: Any) -> Sequence[Any]:
        with reported():
            async with reading(self._engine) as driver:
                rows: Sequence[Any] = await driver.fetch(statement, *values)
                return rows
