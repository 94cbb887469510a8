import asyncio
import signal
from asyncio.subprocess import Process
from collections.abc import Callable
from pathlib import Path

import pytest

from guestledger.adapters.postgres.admin.embedded import start_embedded
from guestledger.adapters.postgres.admin.migrate import upgrade
from guestledger.adapters.settings import Settings
from guestledger.adapters.simulator import Simulator
from guestledger.adapters.wiring import connect
from guestledger.engine.domain.errors import ServiceUnreachable
from guestledger.engine.domain.request import GuestRequest, parse_request
from guestledger.engine.ledger import Ledger
from tests.e2e import guests, raw_log
from tests.e2e.command import LIMIT_S, ended, started
from tests.faults.servers import SERVERS, environment_at
from tests.postgres import crash

CALLERS = 32
MAX_AHEAD = 200
"""At most this many sessions are accepted and not created, so that acceptances continue to the end of the run."""
_, NO_KEYS = SERVERS


@pytest.mark.parametrize(("sessions", "stops"), [(400, 2), pytest.param(5_000, 10, marks=pytest.mark.slow)])
async def test_repeated_postgres_crashes_lose_nothing_and_repeat_no_step(
    data_dir: Path, sessions: int, stops: int, report_line: Callable[[str], None]
):
    url = await start_embedded(data_dir)
    await upgrade(url)
    # This server makes a session for each request, so a request that is sent twice shows.
    async with Simulator(NO_KEYS.config(slow_ms=50)) as simulator:
        env = environment_at(NO_KEYS, simulator, data_dir=str(data_dir))
        async with started("worker", env=env) as worker, connect(Settings.from_env(env), scheduler=False) as ledger:
            accepting = asyncio.create_task(accept_all(ledger, simulator, sessions))
            for stop in range(1, stops + 1):
                await made(simulator, sessions * stop // (stops + 1), worker)
                crash(data_dir)
                await start_embedded(data_dir)
            await accepting
            await made(simulator, sessions, worker)
            async with asyncio.timeout(LIMIT_S):
                while await ledger.scheduler.unfinished():
                    await asyncio.sleep(0.1)
            worker.send_signal(signal.SIGTERM)
            result = await ended(worker)

        assert result.code == 0, result.err
        assert "Traceback" not in result.err
        report_line(
            f"Postgres was stopped {stops} times at once during {sessions} sessions: {result.err.count(chr(10))} warnings"
        )
        await assert_each_step_was_taken_once(url, simulator, sessions)


async def accept_all(ledger: Ledger, simulator: Simulator, sessions: int) -> None:
    """Accept this many requests. One that fails for lack of the database is repeated with the same key."""
    numbers = iter(range(sessions))

    async def caller() -> None:
        for number in numbers:
            while number - len(simulator.sessions_by_key) > MAX_AHEAD:
                await asyncio.sleep(0.01)
            request = parse_request(guests.as_lines([guests.guest(number, idempotencyKey=f"guest-{number}")]))
            await accept(ledger, request)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(CALLERS):
            tasks.create_task(caller())


async def accept(ledger: Ledger, request: GuestRequest) -> None:
    while True:
        try:
            await ledger.accept(request)
        except ServiceUnreachable:
            await asyncio.sleep(0.1)
        else:
            return


async def made(simulator: Simulator, sessions: int, worker: Process) -> None:
    """Return as soon as the simulator has made a session for this many keys."""
    async with asyncio.timeout(LIMIT_S):
        while len(simulator.sessions_by_key) < sessions:
            assert worker.returncode is None, (await ended(worker)).err
            await asyncio.sleep(0.001)


async def assert_each_step_was_taken_once(url: str, simulator: Simulator, sessions: int) -> None:
    steps = ("ConsentRecorded", "ChannelValidated", "CreationAttempted", "SessionCreated", "WebhookSynced")
    assert await raw_log.counts(url) == dict.fromkeys(steps, sessions)
    assert raw_log.remote_sessions(simulator) == await raw_log.known_sessions(url)
    assert sum(map(len, simulator.sessions_by_key.values())) == sessions
    [(first, last, events)] = await raw_log.query(url, "SELECT min(position), max(position), count(*) FROM events")
    assert (first, last + 1) == (0, events), "positions are dense"
