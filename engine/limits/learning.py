"""What answers teach about the rate that an API bears. Pure.

Each answer is evidence, which fades. Most of it is dropped once it no longer fits: then the API has changed.
"""

from datetime import datetime

from msgspec.structs import replace

from guestledger.engine.limits import choice, curve as c
from guestledger.engine.limits.pace import MAX_RATE, MIN_SHARE, Pace
from guestledger.engine.limits.trial import Trial

# Evidence fades by half in so many seconds, or so many pauses if that is longer: what was dear to learn is kept.
_HALF_LIFE_S = 40.0
# Surprise: so many throttles in a row (each counts half the one after it) of which only so many were expected.
_SURPRISING, _EXPECTED, _KEPT = 1.55, 0.15, 0.02
# A throttle counts half as much for a surprise after so many seconds, or so many pauses if that is longer.
_CALM_S = 10.0
# Surprise needs so many answers to be surprised by.
_EXPERIENCED = 100.0
# Within so many seconds, answers that are still to come make the rate look unused.
_SETTLED_S = 2.0
# Others follow a throttled request until its answer comes: that time counts as part of the pause, up to so many seconds.
_MAX_LATENCY_S = 5.0
# Seconds of answers before the rate rises beyond a known one.
_CAREFUL_S = 1.0


def tried(pace: Pace, sent_at: datetime) -> Pace:
    """The pace after a throttle, until a trial shows whether it came by chance."""
    return _judged(pace, Trial(sent_at=sent_at) if pace.trial is None else pace.trial.repeated(sent_at))


def with_quota(pace: Pace, per_second: float) -> Pace:
    """The pace by the quota that the server states. It is trusted for the answers of a minute."""
    rate = pace.bounded(per_second)
    return replace(pace, rate=pace.bounded(0.95 * rate), answers=0, hold=60 * rate, climb=0)


def answered(pace: Pace, now: datetime, opened_at: datetime, sent_at: datetime) -> Pace:
    """The pace after an answer that was no throttle, to a request sent since `opened_at`."""
    if not pace.is_present(sent_at):
        return _with_earlier(pace, sent_at, throttled=False)
    pace = replace(pace, answers=pace.answers + 1, hold=max(0.0, pace.hold - 1))
    if pace.answers < max(1.0, (_CAREFUL_S if pace.climb else choice.FAST_S) * pace.rate):
        return pace
    used = _used_rate(pace, now, opened_at, sent_at)
    share = c.best(c.explanations(pace.curve)).share(used)
    learned = replace(_learned(_calmed(pace, now), now, used, 0), expected=pace.expected + pace.answers * share)
    if pace.hold > 0:
        return learned
    if used != pace.rate:
        return replace(learned, climb=0)
    return choice.after_answers(learned, now, opened_at, (now - sent_at).total_seconds())


def late(pace: Pace, sent_at: datetime, *, throttled: bool, into_pause: bool = False) -> Pace:
    """The pace after an answer to a request from before the last throttle; `into_pause`: it was sent after that throttle."""
    decided = pace.curve or pace.trial is None  # as long as nothing else is known, the trial alone decides
    # A server throttles whatever is sent into its pause: that shows nothing about the rate.
    if decided and not into_pause:
        pace = _with_earlier(pace, sent_at, throttled=throttled)
    return pace if pace.trial is None else _judged(pace, pace.trial.answered(sent_at, throttled=throttled))


def throttled_by_chance(pace: Pace, pause_s: float, now: datetime, opened_at: datetime, sent_at: datetime) -> Pace:
    """The pace after a throttle that stops only its own request, unless more came than chance explains."""
    pace = _calmed(_settled(pace, sent_at), now)
    used = _used_rate(pace, now, opened_at, sent_at)
    share = c.best(c.explanations(pace.curve)).share(used)
    throttles, expected = 0.5 * pace.throttles + 1, pace.expected + (pace.answers + 1) * share
    learned = _learned(pace, now, used, 1)
    bearable = c.best(c.explanations(learned.curve)).share(used) <= choice.MOST_BY_CHANCE
    if bearable and (throttles < _SURPRISING or expected >= _EXPECTED):
        return replace(learned, rate=MAX_RATE, throttles=throttles, expected=0.5 * expected)
    return tried(replace(throttled(pace, pause_s, now, opened_at, sent_at), by_chance=False), sent_at)


