"""How many requests were accepted within the last second. Pure."""

from datetime import datetime, timedelta

import msgspec
from msgspec.structs import replace

_SECOND = timedelta(seconds=1)


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """How many requests were accepted in the second that is counted now, and in the one before it."""

    opened_at: datetime
    """Seconds are counted from here."""
    second: int = 0
    current: int = 0
    previous: int = 0

    def and_one(self, now: datetime) -> "Accepted":
        """The counts with one more."""
        second = (now - self.opened_at) // _SECOND
        if second == self.second:
            return replace(self, current=self.current + 1)
        return replace(self, second=second, current=1, previous=self.current if second == self.second + 1 else 0)

    def within_a_second(self, now: datetime) -> float | None:
        """How many in the last second, about; `None`: it began less than a second ago."""
        second, part = divmod(now - self.opened_at, _SECOND)
        if second < 1:
            return None
        share_of_previous = 1 - part / _SECOND
        match second - self.second:
            case 0:
                return self.current + self.previous * share_of_previous
            case 1:
                return self.current * share_of_previous
            case _:
                return 0.0
