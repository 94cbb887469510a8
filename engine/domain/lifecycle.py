"""The lifecycle: `decide` turns a command into events, `next_step` says what a session needs next.

Both are pure. Time and jitter come in as arguments; what came back from outside comes in as a command.
"""

from datetime import datetime, timedelta
from typing import assert_never

import msgspec

from guestledger.engine.domain import events as e
from guestledger.engine.domain.commands import (
    BeginAttempt,
    BeginLookup,
    Command,
    Defer,
    Expire,
    OpenSession,
    RecordAttempt,
    RecordDelivery,
    RecordLookup,
    RequestRedelivery,
    Resolve,
)
from guestledger.engine.domain.consent import Consent, fingerprint, refused_flags
from guestledger.engine.domain.creation import (
    begin_attempt,
    begin_lookup,
    defer,
    record_attempt,
    record_lookup,
    whole_ms,
)
from guestledger.engine.domain.delivery import DeliveryPolicy, record_delivery, request_redelivery
from guestledger.engine.domain.doubt import resolve
from guestledger.engine.domain.request import request_digest
from guestledger.engine.domain.session import Session, Status
from guestledger.engine.limits.policy import LimiterPolicy
from guestledger.engine.limits.retry import RetryPolicy


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What is a matter of choice in the lifecycle."""

    creation: RetryPolicy = RetryPolicy()
    webhook: DeliveryPolicy = DeliveryPolicy()
    limiter: LimiterPolicy = LimiterPolicy()
    webhook_enabled: bool = True


class ValidateChannel(msgspec.Struct, frozen=True):
    """Ask CXone whether the channel can take a session."""

    not_before: datetime


class AttemptCreation(msgspec.Struct, frozen=True):
    """Ask CXone for the session."""

    not_before: datetime


class SyncWebhook(msgspec.Struct, frozen=True):
    """Tell the analytics webhook."""

    not_before: datetime


class ExpireToken(msgspec.Struct, frozen=True):
    """Record that the token's time has passed."""

    not_before: datetime


Step = ValidateChannel | AttemptCreation | SyncWebhook | ExpireToken


def next_step(state: Session, policy: Policy) -> Step | None:
    """What is to be done next, and not before when; `None` once nothing will ever be, or until a person has decided."""
    match state.status:
        case Status.PENDING if _is_unseen(state):
            return ValidateChannel(state.due_since)
        case Status.PENDING | Status.ATTEMPTING | Status.THROTTLED | Status.IN_DOUBT:
            return AttemptCreation(state.due_since)
        case Status.ACTIVE | Status.EXPIRED:
            return _after_creation(state, policy)
        case Status.NEW | Status.PARKED | Status.REFUSED | Status.REJECTED | Status.ABANDONED:
            return None
        case _:
            assert_never(state.status)


def ends_at(state: Session, policy: Policy) -> datetime | None:
    """When something is to be recorded whether or not the next step could be taken by then; `None`: never.

    A session that has come to nothing by its deadline is given up, and a token expires, be the webhook told or not. An attempt
    that nobody works on any more is in doubt, and that is to be known, and perhaps decided by a person, at once.
    """
    match state.status:
        case Status.ATTEMPTING:
            return state.due_since
        case Status.PENDING | Status.THROTTLED | Status.IN_DOUBT:
            assert state.deadline_from is not None
            return state.deadline_from + timedelta(milliseconds=policy.creation.deadline_ms + 1)  # at it, a try is made
        case Status.ACTIVE:
            return state.expires_at
        case _:
            return None


def _after_creation(state: Session, policy: Policy) -> Step | None:
    assert state.created_at is not None
    assert state.expires_at is not None
    expire = ExpireToken(state.expires_at) if state.status is Status.ACTIVE else None
    if state.webhook_settled or not policy.webhook_enabled:
        return expire
    sync = SyncWebhook(state.webhook_retry_at or state.created_at)
    return expire if expire is not None and expire.not_before < sync.not_before else sync


def decide(state: Session, command: Command, policy: Policy) -> list[e.Event]:
    """The events that `command` makes of a session in `state`: none when it no longer matters there."""
    match command:
        case OpenSession():
            return [_open(command)] if state.status is Status.NEW else []
        case BeginLookup():
            return begin_lookup(state, command, policy.creation) if _is_unseen(state) else []
        case RecordLookup():
            return record_lookup(state, command, policy.creation) if _is_unseen(state) else []
        case BeginAttempt():
            return begin_attempt(state, command, policy.creation)
        case Defer():
            return defer(state, command, policy.creation)
        case RecordAttempt():
            return record_attempt(state, command, policy.creation)
        case RecordDelivery():
            return record_delivery(state, command, policy.webhook)
        case RequestRedelivery():
            return request_redelivery(state, command, enabled=policy.webhook_enabled)
        case Resolve():
            return resolve(state, command)
        case Expire():
            return _expire(state, command.now)
        case _:
            assert_never(command)


def _is_unseen(state: Session) -> bool:
    """Whether its channel is yet to be looked up."""
    return state.status is Status.PENDING and not state.channel_validated


def _open(command: OpenSession) -> e.Event:
    request, now = command.request, command.now
    guest = e.Guest(
        source=request.source,
        campaign=request.campaign,
        device_type=request.device_type,
        fingerprint=fingerprint(request),
        ip_address=request.ip_address,
        user_agent=request.user_agent,
        timestamp=request.timestamp,
        subject_id=request.subject_id,
        idempotency_key=request.idempotency_key,
        request_sha256=request_digest(request),
    )
    asked = request.consent
    if refused := refused_flags(asked):
        return e.ConsentRefused(
            at=now, channel_id=request.channel_id, guest=guest, failed=tuple(refused), given=refused
        )
    consent = Consent(
        data_processing=True, gdpr_compliant=True, marketing=asked.marketing, timestamp=now, notice=asked.notice
    )
    return e.ConsentRecorded(at=now, channel_id=request.channel_id, guest=guest, consent=consent)


def _expire(state: Session, now: datetime) -> list[e.Event]:
    if state.status is not Status.ACTIVE or state.expires_at is None or now < state.expires_at:
        return []
    return [
        e.TokenExpired(
            at=now,
            channel_id=state.channel_id,
            expires_at=state.expires_at,
            noticed_late_ms=whole_ms(now - state.expires_at),
        )
    ]
