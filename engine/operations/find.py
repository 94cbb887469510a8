"""From a complaint to the session, without a look at personal data."""

from datetime import datetime
from uuid import UUID

import msgspec

from guestledger.engine.ports.personal_data import PersonalData
from guestledger.engine.ports.read_models import ReadModels
from guestledger.engine.ports.session_finder import FindFilter, FoundSession, SessionFinder, Span

MAX_EARLIER = 2_000
"""So many events before the time are searched for the next earlier match, unless the guest is known."""

# The parts of the distance that are searched in turn: in a busy log, the nearest sessions are in the first one.
_SHARES = (512, 64, 8, 1)


class Findings(msgspec.Struct, frozen=True, kw_only=True):
    """The sessions that match, nearest to the time first; without a time, newest first."""

    found: tuple[FoundSession, ...]
    earlier: FoundSession | None = None
    """If nothing was found around the time: the nearest one before, if it is cheap to find."""


class Finder:
    """Finds sessions."""

    def __init__(self, *, sessions: SessionFinder, read_models: ReadModels, personal: PersonalData) -> None:
        self._sessions = sessions
        self._read_models = read_models
        self._personal = personal

    async def find(self, wanted: FindFilter) -> Findings:
        """See `Ledger.find`."""
        await self._read_models.catch_up()
        ids = await self._ids(wanted)
        if ids is not None and not ids:
            return Findings(found=())
        if wanted.around is None:
            return Findings(found=tuple(await self._sessions.near(wanted, ids, None)))
        return await self._around(wanted, wanted.around, ids)

    async def _around(self, wanted: FindFilter, moment: datetime, ids: set[UUID] | None) -> Findings:
        found: list[FoundSession] = []
        span = Span(-1, -1)
        for share in _SHARES if ids is None else _SHARES[-1:]:
            within = wanted.within / share
            span = await self._sessions.span(moment - within, moment + within)
            found = await self._sessions.near(wanted, ids, span)
            if len(found) >= wanted.limit:
                break
        return Findings(found=tuple(found), earlier=None if found else await self._earlier(wanted, ids, span))

    async def _ids(self, wanted: FindFilter) -> set[UUID] | None:
        """The sessions that the selective fields name; `None`: there are none of these fields."""
        sets: list[set[UUID | None]] = []
        if wanted.guest:
            sets.append({*await self._sessions.of_guest(await self._personal.hashes_of(wanted.guest))})
        if wanted.session is not None:
            sets.append({*await self._read_models.streams_of(str(wanted.session))})
        if wanted.idempotency_key is not None:
            sets.append({await self._sessions.of_key(await self._personal.hashed_key(wanted.idempotency_key))})
        if not sets:
            return None
        return {found for found in set.intersection(*sets) if found is not None}

    async def _earlier(self, wanted: FindFilter, ids: set[UUID] | None, span: Span) -> FoundSession | None:
        first = -1 if ids is not None else max(-1, span.after - MAX_EARLIER)
        before = await self._sessions.near(msgspec.structs.replace(wanted, limit=1), ids, Span(first, span.after))
        return before[0] if before else None
