"""Where scans of due rows begin.

Rows are deleted when they are done. While a transaction elsewhere holds a snapshot, their dead versions stay in the index, below
all that is due, and every scan from the bottom would pass them. So once there are many, only one scan in a while begins there.
"""

import time
from collections.abc import Iterable
from datetime import datetime, timedelta

from guestledger.engine.domain.due import StepName

FULL_SCAN_SECONDS = 3.0
"""How often a step is looked for from the bottom: a row far behind is free again once its lease has lapsed."""

MIN_DEAD = 20_000
"""From so many dead versions on, by the server's own statistics, scans are bounded."""

_AHEAD = timedelta(seconds=10)
"""How far ahead a bounded look goes. Workers look again sooner."""

_MARGIN = timedelta(seconds=5)
"""How long after its due time a new row may be committed and still be found at once."""


class ScanBounds:
    """The due time from which each step is looked for; by the database's clock."""

    def __init__(self) -> None:
        self.dead = 0
        """How many dead versions the table holds, as the server estimates."""
        self._since: dict[StepName, datetime] = {}
        self._scanned_at: dict[StepName, float] = {}

    def since(self, steps: Iterable[StepName]) -> list[datetime | None]:
        """Where to begin, by step; `None`: at the bottom."""
        stale = time.monotonic() - (FULL_SCAN_SECONDS if self.dead >= MIN_DEAD else 0)
        return [None if self._scanned_at.get(step, stale) <= stale else self._since[step] for step in steps]

    @property
    def ahead(self) -> timedelta | None:
        """How far ahead the next due time is looked for; `None`: without a bound."""
        return _AHEAD if self.dead >= MIN_DEAD else None

    def learn(self, step: StepName, now: datetime, first: datetime | None) -> None:
        """Take in what a scan from the bottom found at `now`: the due time of the first free row, if there was one."""
        self._since[step] = now - _MARGIN if first is None else min(first, now - _MARGIN)
        self._scanned_at[step] = time.monotonic()

    def reset(self) -> None:
        """Begin at the bottom with the next scan of each step."""
        self._scanned_at.clear()
