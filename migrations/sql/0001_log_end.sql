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
