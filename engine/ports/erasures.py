"""Erasures of personal data: what is stored of them, and their journal outside the database."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Protocol
from uuid import UUID

import msgspec

from guestledger.engine.domain.personal import Guarded, PersonalBytes


class ErasureTarget(Guarded, frozen=True, kw_only=True):
    """Whose personal data is to be erased, and why. `subject` is a keyed hash. Both texts are stored."""

    id: UUID
    subject: PersonalBytes
    session: UUID | None = None
    """Only this session of the subject."""
    until: datetime | None = None
    """Only sessions that began by then (UTC)."""
    requested_by: str
    reason: str
    replayed: bool = False
    """From the journal: recorded even if nothing is held."""


class Erasure(Guarded, frozen=True, kw_only=True):
    """An erasure as it is stored."""

    id: UUID
    subject: PersonalBytes
    session: UUID | None
    streams: tuple[UUID, ...]
    whole: bool
    """Whether these are all sessions of the subject: then nothing is recorded of it until the erasure is completed, and
    its keys are destroyed."""
    rows: int
    key_ids: tuple[UUID, ...]
    requested_by: str
    reason: str
    begun_at: datetime
    completed_at: datetime | None


class ErasedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """The `GuestErased` of one session. `leaf_hash` is in hex."""

    session: UUID
    position: int
    leaf_hash: str


class ErasureStore(Protocol):
    """The erasures of one ledger. All methods raise `ServiceError`."""

    async def ledger_id(self) -> UUID:
        """The identity of the ledger, which its backups share."""
        ...

    async def begin(self, target: ErasureTarget) -> Erasure | None:
        """The open erasure of the same target, or a new one; `None`: nothing is held.

        From here on appends of a whole subject are refused with `SubjectErased`. Raises `UnderLegalHold`.
        """
        ...

    async def has_begun(self, session: UUID) -> bool:
        """Whether an erasure of the session has begun, also if it is completed."""
        ...

    async def destroy_keys(self, erasure: Erasure) -> Erasure:
        """Destroy the keys of a whole subject. Nothing is ever sealed under them again."""
        ...

    async def destroy_left_keys(self) -> None:
        """Destroy the keys that a vault of its own still holds, though their data was erased."""
        ...

    async def complete(self, erasure: UUID) -> Erasure:
        """Delete what is left of the streams that the log does not hold now, and record that the erasure is complete."""
        ...

    async def find(self, erasure: UUID) -> Erasure | None:
        """The erasure with this id."""
        ...

    async def latest(self, subject: bytes) -> Erasure | None:
        """The last erasure of all sessions of a subject."""
        ...

    async def unfinished(self) -> list[Erasure]:
        """The open erasures, oldest first."""
        ...

    async def events(self, erasure: Erasure) -> list[ErasedEvent]:
        """The events of an erasure, by position. Those in detached partitions are missing."""
        ...

    async def done(self, ids: Collection[UUID]) -> set[UUID]:
        """Those of these erasures that are complete, or have at least left nothing of their sessions' personal data."""
        ...


class JournalEntry(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A completed erasure in the journal. No personal data: `subject` is a keyed hash, in hex."""

    erasure: UUID
    ledger: UUID
    subject: str
    session: UUID | None
    at: datetime


class ErasureJournal(Protocol):
    """A list of erasures outside the database, which outlives the restore of an older backup. Ledgers may share it."""

    async def check(self) -> None:
        """Raise `JournalUnusable` if no entry can be added."""
        ...

    async def add(self, entry: JournalEntry) -> None:
        """Add an entry, durably. Raises `JournalUnusable`."""
        ...

    async def entries(self) -> Sequence[JournalEntry]:
        """All entries, oldest first. Raises `JournalUnusable`."""
        ...
