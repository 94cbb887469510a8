"""Guestledger's engine: the lifecycle of a guest session as events, and what runs it. Imports no adapter.

What an embedder needs by name is here; `guestledger.adapters.wiring.connect` gives the `Ledger`.
"""

from guestledger.engine.domain.delivery import DeliveryPolicy
from guestledger.engine.domain.errors import (
    CredentialsRefused,
    EventTooLarge,
    GuestledgerError,
    IdempotencyConflict,
    InvalidRequest,
    PartitionDetached,
    ProjectionStopped,
    RebuildInterrupted,
    RedeliveryRefused,
    RequestDenied,
    ResolutionRefused,
    ServiceError,
    ServiceUnreachable,
    SessionNotFound,
    UnknownEvent,
    UnknownProjection,
)
from guestledger.engine.domain.lifecycle import Policy
from guestledger.engine.domain.outcomes import Adoption, Resolution, Verdict
from guestledger.engine.domain.request import GuestConsent, GuestRequest
from guestledger.engine.domain.session import Session, Status
from guestledger.engine.ledger import Ledger
from guestledger.engine.limits.limiter import LimiterState
from guestledger.engine.limits.policy import DenialReason, LimiterPolicy
from guestledger.engine.limits.retry import InDoubt, RetryPolicy
from guestledger.engine.log.recorded import Batch, EventFilter, RecordedEvent
from guestledger.engine.operations.consume import ConsumerOptions, Handler
from guestledger.engine.operations.explain import Blocker, Explanation, Wait
from guestledger.engine.operations.health import Health
from guestledger.engine.operations.redeliver import DeadLetter
from guestledger.engine.operations.replay import Frame
from guestledger.engine.ports import ConsumerRow, Partition
from guestledger.engine.projections.audit import AuditEntry, AuditFilter, ComplianceStatus
from guestledger.engine.projections.metrics import Metrics, MetricsFilter
from guestledger.engine.projections.sessions import SessionFilter, SessionRow
from guestledger.engine.projections.status import ProjectionStatus, Verification

__all__ = [
    "Adoption",
    "AuditEntry",
    "AuditFilter",
    "Batch",
    "Blocker",
    "ComplianceStatus",
    "ConsumerOptions",
    "ConsumerRow",
    "CredentialsRefused",
    "DeadLetter",
    "DeliveryPolicy",
    "DenialReason",
    "EventFilter",
    "EventTooLarge",
    "Explanation",
    "Frame",
    "GuestConsent",
    "GuestRequest",
    "GuestledgerError",
    "Handler",
    "Health",
    "IdempotencyConflict",
    "InDoubt",
    "InvalidRequest",
    "Ledger",
    "LimiterPolicy",
    "LimiterState",
    "Metrics",
    "MetricsFilter",
    "Partition",
    "PartitionDetached",
    "Policy",
    "ProjectionStatus",
    "ProjectionStopped",
    "RebuildInterrupted",
    "RecordedEvent",
    "RedeliveryRefused",
    "RequestDenied",
    "Resolution",
    "ResolutionRefused",
    "RetryPolicy",
    "ServiceError",
    "ServiceUnreachable",
    "Session",
    "SessionFilter",
    "SessionNotFound",
    "SessionRow",
    "Status",
    "UnknownEvent",
    "UnknownProjection",
    "Verdict",
    "Verification",
    "Wait",
]
