"""The tables of one ledger, without a schema: the engine's `schema_translate_map` adds the ledger's own.

The tables of projections are in `projections/registry.py`. Every table has a primary key and no volatile default, sequence or
identity column: order comes from the lock on `head` alone, and times and ids are parameters.
"""

from sqlalchemy import (
    ARRAY,
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
    false,
    text,
)
from sqlalchemy.dialects.postgresql import JSON

metadata = MetaData()
TIME = DateTime(timezone=True)

head = Table(
    "head",
    metadata,
    Column("id", SmallInteger, primary_key=True, autoincrement=False),
    # Personal data is bound to it: a box copied to another ledger does not open.
    Column("ledger_id", Uuid, nullable=False),
    CheckConstraint("id = 1", name="head_is_one_row"),
    comment="One row, locked by every append: it makes positions dense and in commit order",
)

events = Table(
    "events",
    metadata,
    Column("stream_id", Uuid, primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("position", BigInteger, nullable=False),
    Column("event_type", Text, nullable=False),
    Column("schema_version", SmallInteger, nullable=False),
    Column("recorded_at", TIME, nullable=False),
    Column("correlation_id", Text, nullable=False),
    Column("causation_id", Uuid, nullable=False),
    Column("actor", Text, nullable=False),
    # json, not jsonb: the exact text is what was hashed.
    Column("data", JSON, nullable=False),
    Column("leaf_hash", LargeBinary, nullable=False),
    postgresql_partition_by="RANGE (stream_id)",
)
"""Partitioned by the month in which a stream began (in its id, a UUIDv7). SQL functions of the ledger create the
partitions; each has a unique index on the position."""

batches = Table(
    "batches",
    metadata,
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("recorded_at", TIME, nullable=False),
    comment="The last position of each batch: it gives the end of the log without a look at any partition",
)

policies = Table(
    "policies",
    metadata,
    Column("digest", LargeBinary, primary_key=True),
    Column("after_position", BigInteger, nullable=False),
    Column("recorded_at", TIME, nullable=False),
    Column("policy", JSON, nullable=False),
    comment="The policies under which decisions were recorded, each with the end of the log before its first use",
)

detached_partitions = Table(
    "detached_partitions",
    metadata,
    Column("month", Date, primary_key=True),
    Column("first_id", Uuid, nullable=False),
    Column("end_id", Uuid, nullable=False),
    Column("events", BigInteger, nullable=False),
    Column("first_position", BigInteger),
    Column("last_position", BigInteger),
    # SHA-256 over positions and leaf hashes in order, the hashes computed from the events themselves.
    Column("digest", LargeBinary, nullable=False),
    Column("detached_at", TIME, nullable=False),
)

request_keys = Table(
    "request_keys",
    metadata,
    Column("idempotency_key", Text, primary_key=True),
    Column("stream_id", Uuid, nullable=False),
)

personal = Table(
    "personal",
    metadata,
    Column("stream_id", Uuid, primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("purpose", Text, primary_key=True),
    Column("key_id", Uuid, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    comment="The personal values of events, encrypted. Nowhere else is any",
)

personal_index = Table(
    "personal_index",
    metadata,
    Column("stream_id", Uuid, primary_key=True),
    Column("subject", LargeBinary, nullable=False),
    Column("ip_address", LargeBinary, nullable=False),
    Column("fingerprint", LargeBinary, nullable=False),
    Index("personal_index_subject", "subject"),
    Index("personal_index_ip_address", "ip_address"),
    Index("personal_index_fingerprint", "fingerprint"),
    comment="Keyed hashes, to find the sessions of a person",
)

data_keys = Table(
    "data_keys",
    metadata,
    Column("subject", LargeBinary, primary_key=True),
    Column("purpose", Text, primary_key=True),
    Column("key_id", Uuid, nullable=False, unique=True),
    Column("wrapped", LargeBinary, nullable=False),
    Column("kek", Text, nullable=False),
    comment="The keys of personal data, wrapped; empty if the vault is a database of its own",
)

wrapping_keys = Table(
    "wrapping_keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("source", Text, nullable=False),
    Column("wrapped", LargeBinary, nullable=False),
    comment="The key-encryption keys that a key service made, wrapped by it; in the same database as the data keys",
)

destroyed_keys = Table(
    "destroyed_keys",
    metadata,
    Column("key_id", Uuid, primary_key=True),
    Column("destroyed_at", TIME, nullable=False),
    # Whether the vault is known to hold it no more. A vault of its own gives it up after the append that destroyed it.
    Column("gone", Boolean, nullable=False, server_default=false()),
    Index("destroyed_keys_left", "key_id", postgresql_where=text("NOT gone")),
    comment="Nothing is sealed under these keys any more, also by a process that still has one",
)

erasures = Table(
    "erasures",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("subject", LargeBinary, nullable=False),
    # Set if only this session of the subject is erased.
    Column("session", Uuid),
    Column("streams", ARRAY(Uuid), nullable=False),
    Column("whole", Boolean, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("key_ids", ARRAY(Uuid), nullable=False),
    Column("requested_by", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("begun_at", TIME, nullable=False),
    Column("completed_at", TIME),
    Index("erasures_subject", "subject"),
    comment="The erasures of personal data. While one of a whole subject is open, nothing is recorded of it",
)

legal_holds = Table(
    "legal_holds",
    metadata,
    Column("subject", LargeBinary, primary_key=True),
    Column("placed_at", TIME, nullable=False),
    Column("placed_by", Text, nullable=False),
    Column("reason", Text, nullable=False),
    comment="The subjects under a legal hold, also for sessions that begin later",
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("name", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("created_at", TIME, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("revoked_at", TIME),
    comment="The access keys of the HTTP API, by the SHA-256 of their secrets",
)

due_steps = Table(
    "due_steps",
    metadata,
    Column("stream_id", Uuid, primary_key=True),
    Column("step", Text, primary_key=True),
    Column("due_at", TIME, nullable=False),
    Column("owner", Uuid),
    Column("lease_until", TIME),
    Column("set_at", TIME, comment="When due_at was set. A time that has not come yet: the clock was set back since"),
    Column("back_ms", BigInteger, comment="How far due_at was moved back because the clock was set back"),
    Index("due_steps_free", "step", "due_at", postgresql_where=text("owner IS NULL")),
    Index("due_steps_leased", "lease_until", postgresql_where=text("owner IS NOT NULL")),
)

limits = Table(
    "limits",
    metadata,
    Column("name", Text, primary_key=True),
    Column("closed_at", TIME),
    Column("closed_until", TIME),
    Column("closed_by", Text),
    Column("pace", JSON),
    Column("next_reservation", TIME),
    Column("next_admission", TIME),
    Column("failures", Integer, nullable=False),
    Column("breaks", Integer, nullable=False),
    Column("broken_at", TIME),
    Column("broken_until", TIME),
    Column("probe_until", TIME),
    Column("retry_budget", Double),
    Column("retry_budget_at", TIME),
    comment="The state of each rate limiter, by API host and quota; no row while it restricts nothing",
)

incarnations = Table(
    "incarnations",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("id", Uuid, nullable=False),
    Column("after_position", BigInteger, nullable=False),
    Column("began_at", TIME, nullable=False),
    comment="One row for each time that an older backup was restored",
)

consumers = Table(
    "consumers",
    metadata,
    Column("name", Text, primary_key=True),
    Column("position", BigInteger, nullable=False),
    Column("owner", Uuid),
    Column("lease_until", TIME),
    Column("ahead_at", BigInteger),
    Column("lease_ms", Integer),
)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("projection", Text, primary_key=True),
    Column("position", BigInteger, nullable=False),
    Column("stopped_at", TIME),
    Column("error", Text),
)
