"""Each condition of `why`, met and not met, with its facts."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.events import Event
from guestledger.engine.domain.policy import Policy
from guestledger.engine.limits.policy import LimiterPolicy
from guestledger.engine.limits.retry import WaitBasis
from guestledger.engine.limits.state import LimiterState
from guestledger.engine.operations.conditions import Condition, ConditionName
from guestledger.engine.ports.legal_holds import LegalHold
from tests.unit.samples import (
    ABANDONED,
    ACTIVE,
    ASKED,
    ATTEMPTING,
    DETAIL,
    EXPIRED,
    EXPIRY,
    FAILED,
    LIMITER,
    OPEN,
    PARKED,
    REFUSED,
    THROTTLED,
    VALIDATED,
    at,
    contact_erased,
    was_held,
    was_purged,
    was_released,
    was_synced,
)
from tests.unit.waiting import BROKEN, CLOSED, DEADLINE, LIMITERS, OWNER, PACED, SPENT, main, waits

LIMITED = Policy(limiter=LimiterPolicy(calls=2))
KEPT_30_DAYS = Policy(retention_days=30)
OVER = (*EXPIRED, was_purged(), was_synced())
HELD = LegalHold(placed_at=at(7), placed_by="counsel", reason="matter 17")


def found(name: ConditionName, history: Sequence[Event], now: datetime, **given: Any) -> dict[str, Any]:
    """The facts of a condition: of the main step, or of the session."""
    if "state" in given:
        given["states"] = {LIMITER: given.pop("state")}
    explanation = waits(history, now, **given)
    of_session = name in (ConditionName.PERSON, ConditionName.LEGAL_HOLD)
    conditions = explanation.conditions if of_session else main(explanation).conditions
    [condition] = [condition for condition in conditions if condition.name is name]
    return facts(condition)


def facts(condition: Condition) -> dict[str, Any]:
    """What is known, without the name."""
    known = msgspec.structs.asdict(condition)
    return {
        name: value
        for name, value in known.items()
        if name == "met" or (name != "name" and value is not None and value is not False and value != "")
    }


def test_lease() -> None:
    assert found(ConditionName.LEASE, VALIDATED, at(3)) == {"met": True}
    assert found(ConditionName.LEASE, VALIDATED, at(3), owner=OWNER, lease_until=at(3)) == {"met": True}
    held = found(ConditionName.LEASE, VALIDATED, at(3), owner=OWNER, lease_until=at(13))
    assert held == {"met": False, "until": at(13), "owner": OWNER}


def test_due_time() -> None:
    assert found(ConditionName.DUE_TIME, THROTTLED, at(3)) == {"met": True, "at": at(2.25)}
    waiting = {"met": False, "until": at(2.25), "at": at(2.25), "cause": Cause.THROTTLED, "wait": ASKED}
    assert found(ConditionName.DUE_TIME, THROTTLED, at(1)) == waiting


def test_settings() -> None:
    assert found(ConditionName.SETTINGS, VALIDATED, at(3)) == {"met": True}
    elsewhere = {step: limiter for step, limiter in LIMITERS.items() if limiter != LIMITER}
    assert found(ConditionName.SETTINGS, VALIDATED, at(3), limiters=elsewhere) == {"met": False}


def test_pause() -> None:
    assert found(ConditionName.PAUSE, VALIDATED, at(3)) == {"met": True}
    in_force = {"until": at(60), "at": at(60), "closed_by": WaitBasis.RETRY_AFTER}
    assert found(ConditionName.PAUSE, VALIDATED, at(3), state=CLOSED) == {"met": False} | in_force


def test_a_pause_that_ends_before_the_due_time_is_met_and_still_shown() -> None:
    short = replace(CLOSED, closed_until=at(2), next_reservation=at(2))
    pause = found(ConditionName.PAUSE, THROTTLED, at(1), state=short)
    assert pause == {"met": True, "at": at(2), "closed_by": WaitBasis.RETRY_AFTER}


def test_circuit() -> None:
    closed = found(ConditionName.CIRCUIT, VALIDATED, at(3), state=LimiterState(failures=3))
    assert closed == {"met": True, "failures": 3, "limit": 10}
    broken = found(ConditionName.CIRCUIT, VALIDATED, at(3), state=BROKEN)
    assert broken == {"met": False, "until": at(30), "failures": 10, "limit": 10}
    probed = found(ConditionName.CIRCUIT, VALIDATED, at(31), state=replace(BROKEN, probe_until=at(61)))
    assert probed == {"met": False, "until": at(61), "failures": 10, "limit": 10, "probing": True}


def test_rate() -> None:
    assert found(ConditionName.RATE, VALIDATED, at(3), ahead=4) == {"met": True, "ahead": 4}
    free = found(ConditionName.RATE, VALIDATED, at(25), state=PACED)
    assert free == {"met": True, "rate": 1.0, "ahead": 0}
    used_up = found(ConditionName.RATE, VALIDATED, at(3), state=PACED)
    assert used_up == {"met": False, "until": at(20), "rate": 1.0, "ahead": 0}


def test_concurrency() -> None:
    assert found(ConditionName.CONCURRENCY, VALIDATED, at(3), in_flight=9) == {"met": True}
    free = found(ConditionName.CONCURRENCY, VALIDATED, at(3), policy=LIMITED, in_flight=1)
    assert free == {"met": True, "in_flight": 1, "limit": 2}
    full = found(ConditionName.CONCURRENCY, VALIDATED, at(3), policy=LIMITED, in_flight=2)
    assert full == {"met": False, "until": at(4), "in_flight": 2, "limit": 2}


def test_retry_budget() -> None:
    assert found(ConditionName.RETRY_BUDGET, VALIDATED, at(10), state=SPENT) == {"met": True}
    left = found(ConditionName.RETRY_BUDGET, FAILED, at(12), state=SPENT)
    assert left == {"met": True, "rate": 5, "retries_left": 10, "limit": 100}
    spent = found(ConditionName.RETRY_BUDGET, FAILED, at(10), state=SPENT)
    assert spent == {"met": False, "until": at(10.2), "rate": 5, "retries_left": 0.0, "limit": 100}


def test_deadline() -> None:
    in_time = found(ConditionName.DEADLINE, THROTTLED, at(1))
    assert in_time == {"met": True, "at": DEADLINE, "planned_at": at(2.25)}
    late = replace(CLOSED, closed_until=at(9_000), next_reservation=at(9_000))
    after = found(ConditionName.DEADLINE, THROTTLED, at(1), state=late)
    assert after == {"met": False, "at": DEADLINE, "planned_at": at(9_000)}


def test_a_wait_for_the_retry_budget_can_miss_the_deadline() -> None:
    spent = replace(SPENT, retry_budget_at=at(3_599.9))
    after = found(ConditionName.DEADLINE, FAILED, at(3_599.9), state=spent)
    assert after == {"met": False, "at": DEADLINE, "planned_at": at(3_600.1)}


def test_a_step_after_the_deadline_does_not_move() -> None:
    late = {LIMITER: replace(CLOSED, closed_until=at(9_000), next_reservation=at(9_000))}
    assert main(waits(THROTTLED, at(1), states=late)).moves_at is None


def test_person() -> None:
    assert found(ConditionName.PERSON, OPEN, at(3)) == {"met": True}
    parked = found(ConditionName.PERSON, PARKED, at(3))
    assert parked == {"met": False, "cause": Cause.ANSWER_TIMEOUT, "detail": DETAIL}


def test_legal_hold() -> None:
    now = EXPIRY + timedelta(days=31)
    assert found(ConditionName.LEGAL_HOLD, OVER, now, policy=KEPT_30_DAYS) == {"met": True}
    assert found(ConditionName.LEGAL_HOLD, (*OVER, was_held()), now) == {"met": False, "at": at(0)}
    released = (*OVER, was_held(), was_released())
    assert found(ConditionName.LEGAL_HOLD, released, now, policy=KEPT_30_DAYS) == {"met": True}


def test_a_hold_on_the_subject_is_shown_before_it_is_recorded_in_the_session() -> None:
    now = EXPIRY + timedelta(days=31)
    held = found(ConditionName.LEGAL_HOLD, OVER, now, policy=KEPT_30_DAYS, hold=HELD)
    assert held == {"met": False, "at": at(7)}


@pytest.mark.parametrize("history", [REFUSED, ABANDONED, OVER, (*OVER, contact_erased())])
def test_a_session_that_is_over_has_no_condition_of_its_own(history: Sequence[Event]) -> None:
    explanation = waits(history, at(9))
    assert explanation.conditions == ()
    assert explanation.ended_at is not None


@pytest.mark.parametrize("history", [ATTEMPTING, (*ACTIVE, was_synced()), EXPIRED[:-1]])
def test_a_step_that_sends_nothing_never_asks_a_limiter(history: Sequence[Event]) -> None:
    for step in waits(history, at(3), states={LIMITER: CLOSED}).steps:
        if step.limiter is None:
            names = [condition.name for condition in step.conditions]
            assert names == [ConditionName.LEASE, ConditionName.DUE_TIME, ConditionName.SETTINGS]
