"""Webhooks that wait for hanging calls or their limiter: expiries do not wait with them."""

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from msgspec.structs import replace

from guestledger.adapters.simulator import Simulator, SimulatorConfig
from guestledger.engine.domain import events as e
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.errors import ServiceUnreachable, WrongExpectedVersion
from guestledger.engine.domain.session import Status
from guestledger.engine.ledger import Ledger
from guestledger.engine.limits.feedback import Feedback, Observation
from guestledger.engine.log.appends import Append, Appended
from guestledger.engine.log.codec import wire_name
from guestledger.engine.worker.leases import Leases
from guestledger.engine.worker.step import Lane
from tests.integration.appends import HOUR_MS, new_id
from tests.integration.conftest import webhook_of
from tests.unit.samples import request

LONG = 60
"""Seconds; nothing takes this long unless it hangs."""
TEN_YEARS = str(10 * 365 * 24 * 3_600)


@pytest.fixture
def hooked(new_ledger: Any, simulator: Simulator) -> Any:
    """`hooked(…)`: a ledger whose notices go to the simulator."""

    def new(**given: Any) -> Any:
        return new_ledger(**{"webhook_url": simulator.webhook_url, **given})

    return new


class Hanging:
    """Makes the webhook calls of these ledgers hang until `released` is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *ledgers: Ledger) -> None:
        self.calls = 0
        self.released = asyncio.Event()
        for ledger in ledgers:
            webhook = webhook_of(ledger)
            monkeypatch.setattr(webhook, "send", self._hang(webhook.send))

    def _hang(self, whole: Any) -> Any:
        async def send(session: Any) -> Any:
            self.calls += 1
            await self.released.wait()
            return await whole(session)

        return send


async def throttled(ledger: Ledger, closed_ms: int = 0) -> Any:
    """Let the webhook's limiter observe a 429 that comes now. Returns until when it is closed."""
    [(now,)] = await ledger.scheduler._due_steps._execute("SELECT clock_timestamp()")
    limiter = webhook_of(ledger).limiter
    await ledger.limits._limiter.observe(
        Feedback(limiter=limiter, observation=Observation.THROTTLED, began_at=now, closed_ms=closed_ms)
    )
    return (await ledger.limits.states())[limiter].closed_until


async def counts_of(ledger: Ledger, stream_id: Any) -> Counter[str]:
    return Counter(wire_name(recorded.event) for recorded in await ledger.history(stream_id))


# Expiry


@pytest.mark.parametrize("limited", [False, True])
async def test_an_expiry_is_recorded_once_while_other_webhooks_hang(
    hooked: Any, simulator: Simulator, monkeypatch: pytest.MonkeyPatch, limited: bool
) -> None:
    places = 2
    monkeypatch.setattr(Lane, "max_in_flight", property(lambda lane: places if lane is Lane.WEBHOOK else 200))
    async with hooked() as one, hooked() as other, asyncio.timeout(LONG):
        hanging = Hanging(monkeypatch, one, other)
        if limited:
            await throttled(one)
        first = [await one.open_session(request()) for _ in range(2 * places)]
        working = [asyncio.create_task(ledger.scheduler.run_forever()) for ledger in (one, other)]
        while hanging.calls < len(first):
            await asyncio.sleep(0.01)
        simulator.config = SimulatorConfig(session_lifetime_s=1.5)
        queued = [await one.open_session(request()) for _ in range(10)]

        for session in queued:
            while (await one.session(session.id)).status is not Status.EXPIRED:
                await asyncio.sleep(0.01)
        assert hanging.calls == len(first)
        assert not simulator.webhooks

        hanging.released.set()
        for session in (*first, *queued):
            while (await one.session(session.id)).webhook_owed:
                await asyncio.sleep(0.01)
            counts = await counts_of(one, session.id)
            assert (counts["TokenExpired"], counts["WebhookSynced"]) == (session in queued, 1)
        for ledger in (one, other):
            ledger.scheduler.stop()
        await asyncio.gather(*working)
    assert len(simulator.webhooks) == len(first) + len(queued)


