"""Outages are reported in the log, once each, and show in the health of the ledger."""

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from guestledger.adapters.simulator import Simulator, SimulatorConfig
from guestledger.adapters.telemetry.prometheus import metrics_text
from guestledger.engine.domain.due import StepName
from guestledger.engine.domain.policy import DeliveryPolicy, Policy
from guestledger.engine.limits.admission import DenialReason
from guestledger.engine.limits.policy import LimiterPolicy
from guestledger.engine.limits.retry import RetryPolicy
from guestledger.engine.worker import scheduler as schedulers
from guestledger.engine.worker.outages import OutageReporter
from tests.integration.conftest import NewLedger, NewLogin, Sql
from tests.limits import BRISK
from tests.unit.samples import request

LONG = 60  # seconds; only a hang takes longer
GUESTS = 20
BREAKS = LimiterPolicy(failures_in_a_row=3, break_ms=50, max_break_ms=100, retries_per_second=1_000.0)
PATIENT = RetryPolicy(base_ms=1, cap_ms=100, max_failures=1_000)
THROTTLING = SimulatorConfig(throttle_share=1.0, throttle_times=1_000, retry_after_s=600)
FAILING = SimulatorConfig(server_error_share=1.0, fault_times=10_000)


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Callable[[str], list[str]]:
    """`warnings(words)`: the warnings so far with these words."""

    def found(words: str) -> list[str]:
        records = [record for record in caplog.records if record.levelno >= logging.WARNING]
        return [record.getMessage() for record in records if words in record.getMessage()]

    return found


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(LONG):
        while not condition():
            await asyncio.sleep(0.01)


async def open_all(ledger: Any) -> None:
    await asyncio.gather(*(ledger.open_session(request()) for _ in range(GUESTS)))


async def test_a_circuit_is_reported_when_it_opens_and_when_it_closes(
    new_ledger: NewLedger, simulator: Simulator, warnings: Any
) -> None:
    simulator.config = FAILING
    async with new_ledger(scheduler=True, policy=Policy(limiter=BREAKS, creation=PATIENT)) as ledger:
        await open_all(ledger)
        await until(lambda: warnings("circuit is open after"))
        simulator.config = SimulatorConfig()
        await until(lambda: warnings("circuit is closed again"))
        async with asyncio.timeout(LONG):
            while (await ledger.health()).backlog:
                await asyncio.sleep(0.01)
    assert len(warnings("circuit is open after 3 failures in a row")) == 1
    assert len(warnings("circuit is closed again")) == 1


async def test_a_closed_limiter_is_reported_once_for_all_sessions(
    new_ledger: NewLedger, simulator: Simulator, warnings: Any
) -> None:
    simulator.config = THROTTLING
    async with new_ledger(policy=Policy(limiter=BRISK)) as ledger:
        await open_all(ledger)
    [line] = warnings("is closed for")
    assert "is closed for 600 s, until 20" in line
    assert "(retry_after)" in line


async def test_a_worker_reports_the_outages_that_it_finds_at_its_start(
    new_ledger: NewLedger, simulator: Simulator, caplog: pytest.LogCaptureFixture, warnings: Any
) -> None:
    simulator.config = THROTTLING
    async with new_ledger() as ledger:
        await open_all(ledger)
    caplog.clear()
    async with new_ledger(scheduler=True, policy=Policy(max_backlog_age_ms=0)):
        await until(lambda: warnings("is closed for") and warnings("backlog"))
    assert len(warnings("is closed for")) == 1
    assert len(warnings(f"; {GUESTS} sessions wait")) == 1


async def test_an_old_backlog_is_reported_once_with_its_size(
    new_ledger: NewLedger, simulator: Simulator, warnings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedulers, "_OUTAGES_MS", 1)
    looks, look = [], OutageReporter.look

    async def counted(*given: Any) -> None:
        await look(*given)
        looks.append(1)

    monkeypatch.setattr(OutageReporter, "look", counted)
    simulator.config = THROTTLING
    async with new_ledger() as ledger:
        await open_all(ledger)
    async with new_ledger(scheduler=True, policy=Policy(max_backlog_age_ms=0)):
        await until(lambda: len(looks) > 5)
    [line] = warnings("backlog: ")
    assert line.startswith(f"backlog: {GUESTS} accepted sessions wait, the oldest for ")


