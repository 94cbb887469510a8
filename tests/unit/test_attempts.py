"""Creation attempts: success, throttles, failures, doubt and giving up."""

import pytest

from guestledger.engine.domain import events as e
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.due import StepName
from guestledger.engine.domain.outcomes import FailureKind, Throttled
from guestledger.engine.domain.policy import Policy
from guestledger.engine.domain.session import Status
from guestledger.engine.limits.retry import MAX_RETRY_AFTER_MS, RetryAfter, RetryPolicy, Wait, WaitBasis
from tests.unit.given import given
from tests.unit.samples import (
    ABANDONED,
    ACTIVE,
    ATTEMPTING,
    BACKOFF,
    CAUSES,
    DETAIL,
    EXPIRED,
    FAILED,
    IN_DOUBT,
    OPEN,
    PARKED,
    REFUSED,
    REJECTED,
    SESSION,
    THROTTLED,
    TOKEN,
    VALIDATED,
    answer,
    at,
    begin,
    created,
    failed,
    has_failed,
    settle,
    throttled,
    was_attempted,
    was_throttled,
)

RETRIED = [kind for kind in FailureKind if kind is not FailureKind.FINAL]


# Before the request is sent


def test_an_attempt_is_recorded_with_the_session_id_as_its_key() -> None:
    then = given(*VALIDATED).when(begin(now=at(1)))
    then.then(was_attempted(1, at=at(1), idempotency_key=str(SESSION), request_hmac="ab" * 32))
    assert then.state.status is Status.ATTEMPTING


@pytest.mark.parametrize("history", [THROTTLED, IN_DOUBT, FAILED], ids=["throttled", "in_doubt", "failed"])
def test_the_next_attempt_has_the_next_number_and_the_same_key(history: tuple[e.Event, ...]) -> None:
    given(*history).when(begin(now=at(9))).then(was_attempted(2, at=at(9)))


def test_no_attempt_is_made_before_the_channel_is_validated() -> None:
    given(*OPEN).when(begin()).then_nothing()


@pytest.mark.parametrize(
    "history",
    [(), REFUSED, REJECTED, ABANDONED, ACTIVE, EXPIRED],
    ids=["new", "refused", "rejected", "abandoned", "active", "expired"],
)
def test_no_attempt_is_made_for_a_new_or_finished_session(history: tuple[e.Event, ...]) -> None:
    given(*history).when(begin(now=at(9))).then_nothing()


def test_a_cut_off_attempt_is_recorded_in_doubt_before_the_next() -> None:
    given(*ATTEMPTING).when(begin(now=at(30))).then_nothing()
    then = given(*ATTEMPTING).when(settle(1, now=at(30)))
    lost = then.then_one(e.CreationFailed)
    assert (lost.kind, lost.cause, lost.attempt) == (FailureKind.IN_DOUBT, Cause.PROCESS_ENDED, 1)
    assert (lost.status, lost.wait, lost.retry_at) == (None, BACKOFF, at(30.25))
    assert then.state.status is Status.IN_DOUBT
    assert then.due()[StepName.CREATE_SESSION] == at(30.25)
    given(*ATTEMPTING, lost).when(begin(now=at(31))).then(was_attempted(2, at=at(31)))


@pytest.mark.parametrize("attempt", [0, 1, 3])
def test_only_the_current_attempt_can_be_settled(attempt: int) -> None:
    given(*FAILED, was_attempted(2)).when(settle(attempt, now=at(30))).then_nothing()


@pytest.mark.parametrize(
    "history",
    [(), OPEN, VALIDATED, THROTTLED, IN_DOUBT, FAILED, PARKED, ACTIVE, EXPIRED, REJECTED, ABANDONED],
    ids=[
        *("new", "open", "validated", "throttled", "in_doubt", "failed"),
        *("parked", "active", "expired", "rejected", "abandoned"),
    ],
)
def test_an_answered_attempt_is_not_settled(history: tuple[e.Event, ...]) -> None:
    given(*history).when(settle(1, now=at(30))).then_nothing()


def test_a_lost_attempt_counts_as_a_failure() -> None:
    policy = Policy(creation=RetryPolicy(max_failures=1))
    then = given(*ATTEMPTING).when(settle(1, now=at(30)), policy)
    then.then_kinds(e.CreationFailed, e.SessionAbandoned)
    assert then.state.status is Status.ABANDONED
    assert then.state.in_doubt == (1,)


# Success


def test_a_created_session_is_active_with_all_data_of_the_provider() -> None:
    then = given(*ATTEMPTING).when(answer(created(), now=at(1.5)))
    event = then.then_one(e.SessionCreated)
    assert (event.at, event.attempt, event.session_id, event.status) == (at(1.5), 1, "sess_9d4e8f1a", "active")
    assert event.guest_token == TOKEN
    assert event.expires_at == created().expires_at
    assert event.attempt_latency_ms == 120
    state = then.state
    assert (state.status, state.session_id, state.guest_token) == (Status.ACTIVE, "sess_9d4e8f1a", TOKEN)
    assert (state.created_at, state.expires_at) == (at(1.5), created().expires_at)
    assert (state.retry_at, state.cause, state.detail) == (None, None, None)


