"""Seals the personal fields of events on their way into the log, and opens them on their way out."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from ipaddress import ip_address
from typing import Any, NamedTuple
from uuid import UUID

from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncEngine

from guestledger.adapters.postgres.admin.grants import PRIVACY, role_name
from guestledger.adapters.postgres.errors import Access, NotAllowed, reported
from guestledger.adapters.postgres.personal.ledger_facts import LedgerFacts
from guestledger.adapters.postgres.personal.recent import Recent
from guestledger.adapters.postgres.personal.vault import KeyRow
from guestledger.adapters.postgres.sql import quoted
from guestledger.adapters.postgres.transactions import reading
from guestledger.engine.domain.errors import SealedEventBroken, ServiceError, SubjectErased
from guestledger.engine.domain.events import ConsentRecorded, ConsentRefused, Event
from guestledger.engine.domain.guest_filter import GuestFilter, GuestHashes
from guestledger.engine.domain.personal import Purpose
from guestledger.engine.log.appends import Append, KeyTaken, is_remote_key
from guestledger.engine.log.codec import wire_name
from guestledger.engine.log.personal_fields import personal_values, with_values
from guestledger.engine.log.recorded import RecordedEvent
from guestledger.engine.ports.key_vault import DataKey, Hashing, KeyVault, SealBroken

HASH_BYTES = 16
_Found = Sequence[Mapping[str, str]]
"""The personal values of each event, by path."""


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
    subject: bytes | None = None
    """Whom the rows are about."""
    data_keys: Sequence[KeyRow] = ()
    """New keys, which are stored with it."""


class _Needed(NamedTuple):
    """What an append is sealed with."""

    ledger_id: bytes
    hashed: Hashing
    subject: bytes | None
    """`None`: the stream's personal data has been erased."""
    keys: Mapping[Purpose, DataKey]
    data_keys: Sequence[KeyRow] = ()


