"""What a creation step does when the limiter denies its request."""

from guestledger.engine.domain.commands import DeferCreation
from guestledger.engine.limits.admission import DenialReason, Denied
from guestledger.engine.ports.clock import Clock
from guestledger.engine.worker.step import StepContext, StepResult


def deferral(context: StepContext, clock: Clock, limiter: str, denied: Denied) -> DeferCreation:
    """The command that records the denial."""
    return DeferCreation(limiter=limiter, denied=denied, now=context.now(), jitter=clock.jitter())


def deferred(context: StepContext, clock: Clock, limiter: str, denied: Denied) -> StepResult:
    """Record the denial. A claimed session that only waits its turn goes back: its next claim has a reservation."""
    if context.claimed and denied.by is DenialReason.RATE:
        return StepResult(stop=True)
    return StepResult(commands=(deferral(context, clock, limiter, denied),), stop=True)
