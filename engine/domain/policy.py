"""What is a matter of choice in the lifecycle."""

from datetime import datetime, timedelta
from typing import Annotated

import msgspec

from guestledger.engine.domain.consent_terms import ConsentTerms
from guestledger.engine.domain.session import Session
from guestledger.engine.limits.fields import check_fields
from guestledger.engine.limits.policy import LimiterPolicy
from guestledger.engine.limits.retry import Ms, RetryPolicy

MAX_RETENTION_DAYS = 36_525
"""A hundred years."""

_SECOND, _MINUTE, _HOUR = 1_000, 60_000, 3_600_000

STANDARD_WAITS_MS = (
    5 * _SECOND,
    5 * _MINUTE,
    30 * _MINUTE,
    2 * _HOUR,
    5 * _HOUR,
    10 * _HOUR,
    14 * _HOUR,
    20 * _HOUR,
    24 * _HOUR,
)
"""The example schedule of Standard Webhooks 1.0.0, "Deliverability and reliability"; its first try is immediate."""


class DeliveryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """When a notice is sent again, and when it becomes a dead letter.

    Raises `ValueError`, naming the field, for a value that does not fit.
    """

    waits_ms: tuple[Ms, ...] = STANDARD_WAITS_MS
    """The waits before the second try, the third and so on. After the last one the notice is a dead letter."""
    jitter_percent: Annotated[int, msgspec.Meta(ge=0, le=100)] = 10
    """The most that is added to a wait."""
    max_wait_ms: Ms = 7 * 24 * _HOUR
    """A notice whose receiver asks for a longer wait becomes a dead letter at once."""

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def max_failures(self) -> int:
        """How many tries in a row may fail."""
        return len(self.waits_ms) + 1


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """The choices of one ledger. All processes on it should share them.

    Raises `ValueError`, naming the field, for a value that does not fit.
    """

    creation: RetryPolicy = RetryPolicy()
    webhook: DeliveryPolicy = DeliveryPolicy()
    limiter: LimiterPolicy = LimiterPolicy()
    max_backlog_age_ms: Ms = 60_000
    """A worker logs a warning when a session has waited for longer than this."""
    assumed_lifetime_ms: Ms = _HOUR
    """The assumed lifetime of a guest token with an unreadable expiry."""
    consent_terms: ConsentTerms = ConsentTerms()
    """What each consent is recorded with: controller, purposes, notices and so on."""
    webhook_enabled: bool = True
    """Whether a created session owes a webhook notice."""
    retention_days: Annotated[int, msgspec.Meta(ge=0, le=MAX_RETENTION_DAYS)] | None = None
    """How long contact data is kept after a session's end (`Session.ended_at`). `None`: until somebody erases it."""

    def __post_init__(self) -> None:
        check_fields(self)


def deadline_of(state: Session, policy: RetryPolicy) -> datetime:
    """The last moment (UTC) at which an attempt may be made."""
    assert state.deadline_from is not None, "only an accepted session has a deadline"
    return state.deadline_from + timedelta(milliseconds=policy.deadline_ms)
