"""Queries over the projections."""

from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Date,
    Select,
    Table,
    Uuid,
    and_,
    any_,
    cast,
    exists,
    false,
    func,
    literal,
    literal_column,
    or_,
    select,
    tuple_,
)

from guestledger.adapters.postgres.errors import reported
from guestledger.adapters.postgres.projections.projector import Projector
from guestledger.adapters.postgres.projections.registry import AUDIT_LOG, SESSION_LATENCIES, SESSION_METRICS, SESSIONS
from guestledger.adapters.postgres.tables import TIME, detached_partitions, personal_index
from guestledger.adapters.postgres.transactions import pooled_connection
from guestledger.engine.domain.guest_filter import GuestHashes
from guestledger.engine.domain.session import Status
from guestledger.engine.projections.audit import AuditEntry, AuditFilter, WebhookState
from guestledger.engine.projections.metrics import (
    COUNTS,
    DailyMetrics,
    Doubts,
    HourlyOutcomes,
    Metrics,
    MetricsFilter,
    summarise,
)
from guestledger.engine.projections.retention import RetentionStatus
from guestledger.engine.projections.sessions import SessionFilter, SessionRow

BATCH = 500
# As the condition of the index.
_IN_DOUBT = SESSIONS.c.in_doubt != literal_column("'{}'")
_DETACHED = exists().where(
    SESSIONS.c.id >= detached_partitions.c.first_id, SESSIONS.c.id < detached_partitions.c.end_id
)
_Wanted = SessionFilter | AuditFilter
_Where = list[ColumnElement[bool]]


class PostgresReadModels(Projector):
    """The three projections. Each query shows the rows as of the last `catch_up`."""

    async def sessions(self, wanted: SessionFilter, guest: GuestHashes | None = None) -> AsyncIterator[SessionRow]:
        """See `ReadModels.sessions`."""
        c = SESSIONS.c
        where = _equal((c.channel_id, wanted.channel_id))
        where += _between(c.opened_at, wanted.since, wanted.until)
        if wanted.statuses:
            where.append(c.status.in_(wanted.statuses))
        if wanted.ids is not None:
            where.append(c.id == any_(cast(list(wanted.ids), ARRAY(Uuid))))  # in_ would be a parameter for each
        if wanted.expires_after is not None:
            where.append(c.expires_at > wanted.expires_after)
        if wanted.expires_until is not None:
            where.append(c.expires_at <= wanted.expires_until)
        if wanted.in_doubt:
            where.append(_IN_DOUBT)
        if wanted.held:
            where.append(c.held_since.is_not(None))
        if wanted.kept_since is not None:
            where += [
                c.ended_at <= wanted.kept_since,
                c.contact_erased_at.is_(None),
                c.held_since.is_(None),
                ~_DETACHED,
            ]
        async for row in self._rows(SESSIONS, where + _of_guest(c.id, guest), wanted):
            yield msgspec.convert(row, SessionRow, from_attributes=True)

    async def streams_of(self, wanted: str) -> list[UUID]:
        """See `ReadModels.streams_of`."""
        return [row.id for row in await self._fetch(_named(wanted).order_by(SESSIONS.c.id))]

    async def audit(self, wanted: AuditFilter, guest: GuestHashes | None = None) -> AsyncIterator[AuditEntry]:
        """See `ReadModels.audit`."""
        c = AUDIT_LOG.c
        where = _equal(
            (c.channel_id, wanted.channel_id),
            (c.compliance_status, wanted.status),
            (c.consent_recorded, wanted.consent_recorded),
            (c.notice, wanted.notice),
            (c.decided_by, wanted.decided_by),
        )
        where += _between(c.timestamp, wanted.since, wanted.until)
        where += _between(c.opened_at, wanted.opened_since, wanted.opened_until)
        if wanted.session is not None:
            where.append(c.id.in_(_named(str(wanted.session))))
        if wanted.refused_flag is not None:
            where.append(any_(c.refused_flags) == wanted.refused_flag)
        if wanted.webhook:
            # Not as parameters: a plan for any value uses no index of one.
            where.append(c.webhook.in_([literal_column(f"'{WebhookState(state)}'") for state in wanted.webhook]))
        if wanted.doubted:
            where.append(c.doubted_at.is_not(None))
        if wanted.parked:
            where.append(c.parked_at.is_not(None))
        async for row in self._rows(AUDIT_LOG, where + _of_guest(c.id, guest), wanted):
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

    async def doubtful(self) -> dict[Status, int]:
        """See `ReadModels.doubtful`."""
        c, wanted = SESSIONS.c, (Status.IN_DOUBT, Status.PARKED)
        statement = select(c.status, func.count()).where(_IN_DOUBT, c.status.in_(wanted)).group_by(c.status)
        found = {Status(status): int(number) for status, number in await self._fetch(statement)}
        return {status: found.get(status, 0) for status in wanted}

    async def retention(self, days: int | None, now: datetime) -> RetentionStatus:
        """See `ReadModels.retention`."""
        c = SESSIONS.c
        kept, held = c.contact_erased_at.is_(None), c.held_since.is_not(None)
        over = false() if days is None else and_(kept, ~held, c.ended_at <= now - timedelta(days=days))
        counts = {
            "kept": func.count().filter(kept),
            "open": func.count().filter(kept, c.ended_at.is_(None)),
            "held": func.count().filter(kept, held),
            "due": func.count().filter(over, ~_DETACHED),
            "detached": func.count().filter(over, _DETACHED),
            "erased": func.count().filter(~kept),
            "oldest": func.min(c.opened_at).filter(kept),
        }
        [row] = await self._fetch(select(*(column.label(name) for name, column in counts.items())))
        return RetentionStatus(retention_days=days, **row._mapping)  # noqa: SLF001 - SQLAlchemy's public name

    async def metrics_by_day(self, wanted: MetricsFilter) -> list[DailyMetrics]:
        """See `ReadModels.metrics_by_day`."""
        m, c = SESSION_METRICS.c, SESSION_LATENCIES.c
        sums = [func.sum(m[name]).label(name) for name in COUNTS]
        counts = select(_day(m.minute), m.channel_id, *sums).group_by("day", m.channel_id).order_by("day", m.channel_id)
        latencies = (
            select(_day(c.minute), c.channel_id, c.latency_ms, func.sum(c.sessions))
            .group_by("day", c.channel_id, c.latency_ms)
            .order_by("day", c.channel_id, c.latency_ms)
        )
        with reported():
            async with pooled_connection(self._engine) as connection:
                await connection.execution_options(isolation_level="REPEATABLE READ")
                counted = (await connection.execute(_within(counts, m, wanted))).all()
                ranked: dict[tuple[date, str], list[tuple[int, int]]] = {}
                async for day, channel_id, ms, number in await connection.stream(_within(latencies, c, wanted)):
                    ranked.setdefault((day, channel_id), []).append((int(ms), int(number)))
        return [
            DailyMetrics(
                day=day,
                channel_id=channel_id,
                metrics=summarise(
                    {name: int(value) for name, value in zip(COUNTS, values, strict=True)},
                    ranked.get((day, channel_id), []),
                    None,
                ),
            )
            for day, channel_id, *values in counted
        ]

    async def outcomes_by_hour(self, wanted: MetricsFilter) -> list[HourlyOutcomes]:
        """See `ReadModels.outcomes_by_hour`."""
        m = SESSION_METRICS.c
        hour = func.date_trunc("hour", m.minute, "UTC").label("hour")
        sums = [func.sum(m[name]).label(name) for name in COUNTS]
        rows = await self._fetch(_within(select(hour, *sums).group_by("hour").order_by("hour"), m, wanted))
        return [
            HourlyOutcomes(hour=at, counts={name: int(value) for name, value in zip(COUNTS, values, strict=True)})
            for at, *values in rows
        ]

    async def _rows(self, table: Table, where: _Where, wanted: _Wanted) -> AsyncIterator[Any]:
        """Yield the rows that match, page by page. Their place in the order never changes: each comes once."""
        place = tuple_(table.c.opened_at, table.c.id)
        order = [column.desc() if wanted.newest_first else column for column in (table.c.opened_at, table.c.id)]
        left = wanted.limit
        last: Any = None
        if wanted.after is not None:
            last = select(table.c.opened_at, table.c.id).where(table.c.id == wanted.after).scalar_subquery()
        while left is None or left > 0:
            size = BATCH if left is None else min(BATCH, left)
            beyond = [] if last is None else [place < last if wanted.newest_first else place > last]
            page = await self._fetch(select(table).where(*where, *beyond).order_by(*order).limit(size))
            for row in page:
                yield row
            if len(page) < size:
                return
            left = None if left is None else left - size
            last = tuple_(literal(page[-1].opened_at, TIME), literal(page[-1].id, Uuid))

    async def _fetch(self, statement: Select[Any]) -> Sequence[Any]:
        with reported():
            async with pooled_connection(self._engine) as connection:
                rows: Sequence[Any] = (await connection.execute(statement)).all()
                return rows