def throttled(pace: Pace, pause_s: float, now: datetime, opened_at: datetime, sent_at: datetime) -> Pace:
    """The pace after a throttle that stops all for `pause_s`."""
    pause_s += min(max(0.0, (now - sent_at).total_seconds()), _MAX_LATENCY_S)
    pace = replace(pace, pause_s=pause_s if not pace.curve else pace.pause_s + 0.3 * (pause_s - pace.pause_s))
    pace = _settled(pace, sent_at)
    used = _used_rate(pace, now, opened_at, sent_at)
    known = _forgetful(_calmed(pace, now), used)
    learned = replace(_learned(known, now, used, 1), climb=0, by_chance=False, trial=None)
    next_pace = choice.seen_to_work(known, choice.after_throttle(learned), sent_at)
    return next_pace.ending(pace, used if pace.is_present(sent_at) else pace.rate, now)


def _judged(pace: Pace, trial: Trial) -> Pace:
    if trial.shows_chance:
        curve = pace.curve or c.added((), MAX_RATE, trial.balance + 1, 1)
        return replace(pace, rate=MAX_RATE, curve=curve, by_chance=True, trial=None)
    if pace.curve:
        return replace(pace, trial=trial)
    # Nothing else is known.
    return replace(pace, rate=pace.floor / MIN_SHARE if trial.shows_limit else MAX_RATE, trial=trial)


def _with_earlier(pace: Pace, sent_at: datetime, *, throttled: bool) -> Pace:
    """The pace with the answer to a request that was admitted at an earlier rate. It shows nothing if that is not known."""
    rates = pace.rates(sent_at)
    return replace(pace, curve=c.added(pace.curve, rates[-1], 1, throttled)) if rates else pace


def _settled(pace: Pace, sent_at: datetime) -> Pace:
    """The pace before a throttle: the answers at the present rate say nothing about a request from before it."""
    if pace.is_present(sent_at) or not pace.answers:
        return pace
    return replace(pace, curve=c.added(pace.curve, pace.rate, pace.answers, 0), answers=0)


def _used_rate(pace: Pace, now: datetime, opened_at: datetime, sent_at: datetime) -> float:
    """The rate that the last answers speak of: a lower one if there were too few requests to use it."""
    if not pace.is_present(sent_at):
        # The oldest known rate, if there is none of that time.
        return (pace.rate, *(one.rate for one in pace.earlier[:1]), *pace.rates(sent_at))[-1]
    # Requests sent after the last answered one have no answer yet.
    since = max(opened_at, pace.began_at or opened_at)
    seconds = min(now - pace.learned_at, sent_at - since).total_seconds()
    used = pace.answers / seconds if seconds > _SETTLED_S else pace.rate
    return pace.rate if used >= pace.rate / 2 else pace.bounded(used)


def _learned(pace: Pace, now: datetime, rate: float, throttles: int) -> Pace:
    half_life = max(_HALF_LIFE_S, _HALF_LIFE_S * pace.pause_s)
    seconds = max(0.0, (now - pace.learned_at).total_seconds())
    curve = c.added(c.faded(pace.curve, 0.5 ** (seconds / half_life)), rate, pace.answers + throttles, throttles)
    return replace(pace, curve=curve, learned_at=max(now, pace.learned_at), answers=0)


def _calmed(pace: Pace, now: datetime) -> Pace:
    """Throttles that are not close together are no surprise."""
    seconds = max(0.0, (now - pace.learned_at).total_seconds())
    return replace(pace, throttles=pace.throttles * 0.5 ** (seconds / max(_CALM_S, _CALM_S * pace.pause_s)))


def _forgetful(pace: Pace, rate: float) -> Pace:
    """Most of what is known is dropped if throttles come that it does not explain: the API has changed."""
    share = c.best(c.explanations(pace.curve)).share(rate)
    throttles, expected = 0.5 * pace.throttles + 1, pace.expected + (pace.answers + 1) * share
    if throttles >= _SURPRISING and expected < _EXPECTED and c.weight(pace.curve) >= _EXPERIENCED:
        return replace(pace, curve=c.faded(pace.curve, _KEPT), throttles=0.0, expected=0.0, climb=0)
    return replace(pace, throttles=throttles, expected=0.5 * expected)
