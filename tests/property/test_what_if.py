"""What-if with the recorded policy gives the recorded history, event by event: the identity law."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from hypothesis import given, settings, strategies as st
from msgspec.structs import replace

from guestledger.engine.domain.commands import Command, DeferCreation, OpenSession, RecordAttempt
from guestledger.engine.domain.due import PROVIDER_STEPS, DueStep, StepName, due_steps
from guestledger.engine.domain.events import Event
from guestledger.engine.domain.evolve import evolve_all, fold
from guestledger.engine.domain.lifecycle import decide
from guestledger.engine.domain.outcomes import CreationOutcome, Delivery, LookupOutcome
from guestledger.engine.domain.policy import Policy
from guestledger.engine.domain.session import Session
from guestledger.engine.limits.admission import DenialReason, Denied
from guestledger.engine.replay.findings import Ending
from guestledger.engine.replay.what_if import what_if
from tests.property.invariants import SESSION
from tests.property.moves import LIMITER, Move, command_of, erasures, histories, holds, moves
from tests.property.strategies import (
    CONSENTING,
    START,
    USABLE,
    creations,
    deliveries,
    jitters,
    lookup_outcomes,
    patient_policies,
    policies,
    temporary_failures,
    throttles,
)
from tests.unit.histories import in_force, recorded_all
from tests.unit.samples import HMAC_KEY

LAG = timedelta(milliseconds=1)


class Turn(NamedTuple):
    """What happens next in a session whose due steps are run: which of them, how late, and what came of it."""

    which: int
    lag_ms: int
    answered: bool
    denied_ms: int | None
    creation: CreationOutcome
    lookup: LookupOutcome
    delivery: Delivery
    jitter: float
    aside: Move | None
    """A command that comes first, in its own time."""


def run_in_turn(turns: Sequence[Turn], policy: Policy) -> list[Event]:
    """The events of a session that runs its due steps late, and is interrupted."""
    state, now = Session(id=SESSION), START
    events: list[Event] = decide(state, OpenSession(hmac_key=HMAC_KEY, request=CONSENTING, now=now), policy)
    state = evolve_all(state, events)
    for turn in turns:
        due = due_steps(state, policy)
        if turn.aside is not None:
            now += turn.lag_ms * LAG
            command = replace(turn.aside(state), now=now)
        elif due:
            step = min(due, key=lambda one: one.due_at) if turn.which % 4 else due[turn.which % len(due)]
            now = max(now, step.due_at) + turn.lag_ms * LAG
            command = _of_step(step, state, now, turn)
        else:
            continue
        decided = decide(state, command, policy)
        state = evolve_all(state, decided)
        events += decided
    return events


def _of_step(step: DueStep, state: Session, now: datetime, turn: Turn) -> Command:
    if step.step is StepName.SETTLE_ATTEMPT and turn.answered:
        return RecordAttempt(attempt=state.attempts, outcome=turn.creation, now=now, jitter=turn.jitter)
    if step.step in PROVIDER_STEPS and turn.denied_ms is not None:
        denied = Denied(by=DenialReason.RETRY_BUDGET, until=now + turn.denied_ms * LAG)
        return DeferCreation(limiter=LIMITER, denied=denied, now=now, jitter=turn.jitter)
    return command_of(step.step, state, now, lookup=turn.lookup, delivery=turn.delivery, jitter=turn.jitter)


turns = st.builds(
    Turn,
    which=st.integers(0, 7),
    lag_ms=st.sampled_from([0, 0, 3, 250, 61_000]),
    answered=st.sampled_from([True, True, True, False]),
    denied_ms=st.sampled_from([None, None, None, 0, 700]),
    creation=creations | throttles | temporary_failures | temporary_failures,
    lookup=st.just(USABLE) | st.just(USABLE) | lookup_outcomes,
    delivery=deliveries,
    jitter=jitters,
    aside=st.sampled_from([None] * 8) | moves | holds,
)
timely_lives = st.lists(turns, min_size=2, max_size=16)
lives = st.builds(lambda first, more: [*first, *more], histories, st.lists(erasures | holds, max_size=3))
presents = st.none() | st.integers(0, 10).map(lambda days: START + timedelta(days=days))


def events_of(history: Sequence[Move], policy: Policy) -> list[Event]:
    state, events = Session(id=SESSION), list[Event]()
    for move in history:
        decided = decide(state, move(state), policy)
        state = evolve_all(state, decided)
        events += decided
    return events


@settings(max_examples=1_000)
@given(policy=policies | patient_policies, history=lives, now=presents)
def test_the_recorded_policy_gives_the_recorded_history(
    policy: Policy, history: Sequence[Move], now: datetime | None
) -> None:
    events = events_of(history, policy)
    if not events:
        return
    for changed in (None, policy):
        found = what_if(recorded_all(events), in_force(policy), policy=changed, now=now)
        assert (found.difference, found.events) == (None, tuple(events))
        assert found.recorded == found.simulated
        assert (found.assumed, found.unanswered, found.left_out) == ((), (), ())


@settings(max_examples=1_000)
@given(policy=policies | patient_policies | st.just(Policy()), life=timely_lives, now=presents)
def test_the_recorded_policy_gives_a_history_whose_steps_were_due(
    policy: Policy, life: Sequence[Turn], now: datetime | None
) -> None:
    events = run_in_turn(life, policy)
    found = what_if(recorded_all(events), in_force(policy), now=now)
    assert (found.difference, found.events) == (None, tuple(events))
    assert (found.assumed, found.unanswered, found.left_out) == ((), (), ())


@settings(max_examples=500)
@given(policy=policies | patient_policies, other=policies | patient_policies, life=timely_lives, now=presents)
def test_another_policy_gives_a_history_that_folds_to_its_course(
    policy: Policy, other: Policy, life: Sequence[Turn], now: datetime | None
) -> None:
    events = run_in_turn(life, policy)
    found = what_if(recorded_all(events), in_force(policy), policy=other, now=now)
    after = fold(SESSION, found.events)
    assert (found.simulated.status, found.simulated.version) == (after.status, len(found.events))
    assert found.is_identical == (found.events == tuple(events) and found.difference is None)
    assert found.ending is not Ending.UNANSWERED or found.unanswered
