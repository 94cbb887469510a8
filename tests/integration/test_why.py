"""What is said of a waiting session is what a claim, an append or a run then meets: every kind of hold, made for real."""

import asyncio
from typing import Any
from uuid import UUID

import msgspec
import pytest
from msgspec.structs import replace

from guestledger.adapters.cli.messages import STEPS
from guestledger.adapters.simulator import Simulator, SimulatorConfig
from guestledger.engine.domain import events as e
from guestledger.engine.domain.errors import SessionNotFound
from guestledger.engine.domain.outcomes import Verdict
from guestledger.engine.domain.policy import DeliveryPolicy, Policy
from guestledger.engine.domain.session import Session, Status
from guestledger.engine.ledger import Ledger
from guestledger.engine.limits.admission import DenialReason
from guestledger.engine.limits.retry import InDoubt, RetryPolicy
from guestledger.engine.operations.explain import Explanation, Wait
from tests.integration.appends import a_lease
from tests.limits import BRISK
from tests.unit.samples import FINGERPRINT, IP, USER_AGENT, consent, request

SOON = RetryPolicy(base_ms=100, cap_ms=100)
DOWN = SimulatorConfig(server_error_share=1.0, fault_times=1_000)
BUSY = SimulatorConfig(throttle_share=1.0, throttle_times=1_000, retry_after_s=600)
OPEN_NOW = "UPDATE limiters SET closed_until = now(), paced_from = now(), next_slot = now(), next_passage = now()"


def a_policy(**limiter: Any) -> Policy:
    return Policy(creation=SOON, limiter=replace(BRISK, **limiter))


async def told(ledger: Ledger, session: Session | UUID) -> Explanation:
    """Why the session waits; whatever it is, it tells nothing personal."""
    waiting = await ledger.why(session if isinstance(session, UUID) else session.id)
    shown = msgspec.json.encode(waiting).decode()
    for personal in (IP, USER_AGENT, FINGERPRINT, "gt_"):
        assert personal not in shown
    return waiting


async def by(ledger: Ledger, session: Session) -> list[str]:
    return [held.by for held in (await told(ledger, session)).holds]


async def claimed(ledger: Ledger, limit: int = 100) -> list[UUID]:
    """What a worker's claim gets now; nobody gives it back."""
    found = await ledger._due_steps.claim(a_lease(), ledger._steps.limiters(STEPS), limit)
    return [claim.stream_id for claim in found.claims]


async def failing(ledger: Ledger, simulator: Simulator, monkeypatch: pytest.MonkeyPatch, number: int) -> list[Session]:
    """Sessions whose first attempt has failed and that are due again now, longest due first."""
    monkeypatch.setattr(ledger._clock, "jitter", lambda: 0.9)
    simulator.config = DOWN
    sessions = [await ledger.open_session(request()) for _ in range(number)]
    assert {session.attempts for session in sessions} == {1}
    await due(ledger, sessions[-1])
    return sessions


async def due(ledger: Ledger, session: Session) -> None:
    """Return once the session is due."""
    async with asyncio.timeout(30):
        while Wait.DUE in await by(ledger, session):
            await asyncio.sleep(0.02)


async def throttled(ledger: Ledger, simulator: Simulator, retry_after_s: int = 600) -> Session:
    """A session that was answered 429, so that the limiter is closed for everybody."""
    simulator.config = replace(BUSY, retry_after_s=retry_after_s)
    session = await ledger.open_session(request())
    assert session.status is Status.THROTTLED
    simulator.config = SimulatorConfig()
    return session


# Whose turn it is


async def test_a_session_without_blockers_is_claimed_by_the_next_worker(ledger: Ledger) -> None:
    session = await ledger.accept(request())
    waiting = await told(ledger, session)
    assert (waiting.step, waiting.holds, waiting.moves_at) == ("ValidateChannel", (), waiting.now)

    assert (await ledger.scheduler.run_once())["SessionCreated"] == 1


async def test_a_leased_session_is_blocked_and_cannot_be_claimed(ledger: Ledger, sql: Any) -> None:
    session = await ledger.accept(request())
    assert await claimed(ledger) == [session.id]
    [row] = await sql("SELECT owner, lease_until FROM due_steps")

    waiting = await told(ledger, session)
    [held] = waiting.holds
    assert (held.by, held.until, waiting.moves_at) == (Wait.LEASE, row["lease_until"], row["lease_until"])
    assert str(row["owner"]) in held.reason
    assert await claimed(ledger) == []

    await sql("UPDATE due_steps SET lease_until = now()")
    assert await by(ledger, session) == []
    assert await claimed(ledger) == [session.id]


async def test_why_does_not_wait_for_row_locks(ledger: Ledger, simulator: Simulator, outsider: Any) -> None:
    session = await throttled(ledger, simulator)
    async with outsider.transaction(), asyncio.timeout(30):
        await outsider.execute("SELECT FROM head FOR UPDATE")
        await outsider.execute("SELECT FROM due_steps FOR UPDATE")
        await outsider.execute("SELECT FROM limiters FOR UPDATE")
        assert Wait.DUE in await by(ledger, session)


