"""Webhook notices: retries, dead letters and redelivery. They never change the session."""

from datetime import timedelta

import pytest

from guestledger.engine.domain import events as e
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.due import StepName
from guestledger.engine.domain.outcomes import Delivery
from guestledger.engine.domain.policy import DeliveryPolicy, Policy
from guestledger.engine.domain.session import Status
from guestledger.engine.limits.retry import Wait, WaitBasis
from tests.unit.given import given
from tests.unit.samples import (
    ABANDONED,
    ACTIVE,
    ATTEMPTING,
    DETAIL,
    EXPIRED,
    OPEN,
    REFUSED,
    REJECTED,
    at,
    deliver,
    delivered,
    redeliver,
    redelivery_requested,
    was_created,
    was_synced,
    webhook_abandoned,
    webhook_failed,
)

TWICE = Policy(webhook=DeliveryPolicy(waits_ms=(1_000,)))


def test_an_accepted_notice_settles_the_webhook() -> None:
    then = given(*ACTIVE).when(deliver(delivered(204), now=at(1)))
    then.then(was_synced(at=at(1), attempt=1, status=204, latency_ms=30))
    assert not then.state.webhook_owed
    assert then.state.status is Status.ACTIVE


@pytest.mark.parametrize("status", [None, 100, 199, 200, 300, 404, 410, 429, 503])
def test_the_status_of_a_webhook_answer_is_evidence_only(status: int | None) -> None:
    accepted = Delivery(accepted=True, status=status, latency_ms=30)
    given(*ACTIVE).when(deliver(accepted)).then(was_synced(status=status))
    refused = Delivery(accepted=False, status=status, latency_ms=30)
    assert given(*ACTIVE).when(deliver(refused)).then_one(e.WebhookFailed).status == status


@pytest.mark.parametrize(
    ("status", "cause"), [(None, Cause.CONNECTION_REFUSED), (500, Cause.NOT_ACCEPTED), (404, Cause.NOT_ACCEPTED)]
)
def test_a_refused_notice_is_scheduled_again(status: int | None, cause: Cause) -> None:
    then = given(*ACTIVE).when(deliver(delivered(status), now=at(1)))
    event = then.then_one(e.WebhookFailed)
    assert (event.attempt, event.status, event.latency_ms) == (1, status, 30)
    assert (event.cause, event.detail) == (cause, DETAIL)
    assert event.wait == Wait(ms=5_250, basis=WaitBasis.SCHEDULE, basis_ms=5_000, extra_ms=250)
    assert event.retry_at == at(6.25)
    assert then.state.webhook_owed
    assert then.due()[StepName.DELIVER_WEBHOOK] == at(6.25)


def test_a_failed_webhook_does_not_change_the_session() -> None:
    then = given(*ACTIVE).when(deliver(delivered(None), now=at(1)))
    before = given(*ACTIVE).state
    assert (then.state.status, then.state.session_id) == (before.status, before.session_id)
    assert (then.state.cause, then.state.detail) == (before.cause, before.detail) == (None, None)


def test_the_retry_waits_follow_the_standard_webhooks_schedule() -> None:
    history: tuple[e.Event, ...] = ACTIVE
    tries = []
    for now in range(9):
        event = given(*history).when(deliver(delivered(500), now=at(now), jitter=0)).then_one(e.WebhookFailed)
        tries.append(f"{event.attempt}: {timedelta(milliseconds=event.wait.ms)}")
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
        assert event.wait.ms == wait_ms


def test_a_longer_retry_after_overrides_the_schedule() -> None:
    asked = delivered(429, retry_after_ms=60_000)
    event = given(*ACTIVE).when(deliver(asked, jitter=0.5)).then_one(e.WebhookFailed)
    assert event.wait == Wait(ms=63_000, basis=WaitBasis.RETRY_AFTER, basis_ms=60_000, extra_ms=3_000, given="60")


