"""Reaching the database: the pool, what its failures mean to a person, and whether the ledger in it is ready."""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from datetime import datetime
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import asyncpg
from sqlalchemy import URL, Dialect, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, DisconnectionError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from guestledger.engine.domain.errors import GuestledgerError, ServiceError, ServiceUnreachable

Driver = Any
"""An `asyncpg.Connection`; asyncpg brings no types."""

# SQLSTATE classes: connection exception, operator intervention, insufficient resources, invalid authorization, no such
# database, transaction rollback, lock not available, read-only, a transaction in which this process stood still.
_UNREACHABLE = ("08", "57", "53", "28", "3D", "40", "55P03", "25006", "25P03", "25P04")
# Data exceptions: their texts quote the value.
_QUOTES = "22"
_STATEMENT_SECONDS = 120
# How long a server that may hang is waited for where a connection is only to be got rid of.
_GOODBYE_SECONDS = 2.0
_STANDING_STILL = "SET LOCAL idle_in_transaction_session_timeout = '10s'"
# Since PostgreSQL 17, which is asked for its version at each time: another server may stand behind the same address.
NOBODY_WAITS_FOR_LONG = f"""{_STANDING_STILL};
            SELECT set_config('transaction_timeout', '30s', true) WHERE current_setting('server_version_num')::int >= 170000"""
"""Ends a transaction whose client stands still while others wait for what it has locked.

The driver prepares a statement in a round trip of its own, and within that the server takes its client for busy, not idle:
the one limit needs the other.
"""
_NOT_PREPARED = ("26000", "42P05")
_NOT_THERE = ("3F000", "42P01")
_NOT_ALLOWED = "42501"
_MAKE = 'make it by create_async_engine("postgresql+asyncpg://…")'
_STATEMENT_CACHE = "prepared_statement_cache_size"
# An unnamed statement is prepared and run without a pause in which pgbouncer could give the server to somebody else.
_UNPREPARED = {"statement_cache_size": 0, "prepared_statement_name_func": lambda: ""}


class LedgerNotReady(ServiceError):
    """The database answers, but holds no ledger that this release can use."""


class NotAllowed(ServiceError):
    """The database user lacks a privilege. `refusal` is PostgreSQL's own word for it."""

    def __init__(self, text: str, refusal: str = "") -> None:
        super().__init__(text)
        self.refusal = refusal


class LedgerClosed(ServiceError):
    """The ledger was closed while this was under way: a call outlived the block of `connect`."""


class UnfitEngine(GuestledgerError):
    """The engine that a host application handed in cannot be used."""


class DatabaseFault(GuestledgerError):
    """PostgreSQL refused a statement of ours: a fault in this release, or in what was done to its tables."""


def database_url(text: str, setting: str = "GUESTLEDGER_DATABASE_URL") -> URL:
    """The URL for SQLAlchemy's asyncpg dialect, whatever driver it names. Raises `ServiceUnreachable` if it is none."""
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):  # the second one for a port that is no number; it would show a part of the URL
        raise ServiceUnreachable(f"{setting} is not a URL such as postgresql://user@host/database") from None
    if url.get_backend_name() not in ("postgresql", "postgres"):
        raise ServiceUnreachable(f"{setting} names {url.get_backend_name()!r}, but only PostgreSQL will do")
    return url.set(drivername="postgresql+asyncpg")


def open_engine(
    url: str | URL, schema: str, *, pool_size: int = 8, command_timeout: float | None = _STATEMENT_SECONDS
) -> AsyncEngine:
    """A pool of connections for the ledger in `schema`; a statement may take `command_timeout` s. Nothing is connected yet.

    With `prepared_statement_cache_size=0` among the URL's parameters (SQLAlchemy's own word) no prepared statement outlives
    its transaction: for a pgbouncer in transaction mode that does not know of them (before 1.21, or set so).
    """
    url = database_url(url) if isinstance(url, str) else url
    engine = create_async_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=5,
        pool_pre_ping=False,
        hide_parameters=True,  # a failing statement's parameters are the guests' data
        connect_args={
            "server_settings": {"application_name": "guestledger", "timezone": "UTC"},
            "timeout": 10,
            # A server that is gone without a word must not hold an append, and all behind it, until TCP gives up.
            "command_timeout": command_timeout,
            **({"ssl": False} if _is_socket(url) else {}),
            **(_UNPREPARED if url.query.get(_STATEMENT_CACHE) == "0" else {}),
        },
    )
    connections = _connections[engine.sync_engine.dialect] = _Connections()
    event.listen(engine.sync_engine, "do_connect", connections.refuse_if_closed)
    event.listen(engine.sync_engine, "connect", connections.add)
    event.listen(engine.sync_engine, "checkout", _refuse_if_lost)
    return engine.execution_options(schema_translate_map={None: schema})


