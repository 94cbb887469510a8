"""Connections and transactions of the driver itself, to save round trips."""

import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import datetime
from typing import Any
from weakref import WeakSet

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from guestledger.adapters.postgres.errors import reported
from guestledger.adapters.postgres.lent_pool import CLOSE_SECONDS, OPTION, LentPool

Driver = Any
"""An `asyncpg.Connection`; asyncpg brings no types."""

SEARCH_PATH = "pg_catalog, pg_temp"
"""Where names without a schema are looked up. In any other schema, somebody's better fitting function or operator would
run with our rights.
"""
SET_SEARCH_PATH = f"SET LOCAL search_path = {SEARCH_PATH}"
"""For one transaction: a host's connection keeps its own, and a pooler may change the server between two transactions."""

RELAXED = "set_config('synchronous_commit', 'off', true)"
"""In the output of a statement that commits by itself: its commit does not wait for the disk."""

UNHURRIED_SECONDS = 7 * 24 * 3_600
"""The driver's limit of a statement that takes as long as it needs: `None` would be the limit of its pool."""

ISOLATION = "read committed"
"""At a stricter level, waiting for a lock could fail."""

fixed: WeakSet[Driver] = WeakSet()
"""The connections that have `SEARCH_PATH` and `ISOLATION` outside transactions too."""

_IDLE_LIMIT = "SET LOCAL idle_in_transaction_session_timeout = '10s'"
# transaction_timeout exists since PostgreSQL 17; the server behind a URL may change.
TRANSACTION_LIMITS = f"""{SET_SEARCH_PATH}; {_IDLE_LIMIT};
            SELECT set_config('transaction_timeout', '30s', true) WHERE current_setting('server_version_num')::int >= 170000"""
"""The search path, and limits that end a transaction whose client stands still. The idle limit alone is not enough:
while the driver prepares a statement, its client counts as busy.
"""


@asynccontextmanager
async def pooled_connection(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A connection of the pool, or outside it if a host's transactions hold all of it. Raises `PoolUsedUp`."""
    lent: LentPool | None = engine.get_execution_options().get(OPTION)
    async with AsyncExitStack() as stack:
        yield await (stack.enter_async_context(engine.connect()) if lent is None else lent.connect(engine, stack))


@asynccontextmanager
async def driver_connection(engine: AsyncEngine) -> AsyncIterator[Driver]:
    """As `pooled_connection`, but asyncpg's own object, for transactions. It is dropped after any error."""
    async with pooled_connection(engine) as connection, _usable(connection) as driver:
        yield driver


@asynccontextmanager
async def _usable(connection: AsyncConnection) -> AsyncIterator[Driver]:
    driver: Driver = (await connection.get_raw_connection()).driver_connection
    while driver.is_closed():  # the server closed it while it was in the pool
        await connection.invalidate()
        driver = (await connection.get_raw_connection()).driver_connection
    try:
        yield driver
    except BaseException:
        await connection.invalidate()
        raise


@asynccontextmanager
async def reading(engine: AsyncEngine) -> AsyncIterator[Driver]:
    """A connection of the pool for single statements, which commit by themselves.

    Each has the ledger's search path, at one round trip if possible.
    """
    async with driver_connection(engine) as driver:
        if driver in fixed:
            yield driver
            return
        async with transaction(driver, unhurried=True):
            yield driver


async def read_time(engine: AsyncEngine) -> datetime:
    """The database's clock (UTC). Raises `ServiceError`."""
    with reported():
        async with reading(engine) as driver:
            moment: datetime = await driver.fetchval("SELECT clock_timestamp()")
            return moment


@asynccontextmanager
async def transaction(
    driver: Driver, *, unhurried: bool = False, durable: bool = True, isolation: str = ISOLATION
) -> AsyncIterator[None]:
    """A transaction, by default at `ISOLATION`.

    `unhurried` has no limit on the server; the driver's is for the statement (`UNHURRIED_SECONDS`). Without `durable`, the commit does not wait for the disk.
    """
    limits = f"{SET_SEARCH_PATH}; {_IDLE_LIMIT}" if unhurried else TRANSACTION_LIMITS
    commit = "" if durable else "; SET LOCAL synchronous_commit = off"
    await driver.execute(f"BEGIN ISOLATION LEVEL {isolation}; {limits}{commit}")
    try:
        yield
    except BaseException:
        with suppress(Exception):
            await driver.execute("ROLLBACK", timeout=CLOSE_SECONDS)
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
    """One connection kept between uses: a check-out costs as much as a small batch. For one user at a time."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._stack = AsyncExitStack()
        self._driver: Driver | None = None

    @asynccontextmanager
    async def use(self) -> AsyncIterator[Driver]:
        """As `driver_connection`."""
        if self._driver is None:
            self._driver = await self._stack.enter_async_context(driver_connection(self._engine))
        try:
            yield self._driver
        except BaseException:
            self._driver = None
            await self._stack.__aexit__(*sys.exc_info())
            raise

    async def give_back(self) -> None:
        """Return it to the pool until the next use."""
        self._driver = None
        await self._stack.aclose()
