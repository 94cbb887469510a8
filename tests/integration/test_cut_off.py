"""Attempts whose process has ended: their doubt is recorded at once, even behind a limiter."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from guestledger.adapters.simulator import Simulator
from guestledger.engine.domain.events import CreationFailed
from guestledger.engine.domain.outcomes import FailureKind
from guestledger.engine.domain.policy import Policy
from guestledger.engine.domain.session import Session, Status
from guestledger.engine.ledger import Ledger
from guestledger.engine.limits.feedback import Feedback, Observation
from guestledger.engine.limits.policy import LimiterPolicy
from guestledger.engine.limits.retry import InDoubt, RetryPolicy
from tests.unit.samples import request

LATER = RetryPolicy(base_ms=3_600_000, cap_ms=3_600_000, deadline_ms=86_400_000)
HOUR_MS = 3_600_000


async def cut_off(ledger: Ledger, sql: Any, monkeypatch: pytest.MonkeyPatch, number: int) -> list[Session]:
    """This many sessions whose attempt is in flight, whose process has ended, and whose leases have lapsed."""
    in_flight = asyncio.Semaphore(0)

    async def hang(*_args: object) -> None:
        in_flight.release()
        await asyncio.Event().wait()

    sessions = [await ledger.accept(request()) for _ in range(number)]
    with monkeypatch.context() as patched:
        patched.setattr(ledger._adapters.provider, "create", hang)
        working = asyncio.create_task(ledger.scheduler.run_once())
        for _ in range(number):
            await in_flight.acquire()
        working.cancel()
        await asyncio.wait((working,))
    await sql("UPDATE due_steps SET lease_until = now()")
    return sessions


async def observe(ledger: Ledger, sql: Any, observation: Observation, closed_ms: int | None = None) -> None:
    [(now,)] = await sql("SELECT clock_timestamp()")
    limiter = ledger._adapters.provider.creation_limiter
    await ledger.limits._limiter.observe(
        Feedback(limiter=limiter, observation=observation, began_at=now, closed_ms=closed_ms)
    )


@pytest.mark.parametrize(
    ("in_doubt", "status"), [(InDoubt.RETRY_AND_RECORD, Status.IN_DOUBT), (InDoubt.PARK, Status.PARKED)]
)
async def test_a_cut_off_attempt_is_in_doubt_at_once_behind_a_closed_limiter(
    new_ledger: Callable[..., Any], sql: Any, monkeypatch: pytest.MonkeyPatch, in_doubt: InDoubt, status: Status
) -> None:
    policy = Policy(creation=LATER)
    async with new_ledger(policy=policy, cxone_in_doubt=in_doubt) as ledger, asyncio.timeout(60):
        [session] = await cut_off(ledger, sql, monkeypatch, 1)
        await observe(ledger, sql, Observation.THROTTLED, HOUR_MS)

        await ledger.scheduler.run_once()

        events = [recorded.event for recorded in await ledger.history(session.id)]
        assert [event.kind for event in events if isinstance(event, CreationFailed)] == [FailureKind.IN_DOUBT]
        assert (await ledger.session(session.id)).status is status


async def test_settling_a_cut_off_attempt_uses_no_reservation_and_no_probe(
    new_ledger: Callable[..., Any], simulator: Simulator, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = Policy(creation=LATER, limiter=LimiterPolicy(failures_in_a_row=1, break_ms=1, max_break_ms=1))
    async with new_ledger(policy=policy) as ledger, asyncio.timeout(60):
        cut = await cut_off(ledger, sql, monkeypatch, 3)
        fresh = await ledger.accept(request())
        await observe(ledger, sql, Observation.FAILED)
        await asyncio.sleep(0.01)

        await ledger.scheduler.run_once()

        assert (await ledger.session(fresh.id)).status is Status.ACTIVE, "it is the probe"
        for session in cut:
            assert (await ledger.session(session.id)).in_doubt
        assert [sent for sent in simulator.requests if sent.path.endswith("/sessions")]
