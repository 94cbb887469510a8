"""Erase the contact data of a session whose retention is over."""

from guestledger.engine.domain.commands import EraseContact, PlaceHold
from guestledger.engine.domain.session import Session
from guestledger.engine.worker.step import Lane, Services, StepContext, StepResult


class Step:
    """Sends nothing. The append deletes the sealed data. A process without a retention leaves it to the others."""

    lane = Lane.RECORDING
    limiter = None

    def __init__(self, services: Services) -> None:
        self._holds = services.holds
        self.enabled = services.policy.retention_days is not None

    async def run(self, session: Session, context: StepContext) -> StepResult:
        """`ContactErased`; or `LegalHoldPlaced` if the session began after a hold was placed on its subject."""
        hold = await self._holds.over(session.id)
        if hold is not None:
            return StepResult(commands=(PlaceHold(placed_by=hold.placed_by, reason=hold.reason, now=context.now()),))
        return StepResult(commands=(EraseContact(now=context.now()),))
