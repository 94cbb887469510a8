"""The limiter before an API: what all processes know together of how much it bears, and when it may be asked again.

One for each host and quota scope, kept in the database. Pure: it is asked and told with the database's time, so that processes
whose clocks differ see the same limiter. Four things may hold a request back, and each says why and until when:

- the limiter itself: a 429, a failure with `Retry-After`, or a `RateLimit` header with nothing left
  (draft-ietf-httpapi-ratelimit-headers) closes it for everybody until the server's time, never for less;
- the pace: behind that it opens with a ramp, slots in time that are given out one by one. The rate falls by a factor with a 429,
  rises by the same step each second (AIMD), and rests for a minute a little below what was too much the last time; then it is
  tried whether more can be had. All of that is counted in answers that are no 429: a rate that nobody makes use of does not rise;
- the breaker: failures in a row, 5xx and timeouts, never 429, break the circuit; after a rest, one request at a time probes;
- the budget: retries after failures are a share of all requests, so that an outage is not made worse.
"""

from datetime import datetime, timedelta
from math import exp, floor, sqrt

import msgspec
from msgspec.structs import replace

from guestledger.engine.limits.policy import (
    AdmissionRequest,
    DenialReason,
    Denied,
    Feedback,
    LimiterPolicy,
    Observation,
)

# So long, whoever claims has the right to probe: its request is under way by then, or is none. And so long after it, a probe
# that is not lost has told something: nobody is to wait as long as for one that is.
_PROBE_TAKES = timedelta(seconds=1)


class LimiterState(msgspec.Struct, frozen=True, kw_only=True):
    """One limiter. As it is made, it knows nothing against its API; the store keeps no row for such a one. Times are the database's."""

    closed_at: datetime | None = None
    closed_until: datetime | None = None
    why: str = ""
    paced_from: datetime | None = None
    """When it opened with a ramp; `None`: no pace is set."""
    ceiling: float | None = None
    """The rate at which the last 429 came; `None`: not known yet."""
    well: int = 0
    """Answers since it opened that were no 429."""
    next_slot: datetime | None = None
    next_passage: datetime | None = None
    """When the next request would pass if they came evenly; how far it may be ahead of the time bounds how many come at once."""

    failures: int = 0
    breaks: int = 0
    broken_at: datetime | None = None
    broken_until: datetime | None = None
    """Until when nothing is asked, and from when on a probe may be; `None` once one is under way."""
    probe_until: datetime | None = None
    """For how long that probe is waited for; before it is under way: for how long somebody has the right to it."""

    retries: float | None = None
    """What is left of the budget, at `retries_at`; `None`: all of it."""
    retries_at: datetime | None = None

    def rate(self, now: datetime, policy: LimiterPolicy) -> float | None:
        """The pace now; `None`: none is set."""
        if self.paced_from is None or now - self.paced_from > timedelta(milliseconds=policy.forgotten_ms):
            return None
        if self.ceiling is None:
            rate = policy.first_rate + self.well
            return rate if rate < policy.boundless_rate else None
        first, rest = policy.decrease * self.ceiling, policy.rest_share * self.ceiling
        # Of what rises by `step` each second, the square rises by twice that with each answer.
        step = policy.increase * self.ceiling
        risen = sqrt(first**2 + 2 * step * self.well)
        if risen <= rest:
            return risen
        # In seconds, counted in answers: how long ago the rise stopped, less how long it stops for.
        answers = self.well - max(0.0, (rest**2 - first**2) / (2 * step))
        seconds = max(0.0, answers / rest - policy.rest_ms / 1_000)
        # Slowly at first, for this is near what was too much, and then ever faster (as CUBIC does, RFC 9438).
        rate = rest * (1 + (seconds / policy.doubled_s) ** 3)
        return rate if rate < policy.boundless_rate else None

    def retries_left(self, now: datetime, policy: LimiterPolicy) -> float:
        """What is left of the budget now."""
        if self.retries is None or self.retries_at is None:
            return policy.retries_kept
        regained = policy.retries_per_second * max(0.0, (now - self.retries_at).total_seconds())
        return min(policy.retries_kept, self.retries + regained)

    def shut(self, now: datetime) -> Denied | None:
        """What holds every request back now: the limiter is closed, the circuit is broken, or a probe is under way."""
        if self.closed_until is not None and now < self.closed_until:
            return Denied(by=DenialReason.GATE, until=self.closed_until, reason=f"the limiter is closed: {self.why}")
        if self.broken_until is not None and now < self.broken_until:
            reason = f"the breaker is open: {self.failures} requests in a row failed; one probes then"
            return Denied(by=DenialReason.BREAKER, until=self.broken_until, reason=reason)
        if self.probe_until is not None and now < self.probe_until:
            reason = f"the breaker is open: {self.failures} requests in a row failed, and one probes now"
            return Denied(by=DenialReason.BREAKER, until=self.probe_until, reason=reason)
        return None

    def is_clean(self, now: datetime, policy: LimiterPolicy) -> bool:
        """Whether it knows nothing any more against its API, so that it need not be kept."""
        return (
            self.shut(now) is None
            and self.broken_at is None
            and not self.failures
            and self.rate(now, policy) is None
            and self.retries_left(now, policy) >= policy.retries_kept
        )


