"""Personal data: values, index, keys, erasures, legal holds."""

import sqlalchemy as sa
from alembic import op

from guestledger.adapters.postgres.sql import quoted

_TIME = sa.DateTime(timezone=True)


def create(schema: str) -> None:
    """Create these tables."""
    _create_personal(schema)
    _keep_out_of_statistics(schema)
    _create_erasures(schema)


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
        sa.Column("gone", sa.Boolean, nullable=False, server_default=sa.false()),
        schema=schema,
        comment="Nothing is sealed under these keys any more, also by a process that still has one",
    )
    op.create_index("destroyed_keys_left", "destroyed_keys", ["key_id"], schema=schema, postgresql_where="NOT gone")
    op.create_table(
        "legal_holds",
        sa.Column("subject", sa.LargeBinary, primary_key=True),
        sa.Column("placed_at", _TIME, nullable=False),
        sa.Column("placed_by", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        schema=schema,
        comment="The subjects under a legal hold, also for sessions that begin later",
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
