-- Statements are separated by empty lines; {s} is the ledger's schema, as a quoted identifier.
-- The smallest id of a month: a UUIDv7 (RFC 9562, section 5.7) begins with its milliseconds since 1970 in 48 bits.
CREATE FUNCTION {s}.first_id(month date) RETURNS uuid IMMUTABLE LANGUAGE sql
    SET search_path = pg_catalog, pg_temp AS $$
    SELECT rpad(lpad(to_hex((extract(epoch FROM month::timestamp) * 1000)::bigint), 12, '0'), 32, '0')::uuid
$$

-- Gives a partition its own guards and unique position. The parent's trigger does not fire for a statement that names the
-- partition, and an index over all partitions cannot be unique by position alone.
CREATE FUNCTION {s}.guard_partition(name text) RETURNS void LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE format('CREATE UNIQUE INDEX IF NOT EXISTS %I ON {s}.%I (position)', name || '_position', name);
    EXECUTE format('CREATE OR REPLACE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {s}.%I
                        FOR EACH STATEMENT EXECUTE FUNCTION {s}.refuse_change()', name);
    EXECUTE format('ALTER TABLE {s}.%I ENABLE ALWAYS TRIGGER append_only', name);
    EXECUTE format('ALTER TABLE {s}.%I OWNER TO %I', name, (
        SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = '{s}.events'::regclass));
END $$

CREATE FUNCTION {s}.create_partition_table(name text) RETURNS void LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE format('CREATE TABLE {s}.%I (LIKE {s}.events INCLUDING ALL)', name);
    PERFORM {s}.guard_partition(name);
END $$

CREATE FUNCTION {s}.attach_partition(month date) RETURNS void LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE format('ALTER TABLE {s}.events ATTACH PARTITION {s}.%I FOR VALUES FROM (%L) TO (%L)',
                   'events_' || to_char(month, 'YYYY_MM'),
                   {s}.first_id(month), {s}.first_id((month + interval '1 month')::date));
END $$

CREATE FUNCTION {s}.create_partition(month date) RETURNS void LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM {s}.create_partition_table('events_' || to_char(month, 'YYYY_MM'));
    PERFORM {s}.attach_partition(month);
END $$

-- Creates the partitions that the streams in a table need, but none in place of a detached one, which could not return.
CREATE FUNCTION {s}.create_partitions_for(name text) RETURNS void LANGUAGE plpgsql
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
           AND NOT EXISTS (SELECT FROM {s}.detached_partitions WHERE month = found) THEN
            PERFORM {s}.create_partition(found);
        END IF;
    END LOOP;
END $$

-- Creates the partitions of this month and the next three, with the owner's rights: the runtime may create no other table.
-- Attaching waits for readers of the log, and appends wait behind it. So it gives up after a second, to be called again.
CREATE FUNCTION {s}.ensure_partitions() RETURNS int LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp SET lock_timeout = '1s' AS $$
DECLARE
    missing date[] := ARRAY(
        SELECT month::date
          FROM generate_series(date_trunc('month', now() AT TIME ZONE 'UTC'),
                               date_trunc('month', now() AT TIME ZONE 'UTC') + interval '3 months',
                               interval '1 month') AS month
         WHERE to_regclass('{s}.events_' || to_char(month, 'YYYY_MM')) IS NULL
         ORDER BY month);
    month date;
    created int := 0;
BEGIN
    IF cardinality(missing) = 0 THEN
        RETURN 0;
    END IF;
    LOCK TABLE {s}.events IN SHARE UPDATE EXCLUSIVE MODE;
    FOREACH month IN ARRAY missing LOOP
        IF to_regclass('{s}.events_' || to_char(month, 'YYYY_MM')) IS NULL THEN
            -- A month that has events in the default partition has to be settled. The others are created.
            BEGIN
                PERFORM {s}.create_partition(month);
                created := created + 1;
            EXCEPTION WHEN check_violation THEN NULL;
            END;
        END IF;
    END LOOP;
    RETURN created;
END $$

CREATE FUNCTION {s}.unpartitioned_events(OUT events bigint, OUT first_position bigint, OUT last_position bigint,
                                         OUT bytes bigint)
    STABLE LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    SELECT count(*), min(position), max(position), pg_total_relation_size('{s}.events_default')
      INTO events, first_position, last_position, bytes FROM {s}.events_default;
END $$
