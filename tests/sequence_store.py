"""A store with a planted bug, which the tests of order must find: positions from a sequence.

A sequence hands out numbers before their transactions commit, so a reader can pass a number that becomes visible later.
"""

from typing import Any

from guestledger.adapters.postgres.log.batch import BatchRows
from guestledger.adapters.postgres.log.event_store import PostgresEventStore

MAKE_SEQUENCE = """
    CREATE SEQUENCE guestledger.positions MINVALUE 0;
    GRANT USAGE ON SEQUENCE guestledger.positions TO guestledger_runtime;
    ALTER TABLE guestledger.events DISABLE TRIGGER check_batch"""
"""Also removes the guard that would refuse such positions."""

_NEXT = "SELECT stream_id, version, position,"
_NEXT_OF_SEQUENCE = "SELECT stream_id, version, nextval('guestledger.positions'),"


class SequenceStore(PostgresEventStore):
    """Needs `MAKE_SEQUENCE` in the ledger's schema."""

    async def _write(self, driver: Any, batch: Any, **_: Any) -> Any:
        proposals = [proposal for _caller, proposal in batch]
        await driver.execute("BEGIN")
        log = await self._writer.read_log(driver, proposals)
        rows = BatchRows(log, await self._writer.open_limiters(driver, proposals, log))
        outcomes = [rows.take(proposal) for proposal in proposals]
        assert _NEXT in self._writer.statements.append
        await driver.fetch(self._writer.statements.append.replace(_NEXT, _NEXT_OF_SEQUENCE), *rows.parameters())
        await driver.execute("COMMIT")
        return outcomes
