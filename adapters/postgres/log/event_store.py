"""The event log in PostgreSQL: group commit under the ledger's lock, dense positions in commit order."""

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import Context
from datetime import datetime
from itertools import islice
from operator import attrgetter
from typing import TypeVar
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine
from tenacity import (
    AsyncRetrying,
    retry_if_exception_type,
    retry_if_not_exception_type,
    stop_before_delay,
    wait_random_exponential,
)

from guestledger.adapters.postgres.errors import PoolUsedUp, reported
from guestledger.adapters.postgres.limits.rate_limiter import LimiterTransaction, PostgresRateLimiter
from guestledger.adapters.postgres.log.batch import BatchRows, KeyDestroyed, KeysRotated, LogEnd, Proposal
from guestledger.adapters.postgres.log.policies import PolicyRecord
from guestledger.adapters.postgres.log.reader import LogReader
from guestledger.adapters.postgres.log.statements import AppendStatements
from guestledger.adapters.postgres.personal.personal_data import PersonalData
from guestledger.adapters.postgres.personal.sealed_append import Sealing
from guestledger.adapters.postgres.transactions import Driver, HeldConnection
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.errors import EventTooLarge, ServiceError, ServiceUnreachable, SubjectErased
from guestledger.engine.domain.events import Event
from guestledger.engine.domain.policy import Policy
from guestledger.engine.limits.policy import LimiterPolicy
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
    """Appends from many coroutines gather while one batch commits, and are committed together with the next.

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
        self._limiter = limiter
        self._policy = PolicyRecord(schema, policy)
        self._appending = AppendStatements(schema)
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

    async def _commit(self, batch: _Batch) -> None:
        try:
            # Also after a COMMIT whose fate is unknown: the lost transaction holds the ledger's lock to its end, and under that
            # lock a recorded append is recognised by its causation.
            outcomes = await self._until_answered(self._write_once, [proposal for _caller, proposal in batch])
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
                await self._commit(batch[:middle])
                await self._commit(batch[middle:])
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

    async def _write_once(self, batch: list[Proposal]) -> list[Appended | Exception]:
        with reported():
            async with asyncio.timeout(self._patience), self._connection.use() as driver:
                with self._telemetry.committing([proposal.append for proposal in batch]):
                    return await self._write(driver, batch)

    async def _write(self, driver: Driver, batch: list[Proposal]) -> list[Appended | Exception]:
        # Four round trips, which all appends of the batch wait for; more only if a limiter knows something. The lock first,
        # reading in a *later* statement: only its snapshot is sure to see the last commit. A row lock without a change
        # leaves no dead row.
        await driver.execute(self._appending.begin)
        log = await self._read_log(driver, batch)
        limiters = await self._open_limiters(driver, batch, log)
        rows = BatchRows(log, limiters)
        outcomes = [rows.take(proposal) for proposal in batch]
        await driver.fetch(self._appending.append, *rows.columns())
        await self._limiter.write(driver, limiters)
        if records_policy := self._policy.wanted([proposal.append for proposal in batch]):
            await self._policy.write(driver, log.position, log.now)
        await driver.execute("COMMIT")
        self._policy.done = self._policy.done or records_policy
        self._notifier.announce()
        return outcomes

    async def _read_log(self, driver: Driver, batch: list[Proposal]) -> LogEnd:
        appends = [proposal.append for proposal in batch]
        stream_ids = [append.stream_id for append in appends]
        statement = self._appending.read_log(min(stream_ids, key=_number), max(stream_ids, key=_number))
        keys = [proposal.sealing.key for proposal in batch if proposal.sealing.key is not None]
        data_keys = list({row.key_id for proposal in batch for row in proposal.sealing.rows})
        subjects = list({proposal.sealing.subject for proposal in batch if proposal.sealing.subject is not None})
        [found_now] = await driver.fetch(statement, stream_ids, keys, data_keys, subjects)
        now, limiters, position, last_at, found, taken, destroyed, fenced, kek = found_now
        stale = [append for append, version in zip(appends, found, strict=True) if version > append.expected_version]
        return LogEnd(
            position=-1 if position is None else position,
            now=now,
            recorded_at=now if last_at is None else max(now, last_at),
            versions=dict(zip(stream_ids, found, strict=True)),
            keys=dict(taken),
            destroyed=frozenset(destroyed),
            kek=kek,
            fenced=frozenset(fenced),
            known=await self._read_known(driver, stale, frozenset(limiters), now) if stale else {},
            limiters=frozenset(limiters),
        )

    async def _open_limiters(self, driver: Driver, batch: list[Proposal], log: LogEnd) -> LimiterTransaction:
        # A request is admitted under the ledger's lock, together with its attempt, and a limiter closes together with its
        # 429: between a 429 and its `Retry-After` the log holds no attempt.
        appends = [proposal.append for proposal in batch]
        names = {
            asked.limiter for append in appends for asked in (append.admission, append.feedback) if asked is not None
        }
        if not names:
            return LimiterTransaction({}, log.now, LimiterPolicy())
        asking = [
            append.stream_id for append in appends if append.admission is not None and not append.admission.reserved
        ]
        return await self._limiter.open(
            driver, names, now=log.now, clean=not names & log.limiters, asking=asking or None
        )

    async def _read_known(
        self, driver: Driver, stale: list[Append], limiters: frozenset[str], now: datetime
    ) -> dict[tuple[UUID, int, UUID], Appended]:
        wanted = {(append.stream_id, append.expected_version, append.causation_id): append for append in stale}
        stream_ids, expected, causation_ids = (list(column) for column in zip(*wanted, strict=True))
        firsts = await driver.fetch(self._appending.read_known, stream_ids, expected, causation_ids)
        known = {}
        for stream_id, expected_version, causation_id, position, recorded_at in firsts:
            key = (stream_id, expected_version, causation_id)
            more = len(wanted[key].events)
            known[key] = Appended(
                version=expected_version + more,
                position=position + more - 1,
                recorded_at=recorded_at,
                at=now,
                limiters=limiters,
            )
        return known


_number = attrgetter("int")


def _proposed(append: Append, sealing: Sealing) -> Proposal:
    return Proposal(append, [_text(event) for event in sealing.events], sealing)


def _proposal(sealing: _Sealing) -> Proposal:
    return sealing if isinstance(sealing, Proposal) else sealing.result()


def _text(event: Event) -> str:
    text = encode(event)
    if (size := len(text) if text.isascii() else len(text.encode())) > MAX_BYTES:
        raise EventTooLarge(wire_name(event), size, MAX_BYTES)
    return text
