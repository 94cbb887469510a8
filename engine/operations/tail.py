"""Following the log as it grows."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import suppress

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from guestledger.engine.domain.errors import ServiceError
from guestledger.engine.log.recorded import Batch, EventFilter
from guestledger.engine.ports.clock import Clock
from guestledger.engine.ports.event_store import EventStore

logger = logging.getLogger("guestledger")


async def tail(
    store: EventStore,
    clock: Clock,
    *,
    after: int = -1,
    wanted: EventFilter = EventFilter(),
    batch: int = 500,
    poll_ms: int = 500,
    mark: bytes | None = None,
) -> AsyncIterator[Batch]:
    """See `Events.tail`. New events are seen with a hint, or after about `poll_ms`.

    A batch without events says that the log grew without a match.
    """
    retrying = AsyncRetrying(
        retry=retry_if_exception_type(ServiceError),
        wait=wait_random_exponential(multiplier=0.1, max=5),
        before_sleep=_warn,
    )
    while True:
        arrival = store.arrival()  # before reading: what comes meanwhile must not be waited for
        found: Batch = await retrying(store.read_batch, after=after, batch=batch, wanted=wanted, mark=mark)
        if found.position > after:
            # Its mark may be missing, in a detached partition. That of an earlier position is never true of this one.
            after, mark = found.position, found.mark
            yield found
            continue
        mark = found.mark or mark
        with suppress(TimeoutError):  # not all readers at once
            async with asyncio.timeout(poll_ms * (0.5 + clock.jitter()) / 1_000):
                await arrival.wait()


def _warn(state: RetryCallState) -> None:
    assert state.outcome is not None
    logger.warning("the log cannot be read now: %s", state.outcome.exception())
