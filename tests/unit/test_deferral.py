"""Deferrals: what the limiter denies is tried again later, or given up if that is past the deadline."""

from heapq import heapify, heappop, heappush
from random import Random
from typing import Any

import pytest

from guestledger.engine.domain import events as e
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.due import StepName
from guestledger.engine.domain.evolve import evolve
from guestledger.engine.domain.lifecycle import decide
from guestledger.engine.domain.policy import Policy
from guestledger.engine.domain.session import Status
from guestledger.engine.limits.admission import AdmissionRequest, DenialReason, Denied
from guestledger.engine.limits.limiter import admit
from guestledger.engine.limits.retry import RetryPolicy, Wait, WaitBasis
from guestledger.engine.limits.state import LimiterState
from tests.unit.given import given
from tests.unit.samples import (
    ABANDONED,
    ACTIVE,
    ATTEMPTING,
    EXPIRED,
    FAILED,
    IN_DOUBT,
    LIMITER,
    OPEN,
    PARKED,
    REFUSED,
    REJECTED,
    THROTTLED,
    VALIDATED,
    at,
    begin,
    deferred,
    enforce,
    has_failed,
    lookup_failed,
    retry_decided,
    settle,
    was_attempted,
    was_deferred,
    was_throttled,
    was_validated,
)

PATIENT = Policy(creation=RetryPolicy(deadline_ms=10**10))
DEADLINE = Policy(creation=RetryPolicy(deadline_ms=60_000))
WAITING = {"open": OPEN, "validated": VALIDATED, "throttled": THROTTLED, "in_doubt": IN_DOUBT, "failed": FAILED}


def denied(until: float = 9, by: DenialReason = DenialReason.CLOSED) -> Denied:
    return Denied(by=by, until=at(until))


waiting = pytest.mark.parametrize("history", WAITING.values(), ids=WAITING)


@waiting
def test_a_denied_step_is_deferred_with_its_limiter_and_reason(history: tuple[e.Event, ...]) -> None:
    event = given(*history).when(deferred(denied(9), now=at(3.5))).then_one(e.CreationDeferred)
    assert (event.at, event.retry_at) == (at(3.5), at(9))
    assert event.wait == Wait(ms=5_500, basis=WaitBasis.LIMITER, basis_ms=5_500)
    assert (event.limiter, event.denied_by) == (LIMITER, DenialReason.CLOSED)


@waiting
def test_a_deferral_keeps_the_state_and_repeats_the_same_step_later(
    history: tuple[e.Event, ...],
) -> None:
    before = given(*history)
    then = before.when(deferred(denied(9), now=at(3.5)))
    assert (then.state.status, then.state.attempts) == (before.state.status, before.state.attempts)
    assert (then.state.failures, then.state.throttles) == (before.state.failures, before.state.throttles)
    assert then.state.in_doubt == before.state.in_doubt
    assert (then.state.retry_at, then.state.cause, then.state.detail) == (at(9), Cause.RATE_LIMITED, LIMITER)
    step = StepName.VALIDATE_CHANNEL if history == OPEN else StepName.CREATE_SESSION
    assert then.due() == {step: at(9), StepName.ENFORCE_DEADLINE: at(3_600.001)}


def test_a_deferral_uses_no_attempt_number() -> None:
    given(*VALIDATED, was_deferred(), was_deferred()).when(begin(now=at(9))).then(was_attempted(1, at=at(9)))


@pytest.mark.parametrize(
    "history",
    [(), ATTEMPTING, PARKED, ACTIVE, EXPIRED, REFUSED, REJECTED, ABANDONED],
    ids=["new", "attempting", "parked", "active", "expired", "refused", "rejected", "abandoned"],
)
def test_a_session_without_a_call_to_make_is_not_deferred(history: tuple[e.Event, ...]) -> None:
    given(*history).when(deferred(denied())).then_nothing()


@pytest.mark.parametrize(("by", "spread_ms"), [(DenialReason.RETRY_BUDGET, 15_000), (DenialReason.CONCURRENCY, 500)])
def test_waits_for_the_retry_budget_and_for_capacity_are_spread(by: DenialReason, spread_ms: int) -> None:
    def wait(jitter: float) -> Any:
        return given(*VALIDATED).when(deferred(denied(9, by), now=at(8), jitter=jitter)).then_one(e.CreationDeferred)

    assert wait(0.0).retry_at == at(9)
    assert wait(0.0).wait == Wait(ms=1_000, basis=WaitBasis.LIMITER, basis_ms=1_000)
    half = wait(0.5)
    assert half.retry_at == at(9 + spread_ms / 2_000)
    extra_ms = spread_ms // 2
    assert half.wait == Wait(ms=1_000 + extra_ms, basis=WaitBasis.LIMITER, basis_ms=1_000, extra_ms=extra_ms)


def of_budget(until: float = 9) -> e.CreationDeferred:
    return was_deferred(denied_by=DenialReason.RETRY_BUDGET, retry_at=at(until))


def spread(history: tuple[e.Event, ...], by: DenialReason = DenialReason.RETRY_BUDGET, policy: Policy = PATIENT) -> int:
    """The range in ms over which sessions with this history are spread if they are denied until 9 s."""
    event = given(*history).when(deferred(denied(9, by), now=at(8), jitter=1.0), policy).events[0]
    assert isinstance(event, e.CreationDeferred)
    return round((event.retry_at - at(9)).total_seconds() * 1_000)


def test_an_exhausted_retry_budget_is_checked_again_with_growing_delays() -> None:
    history = FAILED
    spreads = []
    for _ in range(4):
        spreads.append(spread(history))
        history = (*history, of_budget())
    assert spreads == [15_000, 22_500, 33_750, 50_625]
    assert spread((*FAILED, *(of_budget() for _ in range(1_000)))) > 0


