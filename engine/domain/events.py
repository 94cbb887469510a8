"""The events of the log. Times are UTC, durations whole ms, and no number is a float (RFC 8785)."""

from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

import msgspec

from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.consent import Consent, Evidence, Guest
from guestledger.engine.domain.event import AccessEvent, Event, SessionEvent
from guestledger.engine.domain.outcomes import FailureKind
from guestledger.engine.domain.personal import Personal, Purpose
from guestledger.engine.domain.privacy_events import (
    ConsentWithdrawn,
    ContactErased,
    GuestErased,
    LegalHoldPlaced,
    LegalHoldReleased,
    MarketingWithdrawn,
    PersonalDataRevealed,
    TokenPurged,
)
from guestledger.engine.domain.session import WebhookNotice
from guestledger.engine.limits.admission import DenialReason
from guestledger.engine.limits.retry import Wait, WaitBasis

__all__ = [
    "EVENT_TYPES", "AbandonmentDecided", "AccessEvent", "ChannelLookupFailed", "ChannelRejected",
    "ChannelValidated", "ClockSetBack", "ConsentRecorded", "ConsentRefused", "ConsentWithdrawn", "ContactErased",
    "CreationAttempted", "CreationDeferred", "CreationFailed", "CreationThrottled", "DoubtLifted",
    "DuplicateCreated", "Event", "GuestErased", "GuestTokenFound", "LegalHoldPlaced", "LegalHoldReleased",
    "MarketingWithdrawn", "PersonalDataRevealed", "RetryDecided", "SessionAbandoned", "SessionAdopted",
    "SessionCreated", "SessionEvent", "SessionParked", "TokenExpired", "TokenPurged", "WebhookAbandoned",
    "WebhookFailed", "WebhookRedeliveryRequested", "WebhookSynced",
]  # fmt: skip


class ConsentRecorded(SessionEvent, frozen=True, kw_only=True):
    """A request was accepted with sufficient consent. Opens the stream."""

    purpose = Purpose.CONTACT

    guest: Guest
    consent: Consent


class ConsentRefused(SessionEvent, frozen=True, kw_only=True):
    """Consent was insufficient: nothing was sent. Opens and ends the stream."""

    purpose = Purpose.CONTACT

    guest: Guest
    failed: tuple[str, ...]
    given: dict[str, str]
    """By failed flag, as JSON text."""
    marketing: bool
    notice: str | None
    """The privacy notice that was shown, as the caller names it."""
    evidence: Evidence


class ChannelValidated(SessionEvent, frozen=True, kw_only=True):
    """The channel can take a session. `status` and `protocols` are what the provider said."""

    status: str
    protocols: tuple[str, ...]
    looked_up_at: datetime
    cached: bool


class ChannelRejected(SessionEvent, frozen=True, kw_only=True):
    """The channel cannot take a session. Ends the stream."""

    cause: Cause
    detail: str
    looked_up_at: datetime
    cached: bool


class ChannelLookupFailed(SessionEvent, frozen=True, kw_only=True):
    """The provider did not describe the channel. Retried at `retry_at`; `None` ends the stream."""

    lookup: int
    kind: FailureKind | None
    """`None`: the look-up was throttled."""
    cause: Cause
    status: int | None
    detail: str
    wait: Wait | None
    retry_at: datetime | None


class CreationDeferred(SessionEvent, frozen=True, kw_only=True):
    """The limiter denied a due attempt, or the look-up before it."""

    limiter: str
    denied_by: DenialReason
    closed_by: WaitBasis | None = None
    """For a pause: what the server said."""
    wait: Wait
    retry_at: datetime


class CreationAttempted(SessionEvent, frozen=True, kw_only=True):
    """A creation request is about to be sent. Committed before it is."""

    uses = Purpose.CONTACT

    attempt: int
    idempotency_key: str
    request_hmac: str
    """HMAC-SHA-256 (RFC 2104, hex) of the request, under the `hmac_key` that is sealed with the guest."""


class CreationThrottled(SessionEvent, frozen=True, kw_only=True):
    """The provider throttled the attempt."""

    attempt: int
    status: int | None
    wait: Wait
    retry_at: datetime


class CreationFailed(SessionEvent, frozen=True, kw_only=True):
    """The attempt brought no known session. Retried at `retry_at`; `None`: never."""

    attempt: int
    kind: FailureKind
    cause: Cause
    status: int | None
    detail: str
    session_id: str | None = None
    """The provider's id of a session that it made, but that nobody can use: the rest of its answer cannot be read."""
    wait: Wait | None
    retry_at: datetime | None


