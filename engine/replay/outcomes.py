"""What events say of the answers that led to them: outcomes, waits, and the share of jitter in a wait."""

import json
import math
from datetime import datetime, timedelta
from typing import Any

from msgspec.structs import replace

from guestledger.engine.domain import events as e
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.consent import is_cut
from guestledger.engine.domain.outcomes import Channel, Created, Delivery, Failed, Throttled
from guestledger.engine.domain.request import GuestConsent, GuestRequest
from guestledger.engine.limits.retry import RetryAfter, RetryPolicy, Wait, WaitBasis

_MAX_JITTER = math.nextafter(1.0, 0.0)


def request_of(event: e.ConsentRecorded | e.ConsentRefused) -> GuestRequest:
    """The guest's request. What is sealed in the event stays a commitment."""
    guest = event.guest
    return GuestRequest(
        channel_id=event.channel_id,
        ip_address=guest.ip_address,
        user_agent=guest.user_agent,
        timestamp=guest.timestamp,
        source=guest.source,
        campaign=guest.campaign,
        device_type=guest.device_type,
        consent=_asked(event),
        idempotency_key=guest.idempotency_key,
        subject_id=guest.subject_id,
    )


def _asked(event: e.ConsentRecorded | e.ConsentRefused) -> GuestConsent:
    if isinstance(event, e.ConsentRecorded):
        evidence, marketing, notice = event.consent.evidence, event.consent.marketing, event.consent.notice
        data_processing = gdpr_compliant = True
    else:
        evidence, marketing, notice = event.evidence, event.marketing, event.notice
        # Of a value that was cut, what is left stands for it: a text is no consent either.
        given: dict[str, Any] = {name: text if is_cut(text) else json.loads(text) for name, text in event.given.items()}
        data_processing, gdpr_compliant = given.get("dataProcessing", True), given.get("gdprCompliant", True)
    return GuestConsent(
        data_processing=data_processing,
        gdpr_compliant=gdpr_compliant,
        marketing=marketing,
        notice=notice,
        notice_language=evidence.notice.language if evidence.notice else None,
        notice_sha256=evidence.notice.sha256 if evidence.notice else None,
        collection_method=evidence.collection_method,
    )


def channel_of(event: e.ChannelValidated | e.ChannelRejected) -> Channel:
    """The channel as it was described."""
    known = Channel(id=event.channel_id, looked_up_at=event.looked_up_at, cached=event.cached)
    if isinstance(event, e.ChannelRejected):
        return replace(known, problem=event.cause, detail=event.detail)
    return replace(known, status=event.status, protocols=event.protocols)


def created(session_id: str, guest_token: str = "", expires_at: datetime | None = None, latency_ms: int = 0) -> Created:
    """An answer with a session."""
    return Created(
        session_id=session_id, guest_token=guest_token, expires_at=expires_at, status="active", latency_ms=latency_ms
    )


def created_by(event: e.SessionCreated) -> Created:
    """The answer that brought the session."""
    return Created(
        session_id=event.session_id,
        guest_token=event.guest_token,
        expires_at=event.expires_at,
        status=event.status,
        unread=event.unread,
        latency_ms=event.attempt_latency_ms,
    )


def failed(event: e.CreationFailed | e.ChannelLookupFailed) -> Failed:
    """The failure. Raises `AssertionError` for a look-up that was throttled."""
    assert event.kind is not None
    return Failed(
        kind=event.kind,
        cause=event.cause,
        status=event.status,
        detail=event.detail,
        session_id=event.session_id if isinstance(event, e.CreationFailed) else None,
        retry_after=asked_by_server(event.wait),
    )


def throttled(status: int | None, wait: Wait) -> Throttled:
    """The answer that asked for this wait."""
    return Throttled(status=status, retry_after=_asked_for(wait))


def lifted_by(event: e.DoubtLifted) -> Throttled | Failed:
    """The late answer that ended the doubt, with the pause that it left."""
    pause_ms = 0 if event.retry_at is None else max(0, (event.retry_at - event.at) // timedelta(milliseconds=1))
    asked = RetryAfter(given=None, ms=pause_ms, basis=WaitBasis.RETRY_AFTER)
    if event.kind is None:
        return Throttled(status=event.status, retry_after=asked)
    return Failed(kind=event.kind, cause=event.cause, status=event.status, detail=event.detail, retry_after=asked)


def delivery_of(event: e.WebhookSynced | e.WebhookFailed | e.WebhookAbandoned) -> Delivery:
    """The answer of the webhook's receiver."""
    match event:
        case e.WebhookSynced():
            return Delivery(accepted=True, status=event.status, latency_ms=event.latency_ms)
        case e.WebhookFailed(wait=wait):
            asked = asked_by_server(wait)
            if wait.basis is WaitBasis.SCHEDULE and wait.given is not None:  # shorter than the schedule
                asked = RetryAfter(given=wait.given, ms=0, basis=WaitBasis.RETRY_AFTER)
            latency_ms = event.latency_ms
        case e.WebhookAbandoned():
            asked = None
            if event.cause is Cause.WAIT_TOO_LONG:
                wait_ms = int(event.detail.removesuffix(" ms"))
                asked = RetryAfter(given=None, ms=wait_ms, basis=WaitBasis.RETRY_AFTER)
            latency_ms = 0
    return Delivery(
        accepted=False,
        gone=event.cause is Cause.RECEIVER_GONE,
        cause=event.cause,
        status=event.status,
        detail=event.detail,
        latency_ms=latency_ms,
        retry_after=asked,
    )


def asked_by_server(wait: Wait | None) -> RetryAfter | None:
    """What the server asked for; `None`: nothing, or less than the schedule of the webhook."""
    if wait is None or wait.basis in (WaitBasis.BACKOFF, WaitBasis.SCHEDULE):
        return None
    return _asked_for(wait)


def _asked_for(wait: Wait) -> RetryAfter:
    return RetryAfter(given=wait.given, ms=wait.basis_ms, basis=wait.basis)


def jitter_of(wait: Wait | None, tries: int, policy: RetryPolicy) -> float:
    """The jitter that gives this backoff."""
    ceiling = min(policy.cap_ms, policy.base_ms * 2 ** min(tries - 1, 32))
    return 0.0 if wait is None else share(wait.extra_ms, ceiling)


def share(part: int, whole: float) -> float:
    """Which share of `whole`, rounded down to whole ms, is `part`: in [0, 1). No jitter gives a part of `whole` or more."""
    return min((part + 0.5) / whole, _MAX_JITTER) if whole >= 1 else 0.0
