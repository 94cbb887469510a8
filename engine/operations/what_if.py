"""`ledger.what_if`, `ledger.what_if_all`."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from uuid import UUID

from guestledger.engine.log.recorded import RecordedPolicy
from guestledger.engine.operations.histories import Histories
from guestledger.engine.ports.clock import Clock
from guestledger.engine.ports.event_store import EventStore
from guestledger.engine.replay.findings import WhatIf
from guestledger.engine.replay.what_if import PolicyChange, what_if
from guestledger.engine.replay.what_if_summary import Tally, WhatIfSummary

Policies = Callable[[], Awaitable[Sequence[RecordedPolicy]]]


class WhatIfs:
    """Runs sessions again as they are recorded. Reads the log, and changes nothing."""

    def __init__(self, *, store: EventStore, histories: Histories, clock: Clock, policies: Policies) -> None:
        self._store = store
        self._histories = histories
        self._clock = clock
        self._policies = policies

    async def of(self, session: UUID | str, policy: PolicyChange) -> WhatIf:
        """See `Ledger.what_if`."""
        history = await self._histories.find(session)
        return what_if(history, await self._policies(), policy=policy, now=self._clock.now())

    async def over(
        self, policy: PolicyChange, *, since: datetime | None, until: datetime | None, advanced: Callable[[int], None]
    ) -> WhatIfSummary:
        """See `Ledger.what_if_all`."""
        policies, now, tally = await self._policies(), self._clock.now(), Tally()
        async for histories in self._store.read_sessions(since=since, until=until):
            for history in histories:
                tally.add(what_if(history, policies, policy=policy, now=now))
            advanced(len(histories))
        return tally.summary()
