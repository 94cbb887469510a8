"""Attempts at a creation: numbered, throttled, failed, in doubt, given up."""

import pytest

from guestledger.adapters.http.retry_after import read_retry_after
from guestledger.engine.domain import events as e
from guestledger.engine.domain.events import FailureKind
from guestledger.engine.domain.lifecycle import AttemptCreation, Policy
from guestledger.engine.domain.outcomes import Throttled
from guestledger.engine.domain.session import Status
from guestledger.engine.limits.retry import MAX_RETRY_AFTER_MS, RetryPolicy
from tests.unit.given import given
from tests.unit.samples import (
    ABANDONED,
    ACTIVE,
    ATTEMPTING,
    EXPIRED,
    FAILED,
    IN_DOUBT,
    OPEN,
    REFUSED,
    REJECTED,
    SESSION,
    START,
    THROTTLED,
    TOKEN,
    VALIDATED,
    answer,
    at,
    begin,
    created,
    failed,
    has_failed,
    throttled,
    was_attempted,
    was_throttled,
)

RETRIED = [kind for kind in FailureKind if not kind.is_final]
FINAL = [kind for kind in FailureKind if kind.is_final]


# Before the request is sent


def test_an_attempt_is_recorded_before_it_is_sent_with_the_sessions_own_id_as_its_key() -> None:
    then = given(*VALIDATED).when(begin(now=at(1)))
    then.then(was_attempted(1, at=at(1), idempotency_key=str(SESSION), request_sha256="ab" * 32))
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
def test_no_attempt_is_made_where_the_guest_has_an_answer_or_nobody_asked(history: tuple[e.Event, ...]) -> None:
    given(*history).when(begin(now=at(9))).then_nothing()


def test_an_attempt_whose_sender_is_gone_is_recorded_as_in_doubt_before_another_is_made() -> None:
    then = given(*ATTEMPTING).when(begin(now=at(30)))
    lost = then.then_one(e.CreationFailed)
    assert (lost.kind, lost.attempt, lost.status) == (FailureKind.IN_DOUBT, 1, None)
    assert (lost.wait_ms, lost.retry_at) == (250, at(30.25))
    assert then.state.status is Status.IN_DOUBT
    assert given(*ATTEMPTING, lost).next_step() == AttemptCreation(at(30.25))
    given(*ATTEMPTING, lost).when(begin(now=at(31))).then(was_attempted(2, at=at(31)))


def test_a_lost_attempt_counts_as_a_failure() -> None:
    policy = Policy(creation=RetryPolicy(max_failures=1))
    then = given(*ATTEMPTING).when(begin(now=at(30)), policy)
    then.then_kinds(e.CreationFailed, e.SessionAbandoned)
    assert then.state.status is Status.ABANDONED


# Success


def test_a_created_session_is_active_with_all_that_cxone_said() -> None:
    then = given(*ATTEMPTING).when(answer(created(), now=at(1.5)))
    event = then.then_one(e.SessionCreated)
    assert (event.at, event.attempt, event.session_id, event.status) == (at(1.5), 1, "sess_9d4e8f1a", "active")
    assert event.guest_token == TOKEN
    assert event.expires_at == created().expires_at
    assert event.attempt_latency_ms == 120
    state = then.state
    assert (state.status, state.session_id, state.guest_token) == (Status.ACTIVE, "sess_9d4e8f1a", TOKEN)
    assert (state.created_at, state.expires_at) == (at(1.5), created().expires_at)
    assert (state.retry_at, state.reason) == (None, None)


def test_the_latency_of_a_session_counts_from_the_request_with_all_waits() -> None:
    event = (
        given(*THROTTLED, was_attempted(2, at=at(3))).when(answer(created(), 2, now=at(3.4))).then_one(e.SessionCreated)
    )
    assert event.latency_ms == 3_400


def test_the_latency_is_never_negative_when_clocks_disagree() -> None:
    assert given(*ATTEMPTING).when(answer(created(), now=at(-5))).then_one(e.SessionCreated).latency_ms == 0


# Throttles


