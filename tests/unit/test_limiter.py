"""The rate limiter: what it observes, and what it then admits or denies."""

from datetime import datetime, timedelta
from functools import partial
from math import exp
from typing import Any

import pytest
from msgspec.structs import replace

from guestledger.adapters.postgres.limits.rate_limiter import LimiterTransaction
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.outcomes import Delivery, Failed, FailureKind, feedback_of, feedback_of_delivery
from guestledger.engine.limits import policy as limiter_policy
from guestledger.engine.limits.admission import AdmissionRequest, DenialReason, Denied
from guestledger.engine.limits.feedback import Feedback, Observation, not_sent
from guestledger.engine.limits.limiter import LimiterState, admit, observe, reserve
from guestledger.engine.limits.policy import LimiterPolicy
from guestledger.engine.limits.quota import ExhaustedQuota
from guestledger.engine.limits.retry import WaitBasis
from tests.unit.samples import at, channel, created, delivered, failed, throttled, unusable

NAME = "api.example.com sessions"
POLICY = LimiterPolicy(spare_reservations=0)
CLEAN = LimiterState()
FIRST = AdmissionRequest(limiter=NAME, retry=False, reserved=False)
RETRY = replace(FIRST, retry=True)
RESERVED = replace(FIRST, reserved=True)


def seen(observation: Observation, began: float, **given: Any) -> Feedback:
    return Feedback(limiter=NAME, observation=observation, began_at=at(began), **given)


class Limiter:
    """A limiter and its current state. Times are seconds."""

    def __init__(self, limiter: LimiterState = CLEAN, policy: LimiterPolicy = POLICY) -> None:
        self.state = limiter
        self.policy = policy

    def throttled(self, now: float, closed_s: float = 0, *, began: float | None = None, **given: Any) -> "Limiter":
        began = now if began is None else began
        given = {"closed_by": WaitBasis.RETRY_AFTER, "closed_ms": round(closed_s * 1_000), **given}
        return self._observe(seen(Observation.THROTTLED, began, **given), now)

    def failed(self, now: float, times: int = 1, *, began: float | None = None, **given: Any) -> "Limiter":
        for _ in range(times):
            self._observe(seen(Observation.FAILED, now if began is None else began, **given), now)
        return self

    def not_sent(self, now: float, *, began: float | None = None) -> "Limiter":
        return self._observe(seen(Observation.NOT_SENT, now if began is None else began), now)

    def succeeded(self, now: float, times: int = 1, *, began: float | None = None, **given: Any) -> "Limiter":
        for _ in range(times):
            self._observe(seen(Observation.SUCCESS, now if began is None else began, **given), now)
        return self

    def _observe(self, feedback: Feedback, now: float) -> "Limiter":
        self.state = observe(self.state, feedback, at(now), self.policy)
        return self

    def ask(self, now: float, admission: AdmissionRequest = FIRST) -> Denied | None:
        self.state, denied = admit(self.state, admission, at(now), self.policy)
        return denied

    def admitted(self, now: float, admission: AdmissionRequest = FIRST, times: int = 1) -> "Limiter":
        for _ in range(times):
            assert self.ask(now, admission) is None
        return self

    def denied_by(self, reason: DenialReason, now: float, admission: AdmissionRequest = FIRST) -> Denied:
        before = self.state
        denied = self.ask(now, admission)
        assert denied is not None
        assert denied.by is reason
        assert self.state == before, "a denial does not change the limiter"
        return denied

    def reserve(self, now: float, wanted: int = 1_000) -> list[datetime]:
        self.state, taken, _ = reserve(self.state, wanted, at(now), self.policy)
        return taken

    def rate(self, now: float) -> float | None:
        return self.state.rate(at(now), self.policy)

    def broken(self, now: float = 0) -> "Limiter":
        return self.failed(now, self.policy.failures_in_a_row)


def new(limiter: LimiterState = CLEAN, **policy: Any) -> Limiter:
    return Limiter(limiter, replace(POLICY, **policy))


# The limiter


def test_a_clean_limiter_admits_everything_and_stays_clean() -> None:
    limiter = new().admitted(0, times=500)
    assert limiter.reserve(0, 500) == [at(0)] * 500
    assert limiter.state == CLEAN
    assert limiter.state.is_clean(at(0), POLICY)


