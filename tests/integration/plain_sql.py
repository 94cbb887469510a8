"""A ledger's database by plain SQL, past the adapters."""

import asyncpg
from sqlalchemy import make_url

SCHEMA = "guestledger"

# The log lets nobody empty it but the tables' owner, who can take its guard away.
EMPTY = """
    ALTER TABLE events DISABLE TRIGGER events_append_only;
    DELETE FROM events;
    ALTER TABLE events ENABLE ALWAYS TRIGGER events_append_only;
    DELETE FROM request_keys; DELETE FROM due_work;
    DELETE FROM sessions; DELETE FROM session_metrics; DELETE FROM session_latencies; DELETE FROM audit_log;
    UPDATE checkpoints SET position = -1"""


async def connect_plainly(url: str) -> asyncpg.Connection:
    """A connection that knows nothing of the adapters, with the ledger's schema in its search path."""
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    return await asyncpg.connect(plain, server_settings={"search_path": SCHEMA})