class SessionCreated(SessionEvent, frozen=True, kw_only=True):
    """The provider made the session."""

    purpose = Purpose.ACCESS

    attempt: int
    session_id: str
    guest_token: Personal
    expires_at: datetime | None
    """`None`: the token does not expire. Assumed by the policy if it is `unread`."""
    status: str
    unread: dict[str, str] = msgspec.field(default_factory=dict)
    """The unreadable fields of the answer, as given."""
    attempt_latency_ms: int
    latency_ms: int
    """Since the request was accepted, waits included."""
    webhook_owed: bool
    """Decided here once: settings may differ between processes."""
    shared_with: UUID | None = None
    """The earlier session with the same `session_id`: two guests are in one conversation."""


class DuplicateCreated(SessionEvent, frozen=True, kw_only=True):
    """A late answer shows a remote session that nobody uses."""

    attempt: int
    session_id: str


class DoubtLifted(SessionEvent, frozen=True, kw_only=True):
    """A late answer to an attempt in doubt: the provider made nothing of it, or no other session than the one recorded."""

    attempt: int
    kind: FailureKind | None
    """`None`: the attempt was throttled, or its session is known."""
    cause: Cause
    status: int | None
    detail: str
    retry_at: datetime | None
    """When the next attempt may be made, if the session waited on this doubt; `None`: nothing changes."""


class SessionParked(SessionEvent, frozen=True, kw_only=True):
    """An attempt is in doubt: a person decides, and its planned retry is not made."""

    attempt: int
    cause: Cause
    detail: str


class RetryDecided(SessionEvent, frozen=True, kw_only=True):
    """A person had a parked session retried. Failures and deadline count from here."""

    decided_by: str
    reason: str


class AbandonmentDecided(SessionEvent, frozen=True, kw_only=True):
    """A person gave a parked session up. Ends the stream."""

    decided_by: str
    reason: str
    attempts: int


class SessionAdopted(SessionEvent, frozen=True, kw_only=True):
    """A person found the remote session that a parked attempt had made."""

    purpose = Purpose.ACCESS

    decided_by: str
    reason: str
    attempt: int
    session_id: str
    guest_token: Personal | None
    """`None`: unknown, so no guest can use the session."""
    expires_at: datetime
    webhook_owed: bool


class GuestTokenFound(SessionEvent, frozen=True, kw_only=True):
    """A late answer brings the token of a session that was adopted without it."""

    purpose = Purpose.ACCESS

    attempt: int
    guest_token: Personal


class WebhookSynced(SessionEvent, frozen=True, kw_only=True):
    """The webhook receiver accepted the notice."""

    notice: WebhookNotice
    attempt: int
    status: int | None
    latency_ms: int


class WebhookFailed(SessionEvent, frozen=True, kw_only=True):
    """The webhook receiver did not accept the notice. It is sent again at `retry_at`."""

    notice: WebhookNotice
    attempt: int
    cause: Cause
    status: int | None
    detail: str
    latency_ms: int
    wait: Wait
    retry_at: datetime


class WebhookAbandoned(SessionEvent, frozen=True, kw_only=True):
    """The notice became a dead letter."""

    notice: WebhookNotice
    attempts: int
    cause: Cause
    status: int | None
    detail: str


class WebhookRedeliveryRequested(SessionEvent, frozen=True, kw_only=True):
    """A person asked for redelivery: the schedule restarts, under the same `webhook-id`."""

    requested_by: str
    reason: str


class TokenExpired(SessionEvent, frozen=True, kw_only=True):
    """The guest token expired."""

    expires_at: datetime
    noticed_late_ms: int


class ClockSetBack(SessionEvent, frozen=True, kw_only=True):
    """The database's clock was set back while the session waited. The wait and the deadline end so much earlier by it."""

    back_ms: int


class SessionAbandoned(SessionEvent, frozen=True, kw_only=True):
    """Failures or the deadline ended the session. Ends the stream."""

    cause: Cause
    attempts: int


EVENT_TYPES: Mapping[str, type[Event]] = {
    # By name: a class is never renamed, as stored logs contain its name.
    kind.__name__: kind
    for kind in (
        ConsentRecorded, ConsentRefused, ChannelValidated, ChannelRejected, ChannelLookupFailed,
        CreationDeferred, CreationAttempted, CreationThrottled, CreationFailed, SessionCreated,
        DuplicateCreated, DoubtLifted, SessionParked, RetryDecided, AbandonmentDecided, SessionAdopted,
        GuestTokenFound, WebhookSynced, WebhookFailed, WebhookAbandoned, WebhookRedeliveryRequested,
        ConsentWithdrawn, MarketingWithdrawn, TokenExpired, TokenPurged, ContactErased, LegalHoldPlaced,
        LegalHoldReleased, ClockSetBack, SessionAbandoned, GuestErased, PersonalDataRevealed,
    )
}  # fmt: skip
