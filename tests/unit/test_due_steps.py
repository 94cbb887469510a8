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


def test_an_accepted_request_has_its_channel_looked_up_at_once() -> None:
    assert given(*OPEN).next_step() == ValidateChannel(START)


def test_a_failed_lookup_is_tried_again_when_its_wait_is_over() -> None:
    assert given(*OPEN, lookup_failed(retry_at=at(7))).next_step() == ValidateChannel(at(7))


def test_a_session_with_a_valid_channel_is_attempted_at_once() -> None:
    assert given(*VALIDATED).next_step() == AttemptCreation(START)
    assert given(*OPEN, lookup_failed(retry_at=at(7)), was_validated(at=at(8))).next_step() == AttemptCreation(START)


@pytest.mark.parametrize(
    ("history", "when"),
    [(THROTTLED, at(2.25)), (IN_DOUBT, at(0.25)), (FAILED, at(0.25))],
    ids=["throttled", "in_doubt", "failed"],
)
def test_an_attempt_that_did_not_succeed_is_made_again_when_its_wait_is_over(
    history: tuple[e.Event, ...], when: datetime
) -> None:
    assert given(*history).next_step() == AttemptCreation(when)


def test_an_attempt_without_an_answer_is_due_from_when_it_was_made() -> None:
    assert given(*THROTTLED, was_attempted(2, at=at(3))).next_step() == AttemptCreation(at(3))


def test_an_active_session_tells_the_webhook_first() -> None:
    assert given(*ATTEMPTING, was_created(at=at(2))).next_step() == SyncWebhook(at(2))


def test_a_webhook_that_failed_is_called_again_when_its_wait_is_over() -> None:
    assert given(*ACTIVE, webhook_failed(retry_at=at(60))).next_step() == SyncWebhook(at(60))


def test_a_token_expires_before_a_webhook_that_has_to_wait_longer() -> None:
    history = (*ACTIVE, webhook_failed(retry_at=at(3_601)))
    assert given(*history).next_step() == ExpireToken(EXPIRY)


def test_a_webhook_that_is_due_with_the_expiry_goes_first() -> None:
    assert given(*ACTIVE, webhook_failed(retry_at=EXPIRY)).next_step() == SyncWebhook(EXPIRY)


@pytest.mark.parametrize("settled", [was_synced(), webhook_abandoned()], ids=["synced", "abandoned"])
def test_once_the_webhook_is_done_with_only_the_expiry_is_left(settled: e.Event) -> None:
    assert given(*ACTIVE, settled).next_step() == ExpireToken(EXPIRY)
    assert given(*EXPIRED, settled).next_step() is None


def test_an_expired_session_that_still_owes_the_webhook_is_not_done() -> None:
    assert given(*EXPIRED).next_step() == SyncWebhook(START)
    assert given(*EXPIRED, webhook_failed(retry_at=at(4_000))).next_step() == SyncWebhook(at(4_000))


def test_a_policy_without_a_webhook_never_asks_for_one() -> None:
    assert given(*ACTIVE).next_step(NO_WEBHOOK) == ExpireToken(EXPIRY)
    assert given(*EXPIRED).next_step(NO_WEBHOOK) is None


@pytest.mark.parametrize("history", [(), REFUSED, REJECTED, ABANDONED], ids=["new", "refused", "rejected", "abandoned"])
def test_an_ended_session_needs_nothing(history: tuple[e.Event, ...]) -> None:
    assert given(*history).next_step() is None
