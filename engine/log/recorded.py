"""An event as it is stored."""

from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, timedelta
from functools import cache
from uuid import UUID

import msgspec

from guestledger.engine.domain.events import EVENT_TYPES, Event, SessionEvent
from guestledger.engine.domain.guest_filter import GuestFilter
from guestledger.engine.domain.personal import Guarded
from guestledger.engine.domain.policy import Policy


class RecordedEvent(Guarded, frozen=True, kw_only=True):
    """An event with what the store adds. `position` counts from 0 over the log, `version` from 1 in its stream."""

    position: int
    stream_id: UUID
    version: int
    event: Event
    recorded_at: datetime
    """The database's clock when the event was committed (UTC)."""
    correlation_id: str
    causation_id: UUID
    """Events of one append share it."""
    actor: str
    data: str
    """The exact text that was hashed. In place of each personal value it has a commitment."""
    leaf_hash: bytes
    schema_version: int = 1
    """Under which it is stored. `event` is of the newest one."""


class RecordedPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """A policy under which decisions were recorded."""

    policy: Policy
    after_position: int = -1
    """Where the log ended when the policy was used first: no event up to there was decided under it."""


def of_sessions(events: Iterable[RecordedEvent]) -> Iterator[RecordedEvent]:
    """Those that belong to a session: what is projected."""
    return (recorded for recorded in events if isinstance(recorded.event, SessionEvent))


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NO_MONTH = date(1970, 1, 1)
"""The month of a stream whose id has no time."""


def began_at(stream_id: UUID) -> datetime:
    """When a stream began (UTC), by its UUIDv7 (RFC 9562, section 5.7); 1970 for an id of another version."""
    milliseconds = stream_id.int >> 80 if stream_id.version == 7 else 0
    return datetime.fromtimestamp(milliseconds / 1_000, UTC)


def first_stream_id(moment: datetime) -> UUID:
    """The first possible id of a stream that began at `moment` (UTC) or later, to the millisecond above."""
    milliseconds = -((_EPOCH - moment) // timedelta(milliseconds=1))
    return UUID(int=max(milliseconds, 0) << 80)


def month_of(stream_id: UUID) -> date:
    """The first day of the month (UTC) in which a stream began; `NO_MONTH` for an id without a time."""
    return began_at(stream_id).date().replace(day=1)


@cache
def month_bounds(month: date) -> tuple[UUID, UUID]:
    """The first possible stream id of a month, given by its first day, and the first one after it."""
    following = (month + timedelta(days=31)).replace(day=1)
    first, end = (first_stream_id(datetime(day.year, day.month, 1, tzinfo=UTC)) for day in (month, following))
    return first, end


class EventFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which events to return. Raises `ValueError` for an unknown type."""

    types: tuple[str, ...] = ()
    """Wire names, such as `SessionCreated`."""
    since: datetime | None = None
    """Recorded then or later (UTC, the database's clock)."""
    until: datetime | None = None
    """Recorded before this time."""
    actor: str | None = None
    """Recorded by this person or process."""
    guest: GuestFilter = GuestFilter()

    def __post_init__(self) -> None:
        for name in self.types:
            if name not in EVENT_TYPES:
                raise ValueError(f"{name!r} is not an event type: one of {', '.join(EVENT_TYPES)}")


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """Matching events of a part of the log."""

    events: tuple[RecordedEvent, ...]
    """By position; may be empty."""
    position: int
    """The reader's checkpoint: every matching event up to here was returned by now."""
    mark: bytes | None = None
    """The leaf hash of the event at `position`, to detect a log that was set back. `None`: unknown."""
