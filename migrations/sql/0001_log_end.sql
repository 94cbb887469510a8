-- Statements are separated by empty lines; {s} is the ledger's schema, as a quoted identifier.
-- Keeps the runtime's user from moving the log's end to where no append can follow, or into the future. One batch takes far fewer
-- positions. SQLSTATE 40001, so that an append is repeated if the server's clock was set back meanwhile.
CREATE FUNCTION {s}.check_end() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    last record;
BEGIN
    IF pg_has_role((SELECT relowner FROM pg_class WHERE oid = TG_RELID), 'USAGE') THEN
        RETURN NEW;  -- the owner may restore and repair
    END IF;
    SELECT position, recorded_at INTO last FROM {s}.batches ORDER BY position DESC LIMIT 1;
    IF NEW.position NOT BETWEEN coalesce(last.position, -1) + 1 AND coalesce(last.position, -1) + 1000000
       OR NEW.recorded_at NOT BETWEEN coalesce(last.recorded_at, '-infinity')
                                  AND greatest(last.recorded_at, clock_timestamp()) THEN
        RAISE EXCEPTION 'the log cannot continue at position %', NEW.position USING ERRCODE = '40001';
    END IF;
    RETURN NEW;
END $$

CREATE TRIGGER check_end BEFORE INSERT ON {s}.batches FOR EACH ROW EXECUTE FUNCTION {s}.check_end()

-- Keeps the runtime's user from adding an event that is not part of the batch at the log's end: ahead of the end its position would
-- make later appends fail, behind it no reader would see it. Called once for a whole batch, after its row in batches is there.
CREATE FUNCTION {s}.check_batch() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    ends bigint[] := ARRAY(SELECT position FROM {s}.batches ORDER BY position DESC LIMIT 2);
    added record;
BEGIN
    SELECT count(*) AS events, min(position) AS first, max(position) AS last INTO added FROM new_events;
    IF added.events > 0
       AND (added.first, added.last, added.events)
           IS DISTINCT FROM (coalesce(ends[2], -1) + 1, ends[1], ends[1] - coalesce(ends[2], -1))
       AND NOT pg_has_role((SELECT relowner FROM pg_class WHERE oid = TG_RELID), 'USAGE') THEN
        RAISE EXCEPTION 'events can be added only as one batch that continues the log'
              USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NULL;
END $$

CREATE TRIGGER check_batch AFTER INSERT ON {s}.events REFERENCING NEW TABLE AS new_events
    FOR EACH STATEMENT EXECUTE FUNCTION {s}.check_batch()
