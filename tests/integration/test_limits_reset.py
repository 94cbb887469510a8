"""RateLimiter that a person opens: what that moves, what it does not, and what it leaves behind."""

from typing import Any

import pytest

from guestledger.adapters.simulator import Simulator, SimulatorConfig
from guestledger.engine.domain.lifecycle import Policy
from guestledger.engine.domain.session import Status
from guestledger.engine.ledger import Ledger
from guestledger.engine.limits.retry import RetryPolicy
from guestledger.engine.operations.explain import Wait
from tests.unit.samples import request

CLOSED = """
    INSERT INTO limiters (name, closed_at, closed_until, why, well, failures, breaks)
    VALUES ($1, now(), now() + interval '1 h', 'Retry-After of 3600000 ms', 0, 0, 0)"""


async def test_what_is_due_behind_a_gate_goes_on_once_a_person_opens_it(ledger: Ledger, sql: Any) -> None:
    limiter = ledger._provider.lookup_limiter
    await sql(CLOSED, limiter)
    session = await ledger.accept(request())
    assert await ledger.scheduler.run_once() == {}

    assert await ledger.limits.reset(limiter, requested_by="anna")

    await ledger.scheduler.run_once()
    assert (await ledger.session(session.id)).status is Status.ACTIVE


async def test_a_session_that_was_told_a_time_keeps_it_when_its_gate_is_opened_and_a_new_one_does_not_wait(
    new_ledger: Any, simulator: Simulator
) -> None:
    simulator.config = SimulatorConfig(throttle_share=1.0, retry_after_s=600)
    async with new_ledger(policy=Policy(creation=RetryPolicy(base_ms=0))) as ledger:
        throttled = await ledger.open_session(request())
        put_off = await ledger.open_session(request())
        simulator.config = SimulatorConfig()
        [limiter] = await ledger.limits.states()

        assert await ledger.limits.reset(limiter, requested_by="anna")

        assert (await ledger.open_session(request())).status is Status.ACTIVE
        assert await ledger.scheduler.run_once() == {}
        for session in (throttled, put_off):
            [held] = (await ledger.why(session.id)).holds
            assert (held.by, held.until) == (Wait.DUE, session.retry_at)


async def test_who_opened_a_gate_is_told_of_by_a_warning_and_only_where_there_was_one(
    ledger: Ledger, sql: Any, caplog: pytest.LogCaptureFixture
) -> None:
    await sql(CLOSED, "api.example.com sessions")

    opened = [await ledger.limits.reset("api.example.com sessions", requested_by="anna") for _ in range(2)]

    assert opened == [True, False]
    assert [record.getMessage() for record in caplog.records if record.name == "guestledger"] == [
        "limiter 'api.example.com sessions' was reset by 'anna'"
    ]
    assert await ledger.limits.states() == {}
