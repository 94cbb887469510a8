"""Give a session up whose deadline has passed."""

from guestledger.engine.domain.commands import EnforceDeadline
from guestledger.engine.domain.session import Session
from guestledger.engine.worker.step import Lane, Services, StepContext, StepResult


class Step:
    """Sends nothing."""

    lane = Lane.RECORDING
    limiter = None
    enabled = True

    def __init__(self, _services: Services) -> None: ...

    async def run(self, _session: Session, context: StepContext) -> StepResult:
        """`SessionAbandoned`, once the deadline has passed."""
        return StepResult(commands=(EnforceDeadline(now=context.now()),))
