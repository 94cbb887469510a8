"""Why a session waits: what a worker would meet on the way to its next step, in that order, and the time behind it."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import pytest
from guestledger.engine.work import DueStepRow
from msgspec.structs import replace

from guestledger.adapters.cli.why import why
from guestledger.engine.domain import events as e
from guestledger.engine.domain.lifecycle import Policy, ends_at, next_step
from guestledger.engine.domain.session import fold
from guestledger.engine.limits.admission import AdmissionRequest, DenialReason
from guestledger.engine.limits.limiter import LimiterState, admit
from guestledger.engine.limits.policy import LimiterPolicy
from guestledger.engine.limits.retry import InDoubt, RetryPolicy
from guestledger.engine.operations.explain import Explanation, Wait
from guestledger.engine.ports.due_steps import WorkStatus
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

API, RECEIVER = "api.example.com sessions", "hooks.example.com"
PASSED = {"ValidateChannel": API, "AttemptCreation": API, "SyncWebhook": RECEIVER, "ExpireToken": None}
OWNER = UUID(int=7)
DEADLINE = at(3_600)

CLOSED = LimiterState(
    closed_at=at(0), closed_until=at(60), why="Retry-After of 60 s", paced_from=at(60), next_slot=at(60)
)
SLOW = LimiterPolicy(first_rate=0.1, boundless_rate=1e9)
PACED = LimiterState(closed_at=at(0), closed_until=at(1), paced_from=at(1), ceiling=1.0, next_slot=at(20))
BROKEN = LimiterState(failures=10, breaks=1, broken_at=at(0), broken_until=at(30))
SPENT = LimiterState(failures=3, retries=0.0, retries_at=at(10))


def waits(
    history: Sequence[e.Event],
    now: datetime,
    *,
    policy: Policy = Policy(),
    limiters: dict[str, LimiterState] | None = None,
    passed: dict[str, str | None] = PASSED,
    in_flight: int = 0,
    **row: Any,
) -> Explanation:
    """What is said of a session with this history, whose due work is as its last append left it, but for what `row` says."""
    state = fold(SESSION, history)
    step = next_step(state, policy)
    found = None
    if step is not None and row.pop("there", True):
        plain = {
            "step": type(step).__name__,
            "due_at": step.not_before,
            "owner": None,
            "lease_until": None,
            "ends_at": ends_at(state, policy),
            "ahead": 0,
        }
        found = DueStepRow(**{**plain, **row})
    work = WorkStatus(now=now, version=state.version, in_flight=in_flight, row=found)
    return why(state, policy, work, events=history, passed=passed, limiters=limiters or {})


def held(waiting: Explanation) -> list[tuple[str, datetime | None]]:
    return [(hold.by, hold.until) for hold in waiting.holds]


# Nothing holds it


@pytest.mark.parametrize("history", [OPEN, VALIDATED, THROTTLED, IN_DOUBT, FAILED, ACTIVE])
def test_what_is_due_and_free_waits_for_nothing_but_a_worker(history: tuple[e.Event, ...]) -> None:
    waiting = waits(history, at(3))
    assert (waiting.holds, waiting.moves_at) == ((), at(3))
    assert "`guestledger worker`" in waiting.outlook


@pytest.mark.parametrize("history", [REFUSED, REJECTED, ABANDONED, (*EXPIRED, was_synced())])
def test_of_a_settled_session_nothing_more_is_to_be_expected(history: tuple[e.Event, ...]) -> None:
    waiting = waits(history, at(9))
    assert (waiting.step, waiting.holds, waiting.moves_at, waiting.deadline) == (None, (), None, None)
    assert "nothing more is to be done, ever" in waiting.outlook


def test_a_parked_session_waits_for_a_person_and_for_no_time() -> None:
    waiting = waits(PARKED, at(99_999))
    assert held(waiting) == [(Wait.PERSON, None)]
    assert "guestledger resolve" in waiting.holds[0].reason
    assert "guestledger resolve" in waiting.outlook
    assert (waiting.step, waiting.moves_at, waiting.deadline) == (None, None, None)


def test_a_lapsed_lease_holds_nothing() -> None:
    assert waits(VALIDATED, at(3), owner=OWNER, lease_until=at(3)).holds == ()


# Leases and due times


def test_a_leased_session_is_somebody_elses_until_the_lease_lapses_whatever_its_gate_is_like() -> None:
    waiting = waits(ATTEMPTING, at(3), owner=OWNER, lease_until=at(13), limiters={API: CLOSED})
    assert held(waiting) == [(Wait.LEASE, at(13))]
    assert (waiting.step, waiting.moves_at) == ("AttemptCreation", at(13))
    assert "recorded as in doubt" in waiting.outlook


@pytest.mark.parametrize(
    ("history", "until", "reason"),
    [
        (THROTTLED, at(2.25), "Retry-After of 2000 ms, plus 250 ms backoff"),
        (FAILED, at(0.25), "it is unavailable: 250 ms backoff"),
        (IN_DOUBT, at(0.25), "it is in_doubt: 250 ms backoff"),
        ((*OPEN, lookup_failed(retry_at=at(7))), at(7), "CXone answered 503: 250 ms backoff"),
        ((*VALIDATED, was_deferred()), at(1.5), "the limiter is closed: Retry-After of 2000 ms"),
        ((*IN_DOUBT, doubt_lifted(retry_at=at(5), message="nothing came of it")), at(5), "nothing came of it"),
        ((*ACTIVE, webhook_failed(retry_at=at(60))), at(60), "answered 500: 500 ms by the schedule, plus 0 ms jitter"),
        ((*ACTIVE, was_synced()), EXPIRY, "its token expires then"),
    ],
)
def test_what_is_not_due_yet_waits_until_then_for_the_reason_that_the_history_gives(
    history: tuple[e.Event, ...], until: datetime, reason: str
) -> None:
    waiting = waits(history, START)
    assert held(waiting) == [(Wait.DUE, until)]
    assert waiting.holds[0].reason == reason
    assert waiting.moves_at == until


def test_what_a_worker_gave_back_rests_for_that_and_not_for_its_last_wait() -> None:
    waiting = waits(THROTTLED, at(3), due_at=at(5))
    assert held(waiting) == [(Wait.DUE, at(5))]
    assert "gave it back" in waiting.holds[0].reason


def test_a_wait_that_the_history_asks_for_is_kept_even_when_the_due_work_says_otherwise() -> None:
    assert held(waits(THROTTLED, at(1), due_at=at(0))) == [(Wait.DUE, at(2.25))]


# RateLimiter


def test_a_closed_gate_holds_it_until_it_opens() -> None:
    waiting = waits(VALIDATED, at(3), limiters={API: CLOSED})
    assert held(waiting) == [(DenialReason.GATE, at(60))]
    assert waiting.holds[0].reason == "the limiter is closed: Retry-After of 60 s"
    assert waiting.moves_at == at(60)


def test_a_closed_gate_of_another_api_holds_nothing() -> None:
    assert waits(VALIDATED, at(3), limiters={RECEIVER: CLOSED, "other": BROKEN}).holds == ()
    assert held(waits(ACTIVE, at(3), limiters={RECEIVER: CLOSED})) == [(DenialReason.GATE, at(60))]
    assert held(waits((*ACTIVE, was_synced()), EXPIRY, limiters={API: CLOSED, RECEIVER: CLOSED})) == []


def test_a_gate_that_is_shut_beyond_the_due_time_is_met_after_it() -> None:
    waiting = waits(THROTTLED, at(1), limiters={API: CLOSED})
    assert held(waiting) == [(Wait.DUE, at(2.25)), (DenialReason.GATE, at(60))]
    assert waiting.moves_at == at(60)
    assert held(waits((*VALIDATED, was_deferred(retry_at=at(61))), at(1), limiters={API: CLOSED})) == [
        (Wait.DUE, at(61))
    ]


def test_a_circuit_that_breaks_behind_a_closed_gate_is_met_after_it() -> None:
    both = replace(BROKEN, closed_until=at(20), why="Retry-After of 20 s")
    assert held(waits(VALIDATED, at(3), limiters={API: both})) == [
        (DenialReason.GATE, at(20)),
        (DenialReason.BREAKER, at(30)),
    ]


def test_a_broken_circuit_holds_it_until_one_may_probe_and_a_probe_until_it_is_given_up() -> None:
    assert held(waits(VALIDATED, at(3), limiters={API: BROKEN})) == [(DenialReason.BREAKER, at(30))]
    assert held(waits(VALIDATED, at(30), limiters={API: BROKEN})) == []
    probed = replace(BROKEN, probe_until=at(61))
    assert held(waits(VALIDATED, at(31), limiters={API: probed})) == [(DenialReason.BREAKER, at(61))]


def test_behind_a_pace_it_waits_for_its_slot_which_is_as_far_off_as_others_were_due_before_it() -> None:
    policy = Policy(limiter=SLOW)
    assert held(waits(VALIDATED, at(3), policy=policy, limiters={API: PACED})) == [(DenialReason.PACE, at(20))]
    rate = PACED.rate(at(3), SLOW)
    assert rate is not None
    queued = waits(VALIDATED, at(3), policy=policy, limiters={API: PACED}, ahead=8)
    assert queued.moves_at is not None
    assert abs((queued.moves_at - at(20 + 8 / rate)).total_seconds()) < 0.001
    assert "due before it: 8" in queued.holds[0].reason


def test_as_many_as_come_first_do_not_matter_where_there_is_room_for_all() -> None:
    assert waits(VALIDATED, at(3), ahead=10_000).holds == ()
    one_a_moment = replace(PACED, next_slot=None, ceiling=1_000.0, paced_from=at(-10))
    assert waits(VALIDATED, at(3), limiters={API: one_a_moment}, ahead=5).holds == ()


def test_calls_in_flight_hold_it_where_their_number_is_limited() -> None:
    limited = Policy(limiter=LimiterPolicy(calls=2))
    waiting = waits(VALIDATED, at(3), policy=limited, in_flight=2)
    assert held(waiting) == [(DenialReason.CALLS, at(4))]
    assert held(waits(VALIDATED, at(3), policy=limited, in_flight=1)) == []
    assert held(waits(VALIDATED, at(3), policy=limited, in_flight=1, ahead=1)) == [(DenialReason.CALLS, at(4))]
    assert held(waits(THROTTLED, at(0), policy=limited, in_flight=2)) == [(Wait.DUE, at(2.25))]
    assert held(waits(OPEN, at(3), policy=limited, in_flight=2)) == [(DenialReason.CALLS, at(4))]
    assert held(waits(ACTIVE, at(3), policy=limited, in_flight=2)) == []


def test_a_spent_budget_holds_retries_and_no_first_attempts() -> None:
    waiting = waits(FAILED, at(10), limiters={API: SPENT})
    assert held(waiting) == [(DenialReason.BUDGET, at(10.2))]
    assert held(waits(FAILED, at(10.3), limiters={API: SPENT})) == []
    assert held(waits(VALIDATED, at(10), limiters={API: SPENT})) == []
    assert held(waits(THROTTLED, at(10), limiters={API: SPENT})) == []


def test_a_spent_budget_holds_a_look_up_after_one_that_failed() -> None:
    failed = (*OPEN, lookup_failed(retry_at=at(9)))
    assert held(waits(failed, at(10), limiters={API: SPENT})) == [(DenialReason.BUDGET, at(10.2))]
    assert held(waits(failed, at(10.3), limiters={API: SPENT})) == []
    assert held(waits(OPEN, at(10), limiters={API: SPENT})) == []
    assert held(waits(failed, at(4_000), limiters={API: replace(SPENT, retries_at=at(4_000))})) == [], "it is given up"


def test_an_attempt_without_an_answer_is_recorded_before_any_budget_is_asked() -> None:
    waiting = waits(ATTEMPTING, at(10), limiters={API: SPENT})
    assert waiting.holds == ()
    assert "in doubt" in waiting.outlook


# The deadline


def test_its_deadline_is_told_for_as_long_as_a_session_is_to_be_made() -> None:
    assert waits(OPEN, at(3)).deadline == DEADLINE
    assert waits(THROTTLED, at(1)).deadline == DEADLINE
    assert waits(ACTIVE, at(3)).deadline is None


def test_past_its_deadline_it_is_given_up_even_behind_a_closed_limiter() -> None:
    late = LimiterState(closed_until=at(9_000), why="Retry-After of a long time")
    free = waits(FAILED, at(3_601))
    assert (free.holds, free.moves_at) == ((), at(3_601))
    assert "given up" in free.outlook

    behind = waits(FAILED, at(3_599), limiters={API: late})
    assert held(behind) == [(DenialReason.GATE, at(3_600.001))]
    assert behind.moves_at == at(3_600.001)
    assert "given up" in behind.outlook
    assert waits(FAILED, at(3_600.001), limiters={API: late}).holds == ()


# Settings


def test_where_the_gate_is_not_known_for_want_of_settings_it_says_so_rather_than_nothing() -> None:
    nameless = {**PASSED, "AttemptCreation": ""}
    waiting = waits(VALIDATED, at(3), limiters={API: CLOSED}, passed=nameless)
    assert held(waiting) == [(Wait.SETTINGS, None)]
    assert waiting.moves_at is None
    assert waits(VALIDATED, at(3), passed=nameless).holds == ()


def test_what_was_left_is_told_even_when_the_settings_here_are_not_the_workers() -> None:
    without = Policy(webhook_enabled=False)
    waiting = waits(ACTIVE, at(3), policy=without, step="SyncWebhook", due_at=at(60))
    assert (waiting.step, held(waiting)) == ("SyncWebhook", [(Wait.DUE, at(60)), (Wait.SETTINGS, None)])
    nothing_left = waits(EXPIRED, EXPIRY, there=False)
    assert held(nothing_left) == [(Wait.SETTINGS, None)]
    assert (nothing_left.moves_at, nothing_left.outlook) == (None, "no worker comes by it")


def test_a_session_in_doubt_that_is_to_be_parked_still_waits_as_it_was_decided() -> None:
    parking = Policy(creation=RetryPolicy(in_doubt=InDoubt.PARK))
    assert held(waits(IN_DOUBT, START, policy=parking)) == [(Wait.DUE, at(0.25))]


def test_the_budget_that_is_told_is_the_one_that_an_attempt_meets() -> None:
    _, met = admit(SPENT, AdmissionRequest(limiter=API, retry=True, slotted=True), at(10), LimiterPolicy())
    assert met is not None
    [told] = waits(FAILED, at(10), limiters={API: SPENT}).holds
    assert (told.by, told.until, told.reason) == (met.by, met.until, met.reason)
