"""The events of a guest session: past tense, frozen, each with a schema version.

Times are UTC, durations are whole milliseconds (`_ms`), and no number is a float (`guestledger.engine.log.codec`). Every event names
its channel, so that each can be read, counted and projected by itself.
"""

from datetime import datetime
from enum import StrEnum
from typing import ClassVar

from guestledger.engine.domain.consent import Consent
from guestledger.engine.domain.personal import Guarded, Personal
from guestledger.engine.limits.policy import DenialReason


class FailureKind(StrEnum):
    """What is known about a request that did not succeed."""

    UNSENT = "unsent"
    """It never left this machine: connect refused, no such host."""
    UNAVAILABLE = "unavailable"
    """It failed, and it is known that nothing came of it: it may be tried again."""
    IN_DOUBT = "in_doubt"
    """It was sent and its answer is lost, or says nothing: a session may exist at CXone."""
    REJECTED = "rejected"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"

    @property
    def is_final(self) -> bool:
        """Whether the same request would only fail again."""
        return self in (FailureKind.REJECTED, FailureKind.UNAUTHORIZED, FailureKind.FORBIDDEN)

    @property
    def counts(self) -> bool:
        """Whether it is held against the request. What was never sent is not: only the deadline ends that."""
        return self is not FailureKind.UNSENT


class Guest(Guarded, frozen=True, kw_only=True):
    """Who asked, as given: the request without its consent. `timestamp` is the guest's own text."""

    source: str
    campaign: str
    device_type: str
    fingerprint: Personal
    ip_address: Personal
    user_agent: Personal
    timestamp: str
    subject_id: str | None
    idempotency_key: str | None
    request_sha256: Personal
    """Whoever has a guess at the rest could try addresses against it. Tells the same request sent twice from another one under the same key."""


class Event(Guarded, frozen=True, kw_only=True):
    """What happened in one session. `at` is when, by the engine's clock; the store adds when it was recorded."""

    schema_version: ClassVar[int] = 1

    at: datetime
    channel_id: str


class ConsentRecorded(Event, frozen=True, kw_only=True):
    """A request was accepted with consent that suffices. Opens the stream."""

    guest: Guest
    consent: Consent


class ConsentRefused(Event, frozen=True, kw_only=True):
    """Consent did not suffice, so no request left the machine. Opens and ends the stream."""

    guest: Guest
    failed: tuple[str, ...]
    given: dict[str, str]
    """What was given for each failed flag, as JSON text."""


class ChannelValidated(Event, frozen=True, kw_only=True):
    """The channel can take a session."""

    status: str
    protocols: tuple[str, ...]
    looked_up_at: datetime
    cached: bool


class ChannelRejected(Event, frozen=True, kw_only=True):
    """The channel cannot take a session. Ends the stream."""

    reason: str
    looked_up_at: datetime
    cached: bool


class ChannelLookupFailed(Event, frozen=True, kw_only=True):
    """CXone did not say what the channel is. Retried at `retry_at`; `None` means never: ends the stream."""

    schema_version: ClassVar[int] = 2

    lookup: int
    kind: FailureKind | None
    """`None` when CXone throttled the look-up."""
    status: int | None
    message: str
    wait_ms: int | None
    reason: str | None
    """Why it waits just so long; `None`: it is not retried."""
    retry_at: datetime | None


class CreationDeferred(Event, frozen=True, kw_only=True):
    """An attempt, or the look-up before it, was due and has not been made: what is known of the API held it back."""

    limiter: str
    """Whose: the API's host and quota scope."""
    held_by: DenialReason
    reason: str
    wait_ms: int
    retry_at: datetime


class CreationAttempted(Event, frozen=True, kw_only=True):
    """A creation request is about to be sent. Committed before its POST."""

    attempt: int
    idempotency_key: str
    request_sha256: Personal


