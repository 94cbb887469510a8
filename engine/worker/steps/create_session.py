"""Ask the provider for the session. The attempt is committed before it is sent."""

import asyncio
from datetime import datetime, timedelta

from msgspec.structs import replace

from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.commands import BeginAttempt, Command, RecordAttempt
from guestledger.engine.domain.errors import RequestDenied, ServiceError
from guestledger.engine.domain.events import CreationAttempted
from guestledger.engine.domain.outcomes import CreationOutcome, Failed, FailureKind, feedback_of
from guestledger.engine.domain.session import Session
from guestledger.engine.limits.admission import AdmissionRequest, Admitted, DenialReason
from guestledger.engine.limits.feedback import Feedback, Observation, not_sent
from guestledger.engine.log.appends import AppendDenied, Appended
from guestledger.engine.ports.provider import PreparedCreation
from guestledger.engine.worker.deferring import deferral, deferred
from guestledger.engine.worker.leases import LeaseLost, Leases
from guestledger.engine.worker.step import Lane, Services, StepContext, StepResult, require_revealed

# A request that is so late for its turn asks for another one: after the machine stood still, all that waited would leave at once.
MISSED_S = 0.1


class Step:
    """One attempt. A crash after the commit leaves it in doubt."""

    lane = Lane.CREATION
    enabled = True

    def __init__(self, services: Services) -> None:
        self._services = services

    @property
    def limiter(self) -> str:
        """The provider's host and quota for creations."""
        return self._services.provider.creation_limiter

    async def run(self, session: Session, context: StepContext) -> StepResult:
        """`CreationAttempted`, then what came of it; or `CreationDeferred` if the limiter denies it."""
        require_revealed(session)
        async with self._services.calls.place(context.claimed):
            provider = self._services.provider
            prepared = provider.prepare(session)
            begin = self._begin(prepared, context)
            if not provider.is_ready and _announces(context, begin):
                await context.commit()
                await provider.ready()
                begin = self._begin(prepared, context)
            if not _announces(context, begin):
                return StepResult(commands=(begin,))
            request = replace(context.admission(self.limiter), early=True)
            try:
                appended = await context.commit(begin, request)
            except AppendDenied as denial:
                return deferred(context, self._services.clock, self.limiter, denial.denied)
            assert appended is not None
            return await self._send(prepared, _Sending(self._services, context, request, appended))

    def _begin(self, prepared: PreparedCreation, context: StepContext) -> BeginAttempt:
        return BeginAttempt(request_hmac=prepared.request_hmac, now=context.now())

    async def _send(self, prepared: PreparedCreation, sending: "_Sending") -> StepResult:
        context, state = sending.context, sending.context.state
        commands: tuple[Command, ...] = ()
        lease_lost = False
        try:
            outcome = await self._services.provider.create(prepared, str(state.id), sending.before_send)
            feedback = replace(feedback_of(self.limiter, outcome, sending.began_at), wait=sending.wait)
        except LeaseLost:
            # Only this worker knows that nothing was sent: unrecorded, the attempt would be in doubt.
            outcome, feedback = sending.not_sent(Cause.LEASE_LOST, "")
            lease_lost = True
        except ServiceError as error:
            outcome, feedback = sending.not_sent(error.cause, error.detail or error.service)
            if isinstance(error, RequestDenied):
                # Dated before the answer: by this a replay sees that both belong to the attempt.
                commands = (deferral(context, self._services.clock, error.limiter, error.denied),)
        return StepResult(
            commands=(self._record(context, state.attempts, outcome), *commands),
            feedback=feedback,
            lease_lost=lease_lost,
        )

    def _record(self, context: StepContext, attempt: int, outcome: CreationOutcome) -> RecordAttempt:
        jitter = self._services.clock.jitter()
        return RecordAttempt(attempt=attempt, outcome=outcome, now=context.now(), jitter=jitter)


def _announces(context: StepContext, begin: BeginAttempt) -> bool:
    """Whether an attempt follows: after the deadline the session is given up instead."""
    return any(isinstance(event, CreationAttempted) for event in context.decide(begin))


class _Sending:
    """One attempt on its way. The limiter admitted it when it was recorded."""

    def __init__(self, services: Services, context: StepContext, request: AdmissionRequest, appended: Appended) -> None:
        self.context = context
        self._limiter = services.limiter
        # It has its place and its reservation already, and what follows an admission is no retry of a failure.
        self._request = replace(request, retry=False, reserved=True)
        self._sent = False
        self._admitted(appended.at, appended.wait)

    def _admitted(self, at: datetime, wait: timedelta) -> None:
        self.began_at, self.wait = at, wait
        self._turn_at = Leases.now() + wait.total_seconds()

    async def before_send(self) -> None:
        """Wait for its turn and check the lease; ask the limiter before a second sending. Raises `LeaseLost`, `RequestDenied`."""
        if self._sent:
            await self._ask_again(early=False)
        elif self.wait:
            await self._wait()
            if Leases.now() - self._turn_at > MISSED_S:
                await self._ask_again(early=True)
                await self._wait()
        self.context.check_lease()
        self._sent = True

    async def _wait(self) -> None:
        await asyncio.sleep(max(0.0, self._turn_at - Leases.now()))

    async def _ask_again(self, *, early: bool) -> None:
        request = replace(self._request, early=early)
        admitted = await self._limiter.admit(request)
        if isinstance(admitted, Admitted):
            self._admitted(admitted.at, admitted.wait)
        elif not early or admitted.by is not DenialReason.RATE:  # its old admission holds while the limiter is open
            raise RequestDenied("provider", request.limiter, admitted)

    def not_sent(self, cause: Cause, detail: str) -> tuple[Failed, Feedback]:
        """The outcome when it was not sent, or not sent again: the provider made nothing."""
        limiter = self._request.limiter
        if self._sent:
            refused = Failed(
                kind=FailureKind.UNAVAILABLE,
                cause=Cause.TOKEN_REFUSED,
                detail=detail or cause,
                observation=Observation.SUCCESS,
            )
            return refused, feedback_of(limiter, refused, self.began_at)
        unsent = cause in (Cause.LEASE_LOST, Cause.RATE_LIMITED)
        kind = FailureKind.UNSENT if unsent else FailureKind.UNAVAILABLE
        return Failed(kind=kind, cause=cause, detail=detail), not_sent(limiter, self.began_at)