def _is_socket(url: URL) -> bool:
    # There is no TLS through a socket, and libpq passes over what the environment says of it (`PGSSLMODE`); the driver does not.
    host = url.query.get("host", url.host)
    return isinstance(host, str) and host.startswith("/") and "ssl" not in url.query


class _Connections:
    """The connections of one engine. Once it is closed, none is added: nobody would close it."""

    def __init__(self) -> None:
        self.drivers: WeakSet[Driver] = WeakSet()
        self.closed = False

    def refuse_if_closed(self, *_: object) -> None:
        if self.closed:
            raise LedgerClosed("the ledger is closed")

    def add(self, adapted: Any, _record: object) -> None:
        if self.closed:  # in the middle of connecting
            adapted.driver_connection.terminate()
            raise LedgerClosed("the ledger is closed")
        self.drivers.add(adapted.driver_connection)


_connections: WeakKeyDictionary[Dialect, _Connections] = WeakKeyDictionary()


async def close_engine(engine: AsyncEngine) -> None:
    """Close an `open_engine` for good: each connection at once, or after a moment where the server hangs.

    A call that is still under way gets `LedgerClosed` when it needs another connection.
    """
    connections = _connections[engine.sync_engine.dialect]
    connections.closed = True
    drivers = list(connections.drivers)
    await asyncio.gather(*(driver.close(timeout=_GOODBYE_SECONDS) for driver in drivers), return_exceptions=True)
    for driver in drivers:
        if not driver.is_closed():  # something was still under way on it
            driver.terminate()
    await engine.dispose()  # which finds them closed; alone, it would wait for each of them in turn, without end


def _refuse_if_lost(adapted: Any, _record: object, _proxy: object) -> None:
    # The driver learns by itself that the server closed a connection (a restart): the pool opens another instead.
    if adapted.driver_connection.is_closed():
        raise DisconnectionError


def lent_engine(engine: AsyncEngine, schema: str) -> AsyncEngine:
    """A host's own pool, for the ledger in `schema`: the connections are the host's, and so is closing them.

    Raises `UnfitEngine` when it is not SQLAlchemy's async engine over asyncpg.
    """
    if not isinstance(engine, AsyncEngine):
        raise UnfitEngine(
            f"the engine must be a sqlalchemy.ext.asyncio.AsyncEngine, not a {type(engine).__name__}: {_MAKE}"
        )
    if (engine.dialect.name, engine.dialect.driver) != ("postgresql", "asyncpg"):
        raise UnfitEngine(f"the engine must speak through asyncpg, not {engine.dialect.driver}: {_MAKE}")
    # The host may have chosen another isolation level, AUTOCOMMIT for one: its choice holds for its own transactions.
    return engine.execution_options(schema_translate_map={None: schema}, isolation_level="READ COMMITTED")


@asynccontextmanager
async def driver_connection(engine: AsyncEngine) -> AsyncIterator[Driver]:
    """A connection of the pool as asyncpg itself has it: for the few statements whose round trips everybody waits for.

    Outside a transaction unless its user begins one; a connection on which anything failed is not used again.
    """
    async with engine.connect() as connection:
        driver: Driver = (await connection.get_raw_connection()).driver_connection
        while driver.is_closed():  # the server went away while it lay in the pool; a new one is never closed
            await connection.invalidate()
            driver = (await connection.get_raw_connection()).driver_connection
        try:
            yield driver
        except BaseException:
            await connection.invalidate()
            raise


async def read_time(engine: AsyncEngine) -> datetime:
    """What the database's clock says (UTC). Raises `ServiceError`."""
    with reported():
        async with driver_connection(engine) as driver:
            moment: datetime = await driver.fetchval("SELECT clock_timestamp()")
            return moment


