# The types of the public API. At run time, `__init__.py` imports a name when it is first used.

from guestledger.adapters.cxone.profile import Profile as Profile
from guestledger.adapters.database import stop_database as stop_database, upgrade_database as upgrade_database
from guestledger.adapters.doors import asgi as asgi
from guestledger.adapters.log_format import LogFormat as LogFormat
from guestledger.adapters.postgres.errors import (
    DatabaseFault as DatabaseFault,
    LedgerNotReady as LedgerNotReady,
    NotAllowed as NotAllowed,
    TooManyPrivileges as TooManyPrivileges,
    UnfitEngine as UnfitEngine,
)
from guestledger.adapters.settings import InvalidSettings as InvalidSettings, Settings as Settings
from guestledger.adapters.simulated import simulated as simulated
from guestledger.adapters.simulator.config import SimulatorConfig as SimulatorConfig
from guestledger.adapters.simulator.server import Simulator as Simulator
from guestledger.adapters.telemetry.log_context import JsonLines as JsonLines, LogContext as LogContext
from guestledger.adapters.telemetry.prometheus import metrics_text as metrics_text
from guestledger.adapters.wiring import connect as connect
from guestledger.engine.domain.causes import Cause as Cause
from guestledger.engine.domain.consent import Consent as Consent, Evidence as Evidence, Guest as Guest
from guestledger.engine.domain.consent_terms import (
    ConsentFlag as ConsentFlag,
    ConsentPurpose as ConsentPurpose,
    ConsentTerms as ConsentTerms,
    Party as Party,
    PrivacyNotice as PrivacyNotice,
)
from guestledger.engine.domain.due import DueStep as DueStep, StepName as StepName
from guestledger.engine.domain.errors import (
    CredentialsRefused as CredentialsRefused,
    ErasureNotFound as ErasureNotFound,
    ErasuresMissing as ErasuresMissing,
    EventTooLarge as EventTooLarge,
    GuestledgerError as GuestledgerError,
    HoldRefused as HoldRefused,
    IdempotencyConflict as IdempotencyConflict,
    InvalidRequest as InvalidRequest,
    JournalUnusable as JournalUnusable,
    LedgerClosed as LedgerClosed,
    LogSetBack as LogSetBack,
    NothingHeld as NothingHeld,
    NothingToErase as NothingToErase,
    PartitionDetached as PartitionDetached,
    PartitionRefused as PartitionRefused,
    ProjectionStopped as ProjectionStopped,
    RebuildInterrupted as RebuildInterrupted,
    RedeliveryRefusal as RedeliveryRefusal,
    RedeliveryRefused as RedeliveryRefused,
    RequestDenied as RequestDenied,
    ResolutionRefused as ResolutionRefused,
    ServiceError as ServiceError,
    ServiceUnreachable as ServiceUnreachable,
    SessionIdShared as SessionIdShared,
    SessionNotFound as SessionNotFound,
    SubjectErased as SubjectErased,
    UnderLegalHold as UnderLegalHold,
    UnknownProjection as UnknownProjection,
    WrongExpectedVersion as WrongExpectedVersion,
)
from guestledger.engine.domain.events import *  # noqa: F403 - a new event needs no line here
from guestledger.engine.domain.events import AccessEvent as AccessEvent, Event as Event, SessionEvent as SessionEvent
from guestledger.engine.domain.guest_filter import GuestFilter as GuestFilter
from guestledger.engine.domain.outcomes import (
    Adoption as Adoption,
    FailureKind as FailureKind,
    Resolution as Resolution,
    Verdict as Verdict,
)
from guestledger.engine.domain.personal import Purpose as Purpose, Sealed as Sealed
from guestledger.engine.domain.policy import DeliveryPolicy as DeliveryPolicy, Policy as Policy
from guestledger.engine.domain.request import (
    GuestConsent as GuestConsent,
    GuestRequest as GuestRequest,
    parse_request as parse_request,
)
from guestledger.engine.domain.session import Session as Session, Status as Status, WebhookNotice as WebhookNotice
from guestledger.engine.domain.unreadable import (
    BundleRefused as BundleRefused,
    InvalidPolicy as InvalidPolicy,
    UnknownEvent as UnknownEvent,
    UnknownPolicy as UnknownPolicy,
)
from guestledger.engine.ledger import Ledger as Ledger
from guestledger.engine.limits.admission import DenialReason as DenialReason, Denied as Denied
from guestledger.engine.limits.feedback import ThrottleScope as ThrottleScope
from guestledger.engine.limits.pace import Pace as Pace
from guestledger.engine.limits.policy import LimiterPolicy as LimiterPolicy
from guestledger.engine.limits.retry import (
    InDoubt as InDoubt,
    RetryPolicy as RetryPolicy,
    Wait as Wait,
    WaitBasis as WaitBasis,
)
from guestledger.engine.limits.state import LimiterState as LimiterState
from guestledger.engine.log.recorded import (
    Batch as Batch,
    EventFilter as EventFilter,
    RecordedEvent as RecordedEvent,
    RecordedPolicy as RecordedPolicy,
)
from guestledger.engine.log.verification import LogVerification as LogVerification
from guestledger.engine.operations.access import Access as Access
from guestledger.engine.operations.checks import Checks as Checks
from guestledger.engine.operations.conditions import Condition as Condition, ConditionName as ConditionName
from guestledger.engine.operations.consent_record import (
    ConsentEvent as ConsentEvent,
    ConsentRecord as ConsentRecord,
    ConsentState as ConsentState,
    PurposeRecord as PurposeRecord,
)
from guestledger.engine.operations.consents import Consents as Consents, Withdrawal as Withdrawal
from guestledger.engine.operations.consume import ConsumerOptions as ConsumerOptions, Handler as Handler
from guestledger.engine.operations.erase import ErasureCertificate as ErasureCertificate, Erasures as Erasures
from guestledger.engine.operations.events import Events as Events
from guestledger.engine.operations.explain import Explanation as Explanation, StepExplanation as StepExplanation
from guestledger.engine.operations.export import (
    Disclosure as Disclosure,
    Erased as Erased,
    ExportedEvent as ExportedEvent,
    ExportedSession as ExportedSession,
    PersonExport as PersonExport,
)
from guestledger.engine.operations.find import Findings as Findings
from guestledger.engine.operations.gauges import Gauges as Gauges
from guestledger.engine.operations.health import Health as Health
from guestledger.engine.operations.limits import Limits as Limits
from guestledger.engine.operations.partitions import Partitions as Partitions
from guestledger.engine.operations.projections import Projections as Projections
from guestledger.engine.operations.redeliver import DeadLetter as DeadLetter, Webhooks as Webhooks
from guestledger.engine.operations.replay import Replay as Replay
from guestledger.engine.operations.retention import HoldReport as HoldReport, Retention as Retention
from guestledger.engine.operations.reveal import Look as Look, Reveal as Reveal
from guestledger.engine.ports.access_keys import AccessKey as AccessKey, Role as Role
from guestledger.engine.ports.consumers import ConsumerRow as ConsumerRow
from guestledger.engine.ports.due_steps import StepCount as StepCount
from guestledger.engine.ports.erasures import ErasedEvent as ErasedEvent
from guestledger.engine.ports.partitions import Partition as Partition
from guestledger.engine.ports.session_finder import FindFilter as FindFilter, FoundSession as FoundSession
from guestledger.engine.projections.audit import (
    CONTRACT_FIELDS as CONTRACT_FIELDS,
    AuditEntry as AuditEntry,
    AuditFilter as AuditFilter,
    ComplianceStatus as ComplianceStatus,
    Decision as Decision,
    WebhookState as WebhookState,
    contract_form as contract_form,
)
from guestledger.engine.projections.metrics import (
    DailyMetrics as DailyMetrics,
    HourlyOutcomes as HourlyOutcomes,
    Metrics as Metrics,
    MetricsFilter as MetricsFilter,
)
from guestledger.engine.projections.retention import RetentionStatus as RetentionStatus
from guestledger.engine.projections.sessions import SessionFilter as SessionFilter, SessionRow as SessionRow
from guestledger.engine.projections.status import ProjectionStatus as ProjectionStatus, Verification as Verification
from guestledger.engine.replay.decisions import Lifecycle as Lifecycle
from guestledger.engine.replay.diff import Change as Change
from guestledger.engine.replay.findings import WhatIf as WhatIf
from guestledger.engine.replay.timeline import (
    Difference as Difference,
    DueChange as DueChange,
    Frame as Frame,
    diff as diff,
    timeline as timeline,
)
from guestledger.engine.replay.waits import Waited as Waited, WaitedFor as WaitedFor
from guestledger.engine.replay.what_if import PolicyChange as PolicyChange, what_if as what_if
from guestledger.engine.replay.what_if_summary import WhatIfSummary as WhatIfSummary
from guestledger.engine.worker.scheduler import Scheduler as Scheduler

__version__: str
