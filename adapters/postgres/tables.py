"""The tables of one ledger. They name no schema: the engine's `schema_translate_map` puts them into the ledger's own.

Every table has a primary key and no volatile default, sequence or identity column: order comes from the head row's
lock alone, and times and ids come in as parameters. The migrations make these tables; a test holds the two together.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSON

from guestledger.engine.projections.metrics import COUNTS

metadata = MetaData()
_Time = DateTime(timezone=True)

head = Table(
    "head",
    metadata,
    Column("id", SmallInteger, primary_key=True, autoincrement=False),
    CheckConstraint("id = 1", name="head_is_one_row"),
    comment="One row, locked by every append: it is what makes positions dense and in commit order",
)

events = Table(
    "events",
    metadata,
    Column("stream_id", Uuid, primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("position", BigInteger, nullable=False),
    Column("event_type", Text, nullable=False),
    Column("schema_version", SmallInteger, nullable=False),
    Column("recorded_at", _Time, nullable=False),
    Column("correlation_id", Text, nullable=False),
    Column("causation_id", Uuid, nullable=False),
    Column("actor", Text, nullable=False),
    # json, not jsonb: the text is what was hashed, letter for letter.
    Column("data", JSON, nullable=False),
    Column("leaf_hash", LargeBinary, nullable=False),
    postgresql_partition_by="RANGE (stream_id)",
)
"""By the month in which a stream began, which its id, a UUIDv7, begins with. The partitions are made by the ledger's own
functions; each has an index by position, unique within it."""

batches = Table(
    "batches",
    metadata,
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("recorded_at", _Time, nullable=False),
    comment="Where each batch of the log ended: to find its end, no month has to be looked at",
)

detached_months = Table(
    "detached_months",
    metadata,
    Column("month", Date, primary_key=True),
    Column("first_id", Uuid, nullable=False),
    Column("end_id", Uuid, nullable=False),
    Column("events", BigInteger, nullable=False),
    Column("first_position", BigInteger),
    Column("last_position", BigInteger),
    # SHA-256 over positions and leaf hashes in order, the hashes made anew from the entries themselves.
    Column("digest", LargeBinary, nullable=False),
    Column("detached_at", _Time, nullable=False),
)

request_keys = Table(
    "request_keys",
    metadata,
    Column("idempotency_key", Text, primary_key=True),
    Column("stream_id", Uuid, nullable=False),
)

due_work = Table(
    "due_work",
    metadata,
    Column("stream_id", Uuid, primary_key=True),
    Column("step", Text, nullable=False),
    Column("due_at", _Time, nullable=False),
    Column("owner", Uuid),
    Column("lease_until", _Time),
    Column("ends_at", _Time),
    Index("due_work_due", "step", "due_at"),
    Index("due_work_ends", "step", "ends_at", postgresql_where=text("ends_at IS NOT NULL")),
)

limiters = Table(
    "limiters",
    metadata,
    Column("name", Text, primary_key=True),
    Column("closed_at", _Time),
    Column("closed_until", _Time),
    Column("why", Text, nullable=False),
    Column("paced_from", _Time),
    Column("ceiling", Double),
    Column("well", Integer, nullable=False),
    Column("next_slot", _Time),
    Column("next_passage", _Time),
    Column("failures", Integer, nullable=False),
    Column("breaks", Integer, nullable=False),
    Column("broken_at", _Time),
    Column("broken_until", _Time),
    Column("probe_until", _Time),
    Column("retries", Double),
    Column("retries_at", _Time),
    comment="What is known against an API, by host and quota scope: there is no row where nothing is",
)

consumers = Table(
    "consumers",
    metadata,
    Column("name", Text, primary_key=True),
    Column("position", BigInteger, nullable=False),
    Column("owner", Uuid),
    Column("lease_until", _Time),
)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("projection", Text, primary_key=True),
    Column("position", BigInteger, nullable=False),
    Column("stopped_at", _Time),
    Column("error", Text),
)

sessions = Table(
    "sessions",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("channel_id", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("opened_at", _Time, nullable=False),
    Column("updated_at", _Time, nullable=False),
    Column("subject_id", Text),
    Column("session_id", Text),
    Column("accepted_at", _Time),
    Column("created_at", _Time),
    Column("expires_at", _Time),
    Column("retry_at", _Time),
    Column("attempts", Integer, nullable=False),
    Column("latency_ms", BigInteger),
    Column("reason", Text),
    Index("sessions_session_id", "session_id"),
    Index("sessions_opened_at", "opened_at"),
    Index("sessions_expires_at", "expires_at"),
)

session_metrics = Table(
    "session_metrics",
    metadata,
    Column("channel_id", Text, primary_key=True),
    Column("minute", _Time, primary_key=True),
    *(Column(name, BigInteger, nullable=False) for name in COUNTS),
    Column("month", Date, primary_key=True),
)

session_latencies = Table(
    "session_latencies",
    metadata,
    Column("channel_id", Text, primary_key=True),
    Column("minute", _Time, primary_key=True),
    Column("latency_ms", BigInteger, primary_key=True, autoincrement=False),
    Column("sessions", BigInteger, nullable=False),
    Column("month", Date, primary_key=True),
)

audit_log = Table(
    "audit_log",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("timestamp", _Time, nullable=False),
    Column("session_id", Text),
    Column("channel_id", Text, nullable=False),
    Column("visitor_fingerprint", Text, nullable=False),
    Column("ip_address", Text, nullable=False),
    Column("consent_recorded", Boolean, nullable=False),
    Column("gdpr_compliant", Boolean, nullable=False),
    Column("token_expiry", _Time),
    Column("initialization_latency_ms", BigInteger),
    Column("compliance_status", Text, nullable=False),
    Index("audit_log_timestamp", "timestamp"),
    Index("audit_log_session_id", "session_id"),
)


def _shadow(table: Table) -> Table:
    made = table.to_metadata(metadata, name=f"{table.name}_shadow")
    made.indexes.clear()
    return made


SHADOWS = {table.name: _shadow(table) for table in (sessions, session_metrics, session_latencies, audit_log)}
"""Where a rebuild makes the rows of a table anew: the same columns and key, without the indexes of its readers."""
