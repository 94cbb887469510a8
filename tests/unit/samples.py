"""Sample values of one guest session. A builder gives a plausible value; a test overrides the fields that matter to it."""

from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

from guestledger.engine.domain import events as e
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.commands import (
    BeginAttempt,
    DeferCreation,
    EnforceDeadline,
    EraseContact,
    EraseGuest,
    ExpireToken,
    OpenSession,
    PlaceHold,
    PurgeToken,
    RecordAttempt,
    RecordDelivery,
    RecordLookup,
    ReleaseHold,
    RequestRedelivery,
    Resolve,
    SettleAttempt,
    WithdrawConsent,
)
from guestledger.engine.domain.consent import Consent, Evidence, Guest
from guestledger.engine.domain.consent_terms import ConsentFlag, ConsentPurpose, ConsentTerms, Party, PrivacyNotice
from guestledger.engine.domain.outcomes import (
    Adoption,
    Channel,
    Created,
    CreationOutcome,
    Delivery,
    Failed,
    FailureKind,
    LookupOutcome,
    Resolution,
    Throttled,
)
from guestledger.engine.domain.personal import Purpose
from guestledger.engine.domain.request import GuestConsent, GuestRequest
from guestledger.engine.domain.session import Status, WebhookNotice
from guestledger.engine.limits.admission import DenialReason, Denied
from guestledger.engine.limits.feedback import Observation
from guestledger.engine.limits.retry import RetryAfter, Wait, WaitBasis

E = TypeVar("E", bound=e.Event)

SESSION = UUID("018f96c2-7a60-7000-8000-0000000000a1")
ERASURE = UUID("018f96c2-7a60-7000-8000-0000000000e1")
CHANNEL = "ch_8f3a9b2c"
IP = "203.0.113.7"
USER_AGENT = "Mozilla/5.0 (X11; Linux x86_64)"
TOKEN = "gt_7x2k9m4p8q1w"
HMAC_KEY = "5a" * 32
FINGERPRINT = "9962424f026411c0bfe008ca69ea4980f20b5086dc83fac2318703b7127c8d00"
START = datetime(2024, 5, 20, 14, 22, tzinfo=UTC)
EXPIRY = START + timedelta(hours=1)


def at(seconds: float) -> datetime:
    """This many seconds after the request was accepted."""
    return START + timedelta(seconds=seconds)


# Requests


def consent(**given: Any) -> GuestConsent:
    return GuestConsent(**{"data_processing": True, "gdpr_compliant": True, **given})


def request(**given: Any) -> GuestRequest:
    plain = {
        "channel_id": CHANNEL,
        "ip_address": IP,
        "user_agent": USER_AGENT,
        "timestamp": "2024-05-20T14:21:59Z",
        "consent": consent(),
    }
    return GuestRequest(**{**plain, **given})


# Outcomes


def channel(**given: Any) -> Channel:
    plain = {"id": CHANNEL, "status": "active", "protocols": ("web_chat", "sms"), "looked_up_at": START}
    return Channel(**{**plain, **given})


def created(**given: Any) -> Created:
    plain = {
        "session_id": "sess_9d4e8f1a",
        "guest_token": TOKEN,
        "expires_at": EXPIRY,
        "status": "active",
        "latency_ms": 120,
    }
    return Created(**{**plain, **given})


def unusable(problem: Cause = Cause.CHANNEL_INACTIVE, **given: Any) -> Channel:
    return channel(**{"problem": problem, "detail": "inactive", "status": "inactive", **given})


def retry_after(ms: int) -> RetryAfter:
    return RetryAfter(given=f"{ms // 1_000}", ms=ms, basis=WaitBasis.RETRY_AFTER)


def throttled(retry_after_ms: int = 2_000) -> Throttled:
    return Throttled(status=429, retry_after=retry_after(retry_after_ms))


CAUSES = {
    FailureKind.UNSENT: Cause.CONNECTION_REFUSED,
    FailureKind.UNAVAILABLE: Cause.SERVER_ERROR,
    FailureKind.IN_DOUBT: Cause.ANSWER_TIMEOUT,
    FailureKind.FINAL: Cause.REJECTED,
}
DETAIL = "E42"


