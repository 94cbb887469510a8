"""The state of a guest session."""

from datetime import datetime
from enum import StrEnum
from uuid import UUID

from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.consent import Consent, Guest
from guestledger.engine.domain.personal import Guarded, Personal, Sealed, clear


class Status(StrEnum):
    """`docs/architecture.md` draws the transitions; a test compares them with `evolve`."""

    NEW = "new"
    PENDING = "pending"
    ATTEMPTING = "attempting"
    THROTTLED = "throttled"
    IN_DOUBT = "in_doubt"
    PARKED = "parked"
    ACTIVE = "active"
    EXPIRED = "expired"
    REFUSED = "refused"
    REJECTED = "rejected"
    ABANDONED = "abandoned"
    WITHDRAWN = "withdrawn"
    """The guest withdrew the consent. Every accepted session can end so, also one that is over."""

    @property
    def is_settled(self) -> bool:
        """Whether the guest has an answer: a session was made, or none will be."""
        return self in _SETTLED


_ENDED = frozenset({Status.EXPIRED, Status.REFUSED, Status.REJECTED, Status.ABANDONED, Status.WITHDRAWN})
_SETTLED = _ENDED | {Status.ACTIVE}


class WebhookNotice(StrEnum):
    """What a webhook call says: the `event` in its body."""

    SESSION_STARTED = "session_started"
    CONSENT_WITHDRAWN = "consent_withdrawn"


class Session(Guarded, frozen=True, kw_only=True):
    """One guest session as its events describe it. `version` is the number of events folded; times are UTC."""

    id: UUID
    version: int = 0
    status: Status = Status.NEW
    cause: Cause | None = None
    """Why it is not active: the last failure, or how it ended."""
    detail: str | None = None
    """Facts that belong to the cause, such as the provider's message."""

    channel_id: str = ""
    guest: Guest | None = None
    consent: Consent | None = None
    accepted_at: datetime | None = None
    withdrawn_at: datetime | None = None

    channel_validated: bool = False
    lookups: int = 0
    """Look-ups without an answer, throttled ones included."""
    lookups_failed: int = 0
    attempts: int = 0
    throttles: int = 0
    failures: int = 0
    """Attempts that were sent and failed. A person's retry sets it to 0."""
    deadline_from: datetime | None = None
    """The start of the deadline: the acceptance, or a person's retry."""
    retry_at: datetime | None = None
    budget_waits: int = 0
    """Deferrals for a spent retry budget since the last request."""
    in_doubt: tuple[int, ...] = ()
    """The attempts that may have made a session unknown to us."""

    session_id: str | None = None
    """The provider's id."""
    shared_with: UUID | None = None
    """The earlier session with the same `session_id`: see `SessionCreated`."""
    guest_token: Personal | None = None
    created_at: datetime | None = None
    expires_at: datetime | None = None
    latency_ms: int | None = None
    duplicates: tuple[str, ...] = ()

    erased_at: datetime | None = None
    """When the guest's personal data was erased, the token included."""

    webhook_owed: bool = False
    webhook_attempts: int = 0
    webhook_failures: int = 0
    """Failed calls in a row since the schedule began."""
    webhook_retry_at: datetime | None = None
    webhook_erased: bool = False
    """An erasure gave up the notice of the start. If a call was under way, its outcome is still recorded."""

    ended_at: datetime | None = None
    """Since when it is over (`is_over`). Retention counts from here."""
    token_purged_at: datetime | None = None
    """When the guest token was deleted: `guest_token` is `None` since then."""
    contact_erased_at: datetime | None = None
    """When the contact data was deleted: `guest` holds commitments only since then."""
    held_since: datetime | None = None
    """Since when a legal hold keeps the contact data; `None`: there is none."""

    @property
    def is_over(self) -> bool:
        """Whether nothing more is done for the guest, and no notice is owed.

        A token without an expiry time never ends: its session is over once it was created and reported.
        """
        ended = self.status in _ENDED or (self.status is Status.ACTIVE and self.expires_at is None)
        return ended and not self.webhook_owed

    @property
    def lacks_token(self) -> bool:
        """Whether it has no guest token, and none was deleted after its expiry: an active one was adopted without it."""
        return self.guest_token is None and self.token_purged_at is None

    @property
    def held(self) -> bool:
        """Whether a legal hold keeps the contact data."""
        return self.held_since is not None

    @property
    def notice(self) -> WebhookNotice:
        """What its webhook calls say: once the consent is withdrawn, that alone."""
        withdrawn = self.status is Status.WITHDRAWN
        return WebhookNotice.CONSENT_WITHDRAWN if withdrawn else WebhookNotice.SESSION_STARTED

    @property
    def due_since(self) -> datetime:
        """When the next step towards creation may start."""
        due = self.retry_at or self.accepted_at
        assert due is not None, "a session without events has nothing due"
        return due

    @property
    def is_revealed(self) -> bool:
        """Whether the guest's values are here in clear. A request to the outside needs them."""
        return self.guest is not None and not isinstance(self.guest.fingerprint, Sealed)

    @property
    def is_retried(self) -> bool:
        """Whether a request failed other than by a throttle: the next one then uses the retry budget."""
        return self.attempts > self.throttles or self.lookups_failed > 0

    def for_guest(self, *, token: bool = False) -> dict[str, str | None]:
        """Return what the guest's browser may see, ready for JSON: `id`, `status`, `retryAt`; `token` only if asked.

        `token` is null unless it is in clear here: `Ledger.session(id, token=True)` opens it.
        """
        waits = self.retry_at is not None and not self.status.is_settled
        retry_at = f"{self.retry_at:%Y-%m-%dT%H:%M:%S.%fZ}" if waits else None
        answer = {"id": str(self.id), "status": self.status.value, "retryAt": retry_at}
        return {**answer, "token": clear(self.guest_token)} if token else answer
