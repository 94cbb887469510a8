"""Finds sessions in the log and the projections. Every condition goes by an index, or within a span of the log."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import ARRAY, Select, Uuid, any_, cast, extract, func, literal, select, true
from sqlalchemy.ext.asyncio import AsyncEngine

from guestledger.adapters.postgres.errors import reported
from guestledger.adapters.postgres.log.positions import last_before
from guestledger.adapters.postgres.projections.registry import SESSIONS
from guestledger.adapters.postgres.tables import TIME, events, personal_index, request_keys
from guestledger.adapters.postgres.transactions import pooled_connection, reading
from guestledger.engine.domain.guest_filter import GuestHashes
from guestledger.engine.ports.session_finder import MAX_OF_GUEST, FindFilter, FoundSession, Span
from guestledger.engine.projections.sessions import SessionRow


class PostgresSessionFinder:
    """See `SessionFinder`. Shows the projections as of the last catch-up."""

    def __init__(self, engine: AsyncEngine, schema: str) -> None:
        self._engine = engine
        self._span = f"""
            SELECT {last_before(schema, "$1::timestamptz")} AS after,
                   {last_before(schema, "$2::timestamptz", inclusive=True)} AS upto"""

    async def span(self, since: datetime, until: datetime) -> Span:
        """See `SessionFinder.span`."""
        with reported():
            async with reading(self._engine) as driver:
                [(after, upto)] = await driver.fetch(self._span, since, until)
        return Span(after, upto)

    async def near(self, wanted: FindFilter, ids: Collection[UUID] | None, span: Span | None) -> list[FoundSession]:
        """See `SessionFinder.near`."""
        return [
            FoundSession(
                session=msgspec.convert(row, SessionRow, from_attributes=True),
                event=row.found_event,
                version=row.found_version,
                recorded_at=row.found_at,
            )
            for row in await self._fetch(_sessions(wanted, ids, span))
        ]

    async def of_guest(self, guest: GuestHashes) -> list[UUID]:
        """See `SessionFinder.of_guest`."""
        c = personal_index.c
        known = [c[name] == value for name, value in guest._asdict().items() if value is not None]
        # Materialized: else a plan for any limit may read the whole index of ids, newest first.
        found = select(c.stream_id).where(*known).cte().prefix_with("MATERIALIZED")
        newest = select(found.c.stream_id).order_by(found.c.stream_id.desc()).limit(MAX_OF_GUEST)
        return [row.stream_id for row in await self._fetch(newest)]

    async def of_key(self, key: str) -> UUID | None:
        """See `SessionFinder.of_key`."""
        c = request_keys.c
        found = await self._fetch(select(c.stream_id).where(c.idempotency_key == key))
        return found[0].stream_id if found else None

    async def _fetch(self, statement: Select[Any]) -> Sequence[Any]:
        with reported():
            async with pooled_connection(self._engine) as connection:
                rows: Sequence[Any] = (await connection.execute(statement)).all()
                return rows


def _sessions(wanted: FindFilter, ids: Collection[UUID] | None, span: Span | None) -> Select[Any]:
    nearest = _nearest(wanted, ids, span).subquery()
    order = nearest.c.found_at.desc() if wanted.around is None else nearest.c.distance
    # Lateral: one look by id for each. A join of many would read all sessions.
    session = select(SESSIONS).where(SESSIONS.c.id == nearest.c.found_id).limit(1).lateral()
    c = session.c
    statement = select(session, nearest).join_from(nearest, session, true())
    if wanted.channel_id is not None:
        statement = statement.where(c.channel_id == wanted.channel_id)
    if wanted.statuses:
        statement = statement.where(c.status.in_(wanted.statuses))
    return statement.order_by(order, c.id.desc()).limit(wanted.limit)


def _nearest(wanted: FindFilter, ids: Collection[UUID] | None, span: Span | None) -> Select[Any]:
    """One event of each stream: the nearest to the time, or the last."""
    c = events.c
    found = [
        c.stream_id.label("found_id"),
        c.event_type.label("found_event"),
        c.version.label("found_version"),
        c.recorded_at.label("found_at"),
    ]
    if wanted.around is None:
        statement = select(*found).order_by(c.stream_id, c.version.desc())
    else:
        distance = func.abs(extract("epoch", c.recorded_at - literal(wanted.around, TIME))).label("distance")
        statement = select(*found, distance).order_by(c.stream_id, distance, c.version.desc())
    if span is not None:
        statement = statement.where(c.position > span.after, c.position <= span.upto)
    if ids is not None:
        statement = statement.where(c.stream_id == any_(cast(list(ids), ARRAY(Uuid))))
    if wanted.correlation_id is not None:
        statement = statement.where(c.correlation_id == wanted.correlation_id)
    return statement.prefix_with("DISTINCT ON (found_id)")  # SQLAlchemy 2.0 and 2.1 have no way in common
