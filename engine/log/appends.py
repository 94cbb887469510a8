"""What is appended to the log: events for one stream, and the changes to its due steps."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import msgspec

from guestledger.engine.domain.due import DueStep, StepName
from guestledger.engine.domain.events import Event
from guestledger.engine.limits.admission import AdmissionRequest, Denied
from guestledger.engine.limits.feedback import Feedback


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """The sole right to work on due steps: `owner`'s, for `ms` by the database's clock.

    An owner is one claim, not a process: late work can then neither renew nor release what a newer claim of the same
    process holds.
    """

    owner: UUID
    ms: int


class StepChanges(msgspec.Struct, frozen=True, kw_only=True):
    """How an append changes the due steps of its stream. Steps that are not named stay as they are, leases included."""

    due: tuple[DueStep, ...] = ()
    """Steps that are new or due at another time. A lease that somebody holds on one stays."""
    mine: frozenset[StepName] = frozenset()
    """Those of `due` whose lease the append sets: to `lease`."""
    lease: Lease | None = None
    """`None`: nobody's."""
    done: frozenset[StepName] = frozenset()
    """Steps that are no longer due."""


class Append(msgspec.Struct, frozen=True, kw_only=True):
    """Events proposed for one stream, with what has to be decided and changed in the same transaction."""

    stream_id: UUID
    expected_version: int
    """The version on which the events were decided; 0: the stream must not exist."""
    events: Sequence[Event]
    steps: StepChanges
    actor: str
    causation_id: UUID
    """Unique to this append. The store recognises a repeated append by it, and answers as the first time."""
    correlation_id: str
    idempotency_key: str | None = None
    """At most one append is ever recorded under a key."""
    admission: AdmissionRequest | None = None
    """The request that these events announce: they are recorded only if the limiter admits it at that moment."""
    feedback: Feedback | None = None
    """What the answer that these events record shows about the API. Recorded with them."""


class Appended(msgspec.Struct, frozen=True, kw_only=True):
    """A recorded append: the stream's new version, and the position of its last event."""

    version: int
    position: int
    recorded_at: datetime
    """By the database's clock, but never before the log's last time."""
    at: datetime
    """By the database's clock, also after it was set back: leases and limiters use it."""
    limiters: frozenset[str] = frozenset()
    """The limiters that knew something against their API when it was recorded."""


class KeyTaken(Exception):
    """The key of the append already belongs to `stream_id`. Nothing was recorded."""

    def __init__(self, stream_id: UUID) -> None:
        super().__init__(f"the key already belongs to stream {stream_id}")
        self.stream_id = stream_id


class AppendDenied(Exception):
    """The limiter denied the request of the append. Nothing was recorded."""

    def __init__(self, denied: Denied) -> None:
        super().__init__(denied.by)
        self.denied = denied
