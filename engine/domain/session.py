"""A guest session: its state, and `evolve`, which folds events into it."""

from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from typing import assert_never
from uuid import UUID

from msgspec.structs import replace

from guestledger.engine.domain import events as e
from guestledger.engine.domain.consent import Consent
from guestledger.engine.domain.personal import Guarded, Personal
from guestledger.engine.limits.policy import DenialReason


class Status(StrEnum):
    """Where a session stands. The README draws how one leads to another, and a test holds the drawing to `evolve`."""

    NEW = "new"
    PENDING = "pending"
    ATTEMPTING = "attempting"
    THROTTLED = "throttled"
    IN_DOUBT = "in_doubt"
    PARKED = "parked"
    ACTIVE = "active"
    EXPIRED = "expired"
    REFUSED = "refused"
    REJECTED = "rejected"
    ABANDONED = "abandoned"

    @property
    def is_settled(self) -> bool:
        """Whether the guest has an answer: a session was made, or none will be."""
        return self in _SETTLED


_SETTLED = frozenset({Status.ACTIVE, Status.EXPIRED, Status.REFUSED, Status.REJECTED, Status.ABANDONED})


class Session(Guarded, frozen=True, kw_only=True):
    """One guest session as its events tell it. `version` is the number of events folded; times are UTC."""

    id: UUID
    version: int = 0
    status: Status = Status.NEW
    reason: str | None = None
    """Why it is not active: the last failure, or how it ended."""

    channel_id: str = ""
    guest: e.Guest | None = None
    consent: Consent | None = None
    accepted_at: datetime | None = None

    channel_validated: bool = False
    lookups: int = 0
    """Look-ups without an answer, throttled ones included; of these, `lookups_failed` count as failures."""
    lookups_failed: int = 0
    attempts: int = 0
    throttles: int = 0
    failures: int = 0
    """Attempts that were sent and failed otherwise than by a throttle: these are what the retry policy counts, from anew
    once a person has had a parked session retried."""
    deadline_from: datetime | None = None
    """From when on the policy's deadline counts: the acceptance, or a person's decision to have a parked session retried."""
    retry_at: datetime | None = None
    budget_waits: int = 0
    """How often it was put off for a spent budget since a request was last made for it."""
    in_doubt: tuple[int, ...] = ()
    """The attempts of which it is not known whether a session at CXone came of them."""

    session_id: str | None = None
    """CXone's id of the session."""
    guest_token: Personal | None = None
    created_at: datetime | None = None
    expires_at: datetime | None = None
    latency_ms: int | None = None
    duplicates: tuple[str, ...] = ()

    webhook_attempts: int = 0
    webhook_failures: int = 0
    """Calls in a row that failed since the schedule began, at the creation or with a redelivery."""
    webhook_retry_at: datetime | None = None
    webhook_settled: bool = False

    @property
    def due_since(self) -> datetime:
        """From when on the next step towards creation may be taken."""
        due = self.retry_at or self.accepted_at
        assert due is not None, "a session without events has nothing due"
        return due

    @property
    def is_retried(self) -> bool:
        """Whether a request for it failed, otherwise than by a 429: the next one then is a retry, which a limiter has a budget for."""
        return self.attempts > self.throttles or self.lookups_failed > 0


def fold(session_id: UUID, events: Iterable[e.Event]) -> Session:
    """The state after `events`, from the first of the stream on."""
    state = Session(id=session_id)
    for event in events:
        state = evolve(state, event)
    return state


def evolve(state: Session, event: e.Event) -> Session:
    """The state after `event`. Pure, and total over every event: history is never refused."""
    return replace(_apply(state, event), version=state.version + 1)


