"""What the outcome of a request shows about its API."""

from functools import partial
from typing import Any

import pytest
from msgspec.structs import replace

from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.outcomes import Delivery, Failed, FailureKind, feedback_of, feedback_of_delivery
from guestledger.engine.limits.feedback import Feedback, Observation, ThrottleScope, not_sent
from guestledger.engine.limits.quota import ExhaustedQuota
from guestledger.engine.limits.retry import WaitBasis
from tests.unit.limiters import NAME, known, new, seen
from tests.unit.samples import at, channel, created, delivered, failed, throttled, unusable

EXHAUSTED = ExhaustedQuota(ms=7_000, per_second=50.0)


@pytest.mark.parametrize("kind", FailureKind)
@pytest.mark.parametrize("observation", Observation)
def test_a_failure_is_observed_as_its_adapter_says(kind: FailureKind, observation: Observation) -> None:
    outcome = replace(failed(kind, 400), observation=observation)
    assert feedback_of(NAME, outcome, at(1)) == seen(observation, 1)


@pytest.mark.parametrize(
    ("outcome", "observation"),
    [
        (created(), Observation.SUCCESS),
        (channel(), Observation.SUCCESS),
        (unusable(), Observation.SUCCESS),
        (throttled(0), Observation.THROTTLED),
        (Failed(kind=FailureKind.UNAVAILABLE, cause=Cause.SERVER_ERROR), Observation.FAILED),
    ],
    ids=["created", "channel", "unusable channel", "throttled", "failed"],
)
def test_every_outcome_is_observed(outcome: Any, observation: Observation) -> None:
    assert feedback_of(NAME, outcome, at(1)) == seen(observation, 1)


def test_a_request_that_is_not_sent_changes_no_limiter() -> None:
    assert not_sent(NAME, at(1)) == seen(Observation.NOT_SENT, 1)
    limiter = new(failures_in_a_row=3).failed(0, 2)
    before = limiter.state
    assert limiter.not_sent(1).state == before
    paced = known(100)
    before = paced.state
    assert paced.not_sent(1).state == before


@pytest.mark.parametrize("outcome", [created(), channel(), failed(), failed(FailureKind.FINAL)])
def test_an_exhausted_quota_is_observed_for_every_outcome(outcome: Any) -> None:
    feedback = feedback_of(NAME, replace(outcome, exhausted=EXHAUSTED), at(1))
    assert (feedback.closed_ms, feedback.quota, feedback.closed_by) == (7_000, 50.0, WaitBasis.QUOTA)
    plain = feedback_of(NAME, outcome, at(1))
    assert (plain.closed_ms, plain.closed_by, plain.quota) == (None, None, None)


@pytest.mark.parametrize("outcome", [throttled, partial(failed, FailureKind.UNAVAILABLE, 503)])
@pytest.mark.parametrize(
    ("asked_ms", "closed_ms", "closed_by"),
    [
        (2_000, 7_000, WaitBasis.QUOTA),
        (7_000, 7_000, WaitBasis.RETRY_AFTER),
        (9_000, 9_000, WaitBasis.RETRY_AFTER),
    ],
)
def test_the_longer_of_retry_after_and_exhausted_quota_applies(
    outcome: Any, asked_ms: int, closed_ms: int, closed_by: WaitBasis
) -> None:
    feedback = feedback_of(NAME, replace(outcome(retry_after_ms=asked_ms), exhausted=EXHAUSTED), at(1))
    assert feedback.observation is (Observation.THROTTLED if outcome is throttled else Observation.FAILED)
    assert (feedback.closed_ms, feedback.quota, feedback.closed_by) == (closed_ms, 50.0, closed_by)


@pytest.mark.parametrize("asked_ms", [2_000, 7_000, 9_000])
def test_a_used_up_quota_speaks_of_all_whatever_else_the_answer_says(asked_ms: int) -> None:
    outcome = replace(throttled(asked_ms), scope=ThrottleScope.AUTO)
    assert feedback_of(NAME, outcome, at(1)).scope is ThrottleScope.AUTO
    assert feedback_of(NAME, replace(outcome, exhausted=EXHAUSTED), at(1)).scope is ThrottleScope.QUOTA


def test_a_failure_closes_the_limiter_only_with_a_positive_retry_after() -> None:
    down = partial(failed, FailureKind.IN_DOUBT, 503)
    feedback = feedback_of(NAME, down(9_000), at(1))
    assert feedback == seen(Observation.FAILED, 1, closed_ms=9_000, closed_by=WaitBasis.RETRY_AFTER)
    assert feedback_of(NAME, down(0), at(1)) == seen(Observation.FAILED, 1)


def of_webhook(outcome: Delivery, max_wait_ms: int = 60_000) -> Feedback | None:
    return feedback_of_delivery("hooks", outcome, at(1), max_wait_ms)


def test_only_webhook_success_and_retry_after_are_feedback() -> None:
    assert of_webhook(delivered(204)) == replace(seen(Observation.SUCCESS, 1), limiter="hooks")
    assert of_webhook(delivered(500)) is None
    assert of_webhook(delivered(None)) is None
    feedback = of_webhook(delivered(429, 3_000))
    assert feedback is not None
    assert (feedback.observation, feedback.closed_ms) == (Observation.THROTTLED, 3_000)
    assert feedback.closed_by is WaitBasis.RETRY_AFTER


@pytest.mark.parametrize("status", [429, 503])
def test_a_receiver_can_close_its_limiter_only_up_to_the_maximum_wait(
    status: int,
) -> None:
    longest = of_webhook(delivered(status, 7_000), max_wait_ms=7_000)
    assert longest is not None
    assert longest.closed_ms == 7_000
    assert of_webhook(delivered(status, 7_001), max_wait_ms=7_000) is None
