"""From events back to the command that made them: its outcome, times and jitter are all in the log."""

from collections.abc import Sequence
from datetime import timedelta

from guestledger.engine.domain import commands as c, events as e
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.outcomes import Adoption, CreationOutcome, Failed, FailureKind, LookupOutcome, Verdict
from guestledger.engine.domain.policy import Policy
from guestledger.engine.domain.session import Session, Status
from guestledger.engine.domain.waiting import max_spread_ms
from guestledger.engine.limits.admission import Denied
from guestledger.engine.limits.retry import RetryPolicy
from guestledger.engine.replay.outcomes import (
    channel_of,
    created,
    created_by,
    delivery_of,
    failed,
    jitter_of,
    lifted_by,
    request_of,
    share,
    throttled,
)

_INSERTED = (Cause.OVERTAKEN, Cause.CONSENT_WITHDRAWN)
"""Why the current attempt is in doubt although nobody lost its answer: the event after it is the decision."""


def command_of(events: Sequence[e.Event], state: Session, policy: Policy) -> c.Command:
    """The command that made the first of `events` in `state`, under `policy`. Raises `ValueError` if none can have."""
    event = _telling(events)
    match event:
        case e.ConsentRecorded() | e.ConsentRefused():
            return c.OpenSession(request=request_of(event), hmac_key=event.guest.hmac_key, now=event.at)
        case e.ChannelValidated() | e.ChannelRejected() | e.ChannelLookupFailed():
            return _lookup(event, policy.creation)
        case e.CreationAttempted():
            return c.BeginAttempt(request_hmac=event.request_hmac, now=event.at)
        case e.CreationDeferred():
            return _deferral(event, state, policy.creation)
        case e.CreationThrottled() | e.CreationFailed() | e.SessionCreated():
            return _answer(event, state, policy.creation)
        case e.DuplicateCreated() | e.GuestTokenFound() | e.DoubtLifted():
            return _late_answer(event, state)
        case e.WebhookSynced() | e.WebhookFailed() | e.WebhookAbandoned():
            return _delivery(event, policy)
        case e.RetryDecided() | e.AbandonmentDecided() | e.SessionAdopted():
            return _resolution(event)
        case _:
            return _request_or_passing_of_time(event, state)


def _telling(events: Sequence[e.Event]) -> e.Event:
    """The event that shows what was decided: the first one, unless others come before it in the same decision."""
    first = events[0]
    cause = getattr(first, "cause", None)
    if cause is Cause.GUEST_ERASED:
        return next((event for event in events if isinstance(event, e.GuestErased)), first)
    if isinstance(first, e.CreationFailed) and cause in _INSERTED and len(events) > 1:
        return events[1]
    return first


def _lookup(
    event: e.ChannelValidated | e.ChannelRejected | e.ChannelLookupFailed, policy: RetryPolicy
) -> c.RecordLookup:
    if not isinstance(event, e.ChannelLookupFailed):
        return c.RecordLookup(outcome=channel_of(event), now=event.at, jitter=0.0)
    outcome: LookupOutcome
    if event.kind is not None:
        outcome = failed(event)
    else:
        assert event.wait is not None, "a throttled look-up waits"
        outcome = throttled(event.status, event.wait)
    return c.RecordLookup(outcome=outcome, now=event.at, jitter=jitter_of(event.wait, event.lookup, policy))


def _deferral(event: e.CreationDeferred, state: Session, policy: RetryPolicy) -> c.DeferCreation:
    spread_ms = event.wait.extra_ms
    until = event.retry_at - timedelta(milliseconds=spread_ms)
    denied = Denied(by=event.denied_by, until=until, closed_by=event.closed_by)
    jitter = share(spread_ms, max_spread_ms(state, denied, policy))
    return c.DeferCreation(limiter=event.limiter, denied=denied, now=event.at, jitter=jitter)


