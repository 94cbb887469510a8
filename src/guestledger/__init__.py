"""Guestledger opens guest web-messaging sessions and can prove what happened in every one of them.

The public API. A name is imported when it is first used, so that `import guestledger` stays fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from guestledger.adapters.cxone.profile import Profile
    from guestledger.adapters.database import stop_database, upgrade_database
    from guestledger.adapters.doors import asgi
    from guestledger.adapters.log_format import LogFormat
    from guestledger.adapters.postgres.errors import (
        DatabaseFault,
        LedgerClosed,
        LedgerNotReady,
        NotAllowed,
        TooManyPrivileges,
        UnfitEngine,
    )
    from guestledger.adapters.settings import InvalidSettings, Settings
    from guestledger.adapters.simulator.config import SimulatorConfig
    from guestledger.adapters.simulator.server import Simulator
    from guestledger.adapters.telemetry.log_context import JsonLines, LogContext
    from guestledger.adapters.telemetry.prometheus import metrics_text
    from guestledger.adapters.wiring import connect, simulated
    from guestledger.engine.domain.causes import Cause
    from guestledger.engine.domain.consent import Consent, Evidence, Guest
    from guestledger.engine.domain.consent_terms import ConsentFlag, ConsentPurpose, ConsentTerms, Party, PrivacyNotice
    from guestledger.engine.domain.due import DueStep, StepName
    from guestledger.engine.domain.errors import (
        CredentialsRefused,
        ErasureNotFound,
        ErasuresMissing,
        EventTooLarge,
        GuestledgerError,
        HoldRefused,
        IdempotencyConflict,
        InvalidRequest,
        JournalUnusable,
        LogSetBack,
        NothingHeld,
        NothingToErase,
        PartitionDetached,
        PartitionRefused,
        ProjectionStopped,
        RebuildInterrupted,
        RedeliveryRefusal,
        RedeliveryRefused,
        RequestDenied,
        ResolutionRefused,
        ServiceError,
        ServiceUnreachable,
        SessionNotFound,
        SubjectErased,
        UnderLegalHold,
        UnknownProjection,
        WrongExpectedVersion,
    )
    from guestledger.engine.domain.events import *  # noqa: F403 - every event class
    from guestledger.engine.domain.events import AccessEvent, Event, SessionEvent
    from guestledger.engine.domain.guest_filter import GuestFilter
    from guestledger.engine.domain.outcomes import Adoption, FailureKind, Resolution, Verdict
    from guestledger.engine.domain.personal import Purpose, Sealed
    from guestledger.engine.domain.policy import DeliveryPolicy, Policy
    from guestledger.engine.domain.request import GuestConsent, GuestRequest, parse_request
    from guestledger.engine.domain.session import Session, Status, WebhookNotice
    from guestledger.engine.domain.unreadable import BundleRefused, InvalidPolicy, UnknownEvent, UnknownPolicy
    from guestledger.engine.ledger import Ledger
    from guestledger.engine.limits.admission import DenialReason, Denied
    from guestledger.engine.limits.feedback import ThrottleScope
    from guestledger.engine.limits.pace import Pace
    from guestledger.engine.limits.policy import LimiterPolicy
    from guestledger.engine.limits.retry import InDoubt, RetryPolicy, Wait, WaitBasis
    from guestledger.engine.limits.state import LimiterState
    from guestledger.engine.log.recorded import Batch, EventFilter, RecordedEvent, RecordedPolicy
    from guestledger.engine.log.verification import LogVerification
    from guestledger.engine.operations.access import Access
    from guestledger.engine.operations.conditions import Condition, ConditionName
    from guestledger.engine.operations.consent_record import ConsentEvent, ConsentRecord, ConsentState, PurposeRecord
    from guestledger.engine.operations.consume import ConsumerOptions, Handler
    from guestledger.engine.operations.erase import ErasureCertificate, Erasures
    from guestledger.engine.operations.events import Events
    from guestledger.engine.operations.explain import Explanation, StepExplanation
    from guestledger.engine.operations.export import Disclosure, Erased, ExportedEvent, ExportedSession, PersonExport
    from guestledger.engine.operations.find import Findings
    from guestledger.engine.operations.gauges import Gauges
    from guestledger.engine.operations.health import Health
    from guestledger.engine.operations.limits import Limits
    from guestledger.engine.operations.partitions import Partitions
    from guestledger.engine.operations.projections import Projections
    from guestledger.engine.operations.redeliver import DeadLetter, Webhooks
    from guestledger.engine.operations.retention import HoldReport, Retention
    from guestledger.engine.operations.reveal import Look, Reveal
    from guestledger.engine.operations.withdraw import Withdrawal
    from guestledger.engine.ports.access_keys import AccessKey, Role
    from guestledger.engine.ports.consumers import ConsumerRow
    from guestledger.engine.ports.due_steps import StepCount
    from guestledger.engine.ports.erasures import ErasedEvent
    from guestledger.engine.ports.partitions import Partition
    from guestledger.engine.ports.session_finder import FindFilter, FoundSession
    from guestledger.engine.projections.audit import (
        CONTRACT_FIELDS,
        AuditEntry,
        AuditFilter,
        ComplianceStatus,
        Decision,
        WebhookState,
        contract_form,
    )
    from guestledger.engine.projections.metrics import DailyMetrics, HourlyOutcomes, Metrics, MetricsFilter
    from guestledger.engine.projections.retention import RetentionStatus
    from guestledger.engine.projections.sessions import SessionFilter, SessionRow
    from guestledger.engine.projections.status import ProjectionStatus, Verification
    from guestledger.engine.replay.decisions import Lifecycle
    from guestledger.engine.replay.diff import Change
    from guestledger.engine.replay.findings import WhatIf
    from guestledger.engine.replay.timeline import Difference, DueChange, Frame, diff, timeline
    from guestledger.engine.replay.waits import Waited, WaitedFor
    from guestledger.engine.replay.what_if import PolicyChange, what_if
    from guestledger.engine.replay.what_if_summary import WhatIfSummary
    from guestledger.engine.worker.scheduler import Scheduler

__all__ = [
    "CONTRACT_FIELDS",
    "Access",
    "AccessEvent",
    "AccessKey",
    "Adoption",
    "AuditEntry",
    "AuditFilter",
    "Batch",
    "BundleRefused",
    "Cause",
    "Change",
    "ComplianceStatus",
    "Condition",
    "ConditionName",
    "Consent",
    "ConsentEvent",
    "ConsentFlag",
    "ConsentPurpose",
    "ConsentRecord",
    "ConsentState",
    "ConsentTerms",
    "ConsumerOptions",
    "ConsumerRow",
    "CredentialsRefused",
    "DailyMetrics",
    "DatabaseFault",
    "DeadLetter",
    "Decision",
    "DeliveryPolicy",
    "DenialReason",
    "Denied",
    "Difference",
    "Disclosure",
    "DueChange",
    "DueStep",
    "Erased",
    "ErasedEvent",
    "ErasureCertificate",
    "ErasureNotFound",
    "Erasures",
    "ErasuresMissing",
    "Event",
    "EventFilter",
    "EventTooLarge",
    "Events",
    "Evidence",
    "Explanation",
    "ExportedEvent",
    "ExportedSession",
    "FailureKind",
    "FindFilter",
    "Findings",
    "FoundSession",
    "Frame",
    "Gauges",
    "Guest",
    "GuestConsent",
    "GuestFilter",
    "GuestRequest",
    "GuestledgerError",
    "Handler",
    "Health",
    "HoldRefused",
    "HoldReport",
    "HourlyOutcomes",
    "IdempotencyConflict",
    "InDoubt",
    "InvalidPolicy",
    "InvalidRequest",
    "InvalidSettings",
    "JournalUnusable",
    "JsonLines",
    "Ledger",
    "LedgerClosed",
    "LedgerNotReady",
    "Lifecycle",
    "LimiterPolicy",
    "LimiterState",
    "Limits",
    "LogContext",
    "LogFormat",
    "LogSetBack",
    "LogVerification",
    "Look",
    "Metrics",
    "MetricsFilter",
    "NotAllowed",
    "NothingHeld",
    "NothingToErase",
    "Pace",
    "Partition",
    "PartitionDetached",
    "PartitionRefused",
    "Partitions",
    "Party",
    "PersonExport",
    "Policy",
    "PolicyChange",
    "PrivacyNotice",
    "Profile",
    "ProjectionStatus",
    "ProjectionStopped",
    "Projections",
    "Purpose",
    "PurposeRecord",
    "RebuildInterrupted",
    "RecordedEvent",
    "RecordedPolicy",
    "RedeliveryRefusal",
    "RedeliveryRefused",
    "RequestDenied",
    "Resolution",
    "ResolutionRefused",
    "Retention",
    "RetentionStatus",
    "RetryPolicy",
    "Reveal",
    "Role",
    "Scheduler",
    "Sealed",
    "ServiceError",
    "ServiceUnreachable",
    "Session",
    "SessionEvent",
    "SessionFilter",
    "SessionNotFound",
    "SessionRow",
    "Settings",
    "Simulator",
    "SimulatorConfig",
    "Status",
    "StepCount",
    "StepExplanation",
    "StepName",
    "SubjectErased",
    "ThrottleScope",
    "TooManyPrivileges",
    "UnderLegalHold",
    "UnfitEngine",
    "UnknownEvent",
    "UnknownPolicy",
    "UnknownProjection",
    "Verdict",
    "Verification",
    "Wait",
    "WaitBasis",
    "Waited",
    "WaitedFor",
    "WebhookNotice",
    "WebhookState",
    "Webhooks",
    "WhatIf",
    "WhatIfSummary",
    "Withdrawal",
    "WrongExpectedVersion",
    "__version__",
    "asgi",
    "connect",
    "contract_form",
    "diff",
    "metrics_text",
    "parse_request",
    "simulated",
    "stop_database",
    "timeline",
    "upgrade_database",
    "what_if",
]
__version__: str

_NAMES = {
    "adapters.doors": "asgi",
    "adapters.cxone.profile": "Profile",
    "adapters.database": "stop_database upgrade_database",
    "adapters.log_format": "LogFormat",
    "adapters.postgres.errors": "DatabaseFault LedgerClosed LedgerNotReady NotAllowed TooManyPrivileges UnfitEngine",
    "adapters.settings": "InvalidSettings Settings",
    "adapters.simulator.config": "SimulatorConfig",
    "adapters.simulator.server": "Simulator",
    "adapters.telemetry.log_context": "JsonLines LogContext",
    "adapters.telemetry.prometheus": "metrics_text",
    "adapters.wiring": "connect simulated",
    "engine.domain.causes": "Cause",
    "engine.domain.consent": "Consent Evidence Guest",
    "engine.domain.consent_terms": "ConsentFlag ConsentPurpose ConsentTerms Party PrivacyNotice",
    "engine.domain.due": "DueStep StepName",
    "engine.domain.errors": "CredentialsRefused ErasureNotFound ErasuresMissing EventTooLarge GuestledgerError HoldRefused IdempotencyConflict InvalidRequest JournalUnusable LogSetBack NothingHeld NothingToErase PartitionDetached PartitionRefused ProjectionStopped RebuildInterrupted RedeliveryRefusal RedeliveryRefused RequestDenied ResolutionRefused ServiceError ServiceUnreachable SessionNotFound SubjectErased UnderLegalHold UnknownProjection WrongExpectedVersion",
    "engine.domain.unreadable": "BundleRefused InvalidPolicy UnknownEvent UnknownPolicy",
    "engine.domain.events": "AccessEvent Event SessionEvent",
    "engine.domain.guest_filter": "GuestFilter",
    "engine.domain.outcomes": "Adoption FailureKind Resolution Verdict",
    "engine.domain.personal": "Purpose Sealed",
    "engine.domain.policy": "DeliveryPolicy Policy",
    "engine.domain.request": "GuestConsent GuestRequest parse_request",
    "engine.domain.session": "Session Status WebhookNotice",
    "engine.ledger": "Ledger",
    "engine.limits.admission": "DenialReason Denied",
    "engine.limits.feedback": "ThrottleScope",
    "engine.limits.pace": "Pace",
    "engine.limits.policy": "LimiterPolicy",
    "engine.limits.retry": "InDoubt RetryPolicy Wait WaitBasis",
    "engine.limits.state": "LimiterState",
    "engine.log.recorded": "Batch EventFilter RecordedEvent RecordedPolicy",
    "engine.operations.access": "Access",
    "engine.operations.consent_record": "ConsentEvent ConsentRecord ConsentState PurposeRecord",
    "engine.log.verification": "LogVerification",
    "engine.operations.consume": "ConsumerOptions Handler",
    "engine.operations.erase": "ErasureCertificate Erasures",
    "engine.operations.events": "Events",
    "engine.operations.conditions": "Condition ConditionName",
    "engine.operations.explain": "Explanation StepExplanation",
    "engine.operations.export": "Disclosure Erased ExportedEvent ExportedSession PersonExport",
    "engine.operations.find": "Findings",
    "engine.operations.gauges": "Gauges",
    "engine.operations.health": "Health",
    "engine.operations.limits": "Limits",
    "engine.operations.partitions": "Partitions",
    "engine.operations.projections": "Projections",
    "engine.operations.redeliver": "DeadLetter Webhooks",
    "engine.operations.retention": "HoldReport Retention",
    "engine.operations.withdraw": "Withdrawal",
    "engine.operations.reveal": "Look Reveal",
    "engine.ports.access_keys": "AccessKey Role",
    "engine.ports.consumers": "ConsumerRow",
    "engine.ports.due_steps": "StepCount",
    "engine.ports.erasures": "ErasedEvent",
    "engine.ports.partitions": "Partition",
    "engine.ports.session_finder": "FindFilter FoundSession",
    "engine.projections.audit": "CONTRACT_FIELDS AuditEntry AuditFilter ComplianceStatus Decision WebhookState contract_form",
    "engine.projections.metrics": "DailyMetrics HourlyOutcomes Metrics MetricsFilter",
    "engine.projections.retention": "RetentionStatus",
    "engine.projections.sessions": "SessionFilter SessionRow",
    "engine.projections.status": "ProjectionStatus Verification",
    "engine.replay.decisions": "Lifecycle",
    "engine.replay.findings": "WhatIf",
    "engine.replay.what_if": "PolicyChange what_if",
    "engine.replay.what_if_summary": "WhatIfSummary",
    "engine.replay.diff": "Change",
    "engine.replay.timeline": "Difference DueChange Frame diff timeline",
    "engine.replay.waits": "Waited WaitedFor",
    "engine.worker.scheduler": "Scheduler",
}
"""The public names of each module. The event classes come besides."""
_MODULES = {name: f"guestledger.{module}" for module, names in _NAMES.items() for name in names.split()}


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version  # noqa: PLC0415 - slow to import

        value: object = version("guestledger")
    elif name in _MODULES:
        value = getattr(import_module(_MODULES[name]), name)
    elif not name.startswith("_") and name in _event_types():
        value = _event_types()[name]
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def _event_types() -> dict[str, object]:
    # So that a new event needs no line here.
    return dict(import_module("guestledger.engine.domain.events").EVENT_TYPES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_event_types()})
