"""The channel look-up: what its outcome means for the session."""

from guestledger.engine.domain import events as e
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.commands import RecordLookup
from guestledger.engine.domain.due import needs_lookup
from guestledger.engine.domain.outcomes import Channel, Failed, FailureKind, Throttled
from guestledger.engine.domain.session import Session
from guestledger.engine.domain.waiting import after, give_up
from guestledger.engine.limits.retry import RetryPolicy, backoff_wait


def record_lookup(state: Session, command: RecordLookup, policy: RetryPolicy) -> list[e.Event]:
    """The channel can take the session, or cannot, or the look-up is retried."""
    if not needs_lookup(state):
        return []
    outcome, now = command.outcome, command.now
    if isinstance(outcome, Channel):
        return [_judged(state, outcome, command)]
    lookup = state.lookups + 1
    kind = None if isinstance(outcome, Throttled) else outcome.kind
    final = kind is FailureKind.FINAL
    wait = None if final else backoff_wait(lookup, policy, command.jitter, outcome.retry_after)
    cause, detail = (outcome.cause, outcome.detail) if isinstance(outcome, Failed) else (Cause.THROTTLED, "")
    failed = e.ChannelLookupFailed(
        at=now,
        channel_id=state.channel_id,
        lookup=lookup,
        kind=kind,
        cause=cause,
        status=outcome.status,
        detail=detail,
        wait=wait,
        retry_at=after(now, wait),
    )
    failures = state.lookups_failed + 1 if kind is not None and kind.counts else 0
    return [failed, *give_up(state, failures, failed.retry_at, now, policy)]


def _judged(state: Session, channel: Channel, command: RecordLookup) -> e.Event:
    if channel.problem is not None:
        return e.ChannelRejected(
            at=command.now,
            channel_id=state.channel_id,
            cause=channel.problem,
            detail=channel.detail,
            looked_up_at=channel.looked_up_at,
            cached=channel.cached,
        )
    return e.ChannelValidated(
        at=command.now,
        channel_id=state.channel_id,
        status=channel.status,
        protocols=channel.protocols,
        looked_up_at=channel.looked_up_at,
        cached=channel.cached,
    )