def failed(
    kind: FailureKind = FailureKind.UNAVAILABLE, status: int | None = None, retry_after_ms: int | None = None
) -> Failed:
    return Failed(
        kind=kind,
        cause=CAUSES[kind],
        status=status,
        detail=DETAIL,
        retry_after=None if retry_after_ms is None else retry_after(retry_after_ms),
        observation=Observation.SUCCESS if kind is FailureKind.FINAL else Observation.FAILED,
    )


def delivered(status: int | None = 200, retry_after_ms: int | None = None) -> Delivery:
    """The delivery that a webhook sender makes of an answer with this status; `None`: no answer came."""
    accepted = status is not None and 200 <= status < 300
    cause = Cause.CONNECTION_REFUSED if status is None else Cause.NOT_ACCEPTED
    return Delivery(
        accepted=accepted,
        gone=status == 410,
        cause=None if accepted else cause,
        status=status,
        detail="" if accepted else DETAIL,
        latency_ms=30,
        retry_after=None if retry_after_ms is None else retry_after(retry_after_ms),
    )


# Commands


def open_session(now: datetime = START, **given: Any) -> OpenSession:
    return OpenSession(hmac_key=HMAC_KEY, request=request(**given), now=now)


def look_up(outcome: LookupOutcome, now: datetime = START, jitter: float = 0.5) -> RecordLookup:
    return RecordLookup(outcome=outcome, now=now, jitter=jitter)


def begin(now: datetime = START) -> BeginAttempt:
    return BeginAttempt(request_hmac="ab" * 32, now=now)


def settle(attempt: int = 1, now: datetime = START, jitter: float = 0.5) -> SettleAttempt:
    return SettleAttempt(attempt=attempt, now=now, jitter=jitter)


def enforce(now: datetime) -> EnforceDeadline:
    return EnforceDeadline(now=now)


def answer(outcome: CreationOutcome, attempt: int = 1, now: datetime = START, jitter: float = 0.5) -> RecordAttempt:
    return RecordAttempt(attempt=attempt, outcome=outcome, now=now, jitter=jitter)


LIMITER = "api.example.com sessions"


def deferred(denied: Denied, now: datetime = START, jitter: float = 0.5) -> DeferCreation:
    return DeferCreation(limiter=LIMITER, denied=denied, now=now, jitter=jitter)


def deliver(
    outcome: Delivery,
    now: datetime = START,
    jitter: float = 0.5,
    notice: WebhookNotice = WebhookNotice.SESSION_STARTED,
) -> RecordDelivery:
    return RecordDelivery(notice=notice, outcome=outcome, now=now, jitter=jitter)


def redeliver(now: datetime = START) -> RequestRedelivery:
    return RequestRedelivery(requested_by="ops", reason="the receiver is up again", now=now)


def adoption(**given: Any) -> Adoption:
    return Adoption(**{"session_id": "sess_found", "expires_at": EXPIRY, "guest_token": TOKEN, **given})


def resolve(resolution: Resolution, now: datetime = START) -> Resolve:
    return Resolve(resolution=resolution, decided_by="ops", reason="checked with the provider", now=now)


def erase(now: datetime = START) -> EraseGuest:
    return EraseGuest(erased_by="ops", reason="asked by mail", erasure=ERASURE, now=now)


def withdraw(now: datetime = START, *, marketing_only: bool = False) -> WithdrawConsent:
    return WithdrawConsent(marketing_only=marketing_only, requested_by="guest", reason="by e-mail", now=now)


def expire(now: datetime) -> ExpireToken:
    return ExpireToken(now=now)


def purge(now: datetime) -> PurgeToken:
    return PurgeToken(now=now)


def erase_contact(now: datetime) -> EraseContact:
    return EraseContact(now=now)


def hold(now: datetime = START) -> PlaceHold:
    return PlaceHold(placed_by="counsel", reason="matter 17", now=now)


def release(now: datetime = START) -> ReleaseHold:
    return ReleaseHold(released_by="counsel", reason="matter 17 is closed", now=now)


# Events

GUEST = Guest(
    source="web",
    campaign="organic",
    device_type="desktop",
    fingerprint=FINGERPRINT,
    ip_address=IP,
    user_agent=USER_AGENT,
    timestamp="2024-05-20T14:21:59Z",
    subject_id="person-17",
    idempotency_key="order-4711",
    hmac_key=HMAC_KEY,
)


