"""The rate limiter: the retry budget."""

import pytest
from msgspec.structs import replace

from guestledger.engine.limits.admission import DenialReason
from tests.unit.limiters import CLEAN, RETRY, new, paced
from tests.unit.samples import at


def test_retries_are_limited_to_the_budget_and_its_refill() -> None:
    limiter = new(retry_budget=3, retries_per_second=0.5).admitted(0, RETRY, times=3)
    denied = limiter.denied_by(DenialReason.RETRY_BUDGET, 0, RETRY)
    assert (denied.until, denied.rate) == (at(2), 0.5)
    limiter.denied_by(DenialReason.RETRY_BUDGET, 1.9, RETRY)
    limiter.admitted(2, RETRY).denied_by(DenialReason.RETRY_BUDGET, 2, RETRY)


def test_first_attempts_are_always_admitted_and_refill_the_retry_budget() -> None:
    limiter = new(retry_budget=1, retries_per_request=0.2, retries_per_second=0.001).admitted(0, RETRY)
    for _ in range(3):
        limiter.admitted(0, times=4).denied_by(DenialReason.RETRY_BUDGET, 0, RETRY)
        limiter.admitted(0).admitted(0, RETRY)


def test_the_retry_budget_never_exceeds_its_maximum() -> None:
    limiter = new(retry_budget=2, retries_per_second=1_000).admitted(0, RETRY).admitted(1_000, times=50)
    limiter.admitted(1_000, RETRY, times=2).denied_by(DenialReason.RETRY_BUDGET, 1_000, RETRY)


def test_a_retry_denied_by_the_budget_uses_no_paced_admission() -> None:
    slow = replace(paced(10), retry_budget=0.0, retry_budget_at=at(0))
    limiter = new(slow, retries_per_second=0.001)
    limiter.denied_by(DenialReason.RETRY_BUDGET, 0, RETRY)
    limiter.admitted(0)


@pytest.mark.parametrize("reserved", [False, True])
def test_a_probe_ignores_the_retry_budget(reserved: bool) -> None:
    limiter = new(replace(CLEAN, retry_budget=0.0, retry_budget_at=at(0)), retries_per_second=0.001).broken()
    if reserved:
        assert limiter.reserve(1) == [at(1)]
    limiter.admitted(1, replace(RETRY, reserved=reserved))
