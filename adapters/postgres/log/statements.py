"""The SQL of appends, for the ledger in one schema."""

from uuid import UUID

from guestledger.adapters.postgres.json_rows import rows_in
from guestledger.adapters.postgres.limits.rows import locked_limits, written_limits
from guestledger.adapters.postgres.log.rows import EventRow, Leased, Moved, RequestKeyRow
from guestledger.adapters.postgres.personal.sealed_append import IndexRow, SealedRow
from guestledger.adapters.postgres.personal.vault import KeyRow
from guestledger.adapters.postgres.personal.vault_statements import IS_INDEX
from guestledger.adapters.postgres.sql import quoted
from guestledger.adapters.postgres.tables import data_keys, due_steps, events, personal, personal_index, request_keys
from guestledger.adapters.postgres.transactions import TRANSACTION_LIMITS
from guestledger.engine.domain.personal import Purpose
from guestledger.engine.log.recorded import month_bounds, month_of

_EVENT = EventRow.__struct_fields__
_KEY = RequestKeyRow.__struct_fields__
_MOVED = Moved.__struct_fields__
_LEASED = Leased.__struct_fields__
_SEALED = SealedRow.__struct_fields__
_INDEX = IndexRow.__struct_fields__
_DATA_KEY = KeyRow.__struct_fields__


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
                INSERT INTO {s}.events ({", ".join(_EVENT)}, recorded_at)
                SELECT *, $1::timestamptz FROM ({rows_in("$2", events, _EVENT)}) AS new
                RETURNING position, recorded_at
            ), new_batch AS (
                INSERT INTO {s}.batches (position, recorded_at)
                SELECT position, recorded_at FROM new_events ORDER BY position DESC LIMIT 1
                RETURNING position
            ), new_keys AS (
                INSERT INTO {s}.request_keys ({", ".join(_KEY)}) {rows_in("$3", request_keys, _KEY)}
                RETURNING stream_id
            ), leased AS (
                INSERT INTO {s}.due_steps ({", ".join(_LEASED)}, set_at)
                SELECT *, now() FROM ({rows_in("$4", due_steps, _LEASED)}) AS new
                ON CONFLICT (stream_id, step) DO UPDATE
                   SET due_at = excluded.due_at, owner = excluded.owner, lease_until = excluded.lease_until,
                       back_ms = excluded.back_ms, set_at = excluded.set_at
                RETURNING stream_id
            ), moved AS (
                INSERT INTO {s}.due_steps ({", ".join(_MOVED)}, set_at)
                SELECT *, now() FROM ({rows_in("$5", due_steps, _MOVED)}) AS new
                ON CONFLICT (stream_id, step) DO UPDATE
                   SET due_at = excluded.due_at, back_ms = excluded.back_ms, set_at = excluded.set_at
                RETURNING stream_id
            ), done AS (
                DELETE FROM {s}.due_steps
                 WHERE stream_id = ANY($6::uuid[]) AND (stream_id, step) IN (SELECT * FROM unnest($6::uuid[], $7::text[]))
            ), sealed AS (
                INSERT INTO {s}.personal ({", ".join(_SEALED)}) {rows_in("$8", personal, _SEALED)}
                RETURNING stream_id
            ), indexed AS (
                INSERT INTO {s}.personal_index ({", ".join(_INDEX)}) {rows_in("$9", personal_index, _INDEX)}
                RETURNING stream_id
            ), erased AS (
                DELETE FROM {s}.personal
                 WHERE stream_id = ANY($10::uuid[]) AND (stream_id, purpose) IN (SELECT * FROM unnest($10::uuid[], $11::text[]))
                RETURNING stream_id, key_id
            ), fenced AS (
                INSERT INTO {s}.destroyed_keys (key_id, destroyed_at, gone)
                SELECT DISTINCT key_id, $1::timestamptz,
                       EXISTS (SELECT FROM {s}.data_keys AS k WHERE k.key_id = erased.key_id)
                  FROM erased JOIN {s}.personal_index AS i USING (stream_id)
                 WHERE stream_id = ANY($10::uuid[]) AND i.subject = uuid_send(stream_id)
                ON CONFLICT (key_id) DO NOTHING
                RETURNING key_id
            ), shredded AS (
                DELETE FROM {s}.data_keys WHERE key_id = ANY(ARRAY(SELECT key_id FROM fenced))
            ), unindexed AS (
                DELETE FROM {s}.personal_index
                 WHERE stream_id = ANY(ARRAY(SELECT stream_id FROM unnest($10::uuid[], $11::text[]) AS e(stream_id, purpose)
                                              WHERE purpose = '{Purpose.CONTACT}'))
            ), new_data_keys AS (
                INSERT INTO {s}.data_keys ({", ".join(_DATA_KEY)}) {rows_in("$12", data_keys, _DATA_KEY)}
                RETURNING key_id
            ){{limits}}
            SELECT count(*) FROM new_events"""
        # A plan may be kept while tables grow: all look-ups are by arrays, which use indexes.
        self.append = append.format(limits="")
        """With the data that it erases go the keys of a session that is its own subject. Other keys are shared.

        From a vault of its own they go afterwards: see `ErasureStore.destroy_left_keys`.
        """
        self.append_limited = append.format(limits=f", {written_limits(schema, '$13', '$14')}")
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
