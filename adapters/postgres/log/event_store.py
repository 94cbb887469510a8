"""The event log in PostgreSQL: group commit under the ledger's lock, dense positions in commit order."""

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import Context
from functools import partial
from typing import TypeVar

from sqlalchemy.ext.asyncio import AsyncEngine
from tenacity import (
    AsyncRetrying,
    retry_if_exception_type,
    retry_if_not_exception_type,
    stop_before_delay,
    wait_random_exponential,
)

from guestledger.adapters.postgres.errors import PoolUsedUp, reported
from guestledger.adapters.postgres.limits.rate_limiter import PostgresRateLimiter
from guestledger.adapters.postgres.log.append_queue import MAX_IN_BATCH, AppendQueue, Waiting
from guestledger.adapters.postgres.log.batch import KeyDestroyed, KeysRotated
from guestledger.adapters.postgres.log.batch_writer import BatchWriter
from guestledger.adapters.postgres.log.reader import LogReader
from guestledger.adapters.postgres.personal.personal_data import PersonalData
from guestledger.adapters.postgres.personal.sealed_append import Sealing
from guestledger.adapters.postgres.transactions import Driver, HeldConnection
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.errors import LedgerClosed, ServiceError, ServiceUnreachable, SubjectErased
from guestledger.engine.domain.policy import Policy
from guestledger.engine.log.appends import Append, Appended, KeyTaken
from guestledger.engine.ports.telemetry import NoTelemetry, Telemetry

MAX_IN_A_ROW = 20
"""Batches over one connection before it goes back to the pool: with a small pool, others wait for it."""
_FAILED_SECONDS = 60.0

_Given = TypeVar("_Given")
_Answer = TypeVar("_Answer")


