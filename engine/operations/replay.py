"""`ledger.replay`: sessions run again as they are recorded."""

from collections.abc import Callable
from datetime import datetime
from uuid import UUID

from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.commands import PlaceHold
from guestledger.engine.domain.errors import ServiceError
from guestledger.engine.domain.policy import Policy
from guestledger.engine.log.recorded import RecordedPolicy
from guestledger.engine.operations.histories import Histories
from guestledger.engine.operations.reveal import Look, Reveal
from guestledger.engine.ports.clock import Clock
from guestledger.engine.ports.event_store import EventStore
from guestledger.engine.ports.legal_holds import LegalHolds
from guestledger.engine.replay.findings import WhatIf
from guestledger.engine.replay.timeline import Frame, timeline
from guestledger.engine.replay.what_if import PolicyChange, what_if
from guestledger.engine.replay.what_if_summary import Tally, WhatIfSummary


class Replay:
    """Runs recorded sessions again. Reads the log, changes nothing, sends nothing."""

    def __init__(
        self,
        *,
        store: EventStore,
        histories: Histories,
        holds: LegalHolds,
        look: Callable[[Reveal], Look],
        clock: Clock,
        policy: Policy,
    ) -> None:
        self._store = store
        self._histories = histories
        self._holds = holds
        self._look = look
        self._clock = clock
        self._policy = policy

    async def timeline(self, session: UUID | str, *, reveal: Reveal | None = None) -> list[Frame]:
        """Return a frame for each event: the decision that made it, what it changed, and what the session waited for before.

        Each decision is made again by today's code, under the recorded policies (`policies`). `reveal`: see
        `Ledger.history`. Raises `SessionNotFound`, `PartitionDetached`, and `UnknownPolicy` for a policy of a newer release.
        """
        history = await self._histories.find(session)
        if reveal is not None:
            history = await self._look(reveal).events(history)
        return timeline(history, await self.policies())

    async def what_if(self, session: UUID | str, *, policy: PolicyChange) -> WhatIf:
        """Run the session's history again under another policy, with the outcomes that it holds.

        `policy` is a whole `Policy`, or the fields that differ from the recorded one: `{"creation": {"max_failures": 3}}`.
        Raises `SessionNotFound`, and `InvalidPolicy`, which names the field, for a change that is no policy.
        """
        history = await self._histories.find(session)
        hold = await self._hold(history[0].stream_id)
        return what_if(history, await self.policies(), policy=policy, now=self._clock.now(), hold=hold)

    async def _hold(self, stream_id: UUID) -> PlaceHold | None:
        try:
            held = await self._holds.over(stream_id)
        except ServiceError as error:
            if error.cause is Cause.FORBIDDEN:  # an auditor may not ask whose the session is
                return None
            raise
        if held is None:
            return None
        return PlaceHold(placed_by=held.placed_by, reason=held.reason, now=held.placed_at)

    async def what_if_all(
        self,
        *,
        policy: PolicyChange,
        since: datetime | None = None,
        until: datetime | None = None,
        advanced: Callable[[int], None] = lambda _sessions: None,
    ) -> WhatIfSummary:
        """Sum up `what_if` over the sessions that began from `since` on and before `until` (UTC), in bounded memory.

        `advanced` gets the number of sessions after each batch. Raises as `what_if` does, and `UnknownEvent` at an unreadable
        session.
        """
        policies, now, tally = await self.policies(), self._clock.now(), Tally()
        async for histories in self._store.read_sessions(since=since, until=until):
            for history in histories:
                tally.add(what_if(history, policies, policy=policy, now=now))
            advanced(len(histories))
        return tally.summary()

    async def policies(self) -> list[RecordedPolicy]:
        """Return the policies under which decisions were recorded, the latest first; this process's own if the log has none.

        Raises `UnknownPolicy` for a policy of a newer release.
        """
        return await self._store.policies() or [RecordedPolicy(policy=self._policy)]
