"""What all processes know about one API, by the database's time. Pure."""

from datetime import datetime, timedelta

import msgspec
from msgspec.structs import replace

from guestledger.engine.limits import pace as p
from guestledger.engine.limits.admission import DenialReason, Denied
from guestledger.engine.limits.clock_step import MIN_STEP
from guestledger.engine.limits.policy import LimiterPolicy
from guestledger.engine.limits.retry import WaitBasis

# The rate is forgotten so long after the last pause, and after the last answer at it.
_FORGOTTEN = timedelta(minutes=15)
# After a pause this long, the rate rises from half of it for so long: many requests are waiting. Where no rate is known, it
# rises from the first one without end.
_LONG_PAUSE, _RAMP = timedelta(seconds=10), timedelta(seconds=3)

_TIMES = (
    "closed_at",
    "closed_until",
    "next_reservation",
    "next_admission",
    "broken_at",
    "broken_until",
    "probe_until",
    "retry_budget_at",
)


class LimiterState(msgspec.Struct, frozen=True, kw_only=True):
    """The state of one limiter. The default restricts nothing and has no row. Times are UTC."""

    closed_at: datetime | None = None
    closed_until: datetime | None = None
    closed_by: WaitBasis | None = None
    pace: p.Pace | None = None
    """The rate, and what is known about it; `None`: unlimited."""
    next_reservation: datetime | None = None
    next_admission: datetime | None = None
    """When the next request would pass at an even rate (GCRA, ITU-T I.371)."""

    failures: int = 0
    breaks: int = 0
    broken_at: datetime | None = None
    broken_until: datetime | None = None
    """When a probe may be sent; `None` while one is in flight."""
    probe_until: datetime | None = None
    """How long the probe is waited for, or reserved before it is sent."""

    retry_budget: float | None = None
    """What was left of the budget at `retry_budget_at`; `None`: all of it."""
    retry_budget_at: datetime | None = None

    def rate(self, now: datetime) -> float | None:
        """The admitted rate now; `None`: unlimited."""
        pace = self.remembered(now)
        if pace is None:
            return None
        risen = self._risen(now)
        if not pace.is_unlimited:
            return pace.rate * (0.5 + 0.5 * risen)
        first = pace.floor / p.MIN_SHARE
        return first * (p.MAX_RATE / first) ** risen if risen < 1 else None

    def _risen(self, now: datetime) -> float:
        """How much of the ramp after a long pause is over."""
        if self.closed_at is None or self.closed_until is None or self.closed_until - self.closed_at < _LONG_PAUSE:
            return 1.0
        return min(1.0, max(0.0, (now - self.closed_until) / _RAMP))

    def remembered(self, now: datetime) -> p.Pace | None:
        """What is known about the rate; `None`: nothing, or it is too long ago."""
        if self.closed_until is None or self.pace is None:
            return None
        # In steady use no pause may come for long: to forget the rate then would flood the API.
        last = self.closed_until if self.pace.is_unlimited else max(self.closed_until, self.pace.learned_at)
        return None if now - last > _FORGOTTEN else self.pace

    def without_forgotten(self, now: datetime) -> "LimiterState":
        """The state without an old pause and the rate that was learned after it."""
        if self.denial(now) is not None or self.remembered(now) is not None:
            return self
        return replace(self, closed_at=None, closed_until=None, closed_by=None, pace=None)

    def retries_left(self, now: datetime, policy: LimiterPolicy) -> float:
        """What is left of the retry budget now."""
        if self.retry_budget is None or self.retry_budget_at is None:
            return policy.retry_budget
        regained = policy.retries_per_second * max(0.0, (now - self.retry_budget_at).total_seconds())
        return min(policy.retry_budget, self.retry_budget + regained)

    def denial(self, now: datetime) -> Denied | None:
        """Why every request is denied now: a pause or an open circuit."""
        if self.closed_until is not None and now < self.closed_until:
            return Denied(by=DenialReason.CLOSED, until=self.closed_until, closed_by=self.closed_by)
        if self.broken_until is not None and now < self.broken_until:
            return Denied(by=DenialReason.CIRCUIT_OPEN, until=self.broken_until, failures=self.failures)
        if self.probe_until is not None and now < self.probe_until:
            return Denied(by=DenialReason.CIRCUIT_OPEN, until=self.probe_until, failures=self.failures, probing=True)
        return None

    def following(self, now: datetime) -> "LimiterState":
        """The state by a clock that was set back: what was written at a time that has not come yet was written now."""
        of_pace = () if self.pace is None else self.pace.times
        written = (self.closed_at, self.broken_at, self.retry_budget_at, *of_pace)
        ahead = max((time - now for time in written if time is not None), default=timedelta(0))
        if ahead < MIN_STEP:
            return self
        moved = {name: time - ahead for name in _TIMES if (time := getattr(self, name)) is not None}
        pace = self.pace and self.pace.set_back(ahead)
        return replace(self, **moved, pace=pace)

    def outage(self, now: datetime) -> Denied | None:
        """As `denial`, but an open circuit counts also while a probe may be sent."""
        denied = self.denial(now)
        if denied is None and self.broken_at is not None:
            return Denied(by=DenialReason.CIRCUIT_OPEN, until=now, failures=self.failures)
        return denied

    def is_clean(self, now: datetime, policy: LimiterPolicy) -> bool:
        """Whether it restricts nothing, so that its row can be deleted."""
        return (
            self.denial(now) is None
            and self.broken_at is None
            and not self.failures
            and self.remembered(now) is None
            and self.retries_left(now, policy) >= policy.retry_budget
        )
