"""Alembic's entry: runs the migrations of one ledger, in the ledger's own schema, `alembic_version` included.

`adapters.postgres.migrate` hands over a connection and the schema; from the `alembic` command they come from the
environment (`GUESTLEDGER_DATABASE_URL`, `GUESTLEDGER_SCHEMA`).
"""

import asyncio
import os

from alembic import context
from sqlalchemy import Connection, MetaData, text

from adapters.postgres.connection import open_engine
from adapters.postgres.statements import quoted
from adapters.postgres.tables import metadata

given = context.config.attributes
schema: str = given.get("schema") or os.environ.get("GUESTLEDGER_SCHEMA", "guestledger")


def target() -> MetaData:
    placed = MetaData()
    for table in metadata.sorted_tables:
        table.to_metadata(placed, schema=schema)
    return placed


def run(connection: Connection) -> None:
    connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {quoted(schema)}"))
    context.configure(
        connection=connection,
        target_metadata=target(),
        version_table_schema=schema,
        include_schemas=True,
        # A host's own tables are none of our business.
        include_name=lambda name, kind, _parents: kind != "schema" or name == schema,
        compare_type=True,
    )
    with context.begin_transaction():
        context.run_migrations()


async def run_from_environment() -> None:
    url = os.environ.get("GUESTLEDGER_DATABASE_URL")
    if not url:
        raise SystemExit("set GUESTLEDGER_DATABASE_URL: the migrations of a ledger need a database to look at")
    engine = open_engine(url, schema, pool_size=1, command_timeout=None)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(run)
    finally:
        await engine.dispose()


if context.is_offline_mode():
    raise SystemExit("the migrations of a ledger need a database to look at: run them online")
if "connection" in given:
    run(given["connection"])
else:
    asyncio.run(run_from_environment())
