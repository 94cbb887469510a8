"""The decisions on the way to a remote session: channel look-up, attempts, and giving up."""

from datetime import datetime, timedelta
from typing import assert_never

from guestledger.engine.domain import events as e
from guestledger.engine.domain.commands import BeginAttempt, BeginLookup, Defer, RecordAttempt, RecordLookup
from guestledger.engine.domain.doubt import lifted, parked
from guestledger.engine.domain.outcomes import Channel, Created, Failed, Throttled
from guestledger.engine.domain.session import Session, Status
from guestledger.engine.limits.policy import DenialReason, Denied
from guestledger.engine.limits.retry import InDoubt, RetryPolicy, backoff_ms

PROTOCOL = "web_chat"


def begin_lookup(state: Session, command: BeginLookup, policy: RetryPolicy) -> list[e.Event]:
    """That the session is given up, where its deadline has passed; else nothing: a look-up is not announced."""
    return _give_up(state, 0, command.now, command.now, policy)


def record_lookup(state: Session, command: RecordLookup, policy: RetryPolicy) -> list[e.Event]:
    """What CXone said of the channel: usable, not usable, or nothing yet (then when to ask again)."""
    outcome, now = command.outcome, command.now
    match outcome:
        case Channel():
            return [_channel_seen(state, outcome, now)]
        case Failed(status=404):
            reason = f"CXone knows no channel {state.channel_id!r}: check the id"
            return [
                e.ChannelRejected(at=now, channel_id=state.channel_id, reason=reason, looked_up_at=now, cached=False)
            ]
        case Throttled() | Failed():
            lookup = state.lookups + 1
            kind = None if isinstance(outcome, Throttled) else outcome.kind
            wait_ms = _wait_ms(outcome, lookup, policy, command.jitter)
            failed = e.ChannelLookupFailed(
                at=now,
                channel_id=state.channel_id,
                lookup=lookup,
                kind=kind,
                status=outcome.status,
                message=_words(outcome),
                wait_ms=wait_ms,
                reason=None if wait_ms is None else _why(outcome, wait_ms),
                retry_at=_after(now, wait_ms),
            )
            counted = state.lookups_failed + 1 if kind is not None and kind.counts else 0
            return [failed, *_give_up(state, counted, failed.retry_at, now, policy)]
        case _:
            assert_never(outcome)


def _channel_seen(state: Session, channel: Channel, now: datetime) -> e.Event:
    reason = None
    if channel.status != "active":
        reason = f"channel {state.channel_id!r} is {channel.status!r}, not 'active': activate it in CXone"
    elif PROTOCOL not in channel.protocols:
        reason = f"channel {state.channel_id!r} does not support {PROTOCOL!r}: add the protocol in CXone"
    if reason is not None:
        return e.ChannelRejected(
            at=now,
            channel_id=state.channel_id,
            reason=reason,
            looked_up_at=channel.looked_up_at,
            cached=channel.cached,
        )
    return e.ChannelValidated(
        at=now,
        channel_id=state.channel_id,
        status=channel.status,
        protocols=channel.protocols,
        looked_up_at=channel.looked_up_at,
        cached=channel.cached,
    )


def begin_attempt(state: Session, command: BeginAttempt, policy: RetryPolicy) -> list[e.Event]:
    """The attempt, to be committed before it is sent; nothing where none may be made."""
    match state.status:
        case Status.ATTEMPTING:
            # Whoever sent the last attempt is gone, and its answer with it. That attempt is in doubt, and must be
            # recorded so before another is made: else a second remote session could arise unseen.
            lost = Failed(
                kind=e.FailureKind.IN_DOUBT, status=None, message="the process ended before the answer was recorded"
            )
            return _record_failure(state, lost, command.now, command.jitter, policy)
        case Status.PENDING | Status.THROTTLED | Status.IN_DOUBT if state.channel_validated:
            # It may have waited behind a limiter for longer than anybody planned.
            return _give_up(state, 0, command.now, command.now, policy) or [
                e.CreationAttempted(
                    at=command.now,
                    channel_id=state.channel_id,
                    attempt=state.attempts + 1,
                    idempotency_key=str(state.id),
                    request_sha256=command.request_sha256,
                )
            ]
        case _:
            return []


