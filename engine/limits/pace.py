"""The rate that a limiter admits, and what is known about it. Pure.

`learning` says what answers teach, `choice` which rate follows from it.
"""

from datetime import datetime, timedelta

import msgspec
from msgspec.structs import replace

from guestledger.engine.limits import curve as c
from guestledger.engine.limits.last_seconds import LastSeconds
from guestledger.engine.limits.trial import Trial

MAX_RATE = 5_000.0
"""A rate this high is no limit any more, per second."""
MIN_SHARE = 0.01
"""The lowest rate, as a share of the policy's `initial_rate`."""
# So many earlier rates are known: enough for the requests whose answers are still to come.
_EARLIER = 4


class EarlierRate(msgspec.Struct, frozen=True, array_like=True):
    """A rate that was admitted before, and from when on. If it was hardly used, the rate of the requests."""

    rate: float
    began_at: datetime | None


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
    """How long a throttle stops all, on average, with the time until its answer."""
    began_at: datetime | None = None
    """Since when it admits this rate; `None`: since long ago."""
    earlier: tuple[EarlierRate, ...] = ()
    """The rates before this one, the last at the end."""
    by_chance: bool = False
    """Whether the throttles were seen not to depend on the rate."""
    answers: int = 0
    """Answers at this rate that are not in the curve yet."""
    hold: float = 0.0
    """How many more answers it stays at this rate, to learn about it."""
    climb: int = 0
    """How many steps it has climbed beyond what is known."""
    last_seconds: LastSeconds | None = None
    """How many requests were admitted in the last seconds."""
    throttles: float = 0.0
    """The last throttles, each half as important as the one after it."""
    expected: float = 0.0
    """How many were expected meanwhile."""
    trial: Trial | None = None
    """Whether the last throttle came by chance, as long as it is open."""

    @property
    def times(self) -> tuple[datetime | None, ...]:
        """When its parts were written."""
        last_at = None if self.last_seconds is None else self.last_seconds.last_at
        return self.learned_at, self.began_at, last_at

    def set_back(self, ahead: timedelta) -> "Pace":
        """The pace by a clock that was set back by `ahead`."""
        return replace(
            self,
            learned_at=self.learned_at - ahead,
            began_at=self.began_at and self.began_at - ahead,
            earlier=tuple(replace(one, began_at=one.began_at and one.began_at - ahead) for one in self.earlier),
            last_seconds=self.last_seconds and self.last_seconds.set_back(ahead),
        )

    def rates(self, sent_at: datetime) -> tuple[float, ...]:
        """The known rates before `sent_at`: the last one admitted a request sent then. Empty: nothing is known of that time."""
        # A batch has one time. Its requests were admitted before the throttle that ended the rate.
        known = (*self.earlier, EarlierRate(self.rate, self.began_at))
        return tuple(one.rate for one in known if one.began_at is None or one.began_at < sent_at)

    def is_present(self, sent_at: datetime) -> bool:
        """Whether a request sent then was admitted at the present rate."""
        return self.began_at is None or self.began_at < sent_at

    def after(self, before: "Pace | None", now: datetime) -> "Pace":
        """The pace that follows another one from now on."""
        is_known = before is None or before.rate == self.rate or before.began_at != self.began_at
        return self if before is None or is_known else self.ending(before, before.rate, now)

    def ending(self, before: "Pace", used: float, now: datetime) -> "Pace":
        """The pace that follows another one, whose rate was `used`."""
        earlier = (*before.earlier[1 - _EARLIER :], EarlierRate(used, before.began_at))
        return replace(self, earlier=earlier, began_at=now)

    @property
    def is_unlimited(self) -> bool:
        """Whether it admits any rate."""
        return self.rate >= MAX_RATE

    @property
    def limit(self) -> float | None:
        """The limit of the API that explains the throttles; `None`: they come by chance, or nothing is known."""
        found = c.explanations(self.curve)
        return c.best(found).limit if c.shows_limit(found) else None

    @property
    def throttled_share(self) -> float | None:
        """The share of recent requests that was throttled; `None`: unknown."""
        answers = c.weight(self.curve)
        return sum(point.throttled for point in self.curve) / answers if answers else None

    def bounded(self, rate: float) -> float:
        """`rate`, within what can be admitted."""
        return max(self.floor, min(MAX_RATE, rate))

    def admitted(self, now: datetime, opened_at: datetime) -> "Pace":
        """The pace after a request was admitted."""
        known = self.last_seconds
        if known is None or known.opened_at != opened_at:
            known = LastSeconds(opened_at=opened_at, last_at=opened_at)
        return replace(self, last_seconds=known.and_one(now))


def begun(initial_rate: float, opens_at: datetime) -> Pace:
    """The pace after a first pause."""
    return Pace(rate=initial_rate, floor=initial_rate * MIN_SHARE, learned_at=opens_at, began_at=opens_at)
