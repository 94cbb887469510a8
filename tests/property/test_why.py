"""An explanation holds for every limiter: it matches the claim and the append now, and nothing blocks when the step moves."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from guestledger.adapters.postgres.limits.rate_limiter import LimiterTransaction
from guestledger.engine.domain.events import Event
from guestledger.engine.domain.evolve import fold
from guestledger.engine.domain.policy import Policy
from guestledger.engine.limits.admission import AdmissionRequest, DenialReason
from guestledger.engine.limits.limiter import _AHEAD_S
from guestledger.engine.limits.pace import Pace
from guestledger.engine.limits.policy import LimiterPolicy
from guestledger.engine.limits.retry import WaitBasis
from guestledger.engine.limits.state import LimiterState
from guestledger.engine.operations.explain import BlockedBy, StepExplanation
from tests.unit import waiting
from tests.unit.samples import FAILED, IN_DOUBT, LIMITER, OPEN, SESSION, THROTTLED, VALIDATED, at

MS = timedelta(milliseconds=1)
AHEAD = timedelta(seconds=_AHEAD_S, milliseconds=1)
"""A request may be reserved up to `ahead_ms` before its time."""

# All before the deadline, so that nothing is overdue.
moments = st.integers(0, 600_000).map(lambda ms: at(ms / 1_000))
maybe = st.none() | moments
rates = st.floats(0.05, 500)


@st.composite
def limiters(draw: st.DrawFn) -> LimiterState:
    failures = draw(st.integers(0, 20))
    state = LimiterState(closed_until=draw(maybe), closed_by=WaitBasis.RETRY_AFTER, failures=failures)
    if draw(st.booleans()):
        opens = draw(moments)
        first = draw(st.sampled_from([None, opens]))
        pace = Pace(rate=draw(rates), floor=0.01, learned_at=at(0))
        state = replace(state, closed_until=opens, pace=pace, next_reservation=first)
    if draw(st.booleans()):
        state = replace(state, broken_at=at(0), broken_until=draw(moments), probe_until=draw(maybe))
    if draw(st.booleans()):
        state = replace(state, retry_budget=draw(st.floats(0, 100)), retry_budget_at=at(0))
    return state


policies = st.builds(
    lambda calls, rate: Policy(limiter=LimiterPolicy(calls=calls, initial_rate=rate)),
    st.none() | st.integers(1, 5),
    rates,
)
histories = st.sampled_from([OPEN, VALIDATED, THROTTLED, FAILED, IN_DOUBT])


def explained(
    history: Sequence[Event], now: datetime, policy: Policy, limiter: LimiterState, **given: Any
) -> StepExplanation:
    """Why the look-up or the attempt waits."""
    return waiting.main(waiting.waits(history, now, policy=policy, states={LIMITER: limiter}, **given))


@given(
    history=histories,
    policy=policies,
    limiter=limiters(),
    now=moments,
    ahead=st.integers(0, 300),
    in_flight=st.integers(0, 6),
)
def test_the_explanation_matches_the_claim_and_the_admission(
    *, history: Sequence[Event], policy: Policy, limiter: LimiterState, now: datetime, ahead: int, in_flight: int
) -> None:
    session = fold(SESSION, history)
    now = max(now, session.due_since)
    explanation = explained(history, now, policy, limiter, ahead=ahead, in_flight=in_flight)

    transaction = LimiterTransaction({LIMITER: limiter}, now, policy.limiter, in_flight)
    free, _ = transaction.capacity(LIMITER, ahead + 1)
    denied_at_claim = len(free) <= ahead
    first = explanation.blockers[0].by if explanation.blockers else None
    assert denied_at_claim == (first not in (None, DenialReason.RETRY_BUDGET))
    if not denied_at_claim:
        transaction.reserve(LIMITER, ahead + 1)
        denied = transaction.admit(AdmissionRequest(limiter=LIMITER, retry=session.is_retried, reserved=True))
        assert (denied and denied.by) == first
        assert (denied.until if denied else now) == explanation.moves_at


@given(history=histories, policy=policies, limiter=limiters(), now=moments)
def test_a_session_is_blocked_until_the_predicted_time_and_not_longer(
    history: Sequence[Event], policy: Policy, limiter: LimiterState, now: datetime
) -> None:
    explanation = explained(history, now, policy, limiter)
    assert explanation.moves_at is not None
    assert bool(explanation.blockers) == (explanation.moves_at > now)
    untils = [blocker.until for blocker in explanation.blockers if blocker.until]
    assert untils == sorted(untils)
    assert explained(history, explanation.moves_at + MS, policy, limiter).blockers == ()
    before = explanation.moves_at - AHEAD
    if explanation.blockers and before > now:
        assert explained(history, before, policy, limiter).blockers != ()


def test_a_lease_takes_precedence_over_a_closed_limiter() -> None:
    closed = LimiterState(closed_until=at(5))
    explanation = explained(VALIDATED, at(3), Policy(), closed, owner=waiting.OWNER, lease_until=at(9))
    assert [blocker.by for blocker in explanation.blockers] == [BlockedBy.LEASE]
    assert explanation.moves_at == at(9)
