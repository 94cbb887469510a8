"""Dead letters and redelivery: failed notices are kept, listed, and sent again on request."""

import asyncio
import logging
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from standardwebhooks import Webhook

from guestledger.adapters.postgres.work.due_steps import PostgresDueSteps
from guestledger.adapters.simulator import Simulator, SimulatorConfig
from guestledger.engine.domain import events as e
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.due import StepName
from guestledger.engine.domain.errors import (
    InvalidRequest,
    RedeliveryRefusal,
    RedeliveryRefused,
    ServiceUnreachable,
    SessionNotFound,
)
from guestledger.engine.domain.policy import DeliveryPolicy, Policy
from guestledger.engine.ledger import Ledger
from guestledger.engine.limits.retry import WaitBasis
from guestledger.engine.log.appends import Append, Appended, Lease
from guestledger.engine.log.codec import wire_name
from guestledger.engine.operations.conditions import ConditionName
from guestledger.engine.ports.due_steps import Claim
from guestledger.engine.worker.leases import Leases
from guestledger.engine.worker.session_work import SessionWork
from guestledger.engine.worker.step import Lane
from tests.unit.samples import consent, request

SECRET = "whsec_c2VjcmV0LW9mLW5vYm9keS1hdC1hbGw="
GONE = SimulatorConfig(webhook_status=410)
ASKED = {"requested_by": "ops", "reason": "the receiver is up again"}


@pytest.fixture
def hooked(new_ledger: Any, simulator: Simulator) -> Any:
    """`hooked(…)`: a ledger whose notices go to the simulator, signed."""

    def new(**given: Any) -> Any:
        return new_ledger(**{"webhook_url": simulator.webhook_url, "webhook_secret": SECRET, **given})

    return new


async def outlook(ledger: Ledger) -> Any:
    """What this process could run now, and when it looks again."""
    scheduler = ledger.scheduler
    return await scheduler._due_steps.outlook(scheduler._lanes.wanted())


async def kinds(ledger: Ledger, session: Any) -> Counter[str]:
    return Counter(wire_name(recorded.event) for recorded in await ledger.history(session))


async def one_dead_letter(ledger: Ledger, simulator: Simulator, **asked: Any) -> Any:
    simulator.config = GONE
    session = await ledger.open_session(request(**asked))
    assert await ledger.scheduler.run_once() == {"WebhookAbandoned": 1}
    simulator.config = SimulatorConfig()
    return session


async def test_a_410_makes_a_dead_letter_at_once(hooked: Any, simulator: Simulator) -> None:
    async with hooked() as ledger:
        session = await one_dead_letter(ledger, simulator, channel_id="ch_7")
        await ledger.scheduler.run_until_idle()
        [letter] = await ledger.webhooks.dead_letters()
    assert (letter.id, letter.channel_id, letter.attempts, letter.status) == (session.id, "ch_7", 1, 410)
    assert letter.cause is Cause.RECEIVER_GONE
    assert len(simulator.webhooks) == 1


@pytest.mark.parametrize(("opened_with", "continued_with"), [({"webhook_url": None}, {}), ({}, {"webhook_url": None})])
async def test_toggling_the_webhook_does_not_block_or_loop_open_sessions(
    hooked: Any, simulator: Simulator, monkeypatch: pytest.MonkeyPatch, opened_with: Any, continued_with: Any
) -> None:
    """The process that records the session decides whether a notice is owed. A process without a webhook leaves it."""
    claims: Counter[str] = Counter()
    whole = PostgresDueSteps.claim

    async def claim(*given: Any) -> Any:
        claimed = await whole(*given)
        claims.update(claim.step for claim in claimed.claims)
        return claimed

    monkeypatch.setattr(PostgresDueSteps, "claim", claim)
    simulator.config = SimulatorConfig(session_lifetime_s=0.3)
    async with hooked(**opened_with) as ledger:
        session = await ledger.open_session(request())
    await asyncio.sleep(0.4)
    async with hooked(**continued_with) as ledger:
        async with asyncio.timeout(10):
            for _ in range(5):
                await ledger.scheduler.run_once()
        assert (await ledger.session(session.id)).status == "expired"
        assert (await ledger.session(session.id)).webhook_owed == (opened_with == {})
        assert (await kinds(ledger, session.id))["WebhookSynced"] == 0
    assert claims == {"expire_token": 1}
    assert list(simulator.webhooks) == []


