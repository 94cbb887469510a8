"""Expiries are recorded once, also those that passed while no worker ran; warnings come ahead of them."""

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from guestledger.adapters.postgres.log.notifier import LogNotifier
from guestledger.adapters.simulator import Simulator, SimulatorConfig
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.due import StepName
from guestledger.engine.domain.errors import ServiceUnreachable
from guestledger.engine.domain.events import TokenExpired
from guestledger.engine.domain.outcomes import Delivery
from guestledger.engine.domain.session import Session
from guestledger.engine.ledger import Ledger
from guestledger.engine.worker.session_work import SessionWork
from guestledger.engine.worker.step import Lane
from tests.unit.samples import request

LONG = 30
"""Seconds; nothing takes this long unless it hangs."""


async def opened(ledger: Ledger, simulator: Simulator, lifetime_s: int) -> UUID:
    simulator.config = SimulatorConfig(session_lifetime_s=lifetime_s)
    return (await ledger.open_session(request())).id


@pytest.mark.parametrize("hints", ["sent", "lost"])
async def test_concurrent_schedulers_record_each_expiry_once(
    ledger: Ledger, new_ledger: Any, simulator: Simulator, sql: Any, monkeypatch: pytest.MonkeyPatch, hints: str
) -> None:
    if hints == "lost":
        monkeypatch.setattr(LogNotifier, "announce", lambda _self, **_urgent: None)
    simulator.config = SimulatorConfig(session_lifetime_s=1)
    async with AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(new_ledger(scheduler=True))
        sessions = await asyncio.gather(*(ledger.open_session(request()) for _ in range(60)))
        async with asyncio.timeout(LONG):
            while await sql("SELECT FROM due_steps"):
                await asyncio.sleep(0.02)

    rows = await sql("SELECT stream_id FROM events WHERE event_type = 'TokenExpired'")
    assert Counter(row["stream_id"] for row in rows) == Counter(session.id for session in sessions)


async def test_tokens_that_expired_without_a_scheduler_are_recorded_at_the_start(
    ledger: Ledger, new_ledger: Any, simulator: Simulator, sql: Any
) -> None:
    simulator.config = SimulatorConfig(session_lifetime_s=0)
    await asyncio.gather(*(ledger.open_session(request()) for _ in range(250)))

    async with new_ledger() as other:
        done = await other.scheduler.run_once()

    assert done == {"TokenExpired": 250, "TokenPurged": 250}
    assert not await sql("SELECT FROM due_steps")


@pytest.mark.parametrize("leased", [StepName.DELIVER_WEBHOOK, StepName.EXPIRE_TOKEN])
async def test_the_lease_of_a_dead_worker_does_not_delay_an_expiry(
    new_ledger: Any, simulator: Simulator, sql: Any, monkeypatch: pytest.MonkeyPatch, leased: StepName
) -> None:
    hooked = {"webhook_url": simulator.webhook_url}
    async with new_ledger(**hooked) as dead, asyncio.timeout(LONG):
        session_id = await opened(dead, simulator, 1)
        await asyncio.sleep(0 if leased is StepName.DELIVER_WEBHOOK else 1.2)
        monkeypatch.setattr(dead._opener._executor, "run", lambda *_: asyncio.sleep(LONG))
        started, _ = await dead.scheduler._lanes._start(dead._opener._executor.handlers[leased].lane, 1)
        assert len(started) == 1
        await asyncio.sleep(0)
        await dead._opener._leases.close()
        [[lapses_at]] = await sql("SELECT lease_until FROM due_steps WHERE step = $1 AND owner IS NOT NULL", leased)
        async with new_ledger(**hooked, scheduler=True) as ledger:
            while (await ledger.session(session_id)).status != "expired":
                await asyncio.sleep(0.05)

        [expired] = await sql("SELECT * FROM events WHERE event_type = 'TokenExpired'")
        late = expired["recorded_at"] - (await dead.session(session_id)).expires_at
        assert late < timedelta(seconds=5)
        assert (expired["recorded_at"] < lapses_at) == (leased is StepName.DELIVER_WEBHOOK)
        for task in started:
            task.cancel()


