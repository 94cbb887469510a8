"""Resetting a limiter: what continues at once, what does not, and the trace it leaves."""

from typing import Any

import pytest

from guestledger.adapters.simulator import Simulator, SimulatorConfig
from guestledger.engine.domain.policy import Policy
from guestledger.engine.domain.session import Status
from guestledger.engine.ledger import Ledger
from guestledger.engine.limits.retry import RetryPolicy
from guestledger.engine.operations.conditions import ConditionName
from tests.unit.samples import request

CLOSED = """
    INSERT INTO limits (name, closed_at, closed_until, closed_by, failures, breaks)
    VALUES ($1, now(), now() + interval '1 h', 'retry_after', 0, 0)"""

PACED = """
    INSERT INTO limits (name, closed_at, closed_until, closed_by, failures, breaks, pace)
    VALUES ($1, now() - $2 * interval '1 min', now() - $2 * interval '1 min', 'retry_after', 0, 0,
            '{"rate": 47.2, "floor": 0.1, "learned_at": "2024-05-20T00:00:00Z"}')"""


async def test_a_reset_limiter_admits_due_steps_again(ledger: Ledger, sql: Any) -> None:
    limiter = ledger._adapters.provider.lookup_limiter
    await sql(CLOSED, limiter)
    session = await ledger.accept(request())
    assert await ledger.scheduler.run_once() == {}

    assert await ledger.limits.reset(limiter, requested_by="anna")

    await ledger.scheduler.run_once()
    assert (await ledger.session(session.id)).status is Status.ACTIVE


async def test_a_reset_keeps_retry_times_of_old_sessions_and_admits_new_ones(
    new_ledger: Any, simulator: Simulator
) -> None:
    simulator.config = SimulatorConfig(throttle_share=1.0, retry_after_s=600)
    async with new_ledger(policy=Policy(creation=RetryPolicy(base_ms=0))) as ledger:
        throttled = await ledger.open_session(request())
        deferred = await ledger.open_session(request())
        simulator.config = SimulatorConfig()
        [limiter] = await ledger.limits.states()

        assert await ledger.limits.reset(limiter, requested_by="anna")

        assert (await ledger.open_session(request())).status is Status.ACTIVE
        assert await ledger.scheduler.run_once() == {}
        for session in (throttled, deferred):
            [create, _] = (await ledger.why(session.id)).steps
            assert [(condition.name, condition.until) for condition in create.unmet] == [
                (ConditionName.DUE_TIME, session.retry_at)
            ]


async def test_resetting_a_known_limiter_logs_who_did_it(
    ledger: Ledger, sql: Any, caplog: pytest.LogCaptureFixture
) -> None:
    await sql(CLOSED, "api.example.com sessions")

    were_known = [await ledger.limits.reset("api.example.com sessions", requested_by="anna") for _ in range(2)]

    assert were_known == [True, False]
    assert [record.getMessage() for record in caplog.records if record.name == "guestledger"] == [
        "limiter 'api.example.com sessions' was reset by 'anna'"
    ]
    assert await ledger.limits.states() == {}


async def test_a_rate_is_listed_only_while_it_restricts(ledger: Ledger, sql: Any) -> None:
    for minutes in (14, 16):
        await sql(PACED, f"api.example.com {minutes}", minutes)
    await sql("UPDATE limits SET failures = 1 WHERE name LIKE '%16'")
    await sql(PACED, "api.example.com sessions", 60)

    states = await ledger.limits.states()

    assert {name: state.pace is not None for name, state in states.items()} == {
        "api.example.com 14": True,
        "api.example.com 16": False,
    }
