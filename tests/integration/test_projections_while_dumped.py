"""Rebuilding and verifying a projection while `pg_dump`, or any other reader, holds its locks on every table."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from guestledger.adapters.postgres.projections.read_models import PostgresReadModels
from tests import logs
from tests.integration.conftest import PROJECTED_EVENTS

PATIENCE = 60.0  # seconds until a test that hangs fails

# What pg_dump does first.
DUMP = """
    BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
    DO $$ DECLARE name text; BEGIN
        FOR name IN SELECT oid::regclass FROM pg_class
                     WHERE relnamespace = 'guestledger'::regnamespace AND relkind IN ('r', 'p') LOOP
            EXECUTE 'LOCK TABLE ' || name || ' IN ACCESS SHARE MODE';
        END LOOP;
    END $$"""


@pytest.fixture
async def dump(database_url: str, projected_log: None) -> AsyncIterator[Any]:
    """A reader that holds its locks until the test ends."""
    connection = await logs.connect(database_url)
    await connection.execute(DUMP)
    yield connection
    await connection.close()


async def test_a_rebuild_finishes_while_the_database_is_dumped(
    read_models: PostgresReadModels, dump: Any, database_url: str
) -> None:
    damaging = await logs.connect(database_url)
    await damaging.execute("UPDATE guestledger.sessions SET channel_id = 'damaged'")
    await damaging.execute("INSERT INTO guestledger.sessions_shadow SELECT * FROM guestledger.sessions LIMIT 5")
    await damaging.close()
    sessions = await dump.fetchval("SELECT count(*) FROM guestledger.sessions")

    async with asyncio.timeout(PATIENCE):
        assert await read_models.rebuild("sessions", lambda _: None) == sessions
        assert await read_models.rebuild("sessions", lambda _: None) == 0
        verified = await read_models.verify("sessions", lambda _: None)

    assert (verified.rows, verified.differing) == (sessions, ())


async def test_catching_up_waits_for_no_reader_while_a_rebuild_begins_and_ends(
    read_models: PostgresReadModels, dump: Any, database_url: str
) -> None:
    async with asyncio.timeout(PATIENCE):
        rebuilding = asyncio.create_task(read_models.rebuild("sessions", lambda _: None))
        for batch in range(3):
            await logs.write(database_url, 50, after=PROJECTED_EVENTS - 1 + 50 * batch)
            await read_models.catch_up()
        await rebuilding
