"""`why` names what a claim, an append or a worker meets next: each kind of condition, in a real ledger."""

import asyncio
from typing import Any
from uuid import UUID

import msgspec
import pytest
from msgspec.structs import replace

from guestledger.adapters.simulator import Simulator, SimulatorConfig
from guestledger.engine.domain import events as e
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.due import StepName
from guestledger.engine.domain.errors import SessionNotFound
from guestledger.engine.domain.outcomes import Verdict
from guestledger.engine.domain.policy import DeliveryPolicy, Policy
from guestledger.engine.domain.session import Session, Status
from guestledger.engine.ledger import Ledger
from guestledger.engine.limits.admission import DenialReason
from guestledger.engine.limits.retry import InDoubt, RetryPolicy, WaitBasis
from guestledger.engine.operations.conditions import Condition, ConditionName
from guestledger.engine.operations.explain import Explanation, StepExplanation
from guestledger.engine.ports.due_steps import MAX_AHEAD
from tests.integration.appends import a_lease
from tests.limits import BRISK
from tests.unit.samples import FINGERPRINT, IP, USER_AGENT, consent, request

SOON = RetryPolicy(base_ms=100, cap_ms=100)
DOWN = SimulatorConfig(server_error_share=1.0, fault_times=1_000)
BUSY = SimulatorConfig(throttle_share=1.0, throttle_times=1_000, retry_after_s=600)
OPEN_NOW = """
    UPDATE limits SET closed_until = now(), next_reservation = now(), next_admission = now()"""
SECONDARY = (StepName.ENFORCE_DEADLINE, StepName.EXPIRE_TOKEN)


def a_policy(**limiter: Any) -> Policy:
    return Policy(creation=SOON, limiter=replace(BRISK, **limiter))


async def explained(ledger: Ledger, session: Session | UUID) -> Explanation:
    """Why the session waits. The explanation never contains personal data."""
    waiting = await ledger.why(session if isinstance(session, UUID) else session.id)
    shown = msgspec.json.encode(waiting).decode()
    for personal in (IP, USER_AGENT, FINGERPRINT, "gt_"):
        assert personal not in shown
    return waiting


def main(waiting: Explanation) -> StepExplanation:
    """The step that creates the session or calls its webhook."""
    [step] = [step for step in waiting.steps if step.step not in SECONDARY]
    return step


async def unmet(ledger: Ledger, session: Session) -> tuple[Condition, ...]:
    """What blocks the main step."""
    return main(await explained(ledger, session)).unmet


async def by(ledger: Ledger, session: Session) -> list[str]:
    return [condition.name for condition in await unmet(ledger, session)]


async def claimed(ledger: Ledger, limit: int = 100) -> list[UUID]:
    """The sessions that a worker claims now. They stay claimed."""
    found = await ledger._adapters.due_steps.claim(a_lease(), ledger.scheduler._lanes.wanted(), limit)
    return [claim.stream_id for claim in found.claims]


async def failing(ledger: Ledger, simulator: Simulator, monkeypatch: pytest.MonkeyPatch, number: int) -> list[Session]:
    """Sessions whose first attempt failed and whose next one is due now, longest due first."""
    monkeypatch.setattr(ledger._adapters.clock, "jitter", lambda: 0.9)
    simulator.config = DOWN
    sessions = [await ledger.open_session(request()) for _ in range(number)]
    assert {session.attempts for session in sessions} == {1}
    await due(ledger, sessions[-1])
    return sessions


async def due(ledger: Ledger, session: Session) -> None:
    """Return once the session is due."""
    async with asyncio.timeout(30):
        while ConditionName.DUE_TIME in await by(ledger, session):
            await asyncio.sleep(0.02)


async def throttled(ledger: Ledger, simulator: Simulator, retry_after_s: int = 600) -> Session:
    """A session that was answered 429, which closed the limiter for all."""
    simulator.config = replace(BUSY, retry_after_s=retry_after_s)
    session = await ledger.open_session(request())
    assert session.status is Status.THROTTLED
    simulator.config = SimulatorConfig()
    return session


# Leases


async def test_a_session_whose_conditions_are_met_is_claimed_by_the_next_worker(ledger: Ledger) -> None:
    session = await ledger.accept(request())
    waiting = await explained(ledger, session)
    step = main(waiting)
    assert (step.step, step.unmet, step.moves_at) == (StepName.VALIDATE_CHANNEL, (), waiting.now)
    assert waiting.moves_at == waiting.now

    assert (await ledger.scheduler.run_once())["SessionCreated"] == 1