def _event(kind: type[E], plain: dict[str, Any], given: dict[str, Any]) -> E:
    return kind(**{"at": START, "channel_id": CHANNEL, **plain, **given})


TERMS = ConsentTerms(
    version="2024-05",
    controllers=(
        Party(
            id="example",
            name="Example Ltd",
            address="1 Example Street, Dublin, Ireland",
            contact="privacy@example.com",
            type="controller",
        ),
    ),
    recipients=(
        Party(
            id="chat",
            name="Chat Provider Inc",
            address="2 Example Street, Dublin, Ireland",
            contact="dpo@chat.example",
            type="processor",
        ),
    ),
    purposes=(
        ConsentPurpose(
            flag=ConsentFlag.DATA_PROCESSING,
            purpose="To answer you in the chat",
            lawful_basis="consent (GDPR article 6(1)(a))",
            pii=("IP address", "browser"),
            retention_period="30 days after the chat",
            recipients=("chat",),
        ),
        ConsentPurpose(
            flag=ConsentFlag.MARKETING,
            purpose="To send you offers",
            lawful_basis="consent (GDPR article 6(1)(a))",
            pii=("IP address",),
            retention_period="until withdrawn",
            recipients=(),
        ),
    ),
    consent_type="explicit: a box that the guest ticks",
    collection_method="web form",
    validity_duration="until withdrawn",
    jurisdiction="IE",
    storage_locations=("IE",),
    withdrawal_method="https://example.com/withdraw",
)
NOTICE = PrivacyNotice(id="privacy-2024-05", language="en", sha256="cd" * 32, url="https://example.com/privacy")
EVIDENCE = Evidence(record_version=1, notice=NOTICE, terms=TERMS)


def recorded_consent(**given: Any) -> Consent:
    plain = {
        "data_processing": True,
        "gdpr_compliant": True,
        "marketing": False,
        "timestamp": START,
        "notice": "privacy-2024-05",
        "evidence": EVIDENCE,
    }
    return Consent(**{**plain, **given})


def was_recorded(**given: Any) -> e.ConsentRecorded:
    recorded = recorded_consent()
    return _event(e.ConsentRecorded, {"guest": GUEST, "consent": recorded}, given)


def was_refused(**given: Any) -> e.ConsentRefused:
    return _event(
        e.ConsentRefused,
        {
            "guest": GUEST,
            "failed": ("gdprCompliant",),
            "given": {"gdprCompliant": '"true"'},
            "marketing": True,
            "notice": "privacy-2024-05",
            "evidence": EVIDENCE,
        },
        given,
    )


def was_validated(**given: Any) -> e.ChannelValidated:
    plain = {"status": "active", "protocols": ("web_chat", "sms"), "looked_up_at": START, "cached": False}
    return _event(e.ChannelValidated, plain, given)


def was_rejected(**given: Any) -> e.ChannelRejected:
    plain = {"cause": Cause.CHANNEL_INACTIVE, "detail": "inactive", "looked_up_at": START, "cached": True}
    return _event(e.ChannelRejected, plain, given)


BACKOFF = Wait(ms=250, basis=WaitBasis.BACKOFF, extra_ms=250)
ASKED = Wait(ms=2_250, basis=WaitBasis.RETRY_AFTER, basis_ms=2_000, extra_ms=250, given="2")
SCHEDULED = Wait(ms=500, basis=WaitBasis.SCHEDULE, basis_ms=500)
HELD = Wait(ms=1_500, basis=WaitBasis.LIMITER, basis_ms=1_500)


def lookup_failed(kind: FailureKind | None = FailureKind.UNAVAILABLE, **given: Any) -> e.ChannelLookupFailed:
    plain = {
        "lookup": 1,
        "kind": kind,
        "cause": Cause.THROTTLED if kind is None else CAUSES[kind],
        "status": 429 if kind is None else 503,
        "detail": "" if kind is None else DETAIL,
        "wait": BACKOFF,
        "retry_at": at(0.25),
    }
    return _event(e.ChannelLookupFailed, plain, given)


def was_attempted(attempt: int = 1, **given: Any) -> e.CreationAttempted:
    plain = {"attempt": attempt, "idempotency_key": str(SESSION), "request_hmac": "ab" * 32}
    return _event(e.CreationAttempted, plain, given)


