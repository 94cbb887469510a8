"""Waking up: one look at the database tells whether there is anything to do, and when to look again.

Three things end a wait: a hint that the log has grown (due work is written by appends and by nothing else, so one hint tells
of both), the due time of the next row, and a poll that needs neither. A hint or a due time that comes to nothing costs one
look; one that is lost costs the poll's interval, never the work.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress

from guestledger.engine.ports import Clock, DueSteps, EventStore
from guestledger.engine.work import Outlook

POLL_MS = 1_000
# Where hints rain in, as while sessions are opened, one look serves all that came meanwhile.
_SPACING_SECONDS = 0.05


async def wait_for_any(*events: asyncio.Event, seconds: float | None = None) -> None:
    """Return as soon as one of the events is set, after `seconds` at the latest."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


class WakeupPoller:
    """Keeps an eye on one ledger, with at most one statement for each `poll_ms` while nothing happens there.

    `steps` are those that are taken, each with the limiter that its request passes: what is behind a closed one is not claimable.
    It sets the event in `due` of each step for which a row can be claimed, and `behind` when the projections lack something of the log.
    """

    def __init__(
        self,
        *,
        store: EventStore,
        due_work: DueSteps,
        steps: Mapping[str, str | None],
        clock: Clock,
        poll_ms: int = POLL_MS,
    ) -> None:
        self._store = store
        self._due_work = due_work
        self._steps = steps
        self._clock = clock
        self._poll_ms = poll_ms
        self.due: dict[str, asyncio.Event] = {}
        self.behind = asyncio.Event()

    async def look(self, stopping: asyncio.Event) -> None:
        """Look once, and wait until there is reason to look again, or `stopping` is set. Raises `ServiceError`."""
        hint, outlook = await self._look()
        for step in outlook.claimable & self.due.keys():
            self.due[step].set()
        if outlook.unprojected:
            self.behind.set()
        await self._rest(stopping, hint, outlook)

    async def finds_work(self, stopping: asyncio.Event) -> bool:
        """Look once: whether some step is due now. If not, wait as `look` does before it is told. Raises `ServiceError`."""
        hint, outlook = await self._look()
        if not outlook.claimable:
            await self._rest(stopping, hint, outlook)
        return bool(outlook.claimable)

    async def _look(self) -> tuple[asyncio.Event, Outlook]:
        hint = self._store.arrival()  # before the look: what comes while it is under way must not be waited for
        return hint, await self._due_work.outlook(self._steps)

    async def _rest(self, stopping: asyncio.Event, hint: asyncio.Event, outlook: Outlook) -> None:
        # Never sooner than the interval, and spread over as much again, so that many workers do not ask in step.
        poll_ms = self._poll_ms * (1 + self._clock.jitter())
        due_ms = poll_ms if outlook.next_due_ms is None else outlook.next_due_ms
        with suppress(TimeoutError):
            async with asyncio.timeout(_SPACING_SECONDS):
                await stopping.wait()
        await wait_for_any(stopping, hint, seconds=max(0.0, min(poll_ms, due_ms) / 1_000 - _SPACING_SECONDS))
