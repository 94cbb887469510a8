"""The limits of the API. They are kept in memory: each process that serves it counts for itself."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import ceil, floor

import msgspec

from guestledger.adapters.api.problems import Refused


class ApiLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What one process accepts."""

    body_bytes: int = 256 * 1024
    header_bytes: int = 16 * 1024
    url_chars: int = 8 * 1024
    requests_per_second: int = 1_000
    """Of one key; as many may come at once."""
    concurrent_per_key: int = 128
    concurrent: int = 256
    body_seconds: float = 10.0
    """How long a body may take to arrive."""
    seconds: float = 60.0
    """How long a request may take until its answer begins."""


class Admission:
    """Counts requests: how many are in progress, and those of each key, which also has a token bucket."""

    def __init__(self, limits: ApiLimits, now: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._now = now
        self._buckets: dict[str, tuple[float, float]] = {}
        self._running: dict[str, int] = {}
        self._total = 0

    def headers(self, key: str) -> dict[str, str]:
        """Return what a response says about the key's rate (draft-ietf-httpapi-ratelimit-headers)."""
        rate = self._limits.requests_per_second
        return {
            "ratelimit-policy": f'"key";q={rate};w=1',
            "ratelimit": f'"key";r={floor(self._tokens(key))};t=1',
        }

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count one request, whose key may not be known yet, until the block ends. Raises `Refused`."""
        if self._total >= self._limits.concurrent:
            raise Refused("rate-limited", _IN_PROGRESS, {"retry-after": "1"})
        self._total += 1
        try:
            yield
        finally:
            self._total -= 1

    @contextmanager
    def admitted(self, key: str) -> Iterator[None]:
        """Admit one request of this key until the block ends. Raises `Refused`."""
        self._take(key)
        running = self._running.get(key, 0)
        if running >= self._limits.concurrent_per_key:
            raise self._refused(key, _IN_PROGRESS, 1)
        self._running[key] = running + 1
        try:
            yield
        finally:
            self._running[key] -= 1
            if not self._running[key]:
                del self._running[key]

    def _take(self, key: str) -> None:
        tokens = self._tokens(key)
        if tokens < 1:
            rate = self._limits.requests_per_second
            seconds = ceil((1 - tokens) / rate)
            raise self._refused(key, f"The key may make {rate} requests a second: wait {seconds} s.", seconds)
        self._buckets[key] = (tokens - 1, self._now())

    def _tokens(self, key: str) -> float:
        rate, now = self._limits.requests_per_second, self._now()
        tokens, at = self._buckets.get(key, (float(rate), now))
        return min(float(rate), tokens + (now - at) * rate)

    def _refused(self, key: str, detail: str, seconds: int) -> Refused:
        return Refused("rate-limited", detail, {"retry-after": str(max(1, seconds)), **self.headers(key)})


_IN_PROGRESS = "Too many requests are in progress: wait for answers before you send more."
