"""An event as the log holds it."""

from datetime import datetime
from uuid import UUID

from engine.domain.events import Event
from engine.domain.personal import Guarded, Personal


class RecordedEvent(Guarded, frozen=True, kw_only=True):
    """An event with what the store alone gives it. `position` counts from 0 over the whole log, `version` from 1 in its stream."""

    position: int
    stream_id: UUID
    version: int
    event: Event
    recorded_at: datetime
    """The database's clock when the event was committed (UTC)."""
    correlation_id: str
    causation_id: UUID
    """The append that brought it: events of one append share it."""
    actor: str
    data: Personal
    """The exact text that was hashed, with all that is personal in the event."""
    leaf_hash: bytes
