"""The projections, as readers see them."""

from collections.abc import AsyncIterator, Callable
from typing import Protocol
from uuid import UUID

from guestledger.engine.projections.audit import AuditEntry, AuditFilter
from guestledger.engine.projections.metrics import Metrics, MetricsFilter
from guestledger.engine.projections.sessions import SessionFilter, SessionRow
from guestledger.engine.projections.status import ProjectionStatus, Verification


class ReadModels(Protocol):
    """The projections. A reading shows what was projected last; call `catch_up` first to read your own writes."""

    async def catch_up(self) -> int:
        """Bring every projection up to the log's present end. Returns how many events were projected, over all of them.

        A projection that cannot process an event stops there alone. The next call tries it again.
        """
        ...

    async def status(self) -> list[ProjectionStatus]:
        """Every projection, and how far behind the log it is."""
        ...

    async def rebuild(self, name: str, advanced: Callable[[int], None]) -> int:
        """Make a projection's rows again from the log and swap them in. Returns how many rows differed.

        `advanced` gets each position on the way. Raises `UnknownProjection`, `ProjectionStopped`, `RebuildInterrupted`.
        """
        ...

    async def verify(self, name: str, advanced: Callable[[int], None]) -> Verification:
        """Compare a projection's rows with those that the log gives. Raises as `rebuild` does."""
        ...

    def sessions(self, wanted: SessionFilter) -> AsyncIterator[SessionRow]:
        """The matching sessions, oldest first."""
        ...

    async def stream_of(self, wanted: str) -> UUID | None:
        """The stream of the session with this id, ours or the provider's."""
        ...

    def audit(self, wanted: AuditFilter) -> AsyncIterator[AuditEntry]:
        """The matching audit entries, oldest first."""
        ...

    async def metrics(self, wanted: MetricsFilter) -> Metrics:
        """The metrics over what matches."""
        ...
