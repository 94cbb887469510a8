"""The database's clock is set back or steps ahead while processes run: no session ends, and none is put off."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from guestledger.adapters.postgres.work.due_steps import PostgresDueSteps
from guestledger.adapters.simulator import Simulator, SimulatorConfig
from guestledger.engine.domain.due import StepName
from guestledger.engine.domain.events import ClockStepped, Event
from guestledger.engine.domain.policy import Policy
from guestledger.engine.domain.session import Session, Status
from guestledger.engine.ledger import Ledger
from tests import database_clock
from tests.database_clock import DatabaseClockShim
from tests.integration.appends import a_lease
from tests.integration.conftest import NewLedger, Sql
from tests.unit.samples import request

HOUR = timedelta(hours=1)
HALF_HOUR = timedelta(minutes=30)
NUMBER = 20


@pytest.fixture
async def clock(database_url: str) -> AsyncIterator[DatabaseClockShim]:
    async with contextlib.AsyncExitStack() as stack:
        shim = await database_clock.install(database_url)
        stack.push_async_callback(shim._administrator.close)
        yield shim


async def accept(ledger: Ledger) -> list[Session]:
    return [await ledger.accept(request()) for _ in range(NUMBER)]


async def statuses(ledger: Ledger, sessions: list[Session]) -> set[Status]:
    return {(await ledger.session(session.id)).status for session in sessions}


@pytest.fixture(autouse=True)
def long_lifetime(simulator: Simulator) -> None:
    simulator.config = SimulatorConfig(session_lifetime_s=24 * 3_600)


async def history(ledger: Ledger, sessions: list[Session]) -> list[Event]:
    """The events of all these sessions."""
    return [recorded.event for session in sessions for recorded in await ledger.history(session.id)]


STEPS = pytest.mark.parametrize("by", [2 * HOUR, HALF_HOUR, -2 * HOUR, -HALF_HOUR], ids=str)


@STEPS
async def test_sessions_accepted_after_a_clock_step_are_opened_at_once(
    clock: DatabaseClockShim, new_ledger: NewLedger, simulator: Simulator, by: timedelta
) -> None:
    await clock.step(2 * HOUR)
    async with new_ledger() as worker:
        await clock.step(by)
        async with new_ledger() as host:
            sessions = await accept(host)

        await worker.scheduler.run_once()

        assert await statuses(worker, sessions) == {Status.ACTIVE}
    assert len(simulator.sessions_by_key) == NUMBER


@STEPS
async def test_sessions_accepted_before_a_clock_step_are_opened_at_once(
    clock: DatabaseClockShim, new_ledger: NewLedger, simulator: Simulator, by: timedelta
) -> None:
    async with new_ledger() as worker:
        sessions = await accept(worker)
        await clock.step(by)

        await worker.scheduler.run_until_idle()

        assert await statuses(worker, sessions) == {Status.ACTIVE}
    assert len(simulator.sessions_by_key) == NUMBER


@STEPS
async def test_a_session_opened_by_a_host_with_a_stale_clock_is_dated_right(
    clock: DatabaseClockShim, new_ledger: NewLedger, by: timedelta
) -> None:
    async with new_ledger() as host:
        await host.open_session(request())
        await clock.step(by)

        session = await host.open_session(request())

        for recorded in await host.history(session.id):
            assert not isinstance(recorded.event, ClockStepped)
            assert abs(recorded.event.at - datetime.now(UTC) - by) < timedelta(minutes=1)
    assert session.status is Status.ACTIVE


@STEPS
async def test_waiting_sessions_survive_a_clock_step_and_keep_their_pause(
    clock: DatabaseClockShim,
    new_ledger: NewLedger,
    simulator: Simulator,
    caplog: pytest.LogCaptureFixture,
    by: timedelta,
) -> None:
    simulator.config = SimulatorConfig(session_lifetime_s=24 * 3_600, throttle_share=1.0, retry_after_s=1)
    async with new_ledger(policy=Policy()) as worker:
        sessions = [await worker.open_session(request()) for _ in range(3)]
        assert {session.status for session in sessions} <= {Status.THROTTLED, Status.PENDING}
        await clock.step(by)

        await worker.scheduler.run_until_idle()

        assert await statuses(worker, sessions) == {Status.ACTIVE}
        stepped = [event for event in await history(worker, sessions) if isinstance(event, ClockStepped)]
    assert len(stepped) == len(sessions)
    assert all(abs(timedelta(milliseconds=event.by_ms) - by) < timedelta(minutes=1) for event in stepped)
    [warning] = [record.message for record in caplog.records if "clock" in record.message]
    assert ("set back" if by < timedelta(0) else "stepped ahead") in warning


async def test_a_step_ahead_takes_no_work_from_a_worker_that_lives(
    clock: DatabaseClockShim, new_ledger: NewLedger, simulator: Simulator
) -> None:
    simulator.config = SimulatorConfig(session_lifetime_s=24 * 3_600, hang_share=1.0, hang_s=2)
    async with new_ledger() as host, new_ledger() as worker:
        opening = asyncio.create_task(host.open_session(request()))
        while not simulator.sessions_by_key:
            await asyncio.sleep(0.01)
        await clock.step(HALF_HOUR)

        assert await worker.scheduler.run_once() == {}

        session = await opening
    assert (session.status, session.attempts) == (Status.ACTIVE, 1)


async def test_a_step_back_does_not_prolong_the_lease_of_a_dead_worker(
    clock: DatabaseClockShim, new_ledger: NewLedger, due_steps: PostgresDueSteps, sql: Sql
) -> None:
    async with new_ledger() as worker:
        session = await worker.accept(request())
        await due_steps.claim(a_lease(ms=10_000), {StepName.VALIDATE_CHANNEL: None}, 1)
        await clock.step(-HALF_HOUR)
        await worker._clock.set()  # type: ignore[attr-defined]

        [(left,)] = await sql("SELECT lease_until - now() FROM due_steps WHERE owner IS NOT NULL")

        await sql("UPDATE due_steps SET lease_until = now()")
        await worker.scheduler.run_until_idle()
        assert (await worker.session(session.id)).status is Status.ACTIVE
    assert left <= timedelta(seconds=10)


async def test_a_step_ahead_expires_no_token_before_its_time(
    clock: DatabaseClockShim, new_ledger: NewLedger, sql: Sql
) -> None:
    async with new_ledger() as worker:
        session = await worker.open_session(request())
        await clock.step(48 * HOUR)
        await worker.scheduler.run_until_idle()
        assert (await worker.session(session.id)).status is Status.ACTIVE

        await clock.step(-48 * HOUR)
        await worker.scheduler.run_until_idle()

    [(due_at,)] = await sql("SELECT due_at FROM due_steps WHERE step = 'expire_token'")
    assert abs(due_at - session.expires_at) < timedelta(minutes=1)


async def test_one_clock_step_is_recorded_once_by_many_processes(
    clock: DatabaseClockShim, new_ledger: NewLedger, sql: Sql
) -> None:
    async with new_ledger() as first, new_ledger() as second, new_ledger() as third:
        for by in (HALF_HOUR, -2 * HOUR):
            await clock.step(by)
            await asyncio.gather(*(each._clock.set() for each in (first, second, third)))  # type: ignore[attr-defined]

    steps = await sql("SELECT number, round(by_ms / 60000.0) FROM clock_steps ORDER BY number")
    assert [tuple(map(int, step)) for step in steps] == [(1, 30), (2, -120)]
