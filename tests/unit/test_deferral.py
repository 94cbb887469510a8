"""An attempt that its limiter holds back: put off with a reason, and given up where it would come too late."""

from heapq import heapify, heappop, heappush
from random import Random
from typing import Any

import pytest

from guestledger.engine.domain import events as e
from guestledger.engine.domain.lifecycle import AttemptCreation, Policy, ValidateChannel, decide
from guestledger.engine.domain.session import Status, evolve
from guestledger.engine.limits.admission import AdmissionRequest, DenialReason, Denied
from guestledger.engine.limits.limiter import LimiterState, admit
from guestledger.engine.limits.retry import RetryPolicy
from tests.unit.given import given
from tests.unit.samples import (
    ABANDONED,
    ACTIVE,
    ATTEMPTING,
    EXPIRED,
    FAILED,
    IN_DOUBT,
    OPEN,
    PARKED,
    REFUSED,
    REJECTED,
    THROTTLED,
    VALIDATED,
    at,
    begin,
    deferred,
    has_failed,
    lookup_failed,
    retry_decided,
    was_attempted,
    was_deferred,
    was_throttled,
    was_validated,
)

PATIENT = Policy(creation=RetryPolicy(deadline_ms=10**10))
DEADLINE = Policy(creation=RetryPolicy(deadline_ms=60_000))
WAITING = {"open": OPEN, "validated": VALIDATED, "throttled": THROTTLED, "in_doubt": IN_DOUBT, "failed": FAILED}


def held(until: float = 9, by: DenialReason = DenialReason.GATE) -> Denied:
    return Denied(by=by, until=at(until), reason="the limiter is closed: Retry-After of 2 s")


waiting = pytest.mark.parametrize("history", WAITING.values(), ids=WAITING)


@waiting
def test_what_is_held_back_is_put_off_until_it_may_be_made_and_says_by_what(history: tuple[e.Event, ...]) -> None:
    event = given(*history).when(deferred(held(9), now=at(3.5))).then_one(e.CreationDeferred)
    assert (event.at, event.retry_at, event.wait_ms) == (at(3.5), at(9), 5_500)
    assert (event.limiter, event.held_by) == ("api.example.com sessions", DenialReason.GATE)
    assert event.reason == "the limiter is closed: Retry-After of 2 s"


@waiting
def test_a_session_that_is_put_off_stands_where_it_stood_and_takes_the_same_step_later(
    history: tuple[e.Event, ...],
) -> None:
    before = given(*history)
    then = before.when(deferred(held(9), now=at(3.5)))
    assert (then.state.status, then.state.attempts) == (before.state.status, before.state.attempts)
    assert (then.state.failures, then.state.throttles) == (before.state.failures, before.state.throttles)
    assert then.state.in_doubt == before.state.in_doubt
    assert (then.state.retry_at, then.state.reason) == (at(9), "the limiter is closed: Retry-After of 2 s")
    step = ValidateChannel if history == OPEN else AttemptCreation
    assert given(*then.before, *then.events).next_step() == step(at(9))


def test_an_attempt_that_was_put_off_has_the_number_it_would_have_had() -> None:
    given(*VALIDATED, was_deferred(), was_deferred()).when(begin(now=at(9))).then(was_attempted(1, at=at(9)))


@pytest.mark.parametrize(
    "history",
    [(), ATTEMPTING, PARKED, ACTIVE, EXPIRED, REFUSED, REJECTED, ABANDONED],
    ids=["new", "attempting", "parked", "active", "expired", "refused", "rejected", "abandoned"],
)
def test_nothing_is_put_off_where_nothing_is_to_be_made(history: tuple[e.Event, ...]) -> None:
    given(*history).when(deferred(held())).then_nothing()


