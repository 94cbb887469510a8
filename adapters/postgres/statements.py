"""The statements of the write path, as PostgreSQL reads them: batches go in as arrays, one statement a table."""

RECORDED = (
    "position, stream_id, version, event_type, schema_version, recorded_at, "
    "correlation_id, causation_id, actor, data::text, leaf_hash"
)


def quoted(name: str) -> str:
    """`name` as an SQL identifier, whatever characters it holds."""
    return '"' + name.replace('"', '""') + '"'


class Statements:
    """The statements for the ledger in one schema. Parameters are positional; a batch is one array a column."""

    def __init__(self, schema: str) -> None:
        s = quoted(schema)

        self.begin = f"BEGIN ISOLATION LEVEL READ COMMITTED; SELECT FROM {s}.head WHERE id = 1 FOR UPDATE"
        """Opens the transaction and takes the ledger's lock, in one round trip; held until the batch commits."""

        self.read_log = f"""
            SELECT clock_timestamp(), last.position, last.recorded_at, wanted.stream_id, (
                       SELECT version FROM {s}.events AS e
                        WHERE e.stream_id = wanted.stream_id ORDER BY version DESC LIMIT 1)
              FROM unnest($1::uuid[]) AS wanted(stream_id)
              LEFT JOIN (SELECT position, recorded_at FROM {s}.events ORDER BY position DESC LIMIT 1) AS last ON true"""

        self.read_keys = f"""
            SELECT idempotency_key, stream_id FROM {s}.request_keys WHERE idempotency_key = ANY($1::text[])"""

        self.append = f"""
            WITH new_events AS (
                INSERT INTO {s}.events (stream_id, version, position, event_type, schema_version, recorded_at,
                                        correlation_id, causation_id, actor, data, leaf_hash)
                SELECT stream_id, version, position, event_type, schema_version, recorded_at,
                       correlation_id, causation_id, actor, data::json, leaf_hash
                  FROM unnest($1::uuid[], $2::int[], $3::bigint[], $4::text[], $5::smallint[], $6::timestamptz[],
                              $7::text[], $8::uuid[], $9::text[], $10::text[], $11::bytea[])
                    AS new(stream_id, version, position, event_type, schema_version, recorded_at,
                           correlation_id, causation_id, actor, data, leaf_hash)
                RETURNING position
            ), new_keys AS (
                INSERT INTO {s}.request_keys (idempotency_key, stream_id)
                SELECT * FROM unnest($12::text[], $13::uuid[])
                RETURNING stream_id
            ), due AS (
                INSERT INTO {s}.due_work (stream_id, step, due_at, owner, lease_until)
                SELECT * FROM unnest($14::uuid[], $15::text[], $16::timestamptz[], $17::uuid[], $18::timestamptz[])
                ON CONFLICT (stream_id) DO UPDATE
                   SET step = excluded.step, due_at = excluded.due_at,
                       owner = excluded.owner, lease_until = excluded.lease_until
                RETURNING stream_id
            ), moved AS (
                INSERT INTO {s}.due_work (stream_id, step, due_at)
                SELECT * FROM unnest($19::uuid[], $20::text[], $21::timestamptz[])
                ON CONFLICT (stream_id) DO UPDATE SET step = excluded.step, due_at = excluded.due_at
                RETURNING stream_id
            ), done AS (
                DELETE FROM {s}.due_work WHERE stream_id = ANY($22::uuid[])
            )
            SELECT count(*) FROM new_events"""

        self.read_streams = f"""
            SELECT {RECORDED} FROM {s}.events WHERE stream_id = ANY($1::uuid[]) ORDER BY stream_id, version"""

        self.read_all = f"SELECT {RECORDED} FROM {s}.events WHERE position > $1::bigint ORDER BY position LIMIT $2::int"

        # MATERIALIZED: as a mere subquery it may be run once for each row of the join, and each run takes further rows,
        # so that the limit does not hold.
        self.claim = f"""
            WITH due AS MATERIALIZED (
                SELECT stream_id FROM {s}.due_work
                 WHERE due_at <= now() AND step = ANY($3::text[]) AND (lease_until IS NULL OR lease_until <= now())
                 ORDER BY due_at LIMIT $4::int FOR UPDATE SKIP LOCKED
            ), claimed AS (
                UPDATE {s}.due_work AS d
                   SET owner = $1::uuid, lease_until = now() + $2::int * interval '1 ms'
                  FROM due WHERE d.stream_id = due.stream_id
                RETURNING d.stream_id, d.step, d.due_at
            )
            SELECT stream_id, step, due_at FROM claimed ORDER BY due_at"""

        # A row that is locked is being appended to, released or claimed, which settles its lease anyway. To wait for it
        # with other rows locked would be to wait in a circle with an append that wants those.
        self.heartbeat = f"""
            UPDATE {s}.due_work SET lease_until = now() + $2::int * interval '1 ms'
             WHERE stream_id IN (SELECT stream_id FROM {s}.due_work
                                  WHERE owner = $1::uuid AND stream_id = ANY($3::uuid[]) FOR UPDATE SKIP LOCKED)"""

        self.release = f"""
            UPDATE {s}.due_work
               SET owner = NULL, lease_until = NULL, due_at = greatest(due_at, now() + $3::int * interval '1 ms')
             WHERE owner = $1::uuid AND stream_id = $2::uuid"""

        self.backlog = f"SELECT count(*) FROM {s}.due_work WHERE step <> 'ExpireToken' OR due_at <= now()"

        self.end = f"SELECT coalesce((SELECT position FROM {s}.events ORDER BY position DESC LIMIT 1), -1)"

        self.checkpoints = f"SELECT projection, position FROM {s}.checkpoints ORDER BY projection FOR UPDATE"

        self.move_checkpoints = f"""
            UPDATE {s}.checkpoints SET position = $2::bigint WHERE projection = ANY($1::text[])"""