async def test_a_leased_session_is_blocked_and_cannot_be_claimed(ledger: Ledger, sql: Any) -> None:
    session = await ledger.accept(request())
    assert await claimed(ledger) == [session.id]
    [(owner, until)] = await sql("SELECT owner, lease_until FROM due_steps WHERE owner IS NOT NULL")

    waiting = await explained(ledger, session)
    [condition] = main(waiting).unmet
    assert (condition.name, condition.until, condition.owner) == (ConditionName.LEASE, until, owner)
    assert main(waiting).moves_at == until
    assert await claimed(ledger) == []

    await sql("UPDATE due_steps SET lease_until = now()")
    assert await by(ledger, session) == []
    await ledger._adapters.due_steps.free_lapsed()
    assert await claimed(ledger) == [session.id]


async def test_why_does_not_wait_for_row_locks(ledger: Ledger, simulator: Simulator, outsider: Any) -> None:
    session = await throttled(ledger, simulator)
    async with outsider.transaction(), asyncio.timeout(30):
        await outsider.execute("SELECT FROM head FOR UPDATE")
        await outsider.execute("SELECT FROM due_steps FOR UPDATE")
        await outsider.execute("SELECT FROM limits FOR UPDATE")
        assert ConditionName.DUE_TIME in await by(ledger, session)


async def test_why_explains_the_current_state_after_a_stale_read(ledger: Ledger) -> None:
    session = await ledger.accept(request())
    stale = await ledger.history(session.id)
    await ledger.scheduler.run_once()
    waiting = await ledger._explainer.explain(stale)
    assert waiting.status is Status.ACTIVE
    assert [step.step for step in waiting.steps] == [StepName.EXPIRE_TOKEN]


# Due times


async def test_a_throttled_session_waits_for_its_retry_time_and_its_limiter(
    ledger: Ledger, simulator: Simulator, sql: Any
) -> None:
    session = await throttled(ledger, simulator)
    waiting = await explained(ledger, session)
    condition = main(waiting).unmet[0]
    assert (condition.name, condition.until, condition.cause) == (
        ConditionName.DUE_TIME,
        session.retry_at,
        Cause.THROTTLED,
    )
    assert condition.wait is not None
    assert condition.wait.basis is WaitBasis.RETRY_AFTER
    assert waiting.moves_at == max(condition.until for condition in main(waiting).unmet if condition.until)
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
        waiting = await explained(ledger, session)
        step = main(waiting)
        [condition] = step.unmet
        assert (step.step, condition.name, waiting.moves_at) == (
            StepName.DELIVER_WEBHOOK,
            ConditionName.DUE_TIME,
            condition.until,
        )
        assert condition.cause is Cause.NOT_ACCEPTED
        assert condition.wait is not None
        assert (condition.wait.basis, condition.wait.basis_ms) == (WaitBasis.SCHEDULE, 60_000)
        assert await claimed(ledger) == []
    async with new_ledger() as ledger:
        session = await ledger.open_session(request())
        waiting = await explained(ledger, session)
        [step] = waiting.steps
        [condition] = step.unmet
        assert (step.step, condition.name, condition.cause) == (StepName.EXPIRE_TOKEN, ConditionName.DUE_TIME, None)
        assert (condition.until, waiting.moves_at, waiting.deadline) == (session.expires_at, session.expires_at, None)


# Limiters


