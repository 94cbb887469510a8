"""The rate limiter: the admitted rate after a throttle, answer by answer. What it learns in the long run: `test_learning`."""

from datetime import timedelta
from typing import Any

import pytest

from guestledger.engine.limits.admission import DenialReason
from tests.unit.limiters import EARLY, RESERVED, Limiter, known, new
from tests.unit.samples import at

MICROSECOND = timedelta(microseconds=1)


def rate_of(limiter: Limiter, now: float) -> float:
    rate = limiter.rate(now)
    assert rate is not None
    return rate


def test_a_first_throttle_starts_a_low_rate_that_answers_raise() -> None:
    limiter = new(initial_rate=10).throttled(0, 5)
    assert [limiter.rate(now) for now in (0, 5, 60)] == [10, 10, 10], "an unused rate does not rise"
    for second in range(1, 6):
        limiter.succeeded(5 + second, round(rate_of(limiter, 5 + second)))
    assert rate_of(limiter, 11) > 15


def test_a_rate_that_is_used_by_few_requests_does_not_rise() -> None:
    limiter = known(100)
    for now in range(10, 300, 10):
        limiter.succeeded(now, 20)
    assert limiter.rate(300) == 100


def test_neither_failures_nor_answers_to_older_requests_raise_the_rate() -> None:
    limiter = known(100).throttled(1, 1)
    rate = limiter.rate(2)
    limiter.succeeded(2, 50, began=0.5).succeeded(2, 50, began=1).failed(2, 5)
    assert limiter.rate(2) == rate


def test_a_rate_that_no_api_needs_is_no_limit() -> None:
    limiter = known(5_000)
    assert limiter.rate(1) is None
    limiter.admitted(1, times=1_000)
    assert not limiter.state.is_clean(at(1), limiter.policy), "what was learned is kept"


def test_a_rate_is_dropped_after_a_long_time_without_a_throttle() -> None:
    limiter = new().throttled(0, 30)
    assert limiter.rate(930) is not None
    assert limiter.rate(930.001) is None
    assert limiter.state.is_clean(at(930.001), limiter.policy)


def test_a_late_reservation_beyond_the_burst_is_denied() -> None:
    limiter = known(10).admitted(1, RESERVED, times=3)
    assert limiter.denied_by(DenialReason.RATE, 1, RESERVED).until == at(1.1)
    limiter.admitted(1.1, RESERVED).denied_by(DenialReason.RATE, 1.1, RESERVED)
    limiter.admitted(2, RESERVED, times=3).denied_by(DenialReason.RATE, 2, RESERVED)


def test_an_early_request_too_far_before_its_turn_is_denied() -> None:
    limiter = known(10).admitted(1, EARLY, times=4)
    assert limiter.denied_by(DenialReason.RATE, 1, EARLY).until == at(1.05)
    limiter.admitted(1.05, EARLY).denied_by(DenialReason.RATE, 1.05, EARLY)
    limiter.admitted(2, EARLY, times=4).denied_by(DenialReason.RATE, 2, EARLY)


def test_requests_come_one_by_one_after_a_pause() -> None:
    limiter = known(10).throttled(0, 1).admitted(1)
    rate = rate_of(limiter, 1)
    assert limiter.denied_by(DenialReason.RATE, 1.001, RESERVED).until == at(1 + 1 / rate)
    early = at(1 + 1 / rate - 0.15)
    assert limiter.denied_by(DenialReason.RATE, 1.001, EARLY).until == pytest.approx(early, abs=MICROSECOND)


def test_throttles_of_requests_in_flight_together_cut_the_rate_once() -> None:
    limiter = known(100).throttled(0, 1, began=-0.5)
    rate = rate_of(limiter, 1)
    assert rate < 100
    for began in (-0.4, -0.1, 0):
        limiter.throttled(0.2, 2, began=began)
    assert limiter.rate(3) == rate
    assert limiter.denied_by(DenialReason.CLOSED, 2.1).until == at(2.2), "but each pause counts"
    assert rate_of(limiter.throttled(3, 1, began=2.5), 4) < rate


def test_repeated_reports_of_one_exhausted_quota_set_the_rate_once() -> None:
    limiter = known(100)
    for now in (1, 1.1, 1.2):
        limiter.succeeded(now, began=0.5, closed_ms=1_000, quota=50.0)
    assert limiter.rate(3) == 0.95 * 50
    assert limiter.succeeded(10, 2_000).rate(10) == 0.95 * 50, "it is trusted for the answers of a minute"


def test_the_rate_never_falls_below_the_minimum() -> None:
    limiter = new(initial_rate=10)
    for now in range(0, 3_000, 60):
        limiter.throttled(now, 1)
        assert rate_of(limiter, now) >= 0.1
    assert rate_of(limiter, 2_999) < 1
    throttled: dict[str, Any] = {"closed_ms": 1_000, "quota": 1e-15}
    for exhausted in (new().throttled(0, **throttled), new().succeeded(0, **throttled)):
        assert exhausted.rate(1) == pytest.approx(0.1)
        assert exhausted.reserve(1) == [at(1)]


def test_reservations_are_distinct_paced_and_limited_in_advance() -> None:
    limiter = known(10)
    step = 1 / 11
    assert limiter.reserve(0, 1) == [at(0)]
    assert limiter.reserve(0, 5) == [at(step), at(2 * step)]
    assert limiter.reserve(0, 5) == []
    assert limiter.denied_by(DenialReason.RATE, 0).until == pytest.approx(at(3 * step), abs=MICROSECOND)
    assert len(limiter.reserve(3 * step - 0.2, 5)) == 1
    assert limiter.reserve(5, 2) == [at(5), at(5 + step)], "unused reservations are not saved"


def test_reserved_requests_do_not_delay_unreserved_ones() -> None:
    limiter = known(10).admitted(0)
    assert limiter.denied_by(DenialReason.RATE, 0.05).until == at(1 / 11)
    limiter.admitted(0.05, RESERVED)
    limiter.admitted(0.1)
