"""Record an attempt as in doubt whose sender is gone."""

from guestledger.engine.domain.commands import SettleAttempt
from guestledger.engine.domain.session import Session
from guestledger.engine.worker.step import Lane, Services, StepContext, StepResult


class Step:
    """Sends nothing. It can be claimed only once the sender's lease has lapsed."""

    lane = Lane.RECORDING
    limiter = None
    enabled = True

    def __init__(self, services: Services) -> None:
        self._clock = services.clock

    async def run(self, session: Session, context: StepContext) -> StepResult:
        """`CreationFailed` in doubt, for the attempt that this session was in when it was read."""
        settle = SettleAttempt(attempt=session.attempts, now=context.now(), jitter=self._clock.jitter())
        return StepResult(commands=(settle,))
