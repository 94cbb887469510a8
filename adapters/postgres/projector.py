"""Bringing the projections up to the log: a batch's row changes and the checkpoint commit together, so each is exact."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Column, Table
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncEngine

from adapters.postgres import tables as t
from adapters.postgres.connection import Driver, driver_connection, reported
from adapters.postgres.event_store import recorded
from adapters.postgres.statements import Statements, quoted
from engine.domain.recorded import RecordedEvent
from engine.projections import audit, metrics, sessions

BATCH = 500

_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]

Row = TypeVar("Row", bound=msgspec.Struct)
Apply = Callable[["RowChanges", list[RecordedEvent]], Awaitable[None]]


class Projector:
    """Carries the projections from their checkpoints to the end of the log."""

    def __init__(self, engine: AsyncEngine, schema: str) -> None:
        self._engine = engine
        self._schema = schema
        self._sql = Statements(schema)

    async def catch_up(self) -> int:
        """Bring every projection up to the log's present end. Returns how many events were read for them.

        Whoever comes second waits for the first, so on return the rows hold all that was committed before.
        """
        read = 0
        with reported():
            async with driver_connection(self._engine) as driver:
                end = await driver.fetchval(self._sql.end)
        while True:
            with reported():
                async with driver_connection(self._engine) as driver, driver.transaction():
                    batch = await self._next_batch(driver, end)
            read += batch
            if not batch:
                return read

    async def _next_batch(self, driver: Driver, end: int) -> int:
        # The locks on the checkpoints keep a second projector out; a crash takes rows and checkpoints back together.
        at = {name: position for name, position in await driver.fetch(self._sql.checkpoints) if name in PROJECTIONS}
        last = min(at.values())
        if last >= end:
            return 0  # writers may be faster than this: what they add meanwhile is the next call's
        # One reading serves all that stand at the same position; one that is ahead is met there, never passed.
        ahead = [position for position in at.values() if position > last]
        limit = min(BATCH, *(position - last for position in ahead)) if ahead else BATCH
        events = [recorded(row) for row in await driver.fetch(self._sql.read_all, last, limit)]
        if events:
            behind = [name for name, position in at.items() if position == last]
            for name in behind:
                await PROJECTIONS[name](RowChanges(driver, self._schema), events)
            await driver.execute(self._sql.move_checkpoints, behind, events[-1].position)
        return len(events)


class RowChanges:
    """Reads and writes the rows of projections within one transaction, a batch in one statement."""

    def __init__(self, driver: Driver, schema: str) -> None:
        self._driver = driver
        self._schema = quoted(schema)

    async def known(self, table: Table, row_type: type[Row], events: list[RecordedEvent]) -> dict[Any, Row]:
        """The rows, as they are now, of the streams that these events belong to."""
        # A stream that begins in this batch has no row yet.
        older = {event.stream_id for event in events} - {event.stream_id for event in events if event.version == 1}
        if not older:
            return {}
        rows = await self._driver.fetch(f"SELECT * FROM {self._schema}.{table.name} WHERE id = ANY($1)", list(older))
        return {row["id"]: msgspec.convert(dict(row), row_type) for row in rows}

    async def replace(self, table: Table, rows: Sequence[msgspec.Struct]) -> None:
        """Write these rows in place of those with the same key."""
        await self._upsert(table, [msgspec.structs.asdict(row) for row in rows], "{column} = excluded.{column}")

    async def add(self, table: Table, rows: Sequence[dict[str, Any]]) -> None:
        """Add these numbers to those of the rows with the same key."""
        await self._upsert(table, rows, "{column} = old.{column} + excluded.{column}")

    async def _upsert(self, table: Table, rows: Sequence[Mapping[str, Any]], change: str) -> None:
        if not rows:
            return
        columns = [column.name for column in table.columns]
        arrays = ", ".join(f"${number}::{_type(column)}[]" for number, column in enumerate(table.columns, 1))
        key = ", ".join(column.name for column in table.primary_key)
        changes = ", ".join(change.format(column=column.name) for column in table.columns if not column.primary_key)
        await self._driver.execute(
            f"INSERT INTO {self._schema}.{table.name} AS old ({', '.join(columns)}) SELECT * FROM unnest({arrays}) "
            f"ON CONFLICT ({key}) DO UPDATE SET {changes}",
            *([row[column] for row in rows] for column in columns),
        )


def _type(column: Column[Any]) -> str:
    return str(column.type.compile(_DIALECT))


async def _sessions(rows: RowChanges, events: list[RecordedEvent]) -> None:
    known = await rows.known(t.sessions, sessions.SessionRow, events)
    await rows.replace(t.sessions, sessions.project(known, events))


async def _audit_log(rows: RowChanges, events: list[RecordedEvent]) -> None:
    known = await rows.known(t.audit_log, audit.AuditEntry, events)
    await rows.replace(t.audit_log, audit.project(known, events))


async def _session_metrics(rows: RowChanges, events: list[RecordedEvent]) -> None:
    increments = metrics.project(events)
    zeros = dict.fromkeys(metrics.COUNTS, 0)
    await rows.add(
        t.session_metrics,
        [{**cell._asdict(), **zeros, **counted} for cell, counted in increments.counts.items()],
    )
    await rows.add(
        t.session_latencies,
        [{**cell._asdict(), "latency_ms": ms, "sessions": n} for (cell, ms), n in increments.latencies.items()],
    )


PROJECTIONS: Mapping[str, Apply] = {
    sessions.NAME: _sessions,
    metrics.NAME: _session_metrics,
    audit.NAME: _audit_log,
}
