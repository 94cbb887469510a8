"""What an answer tells of the API that gave it, or did not: this is what closes gates and breaks circuits. Pure."""

from datetime import datetime
from typing import assert_never

from engine.domain.outcomes import Channel, Created, Delivered, Failed, Throttled
from engine.domain.passing import Answered, Hearing
from engine.domain.quota import Drained
from engine.domain.retry import RetryAfter


def heard(gate: str, outcome: Channel | Created | Throttled | Failed, began_at: datetime) -> Hearing:
    """What the answer to a request to CXone tells. `began_at` is when it was about to be made, by the database's clock."""
    asked = outcome.retry_after if isinstance(outcome, Throttled | Failed) else None
    return told(gate, _answered(outcome), began_at, asked, outcome.drained)


def told(
    gate: str, answered: Answered, began_at: datetime, asked: RetryAfter | None, drained: Drained | None
) -> Hearing:
    """What an answer tells with which the server `asked` to be left in peace, or that said that a quota is `drained`."""
    # The first of two that are as long.
    longest = max((one for one in (asked, drained) if one), key=lambda one: one.ms, default=None)
    return Hearing(
        gate=gate,
        answered=answered,
        began_at=began_at,
        closed_ms=(longest.ms or None) if longest else None,  # who asks for no wait closes nothing
        why=longest.why if longest else "",
        quota=drained.per_second if drained else None,
    )


def _answered(outcome: Channel | Created | Throttled | Failed) -> Answered:
    match outcome:
        case Throttled():
            return Answered.THROTTLED
        case Failed(status=401):
            return Answered.WELL  # the token was not to its liking, and it said so at once: that is no fault of the API
        case Failed() if not outcome.kind.is_final:
            return Answered.FAILED
        case Failed(status=None):
            return Answered.UNASKED  # it was rejected here
        case Channel() | Created() | Failed():
            return Answered.WELL  # what the API rejects, it has answered
        case _:
            assert_never(outcome)


def unasked(gate: str, began_at: datetime) -> Hearing:
    """That nothing was asked, though a request was let through at `began_at`, by the database's clock."""
    return Hearing(gate=gate, answered=Answered.UNASKED, began_at=began_at)


def heard_of_webhook(gate: str, outcome: Delivered, began_at: datetime, longest_ms: int) -> Hearing | None:
    """What a call of the webhook tells; `None` where that is nothing. Its failures have a schedule of their own, hours long.

    Who asks to be left in peace for longer than `longest_ms` closes no gate: behind it, notices would neither be sent nor
    given up, and nobody would know. Each is to hear it for itself, and becomes a dead letter that is listed.
    """
    if outcome.taken:
        return Hearing(gate=gate, answered=Answered.WELL, began_at=began_at)
    asked = outcome.retry_after
    if asked is None or asked.ms > longest_ms:
        return None
    return Hearing(gate=gate, answered=Answered.THROTTLED, began_at=began_at, closed_ms=asked.ms, why=asked.why)