async def test_a_closed_limiter_blocks_the_claim_until_it_opens(
    new_ledger: Any, simulator: Simulator, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with new_ledger(policy=a_policy()) as ledger:
        [session] = await failing(ledger, simulator, monkeypatch, 1)
        await throttled(ledger, simulator)
        [(closed_until,)] = await sql("SELECT closed_until FROM limits")

        waiting = await explained(ledger, session)
        [condition] = main(waiting).unmet
        assert (condition.name, condition.until, main(waiting).moves_at) == (
            ConditionName.PAUSE,
            closed_until,
            closed_until,
        )
        assert condition.closed_by is WaitBasis.RETRY_AFTER
        assert await ledger.scheduler.run_once() == {}

        await sql(OPEN_NOW)
        assert await by(ledger, session) == []
        assert await claimed(ledger) == [session.id]


async def test_a_paced_limiter_blocks_all_but_the_first_session_in_order(
    new_ledger: Any, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with new_ledger(policy=a_policy(initial_rate=0.001)) as ledger:
        sessions = await failing(ledger, simulator, monkeypatch, 3)
        await throttled(ledger, simulator, retry_after_s=0)

        first, second, third = [main(await explained(ledger, session)) for session in sessions]
        assert first.unmet == ()
        assert [condition.name for condition in (*second.unmet, *third.unmet)] == [ConditionName.RATE] * 2
        assert first.moves_at < second.moves_at < third.moves_at
        assert third.unmet[0].ahead == 2
        assert await claimed(ledger) == [sessions[0].id]
        [condition] = await unmet(ledger, sessions[2])
        assert condition.ahead == 1, "the first one is being worked on"


async def test_an_open_breaker_blocks_all_sessions_and_then_all_but_one_probe(
    new_ledger: Any, simulator: Simulator, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with new_ledger(policy=a_policy(failures_in_a_row=2, break_ms=600_000, max_break_ms=600_000)) as ledger:
        first, second = await failing(ledger, simulator, monkeypatch, 2)
        [(broken_until,)] = await sql("SELECT broken_until FROM limits")
        for session in (first, second):
            [condition] = await unmet(ledger, session)
            assert (condition.name, condition.until) == (ConditionName.CIRCUIT, broken_until)
        assert await claimed(ledger) == []

        await sql("UPDATE limits SET broken_until = now()")
        assert (await by(ledger, first), await by(ledger, second)) == ([], [ConditionName.CIRCUIT])
        assert await claimed(ledger) == [first.id]

        # A reserved probe lapses in a moment; this one lasts as long as the test.
        [(probe_until,)] = await sql(
            "UPDATE limits SET probe_until = probe_until + interval '10 minutes' RETURNING probe_until"
        )
        [condition] = await unmet(ledger, second)
        assert (condition.name, condition.until) == (ConditionName.CIRCUIT, probe_until)
        assert await by(ledger, first) == [ConditionName.LEASE]


async def test_an_exhausted_retry_budget_is_shown_before_and_after_the_deferral(
    new_ledger: Any, simulator: Simulator, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with new_ledger(policy=a_policy(retry_budget=1.0, retries_per_second=0.01)) as ledger:
        [session] = await failing(ledger, simulator, monkeypatch, 1)
        assert await by(ledger, session) == []
        await sql("UPDATE limits SET retry_budget = 0, retry_budget_at = now()")
        [budget] = await unmet(ledger, session)
        assert budget.name is ConditionName.RETRY_BUDGET

        await ledger.scheduler.run_once()

        deferred = (await ledger.history(session.id))[-1].event
        assert isinstance(deferred, e.CreationDeferred)
        assert deferred.denied_by is DenialReason.RETRY_BUDGET
        assert deferred.retry_at > budget.until
        [condition] = await unmet(ledger, session)
        assert (condition.name, condition.until, condition.wait) == (
            ConditionName.DUE_TIME,
            deferred.retry_at,
            deferred.wait,
        )
        assert (condition.cause, condition.detail) == (Cause.RATE_LIMITED, f"retry_budget {deferred.limiter}")


async def test_the_call_limit_blocks_the_sessions_beyond_it(
    new_ledger: Any, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with new_ledger(policy=a_policy(calls=2)) as ledger:
        sessions = await failing(ledger, simulator, monkeypatch, 3)
        assert [await by(ledger, session) for session in sessions] == [[], [], [ConditionName.CONCURRENCY]]
        assert await claimed(ledger) == [session.id for session in sessions[:2]]
        assert [await by(ledger, session) for session in sessions] == [
            [ConditionName.LEASE],
            [ConditionName.LEASE],
            [ConditionName.CONCURRENCY],
        ]
        assert await claimed(ledger) == []


async def test_why_without_provider_settings_reports_missing_settings(
    new_ledger: Any, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with new_ledger(policy=a_policy()) as ledger, new_ledger(cxone_url=None) as unset:
        [session] = await failing(ledger, simulator, monkeypatch, 1)
        await throttled(ledger, simulator)
        assert await by(ledger, session) == [ConditionName.PAUSE]
        assert await by(unset, session) == [ConditionName.SETTINGS]


async def test_sessions_ahead_are_counted_up_to_a_limit_and_for_limited_steps_only(ledger: Ledger, sql: Any) -> None:
    session = await ledger.accept(request())
    await sql(
        """INSERT INTO due_steps (stream_id, step, due_at)
           SELECT gen_random_uuid(), step, timestamptz '2020-01-01'
             FROM generate_series(1, $1::int), unnest(ARRAY['validate_channel', 'enforce_deadline']) AS step""",
        MAX_AHEAD + 1,
    )
    ahead = {row.step: row.ahead for row in (await ledger._adapters.due_steps.status(session.id)).rows}
    assert ahead == {StepName.VALIDATE_CHANNEL: MAX_AHEAD, StepName.ENFORCE_DEADLINE: 0}


# Ends


async def test_an_overdue_session_is_abandoned_even_behind_a_closed_limiter(
    new_ledger: Any, simulator: Simulator, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with new_ledger(policy=a_policy()) as ledger, new_ledger(policy=hasty(3_000)) as hurried:
        [session] = await failing(hurried, simulator, monkeypatch, 1)
        await throttled(ledger, simulator)
        [(closed_until,)] = await sql("SELECT closed_until FROM limits")
        async with asyncio.timeout(30):
            while (waiting := await explained(hurried, session)).moves_at > waiting.now:
                assert waiting.moves_at < closed_until
                await asyncio.sleep(0.02)
        assert waiting.deadline is not None
        assert waiting.deadline < waiting.now
        [end] = [step for step in waiting.steps if step.step is StepName.ENFORCE_DEADLINE]
        assert (end.unmet, end.moves_at) == ((), waiting.now)
        assert main(waiting).moves_at is None, "it is given up before"
        assert main(waiting).unmet[-1].name is ConditionName.DEADLINE

        assert await hurried.scheduler.run_once() == {"SessionAbandoned": 1}
        over = await explained(hurried, session)
        assert (over.status, over.steps, over.moves_at) == (Status.ABANDONED, (), None)


def hasty(deadline_ms: int) -> Policy:
    return replace(a_policy(), creation=replace(SOON, deadline_ms=deadline_ms))


async def test_a_parked_session_waits_for_a_person_and_continues_after_the_decision(
    new_ledger: Any, simulator: Simulator
) -> None:
    async with new_ledger(cxone_in_doubt=InDoubt.PARK) as ledger:
        simulator.config = SimulatorConfig(drop_share=1)
        session = await ledger.open_session(request())
        waiting = await explained(ledger, session)
        [condition] = waiting.unmet
        assert (condition.name, condition.until, condition.cause) == (ConditionName.PERSON, None, Cause.CONNECTION_LOST)
        assert (waiting.steps, waiting.moves_at) == ((), None)
        assert await ledger.scheduler.run_once() == {}

        simulator.config = SimulatorConfig()
        await ledger.resolve(session.id, Verdict.RETRY, decided_by="ops", reason="checked with the provider")
        assert await by(ledger, session) == []
        assert (await ledger.scheduler.run_once())["SessionCreated"] == 1


async def test_a_legal_hold_is_shown_beside_the_erasure_that_it_prevents(new_ledger: Any, sql: Any) -> None:
    async with new_ledger(policy=Policy(retention_days=30)) as ledger:
        session = await ledger.open_session(request(subject_id="crm-7", consent=consent(gdpr_compliant=False)))
        erasure = await explained(ledger, session)
        assert [step.step for step in erasure.steps] == [StepName.ERASE_CONTACT]
        assert [(condition.name, condition.met) for condition in erasure.conditions] == [
            (ConditionName.LEGAL_HOLD, True)
        ]

        await ledger.retention.hold(subject_id="crm-7", reason="matter 17", placed_by="counsel")
        later = await ledger.open_session(request(subject_id="crm-7", consent=consent(gdpr_compliant=False)))
        recorded, unrecorded = await explained(ledger, session), await explained(ledger, later)
        assert [condition.name for condition in recorded.unmet] == [ConditionName.LEGAL_HOLD]
        assert recorded.steps == ()
        assert [condition.name for condition in unrecorded.unmet] == [ConditionName.LEGAL_HOLD]
        assert [step.step for step in unrecorded.steps] == [StepName.ERASE_CONTACT]


async def test_a_refused_session_waits_for_nothing(ledger: Ledger) -> None:
    session = await ledger.open_session(request(consent=consent(gdpr_compliant=False)))
    waiting = await explained(ledger, session)
    assert (waiting.status, waiting.steps, waiting.unmet, waiting.moves_at) == (Status.REFUSED, (), (), None)


async def test_why_accepts_the_providers_id_and_rejects_an_unknown_one(ledger: Ledger) -> None:
    session = await ledger.open_session(request())
    assert session.session_id is not None
    assert (await ledger.why(session.session_id)).id == session.id
    with pytest.raises(SessionNotFound):
        await ledger.why("sess_nobody")
