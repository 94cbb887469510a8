"""Reads of the event log. No transaction stays open between batches."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import datetime
from itertools import groupby
from operator import attrgetter
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from guestledger.adapters.postgres.errors import reported
from guestledger.adapters.postgres.log.notifier import LogNotifier
from guestledger.adapters.postgres.log.policies import policies_in, select_policies
from guestledger.adapters.postgres.personal.personal_data import PersonalData
from guestledger.adapters.postgres.sql import quoted
from guestledger.adapters.postgres.transactions import Driver, reading, short_transaction
from guestledger.adapters.postgres.unusable import DatabaseProblem, DatabaseUnusable
from guestledger.engine.domain.errors import LogSetBack
from guestledger.engine.domain.events import EVENT_TYPES, AccessEvent
from guestledger.engine.domain.unreadable import UnknownEvent
from guestledger.engine.log.codec import decode
from guestledger.engine.log.merkle import leaf_hash
from guestledger.engine.log.personal_fields import as_sealed
from guestledger.engine.log.recorded import Batch, EventFilter, RecordedEvent, RecordedPolicy, first_stream_id

COLUMNS = (
    "position, stream_id, version, event_type, schema_version, recorded_at, "
    "correlation_id, causation_id, actor, data::text, leaf_hash"
)
"""In the order that `recorded` expects."""

END = 2**63 - 1
"""A position behind every event."""

_LAST_ID = UUID(int=2**128 - 1)
_OF_LOOKS = [name for name, kind in EVENT_TYPES.items() if issubclass(kind, AccessEvent)]

SCAN_FACTOR = 20
"""One statement scans at most this many times its batch size, if a filter matches few events."""


class LogReader:
    """Reads one ledger's log."""

    def __init__(self, engine: AsyncEngine, schema: str, personal: PersonalData) -> None:
        self._engine = engine
        self._personal = personal
        self._notifier = LogNotifier(engine, schema)
        self._schema = s = quoted(schema)
        self._select_streams = f"""
            SELECT {COLUMNS} FROM {s}.events WHERE stream_id = ANY($1::uuid[]) ORDER BY stream_id, version"""
        self._select_openings = f"""
            SELECT {COLUMNS} FROM {s}.events WHERE stream_id = ANY($1::uuid[]) AND version = 1"""
        # One statement, so one snapshot: no event up to its `head` can appear later.
        select_batch = f"""
            SELECT head.position AS head,
                   (SELECT leaf_hash FROM {s}.events WHERE position = $1::bigint) AS mark,
                   (SELECT leaf_hash FROM {s}.events WHERE position = least($1::bigint + $2::bigint, head.position)) AS next,
                   e.*
              FROM (SELECT position FROM {s}.batches ORDER BY position DESC LIMIT 1) AS head
              LEFT JOIN (
                  SELECT {COLUMNS} FROM {s}.events
                   WHERE position > $1::bigint AND position <= $1::bigint + $2::bigint
                     AND ($4::text[] IS NULL OR event_type = ANY($4::text[]))
                     AND ($5::timestamptz IS NULL OR recorded_at >= $5::timestamptz)
                     AND ($6::timestamptz IS NULL OR recorded_at < $6::timestamptz)
                     AND ($7::text IS NULL OR actor = $7::text)
                     {{of_guest}}
                   ORDER BY position LIMIT $3::int) AS e ON true
             ORDER BY e.position"""
        self._select_batch = select_batch.format(of_guest="")
        self._select_batch_of_guest = select_batch.format(
            of_guest=f"""
                AND stream_id IN (SELECT stream_id FROM {s}.personal_index
                                   WHERE ($8::bytea IS NULL OR subject = $8::bytea)
                                     AND ($9::bytea IS NULL OR ip_address = $9::bytea)
                                     AND ($10::bytea IS NULL OR fingerprint = $10::bytea))"""
        )
        # By a list of ids: the planner takes a range of unknown length for a large part of the log.
        self._select_sessions = f"""
            SELECT {COLUMNS} FROM {s}.events
             WHERE stream_id = ANY(ARRAY(
                   SELECT stream_id FROM {s}.events
                    WHERE version = 1 AND stream_id > $1::uuid AND stream_id < $2::uuid AND event_type <> ALL($4::text[])
                    ORDER BY stream_id LIMIT $3::int))
             ORDER BY stream_id, version"""
        self._select_policies = select_policies(schema)
        self._select_head = f"SELECT coalesce((SELECT position FROM {s}.batches ORDER BY position DESC LIMIT 1), -1)"

    def arrival(self) -> asyncio.Event:
        """See `EventStore.arrival`."""
        return self._notifier.next()

    async def read_stream(self, stream_id: UUID, *, reveal: bool = False) -> list[RecordedEvent]:
        """See `EventStore.read_stream`."""
        return (await self.read_streams([stream_id], reveal=reveal)).get(stream_id, [])

    async def read_streams(
        self, stream_ids: Sequence[UUID], *, reveal: bool = False
    ) -> dict[UUID, list[RecordedEvent]]:
        """See `EventStore.read_streams`."""
        found = [recorded(row) for row in await self._fetch(self._select_streams, list(stream_ids))]
        streams: dict[UUID, list[RecordedEvent]] = {}
        # Most of those who read a session in clear append to it next.
        for one in await self._personal.opened(found, to_append=True) if reveal else found:
            streams.setdefault(one.stream_id, []).append(one)
        return streams

    async def read_openings(self, stream_ids: Sequence[UUID]) -> list[RecordedEvent]:
        """See `EventStore.read_openings`."""
        return [recorded(row) for row in await self._fetch(self._select_openings, list(stream_ids))]

    async def read_all(
        self, *, after: int = -1, batch: int = 500, wanted: EventFilter = EventFilter()
    ) -> AsyncIterator[list[RecordedEvent]]:
        """See `EventStore.read_all`."""
        while (found := await self.read_batch(after=after, batch=batch, wanted=wanted)).position > after:
            if found.events:
                yield list(found.events)
            after = found.position

    async def read_batch(
        self, *, after: int, batch: int = 500, wanted: EventFilter = EventFilter(), mark: bytes | None = None
    ) -> Batch:
        """See `EventStore.read_batch`."""
        span = batch * SCAN_FACTOR
        types = list(wanted.types) or None
        values = (after, span, batch, types, wanted.since, wanted.until, wanted.actor)
        if wanted.guest:  # an auditor may not even name the index
            guest = await self._personal.hashes_of(wanted.guest)
            rows = await self._fetch(self._select_batch_of_guest, *values, *guest)
        else:
            rows = await self._fetch(self._select_batch, *values)
        head, found_mark, next_mark = rows[0][:3] if rows else (-1, None, None)
        # The partition of that event may be detached: then nothing can be compared.
        if head < after or (mark is not None and found_mark is not None and found_mark != mark):
            raise LogSetBack(after, head)
        if not rows:
            return Batch(events=(), position=after)
        found, unknown = readable(row[3:] for row in rows if row["position"] is not None)
        if unknown is not None and not found:
            raise unknown
        cut = unknown is not None or len(found) == batch
        if cut:
            return Batch(events=tuple(found), position=found[-1].position, mark=found[-1].leaf_hash)
        return Batch(events=tuple(found), position=min(after + span, head), mark=next_mark)

    async def read_sessions(
        self, *, since: datetime | None, until: datetime | None, batch: int = 200
    ) -> AsyncIterator[list[list[RecordedEvent]]]:
        """See `EventStore.read_sessions`."""
        after = UUID(int=max(first_stream_id(since).int - 1, 0)) if since else UUID(int=0)
        end = first_stream_id(until) if until else _LAST_ID
        while rows := await self._fetch(self._select_sessions, after, end, batch, _OF_LOOKS):
            found, unknown = readable(rows)
            sessions = [list(events) for _, events in groupby(found, key=attrgetter("stream_id"))]
            if unknown is not None and sessions and sessions[-1][0].stream_id == unknown.stream_id:
                sessions.pop()
            if sessions:
                yield sessions
            if unknown is not None:
                raise unknown
            after = rows[-1]["stream_id"]

    async def ledger_id(self) -> UUID:
        """See `EventStore.ledger_id`."""
        return UUID(bytes=await self._personal.ledger_id())

    async def policies(self) -> list[RecordedPolicy]:
        """See `EventStore.policies`."""
        return policies_in(await self._fetch(self._select_policies))

    async def check(self) -> None:
        """See `EventStore.check`."""
        [(_, read_only)] = await self._fetch(
            f"SELECT ({self._select_head}), current_setting('transaction_read_only')::bool"
        )
        if read_only:
            raise DatabaseUnusable(DatabaseProblem.READ_ONLY)

    async def head(self) -> int:
        """See `EventStore.head`."""
        return int((await self._fetch(self._select_head))[0][0])

    async def incarnation(self) -> UUID | None:
        """See `EventStore.incarnation`."""
        rows = await self._fetch(f"SELECT id FROM {self._schema}.incarnations ORDER BY number DESC LIMIT 1")
        return rows[0][0] if rows else None

    async def begin_incarnation(self, incarnation: UUID) -> None:
        """See `EventStore.begin_incarnation`."""
        with reported():
            async with short_transaction(self._engine) as driver:
                await driver.execute(f"SELECT FROM {self._schema}.head WHERE id = 1 FOR UPDATE")
                await driver.execute(
                    f"""
                    INSERT INTO {self._schema}.incarnations (number, id, after_position, began_at)
                    SELECT coalesce((SELECT max(number) FROM {self._schema}.incarnations), 0) + 1, $1::uuid,
                           coalesce((SELECT max(position) FROM {self._schema}.batches), -1), clock_timestamp()""",
                    incarnation,
                )
                await driver.execute(
                    f"UPDATE {self._schema}.consumers SET ahead_at = coalesce(ahead_at, position), owner = NULL"
                )

    async def _fetch(self, statement: str, *values: Any) -> Sequence[Any]:
        with reported():
            async with reading(self._engine) as driver:
                rows: Sequence[Any] = await driver.fetch(statement, *values)
                return rows


