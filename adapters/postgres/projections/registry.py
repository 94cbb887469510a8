"""The projections as rows: which tables each has, and how a batch of events changes them."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec
from sqlalchemy import Column, Table
from sqlalchemy.dialects import postgresql

from guestledger.adapters.postgres import tables as t
from guestledger.adapters.postgres.connection import Driver
from guestledger.adapters.postgres.statements import quoted
from guestledger.engine.domain.errors import UnknownProjection
from guestledger.engine.log.recorded import RecordedEvent
from guestledger.engine.projections import audit, metrics, sessions

_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]

Row = TypeVar("Row", bound=msgspec.Struct)


class RowChanges:
    """Reads and writes the rows of projections within one transaction, a batch in one statement.

    With `shadow`, not the live tables' but those where a rebuild makes the rows anew.
    """

    def __init__(self, driver: Driver, schema: str, *, shadow: bool = False) -> None:
        self._driver = driver
        self._schema = schema
        self._shadow = shadow

    async def known(self, table: Table, row_type: type[Row], events: list[RecordedEvent]) -> dict[Any, Row]:
        """The rows, as they are now, of the streams that these events belong to."""
        # A stream that begins in this batch has no row yet.
        older = {event.stream_id for event in events} - {event.stream_id for event in events if event.version == 1}
        if not older:
            return {}
        rows = await self._driver.fetch(f"SELECT * FROM {self._name(table)} WHERE id = ANY($1)", list(older))
        return {row["id"]: msgspec.convert(dict(row), row_type) for row in rows}

    async def replace(self, table: Table, rows: Sequence[msgspec.Struct]) -> None:
        """Write these rows in place of those with the same key."""
        if rows:
            columns = rows[0].__struct_fields__
            values = zip(*map(msgspec.structs.astuple, rows), strict=True)
            await self._upsert(table, dict(zip(columns, values, strict=True)), "{column} = excluded.{column}")

    async def add(self, table: Table, rows: Sequence[dict[str, Any]]) -> None:
        """Add these numbers to those of the rows with the same key."""
        if rows:
            values = {name: [row[name] for row in rows] for name in rows[0]}
            await self._upsert(table, values, "{column} = old.{column} + excluded.{column}")

    async def _upsert(self, table: Table, values: Mapping[str, Sequence[Any]], change: str) -> None:
        arrays = ", ".join(f"${number}::{_type(table.c[name])}[]" for number, name in enumerate(values, 1))
        key = ", ".join(column.name for column in table.primary_key)
        changes = ", ".join(change.format(column=name) for name in values if not table.c[name].primary_key)
        await self._driver.execute(
            f"INSERT INTO {self._name(table)} AS old ({', '.join(values)}) SELECT * FROM unnest({arrays}) "
            f"ON CONFLICT ({key}) DO UPDATE SET {changes}",
            *values.values(),
        )

    def _name(self, table: Table) -> str:
        return f"{quoted(self._schema)}.{(t.SHADOWS[table.name] if self._shadow else table).name}"


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


class Projection(NamedTuple):
    """Its tables, and what brings a batch of events into them."""

    tables: tuple[Table, ...]
    apply: Callable[[RowChanges, list[RecordedEvent]], Awaitable[None]]


PROJECTIONS: Mapping[str, Projection] = {
    sessions.NAME: Projection((t.sessions,), _sessions),
    metrics.NAME: Projection((t.session_metrics, t.session_latencies), _session_metrics),
    audit.NAME: Projection((t.audit_log,), _audit_log),
}


def named(name: str) -> Projection:
    """The projection of this name. Raises `UnknownProjection`."""
    if name not in PROJECTIONS:
        raise UnknownProjection(name, PROJECTIONS)
    return PROJECTIONS[name]
