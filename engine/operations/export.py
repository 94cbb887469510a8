"""Everything held on one person, to be handed over: access and portability (GDPR, articles 15 and 20)."""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from guestledger.engine.domain import events as e
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.errors import NothingHeld
from guestledger.engine.domain.outcomes import FailureKind
from guestledger.engine.domain.personal import Guarded, Personal, Purpose, Sealed
from guestledger.engine.domain.request import checked_text
from guestledger.engine.domain.session import Status, WebhookNotice
from guestledger.engine.log.codec import wire_name
from guestledger.engine.log.recorded import RecordedEvent
from guestledger.engine.operations.histories import Histories
from guestledger.engine.ports.adapters import Adapters
from guestledger.engine.worker.session_work import session_of

FORMAT = "guestledger-export/1"

SENT_TO_PROVIDER = ("fingerprint", "source", "campaign", "device type", "consent and its time")
"""What a creation request says about the guest."""
SENT_TO_WEBHOOK = {
    WebhookNotice.SESSION_STARTED: ("fingerprint", "session id", "time of consent"),
    WebhookNotice.CONSENT_WITHDRAWN: ("session id", "time of the withdrawal"),
}
"""What each notice says about the guest."""

Reveal = Callable[[Sequence[RecordedEvent]], Awaitable[list[RecordedEvent]]]
"""Opens the personal values of events. Records who looks, and why, before it returns them."""


