"""How one status may lead to another: the table that the properties and the README's diagram are held to."""

from guestledger.engine.domain.session import Status

LEGAL: set[tuple[Status, Status]] = {
    (Status.NEW, Status.PENDING),
    (Status.NEW, Status.REFUSED),
    (Status.PENDING, Status.ATTEMPTING),
    (Status.PENDING, Status.ACTIVE),  # a late answer to an attempt that was in doubt
    (Status.PENDING, Status.REJECTED),
    (Status.PENDING, Status.ABANDONED),
    (Status.ATTEMPTING, Status.PENDING),  # it failed, and nothing came of it
    (Status.ATTEMPTING, Status.THROTTLED),
    (Status.ATTEMPTING, Status.IN_DOUBT),
    (Status.ATTEMPTING, Status.ACTIVE),
    (Status.ATTEMPTING, Status.REJECTED),
    (Status.THROTTLED, Status.ATTEMPTING),
    (Status.THROTTLED, Status.ACTIVE),  # a late answer to an attempt that was in doubt
    (Status.THROTTLED, Status.ABANDONED),
    (Status.IN_DOUBT, Status.ATTEMPTING),
    (Status.IN_DOUBT, Status.ACTIVE),  # a late answer
    (Status.IN_DOUBT, Status.ABANDONED),
    (Status.IN_DOUBT, Status.PENDING),  # a late answer lifts the doubt
    (Status.IN_DOUBT, Status.PARKED),
    (Status.PARKED, Status.PENDING),  # a person has it retried; a late answer lifts the doubt
    (Status.PARKED, Status.ACTIVE),  # a person adopts it; a late answer
    (Status.PARKED, Status.ABANDONED),  # a person gives it up
    (Status.ACTIVE, Status.EXPIRED),
}

# Where an event may leave the status as it is.
STAYS: set[Status] = {
    Status.ATTEMPTING,  # a late answer lifts the doubt about an earlier attempt
    Status.THROTTLED,  # likewise, or the next attempt is deferred
    Status.IN_DOUBT,  # likewise
    Status.PARKED,  # likewise
    Status.PENDING,  # the channel was looked up; the attempt is deferred
    Status.ACTIVE,  # the webhook was called; a duplicate came to light
    Status.EXPIRED,  # likewise
    Status.REJECTED,  # a duplicate came to light
    Status.ABANDONED,  # likewise
}


def is_legal(before: Status, after: Status) -> bool:
    """Whether an event may lead from `before` to `after`."""
    return before in STAYS if before is after else (before, after) in LEGAL
