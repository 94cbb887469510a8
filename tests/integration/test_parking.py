"""Parked sessions: no worker continues one before a person has decided, and every read model shows it."""

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from guestledger.adapters.cxone.profile import Profile
from guestledger.adapters.simulator import Simulator, SimulatorConfig
from guestledger.engine.domain.errors import InvalidRequest, ResolutionRefused, SessionNotFound
from guestledger.engine.domain.outcomes import Adoption, Verdict
from guestledger.engine.domain.session import Session, Status
from guestledger.engine.ledger import Ledger
from guestledger.engine.limits.retry import InDoubt
from guestledger.engine.projections.audit import AuditFilter
from guestledger.engine.projections.sessions import SessionFilter
from tests.integration.conftest import AT_ONCE
from tests.unit.samples import request

LOST = SimulatorConfig(drop_share=1)
ASKED: dict[str, Any] = {"decided_by": "ops", "reason": "looked into CXone"}
EXPIRY = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)


@pytest.fixture
def parking(new_ledger: Any) -> Any:
    """`parking(…)`: a ledger that parks sessions in doubt."""
    return lambda **given: new_ledger(cxone_in_doubt=InDoubt.PARK, **given)


async def parked(ledger: Ledger, simulator: Simulator) -> Session:
    simulator.config = LOST
    session = await ledger.open_session(request())
    assert session.status is Status.PARKED
    simulator.config = SimulatorConfig()
    return session


def adoption(**given: Any) -> Adoption:
    return Adoption(**{"session_id": "sess_found", "expires_at": EXPIRY, "guest_token": "gt_found", **given})


async def test_a_parked_session_has_no_due_step_and_appears_in_every_read_model(
    parking: Any, simulator: Simulator, sql: Any
) -> None:
    async with parking() as ledger:
        session = await parked(ledger, simulator)
        assert await sql("SELECT * FROM due_steps") == []
        assert await ledger.scheduler.unfinished() == 0
        assert await ledger.scheduler.run_until_idle() == {}

        [row] = [row async for row in ledger.sessions(SessionFilter(statuses=(Status.PARKED,)))]
        assert (row.id, row.attempts, row.retry_at) == (session.id, 1, None)
        [entry] = [entry async for entry in ledger.audit(AuditFilter(session=session.id))]
        assert entry.compliance_status == "pending"
        metrics = await ledger.metrics()
        assert (metrics.pending, metrics.tracked) == (1, 0)
        frame = (await ledger.replay.timeline(session.id))[-1]
        assert (frame.state.status, frame.due) == (Status.PARKED, ())
        for name in ("sessions", "session_metrics", "audit_log"):
            assert (await ledger.projections.verify(name)).is_same


@pytest.mark.parametrize(
    ("setting", "policy", "profile", "is_parked"),
    [
        (None, None, InDoubt.PARK, True),
        (None, InDoubt.PARK, InDoubt.RETRY_AND_RECORD, True),
        (None, InDoubt.RETRY_AND_RECORD, InDoubt.PARK, False),
        (InDoubt.RETRY_AND_RECORD, InDoubt.PARK, InDoubt.PARK, False),
        (InDoubt.PARK, InDoubt.RETRY_AND_RECORD, InDoubt.RETRY_AND_RECORD, True),
    ],
)
async def test_the_setting_overrides_the_policy_and_the_profile_for_doubt_handling(
    new_ledger: Any,
    simulator: Simulator,
    setting: InDoubt | None,
    policy: InDoubt | None,
    profile: InDoubt,
    is_parked: bool,
) -> None:
    given = {
        "cxone_in_doubt": setting,
        "policy": replace(AT_ONCE, creation=replace(AT_ONCE.creation, in_doubt=policy)),
        "profile": Profile(in_doubt=profile),
    }
    simulator.config = LOST
    async with new_ledger(**given) as ledger:
        assert ((await ledger.open_session(request())).status is Status.PARKED) is is_parked


async def test_a_worker_retries_a_parked_session_after_a_persons_decision(parking: Any, simulator: Simulator) -> None:
    async with parking() as ledger, parking() as worker:
        session = await parked(ledger, simulator)
        due = await ledger.resolve(session.id, Verdict.RETRY, **ASKED)
        assert due.status is Status.PENDING
        assert await worker.scheduler.run_once() == {"CreationAttempted": 1, "SessionCreated": 1}
        decided = (await ledger.history(session.id))[-3]
    assert (decided.actor, decided.event.decided_by, decided.event.reason) == ("ops", "ops", "looked into CXone")


async def test_a_parked_session_that_a_person_abandons_counts_as_abandoned(
    parking: Any, simulator: Simulator, sql: Any
) -> None:
    async with parking() as ledger:
        session = await parked(ledger, simulator)
        assert (await ledger.resolve(session.id, Verdict.ABANDON, **ASKED)).status is Status.ABANDONED
        assert await sql("SELECT * FROM due_steps") == []
        [entry] = [entry async for entry in ledger.audit(AuditFilter(session=session.id))]
        assert entry.compliance_status == "abandoned"
        assert (await ledger.metrics()).counts["abandoned"] == 1