async def test_an_expiry_is_recorded_before_a_late_webhook_is_answered(
    hooked: Any, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulator.config = SimulatorConfig(session_lifetime_s=0.2)
    async with hooked() as ledger, asyncio.timeout(LONG):
        hanging = Hanging(monkeypatch, ledger)
        session = await ledger.open_session(request())
        await asyncio.sleep(0.3)
        running = asyncio.create_task(ledger.scheduler.run_once())
        while not hanging.calls or (await ledger.session(session.id)).status is not Status.EXPIRED:
            await asyncio.sleep(0.01)
        assert not running.done()
        hanging.released.set()
        assert await running == {"TokenExpired": 1, "TokenPurged": 1, "WebhookSynced": 1}


async def test_an_expiry_is_recorded_while_the_sessions_own_webhook_hangs(
    hooked: Any, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulator.config = SimulatorConfig(session_lifetime_s=1.5)
    async with hooked() as ledger, asyncio.timeout(LONG):
        hanging = Hanging(monkeypatch, ledger)
        session = await ledger.open_session(request())
        running = asyncio.create_task(ledger.scheduler.run_once())
        while not hanging.calls:
            await asyncio.sleep(0.01)
        assert (await ledger.session(session.id)).status is Status.ACTIVE
        while (await ledger.session(session.id)).status is not Status.EXPIRED:
            await asyncio.sleep(0.01)
        assert not running.done()
        hanging.released.set()
        assert await running == {"TokenExpired": 1, "TokenPurged": 1, "WebhookSynced": 1}
    assert len(simulator.webhooks) == 1


@pytest.mark.parametrize(
    "error", [ServiceUnreachable("database", Cause.CONNECTION_REFUSED), WrongExpectedVersion(uuid4(), 1, 2)]
)
async def test_an_expiry_that_failed_to_record_and_the_webhook_answer_are_recorded_once(
    hooked: Any, simulator: Simulator, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    simulator.config = SimulatorConfig(session_lifetime_s=1.5)
    async with hooked() as ledger, asyncio.timeout(LONG):
        hanging, refused, whole = Hanging(monkeypatch, ledger), [], ledger._adapters.store.append

        async def append(given: Append) -> Appended:
            if isinstance(given.events[-1], e.TokenExpired) and not refused:
                refused.append(given)
                hanging.released.set()
                raise error
            return await whole(given)

        monkeypatch.setattr(ledger._adapters.store, "append", append)
        session = await ledger.open_session(request())
        running = asyncio.create_task(ledger.scheduler.run_once())
        await hanging.released.wait()
        done = await running + await ledger.scheduler.run_until_idle()
        assert done == {"TokenExpired": 1, "TokenPurged": 1, "WebhookSynced": 1}
        counts = await counts_of(ledger, session.id)
        assert (counts["TokenExpired"], counts["WebhookSynced"]) == (1, 1)
    assert len(simulator.webhooks) == 1


async def test_a_concurrent_expiry_does_not_lose_the_webhook_answer(
    hooked: Any, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulator.config = SimulatorConfig(session_lifetime_s=1.5)
    async with hooked() as ledger, asyncio.timeout(LONG):
        hanging, whole = Hanging(monkeypatch, ledger), ledger._adapters.store.append

        async def append(given: Append) -> Appended:
            if isinstance(given.events[-1], e.TokenExpired):
                await whole(replace(given, actor="another", causation_id=new_id()))
                hanging.released.set()
            return await whole(given)

        monkeypatch.setattr(ledger._adapters.store, "append", append)
        session = await ledger.open_session(request())
        assert await ledger.scheduler.run_once() == {"TokenPurged": 1, "WebhookSynced": 1}
        counts = await counts_of(ledger, session.id)
        assert (counts["TokenExpired"], counts["WebhookSynced"]) == (1, 1)
    assert len(simulator.webhooks) == 1


async def test_a_slow_worker_clock_does_not_delay_an_expiry_behind_a_closed_limiter(
    hooked: Any, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulator.config = SimulatorConfig(session_lifetime_s=0.2)
    async with hooked() as ledger:
        session = await ledger.open_session(request())
        await throttled(ledger, HOUR_MS)
        await asyncio.sleep(0.3)
        clock = ledger._adapters.clock.now
        monkeypatch.setattr(ledger._adapters.clock, "now", lambda: clock() - timedelta(hours=1))
        async with asyncio.timeout(LONG):
            assert await ledger.scheduler.run_once() == {"TokenExpired": 1, "TokenPurged": 1}
            assert await ledger.scheduler.run_once() == {}
        expired = (await ledger.history(session.id))[-2].event
    assert isinstance(expired, e.TokenExpired)
    assert expired.at >= expired.expires_at


# Capacity


async def test_handed_over_and_claimed_webhooks_share_one_capacity(
    hooked: Any, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sender has as many connections: a call that waited for one could time out unsent."""
    monkeypatch.setattr(Lane, "max_in_flight", property(lambda lane: 2 if lane is Lane.WEBHOOK else 200))
    async with hooked() as ledger, hooked(scheduler=True) as working, asyncio.timeout(LONG):
        hanging = Hanging(monkeypatch, working)
        sessions = [await opening.open_session(request()) for opening in (working, ledger) * 3]
        while hanging.calls < 2:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.5)
        assert hanging.calls == 2

        hanging.released.set()
        for session in sessions:
            while (await ledger.session(session.id)).webhook_owed:
                await asyncio.sleep(0.01)
    assert len(simulator.webhooks) == 6


# The limiter


async def test_a_retry_after_of_years_makes_dead_letters_and_closes_no_limiter(
    hooked: Any, simulator: Simulator, sql: Any
) -> None:
    simulator.config = SimulatorConfig(webhook_status=429, webhook_retry_after=TEN_YEARS)
    async with hooked() as ledger:
        first = await ledger.open_session(request())
        assert await ledger.scheduler.run_once() == {"WebhookAbandoned": 1}
        second = await ledger.open_session(request())
        assert await ledger.scheduler.run_once() == {"WebhookAbandoned": 1}
        letters = await ledger.webhooks.dead_letters()
    assert {letter.id for letter in letters} == {first.id, second.id}
    assert {letter.cause for letter in letters} == {Cause.WAIT_TOO_LONG}
    assert await sql("SELECT FROM limits") == []


async def test_a_webhook_waits_if_its_limiter_closes_between_claim_and_call(
    hooked: Any, simulator: Simulator, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hooked() as ledger, hooked() as other, asyncio.timeout(LONG):
        await throttled(ledger)
        sessions = [await ledger.open_session(request()) for _ in range(3)]
        before = [await counts_of(ledger, session.id) for session in sessions]
        until = await closes_once_claimed(ledger, other, monkeypatch)
        while not until:
            assert await ledger.scheduler.run_once() == {}
        assert not simulator.webhooks
        assert [await counts_of(ledger, session.id) for session in sessions] == before

        await ledger.scheduler.run_until_idle()

        assert len(simulator.webhooks) == 3
        assert min(call.time for call in simulator.webhooks) >= until[0].timestamp()
        for session in sessions:
            synced = (await ledger.history(session.id))[-1].event
            assert isinstance(synced, e.WebhookSynced)
            assert synced.attempt == 1
    [limiter] = await sql("SELECT retry_budget FROM limits")
    assert limiter["retry_budget"] is None, "notices do not use the retry budget"


async def closes_once_claimed(ledger: Ledger, other: Ledger, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Let `other` close the limiter once `ledger` has claimed for the first time. The list then has the end of the pause."""
    until: list[Any] = []
    whole = ledger._adapters.store.read_streams

    async def read_streams(stream_ids: Any, **given: Any) -> Any:
        if not until:
            until.append(await throttled(other, 1_500))
        return await whole(stream_ids, **given)

    monkeypatch.setattr(ledger._adapters.store, "read_streams", read_streams)
    return until


async def test_feedback_of_a_webhook_is_dated_at_its_admission(
    hooked: Any, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hooked() as ledger, asyncio.timeout(LONG):
        await throttled(ledger)
        await ledger.open_session(request())
        admit, append, at, began_at = ledger.limits._limiter.admit, ledger._adapters.store.append, [], []

        async def admit_and_note(request: Any) -> Any:
            assert request.reserved
            admitted = await admit(request)
            at.append(admitted.at)
            return admitted

        async def append_and_note(given: Any) -> Any:
            began_at.extend([given.feedback.began_at] if given.feedback else [])
            return await append(given)

        monkeypatch.setattr(ledger.limits._limiter, "admit", admit_and_note)
        monkeypatch.setattr(ledger._adapters.store, "append", append_and_note)
        await ledger.scheduler.run_until_idle()
    assert len(simulator.webhooks) == len(at) == 1
    assert began_at == at


async def test_a_webhook_without_limiter_state_skips_admission(
    hooked: Any, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hooked() as ledger:
        await ledger.open_session(request())
        monkeypatch.setattr(ledger.limits._limiter, "admit", None)
        assert await ledger.scheduler.run_once() == {"WebhookSynced": 1}


async def test_a_worker_stalled_after_webhook_admission_reports_not_sent(
    hooked: Any, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hooked() as ledger, asyncio.timeout(LONG):
        await throttled(ledger)
        await ledger.open_session(request())
        limiter, now, at, observed = ledger.limits._limiter, Leases.now, [], []
        admit, observe = limiter.admit, limiter.observe

        async def admit_and_stall(request: Any) -> Any:
            admitted = await admit(request)
            at.append(admitted.at)
            monkeypatch.setattr(Leases, "now", staticmethod(lambda: now() + HOUR_MS))
            return admitted

        async def observe_and_note(feedback: Any) -> None:
            observed.append(feedback)
            await observe(feedback)

        monkeypatch.setattr(limiter, "admit", admit_and_stall)
        monkeypatch.setattr(limiter, "observe", observe_and_note)
        while not at:
            assert await ledger.scheduler.run_once() == {}
    assert not simulator.webhooks
    assert [(feedback.observation, feedback.began_at) for feedback in observed] == [(Observation.NOT_SENT, at[0])]