class PostgresEventStore(LogReader):
    """Appends from many coroutines gather until the ledger's lock is free, and are committed together.

    Durability is the server's: with `synchronous_commit` on, an append that returned survives a crash. While the database
    or the key vault is away, appends wait for it: at most `patience` seconds per try, and about as long over all tries.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        schema: str,
        limiter: PostgresRateLimiter,
        personal: PersonalData,
        policy: Policy,
        *,
        telemetry: Telemetry = NoTelemetry(),
        patience: float = 10.0,
        max_waiting: int = 10_000,
    ) -> None:
        super().__init__(engine, schema, personal)
        self._writer = BatchWriter(schema, limiter, policy)
        self._telemetry = telemetry
        self._patience = patience
        self._max_waiting = max_waiting
        self._queue = AppendQueue(personal, self._seal)
        self._connection = HeldConnection(engine)
        self._committing: asyncio.Task[None] | None = None
        self._closed = False
        self._failed: tuple[float, ServiceUnreachable] | None = None

    async def append(self, append: Append) -> Appended:
        """See `EventStore.append`.

        Also raises `DatabaseFault` if PostgreSQL refuses this append, and `ServiceUnreachable` if it begins a session while
        `max_waiting` appends already wait. After `close`, `LedgerClosed` if it begins a session or an attempt: nothing would
        be sent. Cancelling withdraws the append only while it waits for its batch.
        """
        if self._closed and (append.expected_version == 0 or append.admission is not None):
            raise LedgerClosed
        # Only at the door: what is known of an accepted session must not wait until others give way.
        if append.expected_version == 0 and len(self._queue) >= self._max_waiting:
            raise ServiceUnreachable(
                "database", Cause.SERVICE_UNAVAILABLE, f"{self._max_waiting} appends wait already: slow down and retry"
            )
        with self._telemetry.appending(append):
            return await self._append(append)

    async def _append(self, append: Append) -> Appended:
        forgotten = False
        while True:
            waiting = self._queue.add(append)
            try:
                return await self._outcome(waiting)
            except KeysRotated:
                await self._personal.vault.refresh()
            except KeyDestroyed as refused:
                # This process had the key of a person who was erased, and who has come back with another.
                self._personal.vault.forget(refused.key_ids)
                if forgotten:
                    raise
                forgotten = True
            except (KeyTaken, SubjectErased) as refused:
                await self._personal.discard(waiting.proposal.sealing, refused)
                raise

    async def _outcome(self, waiting: Waiting) -> Appended:
        if self._committing is None:
            self._committing = asyncio.create_task(self._commit_all(), context=Context())  # of no caller
        try:
            return await waiting.outcome
        finally:
            self._queue.remove(waiting)

    async def check(self) -> None:
        """See `EventStore.check`. An append that failed counts for a minute, unless one has succeeded since."""
        await super().check()
        if self._failed is not None and asyncio.get_running_loop().time() - self._failed[0] < _FAILED_SECONDS:
            raise self._failed[1]

    async def close(self) -> None:
        """Wait until every append under way is committed or rejected, and return all connections.

        Call it before the engine is disposed of: the hint after an append holds a connection for a moment.
        """
        self._closed = True
        if self._committing is not None:
            # A caller that stops waiting must not stop a batch that others wait for.
            await asyncio.wait((self._committing,))
        await self._notifier.close()

    async def _commit_all(self) -> None:
        batch: list[Waiting] = []
        try:
            while self._queue:
                await self._queue.until_writable()  # keeps no connection: the keys may need it
                try:
                    for _ in range(MAX_IN_A_ROW):
                        if not (batch := self._queue.take()):
                            break
                        await self._commit(batch)
                        await asyncio.sleep(0)  # callers that have their answer may append more
                finally:
                    await self._connection.give_back()
        finally:
            self._committing = None
            for waiting in (*batch, *self._queue.take_all()):
                waiting.outcome.cancel()  # only if this task itself was ended

    def _note_failure(self, error: Exception) -> None:
        # An outage of a key vault apart is not one of the log.
        if isinstance(error, ServiceUnreachable) and error.service == "database":
            self._failed = (asyncio.get_running_loop().time(), error)

    async def _seal(self, append: Append) -> Sealing:
        try:
            return await self._until_answered(self._personal.seal, append)
        except Exception as error:
            self._note_failure(error)
            raise

    async def _commit(self, batch: list[Waiting], *, gathers: bool = True) -> None:
        """Write a batch. If it `gathers`, it grows in place by what arrives before it has the lock."""
        write_once = partial(self._write_once, gathers=gathers)
        try:
            # Also after a COMMIT whose fate is unknown: the lost transaction holds the ledger's lock to its end, and under that
            # lock a recorded append is recognised by its causation.
            outcomes = await self._until_answered(write_once, batch)
            self._failed = None
        except ServiceUnreachable as error:
            self._note_failure(error)
            # Those that wait by now would wait as long for the same answer.
            for waiting in self._queue.take_all():
                waiting.reject(error)
            outcomes = [error] * len(batch)
        except Exception as error:  # noqa: BLE001 - whatever it is, its caller has to get it
            if len(batch) > 1 and not isinstance(error, ServiceError):
                # One append cannot be stored: halve the batch until it is rejected alone.
                middle = len(batch) // 2
                await self._commit(batch[:middle], gathers=False)
                await self._commit(batch[middle:], gathers=False)
                return
            outcomes = [error] * len(batch)
        for waiting, outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, Exception):
                waiting.reject(outcome)
            elif not waiting.outcome.done():  # it may have been cancelled
                waiting.outcome.set_result(outcome)

    async def _until_answered(self, once: Callable[[_Given], Awaitable[_Answer]], given: _Given) -> _Answer:
        """The answer of `once`, which is repeated while the database is away: see `patience`."""
        began = asyncio.get_running_loop().time()
        try:  # every batch passes here: the retry object is made only when it is needed
            return await once(given)
        except PoolUsedUp:
            raise  # callers that wait here may hold the pool themselves
        except ServiceUnreachable as error:
            left = self._patience - (asyncio.get_running_loop().time() - began)
            if left <= 0 or error.cause is Cause.NOT_CONFIGURED:
                raise
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(ServiceUnreachable) & retry_if_not_exception_type(PoolUsedUp),
            wait=wait_random_exponential(multiplier=0.05, max=1),
            stop=stop_before_delay(left),
            reraise=True,
        )
        answer: _Answer = await retrying(once, given)
        return answer

    async def _write_once(self, batch: list[Waiting], *, gathers: bool) -> list[Appended | Exception]:
        with reported():
            async with asyncio.timeout(self._patience), self._connection.use() as driver:
                return await self._write(driver, batch, gathers=gathers)

    async def _write(self, driver: Driver, batch: list[Waiting], *, gathers: bool) -> list[Appended | Exception]:
        await self._writer.lock(driver)
        if gathers:
            # While other processes had the lock, more has arrived: it need not wait for the next turn.
            batch += self._queue.take(MAX_IN_BATCH - len(batch))
        proposals = [waiting.proposal for waiting in batch]
        with self._telemetry.committing([proposal.append for proposal in proposals]):
            outcomes, frees_work = await self._writer.write(driver, proposals)
        self._notifier.announce(urgent=frees_work)
        return outcomes
