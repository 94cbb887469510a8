"""Seals the personal fields of events on their way into the log, and opens them on their way out."""

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from guestledger.adapters.postgres.admin.grants import PRIVACY, role_name
from guestledger.adapters.postgres.errors import Access, NotAllowed, reported
from guestledger.adapters.postgres.personal.ledger_facts import LedgerFacts
from guestledger.adapters.postgres.personal.recent import Recent
from guestledger.adapters.postgres.personal.sealed_append import (
    Found,
    Needed,
    Sealing,
    found_values,
    hash_address,
    hash_value,
    opened_event,
    purposes_of,
    purposes_of_session,
    sealed,
)
from guestledger.adapters.postgres.sql import quoted
from guestledger.adapters.postgres.transactions import reading
from guestledger.engine.domain.errors import InvalidRequest, ServiceError, SubjectErased
from guestledger.engine.domain.events import ConsentRecorded, ConsentRefused
from guestledger.engine.domain.guest_filter import GuestFilter, GuestHashes
from guestledger.engine.domain.personal import Purpose
from guestledger.engine.log.appends import Append, KeyTaken, is_remote_key
from guestledger.engine.log.recorded import RecordedEvent
from guestledger.engine.ports.key_vault import DataKey, Hashing, KeyVault


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
        found = found_values(append)
        purposes = purposes_of(append, found)
        has_key = append.idempotency_key is not None and not is_remote_key(append.idempotency_key)
        if not purposes and not has_key:
            return Sealing(append.events, key=append.idempotency_key)
        needed = self._known(append, found, purposes)
        return None if needed is None else sealed(append, found, needed)

    async def seal(self, append: Append) -> Sealing:
        """As `seal_now`. Raises `ServiceError`."""
        found = found_values(append)
        return self.seal_now(append) or sealed(
            append, found, await self._fetched(append, found, purposes_of(append, found))
        )

    async def discard(self, sealing: Sealing, refused: KeyTaken | SubjectErased) -> None:
        """Clean up after an append that was refused: nothing will need the keys that were made for it."""
        opened = sealing.index_row
        if sealing.data_keys or isinstance(refused, SubjectErased):
            self.vault.forget({row.key_id for row in sealing.data_keys} | sealing.key_ids)
        elif opened is not None and opened.subject == opened.stream_id.bytes:
            with suppress(ServiceError):  # a key that is left opens nothing
                await self.vault.destroy(await self.vault.ids(opened.subject))

    def _known(self, append: Append, found: Found, purposes: Collection[Purpose]) -> Needed | None:
        ledger_id, hashed = self._facts.known_id, self.vault.hashing
        subject = self._subjects.get(append.stream_id) or self._new_subject(append, hashed)
        if ledger_id is None or hashed is None or subject is None:
            return None
        # Nobody else knows a new session: its keys need no look-up, and are stored with its first events.
        is_new = append.expected_version == 0 and subject == append.stream_id.bytes and any(found)
        data_keys = self.vault.propose(subject, purposes_of_session(append.events[0])) if is_new else ()
        keys = {}
        for purpose in purposes:
            key = self.vault.cached(subject, purpose)
            if key is None:
                return None
            keys[purpose] = key
        return Needed(ledger_id, hashed, subject, keys, data_keys)

    async def _fetched(self, append: Append, found: Found, purposes: Collection[Purpose]) -> Needed:
        ledger_id, hashed = await self._basics()
        if (known := self._known(append, found, purposes)) is not None:
            return known
        subject = await self._subject(append, hashed)
        keys = {}
        if subject is not None:
            for purpose in purposes:
                keys[purpose] = await self.vault.key_of(subject, purpose)
        return Needed(ledger_id, hashed, subject, keys)

    async def check_access(self) -> None:
        """See `PersonalData.check_access`."""
        [(user, may)] = await self._fetch(self._read_access)
        if not may:
            role = role_name(self._schema, PRIVACY)
            raise NotAllowed(Access.REVEAL, "it lacks SELECT on personal", schema=self._schema, role=role, user=user)
        await self.vault.index_key()

    async def opened(
        self,
        recorded: Sequence[RecordedEvent],
        purposes: Collection[Purpose] = tuple(Purpose),
        *,
        to_append: bool = False,
    ) -> list[RecordedEvent]:
        """See `PersonalData.opened`."""
        places = [(one.stream_id, one.version, one.event.purpose) for one in recorded if one.event.purpose in purposes]
        columns = [list(column) for column in zip(*places, strict=True)]
        boxes = {tuple(row)[:3]: row for row in await self._fetch(self._read_rows, *columns)} if places else {}
        fetch = self.vault.keys_to_seal if to_append else self.vault.keys
        keys = await fetch({row["key_id"] for row in boxes.values()})
        if to_append:
            self._note_subjects(recorded, boxes.values(), keys)
        ledger_id = await self._facts.id() if keys else b""
        return [opened_event(one, boxes, keys, ledger_id) for one in recorded]

    def _note_subjects(
        self, recorded: Sequence[RecordedEvent], boxes: Iterable[Any], keys: Mapping[UUID, DataKey]
    ) -> None:
        found = {row["stream_id"]: key.subject for row in boxes if (key := keys.get(row["key_id"])) is not None}
        for stream_id in {one.stream_id for one in recorded}:
            if stream_id in found:
                self._subjects.keep(stream_id, found[stream_id])
            else:  # it may have been erased
                self._subjects.pop(stream_id, None)

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

    async def hashed_key(self, idempotency_key: str) -> str:
        """See `PersonalData.hashed_key`."""
        await self.check_access()
        return (await self.hashed("key", idempotency_key)).hex()

    async def hashed(self, field: str, value: str) -> bytes:
        """See `PersonalData.hashed`."""
        try:
            return hash_value(await self.vault.index_key(), field, value)
        except UnicodeEncodeError:  # `from None`: it holds the value
            raise InvalidRequest(field, "is not text in UTF-8") from None

    async def subject_of(self, subject_id: str) -> bytes:
        """See `PersonalData.subject_of`."""
        return await self.hashed("subject", subject_id)

    async def subject_in(self, stream_id: UUID) -> bytes | None:
        """See `PersonalData.subject_in`."""
        rows = await self._fetch(self._read_subject, stream_id)
        return rows[0][0] if rows else None

    async def streams_of(self, subject: bytes) -> list[UUID]:
        """See `PersonalData.streams_of`."""
        return [row[0] for row in await self._fetch(self._read_streams, subject)]

    async def hashed_address(self, address: str) -> bytes:
        """As `hashed`; all ways to write an address give the same."""
        return hash_address(await self.vault.index_key(), address)

    async def _basics(self) -> tuple[bytes, Hashing]:
        """What every append needs. Those that wait for it go on in their order."""
        if self._reading is None:
            self._reading = asyncio.gather(self._facts.id(), self.vault.index_key())
            self._reading.add_done_callback(self._have_read)
        reading = self._reading
        await asyncio.wait((reading,))  # no `shield`: see `SingleFlight`
        ledger_id, hashed = reading.result()
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
            subject = hash_value(hashed, "subject", opened.guest.subject_id)
        return self._subjects.keep(append.stream_id, subject)

    async def _subject(self, append: Append, hashed: Hashing) -> bytes | None:
        """Whose data the stream holds; `None`: it holds none any more."""
        known = self._subjects.get(append.stream_id) or self._new_subject(append, hashed)
        if known is None and (known := await self.subject_in(append.stream_id)) is not None:
            self._subjects.keep(append.stream_id, known)
        return known

    async def _fetch(self, statement: str, *values: Any) -> Sequence[Any]:
        with reported():
            async with reading(self._engine) as driver:
                rows: Sequence[Any] = await driver.fetch(statement, *values)
                return rows