def slots(
    limiter: LimiterState, most: int, now: datetime, policy: LimiterPolicy
) -> tuple[LimiterState, list[datetime], Denied | None]:
    """Take up to `most` slots, not before which a request each may be made.

    Returns the limiter behind that, the slots, and where they are fewer than `most`, what holds the next one back.
    """
    held = limiter.shut(now)
    if held is not None or not most:
        return limiter, [], held
    if limiter.broken_at is not None:
        # Only for a moment: who claims and then sends nothing has nothing to give back.
        reserved = replace(limiter, broken_until=limiter.broken_until or now, probe_until=now + _PROBE_TAKES)
        return reserved, [now], reserved.shut(now) if most > 1 else None
    pace = limiter.rate(now, policy)
    if pace is None:
        return limiter, [now] * most, None
    rate = pace * (1 + policy.spare_slots)
    first = max(limiter.next_slot or now, now)
    ahead = (now - first).total_seconds() + policy.ahead_ms / 1_000
    number = min(most, floor(ahead * rate) + 1 if ahead >= 0 else 0)
    taken = [first + timedelta(seconds=n / rate) for n in range(number + 1)]
    held = _paced(taken[number], pace) if number < most else None
    return replace(limiter, next_slot=taken[number]), taken[:number], held


def admit(
    limiter: LimiterState, passage: AdmissionRequest, now: datetime, policy: LimiterPolicy
) -> tuple[LimiterState, Denied | None]:
    """Let a request through, or say what holds it back; then the limiter is as it was."""
    passed, held = _slotted(limiter, now) if _has_slot(limiter, passage, now) else _unslotted(limiter, now, policy)
    if held is not None:
        return limiter, held
    if limiter.broken_at is not None:  # let through alone, which is little enough
        return replace(passed, broken_until=None, probe_until=now + timedelta(milliseconds=policy.probe_ms)), None
    passed, held = _pass(passed, passage, now, policy)
    return (passed, None) if held is None else (limiter, held)


def _has_slot(limiter: LimiterState, passage: AdmissionRequest, now: datetime) -> bool:
    """Whether the slot that was taken is still good: where the circuit is broken, while the right to probe lasts."""
    reserved = limiter.broken_until is not None and limiter.probe_until is not None and now < limiter.probe_until
    return passage.slotted and (limiter.broken_at is None or reserved)


def _slotted(limiter: LimiterState, now: datetime) -> tuple[LimiterState, Denied | None]:
    # Only what came to light since the slot was taken can hold it back; the right to probe may be its own.
    return limiter, replace(limiter, probe_until=None).shut(now)


def _unslotted(limiter: LimiterState, now: datetime, policy: LimiterPolicy) -> tuple[LimiterState, Denied | None]:
    passed, taken, held = slots(limiter, 1, now, policy)
    if taken and taken[0] > now:
        held = _paced(taken[0], limiter.rate(now, policy) or 0.0)
    if held is not None and held.by is DenialReason.BREAKER and held.until == limiter.probe_until:
        held = replace(held, until=min(held.until, now + _PROBE_TAKES))
    return passed, held


def _pass(
    limiter: LimiterState, passage: AdmissionRequest, now: datetime, policy: LimiterPolicy
) -> tuple[LimiterState, Denied | None]:
    rate = limiter.rate(now, policy)
    if rate is not None:
        # The generic cell rate algorithm (ITU-T I.371): evenly, but for `at_once`.
        due = max(limiter.next_passage or now, now)
        earliest = due - timedelta(seconds=max(policy.at_once / rate, policy.together_ms / 1_000))
        if now < earliest:
            return limiter, _paced(earliest, rate)
        limiter = replace(limiter, next_passage=due + timedelta(seconds=1 / rate))
    return _spend(limiter, passage, now, policy)


def _spend(
    limiter: LimiterState, passage: AdmissionRequest, now: datetime, policy: LimiterPolicy
) -> tuple[LimiterState, Denied | None]:
    left = limiter.retries_left(now, policy)
    if not passage.retry:
        if left >= policy.retries_kept:
            return limiter, None
        return replace(limiter, retries=left + policy.retries_per_request, retries_at=now), None
    if left < 1:
        until = now + timedelta(seconds=(1 - left) / policy.retries_per_second)
        reason = f"the budget for retries is spent: {policy.retries_per_second:g} a second are regained"
        return limiter, Denied(by=DenialReason.BUDGET, until=until, reason=reason)
    return replace(limiter, retries=left - 1, retries_at=now), None


