"""Whether a 429 came by chance, as the requests beside it show at once. Pure.

A server that is asked too fast throttles most requests that follow a throttled one. One that throttles by chance accepts
them. Requests sent before the throttled one show nothing: a bucket that has saved up requests accepts them.
"""

from datetime import datetime

import msgspec
from msgspec.structs import replace

# Accepted requests weigh 1, throttled ones this much. So chance throttles at most one in seven.
_THROTTLED = 6
# Another 429 that closes the limiter. It weighs less: each trial begins with one.
_REPEATED = 1
# A balance this high shows chance.
_CHANCE = 8


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """The answers to requests that were sent with a throttled one, or after it, before it was answered."""

    sent_at: datetime
    """When the throttled request was sent."""
    balance: int = 0
    """Accepted requests raise it, throttled ones lower it."""

    @property
    def shows_chance(self) -> bool:
        """Whether the 429 did not depend on the rate."""
        return self.balance >= _CHANCE

    @property
    def shows_limit(self) -> bool:
        """Whether the 429 seems to depend on the rate."""
        return self.balance < -_THROTTLED

    def answered(self, sent_at: datetime, *, throttled: bool) -> "Trial":
        """The trial after an answer to a request sent at `sent_at`."""
        if sent_at < self.sent_at:
            return self
        return replace(self, balance=self.balance + (-_THROTTLED if throttled else 1))

    def repeated(self, sent_at: datetime) -> "Trial":
        """The trial after another 429 that closes the limiter."""
        return replace(self, sent_at=sent_at, balance=self.balance - _REPEATED)
