"""`open` and workers while the database is away: for a moment, or until somebody starts it again."""

import asyncio
import os
import signal
from asyncio.subprocess import Process
from pathlib import Path

import pytest

from guestledger.adapters.cli.outage import MAX_SECONDS
from guestledger.adapters.postgres.admin.embedded import start_embedded, stop_embedded
from guestledger.adapters.settings import Settings
from guestledger.adapters.simulator import Simulator, SimulatorConfig
from tests.e2e import guests, raw_log
from tests.e2e.backlog import accept
from tests.e2e.command import LIMIT_S, ended, environment, run, started
from tests.e2e.test_out_of_reach import but_for_losses, gone

REQUESTS = [guests.guest(number) for number in range(600)]


async def has_created(simulator: Simulator, sessions: int, process: Process) -> None:
    while len(simulator.sessions_by_key) < sessions:
        assert process.returncode is None
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("outages", [1, 3])
async def test_open_rides_out_short_outages_and_says_so(
    outages: int, postgres_server: str, database_url: str, tmp_path: Path
):
    file = guests.write_file(tmp_path, REQUESTS)
    async with Simulator(SimulatorConfig(slow_ms=20)) as simulator, asyncio.timeout(LIMIT_S):
        async with started("open", file, env=environment(database_url, simulator)) as process:
            for number in range(outages):
                await has_created(simulator, 50 + 100 * number, process)
                async with gone(postgres_server, database_url):
                    await asyncio.sleep(0.6)
            opened = await ended(process)
        assert opened.code == 0, opened.err
        assert [answer["status"] for answer in opened.out] == ["active"] * len(REQUESTS)
        said = opened.err.splitlines()
        assert len(said) >= 2
        for away, back in zip(said[::2], said[1::2], strict=True):
            assert away.endswith(f"waiting up to {MAX_SECONDS} s for it")
            assert back == "guestledger: the database answers again"
        assert raw_log.remote_sessions(simulator) == await raw_log.known_sessions(database_url)


async def test_open_ends_soon_when_the_database_is_gone_for_good(
    postgres_server: str, database_url: str, tmp_path: Path
):
    file = guests.write_file(tmp_path, REQUESTS * 5)
    async with Simulator(SimulatorConfig(slow_ms=20)) as simulator, asyncio.timeout(LIMIT_S):
        env = environment(database_url, simulator, drain_seconds="0.1")
        async with started("open", file, env=env) as process:
            await has_created(simulator, 50, process)
            async with gone(postgres_server, database_url):
                opened = await ended(process)

    assert opened.code == 2
    assert [answer["line"] for answer in opened.out] == list(range(1, len(REQUESTS) * 5 + 1))
    reasons = [answer["error"]["reason"] for answer in opened.out if "error" in answer]
    assert sum(reason.startswith("not accepted: the database cannot be used") for reason in reasons) > 2_000
    first, last = but_for_losses(opened).err.splitlines()
    assert first.endswith(f"waiting up to {MAX_SECONDS} s for it")
    assert "lines are not accepted" in last
    assert "guestledger worker" in last


@pytest.mark.parametrize(
    "name", ["plain", *(pytest.param(name, marks=pytest.mark.slow) for name in ("long-" * 30, "with, a comma"))]
)
async def test_a_killed_embedded_server_is_started_by_a_running_worker(data_dir: Path, tmp_path: Path, name: str):
    # PostgreSQL cannot use the later names for a socket: each start has a new directory for it.
    place = data_dir / name
    try:
        async with Simulator() as simulator, asyncio.timeout(LIMIT_S):
            env = environment(None, simulator, data_dir=str(place))
            opened = await run("open", guests.write_file(tmp_path, REQUESTS[:5]), env=env)
            assert opened.code == 0, opened.err
            async with started("worker", env=env) as worker:
                accepted = await accept(Settings(data_dir=place), REQUESTS[5:6])
                await has_created(simulator, 6, worker)  # it is past its beginning then, where it would end
                killed = postmaster(place)
                os.kill(killed, signal.SIGKILL)
                while not running(place) or postmaster(place) == killed:  # no command is run meanwhile
                    assert worker.returncode is None
                    await asyncio.sleep(0.05)
                accepted += await accept(Settings(data_dir=place), REQUESTS[6:10])
                await has_created(simulator, 10, worker)
                worker.send_signal(signal.SIGTERM)
                worked = await ended(worker)
            assert worked.code == 0
            assert "GUESTLEDGER_DATABASE_URL" not in worked.err
            assert "Traceback" not in worked.err
            known = await raw_log.known_sessions(await start_embedded(place))
            assert known == raw_log.remote_sessions(simulator)
            assert set(map(str, accepted)) <= {key for key, _ in known}
    finally:
        await stop_embedded(place)


async def test_a_stopped_embedded_server_stays_stopped_beside_a_worker(data_dir: Path):
    async with Simulator() as simulator, asyncio.timeout(LIMIT_S):
        env = environment(None, simulator, data_dir=str(data_dir))
        async with started("worker", env=env) as worker:
            while not simulator.counts["token 200"]:
                assert worker.returncode is None
                await asyncio.sleep(0.02)
            assert (await run("db", "stop", env=env)).code == 0
            assert worker.stderr is not None
            line = await worker.stderr.readline()
            await asyncio.sleep(1)
            assert not (data_dir / "postgres" / "postmaster.pid").exists()
            worker.send_signal(signal.SIGTERM)
            assert (await ended(worker)).code == 0
    assert b"GUESTLEDGER_DATABASE_URL" not in line


def postmaster(data_dir: Path) -> int:
    return int((data_dir / "postgres" / "postmaster.pid").read_text().split()[0])


def running(data_dir: Path) -> bool:
    try:
        return Path(f"/proc/{postmaster(data_dir)}/cwd").samefile(data_dir / "postgres")
    except (OSError, IndexError, ValueError):
        return False
