"""The `audit_log` projection: one entry a session, in the contract's words."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

import msgspec
from msgspec.structs import replace

from guestledger.engine.domain import events as e
from guestledger.engine.domain.personal import Guarded, Personal
from guestledger.engine.log.recorded import RecordedEvent

NAME = "audit_log"


class ComplianceStatus(StrEnum):
    """What an auditor can say of a session."""

    VERIFIED = "verified"
    """Consent was recorded, then the session was made, or one that had been made was found and adopted by a person."""
    PENDING = "pending"
    """Consent was recorded; whether a session will be made is still open, or waits for a person to decide."""
    REFUSED = "refused"
    """Consent did not suffice: nothing was sent to CXone."""
    REJECTED = "rejected"
    """CXone or the channel cannot take the session."""
    ABANDONED = "abandoned"
    """Given up; if an attempt was in doubt, the history says so."""


class AuditEntry(Guarded, frozen=True, kw_only=True):
    """One entry of the audit log. `timestamp` is when the outcome was recorded (UTC, the database's clock)."""

    id: UUID
    timestamp: datetime
    session_id: str | None
    channel_id: str
    visitor_fingerprint: Personal
    ip_address: Personal
    consent_recorded: bool
    gdpr_compliant: bool
    token_expiry: datetime | None
    initialization_latency_ms: int | None
    compliance_status: ComplianceStatus


class AuditFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which entries are asked for; `since` is inclusive, `until` exclusive; what is left out does not matter."""

    channel_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    status: ComplianceStatus | None = None
    id: UUID | None = None


def contract_form(entry: AuditEntry) -> dict[str, Any]:
    """The entry in the contract's JSON shape ("Metrics and audit entry"), personal data included."""
    return {
        "auditType": "guest_session_initialization",
        "timestamp": entry.timestamp,
        "sessionId": entry.session_id,
        "channelId": entry.channel_id,
        "visitorFingerprint": entry.visitor_fingerprint,
        "ipAddress": entry.ip_address,
        "consentRecorded": entry.consent_recorded,
        "gdprCompliant": entry.gdpr_compliant,
        "tokenExpiry": entry.token_expiry,
        "initializationLatencyMs": entry.initialization_latency_ms,
        "complianceStatus": entry.compliance_status,
    }


def project(known: Mapping[UUID, AuditEntry], events: Iterable[RecordedEvent]) -> list[AuditEntry]:
    """The entries that `events` change, given the entries of the same streams before them."""
    entries: dict[UUID, AuditEntry] = {}
    for recorded in events:
        before = entries.get(recorded.stream_id) or known.get(recorded.stream_id)
        after = _opened(recorded) if before is None else _changed(before, recorded)
        if after is not before:
            entries[recorded.stream_id] = after
    return list(entries.values())


def _opened(recorded: RecordedEvent) -> AuditEntry:
    match recorded.event:
        case e.ConsentRecorded(guest=guest):
            gdpr_compliant, status = True, ComplianceStatus.PENDING
        case e.ConsentRefused(guest=guest, failed=failed):
            gdpr_compliant, status = "gdprCompliant" not in failed, ComplianceStatus.REFUSED
        case _:
            raise ValueError(f"stream {recorded.stream_id} does not begin with the guest's consent")
    return AuditEntry(
        id=recorded.stream_id,
        timestamp=recorded.recorded_at,
        session_id=None,
        channel_id=recorded.event.channel_id,
        visitor_fingerprint=guest.fingerprint,
        ip_address=guest.ip_address,
        consent_recorded=status is ComplianceStatus.PENDING,
        gdpr_compliant=gdpr_compliant,
        token_expiry=None,
        initialization_latency_ms=None,
        compliance_status=status,
    )


def _changed(entry: AuditEntry, recorded: RecordedEvent) -> AuditEntry:
    match recorded.event:
        case e.SessionCreated() as created:
            return replace(
                entry,
                timestamp=recorded.recorded_at,
                session_id=created.session_id,
                token_expiry=created.expires_at,
                initialization_latency_ms=created.latency_ms,
                compliance_status=ComplianceStatus.VERIFIED,
            )
        case e.SessionAdopted() as adopted:
            return replace(
                entry,
                timestamp=recorded.recorded_at,
                session_id=adopted.session_id,
                token_expiry=adopted.expires_at,
                compliance_status=ComplianceStatus.VERIFIED,
            )
        case e.ChannelRejected() | e.ChannelLookupFailed(retry_at=None) | e.CreationFailed(retry_at=None):
            status = ComplianceStatus.REJECTED
        case e.SessionAbandoned() | e.AbandonmentDecided():
            status = ComplianceStatus.ABANDONED
        case _:
            return entry
    return replace(entry, timestamp=recorded.recorded_at, compliance_status=status)
