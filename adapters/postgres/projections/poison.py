"""Poison events: advancing up to them, and not mistaking a database in trouble for one."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from guestledger.adapters.postgres.errors import reported
from guestledger.adapters.postgres.transactions import Driver, driver_connection, transaction
from guestledger.engine.domain.errors import GuestledgerError, in_short
from guestledger.engine.domain.unreadable import UnknownEvent

BATCH = 2_000
"""Events in one transaction. Larger batches are no faster and hold the checkpoints longer."""

# SQLSTATE classes that a row causes: data exception, integrity constraint violation.
_ROW_REJECTED = ("22", "23")


class Poisoned(Exception):
    """A batch with an event that cannot be decoded or applied was rolled back."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(type(cause).__name__)
        self.cause = cause


@asynccontextmanager
async def batch_transaction(engine: AsyncEngine) -> AsyncIterator[Driver]:
    """A transaction for one batch. Raises `Poisoned` if the error lies in its events."""
    poison: Exception | None = None
    with reported():
        async with driver_connection(engine) as driver:
            try:
                async with transaction(driver, durable=False):  # rows and checkpoint are lost together, if at all
                    yield driver
            except Exception as error:
                if not lies_in_the_events(error):
                    raise
                poison = error
    if poison is not None:
        raise Poisoned(poison)


async def each_batch(advance: Callable[[int], Awaitable[int]], limit: int) -> AsyncIterator[int]:
    """Call `advance` with a batch size until it returns 0; yield the size of each batch.

    Poisoned batches are halved. Raises `Poisoned` at the poison event itself.
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
    """What is wrong with a row of the log, in one line without personal data."""
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


def lies_in_the_events(error: Exception) -> bool:
    """Whether an event caused the error, and not the database."""
    if isinstance(error, asyncpg.PostgresError):
        return str(error.sqlstate).startswith(_ROW_REJECTED)
    if isinstance(error, GuestledgerError):
        return isinstance(error, UnknownEvent)
    return not isinstance(error, (asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, MemoryError))
