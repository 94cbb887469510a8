"""The partitions of the log."""

from datetime import date
from typing import Protocol

import msgspec


class Partition(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the log: the streams that began in one month (UTC)."""

    month: date | None
    """Its first day; `None`: events without a partition of their own."""
    attached: bool
    first_position: int | None
    """`None` while it is empty. Events of other partitions may lie between first and last."""
    last_position: int | None
    bytes: int | None
    """On disk, with indexes; `None` if its table is no longer in the database."""


class Partitions(Protocol):
    """The partitions that the log is stored in."""

    async def all(self) -> list[Partition]:
        """Every partition, oldest first, detached ones included; last the unpartitioned events."""
        ...

    async def ensure_partitions(self) -> None:
        """Make the partitions of the coming months, and log a warning about unpartitioned events."""
        ...
