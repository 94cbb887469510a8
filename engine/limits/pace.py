"""The rate that a limiter admits, learned from the answers. Pure.

It goes at the rate with the best goodput under what the curve shows. After a throttle it may try a lower rate, to learn
whether that helps. It tries a higher rate once that costs little, and forgets most of what it knew once it no longer fits.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from math import sqrt

import msgspec
from msgspec.structs import replace

from guestledger.engine.limits import curve as c
from guestledger.engine.limits.accepted import Accepted
from guestledger.engine.limits.trial import Trial

MAX_RATE = 5_000.0
"""A rate this high is no limit any more, per second."""
MIN_SHARE = 0.01
"""The lowest rate, as a share of the policy's `initial_rate`."""

# Evidence fades by half in so many seconds, or so many pauses if that is longer: what was dear to learn is kept.
_HALF_LIFE_S = 40.0
# The share of the time that may be lost to trying a higher rate.
_BUDGET = 0.027
# So many throttles more than by chance show a limit (the difference of two logarithms of likelihoods).
_SIGNIFICANT = 3.0
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
# A throttle lowers the rate to no less than this share,
_CUT = 0.36
# and to no more than this share of what was accepted in the second before, if that were so many or more.
_PROVEN, _TELLING = 0.96, 5
# Surprise: so many throttles in a row (each counts half the one after it) of which only so many were expected.
_SURPRISING, _EXPECTED, _KEPT = 1.55, 0.15, 0.02
# Throttles are less and less in a row: by half in so many seconds, or so many pauses if that is longer.
_CALM_S = 10.0
# Surprise needs so many answers to be surprised by.
_EXPERIENCED = 100.0
# Throttles that cost less than this share of the time need no name.
_LOST_BY_CHANCE = 0.1
# Throttles come by chance if so many of them show no limit, and if they are no larger share than this.
_SHOWING_CHANCE, _NO_GAIN, _MOST_BY_CHANCE = 8.0, 1.0, 0.25
# So many throttles at a rate, old ones counting less: it was throttled once; it is blamed.
_SEEN, _BLAMED = 0.05, 0.3
# Within so many seconds, answers that are still to come make the rate look unused.
_SETTLED_S = 2.0
# Seconds of answers before the rate rises, and by what share: up to a known rate, and beyond it; the most at once beyond it.
_FAST_S, _CAREFUL_S = 0.2, 1.0
_FAST, _CAREFUL, _MOST = 0.12, 0.03, 0.3
# A rate that was throttled is approached by half the way to it, so many times sooner, while it is still so far above.
_SOONER, _APART = 5.0, 1.03


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """What a limiter has learned. Rates are per second."""

    rate: float
    """What it admits."""
    floor: float
    """The lowest rate."""
    learned_at: datetime
    """When the curve was last changed."""
    curve: c.Curve = ()
    pause_s: float = 0.0
    """How long a throttle stops all, on average."""
    throttled_at: float | None = None
    """The rate at the last throttle."""
    by_chance: bool = False
    """Whether the throttles were seen not to depend on the rate."""
    answers: int = 0
    """Answers that are not in the curve yet."""
    hold: float = 0.0
    """How many more answers it stays at this rate, to learn about it."""
    climb: int = 0
    """How many steps it has climbed beyond what is known."""
    climbed_from: float = 0.0
    """The rate before the last one of them."""
    accepted: Accepted | None = None
    """The last requests that were accepted."""
    throttles: float = 0.0
    """The last throttles, each half as important as the one after it."""
    expected: float = 0.0
    """How many were expected meanwhile."""
    trial: Trial | None = None
    """Whether the last throttle came by chance, as long as it is open."""

    @property
    def is_unlimited(self) -> bool:
        """Whether it admits any rate."""
        return self.rate >= MAX_RATE

    @property
    def limit(self) -> float | None:
        """The limit of the API that explains the throttles; `None`: they come by chance, or nothing is known."""
        found = c.explanations(self.curve)
        return c.best(found).limit if _shows_limit(found) else None

    @property
    def throttled_share(self) -> float | None:
        """The share of recent requests that was throttled; `None`: unknown."""
        answers = c.weight(self.curve)
        return sum(point.throttled for point in self.curve) / answers if answers else None


def begun(initial_rate: float, opens_at: datetime) -> Pace:
    """The pace after a first pause."""
    return Pace(rate=initial_rate, floor=initial_rate * MIN_SHARE, learned_at=opens_at)


def tried(pace: Pace, sent_at: datetime) -> Pace:
    """The pace after a throttle, until a trial shows whether it came by chance."""
    return _judged(pace, Trial(sent_at=sent_at) if pace.trial is None else pace.trial.repeated(sent_at))