async def test_the_third_failure_of_a_webhook_is_reported_once_for_all_notices(
    new_ledger: NewLedger, simulator: Simulator, warnings: Any
) -> None:
    simulator.config = SimulatorConfig(webhook_status=500)
    policy = Policy(webhook=DeliveryPolicy(waits_ms=(0, 0, 0)), limiter=BRISK)
    async with new_ledger(webhook_url=simulator.webhook_url, policy=policy) as ledger:
        await open_all(ledger)
        assert (await ledger.health()).owed_webhooks == GUESTS
        await ledger.scheduler.run_until_idle()
    [line] = warnings("webhook receiver")
    assert "calls for one notice have failed 3 times" in line


async def test_health_shows_a_closed_limiter_and_what_waits(new_ledger: NewLedger, simulator: Simulator) -> None:
    simulator.config = THROTTLING
    async with new_ledger() as ledger:
        await open_all(ledger)
        health = await ledger.health()
        [denied] = health.limiters.values()
        assert denied.by is DenialReason.CLOSED
        assert (health.backlog, health.owed_webhooks) == (GUESTS, 0)
        assert health.backlog_seconds > 0
        assert health.projection_lag_seconds > 0
        await ledger.projections.catch_up()
        assert (await ledger.health()).projection_lag_seconds == 0


async def test_health_shows_an_open_circuit_also_between_two_probes(
    new_ledger: NewLedger, simulator: Simulator
) -> None:
    simulator.config = FAILING
    async with new_ledger(policy=Policy(limiter=BREAKS, creation=PATIENT)) as ledger:
        await open_all(ledger)
        await asyncio.sleep(BREAKS.break_ms / 1_000)  # from now on a probe may be sent
        [denied] = (await ledger.health()).limiters.values()
        assert denied.by is DenialReason.CIRCUIT_OPEN
        assert denied.failures >= BREAKS.failures_in_a_row


async def test_health_names_the_step_that_has_been_due_for_longest(new_ledger: NewLedger) -> None:
    async with new_ledger() as ledger:
        first = await ledger.accept(request())
        await ledger.accept(request())
        oldest = (await ledger.health()).oldest_due
        assert (oldest.step, oldest.due_at) == (StepName.VALIDATE_CHANNEL, first.accepted_at)
        await ledger.scheduler.run_until_idle()
        assert (await ledger.health()).oldest_due is None


async def test_health_names_a_stopped_projection(new_ledger: NewLedger, sql: Sql) -> None:
    async with new_ledger() as ledger:
        await sql(
            "UPDATE checkpoints SET error = 'a poison event', stopped_at = $1",
            datetime.fromisoformat("2024-05-20T14:21:59Z"),
        )
        stopped = (await ledger.health()).stopped_projections
    assert stopped == ("audit_log", "session_metrics", "sessions")


async def test_a_fault_of_the_database_makes_health_red_and_is_not_raised(new_ledger: NewLedger, sql: Sql) -> None:
    async with new_ledger() as ledger:
        await sql("ALTER TABLE due_steps RENAME COLUMN lease_until TO leased")
        reported, metrics = (await ledger.health()).database, (await metrics_text(ledger))[0]
        await sql("ALTER TABLE due_steps RENAME COLUMN leased TO lease_until")
    assert reported is not None
    assert "42703" in reported
    assert b"guestledger_up 0.0" in metrics


async def test_health_for_an_auditor_leaves_out_what_only_workers_read(
    new_ledger: NewLedger, new_login_at: NewLogin, ledger_url: str
) -> None:
    url = await new_login_at(ledger_url, "IN ROLE guestledger_auditor")
    async with new_ledger(database_url=url) as ledger:
        health = await ledger.health()
    assert (health.database, health.limiters, health.backlog) == (None, None, None)
    assert health.projection_lag_seconds == 0