# So that those who are held back by the same thing do not all come again at once. Slots are given out one by one anyway.
_SPREAD_MS = {DenialReason.BUDGET: 15_000, DenialReason.CALLS: 500}
# Nobody knows how many wait for the budget: each time that one of them finds it spent again, they are more than it had taken
# them for. By half as much again, each then asks a few times, and the budget is made use of almost to the end; doubled, the
# last ones would wait for long where nobody else wants it any more.
_SPREAD_GROWS = 1.5


def defer(state: Session, command: Defer, policy: RetryPolicy) -> list[e.Event]:
    """The attempt or look-up that was due is put off; nothing where none may be made anyway."""
    if state.status not in (Status.PENDING, Status.THROTTLED, Status.IN_DOUBT):
        return []
    held, now = command.held, command.now
    spread_ms = int(max_spread_ms(state, held, policy) * command.jitter)
    retry_at = held.until + timedelta(milliseconds=spread_ms)
    deferred = e.CreationDeferred(
        at=now,
        channel_id=state.channel_id,
        limiter=command.limiter,
        held_by=held.by,
        reason=f"{held.reason}, plus {spread_ms} ms spread" if spread_ms else held.reason,
        wait_ms=whole_ms(retry_at - now),
        retry_at=retry_at,
    )
    return [deferred, *_give_up(state, 0, retry_at, now, policy)]


