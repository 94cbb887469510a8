"""How many requests were admitted in each of the last seconds. Pure."""

from datetime import datetime, timedelta

import msgspec
from msgspec.structs import replace

_SECOND = timedelta(seconds=1)
# So many seconds are known: answers may be late.
_KNOWN = 5


class LastSeconds(msgspec.Struct, frozen=True, kw_only=True):
    """The requests of the last seconds. They are counted since the limiter opened."""

    opened_at: datetime
    last_at: datetime
    """When the last one was admitted."""
    counts: tuple[int, ...] = (0,)
    """How many in each second, up to the last one."""

    def and_one(self, now: datetime) -> "LastSeconds":
        """The counts with one more."""
        now = max(now, self.last_at)
        passed = (now - self.opened_at) // _SECOND - (self.last_at - self.opened_at) // _SECOND
        *before, current = (self.counts + (0,) * min(passed, _KNOWN))[-_KNOWN:]
        return replace(self, last_at=now, counts=(*before, current + 1))

    def within_a_second(self, until: datetime) -> float | None:
        """How many in the second before, about; `None`: it is not known, or began before the limiter opened."""
        last, counted = divmod(self.last_at - self.opened_at, _SECOND)
        second, part = divmod(until - self.opened_at, _SECOND)
        ago = last - second
        if second < 1 or until > self.last_at or ago + 2 > len(self.counts):
            return None
        current, previous = self.counts[-1 - ago], self.counts[-2 - ago]
        whole = counted if ago == 0 else _SECOND
        return current * (part / whole if whole else 1.0) + previous * (1 - part / _SECOND)

    def set_back(self, ahead: timedelta) -> "LastSeconds":
        """The counts by a clock that was set back by `ahead`."""
        return replace(self, opened_at=self.opened_at - ahead, last_at=self.last_at - ahead)
