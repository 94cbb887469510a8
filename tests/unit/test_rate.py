"""The rate limiter: the admitted rate after a throttle."""

from math import exp

import pytest

from guestledger.engine.limits.admission import DenialReason
from tests.unit.limiters import RESERVED, known, new
from tests.unit.samples import at


def test_a_first_throttle_starts_a_low_rate_that_each_success_raises() -> None:
    limiter = new(initial_rate=10, unlimited_rate=100).throttled(0, 5)
    assert [limiter.rate(now) for now in (0, 5, 60)] == [10, 10, 10], "an unused rate does not rise"
    assert limiter.succeeded(6, 10).rate(6) == 20, "with every reservation used, it doubles each second"
    assert limiter.succeeded(7, 79).rate(7) == 99
    assert limiter.succeeded(7).rate(7) is None, "such a high rate is no limit any more"


def test_a_throttle_during_the_rise_sets_the_ceiling_to_the_last_seconds_rate() -> None:
    rates = [10 * exp(n / 1_000) for n in range(2_001)]  # each request adds 1, so the rate grows by itself each second
    limiter = new(initial_rate=10).throttled(0, 0).succeeded(2, round(rates[-1]) - 10).throttled(2, 1)
    assert limiter.state.ceiling == pytest.approx(sum(rates[1_000:2_000]) / 1_000, rel=0.01)


def test_a_throttle_cuts_the_rate_and_used_seconds_raise_it_linearly() -> None:
    limiter = known(100, decrease=0.5, increase=0.1, rest_share=1.0, proven_ms=1_000_000)
    assert limiter.rate(0) == 50
    assert limiter.rate(60) == 50, "an unused rate does not rise"
    assert limiter.succeeded(60, 195).rate(60) == pytest.approx(80), "the answers of 3 s, each of which adds 10"
    limiter.throttled(60, 1)
    assert limiter.rate(61) == pytest.approx(40)
    assert limiter.succeeded(62, 44).rate(62) == pytest.approx(48)


def test_neither_failures_nor_answers_to_older_requests_raise_the_rate() -> None:
    limiter = known(100).throttled(1, 1)
    rate = limiter.rate(2)
    limiter.succeeded(2, 5, began=0.5).succeeded(2, 5, began=1).failed(2, 5)
    assert limiter.rate(2) == rate


def test_the_rate_rests_below_the_ceiling_and_then_rises_faster_and_faster() -> None:
    limiter = known(100, decrease=0.5, increase=0.1, rest_share=0.9, rest_ms=10_000, doubled_s=10)
    assert limiter.succeeded(1, 280).rate(1) == pytest.approx(90)
    assert limiter.succeeded(1, 900).rate(1) == pytest.approx(90), "for the answers of 10 s at 90 a second"
    assert limiter.succeeded(1, 180).rate(1) == pytest.approx(90.72)
    assert limiter.succeeded(1, 270).rate(1) == pytest.approx(101.25)
    assert limiter.succeeded(1, 450).rate(1) == pytest.approx(180)


def test_a_throttle_above_the_old_ceiling_sets_a_new_ceiling() -> None:
    limiter = known(100, rest_ms=10_000, doubled_s=10).succeeded(1, 2_000)
    rate = limiter.rate(1)
    assert rate is not None
    assert rate > 100
    assert limiter.throttled(1, 1).state.ceiling == rate


def test_a_throttle_at_a_proven_rate_lowers_the_ceiling_only_slightly() -> None:
    limiter = known(100, proven_ms=3_000, eased=0.99).succeeded(1, 350)
    assert limiter.throttled(1, 1).state.ceiling == 99


def test_a_throttle_at_an_unproven_rate_lowers_the_ceiling_below_that_rate() -> None:
    limiter = known(100, rest_share=0.9, decrease=0.8, proven_ms=3_000).succeeded(1, 50)
    assert limiter.rate(1) == pytest.approx(90)
    assert limiter.throttled(1, 1).state.ceiling == pytest.approx(81)


