"""Following the log as it grows."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import suppress

from guestledger.engine.domain.errors import ServiceError
from guestledger.engine.limits.retry import RetryPolicy, backoff_ms
from guestledger.engine.log.recorded import Batch, EventFilter
from guestledger.engine.ports import Clock, EventStore

logger = logging.getLogger("guestledger")

_BACKOFF = RetryPolicy(base_ms=100, cap_ms=5_000)


async def tail(
    store: EventStore,
    clock: Clock,
    *,
    after: int = -1,
    wanted: EventFilter = EventFilter(),
    batch: int = 500,
    poll_ms: int = 500,
) -> AsyncIterator[Batch]:
    """The log after a position, in order, for ever: what is there, then what comes, in batches of at most `batch` events.

    Nothing is skipped and nothing comes twice, whatever becomes of the database meanwhile: it is waited for. New events are
    seen when a hint comes, and at the latest after about `poll_ms`. A batch without events tells that the log went on with
    nothing that was asked for. Raises `UnknownEvent` at an event that this release cannot read, once all before it have
    been given.
    """
    failures = 0
    while True:
        arrival = store.arrival()  # before the reading: what comes while it reads must not be waited for
        try:
            found = await store.read_batch(after=after, batch=batch, wanted=wanted)
        except ServiceError as error:
            failures += 1
            logger.warning("the log cannot be read now: %s", error)
            await asyncio.sleep(backoff_ms(failures, _BACKOFF, clock.jitter()) / 1_000)
            continue
        failures = 0
        if found.position > after:
            after = found.position
            yield found
            continue
        with suppress(TimeoutError):  # spread, so that many readers do not ask in step
            async with asyncio.timeout(poll_ms * (0.5 + clock.jitter()) / 1_000):
                await arrival.wait()
