"""An event as the log holds it."""

from datetime import UTC, date, datetime, timedelta
from functools import cache
from uuid import UUID

import msgspec

from guestledger.engine.domain.events import EVENT_TYPES, Event
from guestledger.engine.domain.personal import Guarded, Personal


class RecordedEvent(Guarded, frozen=True, kw_only=True):
    """An event with what the store alone gives it. `position` counts from 0 over the whole log, `version` from 1 in its stream."""

    position: int
    stream_id: UUID
    version: int
    event: Event
    recorded_at: datetime
    """The database's clock when the event was committed (UTC)."""
    correlation_id: str
    causation_id: UUID
    """The append that brought it: events of one append share it."""
    actor: str
    data: Personal
    """The exact text that was hashed, with all that is personal in the event."""
    leaf_hash: bytes


NO_MONTH = date(1970, 1, 1)
"""Stands for the month of a stream whose id tells no time."""


def month_of(stream_id: UUID) -> date:
    """The first day of the month (UTC) in which a stream began: a UUIDv7 begins with its time, RFC 9562, section 5.7.

    `NO_MONTH` for an id of another version.
    """
    milliseconds = stream_id.int >> 80 if stream_id.version == 7 else 0
    return datetime.fromtimestamp(milliseconds / 1_000, UTC).date().replace(day=1)


@cache
def month_bounds(month: date) -> tuple[UUID, UUID]:
    """The least id of a stream that began in `month`, given by its first day, and the least one after those."""
    following = (month + timedelta(days=31)).replace(day=1)
    first, end = (
        UUID(int=int(datetime(d.year, d.month, 1, tzinfo=UTC).timestamp() * 1_000) << 80) for d in (month, following)
    )
    return first, end


class EventFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which events are asked for; what is left out does not matter. Raises `ValueError` for a type that does not exist."""

    types: tuple[str, ...] = ()
    """Transport names, such as `SessionCreated`."""
    since: datetime | None = None
    """Recorded at this time or later (UTC, the database's clock)."""
    until: datetime | None = None
    """Recorded before this time."""

    def __post_init__(self) -> None:
        for name in self.types:
            if name not in EVENT_TYPES:
                raise ValueError(f"{name!r} is not an event type: one of {', '.join(EVENT_TYPES)}")


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch of the log as a reader with a filter sees it."""

    events: tuple[RecordedEvent, ...]
    """In order of position; empty where the filter left nothing of the stretch."""
    position: int
    """How far the log has been read: every event up to here that was asked for is in this batch or was in one before it.
    This is a reader's checkpoint: it goes on after it, and so past what the filter left out."""
