"""Reaching the database: the pool, what its failures mean to a person, and whether the ledger in it is ready."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import asyncpg
from sqlalchemy import URL, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, DisconnectionError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from engine.domain.errors import GuestledgerError, ServiceError, ServiceUnreachable

Driver = Any
"""An `asyncpg.Connection`; asyncpg brings no types."""

# SQLSTATE classes: connection exception, operator intervention, insufficient resources, invalid authorization, no such
# database, transaction rollback, lock not available, read-only.
_UNREACHABLE = ("08", "57", "53", "28", "3D", "40", "55P03", "25006")
_STATEMENT_SECONDS = 120
_NOT_THERE = ("3F000", "42P01")
_WHERE = "check GUESTLEDGER_DATABASE_URL and that the server runs"


class LedgerNotReady(ServiceError):
    """The database answers, but holds no ledger that this release can use."""


class DatabaseFault(GuestledgerError):
    """PostgreSQL refused a statement of ours: a fault in this release, or in what was done to its tables."""


def database_url(text: str) -> URL:
    """The URL for SQLAlchemy's asyncpg dialect, whatever driver it names. Raises `ServiceUnreachable` if it is none."""
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):  # the second one for a port that is no number; it would show a part of the URL
        raise ServiceUnreachable(
            "GUESTLEDGER_DATABASE_URL is not a URL such as postgresql://user@host/database"
        ) from None
    if url.get_backend_name() not in ("postgresql", "postgres"):
        raise ServiceUnreachable(
            f"GUESTLEDGER_DATABASE_URL names {url.get_backend_name()!r}, but only PostgreSQL will do"
        )
    return url.set(drivername="postgresql+asyncpg")


def open_engine(
    url: str | URL, schema: str, *, pool_size: int = 8, command_timeout: float | None = _STATEMENT_SECONDS
) -> AsyncEngine:
    """A pool of connections for the ledger in `schema`; a statement may take `command_timeout` s. Nothing is connected yet."""
    engine = create_async_engine(
        database_url(url) if isinstance(url, str) else url,
        pool_size=pool_size,
        max_overflow=0,
        pool_pre_ping=False,
        hide_parameters=True,  # a failing statement's parameters are the guests' data
        connect_args={
            "server_settings": {"application_name": "guestledger", "timezone": "UTC"},
            "timeout": 10,
            # A server that is gone without a word must not hold an append, and all behind it, until TCP gives up.
            "command_timeout": command_timeout,
        },
    )
    event.listen(engine.sync_engine, "connect", _set_up)
    event.listen(engine.sync_engine, "checkout", _refuse_if_lost)
    return engine.execution_options(schema_translate_map={None: schema})


def _set_up(adapted: Any, _record: object) -> None:
    # A host application may have made its database stricter: whoever waited for a lock here would then be turned away.
    isolation = "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED"
    adapted.run_async(lambda driver: driver.execute(isolation))


def _refuse_if_lost(adapted: Any, _record: object, _proxy: object) -> None:
    # The driver learns by itself that the server closed a connection (a restart): the pool opens another instead.
    if adapted.driver_connection.is_closed():
        raise DisconnectionError


@asynccontextmanager
async def driver_connection(engine: AsyncEngine) -> AsyncIterator[Driver]:
    """A connection of the pool as asyncpg itself has it: for the few statements whose round trips everybody waits for.

    Outside a transaction unless its user begins one; a connection on which anything failed is not used again.
    """
    async with engine.connect() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        try:
            yield driver
        except BaseException:
            await connection.invalidate()
            raise


@contextmanager
def reported() -> Iterator[None]:
    """Turn what the driver raises into one clear line: `ServiceUnreachable`, `LedgerNotReady` or `DatabaseFault`."""
    try:
        yield
    except PoolTimeout:
        raise ServiceUnreachable("all connections to the database are in use: it does not keep up") from None
    except (OSError, TimeoutError) as error:
        raise ServiceUnreachable(f"the database cannot be reached ({type(error).__name__}): {_WHERE}") from None
    # The driver's internal error is what a statement meets after the server said goodbye between two of them.
    except (DBAPIError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
        # From None, here and above: the driver's own error has whole rows in its details.
        raise _in_clear(error.orig if isinstance(error, DBAPIError) and error.orig else error) from None


def _in_clear(error: BaseException) -> Exception:
    state = str(getattr(error, "sqlstate", None) or "")
    if state in _NOT_THERE:
        return LedgerNotReady("there is no ledger in this database: run `guestledger db upgrade`")
    if not state:
        return ServiceUnreachable(f"the connection to the database was lost: {_WHERE}")
    if state.startswith(_UNREACHABLE):
        return ServiceUnreachable(f"the database cannot be used (SQLSTATE {state}): {_WHERE}")
    message = str(error.args[0]) if error.args else ""
    return DatabaseFault(f"PostgreSQL refused a statement (SQLSTATE {state}): {message.splitlines()[0][:200]}")
