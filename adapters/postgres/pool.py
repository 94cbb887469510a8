"""Connection pools: our own, and a host application's."""

import asyncio
import logging
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import asyncpg
from sqlalchemy import URL, Connection, Dialect, Engine, event
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from guestledger.adapters.postgres.errors import UnfitEngine, no_connection, unreachable
from guestledger.adapters.postgres.lent_pool import CLOSE_SECONDS, OPTION, LentPool
from guestledger.adapters.postgres.transactions import ISOLATION, SEARCH_PATH, SET_SEARCH_PATH, Driver, fixed
from guestledger.adapters.postgres.unusable import DATABASE_URL
from guestledger.adapters.postgres.url import connect_arguments, database_url, keeps_statements
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.errors import LedgerClosed

_STATEMENT_SECONDS = 120
_CREATE_IT = 'create it with create_async_engine("postgresql+asyncpg://…")'
# An unnamed statement is prepared and run at once: pgbouncer cannot switch servers in between.
_UNPREPARED = {"prepared_statement_cache_size": 0, "prepared_statement_name_func": lambda: ""}


class _Connections:
    """The connections of one engine. A closed engine gets no more: nothing would close them."""

    def __init__(self, arguments: dict[str, Any], setting: str) -> None:
        self._arguments = arguments
        self._setting = setting
        self.drivers: WeakSet[Driver] = WeakSet()
        self.closed = False
        self._fixes = [
            {"search_path": SEARCH_PATH, "default_transaction_isolation": ISOLATION},
            {"search_path": SEARCH_PATH},
        ]

    def refuse_if_closed(self, *_: object) -> None:
        if self.closed:
            raise LedgerClosed

    def add(self, adapted: Any, _record: object) -> None:
        if self.closed:  # while this connection was being made
            adapted.driver_connection.terminate()
        self.refuse_if_closed()
        self.drivers.add(adapted.driver_connection)

    async def connect(self, *, host: str | None = None, **_of_dialect: object) -> Driver:
        """Connect with the ledger's search path and isolation for the whole session.

        A pooler may refuse or ignore a setting: single statements then need a transaction each. `host` is the URL's, or where
        the embedded server is now. The URL has the dialect's other arguments.
        """
        arguments = {**self._arguments, **({"host": host} if host else {})}
        while self._fixes:
            settings = {**arguments["server_settings"], **self._fixes[0]}
            try:
                driver = await _connect({**arguments, "server_settings": settings}, self._setting)
            except asyncpg.ProtocolViolationError:
                del self._fixes[:1]
            else:
                return await _checked(driver)
        return await _connect(arguments, self._setting)


async def _checked(driver: Driver) -> Driver:
    """The connection, noted in `fixed` if the settings have an effect."""
    try:
        shown = "current_setting('search_path'), current_setting('default_transaction_isolation')"
        if tuple(await driver.fetchrow(f"SELECT {shown}")) == (SEARCH_PATH, ISOLATION):
            fixed.add(driver)
    except BaseException:
        driver.terminate()
        raise
    return driver


async def _connect(arguments: dict[str, Any], setting: str) -> Driver:
    try:
        return await asyncpg.connect(**arguments)
    except asyncpg.ClientConfigurationError:
        raise
    except TimeoutError as error:  # later, a statement has no answer
        raise no_connection(error, setting) from None
    except (ValueError, KeyError):  # KeyError: nobody is named, and this system user has no name
        detail = f"a connection setting cannot be read: check {setting} and the PG… environment variables"
        raise unreachable(Cause.NOT_CONFIGURED, detail) from None


_connections: WeakKeyDictionary[Dialect, _Connections] = WeakKeyDictionary()


