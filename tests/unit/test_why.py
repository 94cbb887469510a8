"""`explain`: what blocks each due step, in the order in which a worker meets it, and when the step moves."""

from datetime import datetime, timedelta

import pytest

from guestledger.engine.domain import events as e
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.due import StepName
from guestledger.engine.domain.policy import Policy
from guestledger.engine.limits.retry import InDoubt, RetryPolicy, Wait, WaitBasis
from guestledger.engine.limits.state import LimiterState
from guestledger.engine.operations.conditions import ConditionName
from tests.unit.samples import (
    ABANDONED,
    ACTIVE,
    ASKED,
    ATTEMPTING,
    BACKOFF,
    DETAIL,
    EXPIRED,
    EXPIRY,
    FAILED,
    HELD,
    IN_DOUBT,
    LIMITER,
    OPEN,
    PARKED,
    REFUSED,
    REJECTED,
    SCHEDULED,
    START,
    THROTTLED,
    VALIDATED,
    at,
    clock_set_back,
    doubt_lifted,
    lookup_failed,
    was_deferred,
    was_purged,
    was_synced,
    webhook_failed,
)
from tests.unit.waiting import CLOSED, DEADLINE, LIMITERS, OWNER, RECEIVER, blocked, main, waits

DAY = timedelta(days=1)

# All conditions met


@pytest.mark.parametrize("history", [OPEN, VALIDATED, THROTTLED, IN_DOUBT, FAILED, ATTEMPTING, ACTIVE])
def test_a_due_session_without_a_lease_waits_only_for_a_worker(history: tuple[e.Event, ...]) -> None:
    waiting = waits(history, at(3))
    assert (main(waiting).unmet, main(waiting).moves_at) == ((), at(3))
    assert (waiting.unmet, waiting.moves_at) == ((), at(3))


@pytest.mark.parametrize("history", [REFUSED, REJECTED, ABANDONED, (*EXPIRED, was_purged(), was_synced())])
def test_a_settled_session_has_no_due_step_and_no_condition(history: tuple[e.Event, ...]) -> None:
    waiting = waits(history, at(9))
    assert (waiting.steps, waiting.unmet, waiting.moves_at, waiting.deadline) == ((), (), None, None)


def test_a_parked_session_waits_for_a_person_without_a_time() -> None:
    waiting = waits(PARKED, at(99_999))
    [condition] = waiting.unmet
    assert (condition.name, condition.until) == (ConditionName.PERSON, None)
    assert (condition.cause, condition.detail) == (Cause.ANSWER_TIMEOUT, DETAIL)
    assert (waiting.steps, waiting.moves_at, waiting.deadline) == ((), None, None)


def test_a_lapsed_lease_blocks_nothing() -> None:
    assert blocked(waits(VALIDATED, at(3), owner=OWNER, lease_until=at(3))) == []


# Leases and due times


@pytest.mark.parametrize("history", [OPEN, VALIDATED, THROTTLED, ACTIVE])
def test_a_leased_session_is_blocked_by_its_lease_and_not_by_its_limiter(history: tuple[e.Event, ...]) -> None:
    states = {LIMITER: CLOSED, RECEIVER: CLOSED}
    waiting = waits(history, at(3), owner=OWNER, lease_until=at(13), states=states)
    assert blocked(waiting) == [(ConditionName.LEASE, at(13))]
    assert main(waiting).unmet[0].owner == OWNER
    assert main(waiting).moves_at == waiting.moves_at == at(13)


def test_an_attempt_in_flight_is_settled_when_its_lease_lapses() -> None:
    waiting = waits(ATTEMPTING, at(3), owner=OWNER, lease_until=at(13), states={LIMITER: CLOSED})
    assert [step.step for step in waiting.steps] == [StepName.SETTLE_ATTEMPT]
    assert blocked(waiting) == [(ConditionName.LEASE, at(13))]
    assert (waiting.moves_at, waiting.deadline) == (at(13), None)


@pytest.mark.parametrize(
    ("history", "until", "cause", "detail", "wait"),
    [
        (THROTTLED, at(2.25), Cause.THROTTLED, "", ASKED),
        (FAILED, at(0.25), Cause.SERVER_ERROR, DETAIL, BACKOFF),
        (IN_DOUBT, at(0.25), Cause.ANSWER_TIMEOUT, DETAIL, BACKOFF),
        ((*OPEN, lookup_failed(retry_at=at(7))), at(7), Cause.SERVER_ERROR, DETAIL, BACKOFF),
        ((*VALIDATED, was_deferred()), at(1.5), Cause.RATE_LIMITED, f"closed {LIMITER}", HELD),
        ((*THROTTLED, clock_set_back(back_ms=2_000)), at(0.25), Cause.THROTTLED, "", ASKED),
        ((*IN_DOUBT, doubt_lifted(retry_at=at(5))), at(5), Cause.REJECTED, DETAIL, None),
        ((*ACTIVE, webhook_failed(retry_at=at(60))), at(60), Cause.NOT_ACCEPTED, DETAIL, SCHEDULED),
        ((*ACTIVE, was_synced()), EXPIRY, None, "", None),
    ],
    ids=[
        "throttled",
        "failed",
        "in doubt",
        "lookup",
        "deferred",
        "clock set back",
        "doubt lifted",
        "webhook",
        "expiry",
    ],
)
def test_a_session_not_yet_due_waits_for_the_reason_in_its_history(
    history: tuple[e.Event, ...], until: datetime, cause: Cause | None, detail: str, wait: Wait | None
) -> None:
    waiting = waits(history, START)
    assert blocked(waiting) == [(ConditionName.DUE_TIME, until)]
    [condition] = main(waiting).unmet
    assert (condition.cause, condition.detail, condition.wait) == (cause, detail, wait)
    assert main(waiting).moves_at == waiting.moves_at == until


