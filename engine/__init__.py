"""Guestledger's engine: the lifecycle of a guest session as events, and what runs it. Imports no adapter.

What an embedder needs by name is here; `adapters.wiring.connect` gives the `Ledger`.
"""

from engine.consumers import Handler, Pace
from engine.domain.delivery import DeliveryPolicy
from engine.domain.errors import (
    CredentialsRefused,
    EventTooLarge,
    GuestledgerError,
    IdempotencyConflict,
    InvalidRequest,
    MonthDetached,
    ProjectionStopped,
    RebuildInterrupted,
    RedeliveryRefused,
    ResolutionRefused,
    ServiceError,
    ServiceUnreachable,
    SessionNotFound,
    UnknownEvent,
    UnknownProjection,
    Withheld,
)
from engine.domain.gate import Gate
from engine.domain.lifecycle import Policy
from engine.domain.outcomes import Adoption, Resolution, Verdict
from engine.domain.passing import GatePolicy, Hold
from engine.domain.recorded import Batch, EventFilter, RecordedEvent
from engine.domain.request import GuestConsent, GuestRequest
from engine.domain.retry import InDoubt, RetryPolicy
from engine.domain.session import Session, Status
from engine.health import Health
from engine.ledger import Ledger
from engine.ports import ConsumerRow, Month
from engine.projections.audit import AuditEntry, AuditFilter, ComplianceStatus
from engine.projections.metrics import Metrics, MetricsFilter
from engine.projections.sessions import SessionFilter, SessionRow
from engine.projections.standing import Standing, Verification
from engine.replay import Frame
from engine.waiting import HeldUp, Wait, Waiting
from engine.webhooks import DeadLetter

__all__ = [
    "Adoption",
    "AuditEntry",
    "AuditFilter",
    "Batch",
    "ComplianceStatus",
    "ConsumerRow",
    "CredentialsRefused",
    "DeadLetter",
    "DeliveryPolicy",
    "EventFilter",
    "EventTooLarge",
    "Frame",
    "Gate",
    "GatePolicy",
    "GuestConsent",
    "GuestRequest",
    "GuestledgerError",
    "Handler",
    "Health",
    "HeldUp",
    "Hold",
    "IdempotencyConflict",
    "InDoubt",
    "InvalidRequest",
    "Ledger",
    "Metrics",
    "MetricsFilter",
    "Month",
    "MonthDetached",
    "Pace",
    "Policy",
    "ProjectionStopped",
    "RebuildInterrupted",
    "RecordedEvent",
    "RedeliveryRefused",
    "Resolution",
    "ResolutionRefused",
    "RetryPolicy",
    "ServiceError",
    "ServiceUnreachable",
    "Session",
    "SessionFilter",
    "SessionNotFound",
    "SessionRow",
    "Standing",
    "Status",
    "UnknownEvent",
    "UnknownProjection",
    "Verdict",
    "Verification",
    "Wait",
    "Waiting",
    "Withheld",
]