@pytest.mark.parametrize("admission", [FIRST, RETRY, RESERVED])
def test_a_throttle_closes_the_limiter_for_exactly_its_retry_after(admission: AdmissionRequest) -> None:
    limiter = new().throttled(1, 2)
    for now in (1, 2, 2.999999):
        denied = limiter.denied_by(DenialReason.CLOSED, now, admission)
        assert denied.until == at(3)
        assert denied.closed_by is WaitBasis.RETRY_AFTER
        assert limiter.reserve(now) == []
    limiter.admitted(3, admission)


LONG = (5, WaitBasis.RETRY_AFTER_DATE)
SHORT = (2, WaitBasis.RETRY_AFTER)


@pytest.mark.parametrize("waits", [(LONG, SHORT), (SHORT, LONG)], ids=["long first", "short first"])
def test_the_throttle_that_ends_last_sets_time_and_reason(waits: tuple[tuple[float, WaitBasis], ...]) -> None:
    limiter = new()
    for closed_s, closed_by in waits:
        limiter.throttled(0, closed_s, began=-1, closed_by=closed_by)
    denied = limiter.denied_by(DenialReason.CLOSED, 4.999)
    assert (denied.until, denied.closed_by) == (at(5), WaitBasis.RETRY_AFTER_DATE)


def test_a_later_but_shorter_throttle_does_not_shorten_the_wait() -> None:
    limiter = new().throttled(0, 60).throttled(10, 0, began=-1)
    assert limiter.denied_by(DenialReason.CLOSED, 59.999).until == at(60)


def test_a_success_of_an_earlier_request_does_not_open_a_closed_limiter() -> None:
    limiter = new().throttled(0, 5).succeeded(1, began=-1)
    assert limiter.denied_by(DenialReason.CLOSED, 4.999).until == at(5)


def test_a_throttle_without_a_wait_closes_the_limiter_for_the_minimum() -> None:
    limiter = new(min_closed_ms=500).throttled(0, 0)
    assert limiter.denied_by(DenialReason.CLOSED, 0.499).until == at(0.5)
    limiter.admitted(0.5)


def test_a_limiter_reopens_at_a_pace() -> None:
    limiter = new(initial_rate=10, ahead_ms=300).throttled(0, 5)
    assert limiter.reserve(5) == [at(5), at(5.1), at(5.2), at(5.3)]
    assert limiter.denied_by(DenialReason.RATE, 5).rate == 10


def test_an_exhausted_quota_in_a_success_closes_the_limiter() -> None:
    limiter = new().succeeded(0, closed_ms=2_000, closed_by=WaitBasis.QUOTA, quota=50.0)
    assert limiter.denied_by(DenialReason.CLOSED, 1.999).closed_by is WaitBasis.QUOTA
    assert limiter.rate(2) == POLICY.decrease * 50


def test_an_exhausted_quota_in_a_failure_closes_the_limiter() -> None:
    limiter = new().failed(0, closed_ms=2_000, closed_by=WaitBasis.QUOTA)
    assert limiter.denied_by(DenialReason.CLOSED, 1.999).until == at(2)
    assert limiter.state.failures == 1


def test_a_failure_with_retry_after_closes_the_limiter_and_counts_as_failure() -> None:
    limiter = new(failures_in_a_row=2, break_ms=1_000).failed(0, closed_ms=5_000, closed_by=WaitBasis.RETRY_AFTER)
    assert limiter.denied_by(DenialReason.CLOSED, 4.999).closed_by is WaitBasis.RETRY_AFTER
    assert (limiter.state.failures, limiter.state.broken_at) == (1, None)
    limiter.failed(0.1, began=-1, closed_ms=2_000)
    assert (limiter.state.failures, limiter.state.broken_at) == (2, at(0.1))
    limiter.denied_by(DenialReason.CLOSED, 4.999)
    limiter.admitted(5).denied_by(DenialReason.CIRCUIT_OPEN, 5)


def test_a_failure_with_retry_after_does_not_lower_the_proven_rate() -> None:
    down = {"closed_ms": 5_000, "closed_by": WaitBasis.RETRY_AFTER}
    assert known(100).failed(1, **down).state.ceiling == 100
    rising = known(100).succeeded(1, 9_000)
    proven = rising.rate(1)
    assert proven is not None
    assert proven > 100
    assert rising.failed(1, **down).state.ceiling == proven
    assert rising.failed(2, began=1.5, **down).state.ceiling == proven
    assert known(100).failed(1, quota=50.0, **down).state.ceiling == 50, "unless the server states its quota"
    unknown = new(initial_rate=10).failed(0, **down)
    assert (unknown.state.ceiling, unknown.rate(5)) == (None, 10), "but waiting requests do not come all at once"


