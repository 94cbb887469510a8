"""Makes the erasure of contact data due where it is not, as after the policy changed."""

from datetime import datetime, timedelta
from typing import cast
from uuid import UUID

from guestledger.engine.domain.due import StepName
from guestledger.engine.domain.policy import Policy
from guestledger.engine.ports.clock import Clock
from guestledger.engine.ports.due_steps import DueSteps
from guestledger.engine.ports.read_models import ReadModels
from guestledger.engine.projections.sessions import SessionFilter

_BATCH = 500


class RetentionPlanner:
    """An append plans the erasure by the policy of its time. This finds the sessions that ended under another one."""

    def __init__(self, *, read_models: ReadModels, due_steps: DueSteps, clock: Clock, policy: Policy) -> None:
        self._read_models = read_models
        self._due_steps = due_steps
        self._clock = clock
        self._days = policy.retention_days

    async def plan(self) -> int:
        """Plan what the policy says is overdue, and return for how many sessions. Raises `ServiceError`."""
        if self._days is None:
            return 0
        kept = timedelta(days=self._days)
        await self._read_models.catch_up()
        wanted = SessionFilter(kept_since=self._clock.now() - kept)
        planned, due = 0, dict[UUID, datetime]()
        async for row in self._read_models.sessions(wanted):
            due[row.id] = cast("datetime", row.ended_at) + kept
            if len(due) == _BATCH:  # with a new policy it may be every session of the ledger
                planned += await self._due_steps.plan(StepName.ERASE_CONTACT, due)
                due = {}
        return planned + (await self._due_steps.plan(StepName.ERASE_CONTACT, due) if due else 0)
