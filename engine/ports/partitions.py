"""The partitions of the log."""

from datetime import date
from typing import Protocol

import msgspec


class Partition(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the log: the streams that began in one month (UTC)."""

    month: date | None
    """Its first day; `None`: unpartitioned events."""
    attached: bool
    first_position: int | None
    """`None`: empty. Other partitions' events may lie between first and last."""
    last_position: int | None
    bytes: int | None
    """On disk, with indexes; `None`: its table is gone."""


class Partitions(Protocol):
    """The partitions that the log is stored in."""

    async def all(self) -> list[Partition]:
        """Oldest first, detached ones included; last the unpartitioned events."""
        ...

    async def ensure_partitions(self) -> None:
        """Create the partitions of the coming months; warn about unpartitioned events."""
        ...
