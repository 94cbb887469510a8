"""Showing personal data in clear: who looks, and why, is recorded before anything is shown."""

from collections.abc import AsyncIterator, Iterable, Sequence
from uuid import UUID

import msgspec
from msgspec.structs import force_setattr, replace

from guestledger.engine.domain.events import ConsentRecorded, ConsentRefused, PersonalDataRevealed
from guestledger.engine.domain.personal import Purpose
from guestledger.engine.domain.request import checked_text
from guestledger.engine.log.appends import Append, StepChanges
from guestledger.engine.log.recorded import RecordedEvent
from guestledger.engine.ports.clock import Clock
from guestledger.engine.ports.event_store import EventStore
from guestledger.engine.ports.personal_data import PersonalData
from guestledger.engine.projections.audit import AuditEntry

MAX_SESSIONS = 1_000
"""In one event: its text stays far below what an event may hold."""

PAGE = 500
"""Entries that are opened together."""


class Reveal(msgspec.Struct, frozen=True, kw_only=True):
    """The reason why personal data is shown in clear, and who looks. Neither text may contain personal data.

    Raises `InvalidRequest` for a text that cannot be stored.
    """

    reason: str
    by: str
    purposes: tuple[Purpose, ...] = (Purpose.CONTACT,)
    """What is shown. A guest's token is a secret, so it is not, unless `Purpose.ACCESS` is here too."""

    def __post_init__(self) -> None:
        checked_text("reason", self.reason)
        checked_text("by", self.by)
        force_setattr(self, "purposes", tuple(sorted({Purpose(purpose) for purpose in self.purposes})))


class Look:
    """One look at personal data. Each page of it is recorded in the same stream, then opened."""

    def __init__(self, reveal: Reveal, *, store: EventStore, personal: PersonalData, clock: Clock) -> None:
        self._reveal = reveal
        self._store = store
        self._personal = personal
        self._clock = clock
        self._stream_id = clock.new_id()
        self._version = 0

    async def events(self, sealed: Sequence[RecordedEvent]) -> list[RecordedEvent]:
        """Return these events with their personal data in clear; what was erased stays `Sealed`.

        Nothing is recorded if they have none. Raises `ServiceError`.
        """
        await self._record(one.stream_id for one in sealed if one.event.purpose in self._reveal.purposes)
        return await self._personal.opened(sealed, self._reveal.purposes)

    async def entries(self, entries: Sequence[AuditEntry]) -> list[AuditEntry]:
        """Return these entries with their guests. A guest in a detached partition is missing. Raises `ServiceError`."""
        opening = {one.stream_id: one for one in await self._store.read_openings([entry.id for entry in entries])}
        guests = {}
        for recorded in await self.events([opening[entry.id] for entry in entries if entry.id in opening]):
            if isinstance(recorded.event, ConsentRecorded | ConsentRefused):
                guests[recorded.stream_id] = recorded.event.guest
        return [replace(entry, guest=guests.get(entry.id)) for entry in entries]

    async def _record(self, sessions: Iterable[UUID]) -> None:
        wanted = list(dict.fromkeys(sessions))
        if wanted and not self._version:
            await self._personal.check_access()  # or a look would be recorded that nobody can take
        for start in range(0, len(wanted), MAX_SESSIONS):
            await self._append(tuple(wanted[start : start + MAX_SESSIONS]))

    async def _append(self, sessions: tuple[UUID, ...]) -> None:
        revealed = PersonalDataRevealed(
            at=self._clock.now(),
            revealed_by=self._reveal.by,
            reason=self._reveal.reason,
            purposes=self._reveal.purposes,
            sessions=sessions,
        )
        appended = await self._store.append(
            Append(
                stream_id=self._stream_id,
                expected_version=self._version,
                events=(revealed,),
                steps=StepChanges(),
                actor=self._reveal.by,
                causation_id=self._clock.new_id(),
                correlation_id=str(self._stream_id),
            )
        )
        self._version = appended.version


async def pages(entries: AsyncIterator[AuditEntry], size: int) -> AsyncIterator[list[AuditEntry]]:
    """Yield `entries`, `size` at a time."""
    page: list[AuditEntry] = []
    async for entry in entries:
        page.append(entry)
        if len(page) == size:
            yield page
            page = []
    if page:
        yield page
