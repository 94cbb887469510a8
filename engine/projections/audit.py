"""The `audit_log` projection: one entry per session (contract, "Metrics and audit entry")."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

import msgspec
from msgspec.structs import replace

from guestledger.engine.domain import events as e
from guestledger.engine.domain.consent import Guest
from guestledger.engine.log.recorded import RecordedEvent

NAME = "audit_log"


class ComplianceStatus(StrEnum):
    """The compliance outcome of a session."""

    VERIFIED = "verified"
    """Consent was recorded, then the session was created or adopted."""
    PENDING = "pending"
    """Consent was recorded; the outcome is still open."""
    REFUSED = "refused"
    """Consent was insufficient: nothing was sent to the provider."""
    REJECTED = "rejected"
    """The provider or the channel cannot take the session."""
    ABANDONED = "abandoned"
    """Given up. The history says whether an attempt was in doubt."""
    WITHDRAWN = "withdrawn"
    """The guest withdrew the consent, whatever the outcome was before."""


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of the audit log. `timestamp`: when the outcome was recorded (UTC, the database's clock)."""

    id: UUID
    timestamp: datetime
    session_id: str | None
    channel_id: str
    consent_recorded: bool
    gdpr_compliant: bool
    token_expiry: datetime | None
    initialization_latency_ms: int | None
    compliance_status: ComplianceStatus
    erased_at: datetime | None = None
    """When the guest's personal data was erased."""


class AuditFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which entries to return, and in which order. `since` is inclusive, `until` exclusive."""

    channel_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    status: ComplianceStatus | None = None
    id: UUID | None = None
    newest_first: bool = False
    limit: int | None = None
    """At most this many; `None`: all."""


def contract_form(entry: AuditEntry, guest: Guest | None = None) -> dict[str, Any]:
    """The entry as the contract's JSON object with our `id`. Without `guest`, its personal values are null.

    `erasedAt` is there only once the guest was erased.
    """
    return {
        "auditType": "guest_session_initialization",
        "id": entry.id,
        "timestamp": entry.timestamp,
        "sessionId": entry.session_id,
        "channelId": entry.channel_id,
        "visitorFingerprint": None if guest is None else guest.fingerprint,
        "ipAddress": None if guest is None else guest.ip_address,
        "consentRecorded": entry.consent_recorded,
        "gdprCompliant": entry.gdpr_compliant,
        "tokenExpiry": entry.token_expiry,
        "initializationLatencyMs": entry.initialization_latency_ms,
        "complianceStatus": entry.compliance_status,
        **({} if entry.erased_at is None else {"erasedAt": entry.erased_at}),
    }


def project(known: Mapping[UUID, AuditEntry], events: Iterable[RecordedEvent]) -> list[AuditEntry]:
    """The entries that `events` change. `known`: the entries of the same streams before them."""
    entries: dict[UUID, AuditEntry] = {}
    for recorded in events:
        before = entries.get(recorded.stream_id) or known.get(recorded.stream_id)
        after = _opened(recorded) if before is None else _changed(before, recorded)
        if after is not before:
            entries[recorded.stream_id] = after
    return list(entries.values())


def _opened(recorded: RecordedEvent) -> AuditEntry:
    match recorded.event:
        case e.ConsentRecorded():
            gdpr_compliant, status = True, ComplianceStatus.PENDING
        case e.ConsentRefused(failed=failed):
            gdpr_compliant, status = "gdprCompliant" not in failed, ComplianceStatus.REFUSED
        case _:
            raise ValueError(f"stream {recorded.stream_id} does not start with the guest's consent")
    return AuditEntry(
        id=recorded.stream_id,
        timestamp=recorded.recorded_at,
        session_id=None,
        channel_id=recorded.event.channel_id,
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
        case e.GuestErased(at=erased_at):
            return replace(entry, erased_at=erased_at)
        case e.ChannelRejected() | e.ChannelLookupFailed(retry_at=None) | e.CreationFailed(retry_at=None):
            status = ComplianceStatus.REJECTED
        case e.SessionAbandoned() | e.AbandonmentDecided():
            status = ComplianceStatus.ABANDONED
        case e.ConsentWithdrawn():
            status = ComplianceStatus.WITHDRAWN
        case _:
            return entry
    return replace(entry, timestamp=recorded.recorded_at, compliance_status=status)