@asynccontextmanager
async def transaction(driver: Driver, *, unhurried: bool = False, durable: bool = True) -> AsyncIterator[None]:
    """A transaction at READ COMMITTED, whatever the host's or the database's default is, for what changes rows.

    At a stricter level, whoever has waited for a lock is turned away. A process that stands still within it, as one that is
    suspended, loses it (`NOBODY_WAITS_FOR_LONG`); `unhurried` lets a statement take as long as it needs. Without `durable` the
    commit does not wait for the disk: for what is made anew where a crash of the server has taken back the last moment of it.
    """
    limits = _STANDING_STILL if unhurried else NOBODY_WAITS_FOR_LONG
    waiting = "" if durable else "; SET LOCAL synchronous_commit = off"
    await driver.execute(f"BEGIN ISOLATION LEVEL READ COMMITTED; {limits}{waiting}")
    try:
        yield
    except BaseException:
        with suppress(Exception):  # the connection may be what failed, or its server hangs
            await driver.execute("ROLLBACK", timeout=_GOODBYE_SECONDS)
        raise
    await driver.execute("COMMIT")


@asynccontextmanager
async def short_transaction(
    engine: AsyncEngine, *, unhurried: bool = False, durable: bool = True
) -> AsyncIterator[Driver]:
    """A connection of the pool in a `transaction`."""
    async with driver_connection(engine) as driver, transaction(driver, unhurried=unhurried, durable=durable):
        yield driver


class HeldConnection:
    """One connection of the pool, kept from one use to the next: to take one out each time costs as much as a small batch.

    For one user at a time. A connection on which anything failed is let go, and the next use has another.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._stack = AsyncExitStack()
        self._driver: Driver | None = None

    @asynccontextmanager
    async def use(self) -> AsyncIterator[Driver]:
        """The connection, as `driver_connection` gives one."""
        if self._driver is None:
            self._driver = await self._stack.enter_async_context(driver_connection(self._engine))
        try:
            yield self._driver
        except BaseException:
            self._driver = None
            await self._stack.__aexit__(*sys.exc_info())
            raise

    async def give_back(self) -> None:
        """Leave it to others, until the next use."""
        self._driver = None
        await self._stack.aclose()


@contextmanager
def reported(setting: str = "GUESTLEDGER_DATABASE_URL") -> Iterator[None]:
    """Turn what the driver raises into one clear line: a `ServiceError` of some kind, or `DatabaseFault`.

    `setting` is where the database's URL came from.
    """
    try:
        yield
    except PoolTimeout:
        raise ServiceUnreachable("all connections to the database are in use: it does not keep up") from None
    except (OSError, TimeoutError) as error:
        raise ServiceUnreachable(f"the database cannot be reached ({type(error).__name__}): {_look(setting)}") from None
    # The driver's internal error is what a statement meets after the server said goodbye between two of them.
    except (DBAPIError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
        # From None, here and above: the driver's own error has whole rows in its details.
        raise _in_clear(error.orig if isinstance(error, DBAPIError) and error.orig else error, setting) from None


def _in_clear(error: BaseException, setting: str) -> Exception:
    state = str(getattr(error, "sqlstate", None) or "")
    if state in _NOT_THERE:
        return LedgerNotReady("there is no ledger in this database: run `guestledger db upgrade`")
    if state in _NOT_PREPARED:
        return ServiceUnreachable(
            "prepared statements are lost on the way to the database, as by a pgbouncer in transaction mode: "
            f"add {_STATEMENT_CACHE}=0 to the parameters of {setting}"
        )
    misfit = error if isinstance(error, asyncpg.ClientConfigurationError) else error.__cause__
    if isinstance(misfit, asyncpg.ClientConfigurationError):
        why = str(misfit).partition("\n")[0][:200]
        return ServiceUnreachable(
            f"the database is not connected to as it is set up ({why}): check {setting} and the PG… variables of the environment"
        )
    if not state:
        return ServiceUnreachable(f"the connection to the database was lost: {_look(setting)}")
    if state.startswith(_UNREACHABLE):
        return ServiceUnreachable(f"the database cannot be used (SQLSTATE {state}): {_look(setting)}")
    if state.startswith(_QUOTES):
        return DatabaseFault(f"PostgreSQL refused a value (SQLSTATE {state})")
    message = str(error.args[0] if error.args else "").partition("\n")[0][:200]
    if state == _NOT_ALLOWED:
        return NotAllowed(
            f"the database user may not do this ({message}): it has to be a member of the ledger's runtime role, "
            "which is named for the schema (guestledger_runtime)",
            message,
        )
    return DatabaseFault(f"PostgreSQL refused a statement (SQLSTATE {state}): {message}")


def _look(setting: str) -> str:
    return f"check {setting} and that the server runs"
