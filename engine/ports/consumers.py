"""The checkpoints of named consumers."""

from typing import Protocol
from uuid import UUID

import msgspec

from guestledger.engine.log.appends import Lease


class ConsumerRow(msgspec.Struct, frozen=True, kw_only=True):
    """A named consumer of the log."""

    name: str
    position: int
    """The last processed event; -1: none."""
    lag: int
    """Positions behind the log."""
    running: bool
    """Whether a process holds it."""


class ConsumerCheckpoints(Protocol):
    """One owner at a time holds a consumer, under a lease."""

    async def claim(self, name: str, lease: Lease, start: int) -> int | None:
        """The position, with the lease; `None`: another process holds it. A new one starts at `start`."""
        ...

    async def keep(self, name: str, lease: Lease) -> bool:
        """Renew the lease; False: it was lost."""
        ...

    async def move(self, name: str, owner: UUID, position: int) -> bool:
        """Set its position; False: it was lost."""
        ...

    async def release(self, name: str, owner: UUID) -> None:
        """Release it."""
        ...

    async def forget(self, name: str) -> bool:
        """Delete its checkpoint; False: there was none."""
        ...

    async def all(self) -> list[ConsumerRow]:
        """Every consumer, by name."""
        ...
