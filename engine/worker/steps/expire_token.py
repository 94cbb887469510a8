"""Record that the guest token has expired."""

from guestledger.engine.domain.commands import ExpireToken
from guestledger.engine.domain.session import Session
from guestledger.engine.worker.step import Lane, Services, StepContext, StepResult


class Step:
    """Sends nothing."""

    lane = Lane.RECORDING
    limiter = None
    enabled = True

    def __init__(self, _services: Services) -> None: ...

    async def run(self, _session: Session, context: StepContext) -> StepResult:
        """`TokenExpired`, once its time has come."""
        return StepResult(commands=(ExpireToken(now=context.now()),))
