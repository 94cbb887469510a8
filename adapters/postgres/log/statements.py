"""The SQL of appends, for the ledger in one schema. A batch goes in as one array per column."""

from uuid import UUID

from guestledger.adapters.postgres.limits.rows import locked_limits, written_limits
from guestledger.adapters.postgres.personal.vault_statements import IS_INDEX
from guestledger.adapters.postgres.sql import quoted
from guestledger.adapters.postgres.transactions import TRANSACTION_LIMITS
from guestledger.engine.domain.personal import Purpose
from guestledger.engine.log.recorded import month_bounds, month_of


class AppendStatements:
    """Parameters are positional."""

    def __init__(self, schema: str) -> None:
        s = quoted(schema)
        self.begin = f"""
            BEGIN ISOLATION LEVEL READ COMMITTED;
            {TRANSACTION_LIMITS};
            SET LOCAL plan_cache_mode = force_generic_plan;
            SELECT FROM {s}.head WHERE id = 1 FOR UPDATE"""
        """Opens the transaction and takes the ledger's lock in one round trip; held until the batch commits.

        A client that vanished must not keep the lock. Planning under the lock would take longer with every partition.
        """

        self._read_log = f"""
            SELECT clock_timestamp(), ARRAY(SELECT name FROM {s}.limits), states, last.position, last.recorded_at, ARRAY(
                       SELECT coalesce((SELECT version FROM {s}.events AS e
                                         WHERE e.stream_id = wanted.stream_id {{partition}} ORDER BY version DESC LIMIT 1), 0)
                         FROM unnest($1::uuid[]) WITH ORDINALITY AS wanted(stream_id, number) ORDER BY number),
                   ARRAY(SELECT (idempotency_key, stream_id) FROM {s}.request_keys WHERE idempotency_key = ANY($2::text[])),
                   ARRAY(SELECT key_id FROM {s}.destroyed_keys WHERE key_id = ANY($3::uuid[])),
                   ARRAY(SELECT subject FROM {s}.erasures
                          WHERE subject = ANY($4::bytea[]) AND whole AND completed_at IS NULL),
                   (SELECT kek FROM {s}.data_keys WHERE {IS_INDEX})
              FROM {{locked}}
              LEFT JOIN (SELECT position, recorded_at FROM {s}.batches ORDER BY position DESC LIMIT 1) AS last ON true"""

        self.read_known = f"""
            SELECT wanted.stream_id, wanted.expected_version, wanted.causation_id, e.position, e.recorded_at
              FROM unnest($1::uuid[], $2::int[], $3::uuid[]) AS wanted(stream_id, expected_version, causation_id)
              JOIN {s}.events AS e ON e.stream_id = wanted.stream_id AND e.version = wanted.expected_version + 1
                                  AND e.causation_id = wanted.causation_id"""
        """The place of the first event of each of these appends, if it is in the log."""

        append = f"""
            WITH new_events AS (
                INSERT INTO {s}.events (stream_id, version, position, event_type, schema_version, recorded_at,
                                        correlation_id, causation_id, actor, data, leaf_hash)
                SELECT stream_id, version, $1::bigint + number, event_type, schema_version, $2::timestamptz,
                       correlation_id, causation_id, actor, data::json, leaf_hash
                  FROM unnest($3::uuid[], $4::int[], $5::text[], $6::smallint[],
                              $7::text[], $8::uuid[], $9::text[], $10::text[], $11::bytea[]) WITH ORDINALITY
                    AS new(stream_id, version, event_type, schema_version,
                           correlation_id, causation_id, actor, data, leaf_hash, number)
                RETURNING position, recorded_at
            ), new_batch AS (
                INSERT INTO {s}.batches (position, recorded_at)
                SELECT position, recorded_at FROM new_events ORDER BY position DESC LIMIT 1
                RETURNING position
            ), new_keys AS (
                INSERT INTO {s}.request_keys (idempotency_key, stream_id)
                SELECT * FROM unnest($12::text[], $13::uuid[])
                RETURNING stream_id
            ), leased AS (
                INSERT INTO {s}.due_steps (stream_id, step, due_at, owner, lease_until, back_ms, set_at)
                SELECT *, now() FROM unnest($14::uuid[], $15::text[], $16::timestamptz[], $17::uuid[], $18::timestamptz[],
                                            $35::bigint[])
                ON CONFLICT (stream_id, step) DO UPDATE
                   SET due_at = excluded.due_at, owner = excluded.owner, lease_until = excluded.lease_until,
                       back_ms = excluded.back_ms, set_at = excluded.set_at
                RETURNING stream_id
            ), moved AS (
                INSERT INTO {s}.due_steps (stream_id, step, due_at, back_ms, set_at)
                SELECT *, now() FROM unnest($19::uuid[], $20::text[], $21::timestamptz[], $36::bigint[])
                ON CONFLICT (stream_id, step) DO UPDATE
                   SET due_at = excluded.due_at, back_ms = excluded.back_ms, set_at = excluded.set_at
                RETURNING stream_id
            ), done AS (
                DELETE FROM {s}.due_steps
                 WHERE stream_id = ANY($22::uuid[]) AND (stream_id, step) IN (SELECT * FROM unnest($22::uuid[], $23::text[]))
            ), sealed AS (
                INSERT INTO {s}.personal (stream_id, version, purpose, key_id, sealed)
                SELECT * FROM unnest($24::uuid[], $25::int[], $26::text[], $27::uuid[], $28::bytea[])
                RETURNING stream_id
            ), indexed AS (
                INSERT INTO {s}.personal_index (stream_id, subject, ip_address, fingerprint)
                SELECT * FROM unnest($29::uuid[], $30::bytea[], $31::bytea[], $32::bytea[])
                RETURNING stream_id
            ), erased AS (
                DELETE FROM {s}.personal
                 WHERE stream_id = ANY($33::uuid[]) AND (stream_id, purpose) IN (SELECT * FROM unnest($33::uuid[], $34::text[]))
                RETURNING stream_id, key_id
            ), fenced AS (
                INSERT INTO {s}.destroyed_keys (key_id, destroyed_at)
                SELECT DISTINCT key_id, $2::timestamptz FROM erased JOIN {s}.personal_index AS i USING (stream_id)
                 WHERE stream_id = ANY($33::uuid[]) AND i.subject = uuid_send(stream_id)
                ON CONFLICT (key_id) DO NOTHING
                RETURNING key_id
            ), shredded AS (
                DELETE FROM {s}.data_keys WHERE key_id = ANY(ARRAY(SELECT key_id FROM fenced))
            ), unindexed AS (
                DELETE FROM {s}.personal_index
                 WHERE stream_id = ANY(ARRAY(SELECT stream_id FROM unnest($33::uuid[], $34::text[]) AS e(stream_id, purpose)
                                              WHERE purpose = '{Purpose.CONTACT}'))
            ), new_data_keys AS (
                INSERT INTO {s}.data_keys (key_id, subject, purpose, wrapped, kek)
                SELECT * FROM unnest($37::uuid[], $38::bytea[], $39::text[], $40::bytea[], $41::text[])
                RETURNING key_id
            ){{limits}}
            SELECT count(*) FROM new_events"""
        # A plan may be kept while tables grow: all look-ups are by arrays, which use indexes.
        self.append = append.format(limits="")
        """With the data that it erases go the keys of a session that is its own subject. Other keys are shared."""
        self.append_limited = append.format(limits=f", {written_limits(schema, '$42', '$43')}")
        """As `append`; also writes limiters. A database user that only reveals and erases may not."""
        self._locked = locked_limits(schema, "$5")

    def read_log(self, low: UUID, high: UUID, *, limited: bool) -> str:
        """One row: the clock, the limiters that know something, the states of those of $5 (if `limited`) under their locks,
        the log's last position and time, the versions of streams $1, the taken ones of keys $2 with their streams, the
        destroyed ones of data keys $3, those of subjects $4 that are being erased, and the key-encryption key of new data
        keys.

        All streams lie from `low` to `high`: otherwise an append would cost more with every partition.
        """
        first, end = month_bounds(month_of(low))
        bounds = f"AND e.stream_id >= '{first}' AND e.stream_id < '{end}'" if first <= low and high < end else ""
        locked = self._locked if limited else "(VALUES (NULL::text)) AS none(states)"
        return self._read_log.format(partition=bounds, locked=locked)
