"""`guestledger limits`: what a limiter has learned, in one line."""

from guestledger.adapters.forms.limiter_words import limiter_facts
from guestledger.engine.limits.curve import added
from guestledger.engine.limits.pace import Pace
from guestledger.engine.limits.state import LimiterState
from tests.unit.samples import at


def rate_line(pace: Pace | None) -> str:
    return dict(limiter_facts(LimiterState(pace=pace)))["rate:"]


def test_the_learned_limit_is_shown_in_one_line() -> None:
    curve = added(added((), rate=47.0, answers=1_000, throttled=0), rate=60.0, answers=30, throttled=6)
    pace = Pace(rate=47.25, floor=0.1, learned_at=at(0), pause_s=1.0, curve=curve)
    assert rate_line(pace) == "47.2/s, the API seems to bear 46.6/s, 0.58 % of recent requests were throttled"


def test_throttles_by_chance_show_no_limit() -> None:
    curve = added(added((), rate=47.0, answers=1_000, throttled=20), rate=600.0, answers=1_000, throttled=20)
    pace = Pace(rate=600.0, floor=0.1, learned_at=at(0), pause_s=1.0, curve=curve)
    assert rate_line(pace) == "600/s, 2 % of recent requests were throttled"


def test_a_limiter_that_429s_do_not_slow_down_is_unlimited() -> None:
    curve = added((), rate=5_000.0, answers=1_000, throttled=20)
    pace = Pace(rate=5_000.0, floor=0.1, learned_at=at(0), curve=curve, by_chance=True)
    assert rate_line(pace) == "unlimited, 429s do not depend on the rate, 2 % of recent requests were throttled"


def test_a_limiter_that_has_learned_nothing_shows_its_rate() -> None:
    assert rate_line(Pace(rate=10.0, floor=0.1, learned_at=at(0))) == "10/s"
    assert rate_line(None) == ""
