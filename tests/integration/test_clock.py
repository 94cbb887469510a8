"""Time is the database's: a machine with a wrong clock sees the same steps due and the same tokens expired."""

import asyncio
import datetime as dt
from datetime import UTC, timedelta
from typing import Any

import pytest

import guestledger.adapters.clock
from guestledger.adapters.clock import DatabaseClock
from guestledger.adapters.postgres.log.event_store import PostgresEventStore
from guestledger.adapters.simulator import Simulator, SimulatorConfig
from guestledger.engine.domain.session import Status
from guestledger.engine.limits.feedback import Feedback, Observation
from guestledger.engine.log.recorded import began_at
from tests import logs
from tests.integration.appends import a_lease, an_append, due
from tests.unit.samples import request

HOUR = timedelta(hours=1)
wrongly = pytest.mark.parametrize("wrong", [HOUR, -HOUR], ids=["an hour fast", "an hour slow"])


def set_machine(monkeypatch: pytest.MonkeyPatch, wrong: timedelta) -> None:
    """Set the machine's clock ahead by `wrong`."""

    class Wrong(dt.datetime):
        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> dt.datetime:
            return dt.datetime.now(tz) + wrong

    monkeypatch.setattr(guestledger.adapters.clock, "datetime", Wrong)


@wrongly
async def test_a_request_accepted_under_a_wrong_clock_is_due_at_once_and_dated_right(
    ledger: Any, new_ledger: Any, monkeypatch: pytest.MonkeyPatch, wrong: timedelta
) -> None:
    set_machine(monkeypatch, wrong)
    async with new_ledger() as accepting:
        session = await accepting.accept(request())

    await ledger.scheduler.run_once()

    [consent, *later] = await ledger.history(session.id)
    assert abs(consent.event.at - consent.recorded_at) < timedelta(minutes=1)
    assert (await ledger.session(session.id)).status is Status.ACTIVE
    assert later


@wrongly
async def test_a_worker_with_a_wrong_clock_runs_due_steps_and_expires_nothing_early(
    ledger: Any,
    new_ledger: Any,
    simulator: Simulator,
    monkeypatch: pytest.MonkeyPatch,
    wrong: timedelta,
) -> None:
    simulator.config = SimulatorConfig(session_lifetime_s=1_800)
    session = await ledger.accept(request())
    set_machine(monkeypatch, wrong)
    async with new_ledger(webhook_url=simulator.webhook_url) as worker:
        await worker.scheduler.run_until_idle()

        found = await worker.session(session.id)

    assert found.status is Status.ACTIVE
    assert len(simulator.webhooks) == 1


@wrongly
async def test_a_worker_with_a_wrong_clock_records_an_expired_token_at_once(
    ledger: Any, new_ledger: Any, simulator: Simulator, monkeypatch: pytest.MonkeyPatch, wrong: timedelta
) -> None:
    simulator.config = SimulatorConfig(session_lifetime_s=1.2)
    session = await ledger.open_session(request())
    assert session.status is Status.ACTIVE
    await asyncio.sleep(1.3)
    set_machine(monkeypatch, wrong)
    async with new_ledger() as worker:
        assert await worker.scheduler.run_once() == {"TokenExpired": 1, "TokenPurged": 1}
    expired = (await ledger.history(session.id))[-2]
    assert expired.event.expires_at <= expired.event.at <= expired.recorded_at + timedelta(seconds=1)


async def test_leases_and_limiters_follow_a_database_clock_that_was_set_back(
    store: PostgresEventStore, sql: Any
) -> None:
    await store.append(an_append())
    await sql(
        """
        INSERT INTO events
        SELECT gen_random_uuid(), 1, 1, event_type, schema_version, recorded_at + interval '1 hour', correlation_id,
               causation_id, actor, data, leaf_hash FROM events"""
    )
    await sql(logs.END)
    feedback = Feedback(
        limiter="cxone", observation=Observation.THROTTLED, began_at=dt.datetime.now(UTC), closed_ms=60_000
    )

    appended = await store.append(an_append(steps=due(lease=a_lease(ms=60_000)), feedback=feedback))

    assert appended.recorded_at - appended.at > timedelta(minutes=59)
    [(lease_until, closed_until)] = await sql("SELECT max(lease_until), max(closed_until) FROM due_steps, limits")
    assert max(lease_until, closed_until) < appended.at + timedelta(minutes=2)


async def test_the_clock_follows_a_database_whose_time_changes() -> None:
    start = moment = dt.datetime(2026, 1, 1, tzinfo=UTC)

    async def read() -> dt.datetime:
        return moment

    clock = DatabaseClock(read)
    for moment in (start, start + HOUR, start):
        await clock.set()
        assert abs(clock.now() - moment) < timedelta(minutes=1)
        assert abs(began_at(clock.new_id()) - moment) < timedelta(minutes=1)


async def test_a_slow_reading_does_not_move_a_clock_within_its_error() -> None:
    async def read() -> dt.datetime:
        moment = dt.datetime.now(UTC)
        await asyncio.sleep(wait)
        return moment

    wait = 0.0
    clock = DatabaseClock(read)
    await clock.set()
    before = clock._zero_us
    wait = 0.3
    await clock.set()

    assert clock._zero_us == before