# The rate


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


def known(ceiling: float, **policy: Any) -> Limiter:
    """A limiter that reopened at 0 s and knows that `ceiling` was too much."""
    return new(replace(CLEAN, ceiling=ceiling, paced_from=at(0)), **policy)


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


# The breaker


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
    _, taken, denied = reserve(new().broken().state, 1, at(1), POLICY)
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


# The budget


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
    paced = replace(CLEAN, ceiling=10, paced_from=at(0), retry_budget=0.0, retry_budget_at=at(0))
    limiter = new(paced, retries_per_second=0.001)
    limiter.denied_by(DenialReason.RETRY_BUDGET, 0, RETRY)
    limiter.admitted(0)


@pytest.mark.parametrize("reserved", [False, True])
def test_a_probe_ignores_the_retry_budget(reserved: bool) -> None:
    limiter = new(replace(CLEAN, retry_budget=0.0, retry_budget_at=at(0)), retries_per_second=0.001).broken()
    if reserved:
        assert limiter.reserve(1) == [at(1)]
    limiter.admitted(1, replace(RETRY, reserved=reserved))


# Clean again


def test_a_limiter_is_clean_when_it_restricts_nothing() -> None:
    assert not new().throttled(0, 1).state.is_clean(at(0.5), POLICY)
    assert not new().throttled(0, 1).state.is_clean(at(5), POLICY)
    assert new().throttled(0, 1).state.is_clean(at(902), POLICY)
    assert not new().failed(0).state.is_clean(at(10_000), POLICY)
    assert new().failed(0).succeeded(1).state.is_clean(at(1), POLICY)
    assert not new().broken().state.is_clean(at(10_000), POLICY)
    assert not new().admitted(0, RETRY).state.is_clean(at(0.1), POLICY)
    assert new().admitted(0, RETRY).state.is_clean(at(0.2), POLICY)


# Several at once, in one transaction


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
    limiters = transaction(
        replace(CLEAN, ceiling=10, paced_from=at(0), retry_budget=5.0, retry_budget_at=at(0)), in_flight=1, calls=1
    )
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


# Feedback


EXHAUSTED = ExhaustedQuota(ms=7_000, per_second=50.0)


@pytest.mark.parametrize("kind", FailureKind)
@pytest.mark.parametrize("observation", Observation)
def test_a_failure_is_observed_as_its_adapter_says(kind: FailureKind, observation: Observation) -> None:
    outcome = replace(failed(kind, 400), observation=observation)
    assert feedback_of(NAME, outcome, at(1)) == seen(observation, 1)


@pytest.mark.parametrize(
    ("outcome", "observation"),
    [
        (created(), Observation.SUCCESS),
        (channel(), Observation.SUCCESS),
        (unusable(), Observation.SUCCESS),
        (throttled(0), Observation.THROTTLED),
        (Failed(kind=FailureKind.UNAVAILABLE, cause=Cause.SERVER_ERROR), Observation.FAILED),
    ],
    ids=["created", "channel", "unusable channel", "throttled", "failed"],
)
def test_every_outcome_is_observed(outcome: Any, observation: Observation) -> None:
    assert feedback_of(NAME, outcome, at(1)) == seen(observation, 1)


def test_a_request_that_is_not_sent_changes_no_limiter() -> None:
    assert not_sent(NAME, at(1)) == seen(Observation.NOT_SENT, 1)
    limiter = new(failures_in_a_row=3).failed(0, 2)
    before = limiter.state
    assert limiter.not_sent(1).state == before
    paced = known(100)
    before = paced.state
    assert paced.not_sent(1).state == before


@pytest.mark.parametrize("outcome", [created(), channel(), failed(), failed(FailureKind.FINAL)])
def test_an_exhausted_quota_is_observed_for_every_outcome(outcome: Any) -> None:
    feedback = feedback_of(NAME, replace(outcome, exhausted=EXHAUSTED), at(1))
    assert (feedback.closed_ms, feedback.quota, feedback.closed_by) == (7_000, 50.0, WaitBasis.QUOTA)
    plain = feedback_of(NAME, outcome, at(1))
    assert (plain.closed_ms, plain.closed_by, plain.quota) == (None, None, None)