async def test_an_adopted_session_counts_as_created_without_latency(parking: Any, simulator: Simulator) -> None:
    async with parking(webhook_url=simulator.webhook_url) as ledger:
        session = await parked(ledger, simulator)
        adopted = await ledger.resolve(session.id, adoption(), **ASKED)
        assert (adopted.status, adopted.guest_token) == (Status.ACTIVE, "gt_found")
        assert (await ledger.session("sess_found")).id == session.id
        assert await ledger.scheduler.run_once() == {"WebhookSynced": 1}
        [entry] = [entry async for entry in ledger.audit(AuditFilter(session=session.id))]
        assert (entry.compliance_status, entry.session_id, entry.token_expiry) == ("verified", "sess_found", EXPIRY)
        metrics = await ledger.metrics()
        assert (metrics.counts["created"], metrics.pending, metrics.latency) == (1, 0, None)


async def test_a_worker_with_a_webhook_delivers_adoptions_made_elsewhere(
    parking: Any, simulator: Simulator, sql: Any
) -> None:
    """The process that records the adoption decides whether a notice is owed."""
    hooked = {"webhook_url": simulator.webhook_url}
    async with parking() as without, parking(**hooked) as adopting, parking(**hooked) as worker:
        unannounced, announced = await parked(without, simulator), await parked(without, simulator)
        await without.resolve(unannounced.id, adoption(session_id="sess_one"), **ASKED)
        await adopting.resolve(announced.id, adoption(session_id="sess_two"), **ASKED)

        assert await without.scheduler.run_once() == {}
        owed = await sql("SELECT stream_id FROM due_steps WHERE step = 'deliver_webhook'")
        assert [row["stream_id"] for row in owed] == [announced.id]
        assert await worker.scheduler.run_once() == {"WebhookSynced": 1}


async def test_an_adopted_session_past_its_expiry_is_recorded_as_expired(parking: Any, simulator: Simulator) -> None:
    async with parking() as ledger:
        session = await parked(ledger, simulator)
        past = adoption(expires_at=datetime(2024, 5, 20, tzinfo=UTC), guest_token=None)
        await ledger.resolve(session.id, past, **ASKED)
        assert await ledger.scheduler.run_once() == {"TokenExpired": 1}


async def test_one_of_several_concurrent_decisions_succeeds(parking: Any, simulator: Simulator) -> None:
    async with parking() as ledger, parking() as other:
        session = await parked(ledger, simulator)
        deciding = [
            who.resolve(session.id, what, **ASKED)
            for who in (ledger, other)
            for what in (Verdict.RETRY, Verdict.ABANDON, adoption())
        ]
        answers = await asyncio.gather(*deciding, return_exceptions=True)
    assert Counter(map(type, answers)) == {Session: 1, ResolutionRefused: 5}


async def test_one_of_several_concurrent_adoptions_of_a_session_succeeds(parking: Any, simulator: Simulator) -> None:
    async with parking() as ledger, parking() as other:
        sessions = [await parked(ledger, simulator) for _ in range(4)]
        deciding = [
            who.resolve(session.id, adoption(guest_token=None), **ASKED)
            for session, who in zip(sessions, (ledger, other) * 2, strict=True)
        ]
        answers = await asyncio.gather(*deciding, return_exceptions=True)
        [adopted] = [answer for answer in answers if isinstance(answer, Session)]
        refused = [answer for answer in answers if isinstance(answer, ResolutionRefused)]
        assert [refusal.holder for refusal in refused] == [adopted.id] * 3
        now = [(await ledger.session(session.id)).status for session in sessions]
    assert Counter(now) == {Status.ACTIVE: 1, Status.PARKED: 3}


async def test_an_invalid_decision_is_rejected_and_not_recorded(parking: Any, simulator: Simulator) -> None:
    async with parking() as ledger:
        active = await ledger.open_session(request())
        session = await parked(ledger, simulator)
        with pytest.raises(ResolutionRefused) as refused:
            await ledger.resolve(active.id, Verdict.RETRY, **ASKED)
        assert (refused.value.status, refused.value.holder) == (Status.ACTIVE, None)
        with pytest.raises(ResolutionRefused) as refused:
            await ledger.resolve(session.id, adoption(session_id=active.session_id), **ASKED)
        assert refused.value.holder == active.id
        with pytest.raises(SessionNotFound):
            await ledger.resolve("sess_unknown", Verdict.RETRY, **ASKED)
        wrong: list[dict[str, Any]] = [
            {"session_id": ""},
            {"expires_at": datetime(2024, 5, 20)},  # noqa: DTZ001 - this is the fault
            {"expires_at": datetime.max.replace(tzinfo=UTC)},
            {"expires_at": datetime.min.replace(tzinfo=UTC)},
            {"guest_token": "gt two"},
            {"guest_token": ""},
        ]
        for given in wrong:
            with pytest.raises(InvalidRequest, match=r"^(sessionId|expiresAt|token): ") as refusal:
                await ledger.resolve(session.id, adoption(**given), **ASKED)
            assert "gt two" not in str(refusal.value)
        with pytest.raises(InvalidRequest, match="reason"):
            await ledger.resolve(session.id, Verdict.RETRY, decided_by="ops", reason="")
        assert (await ledger.session(session.id)).version == session.version