async def test_a_process_without_a_webhook_leaves_due_webhooks_to_others(
    hooked: Any, simulator: Simulator, sql: Any
) -> None:
    async with hooked() as ledger, hooked(webhook_url=None) as without:
        session = await ledger.open_session(request())
        owed = await sql("SELECT * FROM due_steps")
        async with asyncio.timeout(10):
            assert await without.scheduler.run_until_idle() == {}
        assert await without.scheduler.unfinished() == 0
        ahead = await outlook(without)
        assert (ahead.claimable, ahead.next_due_ms is None) == (frozenset(), False), "the token's expiry is ahead"
        delivery = (await without.why(session.id)).steps[0]
        assert (delivery.step, delivery.moves_at) == ("deliver_webhook", None)
        assert [condition.name for condition in delivery.unmet] == [ConditionName.SETTINGS]

        assert await sql("SELECT * FROM due_steps") == owed
        assert await ledger.scheduler.run_once() == {"WebhookSynced": 1}


async def test_a_process_without_a_webhook_records_expiries_and_keeps_webhooks_due(
    hooked: Any, simulator: Simulator, sql: Any
) -> None:
    simulator.config = SimulatorConfig(session_lifetime_s=0.3)
    async with hooked() as ledger, hooked(webhook_url=None) as without:
        session = await ledger.open_session(request())
        await asyncio.sleep(0.4)
        assert (await outlook(without)).claimable == {"expire_token"}
        assert await without.scheduler.unfinished() == 1

        async with asyncio.timeout(10):
            assert await without.scheduler.run_until_idle() == {"TokenExpired": 1, "TokenPurged": 1}
            assert await without.scheduler.run_until_idle() == {}
        assert await without.scheduler.unfinished() == 0
        ahead = await outlook(without)
        assert (ahead.claimable, ahead.next_due_ms) == (frozenset(), None), "nothing is left to wait for"
        [left] = await sql("SELECT step, owner FROM due_steps")
        assert tuple(left) == ("deliver_webhook", None)

        assert await ledger.scheduler.run_once() == {"WebhookSynced": 1}
        assert (await ledger.session(session.id)).status == "expired"
    assert len(simulator.webhooks) == 1


async def test_a_redelivery_is_recorded_and_sent_by_a_worker_with_the_same_webhook_id(
    hooked: Any, simulator: Simulator
) -> None:
    async with hooked() as ledger, hooked() as worker:
        session = await one_dead_letter(ledger, simulator)
        assert len(simulator.webhooks) == 1

        due = await ledger.webhooks.redeliver(session.session_id, **ASKED)
        assert (due.webhook_owed, due.status) == (True, session.status)
        assert await ledger.webhooks.dead_letters() == []
        assert len(simulator.webhooks) == 1, "the caller sends nothing"
        assert await worker.scheduler.run_once() == {"WebhookSynced": 1}

        asked, synced = (await ledger.history(session.id))[-2:]
    assert (asked.event.requested_by, asked.event.reason) == ("ops", "the receiver is up again")
    assert asked.actor == "ops"
    assert (synced.event.attempt, synced.event.status) == (2, 200)
    first, second = simulator.webhooks
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.body == second.body
    Webhook(SECRET).verify(second.body, second.headers)


async def test_a_redelivery_gives_an_expired_session_a_due_step_again(
    hooked: Any, simulator: Simulator, sql: Any
) -> None:
    async with hooked() as ledger:
        simulator.config = SimulatorConfig(webhook_status=410, session_lifetime_s=0)
        session = await ledger.open_session(request())
        await ledger.scheduler.run_until_idle()
        assert await sql("SELECT * FROM due_steps") == []
        simulator.config = SimulatorConfig()

        await ledger.webhooks.redeliver(session.id, **ASKED)
        assert [row["step"] for row in await sql("SELECT step FROM due_steps")] == ["deliver_webhook"]
        assert await ledger.scheduler.run_until_idle() == {"WebhookSynced": 1}
        assert (await ledger.session(session.id)).status == "expired"
        assert await sql("SELECT * FROM due_steps") == []