def _answer(
    event: e.CreationThrottled | e.CreationFailed | e.SessionCreated, state: Session, policy: RetryPolicy
) -> c.Command:
    outcome: CreationOutcome
    jitter = 0.0
    match event:
        case e.SessionCreated():
            outcome = created_by(event)
        case e.CreationThrottled():
            outcome, jitter = throttled(event.status, event.wait), jitter_of(event.wait, state.throttles + 1, policy)
        case e.CreationFailed():
            outcome, jitter = failed(event), jitter_of(event.wait, state.attempts - state.throttles, policy)
            if event.cause is Cause.PROCESS_ENDED:
                return c.SettleAttempt(attempt=event.attempt, now=event.at, jitter=jitter)
    return c.RecordAttempt(attempt=event.attempt, outcome=outcome, now=event.at, jitter=jitter)


def _late_answer(event: e.DuplicateCreated | e.GuestTokenFound | e.DoubtLifted, state: Session) -> c.RecordAttempt:
    outcome: CreationOutcome
    match event:
        case e.DuplicateCreated() if state.status.is_settled:
            outcome = created(event.session_id)
        case e.DuplicateCreated():
            outcome = _unreadable(event.session_id)
        case e.GuestTokenFound():
            outcome = created(state.session_id or "", event.guest_token)
        case e.DoubtLifted(cause=Cause.SESSION_KNOWN):
            # A readable answer would have brought the missing token.
            outcome = _unreadable(event.detail) if state.lacks_token else created(event.detail)
        case e.DoubtLifted():
            outcome = lifted_by(event)
    return c.RecordAttempt(attempt=event.attempt, outcome=outcome, now=event.at, jitter=0.0)


def _unreadable(session_id: str) -> Failed:
    return Failed(kind=FailureKind.IN_DOUBT, cause=Cause.UNREADABLE_ANSWER, session_id=session_id)


def _delivery(event: e.WebhookSynced | e.WebhookFailed | e.WebhookAbandoned, policy: Policy) -> c.RecordDelivery:
    jitter = 0.0
    if isinstance(event, e.WebhookFailed):
        jitter = share(event.wait.extra_ms, event.wait.basis_ms * policy.webhook.jitter_percent / 100)
    return c.RecordDelivery(notice=event.notice, outcome=delivery_of(event), now=event.at, jitter=jitter)


def _resolution(event: e.RetryDecided | e.AbandonmentDecided | e.SessionAdopted) -> c.Resolve:
    match event:
        case e.RetryDecided():
            resolution: Verdict | Adoption = Verdict.RETRY
        case e.AbandonmentDecided():
            resolution = Verdict.ABANDON
        case e.SessionAdopted():
            resolution = Adoption(
                session_id=event.session_id, expires_at=event.expires_at, guest_token=event.guest_token
            )
    return c.Resolve(resolution=resolution, decided_by=event.decided_by, reason=event.reason, now=event.at)


def _request_or_passing_of_time(event: e.Event, state: Session) -> c.Command:
    now = event.at
    match event:
        case e.SessionAbandoned():
            return c.EnforceDeadline(now=now)
        case e.TokenExpired():
            return c.ExpireToken(now=now)
        case e.TokenPurged() if state.status is Status.EXPIRED:
            return c.PurgeToken(now=now)
        case e.TokenPurged() | e.ContactErased():
            return c.EraseContact(now=now)
        case e.ClockSetBack():
            return c.NoteClockSetBack(back_ms=event.back_ms, now=now)
        case e.GuestErased():
            return c.EraseGuest(erased_by=event.erased_by, reason=event.reason, erasure=event.erasure, now=now)
        case e.LegalHoldPlaced():
            return c.PlaceHold(placed_by=event.placed_by, reason=event.reason, now=now)
        case e.LegalHoldReleased():
            return c.ReleaseHold(released_by=event.released_by, reason=event.reason, now=now)
        case e.WebhookRedeliveryRequested():
            return c.RequestRedelivery(requested_by=event.requested_by, reason=event.reason, now=now)
        case e.ConsentWithdrawn() | e.MarketingWithdrawn():
            marketing_only = isinstance(event, e.MarketingWithdrawn)
            return c.WithdrawConsent(
                marketing_only=marketing_only, requested_by=event.requested_by, reason=event.reason, now=now
            )
        case _:
            raise ValueError(f"{type(event).__name__} is never the first event of a decision")
