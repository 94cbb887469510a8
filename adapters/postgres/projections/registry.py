"""The projections: their tables, and how a batch of events changes them.

To add one: `engine/projections/<name>.py`, its tables and entry here, and a migration with tables, shadows and checkpoint.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import ARRAY, BigInteger, Boolean, Column, Date, Index, Integer, Table, Text, Uuid, text

from guestledger.adapters.postgres.projections.row_changes import Row, RowChanges
from guestledger.adapters.postgres.projections.shadow import declare_shadow
from guestledger.adapters.postgres.tables import TIME, metadata
from guestledger.engine.domain.errors import UnknownProjection
from guestledger.engine.log.recorded import RecordedEvent
from guestledger.engine.projections import audit, metrics, sessions

SESSIONS = Table(
    "sessions",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("channel_id", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("opened_at", TIME, nullable=False),
    Column("updated_at", TIME, nullable=False),
    Column("session_id", Text),
    Column("accepted_at", TIME),
    Column("created_at", TIME),
    Column("expires_at", TIME),
    Column("retry_at", TIME),
    Column("attempts", Integer, nullable=False),
    Column("in_doubt", ARRAY(Integer), nullable=False),
    Column("latency_ms", BigInteger),
    Column("cause", Text),
    Column("detail", Text),
    Column("webhook_owed", Boolean, nullable=False),
    Column("ended_at", TIME),
    Column("contact_erased_at", TIME),
    Column("held_since", TIME),
    Index("sessions_session_id", "session_id"),
    Index("sessions_opened_at", "opened_at", "id"),
    Index("sessions_expires_at", "expires_at"),
    Index("sessions_in_doubt", "channel_id", postgresql_where=text("in_doubt <> '{}'")),
    Index("sessions_contact_kept", "ended_at", postgresql_where=text("contact_erased_at IS NULL")),
)

SESSION_METRICS = Table(
    "session_metrics",
    metadata,
    Column("channel_id", Text, primary_key=True),
    Column("minute", TIME, primary_key=True),
    Column("month", Date, primary_key=True),
    *(Column(name, BigInteger, nullable=False) for name in metrics.COUNTS),
)

SESSION_LATENCIES = Table(
    "session_latencies",
    metadata,
    Column("channel_id", Text, primary_key=True),
    Column("minute", TIME, primary_key=True),
    Column("month", Date, primary_key=True),
    Column("latency_ms", BigInteger, primary_key=True, autoincrement=False),
    Column("sessions", BigInteger, nullable=False),
)

AUDIT_LOG = Table(
    "audit_log",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("opened_at", TIME, nullable=False),
    Column("timestamp", TIME, nullable=False),
    Column("session_id", Text),
    Column("channel_id", Text, nullable=False),
    Column("consent_recorded", Boolean, nullable=False),
    Column("gdpr_compliant", Boolean, nullable=False),
    Column("token_expiry", TIME),
    Column("initialization_latency_ms", BigInteger),
    Column("compliance_status", Text, nullable=False),
    Column("notice", Text),
    Column("refused_flags", ARRAY(Text), nullable=False),
    Column("webhook", Text, nullable=False),
    Column("doubted_at", TIME),
    Column("parked_at", TIME),
    Column("decision", Text),
    Column("decided_at", TIME),
    Column("decided_by", Text),
    Column("decision_reason", Text),
    Column("erased_at", TIME),
    Index("audit_log_opened_at", "opened_at", "id"),
    Index("audit_log_timestamp", "timestamp"),
    Index("audit_log_session_id", "session_id"),
    Index("audit_log_given_up", "opened_at", "id", postgresql_where=text("webhook = 'failed'")),
)

Apply = Callable[[RowChanges, list[RecordedEvent]], Awaitable[None]]


class Projection(NamedTuple):
    """Each table needs a column `month`, or a key that begins with the stream's id."""

    name: str
    tables: tuple[Table, ...]
    apply: Apply
    """Collects the changes of a batch of events."""


def _row_per_session(
    table: Table,
    row_type: type[Row],
    project: Callable[[Mapping[Any, Row], Iterable[RecordedEvent]], Sequence[Row]],
) -> Apply:
    async def apply(changes: RowChanges, events: list[RecordedEvent]) -> None:
        changes.replace(table, project(await changes.known(table, row_type, events), events))

    return apply


async def _session_metrics(changes: RowChanges, events: list[RecordedEvent]) -> None:
    increments = metrics.project(events)
    zeros = dict.fromkeys(metrics.COUNTS, 0)
    counts = [{**cell._asdict(), **zeros, **counted} for cell, counted in increments.counts.items()]
    latencies = [
        {**cell._asdict(), "latency_ms": ms, "sessions": number} for (cell, ms), number in increments.latencies.items()
    ]
    changes.add(SESSION_METRICS, counts)
    changes.add(SESSION_LATENCIES, latencies)


_REGISTERED = (
    Projection(sessions.NAME, (SESSIONS,), _row_per_session(SESSIONS, sessions.SessionRow, sessions.project)),
    Projection(metrics.NAME, (SESSION_METRICS, SESSION_LATENCIES), _session_metrics),
    Projection(audit.NAME, (AUDIT_LOG,), _row_per_session(AUDIT_LOG, audit.AuditEntry, audit.project)),
)

PROJECTIONS: Mapping[str, Projection] = {projection.name: projection for projection in _REGISTERED}

TABLES = tuple(table for projection in _REGISTERED for table in projection.tables)
SHADOWS = tuple(declare_shadow(table) for table in TABLES)


def named(name: str) -> Projection:
    """The projection of this name. Raises `UnknownProjection`."""
    if name not in PROJECTIONS:
        raise UnknownProjection(name, PROJECTIONS)
    return PROJECTIONS[name]