@pytest.mark.parametrize(("by", "spread_ms"), [(DenialReason.BUDGET, 15_000), (DenialReason.CALLS, 500)])
def test_those_whom_the_same_shortage_holds_back_do_not_all_come_again_at_once(
    by: DenialReason, spread_ms: int
) -> None:
    def wait(jitter: float) -> Any:
        return given(*VALIDATED).when(deferred(held(9, by), now=at(8), jitter=jitter)).then_one(e.CreationDeferred)

    assert wait(0.0).retry_at == at(9)
    assert wait(0.0).reason == held().reason
    half = wait(0.5)
    assert (half.retry_at, half.wait_ms) == (at(9 + spread_ms / 2_000), 1_000 + spread_ms // 2)
    assert half.reason == f"{held().reason}, plus {spread_ms // 2} ms spread"


def of_budget(until: float = 9) -> e.CreationDeferred:
    return was_deferred(held_by=DenialReason.BUDGET, retry_at=at(until))


def spread(history: tuple[e.Event, ...], by: DenialReason = DenialReason.BUDGET, policy: Policy = PATIENT) -> int:
    """Over how many milliseconds those are spread who have this history and are held back until 9 s."""
    event = given(*history).when(deferred(held(9, by), now=at(8), jitter=1.0), policy).events[0]
    assert isinstance(event, e.CreationDeferred)
    return round((event.retry_at - at(9)).total_seconds() * 1_000)


def test_whom_a_spent_budget_holds_back_again_and_again_waits_longer_each_time() -> None:
    history = FAILED
    spreads = []
    for _ in range(4):
        spreads.append(spread(history))
        history = (*history, of_budget())
    assert spreads == [15_000, 22_500, 33_750, 50_625]
    assert spread((*FAILED, *(of_budget() for _ in range(1_000)))) > 0


def test_only_the_budget_counts_for_its_wait_and_a_request_that_was_made_begins_it_anew() -> None:
    waited = (*FAILED, of_budget(), was_deferred(), of_budget())
    assert spread(waited) == 33_750
    assert spread(waited, DenialReason.CALLS) == 500
    assert spread((*waited, was_attempted(2), has_failed(2))) == 15_000
    unseen = (*OPEN, lookup_failed(), of_budget(), of_budget())
    assert spread(unseen) == 33_750
    assert spread((*unseen, lookup_failed(lookup=2))) == 15_000
    assert spread((*unseen, was_validated())) == 15_000


@pytest.mark.parametrize("by", [DenialReason.BUDGET, DenialReason.CALLS])
def test_nobody_is_given_up_for_the_spread_whose_turn_may_come_before_the_deadline(by: DenialReason) -> None:
    for until in (59.9, 60):
        event = given(*VALIDATED).when(deferred(held(until, by), jitter=0.999), DEADLINE).then_one(e.CreationDeferred)
        assert at(until) <= event.retry_at <= at(60)


def test_however_many_wait_for_a_spent_budget_each_asks_a_few_times_and_it_is_made_use_of() -> None:
    number, policy, chance = 1_000, PATIENT, Random(1)
    limiter = LimiterState(retries=0.0, retries_at=at(0))
    waiting = [(at(1 + chance.random()), n, given(*FAILED).state) for n in range(number)]
    heapify(waiting)
    deferrals, made = 0, []
    while waiting:
        now, n, state = heappop(waiting)
        limiter, back = admit(
            limiter, AdmissionRequest(limiter="", retry=state.is_retried, slotted=True), now, policy.limiter
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


@pytest.mark.parametrize("by", [DenialReason.GATE, DenialReason.PACE, DenialReason.BREAKER])
def test_a_wait_that_ends_with_slots_or_a_probe_is_not_spread(by: DenialReason) -> None:
    event = given(*VALIDATED).when(deferred(held(9, by), jitter=0.999)).then_one(e.CreationDeferred)
    assert event.retry_at == at(9)


def test_the_wait_is_never_negative_when_clocks_disagree() -> None:
    event = given(*VALIDATED).when(deferred(held(9), now=at(20))).then_one(e.CreationDeferred)
    assert (event.wait_ms, event.retry_at) == (0, at(9))


# The deadline


@waiting
def test_a_session_that_would_have_to_wait_beyond_its_deadline_is_given_up_at_once(
    history: tuple[e.Event, ...],
) -> None:
    given(*history).when(deferred(held(60)), DEADLINE).then_kinds(e.CreationDeferred)
    then = given(*history).when(deferred(held(60.001)), DEADLINE).then_kinds(e.CreationDeferred, e.SessionAbandoned)
    assert then.state.status is Status.ABANDONED
    assert then.state.reason == "given up: the next try would come after the deadline of 60000 ms"
    assert given(*then.before, *then.events).next_step() is None


def test_an_attempt_whose_deadline_has_passed_while_it_waited_is_not_made() -> None:
    history = (*VALIDATED, was_deferred(retry_at=at(50)))
    given(*history).when(begin(now=at(60)), DEADLINE).then_kinds(e.CreationAttempted)
    then = given(*history).when(begin(now=at(60.001)), DEADLINE).then_kinds(e.SessionAbandoned)
    assert then.state.status is Status.ABANDONED
    assert then.state.attempts == 0


def test_a_lost_attempt_is_recorded_before_the_session_is_given_up_past_its_deadline() -> None:
    given(*ATTEMPTING).when(begin(now=at(61)), DEADLINE).then_kinds(e.CreationFailed, e.SessionAbandoned)


def test_however_often_it_is_held_back_only_the_deadline_ends_it() -> None:
    history = (*THROTTLED, *(was_deferred() for _ in range(100)), was_attempted(2), was_throttled(2))
    given(*history).when(deferred(held(9))).then_kinds(e.CreationDeferred)


def test_a_person_who_has_it_retried_sets_a_new_deadline_for_what_is_put_off_too() -> None:
    history = (*PARKED, retry_decided(at=at(100)))
    given(*history).when(deferred(held(160), now=at(101)), DEADLINE).then_kinds(e.CreationDeferred)
    given(*history).when(begin(now=at(160)), DEADLINE).then_kinds(e.CreationAttempted)