def test_the_budget_delay_grows_only_by_budget_denials_and_resets_after_a_call() -> None:
    waited = (*FAILED, of_budget(), was_deferred(), of_budget())
    assert spread(waited) == 33_750
    assert spread(waited, DenialReason.CONCURRENCY) == 500
    assert spread((*waited, was_attempted(2), has_failed(2))) == 15_000
    unvalidated = (*OPEN, lookup_failed(), of_budget(), of_budget())
    assert spread(unvalidated) == 33_750
    assert spread((*unvalidated, lookup_failed(lookup=2))) == 15_000
    assert spread((*unvalidated, was_validated())) == 15_000


@pytest.mark.parametrize("by", [DenialReason.RETRY_BUDGET, DenialReason.CONCURRENCY])
def test_the_spread_never_moves_a_retry_past_the_deadline(by: DenialReason) -> None:
    for until in (59.9, 60):
        event = given(*VALIDATED).when(deferred(denied(until, by), jitter=0.999), DEADLINE).then_one(e.CreationDeferred)
        assert at(until) <= event.retry_at <= at(60)


def test_many_waiting_sessions_use_the_whole_retry_budget_with_few_checks() -> None:
    number, policy, chance = 1_000, PATIENT, Random(1)
    limiter = LimiterState(retry_budget=0.0, retry_budget_at=at(0))
    waiting = [(at(1 + chance.random()), n, given(*FAILED).state) for n in range(number)]
    heapify(waiting)
    deferrals, made = 0, []
    while waiting:
        now, n, state = heappop(waiting)
        limiter, back = admit(
            limiter, AdmissionRequest(limiter="", retry=state.is_retried, reserved=True), now, policy.limiter
        )
        if back is None:
            made.append(now)
            continue
        [event] = decide(state, deferred(back, now=now, jitter=chance.random()), policy)
        assert isinstance(event, e.CreationDeferred)
        heappush(waiting, (event.retry_at, n, evolve(state, event)))
        deferrals += 1
    assert deferrals < 5 * number
    best = number / policy.limiter.retries_per_second
    assert made[number * 9 // 10] < at(1.1 * best)
    assert made[-1] < at(2 * best)


@pytest.mark.parametrize("by", [DenialReason.CLOSED, DenialReason.RATE, DenialReason.CIRCUIT_OPEN])
def test_waits_for_a_pause_a_rate_or_an_open_circuit_are_not_spread(by: DenialReason) -> None:
    event = given(*VALIDATED).when(deferred(denied(9, by), jitter=0.999)).then_one(e.CreationDeferred)
    assert event.retry_at == at(9)


def test_the_wait_of_a_deferral_is_never_negative() -> None:
    event = given(*VALIDATED).when(deferred(denied(9), now=at(20))).then_one(e.CreationDeferred)
    assert (event.wait, event.retry_at) == (Wait(ms=0, basis=WaitBasis.LIMITER), at(9))
    spread_only = deferred(denied(9, DenialReason.CONCURRENCY), now=at(9.2), jitter=0.999)
    event = given(*VALIDATED).when(spread_only).then_one(e.CreationDeferred)
    assert event.wait == Wait(ms=299, basis=WaitBasis.LIMITER, extra_ms=299)


def test_a_deferral_never_shortens_a_planned_wait() -> None:
    given(*THROTTLED).when(deferred(denied(2.2), now=at(1))).then_nothing()
    given(*THROTTLED).when(deferred(denied(2.25), now=at(1))).then_kinds(e.CreationDeferred)


# The deadline


@waiting
def test_a_deferral_beyond_the_deadline_abandons_the_session_at_once(
    history: tuple[e.Event, ...],
) -> None:
    given(*history).when(deferred(denied(60)), DEADLINE).then_kinds(e.CreationDeferred)
    then = given(*history).when(deferred(denied(60.001)), DEADLINE).then_kinds(e.CreationDeferred, e.SessionAbandoned)
    assert then.state.status is Status.ABANDONED
    assert (then.state.cause, then.state.detail) == (Cause.DEADLINE_EXCEEDED, None)
    assert then.due() == {}


def test_a_deferred_attempt_past_the_deadline_abandons_the_session() -> None:
    history = (*VALIDATED, was_deferred(retry_at=at(50)))
    given(*history).when(begin(now=at(60)), DEADLINE).then_kinds(e.CreationAttempted)
    then = given(*history).when(begin(now=at(60.001)), DEADLINE).then_kinds(e.SessionAbandoned)
    assert then.state.status is Status.ABANDONED
    assert then.state.attempts == 0


def test_a_cut_off_attempt_is_recorded_before_the_session_is_abandoned() -> None:
    given(*ATTEMPTING).when(enforce(at(61)), DEADLINE).then_nothing()
    given(*ATTEMPTING).when(settle(1, now=at(61)), DEADLINE).then_kinds(e.CreationFailed, e.SessionAbandoned)


def test_only_the_deadline_ends_a_session_that_is_deferred_again_and_again() -> None:
    history = (*THROTTLED, *(was_deferred() for _ in range(100)), was_attempted(2), was_throttled(2))
    given(*history).when(deferred(denied(9))).then_kinds(e.CreationDeferred)


def test_a_retry_decision_sets_a_new_deadline_for_deferrals() -> None:
    history = (*PARKED, retry_decided(at=at(100)))
    given(*history).when(deferred(denied(160), now=at(101)), DEADLINE).then_kinds(e.CreationDeferred)
    given(*history).when(begin(now=at(160)), DEADLINE).then_kinds(e.CreationAttempted)
