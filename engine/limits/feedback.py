"""What a request shows about the API it went to."""

from datetime import datetime, timedelta
from enum import StrEnum

import msgspec

from guestledger.engine.limits.quota import ExhaustedQuota
from guestledger.engine.limits.retry import RetryAfter, WaitBasis


class Observation(StrEnum):
    """What an answer, or the lack of one, says about the API."""

    SUCCESS = "success"
    """The API answered; it may have rejected the request."""
    THROTTLED = "throttled"
    FAILED = "failed"
    NOT_SENT = "not_sent"
    """Admitted, then not sent."""


class ThrottleScope(StrEnum):
    """What a 429 of an API speaks of."""

    QUOTA = "quota"
    """All requests: nobody sends before its time has passed."""
    REQUEST = "request"
    """This session alone, as at an API that throttles by key. The others go on."""
    AUTO = "auto"
    """All, until the evidence says that 429s do not depend on the rate; then this session alone, until the first sign of the
    contrary."""


class Feedback(msgspec.Struct, frozen=True, kw_only=True):
    """What a request to the API behind `limiter` showed."""

    limiter: str
    observation: Observation
    began_at: datetime
    """Its admission, by the database's clock."""
    wait: timedelta = timedelta(0)
    """How long it waited then, before it was sent."""
    closed_ms: int | None = None
    """The pause the server asked for."""
    closed_by: WaitBasis | None = None
    quota: float | None = None
    """Requests per second, as the server states it."""
    scope: ThrottleScope = ThrottleScope.QUOTA
    """For `THROTTLED`."""


def not_sent(limiter: str, began_at: datetime) -> Feedback:
    """Feedback for `NOT_SENT`."""
    return Feedback(limiter=limiter, observation=Observation.NOT_SENT, began_at=began_at)


def feedback(
    limiter: str,
    observation: Observation,
    began_at: datetime,
    *,
    asked: RetryAfter | None = None,
    exhausted: ExhaustedQuota | None = None,
) -> Feedback:
    """The feedback of an answer. Of `asked` and `exhausted` the longer pause counts; a pause of 0 closes nothing."""
    closed_ms, closed_by = max(
        (asked.ms if asked else 0, asked.basis if asked else None),
        (exhausted.ms if exhausted else 0, exhausted.basis if exhausted else None),
        key=lambda pause: pause[0],
    )
    return Feedback(
        limiter=limiter,
        observation=observation,
        began_at=began_at,
        closed_ms=closed_ms or None,
        closed_by=closed_by if closed_ms else None,
        quota=exhausted.per_second if exhausted else None,
    )
