"""How far a projection is, and what a verification of it found."""

from datetime import datetime

import msgspec


class ProjectionStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A projection, and how far behind the log it is. Positions count from 0; -1: none."""

    name: str
    position: int
    """The last event in its rows."""
    head: int
    """The last event in the log."""
    lag_seconds: float
    """The age of the oldest event that it lacks, by the database's clock; 0: none."""
    stopped_at: datetime | None
    error: str | None
    """The poison event, and what is wrong; `None`: it runs. No personal data."""
    rebuilt_to: int | None
    """The position of an unfinished rebuild."""

    @property
    def lag_events(self) -> int:
        """How many events it lacks."""
        return self.head - self.position


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """A projection's rows at `position`, compared with those that the log gives."""

    name: str
    position: int
    rows: int
    digest: str
    """SHA-256 (hex) over its rows in key order."""
    rebuilt_digest: str
    differing: tuple[str, ...]
    """The first differing rows, as table and key."""

    @property
    def is_same(self) -> bool:
        """Whether the rows match the log."""
        return self.digest == self.rebuilt_digest