def open_engine(
    url: str | URL,
    schema: str,
    *,
    pool_size: int = 8,
    command_timeout: float | None = _STATEMENT_SECONDS,
    setting: str = DATABASE_URL,
) -> AsyncEngine:
    """Create a pool for the ledger in `schema`. It connects on first use. `setting` names the URL's setting.

    With `prepared_statement_cache_size=0` in the URL, no prepared statement outlives its transaction, for pgbouncer in
    transaction mode.
    """
    url = database_url(url, setting) if isinstance(url, str) else url
    name = {} if "application_name" in url.query else {"application_name": "guestledger"}
    # A server that vanished must not block appends until TCP gives up.
    limits = {"command_timeout": command_timeout, **({} if keeps_statements(url) else {"statement_cache_size": 0})}
    arguments = {**connect_arguments(url, setting), "server_settings": {"timezone": "UTC", **name}, **limits}
    connections = _Connections(arguments, setting)
    engine = create_async_engine(
        url.set(query={}),  # the dialect would take each parameter for one of the driver's
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=5,
        pool_pre_ping=False,
        hide_parameters=True,  # a failing statement's parameters are the guests' data
        connect_args={
            "async_creator_fn": connections.connect,
            **({} if keeps_statements(url) else _UNPREPARED),
        },
    )
    _connections[engine.sync_engine.dialect] = connections
    event.listen(engine.sync_engine, "do_connect", connections.refuse_if_closed)
    event.listen(engine.sync_engine, "connect", connections.add)
    event.listen(engine.sync_engine, "checkout", _refuse_closed)
    return _prepared(engine.execution_options(schema_translate_map={None: schema}))


async def close_engine(engine: AsyncEngine) -> None:
    """Close a pool of `open_engine` for good, all connections at once. Connections to a server that hangs are dropped.

    Whatever still uses it gets `LedgerClosed` in place of a new connection.
    """
    connections = _connections[engine.sync_engine.dialect]
    connections.closed = True
    drivers = list(connections.drivers)
    await asyncio.gather(*(driver.close(timeout=CLOSE_SECONDS) for driver in drivers), return_exceptions=True)
    for driver in drivers:
        if not driver.is_closed():
            driver.terminate()
    await engine.dispose()  # alone, it would wait for each connection in turn


def lent_engine(engine: AsyncEngine, schema: str) -> AsyncEngine:
    """Prepare a host's own pool, which the host closes. Raises `UnfitEngine`."""
    if not isinstance(engine, AsyncEngine):
        raise UnfitEngine(
            f"the engine must be a sqlalchemy.ext.asyncio.AsyncEngine, not a {type(engine).__name__}: {_CREATE_IT}"
        )
    if (engine.dialect.name, engine.dialect.driver) != ("postgresql", "asyncpg"):
        raise UnfitEngine(f"the engine must use asyncpg, not {engine.dialect.driver}: {_CREATE_IT}")
    # The host's isolation level, such as AUTOCOMMIT, is for its own transactions only.
    options: dict[str, Any] = {"schema_translate_map": {None: schema}, "isolation_level": "READ COMMITTED"}
    outside = AsyncEngine(Engine(engine.pool.recreate(), engine.dialect, engine.url))
    options[OPTION] = LentPool(engine, _prepared(outside.execution_options(**options)))
    return _prepared(engine.execution_options(**options))


class _WithoutRows(logging.LoggerAdapter[Any]):
    """SQLAlchemy's logger, but never at DEBUG: there it logs rows, which hold guests' data."""

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - the name of the standard library
        return level > logging.DEBUG and super().isEnabledFor(level)


def _prepared(engine: AsyncEngine) -> AsyncEngine:
    """Give each of SQLAlchemy's transactions on `engine` the ledger's search path, and log neither rows nor parameters.

    The engine it came from stays as it is.
    """
    event.listen(engine.sync_engine, "begin", _set_search_path)
    engine.sync_engine.logger = _WithoutRows(engine.sync_engine.logger, {})  # type: ignore[assignment]
    engine.sync_engine.hide_parameters = True
    return engine


def _set_search_path(connection: Connection) -> None:
    connection.exec_driver_sql(SET_SEARCH_PATH)


def _refuse_closed(adapted: Any, _record: object, _proxy: object) -> None:
    # After a restart of the server; the pool then opens another one.
    if adapted.driver_connection.is_closed():
        raise DisconnectionError
