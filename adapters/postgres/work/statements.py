"""The SQL of due steps, for the ledger in one schema."""

from guestledger.adapters.postgres.limits.rate_limiter import COUNTED
from guestledger.adapters.postgres.sql import quoted
from guestledger.adapters.postgres.transactions import RELAXED
from guestledger.adapters.postgres.work.clock_steps import set_back
from guestledger.engine.ports.due_steps import MAX_AHEAD, MAX_COUNTED

# A due time may be so far away that its distance is no number.
_MAX_MS = 24 * 3_600_000


class DueStepStatements:
    """Parameters are positional. All times are the database's."""

    def __init__(self, schema: str) -> None:
        s = quoted(schema)
        # MATERIALIZED: a subquery could run once per joined row, and each run would lock further rows. One index scan per
        # step: rows behind another limiter are not touched.
        claim = f"""
            due AS MATERIALIZED (
                SELECT d.* FROM {{steps}} CROSS JOIN LATERAL (
                    SELECT stream_id, step, due_at FROM {s}.due_steps
                     WHERE due_steps.step = wanted.step AND due_at <= now() AND owner IS NULL
                     ORDER BY due_at LIMIT $3::int FOR UPDATE SKIP LOCKED) AS d
                 ORDER BY due_at LIMIT $3::int
            ), claimed AS (
                UPDATE {s}.due_steps AS d
                   SET owner = $1::uuid, lease_until = now() + $2::int * interval '1 ms'
                  FROM due WHERE d.stream_id = due.stream_id AND d.step = due.step
                RETURNING d.stream_id, d.step, d.due_at, now() AS claimed_at
            )"""
        self.claim = f"""
            WITH limited AS MATERIALIZED (
                SELECT step FROM unnest($4::text[], $5::text[]) AS wanted(step, limiter)
                 WHERE step = ANY($6::text[]) OR EXISTS (SELECT FROM {s}.limits WHERE name = limiter)
            ), unlimited AS (
                SELECT step FROM unnest($4::text[]) AS wanted(step) WHERE step NOT IN (SELECT step FROM limited)
            ), {claim.format(steps="unlimited AS wanted")}
            SELECT ARRAY(SELECT step FROM limited) AS limited, claimed.*, {RELAXED}
              FROM (VALUES (1)) AS one LEFT JOIN claimed ON true ORDER BY due_at"""
        """Claims the steps whose limiter knows nothing; at least one row, which names the other steps.

        This one and those that free, prolong or release leases commit by themselves, without waiting for the disk.
        """

        self.claim_limited = f"""
            WITH {claim.format(steps="(VALUES ($4::text)) AS wanted(step)")} SELECT * FROM claimed ORDER BY due_at"""

        self.lock = f"SELECT FROM {s}.head WHERE id = 1 FOR UPDATE"
        self.plan = f"""
            INSERT INTO {s}.due_steps AS d (stream_id, step, due_at)
            SELECT stream_id, $1::text, due_at FROM unnest($2::uuid[], $3::timestamptz[]) AS new(stream_id, due_at)
             WHERE EXISTS (SELECT FROM {s}.personal_index AS i WHERE i.stream_id = new.stream_id)
               AND NOT EXISTS (SELECT FROM {s}.detached_partitions
                                WHERE new.stream_id >= first_id AND new.stream_id < end_id)
            ON CONFLICT (stream_id, step) DO UPDATE SET due_at = excluded.due_at
             WHERE d.owner IS NULL AND d.due_at > excluded.due_at
            RETURNING stream_id"""

        # A locked row is being appended to, released or claimed, which sets its lease anyway. Waiting for it while other
        # rows are locked could deadlock with an append.
        lapsed = "owner IS NOT NULL AND lease_until <= now()"
        self.free_lapsed = f"""
            UPDATE {s}.due_steps SET owner = NULL, lease_until = NULL
             WHERE (stream_id, step) IN (SELECT stream_id, step FROM {s}.due_steps
                                          WHERE {lapsed} FOR UPDATE SKIP LOCKED)
            RETURNING {RELAXED}"""

        self.heartbeat = f"""
            UPDATE {s}.due_steps SET lease_until = now() + $2::int * interval '1 ms'
             WHERE (stream_id, step) IN (SELECT stream_id, step FROM {s}.due_steps
                                          WHERE owner = $1::uuid AND stream_id = ANY($3::uuid[]) FOR UPDATE SKIP LOCKED)
            RETURNING stream_id, {RELAXED}"""

        self.release = f"""
            UPDATE {s}.due_steps
               SET owner = NULL, lease_until = NULL, due_at = greatest(due_at, now() + $3::bigint * interval '1 ms'),
                   set_at = greatest(set_at, now())
             WHERE stream_id = $2::uuid AND owner = $1::uuid
            RETURNING {RELAXED}"""

        # Once at the end of a process, so it may look at all rows. Locked rows are skipped, as in a heartbeat.
        self.release_all = f"""
            WITH freed AS (
                UPDATE {s}.due_steps SET owner = NULL, lease_until = NULL
                 WHERE (stream_id, step) IN (SELECT stream_id, step FROM {s}.due_steps
                                              WHERE owner = ANY($1::uuid[]) FOR UPDATE SKIP LOCKED)
                RETURNING stream_id)
            SELECT pg_notify($2::text, ''), {RELAXED} WHERE EXISTS (SELECT FROM freed)"""

        # A receiver that is down, or asked for a pause, is called again over days: nobody waits for that.
        counted = ", ".join(f"'{step}'" for step in COUNTED)
        unfinished = f"""
              FROM {s}.due_steps
             WHERE step IN ({counted})
                OR (step = ANY($3::text[]) AND due_at <= now())
                OR (step = 'deliver_webhook' AND $2::bool AND due_at <= now() + interval '1 min'
                    AND NOT EXISTS (SELECT FROM {s}.limits WHERE name = $1::text AND closed_until > now() + interval '1 min'))"""
        self.unfinished = f"SELECT count(DISTINCT stream_id) {unfinished}"
        self.is_unfinished = f"SELECT EXISTS (SELECT {unfinished})"

        # Each part is one index look-up.
        first = f"SELECT due_at FROM {s}.due_steps WHERE due_steps.step = wanted.step AND owner IS NULL AND due_at"
        self.outlook = f"""
            WITH wanted AS (
                SELECT wanted.step, greatest(closed_until, broken_until, probe_until) AS closed_until
                  FROM unnest($2::text[], $3::text[]) AS wanted(step, limiter) LEFT JOIN {s}.limits ON name = limiter
            ), next AS (
                SELECT due_at FROM wanted CROSS JOIN LATERAL ({first} > now() ORDER BY due_at LIMIT 1) AS first
                 UNION ALL SELECT min(closed_until) FROM wanted WHERE closed_until > now()
            )
            SELECT ARRAY(
                       SELECT step FROM wanted CROSS JOIN LATERAL (
                           {first} <= now() ORDER BY due_at LIMIT 1) AS first
                        WHERE closed_until IS NULL OR closed_until <= now()),
                   (SELECT least(ceil(extract(epoch FROM min(due_at) - now()) * 1000), {_MAX_MS})::bigint
                      FROM next HAVING min(due_at) IS NOT NULL),
                   (SELECT floor(extract(epoch FROM now() - recorded_at) * 1000)::bigint FROM {s}.batches
                     WHERE position > (SELECT min(position) FROM {s}.checkpoints WHERE projection = ANY($1::text[]))
                     ORDER BY position LIMIT 1),
                   CASE WHEN $4::bool THEN EXISTS (SELECT FROM {s}.due_steps WHERE {lapsed}) ELSE false END,
                   {set_back(schema)}"""

        # Counting reads an index range and the few leased rows, everything else its first row. A lease that has lapsed is
        # freed by a worker: without one, nobody else would see that its step is due.
        leased = f"""leased AS MATERIALIZED (
                SELECT step, stream_id, due_at, lease_until <= now() AS lapsed FROM {s}.due_steps WHERE owner IS NOT NULL)"""
        self.backlog = f"""
            WITH {leased}, oldest_free AS (
                SELECT first.stream_id FROM (VALUES ('enforce_deadline'), ('settle_attempt')) AS wanted(step)
                 CROSS JOIN LATERAL (SELECT stream_id FROM {s}.due_steps
                        WHERE due_steps.step = wanted.step AND owner IS NULL ORDER BY due_at LIMIT 1) AS first)
            SELECT now(),
                   (SELECT count(*) FROM {s}.due_steps WHERE step IN ('enforce_deadline', 'settle_attempt') AND owner IS NULL)
                       + (SELECT count(*) FROM leased WHERE step IN ('enforce_deadline', 'settle_attempt')),
                   (SELECT stream_id FROM (SELECT stream_id FROM leased
                                            WHERE step = 'enforce_deadline' OR (step = 'settle_attempt' AND lapsed)
                                            UNION ALL TABLE oldest_free) AS waiting ORDER BY stream_id LIMIT 1),
                   (SELECT count(*) FROM {s}.due_steps WHERE step = 'deliver_webhook' AND owner IS NULL)
                       + (SELECT count(*) FROM leased WHERE step = 'deliver_webhook'),
                   oldest.step, oldest.due_at
              FROM (VALUES (1)) AS one LEFT JOIN (
                   SELECT first.step, first.due_at FROM unnest($1::text[]) AS wanted(step) CROSS JOIN LATERAL (
                       SELECT step, due_at FROM {s}.due_steps
                        WHERE due_steps.step = wanted.step AND due_at <= now() AND owner IS NULL ORDER BY due_at LIMIT 1) AS first
                    UNION ALL SELECT step, due_at FROM leased WHERE lapsed AND due_at <= now()
                    ORDER BY due_at LIMIT 1) AS oldest ON true"""

        # Each number reads a part of an index, of bounded length.
        free = f"FROM {s}.due_steps AS d WHERE d.step = wanted.step AND owner IS NULL AND due_at"
        self.counts = f"""
            WITH {leased}, by_step AS (
                SELECT step, count(*) FILTER (WHERE NOT lapsed) AS held, count(*) FILTER (WHERE lapsed) AS lapsed,
                       min(due_at) FILTER (WHERE lapsed) AS oldest
                  FROM leased GROUP BY step)
            SELECT wanted.step,
                   (SELECT count(*) FROM (SELECT {free} <= now() LIMIT {MAX_COUNTED}) AS due) + coalesce(lapsed, 0),
                   (SELECT count(*) FROM (SELECT {free} > now() LIMIT {MAX_COUNTED}) AS waiting),
                   coalesce(held, 0),
                   greatest(0, extract(epoch FROM now() - least(
                       (SELECT due_at {free} <= now() ORDER BY due_at LIMIT 1), oldest, now())))
              FROM unnest($1::text[]) AS wanted(step) LEFT JOIN by_step ON by_step.step = wanted.step"""

        self.status = f"""
            SELECT clock_timestamp(), coalesce((SELECT max(version) FROM {s}.events WHERE stream_id = $1::uuid), 0),
                   (SELECT count(DISTINCT stream_id) FROM {s}.due_steps
                     WHERE step = ANY($2::text[]) AND owner IS NOT NULL AND lease_until > now() AND stream_id <> $1::uuid),
                   d.step, d.due_at, d.owner, d.lease_until, d.back_ms,
                   (SELECT count(*) FROM (
                       SELECT FROM {s}.due_steps AS other
                        WHERE d.step = ANY($3::text[])
                          AND other.step = d.step AND other.due_at < d.due_at AND other.owner IS NULL
                        LIMIT {MAX_AHEAD}) AS ahead)
              FROM (VALUES (1)) AS one LEFT JOIN {s}.due_steps AS d ON d.stream_id = $1::uuid"""
        """One row for each step of session $1 (at least one): the clock, its version, the calls in flight, the step.

        $2: the steps that count as calls, $3: those that pass a limiter.
        """
