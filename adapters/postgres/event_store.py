"""The event log in PostgreSQL: group commit under the ledger's lock, dense positions in commit order."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Collection, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from adapters.postgres.connection import Driver, driver_connection, reported
from adapters.postgres.statements import Statements
from adapters.postgres.tables import events
from engine.domain.errors import ServiceUnreachable, WrongExpectedVersion
from engine.domain.events import decode, encode, wire_name
from engine.domain.recorded import RecordedEvent
from engine.merkle import leaf_hash
from engine.ports import Append, Appended, Due, KeyTaken

MOST_IN_BATCH = 200
MOST_WAITING = 10_000


class _Waiting(NamedTuple):
    append: Append
    texts: tuple[str, ...]
    outcome: asyncio.Future[Appended]


class _Log(NamedTuple):
    """The log's end as the batch found it, under the lock."""

    position: int
    now: datetime
    versions: dict[UUID, int]
    keys: dict[str, UUID]


class PostgresEventStore:
    """Appends from many coroutines gather while one batch commits, and go in together with the next.

    Durability is the server's: with `synchronous_commit` on, an append that returned survives a crash.
    """

    def __init__(self, engine: AsyncEngine, schema: str) -> None:
        self._engine = engine
        self._sql = Statements(schema)
        self._waiting: deque[_Waiting] = deque()
        self._committing: asyncio.Task[None] | None = None

    async def append(self, append: Append) -> Appended:
        """Record the events of `append`, all or none.

        Raises `WrongExpectedVersion`, `KeyTaken`, or `ServiceUnreachable` (also when 10,000 appends already wait:
        the database does not keep up). Cancelling the caller does not take the append back: it may still go in.
        """
        if len(self._waiting) >= MOST_WAITING:
            raise ServiceUnreachable(f"the database does not keep up: {MOST_WAITING} appends wait; slow down and retry")
        texts = tuple(encode(event) for event in append.events)
        waiting = _Waiting(append, texts, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._committing is None:
            self._committing = asyncio.create_task(self._commit_all())
        return await waiting.outcome

    async def close(self) -> None:
        """Wait until whatever is still being appended has been committed or turned away."""
        if self._committing is not None:
            # Shielded: whoever stops waiting here must not stop a batch that others wait for.
            await asyncio.shield(self._committing)

    async def _commit_all(self) -> None:
        try:
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(MOST_IN_BATCH, len(self._waiting)))]
                await self._commit(batch)
        finally:
            self._committing = None

    async def _commit(self, batch: list[_Waiting]) -> None:
        try:
            with reported():
                async with driver_connection(self._engine) as driver:
                    outcomes = await self._write(driver, batch)
        except Exception as error:  # noqa: BLE001 - whatever it is, every waiter has to learn of it
            outcomes = [error] * len(batch)
        for waiting, outcome in zip(batch, outcomes, strict=True):
            if waiting.outcome.done():
                continue  # its caller was cancelled
            if isinstance(outcome, Exception):
                waiting.outcome.set_exception(outcome)
            else:
                waiting.outcome.set_result(outcome)

    async def _write(self, driver: Driver, batch: list[_Waiting]) -> list[Appended | Exception]:
        # Four round trips, and every append of the batch waits for each of them.
        # The lock first, the reading in a *later* statement: only its snapshot is sure to see the last commit.
        # The lock is a row lock that changes nothing, so it leaves no dead row behind however often it is taken.
        await driver.execute(self._sql.begin)
        rows = _Rows(await self._read_log(driver, batch))
        outcomes = [rows.take(waiting) for waiting in batch]
        await driver.fetch(self._sql.append, *rows.columns())
        await driver.execute("COMMIT")
        return outcomes

    async def _read_log(self, driver: Driver, batch: list[_Waiting]) -> _Log:
        stream_ids = list({waiting.append.stream_id for waiting in batch})
        found = await driver.fetch(self._sql.read_log, stream_ids)
        now, position, last_at = found[0][:3]
        keys = [waiting.append.idempotency_key for waiting in batch if waiting.append.idempotency_key is not None]
        taken = await driver.fetch(self._sql.read_keys, keys) if keys else []
        return _Log(
            position=-1 if position is None else position,
            # A clock that was set back must not make the log's times run against its positions.
            now=now if last_at is None else max(now, last_at),
            versions={stream_id: version or 0 for *_, stream_id, version in found},
            keys=dict(taken),
        )

    async def read_stream(self, stream_id: UUID) -> list[RecordedEvent]:
        """Every event of one stream, in order; empty when there is none."""
        return (await self.read_streams([stream_id])).get(stream_id, [])

    async def read_streams(self, stream_ids: Sequence[UUID]) -> dict[UUID, list[RecordedEvent]]:
        """The events of many streams in one round trip; a stream without events is left out."""
        streams: dict[UUID, list[RecordedEvent]] = {}
        with reported():
            async with driver_connection(self._engine) as driver:
                rows = await driver.fetch(self._sql.read_streams, list(stream_ids))
        for row in rows:
            streams.setdefault(row["stream_id"], []).append(recorded(row))
        return streams

    async def read_all(self, *, after: int = -1, batch: int = 500) -> AsyncIterator[list[RecordedEvent]]:
        """The whole log in order of position, in batches, up to its present end."""
        while True:
            with reported():
                async with driver_connection(self._engine) as driver:
                    rows = await driver.fetch(self._sql.read_all, after, batch)
            if not rows:
                return
            yield [recorded(row) for row in rows]
            after = rows[-1]["position"]

    async def head(self) -> int:
        """The position of the last event; -1 when the log is empty."""
        last = select(events.c.position).order_by(events.c.position.desc()).limit(1)
        with reported():
            async with self._engine.connect() as connection:
                position = (await connection.execute(last)).scalar()
        return -1 if position is None else position


