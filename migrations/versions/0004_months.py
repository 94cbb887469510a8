"""The log by months: a partition for each month in which its streams began, made ahead, and detached when it is old.

Where each batch ended is kept apart, so that an append does not get dearer with every month there is. The metrics are kept by month too, so that every row of a projection belongs to one month of the log. They are
projections: what they hold is made anew from the log, by the next catch-up.
"""

import sqlalchemy as sa
from alembic import op

from guestledger.adapters.postgres.statements import quoted

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_AHEAD = 3


def upgrade() -> None:
    s = quoted(op.get_context().version_table_schema)
    _create_detached_months()
    _create_functions(s)
    _partition_log(s)
    _create_batches(s)
    _count_by_month(s)


def _create_functions(s: str) -> None:
    # A UUIDv7 (RFC 9562, section 5.7) begins with its milliseconds since 1970 in 48 bits.
    op.execute(
        f"""
        CREATE FUNCTION {s}.first_id(month date) RETURNS uuid IMMUTABLE LANGUAGE sql
            SET search_path = pg_catalog, pg_temp AS $$
            SELECT rpad(lpad(to_hex((extract(epoch FROM month::timestamp) * 1000)::bigint), 12, '0'), 32, '0')::uuid
        $$"""
    )
    # Each partition has guards and a unique position of its own: a trigger for each statement on the table above does not
    # see what is done to a partition by its own name, and an index over all of them cannot be unique by position alone.
    op.execute(
        f"""
        CREATE FUNCTION {s}.guard(partition text) RETURNS void LANGUAGE plpgsql
            SET search_path = pg_catalog, pg_temp AS $$
        BEGIN
            EXECUTE format('CREATE UNIQUE INDEX IF NOT EXISTS %I ON {s}.%I (position)', partition || '_position', partition);
            EXECUTE format('CREATE OR REPLACE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {s}.%I
                                FOR EACH STATEMENT EXECUTE FUNCTION {s}.refuse_change()', partition);
            EXECUTE format('ALTER TABLE {s}.%I ENABLE ALWAYS TRIGGER append_only', partition);
            EXECUTE format('ALTER TABLE {s}.%I OWNER TO %I', partition, (
                SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = '{s}.events'::regclass));
        END $$"""
    )
    op.execute(
        f"""
        CREATE FUNCTION {s}.make_partition(name text) RETURNS void LANGUAGE plpgsql
            SET search_path = pg_catalog, pg_temp AS $$
        BEGIN
            EXECUTE format('CREATE TABLE {s}.%I (LIKE {s}.events INCLUDING ALL)', name);
            PERFORM {s}.guard(name);
        END $$"""
    )
    op.execute(
        f"""
        CREATE FUNCTION {s}.attach_month(month date) RETURNS void LANGUAGE plpgsql
            SET search_path = pg_catalog, pg_temp AS $$
        BEGIN
            EXECUTE format('ALTER TABLE {s}.events ATTACH PARTITION {s}.%I FOR VALUES FROM (%L) TO (%L)',
                           'events_' || to_char(month, 'YYYY_MM'),
                           {s}.first_id(month), {s}.first_id((month + interval '1 month')::date));
        END $$"""
    )
    op.execute(
        f"""
        CREATE FUNCTION {s}.make_month(month date) RETURNS void LANGUAGE plpgsql
            SET search_path = pg_catalog, pg_temp AS $$
        BEGIN
            PERFORM {s}.make_partition('events_' || to_char(month, 'YYYY_MM'));
            PERFORM {s}.attach_month(month);
        END $$"""
    )
    # The months of the streams in a table that there are none of yet. One that is detached has to be attached.
    op.execute(
        f"""
        CREATE FUNCTION {s}.make_months_of(name text) RETURNS void LANGUAGE plpgsql
            SET search_path = pg_catalog, pg_temp AS $$
        DECLARE
            found date;
        BEGIN
            FOR found IN EXECUTE format(
                $sql$ SELECT DISTINCT date_trunc('month', to_timestamp(
                             ('x' || left(replace(stream_id::text, '-', ''), 12))::bit(48)::bigint / 1000.0)
                             AT TIME ZONE 'UTC')::date
                        FROM {s}.%I WHERE substr(stream_id::text, 15, 1) = '7' $sql$, name)
            LOOP
                IF to_regclass('{s}.events_' || to_char(found, 'YYYY_MM')) IS NULL
                   AND NOT EXISTS (SELECT FROM {s}.detached_months WHERE month = found) THEN
                    PERFORM {s}.make_month(found);
                END IF;
            END LOOP;
        END $$"""
    )
    # The runtime may make the months that come, and no other table: it runs with its owner's rights. Attaching waits for
    # those who read the log, and new ones wait behind it, appends too: rather than long, it gives up and is tried again.
    op.execute(
        f"""
        CREATE FUNCTION {s}.make_months() RETURNS int LANGUAGE plpgsql SECURITY DEFINER
            SET search_path = pg_catalog, pg_temp SET lock_timeout = '1s' AS $$
        DECLARE
            missing date[] := ARRAY(
                SELECT month::date
                  FROM generate_series(date_trunc('month', now() AT TIME ZONE 'UTC'),
                                       date_trunc('month', now() AT TIME ZONE 'UTC') + interval '{_AHEAD} months',
                                       interval '1 month') AS month
                 WHERE to_regclass('{s}.events_' || to_char(month, 'YYYY_MM')) IS NULL
                 ORDER BY month);
            month date;
            made int := 0;
        BEGIN
            IF cardinality(missing) = 0 THEN
                RETURN 0;
            END IF;
            LOCK TABLE {s}.events IN SHARE UPDATE EXCLUSIVE MODE;
            FOREACH month IN ARRAY missing LOOP
                IF to_regclass('{s}.events_' || to_char(month, 'YYYY_MM')) IS NULL THEN
                    -- One that has events in the default partition waits for `months settle`; the others do not.
                    BEGIN
                        PERFORM {s}.make_month(month);
                        made := made + 1;
                    EXCEPTION WHEN check_violation THEN NULL;
                    END;
                END IF;
            END LOOP;
            RETURN made;
        END $$"""
    )
    op.execute(
        f"""
        CREATE FUNCTION {s}.stray_events(OUT events bigint, OUT first_position bigint, OUT last_position bigint,
                                         OUT bytes bigint)
            STABLE LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
        BEGIN
            SELECT count(*), min(position), max(position), pg_total_relation_size('{s}.events_default')
              INTO events, first_position, last_position, bytes FROM {s}.events_default;
        END $$"""
    )