def _day(minute: ColumnElement[Any]) -> ColumnElement[Any]:
    return cast(func.timezone("UTC", minute), Date).label("day")


def _equal(*pairs: tuple[ColumnElement[Any], object]) -> _Where:
    return [column == value for column, value in pairs if value is not None]


def _between(at: ColumnElement[Any], since: datetime | None, until: datetime | None) -> _Where:
    return [*([] if since is None else [at >= since]), *([] if until is None else [at < until])]


def _named(session: str) -> Select[Any]:
    """Select the ids of the sessions with this id, ours or the provider's."""
    c = SESSIONS.c
    either = [c.session_id == session]
    with suppress(ValueError):
        either.append(c.id == UUID(session))
    return select(c.id).where(or_(*either))


def _of_guest(id_: ColumnElement[UUID], guest: GuestHashes | None) -> _Where:
    if guest is None:
        return []
    found = [personal_index.c[name] == value for name, value in guest._asdict().items() if value is not None]
    return [id_.in_(select(personal_index.c.stream_id).where(*found))]


def _doubts(wanted: MetricsFilter) -> Select[Any]:
    attempts = func.cardinality(SESSIONS.c.in_doubt)
    opened = func.sum(attempts).filter(SESSIONS.c.session_id.is_not(None))
    found = select(func.coalesce(func.sum(attempts), 0), func.coalesce(opened, 0)).where(_IN_DOUBT)
    return found if wanted.channel_id is None else found.where(SESSIONS.c.channel_id == wanted.channel_id)


def _within(statement: Select[Any], columns: Any, wanted: MetricsFilter) -> Select[Any]:
    if wanted.channel_id is not None:
        statement = statement.where(columns.channel_id == wanted.channel_id)
    if wanted.since is not None:
        statement = statement.where(columns.minute >= _minute(wanted.since))
    if wanted.until is not None:
        statement = statement.where(columns.minute < _minute(wanted.until))
    return statement


def _minute(moment: datetime) -> datetime:
    return moment.replace(second=0, microsecond=0)
