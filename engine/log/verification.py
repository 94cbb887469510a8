"""What a verification of the log found."""

from datetime import datetime

import msgspec


class LogVerification(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the log, read event by event."""

    events: int
    first_position: int | None
    """`None`: no event is in this part."""
    last_position: int | None
    first_recorded_at: datetime | None
    last_recorded_at: datetime | None
    detached: int
    """Positions that lie in detached partitions: they were verified before they were detached, and are not read here."""
    unaccounted: int
    """For the whole log: how many more positions lie there than those partitions hold."""
    digest: str
    """SHA-256 (hex) over each position (8 bytes, big-endian) and leaf hash, in order, both as computed here."""
    changed: tuple[int, ...]
    """The first positions whose event does not match its leaf hash, or that was recorded before the one ahead of it."""
    missing: tuple[int, ...]
    """The first missing positions."""

    @property
    def is_intact(self) -> bool:
        """Whether each event matches its hash, and none is missing."""
        return not self.changed and not self.missing and not self.unaccounted
