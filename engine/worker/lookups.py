"""Channel look-ups, which no event announces: each is let through by its limiter, and its answer heard there, on their own account."""

import asyncio
from contextlib import suppress
from functools import partial
from uuid import UUID

from msgspec.structs import replace

from guestledger.engine.domain.errors import RequestDenied, ServiceError
from guestledger.engine.domain.feedback import heard, not_sent
from guestledger.engine.domain.outcomes import LookupOutcome
from guestledger.engine.limits.policy import AdmissionRequest, Admitted, Denied
from guestledger.engine.log.appends import Lease
from guestledger.engine.ports import Provider, RateLimiter
from guestledger.engine.worker.leases import LeaseLost, Leases


class LookUps:
    """Asks CXone what channels are. `limited` says whether the number of calls in flight is, over all processes."""

    def __init__(self, provider: Provider, limiters: RateLimiter, leases: Leases, *, limited: bool) -> None:
        self._provider = provider
        self._gates = limiters
        self._leases = leases
        self._limited = limited
        self._asking: set[UUID] = set()
        self._admitting = asyncio.Lock()
        self._telling = asyncio.Lock()
        self._told: LookupOutcome | None = None

    async def ask(
        self, channel_id: str, passage: AdmissionRequest, lease: Lease, stream_id: UUID
    ) -> LookupOutcome | Denied:
        """What CXone says of the channel, or what holds the request back.

        Raises `LeaseLost` when the lease on the session may have lapsed, and `ServiceError`, also where a limiter holds back
        the request for a token or the second one after a 401 (`RequestDenied`); the limiter has then been told that nothing was asked.
        """
        if not self._provider.is_ready:
            await self._provider.ready()
        admitted = await self._admit(passage, stream_id)
        if isinstance(admitted, Denied):
            return admitted
        try:
            self._leases.check(lease, stream_id)
            outcome = await self._provider.look_up_channel(channel_id, partial(self._again, passage))
        except (LeaseLost, ServiceError):
            with suppress(ServiceError):
                await self._gates.observe(not_sent(passage.limiter, admitted.at))
            raise
        await self._tell(passage.limiter, outcome, admitted)
        return outcome

    async def _admit(self, passage: AdmissionRequest, stream_id: UUID) -> Admitted | Denied:
        if passage.slotted or not self._limited:
            return await self._gates.admit(passage)
        # One by one: those who only ask take no place from each other, and who was let through before has one. Others may
        # come to ask until it is counted, so what is handed in is the set itself.
        self._asking.add(stream_id)
        try:
            async with self._admitting:
                return await self._gates.admit(passage, self._asking)
        finally:
            self._asking.discard(stream_id)

    async def _again(self, passage: AdmissionRequest) -> None:
        admitted = await self._gates.admit(replace(passage, retry=False, slotted=True))
        if isinstance(admitted, Denied):
            raise RequestDenied("the channel is not asked for again", passage.limiter, admitted)

    async def _tell(self, limiter: str, outcome: LookupOutcome, admitted: Admitted) -> None:
        """Let the limiter observe an answer.

        Those who asked for the same channel at once share it, and it must not count as many: the first of them who is
        neither cancelled nor fails at it tells it. The others have asked nothing.
        """
        async with self._telling:
            if outcome is not self._told:
                await self._gates.observe(heard(limiter, outcome, admitted.at))
                self._told = outcome
            elif admitted.probes:
                await self._gates.observe(not_sent(limiter, admitted.at))
