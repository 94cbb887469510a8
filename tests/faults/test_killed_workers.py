import asyncio
import os
import random
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from itertools import count

import pytest

from guestledger.adapters.settings import Settings
from guestledger.adapters.simulator import Simulator
from guestledger.adapters.wiring import connect
from guestledger.engine.domain.request import parse_request
from tests import postgres
from tests.e2e import guests, raw_log
from tests.e2e.command import ended, killed, started
from tests.faults.servers import SERVERS, Server, assert_none_silent, environment_at

SHORT_LEASES = (sys.executable, "-m", "tests.faults.short_leases")
AT_ONCE = 2
"""So many workers live at a time, at each server."""
SESSIONS_PER_SECOND = 30
ROUGH = {
    "slow_ms": 200,
    "quota": 25,
    "retry_after_s": 1,
    "hang_share": 0.1,
    "hang_s": 1.5,
    "drop_share": 0.05,
    "drop_before_share": 0.05,
    "server_error_share": 0.05,
    "error_after_processing": True,
}


@pytest.mark.parametrize(
    "kills", [4, *[pytest.param(25, marks=pytest.mark.slow, id=f"25, {part} of 4") for part in range(1, 5)]]
)
async def test_workers_killed_at_random_moments_lose_no_session(
    runtime_server: str,
    migrated_template: str,
    kills: int,
    report_line: Callable[[str], None],
    request: pytest.FixtureRequest,
):
    seed = os.environ.get("KILL_SEED") or secrets.token_hex(4)
    report_line(f"workers were killed at {kills} random moments at each of two servers: KILL_SEED={seed}")

    async def at(server: Server) -> None:
        chance = random.Random(f"{seed} {server.name} {request.node.name}")
        moments = iter([chance.uniform(0.1, 1.5) for _ in range(kills)])
        async with (
            postgres.new_database(runtime_server, migrated_template) as database_url,
            Simulator(server.config(**ROUGH)) as simulator,
        ):
            env = environment_at(server, simulator, database_url)
            await work_and_kill(env, simulator, moments)
            async with started("worker", "--until-idle", env=env, program=SHORT_LEASES) as last:
                worked = await ended(last)

            assert worked.code == 0, worked.err
            assert not await raw_log.open_ended(database_url)
            assert not await raw_log.sent_unrecorded(database_url, simulator)
            await assert_none_silent(database_url, simulator, server)
            report_line(await what_happened(database_url, simulator, server))

    async with asyncio.TaskGroup() as tasks:
        for server in SERVERS:
            tasks.create_task(at(server))


async def work_and_kill(env: dict[str, str], simulator: Simulator, moments: Iterator[float]) -> None:
    """Accept sessions all the time. Each worker is killed after the next number of seconds in `moments`."""
    starting = asyncio.Lock()
    async with asyncio.TaskGroup() as tasks:
        feeding = tasks.create_task(feed(Settings.from_env(env)))
        async with asyncio.TaskGroup() as killing:
            for _ in range(AT_ONCE):
                killing.create_task(start_and_kill(env, simulator, moments, starting))
        feeding.cancel()


async def feed(settings: Settings) -> None:
    async with connect(settings, scheduler=False) as ledger:
        for number in count():
            await ledger.accept(parse_request(guests.as_lines([guests.guest(number)])))
            await asyncio.sleep(1 / SESSIONS_PER_SECOND)


async def start_and_kill(
    env: dict[str, str], simulator: Simulator, moments: Iterator[float], starting: asyncio.Lock
) -> None:
    for lifetime in moments:
        async with AsyncExitStack() as stack:
            async with starting:
                tokens = simulator.counts["token 200"]
                worker = await stack.enter_async_context(started("worker", env=env, program=SHORT_LEASES))
                while simulator.counts["token 200"] == tokens:  # each worker fetches one first
                    assert worker.returncode is None, (await ended(worker)).err
                    await asyncio.sleep(0.01)
            await asyncio.sleep(lifetime)
            await killed(worker)


async def what_happened(database_url: str, simulator: Simulator, server: Server) -> str:
    [(cut_off,)] = await raw_log.query(
        database_url, "SELECT count(*) FROM events WHERE data->>'cause' = 'process_ended'"
    )
    counts = await raw_log.counts(database_url)
    made = simulator.sessions_by_key.values()
    return (
        f"at {server.name}: {counts['ConsentRecorded']} sessions, {cut_off} attempts cut off; "
        f"{sum(map(len, made)) - len(made)} surplus remote sessions, none of them silent"
    )