async def test_an_expiry_recorded_by_another_worker_loses_no_webhook_answer(
    new_ledger: Any, simulator: Simulator, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulator.config = SimulatorConfig(session_lifetime_s=1)
    hooked = {"webhook_url": simulator.webhook_url}
    async with new_ledger(**hooked) as holder, new_ledger(**hooked) as other, asyncio.timeout(LONG):
        session = await holder.open_session(request())
        recorder = holder._opener._executor.recorder
        whole = recorder.append

        async def append(work: SessionWork, *given: Any, **more: Any) -> Any:
            if any(isinstance(event, TokenExpired) for event in work.proposed):
                raise ServiceUnreachable("database", Cause.CONNECTION_REFUSED)
            return await whole(work, *given, **more)

        monkeypatch.setattr(recorder, "append", append)
        webhook = holder._opener._executor.handlers[StepName.DELIVER_WEBHOOK]._webhook
        send, called, expired = webhook.send, asyncio.Event(), asyncio.Event()

        async def answer_after_the_expiry(session: Session) -> Delivery:
            delivery = await send(session)
            called.set()
            await expired.wait()
            return delivery

        monkeypatch.setattr(webhook, "send", answer_after_the_expiry)
        calling = asyncio.create_task(holder.scheduler.run_once())
        await called.wait()
        while (await other.session(session.id)).status != "expired":
            await asyncio.sleep(0.05)
            await other.scheduler._lanes.drain(Lane.RECORDING, Counter())
        expired.set()
        assert await calling == {"WebhookSynced": 1}
        await other.scheduler.run_until_idle()

    kinds = Counter(row["event_type"] for row in await sql("SELECT event_type FROM events"))
    assert (kinds["TokenExpired"], kinds["WebhookSynced"]) == (1, 1)
    assert len(simulator.webhooks) == 1


async def test_expiring_in_returns_sessions_ordered_by_expiry(ledger: Ledger, simulator: Simulator) -> None:
    later, _past = await opened(ledger, simulator, 1_000), await opened(ledger, simulator, 0)
    sooner, _far = await opened(ledger, simulator, 500), await opened(ledger, simulator, 5_000)

    assert [row.id for row in await ledger.projections.expiring_in(timedelta(seconds=2_000))] == [sooner, later]
    assert [row.id for row in await ledger.projections.expiring_in(timedelta(seconds=700))] == [sooner]


@pytest.mark.parametrize("span", [timedelta.max, timedelta(days=3_650_000)])
async def test_a_span_beyond_the_calendar_includes_every_active_session(
    ledger: Ledger, simulator: Simulator, span: timedelta
) -> None:
    session = await opened(ledger, simulator, 5_000)

    assert [row.id for row in await ledger.projections.expiring_in(span)] == [session]
    assert (await anext(ledger.projections.expiry_warnings(span))).id == session


@pytest.mark.parametrize("span", [timedelta(0), timedelta(seconds=-1), timedelta.min])
async def test_a_span_that_is_not_positive_is_rejected(ledger: Ledger, span: timedelta) -> None:
    with pytest.raises(ValueError, match="span must be positive"):
        await ledger.projections.expiring_in(span)
    with pytest.raises(ValueError, match="ahead must be positive"):
        ledger.projections.expiry_warnings(span)


async def test_each_session_is_warned_of_once_despite_database_outages(
    ledger: Ledger, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _far = await opened(ledger, simulator, 500), await opened(ledger, simulator, 5_000)
    monkeypatch.setattr(asyncio, "sleep", lambda _seconds, whole=asyncio.sleep: whole(0))
    whole, reads = ledger._adapters.read_models.catch_up, 0

    async def catch_up() -> int:
        nonlocal reads
        reads += 1
        if reads == 3:
            raise ServiceUnreachable("database", Cause.CONNECTION_REFUSED)
        return await whole()

    monkeypatch.setattr(ledger._adapters.read_models, "catch_up", catch_up)
    warnings = ledger.projections.expiry_warnings(timedelta(seconds=1_000))

    async with asyncio.timeout(LONG):
        assert (await anext(warnings)).id == first
        following = asyncio.ensure_future(anext(warnings))
        while reads < 6:
            await asyncio.sleep(0)
        assert not following.done()
        second = await opened(ledger, simulator, 700)
        assert (await following).id == second


@pytest.mark.parametrize("ahead_s", [0.2, 1, 3, 30, 3_600])
async def test_expiry_warnings_poll_more_often_than_the_warning_span(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, ahead_s: float
) -> None:
    class LookedAgain(Exception):
        pass

    async def sleep(seconds: float) -> None:
        raise LookedAgain(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    monkeypatch.setattr(ledger._adapters.clock, "jitter", lambda: 1.0)

    with pytest.raises(LookedAgain) as paused:
        await anext(ledger.projections.expiry_warnings(timedelta(seconds=ahead_s)))

    (seconds,) = paused.value.args
    assert seconds < ahead_s