class PersonalData:
    """The personal data of one ledger."""

    def __init__(self, engine: AsyncEngine, schema: str, vault: KeyVault) -> None:
        self.vault = vault
        self._engine = engine
        self._facts = LedgerFacts(engine, schema)
        s = quoted(schema)
        self._read_subject = f"SELECT subject FROM {s}.personal_index WHERE stream_id = $1::uuid"
        self._read_streams = f"SELECT stream_id FROM {s}.personal_index WHERE subject = $1::bytea ORDER BY stream_id"
        self._read_rows = f"""
            SELECT stream_id, version, purpose, key_id, sealed
              FROM {s}.personal JOIN unnest($1::uuid[], $2::int[], $3::text[]) AS wanted(stream_id, version, purpose)
                                USING (stream_id, version, purpose)"""
        self._read_access = f"""
            SELECT current_user, has_table_privilege('{s}.personal', 'SELECT')
                                 AND has_table_privilege('{s}.personal_index', 'SELECT')"""
        self._schema = schema
        self._subjects: Recent[UUID, bytes] = Recent()
        self._reading: asyncio.Future[tuple[bytes, Hashing]] | None = None

    def seal_now(self, append: Append) -> Sealing | None:
        """The append without its personal values, and the rows that hold them; `None`: something has to be fetched first."""
        found = _found(append)
        if not any(found) and (append.idempotency_key is None or is_remote_key(append.idempotency_key)):
            return Sealing(append.events, key=append.idempotency_key)
        needed = self._known(append, found)
        return None if needed is None else _sealed(append, found, needed)

    async def seal(self, append: Append) -> Sealing:
        """As `seal_now`. Raises `ServiceError`."""
        found = _found(append)
        return self.seal_now(append) or _sealed(append, found, await self._fetched(append, found))

    async def discard(self, sealing: Sealing, refused: KeyTaken | SubjectErased) -> None:
        """Clean up after an append that was refused: nothing will need the keys that were made for it."""
        opened = sealing.index_row
        if sealing.data_keys or isinstance(refused, SubjectErased):
            self.vault.forget({row.key_id for row in sealing.data_keys} | {row.key_id for row in sealing.rows})
        elif opened is not None and opened.subject == opened.stream_id.bytes:
            with suppress(ServiceError):  # a key that is left opens nothing
                await self.vault.destroy(await self.vault.ids(opened.subject))

    def _known(self, append: Append, found: _Found) -> _Needed | None:
        ledger_id, hashed = self._facts.known_id, self.vault.hashing
        subject = self._subjects.get(append.stream_id) or self._new_subject(append, hashed)
        if ledger_id is None or hashed is None or subject is None:
            return None
        # Nobody else knows a new session: its keys need no look-up, and are stored with its first events.
        is_new = append.expected_version == 0 and subject == append.stream_id.bytes and any(found)
        data_keys = self.vault.propose(subject, _purposes(append.events[0])) if is_new else ()
        keys = {}
        for purpose in _purposes_of(append, found):
            key = self.vault.cached(subject, purpose)
            if key is None:
                return None
            keys[purpose] = key
        return _Needed(ledger_id, hashed, subject, keys, data_keys)

    async def _fetched(self, append: Append, found: _Found) -> _Needed:
        ledger_id, hashed = await self._basics()
        if (known := self._known(append, found)) is not None:
            return known
        subject = await self._subject(append, hashed)
        keys = {}
        if subject is not None:
            for purpose in _purposes_of(append, found):
                keys[purpose] = await self.vault.key_of(subject, purpose)
        return _Needed(ledger_id, hashed, subject, keys)

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
        ledger_id = await self._facts.id() if keys else b""
        return [_opened(one, boxes, keys, ledger_id) for one in recorded]

    async def ledger_id(self) -> bytes:
        """The identity of the ledger. Raises `ServiceError`."""
        return await self._facts.id()

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
        return _hash(await self.vault.index_key(), field, value)

    async def subject_of(self, subject_id: str) -> bytes:
        """How a subject is named in vault and index. Raises `ServiceError`."""
        return await self.hashed("subject", subject_id)

    async def streams_of(self, subject_id: str) -> list[UUID]:
        """The streams of a subject, oldest first. Raises `ServiceError`."""
        return [row[0] for row in await self._fetch(self._read_streams, await self.subject_of(subject_id))]

    async def hashed_address(self, address: str) -> bytes:
        """As `hashed`; all ways to write an address give the same."""
        return _hash_address(await self.vault.index_key(), address)

    async def _basics(self) -> tuple[bytes, Hashing]:
        """What every append needs. Those that wait for it go on in their order."""
        if self._reading is None:
            self._reading = asyncio.gather(self._facts.id(), self.vault.index_key())
            self._reading.add_done_callback(self._have_read)
        ledger_id, hashed = await asyncio.shield(self._reading)
        return ledger_id, hashed

    def _have_read(self, reading: asyncio.Future[tuple[bytes, Hashing]]) -> None:
        self._reading = None
        if not reading.cancelled():
            reading.exception()  # those who wait for it get it

    def _new_subject(self, append: Append, hashed: Hashing | None) -> bytes | None:
        """Whose data a new stream will hold; `None`: it is not new, or nothing can be `hashed` yet."""
        if append.expected_version:
            return None
        opened, subject = append.events[0], append.stream_id.bytes
        if isinstance(opened, ConsentRecorded | ConsentRefused) and opened.guest.subject_id is not None:
            if hashed is None:
                return None
            subject = _hash(hashed, "subject", opened.guest.subject_id)
        return self._subjects.keep(append.stream_id, subject)

    async def _subject(self, append: Append, hashed: Hashing) -> bytes | None:
        """Whose data the stream holds; `None`: it holds none any more."""
        subject = self._subjects.get(append.stream_id) or self._new_subject(append, hashed)
        if subject is None:
            rows = await self._fetch(self._read_subject, append.stream_id)
            if rows:
                subject = self._subjects.keep(append.stream_id, rows[0][0])
        return subject

    async def _fetch(self, statement: str, *values: Any) -> Sequence[Any]:
        with reported():
            async with reading(self._engine) as driver:
                rows: Sequence[Any] = await driver.fetch(statement, *values)
                return rows


def _purposes_of(append: Append, found: _Found) -> set[Purpose]:
    """What the personal values in `found` are kept for."""
    return {event.purpose for event, values in zip(append.events, found, strict=True) if event.purpose and values}


def _purposes(opened: Event) -> tuple[Purpose, ...]:
    """What a session will need keys for."""
    return (Purpose.CONTACT, Purpose.ACCESS) if isinstance(opened, ConsentRecorded) else (Purpose.CONTACT,)


def _found(append: Append) -> _Found:
    return [personal_values(event) if event.purpose else {} for event in append.events]


def _sealed(append: Append, found: _Found, needed: _Needed) -> Sealing:
    key = append.idempotency_key
    if key is not None and not is_remote_key(key):
        key = _hash(needed.hashed, "key", key).hex()
    if needed.subject is None or not any(found):
        return Sealing(append.events, key=key, refused=needed.subject is None)
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
    return Sealing(events, rows, _index(append, needed), key, subject=needed.subject, data_keys=needed.data_keys)


def _index(append: Append, needed: _Needed) -> IndexRow | None:
    opened = append.events[0]
    if append.expected_version or not isinstance(opened, ConsentRecorded | ConsentRefused):
        return None
    assert needed.subject is not None
    return IndexRow(
        append.stream_id,
        needed.subject,
        _hash_address(needed.hashed, opened.guest.ip_address),
        _hash(needed.hashed, "fingerprint", opened.guest.fingerprint),
    )


def _hash(hashed: Hashing, field: str, value: str) -> bytes:
    return hashed(f"{field}\x1f{value}".encode())[:HASH_BYTES]


def _hash_address(hashed: Hashing, address: str) -> bytes:
    # IPv4 has one way, and parsing takes longer than hashing.
    return _hash(hashed, "ip_address", ip_address(address).compressed if ":" in address else address)


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
