"""The numbers of a ledger that all processes share, for a monitoring system that reads them every few seconds."""

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec

from guestledger.engine.domain.session import Status
from guestledger.engine.limits.state import LimiterState
from guestledger.engine.ports.adapters import Adapters
from guestledger.engine.ports.consumers import ConsumerRow
from guestledger.engine.ports.due_steps import StepCount
from guestledger.engine.projections.status import ProjectionStatus


class Gauges(msgspec.Struct, frozen=True, kw_only=True):
    """What one look at the database found. No personal data."""

    now: datetime
    """The database's clock."""
    steps: Sequence[StepCount]
    backlog: int
    """Accepted sessions without an outcome. Not counted: parked ones."""
    backlog_seconds: float
    """How long the oldest of them has waited; 0: none waits."""
    owed_webhooks: int
    doubtful: Mapping[Status, int]
    """The sessions in doubt, and the parked ones."""
    limiters: Mapping[str, LimiterState]
    projections: Sequence[ProjectionStatus]
    consumers: Sequence[ConsumerRow]


async def gauges(adapters: Adapters) -> Gauges:
    """Read them. Raises `ServiceError`."""
    backlog = await adapters.due_steps.backlog()
    oldest = backlog.oldest_accepted_at
    return Gauges(
        now=backlog.now,
        steps=await adapters.due_steps.counts(),
        backlog=backlog.waiting,
        backlog_seconds=0.0 if oldest is None else max(0.0, (backlog.now - oldest).total_seconds()),
        owed_webhooks=backlog.owed_webhooks,
        doubtful=await adapters.read_models.doubtful(),
        limiters=await adapters.limiter.states(),
        projections=await adapters.read_models.status(),
        consumers=await adapters.consumers.all(),
    )
