"""What an answer tells of the API that gave it, or did not: this is what closes gates and breaks circuits. Pure."""

from datetime import datetime
from typing import assert_never

from engine.domain.outcomes import Channel, Created, Delivered, Failed, Throttled
from engine.domain.passing import Answered, Hearing


def heard(gate: str, outcome: Channel | Created | Throttled | Failed, began_at: datetime) -> Hearing:
    """What the answer to a request to CXone tells. `began_at` is when it was about to be made, by the database's clock."""
    drained = outcome.drained
    quota = drained.per_second if drained else None
    closed_ms, closed_why = (drained.ms, drained.why) if drained else (None, "")
    match outcome:
        case Throttled():
            asked = outcome.retry_after
            ms, why = (drained.ms, drained.why) if drained and drained.ms > asked.ms else (asked.ms, asked.why)
            return Hearing(
                gate=gate, answered=Answered.THROTTLED, began_at=began_at, closed_ms=ms, why=why, quota=quota
            )
        case Channel() | Created() | Failed():
            answered = _answered(outcome) if isinstance(outcome, Failed) else Answered.WELL
            return Hearing(
                gate=gate, answered=answered, began_at=began_at, closed_ms=closed_ms, why=closed_why, quota=quota
            )
        case _:
            assert_never(outcome)


def _answered(failed: Failed) -> Answered:
    if not failed.kind.is_final:
        return Answered.FAILED
    # What the API rejects, it has answered; what is rejected here has no status, for nothing was asked.
    return Answered.UNASKED if failed.status is None else Answered.WELL


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