def was_deferred(**given: Any) -> e.CreationDeferred:
    plain = {
        "limiter": LIMITER,
        "denied_by": DenialReason.CLOSED,
        "closed_by": WaitBasis.RETRY_AFTER,
        "wait": HELD,
        "retry_at": at(1.5),
    }
    return _event(e.CreationDeferred, plain, given)


def was_throttled(attempt: int = 1, **given: Any) -> e.CreationThrottled:
    plain = {"attempt": attempt, "status": 429, "wait": ASKED, "retry_at": at(2.25)}
    return _event(e.CreationThrottled, plain, given)


def has_failed(attempt: int = 1, kind: FailureKind = FailureKind.UNAVAILABLE, **given: Any) -> e.CreationFailed:
    final = kind is FailureKind.FINAL
    plain = {
        "attempt": attempt,
        "kind": kind,
        "cause": CAUSES[kind],
        "status": None,
        "detail": DETAIL,
        "wait": None if final else BACKOFF,
        "retry_at": None if final else at(0.25),
    }
    return _event(e.CreationFailed, plain, given)


def was_created(attempt: int = 1, **given: Any) -> e.SessionCreated:
    plain = {
        "attempt": attempt,
        "session_id": "sess_9d4e8f1a",
        "guest_token": TOKEN,
        "expires_at": EXPIRY,
        "status": "active",
        "attempt_latency_ms": 120,
        "latency_ms": 0,
        "webhook_owed": True,
    }
    return _event(e.SessionCreated, plain, given)


def was_duplicated(attempt: int = 1, session_id: str = "sess_second", **given: Any) -> e.DuplicateCreated:
    return _event(e.DuplicateCreated, {"attempt": attempt, "session_id": session_id}, given)


def doubt_lifted(attempt: int = 1, **given: Any) -> e.DoubtLifted:
    plain = {
        "attempt": attempt,
        "kind": FailureKind.FINAL,
        "cause": Cause.REJECTED,
        "status": 400,
        "detail": DETAIL,
        "retry_at": None,
    }
    return _event(e.DoubtLifted, plain, given)


def was_parked(attempt: int = 1, **given: Any) -> e.SessionParked:
    plain = {"attempt": attempt, "cause": Cause.ANSWER_TIMEOUT, "detail": DETAIL}
    return _event(e.SessionParked, plain, given)


DECIDED = {"decided_by": "ops", "reason": "checked with the provider"}


def retry_decided(**given: Any) -> e.RetryDecided:
    return _event(e.RetryDecided, {**DECIDED}, given)


def abandonment_decided(**given: Any) -> e.AbandonmentDecided:
    return _event(e.AbandonmentDecided, {**DECIDED, "attempts": 1}, given)


def was_adopted(attempt: int = 1, **given: Any) -> e.SessionAdopted:
    plain = {
        "attempt": attempt,
        "session_id": "sess_found",
        "guest_token": TOKEN,
        "expires_at": EXPIRY,
        "webhook_owed": True,
    }
    return _event(e.SessionAdopted, {**DECIDED, **plain}, given)


def token_found(attempt: int = 1, **given: Any) -> e.GuestTokenFound:
    return _event(e.GuestTokenFound, {"attempt": attempt, "guest_token": TOKEN}, given)


def was_synced(**given: Any) -> e.WebhookSynced:
    plain = {"notice": WebhookNotice.SESSION_STARTED, "attempt": 1, "status": 204, "latency_ms": 30}
    return _event(e.WebhookSynced, plain, given)


def webhook_failed(**given: Any) -> e.WebhookFailed:
    plain = {
        "notice": WebhookNotice.SESSION_STARTED,
        "attempt": 1,
        "cause": Cause.NOT_ACCEPTED,
        "status": 500,
        "detail": DETAIL,
        "latency_ms": 30,
        "wait": SCHEDULED,
        "retry_at": at(0.5),
    }
    return _event(e.WebhookFailed, plain, given)


def webhook_abandoned(**given: Any) -> e.WebhookAbandoned:
    plain = {
        "notice": WebhookNotice.SESSION_STARTED,
        "attempts": 6,
        "cause": Cause.CONNECTION_REFUSED,
        "status": None,
        "detail": DETAIL,
    }
    return _event(e.WebhookAbandoned, plain, given)


