"""Named consumers: each feeds something else from the log (a queue, a warehouse, a webhook), from a checkpoint of its own.

At least once: the handler has a batch first, and the checkpoint moves after that. Whatever ends in between, a crash, a lost
lease or a cancellation, brings the same events again; none is ever passed over. A handler that must not do a thing twice
goes by the events' positions.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import NoReturn

import msgspec

from guestledger.engine.domain.errors import ServiceError, in_short
from guestledger.engine.limits.retry import RetryPolicy, backoff_ms
from guestledger.engine.log.appends import Lease
from guestledger.engine.log.recorded import EventFilter, RecordedEvent
from guestledger.engine.operations.tail import tail
from guestledger.engine.ports.clock import Clock
from guestledger.engine.ports.consumers import ConsumerCheckpoints
from guestledger.engine.ports.event_store import EventStore

logger = logging.getLogger("guestledger")

Handler = Callable[[Sequence[RecordedEvent]], Awaitable[object]]
"""Takes a batch, in order of position, and returns once it is safe with whoever it was for. What it returns is not used.

Of what it raises only the kind and the place are logged: let it log by itself what else it can tell."""


class ConsumerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a consumer takes its time."""

    batch: int = 500
    """The most events that the handler is given at once."""
    poll_ms: int = 500
    lease_ms: int = 10_000
    """How long another process waits before it takes over from one that has died."""
    backoff: RetryPolicy = RetryPolicy(base_ms=500, cap_ms=60_000)
    """The waits after a failure; it is never given up."""


class _LeaseLost(Exception):
    pass


class Consumer:
    """One process's try at being the consumer `name`: of all that try, one at a time gets to be it."""

    def __init__(
        self,
        name: str,
        handler: Handler,
        *,
        store: EventStore,
        checkpoints: ConsumerCheckpoints,
        clock: Clock,
        wanted: EventFilter = EventFilter(),
        start: int = -1,
        pace: ConsumerOptions = ConsumerOptions(),
    ) -> None:
        self._name = name
        self._handler = handler
        self._store = store
        self._checkpoints = checkpoints
        self._clock = clock
        self._wanted = wanted
        self._start = start
        self._pace = pace
        # An owner of its own, not the process's: two that ask for one name within a process exclude each other too.
        self._lease = Lease(owner=clock.new_id(), ms=pace.lease_ms)

    async def run(self) -> NoReturn:
        """Be the consumer, or stand by until it is to be had; until cancelled."""
        failures, before = 0, None
        try:
            while True:
                try:
                    position = await self._checkpoints.claim(self._name, self._lease, self._start)
                    if position is not None:
                        failures = failures if position == before else 0
                        before = position
                        await self._hold(position)
                    await asyncio.sleep(self._pace.poll_ms * (0.5 + self._clock.jitter()) / 1_000)
                except ServiceError as error:
                    failures += 1
                    logger.warning("consumer %s has to wait: %s", self._name, error)
                    await self._back_off(failures)
                except Exception as error:  # noqa: BLE001
                    # An event that cannot be read, above all. It is not passed over: somebody has to see to it.
                    failures += 1
                    logger.error("consumer %s cannot go on, and tries again: %s", self._name, in_short(error))  # noqa: TRY400
                    await self._back_off(failures)
        finally:
            with suppress(ServiceError):
                await self._checkpoints.release(self._name, self._lease.owner)

    async def _hold(self, position: int) -> None:
        """Deliver from `position` on, until the lease is lost. Raises what reading or moving the checkpoint raises."""
        beating = asyncio.create_task(self._beat())
        delivering = asyncio.create_task(self._deliver(position))
        try:
            await asyncio.wait((beating, delivering), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (beating, delivering):
                task.cancel()
            ended = await asyncio.gather(beating, delivering, return_exceptions=True)
        for outcome in ended:
            if isinstance(outcome, _LeaseLost):
                logger.warning("consumer %s was taken over by another process", self._name)
            elif isinstance(outcome, Exception):
                raise outcome

    async def _beat(self) -> None:
        # Out of reach of the database for as long as the lease is, this process may not be the consumer any more.
        loop = asyncio.get_running_loop()
        held_until = loop.time() + self._pace.lease_ms / 1_000
        while True:
            await asyncio.sleep(self._pace.lease_ms / 3_000)
            try:
                kept = await self._checkpoints.keep(self._name, self._lease)
            except ServiceError:  # delivering meets the same and reports it
                kept = loop.time() < held_until
            else:
                held_until = loop.time() + self._pace.lease_ms / 1_000
            if not kept:
                raise _LeaseLost

    async def _deliver(self, position: int) -> None:
        pace = self._pace
        batches = tail(
            self._store, self._clock, after=position, wanted=self._wanted, batch=pace.batch, poll_ms=pace.poll_ms
        )
        async for found in batches:
            if found.events:
                await self._handle(found.events)
            if not await self._checkpoints.move(self._name, self._lease.owner, found.position):
                raise _LeaseLost

    async def _handle(self, events: Sequence[RecordedEvent]) -> None:
        failures = 0
        while True:
            try:
                await self._handler(events)
            except Exception as error:  # noqa: BLE001
                failures += 1
                # Not the error's own text, nor its traceback: they may hold what is in the events.
                logger.error(  # noqa: TRY400
                    "consumer %s failed on positions %d to %d (%d times by now), and tries again: %s",
                    self._name,
                    events[0].position,
                    events[-1].position,
                    failures,
                    in_short(error),
                )
                await self._back_off(failures)
            else:
                return

    async def _back_off(self, failures: int) -> None:
        await asyncio.sleep(backoff_ms(failures, self._pace.backoff, self._clock.jitter()) / 1_000)
