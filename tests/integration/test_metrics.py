"""The metrics of a ledger, as Prometheus would read them."""

import asyncio
import re
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from guestledger.adapters.simulator import Simulator, SimulatorConfig
from guestledger.adapters.telemetry import prometheus
from guestledger.adapters.telemetry.endpoints import healthz, readyz
from guestledger.adapters.telemetry.prometheus import metrics_text
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.due import StepName
from guestledger.engine.domain.errors import ServiceUnreachable
from guestledger.engine.domain.events import EVENT_TYPES
from guestledger.engine.domain.policy import Policy
from guestledger.engine.domain.session import Status
from guestledger.engine.ledger import Ledger
from guestledger.engine.limits.retry import InDoubt, RetryPolicy
from guestledger.engine.ports.telemetry import RequestPurpose
from tests.integration.conftest import AT_ONCE, NewLedger
from tests.unit.samples import request


@pytest.fixture(autouse=True)
def always_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prometheus, "_FRESH_SECONDS", 0.0)


async def samples(ledger: Ledger) -> list[Sample]:
    body, content_type = await metrics_text(ledger)
    assert content_type.startswith("text/plain")
    return [sample for family in text_string_to_metric_families(body.decode()) for sample in family.samples]


async def values(ledger: Ledger) -> dict[str, float]:
    """The samples, by name and label values."""
    return {" ".join([sample.name, *sample.labels.values()]): sample.value for sample in await samples(ledger)}


async def test_a_session_is_counted_by_step_outcome_and_event(ledger: Ledger):
    await ledger.open_session(request())
    found = await values(ledger)

    assert found["guestledger_up"] == 1
    assert found["guestledger_attempts_total created"] == 1
    assert found["guestledger_lookups_total usable"] == 1
    assert found["guestledger_events_total SessionCreated"] == 1
    assert found["guestledger_events_total SessionParked"] == 0
    assert found["guestledger_open_seconds_count active"] == 1
    assert found["guestledger_request_seconds_count session"] == 1
    assert found["guestledger_append_seconds_count"] == 4 == found["guestledger_append_batch_size_sum"]
    assert found["guestledger_due_steps waiting expire_token"] == 1
    assert found["process_cpu_seconds_total"] > 0


async def test_outcomes_are_counted_by_their_kind(ledger: Ledger, simulator: Simulator):
    simulator.config = SimulatorConfig(throttle_share=1.0, retry_after_s=60)
    await ledger.open_session(request())
    found = await values(ledger)

    assert found["guestledger_attempts_total throttled"] == 1
    [name] = [name for name in found if name.startswith("guestledger_limiter_closed ")]
    assert found[name] == 1
    assert found[name.replace("closed", "opens_in_seconds")] > 0
    assert found["guestledger_backlog_sessions"] == 1


async def test_a_claimed_step_is_observed_from_due_to_start(new_ledger: NewLedger, ledger: Ledger):
    await ledger.accept(request())
    await ledger.scheduler.run_once()
    found = await values(ledger)

    assert found["guestledger_schedule_to_start_seconds_count validate_channel"] == 1
    assert "guestledger_schedule_to_start_seconds_count create_session" not in found, "the same claim goes on"


async def test_due_steps_are_counted_by_state(ledger: Ledger):
    await ledger.accept(request())
    found = await values(ledger)
    assert found["guestledger_due_steps due validate_channel"] == 1
    assert found["guestledger_oldest_due_seconds validate_channel"] > 0
    assert found["guestledger_due_steps waiting enforce_deadline"] == 1
    assert found["guestledger_projection_lag_events sessions"] == 1

    await ledger.scheduler.run_once()
    found = await values(ledger)
    assert found["guestledger_due_steps due validate_channel"] == 0
    assert found["guestledger_oldest_due_seconds validate_channel"] == 0
    assert found["guestledger_projection_lag_events sessions"] == 0


async def test_a_parked_session_is_counted(new_ledger: NewLedger, simulator: Simulator):
    simulator.config = SimulatorConfig(drop_share=1.0)
    policy = Policy(creation=RetryPolicy(base_ms=0, in_doubt=InDoubt.PARK), limiter=AT_ONCE.limiter)
    async with new_ledger(policy=policy, cxone_in_doubt=InDoubt.PARK) as ledger:
        session = await ledger.open_session(request())
        await ledger.scheduler.run_once()
        assert (await ledger.session(session.id)).status is Status.PARKED
        assert (await values(ledger))["guestledger_doubtful_sessions parked"] == 1


