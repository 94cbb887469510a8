"""The rate of opened sessions while another transaction holds an old snapshot, as `pg_dump` or a forgotten `psql` does.

Two databases of one server take turns, so that both see the same load of the machine. In one of them a transaction keeps the
snapshot that it took before the first session: no row version that was replaced since can be removed.
"""

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median

from sqlalchemy.engine import make_url

from guestledger.adapters.cli.running import collect_garbage_rarely
from guestledger.adapters.postgres.admin.embedded import start_embedded
from guestledger.adapters.postgres.admin.migrate import upgrade
from guestledger.adapters.wiring import connect
from guestledger.engine.ledger import Ledger
from tests import logs
from tests.bench.figures import Figure
from tests.bench.opening import REQUEST, at_once, engine_rate, finished, settings_at, simulator

SESSIONS = 40_000
ROUND = 1_000
LIMIT = 0.9
LAST = 8
"""So many rounds at the end count: the snapshot is oldest then."""


async def run(data_dir: Path) -> AsyncIterator[Figure]:
    """The rates beside a held snapshot, over those without, in the last rounds."""
    collect_garbage_rarely()
    url = await start_embedded(data_dir)
    opened: list[list[float]] = []
    accepted: list[list[float]] = []
    async with AsyncExitStack() as stack:
        place = await stack.enter_async_context(simulator())
        beside, without = [await _database(url, name) for name in ("beside", "without")]
        await _hold_snapshot(stack, beside)
        ledgers = [
            await stack.enter_async_context(connect(settings_at(place, database_url=each, allow_owner=True)))
            for each in (beside, without)
        ]
        for _ in range(SESSIONS // ROUND // 2):
            opened.append([await engine_rate(ledger, ROUND, []) for ledger in ledgers])
            accepted.append([await _worker_rate(ledger) for ledger in ledgers])
    for name, rounds in (("opened", opened), ("accepted, opened by a worker", accepted)):
        last = rounds[-LAST:]
        yield Figure(
            name=f"{name}, snapshot {SESSIONS:,} sessions old",
            value=median(rates[0] for rates in last),
            unit="sessions/s",
            against=f"no snapshot, at least {LIMIT}",
            ratio=median(rates[0] / rates[1] for rates in last),
        )


async def _worker_rate(ledger: Ledger) -> float:
    """The same for sessions that are only accepted: each of their steps is claimed."""

    async def one() -> None:
        await ledger.accept(REQUEST)

    began = time.perf_counter()
    await at_once(one, ROUND)
    await finished(ledger)
    return ROUND / (time.perf_counter() - began)


async def _database(url: str, name: str) -> str:
    connection = await logs.connect(url)
    await connection.execute(f"CREATE DATABASE {name}")
    await connection.close()
    made = make_url(url).set(database=name).render_as_string(hide_password=False)
    await upgrade(made)
    return made


async def _hold_snapshot(stack: AsyncExitStack, url: str) -> None:
    connection = await logs.connect(url)
    stack.push_async_callback(connection.close)
    await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    await connection.fetch("SELECT FROM guestledger.events LIMIT 1")
