"""A host's pool, and a way out when the host's transactions hold all of it.

A host that calls the ledger within a transaction holds a connection and waits for another one. Once all are held like
that, nobody gets one: the ledger opens one outside the pool, for one user at a time.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager

import asyncpg
from sqlalchemy.exc import DBAPIError, TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.pool import QueuePool

from guestledger.adapters.postgres.errors import PoolUsedUp

logger = logging.getLogger("guestledger.waiting")

OPTION = "guestledger_lent_pool"
"""The engine's execution option that holds its `LentPool`."""
CLOSE_SECONDS = 2.0
"""How long to wait for a server that may hang."""

_PATIENCE_SECONDS = 1.0
# The connection outside may be held by the very caller that waits for another one, as in a rebuild, which needs two.
_TURN_SECONDS = 30.0
# A pool that is used up again within this time is not waited for, and not reported.
_SAME_SHORTAGE_SECONDS = 10.0


class LentPool:
    """The pool of a host's engine. `outside` is an engine with the same settings and a pool of its own."""

    def __init__(self, engine: AsyncEngine, outside: AsyncEngine) -> None:
        self._engine = engine
        self._outside = outside
        self._one_at_a_time = asyncio.Lock()
        self._short_at: float | None = None

    async def connect(self, engine: AsyncEngine, stack: AsyncExitStack) -> AsyncConnection:
        """Check out a connection until `stack` closes: outside the pool if others hold all of it. Raises `PoolUsedUp`."""
        found = await self._within(engine, stack)
        return await stack.enter_async_context(self._extra()) if found is None else found

    async def _within(self, engine: AsyncEngine, stack: AsyncExitStack) -> AsyncConnection | None:
        if self._is_used_up() and self._was_short():
            return None
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                return await stack.enter_async_context(engine.connect())
        except (TimeoutError, PoolTimeout):
            if self._is_used_up():
                return None
        return await stack.enter_async_context(engine.connect())  # a slow server

    @asynccontextmanager
    async def _extra(self) -> AsyncIterator[AsyncConnection]:
        async with self._turn():
            self._report()
            try:
                connection = await self._outside.connect()
            except (DBAPIError, asyncpg.PostgresError, OSError, TimeoutError):
                # `from None`: the driver's error may quote data.
                raise PoolUsedUp(self._limit()) from None
            async with aclosing(connection):
                try:
                    yield connection
                finally:
                    await connection.invalidate()  # closed, instead of kept by its pool

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(_TURN_SECONDS):
                await self._one_at_a_time.acquire()
        except TimeoutError:
            raise PoolUsedUp(self._limit()) from None
        try:
            yield
        finally:
            self._one_at_a_time.release()

    def _report(self) -> None:
        if not self._was_short():
            logger.warning(
                "all %d connections of the host's pool are in use, so one is opened outside it: "
                "call the ledger outside your own transactions, or use a larger pool",
                self._limit(),
            )
        self._short_at = asyncio.get_running_loop().time()

    def _was_short(self) -> bool:
        now = asyncio.get_running_loop().time()
        return self._short_at is not None and now - self._short_at < _SAME_SHORTAGE_SECONDS

    def _is_used_up(self) -> bool:
        pool = self._engine.pool
        return isinstance(pool, QueuePool) and 0 <= self._limit() <= pool.checkedout()

    def _limit(self) -> int:
        """How many connections the pool may have; -1: any number."""
        pool = self._engine.pool  # another one after `dispose`
        assert isinstance(pool, QueuePool)
        more = pool._max_overflow  # noqa: SLF001 - SQLAlchemy shows it in texts only
        return -1 if more < 0 else pool.size() + more
