"""What is appended to the log: events for one stream, with the work that is due after them, under whose lease."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import msgspec

from guestledger.engine.domain.events import Event
from guestledger.engine.limits.policy import AdmissionRequest, Denied, Feedback


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """The sole right to work on a session: `owner`'s, for `ms` by the database's clock.

    An owner is one claim of a scheduler, not a process: a run that comes late can then neither renew nor give back what a newer
    run of the same process holds. What a process opens itself has one owner.
    """

    owner: UUID
    ms: int


class Due(msgspec.Struct, frozen=True, kw_only=True):
    """Work that a session still needs, and who holds it from the start (`None`: nobody, whoever claims it first)."""

    step: str
    due_at: datetime
    ends_at: datetime | None = None
    """From when on it is claimed whatever its limiter says: something is to be recorded then, and nothing to be sent."""
    lease: Lease | None = None
    keep_lease: bool = False
    """Leave the lease to whoever has it: for an append by somebody who does not hold one (a late answer)."""


class Append(msgspec.Struct, frozen=True, kw_only=True):
    """Events proposed for one stream, and the due work they leave behind (`None`: nothing more, ever)."""

    stream_id: UUID
    expected_version: int
    """The version the events were decided on; 0 for a stream that must not exist yet."""
    events: Sequence[Event]
    due: Due | None
    actor: str
    causation_id: UUID
    """Unique to this append. By it the store knows an append again that is handed in twice: the answer is the first one's."""
    correlation_id: str
    idempotency_key: str | None = None
    """The caller's key, for an append that opens a stream, or what stands for a remote session that is adopted: at most one
    append ever goes in under one key."""
    passage: AdmissionRequest | None = None
    """Of the request that these events announce: they go in if its limiter lets it through at that very moment."""
    hearing: Feedback | None = None
    """What the answer that these events record tells of its limiter: that is recorded with them."""


class Appended(msgspec.Struct, frozen=True, kw_only=True):
    """An append that went in: the stream's new version, the position of its last event, and when (the database's clock)."""

    version: int
    position: int
    recorded_at: datetime
    at: datetime
    """When, too, but not held back to the log's last time where the clock was set back: as limiters and leases have it."""


class KeyTaken(Exception):
    """The append's key is already taken by `stream_id`. Nothing of the append was recorded."""

    def __init__(self, stream_id: UUID) -> None:
        super().__init__(f"the key is already taken by stream {stream_id}")
        self.stream_id = stream_id


class AppendDenied(Exception):
    """The append's request may not be made now. Nothing of the append was recorded."""

    def __init__(self, held: Denied) -> None:
        super().__init__(held.reason)
        self.held = held