async def test_why_explains_the_current_state_after_a_stale_read(ledger: Ledger) -> None:
    session = await ledger.accept(request())
    stale = await ledger.history(session.id)
    await ledger.scheduler.run_once()
    waiting = await ledger._waits.why(stale)
    assert (waiting.status, waiting.step) == (Status.ACTIVE, "ExpireToken")


# Due times


async def test_a_throttled_session_waits_for_its_retry_time_and_its_limiter(
    ledger: Ledger, simulator: Simulator, sql: Any
) -> None:
    session = await throttled(ledger, simulator)
    waiting = await told(ledger, session)
    assert waiting.holds[0].by is Wait.DUE
    assert waiting.holds[0].until >= session.retry_at
    assert "Retry-After" in waiting.holds[0].reason
    assert waiting.moves_at == max(held.until for held in waiting.holds if held.until)
    assert waiting.deadline is not None
    assert await claimed(ledger) == []


async def test_an_active_session_waits_for_its_webhook_retry_or_token_expiry(
    new_ledger: Any, simulator: Simulator, sql: Any
) -> None:
    policy = Policy(webhook=DeliveryPolicy(waits_ms=(60_000,)), limiter=BRISK)
    async with new_ledger(policy=policy, webhook_url=simulator.webhook_url) as ledger:
        simulator.config = SimulatorConfig(webhook_status=500)
        session = await ledger.open_session(request())
        assert await ledger.scheduler.run_once() == {"WebhookFailed": 1}
        waiting = await told(ledger, session)
        [held] = waiting.holds
        assert (waiting.step, held.by, waiting.moves_at) == ("SyncWebhook", Wait.DUE, held.until)
        assert held.reason.startswith("HTTP 500: 60000 ms by the schedule")
        assert await claimed(ledger) == []
    async with new_ledger() as ledger:
        session = await ledger.open_session(request())
        waiting = await told(ledger, session)
        [held] = waiting.holds
        assert (waiting.step, held.reason) == ("ExpireToken", "its token expires then")
        assert (held.until, waiting.moves_at, waiting.deadline) == (session.expires_at, session.expires_at, None)


# RateLimiter


