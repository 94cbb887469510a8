"""The allowed transitions between statuses. Property tests and the diagram in the documentation are compared with them."""

from guestledger.engine.domain.session import Status

LEGAL: set[tuple[Status, Status]] = {
    (Status.NEW, Status.PENDING),
    (Status.NEW, Status.REFUSED),
    (Status.PENDING, Status.ATTEMPTING),
    (Status.PENDING, Status.ACTIVE),  # a late answer to an attempt in doubt
    (Status.PENDING, Status.REJECTED),
    (Status.PENDING, Status.ABANDONED),
    (Status.ATTEMPTING, Status.PENDING),  # the attempt failed without an effect
    (Status.ATTEMPTING, Status.THROTTLED),
    (Status.ATTEMPTING, Status.IN_DOUBT),
    (Status.ATTEMPTING, Status.ACTIVE),
    (Status.ATTEMPTING, Status.REJECTED),
    (Status.THROTTLED, Status.ATTEMPTING),
    (Status.THROTTLED, Status.ACTIVE),  # a late answer to an attempt in doubt
    (Status.THROTTLED, Status.ABANDONED),
    (Status.IN_DOUBT, Status.ATTEMPTING),
    (Status.IN_DOUBT, Status.ACTIVE),  # a late answer
    (Status.IN_DOUBT, Status.ABANDONED),
    (Status.IN_DOUBT, Status.PENDING),  # a late answer ends the doubt
    (Status.IN_DOUBT, Status.PARKED),
    (Status.PARKED, Status.PENDING),  # a person decides to retry; a late answer ends the doubt
    (Status.PARKED, Status.ACTIVE),  # a person adopts a remote session; a late answer
    (Status.PARKED, Status.ABANDONED),  # a person gives it up
    (Status.ACTIVE, Status.EXPIRED),
}

# An event may leave these statuses unchanged.
STAYS: set[Status] = {
    Status.ATTEMPTING,  # a late answer ends the doubt about an earlier attempt
    Status.THROTTLED,  # the same, or the next attempt is deferred
    Status.IN_DOUBT,  # the same
    Status.PARKED,  # a late answer ends the doubt about an earlier attempt
    Status.PENDING,  # the channel was looked up; the attempt is deferred
    Status.ACTIVE,  # the webhook was called; a duplicate came to light
    Status.EXPIRED,  # the same
    Status.REJECTED,  # a duplicate came to light
    Status.ABANDONED,  # the same
    Status.REFUSED,  # the guest was erased
}


def is_legal(before: Status, after: Status) -> bool:
    """Whether an event may lead from `before` to `after`."""
    return before in STAYS if before is after else (before, after) in LEGAL
