"""Appends: events for one stream, and changes to its due steps."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

import msgspec

from guestledger.engine.domain.due import DueStep, StepName
from guestledger.engine.domain.events import Event
from guestledger.engine.domain.personal import Guarded, Personal
from guestledger.engine.limits.admission import AdmissionRequest, Denied
from guestledger.engine.limits.feedback import Feedback


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """The sole right to work on due steps, for `ms` by the database's clock.

    An owner is one claim, not a process: late work cannot touch what a newer claim holds.
    """

    owner: UUID
    ms: int


class StepChanges(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """How an append changes its stream's due steps. Others stay as they are."""

    due: tuple[DueStep, ...] = ()
    """New or moved steps. A held lease stays."""
    mine: frozenset[StepName] = frozenset()
    """Those of `due` whose lease becomes `lease` (`None`: free)."""
    lease: Lease | None = None
    done: frozenset[StepName] = frozenset()


class Append(Guarded, frozen=True, kw_only=True):
    """Proposed events of one stream, with what changes in the same transaction."""

    stream_id: UUID
    expected_version: int
    """The version they were decided on; 0: a new stream."""
    events: Sequence[Event]
    steps: StepChanges
    actor: str
    causation_id: UUID
    """Unique: the store recognises a repeated append by it."""
    correlation_id: str
    idempotency_key: Personal | None = None
    """One append per key, ever."""
    admission: AdmissionRequest | None = None
    """The request that they announce: recorded only if the limiter admits it."""
    feedback: Feedback | None = None


class Appended(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A recorded append: the new version, and the last position."""

    version: int
    position: int
    recorded_at: datetime
    """Never before the log's last time."""
    at: datetime
    """The database's clock as it is: for leases and limiters."""
    limiters: frozenset[str] = frozenset()
    """The limiters with a state at that moment."""
    wait: timedelta = timedelta(0)
    """How long the request that it admits waits before it is sent."""


_REMOTE = "remote\x1f"


def remote_key(session_id: str) -> str:
    """The key of the append that records a provider's session. A caller's key never contains this character."""
    return f"{_REMOTE}{session_id}"


def is_remote_key(key: str) -> bool:
    """Whether `key` names a provider's session, and so nothing of a person."""
    return key.startswith(_REMOTE)


class KeyTaken(Exception):
    """The key belongs to `stream_id`. Nothing was recorded."""

    def __init__(self, stream_id: UUID) -> None:
        super().__init__(f"the key already belongs to stream {stream_id}")
        self.stream_id = stream_id


class AppendDenied(Exception):
    """The limiter denied the request of the append. Nothing was recorded."""

    def __init__(self, denied: Denied) -> None:
        super().__init__(denied.by)
        self.denied = denied
