"""Bringing the projections up to the log: a batch's row changes and the checkpoint commit together, so each is exact."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Table, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from adapters.postgres import tables as t
from adapters.postgres.connection import reported
from adapters.postgres.event_store import read_batch
from engine.domain.recorded import RecordedEvent
from engine.projections import audit, metrics, sessions

BATCH = 500

Row = TypeVar("Row", bound=msgspec.Struct)
Apply = Callable[[AsyncConnection, list[RecordedEvent]], Awaitable[None]]


class Projector:
    """Carries each projection from its checkpoint to the end of the log."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def catch_up(self) -> int:
        """Bring every projection up to the log's present end. Returns how many events were projected, over all of them.

        Whoever comes second to a projection waits for the first, so on return the rows hold all that was committed before.
        """
        return sum([await self._catch_up(name, apply) for name, apply in PROJECTIONS.items()])

    async def _catch_up(self, name: str, apply: Apply) -> int:
        projected = 0
        while True:
            with reported():
                async with self._engine.begin() as connection:
                    batch = await self._next_batch(connection, name, apply)
            projected += batch
            if batch < BATCH:
                return projected

    async def _next_batch(self, connection: AsyncConnection, name: str, apply: Apply) -> int:
        # The lock on the checkpoint keeps a second projector out; a crash takes rows and checkpoint back together.
        at = select(t.checkpoints.c.position).where(t.checkpoints.c.projection == name).with_for_update()
        position = (await connection.execute(at)).scalar_one()
        events = await read_batch(connection, position, BATCH)
        if events:
            await apply(connection, events)
            moved = update(t.checkpoints).where(t.checkpoints.c.projection == name)
            await connection.execute(moved.values(position=events[-1].position))
        return len(events)


async def _sessions(connection: AsyncConnection, events: list[RecordedEvent]) -> None:
    known = await _known(connection, t.sessions, sessions.SessionRow, events)
    await _replace(connection, t.sessions, sessions.project(known, events))


async def _audit_log(connection: AsyncConnection, events: list[RecordedEvent]) -> None:
    known = await _known(connection, t.audit_log, audit.AuditEntry, events)
    await _replace(connection, t.audit_log, audit.project(known, events))


async def _session_metrics(connection: AsyncConnection, events: list[RecordedEvent]) -> None:
    increments = metrics.project(events)
    zeros = dict.fromkeys(metrics.COUNTS, 0)
    counts = [{**cell._asdict(), **zeros, **counted} for cell, counted in increments.counts.items()]
    await _add(connection, t.session_metrics, counts)
    latencies = [
        {**cell._asdict(), "latency_ms": ms, "sessions": number} for (cell, ms), number in increments.latencies.items()
    ]
    await _add(connection, t.session_latencies, latencies)


PROJECTIONS: Mapping[str, Apply] = {
    sessions.NAME: _sessions,
    metrics.NAME: _session_metrics,
    audit.NAME: _audit_log,
}


async def _known(
    connection: AsyncConnection, table: Table, row_type: type[Row], events: list[RecordedEvent]
) -> dict[Any, Row]:
    """The rows, as they are now, of the streams that these events belong to."""
    # A stream that begins in this batch has no row yet.
    older = {event.stream_id for event in events} - {event.stream_id for event in events if event.version == 1}
    if not older:
        return {}
    rows = await connection.execute(select(table).where(table.c.id.in_(older)))
    return {row.id: msgspec.convert(row, row_type, from_attributes=True) for row in rows}


async def _replace(connection: AsyncConnection, table: Table, rows: Sequence[msgspec.Struct]) -> None:
    if not rows:
        return
    statement = insert(table)
    changed = {column.name: statement.excluded[column.name] for column in table.c if not column.primary_key}
    statement = statement.on_conflict_do_update(index_elements=list(table.primary_key), set_=changed)
    await connection.execute(statement, [msgspec.structs.asdict(row) for row in rows])


async def _add(connection: AsyncConnection, table: Table, rows: Sequence[dict[str, Any]]) -> None:
    if not rows:
        return
    statement = insert(table)
    summed = {column.name: column + statement.excluded[column.name] for column in table.c if not column.primary_key}
    statement = statement.on_conflict_do_update(index_elements=list(table.primary_key), set_=summed)
    await connection.execute(statement, list(rows))