def _paced(until: datetime, rate: float) -> Denied:
    return Denied(
        by=DenialReason.PACE, until=until, reason=f"{rate:.3g} requests a second are let through, and others come first"
    )


def observe(limiter: LimiterState, hearing: Feedback, now: datetime, policy: LimiterPolicy) -> LimiterState:
    """The limiter after what a request has brought to light."""
    closed_ms = hearing.closed_ms
    match hearing.answered:
        case Observation.THROTTLED:
            told, closed_ms = _mended(limiter, hearing), max(closed_ms or 0, policy.min_closed_ms)
        case Observation.FAILED:
            told = _failed(limiter, hearing, now, policy)
        case Observation.SUCCESS:
            told = _counted(_mended(limiter, hearing), hearing)
        case Observation.NOT_SENT:
            told = _given_back(limiter, hearing, policy)
    return told if closed_ms is None else _closed(told, closed_ms, hearing, now, policy)


def _mended(limiter: LimiterState, hearing: Feedback) -> LimiterState:
    if _is_before_the_break(limiter, hearing):
        return limiter
    return replace(limiter, failures=0, breaks=0, broken_at=None, broken_until=None, probe_until=None)


def _is_before_the_break(limiter: LimiterState, hearing: Feedback) -> bool:
    """Whether it was under way when the circuit broke, and so tells nothing of what came since."""
    return limiter.broken_at is not None and hearing.began_at <= limiter.broken_at


def _given_back(limiter: LimiterState, hearing: Feedback, policy: LimiterPolicy) -> LimiterState:
    # Only its own probe: where it was lost, another may be under way by now.
    own = limiter.probe_until == hearing.began_at + timedelta(milliseconds=policy.probe_ms)
    return replace(limiter, probe_until=None) if own else limiter


def _counted(limiter: LimiterState, hearing: Feedback) -> LimiterState:
    # What was asked before it closed tells nothing of what it bears since.
    if limiter.paced_from is None or (limiter.closed_at is not None and hearing.began_at <= limiter.closed_at):
        return limiter
    return replace(limiter, well=limiter.well + 1)


def _closed(
    limiter: LimiterState, closed_ms: int, hearing: Feedback, now: datetime, policy: LimiterPolicy
) -> LimiterState:
    until, why = now + timedelta(milliseconds=closed_ms), hearing.why
    if limiter.closed_until is not None and limiter.closed_until > until:
        until, why = limiter.closed_until, limiter.why
    closed = replace(
        limiter, closed_until=until, why=why, paced_from=until, next_slot=until, next_passage=until, well=0
    )
    if limiter.closed_at is not None and (
        hearing.began_at <= limiter.closed_at or now - limiter.closed_at < timedelta(milliseconds=policy.cut_ms)
    ):
        # It was under way when the limiter closed, or as good as that, and tells of the same excess: the rate is cut already.
        return closed
    return replace(closed, closed_at=now, ceiling=_exceeded(limiter, hearing, now, policy))


def _exceeded(limiter: LimiterState, hearing: Feedback, now: datetime, policy: LimiterPolicy) -> float | None:
    """The rate that was too much; `None`: not known."""
    if hearing.quota is not None:
        return max(policy.min_rate, hearing.quota)
    rate = limiter.rate(now, policy)
    if hearing.answered is Observation.FAILED:
        # It is down, and that tells nothing of the rate: it goes on with what it was known to bear.
        return None if rate is None or limiter.ceiling is None else max(limiter.ceiling, rate)
    return None if rate is None else max(policy.min_rate, _too_much(limiter, rate, policy))


def _too_much(limiter: LimiterState, rate: float, policy: LimiterPolicy) -> float:
    if limiter.ceiling is None:
        return rate * (1 - exp(-1))  # it rose as fast as it is: this is what went out over the last second
    if rate > limiter.ceiling:
        return rate
    if limiter.well > rate * policy.proven_ms / 1_000:
        return policy.eased * limiter.ceiling  # it was borne for long: some requests have met, that is all
    return policy.rest_share * rate


def _failed(limiter: LimiterState, hearing: Feedback, now: datetime, policy: LimiterPolicy) -> LimiterState:
    if _is_before_the_break(limiter, hearing):
        return limiter
    failures = limiter.failures + 1
    if limiter.broken_at is None and failures < policy.failures_in_a_row:
        return replace(limiter, failures=failures)
    rest_ms = min(policy.max_break_ms, policy.break_ms * 2 ** min(limiter.breaks, 32))
    return replace(
        limiter,
        failures=failures,
        breaks=limiter.breaks + 1,
        broken_at=now,
        broken_until=now + timedelta(milliseconds=rest_ms),
        probe_until=None,
    )
