"""The `sessions` projection: where each session stands now, one row a session.

There is no second state machine here: a row is a part of the `Session` that `evolve` folds.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from uuid import UUID

import msgspec

from engine.domain.recorded import RecordedEvent
from engine.domain.session import Session, Status, evolve

NAME = "sessions"


class SessionRow(msgspec.Struct, frozen=True, kw_only=True):
    """A session as lists show it. `id` is the engine's own, `session_id` is CXone's. Holds nothing personal."""

    id: UUID
    channel_id: str
    status: Status
    version: int
    opened_at: datetime
    """When the request was recorded, accepted or refused (UTC, the database's clock)."""
    updated_at: datetime
    subject_id: str | None
    session_id: str | None
    accepted_at: datetime | None
    created_at: datetime | None
    expires_at: datetime | None
    retry_at: datetime | None
    attempts: int
    latency_ms: int | None
    reason: str | None


class SessionFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which sessions are asked for; what is left out does not matter."""

    channel_id: str | None = None
    statuses: tuple[Status, ...] = ()
    ids: tuple[UUID, ...] | None = None


_SHARED = [name for name in SessionRow.__struct_fields__ if name in Session.__struct_fields__]


def project(known: Mapping[UUID, SessionRow], events: Iterable[RecordedEvent]) -> list[SessionRow]:
    """The rows that `events` change, given the rows of the same streams before them."""
    rows: dict[UUID, SessionRow] = {}
    for recorded in events:
        row = rows.get(recorded.stream_id) or known.get(recorded.stream_id)
        rows[recorded.stream_id] = _after(row, recorded)
    return list(rows.values())


def _after(row: SessionRow | None, recorded: RecordedEvent) -> SessionRow:
    if row is None:
        state, subject, opened_at = Session(id=recorded.stream_id), None, recorded.recorded_at
    else:
        state = Session(**{name: getattr(row, name) for name in _SHARED})
        subject, opened_at = row.subject_id, row.opened_at
    state = evolve(state, recorded.event)
    return SessionRow(
        **{name: getattr(state, name) for name in _SHARED},
        subject_id=state.guest.subject_id if state.guest else subject,
        opened_at=opened_at,
        updated_at=recorded.recorded_at,
    )
