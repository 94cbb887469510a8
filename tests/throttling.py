"""Servers that throttle, and a client with an endless queue in front of a limiter. All in virtual time."""

import heapq
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from math import ceil, pi, sin
from typing import NamedTuple, Protocol

from msgspec.structs import replace

from guestledger.engine.limits.admission import AdmissionRequest
from guestledger.engine.limits.feedback import Observation, ThrottleScope, feedback
from guestledger.engine.limits.limiter import admit, observe
from guestledger.engine.limits.policy import LimiterPolicy
from guestledger.engine.limits.retry import DEFAULT_RETRY_AFTER_MS, RetryAfter, WaitBasis
from guestledger.engine.limits.state import LimiterState

SLOTS = 64
"""The requests in flight at once."""
FULL_RATE = 700.0
"""The most that the client sends, per second."""
WARM_S, SPAN_S = 60.0, 180.0

_START = datetime(2024, 5, 20, tzinfo=UTC)
_REQUEST = AdmissionRequest(limiter="api", retry=False, reserved=False)
_DEFAULT_S = DEFAULT_RETRY_AFTER_MS / 1_000


class Server(Protocol):
    """Answers a request that comes at second `now`."""

    answers_s: tuple[float, float] = (0.003, 0.01)
    """The shortest and the longest time until the answer."""

    def ask(self, now: float, chance: random.Random) -> float | None:
        """`None`: accepted. Else throttled, and this is the wait that the server asks for, in s."""
        ...


class Bucket(Server):
    """So many a second, and so many saved up. `retry_after`: seconds; `None`: in whole seconds, until there is one again."""

    def __init__(self, rate: float, burst: float, retry_after: float | None = None, *, slow: bool = False) -> None:
        self.rate = rate
        if slow:
            self.answers_s = (0.5, 1.5)
        self._burst = burst
        self._retry_after = retry_after
        self._saved, self._at = burst, 0.0

    def take(self, now: float, number: float) -> None:
        """Somebody else takes some."""
        self._fill(now)
        self._saved = max(0.0, self._saved - number)

    def ask(self, now: float, chance: random.Random) -> float | None:
        self._fill(now)
        if self._saved >= 1:
            self._saved -= 1
            return None
        return ceil((1 - self._saved) / self.rate) if self._retry_after is None else self._retry_after

    def _fill(self, now: float) -> None:
        self._saved, self._at = min(self._burst, self._saved + (now - self._at) * self.rate), now


class Changing(Bucket):
    """Its rate halves after 90 s, and doubles again at `doubled_at` s."""

    def __init__(self, rate: float, burst: float, retry_after: float, *, doubled_at: float = 180) -> None:
        super().__init__(rate, burst, retry_after)
        self._doubled_at = doubled_at

    def ask(self, now: float, chance: random.Random) -> float | None:
        full, self.rate = self.rate, self.rate / 2 if 90 <= now < self._doubled_at else self.rate
        try:
            return super().ask(now, chance)
        finally:
            self.rate = full


class Window(Server):
    """So many in each window; then it asks for the rest of the window, in whole seconds."""

    def __init__(self, number: int, seconds: float) -> None:
        self._number = number
        self._seconds = seconds
        self._window, self._used = -1, 0

    def ask(self, now: float, chance: random.Random) -> float | None:
        window = int(now / self._seconds)
        if window != self._window:
            self._window, self._used = window, 0
        if self._used < self._number:
            self._used += 1
            return None
        return ceil((window + 1) * self._seconds - now)


