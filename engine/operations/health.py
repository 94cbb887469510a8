"""Health: whether a ledger can do its work now, for a host to put behind an endpoint of its own."""

import asyncio

import msgspec

from guestledger.engine.domain.errors import ServiceError
from guestledger.engine.ports import EventStore

_ANSWER_SECONDS = 2.0


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """How a ledger is, in words that hold no secret. Each trouble is one line; `None`: there is none."""

    database: str | None
    """Why the database cannot be used."""
    scheduler_runs: bool
    """Whether a scheduler runs in this process."""
    scheduler: str | None
    """The service that the scheduler could not use when it was needed last, CXone or the database."""


async def health(store: EventStore, *, scheduler_runs: bool, trouble: ServiceError | None) -> Health:
    """Ask the database one thing, and tell the rest as it is known."""
    database = None
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            await store.head()
    except TimeoutError:
        database = f"the database has not answered for {_ANSWER_SECONDS:g} s"
    except ServiceError as error:
        database = str(error)
    scheduler = None if trouble is None else str(trouble)
    return Health(database=database, scheduler_runs=scheduler_runs, scheduler=scheduler)
