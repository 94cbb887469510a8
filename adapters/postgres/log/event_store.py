"""The event log in PostgreSQL: group commit under the ledger's lock, dense positions in commit order."""

import asyncio
import random
from collections import OrderedDict
from itertools import count
from operator import attrgetter
from typing import NamedTuple
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from guestledger.adapters.postgres.connection import Driver, HeldConnection, reported
from guestledger.adapters.postgres.limits.rate_limiter import LimiterTransaction, PostgresRateLimiter
from guestledger.adapters.postgres.log.batch import BatchRows, LogEnd, Proposal
from guestledger.adapters.postgres.log.reader import LogReader
from guestledger.adapters.postgres.statements import Statements
from guestledger.engine.domain.errors import EventTooLarge, ServiceError, ServiceUnreachable
from guestledger.engine.domain.events import Event
from guestledger.engine.domain.personal import Secret
from guestledger.engine.limits.policy import LimiterPolicy
from guestledger.engine.limits.retry import RetryPolicy, backoff_ms
from guestledger.engine.log.appends import Append, Appended
from guestledger.engine.log.codec import encode, wire_name

MAX_IN_BATCH = 200
MAX_IN_A_ROW = 20
"""Batches over one connection, which then goes back to the pool: where that is small, others are waiting for it."""
_BACKOFF = RetryPolicy(base_ms=50, cap_ms=1_000)
MAX_BYTES = 256 * 1024
"""Of one event, as canonical JSON. The largest that a guest request can make is a small part of it."""


class _Waiting(NamedTuple):
    proposal: Proposal
    outcome: asyncio.Future[Appended]


