"""The ledger: log and partitions, due steps and limits, consumers, projections.

There is no downgrade: it would drop the log, which is the proof.
"""

from pathlib import Path
from uuid import uuid4

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from guestledger.adapters.postgres.sql import quoted

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_SQL = Path(__file__).parents[1] / "sql"
_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    schema = op.get_context().version_table_schema
    assert schema is not None
    _create_log(schema)
    _create_partitions(schema)
    _create_personal(schema)
    _keep_out_of_statistics(schema)
    _create_erasures(schema)
    _create_api_keys(schema)
    _create_due_steps(schema)
    _create_limits(schema)
    _create_consumers(schema)
    _create_checkpoints(schema)
    _create_sessions(schema)
    _create_session_metrics(schema)
    _create_audit_log(schema)


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


def _create_personal(schema: str) -> None:
    op.create_table(
        "personal",
        sa.Column("stream_id", sa.Uuid, primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("purpose", sa.Text, primary_key=True),
        sa.Column("key_id", sa.Uuid, nullable=False),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
        schema=schema,
        comment="The personal values of events, encrypted. Nowhere else is any",
    )
    hashes = ("subject", "ip_address", "fingerprint")
    op.create_table(
        "personal_index",
        sa.Column("stream_id", sa.Uuid, primary_key=True),
        *(sa.Column(name, sa.LargeBinary, nullable=False) for name in hashes),
        schema=schema,
        comment="Keyed hashes, to find the sessions of a person",
    )
    for name in hashes:
        op.create_index(f"personal_index_{name}", "personal_index", [name], schema=schema)
    op.create_table(
        "data_keys",
        sa.Column("subject", sa.LargeBinary, primary_key=True),
        sa.Column("purpose", sa.Text, primary_key=True),
        sa.Column("key_id", sa.Uuid, nullable=False, unique=True),
        sa.Column("wrapped", sa.LargeBinary, nullable=False),
        sa.Column("kek", sa.Text, nullable=False),
        schema=schema,
        comment="The keys of personal data, wrapped; empty if the vault is a database of its own",
    )
    op.create_table(
        "wrapping_keys",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("wrapped", sa.LargeBinary, nullable=False),
        schema=schema,
        comment="The key-encryption keys that a key service made, wrapped by it; in the same database as the data keys",
    )
    op.create_table(
        "destroyed_keys",
        sa.Column("key_id", sa.Uuid, primary_key=True),
        sa.Column("destroyed_at", _TIME, nullable=False),
        schema=schema,
        comment="Nothing is sealed under these keys any more, also by a process that still has one",
    )
    op.create_table(
        "legal_holds",
        sa.Column("subject", sa.LargeBinary, primary_key=True),
        sa.Column("placed_at", _TIME, nullable=False),
        sa.Column("placed_by", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        schema=schema,
        comment="The subjects under a legal hold, also for sessions that begin later. The log holds every placing and release",
    )


def _keep_out_of_statistics(schema: str) -> None:
    # ANALYZE would copy values into pg_statistic, where they outlive their rows.
    columns = {
        "personal": ("sealed",),
        "personal_index": ("subject", "ip_address", "fingerprint"),
        "data_keys": ("subject", "wrapped"),
    }
    for table, names in columns.items():
        for name in names:
            op.execute(f"ALTER TABLE {quoted(schema)}.{table} ALTER COLUMN {name} SET STATISTICS 0")


def _create_erasures(schema: str) -> None:
    op.create_table(
        "erasures",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("subject", sa.LargeBinary, nullable=False),
        sa.Column("session", sa.Uuid),
        sa.Column("streams", sa.ARRAY(sa.Uuid), nullable=False),
        sa.Column("whole", sa.Boolean, nullable=False),
        sa.Column("rows", sa.BigInteger, nullable=False),
        sa.Column("key_ids", sa.ARRAY(sa.Uuid), nullable=False),
        sa.Column("requested_by", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("begun_at", _TIME, nullable=False),
        sa.Column("completed_at", _TIME),
        schema=schema,
        comment="The erasures of personal data. While one of a whole subject is open, nothing is recorded of it",
    )
    op.create_index("erasures_subject", "erasures", ["subject"], schema=schema)


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
    _complete_projection(schema, "audit_log", {"audit_log": "id"})


def _complete_projection(schema: str, name: str, keys: dict[str, str]) -> None:
    """Create the shadow of each table, and the projection's checkpoint. A shadow has no indexes for readers."""
    s = quoted(schema)
    for table, key in keys.items():
        op.execute(f"CREATE TABLE {s}.{table}_shadow (LIKE {s}.{table}, PRIMARY KEY ({key}))")
    op.execute(f"INSERT INTO {s}.checkpoints (projection, position) VALUES ('{name}', -1)")
