"""Readers where nothing can be written: a hot standby, or a user with `default_transaction_read_only`."""

import asyncio

from sqlalchemy import make_url

from guestledger.adapters.settings import Settings
from guestledger.adapters.wiring import connect
from tests import logs, postgres
from tests.e2e.command import assert_one_line, environment, logged, run
from tests.keys import KEY

EVENTS = 25
READING = (
    ("sessions",), ("metrics",), ("audit",), ("events",), ("consumers",), ("projections", "list"), ("partitions", "list"),
)  # fmt: skip


async def test_reading_commands_show_what_is_projected_where_nothing_can_be_written(database_url: str):
    await logs.write(database_url, EVENTS)
    async with connect(Settings(encryption_key=KEY, database_url=database_url), scheduler=False) as ledger:
        await ledger.projections.catch_up()
    await logs.write(database_url, 10, after=EVENTS - 1)
    administrator = postgres.as_administrator(database_url)
    async with postgres.new_login(administrator, "IN ROLE guestledger_auditor") as auditor:
        connection = await logs.connect(administrator)
        await connection.execute(f"ALTER ROLE {make_url(auditor).username} SET default_transaction_read_only = on")
        await connection.close()
        results = await asyncio.gather(*(run(*command, "--json", env=environment(auditor)) for command in READING))

    for command, result in zip(READING, results, strict=True):
        assert result.code == 0, (command, result.err)
        assert result.out or command == ("consumers",), command
    for result in results[:3]:
        assert logged(result.err) == (
            "this database is read-only: the output lacks the last 10 events until a worker has projected them\n"
        )


async def test_writing_commands_name_a_read_only_database(database_url: str):
    administrator = postgres.as_administrator(database_url)
    async with postgres.new_login(administrator, "IN ROLE guestledger_runtime") as url:
        connection = await logs.connect(administrator)
        await connection.execute(f"ALTER ROLE {make_url(url).username} SET default_transaction_read_only = on")
        await connection.close()
        result = await run("projections", "rebuild", "sessions", env=environment(url))
    assert_one_line(result, "it is read-only", "SQLSTATE 25006", "name the primary in GUESTLEDGER_DATABASE_URL")