def test_the_latency_of_a_session_includes_all_waits() -> None:
    event = (
        given(*THROTTLED, was_attempted(2, at=at(3))).when(answer(created(), 2, now=at(3.4))).then_one(e.SessionCreated)
    )
    assert event.latency_ms == 3_400


def test_the_latency_is_never_negative() -> None:
    assert given(*ATTEMPTING).when(answer(created(), now=at(-5))).then_one(e.SessionCreated).latency_ms == 0


# Throttles


@pytest.mark.parametrize("jitter", [0.0, 0.5, 0.999])
@pytest.mark.parametrize("asked_ms", [0, 1_000, 2_000, 120_000])
def test_a_throttled_session_waits_for_retry_after_plus_backoff(asked_ms: int, jitter: float) -> None:
    event = given(*ATTEMPTING).when(answer(throttled(asked_ms), now=at(1), jitter=jitter)).then_one(e.CreationThrottled)
    extra_ms = int(500 * jitter)
    assert (event.wait.ms, event.wait.basis_ms, event.wait.extra_ms) == (asked_ms + extra_ms, asked_ms, extra_ms)
    assert event.retry_at == at(1 + event.wait.ms / 1_000)
    assert event.retry_at >= at(1 + asked_ms / 1_000)


@pytest.mark.parametrize(
    "asked",
    [
        RetryAfter(given="5", ms=5_000, basis=WaitBasis.RETRY_AFTER),
        RetryAfter(given="soon", ms=2_000, basis=WaitBasis.RETRY_AFTER_UNREADABLE),
        RetryAfter(given=None, ms=2_000, basis=WaitBasis.RETRY_AFTER_MISSING),
    ],
    ids=["seconds", "unreadable", "missing"],
)
def test_a_throttle_is_recorded_with_its_header_and_the_basis_of_its_wait(asked: RetryAfter) -> None:
    then = given(*ATTEMPTING).when(answer(Throttled(status=429, retry_after=asked), jitter=0.5))
    event = then.then_one(e.CreationThrottled)
    assert (event.status, event.attempt) == (429, 1)
    assert event.wait == Wait(ms=asked.ms + 250, basis=asked.basis, basis_ms=asked.ms, extra_ms=250, given=asked.given)
    assert (then.state.status, then.state.cause) == (Status.THROTTLED, Cause.THROTTLED)
    assert then.due()[StepName.CREATE_SESSION] == event.retry_at


def test_backoff_doubles_with_every_throttle_up_to_the_cap() -> None:
    waits = []
    history: tuple[e.Event, ...] = VALIDATED
    for attempt in range(1, 12):
        history = (*history, was_attempted(attempt))
        event = given(*history).when(answer(throttled(0), attempt, jitter=0.5)).then_one(e.CreationThrottled)
        waits.append(event.wait.ms)
        history = (*history, event)
    assert waits == [250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, *[30_000] * 4]


def test_throttles_do_not_count_as_failures() -> None:
    policy = Policy(creation=RetryPolicy(max_failures=1))
    history = (*THROTTLED, was_attempted(2), was_throttled(2), was_attempted(3))
    then = given(*history).when(answer(throttled(), 3), policy)
    then.then_kinds(e.CreationThrottled)
    assert then.state.failures == 0
    assert then.state.throttles == 3


def test_a_retry_after_beyond_the_deadline_abandons_the_session() -> None:
    then = given(*ATTEMPTING).when(answer(throttled(MAX_RETRY_AFTER_MS)))
    then.then_kinds(e.CreationThrottled, e.SessionAbandoned)
    assert then.state.status is Status.ABANDONED
    assert then.due() == {}


# Failures


@pytest.mark.parametrize("kind", RETRIED)
def test_a_retryable_failure_is_retried_after_a_backoff(kind: FailureKind) -> None:
    then = given(*ATTEMPTING).when(answer(failed(kind, status=503), now=at(1)))
    then.then(has_failed(1, kind, at=at(1), status=503, wait=BACKOFF, retry_at=at(1.25)))
    assert then.due()[StepName.CREATE_SESSION] == at(1.25)
    assert then.state.failures == (kind is not FailureKind.UNSENT)
    assert (then.state.cause, then.state.detail) == (CAUSES[kind], DETAIL)


