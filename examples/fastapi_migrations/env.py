"""The shop's own migrations. The ledger's schema is left out: `guestledger db upgrade` keeps it."""

import asyncio
import os

from alembic import context
from sqlalchemy import Column, Connection, MetaData, Table, Text, Uuid
from sqlalchemy.ext.asyncio import create_async_engine

METADATA = MetaData()
Table("chats", METADATA, Column("number", Text, primary_key=True), Column("session", Uuid, nullable=False))


def include_name(name: str | None, kind: str, _parents: object) -> bool:
    return kind != "schema" or name != os.environ.get("GUESTLEDGER_SCHEMA", "guestledger")


def migrate(connection: Connection) -> None:
    context.configure(connection, target_metadata=METADATA, include_schemas=True, include_name=include_name)
    with context.begin_transaction():
        context.run_migrations()


async def main() -> None:
    engine = create_async_engine(os.environ["SHOP_DATABASE_URL"])
    async with engine.begin() as connection:
        await connection.run_sync(migrate)
    await engine.dispose()


asyncio.run(main())
