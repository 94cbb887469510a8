"""Queries over the projections."""

from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import (
    ARRAY,
    ColumnElement,
    LargeBinary,
    Select,
    Table,
    Uuid,
    and_,
    any_,
    false,
    func,
    literal,
    literal_column,
    or_,
    select,
)
from sqlalchemy.dialects.postgresql import aggregate_order_by

from guestledger.adapters.postgres.errors import reported
from guestledger.adapters.postgres.projections.projector import Projector
from guestledger.adapters.postgres.projections.registry import AUDIT_LOG, SESSION_LATENCIES, SESSION_METRICS, SESSIONS
from guestledger.adapters.postgres.transactions import pooled_connection
from guestledger.engine.projections.audit import AuditEntry, AuditFilter
from guestledger.engine.projections.metrics import COUNTS, Doubts, Metrics, MetricsFilter, summarise
from guestledger.engine.projections.retention import RetentionStatus
from guestledger.engine.projections.sessions import SessionFilter, SessionRow

BATCH = 500
# As the condition of the index.
_IN_DOUBT = SESSIONS.c.in_doubt != literal_column("'{}'")
_ID_BYTES = 16
_Wanted = SessionFilter | AuditFilter


class PostgresReadModels(Projector):
    """The three projections. Each query shows the rows as of the last `catch_up`."""

    async def sessions(self, wanted: SessionFilter) -> AsyncIterator[SessionRow]:
        """See `ReadModels.sessions`."""
        c = SESSIONS.c
        where: list[ColumnElement[bool]] = []
        if wanted.channel_id is not None:
            where.append(c.channel_id == wanted.channel_id)
        if wanted.statuses:
            where.append(c.status.in_(wanted.statuses))
        if wanted.ids is not None:
            where.append(c.id.in_(wanted.ids))
        if wanted.since is not None:
            where.append(c.opened_at >= wanted.since)
        if wanted.until is not None:
            where.append(c.opened_at < wanted.until)
        if wanted.expires_after is not None:
            where.append(c.expires_at > wanted.expires_after)
        if wanted.expires_until is not None:
            where.append(c.expires_at <= wanted.expires_until)
        if wanted.in_doubt:
            where.append(_IN_DOUBT)
        if wanted.held:
            where.append(c.held_since.is_not(None))
        if wanted.kept_since is not None:
            where += [c.ended_at <= wanted.kept_since, c.contact_erased_at.is_(None), c.held_since.is_(None)]
        async for row in self._rows(SESSIONS, where, c.opened_at, wanted):
            yield msgspec.convert(row, SessionRow, from_attributes=True)

    async def stream_of(self, wanted: str) -> UUID | None:
        """See `ReadModels.stream_of`."""
        c = SESSIONS.c
        either = [c.session_id == wanted]
        with suppress(ValueError):
            either.append(c.id == UUID(wanted))
        with reported():
            async with pooled_connection(self._engine) as connection:
                found: UUID | None = (await connection.execute(select(c.id).where(or_(*either)))).scalar()
        return found

    async def audit(self, wanted: AuditFilter) -> AsyncIterator[AuditEntry]:
        """See `ReadModels.audit`."""
        c = AUDIT_LOG.c
        where: list[ColumnElement[bool]] = []
        if wanted.channel_id is not None:
            where.append(c.channel_id == wanted.channel_id)
        if wanted.since is not None:
            where.append(c.timestamp >= wanted.since)
        if wanted.until is not None:
            where.append(c.timestamp < wanted.until)
        if wanted.status is not None:
            where.append(c.compliance_status == wanted.status)
        if wanted.id is not None:
            where.append(c.id == wanted.id)
        async for row in self._rows(AUDIT_LOG, where, c.timestamp, wanted):
            yield msgspec.convert(row, AuditEntry, from_attributes=True)

    async def metrics(self, wanted: MetricsFilter) -> Metrics:
        """See `ReadModels.metrics`."""
        counts = select(*(func.coalesce(func.sum(SESSION_METRICS.c[name]), 0).label(name) for name in COUNTS))
        c = SESSION_LATENCIES.c
        latencies = select(c.latency_ms, func.sum(c.sessions)).group_by(c.latency_ms).order_by(c.latency_ms)
        with reported():
            async with pooled_connection(self._engine) as connection:
                # One snapshot for all, or the latencies could hold a session that the counts do not.
                await connection.execution_options(isolation_level="REPEATABLE READ")
                counted = (await connection.execute(_within(counts, SESSION_METRICS.c, wanted))).one()
                ranked = (await connection.execute(_within(latencies, c, wanted))).all()
                doubts = None
                if wanted.since is None and wanted.until is None:
                    doubts = Doubts(*(await connection.execute(_doubts(wanted))).one())
        return summarise(
            {name: int(value) for name, value in counted._mapping.items()},  # noqa: SLF001 - SQLAlchemy's public name
            [(int(ms), int(number)) for ms, number in ranked],
            doubts,
        )

    async def retention(self, days: int | None, now: datetime) -> RetentionStatus:
        """See `ReadModels.retention`."""
        c = SESSIONS.c
        kept, held = c.contact_erased_at.is_(None), c.held_since.is_not(None)
        over = false() if days is None else and_(kept, ~held, c.ended_at <= now - timedelta(days=days))
        counts = {
            "kept": func.count().filter(kept),
            "open": func.count().filter(kept, c.ended_at.is_(None)),
            "held": func.count().filter(kept, held),
            "due": func.count().filter(over),
            "erased": func.count().filter(~kept),
            "oldest": func.min(c.opened_at).filter(kept),
        }
        [row] = await self._fetch(select(*(column.label(name) for name, column in counts.items())))
        return RetentionStatus(retention_days=days, **row._mapping)  # noqa: SLF001 - SQLAlchemy's public name

    async def _rows(
        self, table: Table, where: Sequence[ColumnElement[bool]], at: ColumnElement[Any], wanted: _Wanted
    ) -> AsyncIterator[Any]:
        """Yield the rows that match now, each once and in order, with what they hold when their batch is read."""
        # The ids first, 16 bytes each: a row that changes meanwhile may move in the order, and would be missed or repeated.
        matching = select(table.c.id, at.label("at")).where(*where).order_by(*_order(at, table.c.id, wanted))
        c = matching.limit(wanted.limit).subquery().c
        packed = aggregate_order_by(literal(b"", LargeBinary), *_order(c.at, c.id, wanted))
        [(ids,)] = await self._fetch(select(func.string_agg(func.uuid_send(c.id), packed)))
        for start in range(0, len(ids or b""), _ID_BYTES * BATCH):
            batch = ids[start : start + _ID_BYTES * BATCH]
            page = [UUID(bytes=batch[at : at + _ID_BYTES]) for at in range(0, len(batch), _ID_BYTES)]
            rows = await self._fetch(select(table).where(*where, table.c.id == any_(literal(page, ARRAY(Uuid)))))
            found = {row.id: row for row in rows}
            for id_ in page:
                if id_ in found:
                    yield found[id_]

    async def _fetch(self, statement: Select[Any]) -> Sequence[Any]:
        with reported():
            async with pooled_connection(self._engine) as connection:
                rows: Sequence[Any] = (await connection.execute(statement)).all()
                return rows


def _order(at: ColumnElement[Any], id_: ColumnElement[Any], wanted: _Wanted) -> list[ColumnElement[Any]]:
    return [column.desc() if wanted.newest_first else column for column in (at, id_)]


def _doubts(wanted: MetricsFilter) -> Select[Any]:
    attempts = func.cardinality(SESSIONS.c.in_doubt)
    opened = func.sum(attempts).filter(SESSIONS.c.session_id.is_not(None))
    found = select(func.coalesce(func.sum(attempts), 0), func.coalesce(opened, 0)).where(_IN_DOUBT)
    return found if wanted.channel_id is None else found.where(SESSIONS.c.channel_id == wanted.channel_id)


def _within(statement: Select[Any], columns: Any, wanted: MetricsFilter) -> Select[Any]:
    if wanted.channel_id is not None:
        statement = statement.where(columns.channel_id == wanted.channel_id)
    if wanted.since is not None:
        statement = statement.where(columns.minute >= wanted.since)
    if wanted.until is not None:
        statement = statement.where(columns.minute < wanted.until)
    return statement
