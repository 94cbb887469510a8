"""Events to state: `evolve` folds one event into a session."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import assert_never
from uuid import UUID

from msgspec.structs import replace

from guestledger.engine.domain import events as e
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.outcomes import FailureKind
from guestledger.engine.domain.session import Session, Status
from guestledger.engine.limits.admission import DenialReason

_BEGINNING = datetime.min.replace(tzinfo=UTC)


def fold(session_id: UUID, events: Iterable[e.Event]) -> Session:
    """The state after `events`, which start with the first of the stream."""
    state = Session(id=session_id)
    for event in events:
        state = evolve(state, event)
    return state


def evolve(state: Session, event: e.Event) -> Session:
    """The state after `event`. History is never refused."""
    after = _apply(state, event)
    ended_at = (state.ended_at or event.at) if after.is_over else None
    return replace(after, version=state.version + 1, ended_at=ended_at)


def evolve_all(state: Session, events: Sequence[e.Event]) -> Session:
    """The state after `events`."""
    for event in events:
        state = evolve(state, event)
    return state


def _apply(state: Session, event: e.Event) -> Session:
    match event:
        case e.ConsentRecorded() | e.ConsentRefused():
            return _opened(state, event)
        case e.ChannelValidated() | e.ChannelRejected() | e.ChannelLookupFailed():
            return _looked_up(state, event)
        case e.CreationDeferred() | e.CreationAttempted() | e.CreationThrottled() | e.CreationFailed():
            return _attempted(state, event)
        case e.SessionCreated() | e.SessionAdopted():
            return _created(state, event)
        case e.DuplicateCreated():
            duplicates = (*state.duplicates, event.session_id)
            return replace(state, duplicates=duplicates, in_doubt=_without(state.in_doubt, event.attempt))
        case e.GuestTokenFound():
            return replace(state, guest_token=event.guest_token, in_doubt=_without(state.in_doubt, event.attempt))
        case e.DoubtLifted() | e.SessionParked() | e.RetryDecided() | e.AbandonmentDecided():
            return _parked(state, event)
        case e.WebhookSynced() | e.WebhookFailed() | e.WebhookAbandoned() | e.WebhookRedeliveryRequested():
            return _notified(state, event)
        case e.ConsentWithdrawn() | e.MarketingWithdrawn():
            return _withdrawn(state, event)
        case e.TokenExpired():
            return replace(state, status=Status.EXPIRED)
        case e.TokenPurged() | e.ContactErased() | e.LegalHoldPlaced() | e.LegalHoldReleased():
            return _kept(state, event)
        case e.ClockSetBack():
            return _set_back(state, event.back_ms)
        case e.SessionAbandoned():
            return replace(state, status=Status.ABANDONED, cause=event.cause, detail=None, retry_at=None)
        case e.GuestErased():
            return replace(
                state,
                erased_at=event.at,
                contact_erased_at=state.contact_erased_at or event.at,
                token_purged_at=state.token_purged_at or event.at,
                guest_token=None,
            )
        case _:
            raise TypeError(f"evolve does not handle {type(event).__name__}")


def _opened(state: Session, event: e.ConsentRecorded | e.ConsentRefused) -> Session:
    opened = replace(state, channel_id=event.channel_id, guest=event.guest)
    if isinstance(event, e.ConsentRefused):
        return replace(opened, status=Status.REFUSED, cause=Cause.CONSENT_REFUSED, detail=", ".join(event.failed))
    return replace(opened, status=Status.PENDING, consent=event.consent, accepted_at=event.at, deadline_from=event.at)


def _looked_up(state: Session, event: e.ChannelValidated | e.ChannelRejected | e.ChannelLookupFailed) -> Session:
    match event:
        case e.ChannelValidated():
            return replace(state, channel_validated=True, retry_at=None, budget_waits=0, cause=None, detail=None)
        case e.ChannelRejected():
            return replace(state, status=Status.REJECTED, cause=event.cause, detail=event.detail)
        case e.ChannelLookupFailed():
            return replace(
                state,
                status=state.status if event.retry_at else Status.REJECTED,
                cause=event.cause,
                detail=event.detail,
                retry_at=event.retry_at,
                budget_waits=0,
                lookups=event.lookup,
                lookups_failed=state.lookups_failed + (event.kind is not None and event.kind.counts),
            )
        case _:
            assert_never(event)


def _attempted(
    state: Session, event: e.CreationDeferred | e.CreationAttempted | e.CreationThrottled | e.CreationFailed
) -> Session:
    match event:
        case e.CreationDeferred():
            waits = state.budget_waits + (event.denied_by is DenialReason.RETRY_BUDGET)
            return replace(
                state, cause=Cause.RATE_LIMITED, detail=event.limiter, retry_at=event.retry_at, budget_waits=waits
            )
        case e.CreationAttempted():
            return replace(
                state,
                status=Status.ATTEMPTING,
                attempts=event.attempt,
                retry_at=event.at,
                budget_waits=0,
                cause=None,
                detail=None,
            )
        case e.CreationThrottled():
            return replace(
                state,
                status=Status.THROTTLED,
                cause=Cause.THROTTLED,
                detail=None,
                retry_at=event.retry_at,
                throttles=state.throttles + 1,
            )
        case e.CreationFailed():
            return _failed(state, event)
        case _:
            assert_never(event)


def _failed(state: Session, event: e.CreationFailed) -> Session:
    doubted = event.kind is FailureKind.IN_DOUBT
    retried = Status.IN_DOUBT if doubted else Status.PENDING
    others = _without(state.in_doubt, event.attempt)
    return replace(
        state,
        status=Status.REJECTED if event.retry_at is None else retried,
        cause=event.cause,
        detail=event.detail,
        retry_at=event.retry_at,
        failures=state.failures + event.kind.counts,
        in_doubt=(*others, event.attempt) if doubted else others,
    )


def _created(state: Session, event: e.SessionCreated | e.SessionAdopted) -> Session:
    created = replace(
        state,
        status=Status.ACTIVE,
        cause=None,
        detail=None,
        retry_at=None,
        session_id=event.session_id,
        guest_token=event.guest_token,
        created_at=event.at,
        expires_at=event.expires_at,
        webhook_owed=event.webhook_owed,
        in_doubt=_without(state.in_doubt, event.attempt),
    )
    if isinstance(event, e.SessionAdopted):
        return created
    return replace(created, latency_ms=event.latency_ms, shared_with=event.shared_with)


def _parked(state: Session, event: e.DoubtLifted | e.SessionParked | e.RetryDecided | e.AbandonmentDecided) -> Session:
    match event:
        case e.DoubtLifted():
            lifted = replace(state, in_doubt=_without(state.in_doubt, event.attempt))
            if event.retry_at is None:
                return lifted
            return replace(
                lifted, status=Status.PENDING, cause=event.cause, detail=event.detail, retry_at=event.retry_at
            )
        case e.SessionParked():
            return replace(state, status=Status.PARKED, cause=event.cause, detail=event.detail, retry_at=None)
        case e.RetryDecided():
            return replace(
                state,
                status=Status.PENDING,
                cause=Cause.RETRY_DECIDED,
                detail=event.reason,
                retry_at=event.at,
                deadline_from=event.at,
                failures=0,
            )
        case e.AbandonmentDecided():
            return replace(state, status=Status.ABANDONED, cause=Cause.ABANDONMENT_DECIDED, detail=event.reason)
        case _:
            assert_never(event)


def _withdrawn(state: Session, event: e.ConsentWithdrawn | e.MarketingWithdrawn) -> Session:
    state = replace(state, consent=state.consent and replace(state.consent, marketing=False))
    if isinstance(event, e.MarketingWithdrawn):
        return state
    return replace(
        state,
        status=Status.WITHDRAWN,
        cause=Cause.CONSENT_WITHDRAWN,
        detail=event.reason,
        withdrawn_at=event.at,
        retry_at=None,
        guest_token=None,
        webhook_owed=event.webhook_owed,
        webhook_failures=0,
        webhook_retry_at=event.at if event.webhook_owed else None,
        webhook_erased=False,
    )


def _notified(
    state: Session, event: e.WebhookSynced | e.WebhookFailed | e.WebhookAbandoned | e.WebhookRedeliveryRequested
) -> Session:
    match event:
        case e.WebhookSynced() if event.notice is not state.notice:
            return replace(state, webhook_attempts=event.attempt)
        case e.WebhookSynced():
            return replace(
                state,
                webhook_owed=False,
                webhook_attempts=event.attempt,
                webhook_retry_at=None,
                webhook_erased=False,
            )
        case e.WebhookFailed():
            return replace(
                state,
                webhook_attempts=event.attempt,
                webhook_failures=state.webhook_failures + 1,
                webhook_retry_at=event.retry_at,
            )
        case e.WebhookAbandoned():
            return replace(
                state,
                webhook_owed=False,
                webhook_attempts=event.attempts,
                webhook_retry_at=None,
                webhook_erased=event.cause is Cause.GUEST_ERASED,
            )
        case e.WebhookRedeliveryRequested():
            return replace(state, webhook_owed=True, webhook_failures=0, webhook_retry_at=event.at)
        case _:
            assert_never(event)


def _kept(state: Session, event: e.TokenPurged | e.ContactErased | e.LegalHoldPlaced | e.LegalHoldReleased) -> Session:
    match event:
        case e.TokenPurged():
            return replace(state, guest_token=None, token_purged_at=event.at)
        case e.ContactErased():
            return replace(state, contact_erased_at=event.at)
        case e.LegalHoldPlaced():
            return replace(state, held_since=event.at)
        case e.LegalHoldReleased():
            return replace(state, held_since=None)
        case _:
            assert_never(event)


def _set_back(state: Session, back_ms: int) -> Session:
    if state.created_at is not None:
        return replace(state, webhook_retry_at=_earlier(state.webhook_retry_at or state.created_at, back_ms))
    names = ("accepted_at", "deadline_from", "retry_at")
    times = {name: time for name in names if (time := getattr(state, name)) is not None}
    return replace(state, **{name: _earlier(time, back_ms) for name, time in times.items()})


def _earlier(time: datetime, ms: int) -> datetime:
    try:
        return time - timedelta(milliseconds=ms)
    except OverflowError:  # no clock goes so far back, but history is never refused
        return _BEGINNING


def _without(attempts: tuple[int, ...], attempt: int) -> tuple[int, ...]:
    return tuple(other for other in attempts if other != attempt)
