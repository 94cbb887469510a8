"""Channel look-ups, which no event announces: each is let through by its gate, and its answer heard there, on their own account."""

import asyncio
from contextlib import suppress
from functools import partial
from uuid import UUID

from msgspec.structs import replace

from engine.appends import Lease
from engine.domain.errors import ServiceError, Withheld
from engine.domain.hearing import heard, unasked
from engine.domain.outcomes import LookupOutcome
from engine.domain.passing import Admitted, Held, Passage
from engine.leases import LeaseLost, Leases
from engine.ports import Gates, MessagingProvider


class LookUps:
    """Asks CXone what channels are. `limited` says whether the number of calls in flight is, over all processes."""

    def __init__(self, provider: MessagingProvider, gates: Gates, leases: Leases, *, limited: bool) -> None:
        self._provider = provider
        self._gates = gates
        self._leases = leases
        self._limited = limited
        self._asking: set[UUID] = set()
        self._admitting = asyncio.Lock()
        self._telling = asyncio.Lock()
        self._told: LookupOutcome | None = None

    async def ask(self, channel_id: str, passage: Passage, lease: Lease, stream_id: UUID) -> LookupOutcome | Held:
        """What CXone says of the channel, or what holds the request back.

        Raises `LeaseLost` when the lease on the session may have lapsed, and `ServiceError`, also where a gate holds back
        the request for a token or the second one after a 401 (`Withheld`); the gate has then been told that nothing was asked.
        """
        if not self._provider.is_ready:
            await self._provider.ready()
        admitted = await self._admit(passage, stream_id)
        if isinstance(admitted, Held):
            return admitted
        try:
            self._leases.check(lease, stream_id)
            outcome = await self._provider.look_up_channel(channel_id, partial(self._again, passage))
        except (LeaseLost, ServiceError):
            with suppress(ServiceError):
                await self._gates.hear(unasked(passage.gate, admitted.at))
            raise
        await self._tell(passage.gate, outcome, admitted)
        return outcome

    async def _admit(self, passage: Passage, stream_id: UUID) -> Admitted | Held:
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

    async def _again(self, passage: Passage) -> None:
        admitted = await self._gates.admit(replace(passage, retry=False, slotted=True))
        if isinstance(admitted, Held):
            raise Withheld("the channel is not asked for again", passage.gate, admitted)

    async def _tell(self, gate: str, outcome: LookupOutcome, admitted: Admitted) -> None:
        """Let the gate hear an answer.

        Those who asked for the same channel at once share it, and it must not count as many: the first of them who is
        neither cancelled nor fails at it tells it. The others have asked nothing.
        """
        async with self._telling:
            if outcome is not self._told:
                await self._gates.hear(heard(gate, outcome, admitted.at))
                self._told = outcome
            elif admitted.probes:
                await self._gates.hear(unasked(gate, admitted.at))
