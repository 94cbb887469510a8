"""The ledger: log, due work, checkpoints and the three projections.

There is no downgrade: it would drop a log that is kept to be proof.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from guestledger.adapters.postgres.statements import quoted

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_Time = sa.DateTime(timezone=True)


def upgrade() -> None:
    schema = op.get_context().version_table_schema
    _create_log(schema)
    _create_work(schema)
    _create_projections(schema)


def _create_log(schema: str) -> None:
    op.create_table(
        "head",
        sa.Column("id", sa.SmallInteger, primary_key=True, autoincrement=False),
        sa.CheckConstraint("id = 1", name="head_is_one_row"),
        schema=schema,
        comment="One row, locked by every append: it is what makes positions dense and in commit order",
    )
    op.create_table(
        "events",
        sa.Column("stream_id", sa.Uuid, primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("event_type", sa.Text, nullable=False),
        sa.Column("schema_version", sa.SmallInteger, nullable=False),
        sa.Column("recorded_at", _Time, nullable=False),
        sa.Column("correlation_id", sa.Text, nullable=False),
        sa.Column("causation_id", sa.Uuid, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("data", postgresql.JSON, nullable=False),
        sa.Column("leaf_hash", sa.LargeBinary, nullable=False),
        schema=schema,
    )
    op.create_index("events_position", "events", ["position"], unique=True, schema=schema)
    op.create_table(
        "request_keys",
        sa.Column("idempotency_key", sa.Text, primary_key=True),
        sa.Column("stream_id", sa.Uuid, nullable=False),
        schema=schema,
    )
    s = quoted(schema)
    op.execute(f"INSERT INTO {s}.head (id) VALUES (1)")
    op.execute(
        f"""
        CREATE FUNCTION {s}.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION '%.% is append-only: % is refused', TG_TABLE_SCHEMA, TG_TABLE_NAME, TG_OP
                  USING ERRCODE = 'restrict_violation';
        END $$"""
    )
    # For each statement, not each row: it then also refuses a statement that would have met no row. ALWAYS: a session
    # that calls itself a replica is refused too.
    op.execute(
        f"""
        CREATE TRIGGER events_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {s}.events
            FOR EACH STATEMENT EXECUTE FUNCTION {s}.refuse_change()"""
    )
    op.execute(f"ALTER TABLE {s}.events ENABLE ALWAYS TRIGGER events_append_only")


def _create_work(schema: str) -> None:
    op.create_table(
        "due_work",
        sa.Column("stream_id", sa.Uuid, primary_key=True),
        sa.Column("step", sa.Text, nullable=False),
        sa.Column("due_at", _Time, nullable=False),
        sa.Column("owner", sa.Uuid),
        sa.Column("lease_until", _Time),
        schema=schema,
    )
    op.create_index("due_work_due", "due_work", ["due_at"], schema=schema)


def _create_projections(schema: str) -> None:
    op.create_table(
        "checkpoints",
        sa.Column("projection", sa.Text, primary_key=True),
        sa.Column("position", sa.BigInteger, nullable=False),
        schema=schema,
    )
    op.create_table(
        "sessions",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("channel_id", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("opened_at", _Time, nullable=False),
        sa.Column("updated_at", _Time, nullable=False),
        sa.Column("subject_id", sa.Text),
        sa.Column("session_id", sa.Text),
        sa.Column("accepted_at", _Time),
        sa.Column("created_at", _Time),
        sa.Column("expires_at", _Time),
        sa.Column("retry_at", _Time),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("latency_ms", sa.BigInteger),
        sa.Column("reason", sa.Text),
        schema=schema,
    )
    op.create_index("sessions_session_id", "sessions", ["session_id"], schema=schema)
    op.create_index("sessions_opened_at", "sessions", ["opened_at"], schema=schema)
    counts = (
        "accepted refused created rejected abandoned expired attempts throttled failed duplicates "
        "webhooks_synced webhooks_failed webhooks_abandoned"
    )
    op.create_table(
        "session_metrics",
        sa.Column("channel_id", sa.Text, primary_key=True),
        sa.Column("minute", _Time, primary_key=True),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in counts.split()),
        schema=schema,
    )
    op.create_table(
        "session_latencies",
        sa.Column("channel_id", sa.Text, primary_key=True),
        sa.Column("minute", _Time, primary_key=True),
        sa.Column("latency_ms", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("sessions", sa.BigInteger, nullable=False),
        schema=schema,
    )
    op.create_table(
        "audit_log",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("timestamp", _Time, nullable=False),
        sa.Column("session_id", sa.Text),
        sa.Column("channel_id", sa.Text, nullable=False),
        sa.Column("visitor_fingerprint", sa.Text, nullable=False),
        sa.Column("ip_address", sa.Text, nullable=False),
        sa.Column("consent_recorded", sa.Boolean, nullable=False),
        sa.Column("gdpr_compliant", sa.Boolean, nullable=False),
        sa.Column("token_expiry", _Time),
        sa.Column("initialization_latency_ms", sa.BigInteger),
        sa.Column("compliance_status", sa.Text, nullable=False),
        schema=schema,
    )
    op.create_index("audit_log_timestamp", "audit_log", ["timestamp"], schema=schema)
    op.create_index("audit_log_session_id", "audit_log", ["session_id"], schema=schema)
    for projection in ("sessions", "session_metrics", "audit_log"):
        op.execute(f"INSERT INTO {quoted(schema)}.checkpoints (projection, position) VALUES ('{projection}', -1)")
