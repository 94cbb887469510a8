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
    ahead_at: int | None = None
    """The position that it had read when the log was set back; it is stopped until it is set back too."""


class ConsumerCheckpoints(Protocol):
    """One owner at a time holds a consumer, under a lease."""

    async def claim(self, name: str, lease: Lease, start: int) -> int | None:
        """The position, with the lease; `None`: another process holds it. A new one starts at `start`.

        Raises `LogSetBack` if it was stopped, or its position is beyond the log's end.
        """
        ...

    async def keep(self, name: str, lease: Lease) -> bool:
        """Renew the lease; False: it was lost."""
        ...

    async def move(self, name: str, owner: UUID, before: int, position: int) -> bool:
        """Move it from `before` to `position`; False: it was lost, or is elsewhere."""
        ...

    async def stop(self, name: str, ahead_at: int) -> None:
        """Stop it: see `ConsumerRow.ahead_at`."""
        ...

    async def set_back(self, name: str, position: int | None) -> bool:
        """Let it continue after `position` (`None`: after its checkpoint), or the log's end if that is earlier.

        False: there is no such consumer.
        """
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
