"""Creation attempts: beginning one, and its outcome."""

from datetime import datetime, timedelta
from typing import assert_never

from guestledger.engine.domain import events as e
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.commands import BeginAttempt, RecordAttempt, SettleAttempt
from guestledger.engine.domain.doubt import known_again, lifted, parked, unanswered
from guestledger.engine.domain.expiry import is_possible_expiry
from guestledger.engine.domain.outcomes import Created, Failed, FailureKind, Throttled
from guestledger.engine.domain.policy import Policy
from guestledger.engine.domain.session import Session, Status
from guestledger.engine.domain.waiting import after, enforce_deadline, give_up, whole_ms
from guestledger.engine.limits.retry import InDoubt, RetryPolicy, backoff_wait


def begin_attempt(state: Session, command: BeginAttempt, policy: RetryPolicy) -> list[e.Event]:
    """The attempt, to be committed before it is sent; or the end of a session whose deadline has passed."""
    if not state.channel_validated or state.status not in (Status.PENDING, Status.THROTTLED, Status.IN_DOUBT):
        return []
    return enforce_deadline(state, command.now, policy) or [
        e.CreationAttempted(
            at=command.now,
            channel_id=state.channel_id,
            attempt=state.attempts + 1,
            idempotency_key=str(state.id),
            request_hmac=command.request_hmac,
        )
    ]


def settle_attempt(state: Session, command: SettleAttempt, policy: RetryPolicy) -> list[e.Event]:
    """Record the attempt as in doubt. Only then may another one follow: a second remote session would go unseen."""
    if state.status is not Status.ATTEMPTING or command.attempt != state.attempts:
        return []
    lost = Failed(kind=FailureKind.IN_DOUBT, cause=Cause.PROCESS_ENDED)
    return _record_failure(state, lost, command.now, command.jitter, policy)


def record_attempt(state: Session, command: RecordAttempt, policy: Policy) -> list[e.Event]:
    """The outcome of the current attempt, or of an older one that is late."""
    outcome, now = command.outcome, command.now
    if not 1 <= command.attempt <= state.attempts:
        return []
    current = state.status is Status.ATTEMPTING and command.attempt == state.attempts
    match outcome:
        case Created():
            return _record_created(state, command.attempt, outcome, now, policy)
        case Throttled() if current:
            return _record_throttle(state, outcome, now, command.jitter, policy.creation)
        case Failed() if current:
            return _record_failure(state, outcome, now, command.jitter, policy.creation)
        case Throttled() | Failed():
            return _record_late_failure(state, command, outcome, policy.creation)
        case _:
            assert_never(outcome)


def _record_late_failure(
    state: Session, command: RecordAttempt, outcome: Throttled | Failed, policy: RetryPolicy
) -> list[e.Event]:
    """A late failure matters only where it ends a doubt; an unusable session is kept."""
    named = outcome.session_id if isinstance(outcome, Failed) else None
    if named is not None:
        if named not in (state.session_id, *state.duplicates):
            return [_duplicate(state, command.attempt, named, command.now)]
        if again := known_again(state, command.attempt, named, command.now):
            return again
    known = lifted(state, command, outcome)
    if known is None:
        return []
    return [known, *give_up(state, state.failures, known.retry_at, command.now, policy)]


def _record_created(state: Session, attempt: int, outcome: Created, now: datetime, policy: Policy) -> list[e.Event]:
    if outcome.session_id == state.session_id and state.lacks_token and state.status is Status.ACTIVE:
        token = outcome.guest_token
        return [e.GuestTokenFound(at=now, channel_id=state.channel_id, attempt=attempt, guest_token=token)]
    if outcome.session_id in {state.session_id, *state.duplicates}:
        return known_again(state, attempt, outcome.session_id, now)
    if state.status.is_settled:
        return [_duplicate(state, attempt, outcome.session_id, now)]
    assert state.accepted_at is not None
    expires_at, unread = _expiry(outcome, now, policy)
    return [
        *_overtaken(state, attempt, now),
        e.SessionCreated(
            at=now,
            channel_id=state.channel_id,
            attempt=attempt,
            session_id=outcome.session_id,
            guest_token=outcome.guest_token,
            expires_at=expires_at,
            status=outcome.status,
            unread=unread,
            attempt_latency_ms=outcome.latency_ms,
            latency_ms=whole_ms(now - state.accepted_at),
            webhook_owed=policy.webhook_enabled,
        ),
    ]


def _duplicate(state: Session, attempt: int, session_id: str, now: datetime) -> e.Event:
    return e.DuplicateCreated(at=now, channel_id=state.channel_id, attempt=attempt, session_id=session_id)


def _expiry(outcome: Created, now: datetime, policy: Policy) -> tuple[datetime | None, dict[str, str]]:
    """When the token expires, and what is unread. An unknown or impossible expiry is replaced by the policy's."""
    expires_at, unread = outcome.expires_at, outcome.unread
    if expires_at is not None and not is_possible_expiry(expires_at, now):
        unread = {**unread, "expires_at": expires_at.isoformat()}
    if "expires_at" in unread:
        expires_at = now + timedelta(milliseconds=policy.assumed_lifetime_ms)
    return expires_at, unread


def _overtaken(state: Session, attempt: int, now: datetime) -> list[e.Event]:
    """If an older attempt brings the session, the current one ends in doubt: its answer may never come."""
    if state.status is not Status.ATTEMPTING or attempt == state.attempts:
        return []
    return [unanswered(state, Cause.OVERTAKEN, str(attempt), now)]


def _record_throttle(
    state: Session, outcome: Throttled, now: datetime, jitter: float, policy: RetryPolicy
) -> list[e.Event]:
    wait = backoff_wait(state.throttles + 1, policy, jitter, outcome.retry_after)
    retry_at = after(now, wait)
    assert retry_at is not None
    throttled = e.CreationThrottled(
        at=now,
        channel_id=state.channel_id,
        attempt=state.attempts,
        status=outcome.status,
        wait=wait,
        retry_at=retry_at,
    )
    return [throttled, *give_up(state, 0, retry_at, now, policy)]


def _record_failure(
    state: Session, outcome: Failed, now: datetime, jitter: float, policy: RetryPolicy
) -> list[e.Event]:
    failures = state.failures + 1 if outcome.kind.counts else 0
    tries = state.attempts - state.throttles
    final = outcome.kind is FailureKind.FINAL
    wait = None if final else backoff_wait(tries, policy, jitter, outcome.retry_after)
    failed = e.CreationFailed(
        at=now,
        channel_id=state.channel_id,
        attempt=state.attempts,
        kind=outcome.kind,
        cause=outcome.cause,
        status=outcome.status,
        detail=outcome.detail,
        session_id=outcome.session_id,
        wait=wait,
        retry_at=after(now, wait),
    )
    # Another attempt would be answered in the same way, and make another session.
    parks = policy.in_doubt is InDoubt.PARK or outcome.cause is Cause.UNREADABLE_ANSWER
    if outcome.kind is FailureKind.IN_DOUBT and parks:
        return [failed, parked(state, outcome, now)]
    return [failed, *give_up(state, failures, failed.retry_at, now, policy)]
