"""The timeline of a session: each event with the decision behind it, what it changed, and the time that passed before it."""

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec

from guestledger.engine.domain.due import DueStep, StepName, due_steps
from guestledger.engine.domain.evolve import evolve
from guestledger.engine.domain.session import Session
from guestledger.engine.log.recorded import RecordedEvent, RecordedPolicy
from guestledger.engine.replay.decisions import Decision, decisions
from guestledger.engine.replay.diff import Change, changes
from guestledger.engine.replay.waits import Waited, waits


class DueChange(msgspec.Struct, frozen=True, kw_only=True):
    """A due step that was added (`before` is `None`), moved, or removed (`after` is `None`). Times are UTC."""

    step: StepName
    before: datetime | None
    after: datetime | None


class Frame(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a session: the decision that made it, what it changed, and the time that passed before it."""

    recorded: RecordedEvent
    decision: Decision
    """A decision may make several events: their frames share it."""
    is_first: bool
    """Whether the event is the first of its decision."""
    before: Session
    state: Session
    """After the event."""
    changes: tuple[Change, ...]
    """From `before` to `state`. `version` is left out."""
    due_before: tuple[DueStep, ...]
    due: tuple[DueStep, ...]
    """Due after the event, by the policy of its decision."""
    due_changes: tuple[DueChange, ...]
    waits: tuple[Waited, ...]
    """The time since the event before, in its parts."""

    @property
    def passed(self) -> timedelta:
        """The time since the event before, between the recorded times; zero for the first event."""
        return sum((part.length for part in self.waits), timedelta())


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """What lies between two points of a session."""

    before: Session
    after: Session
    changes: tuple[Change, ...]
    due_changes: tuple[DueChange, ...]


def timeline(history: Sequence[RecordedEvent], policies: Sequence[RecordedPolicy]) -> list[Frame]:
    """A frame for each event of a session, from the first on: at least one event, and at least one policy.

    `policies` are those that were in force, the latest first.
    """
    frames: list[Frame] = []
    state = Session(id=history[0].stream_id)
    for decision in decisions(history, policies):
        for number in range(len(decision.recorded)):
            frames.append(_frame(history[: len(frames) + 1], state, decision, is_first=number == 0))
            state = frames[-1].state
    return frames


def until(frames: Sequence[Frame], moment: int | datetime) -> list[Frame]:
    """The frames up to and including a version, or a time (UTC, the database's clock)."""
    if isinstance(moment, int):
        return [frame for frame in frames if frame.recorded.version <= moment]
    return [frame for frame in frames if frame.recorded.recorded_at <= moment]


def diff(frames: Sequence[Frame], start: int | datetime, end: int | datetime) -> Difference:
    """What changed from one version or time (UTC) to another, which may be earlier. Version 0 is before the first event."""
    (before, due_before), (after, due_after) = _at(frames, start), _at(frames, end)
    return Difference(
        before=before,
        after=after,
        changes=_state_changes(before, after),
        due_changes=_due_changes(due_before, due_after),
    )


def _at(frames: Sequence[Frame], moment: int | datetime) -> tuple[Session, tuple[DueStep, ...]]:
    reached = until(frames, moment)
    return (reached[-1].state, reached[-1].due) if reached else (frames[0].before, ())


def _frame(history: Sequence[RecordedEvent], before: Session, decision: Decision, *, is_first: bool) -> Frame:
    """The frame of the last event of `history`."""
    recorded = history[-1]
    state = evolve(before, recorded.event)
    due_before, due = due_steps(before, decision.policy), due_steps(state, decision.policy)
    return Frame(
        recorded=recorded,
        decision=decision,
        is_first=is_first,
        before=before,
        state=state,
        changes=_state_changes(before, state),
        due_before=due_before,
        due=due,
        due_changes=_due_changes(due_before, due),
        waits=_waits(history, before, due_before, decision),
    )


def _waits(
    history: Sequence[RecordedEvent], before: Session, due: Sequence[DueStep], decision: Decision
) -> tuple[Waited, ...]:
    *earlier, recorded = history
    if not earlier:
        return ()
    step = decision.step or min(due, key=lambda step: step.due_at, default=None)
    events = [one.event for one in earlier]
    return waits(events, recorded.event, before, step, earlier[-1].recorded_at, recorded.recorded_at)


def _state_changes(before: Session, after: Session) -> tuple[Change, ...]:
    return tuple(change for change in changes(before, after) if change.field != "version")


def _due_changes(before: Sequence[DueStep], after: Sequence[DueStep]) -> tuple[DueChange, ...]:
    was, due = ({step.step: step.due_at for step in steps} for steps in (before, after))
    names = [*was, *(name for name in due if name not in was)]
    return tuple(
        DueChange(step=name, before=was.get(name), after=due.get(name))
        for name in names
        if was.get(name) != due.get(name)
    )
