"""The event log in PostgreSQL: group commit under the ledger's lock, dense positions in commit order."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextvars import Context
from functools import partial
from itertools import islice, takewhile
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
from guestledger.adapters.postgres.log.batch import KeyDestroyed, KeysRotated, Proposal
from guestledger.adapters.postgres.log.batch_writer import BatchWriter
from guestledger.adapters.postgres.log.reader import LogReader
from guestledger.adapters.postgres.personal.personal_data import PersonalData
from guestledger.adapters.postgres.personal.sealed_append import Sealing
from guestledger.adapters.postgres.transactions import Driver, HeldConnection
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.errors import EventTooLarge, ServiceError, ServiceUnreachable, SubjectErased
from guestledger.engine.domain.events import Event
from guestledger.engine.domain.policy import Policy
from guestledger.engine.log.appends import Append, Appended, KeyTaken
from guestledger.engine.log.codec import encode, wire_name
from guestledger.engine.ports.telemetry import NoTelemetry, Telemetry

MAX_IN_BATCH = 200
MAX_IN_A_ROW = 20
"""Batches over one connection before it goes back to the pool: with a small pool, others wait for it."""
MAX_BYTES = 256 * 1024
"""Of one event, as canonical JSON."""

_FAILED_SECONDS = 60.0
_SEALING_SECONDS = 2.0
"""How long a batch waits for appends whose keys are being fetched."""

_Given = TypeVar("_Given")
_Answer = TypeVar("_Answer")

_Sealing = Proposal | asyncio.Task[Proposal]
_Caller = asyncio.Future[Appended]
_Batch = list[tuple[_Caller, Proposal]]


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
        self._waiting: dict[_Caller, _Sealing] = {}
        self._connection = HeldConnection(engine)
        self._committing: asyncio.Task[None] | None = None
        self._failed: tuple[float, ServiceUnreachable] | None = None

    async def append(self, append: Append) -> Appended:
        """See `EventStore.append`.

        Also raises `DatabaseFault` if PostgreSQL refuses this append, and `ServiceUnreachable` when `max_waiting`
        appends already wait. Cancelling withdraws the append only while it waits for its batch.
        """
        if len(self._waiting) >= self._max_waiting:
            raise ServiceUnreachable(
                "database", Cause.SERVICE_UNAVAILABLE, f"{self._max_waiting} appends wait already: slow down and retry"
            )
        with self._telemetry.appending(append):
            return await self._append(append)

    async def _append(self, append: Append) -> Appended:
        forgotten = False
        while True:
            sealing = self._sealed_now(append) or asyncio.create_task(self._seal(append))
            try:
                return await self._add(sealing)
            except KeysRotated:
                await self._personal.vault.refresh()
            except KeyDestroyed as refused:
                # This process had the key of a person who was erased, and who has come back with another.
                self._personal.vault.forget(refused.key_ids)
                if forgotten:
                    raise
                forgotten = True
            except (KeyTaken, SubjectErased) as refused:
                await self._personal.discard(_proposal(sealing).sealing, refused)
                raise

    async def _add(self, sealing: _Sealing) -> Appended:
        outcome: _Caller = asyncio.get_running_loop().create_future()
        # Sealed while the batch before is committed, and stored in the order of arrival.
        self._waiting[outcome] = sealing
        if self._committing is None:
            self._committing = asyncio.create_task(self._commit_all(), context=Context())  # of no caller
        try:
            return await outcome
        finally:
            self._waiting.pop(outcome, None)
            if isinstance(sealing, asyncio.Task):
                sealing.cancel()

    async def check(self) -> None:
        """See `EventStore.check`. An append that failed counts for a minute, unless one has succeeded since."""
        await super().check()
        if self._failed is not None and asyncio.get_running_loop().time() - self._failed[0] < _FAILED_SECONDS:
            raise self._failed[1]

    async def close(self) -> None:
        """Wait until every append under way is committed or rejected, and return all connections.

        Call it before the engine is disposed of: the hint after an append holds a connection for a moment.
        """
        if self._committing is not None:
            # A caller that stops waiting must not stop a batch that others wait for.
            await asyncio.wait((self._committing,))
        await self._notifier.close()

    async def _commit_all(self) -> None:
        batch: _Batch = []
        try:
            while self._waiting:
                try:
                    for _ in range(MAX_IN_A_ROW):
                        batch = await self._next_batch()
                        if batch:
                            await self._commit(batch)
                        await asyncio.sleep(0)  # callers that have their answer may append more
                        if not self._waiting:
                            break
                finally:
                    await self._connection.give_back()
        finally:
            self._committing = None
            for caller in (*(caller for caller, _ in batch), *self._waiting):
                caller.cancel()  # only if this task itself was ended
            self._waiting.clear()

    async def _next_batch(self) -> _Batch:
        """Take the next appends. One that cannot be sealed is rejected alone; one that waits for the key vault holds up no other."""
        taken = list(islice(self._waiting.items(), MAX_IN_BATCH))
        if tasks := [sealing for _, sealing in taken if isinstance(sealing, asyncio.Task)]:
            await asyncio.wait(tasks, timeout=_SEALING_SECONDS)
            if len(tasks) == len(taken):
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return self._sealed_of(taken)

    def _sealed_of(self, taken: Iterable[tuple[_Caller, _Sealing]]) -> _Batch:
        """Those that can be written now; they wait no more."""
        batch: _Batch = []
        for caller, sealing in taken:
            if isinstance(sealing, asyncio.Task) and not sealing.done():
                continue
            if self._waiting.pop(caller, None) is None or caller.done():
                continue  # it was cancelled
            if isinstance(sealing, Proposal):
                batch.append((caller, sealing))
            elif (error := sealing.exception()) is None:
                batch.append((caller, sealing.result()))
            else:
                self._note_failure(error)
                caller.set_exception(error)
        return batch

    def _note_failure(self, error: BaseException) -> None:
        # An outage of a key vault apart is not one of the log.
        if isinstance(error, ServiceUnreachable) and error.service == "database":
            self._failed = (asyncio.get_running_loop().time(), error)

    def _sealed_now(self, append: Append) -> Proposal | None:
        """The sealed append; `None`: something has to be fetched for it."""
        sealing = self._personal.seal_now(append)
        return None if sealing is None else _proposed(append, sealing)

    async def _seal(self, append: Append) -> Proposal:
        return _proposed(append, await self._until_answered(self._personal.seal, append))

    async def _commit(self, batch: _Batch, *, gathers: bool = True) -> None:
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
            for caller in self._waiting:
                if not caller.done():
                    caller.set_exception(error)
            self._waiting.clear()
            outcomes = [error] * len(batch)
        except Exception as error:  # noqa: BLE001 - whatever it is, its caller has to get it
            if len(batch) > 1 and not isinstance(error, ServiceError):
                # One append cannot be stored: halve the batch until it is rejected alone.
                middle = len(batch) // 2
                await self._commit(batch[:middle], gathers=False)
                await self._commit(batch[middle:], gathers=False)
                return
            outcomes = [error] * len(batch)
        for (caller, _proposal), outcome in zip(batch, outcomes, strict=True):
            if caller.done():
                continue  # it was cancelled
            if isinstance(outcome, Exception):
                caller.set_exception(outcome)
            else:
                caller.set_result(outcome)

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

    async def _write_once(self, batch: _Batch, *, gathers: bool) -> list[Appended | Exception]:
        with reported():
            async with asyncio.timeout(self._patience), self._connection.use() as driver:
                return await self._write(driver, batch, gathers=gathers)

    async def _write(self, driver: Driver, batch: _Batch, *, gathers: bool) -> list[Appended | Exception]:
        await self._writer.lock(driver)
        if gathers:
            # While other processes had the lock, more has arrived: it need not wait for the next turn. In the order of arrival,
            # so up to the first one that waits for its keys.
            arrived = islice(self._waiting.items(), MAX_IN_BATCH - len(batch))
            batch += self._sealed_of([*takewhile(_is_sealed, arrived)])
        proposals = [proposal for _caller, proposal in batch]
        with self._telemetry.committing([proposal.append for proposal in proposals]):
            outcomes, frees_work = await self._writer.write(driver, proposals)
        self._notifier.announce(urgent=frees_work)
        return outcomes


def _proposed(append: Append, sealing: Sealing) -> Proposal:
    return Proposal(append, [_text(event) for event in sealing.events], sealing)


def _is_sealed(waiting: tuple[_Caller, _Sealing]) -> bool:
    _caller, sealing = waiting
    return isinstance(sealing, Proposal) or sealing.done()


def _proposal(sealing: _Sealing) -> Proposal:
    return sealing if isinstance(sealing, Proposal) else sealing.result()


def _text(event: Event) -> str:
    text = encode(event)
    if (size := len(text) if text.isascii() else len(text.encode())) > MAX_BYTES:
        raise EventTooLarge(wire_name(event), size, MAX_BYTES)
    return text
