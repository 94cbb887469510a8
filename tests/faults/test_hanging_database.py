"""A database that hangs: its server accepts data and does not answer, as if its machine or disk had stopped."""

import asyncio
import os
import signal
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import create_async_engine

from guestledger.adapters.postgres.admin.embedded import start_embedded
from guestledger.adapters.postgres.admin.migrate import upgrade
from guestledger.adapters.postgres.admin.roles import runtime_login
from guestledger.adapters.settings import Settings
from guestledger.adapters.simulator import Simulator, SimulatorConfig
from guestledger.adapters.wiring import connect
from tests.e2e import guests
from tests.e2e.backlog import accept
from tests.e2e.command import ended, environment, started
from tests.unit.samples import request

SESSIONS = 300
LONG = 60
"""Seconds. Each part of a stop takes a few seconds at most."""

pytestmark = pytest.mark.skipif(not Path("/proc/self").exists(), reason="finding the server's processes needs /proc")


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with Simulator(SimulatorConfig(slow_ms=20)) as running:
        yield running


@pytest.fixture
async def settings(data_dir: Path, simulator: Simulator) -> Settings:
    url = await start_embedded(data_dir)
    await upgrade(url)
    login = await runtime_login(url, "guestledger")
    runtime = make_url(url).set(username=login).render_as_string(hide_password=False)
    return Settings.from_env(environment(runtime, simulator, drain_seconds="1"))


@contextmanager
def hanging(data_dir: Path) -> Iterator[None]:
    """Suspend the server and its backends during the block."""
    server = int((data_dir / "postgres" / "postmaster.pid").read_text().split()[0])
    os.kill(server, signal.SIGSTOP)  # first, so that it starts no more backends
    processes = [server, *map(int, Path(f"/proc/{server}/task/{server}/children").read_text().split())]
    try:
        for process in processes:
            os.kill(process, signal.SIGSTOP)
        yield
    finally:
        for process in reversed(processes):
            os.kill(process, signal.SIGCONT)


@pytest.mark.parametrize(
    "until_idle",
    [pytest.param((), marks=pytest.mark.slow, id="for ever"), pytest.param(("--until-idle",), id="until idle")],
)
async def test_a_busy_worker_stops_while_its_database_hangs(
    settings: Settings, simulator: Simulator, data_dir: Path, until_idle: tuple[str, ...]
) -> None:
    assert settings.database_url is not None
    await accept(settings, map(guests.guest, range(SESSIONS)))
    env = environment(settings.database_url, simulator, drain_seconds="1")
    async with started("worker", *until_idle, env=env) as process:
        while len(simulator.sessions_by_key) < SESSIONS / 4:
            assert process.returncode is None
            await asyncio.sleep(0.005)
        with hanging(data_dir):
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(LONG):
                result = await ended(process)
    assert result.code == 0, result.err
    assert "Traceback" not in result.err


async def test_an_idle_worker_stops_while_its_database_hangs(
    settings: Settings, simulator: Simulator, data_dir: Path
) -> None:
    assert settings.database_url is not None
    env = environment(settings.database_url, simulator, drain_seconds="1")
    async with started("worker", env=env) as process:
        while not simulator.counts["token 200"]:
            await asyncio.sleep(0.01)
        await asyncio.sleep(1)  # it listens, and has connections in its pool
        with hanging(data_dir):
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(LONG):
                result = await ended(process)
    assert result.code == 0, result.err


@pytest.mark.slow
async def test_open_stops_while_its_database_hangs(settings: Settings, simulator: Simulator, data_dir: Path) -> None:
    assert settings.database_url is not None
    env = environment(settings.database_url, simulator, drain_seconds="1")
    async with started("open", "-", env=env, stdin=PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(guests.as_lines(map(guests.guest, range(SESSIONS))))
        while len(simulator.sessions_by_key) < SESSIONS / 4:
            await asyncio.sleep(0.005)
        with hanging(data_dir):
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(LONG):
                result = await ended(process)
    assert result.code == 128 + signal.SIGTERM, result.err
    assert "Traceback" not in result.err


@pytest.mark.parametrize(
    "own_pool",
    [pytest.param(True, id="its own pool"), pytest.param(False, marks=pytest.mark.slow, id="the host's pool")],
)
async def test_an_embedded_ledger_closes_while_its_database_hangs(
    settings: Settings, data_dir: Path, *, own_pool: bool
) -> None:
    assert settings.database_url is not None
    engine = create_async_engine(make_url(settings.database_url).set(drivername="postgresql+asyncpg"))
    with ExitStack() as stack:
        async with AsyncExitStack() as ledgers:
            ledger = await ledgers.enter_async_context(connect(settings, engine=None if own_pool else engine))
            await asyncio.gather(*(ledger.open_session(request()) for _ in range(20)))
            opening = [asyncio.create_task(ledger.open_session(request())) for _ in range(20)]
            await asyncio.sleep(0.03)
            stack.enter_context(hanging(data_dir))
            async with asyncio.timeout(LONG):
                await ledgers.aclose()
    await asyncio.gather(*opening, return_exceptions=True)
    await engine.dispose()