def with_quota(pace: Pace, per_second: float) -> Pace:
    """The pace by the quota that the server states. It is trusted for the answers of a minute."""
    rate = _bounded(pace, per_second)
    return replace(pace, rate=_bounded(pace, 0.95 * rate), answers=0, hold=60 * rate, climb=0)


def answered(pace: Pace, now: datetime, opened_at: datetime) -> Pace:
    """The pace after an answer that was no throttle, to a request sent since `opened_at`."""
    accepted = _accepted(pace, opened_at).and_one(now)
    pace = replace(pace, answers=pace.answers + 1, hold=max(0.0, pace.hold - 1), accepted=accepted)
    if pace.answers < max(1.0, (_CAREFUL_S if pace.climb else _FAST_S) * pace.rate):
        return pace
    used = _used_rate(pace, now, opened_at)
    share = c.best(c.explanations(pace.curve)).share(used)
    learned = replace(_learned(pace, now, used, 0), expected=pace.expected + pace.answers * share)
    if pace.hold > 0:
        return learned
    return _raised(learned, now, opened_at) if used == pace.rate else replace(learned, climb=0)


def late(pace: Pace, sent_at: datetime, *, throttled: bool) -> Pace:
    """The pace after an answer to a request from before the last throttle."""
    if pace.throttled_at is not None:
        pace = replace(pace, curve=c.added(pace.curve, pace.throttled_at, 1, throttled))
    return pace if pace.trial is None else _judged(pace, pace.trial.answered(sent_at, throttled=throttled))


def throttled_by_chance(pace: Pace, pause_s: float, now: datetime, opened_at: datetime, sent_at: datetime) -> Pace:
    """The pace after a throttle that stops only its own request, unless more came than chance explains."""
    used = _used_rate(pace, now, opened_at)
    share = c.best(c.explanations(pace.curve)).share(used)
    throttles, expected = 0.5 * pace.throttles + 1, pace.expected + (pace.answers + 1) * share
    learned = _learned(pace, now, used, 1)
    bearable = c.best(c.explanations(learned.curve)).share(used) <= _MOST_BY_CHANCE
    if bearable and (throttles < _SURPRISING or expected >= _EXPECTED):
        return replace(learned, rate=MAX_RATE, throttles=throttles, expected=0.5 * expected)
    return tried(replace(throttled(pace, pause_s, now, opened_at), by_chance=False), sent_at)


def throttled(pace: Pace, pause_s: float, now: datetime, opened_at: datetime) -> Pace:
    """The pace after a throttle that stops all for `pause_s`."""
    pace = replace(pace, pause_s=pause_s if not pace.curve else pace.pause_s + 0.3 * (pause_s - pace.pause_s))
    used = _used_rate(pace, now, opened_at)
    known = _forgetful(pace, used)
    learned = replace(_learned(known, now, used, 1), throttled_at=used, climb=0, by_chance=False, trial=None)
    return _stepped_back(pace, _proven(_chosen(learned), _accepted(pace, opened_at).within_a_second(now)))


def _judged(pace: Pace, trial: Trial) -> Pace:
    if trial.shows_chance:
        curve = pace.curve or c.added((), MAX_RATE, trial.balance + 1, 1)
        return replace(pace, rate=MAX_RATE, curve=curve, by_chance=True, trial=None)
    if pace.curve:
        return replace(pace, trial=trial)
    # Nothing else is known.
    return replace(pace, rate=pace.floor / MIN_SHARE if trial.shows_limit else MAX_RATE, trial=trial)


def _bounded(pace: Pace, rate: float) -> float:
    return max(pace.floor, min(MAX_RATE, rate))


def _used_rate(pace: Pace, now: datetime, opened_at: datetime) -> float:
    """The rate that the last answers speak of: a lower one if there were too few requests to use it."""
    seconds = (now - max(pace.learned_at, opened_at)).total_seconds()
    used = pace.answers / seconds if seconds > _SETTLED_S else pace.rate
    return pace.rate if used >= pace.rate / 2 else _bounded(pace, used)


def _accepted(pace: Pace, opened_at: datetime) -> Accepted:
    known = pace.accepted
    return known if known is not None and known.opened_at == opened_at else Accepted(opened_at=opened_at)


def _learned(pace: Pace, now: datetime, rate: float, throttles: int) -> Pace:
    half_life = max(_HALF_LIFE_S, _HALF_LIFE_S * pace.pause_s)
    seconds = max(0.0, (now - pace.learned_at).total_seconds())
    curve = c.added(c.faded(pace.curve, 0.5 ** (seconds / half_life)), rate, pace.answers + throttles, throttles)
    calm = 0.5 ** (seconds / max(_CALM_S, _CALM_S * pace.pause_s))
    return replace(pace, curve=curve, learned_at=max(now, pace.learned_at), answers=0, throttles=pace.throttles * calm)


