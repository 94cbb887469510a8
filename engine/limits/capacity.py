"""How many requests may go through a limiter now, the limit on calls in flight included. Pure, and the same for who claims and who asks why."""

from datetime import datetime, timedelta

from guestledger.engine.limits.limiter import LimiterState, slots
from guestledger.engine.limits.policy import DenialReason, Denied, LimiterPolicy

# A limit on calls in flight is looked at again as soon as that: some call will have ended by then.
_CALLS_REST = timedelta(seconds=1)


def full(in_flight: int, now: datetime, policy: LimiterPolicy) -> Denied | None:
    """What holds a request back while as many as may be are in flight, over all processes."""
    if policy.calls is None or in_flight < policy.calls:
        return None
    reason = f"{in_flight} calls are in flight, over all processes"
    return Denied(by=DenialReason.CALLS, until=now + _CALLS_REST, reason=reason)


def room(
    limiter: LimiterState, most: int, in_flight: int, now: datetime, policy: LimiterPolicy
) -> tuple[list[datetime], Denied | None]:
    """The next free slots, up to `most`, and what holds the next request back where there are fewer. None is taken."""
    places = most if policy.calls is None else min(most, max(0, policy.calls - in_flight))
    _, free, held = slots(limiter, places, now, policy)
    return free, full(in_flight + len(free), now, policy) if held is None and len(free) < most else held
