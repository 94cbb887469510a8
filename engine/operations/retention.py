"""`ledger.retention`: how long contact data is kept, and legal holds."""

from collections.abc import Callable
from datetime import datetime
from uuid import UUID

import msgspec

from guestledger.engine.domain.commands import PlaceHold, ReleaseHold
from guestledger.engine.domain.errors import HoldRefused, UnderLegalHold
from guestledger.engine.domain.request import checked_text
from guestledger.engine.domain.session import Session
from guestledger.engine.log.recorded import RecordedEvent
from guestledger.engine.operations.decisions import Decisions
from guestledger.engine.operations.histories import Histories
from guestledger.engine.ports.adapters import Adapters
from guestledger.engine.ports.legal_holds import LegalHold
from guestledger.engine.projections.retention import RetentionStatus
from guestledger.engine.projections.sessions import SessionFilter


class HoldReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a hold or its release did, by session."""

    changed: tuple[UUID, ...]
    """Held, or released, by this call."""
    unchanged: tuple[UUID, ...] = ()
    """They were so before."""
    detached: tuple[UUID, ...] = ()
    """Their partition is detached, so nothing could be recorded. Their data is kept: nothing can erase it either."""


class Retention:
    """Shows the retention, and places and releases legal holds. Workers erase."""

    def __init__(self, adapters: Adapters, *, histories: Histories, decisions: Decisions, days: int | None) -> None:
        self._store = adapters.store
        self._read_models = adapters.read_models
        self._holds = adapters.holds
        self._erasures = adapters.erasures
        self._personal = adapters.personal
        self._clock = adapters.clock
        self._histories = histories
        self._decisions = decisions
        self._days = days

    async def status(self) -> RetentionStatus:
        """Return how much contact data is kept, including everything committed before the call."""
        await self._read_models.catch_up()
        return await self._read_models.retention(self._days, self._clock.now())

    async def hold(
        self, *, subject_id: str | None = None, session: UUID | str | None = None, reason: str, placed_by: str
    ) -> HoldReport:
        """Keep the contact data of a subject, or of one session, until the hold is released.

        A subject's hold is for sessions that begin later, too. Interrupted, it is finished by another call. Neither text may
        contain a secret or personal data. Raises `SessionNotFound`, `InvalidRequest`, and `HoldRefused` if the session
        is held already or its contact data is erased. Raises `ValueError` unless exactly one of the two is given.
        """
        placed_by, reason = checked_text("placedBy", placed_by), checked_text("reason", reason)
        by_subject = _chosen(subject_id, session)

        def command(now: datetime) -> PlaceHold:
            return PlaceHold(placed_by=placed_by, reason=reason, now=now)

        if not by_subject:
            history = await self._histories.find(session or "")
            await self._refuse_if_erased(history[0].stream_id)
            held = await self._decisions.record(history, command, actor=placed_by, refused=_why_not_held)
            # An erasure that began meanwhile has not seen this hold. One that begins now sees it.
            await self._refuse_if_erased(held.id)
            return HoldReport(changed=(held.id,))
        subject = await self._subject(subject_id or "")
        wanted = LegalHold(placed_at=self._clock.now(), placed_by=placed_by, reason=reason)
        # First the subject's: a session that begins now is held by it.
        hold = await self._holds.place(subject, wanted)
        placed_by, reason = hold.placed_by, hold.reason
        return await self._record_all(subject, command, actor=placed_by)

    async def release(
        self, *, subject_id: str | None = None, session: UUID | str | None = None, reason: str, released_by: str
    ) -> HoldReport:
        """Release the hold on a subject and on all its sessions, or on one session. Retention counts again.

        Raises as `hold` does, and `HoldRefused` if there is no hold, or the session's subject is held.
        """
        released_by, reason = checked_text("releasedBy", released_by), checked_text("reason", reason)
        by_subject = _chosen(subject_id, session)

        def command(now: datetime) -> ReleaseHold:
            return ReleaseHold(released_by=released_by, reason=reason, now=now)

        if not by_subject:
            history = await self._histories.find(session or "")
            if (hold := await self._holds.over(history[0].stream_id)) is not None:
                raise HoldRefused(
                    f"the subject of this session is held since {_day(hold.placed_at)}: release that hold"
                )
            free = await self._decisions.record(history, command, actor=released_by, refused=_why_not_released)
            return HoldReport(changed=(free.id,))
        subject = await self._subject(subject_id or "")
        # First the subject's: a worker would place it again on a session that was released before.
        was_held = await self._holds.release(subject)
        report = await self._record_all(subject, command, actor=released_by)
        if not was_held and not report.changed:
            raise HoldRefused("this subject is under no legal hold")
        return report

    async def holds(self) -> list[LegalHold]:
        """Return the holds on subjects, oldest first, also of those without a session. Whose they are is not said."""
        return await self._holds.all()

    async def check(self, subject: bytes, session: UUID | None = None) -> None:
        """Raise `UnderLegalHold` if the subject (its keyed hash) is held, or one of its sessions; or this session alone.

        Also by what projections know of detached partitions. `ErasureStore.begin` checks once more, by the log.
        """
        await self._read_models.catch_up()
        streams = [session] if session is not None else await self._personal.streams_of(subject)
        rows = self._read_models.sessions(SessionFilter(ids=tuple(streams)))
        held = tuple([row.id async for row in rows if row.held_since is not None])
        if held or await self._holds.of(subject) is not None:
            raise UnderLegalHold(held)

    async def _refuse_if_erased(self, stream_id: UUID) -> None:
        if await self._erasures.has_begun(stream_id):
            raise HoldRefused(f"session {stream_id} has been erased, or is being erased: there is nothing to keep")

    async def _subject(self, subject_id: str) -> bytes:
        return await self._personal.subject_of(checked_text("subjectId", subject_id))

    async def _record_all(self, subject: bytes, command: "_Command", *, actor: str) -> HoldReport:
        changed, unchanged, detached = [], [], []
        for stream_id in await self._personal.streams_of(subject):
            history = await self._store.read_stream(stream_id)
            if not history:
                detached.append(stream_id)
            elif await self._recorded(history, command, actor):
                changed.append(stream_id)
            else:
                unchanged.append(stream_id)
        return HoldReport(changed=tuple(changed), unchanged=tuple(unchanged), detached=tuple(detached))

    async def _recorded(self, history: list[RecordedEvent], command: "_Command", actor: str) -> bool:
        try:
            await self._decisions.record(history, command, actor=actor, refused=_why_not_held)
        except HoldRefused:
            return False
        return True


_Command = Callable[[datetime], PlaceHold | ReleaseHold]


def _chosen(subject_id: str | None, session: UUID | str | None) -> bool:
    """Whether the subject was given."""
    if (subject_id is None) == (session is None):
        raise ValueError("give either subject_id or session")
    return subject_id is not None


def _why_not_held(state: Session) -> HoldRefused:
    if state.held_since is not None:
        return HoldRefused(f"session {state.id} is held since {_day(state.held_since)}")
    return HoldRefused(f"session {state.id} has no contact data any more: there is nothing to keep")


def _why_not_released(state: Session) -> HoldRefused:
    return HoldRefused(f"session {state.id} is under no legal hold")


def _day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d}"
