"""An explanation holds for every limiter: it matches the claim and the append now, and nothing blocks when the step moves."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from hypothesis import example, given, strategies as st
from msgspec.structs import replace

from guestledger.adapters.postgres.limits.rate_limiter import LimiterTransaction
from guestledger.engine.domain.events import Event
from guestledger.engine.domain.evolve import fold
from guestledger.engine.domain.policy import Policy
from guestledger.engine.limits.admission import AdmissionRequest
from guestledger.engine.limits.capacity import at_limit
from guestledger.engine.limits.limiter import _AHEAD_S
from guestledger.engine.limits.pace import Pace
from guestledger.engine.limits.policy import LimiterPolicy
from guestledger.engine.limits.retry import WaitBasis
from guestledger.engine.limits.state import LimiterState
from guestledger.engine.operations.conditions import ConditionName
from guestledger.engine.operations.explain import StepExplanation
from guestledger.engine.operations.limiter_conditions import CONDITIONS
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
        state = replace(
            state, retry_budget=draw(st.sampled_from([0.0, 0.5, 3.0, 100.0])), retry_budget_at=draw(moments)
        )
    return state


def spent_by(limiter: LimiterState, now: datetime) -> LimiterState:
    """The same limiter, its budget last used at `now` at the latest."""
    used_at = limiter.retry_budget_at
    return limiter if used_at is None else replace(limiter, retry_budget_at=min(used_at, now))


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


def keeping(
    history: Sequence[Event],
    now: datetime,
    policy: Policy,
    limiter: LimiterState,
    ahead: int,
    in_flight: int,
    **row: Any,
) -> tuple[ConditionName | None, datetime]:
    """What keeps the step from being claimed and admitted now, by the functions of a worker; and until when."""
    session = fold(SESSION, history)
    if (lease_until := row["lease_until"]) is not None and lease_until > now:
        return ConditionName.LEASE, lease_until
    if session.due_since > now:
        return ConditionName.DUE_TIME, session.due_since
    transaction = LimiterTransaction({LIMITER: limiter}, now, policy.limiter, in_flight)
    free, denied = transaction.capacity(LIMITER, ahead + 1)
    if len(free) > ahead:
        transaction.reserve(LIMITER, ahead + 1)
        denied = transaction.admit(AdmissionRequest(limiter=LIMITER, retry=session.is_retried, reserved=True))
    elif denied is None:
        denied = at_limit(in_flight + len(free), now, policy.limiter)
    return (None, now) if denied is None else (CONDITIONS[denied.by], denied.until)


@given(
    history=histories,
    policy=policies,
    limiter=limiters(),
    now=moments,
    ahead=st.integers(0, 300),
    in_flight=st.integers(0, 6),
    lease_until=maybe,
)
@example(
    history=FAILED,
    policy=Policy(),
    limiter=LimiterState(retry_budget=0.0, retry_budget_at=at(2)),
    now=at(2),
    ahead=0,
    in_flight=0,
    lease_until=None,
)
def test_the_first_unmet_condition_is_what_keeps_a_worker_from_the_step(
    *,
    history: Sequence[Event],
    policy: Policy,
    limiter: LimiterState,
    now: datetime,
    ahead: int,
    in_flight: int,
    lease_until: datetime | None,
) -> None:
    row = {"ahead": ahead, "owner": waiting.OWNER, "lease_until": lease_until}
    limiter = spent_by(limiter, now)
    name, until = keeping(history, now, policy, limiter, in_flight=in_flight, **row)
    explanation = explained(history, now, policy, limiter, in_flight=in_flight, **row)
    # The deadline keeps nobody from the claim: it changes what the step does.
    unmet = [condition for condition in explanation.unmet if condition.name is not ConditionName.DEADLINE]
    assert (unmet[0].name if unmet else None) == name
    if unmet and unmet[0].name is not ConditionName.RATE:  # its turn comes after those ahead
        assert unmet[0].until is not None
        assert unmet[0].until >= until
    if not unmet:
        assert explanation.moves_at in (now, None)


@given(history=histories, policy=policies, limiter=limiters(), now=moments, lease_until=maybe)
def test_every_condition_of_the_way_is_listed_once_and_in_order(
    history: Sequence[Event], policy: Policy, limiter: LimiterState, now: datetime, lease_until: datetime | None
) -> None:
    explanation = explained(history, now, policy, limiter, owner=waiting.OWNER, lease_until=lease_until)
    names = [condition.name for condition in explanation.conditions]
    leased = ConditionName.LEASE in {condition.name for condition in explanation.unmet}
    order = [*ConditionName][2:]
    assert names == (order[:3] if leased else [name for name in order if name in names])
    if not leased:
        assert {*order} - {*names} <= {ConditionName.RETRY_BUDGET}


@given(history=histories, policy=policies, limiter=limiters(), now=moments)
def test_a_session_is_blocked_until_the_predicted_time_and_not_longer(
    history: Sequence[Event], policy: Policy, limiter: LimiterState, now: datetime
) -> None:
    limiter = spent_by(limiter, now)
    explanation = explained(history, now, policy, limiter)
    assert explanation.moves_at is not None
    assert bool(explanation.unmet) == (explanation.moves_at > now)
    untils = [condition.until for condition in explanation.unmet if condition.until]
    assert untils == sorted(untils)
    assert explained(history, explanation.moves_at + MS, policy, limiter).unmet == ()
    before = explanation.moves_at - AHEAD
    if explanation.unmet and before > now:
        assert explained(history, before, policy, limiter).unmet != ()


def test_a_lease_takes_precedence_over_a_closed_limiter() -> None:
    closed = LimiterState(closed_until=at(5))
    explanation = explained(VALIDATED, at(3), Policy(), closed, owner=waiting.OWNER, lease_until=at(9))
    assert [condition.name for condition in explanation.unmet] == [ConditionName.LEASE]
    assert explanation.moves_at == at(9)
