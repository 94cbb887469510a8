"""Telling the analytics webhook: retried, given up, never in the session's way."""

import pytest

from engine.domain import events as e
from engine.domain.lifecycle import Policy, SyncWebhook
from engine.domain.retry import RetryPolicy
from engine.domain.session import Status
from tests.unit.given import given
from tests.unit.samples import (
    ABANDONED,
    ACTIVE,
    ATTEMPTING,
    EXPIRED,
    OPEN,
    REFUSED,
    REJECTED,
    at,
    deliver,
    delivered,
    was_synced,
    webhook_abandoned,
    webhook_failed,
)


@pytest.mark.parametrize("status", [200, 201, 204, 299])
def test_a_webhook_that_answers_2xx_has_the_notice(status: int) -> None:
    then = given(*ACTIVE).when(deliver(delivered(status), now=at(1)))
    then.then(was_synced(at=at(1), attempt=1, status=status, latency_ms=30))
    assert then.state.webhook_settled
    assert then.state.status is Status.ACTIVE


@pytest.mark.parametrize("status", [None, 100, 199, 300, 301, 400, 404, 410, 429, 500, 503])
def test_a_webhook_that_does_not_take_the_notice_is_called_again_later(status: int | None) -> None:
    then = given(*ACTIVE).when(deliver(delivered(status), now=at(1)))
    event = then.then_one(e.WebhookFailed)
    assert (event.attempt, event.status, event.latency_ms) == (1, status, 30)
    assert event.message == delivered(status).message
    assert (event.wait_ms, event.retry_at) == (500, at(1.5))
    assert not then.state.webhook_settled
    assert given(*ACTIVE, event).next_step() == SyncWebhook(at(1.5))


def test_a_failing_webhook_leaves_the_session_as_it_is() -> None:
    then = given(*ACTIVE).when(deliver(delivered(None), now=at(1)))
    before = given(*ACTIVE).state
    assert (then.state.status, then.state.reason, then.state.session_id) == (
        before.status,
        before.reason,
        before.session_id,
    )


def test_calls_are_numbered_and_their_backoff_doubles() -> None:
    event = given(*ACTIVE, webhook_failed()).when(deliver(delivered(500))).then_one(e.WebhookFailed)
    assert (event.attempt, event.wait_ms) == (2, 1_000)
    synced = given(*ACTIVE, webhook_failed()).when(deliver(delivered(200))).then_one(e.WebhookSynced)
    assert synced.attempt == 2


def test_a_webhook_is_given_up_after_as_many_calls_as_the_policy_allows() -> None:
    policy = Policy(webhook=RetryPolicy(most_failures=2))
    given(*ACTIVE).when(deliver(delivered(500)), policy).then_kinds(e.WebhookFailed)
    then = given(*ACTIVE, webhook_failed()).when(deliver(delivered(None), now=at(2)), policy)
    then.then(webhook_abandoned(at=at(2), attempts=2, status=None, reason="no answer"))
    assert then.state.webhook_settled
    assert then.state.status is Status.ACTIVE


def test_the_last_call_that_the_policy_allows_may_still_succeed() -> None:
    policy = Policy(webhook=RetryPolicy(most_failures=2))
    given(*ACTIVE, webhook_failed()).when(deliver(delivered(200)), policy).then_kinds(e.WebhookSynced)


def test_an_expired_session_still_owes_the_webhook_its_notice() -> None:
    then = given(*EXPIRED).when(deliver(delivered(200)))
    then.then_kinds(e.WebhookSynced)
    assert then.state.status is Status.EXPIRED


@pytest.mark.parametrize("settled", [was_synced(), webhook_abandoned()], ids=["synced", "abandoned"])
def test_a_webhook_that_is_done_with_is_not_recorded_again(settled: e.Event) -> None:
    for status in (200, 500, None):
        given(*ACTIVE, settled).when(deliver(delivered(status))).then_nothing()


@pytest.mark.parametrize(
    "history",
    [(), OPEN, ATTEMPTING, REFUSED, REJECTED, ABANDONED],
    ids=["new", "pending", "attempting", "refused", "rejected", "abandoned"],
)
def test_a_session_that_was_never_made_owes_the_webhook_nothing(history: tuple[e.Event, ...]) -> None:
    for status in (200, 500):
        given(*history).when(deliver(delivered(status))).then_nothing()
