"""The numbers of a ledger that all processes share, for a monitoring system that reads them every few seconds."""

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec

from guestledger.engine.domain.session import Status
from guestledger.engine.limits.state import LimiterState
from guestledger.engine.ports.consumers import ConsumerCheckpoints, ConsumerRow
from guestledger.engine.ports.due_steps import DueSteps, StepCount
from guestledger.engine.ports.rate_limiter import RateLimiter
from guestledger.engine.ports.read_models import ReadModels
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


async def gauges(
    *, due_steps: DueSteps, limiter: RateLimiter, read_models: ReadModels, consumers: ConsumerCheckpoints
) -> Gauges:
    """Read them. Raises `ServiceError`."""
    backlog = await due_steps.backlog()
    oldest = backlog.oldest_accepted_at
    return Gauges(
        now=backlog.now,
        steps=await due_steps.counts(),
        backlog=backlog.waiting,
        backlog_seconds=0.0 if oldest is None else max(0.0, (backlog.now - oldest).total_seconds()),
        owed_webhooks=backlog.owed_webhooks,
        doubtful=await read_models.doubtful(),
        limiters=await limiter.states(),
        projections=await read_models.status(),
        consumers=await consumers.all(),
    )
