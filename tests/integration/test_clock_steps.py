"""The database's clock steps while a worker runs: its copy of that clock is wrong for a while, and no session suffers."""

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from guestledger.adapters.simulator import Simulator, SimulatorConfig
from guestledger.engine.domain.events import ClockSetBack
from guestledger.engine.domain.policy import DeliveryPolicy, Policy
from guestledger.engine.domain.session import Session, Status
from guestledger.engine.ledger import Ledger
from guestledger.engine.limits.retry import RetryPolicy
from guestledger.engine.log.appends import Lease
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
        stack.push_async_callback(shim.close)
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


async def test_sessions_accepted_before_the_clock_is_set_back_are_opened_at_once(
    clock: DatabaseClockShim, new_ledger: Any, simulator: Simulator, caplog: pytest.LogCaptureFixture
) -> None:
    await clock.step(2 * HOUR)
    async with new_ledger() as worker:
        sessions = await accept(worker)
        await clock.step(-2 * HOUR)

        await worker.scheduler.run_once()

        assert await statuses(worker, sessions) == {Status.ACTIVE}
        history = [type(recorded.event) for recorded in await worker.history(sessions[0].id)]
    assert len(simulator.sessions_by_key) == NUMBER
    assert history.count(ClockSetBack) == 1
    [warning] = [message for message in caplog.messages if "begin again" in message]
    assert re.fullmatch(
        r"the database's clock was set back by at least 7(200|199)\.\d s: 40 waits of sessions begin again, and 0 limiters follow it",
        warning,
    )


async def test_a_new_worker_opens_what_was_accepted_before_the_clock_was_set_back(
    clock: DatabaseClockShim, new_ledger: Any
) -> None:
    await clock.step(2 * HOUR)
    async with new_ledger() as host:
        sessions = await accept(host)
    await clock.step(-2 * HOUR)

    async with new_ledger() as worker:
        await worker.scheduler.run_until_idle()

        assert await statuses(worker, sessions) == {Status.ACTIVE}


async def test_a_host_whose_clock_is_stale_accepts_sessions_that_are_due_at_once(
    clock: DatabaseClockShim, new_ledger: Any
) -> None:
    await clock.step(2 * HOUR)
    async with new_ledger() as host:
        await clock.step(-2 * HOUR)
        sessions = await accept(host)

        async with new_ledger() as worker:
            await worker.scheduler.run_once()

            assert await statuses(worker, sessions) == {Status.ACTIVE}


async def test_a_throttled_session_waits_no_less_than_retry_after_and_not_the_step(
    clock: DatabaseClockShim, new_ledger: Any, simulator: Simulator
) -> None:
    simulator.config = SimulatorConfig(throttle_share=1.0, retry_after_s=3)
    await clock.step(2 * HOUR)
    async with new_ledger() as worker:
        began = time.monotonic()
        session = await worker.open_session(request())
        assert session.status is Status.THROTTLED
        await clock.step(-2 * HOUR)

        await worker.scheduler.run_until_idle()

        assert 3 <= time.monotonic() - began < 60
        assert await statuses(worker, [session]) == {Status.ACTIVE}


async def test_a_webhook_retry_does_not_wait_for_the_step(
    clock: DatabaseClockShim, new_ledger: Any, simulator: Simulator, sql: Any
) -> None:
    policy = Policy(webhook=DeliveryPolicy(waits_ms=(60_000,)))
    simulator.config = SimulatorConfig(session_lifetime_s=24 * 3_600, webhook_status=503)
    await clock.step(2 * HOUR)
    async with new_ledger(policy=policy, webhook_url=simulator.webhook_url) as worker:
        await accept(worker)
        await worker.scheduler.run_once()
        before = await sql("SELECT due_at FROM due_steps WHERE step = 'expire_token' ORDER BY stream_id")
        await clock.step(-2 * HOUR)

        await worker.scheduler.run_once()

    waits = await sql("SELECT due_at - now() AS wait FROM due_steps WHERE step = 'deliver_webhook'")
    assert len(waits) == NUMBER
    assert all(timedelta(seconds=30) < row["wait"] < timedelta(seconds=70) for row in waits)
    assert before == await sql("SELECT due_at FROM due_steps WHERE step = 'expire_token' ORDER BY stream_id")


async def test_the_lease_of_a_dead_worker_does_not_last_as_long_as_the_step(
    clock: DatabaseClockShim, new_ledger: Any, sql: Any
) -> None:
    await clock.step(2 * HOUR)
    async with new_ledger() as worker:
        await accept(worker)
        await sql("UPDATE due_steps SET owner = gen_random_uuid(), lease_until = now() + interval '10 s'")
        await clock.step(-2 * HOUR)

        await worker.scheduler.run_once()

        (left,) = await sql("SELECT max(lease_until) - now() AS span FROM due_steps")
    assert timedelta(0) < left["span"] <= timedelta(seconds=10)


