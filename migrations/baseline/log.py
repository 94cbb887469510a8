"""The log: events and their partitions, idempotency keys, policies."""

from pathlib import Path
from uuid import uuid4

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from guestledger.adapters.postgres.sql import quoted

_SQL = Path(__file__).parents[1] / "sql"
_TIME = sa.DateTime(timezone=True)


def create(schema: str) -> None:
    """Create these tables."""
    _create_log(schema)
    _create_partitions(schema)


def _run_file(name: str, schema: str) -> None:
    for statement in (_SQL / name).read_text(encoding="utf-8").split("\n\n"):
        op.execute(statement.replace("{s}", quoted(schema)))


def _create_log(schema: str) -> None:
    op.create_table(
        "head",
        sa.Column("id", sa.SmallInteger, primary_key=True, autoincrement=False),
        sa.Column("ledger_id", sa.Uuid, nullable=False),
        sa.CheckConstraint("id = 1", name="head_is_one_row"),
        schema=schema,
        comment="One row, locked by every append: it makes positions dense and in commit order",
    )
    op.execute(f"INSERT INTO {quoted(schema)}.head (id, ledger_id) VALUES (1, '{uuid4()}')")
    op.create_table(
        "events",
        sa.Column("stream_id", sa.Uuid, primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("event_type", sa.Text, nullable=False),
        sa.Column("schema_version", sa.SmallInteger, nullable=False),
        sa.Column("recorded_at", _TIME, nullable=False),
        sa.Column("correlation_id", sa.Text, nullable=False),
        sa.Column("causation_id", sa.Uuid, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("data", postgresql.JSON, nullable=False),
        sa.Column("leaf_hash", sa.LargeBinary, nullable=False),
        schema=schema,
        postgresql_partition_by="RANGE (stream_id)",
    )
    op.create_table(
        "batches",
        sa.Column("position", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("recorded_at", _TIME, nullable=False),
        schema=schema,
        comment="The last position of each batch: it gives the end of the log without a look at any partition",
    )
    op.create_table(
        "request_keys",
        sa.Column("idempotency_key", sa.Text, primary_key=True),
        sa.Column("stream_id", sa.Uuid, nullable=False),
        schema=schema,
    )
    op.create_table(
        "policies",
        sa.Column("digest", sa.LargeBinary, primary_key=True),
        sa.Column("after_position", sa.BigInteger, nullable=False),
        sa.Column("recorded_at", _TIME, nullable=False),
        sa.Column("policy", postgresql.JSON, nullable=False),
        schema=schema,
        comment="The policies under which decisions were recorded, each with the end of the log before its first use",
    )
    _make_append_only(quoted(schema), "events", "batches", "request_keys", "policies")
    _run_file("0001_log_end.sql", schema)


def _make_append_only(s: str, *tables: str) -> None:
    op.execute(
        f"""
        CREATE FUNCTION {s}.refuse_change() RETURNS trigger LANGUAGE plpgsql
            SET search_path = pg_catalog, pg_temp AS $$
        BEGIN
            RAISE EXCEPTION '%.% is append-only: % is refused', TG_TABLE_SCHEMA, TG_TABLE_NAME, TG_OP
                  USING ERRCODE = 'restrict_violation';
        END $$"""
    )
    for table in tables:
        # For each statement, so that one that matches no row is refused too. ALWAYS, so that a session in the role of a
        # replica is refused too.
        op.execute(
            f"""
            CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {s}.{table}
                FOR EACH STATEMENT EXECUTE FUNCTION {s}.refuse_change()"""
        )
        op.execute(f"ALTER TABLE {s}.{table} ENABLE ALWAYS TRIGGER append_only")


def _create_partitions(schema: str) -> None:
    op.create_table(
        "detached_partitions",
        sa.Column("month", sa.Date, primary_key=True),
        sa.Column("first_id", sa.Uuid, nullable=False),
        sa.Column("end_id", sa.Uuid, nullable=False),
        sa.Column("events", sa.BigInteger, nullable=False),
        sa.Column("first_position", sa.BigInteger),
        sa.Column("last_position", sa.BigInteger),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("detached_at", _TIME, nullable=False),
        schema=schema,
    )
    s = quoted(schema)
    _run_file("0001_partitions.sql", schema)
    op.execute(f"SELECT {s}.create_partition_table(text 'events_default')")
    op.execute(f"ALTER TABLE {s}.events ATTACH PARTITION {s}.events_default DEFAULT")
    op.execute(f"SELECT {s}.ensure_partitions()")
