"""What one process has counted since its start. One event loop writes it, so it needs no lock."""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import partial

_CALL_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_COMMIT_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_WAIT_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 1_800.0)
_SIZES = (1, 2, 5, 10, 20, 50, 100, 200)


class Histogram:
    """Observed values, counted by upper bound."""

    __slots__ = ("_bounds", "_counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.total = 0.0
        """The sum of all values."""

    def observe(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, int]]:
        """How many values are at most each bound; the last bound is `+Inf`."""
        below, buckets = 0, []
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self._counts, strict=True):
            below += count
            buckets.append((bound, below))
        return buckets


class Measurements:
    """Counters and histograms. Durations are in seconds."""

    def __init__(self) -> None:
        self.openings: defaultdict[str, Histogram] = defaultdict(partial(Histogram, _CALL_SECONDS))
        """Calls of `open_session`, by the session's status then; `error` if there is none."""
        self.waits: defaultdict[str, Histogram] = defaultdict(partial(Histogram, _WAIT_SECONDS))
        """From due to claimed, by step."""
        self.requests: defaultdict[str, Histogram] = defaultdict(partial(Histogram, _CALL_SECONDS))
        """Outbound requests, by purpose."""
        self.appends = Histogram(_COMMIT_SECONDS)
        """Appends, from the call to the answer."""
        self.batches = Histogram(_SIZES)
        """The sizes of committed batches."""
        self.lookups: Counter[str] = Counter()
        self.attempts: Counter[str] = Counter()
        self.webhooks: Counter[str] = Counter()
        self.events: Counter[str] = Counter()
        """The recorded events, by type."""
