"""Which rate a limiter goes at next. Pure.

The one with the best goodput under what the curve shows. After a throttle it may be a lower one, to learn whether that helps. A
higher one is tried once that costs little. The numbers were found by the rows of `ONLY=throttling make bench`.
"""

from datetime import datetime, timedelta
from math import sqrt

from msgspec.structs import replace

from guestledger.engine.limits import curve as c
from guestledger.engine.limits.pace import Pace

MOST_BY_CHANCE = 0.25
"""No larger share of requests is throttled by chance."""

# The share of the time that may be lost to trying a higher rate.
_BUDGET = 0.022
# How many requests' time a throttle costs beside its pause: of two rates with the same goodput the lower one is better.
_PENALTY = 10.0
# The lowest rate with this share of the best goodput is taken.
_NEAR = 0.995
# A lower rate is tried if this much of the rate is lost to pauses.
_LOST = 1.06
# It is tried until so many throttles would have been expected there, unless it has seen so many already.
_TRIED, _KNOWN = 4.0, 2.0
# But for at most as long as this many pauses.
_TRIED_PAUSES = 10.0
# No lower rate than this share of the last one is chosen for what the curve shows.
_CUT = 0.36
# A throttle lowers the rate to this share of what was sent in the second before, unless the rate was hardly used:
# fewer were sent than these, or than this share of it. No climb ends nearer than that to the rate that was throttled.
_PROVEN, _MIN_SENT, _MIN_USED = 0.92, 5, 0.25
# It stays there for so many seconds: at first requests come unevenly, and the API may count by the second.
_STAY_S = 2.0
# The step before in a climb has shown nothing if a smaller share of it was sent in the second before.
_BACKED = 0.8
# Throttles that cost a smaller share of the time than these are not worth a higher rate; are not said to come by chance.
_NOTABLE, _LOST_BY_CHANCE = 0.05, 0.1
# So many throttles come by chance if they show no limit.
_SHOWING_CHANCE, _NO_GAIN = 8.0, 1.0
# So many throttles at a rate, old ones counting less: it was throttled once; it is blamed.
_SEEN, _BLAMED = 0.05, 0.3
# By what share the rate rises: up to a known rate, and beyond it; the most at once beyond it.
_FAST, _CAREFUL, _MOST = 0.12, 0.03, 0.3
# The first of these shares applies once, and once more for each so many seconds that the answers take, up to a maximum.
FAST_S, _MAX_LATENCY_S = 0.2, 0.5
# A rate that is blamed is approached by half the way to it, so many times sooner, while it is so far above.
_SOONER, _MIN_GAP = 4.0, 1.03


def after_throttle(pace: Pace) -> Pace:
    """The pace after a throttle."""
    rate, share, limited = _target(pace)
    good = c.goodput(rate, share, pace.pause_s, _PENALTY)
    blamed = (point.rate for point in pace.curve if point.throttled > _BLAMED and point.rate <= rate)
    lowest = min(blamed, default=rate)
    least = _CUT * pace.rate
    if lowest > _LOST * good:
        # Between these two the goodput may be better. If not, chance explains the throttles, and the rate may rise.
        lower = sqrt(lowest * good)
        seen = c.around(pace.curve, lower, lowest / 1.02) * share
        if seen < _KNOWN:
            rate = pace.bounded(max(lower, least))
            return replace(pace, rate=rate, hold=min((_TRIED - seen) / share, _TRIED_PAUSES * pace.pause_s * rate))
    if not limited:
        # The more is lost to pauses anyway, the less a higher rate costs.
        lost = 1 - good / rate
        rate *= 1 + lost if lost > _NOTABLE else 1
        pace = replace(pace, by_chance=lost > _LOST_BY_CHANCE and _shows_chance(pace))
    return replace(pace, rate=pace.bounded(max(rate, least)), hold=0.0)


