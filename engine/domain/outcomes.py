"""Outcomes in neutral words. `status` is evidence only."""

from datetime import datetime
from enum import StrEnum

import msgspec

from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.personal import Guarded, Personal
from guestledger.engine.limits.feedback import Feedback, Observation, ThrottleScope, feedback
from guestledger.engine.limits.quota import ExhaustedQuota
from guestledger.engine.limits.retry import RetryAfter


class FailureKind(StrEnum):
    """What is known about a failed request."""

    UNSENT = "unsent"
    """It never left this machine."""
    UNAVAILABLE = "unavailable"
    """It failed without an effect and may be retried."""
    IN_DOUBT = "in_doubt"
    """Sent, and the provider may have made a session."""
    FINAL = "final"
    """The same request would fail again."""

    @property
    def counts(self) -> bool:
        """Whether the retry policy counts it. Only the deadline ends unsent requests."""
        return self is not FailureKind.UNSENT


class Throttled(msgspec.Struct, frozen=True, kw_only=True):
    """The provider asked to be called later. Nothing was made."""

    status: int | None
    retry_after: RetryAfter
    exhausted: ExhaustedQuota | None = None
    scope: ThrottleScope = ThrottleScope.QUOTA


class Failed(msgspec.Struct, frozen=True, kw_only=True):
    """Neither a success nor a throttle."""

    kind: FailureKind
    cause: Cause
    status: int | None = None
    detail: str = ""
    """Facts for a person, such as the server's own message. Never a secret or personal data."""
    retry_after: RetryAfter | None = None
    exhausted: ExhaustedQuota | None = None
    observation: Observation = Observation.FAILED
    """What the failure says about the API: a properly rejected request is a `SUCCESS`."""
    session_id: str | None = None
    """The provider's id of a session that nobody can use: see `CreationFailed`."""


class Channel(msgspec.Struct, frozen=True, kw_only=True):
    """A channel as the provider described it. `status` and `protocols` are evidence."""

    id: str
    problem: Cause | None = None
    """Why it cannot take a session: one of the `CHANNEL_…` causes. `None`: it can."""
    detail: str = ""
    """What is wrong or missing: a status or a protocol."""
    status: str = ""
    protocols: tuple[str, ...] = ()
    looked_up_at: datetime
    cached: bool = False
    exhausted: ExhaustedQuota | None = None


class Created(Guarded, frozen=True, kw_only=True):
    """The provider made a session."""

    session_id: str
    guest_token: Personal
    expires_at: datetime | None
    """`None`: the token does not expire."""
    status: str
    unread: dict[str, str] = msgspec.field(default_factory=dict)
    """The unreadable fields of the answer, as given. With `expires_at` the expiry is unknown."""
    latency_ms: int
    exhausted: ExhaustedQuota | None = None


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one webhook call."""

    accepted: bool
    gone: bool = False
    cause: Cause | None = None
    """Why it was not accepted."""
    status: int | None = None
    detail: str = ""
    latency_ms: int
    retry_after: RetryAfter | None = None


class Verdict(StrEnum):
    """A person's decision if no remote session was found."""

    RETRY = "retry"
    """Attempt it again. If the provider did make a session before, there will be two."""
    ABANDON = "abandon"


class Adoption(Guarded, frozen=True, kw_only=True):
    """The remote session that a person found for a parked one. `expires_at` needs an offset.

    Without `guest_token` the session is accounted for and expires, but no guest can use it.
    """

    session_id: str
    expires_at: datetime
    guest_token: Personal | None = None


Resolution = Verdict | Adoption
LookupOutcome = Channel | Throttled | Failed
CreationOutcome = Created | Throttled | Failed


def feedback_of(limiter: str, outcome: LookupOutcome | CreationOutcome, began_at: datetime) -> Feedback:
    """What an outcome shows about the API. `began_at`: when the request was admitted, by the database's clock."""
    match outcome:
        case Throttled(scope=ThrottleScope.REQUEST):
            # Only a quota that is used up concerns others.
            return feedback(limiter, Observation.SUCCESS, began_at, exhausted=outcome.exhausted)
        case Throttled():
            observation = Observation.THROTTLED
        case Failed():
            observation = outcome.observation
        case _:
            observation = Observation.SUCCESS
    asked = outcome.retry_after if isinstance(outcome, Throttled | Failed) else None
    seen = feedback(limiter, observation, began_at, asked=asked, exhausted=outcome.exhausted)
    if isinstance(outcome, Throttled) and outcome.exhausted is None:
        return msgspec.structs.replace(seen, scope=outcome.scope)
    return seen  # a used-up quota speaks of all, also where the server asks for a longer pause by another header


def feedback_of_delivery(limiter: str, outcome: Delivery, began_at: datetime, max_wait_ms: int) -> Feedback | None:
    """What a webhook call shows about the receiver; `None`: nothing, as failures follow the schedule.

    A wait above `max_wait_ms` makes its notice a dead letter, and closes nothing.
    """
    if outcome.accepted:
        return Feedback(limiter=limiter, observation=Observation.SUCCESS, began_at=began_at)
    asked = outcome.retry_after
    if asked is None or asked.ms > max_wait_ms:
        return None
    return Feedback(
        limiter=limiter,
        observation=Observation.THROTTLED,
        began_at=began_at,
        closed_ms=asked.ms,
        closed_by=asked.basis,
    )
