"""The rate limiter: when it is closed, and when it is clean again."""

from datetime import timedelta

import pytest
from msgspec.structs import replace

from guestledger.engine.limits.admission import AdmissionRequest, DenialReason
from guestledger.engine.limits.feedback import ThrottleScope
from guestledger.engine.limits.pace import MAX_RATE
from guestledger.engine.limits.policy import LimiterPolicy
from guestledger.engine.limits.retry import WaitBasis
from tests.unit.limiters import CLEAN, EARLY, FIRST, POLICY, RESERVED, RETRY, known, new
from tests.unit.samples import at


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
    limiter = new(initial_rate=10).throttled(0, 5)
    due = [at(5), at(5 + 1 / 11), at(5 + 2 / 11)]
    assert limiter.reserve(5) == due, "10 % more than the rate, some are not used in time"
    assert limiter.denied_by(DenialReason.RATE, 5).rate == 10


def test_early_requests_that_ask_together_leave_one_by_one() -> None:
    limiter, waits = known(100), [0.0]
    while limiter.ask(1, EARLY) is None:
        waits.append(limiter.sending_wait(1))
    burst, early = [0.0] * 5, [n / 100 for n in range(1, 17)]
    assert waits == pytest.approx([*burst, *early]), "the last one was denied: its turn is more than 150 ms ahead"
    assert limiter.reserve(1)[0] == at(1.16), "no new one before those have left"


def test_a_probe_does_not_wait_for_the_rate() -> None:
    limiter = known(0.1).admitted(1, EARLY, times=3)
    assert limiter.sending_wait(1) == 10
    assert limiter.broken(1).sending_wait(1) == 0


def test_no_reservation_is_spare_while_admitted_requests_wait() -> None:
    limiter = known(100).admitted(1, EARLY, times=15)
    assert limiter.reserve(1, 3) == [at(1.11), at(1.12), at(1.13)]


def test_what_was_sent_into_a_pause_teaches_nothing_about_the_rate() -> None:
    limiter = known(100).throttled(10, 5)
    learned = limiter.state.pace
    for scope in (ThrottleScope.QUOTA, ThrottleScope.REQUEST):
        limiter.throttled(10.2, 5, began=9.9, wait=timedelta(seconds=0.15), scope=scope)
    limiter.succeeded(10.2, began=9.9, wait=timedelta(seconds=0.15))
    assert limiter.state.pace == learned
    assert limiter.denied_by(DenialReason.CLOSED, 15.1).until == at(15.2), "but its pause counts"
    assert limiter.succeeded(10.2, began=9.9, wait=timedelta(seconds=0.05)).state.pace != learned, "sent before it"


def test_requests_of_the_batch_that_brought_a_throttle_are_no_evidence_after_it() -> None:
    # They have its time, and were admitted before it.
    first = new().admitted(1, times=9).throttled(1, 1, began=0.5).throttled(1.2, 1, began=1)
    assert first.state.pace is not None
    assert first.state.pace.curve == ()

    limiter = known(100).admitted(1).throttled(1, 1, began=0.9)
    lowered = limiter.rate(2)
    assert lowered is not None
    assert lowered < 99
    pace = limiter.throttled(1.2, 1, began=1).state.pace
    assert pace is not None
    assert [round(point.rate) for point in pace.curve] == [101]


def test_an_exhausted_quota_in_a_success_closes_the_limiter() -> None:
    limiter = new().succeeded(0, closed_ms=2_000, closed_by=WaitBasis.QUOTA, quota=50.0)
    assert limiter.denied_by(DenialReason.CLOSED, 1.999).closed_by is WaitBasis.QUOTA
    assert limiter.rate(2) == 0.95 * 50


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


def test_a_failure_with_retry_after_does_not_lower_the_rate() -> None:
    down = {"closed_ms": 5_000, "closed_by": WaitBasis.RETRY_AFTER}
    assert known(100).failed(1, **down).rate(6) == 100
    assert known(100).failed(1, quota=50.0, **down).rate(6) == 0.95 * 50, "unless the server states its quota"
    assert new(initial_rate=10).failed(0, **down).rate(5) == 10, "but waiting requests do not come all at once"


