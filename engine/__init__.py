"""Guestledger's engine: the lifecycle of a guest session as events, and what runs it. Imports no adapter.

What an embedder needs by name is here; `adapters.wiring.connect` gives the `Ledger`.
"""

from engine.domain.errors import (
    CredentialsRefused,
    GuestledgerError,
    IdempotencyConflict,
    InvalidRequest,
    ServiceError,
    ServiceUnreachable,
    SessionNotFound,
)
from engine.domain.lifecycle import Policy
from engine.domain.request import GuestConsent, GuestRequest
from engine.domain.retry import RetryPolicy
from engine.domain.session import Session, Status
from engine.ledger import Ledger
from engine.projections.audit import AuditEntry, AuditFilter, ComplianceStatus
from engine.projections.metrics import Metrics, MetricsFilter
from engine.projections.sessions import SessionFilter, SessionRow

__all__ = [
    "AuditEntry",
    "AuditFilter",
    "ComplianceStatus",
    "CredentialsRefused",
    "GuestConsent",
    "GuestRequest",
    "GuestledgerError",
    "IdempotencyConflict",
    "InvalidRequest",
    "Ledger",
    "Metrics",
    "MetricsFilter",
    "Policy",
    "RetryPolicy",
    "ServiceError",
    "ServiceUnreachable",
    "Session",
    "SessionFilter",
    "SessionNotFound",
    "SessionRow",
    "Status",
]