def _partition_log(s: str) -> None:
    op.execute(f"ALTER TABLE {s}.events RENAME TO events_whole")
    op.execute(f"ALTER TABLE {s}.events_whole RENAME CONSTRAINT events_pkey TO events_whole_pkey")
    op.execute(
        f"""
        CREATE TABLE {s}.events (LIKE {s}.events_whole, PRIMARY KEY (stream_id, version))
            PARTITION BY RANGE (stream_id)"""
    )
    op.execute(
        f"""
        CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {s}.events
            FOR EACH STATEMENT EXECUTE FUNCTION {s}.refuse_change()"""
    )
    op.execute(f"ALTER TABLE {s}.events ENABLE ALWAYS TRIGGER append_only")
    op.execute(f"SELECT {s}.make_partition('events_default')")
    op.execute(f"ALTER TABLE {s}.events ATTACH PARTITION {s}.events_default DEFAULT")
    op.execute(f"SELECT {s}.make_months_of('events_whole')")
    op.execute(f"SELECT {s}.make_months()")
    op.execute(f"INSERT INTO {s}.events SELECT * FROM {s}.events_whole ORDER BY position")
    op.execute(f"DROP TABLE {s}.events_whole")


def _create_batches(s: str) -> None:
    op.create_table(
        "batches",
        sa.Column("position", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
        schema=op.get_context().version_table_schema,
        comment="Where each batch of the log ended: to find its end, no month has to be looked at",
    )
    op.execute(f"INSERT INTO {s}.batches SELECT position, recorded_at FROM {s}.events ORDER BY position DESC LIMIT 1")
    op.execute(
        f"""
        CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {s}.batches
            FOR EACH STATEMENT EXECUTE FUNCTION {s}.refuse_change()"""
    )
    op.execute(f"ALTER TABLE {s}.batches ENABLE ALWAYS TRIGGER append_only")


def _create_detached_months() -> None:
    op.create_table(
        "detached_months",
        sa.Column("month", sa.Date, primary_key=True),
        sa.Column("first_id", sa.Uuid, nullable=False),
        sa.Column("end_id", sa.Uuid, nullable=False),
        sa.Column("events", sa.BigInteger, nullable=False),
        sa.Column("first_position", sa.BigInteger),
        sa.Column("last_position", sa.BigInteger),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("detached_at", sa.DateTime(timezone=True), nullable=False),
        schema=op.get_context().version_table_schema,
    )


def _count_by_month(s: str) -> None:
    keys = {
        "session_metrics": "channel_id, minute, month",
        "session_latencies": "channel_id, minute, latency_ms, month",
    }
    for table, key in keys.items():
        for name in (table, f"{table}_shadow"):
            op.execute(f"TRUNCATE {s}.{name}")
            op.execute(f"ALTER TABLE {s}.{name} DROP CONSTRAINT {name}_pkey")
            op.execute(f"ALTER TABLE {s}.{name} ADD COLUMN month date NOT NULL")
            op.execute(f"ALTER TABLE {s}.{name} ADD PRIMARY KEY ({key})")
    op.execute(f"DELETE FROM {s}.checkpoints WHERE projection IN ('session_metrics:rebuild', 'session_metrics:verify')")
    op.execute(
        f"UPDATE {s}.checkpoints SET position = -1, stopped_at = NULL, error = NULL WHERE projection = 'session_metrics'"
    )
