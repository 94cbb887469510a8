"""`ledger.erasures`: erasing a person's data, certificates, and erasing again after an older backup was restored."""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import msgspec

from guestledger.engine.domain.commands import EraseGuest
from guestledger.engine.domain.errors import ErasureNotFound, GuestledgerError, InvalidRequest, NothingToErase
from guestledger.engine.domain.events import GuestErased
from guestledger.engine.domain.request import checked_text
from guestledger.engine.log.recorded import RecordedEvent
from guestledger.engine.operations.decisions import Decisions
from guestledger.engine.operations.histories import Histories
from guestledger.engine.operations.retention import Retention
from guestledger.engine.ports.adapters import Adapters
from guestledger.engine.ports.erasures import (
    ErasedEvent,
    Erasure,
    ErasureTarget,
    JournalEntry,
)

_STREAMS_AT_ONCE = 1_000


class ErasureCertificate(msgspec.Struct, frozen=True, kw_only=True):
    """What an erasure has done. `subject` is a keyed hash, in hex: who has the subject's id finds it, nobody else does."""

    id: UUID
    subject: str
    session: UUID | None
    """`None`: all sessions of the subject."""
    begun_at: datetime
    completed_at: datetime
    requested_by: str
    reason: str
    sessions: int
    rows: int
    """How many sealed rows were deleted."""
    keys: int
    """How many data keys were destroyed."""
    detached: int
    """How many of the sessions have no event here: their partition is detached."""
    events: tuple[ErasedEvent, ...]


