"""Deferrals by the limiter, the deadline, and giving up."""

from datetime import datetime, timedelta

from guestledger.engine.domain import events as e
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.commands import DeferCreation, NoteClockSetBack
from guestledger.engine.domain.policy import deadline_of
from guestledger.engine.domain.session import Session, Status
from guestledger.engine.limits.admission import DenialReason, Denied
from guestledger.engine.limits.retry import RetryPolicy, Wait, WaitBasis

_WAITING = (Status.PENDING, Status.THROTTLED, Status.IN_DOUBT)

# Sessions denied for the same reason must not all come back at once. Reservations are spread by themselves.
_SPREAD_MS = {DenialReason.RETRY_BUDGET: 15_000, DenialReason.CONCURRENCY: 500}
# How many wait for the budget is unknown, so each further wait is spread wider. Factor 2 would outlast the shortage.
_SPREAD_GROWTH = 1.5


def defer(state: Session, command: DeferCreation, policy: RetryPolicy) -> list[e.Event]:
    """Put the due attempt or look-up off, unless it waits longer already."""
    denied, now = command.denied, command.now
    if state.status not in _WAITING or (state.retry_at is not None and state.retry_at > denied.until):
        return []
    spread_ms = int(max_spread_ms(state, denied, policy) * command.jitter)
    retry_at = denied.until + timedelta(milliseconds=spread_ms)
    wait_ms = whole_ms(retry_at - now)
    extra_ms = min(spread_ms, wait_ms)
    deferred = e.CreationDeferred(
        at=now,
        channel_id=state.channel_id,
        limiter=command.limiter,
        denied_by=denied.by,
        closed_by=denied.closed_by,
        wait=Wait(ms=wait_ms, basis=WaitBasis.LIMITER, basis_ms=wait_ms - extra_ms, extra_ms=extra_ms),
        retry_at=retry_at,
    )
    return [deferred, *give_up(state, 0, retry_at, now, policy)]


def max_spread_ms(state: Session, denied: Denied, policy: RetryPolicy) -> int:
    """The spread of denied sessions. It never crosses a deadline that the denial itself keeps."""
    waits = state.budget_waits if denied.by is DenialReason.RETRY_BUDGET else 0
    spread_ms = int(_SPREAD_MS.get(denied.by, 0) * _SPREAD_GROWTH ** min(waits, 32))
    return min(spread_ms, max(0, (deadline_of(state, policy) - denied.until) // timedelta(milliseconds=1)))


def enforce_deadline(state: Session, now: datetime, policy: RetryPolicy) -> list[e.Event]:
    """`SessionAbandoned` once the deadline has passed. An attempt in flight is settled first."""
    return give_up(state, 0, now, now, policy) if state.status in _WAITING else []


def note_clock_set_back(state: Session, command: NoteClockSetBack) -> list[e.Event]:
    """Move what the session waits for. A token's expiry stays: the provider dates it."""
    if state.status not in (*_WAITING, Status.ATTEMPTING) and not state.webhook_owed:
        return []
    return [e.ClockSetBack(at=command.now, channel_id=state.channel_id, back_ms=command.back_ms)]


def give_up(
    state: Session, failures: int, retry_at: datetime | None, now: datetime, policy: RetryPolicy
) -> list[e.Event]:
    """`SessionAbandoned` if the retry planned for `retry_at` must not be made; nothing if none is planned."""
    if retry_at is None:
        return []
    if failures >= policy.max_failures:
        cause = Cause.TOO_MANY_FAILURES
    elif retry_at > deadline_of(state, policy):
        cause = Cause.DEADLINE_EXCEEDED
    else:
        return []
    return [e.SessionAbandoned(at=now, channel_id=state.channel_id, cause=cause, attempts=state.attempts)]


def after(now: datetime, wait: Wait | None) -> datetime | None:
    """When the wait ends; `None`: there is none."""
    return None if wait is None else now + timedelta(milliseconds=wait.ms)


def whole_ms(span: timedelta) -> int:
    """A span in whole milliseconds; 0 if it is negative, as when clocks disagree."""
    return max(0, round(span / timedelta(milliseconds=1)))
