"""The database's clock steps while a worker runs: its copy of that clock is wrong for a while, and no session suffers."""

import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from guestledger.adapters.simulator import Simulator, SimulatorConfig
from guestledger.engine.domain.policy import Policy
from guestledger.engine.domain.session import Session, Status
from guestledger.engine.ledger import Ledger
from guestledger.engine.limits.retry import RetryPolicy
from tests import database_clock
from tests.database_clock import DatabaseClockShim
from tests.unit.samples import request

HOUR = timedelta(hours=1)
NUMBER = 20
# On a slow machine a short backoff would end, and the next attempt begin, before the test looks.
PATIENT = Policy(creation=RetryPolicy(base_ms=60_000, cap_ms=60_000))


@pytest.fixture
async def clock(database_url: str) -> AsyncIterator[DatabaseClockShim]:
    async with contextlib.AsyncExitStack() as stack:
        shim = await database_clock.install(database_url)
        stack.push_async_callback(shim._administrator.close)
        yield shim


@pytest.fixture(autouse=True)
def long_lifetime(simulator: Simulator) -> None:
    simulator.config = SimulatorConfig(session_lifetime_s=24 * 3_600)


async def accept(ledger: Ledger) -> list[Session]:
    return [await ledger.accept(request()) for _ in range(NUMBER)]


async def statuses(ledger: Ledger, sessions: list[Session]) -> set[Status]:
    return {(await ledger.session(session.id)).status for session in sessions}


@pytest.mark.parametrize("by", [2 * HOUR, HOUR / 2, -2 * HOUR, -HOUR / 2], ids=str)
async def test_sessions_accepted_after_a_clock_step_are_opened_at_once(
    clock: DatabaseClockShim, new_ledger: Any, simulator: Simulator, by: timedelta
) -> None:
    await clock.step(2 * HOUR)
    async with new_ledger() as worker:
        await clock.step(by)
        async with new_ledger() as host:
            sessions = await accept(host)

        await worker.scheduler.run_once()

        assert await statuses(worker, sessions) == {Status.ACTIVE}
    assert len(simulator.sessions_by_key) == NUMBER


@pytest.mark.parametrize("by", [HOUR / 2, 2 * HOUR / 3], ids=str)
async def test_sessions_accepted_before_the_clock_steps_ahead_are_opened_at_once(
    clock: DatabaseClockShim, new_ledger: Any, simulator: Simulator, by: timedelta
) -> None:
    async with new_ledger() as worker:
        sessions = await accept(worker)
        await clock.step(by)

        await worker.scheduler.run_once()

        assert await statuses(worker, sessions) == {Status.ACTIVE}
    assert len(simulator.sessions_by_key) == NUMBER


async def test_a_retry_after_a_step_ahead_waits_its_backoff_and_not_the_step(
    clock: DatabaseClockShim, new_ledger: Any, simulator: Simulator, sql: Any
) -> None:
    simulator.config = SimulatorConfig(server_error_share=1.0, fault_times=1_000)
    async with new_ledger(policy=PATIENT) as worker:
        sessions = await accept(worker)
        await clock.step(HOUR / 2)

        await worker.scheduler.run_once()

        rows = await sql("SELECT due_at - now() AS wait FROM due_steps WHERE step = 'create_session'")
    assert len(rows) == len(sessions)
    assert all(row["wait"] < HOUR / 4 for row in rows)


@pytest.mark.parametrize(("by", "words"), [(2 * HOUR, "stepped ahead by 7200"), (-HOUR, "was set back by 3600")])
async def test_a_step_of_the_clock_is_logged_with_its_length(
    clock: DatabaseClockShim, new_ledger: Any, caplog: pytest.LogCaptureFixture, by: timedelta, words: str
) -> None:
    async with new_ledger() as ledger:
        await clock.step(by)
        await ledger._clock.set()
        await ledger._clock.set()
    assert [message for message in caplog.messages if "clock" in message] == [caplog.messages[0]]
    assert words in caplog.messages[0]