async def test_a_failed_redelivery_becomes_a_dead_letter_again(hooked: Any, simulator: Simulator) -> None:
    async with hooked() as ledger:
        session = await one_dead_letter(ledger, simulator)
        simulator.config = SimulatorConfig(webhook_status=500)
        await ledger.webhooks.redeliver(session.id, **ASKED)
        assert await ledger.scheduler.run_until_idle() == {"WebhookFailed": 2, "WebhookAbandoned": 1}
        [letter] = await ledger.webhooks.dead_letters()
    assert (letter.id, letter.attempts, letter.status) == (session.id, 4, 500)


async def test_concurrent_redelivery_requests_are_recorded_and_sent_once(hooked: Any, simulator: Simulator) -> None:
    async with hooked() as ledger, hooked() as other:
        session = await one_dead_letter(ledger, simulator)
        asking = [who.webhooks.redeliver(session.id, **ASKED) for who in (ledger, other) * 5]
        answers = await asyncio.gather(*asking, return_exceptions=True)
        await other.scheduler.run_until_idle()
        assert (await kinds(ledger, session.id))["WebhookRedeliveryRequested"] == 1
    assert Counter(map(type, answers))[RedeliveryRefused] == 9
    assert len(simulator.webhooks) == 2


async def test_an_impossible_redelivery_is_refused_with_its_reason(hooked: Any, simulator: Simulator) -> None:
    async with hooked() as ledger:
        waiting = await ledger.open_session(request())
        with pytest.raises(RedeliveryRefused, match=str(waiting.id)) as still_sent:
            await ledger.webhooks.redeliver(waiting.id, **ASKED)
        assert still_sent.value.why is RedeliveryRefusal.IN_DELIVERY
        refused = await ledger.open_session(request(consent=consent(gdpr_compliant=False)))
        with pytest.raises(RedeliveryRefused, match="status refused") as without_session:
            await ledger.webhooks.redeliver(refused.id, **ASKED)
        assert without_session.value.why is RedeliveryRefusal.NO_SESSION
        with pytest.raises(SessionNotFound):
            await ledger.webhooks.redeliver("sess_unknown", **ASKED)
        for text in ({"reason": ""}, {"reason": "two\nlines"}, {"requested_by": "x" * 256}):
            with pytest.raises(InvalidRequest, match=r"reason|requestedBy"):
                await ledger.webhooks.redeliver(waiting.id, **(ASKED | text))
        assert await ledger.scheduler.run_until_idle() == {"WebhookSynced": 1}
        assert (await kinds(ledger, waiting.id))["WebhookRedeliveryRequested"] == 0
        await ledger.webhooks.redeliver(waiting.id, **ASKED)  # accepted, and lost by the receiver


async def test_a_redelivery_without_a_webhook_url_is_refused(hooked: Any, simulator: Simulator) -> None:
    async with hooked() as ledger, hooked(webhook_url=None) as without:
        session = await one_dead_letter(ledger, simulator)
        with pytest.raises(RedeliveryRefused) as refused:
            await without.webhooks.redeliver(session.id, **ASKED)
        assert refused.value.why is RedeliveryRefusal.NO_WEBHOOK
        assert len(await without.webhooks.dead_letters()) == 1


async def test_a_receiver_is_not_called_before_its_retry_after(hooked: Any, simulator: Simulator, sql: Any) -> None:
    simulator.config = SimulatorConfig(webhook_status=503, webhook_retry_after="120")
    async with hooked() as ledger:
        session = await ledger.open_session(request())
        assert await ledger.scheduler.run_until_idle() == {"WebhookFailed": 1}
        failed = (await ledger.history(session.id))[-1].event
    assert isinstance(failed, e.WebhookFailed)
    assert (failed.wait.given, failed.wait.basis, failed.wait.basis_ms) == ("120", WaitBasis.RETRY_AFTER, 120_000)
    assert failed.wait.ms >= 120_000
    (due,) = await sql("SELECT due_at FROM due_steps WHERE step = 'deliver_webhook'")
    assert due["due_at"] == failed.retry_at


