"""Which steps a session needs, and when each is due."""

from datetime import datetime

import pytest

from guestledger.engine.domain import events as e
from guestledger.engine.domain.due import StepName
from guestledger.engine.domain.policy import Policy
from guestledger.engine.limits.retry import RetryPolicy
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
    PARKED,
    REFUSED,
    REJECTED,
    START,
    THROTTLED,
    VALIDATED,
    answer,
    at,
    created,
    enforce,
    lookup_failed,
    redelivery_requested,
    retry_decided,
    was_adopted,
    was_attempted,
    was_created,
    was_deferred,
    was_purged,
    was_synced,
    was_validated,
    webhook_abandoned,
    webhook_failed,
)

NO_WEBHOOK = Policy(webhook_enabled=False)
END = at(3_600.001)
"""One ms after the deadline."""

waiting = pytest.mark.parametrize(
    ("history", "when"),
    [(THROTTLED, at(2.25)), (IN_DOUBT, at(0.25)), (FAILED, at(0.25)), ((*VALIDATED, was_deferred()), at(1.5))],
    ids=["throttled", "in_doubt", "failed", "deferred"],
)


def test_an_accepted_request_is_due_for_validation_at_once() -> None:
    assert given(*OPEN).due() == {StepName.VALIDATE_CHANNEL: START, StepName.ENFORCE_DEADLINE: END}


def test_a_failed_lookup_is_due_again_after_its_wait() -> None:
    due = given(*OPEN, lookup_failed(retry_at=at(7))).due()
    assert due == {StepName.VALIDATE_CHANNEL: at(7), StepName.ENFORCE_DEADLINE: END}


def test_a_session_with_a_valid_channel_is_due_for_an_attempt_at_once() -> None:
    due = {StepName.CREATE_SESSION: START, StepName.ENFORCE_DEADLINE: END}
    assert given(*VALIDATED).due() == due
    assert given(*OPEN, lookup_failed(retry_at=at(7)), was_validated(at=at(8))).due() == due


@waiting
def test_an_unsuccessful_attempt_is_due_again_after_its_wait(history: tuple[e.Event, ...], when: datetime) -> None:
    assert given(*history).due() == {StepName.CREATE_SESSION: when, StepName.ENFORCE_DEADLINE: END}


def test_an_unanswered_attempt_is_due_for_settlement_since_it_was_made() -> None:
    assert given(*THROTTLED, was_attempted(2, at=at(3))).due() == {StepName.SETTLE_ATTEMPT: at(3)}


# The deadline


@pytest.mark.parametrize("history", [OPEN, VALIDATED, THROTTLED, IN_DOUBT, FAILED])
def test_the_deadline_is_enforced_one_ms_after_it(history: tuple[e.Event, ...]) -> None:
    policy = Policy(creation=RetryPolicy(deadline_ms=10_000))
    end = given(*history).due(policy)[StepName.ENFORCE_DEADLINE]
    assert end == at(10.001)
    given(*history).when(enforce(at(10)), policy).then_nothing()
    then = given(*history).when(enforce(end), policy).then_kinds(e.SessionAbandoned)
    assert then.due() == {}


def test_a_retry_decision_moves_the_deadline() -> None:
    due = given(*PARKED, retry_decided(at=at(100))).due()
    assert due == {StepName.CREATE_SESSION: at(100), StepName.ENFORCE_DEADLINE: at(3_700.001)}


# After the creation


def test_the_webhook_and_the_expiry_of_an_active_session_are_due_side_by_side() -> None:
    due = given(*ATTEMPTING, was_created(at=at(2))).due()
    assert due == {StepName.DELIVER_WEBHOOK: at(2), StepName.EXPIRE_TOKEN: EXPIRY}


@pytest.mark.parametrize("when", [at(60), EXPIRY, at(3_601)], ids=["before", "with", "after"])
def test_a_failed_webhook_is_due_again_after_its_wait(when: datetime) -> None:
    due = given(*ACTIVE, webhook_failed(retry_at=when)).due()
    assert due == {StepName.DELIVER_WEBHOOK: when, StepName.EXPIRE_TOKEN: EXPIRY}


@pytest.mark.parametrize("settled", [was_synced(), webhook_abandoned()], ids=["synced", "abandoned"])
def test_after_the_webhook_is_settled_only_the_expiry_is_due(settled: e.Event) -> None:
    assert given(*ACTIVE, settled).due() == {StepName.EXPIRE_TOKEN: EXPIRY}
    assert given(*EXPIRED, settled).due() == {StepName.PURGE_TOKEN: EXPIRY}
    assert given(*EXPIRED, settled, was_purged()).due() == {}


def test_a_token_without_an_expiry_time_has_no_expiry_step() -> None:
    endless = given(*ATTEMPTING).when(answer(created(expires_at=None)))
    assert endless.due() == {StepName.DELIVER_WEBHOOK: START}
    assert given(*ATTEMPTING, was_created(expires_at=None), was_synced()).due() == {}


def test_an_expired_session_still_owes_its_webhook() -> None:
    expired = (*EXPIRED, was_purged())
    assert given(*expired).due() == {StepName.DELIVER_WEBHOOK: START}
    assert given(*expired, webhook_failed(retry_at=at(4_000))).due() == {StepName.DELIVER_WEBHOOK: at(4_000)}


def test_a_session_created_without_a_webhook_owes_none() -> None:
    unowed = given(*ATTEMPTING).when(answer(created()), NO_WEBHOOK)
    unowed.then(was_created(webhook_owed=False))
    assert unowed.due() == {StepName.EXPIRE_TOKEN: EXPIRY}
    assert given(*PARKED, was_adopted(webhook_owed=False)).due() == {StepName.EXPIRE_TOKEN: EXPIRY}


@pytest.mark.parametrize("policy", [Policy(), NO_WEBHOOK], ids=["enabled", "disabled"])
def test_whether_a_webhook_is_owed_is_decided_once_at_the_creation(policy: Policy) -> None:
    assert StepName.DELIVER_WEBHOOK in given(*ACTIVE).due(policy)
    assert StepName.DELIVER_WEBHOOK in given(*ACTIVE, was_synced(), redelivery_requested()).due(policy)
    assert StepName.DELIVER_WEBHOOK not in given(*ATTEMPTING, was_created(webhook_owed=False)).due(policy)


@pytest.mark.parametrize(
    "history",
    [(), REFUSED, REJECTED, ABANDONED, PARKED],
    ids=["new", "refused", "rejected", "abandoned", "parked"],
)
def test_a_session_that_waits_for_nothing_has_no_due_step(history: tuple[e.Event, ...]) -> None:
    assert given(*history).due() == {}
