"""Creates the key vault in a database of its own."""

from sqlalchemy import Connection, MetaData, text

from guestledger.adapters.postgres.admin.grants import RUNTIME, TABLES, role_name
from guestledger.adapters.postgres.personal.vault_database import VAULT_URL, reported_of_vault
from guestledger.adapters.postgres.pool import close_engine, open_engine
from guestledger.adapters.postgres.sql import quoted
from guestledger.adapters.postgres.tables import data_keys, wrapping_keys

VAULT_TABLES = (data_keys, wrapping_keys)


async def create_vault(url: str, schema: str) -> None:
    """Create the vault's tables in `schema` unless they are there. Where the role of the ledger's runtime exists, it gets its
    grants. Raises `ServiceError`.
    """
    with reported_of_vault(schema):
        engine = open_engine(url, schema, pool_size=1, setting=VAULT_URL)
        try:
            async with engine.begin() as connection:
                await connection.run_sync(_create, schema)
        finally:
            await close_engine(engine)


def _create(connection: Connection, schema: str) -> None:
    # Not IF NOT EXISTS, which needs the right to create schemas even if the schema exists.
    if not connection.scalar(text("SELECT 1 FROM pg_namespace WHERE nspname = :schema"), {"schema": schema}):
        connection.exec_driver_sql(f"CREATE SCHEMA {quoted(schema)}")
    placed = MetaData()
    for table in VAULT_TABLES:
        table.to_metadata(placed, schema=schema)
    placed.create_all(connection)
    runtime = role_name(schema, RUNTIME)
    if connection.scalar(text("SELECT 1 FROM pg_roles WHERE rolname = :role"), {"role": runtime}):
        connection.exec_driver_sql(f"GRANT USAGE ON SCHEMA {quoted(schema)} TO {quoted(runtime)}")
        for table in VAULT_TABLES:
            privileges = ", ".join(sorted(TABLES[table.name][RUNTIME]))
            connection.exec_driver_sql(f"GRANT {privileges} ON {quoted(schema)}.{table.name} TO {quoted(runtime)}")
