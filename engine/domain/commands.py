"""The commands of the lifecycle. `now` is UTC, `jitter` is uniform in [0, 1)."""

from datetime import datetime
from uuid import UUID

import msgspec

from guestledger.engine.domain.outcomes import CreationOutcome, Delivery, LookupOutcome, Resolution
from guestledger.engine.domain.personal import Guarded, Personal
from guestledger.engine.domain.request import GuestRequest
from guestledger.engine.domain.session import WebhookNotice
from guestledger.engine.limits.admission import Denied


class OpenSession(Guarded, frozen=True, kw_only=True):
    """A guest wants a session."""

    request: GuestRequest
    hmac_key: Personal
    """See `Guest`."""
    now: datetime


class RecordLookup(msgspec.Struct, frozen=True, kw_only=True):
    """The provider was asked about the channel."""

    outcome: LookupOutcome
    now: datetime
    jitter: float


class BeginAttempt(msgspec.Struct, frozen=True, kw_only=True):
    """A creation request with this digest is about to be sent."""

    request_hmac: str
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
    """The webhook was called with `notice`."""

    notice: WebhookNotice
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


class WithdrawConsent(msgspec.Struct, frozen=True, kw_only=True):
    """The guest withdraws the consent: to everything, or to marketing alone. Both texts are stored."""

    marketing_only: bool
    requested_by: str
    reason: str | None
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


class PurgeToken(msgspec.Struct, frozen=True, kw_only=True):
    """The guest token may be of no more use."""

    now: datetime


class EraseContact(msgspec.Struct, frozen=True, kw_only=True):
    """The retention of the contact data may be over."""

    now: datetime


class PlaceHold(msgspec.Struct, frozen=True, kw_only=True):
    """A person wants the contact data kept. Both texts are stored."""

    placed_by: str
    reason: str
    now: datetime


class ReleaseHold(msgspec.Struct, frozen=True, kw_only=True):
    """A person ends a legal hold. Both texts are stored."""

    released_by: str
    reason: str
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
    | WithdrawConsent
    | ExpireToken
    | EraseGuest
    | PurgeToken
    | EraseContact
    | PlaceHold
    | ReleaseHold
)
