"""Waking up: by a hint that the log has grown, at the next due time, or by a poll.

Appends change due steps, so one hint serves both. A lost hint costs at most the poll's interval.
"""

import asyncio
from contextlib import suppress

from guestledger.engine.domain.due import StepName
from guestledger.engine.ports.clock import Clock
from guestledger.engine.ports.due_steps import DueSteps, Outlook, Wanted
from guestledger.engine.ports.event_store import EventStore

POLL_MS = 1_000
# A catch-up begins once the first event that projections lack is this old (half to one and a half of it).
_PROJECTED_MS = 200
# One look serves all hints of this time.
_SPACING_SECONDS = 0.1


async def wait_for_any(*events: asyncio.Event, seconds: float | None = None) -> None:
    """Return once one of the events is set, after `seconds` at the latest."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


class WakeupPoller:
    """Watches one ledger with at most one statement every `poll_ms` while nothing happens.

    Sets the event in `due` of each claimable step, and `behind` once the first event that projections lack is old enough.
    """

    def __init__(
        self, *, store: EventStore, due_steps: DueSteps, wanted: Wanted, clock: Clock, poll_ms: int = POLL_MS
    ) -> None:
        self._store = store
        self._due_steps = due_steps
        self._wanted = wanted
        self._clock = clock
        self._poll_ms = poll_ms
        self.due: dict[StepName, asyncio.Event] = {}
        self.behind = asyncio.Event()
        self._projected_ms = self._next_projected_ms()

    async def look(self, stopping: asyncio.Event) -> None:
        """Look once, then wait until it is time to look again or `stopping` is set. Raises `ServiceError`."""
        hint, outlook = await self._look()
        for step in outlook.claimable & self.due.keys():
            self.due[step].set()
        left_ms = None if outlook.unprojected_ms is None else self._projected_ms - outlook.unprojected_ms
        if left_ms is not None and not 0 < left_ms <= self._projected_ms:  # old enough, or dated before a step back
            self.behind.set()
            left_ms, self._projected_ms = None, self._next_projected_ms()
        await self._wait(stopping, hint, outlook.next_due_ms, left_ms)

    async def finds_work(self, stopping: asyncio.Event) -> bool:
        """Whether a step is due now. If not, wait as `look` does before returning. Raises `ServiceError`."""
        hint, outlook = await self._look()
        if not outlook.claimable:
            await self._wait(stopping, hint, outlook.next_due_ms)
        return bool(outlook.claimable)

    def _next_projected_ms(self) -> int:
        # Not all workers at once: the first one mostly projects for all.
        return round(_PROJECTED_MS * (0.5 + self._clock.jitter()))

    async def _look(self) -> tuple[asyncio.Event, Outlook]:
        hint = self._store.arrival()  # before the look: what comes during it must not be waited for
        return hint, await self._due_steps.outlook(self._wanted)

    async def _wait(self, stopping: asyncio.Event, hint: asyncio.Event, *due_ms: int | None) -> None:
        # Never sooner than the interval, and not all workers at once.
        poll_ms = self._poll_ms * (1 + self._clock.jitter())
        wait_ms = min([poll_ms, *(ms for ms in due_ms if ms is not None)])
        with suppress(TimeoutError):
            async with asyncio.timeout(_SPACING_SECONDS):
                await stopping.wait()
        await wait_for_any(stopping, hint, seconds=max(0.0, wait_ms / 1_000 - _SPACING_SECONDS))
