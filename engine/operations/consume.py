"""Named consumers: each feeds another system from the log, at least once, from its own checkpoint.

The checkpoint moves after the handler: after a crash, a lost lease or a cancellation the same events come again. Their
positions identify repeats.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import NoReturn

import msgspec

from guestledger.engine.domain.errors import LogSetBack, ServiceError, in_short
from guestledger.engine.limits.retry import RetryPolicy, backoff_ms
from guestledger.engine.log.appends import Lease
from guestledger.engine.log.recorded import EventFilter, RecordedEvent
from guestledger.engine.operations.tail import tail
from guestledger.engine.ports.clock import Clock
from guestledger.engine.ports.consumers import ConsumerCheckpoints
from guestledger.engine.ports.event_store import EventStore

logger = logging.getLogger("guestledger")

Handler = Callable[[Sequence[RecordedEvent]], Awaitable[object]]
"""Processes a batch, in order of position, and returns once it is safe. Of its errors only type and place are logged:
their texts may quote events."""


class ConsumerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a consumer reads and retries."""

    batch: int = 500
    """The most events per call of the handler."""
    poll_ms: int = 500
    lease_ms: int = 10_000
    """How long another process waits before it takes over from a dead one."""
    backoff: RetryPolicy = RetryPolicy(base_ms=500, cap_ms=60_000)
    """The waits after failures. It never gives up."""


class _LeaseLost(Exception):
    pass


class Consumer:
    """One process's candidacy for the consumer `name`."""

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
        options: ConsumerOptions = ConsumerOptions(),
    ) -> None:
        self._name = name
        self._handler = handler
        self._store = store
        self._checkpoints = checkpoints
        self._clock = clock
        self._wanted = wanted
        self._start = start
        self._options = options
        self._at: int | None = None
        self._mark: bytes | None = None
        self._moving_from: int | None = None
        """Where the checkpoint still is if its last move failed."""
        # Not the process's: two candidates within one process exclude each other too.
        self._lease = Lease(owner=clock.new_id(), ms=options.lease_ms)
        self._lease_s = options.lease_ms / 1_000

    async def run(self) -> NoReturn:
        """Hold the consumer, or stand by for it, until cancelled. Raises `LogSetBack`: it is stopped then."""
        failures, before = 0, None
        try:
            while True:
                try:
                    asked_at = self._now()
                    position = await self._checkpoints.claim(self._name, self._lease, self._start)
                    if position is not None:
                        failures = failures if position == before else 0
                        before = position
                        await self._check_log(position)
                        await self._hold(position, asked_at + self._lease_s)
                    await asyncio.sleep(self._options.poll_ms * (0.5 + self._clock.jitter()) / 1_000)
                except LogSetBack as error:
                    ahead = LogSetBack(error.position, error.head, self._name)
                    with suppress(ServiceError):
                        await self._checkpoints.stop(self._name, error.position)
                    logger.error("%s", ahead)  # noqa: TRY400 - it says it all
                    raise ahead from None
                except ServiceError as error:
                    failures += 1
                    logger.warning("consumer %s has to wait: %s", self._name, error)
                    await self._back_off(failures)
                except Exception as error:  # noqa: BLE001
                    # An unreadable event, above all. It is not skipped: a person has to act.
                    failures += 1
                    logger.error("consumer %s cannot continue, and retries: %s", self._name, in_short(error))  # noqa: TRY400
                    await self._back_off(failures)
        finally:
            with suppress(ServiceError):
                await self._checkpoints.release(self._name, self._lease.owner)

    async def _check_log(self, position: int) -> None:
        """Raise `LogSetBack` if the log no longer holds what this process has handled."""
        if self._at is not None and position < self._at:
            await self._store.read_batch(after=self._at, batch=1, mark=self._mark)
            if position != self._moving_from:
                logger.warning("consumer %s was set back from position %d to %d", self._name, self._at, position)
        if position != self._at:
            self._at, self._mark = position, None
        self._moving_from = None

    async def _hold(self, position: int, held_until: float) -> None:
        """Deliver until the lease is lost."""
        beating = asyncio.create_task(self._beat(held_until))
        delivering = asyncio.create_task(self._deliver(position))
        try:
            await asyncio.wait((beating, delivering), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (beating, delivering):
                task.cancel()
            ended = await asyncio.gather(beating, delivering, return_exceptions=True)
        for outcome in ended:
            if isinstance(outcome, _LeaseLost):
                logger.warning("consumer %s has lost its lease: another process may deliver now", self._name)
            elif isinstance(outcome, Exception):
                raise outcome

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    async def _beat(self, held_until: float) -> None:
        """Renew the lease. Raises `_LeaseLost` once it may have lapsed, also while the database gives no answer."""
        while True:
            try:
                async with asyncio.timeout_at(held_until):
                    await asyncio.sleep(self._lease_s / 3)
                    held_until = await self._renewed(held_until)
            except TimeoutError:
                raise _LeaseLost from None

    async def _renewed(self, held_until: float) -> float:
        """Until when the lease is held, after a try to renew it. Raises `_LeaseLost`."""
        asked_at = self._now()  # it counts from before the database was asked
        try:
            async with asyncio.timeout(self._lease_s / 3):
                kept = await self._checkpoints.keep(self._name, self._lease)
        except (ServiceError, TimeoutError):  # delivering reports it
            return held_until
        if not kept:
            raise _LeaseLost
        return asked_at + self._lease_s

    async def _deliver(self, position: int) -> None:
        batches = tail(
            self._store,
            self._clock,
            after=position,
            wanted=self._wanted,
            batch=self._options.batch,
            poll_ms=self._options.poll_ms,
            mark=self._mark,
        )
        async for found in batches:
            if found.events:
                await self._handle(found.events)
            self._moving_from, self._at, self._mark = position, found.position, found.mark
            if not await self._checkpoints.move(self._name, self._lease.owner, position, found.position):
                raise _LeaseLost
            position, self._moving_from = found.position, None

    async def _handle(self, events: Sequence[RecordedEvent]) -> None:
        failures = 0
        while True:
            try:
                await self._handler(events)
            except Exception as error:  # noqa: BLE001
                failures += 1
                # Neither text nor traceback: see `Handler`.
                logger.error(  # noqa: TRY400
                    "consumer %s failed on positions %d to %d (%d times), and retries: %s",
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
        await asyncio.sleep(backoff_ms(failures, self._options.backoff, self._clock.jitter()) / 1_000)