async def test_a_private_receiver_is_refused_in_every_event_and_logged_once(
    hooked: Any, simulator: Simulator, caplog: pytest.LogCaptureFixture
) -> None:
    policy = Policy(webhook=DeliveryPolicy(waits_ms=(0, 0)))
    async with hooked(webhook_allow_private=False, policy=policy) as ledger:
        sessions = [await ledger.open_session(request()) for _ in range(2)]
        with caplog.at_level(logging.WARNING):
            done = await ledger.scheduler.run_until_idle()
        assert done == {"WebhookFailed": 4, "WebhookAbandoned": 2}
        letters = await ledger.webhooks.dead_letters()
    assert {letter.id for letter in letters} == {session.id for session in sessions}
    assert {(letter.cause, letter.detail) for letter in letters} == {(Cause.ADDRESS_REFUSED, "loopback")}
    [warning] = [line for line in caplog.messages if "webhook_allow_private" in line]
    assert warning.startswith("webhooks are not sent: the receiver's address is loopback")
    assert list(simulator.webhooks) == []


@pytest.mark.parametrize("wrong", [timedelta(hours=1), timedelta(hours=-1)])
async def test_the_start_of_a_webhook_call_is_dated_by_the_database_clock(
    new_ledger: Any, simulator: Simulator, sql: Any, monkeypatch: pytest.MonkeyPatch, wrong: timedelta
) -> None:
    async with new_ledger(webhook_url=simulator.webhook_url) as ledger:
        session = await ledger.open_session(request())
        clock, append, observed = ledger._adapters.clock.now, ledger._adapters.store.append, []

        async def append_and_note(given: Append) -> Appended:
            observed.extend([given.feedback] if given.feedback else [])
            return await append(given)

        monkeypatch.setattr(ledger._adapters.clock, "now", lambda: clock() + wrong)
        monkeypatch.setattr(ledger._adapters.store, "append", append_and_note)
        [(now,)] = await sql("SELECT clock_timestamp()")
        claim = Claim(stream_id=session.id, step=StepName.DELIVER_WEBHOOK, due_at=now, claimed_at=now)
        lease = Lease(owner=session.id, ms=60_000)
        history = await ledger._adapters.store.read_stream(session.id, reveal=True)
        work = SessionWork.of(history, actor="worker", lease=lease, claim=claim)
        with ledger._opener._leases.hold(lease, session.id, Leases.now()) as work.held:
            await ledger._opener._executor.run(work, Lane.WEBHOOK, StepName.DELIVER_WEBHOOK)

    assert len(simulator.webhooks) == 1
    [feedback] = observed
    assert feedback.began_at == now


async def test_the_start_of_a_handed_over_webhook_call_is_dated_by_the_database_clock(
    new_ledger: Any, simulator: Simulator, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"webhook_url": simulator.webhook_url, "scheduler": True}
    async with new_ledger(**given) as ledger, asyncio.timeout(10):
        clock, append, observed = ledger._adapters.clock.now, ledger._adapters.store.append, []

        async def append_and_note(given: Append) -> Appended:
            appended = await append(given)
            observed.append((given.feedback, appended.at))
            return appended

        monkeypatch.setattr(ledger._adapters.clock, "now", lambda: clock() + timedelta(hours=1))
        monkeypatch.setattr(ledger._adapters.store, "append", append_and_note)
        await ledger.open_session(request())
        while not simulator.webhooks or len(observed) < 4:
            await asyncio.sleep(0.01)

    [(_, created_at), (feedback, _)] = observed[-2:]
    assert feedback.limiter.endswith("webhook")
    assert feedback.began_at == created_at


async def test_a_webhook_answer_committed_without_confirmation_is_recorded_once(
    new_ledger: Any, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with new_ledger(webhook_url=simulator.webhook_url) as ledger, asyncio.timeout(60):
        session = await ledger.open_session(request())
        whole = ledger._adapters.store.append

        async def append(given: Append) -> Appended:
            await whole(given)
            raise ServiceUnreachable("database", Cause.CONNECTION_REFUSED)

        simulator.config = SimulatorConfig(webhook_status=500)
        with monkeypatch.context() as patched:
            patched.setattr(ledger._adapters.store, "append", append)
            await ledger.scheduler.run_once()
        while ledger._opener._executor.recorder._unrecorded:
            await asyncio.sleep(0.01)
        events = [recorded.event for recorded in await ledger.history(session.id)]
    assert [type(event) for event in events].count(e.WebhookFailed) == 1
