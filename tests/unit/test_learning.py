"""What the limiter learns at servers that throttle: the short form of `ONLY=throttling make bench`, with fixed seeds."""

import pytest
from msgspec.structs import replace

from guestledger.engine.limits.admission import DenialReason
from guestledger.engine.limits.curve import added
from guestledger.engine.limits.feedback import ThrottleScope
from guestledger.engine.limits.pace import Pace
from tests.reserving import WORKED_ROWS, WorkedRow, work
from tests.throttling import FULL_RATE, ROWS, SPAN_S, WARM_S, Changing, Row, goodput, simulate, throttled_share
from tests.unit.limiters import CLEAN, new
from tests.unit.samples import at


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_limiter_finds_the_rate_that_an_api_bears(row: Row) -> None:
    seen = simulate(row.server(), seed=1, late_s=row.late_s)
    # The bench has the medians. At the nodes, the best constant rate gives 0.91.
    assert goodput(seen, WARM_S, SPAN_S) >= 0.98 * row.least * row.best
    assert not row.has_quota or throttled_share(seen, WARM_S, SPAN_S) < 0.01
    assert not any(one.early for one in seen), "no request is sent before a Retry-After has passed"


@pytest.mark.parametrize("worked", WORKED_ROWS, ids=lambda worked: worked.name)
def test_eight_workers_that_record_late_and_in_lumps_find_the_rate(worked: WorkedRow) -> None:
    seen = work(worked, seed=1)
    assert goodput(seen, WARM_S, SPAN_S) >= 0.98 * worked.least * worked.row.best
    assert not worked.row.has_quota or throttled_share(seen, WARM_S, SPAN_S) < 0.02
    assert not any(one.early for one in seen), "nothing is recorded before a Retry-After has passed"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_scope_auto_is_as_good_at_a_quota_and_far_better_by_chance(row: Row) -> None:
    seen = simulate(row.server(), seed=2, scope=ThrottleScope.AUTO, late_s=row.late_s)
    found = goodput(seen, WARM_S, SPAN_S)
    if row.has_quota:
        by_quota = simulate(row.server(), seed=2, late_s=row.late_s)
        assert found >= goodput(by_quota, WARM_S, SPAN_S) - 0.03 * row.best
        assert throttled_share(seen, WARM_S, SPAN_S) < 0.015
    else:
        assert found > 0.6 * FULL_RATE


def test_the_first_sign_of_a_limit_closes_for_all_again() -> None:
    curve = added((), rate=5_000.0, answers=5_000, throttled=100)
    pace = Pace(rate=5_000.0, floor=0.1, learned_at=at(0), pause_s=1.0, curve=curve, by_chance=True)
    limiter = new(replace(CLEAN, closed_at=at(-1), closed_until=at(0), pace=pace))
    limiter.throttled(1, 60, scope=ThrottleScope.AUTO).admitted(1.1).succeeded(1.2, 50, began=1.1)
    limiter.throttled(1.3, 60, began=1.2, scope=ThrottleScope.AUTO).admitted(1.4)
    for now in (1.5, 1.6, 1.7, 1.8):
        limiter.throttled(now, 60, began=1.4, scope=ThrottleScope.AUTO)
    limiter.denied_by(DenialReason.CLOSED, 61)


def test_requests_beside_a_throttled_one_show_that_it_came_by_chance() -> None:
    limiter = new().throttled(1, 60, began=0.5, scope=ThrottleScope.AUTO)
    limiter.denied_by(DenialReason.CLOSED, 1.1)
    limiter.succeeded(1.1, 7, began=0.6).denied_by(DenialReason.CLOSED, 1.1)
    limiter.succeeded(1.2, began=0.6).admitted(1.2, times=64)
    limiter.throttled(1.3, 60, began=1.2, scope=ThrottleScope.AUTO).admitted(1.3)


def test_requests_sent_before_a_throttled_one_show_nothing() -> None:
    limiter = new().throttled(1, 60, began=0.5, scope=ThrottleScope.AUTO)
    limiter.succeeded(1.1, 60, began=0.4).denied_by(DenialReason.CLOSED, 1.1)


def test_throttled_requests_beside_a_throttled_one_show_a_limit() -> None:
    limiter = new().throttled(1, 60, began=0.5, scope=ThrottleScope.AUTO)
    for now in (1.1, 1.2):
        limiter.throttled(now, 60, began=0.6, scope=ThrottleScope.AUTO)
    limiter.succeeded(1.3, 5, began=0.6)
    limiter.denied_by(DenialReason.CLOSED, 61)
    assert limiter.rate(65) == limiter.policy.initial_rate


def test_no_trial_lifts_a_pause_that_speaks_of_all() -> None:
    limiter = new().throttled(1, 60, began=0.5, scope=ThrottleScope.AUTO)
    limiter.failed(1.1, began=0.6, closed_ms=10_000).succeeded(1.2, 20, began=0.6)
    limiter.denied_by(DenialReason.CLOSED, 11.2)


def test_a_limit_that_looked_like_chance_closes_for_all_again() -> None:
    limiter = new().throttled(1, 60, began=0.5, scope=ThrottleScope.AUTO).succeeded(1.1, 8, began=0.6).admitted(1.2)
    for now in (1.3, 1.4, 1.5):
        limiter.throttled(now, 60, began=1.2, scope=ThrottleScope.AUTO)
    limiter.denied_by(DenialReason.CLOSED, 61)


@pytest.mark.parametrize(("burst", "later"), [(1, 0), (1, 20), (1, 40), (50, 0)])
def test_a_quota_that_halves_and_doubles_is_followed(burst: int, later: int) -> None:
    seen = simulate(Changing(50, burst, 1.0, doubled_at=180 + later), seed=1, span_s=270 + later)
    assert throttled_share(seen, 100, 110) < 0.05, "within 10 s"
    assert goodput(seen, 240 + later, 270 + later) >= 0.8 * 50, "within 60 s, whenever the last try was"
    assert not any(one.early for one in seen), "no request is sent before a Retry-After has passed"
