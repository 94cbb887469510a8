"""Due steps, and how they are claimed. All times are the database's."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Protocol
from uuid import UUID

import msgspec

from guestledger.engine.domain.due import DueStep, StepName
from guestledger.engine.log.appends import Lease

MAX_AHEAD = 10_000
"""So many rows ahead of a step are counted: a backlog must not make looking at one session slow."""

Wanted = Mapping[StepName, str | None]
"""The steps that a process runs, each with its limiter."""


MAX_COUNTED = 100_000


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """One due step, leased to the claimer."""

    stream_id: UUID
    step: StepName
    due_at: datetime
    claimed_at: datetime
    reserved_ms: int | None = None
    """When its reserved request may be sent; `None`: no reservation."""


class Claimed(msgspec.Struct, frozen=True, kw_only=True):
    """What was claimed, by due time."""

    claims: Sequence[Claim]
    more_in_ms: int | None = None
    """When the limiter admits the next request, if it denied some."""


class Outlook(msgspec.Struct, frozen=True, kw_only=True):
    """What there is to do, and when to look again."""

    claimable: frozenset[StepName]
    """The steps with a due and free row."""
    next_due_ms: int | None
    """`None`: nothing is due later."""
    unprojected_ms: int | None
    """The age of the first event that a projection lacks; below 0 if the clock was set back. `None`: none lacks any."""


class DueRow(msgspec.Struct, frozen=True, kw_only=True):
    """A step of one session as a claim finds it."""

    step: StepName
    due_at: datetime
    owner: UUID | None
    lease_until: datetime | None
    ahead: int
    """How many free rows of the step are due before it, at most `MAX_AHEAD`. 0 for a step that passes no limiter."""
    back_ms: int | None = None
    """How far before its time in the events it is due, since the clock was set back; `None`: it was not."""


class Backlog(msgspec.Struct, frozen=True, kw_only=True):
    """What waits in one ledger at `now`."""

    now: datetime
    waiting: int
    """Accepted sessions without an outcome. Not counted: parked ones."""
    oldest_accepted_at: datetime | None
    """When the oldest of them was accepted; requests under way are left out. `None`: none waits."""
    oldest_due: DueStep | None
    """The free step that is due for longest, also behind a limiter, if any."""
    owed_webhooks: int


class StepCount(msgspec.Struct, frozen=True, kw_only=True):
    """The rows of one step over all sessions. Each number is exact up to `MAX_COUNTED`."""

    step: StepName
    due: int
    """Free rows that are due."""
    waiting: int
    """Free rows that are due later."""
    leased: int
    """Rows that a worker runs."""
    oldest_seconds: float
    """How long the oldest due and free row has been due; 0: there is none."""


class WorkStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The due steps of one session."""

    now: datetime
    version: int
    in_flight: int
    """Other sessions' calls that count against the limit on calls."""
    rows: tuple[DueRow, ...]


class DueSteps(Protocol):
    """One row per session and step, changed together with the events."""

    async def claim(self, lease: Lease, wanted: Wanted, limit: int) -> Claimed:
        """Lease up to `limit` due and free rows. Behind a limiter, each gets a reservation."""
        ...

    async def plan(self, step: StepName, due: Mapping[UUID, datetime]) -> int:
        """Make `step` due for these streams at these times, unless it is due earlier. Returns how many rows changed.

        Streams without contact data are left out.
        """
        ...

    async def free_lapsed(self) -> None:
        """Free the rows whose lease has lapsed now. Claims and looks do it too, at most once a second."""
        ...

    async def follow_clock(self) -> None:
        """If the clock was set back, let waits, pauses and leases from before begin again, and log a warning.

        `outlook` does it too, at most every 10 s.
        """
        ...

    async def heartbeat(self, lease: Lease, stream_ids: Sequence[UUID]) -> set[UUID]:
        """Renew the owner's leases on these streams. Returns the streams that it still holds."""
        ...

    async def release(self, owner: UUID, stream_id: UUID, delay_ms: int = 0) -> None:
        """Release what `owner` holds of a stream; it is due again after `delay_ms`. Nothing if the lease was lost."""
        ...

    async def release_all(self, owners: Iterable[UUID]) -> None:
        """Release everything of these owners, and notify other processes."""
        ...

    async def outlook(self, wanted: Wanted) -> Outlook:
        """One cheap statement, if no lease has lapsed."""
        ...

    async def unfinished(self, wanted: Wanted) -> int:
        """How many sessions have work ahead: see `Scheduler.unfinished`."""
        ...

    async def is_idle(self, wanted: Wanted) -> bool:
        """Whether `unfinished` is 0."""
        ...

    async def backlog(self) -> Backlog:
        """What waits now, over all processes. Locks nothing."""
        ...

    async def counts(self) -> list[StepCount]:
        """Count the rows of every step. Locks nothing."""
        ...

    async def status(self, stream_id: UUID) -> WorkStatus:
        """The session's steps now. Locks nothing."""
        ...
