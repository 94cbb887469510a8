"""Bringing a ledger's schema up to this release, by the migrations that are shipped with it."""

import asyncio
from pathlib import Path
from weakref import WeakKeyDictionary

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncEngine

import guestledger
from guestledger.adapters.postgres.admin.roles import AUDITOR, OWNER, RUNTIME, role_name
from guestledger.adapters.postgres.connection import LedgerNotReady, NotAllowed, database_url, open_engine, reported
from guestledger.adapters.postgres.statements import quoted

# In a wheel the migrations lie beside this module; in the source tree, at the top level.
_SCRIPTS = Path(guestledger.__file__).parent / "migrations"


def config(schema: str) -> Config:
    """Alembic's configuration for the ledger in `schema`, with no file needed."""
    made = Config(attributes={"schema": schema})
    made.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    made.set_main_option("path_separator", "os")
    return made


async def upgrade(url: str, schema: str = "guestledger", *, setting: str = "GUESTLEDGER_DATABASE_URL") -> None:
    """Make or upgrade the ledger in `schema`, in one transaction: all of it or nothing. `setting` is where `url` stands.

    Safe to run from several processes at once, and again: it also puts right who may do what, as far as its user may.
    Raises `ServiceUnreachable`, `NotAllowed`, or `LedgerNotReady` when a newer release made the ledger.
    """
    engine = open_engine(database_url(url, setting), schema, pool_size=1, command_timeout=None)
    try:
        await upgrade_through(engine, schema, setting=setting)
    finally:
        await engine.dispose()


# Alembic keeps what it works on in its modules' globals: within a process one upgrade has to wait for another, even
# where they are of different ledgers.
_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()


def _turn() -> asyncio.Lock:
    return _turns.setdefault(asyncio.get_running_loop(), asyncio.Lock())


async def upgrade_through(engine: AsyncEngine, schema: str, *, setting: str = "GUESTLEDGER_DATABASE_URL") -> None:
    """As `upgrade`, over a connection of `engine`, which its owner closes."""
    try:
        with reported(setting):
            async with _turn(), engine.begin() as connection:
                await connection.run_sync(_upgrade, schema)
    except NotAllowed as error:
        raise NotAllowed(
            f"the ledger in schema {schema!r} cannot be made or upgraded by this database user "
            f"({error.refusal}): log in, by GUESTLEDGER_MIGRATION_URL, as a member of {role_name(schema, OWNER)}, "
            "or for the first time as one who may make schemas and roles",
            error.refusal,
        ) from None


def _upgrade(connection: Connection, schema: str) -> None:
    # Two processes that both find nothing would both begin to create; migrations go through one node, so an advisory
    # lock does keep them apart. It is released with the transaction.
    connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('guestledger ' || :schema))"), {"schema": schema})
    alembic = config(schema)
    found = _revision(connection, schema)
    if found is not None and found not in _known(ScriptDirectory.from_config(alembic)):
        raise _made_by_a_newer_release(schema, found)
    alembic.attributes["connection"] = connection
    command.upgrade(alembic, "head")


async def check_current(engine: AsyncEngine, schema: str) -> None:
    """Raise `LedgerNotReady` unless the ledger in `schema` is at this release's revision.

    Raises `ServiceUnreachable`, `NotAllowed` if it can't be seen.
    """
    try:
        with reported():
            async with engine.connect() as connection:
                found = await connection.run_sync(_revision, schema)
    except NotAllowed as error:
        runtime, auditor = (role_name(schema, role) for role in (RUNTIME, AUDITOR))
        raise NotAllowed(
            f"the database user may not see the ledger in schema {schema!r} ({error.refusal}): "
            f"have `GRANT {quoted(runtime)} TO …` run for it ({auditor}, where it is only to read)",
            error.refusal,
        ) from None
    scripts = ScriptDirectory.from_config(config(schema))
    wanted = scripts.get_current_head()
    if found is None:
        raise LedgerNotReady(f"there is no ledger in schema {schema!r} yet: run `guestledger db upgrade`")
    if found not in _known(scripts):
        raise _made_by_a_newer_release(schema, found)
    if found != wanted:
        raise LedgerNotReady(
            f"the ledger in schema {schema!r} is at revision {found}, this release works with {wanted}: "
            "run `guestledger db upgrade`"
        )


def _known(scripts: ScriptDirectory) -> set[str]:
    return {script.revision for script in scripts.walk_revisions()}


def _made_by_a_newer_release(schema: str, found: str) -> LedgerNotReady:
    return LedgerNotReady(
        f"the ledger in schema {schema!r} is at revision {found}, which this release does not know: "
        "a newer one made it; upgrade guestledger here"
    )


def _revision(connection: Connection, schema: str) -> str | None:
    context = MigrationContext.configure(connection, opts={"version_table_schema": schema})
    return context.get_current_revision()
