"""Delete the guest token once it has expired."""

from guestledger.engine.domain.commands import PurgeToken
from guestledger.engine.domain.session import Session
from guestledger.engine.worker.step import Lane, Services, StepContext, StepResult


class Step:
    """Sends nothing. The append deletes the sealed token."""

    lane = Lane.RECORDING
    limiter = None
    enabled = True

    def __init__(self, _services: Services) -> None: ...

    async def run(self, _session: Session, context: StepContext) -> StepResult:
        """`TokenPurged`, once the token has expired."""
        return StepResult(commands=(PurgeToken(now=context.now()),))
