"""Replays as JSON: a session's frames, and the difference between two points. Personal data is masked unless it is revealed."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec

from guestledger.adapters.forms.camel import camel, camel_type
from guestledger.adapters.forms.events import NamedEvent, named_event
from guestledger.engine.domain.due import DueStep
from guestledger.engine.domain.personal import public
from guestledger.engine.domain.session import Session, Status
from guestledger.engine.limits.retry import Wait
from guestledger.engine.log.codec import wire_name
from guestledger.engine.replay.decisions import Decision
from guestledger.engine.replay.diff import Change
from guestledger.engine.replay.timeline import Difference, DueChange, Frame
from guestledger.engine.replay.waits import Waited


class ChangeForm(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One field that changed. A nested object that appears, or is gone, is one change."""

    field: str
    """Its path, with the names of the log: `retry_at`, `guest.source`."""
    before: Any
    after: Any


class DecisionForm(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A recorded decision, and what today's code decides in its place."""

    command: str | None
    """Null: no command leads to these events."""
    arguments: dict[str, Any] | None
    step: camel_type(DueStep) | None  # type: ignore[valid-type]
    """The due step that it ran. Null: nothing had to be due, or nothing was."""
    was_due: bool
    versions: list[int]
    """Of the events that it made."""
    is_reproduced: bool
    decided: list[NamedEvent]
    """By today's code."""


class WaitedForm(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A part of the time before an event. Times are UTC, by the database's clock."""

    waited_for: str
    since: datetime
    until: datetime
    step: str | None
    wait: camel_type(Wait) | None  # type: ignore[valid-type]
    """The recorded reason of a due time."""
    ms: float


class FrameForm(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One event: the session's state and due steps after it, what it changed, its decision, and the time before it."""

    version: int
    position: int
    recorded_at: datetime
    actor: str
    event: str
    data: dict[str, Any]
    state: dict[str, Any]
    due: list[camel_type(DueStep)]  # type: ignore[valid-type]
    changes: list[ChangeForm]
    due_changes: list[camel_type(DueChange)]  # type: ignore[valid-type]
    decision: DecisionForm
    passed_ms: float
    """Since the event before."""
    waits: list[WaitedForm]


class ReplayForm(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A session, and a frame for each of its events."""

    id: UUID
    session_id: str | None
    status: Status
    version: int
    frames: list[FrameForm]


class PointForm(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A point of a session. Version 0 is before the first event."""

    version: int
    status: Status


class DifferenceForm(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What changed between two points of a session."""

    id: UUID
    before: PointForm
    after: PointForm
    changes: list[ChangeForm]
    due_changes: list[camel_type(DueChange)]  # type: ignore[valid-type]


def replay_form(frames: Sequence[Frame], *, revealed: bool) -> ReplayForm:
    """Return a session with all its frames: at least one."""
    last = frames[-1].state
    return ReplayForm(
        id=last.id,
        session_id=last.session_id,
        status=last.status,
        version=last.version,
        frames=[frame_form(frame, revealed=revealed) for frame in frames],
    )


def frame_form(frame: Frame, *, revealed: bool) -> FrameForm:
    """Return one frame."""
    return FrameForm(
        version=frame.recorded.version,
        position=frame.recorded.position,
        recorded_at=frame.recorded.recorded_at,
        actor=frame.recorded.actor,
        event=wire_name(frame.recorded.event),
        data=public(frame.recorded.event, revealed=revealed),
        state=public(frame.state, revealed=revealed),
        due=list(map(camel, frame.due)),
        changes=_changes(frame.changes, revealed=revealed),
        due_changes=list(map(camel, frame.due_changes)),
        decision=_decision(frame.decision, revealed=revealed),
        passed_ms=_in_ms(frame.passed),
        waits=list(map(_waited, frame.waits)),
    )


def difference_form(found: Difference, *, revealed: bool) -> DifferenceForm:
    """Return what changed between two points."""
    return DifferenceForm(
        id=found.after.id,
        before=_point(found.before),
        after=_point(found.after),
        changes=_changes(found.changes, revealed=revealed),
        due_changes=list(map(camel, found.due_changes)),
    )


def _changes(changes: Sequence[Change], *, revealed: bool) -> list[ChangeForm]:
    return [ChangeForm(**public(change, revealed=revealed)) for change in changes]


def _decision(decision: Decision, *, revealed: bool) -> DecisionForm:
    command, first = decision.command, decision.before.version + 1
    return DecisionForm(
        command=None if command is None else type(command).__name__,
        arguments=public(command, revealed=revealed),
        step=None if decision.step is None else camel(decision.step),
        was_due=decision.was_due,
        versions=[first + number for number in range(len(decision.recorded))],
        is_reproduced=decision.is_reproduced,
        decided=[named_event(event, revealed=revealed) for event in decision.decided],
    )


def _waited(part: Waited) -> WaitedForm:
    return WaitedForm(
        waited_for=part.waited_for,
        since=part.since,
        until=part.until,
        step=part.step,
        wait=None if part.wait is None else camel(part.wait),
        ms=_in_ms(part.length),
    )


def _point(state: Session) -> PointForm:
    return PointForm(version=state.version, status=state.status)


def _in_ms(length: timedelta) -> float:
    """Exact to the microsecond."""
    return length / timedelta(milliseconds=1)