class CreationThrottled(Event, frozen=True, kw_only=True):
    """CXone answered 429."""

    attempt: int
    status: int
    retry_after_given: str | None
    retry_after_ms: int
    wait_ms: int
    reason: str
    retry_at: datetime


class CreationFailed(Event, frozen=True, kw_only=True):
    """The attempt did not yield a session that is known. Retried at `retry_at`; `None` means never."""

    schema_version: ClassVar[int] = 2

    attempt: int
    kind: FailureKind
    status: int | None
    message: str
    wait_ms: int | None
    reason: str | None
    """Why it waits just so long; `None`: it is not retried."""
    retry_at: datetime | None


class SessionCreated(Event, frozen=True, kw_only=True):
    """CXone made the session."""

    attempt: int
    session_id: str
    guest_token: Personal
    expires_at: datetime
    status: str
    attempt_latency_ms: int
    latency_ms: int
    """Since the request was accepted, waits included."""


class DuplicateCreated(Event, frozen=True, kw_only=True):
    """A late answer shows a remote session that nobody uses."""

    attempt: int
    session_id: str


class DoubtLifted(Event, frozen=True, kw_only=True):
    """A late answer to an attempt that was in doubt: CXone surely made nothing of it."""

    attempt: int
    kind: FailureKind | None
    """`None` when CXone throttled the attempt."""
    status: int | None
    message: str
    retry_at: datetime | None
    """When the next attempt may be made, if it was this doubt that the session waited on; `None`: it goes on as before."""


class SessionParked(Event, frozen=True, kw_only=True):
    """An attempt is in doubt, and a person is to decide: the retry that its failure planned is not made."""

    attempt: int
    reason: str


class RetryDecided(Event, frozen=True, kw_only=True):
    """A person had a parked session attempted again. Failures and deadline count anew from here."""

    decided_by: str
    reason: str


class AbandonmentDecided(Event, frozen=True, kw_only=True):
    """A person gave a parked session up. Ends the stream."""

    decided_by: str
    reason: str
    attempts: int


class SessionAdopted(Event, frozen=True, kw_only=True):
    """A person found at CXone the session that a parked attempt had made."""

    decided_by: str
    reason: str
    attempt: int
    session_id: str
    guest_token: Personal | None
    """`None`: it was not to be had, so the session is accounted for, and no guest can be let in with it from here."""
    expires_at: datetime


class GuestTokenFound(Event, frozen=True, kw_only=True):
    """A late answer brings the token of the very session that a person adopted without it."""

    attempt: int
    guest_token: Personal


class WebhookSynced(Event, frozen=True, kw_only=True):
    """The analytics webhook took the notice (2xx)."""

    attempt: int
    status: int
    latency_ms: int


class WebhookFailed(Event, frozen=True, kw_only=True):
    """The analytics webhook did not take the notice; it is sent again at `retry_at`."""

    schema_version: ClassVar[int] = 2

    attempt: int
    status: int | None
    message: str
    latency_ms: int
    retry_after_given: str | None
    """The receiver's `Retry-After` (429, 503) as given, and what it was read as; `None`: it gave none."""
    retry_after_ms: int | None
    wait_ms: int
    reason: str
    """Why it waits just so long."""
    retry_at: datetime


class WebhookAbandoned(Event, frozen=True, kw_only=True):
    """The analytics webhook was given up. Kept for redelivery."""

    attempts: int
    status: int | None
    reason: str


class WebhookRedeliveryRequested(Event, frozen=True, kw_only=True):
    """Somebody asked for the notice to be sent anew, from the beginning of the schedule; its `webhook-id` stays."""

    requested_by: str
    reason: str


class TokenExpired(Event, frozen=True, kw_only=True):
    """The guest token's time has passed."""

    expires_at: datetime
    noticed_late_ms: int


class SessionAbandoned(Event, frozen=True, kw_only=True):
    """Attempts or the deadline are exhausted. Ends the stream."""

    reason: str
    attempts: int
