"""Today's code takes every decision that today's code took."""

from collections.abc import Sequence

from hypothesis import given, strategies as st

from guestledger.engine.domain.events import Event
from guestledger.engine.domain.evolve import evolve_all
from guestledger.engine.domain.lifecycle import decide
from guestledger.engine.domain.policy import Policy
from guestledger.engine.domain.session import Session
from guestledger.engine.replay.bundle import read_bundle
from guestledger.engine.replay.check import CheckReport
from tests.lives import life, recorded_life
from tests.property.invariants import SESSION
from tests.property.moves import Move, histories
from tests.property.strategies import patient_policies, policies
from tests.property.test_bundle import bundle_of
from tests.unit.histories import in_force, recorded_all


@given(policy=policies | patient_policies, seed=st.integers(0))
def test_a_check_finds_nothing_in_lives_of_today(policy: Policy, seed: int) -> None:
    report = CheckReport()
    report.check(recorded_all(life(SESSION, seed, policy)), in_force(Policy(), policy))
    assert report.groups == {}


@given(policy=policies | patient_policies, seed=st.integers(0))
def test_a_check_of_a_bundle_finds_its_due_steps_as_they_were(policy: Policy, seed: int) -> None:
    bundle = read_bundle(bundle_of(recorded_life(SESSION, seed, policy), policy, Policy()))
    report = CheckReport()
    for session in bundle.sessions:
        report.check(session.history, bundle.policies, session.due)
    assert report.groups == {}


@given(policy=policies | patient_policies, moves=histories)
def test_a_check_finds_only_decisions_taken_before_they_were_due(policy: Policy, moves: Sequence[Move]) -> None:
    state, events = Session(id=SESSION), list[Event]()
    for move in moves:
        decided = decide(state, move(state), policy)
        state = evolve_all(state, decided)
        events += decided
    report = CheckReport()
    if events:
        report.check(recorded_all(events), in_force(policy))
    for group in report.groups.values():
        decision = group.example.decision
        assert decision is not None
        assert decision.command is not None
        assert decision.step is not None, decision.command
        assert decision.decided == decision.recorded
        assert decision.step.due_at > decision.command.now
