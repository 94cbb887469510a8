"""The timeline of any history: it says what the events say, and its parts add up."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
from hypothesis import given, strategies as st

from guestledger.engine.domain.due import due_steps
from guestledger.engine.domain.events import ClockSetBack, Event
from guestledger.engine.domain.evolve import evolve_all, fold
from guestledger.engine.domain.lifecycle import decide
from guestledger.engine.domain.policy import Policy
from guestledger.engine.domain.session import Session
from guestledger.engine.log.recorded import RecordedEvent
from guestledger.engine.replay.diff import Change
from guestledger.engine.replay.timeline import Frame, diff, timeline
from tests.property.invariants import SESSION
from tests.property.moves import histories
from tests.property.strategies import START, patient_policies, policies
from tests.unit.histories import in_force

delays = st.sampled_from([0, 1, 999, 60_000_000]) | st.integers(0, 10_000_000)
"""From one append to the next, in microseconds."""
set_backs = st.integers(1, 3_600_000)
choices = policies | patient_policies


@st.composite
def recorded_histories(draw: st.DrawFn) -> tuple[Policy, list[RecordedEvent]]:
    """A policy, and what was recorded under it. Clocks may be set back."""
    policy, state = draw(choices), Session(id=SESSION)
    recorded: list[RecordedEvent] = []
    at = START
    for number, move in enumerate(draw(histories)):
        at += timedelta(microseconds=draw(delays))
        decided = decide(state, move(state), policy)
        if decided and draw(st.integers(0, 9)) == 0:
            decided.append(ClockSetBack(at=at, channel_id="ch_1", back_ms=draw(set_backs)))
        for event in decided:
            recorded.append(_recorded(event, len(recorded), at, UUID(int=number)))
        state = evolve_all(state, decided)
    return policy, recorded


def _recorded(event: Event, position: int, at: datetime, append: UUID) -> RecordedEvent:
    return RecordedEvent(
        position=position,
        stream_id=SESSION,
        version=position + 1,
        event=event,
        recorded_at=at,
        correlation_id="",
        causation_id=append,
        actor="tests",
        data="",
        leaf_hash=b"",
    )


def frames_of(policy: Policy, history: Sequence[RecordedEvent]) -> list[Frame]:
    return timeline(history, in_force(policy)) if history else []


@given(given_history=recorded_histories())
def test_states_and_due_steps_are_those_of_a_plain_fold(given_history: tuple[Policy, list[RecordedEvent]]) -> None:
    policy, history = given_history
    frames = frames_of(policy, history)

    assert [frame.recorded for frame in frames] == history
    for number, frame in enumerate(frames):
        events = [recorded.event for recorded in history]
        assert frame.before == fold(SESSION, events[:number])
        assert frame.state == fold(SESSION, events[: number + 1])
        assert frame.due_before == due_steps(frame.before, policy)
        assert frame.due == due_steps(frame.state, policy)
        assert frame.recorded.event in frame.decision.recorded


@given(given_history=recorded_histories())
def test_the_parts_of_the_time_add_up_without_gaps(given_history: tuple[Policy, list[RecordedEvent]]) -> None:
    policy, history = given_history
    for before, frame in zip([None, *history], frames_of(policy, history), strict=False):
        since = before.recorded_at if before else frame.recorded.recorded_at
        assert frame.passed == frame.recorded.recorded_at - since
        for part in frame.waits:
            assert part.since == since < part.until
            since = part.until
        assert since == frame.recorded.recorded_at


@given(given_history=recorded_histories(), points=st.tuples(st.integers(0, 30), st.integers(0, 30)))
def test_changes_lead_from_any_state_to_any_other(
    given_history: tuple[Policy, list[RecordedEvent]], points: tuple[int, int]
) -> None:
    policy, history = given_history
    frames = frames_of(policy, history)
    for frame in frames:
        changed = applied(frame.before, frame.changes)
        assert msgspec.structs.replace(changed, version=frame.state.version) == frame.state
        due = {step.step: step.due_at for step in frame.due_before}
        due |= {change.step: change.after for change in frame.due_changes if change.after}
        gone = {change.step for change in frame.due_changes if change.after is None}
        assert {step.step: step.due_at for step in frame.due} == {k: v for k, v in due.items() if k not in gone}
    if frames:
        found = diff(frames, *points)
        changed = applied(found.before, found.changes)
        assert msgspec.structs.replace(changed, version=found.after.version) == found.after


def applied(value: Any, changes: Sequence[Change]) -> Any:
    """`value` with these changes."""
    for change in changes:
        value = _with(value, change.field.split("."), change)
    return value


def _with(value: Any, path: Sequence[str], change: Change) -> Any:
    name, *below = path
    old = getattr(value, name)
    if not below:
        assert old == change.before != change.after
    return msgspec.structs.replace(value, **{name: _with(old, below, change) if below else change.after})
