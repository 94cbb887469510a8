"""Poison events: telling them from a database in trouble, and advancing right up to them."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from guestledger.adapters.postgres.errors import reported
from guestledger.adapters.postgres.transactions import Driver, driver_connection, transaction
from guestledger.engine.domain.errors import GuestledgerError, UnknownEvent, in_short

BATCH = 2_000
"""Events in one transaction. Larger batches are no faster and hold the checkpoints longer."""

# SQLSTATE classes that a row causes: data exception, integrity constraint violation.
_ROW_REJECTED = ("22", "23")


class Poisoned(Exception):
    """A batch holds an event that cannot be decoded or applied. The batch was rolled back."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(type(cause).__name__)
        self.cause = cause


@asynccontextmanager
async def batch_transaction(engine: AsyncEngine) -> AsyncIterator[Driver]:
    """A transaction for one batch. Raises `Poisoned` if the error lies in the events, so that a retry would not help."""
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
    """Call `advance` with the largest batch size until it returns 0; yield the number of events of each batch.

    A poisoned batch is halved until the events before the poison are in. Raises `Poisoned` at the poison event itself.
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
    """Describe in one line what is wrong with a row of the log. An exception's own text may hold guests' data."""
    if isinstance(error, UnknownEvent):
        reason = error.reason
    elif isinstance(error, asyncpg.PostgresError):
        reason = f"PostgreSQL rejects its row (SQLSTATE {error.sqlstate})"
    else:
        reason = in_short(error, within=("guestledger.engine.", "guestledger.adapters."))
    return (
        f"event {event['position']} ({event['event_type']}, version {event['version']} of stream {event['stream_id']}) "
        f"cannot be projected: {reason}"
    )


def _lies_in_the_events(error: Exception) -> bool:
    if isinstance(error, asyncpg.PostgresError):
        return str(error.sqlstate).startswith(_ROW_REJECTED)
    if isinstance(error, GuestledgerError):
        return isinstance(error, UnknownEvent)
    # The driver raises its internal error for a statement after the server closed the connection between two of them.
    return not isinstance(error, (asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, MemoryError))
