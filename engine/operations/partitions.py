"""`ledger.partitions`."""

from collections.abc import Sequence

from guestledger.engine.ports.partitions import Partition, Partitions as PartitionsPort


class Partitions:
    """The monthly partitions of the log."""

    def __init__(self, partitions: PartitionsPort) -> None:
        self._partitions = partitions

    async def list(self) -> Sequence[Partition]:
        """Return the partitions, oldest first; last the one for unpartitioned events, normally empty."""
        return await self._partitions.all()
