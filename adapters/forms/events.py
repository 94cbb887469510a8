"""Events, and the steps of a replay, as JSON. Personal data is masked unless it is revealed."""

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from guestledger.engine.domain.personal import public
from guestledger.engine.log.codec import wire_name
from guestledger.engine.log.recorded import RecordedEvent
from guestledger.engine.replay.timeline import Frame


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


class DueForm(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A step that was due then, and the time before which it must not run (UTC)."""

    step: str
    due_at: datetime


class FrameForm(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One event, the session's state after it, and the steps that were due then."""

    version: int
    position: int
    recorded_at: datetime
    actor: str
    event: str
    data: dict[str, Any]
    state: dict[str, Any]
    due: tuple[DueForm, ...]


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


def frame_form(frame: Frame, *, revealed: bool) -> FrameForm:
    """Return a step of a replay as JSON has it."""
    return FrameForm(
        version=frame.recorded.version,
        position=frame.recorded.position,
        recorded_at=frame.recorded.recorded_at,
        actor=frame.recorded.actor,
        event=wire_name(frame.recorded.event),
        data=public(frame.recorded.event, revealed=revealed),
        state=public(frame.state, revealed=revealed),
        due=tuple(DueForm(step=due.step, due_at=due.due_at) for due in frame.due),
    )
