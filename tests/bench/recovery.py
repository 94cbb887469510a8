"""How long until a worker has taken over 1,000 sessions of killed processes.

In flight is a session whose creation has been sent and not answered. Four `guestledger open` have 250 each and are killed at
the same moment. The worker that takes over is already running, and idle. It has taken over a session when it has recorded
an event of it; times are the database's.
"""

import asyncio
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from uuid import UUID

from guestledger.adapters.postgres.admin.embedded import start_embedded, stop_embedded
from guestledger.adapters.postgres.admin.migrate import upgrade
from guestledger.adapters.simulator import Simulator, SimulatorConfig
from guestledger.adapters.wiring import LEASE_MS
from guestledger.engine.worker.wakeups import POLL_MS
from tests.bench.figures import Figure
from tests.e2e import guests, raw_log
from tests.e2e.command import environment, started

SESSIONS = 1_000
WORKERS = 4
CONNECTIONS = 400
"""More than the server allows by itself: each worker has up to eight."""
SWEEP_MS = 2 * POLL_MS
"""The longest that a worker sleeps without a hint."""
TAKEN_ON = """
    SELECT count(*), extract(epoch FROM max(at) - $2)::float
      FROM (SELECT min(recorded_at) AS at FROM events WHERE stream_id = ANY($1) AND recorded_at > $2
             GROUP BY stream_id) AS taken_on"""


async def run(data_dir: Path) -> AsyncIterator[Figure]:
    """Seconds until the last one was taken on, beside the lease and one sweep."""
    url = await _server(data_dir)
    async with AsyncExitStack() as stack:
        # Each session is made at once, and its answer does not come.
        simulator = await stack.enter_async_context(Simulator(SimulatorConfig(hang_share=1)))
        env = environment(None, simulator, data_dir=str(data_dir))
        workers = []
        for part in range(WORKERS):
            (data_dir / f"part{part}").mkdir()
            size = SESSIONS // WORKERS
            requests = map(guests.guest, range(part * size, (part + 1) * size))
            file = guests.write_file(data_dir / f"part{part}", requests)
            command = started("open", file, "--concurrency", str(size), env=env)
            workers.append(await stack.enter_async_context(command))
        while len(simulator.sessions_by_key) < SESSIONS:
            await asyncio.sleep(0.01)
        accepted = list(await raw_log.accepted(url))
        await stack.enter_async_context(started("worker", env=env))
        await _began(simulator, WORKERS + 1)
        seconds = await _until_taken_on(url, accepted, workers)
    limit = (LEASE_MS + SWEEP_MS) / 1_000
    yield Figure(
        name=f"kill -9 with {SESSIONS:,} in flight, the last one is taken on",
        value=seconds,
        unit="s",
        against=f"lease and one sweep ({limit} s), at most 1.0",
        ratio=seconds / limit,
    )


async def _server(data_dir: Path) -> str:
    url = await start_embedded(data_dir)
    await upgrade(url)
    await raw_log.query(url, f"ALTER SYSTEM SET max_connections = {CONNECTIONS}")
    await stop_embedded(data_dir)
    return await start_embedded(data_dir)


async def _began(simulator: Simulator, workers: int) -> None:
    while simulator.counts["token 200"] < workers:  # each fetches one as it begins
        await asyncio.sleep(0.01)


async def _until_taken_on(url: str, held: list[UUID], workers: list[Process]) -> float:
    [(in_flight, now)] = await raw_log.query(
        url, "SELECT count(*) FILTER (WHERE lease_until > now()), clock_timestamp() FROM due_steps"
    )
    assert in_flight == len(held), f"{in_flight} are in flight"
    for worker in workers:
        worker.kill()
    while True:
        [(taken_on, seconds)] = await raw_log.query(url, TAKEN_ON, held, now)
        if taken_on == len(held):
            return float(seconds)
        await asyncio.sleep(0.2)
