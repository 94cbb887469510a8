"""A store with a planted bug, which the tests of order must find: positions from a sequence.

A sequence hands out numbers before their transactions commit, so a reader can pass a number that becomes visible later.
"""

from typing import Any

from guestledger.adapters.postgres.log.batch import BatchRows
from guestledger.adapters.postgres.log.event_store import PostgresEventStore

MAKE_SEQUENCE = """
    CREATE SEQUENCE guestledger.positions MINVALUE 0;
    GRANT USAGE ON SEQUENCE guestledger.positions TO guestledger_runtime"""
_POSITION = 2  # among the append statement's columns


class SequenceStore(PostgresEventStore):
    """Needs `MAKE_SEQUENCE` in the ledger's schema."""

    async def _write(self, driver: Any, batch: Any) -> Any:
        await driver.execute("BEGIN")
        log = await self._read_log(driver, batch)
        rows = BatchRows(log, await self._open_limiters(driver, batch, log))
        outcomes = [rows.take(proposal) for proposal in batch]
        columns = rows.columns()
        numbers = "SELECT nextval('guestledger.positions') FROM generate_series(1, $1)"
        columns[_POSITION] = [number for (number,) in await driver.fetch(numbers, len(columns[_POSITION]))]
        await driver.fetch(self._appending.append, *columns)
        await driver.execute("COMMIT")
        return outcomes
