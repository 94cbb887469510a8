"""A step of the database's clock, for real: `now()` and `clock_timestamp()` of one database are replaced by functions that
add an offset to the server's time. Every statement of every process goes by them, and nothing has to be patched.
"""

from datetime import timedelta
from typing import Any

from tests.integration.plain_sql import connect_plainly

_INSTALL = """
    CREATE TABLE public.clock_offset (by interval NOT NULL);
    INSERT INTO public.clock_offset VALUES ('0');
    SET allow_system_table_mods = on;
    ALTER FUNCTION pg_catalog.now() RENAME TO real_now;
    ALTER FUNCTION pg_catalog.clock_timestamp() RENAME TO real_clock_timestamp;
    CREATE FUNCTION pg_catalog.now() RETURNS timestamptz LANGUAGE sql STABLE SECURITY DEFINER AS
        'SELECT pg_catalog.real_now() OPERATOR(pg_catalog.+) (SELECT by FROM public.clock_offset)';
    CREATE FUNCTION pg_catalog.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE SECURITY DEFINER AS
        'SELECT pg_catalog.real_clock_timestamp() OPERATOR(pg_catalog.+) (SELECT by FROM public.clock_offset)'"""


class DatabaseClockShim:
    """The clock of one database. Install it before a ledger opens the database: plans keep the functions they found."""

    def __init__(self, administrator: Any) -> None:
        self._administrator = administrator

    async def step(self, by: timedelta) -> None:
        """Set the clock ahead by `by`, or back if it is negative."""
        await self._administrator.execute("UPDATE public.clock_offset SET by = by + $1", by)

    async def execute(self, statement: str) -> None:
        """Run a statement at that time, as an administrator."""
        await self._administrator.execute(statement)

    async def close(self) -> None:
        """Close the connection. The clock stays as it is."""
        await self._administrator.close()


async def install(url: str) -> DatabaseClockShim:
    """Give the database of `url` a clock that can step. Close it in the end."""
    administrator = await connect_plainly(url)
    await administrator.execute(_INSTALL)
    return DatabaseClockShim(administrator)
