"""The due steps of all sessions, and how they are claimed."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Protocol
from uuid import UUID

import msgspec

from guestledger.engine.domain.due import StepName
from guestledger.engine.log.appends import Lease

Wanted = Mapping[StepName, str | None]
"""The steps that a process runs, each with the limiter that its request passes (`None`: none)."""


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """One due step, leased to the claimer. Times are the database's."""

    stream_id: UUID
    step: StepName
    due_at: datetime
    claimed_at: datetime
    reserved_ms: int | None = None
    """How long until the request that was reserved for it may be sent; `None`: none was reserved."""


class Claimed(msgspec.Struct, frozen=True, kw_only=True):
    """What was claimed, longest due first."""

    claims: Sequence[Claim]
    more_in_ms: int | None = None
    """If the limiter held more back: how long until it admits the next request."""


class Outlook(msgspec.Struct, frozen=True, kw_only=True):
    """What there is to do now, and when there will be, by the database's clock."""

    claimable: frozenset[StepName]
    """The steps with a row that is due and free."""
    next_due_ms: int | None
    """How long until the next row is due; `None`: no row is."""
    unprojected: bool
    """Whether the projections are behind the log."""


class DueRow(msgspec.Struct, frozen=True, kw_only=True):
    """A step of one session as a claim finds it. Times are the database's."""

    step: StepName
    due_at: datetime
    owner: UUID | None
    lease_until: datetime | None
    """Until when `owner` holds it; a past time: nobody does."""
    ahead: int
    """How many free rows were due for the same step before it."""


class WorkStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The due steps of one session at one moment."""

    now: datetime
    """That moment, by the database's clock."""
    version: int
    """The version of the session's stream."""
    in_flight: int
    """The calls of other sessions that count against the limit on calls; 0 without a limit."""
    rows: tuple[DueRow, ...]


class DueSteps(Protocol):
    """The due steps: one row for each session and step, changed together with the events that make it so."""

    async def claim(self, lease: Lease, wanted: Wanted, limit: int) -> Claimed:
        """Lease up to `limit` rows that are due and free, longest due first.

        A step behind a limiter is claimed as far as the limiter admits it, with a reservation for each.
        """
        ...

    async def heartbeat(self, lease: Lease, stream_ids: Sequence[UUID]) -> set[UUID]:
        """Renew the leases of `lease.owner` on the steps of these streams. Returns the streams for which that was done."""
        ...

    async def release(self, owner: UUID, stream_id: UUID, delay_ms: int = 0) -> None:
        """Release what `owner` holds of a stream; it is due again after `delay_ms`. Nothing if the lease was lost."""
        ...

    async def release_all(self, owners: Iterable[UUID]) -> None:
        """Release everything that these owners hold, and notify other processes."""
        ...

    async def outlook(self, wanted: Wanted) -> Outlook:
        """What there is to do now, and when to look again. One cheap statement."""
        ...

    async def unfinished(self, wanted: Wanted) -> int:
        """How many sessions have work ahead that needs no person.

        Not counted: future token expiries, and webhook calls that are more than a minute away or not made here.
        """
        ...

    async def is_idle(self, wanted: Wanted) -> bool:
        """Whether `unfinished` would be 0. Cheaper."""
        ...

    async def status(self, stream_id: UUID) -> WorkStatus:
        """The due steps of this session now. Locks nothing."""
        ...
