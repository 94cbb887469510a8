"""The commands of the lifecycle. `now` is UTC, `jitter` is uniform in [0, 1)."""

from datetime import datetime
from uuid import UUID

import msgspec

from guestledger.engine.domain.outcomes import CreationOutcome, Delivery, LookupOutcome, Resolution
from guestledger.engine.domain.personal import Guarded, Personal
from guestledger.engine.domain.request import GuestRequest
from guestledger.engine.limits.admission import Denied


class OpenSession(msgspec.Struct, frozen=True, kw_only=True):
    """A guest wants a session."""

    request: GuestRequest
    now: datetime


class RecordLookup(msgspec.Struct, frozen=True, kw_only=True):
    """The provider was asked about the channel."""

    outcome: LookupOutcome
    now: datetime
    jitter: float


class BeginAttempt(Guarded, frozen=True, kw_only=True):
    """A creation request with this digest is about to be sent."""

    request_sha256: Personal
    now: datetime


class DeferCreation(msgspec.Struct, frozen=True, kw_only=True):
    """The limiter denied the due attempt or look-up."""

    limiter: str
    denied: Denied
    now: datetime
    jitter: float


class RecordAttempt(msgspec.Struct, frozen=True, kw_only=True):
    """Attempt number `attempt` came back."""

    attempt: int
    outcome: CreationOutcome
    now: datetime
    jitter: float


class SettleAttempt(msgspec.Struct, frozen=True, kw_only=True):
    """The sender of attempt number `attempt` is gone, and its answer with it."""

    attempt: int
    now: datetime
    jitter: float


class EnforceDeadline(msgspec.Struct, frozen=True, kw_only=True):
    """The session's deadline may have passed."""

    now: datetime


class NoteClockSetBack(msgspec.Struct, frozen=True, kw_only=True):
    """The database's clock was set back by `back_ms` or more since the session's times were recorded."""

    back_ms: int
    now: datetime


class RecordDelivery(msgspec.Struct, frozen=True, kw_only=True):
    """The webhook was called."""

    outcome: Delivery
    now: datetime
    jitter: float


class RequestRedelivery(msgspec.Struct, frozen=True, kw_only=True):
    """A person wants the notice sent again. Both texts are stored."""

    requested_by: str
    reason: str
    now: datetime


class Resolve(msgspec.Struct, frozen=True, kw_only=True):
    """A person decided about a parked session. Both texts are stored."""

    resolution: Resolution
    decided_by: str
    reason: str
    now: datetime


class ExpireToken(msgspec.Struct, frozen=True, kw_only=True):
    """The guest token may have expired."""

    now: datetime


class EraseGuest(msgspec.Struct, frozen=True, kw_only=True):
    """A person wants the guest's personal data erased. Both texts are stored."""

    erased_by: str
    reason: str
    erasure: UUID
    now: datetime


Command = (
    OpenSession
    | RecordLookup
    | BeginAttempt
    | DeferCreation
    | RecordAttempt
    | SettleAttempt
    | EnforceDeadline
    | NoteClockSetBack
    | RecordDelivery
    | RequestRedelivery
    | Resolve
    | ExpireToken
    | EraseGuest
)
