"""A ledger's database by plain SQL, without the adapters."""

import asyncpg
from sqlalchemy import make_url

from guestledger.adapters.postgres.admin.grants import LOG, TABLES
from tests.postgres import as_administrator

SCHEMA = "guestledger"

# The index key stays: stores may be open.
_EMPTIED = sorted(TABLES.keys() - LOG.keys() - {"alembic_version", "checkpoints", "data_keys", "wrapping_keys"})
# Only the owner can empty the log, by disabling the triggers. They are restored as they were.
EMPTY = f"""
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
    {"; ".join(f"DELETE FROM {table}" for table in _EMPTIED)};
    DELETE FROM data_keys WHERE subject <> '';
    DELETE FROM checkpoints WHERE projection LIKE '%:%';
    UPDATE checkpoints SET position = -1, stopped_at = NULL, error = NULL"""

# Owners, grants and triggers.
CATALOGUE = """
    SELECT relname, pg_get_userbyid(relowner), ARRAY(SELECT unnest(relacl)::text ORDER BY 1), relnatts, tgname, tgenabled
      FROM pg_class LEFT JOIN pg_trigger ON tgrelid = pg_class.oid
     WHERE relnamespace = 'guestledger'::regnamespace ORDER BY relname, tgname"""


async def connect_plainly(url: str) -> asyncpg.Connection:
    """Connect as the administrator, with the ledger's schema in the search path."""
    plain = make_url(as_administrator(url)).set(drivername="postgresql").render_as_string(hide_password=False)
    return await asyncpg.connect(plain, server_settings={"search_path": SCHEMA})
