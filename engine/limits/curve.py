"""What share of requests an API throttles at which rate: the evidence, and what explains it. Pure.

The evidence is counted for each rate on a logarithmic scale, and fades. Each explanation has two parts: a share that is
throttled by chance, whatever the rate, and a limit above which the share rises. A quota, a bucket that saves up requests, and
a faulty node behind a balancer all look like that.
"""

from collections.abc import Iterable, Sequence
from math import exp, log

import msgspec

_STEP = log(1.02)
# Less evidence than this is dropped.
_TRACE = 0.05
# No API throttles all for ever.
_MOST = 0.999
# So many throttles more than by chance show a limit (the difference of two logarithms of likelihoods).
_SIGNIFICANT = 3.0
# Explanations whose likelihood is smaller by more than this (its logarithm) do not count.
_IMPLAUSIBLE = 4.0


class Point(msgspec.Struct, frozen=True, array_like=True):
    """How many requests were answered at about this rate, and how many of them were throttled. Old ones count less."""

    rate: float
    answers: float
    throttled: float


Curve = tuple[Point, ...]
"""In order of the rate."""


class Explanation(msgspec.Struct, frozen=True):
    """A possible reason for the throttles. `limit` is `None`: chance alone."""

    limit: float | None
    chance: float
    """The share that is throttled at any rate."""
    slope: float
    likelihood: float
    """Its logarithm, apart from a constant."""

    def share(self, rate: float) -> float:
        """The share of requests that is throttled at this rate."""
        if self.limit is None or rate <= self.limit:
            return min(_MOST, self.chance)
        return min(_MOST, self.chance + self.slope * (1 - self.limit / rate))


def added(curve: Curve, rate: float, answers: float, throttled: float) -> Curve:
    """The curve with this evidence."""
    rate = exp(round(log(rate) / _STEP) * _STEP)
    points = {point.rate: point for point in curve}
    before = points.get(rate, Point(rate, 0, 0))
    points[rate] = Point(rate, before.answers + answers, before.throttled + throttled)
    return tuple(points[rate] for rate in sorted(points))


def beside(curve: Curve, rate: float) -> Curve:
    """The evidence at this rate, within a step of the scale."""
    return tuple(point for point in curve if abs(log(point.rate / rate)) < _STEP)


def faded(curve: Curve, share: float) -> Curve:
    """The curve with only this share of its evidence."""
    less = (Point(point.rate, point.answers * share, point.throttled * share) for point in curve)
    return tuple(point for point in less if point.answers > _TRACE)


def weight(points: Iterable[Point]) -> float:
    """How many answers the points stand for."""
    return sum(point.answers for point in points)


def explanations(curve: Curve) -> list[Explanation]:
    """The possible reasons, chance alone first, then one for each rate that could be the limit."""
    answers, throttled = weight(curve), sum(point.throttled for point in curve)
    if throttled <= 0:
        return [Explanation(None, 0.0, 0.0, 0.0)]
    chance = throttled / answers
    found = [Explanation(None, chance, 0.0, throttled * log(chance) - throttled)]
    answers_below = throttled_below = 0.0
    for number, point in enumerate(curve[:-1], 1):
        answers_below += point.answers
        throttled_below += point.throttled
        above = curve[number:]
        excess = throttled - throttled_below - throttled_below / answers_below * (answers - answers_below)
        if excess > 0:
            found.append(_with_limit(point.rate, answers_below, throttled_below, excess, above))
    return found


def _with_limit(
    limit: float, answers_below: float, throttled_below: float, excess: float, above: Sequence[Point]
) -> Explanation:
    chance = throttled_below / answers_below
    slope = min(excess / sum(point.answers * (1 - limit / point.rate) for point in above), 1 - chance)
    likelihood = throttled_below * log(chance) - throttled_below if throttled_below > 0 else 0.0
    for point in above:
        share = chance + slope * (1 - limit / point.rate)
        likelihood -= point.answers * share
        if point.throttled > 0:
            likelihood += point.throttled * log(share)
    return Explanation(limit, chance, slope, likelihood)


def best(found: Sequence[Explanation]) -> Explanation:
    """The likeliest explanation."""
    return max(found, key=lambda one: one.likelihood)


def shows_limit(found: Sequence[Explanation]) -> bool:
    """Whether a limit explains the throttles far better than chance."""
    return best(found).likelihood - found[0].likelihood > _SIGNIFICANT


def goodput(rate: float, share: float, pause_s: float, penalty: float) -> float:
    """Accepted requests per second if each throttle stops all for `pause_s`, and costs `penalty` requests on top."""
    return (1 - share) / ((1 + penalty * share) / rate + share * pause_s)


def expected(
    found: Sequence[Explanation], rates: Iterable[float], pause_s: float, penalty: float
) -> dict[float, float]:
    """The goodput at each rate: the geometric mean over all explanations with a limit, by their likelihood.

    Not the arithmetic one: a rate that is far too high under one of them must not look good for its promise.
    """
    likeliest = max(one.likelihood for one in found[1:])
    weighed = [(exp(one.likelihood - likeliest), one) for one in found[1:] if one.likelihood > likeliest - _IMPLAUSIBLE]
    total = sum(weight for weight, _ in weighed)
    return {
        rate: exp(
            sum(weight * log(goodput(rate, one.share(rate), pause_s, penalty)) for weight, one in weighed) / total
        )
        for rate in rates
    }


def expected_share(found: Sequence[Explanation], rate: float) -> float:
    """The throttled share at this rate: the mean over all explanations with a limit, by their likelihood."""
    likeliest = max(one.likelihood for one in found[1:])
    weighed = [(exp(one.likelihood - likeliest), one.share(rate)) for one in found[1:]]
    return sum(weight * share for weight, share in weighed) / sum(weight for weight, _ in weighed)


def around(curve: Curve, rate: float, below: float) -> float:
    """The evidence within 15 % of `rate`, and below another rate."""
    return weight(point for point in curve if rate / 1.15 <= point.rate <= min(rate * 1.15, below))