def _apply(state: Session, event: e.Event) -> Session:
    match event:
        case e.ConsentRecorded():
            return replace(
                state,
                status=Status.PENDING,
                channel_id=event.channel_id,
                guest=event.guest,
                consent=event.consent,
                accepted_at=event.at,
                deadline_from=event.at,
            )
        case e.ConsentRefused():
            reason = f"consent refused: {' and '.join(event.failed)} must be exactly true"
            return replace(state, status=Status.REFUSED, channel_id=event.channel_id, guest=event.guest, reason=reason)
        case e.ChannelValidated():
            return replace(state, channel_validated=True, retry_at=None, budget_waits=0, reason=None)
        case e.ChannelRejected():
            return replace(state, status=Status.REJECTED, reason=event.reason)
        case e.ChannelLookupFailed():
            status = state.status if event.retry_at else Status.REJECTED
            return replace(
                state,
                status=status,
                reason=event.message,
                retry_at=event.retry_at,
                budget_waits=0,
                lookups=event.lookup,
                lookups_failed=state.lookups_failed + (event.kind is not None and event.kind.counts),
            )
        case e.CreationDeferred():
            waits = state.budget_waits + (event.held_by is DenialReason.BUDGET)
            return replace(state, reason=event.reason, retry_at=event.retry_at, budget_waits=waits)
        case e.CreationAttempted():
            return replace(
                state,
                status=Status.ATTEMPTING,
                attempts=event.attempt,
                retry_at=event.at,
                budget_waits=0,
                reason=None,
            )
        case e.CreationThrottled():
            return replace(
                state,
                status=Status.THROTTLED,
                reason=event.reason,
                retry_at=event.retry_at,
                throttles=state.throttles + 1,
            )
        case e.CreationFailed():
            return _failed(state, event)
        case e.SessionCreated():
            return _created(state, event)
        case e.DuplicateCreated():
            return replace(
                state,
                duplicates=(*state.duplicates, event.session_id),
                in_doubt=_without(state.in_doubt, event.attempt),
            )
        case e.DoubtLifted():
            known = replace(state, in_doubt=_without(state.in_doubt, event.attempt))
            if event.retry_at is None:
                return known
            return replace(known, status=Status.PENDING, reason=event.message, retry_at=event.retry_at)
        case e.SessionParked() | e.RetryDecided() | e.AbandonmentDecided() | e.SessionAdopted():
            return _parked(state, event)
        case e.GuestTokenFound():
            return replace(state, guest_token=event.guest_token, in_doubt=_without(state.in_doubt, event.attempt))
        case e.WebhookSynced() | e.WebhookFailed() | e.WebhookAbandoned():
            return _notified(state, event)
        case e.WebhookRedeliveryRequested():
            return replace(state, webhook_settled=False, webhook_failures=0, webhook_retry_at=event.at)
        case e.TokenExpired():
            return replace(state, status=Status.EXPIRED)
        case e.SessionAbandoned():
            return replace(state, status=Status.ABANDONED, reason=event.reason, retry_at=None)
        case _:
            raise TypeError(f"evolve knows no event {type(event).__name__}")


def _failed(state: Session, event: e.CreationFailed) -> Session:
    if event.retry_at is None:
        status = Status.REJECTED
    elif event.kind is e.FailureKind.IN_DOUBT:
        status = Status.IN_DOUBT
    else:
        status = Status.PENDING
    doubted = (event.attempt,) if event.kind is e.FailureKind.IN_DOUBT else ()
    return replace(
        state,
        status=status,
        reason=event.message,
        retry_at=event.retry_at,
        failures=state.failures + event.kind.counts,
        in_doubt=(*_without(state.in_doubt, event.attempt), *doubted),
    )


def _parked(
    state: Session, event: e.SessionParked | e.RetryDecided | e.AbandonmentDecided | e.SessionAdopted
) -> Session:
    match event:
        case e.SessionParked():
            return replace(state, status=Status.PARKED, reason=event.reason, retry_at=None)
        case e.RetryDecided():
            return replace(
                state,
                status=Status.PENDING,
                reason=event.reason,
                retry_at=event.at,
                deadline_from=event.at,
                failures=0,
            )
        case e.AbandonmentDecided():
            return replace(state, status=Status.ABANDONED, reason=event.reason)
        case e.SessionAdopted():
            return replace(
                state,
                status=Status.ACTIVE,
                reason=None,
                session_id=event.session_id,
                guest_token=event.guest_token,
                created_at=event.at,
                expires_at=event.expires_at,
                in_doubt=_without(state.in_doubt, event.attempt),
            )
        case _:
            assert_never(event)


def _without(attempts: tuple[int, ...], attempt: int) -> tuple[int, ...]:
    return tuple(other for other in attempts if other != attempt)


def _created(state: Session, event: e.SessionCreated) -> Session:
    return replace(
        state,
        status=Status.ACTIVE,
        reason=None,
        retry_at=None,
        session_id=event.session_id,
        guest_token=event.guest_token,
        created_at=event.at,
        expires_at=event.expires_at,
        latency_ms=event.latency_ms,
        in_doubt=_without(state.in_doubt, event.attempt),
    )


def _notified(state: Session, event: e.WebhookSynced | e.WebhookFailed | e.WebhookAbandoned) -> Session:
    match event:
        case e.WebhookSynced():
            return replace(state, webhook_settled=True, webhook_attempts=event.attempt, webhook_retry_at=None)
        case e.WebhookFailed():
            return replace(
                state,
                webhook_attempts=event.attempt,
                webhook_failures=state.webhook_failures + 1,
                webhook_retry_at=event.retry_at,
            )
        case e.WebhookAbandoned():
            return replace(state, webhook_settled=True, webhook_attempts=event.attempts, webhook_retry_at=None)
        case _:
            assert_never(event)
