"""RateLimiter: what is known against an API, shared by all processes. Work is found by its step: what a limiter holds back is passed by."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    schema, time = op.get_context().version_table_schema, sa.DateTime(timezone=True)
    op.drop_index("due_work_due", "due_work", schema=schema)
    op.create_index("due_work_due", "due_work", ["step", "due_at"], schema=schema)
    op.add_column("due_work", sa.Column("ends_at", time), schema=schema)
    ends = {"postgresql_where": sa.text("ends_at IS NOT NULL")}
    op.create_index("due_work_ends", "due_work", ["step", "ends_at"], schema=schema, **ends)
    op.create_table(
        "limiters",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("closed_at", time),
        sa.Column("closed_until", time),
        sa.Column("why", sa.Text, nullable=False),
        sa.Column("paced_from", time),
        sa.Column("ceiling", sa.Double),
        sa.Column("well", sa.Integer, nullable=False),
        sa.Column("next_slot", time),
        sa.Column("next_passage", time),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("breaks", sa.Integer, nullable=False),
        sa.Column("broken_at", time),
        sa.Column("broken_until", time),
        sa.Column("probe_until", time),
        sa.Column("retries", sa.Double),
        sa.Column("retries_at", time),
        schema=schema,
        comment="What is known against an API, by host and quota scope: there is no row where nothing is",
    )