async def test_a_closed_limiter_blocks_the_claim_until_it_opens(
    new_ledger: Any, simulator: Simulator, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with new_ledger(policy=a_policy()) as ledger:
        [session] = await failing(ledger, simulator, monkeypatch, 1)
        await throttled(ledger, simulator)
        [limiter] = await sql("SELECT closed_until, why FROM limiters")

        waiting = await told(ledger, session)
        [held] = waiting.holds
        assert (held.by, held.until, waiting.moves_at) == (
            DenialReason.GATE,
            limiter["closed_until"],
            limiter["closed_until"],
        )
        assert limiter["why"] in held.reason
        assert await ledger.scheduler.run_once() == {}

        await sql(OPEN_NOW)
        assert await by(ledger, session) == []
        assert await claimed(ledger) == [session.id]


async def test_a_paced_limiter_blocks_all_but_the_first_session_in_order(
    new_ledger: Any, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with new_ledger(policy=a_policy(first_rate=0.001, min_rate=0.001)) as ledger:
        sessions = await failing(ledger, simulator, monkeypatch, 3)
        await throttled(ledger, simulator, retry_after_s=0)

        first, second, third = [await told(ledger, session) for session in sessions]
        assert first.holds == ()
        assert [held.by for held in (*second.holds, *third.holds)] == [DenialReason.PACE, DenialReason.PACE]
        assert first.moves_at < second.moves_at < third.moves_at
        assert third.holds[0].reason.endswith("due before it: 2")
        assert await claimed(ledger) == [sessions[0].id]
        assert (await told(ledger, sessions[2])).holds[0].reason.endswith("due before it: 1"), "one is being worked on"


async def test_an_open_breaker_blocks_all_sessions_and_then_all_but_one_probe(
    new_ledger: Any, simulator: Simulator, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with new_ledger(policy=a_policy(failures_in_a_row=2, break_ms=600_000, max_break_ms=600_000)) as ledger:
        first, second = await failing(ledger, simulator, monkeypatch, 2)
        [limiter] = await sql("SELECT broken_until FROM limiters")
        for session in (first, second):
            [held] = (await told(ledger, session)).holds
            assert (held.by, held.until) == (DenialReason.BREAKER, limiter["broken_until"])
        assert await claimed(ledger) == []

        await sql("UPDATE limiters SET broken_until = now()")
        assert (await by(ledger, first), await by(ledger, second)) == ([], [DenialReason.BREAKER])
        assert await claimed(ledger) == [first.id]

        # For a moment only, by itself; here for as long as the test takes.
        [limiter] = await sql(
            "UPDATE limiters SET probe_until = probe_until + interval '10 minutes' RETURNING probe_until"
        )
        [held] = (await told(ledger, second)).holds
        assert (held.by, held.until) == (DenialReason.BREAKER, limiter["probe_until"])
        assert await by(ledger, first) == [Wait.LEASE]


async def test_an_exhausted_retry_budget_is_shown_before_and_after_the_deferral(
    new_ledger: Any, simulator: Simulator, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    spare = a_policy(retries_kept=1.0, retries_per_second=0.01)
    async with new_ledger(policy=spare) as ledger:
        [session] = await failing(ledger, simulator, monkeypatch, 1)
        assert await by(ledger, session) == []
        await sql("UPDATE limiters SET retries = 0, retries_at = now()")
        before = await told(ledger, session)
        [budget] = before.holds
        assert budget.by is DenialReason.BUDGET

        await ledger.scheduler.run_once()

        deferred = (await ledger.history(session.id))[-1].event
        assert isinstance(deferred, e.CreationDeferred)
        assert deferred.held_by is DenialReason.BUDGET
        assert deferred.retry_at > budget.until
        [held] = (await told(ledger, session)).holds
        assert (held.by, held.until, held.reason) == (Wait.DUE, deferred.retry_at, deferred.reason)
        assert deferred.reason.startswith(budget.reason)


async def test_the_call_limit_blocks_the_sessions_beyond_it(
    new_ledger: Any, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with new_ledger(policy=a_policy(calls=2)) as ledger:
        sessions = await failing(ledger, simulator, monkeypatch, 3)
        assert [await by(ledger, session) for session in sessions] == [[], [], [DenialReason.CALLS]]
        assert await claimed(ledger) == [session.id for session in sessions[:2]]
        assert [await by(ledger, session) for session in sessions] == [[Wait.LEASE], [Wait.LEASE], [DenialReason.CALLS]]
        assert await claimed(ledger) == []


async def test_why_without_provider_settings_reports_missing_settings(
    new_ledger: Any, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with new_ledger(policy=a_policy()) as ledger, new_ledger(cxone_url=None) as ignorant:
        [session] = await failing(ledger, simulator, monkeypatch, 1)
        await throttled(ledger, simulator)
        assert await by(ledger, session) == [DenialReason.GATE]
        assert await by(ignorant, session) == [Wait.SETTINGS]


# Ends


async def test_an_overdue_session_is_abandoned_even_behind_a_closed_limiter(
    new_ledger: Any, simulator: Simulator, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with new_ledger(policy=a_policy()) as ledger, new_ledger(policy=hasty(400)) as hurried:
        [session] = await failing(hurried, simulator, monkeypatch, 1)
        await throttled(ledger, simulator)
        [limiter] = await sql("SELECT closed_until FROM limiters")
        async with asyncio.timeout(30):
            while (waiting := await told(hurried, session)).holds:
                assert waiting.moves_at < limiter["closed_until"]
                await asyncio.sleep(0.02)
        assert waiting.deadline < waiting.now
        assert "given up" in waiting.outlook

        assert await hurried.scheduler.run_once() == {"SessionAbandoned": 1}
        over = await told(hurried, session)
        assert (over.status, over.holds, over.moves_at) == (Status.ABANDONED, (), None)


def hasty(deadline_ms: int) -> Policy:
    return replace(a_policy(), creation=replace(SOON, deadline_ms=deadline_ms))


async def test_a_parked_session_waits_for_a_person_and_continues_after_the_decision(
    new_ledger: Any, simulator: Simulator
) -> None:
    async with new_ledger(cxone_in_doubt=InDoubt.PARK) as ledger:
        simulator.config = SimulatorConfig(drop_share=1)
        session = await ledger.open_session(request())
        waiting = await told(ledger, session)
        assert ([held.by for held in waiting.holds], waiting.moves_at) == ([Wait.PERSON], None)
        assert "guestledger resolve" in waiting.outlook
        assert await ledger.scheduler.run_once() == {}

        simulator.config = SimulatorConfig()
        await ledger.resolve(session.id, Verdict.RETRY, decided_by="ops", reason="looked into CXone")
        assert await by(ledger, session) == []
        assert (await ledger.scheduler.run_once())["SessionCreated"] == 1


async def test_a_refused_session_waits_for_nothing(ledger: Ledger) -> None:
    session = await ledger.open_session(request(consent=consent(gdpr_compliant=False)))
    waiting = await told(ledger, session)
    assert (waiting.status, waiting.step, waiting.holds, waiting.moves_at) == (Status.REFUSED, None, (), None)


async def test_why_accepts_the_providers_id_and_rejects_an_unknown_one(ledger: Ledger) -> None:
    session = await ledger.open_session(request())
    assert session.session_id is not None
    assert (await ledger.why(session.session_id)).id == session.id
    with pytest.raises(SessionNotFound):
        await ledger.why("sess_nobody")
