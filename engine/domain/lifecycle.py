"""`decide` turns a command into events."""

from typing import assert_never

from guestledger.engine.domain import events as e
from guestledger.engine.domain.commands import (
    BeginAttempt,
    Command,
    DeferCreation,
    EnforceDeadline,
    EraseContact,
    EraseGuest,
    ExpireToken,
    NoteClockSetBack,
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
from guestledger.engine.domain.consent import Consent, Guest, evidence, fingerprint, refused_flags
from guestledger.engine.domain.creation import begin_attempt, record_attempt, settle_attempt
from guestledger.engine.domain.delivery import record_delivery, request_redelivery
from guestledger.engine.domain.doubt import resolve
from guestledger.engine.domain.erasure import erase_guest
from guestledger.engine.domain.lookup import record_lookup
from guestledger.engine.domain.policy import Policy
from guestledger.engine.domain.retention import erase_contact, place_hold, purge_token, release_hold
from guestledger.engine.domain.session import Session, Status
from guestledger.engine.domain.waiting import defer, enforce_deadline, note_clock_set_back, whole_ms
from guestledger.engine.domain.withdrawal import withdraw


def decide(state: Session, command: Command, policy: Policy) -> list[e.Event]:
    """The events that `command` makes in `state`: none if it no longer matters."""
    match command:
        case OpenSession():
            return [_open(command, policy)] if state.status is Status.NEW else []
        case RecordLookup():
            return record_lookup(state, command, policy.creation)
        case BeginAttempt():
            return begin_attempt(state, command, policy.creation)
        case DeferCreation():
            return defer(state, command, policy.creation)
        case RecordAttempt():
            return record_attempt(state, command, policy)
        case SettleAttempt():
            return settle_attempt(state, command, policy.creation)
        case EnforceDeadline():
            return enforce_deadline(state, command.now, policy.creation)
        case NoteClockSetBack():
            return note_clock_set_back(state, command)
        case RecordDelivery():
            return record_delivery(state, command, policy.webhook)
        case RequestRedelivery():
            return request_redelivery(state, command, policy)
        case Resolve():
            return resolve(state, command, policy)
        case WithdrawConsent():
            return withdraw(state, command)
        case ExpireToken():
            return _expire(state, command)
        case EraseGuest():
            return erase_guest(state, command)
        case PurgeToken():
            return purge_token(state, command)
        case EraseContact():
            return erase_contact(state, command, policy)
        case PlaceHold():
            return place_hold(state, command)
        case ReleaseHold():
            return release_hold(state, command)
        case _:
            assert_never(command)


def _open(command: OpenSession, policy: Policy) -> e.Event:
    request, now = command.request, command.now
    guest = Guest(
        source=request.source,
        campaign=request.campaign,
        device_type=request.device_type,
        fingerprint=fingerprint(request),
        ip_address=request.ip_address,
        user_agent=request.user_agent,
        timestamp=request.timestamp,
        subject_id=request.subject_id,
        idempotency_key=request.idempotency_key,
        hmac_key=command.hmac_key,
    )
    asked = request.consent
    asked_how = evidence(asked, policy.consent_terms)
    if refused := refused_flags(asked):
        return e.ConsentRefused(
            at=now,
            channel_id=request.channel_id,
            guest=guest,
            failed=tuple(refused),
            given=refused,
            marketing=asked.marketing,
            notice=asked.notice,
            evidence=asked_how,
        )
    consent = Consent(
        data_processing=True,
        gdpr_compliant=True,
        marketing=asked.marketing,
        timestamp=now,
        notice=asked.notice,
        evidence=asked_how,
    )
    return e.ConsentRecorded(at=now, channel_id=request.channel_id, guest=guest, consent=consent)


def _expire(state: Session, command: ExpireToken) -> list[e.Event]:
    expires_at = state.expires_at
    if state.status is not Status.ACTIVE or expires_at is None or command.now < expires_at:
        return []
    late_ms = whole_ms(command.now - expires_at)
    return [e.TokenExpired(at=command.now, channel_id=state.channel_id, expires_at=expires_at, noticed_late_ms=late_ms)]
