"""How `open` waits for the end of an outage."""

from guestledger import Cause, DatabaseFault, ServiceUnreachable
from guestledger.adapters.cli.outage import Outage


async def test_a_fault_of_the_database_ends_the_wait_for_it() -> None:
    async def probe() -> None:
        raise DatabaseFault("PostgreSQL rejected a statement")

    outage = Outage(probe)
    outage.note(ServiceUnreachable("database", Cause.CONNECTION_LOST))
    assert not await outage.over()
    assert isinstance(outage.gone, DatabaseFault)
