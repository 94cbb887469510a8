"""Sessions per second while an idle transaction elsewhere holds a snapshot, beside the same without one.

Such a snapshot, as of a forgotten `psql` or a long report, keeps every dead row version. Each side has a database of its own on
one server, and a provider and a webhook in memory: the database is the limit. The scheduler runs beside the callers, who either
open their sessions, or have them accepted and leave all steps to it. A session counts once its webhook is taken.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
from sqlalchemy import make_url, text

from guestledger.adapters.postgres.admin.embedded import start_embedded
from guestledger.adapters.postgres.admin.migrate import upgrade
from guestledger.adapters.postgres.admin.roles import runtime_login
from guestledger.adapters.postgres.pool import open_engine
from guestledger.engine.ledger import Ledger
from tests.bench.figures import Figure
from tests.bench.peers.rounds import at_once
from tests.bench.working import REQUEST, WebhookInMemory, ledger_in_memory

SESSIONS = 20_000
CONCURRENCY = 64


async def run(data_dir: Path) -> AsyncIterator[Figure]:
    """The rates over the second half of the sessions: dead versions have gathered by then."""
    server = await start_embedded(data_dir)
    for what in ("opened", "accepted"):
        without = await rate(await _database(server, f"{what}_without"), what, held=False)
        held = await rate(await _database(server, f"{what}_held"), what, held=True)
        against = f"{what}, without a held snapshot"
        yield Figure(name=against, value=without, unit="sessions/s")
        name = f"{what}, the second half of {SESSIONS:,}, under a held snapshot"
        yield Figure(name=name, value=held, unit="sessions/s", against=against, ratio=held / without)


async def _database(server: str, name: str) -> str:
    engine = open_engine(server, "public", pool_size=1)
    async with engine.connect() as connection:
        autocommit = await connection.execution_options(isolation_level="AUTOCOMMIT")
        await autocommit.execute(text(f"CREATE DATABASE {name}"))
    await engine.dispose()
    url = make_url(server).set(database=name).render_as_string(hide_password=False)
    await upgrade(url)
    login = await runtime_login(url, "guestledger")
    return make_url(url).set(username=login).render_as_string(hide_password=False)


async def rate(url: str, what: str, *, held: bool) -> float:
    """Sessions per second, in the second half of them."""
    holder: Any = await asyncpg.connect(
        make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    )
    if held:
        await holder.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1 FROM guestledger.head")
    async with ledger_in_memory(url) as (ledger, webhook):
        running = asyncio.create_task(ledger.scheduler.run_forever())
        await _half(ledger, webhook, what)
        began = time.perf_counter()
        await _half(ledger, webhook, what)
        seconds = time.perf_counter() - began
        ledger.scheduler.stop()
        await running
    await holder.close()
    return SESSIONS / 2 / seconds


async def _half(ledger: Ledger, webhook: WebhookInMemory, what: str) -> None:
    begin = ledger.open_session if what == "opened" else ledger.accept

    async def one(_appends: list[float]) -> None:
        await begin(REQUEST)

    webhook.expect(SESSIONS // 2)
    await at_once(one, SESSIONS // 2, CONCURRENCY)
    await webhook.all_taken.wait()
