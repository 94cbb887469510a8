"""Recovery: workers with 1,000 sessions in flight are killed; when has another worker taken on the last of them?

In flight is a session whose creation CXone has been asked for and has not answered. A worker has 64 of them at most, so 16
processes have the thousand, and all are killed at one moment. The one that takes over is running by then, and finds nothing to
do. It has taken a session on when it has recorded something of it; times are the database's.
"""

import asyncio
from asyncio.subprocess import Process
from contextlib import AsyncExitStack
from pathlib import Path
from uuid import UUID

from sqlalchemy import make_url

from adapters.postgres.embedded import start_embedded, stop_embedded
from adapters.postgres.migrate import upgrade
from adapters.postgres.roles import runtime_login
from adapters.simulator import Knobs, Simulator
from adapters.wiring import LEASE_MS
from tests.bench.figures import Figure
from tests.e2e import guests, raw_log
from tests.e2e.backlog import accept
from tests.e2e.command import environment, started

SESSIONS = 1_000
WORKERS = 16
CONNECTIONS = 400
"""More than the server allows by itself: each worker has up to eight."""
SWEEP_MS = 300
"""The scheduler's interval between two claims, 200 ms, at its longest."""
TAKEN_ON = """
    SELECT count(*), extract(epoch FROM max(at) - $2)::float
      FROM (SELECT min(recorded_at) AS at FROM events WHERE stream_id = ANY($1) AND recorded_at > $2
             GROUP BY stream_id) AS taken_on"""


async def run(data_dir: Path) -> list[Figure]:
    """Seconds until the last one was taken on, beside the lease and one sweep."""
    url = await _server(data_dir)
    async with AsyncExitStack() as stack:
        # Each session is made at once, and its answer does not come.
        simulator = await stack.enter_async_context(Simulator(Knobs(hang_share=1)))
        env = environment(None, simulator, data_dir=str(data_dir))
        workers = [await stack.enter_async_context(started("worker", env=env)) for _ in range(WORKERS)]
        await _began(simulator, WORKERS)
        accepted = await accept(await _for_runtime(url), map(guests.guest, range(SESSIONS)))
        while len(simulator.sessions_by_key) < SESSIONS:
            await asyncio.sleep(0.01)
        await stack.enter_async_context(started("worker", env=env))
        await _began(simulator, WORKERS + 1)
        seconds = await _until_taken_on(url, accepted, workers)
    limit = (LEASE_MS + SWEEP_MS) / 1_000
    return [
        Figure(
            name=f"kill -9 with {SESSIONS:,} in flight, the last one is taken on",
            value=seconds,
            unit="s",
            against=f"lease and one sweep ({limit} s), at most 1.0",
            ratio=seconds / limit,
        )
    ]


async def _server(data_dir: Path) -> str:
    url = await start_embedded(data_dir)
    await upgrade(url)
    await raw_log.query(url, f"ALTER SYSTEM SET max_connections = {CONNECTIONS}")
    await stop_embedded(data_dir)
    return await start_embedded(data_dir)


async def _for_runtime(url: str) -> str:
    user = await runtime_login(url, "guestledger")
    return make_url(url).set(username=user).render_as_string(hide_password=False)


async def _began(simulator: Simulator, workers: int) -> None:
    while simulator.counts["token 200"] < workers:  # each fetches one as it begins
        await asyncio.sleep(0.01)


async def _until_taken_on(url: str, held: list[UUID], workers: list[Process]) -> float:
    [(in_flight, now)] = await raw_log.query(
        url, "SELECT count(*) FILTER (WHERE lease_until > now()), clock_timestamp() FROM due_work"
    )
    assert in_flight == len(held), f"{in_flight} are in flight"
    for worker in workers:
        worker.kill()
    while True:
        [(taken_on, seconds)] = await raw_log.query(url, TAKEN_ON, held, now)
        if taken_on == len(held):
            return float(seconds)
        await asyncio.sleep(0.2)
