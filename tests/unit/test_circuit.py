"""The rate limiter: the circuit breaker and its probes."""

import pytest
from msgspec.structs import replace

from guestledger.engine.limits.admission import DenialReason
from guestledger.engine.limits.limiter import reserve
from tests.unit.limiters import CLEAN, FIRST, RESERVED, RETRY, new
from tests.unit.samples import at


def test_consecutive_failures_open_the_breaker() -> None:
    limiter = new(failures_in_a_row=3, break_ms=1_000).failed(0, 2).admitted(0)
    limiter.failed(0)
    for admission in (FIRST, RETRY, RESERVED):
        denied = limiter.denied_by(DenialReason.CIRCUIT_OPEN, 0.999, admission)
        assert (denied.until, denied.failures, denied.probing) == (at(1), 3, False)
    assert limiter.reserve(0.999) == []


def test_failures_interrupted_by_a_success_do_not_open_the_breaker() -> None:
    limiter = new(failures_in_a_row=3)
    for now in range(10):
        limiter.failed(now, 2).succeeded(now)
    limiter.admitted(10)
    assert limiter.state == CLEAN


def test_throttles_never_open_the_breaker_and_reset_the_failure_count() -> None:
    limiter = new(failures_in_a_row=3)
    for now in range(10):
        limiter.throttled(now, 0)
    limiter.failed(20, 2).throttled(21, 0).failed(22, 2)
    assert limiter.state.broken_at is None


def test_an_open_breaker_admits_one_probe_after_its_break() -> None:
    limiter = new(probe_ms=5_000).broken().admitted(1)
    assert limiter.denied_by(DenialReason.CIRCUIT_OPEN, 1).probing


def test_a_request_during_a_probe_is_denied_only_for_a_short_time() -> None:
    limiter = new(probe_ms=5_000).broken().admitted(1)
    assert limiter.denied_by(DenialReason.CIRCUIT_OPEN, 1.5).until == at(2.5)
    assert limiter.denied_by(DenialReason.CIRCUIT_OPEN, 5.5).until == at(6)


def test_a_probe_can_be_reserved_at_the_claim_and_used_later() -> None:
    limiter = new(probe_ms=5_000).broken()
    assert limiter.reserve(1) == [at(1)]
    assert limiter.reserve(1) == []
    limiter.denied_by(DenialReason.CIRCUIT_OPEN, 1.2)
    limiter.admitted(1.2, RESERVED)
    limiter.denied_by(DenialReason.CIRCUIT_OPEN, 1.3)


def test_an_unused_probe_reservation_lapses_after_a_second() -> None:
    limiter = new(probe_ms=30_000).broken()
    assert limiter.reserve(1) == [at(1)]
    limiter.denied_by(DenialReason.CIRCUIT_OPEN, 1.999)
    assert limiter.reserve(2) == [at(2)]
    limiter.admitted(3)


def test_the_probe_timeout_starts_at_the_admission_of_a_reserved_probe() -> None:
    limiter = new(probe_ms=5_000).broken()
    assert limiter.reserve(1) == [at(1)]
    limiter.admitted(1.9, RESERVED).denied_by(DenialReason.CIRCUIT_OPEN, 6.8)
    limiter.admitted(6.9)


def test_only_the_first_of_two_reservations_for_one_probe_is_admitted() -> None:
    limiter = new(probe_ms=5_000).broken()
    assert [*limiter.reserve(1), *limiter.reserve(2)] == [at(1), at(2)]
    limiter.admitted(2.1, RESERVED).denied_by(DenialReason.CIRCUIT_OPEN, 2.2, RESERVED)
    limiter.denied_by(DenialReason.CIRCUIT_OPEN, 7, RESERVED)


def test_a_single_probe_reservation_reports_no_denial() -> None:
    _, taken, denied = reserve(new().broken().state, 1, at(1))
    assert (taken, denied) == ([at(1)], None)


def test_a_lost_probe_is_replaced_after_probe_ms() -> None:
    limiter = new(probe_ms=5_000).broken().admitted(1)
    limiter.denied_by(DenialReason.CIRCUIT_OPEN, 5.999)
    limiter.admitted(6)
    limiter.denied_by(DenialReason.CIRCUIT_OPEN, 6)


def test_a_reservation_from_before_the_break_counts_as_the_probe() -> None:
    limiter = new(break_ms=1_000, probe_ms=5_000).broken().admitted(1.5, RESERVED)
    limiter.denied_by(DenialReason.CIRCUIT_OPEN, 1.5)


def test_a_failed_probe_doubles_the_break_up_to_the_maximum() -> None:
    limiter = new(break_ms=1_000, max_break_ms=5_000).broken()
    breaks, now = [], 1.0
    for _ in range(5):
        limiter.admitted(now).failed(now)
        until = limiter.denied_by(DenialReason.CIRCUIT_OPEN, now).until
        breaks.append((until - at(now)).total_seconds())
        now += breaks[-1]
    assert breaks == [2, 4, 5, 5, 5]


def test_a_successful_probe_closes_the_breaker_and_resets_the_break() -> None:
    limiter = new(break_ms=1_000).broken().admitted(1).failed(1).admitted(3).succeeded(3)
    assert limiter.state == CLEAN
    assert limiter.broken(4).denied_by(DenialReason.CIRCUIT_OPEN, 4).until == at(5)


@pytest.mark.parametrize("answer", ["succeeded", "throttled"])
def test_a_success_or_throttle_of_the_probe_closes_the_breaker(answer: str) -> None:
    limiter = new().broken().admitted(1)
    getattr(limiter, answer)(2)
    assert (limiter.state.failures, limiter.state.breaks, limiter.state.broken_at) == (0, 0, None)


def test_late_failures_from_before_the_break_are_ignored() -> None:
    limiter = new(break_ms=1_000).broken()
    before = limiter.state
    limiter.failed(0.5, 5, began=-1).failed(0.9, began=0)
    assert limiter.state == before
    limiter.admitted(1).failed(1.5, began=-1)
    assert limiter.denied_by(DenialReason.CIRCUIT_OPEN, 1.5).probing, "they are not taken for the probe"


@pytest.mark.parametrize("answer", ["succeeded", "throttled"])
def test_an_answer_to_a_request_from_before_the_break_keeps_the_breaker_open(answer: str) -> None:
    limiter = new(failures_in_a_row=3, break_ms=1_000, probe_ms=5_000, min_closed_ms=0).broken()
    getattr(limiter, answer)(0.5, began=-1)
    assert limiter.denied_by(DenialReason.CIRCUIT_OPEN, 0.999).until == at(1)
    limiter.admitted(1)
    getattr(limiter, answer)(1.5, began=0)
    assert limiter.denied_by(DenialReason.CIRCUIT_OPEN, 1.5).probing


def test_an_admitted_probe_that_is_not_sent_is_returned() -> None:
    limiter = new(probe_ms=5_000).broken().admitted(1).not_sent(1.5, began=1)
    limiter.admitted(1.5)
    limiter.not_sent(1.6, began=1).denied_by(DenialReason.CIRCUIT_OPEN, 1.6)


def test_a_breaker_that_opened_very_often_can_open_again() -> None:
    limiter = new(replace(CLEAN, breaks=100_000, broken_at=at(0), failures=100_000)).failed(1)
    assert limiter.denied_by(DenialReason.CIRCUIT_OPEN, 1).until == at(31)