def test_the_rate_rises_from_half_after_a_long_pause() -> None:
    limiter = known(100).failed(1, closed_ms=60_000, closed_by=WaitBasis.RETRY_AFTER)
    assert [limiter.rate(now) for now in (61, 62.5, 64, 70)] == [50, 75, 100, 100]


@pytest.mark.parametrize("scope", ThrottleScope)
def test_no_scope_admits_a_flood_after_a_long_pause(scope: ThrottleScope) -> None:
    limiter = new().throttled(0, 60, scope=scope)
    assert len(limiter.reserve(60.1, 500)) < 10


def test_throttles_by_chance_lift_no_pause_that_was_asked_of_all() -> None:
    limiter = new(initial_rate=1, min_closed_ms=0).throttled(0, scope=ThrottleScope.AUTO)
    limiter.throttled(1, scope=ThrottleScope.AUTO, began=0).failed(1, began=0, closed_ms=5_000)
    limiter.throttled(1, scope=ThrottleScope.AUTO).succeeded(1, 20)
    assert limiter.denied_by(DenialReason.CLOSED, 1).until == at(6)


def test_where_no_rate_is_known_it_rises_from_the_first_one_after_a_long_pause() -> None:
    limiter = new().throttled(0, 60, scope=ThrottleScope.AUTO)
    assert limiter.rate(60) == POLICY.initial_rate
    assert limiter.rate(61) < limiter.rate(62) < MAX_RATE / 2
    assert limiter.state.rate(at(63)) is None


def test_the_rate_is_not_forgotten_in_steady_use() -> None:
    limiter = known(100).throttled(1, 300)
    seconds = 301.0
    while seconds < 1_800:
        limiter.admitted(seconds).succeeded(seconds + 0.1, began=seconds)
        seconds += 0.5
    assert limiter.rate(seconds) < 100
    assert limiter.state.rate(at(seconds + 901)) is None


def test_a_limiter_is_closed_for_at_most_the_longest_pause() -> None:
    ten_years = timedelta(days=3_650)
    for longest in (LimiterPolicy().max_pause_ms, 60_000):
        limiter = new(max_pause_ms=longest).throttled(0, ten_years.total_seconds())
        assert limiter.denied_by(DenialReason.CLOSED, 0).until == at(longest / 1_000)


def test_a_limiter_is_clean_when_it_restricts_nothing() -> None:
    assert not new().throttled(0, 1).state.is_clean(at(0.5), POLICY)
    assert not new().throttled(0, 1).state.is_clean(at(5), POLICY)
    assert new().throttled(0, 1).state.is_clean(at(902), POLICY)
    assert not new().failed(0).state.is_clean(at(10_000), POLICY)
    assert new().failed(0).succeeded(1).state.is_clean(at(1), POLICY)
    assert not new().broken().state.is_clean(at(10_000), POLICY)
    assert not new().admitted(0, RETRY).state.is_clean(at(0.1), POLICY)
    assert new().admitted(0, RETRY).state.is_clean(at(0.2), POLICY)


def test_a_forgotten_rate_has_no_part_in_what_is_learned_next() -> None:
    learned = new().throttled(0, 1).admitted(1).succeeded(1.5).state
    assert learned.pace is not None
    long_ago = new(replace(learned, failures=1, pace=replace(learned.pace, rate=300.0)))
    assert long_ago.succeeded(1_000).state.pace == long_ago.state.pace
    pace = long_ago.throttled(1_000, 1, began=999.0).state.pace
    assert pace is not None
    assert (pace.rate, pace.earlier, pace.curve) == (10, (), ())


def test_requests_admitted_before_the_clock_was_set_back_delay_no_others() -> None:
    limiter = new().throttled(0, 1)
    for second in range(1, 70):
        limiter.admitted(second)
    new(limiter.state.following(at(10))).admitted(10.5)
