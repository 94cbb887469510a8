"""How many requests a limiter admits now, the limit on calls in flight included."""

from datetime import datetime, timedelta

from guestledger.engine.limits.admission import DenialReason, Denied
from guestledger.engine.limits.limiter import reserve
from guestledger.engine.limits.policy import LimiterPolicy
from guestledger.engine.limits.state import LimiterState

# When to ask again while too many calls are in flight.
_CONCURRENCY_PAUSE = timedelta(seconds=1)


def at_limit(in_flight: int, now: datetime, policy: LimiterPolicy) -> Denied | None:
    """The denial by the limit on calls over all processes."""
    if policy.calls is None or in_flight < policy.calls:
        return None
    return Denied(by=DenialReason.CONCURRENCY, until=now + _CONCURRENCY_PAUSE, in_flight=in_flight)


def capacity(
    state: LimiterState, wanted: int, in_flight: int, now: datetime, policy: LimiterPolicy
) -> tuple[list[datetime], Denied | None]:
    """As `reserve`, within the limit on calls, but reserves nothing."""
    allowed = wanted if policy.calls is None else min(wanted, max(0, policy.calls - in_flight))
    _, times, denied = reserve(state, allowed, now)
    if denied is None and len(times) < wanted:
        denied = at_limit(in_flight + len(times), now, policy)
    return times, denied
