"""`ledger.projections`."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta

from guestledger.engine.domain.errors import ProjectionStopped
from guestledger.engine.operations.expiring import expiring_in, expiry_warnings
from guestledger.engine.ports.clock import Clock
from guestledger.engine.ports.read_models import ReadModels
from guestledger.engine.projections.metrics import DailyMetrics, HourlyOutcomes, MetricsFilter
from guestledger.engine.projections.sessions import SessionRow
from guestledger.engine.projections.status import ProjectionStatus, Verification

_POLL_SECONDS = 0.05


class Projections:
    """Sessions, metrics and audit log as derived from the events."""

    def __init__(self, *, read_models: ReadModels, clock: Clock) -> None:
        self._read_models = read_models
        self._clock = clock

    async def status(self) -> list[ProjectionStatus]:
        """Return each projection's lag and, if it stopped, the poison event. Does not catch up first."""
        return await self._read_models.status()

    async def catch_up(self) -> int:
        """Project all events up to the end of the log; return how many. `sessions`, `audit` and `metrics` do it themselves.

        A projection that cannot apply an event stops alone, logs an error, and retries at each catch-up. A read-only
        user or database projects nothing; a warning counts the missing events.
        """
        return await self._read_models.catch_up()

    async def wait_for(self, position: int, timeout: float = 10.0) -> None:  # noqa: ASYNC109 - the caller's own limit
        """Return once every projection includes the event at `position`, to read your own writes.

        Raises `ProjectionStopped` if one stopped before it, `TimeoutError` after `timeout` seconds.
        """
        async with asyncio.timeout(timeout):
            while True:
                await self._read_models.catch_up()
                if await self._include(position):
                    return
                await asyncio.sleep(_POLL_SECONDS)

    async def _include(self, position: int) -> bool:
        behind = [status for status in await self._read_models.status() if status.position < position]
        for status in behind:
            if status.error is not None:
                raise ProjectionStopped(f"projection {status.name} has stopped: {status.error}")
        return not behind

    async def rebuild(self, name: str, advanced: Callable[[int], None] = lambda _position: None) -> int:
        """Rebuild a projection from the log and swap it in at once; return how many rows differed.

        Other work goes on. An interrupted rebuild resumes. `advanced` gets each position. Raises `UnknownProjection`,
        `ProjectionStopped` at a poison event, and `RebuildInterrupted` if another process rebuilt it.
        """
        return await self._read_models.rebuild(name, advanced)

    async def verify(self, name: str, advanced: Callable[[int], None] = lambda _position: None) -> Verification:
        """Compare a projection's rows with the log. Changes nothing.

        Raises as `rebuild` does, and `RebuildInterrupted` while a rebuild is unfinished.
        """
        return await self._read_models.verify(name, advanced)

    async def metrics_by_day(self, wanted: MetricsFilter = MetricsFilter()) -> list[DailyMetrics]:
        """Return the metrics of each day (UTC) and channel that has any, oldest first, as `Ledger.metrics` does."""
        await self._read_models.catch_up()
        return await self._read_models.metrics_by_day(wanted)

    async def outcomes_by_hour(self, wanted: MetricsFilter = MetricsFilter()) -> list[HourlyOutcomes]:
        """Return the counts of each hour (UTC) that has any, over all channels, oldest first, as `Ledger.metrics` does."""
        await self._read_models.catch_up()
        return await self._read_models.outcomes_by_hour(wanted)

    async def expiring_in(self, span: timedelta) -> list[SessionRow]:
        """Return the active sessions whose token expires within `span`, the earliest first.

        Raises `ValueError` unless `span` is positive.
        """
        return await expiring_in(self._read_models, self._clock, span)

    def expiry_warnings(self, ahead: timedelta) -> AsyncIterator[SessionRow]:
        """Yield each active session once, when its token expires within `ahead`; without end, through outages too.

        A warning is late by at most 15 % of `ahead` and 90 s (for `ahead` under 10 s: by the lesser of 1.5 s and 75 %).
        Tokens with a shorter life, or that expire during an outage, get none. Each iterator remembers only its own
        warnings. Raises `ValueError` unless `ahead` is positive.
        """
        return expiry_warnings(self._read_models, self._clock, ahead)
