"""The statements of the write path, as PostgreSQL reads them: batches go in as arrays, one statement a table."""

from uuid import UUID

from guestledger.adapters.postgres.transactions import TRANSACTION_LIMITS
from guestledger.engine.log.recorded import month_bounds, month_of

MAX_MS = 24 * 3_600_000
"""What lies further ahead is not waited for in one piece; a due time may be so far off that its distance is no number."""

# Whoever has a session leased when its token's time comes records that at once. Where it has not been after so long, and the
# lease is older than so much, its owner is taken to be gone: to wait for the lease's end would make the expiry late by that.
_EXPIRY_LATE = "interval '500 ms'"
_LEASE_OLD = "interval '1 s'"


def quoted(name: str) -> str:
    """`name` as an SQL identifier, whatever characters it holds."""
    return '"' + name.replace('"', '""') + '"'


class Statements:
    """The statements for the ledger in one schema. Parameters are positional; a batch is one array a column."""

    def __init__(self, schema: str) -> None:
        s = quoted(schema)

        self.begin = f"""
            BEGIN ISOLATION LEVEL READ COMMITTED;
            {TRANSACTION_LIMITS};
            SET LOCAL plan_cache_mode = force_generic_plan;
            SELECT FROM {s}.head WHERE id = 1 FOR UPDATE"""
        """Opens the transaction and takes the ledger's lock, in one round trip; held until the batch commits.

        A client that has vanished without a word, or stands still, must not keep the lock from all others. And to plan anew
        under the lock, over every month there is, would take longer the more there are.
        """

        self._read_log = f"""
            SELECT clock_timestamp(), EXISTS (SELECT FROM {s}.limits), last.position, last.recorded_at, ARRAY(
                       SELECT coalesce((SELECT version FROM {s}.events AS e
                                         WHERE e.stream_id = wanted.stream_id {{month}} ORDER BY version DESC LIMIT 1), 0)
                         FROM unnest($1::uuid[]) WITH ORDINALITY AS wanted(stream_id, number) ORDER BY number)
              FROM (VALUES (1)) AS one
              LEFT JOIN (SELECT position, recorded_at FROM {s}.batches ORDER BY position DESC LIMIT 1) AS last ON true"""

        self.read_keys = f"""
            SELECT idempotency_key, stream_id FROM {s}.request_keys WHERE idempotency_key = ANY($1::text[])"""

        self.read_known = f"""
            SELECT wanted.stream_id, wanted.expected_version, wanted.causation_id, e.position, e.recorded_at
              FROM unnest($1::uuid[], $2::int[], $3::uuid[]) AS wanted(stream_id, expected_version, causation_id)
              JOIN {s}.events AS e ON e.stream_id = wanted.stream_id AND e.version = wanted.expected_version + 1
                                  AND e.causation_id = wanted.causation_id"""
        """Where the first event of each of these appends lies, if it is in the log."""

        self.append = f"""
            WITH new_events AS (
                INSERT INTO {s}.events (stream_id, version, position, event_type, schema_version, recorded_at,
                                        correlation_id, causation_id, actor, data, leaf_hash)
                SELECT stream_id, version, position, event_type, schema_version, $6::timestamptz,
                       correlation_id, causation_id, actor, data::json, leaf_hash
                  FROM unnest($1::uuid[], $2::int[], $3::bigint[], $4::text[], $5::smallint[],
                              $7::text[], $8::uuid[], $9::text[], $10::text[], $11::bytea[])
                    AS new(stream_id, version, position, event_type, schema_version,
                           correlation_id, causation_id, actor, data, leaf_hash)
                RETURNING position, recorded_at
            ), new_batch AS (
                INSERT INTO {s}.batches (position, recorded_at)
                SELECT position, recorded_at FROM new_events ORDER BY position DESC LIMIT 1
                RETURNING position
            ), new_keys AS (
                INSERT INTO {s}.request_keys (idempotency_key, stream_id)
                SELECT * FROM unnest($12::text[], $13::uuid[])
                RETURNING stream_id
            ), due AS (
                INSERT INTO {s}.due_work (stream_id, step, due_at, ends_at, owner, lease_until)
                SELECT * FROM unnest($14::uuid[], $15::text[], $16::timestamptz[], $17::timestamptz[], $18::uuid[],
                                     $19::timestamptz[])
                ON CONFLICT (stream_id) DO UPDATE
                   SET step = excluded.step, due_at = excluded.due_at, ends_at = excluded.ends_at,
                       owner = excluded.owner, lease_until = excluded.lease_until
                RETURNING stream_id
            ), moved AS (
                INSERT INTO {s}.due_work (stream_id, step, due_at, ends_at)
                SELECT * FROM unnest($20::uuid[], $21::text[], $22::timestamptz[], $23::timestamptz[])
                ON CONFLICT (stream_id) DO UPDATE
                   SET step = excluded.step, due_at = excluded.due_at, ends_at = excluded.ends_at
                RETURNING stream_id
            ), done AS (
                DELETE FROM {s}.due_work WHERE stream_id = ANY($24::uuid[])
            )
            SELECT count(*) FROM new_events"""

        # MATERIALIZED: as a mere subquery it may be run once for each row of the join, and each run takes further rows,
        # so that the limit does not hold. Step by step, each from the index's part for it: whatever is due for another,
        # behind its limiter, is not looked at.
        free = "(lease_until IS NULL OR lease_until <= now())"
        claim = f"""
            due AS MATERIALIZED (
                SELECT d.* FROM {{steps}} CROSS JOIN LATERAL (
                    SELECT stream_id, {{time}} FROM {s}.due_work
                     WHERE due_work.step = wanted.step AND {{time}} <= now() AND {{free}}
                     ORDER BY {{time}} LIMIT $3::int FOR UPDATE SKIP LOCKED) AS d
                 ORDER BY {{time}} LIMIT $3::int
            ), claimed AS (
                UPDATE {s}.due_work AS d
                   SET owner = $1::uuid, lease_until = now() + $2::int * interval '1 ms'
                  FROM due WHERE d.stream_id = due.stream_id
                RETURNING d.stream_id, d.step, d.due_at, now() AS claimed_at
            )"""
        one = "(VALUES ($4::text)) AS wanted(step)"

        self.claim = f"""
            WITH limited_ AS MATERIALIZED (
                SELECT step FROM unnest($4::text[], $5::text[]) AS wanted(step, limiter)
                 WHERE step = ANY($6::text[]) OR EXISTS (SELECT FROM {s}.limits WHERE name = limiter)
            ), free AS (
                SELECT step FROM unnest($4::text[]) AS wanted(step) WHERE step NOT IN (SELECT step FROM limited_)
            ), {claim.format(steps="free AS wanted", time="due_at", free=free)}
            SELECT ARRAY(SELECT step FROM limited_) AS limited_, claimed.*
              FROM (VALUES (1)) AS one LEFT JOIN claimed ON true ORDER BY due_at"""
        """What is due and has no limiter that is to be asked first; at least one row, which names the steps that have one."""

        self.claim_gated = f"""
            WITH {claim.format(steps=one, time="due_at", free=free)} SELECT * FROM claimed ORDER BY due_at"""

        self.claim_ended = f"""
            WITH {claim.format(steps=one, time="ends_at", free=free)} SELECT * FROM claimed ORDER BY due_at"""

        # Of a lease that was just taken, the end is `$2` ahead. Not all that is late, whoever has it: when much is, workers would
        # take it from each other without end.
        left = f"ends_at <= now() - {_EXPIRY_LATE} AND lease_until <= now() + $2::int * interval '1 ms' - {_LEASE_OLD}"
        both = "(VALUES ('ExpireToken'), ('SyncWebhook')) AS wanted(step)"
        self.claim_expired = f"""
            WITH {claim.format(steps=both, time="ends_at", free=f"({free} OR ({left}))")}
            SELECT * FROM claimed ORDER BY due_at"""
        """The tokens whose time has come, also under the lease of one who should have recorded that."""

        # A row that is locked is being appended to, released or claimed, which settles its lease anyway. To wait for it
        # with other rows locked would be to wait in a circle with an append that wants those.
        self.heartbeat = f"""
            UPDATE {s}.due_work SET lease_until = now() + $2::int * interval '1 ms'
             WHERE stream_id IN (SELECT stream_id FROM {s}.due_work
                                  WHERE owner = $1::uuid AND stream_id = ANY($3::uuid[]) FOR UPDATE SKIP LOCKED)
            RETURNING stream_id"""

        # What has ended rests for as long too: by its end it is claimed whenever it is due.
        self.release = f"""
            UPDATE {s}.due_work
               SET owner = NULL, lease_until = NULL, due_at = greatest(due_at, now() + $3::bigint * interval '1 ms'),
                   ends_at = CASE WHEN ends_at <= now() THEN now() + $3::bigint * interval '1 ms' ELSE ends_at END,
                   step = coalesce($4::text, step)
             WHERE owner = $1::uuid AND stream_id = $2::uuid"""

        # Once at the end of a process: what a hint costs is no matter here, nor that all rows are looked at. A row that
        # is locked is left as it is, for the same reason as by a heartbeat: its lease is settled otherwise, or lapses.
        self.release_all = f"""
            WITH freed AS (
                UPDATE {s}.due_work SET owner = NULL, lease_until = NULL
                 WHERE stream_id IN (SELECT stream_id FROM {s}.due_work
                                      WHERE owner = ANY($1::uuid[]) FOR UPDATE SKIP LOCKED)
                RETURNING stream_id)
            SELECT pg_notify($2::text, '') WHERE EXISTS (SELECT FROM freed)"""

        # A receiver that is down, or wants to be left in peace, is called again over days: nobody who waits for the work to
        # end waits for that.
        unfinished = f"""
              FROM {s}.due_work
             WHERE step NOT IN ('ExpireToken', 'SyncWebhook') OR (step = 'ExpireToken' AND due_at <= now())
                OR (step = 'SyncWebhook' AND ends_at <= now())
                OR (step = 'SyncWebhook' AND $2::bool AND due_at <= now() + interval '1 min'
                    AND NOT EXISTS (SELECT FROM {s}.limits WHERE name = $1::text AND closed_until > now() + interval '1 min'))"""
        self.backlog = f"SELECT count(*) {unfinished}"
        self.is_unfinished = f"SELECT EXISTS (SELECT {unfinished})"

        # Each part is one look into an index. Leases that lapse later are left to the next poll: to find the first of them
        # would take reading all that is due.
        first = f"SELECT {{time}} FROM {s}.due_work WHERE due_work.step = wanted.step AND {{time}}"
        expires = "wanted.step IN ('ExpireToken', 'SyncWebhook')"
        self.outlook = f"""
            WITH wanted AS (
                SELECT wanted.step, greatest(closed_until, broken_until, probe_until) AS shut_until
                  FROM unnest($2::text[], $3::text[]) AS wanted(step, limiter) LEFT JOIN {s}.limits ON name = limiter
            ), ending AS (
                SELECT step FROM wanted UNION SELECT 'SyncWebhook'
            ), next AS (
                SELECT due_at FROM wanted CROSS JOIN LATERAL (
                    {first.format(time="due_at")} > now() ORDER BY due_at LIMIT 1) AS first
                 UNION ALL
                SELECT ends_at FROM ending AS wanted CROSS JOIN LATERAL (
                    {first.format(time="ends_at")} > now() ORDER BY ends_at LIMIT 1) AS first
                 UNION ALL
                SELECT ends_at + {_EXPIRY_LATE} FROM ending AS wanted CROSS JOIN LATERAL (
                    {first.format(time="ends_at")} > now() - {_EXPIRY_LATE} AND ends_at <= now() AND {expires}
                     ORDER BY ends_at LIMIT 1) AS first
                 UNION ALL SELECT min(shut_until) FROM wanted WHERE shut_until > now()
            )
            SELECT ARRAY(
                       SELECT step FROM wanted CROSS JOIN LATERAL (
                           {first.format(time="due_at")} <= now() AND {free} ORDER BY due_at LIMIT 1) AS first
                        WHERE shut_until IS NULL OR shut_until <= now()
                        UNION
                       SELECT CASE step WHEN 'SyncWebhook' THEN 'ExpireToken' ELSE step END
                         FROM ending AS wanted CROSS JOIN LATERAL (
                           {first.format(time="ends_at")} <= now()
                              AND ({free} OR ({expires} AND ends_at <= now() - {_EXPIRY_LATE}))
                            ORDER BY ends_at LIMIT 1) AS first),
                   (SELECT least(ceil(extract(epoch FROM min(due_at) - now()) * 1000), {MAX_MS})::bigint
                      FROM next HAVING min(due_at) IS NOT NULL),
                   EXISTS (SELECT FROM {s}.checkpoints
                            WHERE projection = ANY($1::text[])
                              AND position < (SELECT position FROM {s}.batches ORDER BY position DESC LIMIT 1))"""

        self.standing = f"""
            SELECT clock_timestamp(), coalesce((SELECT max(version) FROM {s}.events WHERE stream_id = $1::uuid), 0),
                   (SELECT count(*) FROM {s}.due_work
                     WHERE step = ANY($2::text[]) AND lease_until > now() AND stream_id <> $1::uuid),
                   d.step, d.due_at, d.owner, d.lease_until, d.ends_at,
                   (SELECT count(*) FROM {s}.due_work AS other
                     WHERE other.step = d.step AND other.due_at < d.due_at
                       AND (other.lease_until IS NULL OR other.lease_until <= now()))
              FROM (VALUES (1)) AS one LEFT JOIN {s}.due_work AS d ON d.stream_id = $1::uuid"""
        """One row about session $1: the clock, its version, the calls in flight for the steps $2, and its work, if there is any."""

    def read_log(self, low: UUID, high: UUID) -> str:
        """One row: the clock, whether there is any limiter, the log's last position and time, and the versions of the streams $1 in their order.

        All of them lie from `low` to `high`. Where that is one month, no other is looked at, not even to be left out: an
        append would otherwise get dearer with every month there is.
        """
        first, end = month_bounds(month_of(low))
        bounds = f"AND e.stream_id >= '{first}' AND e.stream_id < '{end}'" if first <= low and high < end else ""
        return self._read_log.format(month=bounds)
