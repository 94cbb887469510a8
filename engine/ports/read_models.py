"""The projections, as readers see them."""

from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Protocol
from uuid import UUID

from guestledger.engine.domain.guest_filter import GuestHashes
from guestledger.engine.domain.session import Status
from guestledger.engine.projections.audit import AuditEntry, AuditFilter
from guestledger.engine.projections.metrics import DailyMetrics, HourlyOutcomes, Metrics, MetricsFilter
from guestledger.engine.projections.retention import RetentionStatus
from guestledger.engine.projections.sessions import SessionFilter, SessionRow
from guestledger.engine.projections.status import ProjectionStatus, Verification


class ReadModels(Protocol):
    """The projections. Call `catch_up` first to read your own writes."""

    async def catch_up(self) -> int:
        """Project up to the log's end. Returns the number of events, over all projections.

        A poison event stops its projection alone; the next call retries.
        """
        ...

    async def status(self) -> list[ProjectionStatus]:
        """Every projection."""
        ...

    async def rebuild(self, name: str, advanced: Callable[[int], None]) -> int:
        """Rebuild a projection and swap it in. Returns how many rows differed. `advanced` gets each position.

        Raises `UnknownProjection`, `ProjectionStopped`, `RebuildInterrupted`.
        """
        ...

    async def verify(self, name: str, advanced: Callable[[int], None]) -> Verification:
        """Compare a projection with the log. Raises as `rebuild` does."""
        ...

    def sessions(self, wanted: SessionFilter, guest: GuestHashes | None = None) -> AsyncIterator[SessionRow]:
        """Those that match, each once, in the order wanted; `guest` stands for `wanted.guest`. Memory is constant.

        No connection is held between rows.
        """
        ...

    async def streams_of(self, wanted: str) -> list[UUID]:
        """The streams of the sessions with this id, ours or the provider's, which can give one to several guests."""
        ...

    def audit(self, wanted: AuditFilter, guest: GuestHashes | None = None) -> AsyncIterator[AuditEntry]:
        """As `sessions`."""
        ...

    async def metrics_by_day(self, wanted: MetricsFilter) -> list[DailyMetrics]:
        """The matching metrics of each day and channel that has any."""
        ...

    async def outcomes_by_hour(self, wanted: MetricsFilter) -> list[HourlyOutcomes]:
        """The matching counts of each hour that has any, oldest first."""
        ...

    async def metrics(self, wanted: MetricsFilter) -> Metrics:
        """The matching metrics."""
        ...

    async def doubtful(self) -> dict[Status, int]:
        """How many sessions are in doubt, and how many parked."""
        ...

    async def retention(self, days: int | None, now: datetime) -> RetentionStatus:
        """The status under a retention of so many days."""
        ...
