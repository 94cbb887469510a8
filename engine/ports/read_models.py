"""The projections, as readers see them."""

from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Protocol
from uuid import UUID

from guestledger.engine.projections.audit import AuditEntry, AuditFilter
from guestledger.engine.projections.metrics import Metrics, MetricsFilter
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

    def sessions(self, wanted: SessionFilter) -> AsyncIterator[SessionRow]:
        """Those that match now, each once, in the order wanted. No connection is held between rows."""
        ...

    async def stream_of(self, wanted: str) -> UUID | None:
        """The stream of the session with this id, ours or the provider's."""
        ...

    def audit(self, wanted: AuditFilter) -> AsyncIterator[AuditEntry]:
        """As `sessions`."""
        ...

    async def metrics(self, wanted: MetricsFilter) -> Metrics:
        """The matching metrics."""
        ...

    async def retention(self, days: int | None, now: datetime) -> RetentionStatus:
        """The status under a retention of so many days."""
        ...