@pytest.mark.parametrize("jitter", [0.0, 0.5, 0.999])
@pytest.mark.parametrize("asked_ms", [0, 1_000, 2_000, 120_000])
def test_a_throttled_session_waits_at_least_as_long_as_the_server_asked(asked_ms: int, jitter: float) -> None:
    event = given(*ATTEMPTING).when(answer(throttled(asked_ms), now=at(1), jitter=jitter)).then_one(e.CreationThrottled)
    assert event.retry_after_ms == asked_ms
    assert event.wait_ms == asked_ms + int(500 * jitter)
    assert event.retry_at == at(1 + event.wait_ms / 1_000)
    assert event.retry_at >= at(1 + asked_ms / 1_000)


def test_a_throttle_is_recorded_with_the_header_as_given_and_why_so_long() -> None:
    outcome = Throttled(status=429, retry_after=read_retry_after("5", None, START))
    then = given(*ATTEMPTING).when(answer(outcome, jitter=0.5))
    event = then.then_one(e.CreationThrottled)
    assert (event.status, event.attempt, event.retry_after_given, event.retry_after_ms) == (429, 1, "5", 5_000)
    assert "Retry-After of 5000 ms" in event.reason
    assert "250 ms backoff" in event.reason
    assert then.state.status is Status.THROTTLED
    assert then.state.reason == event.reason
    assert given(*ATTEMPTING, event).next_step() == AttemptCreation(event.retry_at)


def test_backoff_on_top_grows_with_every_throttle_up_to_the_cap() -> None:
    waits = []
    history: tuple[e.Event, ...] = VALIDATED
    for attempt in range(1, 12):
        history = (*history, was_attempted(attempt))
        event = given(*history).when(answer(throttled(0), attempt, jitter=0.5)).then_one(e.CreationThrottled)
        waits.append(event.wait_ms)
        history = (*history, event)
    assert waits == [250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, *[30_000] * 4]


def test_throttles_do_not_count_as_failures() -> None:
    policy = Policy(creation=RetryPolicy(max_failures=1))
    history = (*THROTTLED, was_attempted(2), was_throttled(2), was_attempted(3))
    then = given(*history).when(answer(throttled(), 3), policy)
    then.then_kinds(e.CreationThrottled)
    assert then.state.failures == 0
    assert then.state.throttles == 3


def test_a_session_is_abandoned_when_the_server_asks_for_a_wait_beyond_the_deadline() -> None:
    then = given(*ATTEMPTING).when(answer(throttled(MAX_RETRY_AFTER_MS)))
    then.then_kinds(e.CreationThrottled, e.SessionAbandoned)
    assert then.state.status is Status.ABANDONED
    assert given(*ATTEMPTING, *then.events).next_step() is None


# Failures


@pytest.mark.parametrize("kind", RETRIED)
def test_a_failure_that_may_pass_is_retried_after_a_backoff(kind: FailureKind) -> None:
    then = given(*ATTEMPTING).when(answer(failed(kind, status=503), now=at(1)))
    then.then(has_failed(1, kind, at=at(1), status=503, wait_ms=250, retry_at=at(1.25)))
    assert given(*ATTEMPTING, *then.events).next_step() == AttemptCreation(at(1.25))
    assert then.state.failures == (kind is not FailureKind.UNSENT)
    assert then.state.reason == f"it is {kind}"


@pytest.mark.parametrize("kind", RETRIED)
@pytest.mark.parametrize("asked_ms", [0, 1_000, 60_000])
def test_after_a_failure_the_wait_is_at_least_what_the_server_asked_for_and_its_event_says_so(
    kind: FailureKind, asked_ms: int
) -> None:
    then = given(*ATTEMPTING).when(answer(failed(kind, 503, asked_ms), now=at(1)))
    event = then.then_one(e.CreationFailed)
    assert (event.wait_ms, event.retry_at) == (asked_ms + 250, at(1 + asked_ms / 1_000 + 0.25))
    assert event.reason == f"Retry-After of {asked_ms // 1_000} s, plus 250 ms backoff"
    assert then.state.failures == (kind is not FailureKind.UNSENT), "and it counts as a failure all the same"


def test_a_failure_whose_wait_would_last_past_the_deadline_ends_the_session_as_a_throttle_does() -> None:
    outcome = failed(FailureKind.UNAVAILABLE, 503, MAX_RETRY_AFTER_MS)
    given(*ATTEMPTING).when(answer(outcome)).then_kinds(e.CreationFailed, e.SessionAbandoned)


