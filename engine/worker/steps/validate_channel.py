"""Ask the provider whether the channel can take a session. No event announces a look-up: it changes nothing there."""

import asyncio
from contextlib import suppress
from uuid import UUID

from msgspec.structs import replace

from guestledger.engine.domain.commands import EnforceDeadline, RecordLookup
from guestledger.engine.domain.errors import RequestDenied, ServiceError
from guestledger.engine.domain.outcomes import LookupOutcome, feedback_of
from guestledger.engine.domain.session import Session
from guestledger.engine.limits.admission import AdmissionRequest, Admitted, Denied
from guestledger.engine.limits.feedback import Feedback, not_sent
from guestledger.engine.worker.deferring import deferred
from guestledger.engine.worker.leases import LeaseLost
from guestledger.engine.worker.step import Lane, Services, StepContext, StepResult


class Step:
    """A look-up, or a remembered answer. Sessions that ask about one channel at once share the answer."""

    lane = Lane.CREATION
    enabled = True

    def __init__(self, services: Services) -> None:
        self._services = services
        self._limited = services.policy.limiter.calls is not None
        self._asking: set[UUID] = set()
        self._admitting = asyncio.Lock()
        self._observing = asyncio.Lock()
        self._observed: LookupOutcome | None = None
        self._unobserved: list[Feedback] = []

    @property
    def limiter(self) -> str:
        """The provider's host and quota for look-ups."""
        return self._services.provider.lookup_limiter

    async def run(self, session: Session, context: StepContext) -> StepResult:
        """`ChannelValidated`, `ChannelRejected` or `ChannelLookupFailed`; or `CreationDeferred`."""
        if known := self._remembered(session, context):
            return known
        overdue = EnforceDeadline(now=context.now())
        if context.decide(overdue):
            return StepResult(commands=(overdue,))
        await context.commit()
        request = context.admission(self.limiter)
        async with self._services.calls.place(context.claimed):
            if known := self._remembered(session, context):  # another look-up ended while this one waited
                return known
            outcome = await self._ask(session, request, context)
        if isinstance(outcome, Denied):
            return deferred(context, self._services.clock, self.limiter, outcome)
        return StepResult(commands=(self._record(outcome, context),))

    def _remembered(self, session: Session, context: StepContext) -> StepResult | None:
        known = self._services.provider.known_channel(session.channel_id)
        if known is None:
            return None
        return StepResult(commands=(self._record(known, context),), sent_nothing=True)

    def _record(self, outcome: LookupOutcome, context: StepContext) -> RecordLookup:
        return RecordLookup(outcome=outcome, now=context.now(), jitter=self._services.clock.jitter())

    async def _ask(self, session: Session, request: AdmissionRequest, context: StepContext) -> LookupOutcome | Denied:
        provider, limiter = self._services.provider, self._services.limiter
        if not provider.is_ready:
            await provider.ready()
        await self._report()  # what an outage kept back: it may close the limiter
        admitted = await self._admit(request, session.id)
        if isinstance(admitted, Denied):
            return admitted

        async def before_resend() -> None:
            again = await limiter.admit(replace(request, retry=False, reserved=True))
            if isinstance(again, Denied):
                raise RequestDenied("provider", request.limiter, again)

        try:
            context.check_lease()
            outcome = await provider.look_up_channel(session.channel_id, before_resend)
        except (LeaseLost, ServiceError):
            with suppress(ServiceError):
                await limiter.observe(not_sent(request.limiter, admitted.at))
            raise
        await self._observe(outcome, admitted)
        return outcome

    async def _admit(self, request: AdmissionRequest, stream_id: UUID) -> Admitted | Denied:
        if request.reserved or not self._limited:
            return await self._services.limiter.admit(request)
        # One at a time: waiting sessions must not count against each other. The set itself is passed, since others may
        # join it until it is counted.
        self._asking.add(stream_id)
        try:
            async with self._admitting:
                return await self._services.limiter.admit(request, self._asking)
        finally:
            self._asking.discard(stream_id)

    async def _observe(self, outcome: LookupOutcome, admitted: Admitted) -> None:
        """Report an answer to the limiter once, however many sessions shared it. After an outage, before the next request."""
        async with self._observing:
            if outcome is not self._observed:
                self._observed = outcome
                self._unobserved.append(feedback_of(self.limiter, outcome, admitted.at))
            elif admitted.probes:
                self._unobserved.append(not_sent(self.limiter, admitted.at))
            with suppress(ServiceError):
                await self._report()

    async def _report(self) -> None:
        while self._unobserved:
            feedback = self._unobserved.pop()
            try:
                await self._services.limiter.observe(feedback)
            except (ServiceError, asyncio.CancelledError):  # another caller reports it
                self._unobserved.append(feedback)
                raise