async def test_the_lag_of_consumers_is_shown(ledger: Ledger):
    called = asyncio.Event()

    async def hang(_events: object) -> None:
        called.set()
        await asyncio.Event().wait()

    await ledger.accept(request())
    consuming = asyncio.create_task(ledger.events.consume("warehouse", hang))
    await called.wait()
    consuming.cancel()
    await asyncio.wait((consuming,))

    found = await values(ledger)
    assert found["guestledger_consumer_lag_events warehouse"] == 1
    assert found["guestledger_consumer_running warehouse"] == 0


async def test_no_label_has_unbounded_values(new_ledger: NewLedger, simulator: Simulator):
    simulator.config = SimulatorConfig(throttle_share=0.2, retry_after_s=0, server_error_share=0.2, drop_share=0.2)
    async with new_ledger(webhook_url=simulator.webhook_url) as ledger:
        opened = [await ledger.open_session(request(channel_id=f"ch_{number}")) for number in range(40)]
        await ledger.scheduler.run_once()
        found = list(await samples(ledger))

    bounds: dict[str, frozenset[str] | re.Pattern[str]] = {
        "step": frozenset(StepName),
        "state": frozenset({"due", "waiting", "leased"}),
        "status": frozenset(Status) | {"error"},
        "event": frozenset(EVENT_TYPES),
        "purpose": frozenset(RequestPurpose),
        "projection": frozenset({"sessions", "session_metrics", "audit_log"}),
        "outcome": re.compile(r"[a-z_]+"),
        "le": re.compile(r"[\d.]+|\+Inf"),
        "limiter": re.compile(r"127\.0\.0\.1:\d+ (sessions|channels|token|webhook)"),
    }
    assert len(opened) == 40
    for name, value in _labels(found):
        bound = bounds[name]
        assert value in bound if isinstance(bound, frozenset) else bound.fullmatch(value), (name, value)
    assert len({value for name, value in _labels(found) if name == "outcome"}) <= 12


def _labels(found: list[Sample]) -> Iterator[tuple[str, str]]:
    return ((name, value) for sample in found for name, value in sample.labels.items())


async def test_without_the_database_what_was_counted_is_still_shown(ledger: Ledger, monkeypatch: pytest.MonkeyPatch):
    await ledger.open_session(request())

    async def away() -> None:
        raise ServiceUnreachable("database", Cause.SERVICE_UNAVAILABLE, "away")

    monkeypatch.setattr(ledger.checks, "gauges", away)
    found = await values(ledger)

    assert found["guestledger_up"] == 0
    assert found["guestledger_attempts_total created"] == 1
    assert not any(name.startswith("guestledger_due_steps") for name in found)


async def test_a_database_that_hangs_ends_no_scrape(ledger: Ledger, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(prometheus, "_LIMIT_SECONDS", 0.01)
    monkeypatch.setattr(ledger.checks, "gauges", asyncio.Event().wait)

    assert (await values(ledger))["guestledger_up"] == 0


async def test_scrapes_within_two_seconds_share_one_look(ledger: Ledger, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(prometheus, "_FRESH_SECONDS", 600.0)
    looks, read = [], ledger.checks.gauges

    async def counted() -> object:
        looks.append(1)
        return await read()

    monkeypatch.setattr(ledger.checks, "gauges", counted)
    await asyncio.gather(*(metrics_text(ledger) for _ in range(5)))

    assert len(looks) == 1


async def test_readiness_names_what_is_wrong(ledger: Ledger, monkeypatch: pytest.MonkeyPatch):
    assert (await healthz()).status == 200
    assert (await readyz(ledger)).status == 200
    worker = await readyz(ledger, works=True)
    assert (worker.status, b"no scheduler runs in this process" in worker.body) == (503, True)

    async def away() -> None:
        raise ServiceUnreachable("database", Cause.SERVICE_UNAVAILABLE, "away")

    monkeypatch.setattr(ledger._adapters.store, "check", away)
    answer = await readyz(ledger)
    assert (answer.status, b"away" in answer.body) == (503, True)