async def test_a_cut_off_attempt_is_settled_soon_after_the_clock_is_set_back(
    clock: DatabaseClockShim, new_ledger: Any, simulator: Simulator, sql: Any
) -> None:
    await clock.step(2 * HOUR)
    async with new_ledger() as host:
        simulator.config = SimulatorConfig(hang_share=1.0, hang_s=60)
        opening = asyncio.create_task(host.open_session(request()))
        while not await sql("SELECT FROM due_steps WHERE step = 'settle_attempt'"):
            await asyncio.sleep(0.05)
        opening.cancel()
        await asyncio.wait([opening])
    simulator.config = SimulatorConfig(session_lifetime_s=24 * 3_600)
    await clock.step(-2 * HOUR)

    async with new_ledger() as worker, asyncio.timeout(60):
        while not await sql("SELECT FROM events WHERE event_type = 'SessionCreated'"):
            await worker.scheduler.run_once()
            await asyncio.sleep(0.2)

    happened = [row["event_type"] for row in await sql("SELECT event_type FROM events ORDER BY position")]
    assert happened.index("ClockSetBack") < happened.index("CreationFailed") < happened.index("SessionCreated")


async def test_many_workers_begin_a_wait_again_once(clock: DatabaseClockShim, new_ledger: Any, sql: Any) -> None:
    await clock.step(2 * HOUR)
    async with new_ledger() as one, new_ledger() as two:
        sessions = await accept(one)
        await sql("UPDATE due_steps SET due_at = due_at + interval '1 min'")
        await clock.step(-2 * HOUR)

        await asyncio.gather(one.scheduler.run_once(), two.scheduler.run_once())

        rows = await sql("SELECT due_at - now() AS wait FROM due_steps WHERE step = 'validate_channel'")
        assert await statuses(one, sessions) == {Status.PENDING}
    assert len(rows) == NUMBER
    assert all(timedelta(seconds=30) < row["wait"] <= timedelta(seconds=60) for row in rows)


async def test_a_running_worker_opens_what_waits_when_the_clock_is_set_back(
    clock: DatabaseClockShim, new_ledger: Any
) -> None:
    await clock.step(2 * HOUR)
    async with new_ledger() as host:
        sessions = await accept(host)
        await clock.step(-2 * HOUR)
        async with new_ledger(scheduler=True), asyncio.timeout(30):
            while await statuses(host, sessions) != {Status.ACTIVE}:
                await asyncio.sleep(0.1)


async def test_a_closed_limiter_opens_after_its_pause_when_the_clock_is_set_back(
    clock: DatabaseClockShim, new_ledger: Any, simulator: Simulator
) -> None:
    simulator.config = SimulatorConfig(throttle_share=1.0, throttle_times=1, retry_after_s=4)
    await clock.step(2 * HOUR)
    async with new_ledger() as worker, new_ledger() as other:
        throttled_at = time.monotonic()
        session = await worker.open_session(request())
        simulator.config = SimulatorConfig()
        await clock.step(-2 * HOUR)
        async with asyncio.timeout(30):
            while (later := await other.open_session(request())).status is not Status.ACTIVE:
                await other.scheduler.run_until_idle()
                assert await statuses(other, [session, later]) == {Status.ACTIVE}
                break

    assert time.monotonic() - throttled_at >= 4


async def test_a_deadline_ends_a_session_after_its_true_span_when_the_clock_is_set_back(
    clock: DatabaseClockShim, new_ledger: Any, sql: Any
) -> None:
    policy = Policy(creation=RetryPolicy(deadline_ms=5_000))
    await clock.step(2 * HOUR)
    async with new_ledger(policy=policy, cxone_url=None) as worker:
        accepted_at = time.monotonic()
        session = await worker.accept(request())
        await clock.step(-2 * HOUR)
        async with asyncio.timeout(30):
            while await statuses(worker, [session]) != {Status.ABANDONED}:
                await worker.scheduler.run_once()
                await asyncio.sleep(0.2)

    assert time.monotonic() - accepted_at >= 5


async def test_why_names_the_time_by_the_clock_that_was_set_back(clock: DatabaseClockShim, new_ledger: Any) -> None:
    await clock.step(2 * HOUR)
    async with new_ledger(cxone_url=None) as worker:
        session = await worker.accept(request())
        await clock.step(-2 * HOUR)
        await worker.scheduler._due_steps.follow_clock()

        explained = await worker.why(session.id)

    assert explained.moves_at is not None
    assert explained.moves_at - explained.now < timedelta(minutes=1)


async def test_the_lease_of_a_dead_consumer_does_not_last_as_long_as_the_step(
    clock: DatabaseClockShim, new_ledger: Any, sql: Any
) -> None:
    async with new_ledger() as ledger:
        consumers, lease = ledger.events._consumers, Lease(owner=uuid4(), ms=1_000)
        await clock.step(2 * HOUR)
        assert await consumers.claim("warehouse", lease, -1) == -1
        await clock.step(-2 * HOUR)

        assert await consumers.claim("warehouse", Lease(owner=uuid4(), ms=1_000), -1) is None
        (left,) = await sql("SELECT lease_until - now() AS span FROM consumers")

    assert timedelta(0) < left["span"] <= timedelta(seconds=1)


@pytest.mark.parametrize(("by", "words"), [(2 * HOUR, "stepped ahead by 7200"), (-HOUR, "was set back by 3600")])
async def test_a_step_of_the_clock_is_logged_with_its_length(
    clock: DatabaseClockShim, new_ledger: Any, caplog: pytest.LogCaptureFixture, by: timedelta, words: str
) -> None:
    async with new_ledger() as ledger:
        await clock.step(by)
        await ledger._adapters.clock.set()
        await ledger._adapters.clock.set()
    assert [message for message in caplog.messages if "clock" in message] == [caplog.messages[0]]
    assert words in caplog.messages[0]