def seen_to_work(before: Pace, pace: Pace, sent_at: datetime) -> Pace:
    """The pace after a throttle of a request sent at `sent_at`, by what was sent in the second before and by the last climb."""
    sent = None if before.last_seconds is None else before.last_seconds.within_a_second(sent_at)
    if sent is not None and sent >= max(_MIN_SENT, _MIN_USED * before.rate):
        # A rate that rises fast is far too high when it is throttled.
        rate = pace.bounded(min(pace.rate, _PROVEN * sent))
        pace = replace(pace, rate=rate, hold=max(pace.hold, _STAY_S * rate))
    # A climb ends at the step before. The first step is one from a rate that the curve knows better.
    rates = before.rates(sent_at)
    climb = before.climb - (len(before.earlier) + 1 - len(rates))
    *_, step, rate = (0.0, 0.0, *rates)
    step = min(step, _PROVEN * rate)
    if climb < 2 or pace.rate >= step or (sent is not None and sent < _BACKED * step):
        return pace
    if any(point.throttled > _SEEN for point in c.beside(pace.curve, step)):
        return pace
    return replace(pace, rate=step, hold=_STAY_S * step)


def after_answers(pace: Pace, now: datetime, opened_at: datetime, latency_s: float) -> Pace:
    """The pace after answers without a throttle, which took `latency_s`."""
    target, _, limited = _target(pace)
    if limited and pace.rate < target / 1.001:
        return replace(pace, rate=pace.bounded(min(target, pace.rate * _growth(latency_s))), climb=0)
    share = c.best(c.explanations(pace.curve)).share(pace.rate)
    lost = max(0.0, 1 - c.goodput(pace.rate, share, pace.pause_s, _PENALTY) / pace.rate)
    throttled = [point.rate for point in pace.curve if point.throttled > _SEEN]
    near = bool(throttled) and lost < 2 * _NOTABLE and pace.rate >= min(throttled) / 1.1
    if not limited and not near:
        return replace(pace, rate=pace.bounded(pace.rate * (lost + _growth(latency_s))), climb=0)
    # Where chance throttles, part of the time is lost anyway.
    budget = _BUDGET if limited else _BUDGET + lost
    rate = pace.rate * (1 + min(_MOST, _CAREFUL * (1 + pace.climb / 2)))
    above = min((point.rate for point in pace.curve if point.throttled > _BLAMED and point.rate > pace.rate), default=0)
    if limited and above > _MIN_GAP * pace.rate:
        rate = min(rate, sqrt(pace.rate * above))
        budget *= _SOONER
    if now - opened_at < timedelta(seconds=max(0.0, pace.pause_s / budget - pace.pause_s)):
        return replace(pace, climb=0)
    return replace(pace, rate=pace.bounded(rate), climb=pace.climb + 1)


def _growth(latency_s: float) -> float:
    """By what factor the rate rises up to a known one: by more if the answers come late."""
    # A clock that was set back meanwhile gives a negative latency, a suspended machine a very long one.
    return float((1 + _FAST) ** (1 + min(max(0.0, latency_s), _MAX_LATENCY_S) / FAST_S))


def _target(pace: Pace) -> tuple[float, float, bool]:
    """The rate to go at, the share that is throttled there, and whether there is a limit."""
    found = c.explanations(pace.curve)
    if c.shows_limit(found):
        goodputs = c.expected(found, (point.rate for point in pace.curve), pace.pause_s, _PENALTY)
        enough = _NEAR * max(goodputs.values())
        rate = min(rate for rate, goodput in goodputs.items() if goodput >= enough)
        return rate, max(1e-6, c.expected_share(found, rate)), True
    blamed = (point.rate for point in pace.curve if point.throttled > _BLAMED)
    return max(blamed, default=pace.rate), found[0].chance, False


def _shows_chance(pace: Pace) -> bool:
    found = c.explanations(pace.curve)
    gain = c.best(found).likelihood - found[0].likelihood
    enough = sum(point.throttled for point in pace.curve) >= _SHOWING_CHANCE
    return enough and gain < _NO_GAIN and found[0].chance <= MOST_BY_CHANCE
