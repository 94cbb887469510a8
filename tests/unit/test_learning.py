"""What the limiter learns at servers that throttle: the short form of `ONLY=throttling make bench`, with fixed seeds."""

import pytest

from tests.throttling import ROWS, SPAN_S, WARM_S, Changing, Row, goodput, simulate, throttled_share


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_limiter_finds_the_rate_that_an_api_bears(row: Row) -> None:
    seen = simulate(row.server(), seed=1)
    assert goodput(seen, WARM_S, SPAN_S) >= row.least * row.best
    assert not row.has_quota or throttled_share(seen, WARM_S, SPAN_S) < 0.01
    assert not any(one.early for one in seen), "no request is sent before a Retry-After has passed"


@pytest.mark.parametrize("burst", [1, 50])
def test_a_quota_that_halves_and_doubles_is_followed(burst: int) -> None:
    seen = simulate(Changing(50, burst, 1.0), seed=1, span_s=270)
    assert throttled_share(seen, 100, 110) < 0.05, "within 10 s"
    assert goodput(seen, 240, 270) >= 0.8 * 50, "within 60 s"
