"""Telling the analytics webhook: retried, given up, never in the session's way."""

from datetime import timedelta

import pytest

from guestledger.engine.domain import events as e
from guestledger.engine.domain.delivery import DeliveryPolicy
from guestledger.engine.domain.lifecycle import Policy, SyncWebhook
from guestledger.engine.domain.session import Status
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
    redeliver,
    redelivery_requested,
    was_synced,
    webhook_abandoned,
    webhook_failed,
)

TWICE = Policy(webhook=DeliveryPolicy(waits_ms=(1_000,)))


@pytest.mark.parametrize("status", [200, 201, 204, 299])
def test_a_2xx_response_settles_the_webhook(status: int) -> None:
    then = given(*ACTIVE).when(deliver(delivered(status), now=at(1)))
    then.then(was_synced(at=at(1), attempt=1, status=status, latency_ms=30))
    assert then.state.webhook_settled
    assert then.state.status is Status.ACTIVE


@pytest.mark.parametrize("status", [None, 100, 199, 300, 301, 400, 404, 429, 500, 503])
def test_any_other_response_schedules_a_webhook_retry(status: int | None) -> None:
    then = given(*ACTIVE).when(deliver(delivered(status), now=at(1)))
    event = then.then_one(e.WebhookFailed)
    assert (event.attempt, event.status, event.latency_ms) == (1, status, 30)
    assert event.message == delivered(status).message
    assert (event.wait_ms, event.retry_at) == (5_250, at(6.25))
    assert event.reason == "5000 ms by the schedule, plus 250 ms jitter"
    assert not then.state.webhook_settled
    assert given(*ACTIVE, event).next_step() == SyncWebhook(at(6.25))


def test_a_failed_webhook_does_not_change_the_session() -> None:
    then = given(*ACTIVE).when(deliver(delivered(None), now=at(1)))
    before = given(*ACTIVE).state
    assert (then.state.status, then.state.reason, then.state.session_id) == (
        before.status,
        before.reason,
        before.session_id,
    )


def test_the_retry_waits_follow_the_standard_webhooks_schedule() -> None:
    history: tuple[e.Event, ...] = ACTIVE
    tries = []
    for now in range(9):
        event = given(*history).when(deliver(delivered(500), now=at(now), jitter=0)).then_one(e.WebhookFailed)
        tries.append(f"{event.attempt}: {timedelta(milliseconds=event.wait_ms)}")
        history = (*history, event)
    assert tries == [
        "1: 0:00:05",
        "2: 0:05:00",
        "3: 0:30:00",
        "4: 2:00:00",
        "5: 5:00:00",
        "6: 10:00:00",
        "7: 14:00:00",
        "8: 20:00:00",
        "9: 1 day, 0:00:00",
    ]
    given(*history).when(deliver(delivered(500), now=at(10))).then_kinds(e.WebhookAbandoned)


def test_jitter_lengthens_a_wait_by_at_most_the_policys_percentage() -> None:
    policy = Policy(webhook=DeliveryPolicy(waits_ms=(1_000,), jitter_percent=20))
    for jitter, wait_ms in ((0.0, 1_000), (0.5, 1_100), (0.999, 1_199)):
        event = given(*ACTIVE).when(deliver(delivered(500), jitter=jitter), policy).then_one(e.WebhookFailed)
        assert event.wait_ms == wait_ms


def test_a_longer_retry_after_overrides_the_schedule() -> None:
    asked = delivered(429, retry_after_ms=60_000)
    event = given(*ACTIVE).when(deliver(asked, jitter=0.5)).then_one(e.WebhookFailed)
    assert (event.retry_after_given, event.retry_after_ms, event.wait_ms) == ("60", 60_000, 63_000)
    assert event.reason == "Retry-After of 60 s, plus 3000 ms jitter"


def test_a_shorter_retry_after_does_not_override_the_schedule() -> None:
    asked = delivered(503, retry_after_ms=1_000)
    event = given(*ACTIVE).when(deliver(asked, jitter=0.5)).then_one(e.WebhookFailed)
    assert (event.retry_after_ms, event.wait_ms) == (1_000, 5_250)
    assert event.reason == "5000 ms by the schedule, plus 250 ms jitter"


def test_a_retry_after_beyond_the_maximum_wait_makes_a_dead_letter() -> None:
    policy = Policy(webhook=DeliveryPolicy(max_wait_ms=59_999))
    event = given(*ACTIVE).when(deliver(delivered(429, retry_after_ms=60_000)), policy).then_one(e.WebhookAbandoned)
    assert event.reason == "answered 429: Retry-After of 60 s, and no notice is kept longer than 59999 ms"


