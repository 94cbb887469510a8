"""The commands of the lifecycle: what a caller wants, and what came back from outside.

Each carries the time (UTC) and, where a wait may have to be chosen, a jitter uniform in [0, 1).
"""

from datetime import datetime

import msgspec

from guestledger.engine.domain.outcomes import CreationOutcome, Delivered, LookupOutcome, Resolution
from guestledger.engine.domain.personal import Guarded, Personal
from guestledger.engine.domain.request import GuestRequest
from guestledger.engine.limits.policy import Denied


class OpenSession(msgspec.Struct, frozen=True, kw_only=True):
    """A guest wants a session."""

    request: GuestRequest
    now: datetime


class BeginLookup(msgspec.Struct, frozen=True, kw_only=True):
    """CXone is about to be asked what the channel is."""

    now: datetime


class RecordLookup(msgspec.Struct, frozen=True, kw_only=True):
    """CXone was asked what the channel is."""

    outcome: LookupOutcome
    now: datetime
    jitter: float


class BeginAttempt(Guarded, frozen=True, kw_only=True):
    """A creation request with this digest is about to be sent."""

    request_sha256: Personal
    now: datetime
    jitter: float


class Defer(msgspec.Struct, frozen=True, kw_only=True):
    """The attempt that is due may not be made now: `limiter` holds it back."""

    limiter: str
    held: Denied
    now: datetime
    jitter: float


class RecordAttempt(msgspec.Struct, frozen=True, kw_only=True):
    """Attempt number `attempt` came back."""

    attempt: int
    outcome: CreationOutcome
    now: datetime
    jitter: float


class RecordDelivery(msgspec.Struct, frozen=True, kw_only=True):
    """The webhook was called."""

    outcome: Delivered
    now: datetime
    jitter: float


class RequestRedelivery(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody wants the webhook's notice sent anew. Both texts are stored: no secret or personal datum belongs in them."""

    requested_by: str
    reason: str
    now: datetime


class Resolve(msgspec.Struct, frozen=True, kw_only=True):
    """A person has decided what is to become of a parked session. Both texts are stored, as in `RequestRedelivery`."""

    resolution: Resolution
    decided_by: str
    reason: str
    now: datetime


class Expire(msgspec.Struct, frozen=True, kw_only=True):
    """The token's time may have passed."""

    now: datetime


Record = RecordLookup | RecordAttempt | RecordDelivery
"""What came back from outside."""

Command = Record | OpenSession | BeginLookup | BeginAttempt | Defer | RequestRedelivery | Resolve | Expire
