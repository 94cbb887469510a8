"""Guestledger opens guest web-messaging sessions and can prove what happened in every one of them.

The public API. A name is imported when it is first used, so that `import guestledger` stays fast. Its type is in
`__init__.pyi`.
"""

from importlib import import_module
from importlib.util import find_spec

_NAMES = {
    "adapters.cxone.profile": "Profile",
    "adapters.database": "stop_database upgrade_database",
    "adapters.doors": "asgi",
    "adapters.log_format": "LogFormat",
    "adapters.postgres.errors": "DatabaseFault LedgerNotReady NotAllowed TooManyPrivileges UnfitEngine",
    "adapters.settings": "InvalidSettings Settings",
    "adapters.simulator.config": "SimulatorConfig",
    "adapters.simulator.server": "Simulator",
    "adapters.telemetry.log_context": "JsonLines LogContext",
    "adapters.telemetry.prometheus": "metrics_text",
    "adapters.simulated": "simulated",
    "adapters.wiring": "connect",
    "engine.domain.causes": "Cause",
    "engine.domain.consent": "Consent Evidence Guest",
    "engine.domain.consent_terms": "ConsentFlag ConsentPurpose ConsentTerms Party PrivacyNotice",
    "engine.domain.due": "DueStep StepName",
    "engine.domain.errors": "CredentialsRefused ErasureNotFound ErasuresMissing EventTooLarge GuestledgerError HoldRefused IdempotencyConflict InvalidRequest JournalUnusable LedgerClosed LogSetBack NothingHeld NothingToErase PartitionDetached PartitionRefused ProjectionStopped RebuildInterrupted RedeliveryRefusal RedeliveryRefused RequestDenied ResolutionRefused ServiceError ServiceUnreachable SessionIdShared SessionNotFound SubjectErased UnderLegalHold UnknownProjection WrongExpectedVersion",
    "engine.domain.events": "AccessEvent Event SessionEvent",
    "engine.domain.guest_filter": "GuestFilter",
    "engine.domain.outcomes": "Adoption FailureKind Resolution Verdict",
    "engine.domain.personal": "Purpose Sealed",
    "engine.domain.policy": "DeliveryPolicy Policy",
    "engine.domain.request": "GuestConsent GuestRequest parse_request",
    "engine.domain.session": "Session Status WebhookNotice",
    "engine.domain.unreadable": "BundleRefused InvalidPolicy UnknownEvent UnknownPolicy",
    "engine.ledger": "Ledger",
    "engine.limits.admission": "DenialReason Denied",
    "engine.limits.feedback": "ThrottleScope",
    "engine.limits.pace": "Pace",
    "engine.limits.policy": "LimiterPolicy",
    "engine.limits.retry": "InDoubt RetryPolicy Wait WaitBasis",
    "engine.limits.state": "LimiterState",
    "engine.log.recorded": "Batch EventFilter RecordedEvent RecordedPolicy",
    "engine.log.verification": "LogVerification",
    "engine.operations.access": "Access",
    "engine.operations.checks": "Checks",
    "engine.operations.conditions": "Condition ConditionName",
    "engine.operations.consent_record": "ConsentEvent ConsentRecord ConsentState PurposeRecord",
    "engine.operations.consents": "Consents Withdrawal",
    "engine.operations.consume": "ConsumerOptions Handler",
    "engine.operations.erase": "ErasureCertificate Erasures",
    "engine.operations.events": "Events",
    "engine.operations.explain": "Explanation StepExplanation",
    "engine.operations.export": "Disclosure Erased ExportedEvent ExportedSession PersonExport",
    "engine.operations.find": "Findings",
    "engine.operations.gauges": "Gauges",
    "engine.operations.health": "Health",
    "engine.operations.limits": "Limits",
    "engine.operations.partitions": "Partitions",
    "engine.operations.projections": "Projections",
    "engine.operations.redeliver": "DeadLetter Webhooks",
    "engine.operations.replay": "Replay",
    "engine.operations.retention": "HoldReport Retention",
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
    "engine.replay.diff": "Change",
    "engine.replay.findings": "WhatIf",
    "engine.replay.timeline": "Difference DueChange Frame diff timeline",
    "engine.replay.waits": "Waited WaitedFor",
    "engine.replay.what_if": "PolicyChange what_if",
    "engine.replay.what_if_summary": "WhatIfSummary",
    "engine.worker.scheduler": "Scheduler",
}
"""The public names of each module. The event classes come besides."""
_EXTRAS = {"metrics_text": "server"}
"""The names that need an extra."""
_MODULES = {name: f"guestledger.{module}" for module, names in _NAMES.items() for name in names.split()}

# Without the extra it would break `from guestledger import *`.
_missing = () if find_spec("prometheus_client") else _EXTRAS
__all__ = sorted(("__version__", *_MODULES.keys() - _missing))  # noqa: PLE0605


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version  # noqa: PLC0415 - slow to import

        value: object = version("guestledger")
    elif name in _MODULES:
        value = getattr(_module_of(name), name)
    elif not name.startswith("_") and name in _event_types():
        value = _event_types()[name]
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def _module_of(name: str) -> object:
    try:
        return import_module(_MODULES[name])
    except ModuleNotFoundError as error:
        if name not in _EXTRAS:
            raise
        raise ImportError(f"{name} needs {error.name}: install guestledger[{_EXTRAS[name]}]") from None


def _event_types() -> dict[str, object]:
    # So that a new event needs no line here.
    return dict(import_module("guestledger.engine.domain.events").EVENT_TYPES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_event_types()})
