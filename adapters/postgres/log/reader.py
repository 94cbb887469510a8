"""Reading the event log in PostgreSQL: a stream, the whole of it, or what has come since. Nothing is held between batches."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from guestledger.adapters.postgres.connection import driver_connection, reported
from guestledger.adapters.postgres.log.notifier import LogNotifier
from guestledger.adapters.postgres.statements import Statements
from guestledger.engine.domain.errors import UnknownEvent
from guestledger.engine.log.codec import decode
from guestledger.engine.log.merkle import leaf_hash
from guestledger.engine.log.recorded import Batch, EventFilter, RecordedEvent

STRETCH = 20
"""How many times a batch's size of positions one statement looks at, at most, where a filter lets little through."""


class LogReader:
    """Reads the log of the ledger in one schema. Each batch is a statement of its own: no transaction stays open."""

    def __init__(self, engine: AsyncEngine, schema: str) -> None:
        self._engine = engine
        self._sql = Statements(schema)
        self._arrivals = LogNotifier(engine, schema)

    def arrival(self) -> asyncio.Event:
        """An event that is set when the log may have grown since this call. A hint: it may come late, in vain, or never."""
        return self._arrivals.next()

    async def read_stream(self, stream_id: UUID) -> list[RecordedEvent]:
        """Every event of one stream, in order; empty when there is none. Raises `UnknownEvent`."""
        return (await self.read_streams([stream_id])).get(stream_id, [])

    async def read_streams(self, stream_ids: Sequence[UUID]) -> dict[UUID, list[RecordedEvent]]:
        """The events of many streams in one round trip; a stream without events is left out. Raises `UnknownEvent`."""
        streams: dict[UUID, list[RecordedEvent]] = {}
        for row in await self._fetch(self._sql.read_streams, list(stream_ids)):
            streams.setdefault(row["stream_id"], []).append(recorded(row))
        return streams

    async def read_all(
        self, *, after: int = -1, batch: int = 500, wanted: EventFilter = EventFilter()
    ) -> AsyncIterator[list[RecordedEvent]]:
        """What is asked for of the log, in order of position, in batches of at most `batch`, up to its present end.

        Raises `UnknownEvent` at an event that this release cannot read, once all before it have been given.
        """
        while (found := await self.read_batch(after=after, batch=batch, wanted=wanted)).position > after:
            if found.events:
                yield list(found.events)
            after = found.position

    async def read_batch(self, *, after: int, batch: int = 500, wanted: EventFilter = EventFilter()) -> Batch:
        """The next events after a position, at most `batch`, and how far that has read the log.

        At the log's end the batch is empty and stands at `after`. Raises `UnknownEvent` when the very next event that was
        asked for cannot be read by this release; one further on only ends the batch before it.
        """
        types = list(wanted.types) or None
        stretch = batch * STRETCH
        rows = await self._fetch(self._sql.read_batch, after, stretch, batch, types, wanted.since, wanted.until)
        if not rows:
            return Batch(events=(), position=after)
        found, unknown = readable(row[1:] for row in rows if row["position"] is not None)
        if unknown is not None and not found:
            raise unknown
        cut = unknown is not None or len(found) == batch
        position = found[-1].position if cut else min(after + stretch, rows[0]["head"])
        return Batch(events=tuple(found), position=max(after, position))

    async def head(self) -> int:
        """The position of the last event; -1 when the log is empty."""
        return int((await self._fetch(self._sql.end))[0][0])

    async def _fetch(self, statement: str, *values: Any) -> Sequence[Any]:
        with reported():
            async with driver_connection(self._engine) as driver:
                rows: Sequence[Any] = await driver.fetch(statement, *values)
                return rows


def readable(rows: Iterable[Any]) -> tuple[list[RecordedEvent], UnknownEvent | None]:
    """The events in these rows of the log, up to the first that this release cannot read; and that one's error."""
    found: list[RecordedEvent] = []
    try:
        for row in rows:
            found.append(recorded(row))  # noqa: PERF401 - what came before the error is kept
    except UnknownEvent as error:
        return found, error
    return found, None


def leaf_hash_of(row: Any) -> bytes:
    """The leaf hash of a row of the log, made anew from what it holds."""
    hashed = ("stream_id", "version", "event_type", "schema_version", "recorded_at", "correlation_id", "causation_id",
              "actor", "data")  # fmt: skip
    return leaf_hash(**{name: row[name] for name in hashed})


def recorded(row: Any) -> RecordedEvent:
    """The event in a row of the log. Raises `UnknownEvent`, which names its place, when a newer release wrote it."""
    position, stream_id, version, event_type, schema_version, at, correlation_id, causation_id, actor, data, leaf = row
    try:
        event = decode(event_type, schema_version, data)
    except UnknownEvent as error:
        raise error.found_at(position, stream_id, version) from None
    return RecordedEvent(
        position=position,
        stream_id=stream_id,
        version=version,
        event=event,
        recorded_at=at,
        correlation_id=correlation_id,
        causation_id=causation_id,
        actor=actor,
        data=data,
        leaf_hash=leaf,
    )
