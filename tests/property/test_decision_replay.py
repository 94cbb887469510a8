"""The events of a session are enough to make each of its decisions again."""

from collections.abc import Sequence

from hypothesis import given

from guestledger.engine.domain.events import Event
from guestledger.engine.domain.evolve import evolve_all
from guestledger.engine.domain.lifecycle import decide
from guestledger.engine.domain.policy import Policy
from guestledger.engine.domain.session import Session
from tests.property.invariants import SESSION
from tests.property.moves import Move, histories
from tests.property.strategies import patient_policies, policies
from tests.replaying import reproduce
from tests.unit.histories import recorded_all


@given(policy=policies | patient_policies, history=histories)
def test_every_decision_can_be_made_again_from_the_events(policy: Policy, history: Sequence[Move]) -> None:
    state, events = Session(id=SESSION), list[Event]()
    for move in history:
        decided = decide(state, move(state), policy)
        state = evolve_all(state, decided)
        events += decided
    if events:
        assert reproduce(recorded_all(events), policy, due=False) == state
