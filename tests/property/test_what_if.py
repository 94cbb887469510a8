"""What-if with the recorded policy gives the recorded history, event by event: the identity law."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from guestledger.engine.domain.events import Event
from guestledger.engine.domain.evolve import evolve_all, fold
from guestledger.engine.domain.lifecycle import decide
from guestledger.engine.domain.policy import Policy
from guestledger.engine.domain.session import Session
from guestledger.engine.replay.findings import Ending
from guestledger.engine.replay.what_if import what_if_of
from tests.property.invariants import SESSION
from tests.property.moves import Move, erasures, histories, holds
from tests.property.strategies import START, patient_policies, policies

lives = st.builds(lambda first, more: [*first, *more], histories, st.lists(erasures | holds, max_size=3))
presents = st.none() | st.integers(0, 10).map(lambda days: START + timedelta(days=days))


def events_of(history: Sequence[Move], policy: Policy) -> list[Event]:
    state, events = Session(id=SESSION), list[Event]()
    for move in history:
        decided = decide(state, move(state), policy)
        state = evolve_all(state, decided)
        events += decided
    return events


@settings(max_examples=2_000)
@given(policy=policies | patient_policies, history=lives, now=presents)
def test_the_recorded_policy_gives_the_recorded_history(
    policy: Policy, history: Sequence[Move], now: datetime | None
) -> None:
    events = events_of(history, policy)
    if not events:
        return
    for changed in (None, policy):
        found = what_if_of(SESSION, events, [policy], policy=changed, now=now)
        assert (found.difference, found.events) == (None, tuple(events))
        assert found.recorded == found.simulated
        assert not (found.assumed or found.unanswered or found.left_out)


@settings(max_examples=500)
@given(policy=policies | patient_policies, other=policies | patient_policies, history=lives, now=presents)
def test_another_policy_gives_a_history_that_folds_to_its_course(
    policy: Policy, other: Policy, history: Sequence[Move], now: datetime | None
) -> None:
    events = events_of(history, policy)
    if not events:
        return
    found = what_if_of(SESSION, events, [policy], policy=other, now=now)
    after = fold(SESSION, found.events)
    assert (found.simulated.status, found.simulated.version) == (after.status, len(found.events))
    assert found.is_identical == (found.events == tuple(events) and found.difference is None)
    assert found.ending is not Ending.UNANSWERED or found.unanswered
