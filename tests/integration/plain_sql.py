"""A ledger's database by plain SQL, past the adapters."""

import asyncpg
from sqlalchemy import make_url

from tests.postgres import as_administrator

SCHEMA = "guestledger"

# The log lets nobody empty it but its tables' owner, who can take the guards away; they are put back just as they were.
EMPTY = """
    DO $$
    DECLARE
        part text;
        guard "char";
    BEGIN
        FOR part, guard IN
            SELECT tgrelid::regclass, tgenabled FROM pg_trigger
             WHERE tgname = 'append_only' AND tgfoid = 'refuse_change'::regproc LOOP
            EXECUTE 'ALTER TABLE ' || part || ' DISABLE TRIGGER append_only';
            EXECUTE 'DELETE FROM ' || part;
            IF guard <> 'D' THEN
                EXECUTE 'ALTER TABLE ' || part || CASE guard WHEN 'A' THEN ' ENABLE ALWAYS' ELSE ' ENABLE' END
                        || ' TRIGGER append_only';
            END IF;
        END LOOP;
    END $$;
    DELETE FROM due_steps; DELETE FROM limits; DELETE FROM consumers;
    DELETE FROM sessions; DELETE FROM session_metrics; DELETE FROM session_latencies; DELETE FROM audit_log;
    DELETE FROM sessions_shadow; DELETE FROM session_metrics_shadow; DELETE FROM session_latencies_shadow;
    DELETE FROM audit_log_shadow; DELETE FROM checkpoints WHERE projection LIKE '%:%';
    UPDATE checkpoints SET position = -1, stopped_at = NULL, error = NULL"""

# Who owns and may do what, and which triggers are on.
CATALOGUE = """
    SELECT relname, pg_get_userbyid(relowner), ARRAY(SELECT unnest(relacl)::text ORDER BY 1), relnatts, tgname, tgenabled
      FROM pg_class LEFT JOIN pg_trigger ON tgrelid = pg_class.oid
     WHERE relnamespace = 'guestledger'::regnamespace ORDER BY relname, tgname"""


async def connect_plainly(url: str) -> asyncpg.Connection:
    """A connection that knows nothing of the adapters, nor of privileges, with the ledger's schema in its search path."""
    plain = make_url(as_administrator(url)).set(drivername="postgresql").render_as_string(hide_password=False)
    return await asyncpg.connect(plain, server_settings={"search_path": SCHEMA})
