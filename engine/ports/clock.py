"""Time, chance and ids."""

from datetime import datetime
from typing import Protocol
from uuid import UUID

import msgspec


class ClockStep(msgspec.Struct, frozen=True, kw_only=True):
    """A step of the database's clock, as a process noticed and recorded it."""

    number: int
    """Counts from 1."""
    position: int
    """The log's last position then: events up to here were decided before the step."""
    by_ms: int
    """Negative: the clock was set back."""


class Clock(Protocol):
    """The inputs that the domain takes as arguments."""

    def now(self) -> datetime:
        """The time (UTC)."""
        ...

    @property
    def last_step(self) -> int:
        """The number of the last known step of the database's clock; 0: none."""
        ...

    def last_step_before(self, position: int) -> int:
        """The number of the last step before the event at `position` was decided."""
        ...

    def stepped_ms(self, since: int) -> int:
        """By how much the clock has stepped since the step number `since`."""
        ...

    def jitter(self) -> float:
        """Uniform in [0, 1)."""
        ...

    def new_id(self) -> UUID:
        """A fresh UUIDv7: later ids sort later."""
        ...
