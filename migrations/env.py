"""Alembic's entry point: runs the migrations of one ledger, in the ledger's own schema, `alembic_version` included.

`guestledger.adapters.postgres.admin.migrate` passes a connection and the schema. For the `alembic` command they come from the
environment: `GUESTLEDGER_MIGRATION_URL` or `GUESTLEDGER_DATABASE_URL`, and `GUESTLEDGER_SCHEMA`.
"""

import asyncio
import os
import re

from alembic import context
from sqlalchemy import Connection, MetaData, text

from guestledger.adapters.postgres.admin.roles import reconcile_grants
from guestledger.adapters.postgres.pool import open_engine
from guestledger.adapters.postgres.projections import registry  # noqa: F401 - adds its tables to `metadata`
from guestledger.adapters.postgres.sql import quoted
from guestledger.adapters.postgres.tables import metadata
from guestledger.adapters.postgres.transactions import SET_SEARCH_PATH

given = context.config.attributes
schema: str = given.get("schema") or os.environ.get("GUESTLEDGER_SCHEMA", "guestledger")

# Partitions come and go; functions of the ledger create them.
_PARTITION = re.compile(r"events_(default|\d{4}_\d{2})")


def is_ours(name: str | None, kind: str, _parents: object) -> bool:
    if kind == "schema":  # a host's tables are in other schemas
        return name == schema
    return kind != "table" or not _PARTITION.fullmatch(name or "")


def target() -> MetaData:
    placed = MetaData()
    for table in metadata.sorted_tables:
        table.to_metadata(placed, schema=schema)
    return placed


def run(connection: Connection) -> None:
    # Anybody may have made functions elsewhere that fit better than PostgreSQL's own.
    connection.execute(text(SET_SEARCH_PATH))
    # Not IF NOT EXISTS, which needs the right to create schemas even if the schema exists.
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
        reconcile_grants(connection, schema)


async def run_from_environment() -> None:
    url = os.environ.get("GUESTLEDGER_MIGRATION_URL") or os.environ.get("GUESTLEDGER_DATABASE_URL")
    if not url:
        raise SystemExit("set GUESTLEDGER_DATABASE_URL: migrations need a database")
    engine = open_engine(url, schema, pool_size=1, command_timeout=None)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(run)
    finally:
        await engine.dispose()


if context.is_offline_mode():
    raise SystemExit("migrations need a database: run them online")
if "connection" in given:
    run(given["connection"])
else:
    asyncio.run(run_from_environment())
