"""`ledger.events`."""

from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import NoReturn
from uuid import UUID

from guestledger.engine.log.recorded import Batch, EventFilter, RecordedEvent
from guestledger.engine.log.verification import LogVerification
from guestledger.engine.operations.consume import Consumer, ConsumerOptions, Handler
from guestledger.engine.operations.tail import tail
from guestledger.engine.ports.clock import Clock
from guestledger.engine.ports.consumers import ConsumerCheckpoints, ConsumerRow
from guestledger.engine.ports.event_store import EventStore
from guestledger.engine.ports.log_verifier import LogVerifier


class Events:
    """The event log."""

    def __init__(
        self, *, store: EventStore, verifier: LogVerifier, consumers: ConsumerCheckpoints, clock: Clock
    ) -> None:
        self._verifier = verifier
        self._store = store
        self._consumers = consumers
        self._clock = clock

    def read(self, *, after: int = -1, wanted: EventFilter = EventFilter()) -> AsyncIterator[list[RecordedEvent]]:
        """Yield the events after a position in order, in batches, up to the present end of the log.

        Raises `UnknownEvent` at an unreadable event, after yielding all before it, and `LogSetBack` if the log ends
        before `after`.
        """
        return self._store.read_all(after=after, wanted=wanted)

    def tail(
        self, *, after: int = -1, wanted: EventFilter = EventFilter(), mark: bytes | None = None
    ) -> AsyncIterator[Batch]:
        """Yield the events after a position in order, then each new one, without end. Database outages only delay it.

        `mark` is the `Batch.mark` that came with the position. Raises `UnknownEvent` as `read` does, and `LogSetBack`
        if the log no longer holds what was read.
        """
        return tail(self._store, self._clock, after=after, wanted=wanted, mark=mark)

    def read_sessions(
        self, *, since: datetime | None = None, until: datetime | None = None
    ) -> AsyncIterator[list[list[RecordedEvent]]]:
        """Yield the whole history of each session that began from `since` on and before `until` (UTC), in batches.

        By stream id, so oldest first. Raises `UnknownEvent` at the first unreadable session, after yielding all before it.
        """
        return self._store.read_sessions(since=since, until=until)

    async def ledger_id(self) -> UUID:
        """Return the identity of the ledger. A restored backup has it too."""
        return await self._store.ledger_id()

    async def head(self) -> int:
        """Return the position of the last event; -1 for an empty log."""
        return await self._store.head()

    async def verify(
        self,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        advanced: Callable[[int], None] = lambda _position: None,
    ) -> LogVerification:
        """Read every event recorded from `since` on and before `until`, and compute its leaf hash again.

        Changes nothing. `advanced` gets each position reached. Keep the digest: as long as nothing recorded before `until`
        changes, and no partition of it is detached or attached, it is the same each time.
        """
        return await self._verifier.verify(since, until, advanced)

    async def consume(
        self,
        name: str,
        handler: Handler,
        *,
        wanted: EventFilter = EventFilter(),
        after: int = -1,
        options: ConsumerOptions = ConsumerOptions(),
    ) -> NoReturn:
        """Call `handler` with each batch, at least once and in order, from the checkpoint of `name`, until cancelled.

        One process at a time is the consumer `name`; the others stand by. A failed batch is retried with backoff. A new
        name starts after position `after`. Raises `LogSetBack`, at every start until `set_consumer_back`, if the log no longer
        holds what the consumer has read.
        """
        await Consumer(
            name,
            handler,
            store=self._store,
            checkpoints=self._consumers,
            clock=self._clock,
            wanted=wanted,
            start=after,
            options=options,
        ).run()

    async def consumers(self) -> list[ConsumerRow]:
        """Return the named consumers and their positions."""
        return await self._consumers.all()

    async def set_consumer_back(self, name: str, to: int | None = None) -> bool:
        """Let a consumer continue after position `to` (default: its checkpoint), at most the log's end.

        `False` if there is none. What it fed may hold events that the log lost: see to that first.
        """
        return await self._consumers.set_back(name, to)

    async def incarnation(self) -> UUID | None:
        """Return the id of the log's present life; `None` for its first. Positions identify events within one life."""
        return await self._store.incarnation()

    async def begin_incarnation(self) -> UUID:
        """Begin another life of the log after an older backup was restored, and stop every consumer until it is set back."""
        incarnation = self._clock.new_id()
        await self._store.begin_incarnation(incarnation)
        return incarnation

    async def forget_consumer(self, name: str) -> bool:
        """Delete the checkpoint of a consumer that no longer exists; `False` if there is none."""
        return await self._consumers.forget(name)