def test_a_released_session_waits_for_its_release_delay() -> None:
    waiting = waits(THROTTLED, at(3), due_at=at(5))
    assert blocked(waiting) == [(ConditionName.DUE_TIME, at(5))]
    [condition] = main(waiting).unmet
    assert (condition.cause, condition.wait) == (None, None)


def test_a_wait_in_the_history_overrides_an_earlier_due_time() -> None:
    assert blocked(waits(THROTTLED, at(1), due_at=at(0))) == [(ConditionName.DUE_TIME, at(2.25))]


def test_the_steps_of_an_active_session_are_explained_side_by_side() -> None:
    waiting = waits((*ACTIVE, webhook_failed(retry_at=at(4_000))), at(3), states={RECEIVER: CLOSED})
    webhook, expiry = waiting.steps[1], waiting.steps[0]
    assert (webhook.step, webhook.moves_at) == (StepName.DELIVER_WEBHOOK, at(4_000))
    assert (expiry.step, expiry.moves_at) == (StepName.EXPIRE_TOKEN, EXPIRY)
    assert waiting.moves_at == EXPIRY


# The deadline


@pytest.mark.parametrize("days_before", [None, 90])
def test_the_erasure_comes_when_the_present_policy_says(days_before: int | None) -> None:
    waiting = waits(ABANDONED, at(3), policy=Policy(retention_days=30), planned=Policy(retention_days=days_before))
    assert [(step.step, step.moves_at) for step in waiting.steps] == [(StepName.ERASE_CONTACT, START + 30 * DAY)]
    assert [(one.name, one.met) for one in waiting.conditions] == [(ConditionName.LEGAL_HOLD, True)]


def test_the_deadline_is_shown_while_an_attempt_is_due() -> None:
    assert waits(OPEN, at(3)).deadline == DEADLINE
    assert waits(THROTTLED, at(1)).deadline == DEADLINE
    assert waits(ATTEMPTING, at(1)).deadline is None
    assert waits(ACTIVE, at(3)).deadline is None


def test_a_closed_limiter_blocks_a_session_no_longer_than_its_deadline() -> None:
    late = {LIMITER: LimiterState(closed_until=at(9_000), closed_by=WaitBasis.RETRY_AFTER)}
    free = waits(FAILED, at(3_601))
    assert (blocked(free), free.moves_at) == ([(ConditionName.DEADLINE, None)], at(3_601))

    behind = waits(FAILED, at(3_599), states=late)
    assert blocked(behind) == [(ConditionName.PAUSE, at(9_000)), (ConditionName.DEADLINE, None)]
    assert {step.step: step.moves_at for step in behind.steps} == {
        StepName.CREATE_SESSION: None,
        StepName.ENFORCE_DEADLINE: at(3_600.001),
    }
    assert behind.moves_at == at(3_600.001)
    assert waits(FAILED, at(3_600.001), states=late).moves_at == at(3_600.001)


# Settings


def test_an_unknown_limiter_is_reported_as_missing_settings() -> None:
    unknown = {**LIMITERS, StepName.CREATE_SESSION: ""}
    waiting = waits(VALIDATED, at(3), states={LIMITER: CLOSED}, limiters=unknown)
    assert blocked(waiting) == [(ConditionName.SETTINGS, None)]
    assert main(waiting).moves_at is None
    assert waiting.moves_at == at(3_600.001), "its deadline ends it"
    assert blocked(waits(VALIDATED, at(3), limiters=unknown)) == []


def test_a_due_step_is_explained_without_the_workers_settings() -> None:
    webhookless = {step: limiter for step, limiter in LIMITERS.items() if step is not StepName.DELIVER_WEBHOOK}
    waiting = waits(ACTIVE, at(3), policy=Policy(webhook_enabled=False), limiters=webhookless, due_at=at(60))
    assert main(waiting).step is StepName.DELIVER_WEBHOOK
    assert blocked(waiting) == [(ConditionName.DUE_TIME, at(60)), (ConditionName.SETTINGS, None)]
    assert main(waiting).moves_at is None

    missing = waits(EXPIRED, EXPIRY, stored=False)
    assert [(condition.name, condition.until) for condition in missing.unmet] == [(ConditionName.SETTINGS, None)]
    assert (missing.steps, missing.moves_at) == ((), None)


def test_a_session_in_doubt_keeps_its_wait_under_a_parking_policy() -> None:
    parking = Policy(creation=RetryPolicy(in_doubt=InDoubt.PARK))
    assert blocked(waits(IN_DOUBT, START, policy=parking)) == [(ConditionName.DUE_TIME, at(0.25))]