class Erasures:
    """Erases personal data. Each step can be repeated: what was interrupted is finished by running it again."""

    def __init__(self, adapters: Adapters, *, histories: Histories, decisions: Decisions, retention: Retention) -> None:
        self._personal = adapters.personal
        self._erasures = adapters.erasures
        self._journal = adapters.journal
        self._store = adapters.store
        self._clock = adapters.clock
        self._retention = retention
        self._histories = histories
        self._decisions = decisions

    async def erase(
        self, *, subject_id: str | None, session: UUID | str | None, reason: str, requested_by: str
    ) -> ErasureCertificate:
        """See `Ledger.erase`."""
        if (subject_id is None) == (session is None):
            raise InvalidRequest("", "name either a subject or a session")
        reason, requested_by = checked_text("reason", reason), checked_text("requestedBy", requested_by)
        if self._journal is not None:
            await self._journal.check()
        if session is not None:
            return await self._erase_session(await self._histories.find(session), reason, requested_by)
        assert subject_id is not None
        subject = await self._personal.subject_of(subject_id)
        await self._retention.check(subject)
        finished = await self._finish_sessions(subject)
        target = ErasureTarget(id=self._clock.new_id(), subject=subject, reason=reason, requested_by=requested_by)
        erasure = await self._erasures.begin(target) or await self._erasures.latest(subject)
        if erasure is not None:
            return await self._finish(erasure)
        if not finished:
            raise NothingToErase
        return finished[-1]

    async def _finish_sessions(self, subject: bytes) -> list[ErasureCertificate]:
        """Finish the interrupted erasures of single sessions: otherwise they would go on to refuse this subject."""
        left = [one for one in await self._erasures.unfinished() if one.subject == subject and one.session is not None]
        return [await self._finish(erasure) for erasure in left]

    async def _erase_session(self, history: list[RecordedEvent], reason: str, requested_by: str) -> ErasureCertificate:
        for recorded in history:
            if isinstance(recorded.event, GuestErased):
                return await self._finish(await self._found(recorded.event.erasure))
        stream_id = history[0].stream_id
        subject = await self._personal.subject_in(stream_id) or stream_id.bytes
        await self._retention.check(subject, stream_id)
        target = ErasureTarget(
            id=self._clock.new_id(),
            subject=subject,
            session=stream_id,
            reason=reason,
            requested_by=requested_by,
        )
        erasure = await self._erasures.begin(target)
        assert erasure is not None, "a session is something to erase"
        return await self._finish(erasure)

    async def certificate(self, erasure: UUID) -> ErasureCertificate:
        """Return the certificate of a completed erasure. Raises `ErasureNotFound`."""
        found = await self._found(erasure)
        if found.completed_at is None:
            raise ErasureNotFound(erasure, unfinished=True)
        return await self._certificate(found)

    async def finish(self) -> list[ErasureCertificate]:
        """Finish the erasures that were interrupted, and return their certificates."""
        return [await self._finish(erasure) for erasure in await self._erasures.unfinished()]

    async def replay(
        self, entries: Sequence[JournalEntry], *, reason: str, requested_by: str
    ) -> list[ErasureCertificate]:
        """Erase again what a journal lists and this database has not completed, as after an older backup was restored.

        Erases the sessions that began before the erasure's time. Returns the certificates of these erasures.
        """
        reason, requested_by = checked_text("reason", reason), checked_text("requestedBy", requested_by)
        certificates = []
        ledger_id = await self._erasures.ledger_id()
        for entry in entries:
            if entry.ledger != ledger_id:
                continue
            target = ErasureTarget(
                id=entry.erasure,
                subject=bytes.fromhex(entry.subject),
                session=entry.session,
                until=entry.at,
                reason=reason,
                requested_by=requested_by,
                replayed=True,
            )
            erasure = await self._erasures.begin(target)
            assert erasure is not None, "a replayed erasure is always recorded"
            if erasure.completed_at is None:
                certificates.append(await self._finish(erasure))
        return certificates

    async def _finish(self, erasure: Erasure) -> ErasureCertificate:
        if erasure.completed_at is None:
            erasure = await self._erasures.destroy_keys(erasure)
            await self._erase_streams(erasure)
            # A refused append may have made another key meanwhile.
            erasure = await self._erasures.destroy_keys(erasure)
            if self._journal is not None:
                await self._journal.add(await self._entry(erasure))
            erasure = await self._erasures.complete(erasure.id)
        return await self._certificate(erasure)

    async def _entry(self, erasure: Erasure) -> JournalEntry:
        return JournalEntry(
            erasure=erasure.id,
            ledger=await self._erasures.ledger_id(),
            subject=erasure.subject.hex(),
            session=erasure.session,
            at=self._clock.now(),
        )

    async def _erase_streams(self, erasure: Erasure) -> None:
        for first in range(0, len(erasure.streams), _STREAMS_AT_ONCE):
            streams = erasure.streams[first : first + _STREAMS_AT_ONCE]
            histories = await self._store.read_streams(streams)
            erasing = (self._erase_stream(history, erasure) for history in histories.values())
            for outcome in await asyncio.gather(*erasing, return_exceptions=True):
                if outcome is not None and not isinstance(outcome, _ErasedAlready):
                    raise outcome

    async def _erase_stream(self, history: list[RecordedEvent], erasure: Erasure) -> None:
        def command(now: datetime) -> EraseGuest:
            return EraseGuest(erased_by=erasure.requested_by, reason=erasure.reason, erasure=erasure.id, now=now)

        await self._decisions.record(
            history, command, actor=erasure.requested_by, refused=lambda _state: _ErasedAlready()
        )

    async def _found(self, erasure: UUID) -> Erasure:
        found = await self._erasures.find(erasure)
        if found is None:
            raise ErasureNotFound(erasure)
        return found

    async def _certificate(self, erasure: Erasure) -> ErasureCertificate:
        assert erasure.completed_at is not None
        events = await self._erasures.events(erasure)
        return ErasureCertificate(
            id=erasure.id,
            subject=erasure.subject.hex(),
            session=erasure.session,
            begun_at=erasure.begun_at,
            completed_at=erasure.completed_at,
            requested_by=erasure.requested_by,
            reason=erasure.reason,
            sessions=len(erasure.streams),
            rows=erasure.rows,
            keys=len(erasure.key_ids),
            detached=len(erasure.streams) - len(events),
            events=tuple(events),
        )


class _ErasedAlready(GuestledgerError):
    pass