def test_a_shorter_retry_after_does_not_override_the_schedule() -> None:
    asked = delivered(503, retry_after_ms=1_000)
    event = given(*ACTIVE).when(deliver(asked, jitter=0.5)).then_one(e.WebhookFailed)
    assert event.wait == Wait(ms=5_250, basis=WaitBasis.SCHEDULE, basis_ms=5_000, extra_ms=250, given="1")


def test_a_retry_after_beyond_the_maximum_wait_makes_a_dead_letter() -> None:
    policy = Policy(webhook=DeliveryPolicy(max_wait_ms=59_999))
    then = given(*ACTIVE).when(deliver(delivered(429, retry_after_ms=60_000)), policy)
    then.then(webhook_abandoned(attempts=1, cause=Cause.WAIT_TOO_LONG, status=429, detail="60000 ms"))
    longest = Policy(webhook=DeliveryPolicy(max_wait_ms=60_000))
    given(*ACTIVE).when(deliver(delivered(429, retry_after_ms=60_000)), longest).then_kinds(e.WebhookFailed)


def test_a_receiver_that_is_gone_makes_a_dead_letter_without_a_retry() -> None:
    then = given(*ACTIVE).when(deliver(delivered(410), now=at(1)))
    then.then(webhook_abandoned(at=at(1), attempts=1, cause=Cause.RECEIVER_GONE, status=410))
    assert not then.state.webhook_owed


def test_webhook_calls_are_numbered() -> None:
    event = given(*ACTIVE, webhook_failed()).when(deliver(delivered(500))).then_one(e.WebhookFailed)
    assert event.attempt == 2
    synced = given(*ACTIVE, webhook_failed()).when(deliver(delivered(200))).then_one(e.WebhookSynced)
    assert synced.attempt == 2


def test_a_webhook_becomes_a_dead_letter_after_the_last_allowed_call() -> None:
    given(*ACTIVE).when(deliver(delivered(500)), TWICE).then_kinds(e.WebhookFailed)
    then = given(*ACTIVE, webhook_failed()).when(deliver(delivered(None), now=at(2)), TWICE)
    then.then(webhook_abandoned(at=at(2), attempts=2, cause=Cause.CONNECTION_REFUSED))
    assert not then.state.webhook_owed
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
    assert then.due()[StepName.DELIVER_WEBHOOK] == at(90)


def test_a_redelivery_restarts_the_schedule_and_continues_the_numbering() -> None:
    dead = (*ACTIVE, webhook_failed(), webhook_abandoned(attempts=2), redelivery_requested())
    event = given(*dead).when(deliver(delivered(500), jitter=0)).then_one(e.WebhookFailed)
    assert (event.attempt, event.wait.ms) == (3, 5_000)
    given(*dead, event).when(deliver(delivered(500)), TWICE).then_kinds(e.WebhookAbandoned)


def test_a_successful_redelivery_settles_the_webhook() -> None:
    then = given(*ACTIVE, webhook_abandoned(), redelivery_requested()).when(deliver(delivered(200)))
    then.then(was_synced(attempt=7, status=200))
    assert not then.state.webhook_owed


@pytest.mark.parametrize("under_way", [(), (webhook_failed(),), (webhook_abandoned(), redelivery_requested())])
def test_a_webhook_still_being_delivered_cannot_be_redelivered(under_way: tuple[e.Event, ...]) -> None:
    given(*ACTIVE, *under_way).when(redeliver()).then_nothing()


@pytest.mark.parametrize("history", [(), OPEN, REFUSED, REJECTED, ABANDONED])
def test_a_session_that_was_never_created_cannot_be_redelivered(history: tuple[e.Event, ...]) -> None:
    given(*history).when(redeliver()).then_nothing()


def test_a_policy_without_a_webhook_allows_no_redelivery() -> None:
    given(*ACTIVE, webhook_abandoned()).when(redeliver(), Policy(webhook_enabled=False)).then_nothing()


def test_an_unowed_webhook_records_no_delivery_but_can_be_redelivered() -> None:
    unowed = (*ATTEMPTING, was_created(webhook_owed=False))
    given(*unowed).when(deliver(delivered(200))).then_nothing()
    given(*unowed).when(redeliver(now=at(90))).then(redelivery_requested(at=at(90)))
