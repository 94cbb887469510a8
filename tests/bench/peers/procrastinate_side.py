"""procrastinate 3.10.0: an empty asynchronous task, carried out by one worker.

Configured for speed, as its users can: the jobs are deferred in one batch beforehand; its worker does as many jobs at a
time as given, and does not listen, as all of them are there; its pool is one of its user's own, that does not try each
connection before its use.

    python procrastinate_side.py HOST PORT USER DATABASE CONCURRENCY POOL
"""

import asyncio
import logging
import sys

import psycopg_pool
from procrastinate import App, PsycopgConnector
from rounds import answer

host, port, user, database, concurrency, pool = sys.argv[1:]
logging.getLogger("procrastinate").setLevel(logging.ERROR)
app = App(connector=PsycopgConnector())


@app.task
async def empty() -> None:
    """Nothing."""


async def begin() -> None:
    connections = psycopg_pool.AsyncConnectionPool(
        f"host={host} port={port} user={user} dbname={database}", min_size=int(pool), max_size=int(pool), open=False
    )
    await connections.open(wait=True)
    await app.open_async(connections)
    await app.schema_manager.apply_schema_async()


async def prepare(jobs: int) -> int:
    await empty.batch_defer_async(*({} for _ in range(jobs)))
    return jobs


async def work(_jobs: int) -> list[float]:
    await app.run_worker_async(
        wait=False, concurrency=int(concurrency), listen_notify=False, install_signal_handlers=False
    )
    return []


with asyncio.Runner() as runner:
    runner.run(begin())
    answer(lambda jobs: runner.run(work(jobs)), prepare=lambda jobs: runner.run(prepare(jobs)))
    runner.run(app.connector.pool.close())
