"""How a projection stands to the log, and what a verification of it found."""

from datetime import datetime

import msgspec


class ProjectionStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A projection, and how far behind the log it is. Positions count from 0; -1 is before the first event."""

    name: str
    position: int
    """Of the last event that its rows hold."""
    head: int
    """Of the last event in the log."""
    lag_seconds: float
    """For how long the oldest event that it does not hold yet has waited, by the database's clock; 0 at the log's end."""
    stopped_at: datetime | None
    error: str | None
    """The event that it cannot take in, and why; `None` while it goes on. Holds nothing personal."""
    rebuilt_to: int | None
    """How far a rebuild that is under way, or was interrupted, has come."""

    @property
    def lag_events(self) -> int:
        """How many events it does not hold yet."""
        return self.head - self.position


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """A projection's rows at `position`, held against those that the log gives anew."""

    name: str
    position: int
    rows: int
    """How many it has."""
    digest: str
    """SHA-256 (hex) over its tables, row by row in order of their keys."""
    rebuilt_digest: str
    differing: tuple[str, ...]
    """The first rows that differ, as table and key."""

    @property
    def is_same(self) -> bool:
        """Whether the rows are what the log says."""
        return self.digest == self.rebuilt_digest
