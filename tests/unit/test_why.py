"""`explain`: what blocks each due step, in the order in which a worker meets it, and when the step moves."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import pytest
from msgspec.structs import replace

from guestledger.engine.domain import events as e
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.due import StepName, due_steps
from guestledger.engine.domain.policy import Policy
from guestledger.engine.domain.session import fold
from guestledger.engine.limits.admission import AdmissionRequest, DenialReason
from guestledger.engine.limits.limiter import LimiterState, admit
from guestledger.engine.limits.policy import LimiterPolicy
from guestledger.engine.limits.retry import InDoubt, RetryPolicy, Wait, WaitBasis
from guestledger.engine.operations.explain import BlockedBy, Explanation, StepExplanation, explain
from guestledger.engine.ports.due_steps import DueRow, WorkStatus
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
    SESSION,
    START,
    THROTTLED,
    VALIDATED,
    at,
    doubt_lifted,
    lookup_failed,
    was_deferred,
    was_synced,
    webhook_failed,
)

RECEIVER = "hooks.example.com"
LIMITERS: Mapping[StepName, str | None] = {
    StepName.VALIDATE_CHANNEL: LIMITER,
    StepName.CREATE_SESSION: LIMITER,
    StepName.SETTLE_ATTEMPT: None,
    StepName.ENFORCE_DEADLINE: None,
    StepName.DELIVER_WEBHOOK: RECEIVER,
    StepName.EXPIRE_TOKEN: None,
}
OWNER = UUID(int=7)
DEADLINE = at(3_600)

CLOSED = LimiterState(
    closed_at=at(0),
    closed_until=at(60),
    closed_by=WaitBasis.RETRY_AFTER,
    paced_from=at(60),
    next_reservation=at(60),
)
SLOW = LimiterPolicy(initial_rate=0.1, unlimited_rate=1e9)
PACED = LimiterState(closed_at=at(0), closed_until=at(1), paced_from=at(1), ceiling=1.0, next_reservation=at(20))
BROKEN = LimiterState(failures=10, breaks=1, broken_at=at(0), broken_until=at(30))
SPENT = LimiterState(failures=3, retry_budget=0.0, retry_budget_at=at(10))

SECONDARY = (StepName.ENFORCE_DEADLINE, StepName.EXPIRE_TOKEN)


def waits(
    history: Sequence[e.Event],
    now: datetime,
    *,
    policy: Policy = Policy(),
    states: dict[str, LimiterState] | None = None,
    limiters: Mapping[StepName, str | None] = LIMITERS,
    in_flight: int = 0,
    stored: bool = True,
    **row: Any,
) -> Explanation:
    """Explain a session whose rows are as its last append left them. `row` changes the row of its main step."""
    state = fold(SESSION, history)
    rows = []
    for due in due_steps(state, policy) if stored else ():
        plain = {"step": due.step, "due_at": due.due_at, "owner": None, "lease_until": None, "ahead": 0}
        rows.append(DueRow(**(plain if due.step in SECONDARY else {**plain, **row})))
    work = WorkStatus(now=now, version=state.version, in_flight=in_flight, rows=tuple(rows))
    return explain(state, policy, work, events=history, limiters=limiters, states=states or {})


def main(explanation: Explanation) -> StepExplanation:
    """The step that makes a session or tells its webhook; without one, the only step."""
    steps = [step for step in explanation.steps if step.step not in SECONDARY] or explanation.steps
    [step] = steps
    return step


def blocked(explanation: Explanation) -> list[tuple[str, datetime | None]]:
    """What blocks the main step."""
    return [(blocker.by, blocker.until) for blocker in main(explanation).blockers]


# Nothing blocks it


@pytest.mark.parametrize("history", [OPEN, VALIDATED, THROTTLED, IN_DOUBT, FAILED, ATTEMPTING, ACTIVE])
def test_a_due_session_without_a_lease_waits_only_for_a_worker(history: tuple[e.Event, ...]) -> None:
    waiting = waits(history, at(3))
    assert (main(waiting).blockers, main(waiting).moves_at) == ((), at(3))
    assert (waiting.blockers, waiting.moves_at) == ((), at(3))


@pytest.mark.parametrize("history", [REFUSED, REJECTED, ABANDONED, (*EXPIRED, was_synced())])
def test_a_settled_session_has_no_due_step_and_no_blockers(history: tuple[e.Event, ...]) -> None:
    waiting = waits(history, at(9))
    assert (waiting.steps, waiting.blockers, waiting.moves_at, waiting.deadline) == ((), (), None, None)


def test_a_parked_session_waits_for_a_person_without_a_time() -> None:
    waiting = waits(PARKED, at(99_999))
    [blocker] = waiting.blockers
    assert (blocker.by, blocker.until) == (BlockedBy.PERSON, None)
    assert (blocker.cause, blocker.detail) == (Cause.ANSWER_TIMEOUT, DETAIL)
    assert (waiting.steps, waiting.moves_at, waiting.deadline) == ((), None, None)


def test_a_lapsed_lease_blocks_nothing() -> None:
    assert blocked(waits(VALIDATED, at(3), owner=OWNER, lease_until=at(3))) == []


# Leases and due times


@pytest.mark.parametrize("history", [OPEN, VALIDATED, THROTTLED, ACTIVE])
def test_a_leased_session_is_blocked_by_its_lease_and_not_by_its_limiter(history: tuple[e.Event, ...]) -> None:
    states = {LIMITER: CLOSED, RECEIVER: CLOSED}
    waiting = waits(history, at(3), owner=OWNER, lease_until=at(13), states=states)
    assert blocked(waiting) == [(BlockedBy.LEASE, at(13))]
    assert main(waiting).blockers[0].owner == OWNER
    assert main(waiting).moves_at == waiting.moves_at == at(13)


def test_an_attempt_in_flight_is_settled_when_its_lease_lapses() -> None:
    waiting = waits(ATTEMPTING, at(3), owner=OWNER, lease_until=at(13), states={LIMITER: CLOSED})
    assert [step.step for step in waiting.steps] == [StepName.SETTLE_ATTEMPT]
    assert blocked(waiting) == [(BlockedBy.LEASE, at(13))]
    assert (waiting.moves_at, waiting.deadline) == (at(13), None)


@pytest.mark.parametrize(
    ("history", "until", "cause", "detail", "wait"),
    [
        (THROTTLED, at(2.25), Cause.THROTTLED, "", ASKED),
        (FAILED, at(0.25), Cause.SERVER_ERROR, DETAIL, BACKOFF),
        (IN_DOUBT, at(0.25), Cause.ANSWER_TIMEOUT, DETAIL, BACKOFF),
        ((*OPEN, lookup_failed(retry_at=at(7))), at(7), Cause.SERVER_ERROR, DETAIL, BACKOFF),
        ((*VALIDATED, was_deferred()), at(1.5), Cause.RATE_LIMITED, f"closed {LIMITER}", HELD),
        ((*IN_DOUBT, doubt_lifted(retry_at=at(5))), at(5), Cause.REJECTED, DETAIL, None),
        ((*ACTIVE, webhook_failed(retry_at=at(60))), at(60), Cause.NOT_ACCEPTED, DETAIL, SCHEDULED),
        ((*ACTIVE, was_synced()), EXPIRY, None, "", None),
    ],
    ids=["throttled", "failed", "in doubt", "lookup", "deferred", "doubt lifted", "webhook", "expiry"],
)
def test_a_session_not_yet_due_waits_for_the_reason_in_its_history(
    history: tuple[e.Event, ...], until: datetime, cause: Cause | None, detail: str, wait: Wait | None
) -> None:
    waiting = waits(history, START)
    assert blocked(waiting) == [(BlockedBy.NOT_DUE, until)]
    [blocker] = main(waiting).blockers
    assert (blocker.cause, blocker.detail, blocker.wait) == (cause, detail, wait)
    assert main(waiting).moves_at == waiting.moves_at == until


def test_a_released_session_waits_for_its_release_delay() -> None:
    waiting = waits(THROTTLED, at(3), due_at=at(5))
    assert blocked(waiting) == [(BlockedBy.NOT_DUE, at(5))]
    [blocker] = main(waiting).blockers
    assert (blocker.cause, blocker.wait) == (None, None)


def test_a_wait_in_the_history_overrides_an_earlier_due_time() -> None:
    assert blocked(waits(THROTTLED, at(1), due_at=at(0))) == [(BlockedBy.NOT_DUE, at(2.25))]


def test_the_steps_of_an_active_session_are_explained_side_by_side() -> None:
    waiting = waits((*ACTIVE, webhook_failed(retry_at=at(4_000))), at(3), states={RECEIVER: CLOSED})
    webhook, expiry = waiting.steps[1], waiting.steps[0]
    assert (webhook.step, webhook.moves_at) == (StepName.DELIVER_WEBHOOK, at(4_000))
    assert (expiry.step, expiry.moves_at) == (StepName.EXPIRE_TOKEN, EXPIRY)
    assert waiting.moves_at == EXPIRY


# The rate limiter


def test_a_closed_limiter_blocks_a_session_until_it_opens() -> None:
    waiting = waits(VALIDATED, at(3), states={LIMITER: CLOSED})
    assert blocked(waiting) == [(DenialReason.CLOSED, at(60))]
    [blocker] = main(waiting).blockers
    assert blocker.denied is not None
    assert (blocker.denied.by, blocker.denied.closed_by) == (DenialReason.CLOSED, WaitBasis.RETRY_AFTER)
    assert main(waiting).moves_at == at(60)


def test_a_closed_limiter_of_another_api_blocks_nothing() -> None:
    assert blocked(waits(VALIDATED, at(3), states={RECEIVER: CLOSED, "other": BROKEN})) == []
    assert blocked(waits(ACTIVE, at(3), states={RECEIVER: CLOSED})) == [(DenialReason.CLOSED, at(60))]
    assert blocked(waits((*ACTIVE, was_synced()), EXPIRY, states={LIMITER: CLOSED, RECEIVER: CLOSED})) == []


def test_a_limiter_closed_beyond_the_due_time_is_the_next_blocker() -> None:
    waiting = waits(THROTTLED, at(1), states={LIMITER: CLOSED})
    assert blocked(waiting) == [(BlockedBy.NOT_DUE, at(2.25)), (DenialReason.CLOSED, at(60))]
    assert main(waiting).moves_at == at(60)
    later = (*VALIDATED, was_deferred(retry_at=at(61)))
    assert blocked(waits(later, at(1), states={LIMITER: CLOSED})) == [(BlockedBy.NOT_DUE, at(61))]


def test_an_open_breaker_behind_a_closed_limiter_is_the_next_blocker() -> None:
    both = replace(BROKEN, closed_until=at(20), closed_by=WaitBasis.QUOTA)
    assert blocked(waits(VALIDATED, at(3), states={LIMITER: both})) == [
        (DenialReason.CLOSED, at(20)),
        (DenialReason.CIRCUIT_OPEN, at(30)),
    ]


def test_an_open_breaker_blocks_until_a_probe_is_allowed_or_has_lapsed() -> None:
    assert blocked(waits(VALIDATED, at(3), states={LIMITER: BROKEN})) == [(DenialReason.CIRCUIT_OPEN, at(30))]
    assert blocked(waits(VALIDATED, at(30), states={LIMITER: BROKEN})) == []
    probed = replace(BROKEN, probe_until=at(61))
    assert blocked(waits(VALIDATED, at(31), states={LIMITER: probed})) == [(DenialReason.CIRCUIT_OPEN, at(61))]


def test_a_paced_limiter_blocks_by_the_number_of_sessions_due_before() -> None:
    policy = Policy(limiter=SLOW)
    assert blocked(waits(VALIDATED, at(3), policy=policy, states={LIMITER: PACED})) == [(DenialReason.RATE, at(20))]
    rate = PACED.rate(at(3), SLOW)
    assert rate is not None
    queued = main(waits(VALIDATED, at(3), policy=policy, states={LIMITER: PACED}, ahead=8))
    assert queued.moves_at is not None
    assert abs((queued.moves_at - at(20 + 8 / rate)).total_seconds()) < 0.001
    assert queued.blockers[0].ahead == 8


def test_sessions_due_before_do_not_block_if_capacity_is_sufficient() -> None:
    assert blocked(waits(VALIDATED, at(3), ahead=10_000)) == []
    fast = replace(PACED, next_reservation=None, ceiling=1_000.0, paced_from=at(-10))
    assert blocked(waits(VALIDATED, at(3), states={LIMITER: fast}, ahead=5)) == []


def test_calls_in_flight_block_a_session_at_the_call_limit() -> None:
    limited = Policy(limiter=LimiterPolicy(calls=2))
    full = [(DenialReason.CONCURRENCY, at(4))]
    assert blocked(waits(VALIDATED, at(3), policy=limited, in_flight=2)) == full
    assert blocked(waits(VALIDATED, at(3), policy=limited, in_flight=1)) == []
    assert blocked(waits(VALIDATED, at(3), policy=limited, in_flight=1, ahead=1)) == full
    assert blocked(waits(VALIDATED, at(3), in_flight=2)) == []
    assert blocked(waits(THROTTLED, at(0), policy=limited, in_flight=2)) == [(BlockedBy.NOT_DUE, at(2.25))]
    assert blocked(waits(OPEN, at(3), policy=limited, in_flight=2)) == full
    assert blocked(waits(ATTEMPTING, at(3), policy=limited, in_flight=2)) == []
    assert blocked(waits(ACTIVE, at(3), policy=limited, in_flight=2)) == []


def test_an_exhausted_retry_budget_blocks_only_retries() -> None:
    waiting = waits(FAILED, at(10), states={LIMITER: SPENT})
    assert blocked(waiting) == [(DenialReason.RETRY_BUDGET, at(10.2))]
    assert blocked(waits(FAILED, at(10.3), states={LIMITER: SPENT})) == []
    assert blocked(waits(VALIDATED, at(10), states={LIMITER: SPENT})) == []
    assert blocked(waits(THROTTLED, at(10), states={LIMITER: SPENT})) == []


def test_an_exhausted_retry_budget_blocks_a_repeated_lookup() -> None:
    failed = (*OPEN, lookup_failed(retry_at=at(9)))
    assert blocked(waits(failed, at(10), states={LIMITER: SPENT})) == [(DenialReason.RETRY_BUDGET, at(10.2))]
    assert blocked(waits(failed, at(10.3), states={LIMITER: SPENT})) == []
    assert blocked(waits(OPEN, at(10), states={LIMITER: SPENT})) == []
    spent = replace(SPENT, retry_budget_at=at(4_000))
    assert blocked(waits(failed, at(4_000), states={LIMITER: spent})) == [], "it is given up instead"


def test_an_unanswered_attempt_is_not_blocked_by_the_retry_budget() -> None:
    assert blocked(waits(ATTEMPTING, at(10), states={LIMITER: SPENT})) == []


def test_the_explained_budget_denial_equals_the_limiters() -> None:
    request = AdmissionRequest(limiter=LIMITER, retry=True, reserved=True)
    _, denied = admit(SPENT, request, at(10), LimiterPolicy())
    assert denied is not None
    [blocker] = main(waits(FAILED, at(10), states={LIMITER: SPENT})).blockers
    assert (blocker.by, blocker.until, blocker.denied) == (denied.by, denied.until, denied)


# The deadline


def test_the_deadline_is_shown_while_an_attempt_is_due() -> None:
    assert waits(OPEN, at(3)).deadline == DEADLINE
    assert waits(THROTTLED, at(1)).deadline == DEADLINE
    assert waits(ATTEMPTING, at(1)).deadline is None
    assert waits(ACTIVE, at(3)).deadline is None


def test_a_closed_limiter_blocks_a_session_no_longer_than_its_deadline() -> None:
    late = {LIMITER: LimiterState(closed_until=at(9_000), closed_by=WaitBasis.RETRY_AFTER)}
    free = waits(FAILED, at(3_601))
    assert (main(free).blockers, free.moves_at) == ((), at(3_601))

    behind = waits(FAILED, at(3_599), states=late)
    assert blocked(behind) == [(DenialReason.CLOSED, at(9_000))]
    assert {step.step: step.moves_at for step in behind.steps} == {
        StepName.CREATE_SESSION: at(9_000),
        StepName.ENFORCE_DEADLINE: at(3_600.001),
    }
    assert behind.moves_at == at(3_600.001)
    assert waits(FAILED, at(3_600.001), states=late).moves_at == at(3_600.001)


# Settings


def test_an_unknown_limiter_is_reported_as_missing_settings() -> None:
    unknown = {**LIMITERS, StepName.CREATE_SESSION: ""}
    waiting = waits(VALIDATED, at(3), states={LIMITER: CLOSED}, limiters=unknown)
    assert blocked(waiting) == [(BlockedBy.SETTINGS, None)]
    assert main(waiting).moves_at is None
    assert waiting.moves_at == at(3_600.001), "its deadline ends it"
    assert blocked(waits(VALIDATED, at(3), limiters=unknown)) == []


def test_a_due_step_is_explained_without_the_workers_settings() -> None:
    webhookless = {step: limiter for step, limiter in LIMITERS.items() if step is not StepName.DELIVER_WEBHOOK}
    waiting = waits(ACTIVE, at(3), policy=Policy(webhook_enabled=False), limiters=webhookless, due_at=at(60))
    assert main(waiting).step is StepName.DELIVER_WEBHOOK
    assert blocked(waiting) == [(BlockedBy.NOT_DUE, at(60)), (BlockedBy.SETTINGS, None)]
    assert main(waiting).moves_at is None

    missing = waits(EXPIRED, EXPIRY, stored=False)
    assert [(blocker.by, blocker.until) for blocker in missing.blockers] == [(BlockedBy.SETTINGS, None)]
    assert (missing.steps, missing.moves_at) == ((), None)


def test_a_session_in_doubt_keeps_its_wait_under_a_parking_policy() -> None:
    parking = Policy(creation=RetryPolicy(in_doubt=InDoubt.PARK))
    assert blocked(waits(IN_DOUBT, START, policy=parking)) == [(BlockedBy.NOT_DUE, at(0.25))]
