"""Waking up: an idle worker hardly queries; due steps are found by a hint, by their time, or by the poll."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import event

from guestledger.adapters.postgres.limits.rate_limiter import PostgresRateLimiter
from guestledger.adapters.postgres.log.notifier import LogNotifier
from guestledger.adapters.postgres.work.due_steps import PostgresDueSteps
from guestledger.adapters.simulator import Simulator, SimulatorConfig
from guestledger.engine.domain.due import StepName
from guestledger.engine.domain.session import Status
from guestledger.engine.ledger import Ledger
from guestledger.engine.limits.feedback import Feedback, Observation
from guestledger.engine.limits.policy import LimiterPolicy
from guestledger.engine.worker import wakeups
from tests.integration.appends import HOUR_MS, a_lease, new_id
from tests.integration.conftest import webhook_of
from tests.integration.plain_sql import SCHEMA
from tests.unit.samples import request

NEVER_MS = 3_600_000
LONG = 30
"""Seconds; nothing takes this long unless it hangs."""
STEPS: dict[StepName, str | None] = dict.fromkeys(StepName)


class Looks:
    """Counts the looks of one scheduler at the database, and sets its poll interval."""

    def __init__(self, ledger: Ledger, *, poll_ms: int) -> None:
        self.number = 0
        poller = ledger.scheduler._poller
        poller._poll_ms = poll_ms
        self._whole = poller._due_steps.outlook
        poller._due_steps.outlook = self._look  # type: ignore[method-assign]
        self._asleep = asyncio.Event()

    async def _look(self, steps: Any) -> Any:
        self._asleep.clear()
        found = await self._whole(steps)
        self.number += 1
        if not found.claimable and found.unprojected_ms is None:
            self._asleep.set()
        return found

    async def nothing_found(self) -> None:
        """Return once a further look has found nothing to do."""
        self._asleep.clear()
        await self.asleep()

    async def asleep(self) -> None:
        """Return once the last look has found nothing to do."""
        async with asyncio.timeout(LONG):
            await self._asleep.wait()


@asynccontextmanager
async def working(ledger: Ledger) -> AsyncIterator[None]:
    running = asyncio.create_task(ledger.scheduler.run_forever())
    try:
        yield
    finally:
        ledger.scheduler.stop()
        await running


async def until(reached: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(LONG):
        while not await reached():
            await asyncio.sleep(0.01)


@pytest.fixture
def without_hints(monkeypatch: pytest.MonkeyPatch) -> None:
    """No hint is sent, between processes or within one."""
    monkeypatch.setattr(LogNotifier, "announce", lambda _self, **_urgent: None)


async def status(ledger: Ledger, stream_id: UUID) -> Status:
    return (await ledger.session(stream_id)).status


async def test_an_idle_worker_sends_one_statement_per_poll(ledger: Ledger) -> None:
    """The statements of every connection of the pool count, BEGIN and COMMIT included."""
    await ledger.open_session(request())  # its expiry is ahead
    sent: list[str] = []
    looks = Looks(ledger, poll_ms=1)
    async with working(ledger):
        event.listen(ledger.scheduler._due_steps._engine.sync_engine, "checkout", noted_in(sent))
        async with asyncio.timeout(LONG):
            # It may still be busy with what it found at the start.
            while set(sent) != {ledger.scheduler._due_steps._sql.outlook}:
                sent.clear()
                before = looks.number
                while looks.number < before + 10:
                    await looks.nothing_found()
        counted = looks.number - before

    assert len(sent) <= counted + 1


async def test_run_until_idle_sends_two_statements_per_poll_while_it_waits(
    ledger: Ledger, simulator: Simulator
) -> None:
    simulator.config = SimulatorConfig(throttle_share=1.0, retry_after_s=600)
    await ledger.open_session(request())
    sent: list[str] = []
    looks, sql = Looks(ledger, poll_ms=1), ledger.scheduler._due_steps._sql
    event.listen(ledger.scheduler._due_steps._engine.sync_engine, "checkout", noted_in(sent))
    async with asyncio.timeout(LONG):
        running = asyncio.create_task(ledger.scheduler.run_until_idle())
        while set(sent) != {sql.outlook, sql.is_unfinished}:  # it may still be busy with what it found at the start
            sent.clear()
            before = looks.number
            while looks.number < before + 10:
                await looks.nothing_found()
        counted = looks.number - before
        ledger.scheduler.stop()
        await running

    assert len(sent) <= 2 * (counted + 1)


def noted_in(sent: list[str]) -> Callable[..., None]:
    """Add to `sent` every statement of the connections that are checked out from now on."""
    known: set[Any] = set()

    def listen(adapted: Any, *_: object) -> None:
        if (driver := adapted.driver_connection) not in known:
            known.add(driver)
            driver.add_query_logger(lambda query: sent.append(query.query))

    return listen


async def test_an_idle_worker_polls_at_most_once_per_interval(ledger: Ledger) -> None:
    """The interval is a second."""
    waits: list[float] = []
    poller = ledger.scheduler._poller

    async def wait_for_any(*_events: asyncio.Event, seconds: float) -> None:
        waits.append(seconds)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("guestledger.engine.worker.wakeups.wait_for_any", wait_for_any)
        for _ in range(3):
            await poller.look(asyncio.Event())

    assert poller._poll_ms >= 1_000
    assert min(waits) + wakeups._SPACING_SECONDS >= 1  # the wait between two looks comes on top
    assert len(set(waits)) == 3, "spread, so that many workers do not query at the same moment"


async def test_a_notification_wakes_a_worker_before_its_poll(
    ledger: Ledger, new_ledger: Any, simulator: Simulator
) -> None:
    looks = Looks(ledger, poll_ms=NEVER_MS)
    async with working(ledger), new_ledger() as other:
        await until(lambda: listens(other))
        await looks.asleep()
        session = await other.accept(request())
        await until(lambda: active(other, session.id))


async def listens(ledger: Ledger) -> bool:
    rows = await ledger.scheduler._due_steps._execute(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'"
    )
    return bool(rows[0][0])


async def active(ledger: Ledger, stream_id: UUID) -> bool:
    return await status(ledger, stream_id) is Status.ACTIVE


async def test_a_poll_finds_work_whose_notification_was_lost(
    ledger: Ledger, new_ledger: Any, without_hints: None, simulator: Simulator
) -> None:
    looks = Looks(ledger, poll_ms=100)
    async with working(ledger), new_ledger() as other:
        await looks.nothing_found()
        session = await other.accept(request())
        await until(lambda: active(other, session.id))


async def test_a_worker_wakes_at_the_next_due_time_without_notification_or_poll(
    ledger: Ledger, without_hints: None, simulator: Simulator
) -> None:
    simulator.config = SimulatorConfig(session_lifetime_s=2.5)
    session = await ledger.open_session(request())
    Looks(ledger, poll_ms=NEVER_MS)
    async with working(ledger):
        assert await active(ledger, session.id)
        await until(lambda: expired(ledger, session.id))


async def test_a_worker_wakes_at_an_expiry_behind_a_closed_webhook_limiter(
    new_ledger: Any, without_hints: None, simulator: Simulator
) -> None:
    simulator.config = SimulatorConfig(session_lifetime_s=2.5)
    async with new_ledger(webhook_url=simulator.webhook_url) as ledger:
        session = await ledger.open_session(request())
        [(now,)] = await ledger.scheduler._due_steps._execute("SELECT clock_timestamp()")
        limiter = webhook_of(ledger).limiter
        closed = Feedback(limiter=limiter, observation=Observation.THROTTLED, began_at=now, closed_ms=HOUR_MS)
        await ledger.limits._limiter.observe(closed)
        Looks(ledger, poll_ms=NEVER_MS)
        async with working(ledger):
            assert await active(ledger, session.id)
            await until(lambda: expired(ledger, session.id))
        assert not simulator.webhooks


async def expired(ledger: Ledger, stream_id: UUID) -> bool:
    return await status(ledger, stream_id) is Status.EXPIRED


async def test_a_sleeping_worker_projects_events_of_other_processes(
    ledger: Ledger, new_ledger: Any, without_hints: None
) -> None:
    looks = Looks(ledger, poll_ms=50)
    async with working(ledger), new_ledger() as other:
        await looks.nothing_found()
        await other.open_session(request())
        await until(lambda: projected(other))


async def test_a_worker_projects_what_was_too_young_at_its_last_look(ledger: Ledger) -> None:
    looks = Looks(ledger, poll_ms=NEVER_MS)
    async with working(ledger):
        await looks.asleep()
        await ledger.accept(request())  # its own hint wakes the worker before the event is old enough
        await until(lambda: projected(ledger))


async def projected(ledger: Ledger) -> bool:
    return all(not status.lag_events and status.position >= 0 for status in await ledger.projections.status())


# The outlook


async def put(sql: Any, due_in: timedelta, *, leased_for: timedelta | None = None) -> None:
    await sql(
        "INSERT INTO due_steps VALUES ($1, 'create_session', now() + $2, $3, now() + $4)",
        new_id(),
        due_in,
        leased_for and a_lease().owner,
        leased_for,
    )


async def test_the_outlook_shows_claimable_steps_and_the_next_due_time(due_steps: PostgresDueSteps, sql: Any) -> None:
    nothing = await due_steps.outlook(STEPS)
    assert (nothing.claimable, nothing.next_due_ms, nothing.unprojected_ms) == (frozenset(), None, None)

    await put(sql, timedelta(hours=2))
    await put(sql, timedelta(hours=1))
    ahead = await due_steps.outlook(STEPS)
    assert not ahead.claimable
    assert ahead.next_due_ms is not None
    assert HOUR_MS - 60_000 < ahead.next_due_ms <= HOUR_MS

    await put(sql, timedelta(seconds=-1), leased_for=timedelta(hours=1))
    assert not (await due_steps.outlook(STEPS)).claimable, "it is leased"
    await put(sql, timedelta(seconds=-1))
    assert (await due_steps.outlook(STEPS)).claimable


async def test_the_outlook_includes_the_expiry_of_a_token_whose_webhook_waits(
    due_steps: PostgresDueSteps, sql: Any
) -> None:
    stream_id = new_id()
    await sql("INSERT INTO due_steps VALUES ($1, 'deliver_webhook', now())", stream_id)
    await sql("INSERT INTO due_steps VALUES ($1, 'expire_token', now() + interval '30 min')", stream_id)
    limiter = PostgresRateLimiter(due_steps._engine, SCHEMA, LimiterPolicy())
    [(now,)] = await sql("SELECT clock_timestamp()")
    closed = Feedback(limiter="hooks", observation=Observation.THROTTLED, began_at=now, closed_ms=HOUR_MS)
    await limiter.observe(closed)
    limited = STEPS | {StepName.DELIVER_WEBHOOK: "hooks"}

    for wanted, claimable in ((STEPS, {"deliver_webhook"}), (limited, frozenset())):
        ahead = await due_steps.outlook(wanted)
        assert ahead.claimable == claimable
        assert ahead.next_due_ms is not None
        assert HOUR_MS / 2 - 60_000 < ahead.next_due_ms <= HOUR_MS / 2

    await sql("UPDATE due_steps SET due_at = now() WHERE step = 'expire_token'")
    assert (await due_steps.outlook(limited)).claimable == {"expire_token"}
    await sql(
        """UPDATE due_steps SET owner = gen_random_uuid(), lease_until = now() + interval '1 hour'
            WHERE step = 'expire_token'"""
    )
    assert (await due_steps.outlook(limited)).claimable == frozenset()


async def test_a_lapsed_lease_is_freed_by_the_next_look_after_a_second(due_steps: PostgresDueSteps, sql: Any) -> None:
    await put(sql, timedelta(seconds=-1), leased_for=timedelta(seconds=-1))
    async with asyncio.timeout(LONG):
        while not (await due_steps.outlook(STEPS)).claimable:
            await asyncio.sleep(0.1)
    assert await sql("SELECT FROM due_steps WHERE owner IS NULL AND lease_until IS NULL")


async def test_the_outlook_accepts_due_times_at_infinity(due_steps: PostgresDueSteps, sql: Any) -> None:
    await sql("INSERT INTO due_steps VALUES ($1, 'expire_token', 'infinity')", new_id())
    await sql("INSERT INTO due_steps VALUES ($1, 'expire_token', '9999-12-31')", new_id())

    ahead = await due_steps.outlook(STEPS)

    assert ahead.next_due_ms == 24 * HOUR_MS


async def test_the_outlook_shows_whether_projections_are_behind(ledger: Ledger) -> None:
    await ledger.accept(request())
    age_ms = (await ledger.scheduler._due_steps.outlook(STEPS)).unprojected_ms
    assert age_ms is not None
    assert age_ms >= 0
    await ledger.projections.catch_up()
    assert (await ledger.scheduler._due_steps.outlook(STEPS)).unprojected_ms is None


async def test_a_ledger_is_idle_exactly_when_its_backlog_is_empty(due_steps: PostgresDueSteps, sql: Any) -> None:
    assert await due_steps.is_idle({})
    await put(sql, timedelta(hours=1))
    assert not await due_steps.is_idle({})
    await sql("UPDATE due_steps SET step = 'expire_token'")
    assert await due_steps.is_idle({})
