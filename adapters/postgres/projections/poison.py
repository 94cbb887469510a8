"""Events that cannot be projected: telling them from a database that is in trouble, and getting up to them one by one."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from guestledger.adapters.postgres.connection import Driver, driver_connection, reported, transaction
from guestledger.engine.domain.errors import GuestledgerError, UnknownEvent, in_short

BATCH = 2_000
"""Events in one transaction: larger ones are no faster, and hold the checkpoints longer."""

# SQLSTATE classes of what PostgreSQL refuses because of a row: data exception, integrity constraint violation.
_REFUSED_ROW = ("22", "23")


class Poisoned(Exception):
    """A batch holds an event that cannot be decoded or applied; nothing of the batch was."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(type(cause).__name__)
        self.cause = cause


@asynccontextmanager
async def batch_transaction(engine: AsyncEngine) -> AsyncIterator[Driver]:
    """A transaction for one batch. Raises `Poisoned` where the fault lies in the events, and is there to stay."""
    poison: Exception | None = None
    with reported():
        async with driver_connection(engine) as driver:
            try:
                async with transaction(driver, durable=False):  # rows and checkpoint are lost together, if at all
                    yield driver
            except Exception as error:
                if not _lies_in_the_events(error):
                    raise
                poison = error
    if poison is not None:
        raise Poisoned(poison)


async def each_batch(advance: Callable[[int], Awaitable[int]], limit: int) -> AsyncIterator[int]:
    """Take batches of at most `limit` events with `advance` until there is none left; yields how many each had.

    Where a batch is poisoned, smaller ones go up to the very event. Raises `Poisoned` when that stands next.
    """
    while True:
        try:
            read = await advance(limit)
        except Poisoned:
            if limit == 1:
                raise
            limit //= 2
            continue
        if not read:
            return
        yield read
        limit = min(2 * limit, BATCH)


def describe(event: Any, error: Exception) -> str:
    """One line on the row `event` of the log and what is wrong with it. An exception's own text may hold guests' data."""
    if isinstance(error, UnknownEvent):
        reason = f"{error.reason}; after that it goes on by itself"
    elif isinstance(error, asyncpg.PostgresError):
        reason = f"PostgreSQL refuses its row (SQLSTATE {error.sqlstate})"
    else:
        reason = in_short(error, within=("engine.", "adapters."))
    return (
        f"event {event['position']} ({event['event_type']}, version {event['version']} of stream {event['stream_id']}) "
        f"cannot be projected: {reason}"
    )


def _lies_in_the_events(error: Exception) -> bool:
    if isinstance(error, asyncpg.PostgresError):
        return str(error.sqlstate).startswith(_REFUSED_ROW)
    if isinstance(error, GuestledgerError):
        return isinstance(error, UnknownEvent)
    # The driver's internal error is what a statement meets after the server said goodbye between two of them.
    return not isinstance(error, (asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, MemoryError))
