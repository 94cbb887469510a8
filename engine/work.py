"""What there is to do: how due work is claimed, and how it stands."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import msgspec


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """One session's due work, leased to whoever claimed it."""

    stream_id: UUID
    step: str
    due_at: datetime
    slot_ms: int | None = None
    """In what time the slot comes that was taken for its request; `None`: none was taken."""
    claimed_at: datetime
    """By the database's clock."""
    ended: bool = False
    """Its time has come, though its limiter lets nothing through or others come first: nothing is to be sent."""


class Claimed(msgspec.Struct, frozen=True, kw_only=True):
    """What was claimed, longest due first."""

    claims: Sequence[Claim]
    paced_ms: int | None = None
    """Where a pace kept back more: in what time its next slot is free."""


class Backlog(msgspec.Struct, frozen=True, kw_only=True):
    """What is left to do, by the database's clock."""

    unfinished: int
    """Sessions with work that will be done without anybody's help; not counted are token expiries that lie ahead, and calls
    of the webhook that are more than a minute away, or not made from here."""


class Outlook(msgspec.Struct, frozen=True, kw_only=True):
    """Whether there is anything to do now, and when there will be, by the database's clock."""

    claimable: frozenset[str]
    """The steps for which some row is due now, and free or with a lease that has lapsed; `ExpireToken` also where a token's
    time has come whose webhook is still to be told."""
    next_due_ms: int | None
    """How long until the next row falls due that is not due yet, or ends; `None` where there is none."""
    unprojected: bool
    """Whether the projections lack something of the log."""


class DueStepRow(msgspec.Struct, frozen=True, kw_only=True):
    """What a session still needs, as a claim meets it. Times are the database's."""

    step: str
    due_at: datetime
    owner: UUID | None
    lease_until: datetime | None
    """Until when its owner holds it; a time that has passed: nobody does any more."""
    ends_at: datetime | None
    """From when on it is claimed whatever its limiter says."""
    ahead: int
    """How many sessions that nobody holds were due for the same step before it."""


class WorkStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How a session stands among the work, at one moment."""

    now: datetime
    """That moment, by the database's clock."""
    version: int
    """Of the session's stream; 0 where the log has none of it."""
    in_flight: int
    """The calls of other sessions that count where their number is limited; 0 where it is not."""
    row: DueStepRow | None
    """`None`: nothing is to be done for it."""
