"""DBOS Transact 3.4.0: workflows of three empty steps, on asyncio.

Configured for speed, as its users can: workflows are called directly, without a queue; its pool and its executor are as
large as given, and the pool does not try each connection before its use; next to nothing is logged. A workflow that is
called has returned when its end is recorded.

    python dbos_side.py HOST PORT USER DATABASE CONCURRENCY POOL
"""

import asyncio
import sys

from dbos import DBOS
from rounds import answer, at_once

host, port, user, database, concurrency, pool = sys.argv[1:]

DBOS(
    config={
        "name": "bench",
        "system_database_url": f"postgresql+psycopg://{user}@/{database}?host={host}&port={port}",
        "sys_db_pool_size": int(pool),
        "max_executor_threads": int(pool),
        "db_engine_kwargs": {"pool_pre_ping": False},
        "log_level": "ERROR",
    }
)


@DBOS.step()
async def step() -> None:
    """Nothing."""


@DBOS.workflow()
async def workflow() -> None:
    await step()
    await step()
    await step()


async def lifecycle(_appends: list[float]) -> None:
    await workflow()


async def launch() -> None:
    DBOS.launch()


with asyncio.Runner() as runner:
    runner.run(launch())
    answer(lambda workflows: runner.run(at_once(lifecycle, workflows, int(concurrency))))
DBOS.destroy()
