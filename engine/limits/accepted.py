"""How many requests were accepted within the last second. Pure."""

from datetime import datetime

import msgspec
from msgspec.structs import replace


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """The requests accepted in two seconds: one that is under way, and the one before it."""

    opened_at: datetime
    """Seconds are counted from here."""
    second: int = 0
    number: int = 0
    before: int = 0

    def and_one(self, now: datetime) -> "Accepted":
        """The counts with one more."""
        second = int((now - self.opened_at).total_seconds())
        if second == self.second:
            return replace(self, number=self.number + 1)
        return replace(self, second=second, number=1, before=self.number if second == self.second + 1 else 0)

    def within_a_second(self, now: datetime) -> float | None:
        """How many in the last second, about; `None`: it began less than a second ago."""
        seconds = (now - self.opened_at).total_seconds()
        if seconds < 1:
            return None
        rest = 1 - seconds % 1
        match int(seconds) - self.second:
            case 0:
                return self.number + self.before * rest
            case 1:
                return self.number * rest
            case _:
                return 0.0
