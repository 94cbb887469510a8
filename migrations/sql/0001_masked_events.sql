-- Statements are separated by empty lines; {s} is the ledger's schema, as a quoted identifier.
-- The log for an auditor. Of a guest's personal data it keeps what the audit log shows: address and fingerprint.
CREATE FUNCTION {s}.masked(data jsonb, VARIADIC keys text[]) RETURNS jsonb IMMUTABLE LANGUAGE sql
    SET search_path = pg_catalog, pg_temp AS $$
    SELECT data || coalesce((SELECT jsonb_object_agg(key, '•••') FROM unnest(keys) AS key
                              WHERE data ->> key IS NOT NULL), '{}')
$$

CREATE VIEW {s}.masked_events AS
SELECT stream_id, version, position, event_type, schema_version, recorded_at, correlation_id, causation_id, actor,
       ({s}.masked(CASE WHEN data -> 'guest' IS NULL THEN data::jsonb
                        ELSE jsonb_set(data::jsonb, ARRAY['guest'],
                                       {s}.masked((data -> 'guest')::jsonb, 'user_agent')) END,
                   'guest_token', 'request_sha256'))::json AS data,
       leaf_hash
  FROM {s}.events
