"""Creates and upgrades a ledger by the migrations that ship with this release."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from guestledger.adapters.postgres.admin.grants import FUNCTIONS, OWNER, TABLES, role_name
from guestledger.adapters.postgres.admin.revision import MIGRATIONS, REVISIONS, refuse_encoding, revision
from guestledger.adapters.postgres.errors import (
    Access,
    LedgerNotReady,
    LedgerProblem,
    NotAllowed,
    reported,
)
from guestledger.adapters.postgres.pool import open_engine
from guestledger.adapters.postgres.sql import quoted
from guestledger.adapters.postgres.unusable import DATABASE_URL

# Two processes that find no ledger both create one, and one of them fails: unique violation, duplicate schema, table, object.
_MADE_MEANWHILE = ("23505", "42P06", "42P07", "42710")
_LOCK_TIMEOUT = "30s"
"""How long an upgrade waits for others that use the ledger."""


def config(schema: str) -> Config:
    """Alembic's configuration for the ledger in `schema`, without a file."""
    made = Config(attributes={"schema": schema})
    made.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    made.set_main_option("path_separator", "os")
    return made


async def upgrade(url: str, schema: str = "guestledger", *, setting: str = DATABASE_URL) -> None:
    """Create or upgrade the ledger in `schema` and correct its grants, in one transaction. May run concurrently.

    `setting` names the URL's setting. Raises `ServiceUnreachable`, `NotAllowed`, `LedgerNotReady`.
    """
    engine = open_engine(url, schema, pool_size=1, command_timeout=None, setting=setting)
    try:
        await upgrade_through(engine, schema, setting=setting)
    finally:
        await engine.dispose()


async def upgrade_through(engine: AsyncEngine, schema: str, *, setting: str = DATABASE_URL) -> None:
    """As `upgrade`, over a connection of `engine`."""
    try:
        with reported(setting):
            async with _turn():
                try:
                    await _upgrade_once(engine, schema)
                except DBAPIError as error:
                    if getattr(error.orig, "sqlstate", None) not in _MADE_MEANWHILE:
                        raise
                    await _upgrade_once(engine, schema)
    except NotAllowed as error:
        owner = role_name(schema, OWNER)
        raise NotAllowed(Access.CHANGE_TABLES, error.refusal, schema=schema, role=owner) from None


# Alembic keeps its context in module globals, so upgrades within a process take turns.
_alembic = threading.Lock()


@asynccontextmanager
async def _turn() -> AsyncIterator[None]:
    while not _alembic.acquire(blocking=False):  # noqa: ASYNC110 - the holder may be in another thread
        await asyncio.sleep(0.02)
    try:
        yield
    finally:
        _alembic.release()


async def _upgrade_once(engine: AsyncEngine, schema: str) -> None:
    async with engine.begin() as connection:
        await connection.run_sync(_upgrade, schema)


def _upgrade(connection: Connection, schema: str) -> None:
    connection.execute(text(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'"))
    _lock(connection, schema)
    refuse_encoding(connection)
    _refuse_foreign(connection, schema)
    alembic = config(schema)
    found = revision(connection, schema)
    if found is not None and found not in REVISIONS:
        raise LedgerNotReady(LedgerProblem.TOO_NEW, schema, found=found)
    alembic.attributes["connection"] = connection
    command.upgrade(alembic, "head")


def _lock(connection: Connection, schema: str) -> None:
    """Exclude other upgrades. Not by an advisory lock: any login of the database could hold that."""
    may = "SELECT has_table_privilege(to_regclass(:version), 'UPDATE')"  # NULL: there is no ledger yet
    if connection.scalar(text(may), {"version": f"{quoted(schema)}.alembic_version"}):
        connection.execute(text(f"LOCK TABLE {quoted(schema)}.alembic_version IN SHARE ROW EXCLUSIVE MODE"))


# An existing trigger, rule or overloaded function would run with the rights of the upgrade.
_FOREIGN = """
    SELECT 'the ' || kind || ' ' || name || ', which belongs to ' || rolname
      FROM (SELECT 'relation' AS kind, relname AS name, relowner AS owner, relnamespace AS namespace FROM pg_class
             WHERE relname = ANY(CAST(:tables AS name[])) OR relname ~ '^events_(default|[0-9]{4}_[0-9]{2})$'
             UNION ALL
            SELECT 'function', proname, proowner, pronamespace FROM pg_proc
             WHERE proname = ANY(CAST(:functions AS name[]))) AS ours
      JOIN pg_roles ON pg_roles.oid = owner
     WHERE namespace = (SELECT oid FROM pg_namespace WHERE nspname = :schema)
       AND NOT rolsuper AND rolname <> ALL(ARRAY[current_user, session_user, CAST(:owner AS name)])
     ORDER BY 1 LIMIT 1"""


def _refuse_foreign(connection: Connection, schema: str) -> None:
    names = {
        "schema": schema,
        "owner": role_name(schema, OWNER),
        "tables": list(TABLES),
        "functions": list(FUNCTIONS),
    }
    if found := connection.scalar(text(_FOREIGN), names):
        raise LedgerNotReady(LedgerProblem.FOREIGN, schema, found=found)