def _forgetful(pace: Pace, rate: float) -> Pace:
    """Most of what is known is dropped if throttles come that it does not explain: the API has changed."""
    share = c.best(c.explanations(pace.curve)).share(rate)
    throttles, expected = 0.5 * pace.throttles + 1, pace.expected + (pace.answers + 1) * share
    if throttles >= _SURPRISING and expected < _EXPECTED and c.weight(pace.curve) >= _EXPERIENCED:
        return replace(pace, curve=c.faded(pace.curve, _KEPT), throttles=0.0, expected=0.0)
    return replace(pace, throttles=throttles, expected=0.5 * expected)


def _shows_limit(found: Sequence[c.Explanation]) -> bool:
    return c.best(found).likelihood - found[0].likelihood > _SIGNIFICANT


def _shows_chance(pace: Pace) -> bool:
    found = c.explanations(pace.curve)
    gain = c.best(found).likelihood - found[0].likelihood
    enough = sum(point.throttled for point in pace.curve) >= _SHOWING_CHANCE
    return enough and gain < _NO_GAIN and found[0].chance <= _MOST_BY_CHANCE


def _target(pace: Pace) -> tuple[float, float, bool]:
    """The rate to go at, the share that is throttled there, and whether there is a limit."""
    found = c.explanations(pace.curve)
    if _shows_limit(found):
        goodputs = c.expected(found, (point.rate for point in pace.curve), pace.pause_s, _PENALTY)
        enough = _NEAR * max(goodputs.values())
        rate = min(rate for rate, goodput in goodputs.items() if goodput >= enough)
        return rate, max(1e-6, c.expected_share(found, rate)), True
    blamed = (point.rate for point in pace.curve if point.throttled > _BLAMED)
    return max(blamed, default=pace.rate), found[0].chance, False


def _chosen(pace: Pace) -> Pace:
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
            rate = _bounded(pace, max(lower, least))
            return replace(pace, rate=rate, hold=min((_TRIED - seen) / share, _TRIED_PAUSES * pace.pause_s * rate))
    if not limited:
        # The more is lost to pauses anyway, the less a higher rate costs.
        lost = 1 - good / rate
        rate *= 1 + lost if lost > _CAREFUL else 1
        pace = replace(pace, by_chance=lost > _LOST_BY_CHANCE and _shows_chance(pace))
    return replace(pace, rate=_bounded(pace, max(rate, least)), hold=0.0)


def _proven(pace: Pace, accepted: float | None) -> Pace:
    """No faster than the API has just shown to bear: a rate that rises fast is far beyond that when it is throttled."""
    if accepted is None or accepted < _TELLING:
        return pace
    return replace(pace, rate=_bounded(pace, min(pace.rate, _PROVEN * accepted)))


def _stepped_back(before: Pace, pace: Pace) -> Pace:
    """A climb that is throttled ends at the step before, unless that was throttled as well."""
    step = before.climbed_from
    if before.climb < 2 or pace.rate >= step:
        return pace
    if any(point.throttled > _SEEN and abs(point.rate - step) < 0.015 * step for point in pace.curve):
        return pace
    return replace(pace, rate=step, hold=0.0)


def _raised(pace: Pace, now: datetime, opened_at: datetime) -> Pace:
    """The pace after answers without a throttle."""
    rate, share, limited = _target(pace)
    if limited and pace.rate < rate / 1.001:
        return replace(pace, rate=_bounded(pace, min(rate, pace.rate * (1 + _FAST))), climb=0)
    share = c.best(c.explanations(pace.curve)).share(pace.rate)
    lost = max(0.0, 1 - c.goodput(pace.rate, share, pace.pause_s, _PENALTY) / pace.rate)
    throttled = [point.rate for point in pace.curve if point.throttled > _SEEN]
    near = bool(throttled) and lost < 2 * _CAREFUL and pace.rate >= min(throttled) / 1.1
    if not limited and not near:
        return replace(pace, rate=_bounded(pace, pace.rate * (1 + _FAST + lost)), climb=0)
    # Where chance throttles, part of the time is lost anyway.
    budget = _BUDGET if limited else _BUDGET + lost
    rate = pace.rate * (1 + min(_MOST, _CAREFUL * (1 + pace.climb / 2)))
    above = min((rate for rate in throttled if rate > pace.rate), default=0.0)
    if limited and above > _APART * pace.rate:
        rate = min(rate, sqrt(pace.rate * above))
        budget *= _SOONER
    if now - opened_at < timedelta(seconds=max(0.0, pace.pause_s / budget - pace.pause_s)):
        return replace(pace, climb=0)
    return replace(pace, rate=_bounded(pace, rate), climbed_from=pace.rate, climb=pace.climb + 1)
