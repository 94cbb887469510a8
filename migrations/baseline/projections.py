"""Projections: checkpoints, and a table with its shadow for each."""

import sqlalchemy as sa
from alembic import op

from guestledger.adapters.postgres.sql import quoted

_TIME = sa.DateTime(timezone=True)


def create(schema: str) -> None:
    """Create these tables."""
    _create_checkpoints(schema)
    _create_sessions(schema)
    _create_session_metrics(schema)
    _create_audit_log(schema)


def _create_checkpoints(schema: str) -> None:
    op.create_table(
        "checkpoints",
        sa.Column("projection", sa.Text, primary_key=True),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("stopped_at", _TIME),
        sa.Column("error", sa.Text),
        schema=schema,
    )


def _create_sessions(schema: str) -> None:
    op.create_table(
        "sessions",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("channel_id", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("opened_at", _TIME, nullable=False),
        sa.Column("updated_at", _TIME, nullable=False),
        sa.Column("session_id", sa.Text),
        sa.Column("accepted_at", _TIME),
        sa.Column("created_at", _TIME),
        sa.Column("expires_at", _TIME),
        sa.Column("retry_at", _TIME),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("in_doubt", sa.ARRAY(sa.Integer), nullable=False),
        sa.Column("latency_ms", sa.BigInteger),
        sa.Column("cause", sa.Text),
        sa.Column("detail", sa.Text),
        sa.Column("webhook_owed", sa.Boolean, nullable=False),
        sa.Column("ended_at", _TIME),
        sa.Column("contact_erased_at", _TIME),
        sa.Column("held_since", _TIME),
        schema=schema,
    )
    op.create_index("sessions_opened_at", "sessions", ["opened_at", "id"], schema=schema)
    for column in ("session_id", "expires_at"):
        op.create_index(f"sessions_{column}", "sessions", [column], schema=schema)
    few = sa.text("in_doubt <> '{}'")
    op.create_index("sessions_in_doubt", "sessions", ["channel_id"], schema=schema, postgresql_where=few)
    kept = sa.text("contact_erased_at IS NULL")
    op.create_index("sessions_contact_kept", "sessions", ["ended_at"], schema=schema, postgresql_where=kept)
    _complete_projection(schema, "sessions", {"sessions": "id"})


def _create_session_metrics(schema: str) -> None:
    counts = (
        "accepted refused created rejected abandoned withdrawn withdrawn_pending expired attempts throttled failed "
        "duplicates webhooks_synced webhooks_failed webhooks_abandoned"
    )
    op.create_table(
        "session_metrics",
        sa.Column("channel_id", sa.Text, primary_key=True),
        sa.Column("minute", _TIME, primary_key=True),
        sa.Column("month", sa.Date, primary_key=True),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in counts.split()),
        schema=schema,
    )
    op.create_table(
        "session_latencies",
        sa.Column("channel_id", sa.Text, primary_key=True),
        sa.Column("minute", _TIME, primary_key=True),
        sa.Column("month", sa.Date, primary_key=True),
        sa.Column("latency_ms", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("sessions", sa.BigInteger, nullable=False),
        schema=schema,
    )
    keys = {
        "session_metrics": "channel_id, minute, month",
        "session_latencies": "channel_id, minute, month, latency_ms",
    }
    _complete_projection(schema, "session_metrics", keys)


def _create_audit_log(schema: str) -> None:
    op.create_table(
        "audit_log",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("opened_at", _TIME, nullable=False),
        sa.Column("timestamp", _TIME, nullable=False),
        sa.Column("session_id", sa.Text),
        sa.Column("channel_id", sa.Text, nullable=False),
        sa.Column("consent_recorded", sa.Boolean, nullable=False),
        sa.Column("gdpr_compliant", sa.Boolean, nullable=False),
        sa.Column("token_expiry", _TIME),
        sa.Column("initialization_latency_ms", sa.BigInteger),
        sa.Column("compliance_status", sa.Text, nullable=False),
        sa.Column("notice", sa.Text),
        sa.Column("refused_flags", sa.ARRAY(sa.Text), nullable=False),
        sa.Column("webhook", sa.Text, nullable=False),
        sa.Column("doubted_at", _TIME),
        sa.Column("parked_at", _TIME),
        sa.Column("decision", sa.Text),
        sa.Column("decided_at", _TIME),
        sa.Column("decided_by", sa.Text),
        sa.Column("decision_reason", sa.Text),
        sa.Column("erased_at", _TIME),
        schema=schema,
    )
    op.create_index("audit_log_opened_at", "audit_log", ["opened_at", "id"], schema=schema)
    for column in ("timestamp", "session_id"):
        op.create_index(f"audit_log_{column}", "audit_log", [column], schema=schema)
    given_up = sa.text("webhook = 'failed'")
    op.create_index("audit_log_given_up", "audit_log", ["opened_at", "id"], schema=schema, postgresql_where=given_up)
    _complete_projection(schema, "audit_log", {"audit_log": "id"})


def _complete_projection(schema: str, name: str, keys: dict[str, str]) -> None:
    """Create the shadow of each table, and the projection's checkpoint. A shadow has no indexes for readers."""
    s = quoted(schema)
    for table, key in keys.items():
        op.execute(f"CREATE TABLE {s}.{table}_shadow (LIKE {s}.{table}, PRIMARY KEY ({key}))")
    op.execute(f"INSERT INTO {s}.checkpoints (projection, position) VALUES ('{name}', -1)")
