"""Time, jitter and ids."""

import asyncio
import logging
import random
import secrets
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import UUID

from uuid_utils.compat import uuid7

from guestledger.engine.domain.errors import ServiceError
from guestledger.engine.limits.clock_step import MIN_STEP

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

logger = logging.getLogger("guestledger")

READ_AGAIN_SECONDS = 10.0
"""After a failover the database's time may differ."""


class SystemClock:
    """The operating system's time, pseudo-random jitter and UUIDv7 ids."""

    def now(self) -> datetime:
        """The time (UTC)."""
        return datetime.now(UTC)

    def jitter(self) -> float:
        """Uniform in [0, 1)."""
        return random.random()  # noqa: S311 - spreads retries only

    def new_id(self) -> UUID:
        """A new UUIDv7."""
        return uuid7()

    def new_key(self) -> str:
        """A random key of 32 bytes (hex), which nobody can guess."""
        return secrets.token_hex(32)


class DatabaseClock(SystemClock):
    """The database's time by `read`, advanced by a monotonic clock: wrong clocks of machines have no effect."""

    def __init__(self, read: Callable[[], Awaitable[datetime]]) -> None:
        self._read = read
        self._zero_us = time.time_ns() // 1_000 - _since_start_us()
        """The estimate of the database's time when this machine started (us since 1970)."""
        self._is_set = False

    async def set(self) -> None:
        """Read the database's time. Raise `ServiceError`."""
        before = _since_start_us()
        read = (await self._read() - _EPOCH) // _MICROSECOND
        latest, earliest = read - before, read - _since_start_us()
        # A slow reading is imprecise: keep a consistent estimate.
        if not earliest <= self._zero_us <= latest:
            zero = (earliest + latest) // 2
            self._report((zero - self._zero_us) * _MICROSECOND)
            self._zero_us = zero
        self._is_set = True

    def _report(self, step: timedelta) -> None:
        if self._is_set and abs(step) >= MIN_STEP:
            direction = "stepped ahead" if step > timedelta(0) else "was set back"
            logger.warning("the database's clock %s by %.1f s", direction, abs(step) / timedelta(seconds=1))

    async def keep_set(self) -> None:
        """Read the database's time periodically, until cancelled."""
        while True:
            await asyncio.sleep(READ_AGAIN_SECONDS)
            try:
                await self.set()
            except ServiceError:
                continue
            except Exception:
                logger.exception("reading the database's time failed; retrying")

    def now(self) -> datetime:
        """The time (UTC)."""
        return _EPOCH + timedelta(microseconds=self._zero_us + _since_start_us())

    def new_id(self) -> UUID:
        """A new UUIDv7 of the database's time: which sessions an erasure was for is read from their ids."""
        return uuid7(nanoseconds=(self._zero_us + _since_start_us()) * 1_000)


# With the machine's sleep, where the system counts it.
_since_start_ns = (
    partial(time.clock_gettime_ns, time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic_ns
)


def _since_start_us() -> int:
    return _since_start_ns() // 1_000
