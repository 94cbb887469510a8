"""Doubt: parking a session, a person's decision, and late answers.

A parked session has no deadline: a remote session may exist, with a guest's data in it. Only a person ends it.
"""

from datetime import datetime, timedelta
from typing import assert_never

from guestledger.engine.domain import events as e
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.commands import RecordAttempt, Resolve
from guestledger.engine.domain.outcomes import Adoption, Failed, FailureKind, Throttled, Verdict
from guestledger.engine.domain.policy import Policy
from guestledger.engine.domain.session import Session, Status
from guestledger.engine.limits.retry import Wait, WaitBasis


def parked(state: Session, doubt: Failed, now: datetime) -> e.SessionParked:
    """A person has to decide about the current attempt."""
    return e.SessionParked(
        at=now, channel_id=state.channel_id, attempt=state.attempts, cause=doubt.cause, detail=doubt.detail
    )


def unanswered(state: Session, cause: Cause, detail: str, now: datetime) -> e.CreationFailed:
    """The session no longer waits for its current attempt, whose answer may never come: it is in doubt."""
    return e.CreationFailed(
        at=now,
        channel_id=state.channel_id,
        attempt=state.attempts,
        kind=FailureKind.IN_DOUBT,
        cause=cause,
        status=None,
        detail=detail,
        session_id=None,
        wait=Wait(ms=0, basis=WaitBasis.NONE),
        retry_at=now,
    )


def resolve(state: Session, command: Resolve, policy: Policy) -> list[e.Event]:
    """A person's decision about a parked session; nothing if it is not parked."""
    if state.status is not Status.PARKED:
        return []
    at, channel_id, decided_by, reason = command.now, state.channel_id, command.decided_by, command.reason
    match command.resolution:
        case Verdict.RETRY:
            return [e.RetryDecided(at=at, channel_id=channel_id, decided_by=decided_by, reason=reason)]
        case Verdict.ABANDON:
            return [
                e.AbandonmentDecided(
                    at=at, channel_id=channel_id, decided_by=decided_by, reason=reason, attempts=state.attempts
                )
            ]
        case Adoption() as found:
            return [
                e.SessionAdopted(
                    at=at,
                    channel_id=channel_id,
                    decided_by=decided_by,
                    reason=reason,
                    attempt=state.attempts,
                    session_id=found.session_id,
                    guest_token=found.guest_token,
                    expires_at=found.expires_at,
                    webhook_owed=policy.webhook_enabled,
                )
            ]
        case _:
            assert_never(command.resolution)


def known_again(state: Session, attempt: int, session_id: str, now: datetime) -> list[e.Event]:
    """A late answer to an attempt in doubt names a session that is recorded already: it made no other one."""
    if attempt not in state.in_doubt or not state.status.is_settled:
        return []
    return [
        e.DoubtLifted(
            at=now,
            channel_id=state.channel_id,
            attempt=attempt,
            kind=None,
            cause=Cause.SESSION_KNOWN,
            status=None,
            detail=session_id,
            retry_at=None,
        )
    ]


def lifted(state: Session, command: RecordAttempt, outcome: Throttled | Failed) -> e.DoubtLifted | None:
    """The end of a doubt by a late answer without a session; `None`: no doubt ends.

    The session continues at the planned time, or at once if it was parked, never before the server allows.
    """
    doubtful = isinstance(outcome, Failed) and outcome.kind is FailureKind.IN_DOUBT
    if command.attempt not in state.in_doubt or doubtful:
        return None
    pause_ms = outcome.retry_after.ms if outcome.retry_after else 0
    earliest = command.now + timedelta(milliseconds=pause_ms)
    waits = command.attempt == state.attempts and state.status in (Status.IN_DOUBT, Status.PARKED)
    failed = outcome if isinstance(outcome, Failed) else None
    return e.DoubtLifted(
        at=command.now,
        channel_id=state.channel_id,
        attempt=command.attempt,
        kind=failed.kind if failed else None,
        cause=failed.cause if failed else Cause.THROTTLED,
        status=outcome.status,
        detail=failed.detail if failed else "",
        retry_at=max(state.retry_at or earliest, earliest) if waits else None,
    )