def test_a_410_response_makes_a_dead_letter_without_a_retry() -> None:
    then = given(*ACTIVE).when(deliver(delivered(410), now=at(1)))
    reason = "answered 410: the receiver wants no more of it"
    then.then(webhook_abandoned(at=at(1), attempts=1, status=410, reason=reason))
    assert then.state.webhook_settled


def test_webhook_calls_are_numbered() -> None:
    event = given(*ACTIVE, webhook_failed()).when(deliver(delivered(500))).then_one(e.WebhookFailed)
    assert event.attempt == 2
    synced = given(*ACTIVE, webhook_failed()).when(deliver(delivered(200))).then_one(e.WebhookSynced)
    assert synced.attempt == 2


def test_a_webhook_becomes_a_dead_letter_after_the_last_allowed_call() -> None:
    given(*ACTIVE).when(deliver(delivered(500)), TWICE).then_kinds(e.WebhookFailed)
    then = given(*ACTIVE, webhook_failed()).when(deliver(delivered(None), now=at(2)), TWICE)
    then.then(webhook_abandoned(at=at(2), attempts=2, status=None, reason="no answer"))
    assert then.state.webhook_settled
    assert then.state.status is Status.ACTIVE


def test_the_last_allowed_webhook_call_can_still_succeed() -> None:
    given(*ACTIVE, webhook_failed()).when(deliver(delivered(200)), TWICE).then_kinds(e.WebhookSynced)


def test_an_expired_session_can_still_deliver_its_webhook() -> None:
    then = given(*EXPIRED).when(deliver(delivered(200)))
    then.then_kinds(e.WebhookSynced)
    assert then.state.status is Status.EXPIRED


@pytest.mark.parametrize("settled", [was_synced(), webhook_abandoned()], ids=["synced", "abandoned"])
def test_a_settled_webhook_is_not_recorded_again(settled: e.Event) -> None:
    for status in (200, 500, None):
        given(*ACTIVE, settled).when(deliver(delivered(status))).then_nothing()


@pytest.mark.parametrize(
    "history",
    [(), OPEN, ATTEMPTING, REFUSED, REJECTED, ABANDONED],
    ids=["new", "pending", "attempting", "refused", "rejected", "abandoned"],
)
def test_a_session_that_was_never_created_records_no_webhook(history: tuple[e.Event, ...]) -> None:
    for status in (200, 500):
        given(*history).when(deliver(delivered(status))).then_nothing()


# Redelivery


@pytest.mark.parametrize("history", [ACTIVE, EXPIRED], ids=["active", "expired"])
@pytest.mark.parametrize("settled", [was_synced(), webhook_abandoned()], ids=["synced", "abandoned"])
def test_a_redelivery_records_requester_and_reason_and_is_due_at_once(
    history: tuple[e.Event, ...], settled: e.Event
) -> None:
    then = given(*history, settled).when(redeliver(now=at(90)))
    then.then(redelivery_requested(at=at(90), requested_by="ops", reason="the receiver is up again"))
    assert then.state.status is given(*history).state.status
    assert given(*then.before, *then.events).next_step() == SyncWebhook(at(90))


def test_a_redelivery_restarts_the_schedule_and_continues_the_numbering() -> None:
    dead = (*ACTIVE, webhook_failed(), webhook_abandoned(attempts=2), redelivery_requested())
    event = given(*dead).when(deliver(delivered(500), jitter=0)).then_one(e.WebhookFailed)
    assert (event.attempt, event.wait_ms) == (3, 5_000)
    given(*dead, event).when(deliver(delivered(500)), TWICE).then_kinds(e.WebhookAbandoned)


def test_a_successful_redelivery_settles_the_webhook() -> None:
    then = given(*ACTIVE, webhook_abandoned(), redelivery_requested()).when(deliver(delivered(200)))
    then.then(was_synced(attempt=7, status=200))
    assert then.state.webhook_settled


@pytest.mark.parametrize("under_way", [(), (webhook_failed(),), (webhook_abandoned(), redelivery_requested())])
def test_a_webhook_still_being_delivered_cannot_be_redelivered(under_way: tuple[e.Event, ...]) -> None:
    given(*ACTIVE, *under_way).when(redeliver()).then_nothing()


@pytest.mark.parametrize("history", [(), OPEN, REFUSED, REJECTED, ABANDONED])
def test_a_session_that_was_never_created_cannot_be_redelivered(history: tuple[e.Event, ...]) -> None:
    given(*history).when(redeliver()).then_nothing()


def test_a_policy_without_a_webhook_allows_no_redelivery() -> None:
    given(*ACTIVE, webhook_abandoned()).when(redeliver(), Policy(webhook_enabled=False)).then_nothing()