def max_spread_ms(state: Session, held: Denied, policy: RetryPolicy) -> int:
    """Over how long they are spread whom this holds back; never beyond the deadline, where the time itself lies before it."""
    waits = state.budget_waits if held.by is DenialReason.BUDGET else 0
    spread_ms = int(_SPREAD_MS.get(held.by, 0) * _SPREAD_GROWS ** min(waits, 32))
    return min(spread_ms, max(0, (_deadline(state, policy) - held.until) // timedelta(milliseconds=1)))


def record_attempt(state: Session, command: RecordAttempt, policy: RetryPolicy) -> list[e.Event]:
    """What came of an attempt, be it the current one or one whose answer comes late."""
    outcome, now = command.outcome, command.now
    if not 1 <= command.attempt <= state.attempts:
        return []  # This session never made that attempt.
    current = state.status is Status.ATTEMPTING and command.attempt == state.attempts
    match outcome:
        case Created():
            return _record_created(state, command.attempt, outcome, now)
        case Throttled() if current:
            return _record_throttle(state, outcome, now, command.jitter, policy)
        case Failed() if current:
            return _record_failure(state, outcome, now, command.jitter, policy)
        case Throttled() | Failed():
            return _record_nothing_made(state, command, outcome, policy)
        case _:
            assert_never(outcome)


def _record_nothing_made(
    state: Session, command: RecordAttempt, outcome: Throttled | Failed, policy: RetryPolicy
) -> list[e.Event]:
    """A late answer that brought no session: it matters where it ends a doubt."""
    known = lifted(state, command, outcome)
    if known is None:
        return []
    return [known, *_give_up(state, state.failures, known.retry_at, command.now, policy)]


def _record_created(state: Session, attempt: int, outcome: Created, now: datetime) -> list[e.Event]:
    if outcome.session_id == state.session_id and state.guest_token is None and state.status is Status.ACTIVE:
        token = outcome.guest_token
        return [e.GuestTokenFound(at=now, channel_id=state.channel_id, attempt=attempt, guest_token=token)]
    known = {state.session_id, *state.duplicates}
    if outcome.session_id in known:
        return []
    if state.status.is_settled:
        return [e.DuplicateCreated(at=now, channel_id=state.channel_id, attempt=attempt, session_id=outcome.session_id)]
    assert state.accepted_at is not None
    return [
        *_overtaken(state, attempt, now),
        e.SessionCreated(
            at=now,
            channel_id=state.channel_id,
            attempt=attempt,
            session_id=outcome.session_id,
            guest_token=outcome.guest_token,
            expires_at=outcome.expires_at,
            status=outcome.status,
            attempt_latency_ms=outcome.latency_ms,
            latency_ms=whole_ms(now - state.accepted_at),
        ),
    ]


def _overtaken(state: Session, attempt: int, now: datetime) -> list[e.Event]:
    """The doubt about the current attempt, where the answer to an older one brings the session.

    Nobody waits for the current one's answer from here on: should it never come, what that attempt made would be told nowhere.
    """
    if state.status is not Status.ATTEMPTING or attempt == state.attempts:
        return []
    return [
        e.CreationFailed(
            at=now,
            channel_id=state.channel_id,
            attempt=state.attempts,
            kind=e.FailureKind.IN_DOUBT,
            status=None,
            message=f"attempt {attempt} has brought the session before this one was answered",
            wait_ms=0,
            reason="nothing is left to wait for",
            retry_at=now,
        )
    ]


def _record_throttle(
    state: Session, outcome: Throttled, now: datetime, jitter: float, policy: RetryPolicy
) -> list[e.Event]:
    wait_ms = _wait_ms(outcome, state.throttles + 1, policy, jitter)
    assert wait_ms is not None
    throttled = e.CreationThrottled(
        at=now,
        channel_id=state.channel_id,
        attempt=state.attempts,
        status=outcome.status,
        retry_after_given=outcome.retry_after.given,
        retry_after_ms=outcome.retry_after.ms,
        wait_ms=wait_ms,
        reason=_why(outcome, wait_ms),
        retry_at=now + timedelta(milliseconds=wait_ms),
    )
    return [throttled, *_give_up(state, 0, throttled.retry_at, now, policy)]


def _record_failure(
    state: Session, outcome: Failed, now: datetime, jitter: float, policy: RetryPolicy
) -> list[e.Event]:
    failures = state.failures + 1 if outcome.kind.counts else 0
    wait_ms = _wait_ms(outcome, state.attempts - state.throttles, policy, jitter)
    failed = e.CreationFailed(
        at=now,
        channel_id=state.channel_id,
        attempt=state.attempts,
        kind=outcome.kind,
        status=outcome.status,
        message=outcome.message,
        wait_ms=wait_ms,
        reason=None if wait_ms is None else _why(outcome, wait_ms),
        retry_at=_after(now, wait_ms),
    )
    if outcome.kind is e.FailureKind.IN_DOUBT and policy.in_doubt is InDoubt.PARK:
        return [failed, parked(state, outcome.message, now)]
    return [failed, *_give_up(state, failures, failed.retry_at, now, policy)]


def _give_up(
    state: Session, failures: int, retry_at: datetime | None, now: datetime, policy: RetryPolicy
) -> list[e.Event]:
    """`SessionAbandoned` when the retry just planned must not be made; nothing when it may, or when none was planned."""
    if retry_at is None:
        return []
    if failures >= policy.max_failures:
        reason = f"given up after {failures} failures"
    elif retry_at > _deadline(state, policy):
        reason = f"given up: the next try would come after the deadline of {policy.deadline_ms} ms"
    else:
        return []
    return [e.SessionAbandoned(at=now, channel_id=state.channel_id, reason=reason, attempts=state.attempts)]


def _deadline(state: Session, policy: RetryPolicy) -> datetime:
    assert state.deadline_from is not None
    return state.deadline_from + timedelta(milliseconds=policy.deadline_ms)


def _wait_ms(outcome: Throttled | Failed, tries: int, policy: RetryPolicy, jitter: float) -> int | None:
    """How long to wait before the next try; `None` when there is to be none. Never less than the server asked for."""
    if isinstance(outcome, Failed) and outcome.kind.is_final:
        return None
    asked_ms = outcome.retry_after.ms if outcome.retry_after else 0
    return asked_ms + backoff_ms(tries, policy, jitter)


def _why(outcome: Throttled | Failed, wait_ms: int) -> str:
    """Why it waits just so long."""
    asked = outcome.retry_after
    return f"{asked.why}, plus {wait_ms - asked.ms} ms backoff" if asked else f"{wait_ms} ms backoff"


def _words(outcome: Throttled | Failed) -> str:
    return outcome.retry_after.why if isinstance(outcome, Throttled) else outcome.message


def _after(now: datetime, wait_ms: int | None) -> datetime | None:
    return None if wait_ms is None else now + timedelta(milliseconds=wait_ms)


def whole_ms(span: timedelta) -> int:
    """A span in whole milliseconds; 0 when the clocks disagree and it would be negative."""
    return max(0, round(span / timedelta(milliseconds=1)))
