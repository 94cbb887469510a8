import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url

from guestledger.adapters import wiring
from guestledger.adapters.postgres.admin.embedded import start_embedded
from guestledger.adapters.postgres.admin.migrate import upgrade
from guestledger.adapters.postgres.admin.roles import runtime_login
from guestledger.adapters.settings import Settings
from guestledger.adapters.simulator import Simulator, SimulatorConfig
from guestledger.adapters.wiring import connect
from guestledger.engine.domain.errors import ServiceUnreachable
from guestledger.engine.domain.outcomes import CreationOutcome, FailureKind
from guestledger.engine.ledger import Ledger
from guestledger.engine.worker import scheduler
from tests.e2e import guests, raw_log
from tests.e2e.backlog import accept
from tests.e2e.command import ended, environment, started
from tests.postgres import crash
from tests.unit.samples import failed, request, throttled

SESSIONS = 300
LONG = 120
"""Seconds. Only a hang takes longer."""


async def until(reached: Callable[[], bool], scheduling: asyncio.Task[None]) -> None:
    async with asyncio.timeout(LONG):
        while not reached():
            assert not scheduling.done(), "the scheduler has ended"
            await asyncio.sleep(0.01)


@pytest.fixture
async def settings(data_dir: Path) -> AsyncIterator[Settings]:
    """The settings of a ledger on a server of its own, and of a simulator without faults."""
    url = await start_embedded(data_dir)
    await upgrade(url)
    login = await runtime_login(url, "guestledger")
    runtime = make_url(url).set(username=login).render_as_string(hide_password=False)
    async with Simulator(SimulatorConfig()) as simulator:
        yield Settings.from_env(environment(runtime, simulator))


async def open_while_it_crashes(ledger: Ledger, data_dir: Path, outcome: CreationOutcome | None = None) -> None:
    """Open a session, and crash the database before the answer is recorded. `outcome` replaces the simulator's answer."""
    whole = ledger._adapters.provider.create

    with pytest.MonkeyPatch.context() as patched:

        async def create(*given: Any) -> CreationOutcome:
            answer = await whole(*given)
            crash(data_dir)
            while (data_dir / "postgres" / "postmaster.pid").exists():  # until then, an append may still be committed
                await asyncio.sleep(0.01)
            # Not before: on a busy machine, appends take longer.
            patched.setattr(ledger._adapters.store, "_patience", 0.2)
            return outcome or answer

        patched.setattr(ledger._adapters.provider, "create", create)
        with pytest.raises(ServiceUnreachable):
            await ledger.open_session(request())


@pytest.mark.parametrize(
    ("outcome", "recorded"),
    [
        (None, "SessionCreated"),
        (throttled(600_000), "CreationThrottled"),
        (failed(FailureKind.FINAL, 400), "CreationFailed"),
    ],
    ids=["created", "throttled", "rejected"],
)
async def test_an_answer_received_during_a_database_outage_is_recorded_afterwards(
    settings: Settings, data_dir: Path, outcome: CreationOutcome | None, recorded: str
) -> None:
    async with connect(settings, scheduler=False) as ledger, asyncio.timeout(LONG):
        await open_while_it_crashes(ledger, data_dir, outcome)
        await start_embedded(data_dir)
        while ledger._opener._executor.recorder._unrecorded:
            await asyncio.sleep(0.05)
        counts = await raw_log.counts(settings.database_url)
        assert counts == {"ConsentRecorded": 1, "ChannelValidated": 1, "CreationAttempted": 1, recorded: 1}
        closed = [limiter for limiter in (await ledger.limits.states()).values() if limiter.closed_until]
        assert len(closed) == (recorded == "CreationThrottled")


async def test_an_answer_that_is_never_recorded_is_logged_without_secrets(
    settings: Settings, data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with asyncio.timeout(LONG):
        async with connect(settings, scheduler=False) as ledger:
            await open_while_it_crashes(ledger, data_dir)
    assert re.search(
        r"the answer to attempt 1 \(created sess_\w+\) is lost: the database did not come back", caplog.text
    )
    assert "gt_" not in caplog.text


async def test_a_scheduler_survives_a_database_crash_and_loses_no_session(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(wiring, "LEASE_MS", 2_000)
    url = await start_embedded(data_dir)
    await upgrade(url)
    login = await runtime_login(url, "guestledger")
    runtime = make_url(url).set(username=login).render_as_string(hide_password=False)
    async with Simulator(SimulatorConfig(slow_ms=50, honour_idempotency_key=False)) as simulator:
        settings = Settings.from_env(environment(runtime, simulator))
        backlog = await accept(settings, map(guests.guest, range(SESSIONS)))
        async with connect(settings, scheduler=False) as ledger:
            scheduling = asyncio.create_task(ledger.scheduler.run_forever())
            await until(lambda: len(simulator.sessions_by_key) > SESSIONS / 4, scheduling)

            crash(data_dir)
            await until(lambda: ledger.scheduler.trouble is not None, scheduling)
            assert len(simulator.sessions_by_key) < SESSIONS, "sessions were still to be opened"
            await start_embedded(data_dir)

            await until(lambda: len(simulator.sessions_by_key) == SESSIONS, scheduling)
            async with asyncio.timeout(LONG):
                while await raw_log.open_ended(url):
                    assert not scheduling.done(), "the scheduler has ended"
                    await asyncio.sleep(0.05)
            ledger.scheduler.stop()
            await scheduling

        assert await raw_log.accepted(url) == set(backlog)
        assert (await raw_log.counts(url))["SessionCreated"] == SESSIONS
        assert not await raw_log.sent_unrecorded(url, simulator)
        unknown = raw_log.remote_sessions(simulator) - await raw_log.known_sessions(url)
        in_doubt = "SELECT stream_id FROM events WHERE event_type = 'CreationFailed' AND data->>'kind' = 'in_doubt'"
        doubts = Counter(str(row[0]) for row in await raw_log.query(url, in_doubt))
        assert not Counter(key for key, _session_id in unknown) - doubts
    assert "Traceback" not in caplog.text


async def test_a_worker_until_idle_waits_for_the_database_and_finishes_its_work(
    settings: Settings, data_dir: Path
) -> None:
    assert settings.database_url is not None
    accepted = await accept(settings, map(guests.guest, range(SESSIONS)))
    async with Simulator(SimulatorConfig(slow_ms=50)) as simulator, asyncio.timeout(LONG):
        env = environment(settings.database_url, simulator)
        async with started("worker", "--until-idle", env=env) as process:
            while len(simulator.sessions_by_key) < SESSIONS / 4:
                assert process.returncode is None
                await asyncio.sleep(0.005)
            crash(data_dir)
            assert process.stderr is not None
            while b"has to wait" not in (line := await process.stderr.readline()):
                assert line, "the worker has ended"
            await start_embedded(data_dir)
            result = await ended(process)

        assert result.code == 0, result.err
        assert "Traceback" not in result.err
        assert await raw_log.accepted(settings.database_url) == set(accepted)
        assert not await raw_log.open_ended(settings.database_url)


async def test_run_until_idle_raises_when_the_database_stays_away(
    settings: Settings, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "_PATIENCE", timedelta(seconds=2))
    async with connect(settings, scheduler=False) as ledger, asyncio.timeout(LONG):
        crash(data_dir)
        began = ledger._adapters.clock.now()
        with pytest.raises(ServiceUnreachable):
            await ledger.scheduler.run_until_idle()
        assert ledger._adapters.clock.now() - began > scheduler._PATIENCE
