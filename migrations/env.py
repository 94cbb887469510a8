"""Alembic's entry: runs the migrations of one ledger, in the ledger's own schema, `alembic_version` included.

`guestledger.adapters.postgres.admin.migrate` hands over a connection and the schema; from the `alembic` command they come from the
environment (`GUESTLEDGER_MIGRATION_URL` or else `GUESTLEDGER_DATABASE_URL`, `GUESTLEDGER_SCHEMA`).
"""

import asyncio
import os
import re

from alembic import context
from sqlalchemy import Connection, MetaData, text

from guestledger.adapters.postgres.admin import roles
from guestledger.adapters.postgres.connection import open_engine
from guestledger.adapters.postgres.statements import quoted
from guestledger.adapters.postgres.tables import metadata

given = context.config.attributes
schema: str = given.get("schema") or os.environ.get("GUESTLEDGER_SCHEMA", "guestledger")


# The log's partitions come and go with the months; the ledger's own functions make them.
_PARTITION = re.compile(r"events_(default|\d{4}_\d{2})")


def is_ours(name: str | None, kind: str, _parents: object) -> bool:
    if kind == "schema":  # a host's own tables are none of our business
        return name == schema
    return kind != "table" or not _PARTITION.fullmatch(name or "")


def target() -> MetaData:
    placed = MetaData()
    for table in metadata.sorted_tables:
        table.to_metadata(placed, schema=schema)
    return placed


def run(connection: Connection) -> None:
    # Not IF NOT EXISTS, which wants the right to make schemas even where there is nothing to make.
    if not connection.scalar(text("SELECT 1 FROM pg_namespace WHERE nspname = :schema"), {"schema": schema}):
        connection.execute(text(f"CREATE SCHEMA {quoted(schema)}"))
    context.configure(
        connection=connection,
        target_metadata=target(),
        version_table_schema=schema,
        include_schemas=True,
        include_name=is_ours,
        compare_type=True,
    )
    with context.begin_transaction():
        context.run_migrations()
        roles.reconcile_grants(connection, schema)


async def run_from_environment() -> None:
    url = os.environ.get("GUESTLEDGER_MIGRATION_URL") or os.environ.get("GUESTLEDGER_DATABASE_URL")
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
