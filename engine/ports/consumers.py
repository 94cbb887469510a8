"""The checkpoints of named consumers."""

from typing import Protocol
from uuid import UUID

import msgspec

from guestledger.engine.log.appends import Lease


class ConsumerRow(msgspec.Struct, frozen=True, kw_only=True):
    """A named consumer of the log."""

    name: str
    position: int
    """The last event it has processed; -1: none."""
    lag: int
    """How many positions it is behind the log."""
    running: bool
    """Whether a process holds it now."""


class ConsumerCheckpoints(Protocol):
    """One row a consumer; one owner at a time holds it under a lease."""

    async def claim(self, name: str, lease: Lease, start: int) -> int | None:
        """Take the consumer and return its position; `None` while another process holds it. A new one starts at `start`."""
        ...

    async def keep(self, name: str, lease: Lease) -> bool:
        """Renew the lease; False if it was lost."""
        ...

    async def move(self, name: str, owner: UUID, position: int) -> bool:
        """Set its position; False, and nothing set, if it was lost."""
        ...

    async def release(self, name: str, owner: UUID) -> None:
        """Release it. Nothing if it was lost."""
        ...

    async def forget(self, name: str) -> bool:
        """Delete its checkpoint; False if there was none. A running consumer then loses its lease."""
        ...

    async def all(self) -> list[ConsumerRow]:
        """Every consumer, by name."""
        ...