class Disclosure(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One request with data of the guest."""

    at: datetime
    recipient: str
    """`provider` or `webhook`."""
    data: tuple[str, ...]
    outcome: str
    """`accepted`, `refused`, `unknown` (the answer was lost) or `not_sent`."""


class Erased(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What was deleted, when, and by which event."""

    at: datetime
    data: tuple[Purpose, ...]
    event: str


class ExportedEvent(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """An event as recorded. In `data`, an erased value is an object with its `commitment`."""

    position: int
    version: int
    event: str
    recorded_at: datetime
    actor: str
    data: dict[str, Any]


class ExportedSession(Guarded, frozen=True, kw_only=True, rename="camel"):
    """One session of the person."""

    id: UUID
    session_id: str | None
    """The provider's."""
    channel_id: str
    status: Status
    opened_at: datetime
    ended_at: datetime | None
    held_since: datetime | None
    """Since when a legal hold keeps the contact data."""
    contact: dict[str, Any]
    """The guest as recorded: see `Guest`."""
    consent: dict[str, Any]
    """The consent that was given, or what was refused."""
    disclosures: tuple[Disclosure, ...]
    erased: tuple[Erased, ...]
    events: tuple[ExportedEvent, ...]


class PersonExport(Guarded, frozen=True, kw_only=True, rename="camel"):
    """Everything held on a person. It holds personal data in clear, and guest tokens that were not purged yet."""

    format: str = FORMAT
    made_at: datetime
    made_by: str
    reason: str
    subject_id: Personal | None
    """The person asked for; `None`: one session was."""
    retention_days: int | None
    """How long contact data is kept after a session's end; `None`: until it is erased."""
    sessions: tuple[ExportedSession, ...]
    detached: tuple[UUID, ...]
    """Sessions in detached partitions: attach these, and export again."""


class Exporter:
    """Collects what is held on a person."""

    def __init__(self, adapters: Adapters, *, histories: Histories, retention_days: int | None) -> None:
        self._store = adapters.store
        self._personal = adapters.personal
        self._clock = adapters.clock
        self._histories = histories
        self._days = retention_days

    async def export(
        self, *, subject_id: str | None, session: UUID | str | None, reason: str, by: str, reveal: Reveal
    ) -> PersonExport:
        """See `Ledger.export`."""
        reason, by = checked_text("reason", reason), checked_text("by", by)
        if (subject_id is None) == (session is None):
            raise ValueError("give either subject_id or session")
        wanted = await self._streams(subject_id, session)
        sealed = await self._store.read_streams(wanted)
        # What reveals is recorded before anything is shown.
        opened: dict[UUID, list[RecordedEvent]] = {}
        for one in await reveal([recorded for stream_id in wanted for recorded in sealed.get(stream_id, ())]):
            opened.setdefault(one.stream_id, []).append(one)
        return PersonExport(
            made_at=self._clock.now(),
            made_by=by,
            reason=reason,
            subject_id=subject_id,
            retention_days=self._days,
            sessions=tuple(exported(history) for history in opened.values()),
            detached=tuple(stream_id for stream_id in wanted if stream_id not in opened),
        )

    async def _streams(self, subject_id: str | None, session: UUID | str | None) -> list[UUID]:
        if session is not None:
            return [(await self._histories.find(session))[0].stream_id]
        assert subject_id is not None
        streams = await self._personal.streams_of(
            await self._personal.subject_of(checked_text("subjectId", subject_id))
        )
        if not streams:
            raise NothingHeld
        return streams


def exported(history: Sequence[RecordedEvent]) -> ExportedSession:
    """One session, from its whole history."""
    state, opening = session_of(history), history[0].event
    assert isinstance(opening, e.ConsentRecorded | e.ConsentRefused)
    return ExportedSession(
        id=state.id,
        session_id=state.session_id,
        channel_id=state.channel_id,
        status=state.status,
        opened_at=history[0].recorded_at,
        ended_at=state.ended_at,
        held_since=state.held_since,
        contact=plain(opening.guest),
        consent=_consent(opening),
        disclosures=tuple(_disclosures([recorded.event for recorded in history])),
        erased=tuple(_erased(history)),
        events=tuple(_event(recorded) for recorded in history),
    )


def _consent(opening: e.ConsentRecorded | e.ConsentRefused) -> dict[str, Any]:
    if isinstance(opening, e.ConsentRecorded):
        return {"sufficient": True, **plain(opening.consent)}
    refused = {name: value for name, value in plain(opening).items() if name not in ("at", "channel_id", "guest")}
    return {"sufficient": False, "timestamp": opening.at.isoformat(), **refused}


def plain(value: Any) -> Any:
    """`value` as JSON has it; a value that cannot be read is an object with its commitment."""
    return msgspec.to_builtins(value, enc_hook=_commitment)


def _commitment(value: Any) -> dict[str, str]:
    if isinstance(value, Sealed):
        return {"commitment": str.__str__(value)}
    raise NotImplementedError


def _event(recorded: RecordedEvent) -> ExportedEvent:
    return ExportedEvent(
        position=recorded.position,
        version=recorded.version,
        event=wire_name(recorded.event),
        recorded_at=recorded.recorded_at,
        actor=recorded.actor,
        data=plain(recorded.event),
    )


def _erased(history: Sequence[RecordedEvent]) -> Iterator[Erased]:
    for recorded in history:
        if recorded.event.erases:
            data = tuple(sorted(recorded.event.erases))
            yield Erased(at=recorded.recorded_at, data=data, event=wire_name(recorded.event))


def _disclosures(events: Sequence[e.Event]) -> Iterator[Disclosure]:
    for number, event in enumerate(events):
        match event:
            case e.CreationAttempted():
                outcome = _outcome_of(event.attempt, events[number + 1 :])
                yield Disclosure(at=event.at, recipient="provider", data=SENT_TO_PROVIDER, outcome=outcome)
            case e.WebhookAbandoned(cause=Cause.GUEST_ERASED):
                pass  # if a call was under way, its outcome follows
            case e.WebhookSynced() | e.WebhookFailed() | e.WebhookAbandoned():
                yield _notice(event)


def _notice(event: e.WebhookSynced | e.WebhookFailed | e.WebhookAbandoned) -> Disclosure:
    answered = "accepted" if isinstance(event, e.WebhookSynced) else "refused"
    outcome = "unknown" if event.status is None else answered
    return Disclosure(at=event.at, recipient="webhook", data=SENT_TO_WEBHOOK[event.notice], outcome=outcome)


def _outcome_of(attempt: int, later: Sequence[e.Event]) -> str:
    """What came of an attempt: the last word on it counts."""
    outcome = "unknown"
    for event in later:
        match event:
            case e.SessionCreated() | e.SessionAdopted() | e.DuplicateCreated() if event.attempt == attempt:
                outcome = "accepted"
            case e.DoubtLifted(cause=Cause.SESSION_KNOWN) if event.attempt == attempt:
                outcome = "accepted"
            case e.CreationThrottled() if event.attempt == attempt:
                outcome = "refused"
            case e.CreationFailed() | e.DoubtLifted() if event.attempt == attempt:
                outcome = "refused" if event.kind is None else _FAILED.get(event.kind, "refused")
            case _:
                pass
    return outcome


_FAILED = {FailureKind.UNSENT: "not_sent", FailureKind.IN_DOUBT: "unknown"}