def recorded(row: Any) -> RecordedEvent:
    """The event in a row of the log. Raises `UnknownEvent` when a newer release wrote it."""
    position, stream_id, version, event_type, schema_version, at, correlation_id, causation_id, actor, data, leaf = row
    return RecordedEvent(
        position=position,
        stream_id=stream_id,
        version=version,
        event=decode(event_type, schema_version, data),
        recorded_at=at,
        correlation_id=correlation_id,
        causation_id=causation_id,
        actor=actor,
        data=data,
        leaf_hash=leaf,
    )


class _Rows:
    """What a batch will write, gathered append by append; one that is turned away leaves nothing here."""

    def __init__(self, log: _Log) -> None:
        self._log = log
        self._position = log.position
        self.events: list[tuple[Any, ...]] = []
        self.keys: list[tuple[str, UUID]] = []
        self.due: dict[UUID, tuple[Any, ...]] = {}
        self.kept: dict[UUID, tuple[Any, ...]] = {}
        self.done: set[UUID] = set()

    def columns(self) -> list[Any]:
        """The arrays for the append statement, in its order."""
        return [
            *_arrays(self.events, 11),
            *_arrays(self.keys, 2),
            *_arrays(self.due.values(), 5),
            *_arrays(self.kept.values(), 3),
            list(self.done),
        ]

    def take(self, waiting: _Waiting) -> Appended | Exception:
        append, log = waiting.append, self._log
        actual, key = log.versions[append.stream_id], append.idempotency_key
        if key is not None and key in log.keys:
            return KeyTaken(log.keys[key])
        if actual != append.expected_version:
            return WrongExpectedVersion(append.stream_id, append.expected_version, actual)
        if key is not None:
            log.keys[key] = append.stream_id
            self.keys.append((key, append.stream_id))
        self._take_events(waiting)
        self._take_due(append.stream_id, append.due)
        version = log.versions[append.stream_id] = actual + len(append.events)
        return Appended(version=version, position=self._position, recorded_at=log.now)

    def _take_events(self, waiting: _Waiting) -> None:
        append, now = waiting.append, self._log.now
        for version, (event, data) in enumerate(
            zip(append.events, waiting.texts, strict=True), append.expected_version + 1
        ):
            self._position += 1
            event_type, schema_version = wire_name(event), event.schema_version
            leaf = leaf_hash(
                stream_id=append.stream_id,
                version=version,
                event_type=event_type,
                schema_version=schema_version,
                recorded_at=now,
                correlation_id=append.correlation_id,
                causation_id=append.causation_id,
                actor=append.actor,
                data=data,
            )
            self.events.append(
                (
                    append.stream_id,
                    version,
                    self._position,
                    event_type,
                    schema_version,
                    now,
                    append.correlation_id,
                    append.causation_id,
                    append.actor,
                    data,
                    leaf,
                )
            )

    def _take_due(self, stream_id: UUID, due: Due | None) -> None:
        earlier = self.due.pop(stream_id, None)  # by an append before this one in the batch
        self.kept.pop(stream_id, None)
        if due is None:
            self.done.add(stream_id)
        elif due.keep_lease and earlier is not None:
            self.due[stream_id] = (stream_id, due.step, due.due_at, *earlier[3:])
        elif due.keep_lease and stream_id not in self.done:
            self.kept[stream_id] = (stream_id, due.step, due.due_at)
        else:
            self.done.discard(stream_id)
            owner = due.lease and due.lease.owner
            until = due.lease and self._log.now + timedelta(milliseconds=due.lease.ms)
            self.due[stream_id] = (stream_id, due.step, due.due_at, owner, until)


def _arrays(rows: Collection[tuple[Any, ...]], width: int) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(width)]