class PostgresEventStore(LogReader):
    """Appends from many coroutines gather while one batch commits, and go in together with the next.

    Durability is the server's: with `synchronous_commit` on, an append that returned survives a crash. While the database
    is away, appends wait for it, at most `patience` seconds for each try and about as long for all tries together.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        schema: str,
        *,
        limiters: LimiterPolicy = LimiterPolicy(),
        patience: float = 10.0,
        max_waiting: int = 10_000,
    ) -> None:
        super().__init__(engine, schema)
        self._sql = Statements(schema)
        self._gates = PostgresRateLimiter(engine, schema, limiters)
        self._patience = patience
        self._max_waiting = max_waiting
        self._waiting: OrderedDict[asyncio.Future[Appended], Proposal] = OrderedDict()
        self._connection = HeldConnection(engine)
        self._committing: asyncio.Task[None] | None = None

    async def append(self, append: Append) -> Appended:
        """Record the events of `append`, all or none.

        Raises `EventTooLarge`, `WrongExpectedVersion`, `KeyTaken`, `AppendDenied`, `DatabaseFault` when PostgreSQL refuses this very
        append, or `ServiceUnreachable`, also when `max_waiting` appends already wait. Cancelling the caller takes the
        append back while it still waits for its batch; after that it may go in all the same.
        """
        if len(self._waiting) >= self._max_waiting:
            raise ServiceUnreachable(
                f"the database does not keep up: {self._max_waiting} appends wait; slow down and retry"
            )
        outcome: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
        self._waiting[outcome] = Proposal(append, tuple(Secret(_text(event)) for event in append.events))
        if self._committing is None:
            self._committing = asyncio.create_task(self._commit_all())
        try:
            return await outcome
        finally:
            self._waiting.pop(outcome, None)

    async def close(self) -> None:
        """Wait until whatever is still being appended has been committed or turned away, and give all connections back.

        To be called before the engine is disposed of: the hint that follows an append holds a connection for a moment.
        """
        if self._committing is not None:
            # Shielded: whoever stops waiting here must not stop a batch that others wait for.
            await asyncio.shield(self._committing)
        await self._notifier.close()

    async def _commit_all(self) -> None:
        batch: list[_Waiting] = []
        try:
            while self._waiting:
                try:
                    for _ in range(MAX_IN_A_ROW):
                        batch = self._next_batch(MAX_IN_BATCH)
                        await self._commit(batch)
                        await asyncio.sleep(0)  # those who have their answer may have more to append
                        if not self._waiting:
                            break
                finally:
                    await self._connection.give_back()
        finally:
            self._committing = None
            for waiting in (*batch, *self._next_batch(len(self._waiting))):
                waiting.outcome.cancel()  # only where this task itself is ended; else every outcome is set by now

    def _next_batch(self, most: int) -> list[_Waiting]:
        taken = (self._waiting.popitem(last=False) for _ in range(min(most, len(self._waiting))))
        return [_Waiting(proposal, outcome) for outcome, proposal in taken]

    async def _commit(self, batch: list[_Waiting]) -> None:
        """Commit the batch and tell each of its waiters what came of it."""
        try:
            outcomes = await self._write_until_answered([waiting.proposal for waiting in batch])
        except ServiceUnreachable as error:
            # Whoever waits by now would only wait as long again for the same answer.
            batch += self._next_batch(len(self._waiting))
            outcomes = [error] * len(batch)
        except Exception as error:  # noqa: BLE001 - whatever it is, its waiter has to learn of it
            if len(batch) > 1 and not isinstance(error, ServiceError):
                # Something in it cannot be stored: halve it until that append stands alone, and alone is turned away.
                middle = len(batch) // 2
                await self._commit(batch[:middle])
                await self._commit(batch[middle:])
                return
            outcomes = [error] * len(batch)
        for waiting, outcome in zip(batch, outcomes, strict=True):
            if waiting.outcome.done():
                continue  # its caller was cancelled
            if isinstance(outcome, Exception):
                waiting.outcome.set_exception(outcome)
            else:
                waiting.outcome.set_result(outcome)

    async def _write_until_answered(self, batch: list[Proposal]) -> list[Appended | Exception]:
        # Again also where a COMMIT was under way and its fate is unknown: the lost transaction holds the ledger's lock
        # to its end, and under that lock an append that went in with it is known again by its causation.
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._patience
        for tries in count(1):
            try:
                return await self._write_once(batch)
            except ServiceUnreachable:
                wait = backoff_ms(tries, _BACKOFF, random.random()) / 1_000  # noqa: S311 - it spreads retries
                if loop.time() + wait > deadline:
                    raise
            await asyncio.sleep(wait)
        raise AssertionError

    async def _write_once(self, batch: list[Proposal]) -> list[Appended | Exception]:
        with reported():
            async with asyncio.timeout(self._patience), self._connection.use() as driver:
                return await self._write(driver, batch)

    async def _write(self, driver: Driver, batch: list[Proposal]) -> list[Appended | Exception]:
        # Four round trips, and every append of the batch waits for each of them; more only where a limiter is not clean.
        # The lock first, the reading in a *later* statement: only its snapshot is sure to see the last commit.
        # The lock is a row lock that changes nothing, so it leaves no dead row behind however often it is taken.
        await driver.execute(self._sql.begin)
        log = await self._read_log(driver, batch)
        limiters = await self._open_limiters(driver, batch, log)
        rows = BatchRows(log, limiters)
        outcomes = [rows.take(proposal) for proposal in batch]
        await driver.fetch(self._sql.append, *rows.columns())
        await self._gates.write(driver, limiters)
        await driver.execute("COMMIT")
        self._notifier.announce()
        return outcomes

    async def _read_log(self, driver: Driver, batch: list[Proposal]) -> LogEnd:
        appends = [proposal.append for proposal in batch]
        stream_ids = list({append.stream_id for append in appends})
        statement = self._sql.read_log(min(stream_ids, key=_number), max(stream_ids, key=_number))
        ((now, limited_, position, last_at, found),) = await driver.fetch(statement, stream_ids)
        versions = dict(zip(stream_ids, found, strict=True))
        keys = [append.idempotency_key for append in appends if append.idempotency_key is not None]
        taken = await driver.fetch(self._sql.read_keys, keys) if keys else []
        stale = [append for append in appends if versions[append.stream_id] > append.expected_version]
        return LogEnd(
            position=-1 if position is None else position,
            now=now,
            recorded_at=now if last_at is None else max(now, last_at),
            versions=versions,
            keys=dict(taken),
            known=await self._read_known(driver, stale) if stale else {},
            limited_=limited_,
        )

    async def _open_limiters(self, driver: Driver, batch: list[Proposal], log: LogEnd) -> LimiterTransaction:
        # A request is let through under the ledger's lock, as its attempt goes in, and a limiter is closed so as its 429 goes in:
        # the log then has no attempt between a 429 and the time that came with it.
        appends = [proposal.append for proposal in batch]
        names = {told.limiter for append in appends for told in (append.passage, append.hearing) if told is not None}
        if not names:
            return LimiterTransaction({}, log.now, LimiterPolicy())
        asking = [append.stream_id for append in appends if append.passage is not None and not append.passage.slotted]
        return await self._gates.open(driver, names, now=log.now, clean=not log.limited_, asking=asking)

    async def _read_known(self, driver: Driver, stale: list[Append]) -> dict[tuple[UUID, int, UUID], Appended]:
        """Those of these appends that are in the log already: their answer was lost, or they were handed in again."""
        wanted = {(append.stream_id, append.expected_version, append.causation_id): append for append in stale}
        stream_ids, expected, causation_ids = (list(column) for column in zip(*wanted, strict=True))
        firsts = await driver.fetch(self._sql.read_known, stream_ids, expected, causation_ids)
        known = {}
        for stream_id, expected_version, causation_id, position, recorded_at in firsts:
            key = (stream_id, expected_version, causation_id)
            more = len(wanted[key].events)
            known[key] = Appended(
                version=expected_version + more,
                position=position + more - 1,
                recorded_at=recorded_at,
                at=recorded_at,
            )
        return known


_number = attrgetter("int")


def _text(event: Event) -> str:
    text = encode(event)
    if (size := len(text.encode())) > MAX_BYTES:
        raise EventTooLarge(wire_name(event), size, MAX_BYTES)
    return text
