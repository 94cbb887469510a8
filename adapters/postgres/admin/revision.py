"""Whether a ledger is at this release's revision. Alembic is left out: every command asks, and it takes long to load."""

from pathlib import Path

from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncEngine

from guestledger.adapters.postgres.admin.grants import RUNTIME, role_name
from guestledger.adapters.postgres.errors import Access, LedgerNotReady, LedgerProblem, NotAllowed, reported
from guestledger.adapters.postgres.sql import quoted
from guestledger.adapters.postgres.transactions import pooled_connection
from guestledger.adapters.postgres.unusable import DATABASE_URL

MIGRATIONS = Path(__file__).parents[3] / "migrations"


def revisions_in(migrations: Path) -> tuple[str, ...]:
    """The revisions in a folder of migrations, the latest last: a file's name begins with its revision."""
    return tuple(sorted(file.name.partition("_")[0] for file in (migrations / "versions").glob("[0-9]*.py")))


REVISIONS = revisions_in(MIGRATIONS)
"""Of this release."""


async def check_current(engine: AsyncEngine, schema: str, *, setting: str = DATABASE_URL) -> None:
    """Raise `LedgerNotReady` unless the ledger is at this release's revision. Raises `ServiceUnreachable`, `NotAllowed`.

    `setting` names the URL's setting.
    """
    try:
        with reported(setting):
            async with pooled_connection(engine) as connection:
                await connection.run_sync(refuse_encoding)
                found = await connection.run_sync(revision, schema)
    except NotAllowed as error:
        raise NotAllowed(Access.OPEN, error.refusal, schema=schema, role=role_name(schema, RUNTIME)) from None
    wanted = REVISIONS[-1]
    if found is None:
        raise LedgerNotReady(LedgerProblem.MISSING, schema, wanted=wanted)
    if found not in REVISIONS:
        raise LedgerNotReady(LedgerProblem.TOO_NEW, schema, found=found, wanted=wanted)
    if found != wanted:
        raise LedgerNotReady(LedgerProblem.OUTDATED, schema, found=found, wanted=wanted)


def refuse_encoding(connection: Connection) -> None:
    """Raise `LedgerNotReady` for a database in another encoding than UTF-8."""
    encoding = str(connection.scalar(text("SHOW server_encoding")))
    if encoding != "UTF8":
        raise LedgerNotReady(LedgerProblem.ENCODING, found=encoding)


def revision(connection: Connection, schema: str) -> str | None:
    """The revision of the ledger in `schema`; `None`: there is none."""
    exists = "SELECT EXISTS (SELECT FROM pg_tables WHERE schemaname = :schema AND tablename = 'alembic_version')"
    if not connection.scalar(text(exists), {"schema": schema}):
        return None
    found: str | None = connection.scalar(text(f"SELECT version_num FROM {quoted(schema)}.alembic_version"))
    return found
