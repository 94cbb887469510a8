"""The rate that a limiter admits, and what is known about it. Pure.

`learning` says what answers teach, `choice` which rate follows from it.
"""

from datetime import datetime, timedelta

import msgspec
from msgspec.structs import replace

from guestledger.engine.limits import curve as c
from guestledger.engine.limits.accepted import Accepted
from guestledger.engine.limits.trial import Trial

MAX_RATE = 5_000.0
"""A rate this high is no limit any more, per second."""
MIN_SHARE = 0.01
"""The lowest rate, as a share of the policy's `initial_rate`."""


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
    """How many requests were accepted within the last second."""
    throttles: float = 0.0
    """The last throttles, each half as important as the one after it."""
    expected: float = 0.0
    """How many were expected meanwhile."""
    trial: Trial | None = None
    """Whether the last throttle came by chance, as long as it is open."""

    def set_back(self, ahead: timedelta) -> "Pace":
        """The pace by a clock that was set back by `ahead`."""
        accepted = self.accepted and replace(self.accepted, opened_at=self.accepted.opened_at - ahead)
        return replace(self, learned_at=self.learned_at - ahead, accepted=accepted)

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

    def accepted_since(self, opened_at: datetime) -> Accepted:
        """The counts since the limiter opened."""
        known = self.accepted
        return known if known is not None and known.opened_at == opened_at else Accepted(opened_at=opened_at)


def begun(initial_rate: float, opens_at: datetime) -> Pace:
    """The pace after a first pause."""
    return Pace(rate=initial_rate, floor=initial_rate * MIN_SHARE, learned_at=opens_at)