def test_a_rate_above_the_unlimited_rate_is_dropped() -> None:
    steep = {"decrease": 0.5, "increase": 1, "rest_share": 0.9, "rest_ms": 0, "doubled_s": 1}
    limiter = known(100, unlimited_rate=200, **steep).succeeded(1, 124)
    assert limiter.rate(1) == pytest.approx(199.2, abs=0.1)
    assert not limiter.state.is_clean(at(1), limiter.policy)
    assert limiter.succeeded(1).rate(1) is None
    assert limiter.state.is_clean(at(1), limiter.policy)
    assert limiter.throttled(2, 0).state.ceiling is None, "the next throttle starts over"


def test_a_rate_is_dropped_after_a_long_time_without_a_throttle() -> None:
    limiter = new(forgotten_ms=60_000).throttled(0, 30)
    assert limiter.rate(90) is not None
    assert limiter.rate(90.001) is None
    assert limiter.state.is_clean(at(90.001), limiter.policy)


def test_a_late_reservation_beyond_the_burst_is_denied() -> None:
    limiter = known(10, decrease=1.0, rest_share=1.0, burst=2).admitted(1, RESERVED, times=3)
    assert limiter.denied_by(DenialReason.RATE, 1, RESERVED).until == at(1.1)
    limiter.admitted(1.1, RESERVED).denied_by(DenialReason.RATE, 1.1, RESERVED)
    limiter.admitted(2, RESERVED, times=3).denied_by(DenialReason.RATE, 2, RESERVED)


def test_throttles_of_requests_in_flight_together_cut_the_rate_once() -> None:
    limiter = known(100, decrease=0.5, rest_share=1.0).throttled(0, 1, began=-0.5)
    ceiling = limiter.state.ceiling
    assert ceiling == 50
    for began in (-0.4, -0.1, 0):
        limiter.throttled(0.2, 2, began=began)
    assert limiter.state.ceiling == ceiling
    assert limiter.denied_by(DenialReason.CLOSED, 2.1).until == at(2.2), "but each pause counts"
    limiter.throttled(3, 1, began=2.5)
    assert limiter.state.ceiling == 25


def test_repeated_reports_of_one_exhausted_quota_cut_the_rate_once() -> None:
    limiter = known(100, decrease=0.5, rest_share=1.0)
    for now in (1, 1.1, 1.2):
        limiter.succeeded(now, began=0.5, closed_ms=1_000)
    assert limiter.rate(3) == pytest.approx(25, rel=0.01)


def test_the_rate_is_cut_at_most_once_per_interval() -> None:
    limiter = known(100, decrease=0.5, rest_share=1.0, cut_ms=1_000, min_closed_ms=0).throttled(1, 0)
    assert limiter.state.ceiling == 50
    assert limiter.throttled(1.999, 0).state.ceiling == 50
    assert limiter.throttled(2, 0).state.ceiling == 25


def test_the_rate_never_falls_below_the_minimum() -> None:
    limiter = new(min_rate=0.1)
    for now in range(50):
        limiter.throttled(now, 0)
    assert limiter.state.ceiling == 0.1
    for answer in (new(min_rate=0.1).throttled, new(min_rate=0.1).succeeded):
        exhausted = answer(0, closed_ms=1_000, quota=1e-15)
        assert exhausted.state.ceiling == 0.1
        assert exhausted.reserve(1) == [at(1)]


def test_reservations_are_distinct_paced_and_limited_in_advance() -> None:
    limiter = known(10, decrease=1.0, rest_share=1.0, ahead_ms=200)
    assert limiter.reserve(0, 2) == [at(0), at(0.1)]
    assert limiter.reserve(0, 2) == [at(0.2)]
    assert limiter.reserve(0, 2) == []
    assert limiter.denied_by(DenialReason.RATE, 0).until == at(0.3)
    assert limiter.reserve(0.15, 5) == [at(0.3)]
    assert limiter.reserve(5, 2) == [at(5), at(5.1)], "unused reservations are not saved"


def test_reserved_requests_do_not_delay_unreserved_ones() -> None:
    limiter = known(10, decrease=1.0, rest_share=1.0)
    limiter.admitted(0)
    assert limiter.denied_by(DenialReason.RATE, 0.05).until == at(0.1)
    limiter.admitted(0.05, RESERVED)
    limiter.admitted(0.1)
