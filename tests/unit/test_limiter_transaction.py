"""The limiters of one transaction, with the limit on calls in flight."""

from typing import Any

from msgspec.structs import replace

from guestledger.adapters.postgres.limits.rate_limiter import LimiterTransaction
from guestledger.engine.limits.admission import DenialReason
from guestledger.engine.limits.feedback import Observation
from guestledger.engine.limits.policy import LimiterPolicy
from guestledger.engine.limits.state import LimiterState
from tests.unit.limiters import FIRST, NAME, RESERVED, RETRY, new, paced, seen
from tests.unit.samples import at


def transaction(
    limiter: LimiterState | None = None, now: float = 0, in_flight: int = 0, **policy: Any
) -> LimiterTransaction:
    return LimiterTransaction({} if limiter is None else {NAME: limiter}, at(now), LimiterPolicy(**policy), in_flight)


def test_admissions_never_exceed_the_call_limit() -> None:
    limiters = transaction(in_flight=3, calls=5)
    assert [limiters.admit(FIRST) for _ in range(2)] == [None, None]
    denied = limiters.admit(FIRST)
    assert denied is not None
    assert denied.by is DenialReason.CONCURRENCY
    assert denied.in_flight == 5
    assert limiters.admit(RESERVED) is None, "a reservation counts already"


def test_reservations_never_exceed_the_call_limit() -> None:
    limiters = transaction(in_flight=3, calls=5)
    free, denied = limiters.capacity(NAME, 10)
    assert len(free) == 2
    assert denied is not None
    assert denied.by is DenialReason.CONCURRENCY
    assert limiters.reserve(NAME, 1) == [at(0)]
    assert len(limiters.capacity(NAME, 10)[0]) == 1
    assert limiters.capacity(NAME, 1)[1] is None


def test_a_denial_by_the_call_limit_leaves_the_limiter_unchanged() -> None:
    limiters = transaction(replace(paced(10), retry_budget=5.0, retry_budget_at=at(0)), in_flight=1, calls=1)
    assert limiters.admit(RETRY) is not None
    assert limiters.kept() == {}


def test_a_closed_limiter_is_reported_before_the_call_limit() -> None:
    free, denied = transaction(new().throttled(0, 5).state, in_flight=1, calls=1).capacity(NAME, 5)
    assert free == []
    assert denied is not None
    assert denied.by is DenialReason.CLOSED


def test_a_throttle_denies_later_requests_of_the_same_transaction() -> None:
    limiters = transaction()
    assert limiters.admit(FIRST) is None
    limiters.observe(seen(Observation.THROTTLED, -1, closed_ms=1_000))
    denied = limiters.admit(FIRST)
    assert denied is not None
    assert denied.by is DenialReason.CLOSED
    assert set(limiters.kept()) == {NAME}


def test_only_changed_limiters_are_written_and_clean_ones_are_deleted() -> None:
    closed = new().throttled(0, 1).state
    assert (transaction(closed, 0.5).kept(), transaction(closed, 0.5).dropped()) == ({}, [])
    assert (transaction(closed, 902).kept(), transaction(closed, 902).dropped()) == ({}, [NAME])
    clean = transaction()
    clean.observe(seen(Observation.SUCCESS, 0))
    assert (clean.kept(), clean.dropped()) == ({}, [])
