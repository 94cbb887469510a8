"""Events as JSON. Personal data is masked unless it is revealed."""

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from guestledger.engine.domain.events import Event
from guestledger.engine.domain.personal import public
from guestledger.engine.log.codec import wire_name
from guestledger.engine.log.recorded import RecordedEvent


class EventForm(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """An event as recorded. `data` has the names of the log. Times are UTC, by the database's clock."""

    position: int
    id: UUID
    version: int
    recorded_at: datetime
    event: str
    data: dict[str, Any]
    actor: str
    correlation_id: str
    causation_id: UUID
    leaf_hash: str


class NamedEvent(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What an event says, without its place in the log. `data` has the names of the log."""

    event: str
    data: dict[str, Any]


def event_form(recorded: RecordedEvent, *, revealed: bool) -> EventForm:
    """Return an event as JSON has it."""
    return EventForm(
        position=recorded.position,
        id=recorded.stream_id,
        version=recorded.version,
        recorded_at=recorded.recorded_at,
        event=wire_name(recorded.event),
        data=public(recorded.event, revealed=revealed),
        actor=recorded.actor,
        correlation_id=recorded.correlation_id,
        causation_id=recorded.causation_id,
        leaf_hash=recorded.leaf_hash.hex(),
    )


def named_event(event: Event, *, revealed: bool = False) -> NamedEvent:
    """Return what an event says as JSON has it."""
    return NamedEvent(event=wire_name(event), data=public(event, revealed=revealed))
