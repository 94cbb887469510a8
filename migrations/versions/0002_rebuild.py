"""Rebuilding projections: a shadow beside each table of theirs, and why a projection stands still.

The shadows are there for good, so that a rebuild needs no right to create or drop anything.
"""

import sqlalchemy as sa
from alembic import op

from guestledger.adapters.postgres.statements import quoted

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_KEYS = {
    "sessions": "id",
    "session_metrics": "channel_id, minute",
    "session_latencies": "channel_id, minute, latency_ms",
    "audit_log": "id",
}


def upgrade() -> None:
    schema = op.get_context().version_table_schema
    s = quoted(schema)
    for table, key in _KEYS.items():
        op.execute(f"CREATE TABLE {s}.{table}_shadow (LIKE {s}.{table}, PRIMARY KEY ({key}))")
    op.add_column("checkpoints", sa.Column("stopped_at", sa.DateTime(timezone=True)), schema=schema)
    op.add_column("checkpoints", sa.Column("error", sa.Text), schema=schema)