class Sliding(Server):
    """So many in any second; those that it throttles do not count."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._accepted: list[float] = []

    def ask(self, now: float, chance: random.Random) -> float | None:
        self._accepted = [at for at in self._accepted if at > now - 1]
        if len(self._accepted) >= self._number:
            return 1.0
        self._accepted.append(now)
        return None


class Nodes(Server):
    """A balancer before nodes that count each for itself."""

    def __init__(self, number: int, rate: float) -> None:
        self._nodes = [Bucket(rate, rate) for _ in range(number)]

    def ask(self, now: float, chance: random.Random) -> float | None:
        return chance.choice(self._nodes).ask(now, chance)


class Shared(Server):
    """A bucket of which somebody else takes 0 to 80 %, in a wave of 20 s."""

    def __init__(self, rate: float) -> None:
        self._bucket = Bucket(rate, rate)
        self._rate = rate
        self._at = 0.0

    def ask(self, now: float, chance: random.Random) -> float | None:
        others = 0.4 * self._rate * (1 + sin(2 * pi * now / 20)) * (now - self._at)
        self._at = now
        self._bucket.take(now, others)
        return self._bucket.ask(now, chance)


class Cap(Server):
    """So many at once, each for 50 ms."""

    answers_s = (0.05, 0.06)

    def __init__(self, number: int) -> None:
        self._number = number
        self._busy: list[float] = []

    def ask(self, now: float, chance: random.Random) -> float | None:
        self._busy = [end for end in self._busy if end > now]
        if len(self._busy) >= self._number:
            return 1.0
        self._busy.append(now + 0.05)
        return None


class Noise(Server):
    """Throttles by chance, whatever the rate."""

    def __init__(self, share: float) -> None:
        self._share = share

    def ask(self, now: float, chance: random.Random) -> float | None:
        return 1.0 if chance.random() < self._share else None


class Row(NamedTuple):
    """A server, the best rate at it, and the share of it that the limiter must reach."""

    name: str
    server: Callable[[], Server]
    best: float
    least: float
    late_s: float = 0.0
    """How late its clients send what was admitted, at most."""

    @property
    def has_quota(self) -> bool:
        """Whether its throttles depend on the rate."""
        return not self.name.startswith("noise")


ROWS = (
    Row("bucket 50/s, burst 50", lambda: Bucket(50, 50), 50, 0.9),
    Row("bucket 50/s, burst 1", lambda: Bucket(50, 1), 50, 0.8),
    Row("bucket 10/s, burst 10", lambda: Bucket(10, 10), 10, 0.9),
    Row("bucket 500/s, burst 500", lambda: Bucket(500, 500), 500, 0.9),
    Row("bucket 50/s, Retry-After 0", lambda: Bucket(50, 50, 0), 50, 0.9),
    Row("bucket 50/s, no Retry-After", lambda: Bucket(50, 50, _DEFAULT_S), 50, 0.9),
    Row("bucket 50/s, Retry-After 30", lambda: Bucket(50, 50, 30), 50, 0.6),
    Row("bucket 50/s, slow answers", lambda: Bucket(50, 50, slow=True), 50, 0.9),
    Row("window 50 a second", lambda: Window(50, 1), 50, 0.9),
    Row("window 3,000 a minute", lambda: Window(3_000, 60), 50, 0.9),
    Row("window 300 a minute", lambda: Window(300, 60), 5, 0.9),
    Row("50 in any second, by late clients", lambda: Sliding(50), 50, 0.9, late_s=0.03),
    Row("4 nodes of 25/s", lambda: Nodes(4, 25), 100, 0.9),
    Row("100/s, shared", lambda: Shared(100), 60, 0.75),
    Row("10 at once, 50 ms each", lambda: Cap(10), 200, 0.8),
    Row("noise 0.5 %", lambda: Noise(0.005), 157, 0.8),
    Row("noise 2 %", lambda: Noise(0.02), 50, 0.8),
    Row("noise 5 %", lambda: Noise(0.05), 22, 0.8),
    Row("noise 20 %", lambda: Noise(0.2), 7.5, 0.6),
)


class Seen(NamedTuple):
    """A request: when it was sent, whether it was accepted, and whether it was admitted before a Retry-After had passed."""

    at: float
    accepted: bool
    early: bool


def simulate(
    server: Server,
    seed: int,
    span_s: float = SPAN_S,
    scope: ThrottleScope = ThrottleScope.QUOTA,
    *,
    late_s: float = 0.0,
) -> list[Seen]:
    """Send as many requests as the limiter admits, for so many seconds; each up to `late_s` after it was admitted."""
    chance = random.Random(seed)
    limiter, policy = LimiterState(), LimiterPolicy()
    seen: list[Seen] = []
    in_flight: list[_InFlight] = []
    now, closed_until = 0.0, 0.0
    while now < span_s:
        while in_flight and in_flight[0].next_at <= now:
            one = heapq.heappop(in_flight)
            if not one.is_sent:
                asked_s = server.ask(one.next_at, chance)
                seen.append(Seen(one.next_at, asked_s is None, one.is_early))
                answered_at = one.next_at + chance.uniform(*server.answers_s)
                heapq.heappush(in_flight, one._replace(next_at=answered_at, is_sent=True, asked_s=asked_s))
                continue
            limiter = observed(limiter, one.admitted_at, one.next_at, one.asked_s, policy, scope)
            if one.asked_s is not None:
                closed_until = max(closed_until, one.next_at + one.asked_s)
        next_at = in_flight[0].next_at if in_flight else span_s
        if len(in_flight) >= SLOTS:
            now = next_at
            continue
        limiter, denied = admit(limiter, _REQUEST, moment(now), policy)
        if denied is not None:
            now = min(max(second(denied.until), now + 1e-6), max(next_at, now + 1e-6))
            continue
        sends_at = now + (chance.uniform(0, late_s) if late_s else 0.0)
        heapq.heappush(in_flight, _InFlight(sends_at, now, now < closed_until - 1e-5))
        now += 1 / FULL_RATE
    return seen


class _InFlight(NamedTuple):
    """An admitted request, until it is answered."""

    next_at: float
    """When it is sent, and then when it is answered."""
    admitted_at: float
    is_early: bool
    is_sent: bool = False
    asked_s: float | None = None


def observed(
    limiter: LimiterState,
    admitted_at: float,
    now: float,
    asked_s: float | None,
    policy: LimiterPolicy,
    scope: ThrottleScope = ThrottleScope.QUOTA,
    *,
    waited_s: float = 0.0,
) -> LimiterState:
    """The limiter after an answer at second `now`; `asked_s` as a `Server` returns it."""
    observation = Observation.SUCCESS if asked_s is None else Observation.THROTTLED
    asked = None
    if asked_s is not None:
        asked = RetryAfter(given=None, ms=round(asked_s * 1_000), basis=WaitBasis.RETRY_AFTER)
    answer = feedback("api", observation, moment(admitted_at), asked=asked)
    seen = replace(answer, scope=scope, wait=timedelta(seconds=waited_s))
    return observe(limiter, seen, moment(now), policy)


def moment(seconds: float) -> datetime:
    """The time of the simulation's second."""
    return _START + timedelta(seconds=seconds)


def second(time: datetime) -> float:
    """The simulation's second of a time."""
    return (time - _START).total_seconds()


def goodput(seen: list[Seen], since: float, until: float) -> float:
    """Accepted requests per second."""
    return sum(one.accepted for one in seen if since <= one.at < until) / (until - since)


def throttled_share(seen: list[Seen], since: float, until: float) -> float:
    """The share of requests that was throttled."""
    answers = [one.accepted for one in seen if since <= one.at < until]
    return answers.count(False) / max(1, len(answers))
