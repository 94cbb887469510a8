"""Work: due steps, rate limiters, consumers of events, access keys."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

_TIME = sa.DateTime(timezone=True)


def create(schema: str) -> None:
    """Create these tables."""
    _create_api_keys(schema)
    _create_due_steps(schema)
    _create_limits(schema)
    _create_consumers(schema)


def _create_api_keys(schema: str) -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.Column("revoked_at", _TIME),
        schema=schema,
        comment="The access keys of the HTTP API, by the SHA-256 of their secrets",
    )


def _create_due_steps(schema: str) -> None:
    op.create_table(
        "due_steps",
        sa.Column("stream_id", sa.Uuid, primary_key=True),
        sa.Column("step", sa.Text, primary_key=True),
        sa.Column("due_at", _TIME, nullable=False),
        sa.Column("owner", sa.Uuid),
        sa.Column("lease_until", _TIME),
        sa.Column(
            "set_at", _TIME, comment="When due_at was set. A time that has not come yet: the clock was set back since"
        ),
        sa.Column("back_ms", sa.BigInteger, comment="How far due_at was moved back because the clock was set back"),
        schema=schema,
    )
    # While somebody holds a snapshot, dead versions of rows stay in their indexes, and each scan reads them. Most steps are leased
    # from their first append to their last, so they never are in the index that claims and looks scan.
    free, leased = sa.text("owner IS NULL"), sa.text("owner IS NOT NULL")
    op.create_index("due_steps_free", "due_steps", ["step", "due_at"], schema=schema, postgresql_where=free)
    op.create_index("due_steps_leased", "due_steps", ["lease_until"], schema=schema, postgresql_where=leased)


def _create_limits(schema: str) -> None:
    op.create_table(
        "limits",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("closed_at", _TIME),
        sa.Column("closed_until", _TIME),
        sa.Column("closed_by", sa.Text),
        sa.Column("pace", postgresql.JSON),
        sa.Column("next_reservation", _TIME),
        sa.Column("next_admission", _TIME),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("breaks", sa.Integer, nullable=False),
        sa.Column("broken_at", _TIME),
        sa.Column("broken_until", _TIME),
        sa.Column("probe_until", _TIME),
        sa.Column("retry_budget", sa.Double),
        sa.Column("retry_budget_at", _TIME),
        schema=schema,
        comment="The state of each rate limiter, by API host and quota; no row while it restricts nothing",
    )


def _create_consumers(schema: str) -> None:
    op.create_table(
        "incarnations",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("id", sa.Uuid, nullable=False),
        sa.Column("after_position", sa.BigInteger, nullable=False),
        sa.Column("began_at", _TIME, nullable=False),
        schema=schema,
        comment="One row for each time that an older backup was restored",
    )
    op.create_table(
        "consumers",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("owner", sa.Uuid),
        sa.Column("lease_until", _TIME),
        sa.Column("ahead_at", sa.BigInteger),
        sa.Column("lease_ms", sa.Integer),
        schema=schema,
    )
