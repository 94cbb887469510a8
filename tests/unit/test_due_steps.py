"""What a session needs next, and not before when."""

from datetime import datetime

import pytest

from guestledger.engine.domain import events as e
from guestledger.engine.domain.lifecycle import AttemptCreation, ExpireToken, Policy, SyncWebhook, ValidateChannel
from tests.unit.given import given
from tests.unit.samples import (
    ABANDONED,
    ACTIVE,
    ATTEMPTING,
    EXPIRED,
    EXPIRY,
    FAILED,
    IN_DOUBT,
    OPEN,
    REFUSED,
    REJECTED,
    START,
    THROTTLED,
    VALIDATED,
    at,
    lookup_failed,
    was_attempted,
    was_created,
    was_synced,
    was_validated,
    webhook_abandoned,
    webhook_failed,
)

NO_WEBHOOK = Policy(webhook_enabled=False)


def test_an_accepted_session_is_due_for_its_channel_lookup_at_once() -> None:
    assert given(*OPEN).next_step() == ValidateChannel(START)


def test_a_failed_lookup_is_due_at_its_retry_time() -> None:
    assert given(*OPEN, lookup_failed(retry_at=at(7))).next_step() == ValidateChannel(at(7))


def test_a_session_with_a_valid_channel_is_due_for_an_attempt_at_once() -> None:
    assert given(*VALIDATED).next_step() == AttemptCreation(START)
    assert given(*OPEN, lookup_failed(retry_at=at(7)), was_validated(at=at(8))).next_step() == AttemptCreation(START)


@pytest.mark.parametrize(
    ("history", "when"),
    [(THROTTLED, at(2.25)), (IN_DOUBT, at(0.25)), (FAILED, at(0.25))],
    ids=["throttled", "in_doubt", "failed"],
)
def test_a_failed_attempt_is_due_again_at_its_retry_time(history: tuple[e.Event, ...], when: datetime) -> None:
    assert given(*history).next_step() == AttemptCreation(when)


def test_an_unanswered_attempt_is_due_from_its_start() -> None:
    assert given(*THROTTLED, was_attempted(2, at=at(3))).next_step() == AttemptCreation(at(3))


def test_an_active_session_is_due_for_its_webhook_first() -> None:
    assert given(*ATTEMPTING, was_created(at=at(2))).next_step() == SyncWebhook(at(2))


def test_a_failed_webhook_is_due_at_its_retry_time() -> None:
    assert given(*ACTIVE, webhook_failed(retry_at=at(60))).next_step() == SyncWebhook(at(60))


def test_a_token_expiry_is_due_before_a_later_webhook_retry() -> None:
    history = (*ACTIVE, webhook_failed(retry_at=at(3_601)))
    assert given(*history).next_step() == ExpireToken(EXPIRY)


def test_a_webhook_due_at_the_expiry_comes_first() -> None:
    assert given(*ACTIVE, webhook_failed(retry_at=EXPIRY)).next_step() == SyncWebhook(EXPIRY)


@pytest.mark.parametrize("settled", [was_synced(), webhook_abandoned()], ids=["synced", "abandoned"])
def test_only_the_expiry_is_due_after_the_webhook_is_settled(settled: e.Event) -> None:
    assert given(*ACTIVE, settled).next_step() == ExpireToken(EXPIRY)
    assert given(*EXPIRED, settled).next_step() is None


def test_an_expired_session_keeps_its_webhook_due() -> None:
    assert given(*EXPIRED).next_step() == SyncWebhook(START)
    assert given(*EXPIRED, webhook_failed(retry_at=at(4_000))).next_step() == SyncWebhook(at(4_000))


def test_a_policy_without_a_webhook_makes_no_webhook_due() -> None:
    assert given(*ACTIVE).next_step(NO_WEBHOOK) == ExpireToken(EXPIRY)
    assert given(*EXPIRED).next_step(NO_WEBHOOK) is None


@pytest.mark.parametrize("history", [(), REFUSED, REJECTED, ABANDONED], ids=["new", "refused", "rejected", "abandoned"])
def test_a_new_or_ended_session_has_no_due_step(history: tuple[e.Event, ...]) -> None:
    assert given(*history).next_step() is None
