"""What-ifs of many sessions, summed up in bounded memory."""

from collections import Counter
from collections.abc import Callable

import msgspec

from guestledger.engine.domain.session import Status
from guestledger.engine.replay.findings import WhatIf

EXAMPLES = 3
"""How many session ids each kind of change names."""
_DIGITS = 3


class StatusChange(msgspec.Struct, frozen=True, kw_only=True):
    """Sessions with this status in the log, and that one in the simulation."""

    recorded: Status
    simulated: Status | None
    """`None`: the log holds no answer to a request of the simulation."""
    sessions: int
    examples: tuple[str, ...]
    """The ids of the first of them."""


class LatencySpread(msgspec.Struct, frozen=True, kw_only=True):
    """How long guests waited from acceptance to session, in ms, to three digits. By nearest rank."""

    sessions: int
    p50: int
    p95: int
    p99: int


class WhatIfSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What would have become of the sessions of a span of time."""

    sessions: int
    identical: int
    """Those in which no decision differs."""
    ended_otherwise: int
    """Those with another status. A session that is still open has one, too."""
    unanswered: int
    """Those whose status the log cannot tell: it holds no answer to a request of the simulation."""
    not_reproduced: int
    """Those in which today's code takes another decision than the log, under any recorded policy."""
    assumed: int
    """Those that take recorded answers at other times than they were recorded."""
    statuses: tuple[StatusChange, ...]
    """Unchanged ones included, the most frequent first."""
    recorded_latency: LatencySpread | None
    """`None`: no session was created."""
    simulated_latency: LatencySpread | None


class Tally:
    """Adds up what-ifs. Its size does not depend on how many."""

    def __init__(self) -> None:
        self._sessions = self._identical = self._assumed = self._not_reproduced = 0
        self._statuses: Counter[tuple[Status, Status | None]] = Counter()
        self._examples: dict[tuple[Status, Status | None], list[str]] = {}
        self._recorded: Counter[int] = Counter()
        self._simulated: Counter[int] = Counter()

    def add(self, found: WhatIf) -> None:
        """Count one session."""
        self._sessions += 1
        self._identical += found.is_identical
        self._assumed += bool(found.assumed)
        self._not_reproduced += bool(found.not_reproduced)
        change = found.recorded.status, found.simulated.status if found.outcome_is_known else None
        self._statuses[change] += 1
        examples = self._examples.setdefault(change, [])
        if len(examples) < EXAMPLES:
            examples.append(str(found.id))
        for latencies, course in ((self._recorded, found.recorded), (self._simulated, found.simulated)):
            if course.latency_ms is not None:
                latencies[_rounded(course.latency_ms)] += 1

    def summary(self) -> WhatIfSummary:
        """What was added so far."""
        return WhatIfSummary(
            sessions=self._sessions,
            identical=self._identical,
            ended_otherwise=self._number(lambda recorded, simulated: simulated not in (recorded, None)),
            unanswered=self._number(lambda _, simulated: simulated is None),
            not_reproduced=self._not_reproduced,
            assumed=self._assumed,
            statuses=tuple(
                StatusChange(
                    recorded=recorded,
                    simulated=simulated,
                    sessions=number,
                    examples=tuple(self._examples[recorded, simulated]),
                )
                for (recorded, simulated), number in self._statuses.most_common()
            ),
            recorded_latency=_spread(self._recorded),
            simulated_latency=_spread(self._simulated),
        )

    def _number(self, wanted: Callable[[Status, Status | None], bool]) -> int:
        return sum(number for change, number in self._statuses.items() if wanted(*change))


def _rounded(ms: int) -> int:
    """To three digits: some thousands of different values at most."""
    return round(ms, min(0, _DIGITS - len(str(ms))))


def _spread(latencies: Counter[int]) -> LatencySpread | None:
    total = latencies.total()
    if not total:
        return None
    p50, p95, p99 = (_nearest_rank(latencies, -(-total * percent // 100)) for percent in (50, 95, 99))
    return LatencySpread(sessions=total, p50=p50, p95=p95, p99=p99)


def _nearest_rank(latencies: Counter[int], rank: int) -> int:
    reached = 0
    for ms, number in sorted(latencies.items()):
        reached += number
        if reached >= rank:
            return ms
    raise AssertionError("a rank is at most the total")
