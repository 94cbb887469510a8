"""The `sessions` projection: one row with the present state of each session."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from operator import attrgetter
from typing import Any
from uuid import UUID

import msgspec

from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.evolve import evolve
from guestledger.engine.domain.guest_filter import GuestFilter
from guestledger.engine.domain.session import Session, Status
from guestledger.engine.log.recorded import RecordedEvent, of_sessions

NAME = "sessions"


class SessionRow(msgspec.Struct, frozen=True, kw_only=True):
    """A session as lists show it. `id` is ours, `session_id` the provider's. No personal data."""

    id: UUID
    channel_id: str
    status: Status
    version: int
    opened_at: datetime
    """When the request was recorded (UTC, the database's clock)."""
    updated_at: datetime
    session_id: str | None
    accepted_at: datetime | None
    created_at: datetime | None
    expires_at: datetime | None
    retry_at: datetime | None
    attempts: int
    in_doubt: tuple[int, ...] = ()
    """The attempts still in doubt, also behind a later one."""
    latency_ms: int | None
    cause: Cause | None
    detail: str | None
    webhook_owed: bool = False
    ended_at: datetime | None = None
    """Since when nothing more is to be done for it: see `Session.ended_at`."""
    contact_erased_at: datetime | None = None
    held_since: datetime | None = None
    """Since when a legal hold keeps its contact data."""


class SessionFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which sessions to return, and in which order. `since` is inclusive, `until` exclusive: when they were opened."""

    channel_id: str | None = None
    statuses: tuple[Status, ...] = ()
    ids: tuple[UUID, ...] | None = None
    since: datetime | None = None
    until: datetime | None = None
    expires_after: datetime | None = None
    """Only those whose token expires later."""
    expires_until: datetime | None = None
    """Only those whose token expires by then."""
    in_doubt: bool = False
    """Only those with an attempt still in doubt."""
    held: bool = False
    """Only those under a legal hold."""
    kept_since: datetime | None = None
    """Only those that ended by then, whose contact data is kept without a legal hold, in attached partitions."""
    guest: GuestFilter = GuestFilter()
    after: UUID | None = None
    """Only those behind the session with this id, in this order: the next page."""
    newest_first: bool = False
    limit: int | None = None
    """At most this many; `None`: all."""


_SHARED = [name for name in SessionRow.__struct_fields__ if name in Session.__struct_fields__]
_values_of = attrgetter(*_SHARED)


def project(known: Mapping[UUID, SessionRow], events: Iterable[RecordedEvent]) -> list[SessionRow]:
    """The rows that `events` change. `known`: the rows of the same streams before them."""
    states: dict[UUID, Session] = {}
    first: dict[UUID, RecordedEvent] = {}
    last: dict[UUID, RecordedEvent] = {}
    for recorded in of_sessions(events):
        stream_id = recorded.stream_id
        before = states.get(stream_id)
        if before is None:
            before = _state(known[stream_id]) if stream_id in known else Session(id=stream_id)
            first[stream_id] = recorded
        states[stream_id] = evolve(before, recorded.event)
        last[stream_id] = recorded
    return [_row(state, known.get(id_), first[id_], last[id_]) for id_, state in states.items()]


def _state(row: SessionRow) -> Session:
    return Session(**_shared(row))


def _row(state: Session, known: SessionRow | None, first: RecordedEvent, last: RecordedEvent) -> SessionRow:
    return SessionRow(
        **_shared(state),
        opened_at=known.opened_at if known else first.recorded_at,
        updated_at=last.recorded_at,
    )


def _shared(of: Session | SessionRow) -> dict[str, Any]:
    return dict(zip(_SHARED, _values_of(of), strict=True))
