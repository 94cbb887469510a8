"""`guestledger db upgrade` in several processes at once, as when several machines are rolled out."""

import asyncio

import asyncpg
import pytest

from tests import logs
from tests.e2e.command import environment, run


@pytest.mark.parametrize("schema_exists", [False, True], ids=["new schema", "empty schema"])
async def test_upgrades_of_several_processes_at_once_make_one_ledger(empty_database_url: str, schema_exists: bool):
    connection: asyncpg.Connection = await logs.connect(empty_database_url)
    if schema_exists:
        await connection.execute("CREATE SCHEMA guestledger")
    env = environment(empty_database_url)

    results = await asyncio.gather(*(run("db", "upgrade", env=env) for _ in range(4)))

    assert [result.code for result in results] == [0] * 4, [result.err for result in results]
    assert await connection.fetchval("SELECT count(*) FROM guestledger.head") == 1
    await connection.close()