def redelivery_requested(**given: Any) -> e.WebhookRedeliveryRequested:
    plain = {"requested_by": "ops", "reason": "the receiver is up again"}
    return _event(e.WebhookRedeliveryRequested, plain, given)


def was_withdrawn(ended: Status = Status.ACTIVE, **given: Any) -> e.ConsentWithdrawn:
    owed = ended in (Status.ACTIVE, Status.EXPIRED)
    plain = {"requested_by": "guest", "reason": "by e-mail", "ended": ended, "webhook_owed": owed}
    return _event(e.ConsentWithdrawn, plain, given)


def marketing_withdrawn(**given: Any) -> e.MarketingWithdrawn:
    return _event(e.MarketingWithdrawn, {"requested_by": "guest", "reason": None}, given)


def has_expired(**given: Any) -> e.TokenExpired:
    return _event(e.TokenExpired, {"at": EXPIRY, "expires_at": EXPIRY, "noticed_late_ms": 0}, given)


def was_purged(**given: Any) -> e.TokenPurged:
    return _event(e.TokenPurged, {"at": EXPIRY}, given)


def contact_erased(**given: Any) -> e.ContactErased:
    plain = {"at": EXPIRY + timedelta(days=30), "ended_at": EXPIRY, "retention_days": 30}
    return _event(e.ContactErased, plain, given)


def was_held(**given: Any) -> e.LegalHoldPlaced:
    return _event(e.LegalHoldPlaced, {"placed_by": "counsel", "reason": "matter 17"}, given)


def was_released(**given: Any) -> e.LegalHoldReleased:
    return _event(e.LegalHoldReleased, {"released_by": "counsel", "reason": "matter 17 is closed"}, given)


def clock_set_back(**given: Any) -> e.ClockSetBack:
    return _event(e.ClockSetBack, {"back_ms": 7_200_000}, given)


def was_abandoned(**given: Any) -> e.SessionAbandoned:
    return _event(e.SessionAbandoned, {"cause": Cause.TOO_MANY_FAILURES, "attempts": 8}, given)


def was_erased(**given: Any) -> e.GuestErased:
    return _event(e.GuestErased, {"erased_by": "ops", "reason": "asked by mail", "erasure": ERASURE}, given)


def was_revealed(**given: Any) -> e.PersonalDataRevealed:
    plain = {"revealed_by": "ops-jane", "reason": "ticket 4711", "purposes": (Purpose.CONTACT,), "sessions": (SESSION,)}
    return e.PersonalDataRevealed(at=START, **(plain | given))


# Histories

OPEN = (was_recorded(),)
VALIDATED = (*OPEN, was_validated())
ATTEMPTING = (*VALIDATED, was_attempted())
THROTTLED = (*ATTEMPTING, was_throttled())
IN_DOUBT = (*ATTEMPTING, has_failed(kind=FailureKind.IN_DOUBT))
PARKED = (*IN_DOUBT, was_parked())
FAILED = (*ATTEMPTING, has_failed(kind=FailureKind.UNAVAILABLE))
ACTIVE = (*ATTEMPTING, was_created())
EXPIRED = (*ACTIVE, has_expired())
REFUSED = (was_refused(),)
REJECTED = (*OPEN, was_rejected())
ABANDONED = (*IN_DOUBT, was_abandoned(attempts=1))
WITHDRAWN = (*ACTIVE, was_synced(), was_withdrawn())

ONE_OF_EACH: tuple[e.Event, ...] = (
    was_recorded(),
    was_refused(),
    was_validated(),
    was_rejected(),
    lookup_failed(),
    was_deferred(),
    was_attempted(),
    was_throttled(),
    has_failed(kind=FailureKind.IN_DOUBT),
    was_created(),
    was_duplicated(),
    doubt_lifted(),
    was_parked(),
    retry_decided(),
    abandonment_decided(),
    was_adopted(),
    token_found(),
    was_synced(),
    webhook_failed(),
    webhook_abandoned(),
    redelivery_requested(),
    was_withdrawn(),
    marketing_withdrawn(),
    has_expired(),
    was_purged(),
    contact_erased(),
    was_held(),
    was_released(),
    clock_set_back(),
    was_abandoned(),
    was_erased(),
    was_revealed(),
)