@pytest.mark.parametrize("outcome", [throttled, partial(failed, FailureKind.UNAVAILABLE, 503)])
@pytest.mark.parametrize(
    ("asked_ms", "closed_ms", "closed_by"),
    [
        (2_000, 7_000, WaitBasis.QUOTA),
        (7_000, 7_000, WaitBasis.RETRY_AFTER),
        (9_000, 9_000, WaitBasis.RETRY_AFTER),
    ],
)
def test_the_longer_of_retry_after_and_exhausted_quota_applies(
    outcome: Any, asked_ms: int, closed_ms: int, closed_by: WaitBasis
) -> None:
    feedback = feedback_of(NAME, replace(outcome(retry_after_ms=asked_ms), exhausted=EXHAUSTED), at(1))
    assert feedback.observation is (Observation.THROTTLED if outcome is throttled else Observation.FAILED)
    assert (feedback.closed_ms, feedback.quota, feedback.closed_by) == (closed_ms, 50.0, closed_by)


def test_a_failure_closes_the_limiter_only_with_a_positive_retry_after() -> None:
    down = partial(failed, FailureKind.IN_DOUBT, 503)
    feedback = feedback_of(NAME, down(9_000), at(1))
    assert feedback == seen(Observation.FAILED, 1, closed_ms=9_000, closed_by=WaitBasis.RETRY_AFTER)
    assert feedback_of(NAME, down(0), at(1)) == seen(Observation.FAILED, 1)


def of_webhook(outcome: Delivery, max_wait_ms: int = 60_000) -> Feedback | None:
    return feedback_of_delivery("hooks", outcome, at(1), max_wait_ms)


def test_only_webhook_success_and_retry_after_are_feedback() -> None:
    assert of_webhook(delivered(204)) == replace(seen(Observation.SUCCESS, 1), limiter="hooks")
    assert of_webhook(delivered(500)) is None
    assert of_webhook(delivered(None)) is None
    feedback = of_webhook(delivered(429, 3_000))
    assert feedback is not None
    assert (feedback.observation, feedback.closed_ms) == (Observation.THROTTLED, 3_000)
    assert feedback.closed_by is WaitBasis.RETRY_AFTER


@pytest.mark.parametrize("status", [429, 503])
def test_a_receiver_can_close_its_limiter_only_up_to_the_maximum_wait(
    status: int,
) -> None:
    longest = of_webhook(delivered(status, 7_000), max_wait_ms=7_000)
    assert longest is not None
    assert longest.closed_ms == 7_000
    assert of_webhook(delivered(status, 7_001), max_wait_ms=7_000) is None


def test_a_limiter_can_be_closed_for_ten_years() -> None:
    ten_years = timedelta(days=3_650)
    limiter = new().throttled(0, ten_years.total_seconds())
    assert limiter.denied_by(DenialReason.CLOSED, 0).until == at(0) + ten_years


@pytest.mark.parametrize(
    "wrong",
    [
        *({name: 0} for name in ("initial_rate", "unlimited_rate", "min_rate", "decrease", "increase", "rest_share")),
        *({name: 1e-18} for name in ("eased", "doubled_s", "retries_per_second")),
        *({name: -1} for name in ("ahead_ms", "spare_reservations", "burst", "burst_ms", "retries_per_request")),
        *({name: -1} for name in ("min_closed_ms", "cut_ms", "rest_ms", "proven_ms", "forgotten_ms")),
        *({name: -1} for name in ("break_ms", "max_break_ms", "probe_ms")),
        *({name: 0.999} for name in ("retry_budget", "failures_in_a_row", "calls_per_process", "calls")),
        *({name: wrong} for name in ("decrease", "initial_rate") for wrong in (float("nan"), float("inf"))),
        {"break_ms": 10**18},
    ],
    ids=str,
)
def test_an_invalid_limiter_policy_value_is_rejected_and_named(wrong: dict[str, Any]) -> None:
    [name] = wrong
    with pytest.raises(ValueError, match=rf"LimiterPolicy\.{name} must be"):
        LimiterPolicy(**wrong)


def test_every_limiter_policy_field_has_a_minimum() -> None:
    given = [name for names in limiter_policy._MINIMUMS.values() for name in names]
    assert sorted(given) == sorted(LimiterPolicy.__struct_fields__)
