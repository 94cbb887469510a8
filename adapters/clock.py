"""Time, jitter and ids."""

import asyncio
import logging
import random
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol
from uuid import UUID

from uuid_utils.compat import uuid7

from guestledger.engine.domain.errors import ServiceError
from guestledger.engine.ports.clock import ClockStep

logger = logging.getLogger("guestledger")

READ_AGAIN_SECONDS = 10.0
"""After a failover the database's time may differ."""

MIN_STEP = timedelta(seconds=2)
"""A smaller difference is drift or a clock being slewed, and is followed without a word."""

_SECOND = timedelta(seconds=1)


class TimeSource(Protocol):
    """The database's clock, and the record of its steps."""

    async def read(self, after: int) -> tuple[datetime, list[ClockStep]]:
        """The time, and the steps with a number above `after`. Raises `ServiceError`."""
        ...

    async def record(self, by: timedelta, after: int) -> list[ClockStep]:
        """Record a step of `by`, unless another process has, and adjust what it would delay or let lapse.

        Returns the steps with a number above `after`. Raises `ServiceError`.
        """
        ...


class SystemClock:
    """The operating system's time, pseudo-random jitter and UUIDv7 ids."""

    def now(self) -> datetime:
        """The time (UTC)."""
        return datetime.now(UTC)

    def jitter(self) -> float:
        """Uniform in [0, 1)."""
        return random.random()  # noqa: S311 - spreads retries only

    def new_id(self) -> UUID:
        """A new UUIDv7: later ids sort later."""
        return uuid7()


class DatabaseClock(SystemClock):
    """The database's time, advanced by a monotonic clock: wrong clocks of machines have no effect.

    Every reading is compared with it. A difference of `MIN_STEP` or more is a step of the database's clock. Time and steps
    change together, once the step is recorded: what is decided is decided on one clock, and `last_step` says on which.
    """

    def __init__(self, source: TimeSource) -> None:
        self._source = source
        self._zero = super().now() - since_start()
        """The estimate of the database's time when this machine started."""
        self._noticed: datetime | None = None
        """The same after a step that is not recorded yet."""
        self._is_set = False
        self._steps: list[ClockStep] = []
        self._recording = asyncio.Lock()

    def now(self) -> datetime:
        """The time (UTC)."""
        return self._zero + since_start()

    @property
    def last_step(self) -> int:
        """See `Clock.last_step`."""
        return self._steps[-1].number if self._steps else 0

    def last_step_before(self, position: int) -> int:
        """See `Clock.last_step_before`."""
        return max((step.number for step in self._steps if step.position < position), default=0)

    def stepped_ms(self, since: int) -> int:
        """See `Clock.stepped_ms`."""
        return sum(step.by_ms for step in self._steps if step.number > since)

    async def set(self) -> None:
        """Read the database's time, and record a step. Raise `ServiceError`."""
        asked_at = since_start()
        read, steps = await self._source.read(self.last_step)
        if not self.notices_step(read, asked_at):
            self._take(steps)
        await self.record_step()

    def notices_step(self, read: datetime, asked_at: timedelta) -> bool:
        """Whether a reading of the database's clock, asked for at `asked_at`, shows a step; if not, it is followed."""
        latest, earliest = read - asked_at, read - since_start()
        # A slow reading is imprecise: keep a consistent estimate.
        off_by = max(earliest - self._zero, self._zero - latest)
        zero = self._zero if off_by <= timedelta(0) else earliest + (latest - earliest) / 2
        if self._is_set and off_by >= MIN_STEP:
            self._noticed = zero
            return True
        self._zero, self._noticed, self._is_set = zero, None, True
        return False

    async def record_step(self) -> None:
        """Record the step that was noticed, if there is one, and follow it. Raise `ServiceError`."""
        async with self._recording:
            if self._noticed is None:
                return
            zero = self._noticed
            by = zero - self._zero
            steps = await self._source.record(by, self.last_step)
            self._zero, self._noticed = zero, None
            self._take(steps)
        direction = "stepped ahead" if by > timedelta(0) else "was set back"
        logger.warning("the database's clock %s by %.1f s: deadlines and waits follow it", direction, abs(by) / _SECOND)

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

    def _take(self, steps: list[ClockStep]) -> None:
        self._steps += [step for step in steps if step.number > self.last_step]


# With the machine's sleep, where the system counts it.
_SINCE_START = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def since_start() -> timedelta:
    """The time since this machine started."""
    return timedelta(microseconds=time.clock_gettime_ns(_SINCE_START) // 1_000)