@pytest.mark.parametrize("kind", RETRIED)
@pytest.mark.parametrize("asked_ms", [0, 1_000, 60_000])
def test_a_failed_attempt_waits_for_retry_after_plus_backoff(kind: FailureKind, asked_ms: int) -> None:
    then = given(*ATTEMPTING).when(answer(failed(kind, 503, asked_ms), now=at(1)))
    event = then.then_one(e.CreationFailed)
    assert event.retry_at == at(1 + asked_ms / 1_000 + 0.25)
    assert event.wait == Wait(
        ms=asked_ms + 250,
        basis=WaitBasis.RETRY_AFTER,
        basis_ms=asked_ms,
        extra_ms=250,
        given=f"{asked_ms // 1_000}",
    )
    assert then.state.failures == (kind is not FailureKind.UNSENT), "it still counts as a failure"


def test_a_failure_with_retry_after_beyond_the_deadline_abandons_the_session() -> None:
    outcome = failed(FailureKind.UNAVAILABLE, 503, MAX_RETRY_AFTER_MS)
    given(*ATTEMPTING).when(answer(outcome)).then_kinds(e.CreationFailed, e.SessionAbandoned)


def test_an_unsent_attempt_is_no_failure_but_its_backoff_grows() -> None:
    history: list[e.Event] = list(ATTEMPTING)
    waits = []
    for tries in range(20):
        then = given(*history).when(answer(failed(FailureKind.UNSENT), attempt=tries + 1, now=at(tries)))
        then.then_kinds(e.CreationFailed)
        waits.append(then.events[0].wait.ms)
        history += [*then.events, was_attempted(tries + 2)]
    assert waits[:3] == [250, 500, 1_000]
    assert waits[-1] == 30_000


def test_a_final_failure_rejects_the_session() -> None:
    then = given(*ATTEMPTING).when(answer(failed(FailureKind.FINAL, status=400), now=at(1)))
    then.then(has_failed(1, FailureKind.FINAL, at=at(1), status=400, wait=None, retry_at=None))
    assert then.state.status is Status.REJECTED
    assert (then.state.cause, then.state.detail) == (Cause.REJECTED, DETAIL)
    assert then.due() == {}


def test_only_a_failure_in_doubt_puts_the_session_in_doubt() -> None:
    statuses = {kind: given(*ATTEMPTING).when(answer(failed(kind))).state.status for kind in RETRIED}
    assert statuses == {
        FailureKind.UNSENT: Status.PENDING,
        FailureKind.UNAVAILABLE: Status.PENDING,
        FailureKind.IN_DOUBT: Status.IN_DOUBT,
    }


def test_backoff_doubles_with_every_failure() -> None:
    event = given(*FAILED, was_attempted(2)).when(answer(failed(), 2)).then_one(e.CreationFailed)
    assert event.wait is not None
    assert event.wait.ms == 500


def test_throttles_do_not_lengthen_the_backoff_of_failures() -> None:
    event = given(*THROTTLED, was_attempted(2)).when(answer(failed(), 2)).then_one(e.CreationFailed)
    assert event.wait is not None
    assert event.wait.ms == 250


# Giving up


def test_a_session_is_abandoned_after_max_failures() -> None:
    policy = Policy(creation=RetryPolicy(max_failures=2))
    given(*ATTEMPTING).when(answer(failed()), policy).then_kinds(e.CreationFailed)
    then = given(*FAILED, was_attempted(2)).when(answer(failed(), 2, now=at(2)), policy)
    then.then_kinds(e.CreationFailed, e.SessionAbandoned)
    abandoned = then.events[-1]
    assert isinstance(abandoned, e.SessionAbandoned)
    assert (abandoned.at, abandoned.attempts) == (at(2), 2)
    assert abandoned.cause is Cause.TOO_MANY_FAILURES
    assert (then.state.status, then.state.cause) == (Status.ABANDONED, Cause.TOO_MANY_FAILURES)
    assert (then.state.detail, then.state.retry_at, then.due()) == (None, None, {})


def test_a_session_is_abandoned_when_its_next_attempt_is_past_the_deadline() -> None:
    policy = Policy(creation=RetryPolicy(deadline_ms=10_000))
    for outcome in (failed(), throttled(0)):
        then = given(*ATTEMPTING).when(answer(outcome, now=at(9.751)), policy)
        assert isinstance(then.events[-1], e.SessionAbandoned)
        assert then.events[-1].cause is Cause.DEADLINE_EXCEEDED


def test_an_attempt_exactly_at_the_deadline_is_still_made() -> None:
    policy = Policy(creation=RetryPolicy(deadline_ms=10_000))
    for outcome in (failed(), throttled(0)):
        assert len(given(*ATTEMPTING).when(answer(outcome, now=at(9.75)), policy).events) == 1


def test_a_final_failure_does_not_also_abandon_the_session() -> None:
    policy = Policy(creation=RetryPolicy(max_failures=1))
    given(*ATTEMPTING).when(answer(failed(FailureKind.FINAL)), policy).then_kinds(e.CreationFailed)
