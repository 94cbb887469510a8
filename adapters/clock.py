"""Time, chance and ids: time by the database's clock, which all processes on one ledger have in common."""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID

from uuid_utils.compat import uuid7

from guestledger.engine.domain.errors import ServiceError

logger = logging.getLogger("guestledger")

# So long after the database has come to have another time, as one that took over may, the processes have it too.
READ_AGAIN_SECONDS = 10.0


class SystemClock:
    """Time from the operating system, jitter from its generator, ids by RFC 9562 (UUIDv7)."""

    def now(self) -> datetime:
        """The time (UTC)."""
        return datetime.now(UTC)

    def jitter(self) -> float:
        """Uniform in [0, 1)."""
        return random.random()  # noqa: S311 - it spreads retries, it guards nothing

    def new_id(self) -> UUID:
        """A fresh UUIDv7: ids made later sort later."""
        return uuid7()


class DatabaseClock(SystemClock):
    """The database's time, so that what one process says is due, or over, is so for all, however wrong a machine's clock is.

    `read` asks the database. Between two readings time goes by a clock of this machine that nobody sets.
    """

    def __init__(self, read: Callable[[], Awaitable[datetime]]) -> None:
        self._read = read
        self._zero = super().now() - _since_start()
        """The database's time when this machine started, as far as is known."""

    async def set(self) -> None:
        """Read the database's time. Raises `ServiceError`."""
        before = _since_start()
        told = await self._read()
        latest, earliest = told - before, told - _since_start()
        # A reading that took long says little, and nothing against the one before where that may still be right.
        if not earliest <= self._zero <= latest:
            self._zero = earliest + (latest - earliest) / 2

    async def keep_set(self) -> None:
        """Read the database's time now and then, until cancelled. While the database is away, time goes on all the same."""
        while True:
            await asyncio.sleep(READ_AGAIN_SECONDS)
            try:
                await self.set()
            except ServiceError:
                continue
            except Exception:
                logger.exception("the database's time could not be read: it is read again")

    def now(self) -> datetime:
        """The time (UTC)."""
        return self._zero + _since_start()


def _since_start() -> timedelta:
    """What has passed since this machine started; where it can be had, with the time that it slept."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return timedelta(seconds=time.monotonic() if boottime is None else time.clock_gettime(boottime))
