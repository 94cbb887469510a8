"""Health: whether a ledger can work now, for a host's own endpoint."""

import asyncio

import msgspec

from guestledger.engine.domain.errors import ServiceError
from guestledger.engine.ports.event_store import EventStore

_ANSWER_SECONDS = 2.0


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a ledger, without secrets. Each trouble is one line; `None`: there is none."""

    database: str | None
    """Why the database cannot be used."""
    scheduler_runs: bool
    """Whether a scheduler runs in this process."""
    scheduler: str | None
    """The last service error of the scheduler, or `None`."""


async def health(store: EventStore, *, scheduler_runs: bool, trouble: ServiceError | None) -> Health:
    """Ask the database once; report the rest as it is known."""
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