async def fetch_range(driver: Driver, schema: str, *, after: int, upto: int = END, limit: int) -> Sequence[Any]:
    """The rows of at most `limit` events after one position, up to another."""
    # Positions are missing where a partition is detached, so the limit alone is not enough.
    statement = f"""
        SELECT {COLUMNS} FROM {quoted(schema)}.events
         WHERE position > $1::bigint AND position <= $2::bigint ORDER BY position LIMIT $3::int"""
    rows: Sequence[Any] = await driver.fetch(statement, after, upto, limit)
    return rows


def readable(rows: Iterable[Any]) -> tuple[list[RecordedEvent], UnknownEvent | None]:
    """The events in these rows up to the first unknown one, and its error."""
    found: list[RecordedEvent] = []
    try:
        for row in rows:
            found.append(recorded(row))  # noqa: PERF401 - keeps those before the error
    except UnknownEvent as error:
        return found, error
    return found, None


def leaf_hash_of(row: Any) -> bytes:
    """Compute the leaf hash of a row of the log."""
    hashed = ("stream_id", "version", "event_type", "schema_version", "recorded_at", "correlation_id", "causation_id",
              "actor", "data")  # fmt: skip
    return leaf_hash(**{name: row[name] for name in hashed})


def recorded(row: Any, *, marked: bool = True) -> RecordedEvent:
    """Decode a row of the log, its commitments `marked` as such. Raises `UnknownEvent`."""
    position, stream_id, version, event_type, schema_version, at, correlation_id, causation_id, actor, data, leaf = row
    try:
        event = decode(event_type, schema_version, data)
    except UnknownEvent as error:
        raise error.found_at(position, stream_id, version) from None
    return RecordedEvent(
        position=position,
        stream_id=stream_id,
        version=version,
        event=as_sealed(event) if marked else event,
        recorded_at=at,
        correlation_id=correlation_id,
        causation_id=causation_id,
        actor=actor,
        data=data,
        leaf_hash=leaf,
        schema_version=schema_version,
    )
