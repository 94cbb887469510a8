"""What happened before each story of docs/stories.md, at the simulator and in the ledger's database."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, time, timedelta
from typing import Any, Self

from msgspec.structs import replace

from guestledger import InDoubt, Ledger, SimulatorConfig, connect
from guestledger.engine.domain.outcomes import CreationOutcome
from tests import database_clock
from tests.database_clock import DatabaseClockShim
from tests.docs.scenario import LIMIT_S, Scenario, guest

SHOWN_DAY = "2026-11-03"
"""On the page. Here it is yesterday."""
_TEN_MINUTES_S = 600
_FIFTY_FIVE_MINUTES_S = 55 * 60


class Night:
    """The night of a story. The clocks of database and provider show its times."""

    def __init__(self, scenario: Scenario, clock: DatabaseClockShim) -> None:
        self._scenario = scenario
        self._clock = clock
        self._day = datetime.now(UTC).date() - timedelta(days=1)
        self._offset = timedelta()
        self._behind_s = 0.0
        self._faults: Mapping[str, Any] = {}

    @classmethod
    async def of(cls, scenario: Scenario) -> Self:
        """Begin the night of a scenario: before a ledger opens its database."""
        clock = await database_clock.install(str(scenario.settings.database_url))
        scenario.call_at_the_end(clock.close)
        night = cls(scenario, clock)
        scenario.replaced = {SHOWN_DAY: str(night._day), "--around 02:14": f"--around {night._day}T02:14"}
        return night

    async def at(self, moment: str) -> None:
        """Let the clocks go on to a time of day (UTC)."""
        offset = datetime.combine(self._day, time.fromisoformat(moment), UTC) - datetime.now(UTC)
        await self._clock.step(offset - self._offset)
        # On the first of a month, yesterday's month has no partition yet.
        await self._clock.execute("SELECT guestledger.ensure_partitions()")
        self._offset = offset
        self.provider(behind_s=self._behind_s, **self._faults)

    def provider(self, *, behind_s: float = 0, **faults: Any) -> None:
        """Give provider and receiver these faults, and no others."""
        self._behind_s, self._faults = behind_s, faults
        offset_s = self._offset.total_seconds() - behind_s
        # A call takes a time that can be seen, so that the same lines are printed each time.
        self._scenario.simulator.config = SimulatorConfig(
            clock_offset_s=offset_s, slow_ms=20, webhook_hang_s=0.02, **faults
        )

    @asynccontextmanager
    async def ledger(self, **changed: Any) -> AsyncIterator[Ledger]:
        """Open the ledger as a process does, without a worker."""
        self._scenario.settings = replace(self._scenario.settings, **changed)
        async with connect(self._scenario.settings, scheduler=False) as ledger:
            ledger._adapters.clock.jitter = lambda: 0.9  # type: ignore[method-assign]  # a backoff that can be seen, as most can
            yield ledger


async def _throttled(scenario: Scenario) -> None:
    """The provider throttles everybody for ten minutes."""
    night = await Night.of(scenario)
    await night.at("02:13:50")
    night.provider(throttle_share=1.0, retry_after_s=_TEN_MINUTES_S)
    async with night.ledger() as ledger:
        sessions = [await ledger.open_session(guest(number)) for number in range(1, 4)]
    scenario.session = sessions[0]
    await night.at("02:16:10")


async def _lost(scenario: Scenario) -> None:
    """The provider makes the session and drops the connection before it answers; the policy is to ask a person."""
    night = await Night.of(scenario)
    await night.at("02:13:50")
    night.provider(drop_share=1.0, honour_idempotency_key=False)
    async with night.ledger(cxone_in_doubt=InDoubt.PARK) as ledger:
        scenario.session = await ledger.open_session(guest(10))
    await night.at("02:20:31")


async def _expired(scenario: Scenario) -> None:
    """The provider's clock is 55 minutes behind."""
    night = await Night.of(scenario)
    await night.at("02:13:50")
    night.provider(behind_s=_FIFTY_FIVE_MINUTES_S)
    async with night.ledger() as ledger:
        scenario.session = await ledger.open_session(guest(20))
        await ledger.open_session(guest(21))
        await ledger.scheduler.run_once()
    await night.at("02:18:51")
    async with night.ledger() as ledger:
        await ledger.scheduler.run_once()
    await night.at("02:25:00")
    scenario.replaced["sess_9d4e8f1a"] = str(scenario.session.session_id)


async def _dead(scenario: Scenario) -> None:
    """The receiver of the webhook answers 410 to everything."""
    night = await Night.of(scenario)
    for number, moment in enumerate(("01:34:12", "01:51:40"), 30):
        await night.at(moment)
        night.provider(webhook_status=410)
        async with night.ledger() as ledger:
            scenario.session = await ledger.open_session(guest(number))
            await ledger.scheduler.run_once()
    await night.at("02:14:00")
    night.provider()


async def _duplicated(scenario: Scenario) -> None:
    """A process stalls with the answer in its hands, until its lease has ended and another process has tried again."""
    night = await Night.of(scenario)
    await night.at("02:13:50")
    night.provider(honour_idempotency_key=False)
    async with night.ledger() as stalled, night.ledger() as other:
        answered, goes_on = _stalls(stalled)
        opening = asyncio.create_task(stalled.open_session(guest(12)))
        async with asyncio.timeout(LIMIT_S):
            await answered.wait()
        await night.at("02:14:02")
        await other._adapters.clock.set()  # type: ignore[attr-defined]
        await other.scheduler.run_until_idle()
        await night.at("02:14:09")
        await stalled._adapters.clock.set()  # type: ignore[attr-defined]
        goes_on.set()
        scenario.session = await opening
    await night.at("02:20:31")


def _stalls(ledger: Ledger) -> tuple[asyncio.Event, asyncio.Event]:
    """Let this process stall after the provider's answer. Returns when it is there, and what lets the process go on."""
    answered, goes_on, create = asyncio.Event(), asyncio.Event(), ledger._adapters.provider.create

    async def stalling(*given: Any, **also: Any) -> CreationOutcome:
        outcome = await create(*given, **also)
        answered.set()
        await goes_on.wait()
        return outcome

    ledger._adapters.provider.create = stalling  # type: ignore[method-assign]
    return answered, goes_on


STORIES: Mapping[str, Callable[[Scenario], Awaitable[None]]] = {
    "A storm of 429s": _throttled,
    "An answer was lost": _lost,
    "A token expired early": _expired,
    "The webhook was dead": _dead,
    "A duplicate": _duplicated,
}
"""By the heading on the page."""
