"""The statements of the write path, as PostgreSQL reads them: batches go in as arrays, one statement a table."""


def quoted(name: str) -> str:
    """`name` as an SQL identifier, whatever characters it holds."""
    return '"' + name.replace('"', '""') + '"'


class Statements:
    """The statements for the ledger in one schema. Parameters are positional; a batch is one array a column."""

    def __init__(self, schema: str) -> None:
        s = quoted(schema)

        self.lock_head = f"SELECT id FROM {s}.head WHERE id = 1 FOR UPDATE"
        """Held until the batch commits: batches of all processes go in one after another."""

        self.read_log = f"""
            SELECT clock_timestamp(), last.position, last.recorded_at, wanted.stream_id, (
                       SELECT version FROM {s}.events AS e
                        WHERE e.stream_id = wanted.stream_id ORDER BY version DESC LIMIT 1)
              FROM unnest($1::uuid[]) AS wanted(stream_id)
              LEFT JOIN (SELECT position, recorded_at FROM {s}.events ORDER BY position DESC LIMIT 1) AS last ON true"""

        self.read_keys = f"""
            SELECT idempotency_key, stream_id FROM {s}.request_keys WHERE idempotency_key = ANY($1::text[])"""

        self.insert_events = f"""
            INSERT INTO {s}.events (stream_id, version, position, event_type, schema_version, recorded_at,
                                    correlation_id, causation_id, actor, data, leaf_hash)
            SELECT stream_id, version, position, event_type, schema_version, recorded_at,
                   correlation_id, causation_id, actor, data::json, leaf_hash
              FROM unnest($1::uuid[], $2::int[], $3::bigint[], $4::text[], $5::smallint[], $6::timestamptz[],
                          $7::text[], $8::uuid[], $9::text[], $10::text[], $11::bytea[])
                AS new(stream_id, version, position, event_type, schema_version, recorded_at,
                       correlation_id, causation_id, actor, data, leaf_hash)
            RETURNING position"""

        self.insert_keys = f"""
            INSERT INTO {s}.request_keys (idempotency_key, stream_id)
            SELECT * FROM unnest($1::text[], $2::uuid[]) RETURNING stream_id"""

        self.upsert_due = f"""
            INSERT INTO {s}.due_work (stream_id, step, due_at, owner, lease_until)
            SELECT * FROM unnest($1::uuid[], $2::text[], $3::timestamptz[], $4::uuid[], $5::timestamptz[])
            ON CONFLICT (stream_id) DO UPDATE
               SET step = excluded.step, due_at = excluded.due_at,
                   owner = excluded.owner, lease_until = excluded.lease_until
            RETURNING stream_id"""

        self.move_due = f"""
            UPDATE {s}.due_work AS d SET step = moved.step, due_at = moved.due_at
              FROM unnest($1::uuid[], $2::text[], $3::timestamptz[]) AS moved(stream_id, step, due_at)
             WHERE d.stream_id = moved.stream_id"""

        self.delete_due = f"DELETE FROM {s}.due_work WHERE stream_id = ANY($1::uuid[])"

        self.claim = f"""
            UPDATE {s}.due_work AS d
               SET owner = $1::uuid, lease_until = now() + $2::int * interval '1 ms'
              FROM (SELECT stream_id FROM {s}.due_work
                     WHERE due_at <= now() AND step = ANY($3::text[]) AND (lease_until IS NULL OR lease_until <= now())
                     ORDER BY due_at LIMIT $4::int FOR UPDATE SKIP LOCKED) AS due
             WHERE d.stream_id = due.stream_id
            RETURNING d.stream_id, d.step, d.due_at"""

        self.heartbeat = f"""
            UPDATE {s}.due_work SET lease_until = now() + $2::int * interval '1 ms'
             WHERE owner = $1::uuid AND stream_id = ANY($3::uuid[])"""

        self.release = f"""
            UPDATE {s}.due_work
               SET owner = NULL, lease_until = NULL, due_at = greatest(due_at, now() + $3::int * interval '1 ms')
             WHERE owner = $1::uuid AND stream_id = $2::uuid"""

        self.backlog = f"SELECT count(*) FROM {s}.due_work WHERE step <> 'ExpireToken' OR due_at <= now()"
