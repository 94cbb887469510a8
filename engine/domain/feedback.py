"""What an answer tells of the API that gave it, or did not: this is what closes limiters and breaks circuits. Pure."""

from datetime import datetime
from typing import assert_never

from guestledger.engine.domain.outcomes import Channel, Created, Delivered, Failed, Throttled
from guestledger.engine.limits.policy import Feedback, Observation
from guestledger.engine.limits.quota import ExhaustedQuota
from guestledger.engine.limits.retry import RetryAfter


def heard(limiter: str, outcome: Channel | Created | Throttled | Failed, began_at: datetime) -> Feedback:
    """What the answer to a request to CXone tells. `began_at` is when it was about to be made, by the database's clock."""
    asked = outcome.retry_after if isinstance(outcome, Throttled | Failed) else None
    return told(limiter, _answered(outcome), began_at, asked, outcome.drained)


def told(
    limiter: str, answered: Observation, began_at: datetime, asked: RetryAfter | None, drained: ExhaustedQuota | None
) -> Feedback:
    """What an answer tells with which the server `asked` to be left in peace, or that said that a quota is `drained`."""
    # The first of two that are as long.
    longest = max((one for one in (asked, drained) if one), key=lambda one: one.ms, default=None)
    return Feedback(
        limiter=limiter,
        answered=answered,
        began_at=began_at,
        closed_ms=(longest.ms or None) if longest else None,  # who asks for no wait closes nothing
        why=longest.why if longest else "",
        quota=drained.per_second if drained else None,
    )


def _answered(outcome: Channel | Created | Throttled | Failed) -> Observation:
    match outcome:
        case Throttled():
            return Observation.THROTTLED
        case Failed(status=401):
            return (
                Observation.SUCCESS
            )  # the token was not to its liking, and it said so at once: that is no fault of the API
        case Failed() if not outcome.kind.is_final:
            return Observation.FAILED
        case Failed(status=None):
            return Observation.NOT_SENT  # it was rejected here
        case Channel() | Created() | Failed():
            return Observation.SUCCESS  # what the API rejects, it has answered
        case _:
            assert_never(outcome)


def not_sent(limiter: str, began_at: datetime) -> Feedback:
    """That nothing was asked, though a request was let through at `began_at`, by the database's clock."""
    return Feedback(limiter=limiter, answered=Observation.NOT_SENT, began_at=began_at)


def heard_of_webhook(limiter: str, outcome: Delivered, began_at: datetime, max_ms: int) -> Feedback | None:
    """What a call of the webhook tells; `None` where that is nothing. Its failures have a schedule of their own, hours long.

    Who asks to be left in peace for longer than `max_ms` closes no limiter: behind it, notices would neither be sent nor
    given up, and nobody would know. Each is to observe it for itself, and becomes a dead letter that is listed.
    """
    if outcome.taken:
        return Feedback(limiter=limiter, answered=Observation.SUCCESS, began_at=began_at)
    asked = outcome.retry_after
    if asked is None or asked.ms > max_ms:
        return None
    return Feedback(
        limiter=limiter, answered=Observation.THROTTLED, began_at=began_at, closed_ms=asked.ms, why=asked.why
    )
