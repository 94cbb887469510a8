"""The `audit_log` projection: one entry per session (contract, "Metrics and audit entry")."""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from enum import StrEnum
from operator import attrgetter
from typing import Any
from uuid import UUID

import msgspec
from msgspec.structs import replace

from guestledger.engine.domain import events as e
from guestledger.engine.domain.consent import Guest
from guestledger.engine.domain.guest_filter import GuestFilter
from guestledger.engine.domain.outcomes import FailureKind
from guestledger.engine.domain.personal import clear
from guestledger.engine.domain.session import WebhookNotice
from guestledger.engine.log.recorded import RecordedEvent, of_sessions

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


class WebhookState(StrEnum):
    """What became of the notice that a session has started. The notice of a withdrawal is not counted here."""

    NOT_OWED = "not_owed"
    """There is no session, or no webhook was set."""
    OWED = "owed"
    """Not delivered yet."""
    DELIVERED = "delivered"
    """The receiver took it at least once."""
    FAILED = "failed"
    """Delivery was given up: a dead letter, or the consent was withdrawn before."""


class Decision(StrEnum):
    """What a person decided about a parked session."""

    RETRY = "retry"
    ABANDON = "abandon"
    ADOPT = "adopt"


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of the audit log. `timestamp`: when the outcome was recorded (UTC, the database's clock)."""

    id: UUID
    opened_at: datetime
    """When the request was recorded (UTC, the database's clock)."""
    timestamp: datetime
    session_id: str | None
    channel_id: str
    consent_recorded: bool
    gdpr_compliant: bool
    token_expiry: datetime | None
    initialization_latency_ms: int | None
    compliance_status: ComplianceStatus
    notice: str | None
    """The privacy notice that the guest was shown, as the caller named it."""
    refused_flags: tuple[str, ...] = ()
    """The consent flags that were not exactly `true`."""
    webhook: WebhookState = WebhookState.NOT_OWED
    doubted_at: datetime | None = None
    """When an attempt was first in doubt."""
    parked_at: datetime | None = None
    """When it last waited for a person's decision."""
    decision: Decision | None = None
    """The last one. The history has all."""
    decided_at: datetime | None = None
    decided_by: str | None = None
    decision_reason: str | None = None
    erased_at: datetime | None = None
    """When the guest's contact data was erased, on request or at the end of its retention."""
    guest: Guest | None = None
    """Not a column: `Ledger.audit` joins it in for a `Reveal`."""


class AuditFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which entries to return, and in which order: by `opened_at`, which never changes. `since` is inclusive, `until` exclusive."""

    channel_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    opened_since: datetime | None = None
    """As `since`, by when the request was recorded instead of the outcome."""
    opened_until: datetime | None = None
    status: ComplianceStatus | None = None
    session: UUID | str | None = None
    """By either id; of an id that the provider gave to several guests, each of their entries."""
    guest: GuestFilter = GuestFilter()
    consent_recorded: bool | None = None
    """Whether the consent was sufficient; `None`: either."""
    notice: str | None = None
    """The privacy notice that was shown."""
    refused_flag: str | None = None
    """Only refusals for this consent flag, such as `dataProcessing`."""
    webhook: tuple[WebhookState, ...] = ()
    """Any of these; empty: all."""
    doubted: bool = False
    """Only those with an attempt that was in doubt at some time."""
    parked: bool = False
    """Only those that waited for a person's decision at some time."""
    decided_by: str | None = None
    after: UUID | None = None
    """Only those behind the entry with this id, in this order: the next page."""
    newest_first: bool = False
    limit: int | None = None
    """At most this many; `None`: all."""


def _of_guest(field: str) -> Callable[[AuditEntry], str | None]:
    return lambda entry: None if entry.guest is None else clear(getattr(entry.guest, field))


_FORM: Mapping[str, Callable[[AuditEntry], Any]] = {
    "auditType": lambda _entry: "guest_session_initialization",
    "id": attrgetter("id"),
    "timestamp": attrgetter("timestamp"),
    "sessionId": attrgetter("session_id"),
    "channelId": attrgetter("channel_id"),
    "visitorFingerprint": _of_guest("fingerprint"),
    "ipAddress": _of_guest("ip_address"),
    "consentRecorded": attrgetter("consent_recorded"),
    "gdprCompliant": attrgetter("gdpr_compliant"),
    "tokenExpiry": attrgetter("token_expiry"),
    "initializationLatencyMs": attrgetter("initialization_latency_ms"),
    "complianceStatus": attrgetter("compliance_status"),
    # What we add.
    "openedAt": attrgetter("opened_at"),
    "notice": attrgetter("notice"),
    "refusedFlags": attrgetter("refused_flags"),
    "webhook": attrgetter("webhook"),
    "doubtedAt": attrgetter("doubted_at"),
    "parkedAt": attrgetter("parked_at"),
    "decision": attrgetter("decision"),
    "decidedAt": attrgetter("decided_at"),
    "decidedBy": attrgetter("decided_by"),
    "decisionReason": attrgetter("decision_reason"),
    "erasedAt": attrgetter("erased_at"),
}
CONTRACT_FIELDS = tuple(_FORM)
"""The fields of `contract_form`, in order."""


def contract_form(entry: AuditEntry) -> dict[str, Any]:
    """The entry as the contract's JSON object, then what we add to it. Personal values are null unless it has a guest."""
    return {name: value(entry) for name, value in _FORM.items()}


def project(known: Mapping[UUID, AuditEntry], events: Iterable[RecordedEvent]) -> list[AuditEntry]:
    """The entries that `events` change. `known`: the entries of the same streams before them."""
    entries: dict[UUID, AuditEntry] = {}
    for recorded in of_sessions(events):
        before = entries.get(recorded.stream_id) or known.get(recorded.stream_id)
        after = _opened(recorded) if before is None else _changed(before, recorded)
        if after is not before:
            entries[recorded.stream_id] = after
    return list(entries.values())


def _opened(recorded: RecordedEvent) -> AuditEntry:
    match recorded.event:
        case e.ConsentRecorded(channel_id=channel_id, consent=consent):
            status, notice, failed = ComplianceStatus.PENDING, consent.notice, ()
        case e.ConsentRefused(channel_id=channel_id, notice=notice, failed=failed):
            status = ComplianceStatus.REFUSED
        case _:
            raise ValueError(f"stream {recorded.stream_id} does not start with the guest's consent")
    return AuditEntry(
        id=recorded.stream_id,
        opened_at=recorded.recorded_at,
        timestamp=recorded.recorded_at,
        session_id=None,
        channel_id=channel_id,
        consent_recorded=status is ComplianceStatus.PENDING,
        gdpr_compliant="gdprCompliant" not in failed,
        token_expiry=None,
        initialization_latency_ms=None,
        compliance_status=status,
        notice=notice,
        refused_flags=failed,
    )


def _changed(entry: AuditEntry, recorded: RecordedEvent) -> AuditEntry:
    entry = _decided(_notified(_doubted(entry, recorded), recorded.event), recorded)
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
        case e.ContactErased(at=at) | e.GuestErased(at=at):
            return replace(entry, erased_at=entry.erased_at or at)
        case e.ChannelRejected() | e.ChannelLookupFailed(retry_at=None) | e.CreationFailed(retry_at=None):
            status = ComplianceStatus.REJECTED
        case e.SessionAbandoned() | e.AbandonmentDecided():
            status = ComplianceStatus.ABANDONED
        case e.ConsentWithdrawn():
            status = ComplianceStatus.WITHDRAWN
        case _:
            return entry
    return replace(entry, timestamp=recorded.recorded_at, compliance_status=status)


def _doubted(entry: AuditEntry, recorded: RecordedEvent) -> AuditEntry:
    match recorded.event:
        case e.CreationFailed(kind=FailureKind.IN_DOUBT):
            return entry if entry.doubted_at else replace(entry, doubted_at=recorded.recorded_at)
        case e.SessionParked():
            return replace(entry, parked_at=recorded.recorded_at)
        case _:
            return entry


def _notified(entry: AuditEntry, event: e.Event) -> AuditEntry:
    match event:
        case e.SessionCreated(webhook_owed=True) | e.SessionAdopted(webhook_owed=True):
            webhook = WebhookState.OWED
        case e.WebhookSynced(notice=WebhookNotice.SESSION_STARTED):
            webhook = WebhookState.DELIVERED
        case e.WebhookRedeliveryRequested() if entry.compliance_status is not ComplianceStatus.WITHDRAWN:
            webhook = WebhookState.OWED
        case e.WebhookAbandoned(notice=WebhookNotice.SESSION_STARTED):
            webhook = WebhookState.FAILED
        case e.ConsentWithdrawn() if entry.webhook is WebhookState.OWED:
            webhook = WebhookState.FAILED
        case _:
            return entry
    return entry if entry.webhook is WebhookState.DELIVERED else replace(entry, webhook=webhook)


def _decided(entry: AuditEntry, recorded: RecordedEvent) -> AuditEntry:
    match recorded.event:
        case e.RetryDecided(decided_by=decided_by, reason=reason):
            decision = Decision.RETRY
        case e.AbandonmentDecided(decided_by=decided_by, reason=reason):
            decision = Decision.ABANDON
        case e.SessionAdopted(decided_by=decided_by, reason=reason):
            decision = Decision.ADOPT
        case _:
            return entry
    return replace(
        entry, decision=decision, decided_at=recorded.recorded_at, decided_by=decided_by, decision_reason=reason
    )
