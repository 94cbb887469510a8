"""Doubt: parking a session on an attempt whose answer is lost, what a person makes of it, and an answer that lifts it.

A parked session knows no deadline. To give it up when a time has run out would say of a session that may live at CXone,
with a guest's data in it, that there is none; that is what parking is to prevent, so only a person ends it, by name and
with a reason. Until then it is listed as parked, and counts as pending.
"""

from datetime import datetime, timedelta
from typing import assert_never

from guestledger.engine.domain import events as e
from guestledger.engine.domain.commands import RecordAttempt, Resolve
from guestledger.engine.domain.outcomes import Adoption, Failed, Throttled, Verdict
from guestledger.engine.domain.session import Session, Status


def parked(state: Session, message: str, now: datetime) -> e.SessionParked:
    """A person is to decide about the current attempt, whose answer was lost as `message` says."""
    reason = f"attempt {state.attempts} is in doubt ({message}): a person has to decide, by `guestledger resolve`"
    return e.SessionParked(at=now, channel_id=state.channel_id, attempt=state.attempts, reason=reason)


def resolve(state: Session, command: Resolve) -> list[e.Event]:
    """What a person decided about a parked session; nothing where the session is not parked."""
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
                )
            ]
        case _:
            assert_never(command.resolution)


def lifted(state: Session, command: RecordAttempt, outcome: Throttled | Failed) -> e.DoubtLifted | None:
    """The end of the doubt about an attempt, by a late answer that says that nothing came of it; `None` where it ends none.

    A session that waits on this very attempt goes on: when it had planned to, or at once if it was parked, and in either
    case not before the server wishes. Whatever else has become of it since stands.
    """
    doubtful = isinstance(outcome, Failed) and outcome.kind is e.FailureKind.IN_DOUBT
    if command.attempt not in state.in_doubt or doubtful:
        return None
    kind, message = (outcome.kind, outcome.message) if isinstance(outcome, Failed) else (None, outcome.retry_after.why)
    rest_ms = outcome.retry_after.ms if outcome.retry_after else 0
    waits = command.attempt == state.attempts and state.status in (Status.IN_DOUBT, Status.PARKED)
    earliest = command.now + timedelta(milliseconds=rest_ms)
    return e.DoubtLifted(
        at=command.now,
        channel_id=state.channel_id,
        attempt=command.attempt,
        kind=kind,
        status=outcome.status,
        message=message,
        retry_at=max(state.retry_at or earliest, earliest) if waits else None,
    )
