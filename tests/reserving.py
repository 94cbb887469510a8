"""Workers that share a limiter: they claim with reservations, and record their attempts late and in lumps. In virtual time."""

import heapq
import random
from collections.abc import Callable
from functools import partial
from itertools import count
from math import ceil
from typing import NamedTuple

from guestledger.engine.limits.admission import AdmissionRequest
from guestledger.engine.limits.limiter import admit, reserve, sending_wait
from guestledger.engine.limits.policy import LimiterPolicy
from guestledger.engine.limits.state import LimiterState
from guestledger.engine.worker.steps.create_session import MISSED_S
from tests.throttling import FULL_RATE, ROWS, SLOTS, SPAN_S, Row, Seen, Server, moment, observed, second

WORKERS = 8
LUMP_S = 0.08
"""Attempts are recorded together, once in this time."""

_REQUEST = AdmissionRequest(limiter="api", retry=False, reserved=True, early=True)
# As a lane of a worker claims: how often, and how long it waits for reservations.
_CLAIM_S, _RESERVED_S = 0.05, 0.2
_LATE_S = 0.03


STALL_S, STALLED_EVERY_S = 0.3, 15.0
"""How long the machine stands still, and how often."""


class WorkedRow(NamedTuple):
    """A server, and the share of the best rate at it that the workers must reach."""

    row: Row
    least: float
    stalls: bool = False
    """Whether the machine stands still at times."""

    @property
    def name(self) -> str:
        """The row's name in lists."""
        return f"{self.row.name}, on a machine that stands still at times" if self.stalls else self.row.name


_BY_NAME = {row.name: row for row in ROWS}
WORKED_ROWS = (
    WorkedRow(_BY_NAME["window 50 a second"], 0.93),
    WorkedRow(_BY_NAME["50 in any second, by late clients"], 0.95),
    WorkedRow(_BY_NAME["50 in any second, by late clients"], 0.89, stalls=True),
    WorkedRow(_BY_NAME["100/s, shared"], 0.75),
    WorkedRow(_BY_NAME["noise 2 %"], 0.8),
)


def work(worked: WorkedRow, seed: int, span_s: float = SPAN_S) -> list[Seen]:
    """What eight workers with an endless queue send, for so many seconds."""
    return _Work(worked.row.server(), seed, stalls=worked.stalls).run(span_s)


class _Work:
    def __init__(self, server: Server, seed: int, *, stalls: bool) -> None:
        self._server = server
        self._stalls = stalls
        self._chance = random.Random(seed)
        self._limiter, self._policy = LimiterState(), LimiterPolicy()
        self._now, self._at_work, self._closed_until = 0.0, 0, 0.0
        self._seen: list[Seen] = []
        self._numbers = count()
        self._ahead: list[tuple[float, int, Callable[[], None]]] = []

    def run(self, span_s: float) -> list[Seen]:
        for _ in range(WORKERS):
            self._later(self._chance.uniform(0, _CLAIM_S), self._claim)
        while self._ahead[0][0] < span_s:
            at, _, step = heapq.heappop(self._ahead)
            into_stall_s = at % STALLED_EVERY_S
            self._now = at + STALL_S - into_stall_s if self._stalls and into_stall_s < STALL_S else at
            step()
        return self._seen

    def _later(self, at: float, step: Callable[[], None]) -> None:
        heapq.heappush(self._ahead, (at, next(self._numbers), step))

    def _claim(self) -> None:
        now = moment(self._now)
        places = WORKERS * SLOTS - self._at_work
        if self._limiter.rate(now) is None:
            places = min(places, ceil(FULL_RATE * _CLAIM_S / WORKERS))
        self._limiter, times, denied = reserve(self._limiter, places, now)
        for time in times:
            self._at_work += 1
            recorded_at = ceil(second(time) / LUMP_S) * LUMP_S + self._chance.uniform(0, _LATE_S)
            self._later(recorded_at, self._record)
        wait_s = 0.0 if denied is None else min(second(denied.until) - self._now, _RESERVED_S)
        self._later(self._now + max(_CLAIM_S, wait_s * self._chance.uniform(0.5, 1.5)), self._claim)

    def _record(self) -> None:
        now = moment(self._now)
        wait = sending_wait(self._limiter, now)
        self._limiter, denied = admit(self._limiter, _REQUEST, now, self._policy)
        if denied is not None:  # it goes back
            self._at_work -= 1
            return
        early = self._now < self._closed_until - 1e-5
        turn_at = self._now + wait.total_seconds()
        self._later(turn_at, partial(self._send, self._now, turn_at, early))

    def _send(self, recorded_at: float, turn_at: float, early: bool) -> None:
        if recorded_at < turn_at < self._now - MISSED_S:  # it has missed its turn
            self._record()
            return
        asked_s = self._server.ask(self._now, self._chance)
        self._seen.append(Seen(self._now, asked_s is None, early))
        answered_at = self._now + self._chance.uniform(*self._server.answers_s)
        self._later(answered_at, partial(self._answer, recorded_at, self._now - recorded_at, asked_s))

    def _answer(self, recorded_at: float, waited_s: float, asked_s: float | None) -> None:
        self._at_work -= 1
        self._limiter = observed(self._limiter, recorded_at, self._now, asked_s, self._policy, waited_s=waited_s)
        if asked_s is not None:
            self._closed_until = max(self._closed_until, self._now + asked_s)