def test_an_attempt_that_was_never_sent_is_not_held_against_the_session_but_waits_longer_each_time() -> None:
    history: list[e.Event] = list(ATTEMPTING)
    waits = []
    for tries in range(20):
        then = given(*history).when(answer(failed(FailureKind.UNSENT), attempt=tries + 1, now=at(tries)))
        then.then_kinds(e.CreationFailed)
        waits.append(then.events[0].wait_ms)
        history += [*then.events, was_attempted(tries + 2)]
    assert waits[:3] == [250, 500, 1_000]
    assert waits[-1] == 30_000


@pytest.mark.parametrize("kind", FINAL)
def test_a_failure_that_would_only_come_again_ends_the_session(kind: FailureKind) -> None:
    then = given(*ATTEMPTING).when(answer(failed(kind, status=400), now=at(1)))
    then.then(has_failed(1, kind, at=at(1), status=400, wait_ms=None, retry_at=None))
    assert then.state.status is Status.REJECTED
    assert then.state.reason == f"it is {kind}"
    assert given(*ATTEMPTING, *then.events).next_step() is None


def test_rejected_unauthorized_and_forbidden_are_final_and_nothing_else_is() -> None:
    assert {str(kind) for kind in FINAL} == {"rejected", "unauthorized", "forbidden"}


def test_a_session_is_in_doubt_only_when_the_answer_to_its_attempt_is_lost() -> None:
    statuses = {kind: given(*ATTEMPTING).when(answer(failed(kind))).state.status for kind in RETRIED}
    assert statuses == {
        FailureKind.UNSENT: Status.PENDING,
        FailureKind.UNAVAILABLE: Status.PENDING,
        FailureKind.IN_DOUBT: Status.IN_DOUBT,
    }


def test_backoff_doubles_from_one_failure_to_the_next() -> None:
    event = given(*FAILED, was_attempted(2)).when(answer(failed(), 2)).then_one(e.CreationFailed)
    assert event.wait_ms == 500


def test_throttles_do_not_lengthen_the_backoff_of_failures() -> None:
    event = given(*THROTTLED, was_attempted(2)).when(answer(failed(), 2)).then_one(e.CreationFailed)
    assert event.wait_ms == 250


# Giving up


def test_a_session_is_abandoned_after_as_many_failures_as_the_policy_allows() -> None:
    policy = Policy(creation=RetryPolicy(max_failures=2))
    given(*ATTEMPTING).when(answer(failed()), policy).then_kinds(e.CreationFailed)
    then = given(*FAILED, was_attempted(2)).when(answer(failed(), 2, now=at(2)), policy)
    then.then_kinds(e.CreationFailed, e.SessionAbandoned)
    abandoned = then.events[-1]
    assert isinstance(abandoned, e.SessionAbandoned)
    assert (abandoned.at, abandoned.attempts) == (at(2), 2)
    assert "2 failures" in abandoned.reason
    assert (then.state.status, then.state.reason, then.state.retry_at) == (Status.ABANDONED, abandoned.reason, None)


def test_a_session_is_abandoned_when_the_next_try_would_come_after_the_deadline() -> None:
    policy = Policy(creation=RetryPolicy(deadline_ms=10_000))
    for outcome in (failed(), throttled(0)):
        then = given(*ATTEMPTING).when(answer(outcome, now=at(9.751)), policy)
        assert isinstance(then.events[-1], e.SessionAbandoned)
        assert "deadline of 10000 ms" in then.events[-1].reason


def test_a_try_at_the_very_deadline_is_still_made() -> None:
    policy = Policy(creation=RetryPolicy(deadline_ms=10_000))
    for outcome in (failed(), throttled(0)):
        assert len(given(*ATTEMPTING).when(answer(outcome, now=at(9.75)), policy).events) == 1


def test_a_final_failure_is_not_called_abandoned() -> None:
    policy = Policy(creation=RetryPolicy(max_failures=1))
    given(*ATTEMPTING).when(answer(failed(FailureKind.REJECTED)), policy).then_kinds(e.CreationFailed)
